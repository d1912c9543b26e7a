//go:build e2e

package e2e

import (
	"bytes"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"refurb/appliance/workshop"
	"refurb/scripts/lab"
)

// A PC that waits for its disk's approval is sent to the memory test, then to the
// rescue shell; each time once. What waits for it is what it was, and its disk
// isn't touched.
func TestRescue(t *testing.T) {
	s := open(t)
	s.lot(false)
	disk := filepath.Join(s.lab.Dir, "disk.raw")
	pc := s.pc(lab.Config{Firmware: lab.BIOS, Disks: []lab.Disk{{Bytes: 64 << 20, Path: disk}}})
	before := s.digest(disk)
	s.start(pc)
	first := s.until(pc, "a hold", is(workshop.Held))

	restart := func(kind string, want string) {
		must(t, s.app.Rescue(s.ctx, first.ID, kind))
		pc.PowerOff()
		s.start(pc)
		if _, err := pc.Expect(s.ctx, regexp.MustCompile(want)); err != nil {
			_ = pc.Screendump("/tmp/rescue-" + kind + ".png")
			t.Fatal(err)
		}
		if dev, _ := s.device(pc); dev.Rescue != "" || dev.Job.ID != first.Job.ID || dev.Job.State != workshop.Held && dev.Job.State != workshop.JobLost {
			t.Fatalf("after %s: %q is still chosen, the job is %s", kind, dev.Rescue, dev.Job.State)
		}
	}
	restart("memtest", `Memtest86\+ v[0-9]`)
	restart("shell", `RESCUE SHELL[^$]*Network: 10\.77\.0\.`)

	// The PC's own keyboard and screen, with a look at what the shell knows. It
	// throws away what was typed before it is ready, so a person types it again.
	said := regexp.MustCompile(`[^\n]*refurb\.rescue=shell[^\n]*`)
	for s.ctx.Err() == nil && !said.Match(pc.Log()) {
		must(t, pc.Type("cat /proc/cmdline > /dev/ttyS0\n"))
		time.Sleep(5 * time.Second)
	}
	m, err := pc.Expect(s.ctx, said)
	must(t, err)
	if bytes.Contains(m[0], []byte("token")) {
		t.Errorf("a shell that anybody may use knows a token: %s", m[0])
	}
	must(t, pc.Screendump(filepath.Join(s.lab.Dir, "shell.png")))
	var typed time.Time // between two commands it throws away what is typed as well
	again := s.until(pc, "the agent again", func(d workshop.DeviceView) bool {
		if d.Job.Boot == first.Job.Boot && time.Since(typed) > 20*time.Second {
			typed = time.Now()
			must(t, pc.Type("shutdown -r\n"))
		}
		return d.Job.State == workshop.Held && d.Job.Boot != first.Job.Boot
	})
	if again.Job.Hold != first.Job.Hold {
		t.Errorf("it was held for %s and is held for %s", first.Job.Hold, again.Job.Hold)
	}
	pc.PowerOff()
	if s.digest(disk) != before {
		t.Error("its disk was written")
	}
}

// Under UEFI the memory test is a program that GRUB starts, and with Secure Boot
// GRUB says why it can't; the start after that is an ordinary one.
func TestRescueUEFI(t *testing.T) {
	if !*full {
		t.Skip("more firmware with -full")
	}
	for firmware, want := range map[lab.Firmware]string{
		lab.UEFI:       `Memtest86\+ v[0-9]`,
		lab.SecureBoot: `nobody has signed it`,
		lab.IA32:       `Memtest86\+ v[0-9]`,
	} {
		t.Run(string(firmware), func(t *testing.T) {
			s := open(t)
			s.lot(false)
			pc := s.pc(lab.Config{Firmware: firmware})
			s.start(pc)
			first := s.until(pc, "a hold", is(workshop.Held))
			must(t, s.app.Rescue(s.ctx, first.ID, "memtest"))
			pc.PowerOff()
			s.start(pc)
			if _, err := pc.Expect(s.ctx, regexp.MustCompile(want)); err != nil {
				t.Fatal(err)
			}
			if firmware != lab.SecureBoot {
				pc.PowerOff()
				s.start(pc)
			}
			s.until(pc, "the agent again", func(d workshop.DeviceView) bool {
				return d.Job.State == workshop.Held && d.Job.Boot != first.Job.Boot
			})
		})
	}
}
