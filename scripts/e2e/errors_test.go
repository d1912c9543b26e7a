//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"refurb/agent/disk"
	"refurb/agent/wire"
	"refurb/appliance/workshop"
	"refurb/images"
	"refurb/scripts/lab"
)

// Errors of the disk that come late, each on a PC of its own: in the image's last
// frame when it is written, in the same frame when it is read back, and when the
// disk is to flush what it has. The campaign plays thousands of these in memory;
// here the kernel and a drive's own interface stand between.
func TestDiskErrors(t *testing.T) {
	const size = 256 << 20
	sector := late(t, size) / 512
	s := open(t)
	s.lot(true)
	cases := []struct {
		name, bus, rule string
		phase           wire.Phase
	}{
		{"write", "virtio", fmt.Sprintf("iotype=write,inject-error.0.errno=5,inject-error.0.sector=%d", sector), wire.PhaseImaging},
		{"read", "ahci", fmt.Sprintf("iotype=read,inject-error.0.errno=5,inject-error.0.sector=%d", sector), wire.PhaseVerifying},
		{"flush", "scsi", "iotype=flush,inject-error.0.errno=5", wire.PhaseImaging},
	}
	pcs := make([]*lab.PC, len(cases))
	for i, c := range cases {
		path := filepath.Join(s.lab.Dir, c.name+".raw")
		pcs[i] = s.pc(lab.Config{Firmware: lab.BIOS, Disks: []lab.Disk{{Bus: c.bus, Bytes: size, Path: path, Serial: fmt.Sprintf("ERRORS00000%d", i),
			Node: "driver=blkdebug,image.driver=file,image.filename=" + path + ",inject-error.0.event=none,inject-error.0." + c.rule}}})
		s.start(pcs[i])
	}
	for i, c := range cases {
		dev := s.until(pcs[i], "a failure", is(workshop.JobFailed))
		o := dev.Job.Outcome
		if o == nil || o.Result != wire.Failed || !strings.Contains(o.Cause, "the disk failed") || !strings.Contains(o.Next, "another disk") {
			t.Errorf("%s: %q; outcome %+v", c.name, dev.Job.Reason, o)
		} else if o.Phase != c.phase && c.name != "read" { // a frame may be read back early
			t.Errorf("%s: failed while %s: %s", c.name, o.Phase, o.Cause)
		}
		s.unbootable(pcs[i].Disks[0].Path)
	}
}

// late is a byte in the image's last frame that has any, which nothing reads when
// it looks at what a blank disk holds.
func late(t *testing.T, size int64) int64 {
	m := built.manifest
	looked := &looks{}
	disk.Classify(looked, size, disk.Facts{})
	for i := len(m.Frames) - 1; i > 0; i-- {
		end := int64(i)*images.FrameSize + int64(m.RawLength(i))
		if m.Frames[i].Length == 0 || end > size-1<<20 {
			continue
		}
		for at := int64(i)*images.FrameSize + 64<<10; at < end; at += 4096 {
			if !looked.at(at) {
				return at
			}
		}
	}
	t.Fatal("the image has no such byte")
	return 0
}

// looks is a blank disk that notes what is read of it.
type looks struct{ read [][2]int64 }

func (l *looks) ReadAt(p []byte, off int64) (int, error) {
	l.read = append(l.read, [2]int64{off &^ 4095, off + int64(len(p)) + 4095})
	clear(p)
	return len(p), nil
}

func (l *looks) at(off int64) bool {
	for _, r := range l.read {
		if off+512 > r[0] && off < r[1] {
			return true
		}
	}
	return false
}
