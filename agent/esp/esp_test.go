package esp

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const path = "EFI/refurb/birth.json"

// volume is a disk with a FAT that real tools made, at an offset, and files on it.
type volume struct {
	b    []byte // the disk, as far as it isn't all zeroes
	at   int64
	size int64
}

func (d *volume) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.at+d.size {
		return 0, io.EOF
	}
	clear(p)
	copy(p, d.b[min(off, int64(len(d.b))):])
	return len(p), nil
}

const before = 1 << 20

// format makes a file system as mkfs.fat does, with a boot loader in it.
func format(t testing.TB, size int64, files int, options ...string) *volume {
	t.Helper()
	file := filepath.Join(t.TempDir(), "esp")
	run(t, "", "truncate", "-s", fmt.Sprint(size), file)
	run(t, "", "mkfs.fat", append(options, file)...)
	run(t, "", "mmd", "-i", file, "::EFI", "::EFI/BOOT")
	run(t, strings.Repeat("a loader ", 5000), "mcopy", "-i", file, "-", "::EFI/BOOT/BOOTX64.EFI")
	for i := range files {
		run(t, "x", "mcopy", "-i", file, "-", fmt.Sprintf("::EFI/some longer name %d", i))
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, before+min(size, 8<<20))
	if _, err := io.ReadFull(f, b[before:]); err != nil {
		t.Fatal(err)
	}
	return &volume{b: b, at: before, size: size}
}

func run(t testing.TB, in, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (d *volume) clone() *volume { c := *d; c.b = bytes.Clone(d.b); return &c }

func (d *volume) open(t testing.TB) *Volume {
	t.Helper()
	v, err := Open(d, d.at, d.size)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (d *volume) apply(w Write) { copy(d.b[w.At:], w.B) }

// put applies all of Put.
func (d *volume) put(t testing.TB, path string, content []byte, block int) [][]Write {
	t.Helper()
	stages, err := d.open(t).Put(path, content, block)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stages {
		for _, w := range s {
			if w.At%int64(block) != 0 || len(w.B)%block != 0 || len(w.B) == 0 || w.At < d.at || w.At+int64(len(w.B)) > d.at+d.size {
				t.Fatalf("a write of %d bytes at %d", len(w.B), w.At)
			}
			d.apply(w)
		}
	}
	return stages
}

// check lets fsck.fat and mtools look at the volume.
func (d *volume) check(t testing.TB, content []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "esp")
	if err := os.WriteFile(file, d.b[d.at:], 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", "truncate", "-s", fmt.Sprint(d.size), file)
	run(t, "", "fsck.fat", "-n", file)
	if got := run(t, "", "mtype", "-i", file, "::"+path); got != string(content) {
		t.Fatalf("mtools reads %q", got)
	}
	if got := run(t, "", "mtype", "-i", file, "::EFI/BOOT/BOOTX64.EFI"); got != strings.Repeat("a loader ", 5000) {
		t.Fatal("the loader is damaged")
	}
}

var kinds = []struct {
	name    string
	size    int64
	files   int
	block   int
	options []string
}{
	{"fat12", 3 << 20, 0, 512, []string{"-F", "12"}},
	{"fat16", 33 << 20, 0, 512, []string{"-F", "16"}},
	{"fat16, large clusters", 64 << 20, 3, 512, []string{"-F", "16", "-s", "16"}},
	{"fat32", 64 << 20, 0, 512, []string{"-F", "32", "-s", "1"}},
	{"fat32, one table", 64 << 20, 0, 512, []string{"-F", "32", "-s", "1", "-f", "1"}},
	{"fat32, as Windows makes it", 100 << 20, 0, 512, []string{"-F", "32", "-s", "2", "-R", "6206", "-h", "2048"}},
	{"fat32, 4 KiB clusters", 300 << 20, 0, 4096, []string{"-F", "32", "-s", "8"}},
	{"fat32, 4 KiB blocks", 300 << 20, 0, 4096, []string{"-F", "32", "-S", "4096", "-s", "1"}},
	// Entries of EFI: ., .., BOOT, then three each. 16 fit into a cluster of one
	// sector, so that the last place of it is too small, or none is left.
	{"a folder that is nearly full", 64 << 20, 4, 512, []string{"-F", "32", "-s", "1"}},
	{"a folder that is full", 64 << 20, 13, 512, []string{"-F", "32", "-s", "1"}},
}

func TestPut(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			d := format(t, k.size, k.files, k.options...)
			if _, err := d.open(t).Read(path, 4096); !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
			for i, n := range []int{1, 700, 4096, 4096, 513} {
				content := bytes.Repeat([]byte{byte('a' + i)}, n)
				d.put(t, path, content, k.block)
				got, err := d.open(t).Read(path, 4096)
				if err != nil || !bytes.Equal(got, content) {
					t.Fatal(got, err)
				}
				if k.size < 64<<20 || i == 4 { // of the larger ones only the end, which has all of it
					d.check(t, content)
				}
				if stages, err := d.open(t).Put(path, content, k.block); len(stages) > 0 || err != nil {
					t.Fatal("the same content is written again", err)
				}
			}
			// Other spellings by other people.
			if got, err := d.open(t).Read("efi/REFURB/BIRTH.json", 4096); err != nil || len(got) != 513 {
				t.Fatal(len(got), err)
			}
			if _, err := d.open(t).Read(path, 512); err == nil {
				t.Fatal("a file larger than the limit was read")
			}
			if got, err := d.open(t).Read("EFI/BOOT/BOOTX64.EFI", 1<<20); err != nil || string(got) != strings.Repeat("a loader ", 5000) {
				t.Fatal(err)
			}
			for _, p := range []string{"EFI/BOOT", "EFI/BOOT/BOOTX64.EFI/x", "EFI/other/x", "x", ""} {
				if b, err := d.open(t).Read(p, 1<<20); err == nil {
					t.Errorf("%q: %d bytes", p, len(b))
				}
			}
		})
	}
}

// What others put there is found, under whatever entries they make.
func TestReadOthers(t *testing.T) {
	d := format(t, 33<<20, 2, "-F", "16")
	file := filepath.Join(t.TempDir(), "esp")
	if err := os.WriteFile(file, d.b[d.at:], 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", "mmd", "-i", file, "::EFI/refurb")
	run(t, "y", "mcopy", "-i", file, "-", "::EFI/refurb/birthday.json")
	run(t, "the record", "mcopy", "-i", file, "-", "::EFI/refurb/birth.json")
	b, _ := os.ReadFile(file)
	d.b = append(d.b[:d.at], b...)
	if got, err := d.open(t).Read(path, 4096); err != nil || string(got) != "the record" {
		t.Fatalf("%q %v", got, err)
	}
	d.put(t, path, []byte("another"), 512)
	d.check(t, []byte("another"))
	d.put(t, "EFI/refurb/births.json", []byte("next"), 512) // its short name is taken twice
	d.check(t, []byte("another"))
}

// The power is cut between any two groups of writes, or in the middle of one,
// when any of its blocks may be there and any not: the loader is whole, and the
// path holds what it held before, or the new content, or nothing.
func TestPowerCut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, k := range kinds {
		for _, old := range []string{"", "what was there before"} {
			d := format(t, k.size, k.files, k.options...)
			if old != "" {
				d.put(t, path, []byte(old), k.block)
			}
			content := bytes.Repeat([]byte("0123456789"), 300)
			loader, err := d.open(t).Read("EFI/BOOT/BOOTX64.EFI", 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			stages, err := d.open(t).Put(path, content, k.block)
			if err != nil {
				t.Fatal(err)
			}
			fat := int64(0) // so that each cut doesn't cost a copy of the whole
			for _, s := range stages {
				for _, w := range s {
					fat = max(fat, w.At+int64(len(w.B)))
				}
			}
			whole := bytes.Clone(d.b[:fat])
			for cut := range stages {
				for range 12 {
					copy(d.b, whole)
					for _, s := range stages[:cut] {
						for _, w := range s {
							d.apply(w)
						}
					}
					for _, w := range stages[cut] {
						for i := 0; i < len(w.B); i += k.block {
							if r.IntN(2) == 0 {
								d.apply(Write{w.At + int64(i), w.B[i : i+k.block]})
							}
						}
					}
					v := d.open(t)
					if got, err := v.Read("EFI/BOOT/BOOTX64.EFI", 1<<20); err != nil || !bytes.Equal(got, loader) {
						t.Fatalf("%s, cut in group %d: the loader: %v", k.name, cut+1, err)
					}
					got, err := v.Read(path, 4096)
					switch {
					case err == nil && (string(got) == old && old != "" || bytes.Equal(got, content)):
					case errors.Is(err, ErrNotFound) && old == "":
					default:
						t.Fatalf("%s, cut in group %d: %.40q %v", k.name, cut+1, got, err)
					}
					// What is left can be put right by doing it again.
					stages, err := v.Put(path, content, k.block)
					if err != nil {
						t.Fatalf("%s, cut in group %d: %v", k.name, cut+1, err)
					}
					for _, s := range stages {
						for _, w := range s {
							d.apply(w)
						}
					}
					if got, err := d.open(t).Read(path, 4096); err != nil || !bytes.Equal(got, content) {
						t.Fatalf("%s, again after a cut in group %d: %v", k.name, cut+1, err)
					}
				}
			}
		}
	}
}

func TestNoRoom(t *testing.T) {
	d := format(t, 1<<20, 0, "-F", "12", "-s", "1")
	v := d.open(t)
	for c := uint32(2); c <= v.last; c++ { // every cluster is taken
		if n, _ := v.next(c); n == 0 {
			b := d.b[d.at+v.fatAt+v.fatPos(c):]
			fatSet(b, 12, c, 0xff7)
		}
	}
	if _, err := d.open(t).Put(path, []byte("x"), 512); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Fatal(err)
	}
	full := format(t, 1<<20, 0, "-F", "12", "-r", "16")
	v = full.open(t)
	for i := int64(0); i < v.rootSize; i += 32 {
		if e := full.b[full.at+v.rootAt+i:]; e[0] == 0 {
			copy(e, "TAKEN      \x20")
		}
	}
	if _, err := full.open(t).Put("other/x", []byte("x"), 512); err == nil || !strings.Contains(err.Error(), "root folder is full") {
		t.Fatal(err)
	}
	for _, p := range []string{"EFI/refurb/a name of more than 13", "EFI//x", "EFI/ä"} {
		if _, err := format(t, 1<<20, 0, "-F", "12").open(t).Put(p, []byte("x"), 512); err == nil {
			t.Errorf("%q was put", p)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good := format(t, 33<<20, 0, "-F", "16")
	for name, change := range map[string]func(b []byte){
		"nothing":            func(b []byte) { clear(b[:512]) },
		"no signature":       func(b []byte) { b[510] = 0 },
		"odd sectors":        func(b []byte) { b[11], b[12] = 1, 2 },
		"no clusters":        func(b []byte) { b[13] = 0 },
		"too many tables":    func(b []byte) { b[16] = 200 },
		"larger than itself": func(b []byte) { le.PutUint16(b[19:], 0); le.PutUint32(b[32:], 1<<31) },
		"a tiny table":       func(b []byte) { le.PutUint16(b[22:], 1) },
		"a huge table":       func(b []byte) { le.PutUint16(b[22:], 0xffff) },
		"no root":            func(b []byte) { le.PutUint16(b[17:], 0) },
		"no reserved sector": func(b []byte) { le.PutUint16(b[14:], 0) },
	} {
		d := good.clone()
		change(d.b[d.at:])
		if _, err := Open(d, d.at, d.size); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	for _, at := range []int64{-512, good.at + good.size, good.at + good.size - 100} {
		if _, err := Open(good, at, 1<<20); err == nil {
			t.Errorf("opened at %d", at)
		}
	}
}

// counter bounds what a hostile volume may cost.
type counter struct {
	io.ReaderAt
	reads int
	bytes int64
}

func (c *counter) ReadAt(p []byte, off int64) (int, error) {
	c.reads++
	c.bytes += int64(len(p))
	return c.ReaderAt.ReadAt(p, off)
}

// Loops and huge sizes end soon.
func TestHostile(t *testing.T) {
	for name, change := range map[string]func(d *volume, v *Volume){
		"the root is a loop": func(d *volume, v *Volume) {
			fatSet(d.b[d.at+v.fatAt+v.fatPos(v.root):], 32, v.root, v.root)
		},
		"the root is everything": func(d *volume, v *Volume) {
			for c := uint32(2); c < v.last; c++ {
				fatSet(d.b[d.at+v.fatAt+v.fatPos(c):], 32, c, c+1)
			}
		},
		"the root jumps to and fro": func(d *volume, v *Volume) {
			for c := uint32(2); c < v.last/2; c++ {
				fatSet(d.b[d.at+v.fatAt+v.fatPos(c):], 32, c, v.last-c)
				fatSet(d.b[d.at+v.fatAt+v.fatPos(v.last-c):], 32, v.last-c, c+1)
			}
		},
	} {
		d := format(t, 100<<20, 0, "-F", "32", "-s", "1")
		change(d, d.open(t))
		c := &counter{ReaderAt: d}
		v, err := Open(c, d.at, d.size)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Read(path, 4096); err == nil {
			t.Errorf("%s: read", name)
		}
		if _, err := v.Put(path, []byte("x"), 512); err == nil {
			t.Errorf("%s: put", name)
		}
		if c.reads > 4000 || c.bytes > 32<<20 {
			t.Errorf("%s: %d reads of %d bytes", name, c.reads, c.bytes)
		}
	}
}

// FuzzVolume: whatever a volume holds, reading and putting come to an end within
// bounds, and what was put is read again.
func FuzzVolume(f *testing.F) {
	{
		d := format(f, 1<<20, 0, "-F", "12")
		f.Add(d.b[d.at:][:8<<10], uint32(0), []byte{})
	}
	seed := format(f, 1<<20, 0, "-F", "12")
	sum := sha256.Sum256(seed.b)
	f.Add(seed.b[seed.at:][:512], uint32(40), sum[:])
	f.Fuzz(func(t *testing.T, head []byte, at uint32, patch []byte) {
		d := seed.clone()
		copy(d.b[d.at:], head[:min(len(head), 64<<10)])
		copy(d.b[d.at+int64(at)%d.size:], patch[:min(len(patch), 4096)])
		c := &counter{ReaderAt: d}
		v, err := Open(c, d.at, d.size)
		if err != nil {
			return
		}
		v.Read(path, 4096)
		content := []byte("a record")
		stages, err := v.Put(path, content, 512)
		if c.bytes > 64<<20 {
			t.Fatalf("%d bytes were read", c.bytes)
		}
		if err != nil {
			return
		}
		for _, s := range stages {
			for _, w := range s {
				if w.At < d.at || w.At+int64(len(w.B)) > d.at+d.size {
					t.Fatalf("a write of %d bytes at %d", len(w.B), w.At)
				}
				d.apply(w)
			}
		}
	})
}
