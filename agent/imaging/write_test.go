package imaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"refurb/agent/disk"
	"refurb/agent/hardware"
	"refurb/agent/wire"
	"refurb/images"
)

// loop attaches a file of size bytes as a block device.
func loop(t *testing.T, size int64, block int) (path, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	out, err := exec.Command("losetup", "--find", "--show", "--sector-size", map[int]string{512: "512", 4096: "4096"}[block], file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	path = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", path).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	return path, file
}

// A real image goes onto a real block device, and what the device
// holds afterwards is looked at through its file.
func TestLoopDevice(t *testing.T) {
	for _, c := range []struct {
		name        string
		block       int
		image, disk int64
	}{
		{"512", 512, 41 << 20, 64 << 20},
		{"4096", 4096, 41 << 20, 64 << 20},
		{"as large as the image", 512, 41 << 20, 41 << 20},
		{"a little larger", 512, 41 << 20, 41<<20 + 64<<10},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := paint(t, 7, c.image, c.block)
			p.m.Slots = []images.Slot{{Name: "checkin", Offset: 9<<20 + 512, Length: images.SlotSize}}
			path, file := loop(t, c.disk, c.block)
			id, err := hardware.DiskIdentity("/", filepath.Base(path))
			if err != nil {
				t.Fatal(err)
			}
			d, err := disk.Open(id, nil, wire.ClassBlank)
			if err != nil {
				t.Fatal(err)
			}
			job := p.job(t)
			job.Slots = map[string][]byte{"checkin": []byte(`{"token":"x"}`)}
			out, table := Write(t.Context(), d, job, new(Meter))
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			mustDone(t, out, c.image)
			if table == nil || table.ESP == nil || table.ESP.Number != 1 {
				t.Fatalf("table %+v", table)
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if at := p.wrong(got, job.Slots); at >= 0 {
				t.Fatalf("byte %d is wrong", at)
			}
			slot := got[9<<20+512:][:images.SlotSize]
			if !bytes.HasPrefix(slot, []byte(`{"token":"x"}   `)) || slot[len(slot)-1] != '\n' {
				t.Fatalf("slot %q", slot)
			}
			// sgdisk is somebody else's opinion of the table.
			if c.block == 512 {
				sg, err := exec.Command("sgdisk", "--verify", file).CombinedOutput()
				if err != nil || !bytes.Contains(sg, []byte("No problems found")) {
					t.Fatalf("sgdisk: %v\n%s", err, sg)
				}
			}
			// Somebody who has the disk open keeps others out.
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_EXCL, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if _, err := disk.Open(id, nil, wire.ClassData); err == nil || !strings.Contains(err.Error(), "in use") {
				t.Fatalf("a disk in use was opened: %v", err)
			}
		})
	}
}

// Everything but network and disk: decode, check, and the copy of a disk
// in memory, then reading back.
func BenchmarkWrite(b *testing.B) {
	p := paint(b, 7, 128<<20, 512)
	b.SetBytes(p.m.Bytes)
	for b.Loop() {
		d := newMemory(p.m.Bytes, 512)
		if out, _ := Write(b.Context(), d, p.job(b), new(Meter)); out.Result != wire.Done {
			b.Fatal(out)
		}
	}
}
