//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
	"refurb/scripts/lab"
)

// Four PCs are imaged together over a port of the appliance that is the
// bottleneck. One of them loses power in the middle, without a goodbye. The
// others pass frames on to each other and are done with about one image sent;
// the fourth, started again and approved, goes on from what its disk holds.
func TestShare(t *testing.T) {
	const (
		port = 24       // Mbit/s
		more = 80 << 20 // bytes that don't compress: half a minute at that rate
	)
	s := open(t, "--lost-after", "20s")
	big := s.larger(more)
	var pcs []*lab.PC
	for i, c := range []struct {
		firmware lab.Firmware
		bus, nic string
	}{
		{lab.UEFI, "nvme", "virtio-net-pci"},
		{lab.BIOS, "virtio", "virtio-net-pci"},
		{lab.SecureBoot, "virtio", "virtio-net-pci"},
		{lab.BIOS, "ahci", "e1000"},
	} {
		pcs = append(pcs, s.pc(lab.Config{Firmware: c.firmware, NIC: c.nic, MiB: 768, Disks: []lab.Disk{
			{Bus: c.bus, Bytes: 256 << 20, Serial: fmt.Sprintf("SHARED%06d", i+1)}}}))
	}
	for _, pc := range pcs {
		s.start(pc)
	}
	// Without a lot all of them wait, so that they begin together, and what the
	// port carries from here on is the image.
	for _, pc := range pcs {
		s.until(pc, "a hold", is(workshop.Held))
	}
	must(s, s.lab.SlowPort(port))
	before, err := s.lab.Sent()
	must(s, err)
	must(s, s.app.OpenLot(s.ctx, "Test donor", big.root, true))

	cut, rest := pcs[1], []*lab.PC{pcs[0], pcs[2], pcs[3]}
	first := s.until(cut, "a third of its image", func(d workshop.DeviceView) bool {
		return d.Job.State == workshop.Imaging && d.Progress != nil && d.Progress.Done > int64(len(big.raw))/3
	})
	cut.PowerOff()
	s.unbootable(cut.Disks[0].Path)

	peers := int64(0)
	for _, pc := range rest {
		dev := s.until(pc, "a read-back that matched", is(workshop.Verified, workshop.FirstBoot))
		o := dev.Job.Outcome
		if o == nil || o.Result != wire.Done || o.ReadBack != int64(len(big.raw)) || o.Mismatches != 0 {
			t.Fatalf("%s: the outcome proves nothing: %+v", pc.Name, o)
		}
		t.Logf("%s: %d bytes fetched, %d of them from other PCs, %d passed on, %d retries", pc.Name, o.Fetched, o.FromPeers, o.Sent, o.Retries)
		peers += o.FromPeers
	}
	after, err := s.lab.Sent()
	must(s, err)
	image := big.manifest.Compressed()
	t.Logf("the appliance sent %d bytes, %.2f images", after-before, float64(after-before)/float64(image))
	if after-before > 2*image {
		t.Errorf("the appliance sent %d bytes for an image of %d: PCs hardly share", after-before, image)
	}
	if peers == 0 {
		t.Error("no PC got anything from another")
	}
	must(s, s.lab.SlowPort(0))
	for _, pc := range rest {
		pc.PowerOff() // that they start from their drives is another test's
		s.holds(pc.Disks[0].Path, big)
	}

	s.start(cut)
	dev := s.until(cut, "a hold", func(d workshop.DeviceView) bool {
		return d.Job.ID != first.Job.ID && d.Job.State == workshop.Held
	})
	if dev.Job.Hold != workshop.HoldRestart {
		t.Errorf("held for %q: %s", dev.Job.Hold, dev.Job.Reason)
	}
	must(s, s.app.Approve(s.ctx, dev, "/dev/vda", "000002"))
	dev = s.until(cut, "its first boot", is(workshop.FirstBoot))
	s.holds(cut.Disks[0].Path, big)
	s.verified(dev.ID)
	if o := dev.Job.Outcome; o == nil || o.Resumed == 0 {
		t.Errorf("it began anew instead of going on: %+v", o)
	} else {
		t.Logf("%s: %d frames were on its disk already, %d bytes fetched", cut.Name, o.Resumed, o.Fetched)
	}
}

// larger is the tiny image with one more partition, full of what doesn't
// compress, in this shop's depot.
func (s *shop) larger(more int64) picture {
	s.Helper()
	tiny := int64(len(built.raw))
	path := filepath.Join(s.lab.Dir, "larger.img")
	must(s, os.WriteFile(path, built.raw, 0o644))
	must(s, os.Truncate(path, tiny+more))
	// Not a Linux partition, so that it doesn't grow to the disk's end.
	out, err := exec.Command("sgdisk", "--move-second-header", fmt.Sprintf("--new=0:%d:0", tiny/512), "--typecode=3:0700", path).CombinedOutput()
	if err != nil {
		s.Fatalf("sgdisk: %v\n%s", err, out)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(s, err)
	defer f.Close()
	noise := make([]byte, more-1<<20) // ends before the backup GPT
	_, _ = rand.NewChaCha8([32]byte{'s', 'h', 'a', 'r', 'e'}).Read(noise)
	_, err = f.WriteAt(noise, tiny)
	must(s, err)
	if out, err := exec.CommandContext(s.ctx, built.refurb, "image", "import", path, "--name", "larger", "--data", s.data).CombinedOutput(); err != nil {
		s.Fatalf("image import: %v\n%s", err, out)
	}
	p, err := find(s.data, "larger")
	must(s, err)
	return p
}
