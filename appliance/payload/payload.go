// Package payload makes the boot files and proves them: kernel, initramfs,
// boot loaders. They are made once, from Debian packages and our own programs,
// and served from then on without a network.
//
// # For operators
//
// "refurb payload build" needs Debian 12 or 13 (or a relative with apt and the
// package debian-archive-keyring), about 500 MB in the data folder and, the
// first time, some 130 MB from a Debian mirror. It uses the machine's own
// mirror and proxy; the variable DEBIAN_MIRROR names another mirror. Nothing on
// the machine is changed, and no package is installed. Every package is proven
// by Debian's archive keys; there is no switch to skip that.
//
// Broken off, it goes on where it was when it is started again. Built once, it
// needs no network, even when the agent or the keys have changed: that takes
// about a second. Only a refresh asks the mirror for newer packages.
//
// The firmware of some network adapters isn't free software. It is taken from
// non-free-firmware if the mirror serves that part; otherwise payload.json names
// what is missing, and those adapters work without it or not at all.
//
// The files in the folder boot/:
//
//	vmlinuz            Debian's signed kernel
//	initrd             what follows, in one file, each part padded to 512 bytes:
//	                   u-root's init and tools (zstd), drivers.cpio, the agent
//	                   with its keys (zstd)
//	drivers.cpio       drivers, their index and firmware, alone
//	shimx64.efi        signed by Microsoft: every UEFI x64 PC starts here
//	grubx64.efi        GRUB for network boot, signed by Debian; shim asks for it
//	grubx64-disk.efi   the same for a disk; goes into images, not to PCs
//	grubia32.efi       GRUB for 32-bit UEFI, unsigned: Secure Boot must be off
//	undionly.kpxe      iPXE for BIOS, over the adapter's own ROM
//	snponly.efi        iPXE for UEFI, over the firmware's own driver
//	memtest64.bin      the memory test for BIOS
//	memtest64.efi      the same for UEFI, unsigned: Secure Boot must be off
//	memtest32.efi      the same for 32-bit UEFI
//
// Boot files of your own go into the folder extra/ beside boot/, without
// folders: they are served like these, never in place of one of these, and
// "refurb payload show" lists them.
//
// payload.json beside boot/ says of each file where it came from, its size and
// its SHA-256. Open checks them all.
package payload

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// The name of each boot file.
const (
	Vmlinuz  = "vmlinuz"
	Initrd   = "initrd"
	Drivers  = "drivers.cpio"
	Shim     = "shimx64.efi"
	GrubNet  = "grubx64.efi"
	GrubDisk = "grubx64-disk.efi"
	GrubIA32 = "grubia32.efi"
	PXEBIOS  = "undionly.kpxe"
	PXEUEFI  = "snponly.efi"

	Memtest     = "memtest64.bin"
	MemtestEFI  = "memtest64.efi"
	MemtestIA32 = "memtest32.efi"
)

// format of payload.json. Another one means that everything is made anew.
const format = 1

// own stands in File.Package for what is made here.
const own = "refurb"

// File is one boot file.
type File struct {
	Name    string `json:"name"`
	Path    string `json:"-"`
	SHA256  string `json:"sha256"`
	Bytes   int64  `json:"bytes"`
	Package string `json:"package"` // Debian's, or "refurb"
	Version string `json:"version"`
	Input   string `json:"input,omitempty"` // SHA-256 of what it was made of
}

// Payload is a complete set of boot files.
type Payload struct {
	Dir    string `json:"-"`
	Format int    `json:"format"`
	Kernel string `json:"kernel"` // as uname -r says it
	Suite  string `json:"suite"`
	Files  []File `json:"files"`
	// Packages that went in, kernel and firmware included.
	Packages []Package `json:"packages"`
	Modules  int       `json:"modules"`
	Firmware int       `json:"firmware"`
	// NoFirmware lists firmware that a driver names and no package had.
	NoFirmware []string `json:"no_firmware,omitempty"`
	// NoDriver lists drivers that were wanted and this kernel hasn't got.
	NoDriver []string `json:"no_driver,omitempty"`
	Sum      string   `json:"digest"` // Digest, as it was built
}

// next is what to do about boot files that are missing or damaged.
const next = "run sudo build/refurb payload build"

// Damage says which boot file can't be used.
type Damage struct {
	File string // path
	Why  string
}

func (d *Damage) Error() string {
	return fmt.Sprintf("boot file %s: %s (%s)", d.File, d.Why, next)
}

// Open reads what Build left in dir and compares every byte with payload.json.
func Open(dir string) (*Payload, error) {
	p, err := readPayload(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range p.Files {
		if err := f.check(); err != nil {
			return nil, err
		}
	}
	if got := p.Digest(); got != p.Sum {
		return nil, &Damage{filepath.Join(dir, "payload.json"), "its list of files was changed after it was built"}
	}
	return p, nil
}

// required are the files without which nothing boots.
var required = []string{Vmlinuz, Initrd, Drivers, Shim, GrubNet, GrubDisk, GrubIA32, PXEBIOS, PXEUEFI, Memtest, MemtestEFI, MemtestIA32}

// readPayload reads payload.json without looking at the files.
func readPayload(dir string) (*Payload, error) {
	name := filepath.Join(dir, "payload.json")
	b, err := readBounded(name, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Damage{name, "it is not there: the boot files were never built, or not to the end"}
	}
	if err != nil {
		return nil, fmt.Errorf("boot files: %w", err)
	}
	p := &Payload{Dir: dir}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, &Damage{name, "it can't be read: " + err.Error()}
	}
	if p.Format != format {
		return nil, &Damage{name, "it was built by another version of refurb"}
	}
	for i, f := range p.Files {
		if f.Name != filepath.Base(f.Name) || strings.HasPrefix(f.Name, ".") {
			return nil, &Damage{name, fmt.Sprintf("it names a file %q", f.Name)}
		}
		p.Files[i].Path = filepath.Join(dir, "boot", f.Name)
	}
	for _, r := range required {
		if _, ok := p.File(r); !ok {
			return nil, &Damage{filepath.Join(dir, "boot", r), "payload.json doesn't list it"}
		}
	}
	return p, nil
}

// check compares the file with its description.
func (f File) check() error {
	err := checkFile(f.Path, f.Bytes, f.SHA256)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Damage{f.Path, "it is not there"}
	case err != nil:
		return &Damage{f.Path, err.Error()}
	}
	return nil
}

// File finds a boot file by name.
func (p *Payload) File(name string) (File, bool) {
	for _, f := range p.Files {
		if f.Name == name {
			return f, true
		}
	}
	return File{}, false
}

// Digest is one SHA-256, in hex, over names, sizes and hashes of all files: two
// payloads with the same digest boot the same bytes.
func (p *Payload) Digest() string {
	h := sha256.New()
	for _, f := range p.Files {
		fmt.Fprintf(h, "%s  %d  %s\n", f.SHA256, f.Bytes, f.Name)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Served says of each boot file which package and version it came from, and its
// SHA-256; "payload" holds Describe's line.
func (p *Payload) Served() map[string]string {
	m := map[string]string{"payload": p.Describe()}
	for _, f := range p.Files {
		m[f.Name] = fmt.Sprintf("%s %s sha256 %s", f.Package, f.Version, f.SHA256)
	}
	return m
}

// Describe is one line for logs and records.
func (p *Payload) Describe() string {
	var n int64
	for _, f := range p.Files {
		n += f.Bytes
	}
	return fmt.Sprintf("Debian %s, kernel %s, %d drivers, %d firmware files, %d boot files of %.1f MB, sha256 %s",
		p.Suite, p.Kernel, p.Modules, p.Firmware, len(p.Files), float64(n)/1e6, p.Digest())
}
