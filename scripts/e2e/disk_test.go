//go:build e2e

package e2e

import (
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
	"refurb/scripts/lab"
)

// sees waits until the PC has reported a disk of that serial, without a restart.
func (s *shop) sees(pc *lab.PC, serial string) {
	s.Helper()
	for s.ctx.Err() == nil {
		dev, _ := s.device(pc)
		if slices.ContainsFunc(dev.Report.Disks, func(d wire.Disk) bool { return d.Serial == serial }) {
			return
		}
		time.Sleep(300 * time.Millisecond)
	}
	s.Fatalf("%s never reported the disk %s; serial port:\n%s", pc.Name, serial, pc.Tail(2500))
}

// A disk is approved, and at that moment somebody puts another one in its place:
// neither is written to. The other one is reported as what it is.
func TestDiskSwapped(t *testing.T) {
	s := open(t)
	s.lot(true)
	family, decoy := filepath.Join(s.lab.Dir, "family.raw"), filepath.Join(s.lab.Dir, "decoy.raw")
	for _, file := range []string{family, decoy} {
		must(s, exec.Command("mkfs.ext4", "-q", file, "200M").Run())
	}
	before := s.digest(family) + s.digest(decoy)
	pc := s.pc(lab.Config{Firmware: lab.BIOS, Disks: []lab.Disk{{Bus: "scsi", Path: family, Bytes: 200 << 20, Serial: "FAMILYPHOTOS"}}})
	s.start(pc)
	held := s.until(pc, "a hold", is(workshop.Held))
	must(s, pc.QMP("blockdev-add", map[string]any{"driver": "raw", "node-name": "decoy",
		"file": map[string]any{"driver": "file", "filename": decoy}}, nil))
	must(s, pc.QMP("stop", nil, nil)) // between two instructions of the PC
	must(s, s.app.Approve(s.ctx, held, "/dev/sda", "PHOTOS"))
	must(s, pc.QMP("device_del", map[string]any{"id": "dev0"}, nil))
	must(s, pc.QMP("device_add", map[string]any{"driver": "scsi-hd", "bus": "scsi0.0", "drive": "decoy", "serial": "DECOYDISK001", "id": "dev9"}, nil))
	must(s, pc.QMP("cont", nil, nil))
	dev := s.until(pc, "a refusal", is(workshop.Held, workshop.JobFailed))
	t.Logf("%s: %s (%s)", dev.Job.State, dev.Job.Reason, dev.Job.Next)
	if dev.Job.Reason == "" || dev.Job.Next == "" {
		t.Error("nobody is told what happened")
	}
	s.sees(pc, "DECOYDISK001")
	if dev, _ := s.device(pc); dev.Job.State != workshop.Held && dev.Job.State != workshop.JobFailed {
		t.Errorf("the job is %s", dev.Job.State)
	}
	pc.PowerOff()
	if s.digest(family)+s.digest(decoy) != before {
		t.Error("a disk was written to")
	}
}

// Two disks with one serial number are held. When one is taken out, the PC says
// so by itself and the other is imaged. Imaged once more, it is known as ours.
func TestTwinsThenOurs(t *testing.T) {
	s := open(t)
	s.lot(true)
	twin := lab.Disk{Bus: "scsi", Bytes: 256 << 20, Serial: "TWINDISK0001"}
	pc := s.pc(lab.Config{Firmware: lab.BIOS, Disks: []lab.Disk{twin, twin}})
	blank := s.digest(pc.Disks[0].Path)
	s.start(pc)
	dev := s.until(pc, "a hold", is(workshop.Held))
	if dev.Job.Hold != workshop.HoldTwins {
		t.Errorf("held for %q: %s", dev.Job.Hold, dev.Job.Reason)
	}
	time.Sleep(2 * time.Second)
	if s.digest(pc.Disks[0].Path) != blank || s.digest(pc.Disks[1].Path) != blank {
		t.Fatal("a disk was written to that nobody can tell from another")
	}
	must(s, pc.QMP("device_del", map[string]any{"id": "dev1"}, nil))
	first := s.until(pc, "a read-back that matched", is(workshop.Verified, workshop.FirstBoot))
	if o := first.Job.Outcome; o == nil || len(o.Birth) != 64 {
		t.Errorf("no birth record: %+v", o)
	}
	pc.PowerOff()
	s.same(pc.Disks[0].Path)
	if s.digest(pc.Disks[1].Path) != blank {
		t.Error("the disk that was taken out was written to")
	}

	must(s, s.app.ImageAgain(s.ctx, dev.ID))
	pc.Disks = pc.Disks[:1]
	s.start(pc)
	again := s.until(pc, "a second read-back that matched", func(d workshop.DeviceView) bool {
		if d.Job.State == workshop.Held {
			t.Fatalf("held: %s", d.Job.Reason)
		}
		return d.Job.ID != first.Job.ID && is(workshop.Verified, workshop.FirstBoot)(d)
	})
	if again.Job.Class != wire.ClassOurs {
		t.Errorf("the disk that we imaged counts as %q", again.Job.Class)
	}
	pc.PowerOff()
	s.same(pc.Disks[0].Path)
	s.verified(dev.ID)
}
