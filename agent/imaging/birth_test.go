package imaging

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"refurb/agent/esp"
	"refurb/agent/wire"
	"refurb/images"
)

var born = bytes.Repeat([]byte("what was put on this disk. "), 40)

// espAt is in the second frame: unlike the first it may be claimed.
const espAt = 5 << 20

// tabled puts partition 1, the EFI system partition, at first to last and
// partition 2 behind it from next on; zero leaves the end of one as it is.
func (p *picture) tabled(block int, kind byte, first, last, next, end int64) {
	b := int64(block)
	array := p.raw[2*block:][:128*128]
	array[0] = kind
	le.PutUint64(array[32:], uint64(first/b))
	le.PutUint64(array[40:], uint64(last/b-1))
	le.PutUint64(array[128+32:], uint64(next/b))
	if end != 0 {
		le.PutUint64(array[128+40:], uint64(end/b-1))
	}
	h := p.raw[block:]
	le.PutUint32(h[88:], crc(array))
	clear(h[16:20])
	le.PutUint32(h[16:], crc(h[:92]))
}

const espKind = 0x28 // the first byte of its type

// paintESP makes an image whose EFI system partition was made by mkfs.fat, and
// the same with the record on it, as it must be on a disk.
func paintESP(t *testing.T, block int) (p, want *picture) {
	t.Helper()
	p = paint(t, 3, 9<<20, block)
	p.tabled(block, espKind, espAt, espAt+1<<20, espAt+1<<20, 0)
	file := filepath.Join(t.TempDir(), "esp")
	script := fmt.Sprintf("truncate -s 1M %[1]s; mkfs.fat -F 12 -S %[2]d -s 1 -r 128 %[1]s; mmd -i %[1]s ::EFI ::EFI/BOOT; echo loader | mcopy -i %[1]s - ::EFI/BOOT/BOOTX64.EFI", file, block)
	cmd := exec.Command("sh", "-e", "-c", script)
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	copy(p.raw[espAt:], b)
	p.pack(t, block)
	p.m.Grow = 2
	p.m.Slots = []images.Slot{{Name: "checkin", Offset: 9 << 19, Length: images.SlotSize}}
	w := *p
	w.raw = bytes.Clone(p.raw)
	putRecord(t, w.raw, block)
	return p, &w
}

// putRecord puts the record into a raw image.
func putRecord(t *testing.T, raw []byte, block int) {
	t.Helper()
	v, err := esp.Open(bytes.NewReader(raw), espAt, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := v.Put(wire.BirthPath, born, block)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		for _, w := range g {
			copy(raw[w.At:], w.B)
		}
	}
}

func (p *picture) birthJob(t *testing.T) Job {
	job := p.job(t)
	job.Slots = map[string][]byte{"checkin": []byte("{}")}
	job.flushBytes = 1
	job.Birth = born
	return job
}

func TestBirth(t *testing.T) {
	for _, block := range []int{512, 4096} {
		p, want := paintESP(t, block)
		d := newMemory(18<<20, block)
		job := p.birthJob(t)
		out, _ := Write(t.Context(), d, job, new(Meter))
		judge(t, want, d, job, out, false)
		mustDone(t, out, p.m.Bytes)
		sum := sha256.Sum256(born)
		if out.Birth != hex.EncodeToString(sum[:]) || len(out.Warnings) > 0 {
			t.Errorf("%+v", out)
		}
	}
}

// A slot of the image may share a block of the disk with the record.
func TestBirthBesideSlot(t *testing.T) {
	p := paint(t, 3, 9<<20, 4096)
	p.tabled(4096, espKind, espAt, espAt+1<<20, espAt+1<<20, 0)
	file := filepath.Join(t.TempDir(), "esp")
	cmd := exec.Command("sh", "-e", "-c", fmt.Sprintf("truncate -s 1M %[1]s; mkfs.fat -F 12 -s 1 -r 128 %[1]s; mmd -i %[1]s ::EFI; head -c %[2]d /dev/zero | tr '\\0' S | mcopy -i %[1]s - ::SLOT", file, images.SlotSize))
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	copy(p.raw[espAt:], b)
	at := int64(bytes.Index(p.raw, bytes.Repeat([]byte("S"), images.SlotSize)))
	if at < espAt || (at+images.SlotSize)%4096 == 0 {
		t.Fatal("the slot ends with a block:", at)
	}
	p.pack(t, 4096)
	p.m.Grow = 2
	p.m.Slots = []images.Slot{{Name: "checkin", Offset: at, Length: images.SlotSize}}
	want := *p
	want.raw = bytes.Clone(p.raw)
	putRecord(t, want.raw, 4096)
	if end := at + images.SlotSize; bytes.Equal(want.raw[end:end+512], p.raw[end:end+512]) {
		t.Fatal("the record doesn't lie behind the slot")
	}
	d := newMemory(18<<20, 4096)
	job := p.birthJob(t)
	out, _ := Write(t.Context(), d, job, new(Meter))
	judge(t, &want, d, job, out, false)
	mustDone(t, out, p.m.Bytes)
	if got := string(bytes.TrimRight(d.data[at:at+images.SlotSize], " \n")); got != "{}" || out.Birth == "" {
		t.Errorf("the slot holds %q; %+v", got, out)
	}
}

// An image without a place for the record is written all the same.
func TestNoBirth(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(p *picture)
		want  string
	}{
		"no file system": {func(p *picture) { clear(p.raw[espAt:][:512]) }, "holds no FAT"},
		"damaged":        {func(p *picture) { clear(p.raw[espAt+512:][:8]) }, "damaged"},
		"full": {func(p *picture) {
			for i := espAt + 512; i < espAt+512*7; i++ {
				if p.raw[i] == 0 {
					p.raw[i] = 0xff
				}
			}
		}, "no room"},
		"no EFI system partition": {func(p *picture) { p.tabled(512, 1, espAt, espAt+1<<20, espAt+1<<20, 0) }, "no EFI system partition"},
		"in the last MiB": {func(p *picture) {
			n := int64(len(p.raw))
			p.tabled(512, espKind, n-600<<10, n-100<<10, 2<<20, n-700<<10)
			p.m.Grow = 0
		}, "first or last MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := paintESP(t, 512)
			c.spoil(p)
			p.pack(t, 512)
			size := int64(18 << 20)
			if name == "in the last MiB" {
				size = p.m.Bytes
			}
			d := newMemory(size, 512)
			job := p.birthJob(t)
			out, _ := Write(t.Context(), d, job, new(Meter))
			judge(t, p, d, job, out, false)
			if out.Result != wire.Done || out.Birth != "" || len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], c.want) {
				t.Errorf("%s %q %q", out.Result, out.Cause, out.Warnings)
			}
		})
	}
}

// A disk that fails or lies while the record is written fails the job, as it
// does everywhere else, and doesn't start.
func TestBirthFaults(t *testing.T) {
	p, want := paintESP(t, 512)
	run := func(fault func(n int, op string, off, length int64) trick) (*memory, wire.Outcome) {
		d := newMemory(12<<20, 512)
		d.fault = fault
		job := p.birthJob(t)
		out, _ := Write(t.Context(), d, job, new(Meter))
		if out.Birth == "" {
			judge(t, p, d, job, out, false)
		} else {
			judge(t, want, d, job, out, false)
		}
		return d, out
	}
	small := func(op string, off, length int64) bool { // only the record's are so
		return op != "sync" && off >= espAt && off+length <= espAt+1<<20 && length < 64<<10
	}
	seen := 0
	for _, kind := range []trick{drop, flip, broken, astray} {
		for at := 1 + int(kind)%every; ; at += every {
			n, hit := 0, ""
			_, out := run(func(_ int, op string, off, length int64) trick {
				if !small(op, off, length) {
					return honest
				}
				if n++; n != at {
					return honest
				}
				hit = op
				return kind
			})
			if hit == "" {
				break
			}
			seen++
			// A read that goes wrong may hit what doesn't matter; the disk is right, as
			// judge has seen.
			harmless := hit == "read" && kind != broken
			if out.Result == wire.Done && !harmless {
				t.Errorf("fault %v at the record's operation %d (%s) went unnoticed", kind, at, hit)
			}
			if t.Failed() {
				t.Fatalf("fault %v at the record's operation %d (%s): %+v", kind, at, hit, out)
			}
		}
	}
	if seen*every < 30 {
		t.Errorf("only %d operations", seen)
	}
}

// The power is cut while the record is written, and the job is taken up again:
// frames that hold a half of it, or all of it, are fetched again and are no
// fault of the disk's.
func TestBirthPowerCut(t *testing.T) {
	p, want := paintESP(t, 512)
	r := rand.New(rand.NewPCG(1, 1))
	for at := 1; ; at++ {
		d := newMemory(18<<20, 512)
		d.durable = bytes.Clone(d.data)
		n := 0
		d.fault = func(_ int, op string, off, length int64) trick {
			if op == "write" && off >= espAt && off < espAt+1<<20 && length < 64<<10 {
				if n++; n == at {
					return dies
				}
			}
			return honest
		}
		job := p.birthJob(t)
		out, _ := Write(t.Context(), d, job, new(Meter))
		if n < at {
			mustDone(t, out, p.m.Bytes)
			if at < 4 {
				t.Fatal("the record is hardly written")
			}
			return
		}
		if out.Result != wire.Failed || out.Birth != "" {
			t.Fatalf("%+v", out)
		}
		again := d.powerOn(func() bool { return r.IntN(2) == 0 })
		m := new(Meter)
		found, err := Found(t.Context(), again, p.m, job.Source.(*shelf).claims, false, m)
		if err != nil || found == nil || m.mismatches.Load() != 0 {
			t.Fatal(found, err)
		}
		job = p.birthJob(t)
		job.Found, job.Source = found, p.source(t, found)
		job.Started = func(context.Context) error { return nil }
		out, _ = Write(t.Context(), again, job, m)
		judge(t, want, again, job, out, false)
		mustDone(t, out, p.m.Bytes)
		if out.Birth == "" {
			t.Fatalf("%+v", out)
		}
	}
}
