package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"refurb/images"
)

func mbr(entries ...[16]byte) []byte {
	b := make([]byte, 4096)
	for i, e := range entries {
		copy(b[446+16*i:], e[:])
	}
	b[510], b[511] = 0x55, 0xAA
	return b
}

func part(active, kind byte, first, n uint32) (e [16]byte) {
	e[0], e[4] = active, kind
	binary.LittleEndian.PutUint32(e[8:], first)
	binary.LittleEndian.PutUint32(e[12:], n)
	return e
}

func coded(b []byte) []byte { b[0] = 0xEB; return b }

func TestDetectMBR(t *testing.T) {
	for _, c := range []struct {
		name  string
		head  []byte
		ok    bool
		boots []string
		need  int64
	}{
		{"Linux with GRUB", coded(mbr(part(0x80, 0x83, 2048, 100))), true, []string{"bios"}, 2148 * 512},
		{"data only", mbr(part(0, 7, 2048, 100)), true, []string{}, 2148 * 512},
		{"ESP in an MBR", mbr(part(0, 0xEF, 2048, 100), part(0, 0x83, 4096, 1)), true, []string{"uefi"}, 4097 * 512},
		{"boot code alone", coded(mbr()), true, []string{"bios"}, 0},
		{"nothing but the mark", mbr(), false, []string{}, 0},
		{"a status that makes no sense", mbr(part(0x33, 0x83, 2048, 100)), false, []string{}, 0},
		{"a GPT that is gone", mbr(part(0, 0xEE, 1, 0xFFFFFFFF)), false, []string{}, 0},
		{"code without the mark", make([]byte, 512), false, []string{}, 0},
		{"short", []byte{1, 2, 3}, false, []string{}, 0},
		{"nothing", nil, false, []string{}, 0},
	} {
		l, err := detect(c.head, false)
		var r *Refusal
		if (err == nil) != c.ok || err != nil && !errors.As(err, &r) {
			t.Errorf("%s: %v", c.name, err)
		}
		if !slices.Equal(l.Boots, c.boots) || l.Need != c.need || l.Block != 512 || l.Grow != 0 {
			t.Errorf("%s: %+v", c.name, l)
		}
	}
}

// TestDetectGPT uses tables that sgdisk wrote.
func TestDetectGPT(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		args  []string
		boots []string
		grow  int
	}{
		{"ESP, Linux", []string{"-n1:2048:4095", "-t1:ef00", "-n2:4096:0", "-t2:8300"}, []string{"uefi"}, 2},
		{"root for x86-64", []string{"-n1:2048:4095", "-t1:ef02", "-n5:4096:0", "-t5:8304"}, []string{}, 5},
		{"swap last", []string{"-n1:2048:4095", "-t1:8300", "-n2:4096:0", "-t2:8200"}, []string{}, 0},
		{"Windows", []string{"-n1:2048:4095", "-t1:ef00", "-n2:4096:0", "-t2:0700"}, []string{"uefi"}, 0},
		{"numbers not in the disk's order", []string{"-n1:8192:0", "-t1:8300", "-n2:2048:4095", "-t2:ef00"}, []string{"uefi"}, 1},
		{"home for x86 last", []string{"-n1:2048:4095", "-t1:8304", "-n2:4096:0", "-t2:8302"}, []string{}, 0},
		{"no partitions", []string{"-o"}, []string{}, 0},
	} {
		path := filepath.Join(t.TempDir(), "d")
		f, _ := os.Create(path)
		f.Truncate(16 << 20)
		f.Close()
		run(t, "sgdisk", append(c.args, path)...)
		head := read(t, path)[:headSize]
		l, err := detect(head, false)
		if err != nil || !slices.Equal(l.Boots, c.boots) || l.Grow != c.grow || l.Need != 16<<20 || l.Block != 512 {
			t.Errorf("%s: %+v, %v", c.name, l, err)
		}
		// Every bit of the table counts.
		for _, at := range []int{512 + 9, 512 + 33, 512 + 73, 512 + 81, 512 + 89, 1024 + 5*128 + 3} {
			b := bytes.Clone(head)
			b[at] ^= 1
			if _, err := detect(b, false); err == nil {
				t.Errorf("%s: byte %d changed: accepted", c.name, at)
			}
			if _, err := detect(b, true); err != nil {
				t.Errorf("%s: byte %d changed, forced: %v", c.name, at, err)
			}
		}
	}
}

func TestGrowOption(t *testing.T) {
	l := layout{Grow: 2, Last: 3}
	for option, want := range map[int]int{0: 2, -1: 0, 3: 3, 2: -1, 4: -1, 1000: -1} {
		if got, err := l.grow(option); (err == nil) != (want >= 0) || err == nil && got != want {
			t.Errorf("%d gives %d, %v", option, got, err)
		}
	}
}

func TestFindSlots(t *testing.T) {
	raw := make([]byte, images.FrameSize)
	put := func(at int, s string) { copy(raw[at:], s) }
	put(512*5, images.SlotMark+"checkin\n")
	put(512*7, images.SlotMark+"inside\n") // padding of the one before
	put(512*13, images.SlotMark+"next-1\n")
	put(512*40+1, images.SlotMark+"unaligned\n")
	put(512*50, images.SlotMark+"Bad Name\n")
	put(512*60, images.SlotMark+"endless")
	put(512*70, images.SlotMark+"\n")
	put(len(raw)-512, images.SlotMark+"over-the-edge\n")
	got, err := findSlots(raw, 8<<20)
	want := []images.Slot{{Name: "checkin", Offset: 8<<20 + 512*5, Length: 4096}, {Name: "next-1", Offset: 8<<20 + 512*13, Length: 4096},
		{Name: "over-the-edge", Offset: 12<<20 - 512, Length: 4096}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := findSlots(raw, 0); err == nil {
		t.Error("a slot in the first MiB")
	}
}

func FuzzDetect(f *testing.F) {
	path := makeDisk(f, f.TempDir(), 512, 20)
	f.Add(read(f, path)[:40000])
	f.Add(read(f, makeDisk(f, f.TempDir(), 4096, 20))[:40000])
	f.Add(mbr(part(0x80, 0x83, 2048, 100)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, force := range []bool{false, true} {
			l, err := detect(b, force)
			if err != nil {
				continue
			}
			if l.Block != 512 && l.Block != 4096 || l.Grow < 0 || l.Grow > 128 || l.Need < 0 || l.Need > images.MaxBytes || l.Boots == nil {
				t.Fatalf("%+v", l)
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	path := makeDisk(f, dir, 512, 21)
	run(f, "sh", "-c", "head -c 200k "+path+" > "+dir+"/small; cd "+dir+"; qemu-img convert -f raw -O qcow2 -c small q; xz -k small; gzip -k small; zstd -q small")
	for _, n := range []string{"q", "small.xz", "small.gz", "small.zst"} {
		f.Add(read(f, filepath.Join(dir, n)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Open(write(t, filepath.Join(t.TempDir(), "f"), b))
		if err != nil {
			return
		}
		defer s.Close()
		if s.disk == nil {
			return
		}
		buf := make([]byte, 100000)
		for off := int64(0); off < min(s.Bytes, 1<<22); off += 1 << 18 {
			if n, err := s.disk.next(off); err == nil && n < off {
				t.Fatalf("next data after %d is at %d", off, n)
			}
			s.disk.ReadAt(buf[:min(int64(len(buf)), s.Bytes-off)], off)
		}
	})
}

func BenchmarkImport(b *testing.B) {
	// About as an installed system compresses: words from a small vocabulary.
	dir := b.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	raw := make([]byte, 128<<20)
	var words [512][8]byte
	for i := range words {
		binary.LittleEndian.PutUint64(words[i][:], r.Uint64())
	}
	for i := 0; i < len(raw); i += 8 {
		copy(raw[i:], words[r.IntN(len(words))][:])
	}
	path := write(b, dir+"/disk", raw)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		images, err := os.MkdirTemp(dir, "")
		if err != nil {
			b.Fatal(err)
		}
		importFile(b, openDepot(b, images), path, Options{Force: true})
		os.RemoveAll(images)
	}
}

func BenchmarkImportHoles(b *testing.B) {
	dir := b.TempDir()
	path := write(b, dir+"/disk", coded(mbr()))
	if err := os.Truncate(path, 1<<40); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(1 << 40)
	for b.Loop() {
		images, err := os.MkdirTemp(dir, "")
		if err != nil {
			b.Fatal(err)
		}
		importFile(b, openDepot(b, images), path, Options{})
		os.RemoveAll(images)
	}
}
