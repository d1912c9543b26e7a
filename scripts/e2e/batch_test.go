//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
	"refurb/scripts/lab"
)

// The main job on every firmware and kind of disk. From outside: the disk holds
// the image, the USB stick beside it is untouched, the log proves itself, and
// the PC, started again from the network, starts its own drive and is not
// imaged twice.
func TestImaged(t *testing.T) {
	type pc struct {
		firmware lab.Firmware
		bus, nic string
	}
	cases := []pc{
		{lab.BIOS, "ahci", "e1000"},
		{lab.UEFI, "nvme", "virtio-net-pci"},
		{lab.SecureBoot, "virtio", "virtio-net-pci"},
	}
	if *full {
		for _, fw := range []lab.Firmware{lab.BIOS, lab.UEFI, lab.SecureBoot} {
			cases = append(cases, pc{fw, "scsi", "rtl8139"}, pc{fw, "ahci", "virtio-net-pci"}, pc{fw, "nvme", "e1000"})
		}
	}
	for _, c := range cases {
		t.Run(string(c.firmware)+"-"+c.bus, func(t *testing.T) {
			s := open(t)
			s.lot(true)
			stick := filepath.Join(s.lab.Dir, "stick.raw")
			must(s, exec.Command("mkfs.vfat", "-C", stick, "65536").Run())
			before := s.digest(stick)
			pc := s.pc(lab.Config{Firmware: c.firmware, NIC: c.nic, Disks: []lab.Disk{
				{Bus: c.bus, Bytes: 256 << 20, Serial: "NEWDRIVE0001"},
				{Bus: "usb", Path: stick, Bytes: 64 << 20, Serial: "STICK"},
			}})
			s.start(pc)
			dev := s.until(pc, "its first boot", is(workshop.FirstBoot))
			if o := dev.Job.Outcome; o == nil || o.Result != wire.Done || o.ReadBack != int64(len(built.raw)) || o.Mismatches != 0 {
				t.Errorf("the outcome proves nothing: %+v", o)
			}
			checkReport(t, c.firmware, c.bus, dev.Report)
			must(s, pc.WaitOff(s.ctx))
			s.same(pc.Disks[0].Path)
			if s.digest(stick) != before {
				t.Error("somebody wrote to the USB stick")
			}
			s.audited(dev.ID)

			// Once more from the network: nobody asked for another imaging.
			written := s.digest(pc.Disks[0].Path)
			s.start(pc)
			if err := pc.WaitOff(s.ctx); err != nil {
				t.Fatalf("the second start did not reach the installed system: %v\n%s", err, pc.Tail(2000))
			}
			if again, _ := s.device(pc); again.Job.ID != dev.Job.ID {
				t.Error("the second start made another job")
			}
			if s.digest(pc.Disks[0].Path) != written {
				t.Error("the second start changed the disk")
			}
		})
	}
}

func checkReport(t *testing.T, fw lab.Firmware, bus string, r wire.Report) {
	t.Helper()
	mode := wire.ModeUEFI64
	if fw == lab.BIOS {
		mode = wire.ModeBIOS
	}
	if r.Firmware.Mode != mode {
		t.Errorf("firmware mode %q, want %q", r.Firmware.Mode, mode)
	}
	if sb := r.Firmware.SecureBoot; fw == lab.SecureBoot && (sb == nil || !*sb) {
		t.Error("the report doesn't say that Secure Boot is on")
	}
	if r.Identity.UUID == "" || r.Identity.Manufacturer != "Refurb Lab" || r.RAM.Bytes == 0 || r.CPU.Model == "" || len(r.NICs) != 1 {
		t.Errorf("the report has holes: %+v", r)
	}
	transport := map[string]string{"scsi": wire.TransportSCSI, "ahci": wire.TransportSATA, "nvme": wire.TransportNVMe, "virtio": wire.TransportVirtio}[bus]
	found := false
	for _, d := range r.Disks {
		if d.Serial == "NEWDRIVE0001" {
			found = true
			if d.Transport != transport || d.Bytes != 256<<20 || d.Class != wire.ClassBlank || d.LogicalBlock != 512 {
				t.Errorf("the new drive is reported as %+v", d)
			}
		}
	}
	if !found {
		t.Errorf("the new drive is not in the report: %+v", r.Disks)
	}
}

// verified exports the device's log and has the tool prove it.
func (s *shop) verified(device string) (file string) {
	s.Helper()
	file = filepath.Join(s.lab.Dir, "audit.jsonl")
	if out, err := exec.Command(built.refurb, "audit", "export", device, "--data", s.data, "--out", file).CombinedOutput(); err != nil {
		s.Fatalf("audit export: %v\n%s", err, out)
	}
	if out, err := exec.Command(built.refurb, "audit", "verify", file).CombinedOutput(); err != nil {
		s.Fatalf("audit verify: %v\n%s", err, out)
	}
	return file
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

// A disk with data is left alone until somebody types its serial.
func TestDataDiskIsHeld(t *testing.T) {
	s := open(t)
	s.lot(true)
	disk := filepath.Join(s.lab.Dir, "family.raw")
	must(s, exec.Command("mkfs.ext4", "-q", disk, "200M").Run())
	before := s.digest(disk)
	pc := s.pc(lab.Config{Firmware: lab.BIOS, Disks: []lab.Disk{{Bus: "virtio", Path: disk, Bytes: 200 << 20, Serial: "FAMILYPHOTOS"}}})
	s.start(pc)
	dev := s.until(pc, "a hold", is(workshop.Held))
	if dev.Job.Hold != workshop.HoldApproval {
		t.Errorf("held for %q", dev.Job.Hold)
	}
	if err := s.app.Approve(s.ctx, dev, "/dev/vda", "WRONGS"); err == nil {
		t.Error("another serial was taken for this disk's")
	}
	time.Sleep(3 * time.Second)
	if s.digest(disk) != before {
		t.Fatal("the disk was written to before anybody approved it")
	}
	must(s, s.app.Approve(s.ctx, dev, "/dev/vda", "PHOTOS"))
	s.until(pc, "its first boot", is(workshop.FirstBoot))
	s.same(disk)
}

// A PC that nobody expects gets a report and a hold.
func TestStrangerIsHeld(t *testing.T) {
	s := open(t)
	pc := s.pc(lab.Config{Firmware: lab.BIOS})
	// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_NET_RAW (capability.h: 10, 12, 13).
	if _, caps, err := s.app.Powers(); err != nil || caps != "0000000000003400" {
		t.Errorf("the appliance runs with capabilities %s, %v", caps, err)
	}
	before := s.digest(pc.Disks[0].Path)
	s.start(pc)
	dev := s.until(pc, "a hold", is(workshop.Held))
	if dev.Job.Hold != workshop.HoldLot {
		t.Errorf("held for %q: %s", dev.Job.Hold, dev.Job.Reason)
	}
	if s.digest(pc.Disks[0].Path) != before {
		t.Fatal("a stranger's disk was written to")
	}
	// Opening a lot is somebody's word for the PCs that wait.
	s.lot(true)
	s.until(pc, "its first boot", is(workshop.FirstBoot))
}

func TestTwoDisksAreHeld(t *testing.T) {
	s := open(t)
	s.lot(true)
	pc := s.pc(lab.Config{Firmware: lab.BIOS, Disks: []lab.Disk{
		{Bus: "virtio", Bytes: 128 << 20, Serial: "FIRSTDISK"}, {Bus: "ahci", Bytes: 128 << 20, Serial: "SECONDDISK"}}})
	decoy := s.digest(pc.Disks[0].Path)
	s.start(pc)
	dev := s.until(pc, "a hold", is(workshop.Held))
	if dev.Job.Hold != workshop.HoldSeveral {
		t.Errorf("held for %q: %s", dev.Job.Hold, dev.Job.Reason)
	}
	must(s, s.app.Approve(s.ctx, dev, "/dev/sda", "NDDISK"))
	s.until(pc, "a read-back that matched", is(workshop.Verified, workshop.FirstBoot))
	s.same(pc.Disks[1].Path)
	if s.digest(pc.Disks[0].Path) != decoy {
		t.Error("the other disk was written to")
	}
}
