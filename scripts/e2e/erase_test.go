//go:build e2e

package e2e

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
	"refurb/images"
	"refurb/scripts/lab"
)

const (
	diary     = "Dear diary, nobody may ever read this line. " // what a donor left
	eraseSize = 192 << 20
)

// donors makes a disk with a file system that is half full of the diary.
func (s *shop) donors(name string) string {
	s.Helper()
	files := filepath.Join(s.lab.Dir, name+"-files")
	must(s, os.MkdirAll(files, 0o755))
	must(s, os.WriteFile(filepath.Join(files, "diary.txt"), bytes.Repeat([]byte(diary), eraseSize/2/len(diary)), 0o644))
	disk := filepath.Join(s.lab.Dir, name+".raw")
	if out, err := exec.Command("mkfs.ext4", "-q", "-d", files, disk, "192M").CombinedOutput(); err != nil {
		s.Fatalf("%v: %s", err, out)
	}
	if s.holdsDiary(disk) == 0 {
		s.Fatal("the disk holds no diary to begin with")
	}
	return disk
}

// holdsDiary counts lines of the diary on the raw disk, from outside.
func (s *shop) holdsDiary(disk string) (n int) {
	s.Helper()
	b, err := os.ReadFile(disk)
	must(s, err)
	return bytes.Count(b, []byte("nobody may ever read"))
}

// erasure is how the disk of a device was erased, by the newest job that did.
func (s *shop) erasure(id string) (*wire.Erasure, workshop.Job) {
	s.Helper()
	b, err := s.app.Get(s.ctx, "/api/devices/"+id)
	must(s, err)
	var d workshop.DeviceDetail
	must(s, json.Unmarshal(b, &d))
	i := slices.IndexFunc(d.Jobs, func(j workshop.Job) bool { return j.Erase != nil })
	if i < 0 || d.Jobs[i].Outcome == nil || d.Jobs[i].Outcome.Erasure == nil {
		s.Fatalf("no erasure is on record: %+v", d.Jobs)
	}
	return d.Jobs[i].Outcome.Erasure, d.Jobs[i]
}

// Disks that hold a donor's data are held, erased when a lead names them, and
// read. QEMU's NVMe drive formats for real, as a drive does that has no sanitize;
// its AHCI drive can only be written. After that the one PC is imaged as it was
// asked for, and the other waits.
func TestErase(t *testing.T) {
	s := open(t)
	s.lot(true)
	solid, spinning := s.donors("solid"), s.donors("spinning")
	nvme := s.pc(lab.Config{Firmware: lab.BIOS, Disks: []lab.Disk{{Bus: "nvme", Path: solid, Bytes: eraseSize, Serial: "SOLIDSTATE01"}}})
	ahci := s.pc(lab.Config{Firmware: lab.BIOS, Disks: []lab.Disk{{Bus: "ahci", Path: spinning, Bytes: eraseSize, Serial: "SPINNING0001"}}})
	before := s.digest(solid) + s.digest(spinning)
	s.start(nvme)
	s.start(ahci)

	held := s.until(nvme, "a hold", is(workshop.Held))
	if a := held.Report.Disks[0].Abilities; a == nil || a.NVMeOACS == nil || *a.NVMeOACS&2 == 0 || a.NVMeNamespaces == nil || *a.NVMeNamespaces != 1 {
		t.Errorf("the NVMe drive says it can %+v", a)
	}
	other := s.until(ahci, "a hold", is(workshop.Held))
	if a := other.Report.Disks[0].Abilities; a == nil || a.ATASecurity == nil || a.Error != "" {
		t.Errorf("the AHCI drive says it can %+v", a)
	}
	if err := s.app.Erase(s.ctx, held, "/dev/nvme0n1", "STATE02", "full", false); err == nil {
		t.Error("another serial number is good enough")
	}
	if s.digest(solid)+s.digest(spinning) != before {
		t.Fatal("something was written before anybody said so")
	}
	must(s, s.app.Erase(s.ctx, other, "/dev/sda", "NG0001", "sample", false))
	must(s, s.app.Erase(s.ctx, held, "/dev/nvme0n1", "TATE01", "full", true))

	dev := s.until(ahci, "an erased disk", func(d workshop.DeviceView) bool { return d.Job.Hold == workshop.HoldErased })
	if c := dev.Report.Disks[0].Class; c != wire.ClassBlank {
		t.Errorf("it reports that its disk is %s", c)
	}
	s.verdict(dev.ID, "SPINNING0001", wire.LevelClear, "hdd", "overwrite")
	ahci.PowerOff()
	b, err := os.ReadFile(spinning)
	must(s, err)
	if !images.Zero(b) {
		t.Errorf("the erased disk holds something: %d lines of the diary", s.holdsDiary(spinning))
	}

	dev = s.until(nvme, "an imaged disk", is(workshop.Verified, workshop.FirstBoot))
	s.verdict(dev.ID, "SOLIDSTATE01", wire.LevelClear, "nvme", "nvme format, user data erase")
	nvme.PowerOff()
	if n := s.holdsDiary(solid); n > 0 {
		t.Errorf("%d lines of the diary are on the erased and imaged disk", n)
	}
	s.same(solid)
	s.beyond(solid, int64(len(built.raw)))
	s.verified(dev.ID)
}

// verdict checks what is on record of an erasure.
func (s *shop) verdict(id, serial string, level wire.Level, medium, method string) {
	s.Helper()
	e, j := s.erasure(id)
	if j.State != workshop.Erased || e.Result != wire.Erased || e.Level != level || e.Medium != medium || e.Check.Bytes != eraseSize ||
		e.Check.Mismatches+e.Check.Errors != 0 || e.Check.Expect != "zero" || j.Outcome.Disk.Serial != serial || e.Tool == "" {
		s.Errorf("%s: %+v", j.State, e)
	}
	if seed, err := hex.DecodeString(j.Erase.Seed); err != nil || len(seed) != 32 {
		s.Errorf("seed %q", j.Erase.Seed)
	}
	i := slices.IndexFunc(e.Steps, func(s wire.EraseStep) bool { return s.Level != wire.LevelNone && s.Result == wire.Done })
	if i < 0 || e.Steps[i].Method != method || e.Steps[i].Command == "" || strings.Contains(e.Steps[i].Command, "SES=0") {
		s.Errorf("steps %+v", e.Steps)
	}
}

// beyond fails unless the disk is zero from an offset to its last MiB, where the
// backup partition table is.
func (s *shop) beyond(disk string, at int64) {
	s.Helper()
	f, err := os.Open(disk)
	must(s, err)
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, at, eraseSize-(1<<20)-at))
	must(s, err)
	if !images.Zero(b) {
		s.Errorf("%s holds something behind the image", disk)
	}
}
