package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Firmware of a virtual PC.
type Firmware string

const (
	BIOS           Firmware = "bios"            // SeaBIOS
	UEFI           Firmware = "uefi"            // OVMF, Secure Boot off
	SecureBoot     Firmware = "secureboot"      // OVMF with Microsoft's keys enrolled
	HTTPBoot       Firmware = "httpboot"        // OVMF that has UEFI HTTP Boot and no PXE
	HTTPBootSecure Firmware = "httpboot-secure" // both
	IA32           Firmware = "ia32"            // OVMF of 32 bits on a processor of 64
	IA32HTTPBoot   Firmware = "ia32-httpboot"   // the same, HTTP Boot and no PXE
	OtherKeys      Firmware = "otherkeys"       // OVMF with Secure Boot on and none of Microsoft's keys: it boots nothing of ours
)

// Firmwares are all kinds that boot.
var Firmwares = []Firmware{BIOS, UEFI, SecureBoot, HTTPBoot, HTTPBootSecure, IA32, IA32HTTPBoot}

// ByHTTP says whether the firmware boots by HTTP alone.
func (f Firmware) ByHTTP() bool { return f == HTTPBoot || f == HTTPBootSecure || f == IA32HTTPBoot }

// Secure says whether Secure Boot is on.
func (f Firmware) Secure() bool { return f == SecureBoot || f == HTTPBootSecure || f == OtherKeys }

// Disk of a virtual PC. Node replaces the block node (for blkdebug, see the QAPI
// schema of blockdev-add). An "sd" card is one in a slot of the mainboard; QEMU
// gives it a serial number of its own and wants a power of two for its size.
type Disk struct {
	Bus    string // "virtio" (default), "nvme", "ahci", "scsi", "usb", "sd"
	Path   string // raw file; made when missing
	Bytes  int64
	Serial string
	Block  int    // logical and physical block size; 0: 512
	First  bool   // the PC starts from it, as if it was chosen in the boot menu
	Fixed  bool   // a USB stick that says it is no removable disk, as some do
	Node   string // replaces "driver=raw,file.driver=file,file.filename=PATH,…" when set
}

// Config of a virtual PC.
type Config struct {
	Name     string // of its files; "pc1" when empty
	Firmware Firmware
	MAC      string // made when empty
	NIC      string // QEMU device: virtio-net-pci when empty, e1000, e1000e, rtl8139, usb-net
	ROM      bool   // under UEFI, too, the card keeps QEMU's ROM, which is iPXE
	NoBoot   bool   // its card can't start the PC
	MiB      int    // memory; 1024 when 0
	Disks    []Disk
	Args     []string // more of QEMU's
}

// PC is one virtual machine. It keeps its disks and firmware settings over
// PowerOff and PowerOn, as a real one does.
type PC struct {
	Config
	Serial string // path of the serial log

	lab  *Lab
	tap  string
	vars string

	mu  sync.Mutex
	cmd *exec.Cmd
	end chan struct{} // closed when QEMU has ended
}

const ovmf = "/usr/share/OVMF/"

// edk2 is the firmware's code and the settings that a new PC has.
var edk2 = map[Firmware]struct{ code, vars string }{
	UEFI:           {"OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"},
	SecureBoot:     {"OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"},
	HTTPBoot:       {"OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"},
	HTTPBootSecure: {"OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"},
	OtherKeys:      {"OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.snakeoil.fd"},
	IA32:           {"OVMF32_CODE_4M.secboot.fd", "OVMF32_VARS_4M.fd"}, // no key is enrolled
	IA32HTTPBoot:   {"OVMF32_CODE_4M.secboot.fd", "OVMF32_VARS_4M.fd"},
}

const usbNIC = "usb-net"

// PC puts a PC on the bench, powered off, its cable plugged in.
func (l *Lab) PC(cfg Config) (*PC, error) {
	l.mu.Lock()
	l.seq++
	n := l.seq
	l.mu.Unlock()
	if cfg.Name == "" {
		cfg.Name = fmt.Sprintf("pc%d", n)
	}
	if cfg.MAC == "" {
		// Two PCs with one address confuse every log, so it holds the lab too.
		cfg.MAC = fmt.Sprintf("52:54:00:%02x:%02x:%02x", os.Getpid()>>8&0xff, os.Getpid()&0xff, n)
		if cfg.NIC == usbNIC {
			cfg.MAC = "40" + cfg.MAC[2:] // QEMU's USB card says so whatever it is told
		}
	}
	if cfg.NIC == "" {
		cfg.NIC = "virtio-net-pci"
	}
	if cfg.MiB == 0 {
		cfg.MiB = 1024
	}
	pc := &PC{Config: cfg, lab: l, tap: fmt.Sprintf("tap%d", n), Serial: l.path(cfg.Name + ".serial")}
	for i := range pc.Disks {
		d := &pc.Disks[i]
		if d.Path == "" {
			d.Path = l.path(fmt.Sprintf("%s-disk%d.raw", cfg.Name, i))
		}
		if d.Serial == "" {
			d.Serial = strings.ToUpper(fmt.Sprintf("%s-d%d", cfg.Name, i))
		}
		if err := grow(d.Path, d.Bytes); err != nil {
			return nil, err
		}
	}
	if from, ok := edk2[cfg.Firmware]; ok {
		pc.vars = l.path(cfg.Name + ".vars")
		if err := copyFile(pc.vars, ovmf+from.vars); err != nil {
			return nil, fmt.Errorf("firmware: %w (run `make setup`)", err)
		}
	} else if cfg.Firmware != BIOS {
		return nil, fmt.Errorf("no firmware %q", cfg.Firmware)
	}
	for _, args := range []string{
		"tuntap add " + pc.tap + " mode tap",
		"link set " + pc.tap + " master " + Bridge + " up",
	} {
		if err := run("ip", append([]string{"-n", l.Name}, strings.Fields(args)...)...); err != nil {
			return nil, err
		}
	}
	l.mu.Lock()
	l.pcs = append(l.pcs, pc)
	l.mu.Unlock()
	return pc, nil
}

func (pc *PC) args() []string {
	a := []string{
		"-nodefaults", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", fmt.Sprint(pc.MiB),
		"-display", "none", "-vga", "std",
		"-uuid", pc.UUID(),
		"-smbios", fmt.Sprintf("type=1,manufacturer=Refurb Lab,product=Virtual PC (%s),serial=LAB-%s", pc.Firmware, strings.ToUpper(pc.Name)),
		"-qmp", "unix:" + pc.lab.path(pc.Name+".qmp") + ",server=on,wait=off",
		"-chardev", "file,id=serial,append=on,path=" + pc.Serial,
		"-serial", "chardev:serial",
		"-netdev", "tap,id=n0,ifname=" + pc.tap + ",script=no,downscript=no",
		"-device", "virtio-rng-pci",
		"-device", "qemu-xhci,id=xhci",
	}
	nic := fmt.Sprintf("%s,netdev=n0,mac=%s", pc.NIC, pc.MAC)
	if !pc.NoBoot {
		nic += ",bootindex=1"
	}
	if pc.NIC == usbNIC {
		nic += ",bus=xhci.0"
	} else if pc.NoBoot || pc.Firmware != BIOS && !pc.ROM {
		// Without QEMU's own ROM, which is iPXE, the firmware's network stack runs.
		nic += ",romfile="
	}
	switch pc.Firmware {
	case BIOS:
		a = append(a, "-machine", "q35")
	case UEFI, HTTPBoot:
		a = append(a, "-machine", "q35,smm=off")
	default: // these builds want the memory that only firmware may write
		a = append(a, "-machine", "q35,smm=on",
			"-global", "driver=cfi.pflash01,property=secure,value=on",
			"-global", "ICH9-LPC.disable_s3=1")
	}
	if pc.Firmware != BIOS {
		a = append(a,
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+ovmf+edk2[pc.Firmware].code,
			"-drive", "if=pflash,unit=1,format=raw,file="+pc.vars)
	}
	if pc.Firmware.ByHTTP() {
		a = append(a,
			"-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=no",
			"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no")
	}
	a = append(a, "-device", nic)
	for i, d := range pc.Disks {
		node := d.Node
		if node == "" {
			node = "driver=raw,cache.direct=off,cache.no-flush=on,discard=unmap,file.driver=file,file.filename=" + d.Path
		}
		id := fmt.Sprintf("d%d", i)
		index := 2 + i
		if d.First {
			index = 0
		}
		dev := fmt.Sprintf("id=dev%d,drive=%s,serial=%s,bootindex=%d", i, id, d.Serial, index)
		if d.Block != 0 {
			dev += fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", d.Block, d.Block)
		}
		a = append(a, "-blockdev", node+",node-name="+id)
		switch d.Bus {
		case "", "virtio":
			a = append(a, "-device", "virtio-blk-pci,"+dev)
		case "nvme":
			a = append(a, "-device", "nvme,"+dev)
		case "ahci":
			a = append(a, "-device", "ide-hd,bus=ide."+fmt.Sprint(i)+","+dev)
		case "scsi":
			a = append(a, "-device", fmt.Sprintf("virtio-scsi-pci,id=scsi%d", i), "-device", fmt.Sprintf("scsi-hd,bus=scsi%d.0,", i)+dev)
		case "usb":
			removable := "on"
			if d.Fixed {
				removable = "off"
			}
			a = append(a, "-device", "usb-storage,bus=xhci.0,removable="+removable+","+dev)
		case "sd":
			a = append(a, "-device", "sdhci-pci", "-device", fmt.Sprintf("sd-card,id=dev%d,drive=%s", i, id))
		}
	}
	return append(a, pc.Args...)
}

// UUID is the PC's SMBIOS UUID; it ends in the MAC.
func (pc *PC) UUID() string {
	return "5ea1ab00-0000-4000-8000-" + strings.ReplaceAll(pc.MAC, ":", "")
}

// PowerOn starts the PC; it does nothing when the PC is on.
func (pc *PC) PowerOn() error {
	pc.mu.Lock()
	defer pc.mu.Unlock()
	if pc.on() {
		return nil
	}
	log, err := os.Create(pc.lab.path(pc.Name + ".qemu"))
	if err != nil {
		return err
	}
	defer log.Close()
	// Logs of runs before this one would answer for it.
	if pc.cmd == nil {
		_ = os.Remove(pc.Serial)
	}
	cmd := exec.Command("ip", append([]string{"netns", "exec", pc.lab.Name, "qemu-system-x86_64"}, pc.args()...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := start(cmd); err != nil {
		return err
	}
	pc.cmd, pc.end = cmd, make(chan struct{})
	go func(end chan struct{}) {
		_ = cmd.Wait()
		close(end)
	}(pc.end)
	return nil
}

func (pc *PC) on() bool {
	if pc.cmd == nil {
		return false
	}
	select {
	case <-pc.end:
		return false
	default:
		return true
	}
}

// On says whether the PC is powered; a PC that switched itself off is not.
func (pc *PC) On() bool {
	pc.mu.Lock()
	defer pc.mu.Unlock()
	return pc.on()
}

// PowerOff cuts the power at once.
func (pc *PC) PowerOff() {
	pc.mu.Lock()
	defer pc.mu.Unlock()
	if !pc.on() {
		return
	}
	_ = pc.cmd.Process.Kill()
	<-pc.end
}

// Crash is what QEMU said when it ended by itself with an error; a PC that
// switched itself off says nothing.
func (pc *PC) Crash() string {
	b, _ := os.ReadFile(pc.lab.path(pc.Name + ".qemu"))
	return string(bytes.TrimSpace(b))
}

// WaitOff returns when the PC has switched itself off.
func (pc *PC) WaitOff(ctx context.Context) error {
	pc.mu.Lock()
	end := pc.end
	pc.mu.Unlock()
	if end == nil {
		return nil
	}
	select {
	case <-end:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s did not switch itself off: %w", pc.Name, ctx.Err())
	}
}

// Unplug pulls the network cable; Plug puts it back. Sockets on both sides stay
// open, as with a real cable.
func (pc *PC) Unplug() error { return pc.link("down") }
func (pc *PC) Plug() error   { return pc.link("up") }

func (pc *PC) link(state string) error {
	return run("ip", "-n", pc.lab.Name, "link", "set", pc.tap, state)
}

// Said is how many frames have come out of the PC's network card.
func (pc *PC) Said() (int64, error) {
	_, received, err := pc.lab.counters(pc.tap)
	return received.Packets, err
}

// Screendump writes what the PC's display shows to a PNG file.
func (pc *PC) Screendump(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return pc.QMP("screendump", map[string]any{"filename": path, "format": "png"}, nil)
}

// Log is all that the PC said on its serial port.
func (pc *PC) Log() []byte {
	b, _ := os.ReadFile(pc.Serial) // not there before the first power-on
	return b
}

// Expect returns when the serial log matches, with what matched, or fails with
// the log's end when the PC switches off or the time is up.
func (pc *PC) Expect(ctx context.Context, re *regexp.Regexp) ([][]byte, error) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		on := pc.On()
		if m := re.FindSubmatch(pc.Log()); m != nil {
			return m, nil
		}
		if !on {
			return nil, fmt.Errorf("%s is off (QEMU: %q) and its serial log has no %q; its end:\n%s", pc.Name, pc.Crash(), re, pc.Tail(2000))
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: no %q on the serial port: %w; its end:\n%s", pc.Name, re, ctx.Err(), pc.Tail(2000))
		case <-tick.C:
		}
	}
}

// Tail is the printable end of the serial log.
func (pc *PC) Tail(n int) string {
	b := pc.Log()
	b = b[max(0, len(b)-n):]
	return string(bytes.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && r < 127 {
			return r
		}
		return -1
	}, b))
}

func grow(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && st.Size() < size {
		err = f.Truncate(size)
	}
	return errors.Join(err, f.Close())
}

func copyFile(to, from string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}
