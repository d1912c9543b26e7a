//go:build e2e

package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
	"refurb/scripts/lab"
)

// stick writes the image of a USB stick.
func (s *shop) stick(args ...string) string {
	s.Helper()
	path := filepath.Join(s.lab.Dir, "stick.img")
	out, err := exec.Command(built.refurb, append([]string{"payload", "usb", "--data", s.data, "--out", path,
		"--cache", filepath.Join(*buildDir, "cache")}, args...)...).CombinedOutput()
	if err != nil {
		s.Fatalf("payload usb: %v\n%s", err, out)
	}
	return path
}

// fromStick starts a PC whose network card can't start it from a stick, has it
// imaged, and starts it from its own disk. The stick is as it was.
func fromStick(t *testing.T, fw lab.Firmware) {
	open(t).fromStick(lab.Config{Firmware: fw, NoBoot: true})
}

func (s *shop) fromStick(cfg lab.Config) {
	s.Helper()
	t := s
	s.lot(true)
	path := s.stick()
	before := s.digest(path)
	cfg.Disks = []lab.Disk{
		// First in the kernel's order as well, and no removable one by its own word.
		{Bus: "usb", Path: path, Serial: "STICK0001", First: true, Fixed: true},
		{Bus: "virtio", Bytes: 256 << 20},
	}
	pc := s.pc(cfg)
	s.start(pc)
	dev := s.until(pc, "a verified disk", is(workshop.Verified, workshop.FirstBoot))
	if dev.Report.Stick == "" {
		t.Error("nobody knows that the PC was started from a stick")
	}
	i := slices.IndexFunc(dev.Report.Disks, func(d wire.Disk) bool { return d.Serial == "STICK0001" })
	if i < 0 || dev.Report.Disks[i].InUse != "as a Refurb stick" || dev.Report.Disks[i].Removable {
		t.Errorf("the stick was reported as %+v", dev.Report.Disks)
	}
	if cfg.Firmware == lab.BIOS {
		// It would start from the stick again and again: the PC waits for a person.
		_, err := pc.Expect(s.ctx, regexp.MustCompile(`take the USB stick out`))
		must(s, err)
		must(s, pc.QMP("device_del", map[string]any{"id": "dev0"}, nil))
	}
	s.until(pc, "the first boot", is(workshop.FirstBoot))
	must(s, pc.WaitOff(s.ctx))
	s.same(pc.Disks[1].Path)
	if s.digest(path) != before {
		t.Error("the stick was written to")
	}
}

func TestStick(t *testing.T) { fromStick(t, lab.BIOS) }

func TestStickOtherFirmware(t *testing.T) {
	if !*full {
		t.Skip("with -full")
	}
	for _, fw := range []lab.Firmware{lab.UEFI, lab.SecureBoot, lab.IA32} {
		t.Run(string(fw), func(t *testing.T) { fromStick(t, fw) })
	}
}
