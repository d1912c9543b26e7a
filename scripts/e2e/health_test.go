//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
	"refurb/scripts/lab"
)

// A new drive that says it is failing is held and not touched, whoever approves
// it; beside it a good one tests itself while it is imaged. Both say so with the
// commands of their kind, which QEMU's NVMe and AHCI disks know.
func TestHealth(t *testing.T) {
	s := open(t)
	s.lot(true)
	bad := filepath.Join(s.lab.Dir, "bad.raw")
	failing := s.pc(lab.Config{Firmware: lab.BIOS,
		Disks: []lab.Disk{{Bus: "nvme", Path: bad, Bytes: 256 << 20, Serial: "FAILING00001"}},
		// The media have had too many errors to be relied upon.
		Args: []string{"-set", "device.dev0.smart_critical_warning=4"},
	})
	good := s.pc(lab.Config{Firmware: lab.BIOS, Disks: []lab.Disk{{Bus: "ahci", Bytes: 256 << 20, Serial: "GOOD00000001"}}})
	before := s.digest(bad)
	s.start(failing)
	s.start(good)

	dev := s.until(failing, "a hold", is(workshop.Held))
	if dev.Job.Hold != workshop.HoldHealth || !strings.Contains(dev.Job.Reason, "relied upon") || !strings.Contains(dev.Job.Next, "another disk") {
		t.Errorf("held for %q: %s (%s)", dev.Job.Hold, dev.Job.Reason, dev.Job.Next)
	}
	if h := dev.Report.Disks[0].Health; h == nil || h.CriticalWarning == nil || *h.CriticalWarning != 4 || h.Temperature == nil {
		t.Errorf("it reported %+v", h)
	}
	if err := s.app.Approve(s.ctx, dev, "/dev/nvme0n1", "G00001"); err == nil {
		t.Error("a lead could approve it")
	}

	dev = s.until(good, "a verified disk", is(workshop.Verified, workshop.FirstBoot))
	h := dev.Report.Disks[0].Health
	if h == nil || h.Passed == nil || !*h.Passed || h.Hours == nil || workshop.DiskHealth(&dev.Report.Disks[0]).State != workshop.HealthGood {
		t.Errorf("the good disk reported %+v", h)
	}
	if o := dev.Job.Outcome; o == nil || o.SelfTest == nil || o.SelfTest.State != wire.TestPassed {
		t.Errorf("its self-test: %+v", o)
	}
	if dev, _ = s.device(failing); dev.Job.State != workshop.Held {
		t.Errorf("the failing one is %s by now", dev.Job.State)
	}
	if s.digest(bad) != before {
		t.Error("something was written to the failing disk")
	}
}
