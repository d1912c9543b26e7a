package disk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"refurb/agent/hardware"
	"refurb/agent/wire"
	"refurb/images"
)

// loop makes a block device of a sparse file.
func loop(t *testing.T, bytes int64, options ...string) (wire.DiskID, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, bytes); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", append([]string{"--find", "--show", file}, options...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	path := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", path).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	id, err := hardware.DiskIdentity("/", filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	return id, file
}

func TestOpenRefuses(t *testing.T) {
	id, _ := loop(t, 8<<20)
	protected, _ := loop(t, 8<<20, "--read-only")
	used, _ := loop(t, 8<<20)
	fd, err := unix.Open(used.Path, unix.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	parted, file := loop(t, 8<<20, "--partscan")
	if out, err := exec.Command("sgdisk", "-n", "1:0:0", parted.Path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	part := partition(t, parted.Path)
	regular := wire.DiskID{Path: file}
	for _, c := range []struct {
		name string
		id   wire.DiskID
		with func(*wire.DiskID)
		as   []wire.Class
		want string
	}{
		{"serial", id, func(d *wire.DiskID) { d.Serial = "ABC" }, nil, `serial number is none, not "ABC"`},
		{"wwn", id, func(d *wire.DiskID) { d.WWN = "eui.1" }, nil, "WWN"},
		{"model", id, func(d *wire.DiskID) { d.Model = "Other" }, nil, "model"},
		{"size", id, func(d *wire.DiskID) { d.Bytes -= 512 }, nil, `size is "8388608", not "8388096"`},
		{"block", id, func(d *wire.DiskID) { d.LogicalBlock = 4096 }, nil, "block size"},
		{"class", id, nil, []wire.Class{wire.ClassData}, `holds "blank" now`},
		{"no class", id, nil, []wire.Class{}, `holds "blank" now`},
		{"empty class", id, nil, []wire.Class{""}, `holds "blank" now`},
		{"structured", parted, nil, []wire.Class{wire.ClassBlank}, `holds "structured" now: gpt, mbr`},
		{"read-only", protected, nil, nil, "write-protected"},
		{"in use", used, nil, nil, "in use"},
		{"partition", parted, func(d *wire.DiskID) { d.Path = part }, nil, "partition"},
		{"file", regular, nil, nil, "no disk"},
		{"gone", id, func(d *wire.DiskID) { d.Path = "/dev/gone" }, nil, "gone"},
		{"character device", id, func(d *wire.DiskID) { d.Path = "/dev/zero" }, nil, ""},
		{"no path", id, func(d *wire.DiskID) { d.Path = "" }, nil, "no disk"},
		{"another folder", id, func(d *wire.DiskID) { d.Path = "/dev/../" + d.Path }, nil, "no disk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.with != nil {
				c.with(&c.id)
			}
			if c.as == nil {
				c.as = []wire.Class{wire.ClassBlank}
			}
			d, err := Open(c.id, nil, c.as...)
			if err == nil {
				d.Close()
				t.Fatal("it was opened")
			}
			r, ok := errors.AsType[*Refusal](err)
			if !ok || !strings.Contains(r.Message, c.want) || r.Next == "" {
				t.Fatalf("%v", err)
			}
		})
	}
}

// A disk that has become another one since it was opened, or holds something
// else, is refused by the same words as one that is opened so.
func TestCheckAgain(t *testing.T) {
	id, file := loop(t, 24<<20)
	d, err := Open(id, nil, wire.ClassBlank)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Check(id, nil, wire.ClassBlank); err != nil {
		t.Fatal(err)
	}
	refused := func(want string) {
		t.Helper()
		if r, ok := errors.AsType[*Refusal](d.Check(id, nil, wire.ClassBlank)); !ok || !strings.Contains(r.Message, want) || r.Next == "" {
			t.Errorf("%v, want %q", r, want)
		}
	}
	b := Buffer(4096)
	copy(b, "somebody's letters")
	if _, err := d.WriteAt(b, 12<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(b, 24<<20-4096); err != nil {
		t.Fatal(err)
	}
	refused(`holds "data" now: unknown data`)
	if err := os.Truncate(file, 32<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("losetup", "--set-capacity", id.Path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	refused(`its size is "33554432", not "25165824"`)
	if d.ID() != id {
		t.Error("the disk that was opened is another one now")
	}
}

// partition makes a node for a disk's first partition: where nothing watches the
// kernel there is none.
func partition(t *testing.T, disk string) string {
	t.Helper()
	if out, err := exec.Command("partx", "--update", disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("partx", "--delete", disk).Run() })
	name := filepath.Base(disk)
	b, err := os.ReadFile("/sys/block/" + name + "/" + name + "p1/dev")
	if err != nil {
		t.Fatal(err)
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(b), "%d:%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/dev/refurb-test-%d-%d", os.Getpid(), minor)
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	return path
}

func TestReadWriteZero(t *testing.T) {
	for _, block := range []string{"512", "4096"} {
		for _, byWriting := range []bool{false, true} {
			id, file := loop(t, 24<<20, "--sector-size", block)
			d, err := Open(id, nil, wire.ClassBlank)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if !d.zeroRange {
				t.Fatal("loop devices zero ranges by themselves; does the kernel say so elsewhere now?")
			}
			d.zeroRange = !byWriting
			b := Buffer(10 << 20)
			for i := range b {
				b[i] = byte(i>>9) | 1
			}
			if n, err := d.WriteAt(b, 4<<20); err != nil || n != len(b) {
				t.Fatal(n, err)
			}
			if err := d.Zero(5<<20, 6<<20); err != nil {
				t.Fatal(err)
			}
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
			clear(b[1<<20 : 7<<20])
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got[4<<20:14<<20], b) || !images.Zero(got[:4<<20]) || !images.Zero(got[14<<20:]) {
				t.Fatal("the file behind the disk holds something else")
			}
			// Reads need no alignment.
			odd := make([]byte, 1001)
			if n, err := d.ReadAt(odd, 4<<20+777); err != nil || n != len(odd) || !bytes.Equal(odd, b[777:777+1001]) {
				t.Fatal(n, err)
			}
			for name, err := range map[string]error{
				"write behind the end": second(d.WriteAt(b, 20<<20)),
				"write before":         second(d.WriteAt(b[:4096], -4096)),
				"write unaligned":      second(d.WriteAt(b[:4096], 100)),
				"write odd memory":     second(d.WriteAt(b[1:4097], 0)),
				"read behind the end":  second(d.ReadAt(odd, 24<<20-1000)),
				"zero behind the end":  d.Zero(23<<20, 2<<20),
				"zero unaligned":       d.Zero(100, 4096),
				"zero less than none":  d.Zero(4096, -4096),
			} {
				if err == nil || !strings.Contains(err.Error(), id.Path) && !strings.Contains(err.Error(), "blocks") {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

func second(_ int, err error) error { return err }

func TestInspect(t *testing.T) {
	id, _ := loop(t, 8<<20)
	if class, found := Inspect(t.Context(), id, nil); class != wire.ClassBlank || len(found) > 0 {
		t.Errorf("%s %v", class, found)
	}
	if class, _ := Inspect(t.Context(), wire.DiskID{Path: "/dev/gone"}, nil); class != wire.ClassUnreadable {
		t.Error(class)
	}
	if class, _ := Inspect(t.Context(), wire.DiskID{Path: "/dev/zero"}, nil); class != wire.ClassUnreadable {
		t.Error(class)
	}
}
