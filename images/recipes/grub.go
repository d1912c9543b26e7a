package recipes

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// grubTool holds what it takes to make GRUB's BIOS core: the builder, its
// modules, and the libraries of the same suite, because the host's may be older.
var grubTool = []string{"grub-common", "grub-pc-bin", "libc6", "liblzma5", "libdevmapper1.02.1", "libselinux1", "libudev1", "libpcre2-8-0"}

// grubModules are all that the BIOS core can do; it loads none from the disk.
var grubModules = []string{
	"biosdisk", "part_gpt", "fat", "ext2", "configfile", "linux", "normal", "echo", "test", "ls", "minicmd", "reboot", "halt", "sleep",
	"serial", "terminal", "search", "search_fs_file", "search_label", "search_fs_uuid", "all_video", "gfxterm", "gzio",
}

// grubCore makes core.img for BIOS. It reads its configuration from the EFI
// system partition of the disk that it was started from, as the signed GRUB
// does on UEFI. pkg says where each of grubTool is unpacked.
func grubCore(ctx context.Context, pkg map[string]string) (boot, core []byte, err error) {
	var libs []string
	for _, name := range grubTool {
		if pkg[name] == "" {
			return nil, nil, fmt.Errorf("package %s was not unpacked", name)
		}
		if strings.HasPrefix(name, "lib") {
			libs = append(libs, filepath.Join(pkg[name], "usr/lib/x86_64-linux-gnu"), filepath.Join(pkg[name], "lib/x86_64-linux-gnu"))
		}
	}
	modules := filepath.Join(pkg["grub-pc-bin"], "usr/lib/grub/i386-pc")
	if boot, err = os.ReadFile(filepath.Join(modules, "boot.img")); err != nil {
		return nil, nil, err
	}
	out, err := os.CreateTemp("", "refurb-core-*.img")
	if err != nil {
		return nil, nil, err
	}
	out.Close()
	defer os.Remove(out.Name())
	args := append([]string{
		"--library-path", strings.Join(libs, ":"),
		filepath.Join(pkg["grub-common"], "usr/bin/grub-mkimage"),
		"-O", "i386-pc", "-d", modules, "-p", "(,gpt2)/EFI/debian", "-o", out.Name(),
	}, grubModules...)
	cmd := exec.CommandContext(ctx, filepath.Join(pkg["libc6"], "usr/lib64/ld-linux-x86-64.so.2"), args...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("grub-mkimage: %w: %s", err, bytes.TrimSpace(text))
	}
	core, err = os.ReadFile(out.Name())
	return boot, core, err
}

// embedCore puts GRUB into the disk's first sector and into the BIOS boot
// partition, as grub-bios-setup does (GRUB 2.12, util/setup.c): boot.img learns
// where the core starts, and the core's first sector where its rest lies.
func embedCore(w io.WriterAt, boot, core []byte, at, room int64) error {
	const (
		bootCode    = 440   // then the disk's id and partition entries
		kernelAt    = 0x5c  // boot.img: first sector of the core, 64 bits
		driveCheck  = 0x66  // boot.img: a jump that trusts the BIOS's drive number less; two NOPs on a hard disk
		listStart   = 0x1f4 // core: the last block list entry: start (64 bits), sectors (16), segment (16)
		listSectors = 0x1fc
		listSegment = 0x1fe
		loadSegment = 0x820
	)
	if len(boot) != sector {
		return fmt.Errorf("GRUB's boot.img has %d bytes, not %d", len(boot), sector)
	}
	sectors := (len(core) + sector - 1) / sector
	if sectors < 2 || int64(sectors)*sector > room || sectors > 0xffff {
		return fmt.Errorf("GRUB's core of %d bytes does not fit into the %d of its partition", len(core), room)
	}
	if core[listSectors] == 0 && core[listSectors+1] == 0 || binary.LittleEndian.Uint16(core[listSegment:]) != loadSegment {
		return errors.New("GRUB's core.img is none for BIOS: its block list is not where it belongs")
	}
	first := uint64(at / sector)
	b := bytes.Clone(boot[:bootCode])
	binary.LittleEndian.PutUint64(b[kernelAt:], first)
	b[driveCheck], b[driveCheck+1] = 0x90, 0x90
	c := make([]byte, sectors*sector)
	copy(c, core)
	binary.LittleEndian.PutUint64(c[listStart:], first+1)
	binary.LittleEndian.PutUint16(c[listSectors:], uint16(sectors-1))
	if _, err := w.WriteAt(b, 0); err != nil {
		return err
	}
	_, err := w.WriteAt(c, at)
	return err
}
