//go:build e2e

package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"refurb/appliance/workshop"
	"refurb/scripts/lab"
)

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
	s.until(pc, "a read-back that matched", is(workshop.Verified, workshop.FirstBoot))
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
	s.until(pc, "a read-back that matched", is(workshop.Verified, workshop.FirstBoot))
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
