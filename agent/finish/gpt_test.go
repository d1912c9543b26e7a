package finish

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// table is the first MiB of a disk with a GPT: an EFI system partition, data,
// and a third partition up to the end.
func table(block, size int64) []byte {
	head := make([]byte, 1<<20)
	blocks, mib := uint64(size/block), uint64(1<<20/block)
	array := head[2*block:][:128*128]
	usable := blocks - 2 - uint64(len(array))/uint64(block)
	for i, p := range []Partition{
		{First: mib, Last: 2*mib - 1, Type: espType},
		{First: 2 * mib, Last: 3*mib - 1, Type: [16]byte{2}},
		{First: 3 * mib, Last: usable, Type: [16]byte{3}},
	} {
		e := array[i*128:]
		copy(e, p.Type[:])
		e[16] = byte(i + 1)
		le.PutUint64(e[32:], p.First)
		le.PutUint64(e[40:], p.Last)
	}
	h := head[block:]
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[32:], blocks-1)
	le.PutUint64(h[40:], 2+uint64(len(array))/uint64(block))
	le.PutUint64(h[48:], usable)
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 128)
	le.PutUint32(h[84:], 128)
	sum(head, block)
	copy(head[446:], "\x80\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00")
	le.PutUint32(head[458:], uint32(min(blocks-1, 0xffffffff)))
	head[510], head[511] = 0x55, 0xaa
	return head
}

// sum makes the checksums of a table right again.
func sum(head []byte, block int64) {
	h := head[block:]
	le.PutUint32(h[88:], crc32.ChecksumIEEE(head[2*block:][:128*128]))
	le.PutUint32(h[16:], headerSum(h[:block]))
}

var guid = [16]byte{1, 2, 3}

// Whatever size a disk has, both tables are right for it, by their own checksums
// and by their places, and nothing but the tables is changed.
func TestFit(t *testing.T) {
	for _, block := range []int64{512, 4096} {
		const image = 8 << 20
		head := table(block, image)
		before := bytes.Clone(head)
		for _, size := range []int64{image, image + block, image + 1<<20, image + 1<<20 + 7*block, 128 << 30, 3 << 40} {
			got, err := Fit(head, int(block), image, size, 3, guid)
			if err != nil {
				t.Fatal(block, size, err)
			}
			if !bytes.Equal(head, before) {
				t.Fatal("Fit changed what it was given")
			}
			last := uint64(size/block) - 1
			// The primary one is good for a disk of this size …
			g, err := parse(got.Head, int(block), last+1)
			if err != nil {
				t.Fatal(block, size, err)
			}
			// … and says where the backup is, which says where the primary is.
			b := got.Backup[len(got.Backup)-int(block):]
			if le.Uint64(g.header[32:]) != last || le.Uint64(b[24:]) != last || le.Uint64(b[32:]) != 1 ||
				headerSum(b) != le.Uint32(b[16:]) || !bytes.HasPrefix(b, []byte("EFI PART")) {
				t.Errorf("%d %d: the headers don't point to each other", block, size)
			}
			arrayAt := le.Uint64(b[72:]) * uint64(block)
			if arrayAt != uint64(size)-uint64(len(got.Backup)) || !bytes.Equal(got.Backup[:len(g.array)], g.array) ||
				crc32.ChecksumIEEE(g.array) != le.Uint32(b[88:]) {
				t.Errorf("%d %d: the backup's entries are wrong", block, size)
			}
			if [16]byte(g.header[56:72]) != guid || [16]byte(b[56:72]) != guid {
				t.Error("the disk's GUID is another one")
			}
			grown := g.parts[2]
			if usable := le.Uint64(g.header[48:]); usable != last-uint64(len(g.array))/uint64(block)-1 || grown.Last > usable ||
				size >= image+2<<20 && ((grown.Last+1)*uint64(block)%(1<<20) != 0 || usable-grown.Last > 1<<20/uint64(block)) {
				t.Errorf("%d %d: partition 3 ends at %d of %d", block, size, grown.Last, usable)
			}
			if got.ESP == nil || got.ESP.Number != 1 || got.ESP.First != 1<<20/uint64(block) {
				t.Errorf("ESP %+v", got.ESP)
			}
			if m := got.Head[446:462]; m[0] != 0x80 || m[4] != 0xee || le.Uint32(m[8:]) != 1 || uint64(le.Uint32(m[12:])) != min(last, 0xffffffff) {
				t.Errorf("%d %d: protective MBR % x", block, size, m)
			}
			// Apart from table, entries and protective MBR the head is as it was.
			a, b2 := bytes.Clone(got.Head), bytes.Clone(head)
			for _, x := range [][]byte{a, b2} {
				clear(x[446:462])
				clear(x[block : 2*block+128*128])
			}
			if !bytes.Equal(a, b2) {
				t.Errorf("%d %d: more than the table was changed", block, size)
			}
			if (len(got.Notes) > 0) != (size >= image+1<<20) {
				t.Errorf("%d %d: notes %v", block, size, got.Notes)
			}
		}
	}
}

// sgdisk and sfdisk are other people's opinions.
func TestFitForOthers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	const image, size = 8 << 20, 300 << 20
	got, err := Fit(table(512, image), 512, image, size, 3, guid)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt(got.Head, 0)
	f.WriteAt(got.Backup, size-int64(len(got.Backup)))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"sgdisk", "--verify", file}, {"sfdisk", "--verify", file}} {
		out, err := exec.Command(c[0], c[1:]...).CombinedOutput()
		if err != nil || strings.Contains(strings.ToLower(string(out)), "caution") || strings.Contains(string(out), "corrupt") {
			t.Errorf("%v: %v\n%s", c, err, out)
		}
	}
	out, _ := exec.Command("sgdisk", "--info=3", file).CombinedOutput()
	if want := fmt.Sprintf("Last sector: %d", 299<<11-1); !strings.Contains(string(out), want) {
		t.Errorf("sgdisk doesn't see %q:\n%s", want, out)
	}
}

func TestFitRefuses(t *testing.T) {
	const image = 8 << 20
	for _, c := range []struct {
		name   string
		change func(h []byte)
		size   int64
		grow   int
		want   string
	}{
		{"smaller disk", nil, image - 512, 0, "doesn't fit"},
		{"odd disk", nil, image + 1, 0, "doesn't fit"},
		{"no such partition", nil, image, 4, "has none of that number"},
		{"in the middle", nil, image, 2, "partition 3 lies behind"},
		{"header damaged", func(h []byte) { h[512+40]++ }, image, 0, "header's checksum"},
		{"entries damaged", func(h []byte) { h[1024+33]++ }, image, 0, "entries' checksum"},
		{"no protective MBR", func(h []byte) { h[450] = 0x83 }, image, 0, "no protective MBR"},
		{"a GPT for other blocks", func(h []byte) {
			copy(h, table(4096, image))
		}, image, 0, "no GPT header"},
		{"overlap", func(h []byte) { le.PutUint64(h[1024+128+32:], 2048+7); sum(h, 512) }, image, 0, "overlap"},
		{"behind the end", func(h []byte) { le.PutUint64(h[1024+2*128+40:], 1<<40); sum(h, 512) }, image, 0, "outside"},
		{"backwards", func(h []byte) { le.PutUint64(h[1024+40:], 1); sum(h, 512) }, image, 0, "outside"},
		{"entries of no size", func(h []byte) { le.PutUint32(h[512+84:], 0); sum(h, 512) }, image, 0, "entries of 0 bytes"},
		{"too many entries", func(h []byte) { le.PutUint32(h[512+80:], 1<<31); sum(h, 512) }, image, 0, "entries of 128 bytes"},
		{"entries elsewhere", func(h []byte) { le.PutUint64(h[512+72:], 1<<63); sum(h, 512) }, image, 0, "outside the image's first MiB"},
		{"short header", func(h []byte) { le.PutUint32(h[512+12:], 91) }, image, 0, "header of 91"},
		{"long header", func(h []byte) { le.PutUint32(h[512+12:], 513) }, image, 0, "header of 513"},
		{"in another place", func(h []byte) { le.PutUint64(h[512+24:], 2); sum(h, 512) }, image, 0, "not 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := table(512, image)
			if c.change != nil {
				c.change(h)
			}
			if _, err := Fit(h, 512, image, c.size, c.grow, guid); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	// Without a GPT nothing is done, and nothing can grow.
	for _, h := range [][]byte{make([]byte, 512), make([]byte, 1<<20)} {
		got, err := Fit(h, 512, 1<<20, 1<<30, 0, guid)
		if err != nil || !bytes.Equal(got.Head, h) || got.Backup != nil || got.ESP != nil {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := Fit(h, 512, 1<<20, 1<<30, 1, guid); err == nil {
			t.Error("something grew without a GPT")
		}
	}
}

// FuzzFit: whatever the head holds, what comes out is a table that reads back.
func FuzzFit(f *testing.F) {
	f.Add(table(512, 8<<20)[:34*512], false, 3, int64(8<<20), int64(20<<20))
	f.Add(table(4096, 8<<20)[:6*4096], true, 3, int64(8<<20), int64(20<<20))
	f.Add([]byte{}, true, 0, int64(4096), int64(4096))
	f.Fuzz(func(t *testing.T, b []byte, large bool, grow int, image, size int64) {
		block := 512
		if large {
			block = 4096
		}
		head := make([]byte, 64<<10)
		copy(head, b)
		if len(b) > block+92 { // the checksums would keep everything out
			h := head[block:]
			if n := le.Uint32(h[12:]); n >= 92 && n <= uint32(block) {
				le.PutUint32(h[88:], crc32.ChecksumIEEE(head[2*block:][:128*128]))
				le.PutUint32(h[16:], headerSum(h[:block]))
			}
		}
		got, err := Fit(head, block, image, size, grow, guid)
		if err != nil || got.Backup == nil {
			return
		}
		if _, err := parse(got.Head, block, uint64(size/int64(block))); err != nil {
			t.Fatalf("the table for %d bytes doesn't read back: %v", size, err)
		}
		if int64(len(got.Backup)) > size || len(got.Head) != len(head) {
			t.Fatal("the table has outgrown its place")
		}
	})
}
