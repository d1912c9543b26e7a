package recipes

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	volume "refurb/agent/esp"
	"refurb/agent/wire"
)

// The EFI system partitions that we make have room for the record that a disk
// gets, and fsck.fat finds no more wrong with them afterwards.
func TestRoomForBirthRecord(t *testing.T) {
	for name, size := range map[string]int64{"tiny": tinyBytes - espAt - backup, "desktop": espBytes} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "disk")
			f, err := os.Create(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(espAt + size + backup); err != nil {
				t.Fatal(err)
			}
			e, err := makeESP(f, espAt, size, "TEST")
			if err != nil {
				t.Fatal(err)
			}
			if err := e.write(content{"/EFI/BOOT/BOOTX64.EFI", []byte(strings.Repeat("a loader ", 10000))}); err != nil {
				t.Fatal(err)
			}
			before := complaints(t, file, size) // our builder is not quite what fsck.fat wants
			record := strings.Repeat("x", wire.MaxBirth)
			v, err := volume.Open(f, espAt, size)
			if err != nil {
				t.Fatal(err)
			}
			groups, err := v.Put(wire.BirthPath, []byte(record), sector)
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range groups {
				for _, w := range g {
					if _, err := f.WriteAt(w.B, w.At); err != nil {
						t.Fatal(err)
					}
				}
			}
			if after := complaints(t, file, size); after != before {
				t.Errorf("before: %s\nafter: %s", before, after)
			}
			part := cut(t, file, size)
			if out, err := exec.Command("mtype", "-i", part, "::"+wire.BirthPath).CombinedOutput(); err != nil || string(out) != record {
				t.Errorf("mtools reads %.80q, %v", out, err)
			}
		})
	}
}

// cut takes the partition out of the disk.
func cut(t *testing.T, disk string, size int64) string {
	t.Helper()
	part := filepath.Join(t.TempDir(), "esp")
	if out, err := exec.Command("dd", "if="+disk, "of="+part, "bs=1M", "conv=sparse", "iflag=skip_bytes,count_bytes",
		"skip="+strconv.Itoa(espAt), "count="+strconv.FormatInt(size, 10)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return part
}

var numbers = regexp.MustCompile(`\d+|/\S+`)

// complaints are what fsck.fat says, but for numbers and the summary.
func complaints(t *testing.T, disk string, size int64) string {
	t.Helper()
	out, _ := exec.Command("fsck.fat", "-n", cut(t, disk, size)).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return numbers.ReplaceAllString(strings.Join(lines[:len(lines)-1], "\n"), "…")
}
