//go:build e2e

package e2e

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
	"refurb/scripts/lab"
)

// The main job on every firmware, beside a router and alone, with every kind of
// network card and disk. A row of the matrix is a firmware and a network; a
// column is a card or a disk. One PC stands for one of each.

type row struct {
	firmware lab.Firmware
	proxy    bool // a router gives the addresses; the appliance has to find out
}

func (r row) String() string {
	if r.proxy {
		return string(r.firmware) + " beside a router"
	}
	return string(r.firmware)
}

// cell is one PC. An empty card or disk is one that works everywhere, and counts
// for no column.
type cell struct {
	row
	nic, disk string
}

func (c cell) String() string {
	mode := "alone"
	if c.proxy {
		mode = "router"
	}
	name := string(c.firmware) + "-" + mode
	for _, column := range c.columns() {
		name += "-" + strings.ReplaceAll(column, " ", "-")
	}
	return name
}

var (
	// nics are the columns of cards: how they are called, QEMU's device, Linux's drivers.
	nics = []struct{ name, device, driver string }{
		{"virtio", "virtio-net-pci", "virtio_net"},
		{"e1000", "e1000", "e1000"},
		{"e1000e", "e1000e", "e1000e"},
		{"rtl8139", "rtl8139", "8139cp"},
		{"usb", "usb-net", "cdc_ether"},
	}
	// disks are the columns of disks that are imaged; those that must be refused
	// stand in one PC.
	disks   = []string{"virtio", "nvme", "ahci", "scsi"}
	refused = []string{"usb", "sd"}
)

func device(nic string) (qemu, driver string) {
	for _, n := range nics {
		if n.name == nic {
			return n.device, n.driver
		}
	}
	return nics[0].device, nics[0].driver
}

// covering is what `make test` runs: every firmware, both networks, every disk, and
// the cards that firmware can boot from (e1000 is in TestShare).
var covering = []cell{
	{row{lab.BIOS, true}, "rtl8139", "ahci"},
	{row{lab.UEFI, false}, "e1000e", "nvme"},
	{row{lab.SecureBoot, true}, "virtio", "scsi"},
	{row{lab.HTTPBoot, true}, "virtio", "virtio"},
	{row{lab.HTTPBootSecure, false}, "virtio", "ahci"},
	{row{lab.IA32, false}, "virtio", "nvme"},
}

// every gives all PCs. The pairs of card and disk differ from row to row.
func every() (all []cell) {
	turn := 0
	for _, proxy := range []bool{false, true} {
		for _, fw := range lab.Firmwares {
			r := row{fw, proxy}
			for i, n := range nics {
				disk := ""
				if i < len(disks) {
					disk = disks[(i+turn)%len(disks)]
				}
				_, can := silent(fw, n.name)
				if can && disk != "" && !crashes(fw, n.name) {
					all = append(all, cell{r, n.name, disk})
				} else {
					all = append(all, cell{r, n.name, ""})
					if disk != "" {
						all = append(all, cell{r, "", disk})
					}
				}
			}
			all = append(all, cell{r, "", "usb"})
			turn++
		}
	}
	return all
}

// silent says why a firmware can't boot from a card, in this QEMU; can is true
// where it can. The matrix looks whether that still holds.
func silent(fw lab.Firmware, nic string) (why string, can bool) {
	switch {
	case nic == "usb" && fw == lab.BIOS:
		return "SeaBIOS has no driver for a USB network card and QEMU's has no ROM", false
	case nic == "usb":
		return "this OVMF has no driver for a USB network card (none of UsbNetworkPkg) and QEMU's has no ROM", false
	case nic == "virtio" || fw == lab.BIOS || fw == lab.UEFI || fw == lab.SecureBoot:
		return "", true
	case fw.ByHTTP():
		return "OVMF has no driver for this card; with QEMU's ROM it is iPXE that boots, not HTTP Boot", false
	default:
		return "OVMF has no driver for this card, and QEMU's ROM is for 64 bits", false
	}
}

// crashes: QEMU 7.2 may die, sooner or later, of an assertion about the timer that
// iPXE of a BIOS has set on this card (hw/net/e1000e_core.c, "!msix_enabled"), once
// Linux uses it. The cell is tried; a later QEMU gets through.
func crashes(fw lab.Firmware, nic string) bool { return fw == lab.BIOS && nic == "e1000e" }

func TestMatrix(t *testing.T) {
	cells := covering
	if *full {
		cells = every()
	}
	if *full {
		if out, err := exec.Command("qemu-system-x86_64", "-device", "help").Output(); err != nil || strings.Contains(string(out), `"emmc"`) {
			t.Errorf("QEMU has an eMMC chip now (%v): give the lab a bus for it and the matrix a column that is tried", err)
		}
		for _, c := range cells {
			results.set(cell{c.row, "", "emmc"}, "impossible", "this QEMU has no eMMC chip (-device emmc is unknown); what would boot from one boots from virtio, NVMe or AHCI here")
		}
	}
	for _, c := range cells {
		t.Run(c.String(), func(t *testing.T) { c.run(t) })
	}
}

func (c cell) run(t *testing.T) {
	s := openBeside(t, c.beside())
	began := time.Now()
	t.Cleanup(func() {
		if t.Failed() {
			results.set(c, "failed", s.why)
		}
		t.Logf("%s took %.0f s", c, time.Since(began).Seconds())
	})
	switch _, can := silent(c.firmware, cmp.Or(c.nic, "virtio")); {
	case !can:
		c.stays(s)
	case slices.Contains(refused, c.disk):
		c.refuses(s)
	default:
		c.images(s)
	}
}

// beside is the router of the house. iPXE waits for one with IPv6, so that the
// slowest PCs have it; the others have none.
func (c cell) beside() func(*shop) {
	return func(s *shop) {
		if !c.proxy {
			return
		}
		var args []string
		if c.firmware == lab.BIOS {
			args = lab.RouterIPv6()
		}
		var err error
		s.router, err = s.lab.Router(s.ctx, args...)
		must(s, err)
	}
}

// config is the PC. A card that OVMF has no driver for gets it from QEMU's ROM.
func (c cell) config(disks ...lab.Disk) lab.Config {
	dev, _ := device(c.nic)
	_, can := silent(c.firmware, c.nic)
	return lab.Config{Firmware: c.firmware, NIC: dev, ROM: can && dev != "virtio-net-pci", Disks: disks}
}

// images: the PC netboots, is imaged and read back, and starts again from the
// network, which leads to its own disk. From outside: the disk holds the image,
// the USB stick beside it is untouched, the log proves itself.
func (c cell) images(s *shop) {
	s.lot(true)
	stick := filepath.Join(s.lab.Dir, "stick.raw")
	must(s, exec.Command("mkfs.vfat", "-C", stick, "65536").Run())
	before := s.digest(stick)
	pc := s.pc(c.config(
		lab.Disk{Bus: c.disk, Bytes: 256 << 20, Serial: "NEWDRIVE0001"},
		lab.Disk{Bus: "usb", Path: stick, Bytes: 64 << 20, Serial: "STICK"}))
	s.start(pc)
	dev, ok := s.await(pc, is(workshop.Verified, workshop.FirstBoot))
	if !ok && c.killed(s, pc) {
		return
	} else if !ok {
		s.lost(pc, "a read-back that matched", dev)
	}
	if o := dev.Job.Outcome; o == nil || o.Result != wire.Done || o.ReadBack != int64(len(built.raw)) || o.Mismatches != 0 {
		s.Errorf("the outcome proves nothing: %+v", o)
	} else {
		if len(o.Warnings) > 0 {
			s.Errorf("warnings: %q", o.Warnings)
		}
		if c.firmware != lab.BIOS && !slices.ContainsFunc(o.Finish, func(f string) bool { return strings.HasPrefix(f, "boot entry") }) {
			s.Errorf("no boot entry was written: %q", o.Finish)
		}
	}
	c.checkReport(s, pc, dev.Report)
	s.same(pc.Disks[0].Path)
	written := s.digest(pc.Disks[0].Path)
	// The lab's firmware tries the network first, whatever the agent wrote, and
	// nobody asked for another imaging.
	again, ok := s.await(pc, is(workshop.FirstBoot))
	if !ok && c.killed(s, pc) {
		return
	} else if !ok {
		s.lost(pc, "its first boot", again)
	}
	must(s, pc.WaitOff(s.ctx))
	if again.Job.ID != dev.Job.ID {
		s.Error("the second start made another job")
	}
	if s.digest(pc.Disks[0].Path) != written {
		s.Error("the second start changed the disk")
	}
	if s.digest(stick) != before {
		s.Error("somebody wrote to the USB stick")
	}
	// The appliance finds by itself whether there is a router.
	if s.router != nil && !regexp.MustCompile(`DHCPACK\(lan\) 10\.77\.0\.\d+ `+pc.MAC).MatchString(s.router.Log()) {
		s.Error("the router gave this PC no address")
	}
	s.audited(dev.ID)
	results.set(c, "ok", "")
}

// refuses: a USB stick and an SD card are all that the PC has. Nothing is
// written, and somebody is told.
func (c cell) refuses(s *shop) {
	s.lot(true)
	pc := s.pc(c.config(
		lab.Disk{Bus: "usb", Bytes: 256 << 20, Serial: "STICK"},
		lab.Disk{Bus: "sd", Bytes: 256 << 20}))
	before := s.digest(pc.Disks[0].Path) + s.digest(pc.Disks[1].Path)
	s.start(pc)
	dev := s.until(pc, "a refusal", is(workshop.JobFailed, workshop.Held))
	if !strings.Contains(dev.Job.Reason, "no disk that may be written") || dev.Job.Next == "" {
		s.Errorf("%s: told %q, next %q", dev.Job.State, dev.Job.Reason, dev.Job.Next)
	}
	// On a busy machine a USB disk shows up after the report, and in the next one.
	for _, transport := range []string{wire.TransportUSB, wire.TransportMMC} {
		for !slices.ContainsFunc(dev.Report.Disks, func(d wire.Disk) bool { return d.Transport == transport }) {
			select {
			case <-time.After(time.Second):
			case <-s.ctx.Done():
				s.Fatalf("it did not see the %s disk: %+v", transport, dev.Report.Disks)
			}
			dev, _ = s.device(pc)
		}
	}
	time.Sleep(2 * time.Second)
	if s.digest(pc.Disks[0].Path)+s.digest(pc.Disks[1].Path) != before {
		s.Error("something was written")
	}
	for _, d := range refused {
		results.set(cell{c.row, "", d}, "ok", "")
	}
}

// gaveUp is what firmware says that found nothing to boot.
var gaveUp = regexp.MustCompile(`Shell>|No bootable (option|device)`)

// stays: a firmware that can't boot from a card never sends a packet by it. The day
// it does, this PC fails, and the matrix has a cell more to try.
func (c cell) stays(s *shop) {
	why, _ := silent(c.firmware, c.nic)
	cfg := c.config()
	if cfg.Disks = []lab.Disk{}; c.firmware == lab.BIOS {
		cfg.Args = []string{"-machine", "graphics=off"} // it says so on the serial port then
	}
	pc := s.pc(cfg)
	s.start(pc)
	if _, err := pc.Expect(s.ctx, gaveUp); err != nil {
		s.Fatal(err)
	}
	n, err := pc.Said()
	must(s, err)
	if n != 0 {
		s.Fatalf("this was impossible (%s), and now %d packets came out of the card: let the matrix try it", why, n)
	}
	if c.nic != "usb" || c.firmware.ByHTTP() {
		results.set(c, "impossible", why)
		return
	}
	// Such a PC is started from a stick, and the card does the rest.
	pc.PowerOff()
	cfg = c.config()
	cfg.NoBoot = true
	s.fromStick(cfg)
	results.set(c, "stick", why+": the PC was started from a stick, then imaged and read back through this card, and started its own disk")
}

// killed says whether QEMU died of what it is known to die of.
func (c cell) killed(s *shop, pc *lab.PC) bool {
	crash := pc.Crash()
	if pc.On() || !crashes(c.firmware, c.nic) || !strings.Contains(crash, "e1000e_core.c") {
		return false
	}
	results.set(c, "impossible", "QEMU dies when Linux uses the card after iPXE has: "+crash)
	s.Logf("impossible in this QEMU: %s", crash)
	return true
}

func (c cell) checkReport(s *shop, pc *lab.PC, r wire.Report) {
	s.Helper()
	mode := wire.ModeUEFI64
	switch c.firmware {
	case lab.BIOS:
		mode = wire.ModeBIOS
	case lab.IA32, lab.IA32HTTPBoot:
		mode = wire.ModeUEFI32
	}
	if r.Firmware.Mode != mode {
		s.Errorf("firmware mode %q, want %q", r.Firmware.Mode, mode)
	}
	if sb := r.Firmware.SecureBoot; sb != nil && *sb != c.firmware.Secure() || sb == nil && c.firmware.Secure() {
		s.Errorf("the report's Secure Boot is wrong: %v", sb)
	}
	if r.Identity.UUID == "" || r.Identity.Manufacturer != "Refurb Lab" || r.RAM.Bytes == 0 || r.CPU.Model == "" {
		s.Errorf("the report has holes: %+v", r)
	}
	if _, driver := device(c.nic); len(r.NICs) != 1 || r.NICs[0].MAC != pc.MAC || r.NICs[0].Driver != driver {
		s.Errorf("the network card is reported as %+v, want %s with %s", r.NICs, pc.MAC, driver)
	}
	// Of waking the PC, 8139cp says that it can be armed, and is; e1000e finds no way to
	// in this QEMU, and virtio_net knows nothing of it.
	if can, known := map[string]bool{"rtl8139": true, "e1000e": false, "virtio": false}[c.nic]; known && len(r.NICs) == 1 {
		armed := bytes.Contains(pc.Log(), []byte("wake on LAN is armed"))
		if said := r.NICs[0].Wake; said == nil || *said != can || armed != can {
			s.Errorf("the card wakes the PC: reported %v, armed %v, want %v", said != nil && *said, armed, can)
		}
	}
	transport := map[string]string{"scsi": wire.TransportSCSI, "ahci": wire.TransportSATA, "nvme": wire.TransportNVMe}[c.disk]
	if transport == "" {
		transport = wire.TransportVirtio
	}
	i := slices.IndexFunc(r.Disks, func(d wire.Disk) bool { return d.Serial == "NEWDRIVE0001" })
	if i < 0 {
		s.Errorf("the new drive is not in the report: %+v", r.Disks)
	} else if d := r.Disks[i]; d.Transport != transport || d.Bytes != 256<<20 || d.Class != wire.ClassBlank || d.LogicalBlock != 512 {
		s.Errorf("the new drive is reported as %+v", d)
	}
}

// audited exports the log in each form, and changes it to see that it shows.
func (s *shop) audited(device string) {
	s.Helper()
	file := s.verified(device)
	b, err := os.ReadFile(file)
	must(s, err)
	for _, served := range []string{`"shimx64.efi":"shim-signed `, `"vmlinuz":"linux-image-`, `"undionly.kpxe":"ipxe `} {
		if !strings.Contains(string(b), served) {
			s.Errorf("the log doesn't say which boot file was served: no %s", served)
		}
	}
	bad := strings.Replace(string(b), "NEWDRIVE0001", "NEWDRIVE0002", 1)
	must(s, os.WriteFile(file, []byte(bad), 0o644))
	if out, err := exec.Command(built.refurb, "audit", "verify", file).CombinedOutput(); err == nil {
		s.Errorf("audit verify took a changed line:\n%s", out)
	}
	for _, format := range []string{"csv", "html"} {
		if out, err := exec.Command(built.refurb, "audit", "export", device, "--data", s.data, "--format", format).CombinedOutput(); err != nil || len(out) < 200 {
			s.Errorf("audit export --format %s: %v\n%s", format, err, out)
		}
	}
}
