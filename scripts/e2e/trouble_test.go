//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"refurb/appliance/workshop"
	"refurb/scripts/lab"
)

// Each trouble ends as failed with its cause and the next step, on the
// dashboard and on the PC's screen, and never leaves a disk that starts.
func TestTroubleFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		disk   lab.Disk
		spoil  func(s *shop)
		reason string // part of what people are told
	}{
		{name: "disk too small", disk: lab.Disk{Bytes: 32 << 20}, reason: "too small"},
		{name: "4096-byte blocks", disk: lab.Disk{Bytes: 256 << 20, Block: 4096}, reason: "4096"},
		{name: "writes fail", disk: lab.Disk{Bytes: 256 << 20, Node: "driver=blkdebug,image.driver=file,image.filename=DISK,inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.errno=5,inject-error.0.sector=20480"}, reason: "writ"},
		{name: "a disk that drops what it is given", disk: lab.Disk{Bytes: 256 << 20, Node: "driver=null-co,size=268435456,read-zeroes=on"}, reason: "doesn't keep what is written"},
		{name: "corrupt image", disk: lab.Disk{Bytes: 256 << 20}, reason: "damaged", spoil: func(s *shop) {
			f, err := os.OpenFile(filepath.Join(s.data, "images", built.root, "frames"), os.O_RDWR, 0)
			must(s, err)
			defer f.Close()
			_, err = f.WriteAt([]byte("this is not what was signed"), built.manifest.Compressed()/2)
			must(s, err)
		}},
		{name: "truncated image", disk: lab.Disk{Bytes: 256 << 20}, reason: "image", spoil: func(s *shop) {
			must(s, os.Truncate(filepath.Join(s.data, "images", built.root, "frames"), built.manifest.Compressed()/2))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			s.lot(true)
			if c.spoil != nil {
				c.spoil(s)
			}
			path := filepath.Join(s.lab.Dir, "disk.raw")
			c.disk.Path, c.disk.Serial = path, "TROUBLE00001"
			c.disk.Node = strings.Replace(c.disk.Node, "DISK", path, 1)
			pc := s.pc(lab.Config{Firmware: lab.BIOS, Disks: []lab.Disk{c.disk}})
			s.start(pc)
			dev := s.until(pc, "a failure or a hold", is(workshop.JobFailed, workshop.Held))
			if !strings.Contains(strings.ToLower(dev.Job.Reason), c.reason) || dev.Job.Next == "" {
				t.Errorf("%s: told %q, next %q; want something about %q and a next step", dev.Job.State, dev.Job.Reason, dev.Job.Next, c.reason)
			}
			s.unbootable(path)
			time.Sleep(2 * time.Second) // the screen is painted a few times a second
			shot := filepath.Join(s.lab.Dir, "screen.png")
			must(s, pc.Screendump(shot))
			if dir := os.Getenv("REFURB_SCREENS"); dir != "" {
				must(s, exec.Command("cp", shot, filepath.Join(dir, strings.ReplaceAll(c.name, " ", "-")+".png")).Run())
			}
		})
	}
}

// slow is a disk that leaves time to make trouble.
func slow(s *shop, rate int) lab.Config {
	path := filepath.Join(s.lab.Dir, "slow.raw")
	return lab.Config{Firmware: lab.BIOS,
		Args: []string{"-object", fmt.Sprintf("throttle-group,id=tg0,x-bps-write=%d,x-bps-write-max=%d", rate, rate)},
		Disks: []lab.Disk{{Path: path, Bytes: 256 << 20, Serial: "SLOWDISK0001",
			Node: "driver=throttle,throttle-group=tg0,file.driver=raw,file.file.driver=file,file.file.filename=" + path}},
	}
}

// The appliance dies in the middle and comes back: the job goes on.
func TestApplianceKilled(t *testing.T) {
	s := open(t)
	s.lot(true)
	pc := s.pc(slow(s, 4<<20))
	s.start(pc)
	s.until(pc, "writing", is(workshop.Imaging))
	s.app.Kill()
	time.Sleep(5 * time.Second)
	must(s, s.app.Start(s.ctx)) // whoever was logged in still is
	dev := s.until(pc, "its first boot", is(workshop.FirstBoot))
	s.same(pc.Disks[0].Path)
	s.verified(dev.ID)
}

// The cable is pulled in the middle: lost, never verified; put back, the same
// start goes on.
func TestCablePulled(t *testing.T) {
	s := open(t, "--lost-after", "10s")
	s.lot(true)
	pc := s.pc(slow(s, 4<<20))
	s.start(pc)
	s.until(pc, "writing", is(workshop.Imaging))
	must(s, pc.Unplug())
	s.until(pc, "being lost", func(d workshop.DeviceView) bool {
		if d.Job.State == workshop.Verified {
			t.Fatal("verified with its cable pulled")
		}
		return d.Job.State == workshop.JobLost
	})
	must(s, pc.Plug())
	s.until(pc, "a read-back that matched", is(workshop.Verified, workshop.FirstBoot))
	s.same(pc.Disks[0].Path)
}

// The disk is pulled out in the middle.
func TestDiskVanishes(t *testing.T) {
	s := open(t)
	s.lot(true)
	cfg := slow(s, 4<<20)
	cfg.Disks[0].Bus = "scsi" // may be taken away while it is in use
	pc := s.pc(cfg)
	s.start(pc)
	s.until(pc, "writing", func(d workshop.DeviceView) bool {
		return d.Job.State == workshop.Imaging && d.Progress != nil && d.Progress.Done > 8<<20
	})
	must(s, pc.QMP("device_del", map[string]any{"id": "dev0"}, nil))
	dev := s.until(pc, "failing", is(workshop.JobFailed))
	if dev.Job.Next == "" || dev.Job.Reason == "" {
		t.Errorf("told %q, next %q", dev.Job.Reason, dev.Job.Next)
	}
	s.unbootable(pc.Disks[0].Path)
}
