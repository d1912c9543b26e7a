package imaging

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/images"
)

// picture is an image made for a test: the raw disk and what the appliance
// serves of it.
type picture struct {
	raw    []byte
	m      *images.Manifest
	frames []byte
}

// paint makes an image with a GPT: an EFI system partition and a partition 2
// that grows. Frames hold random bytes, text or nothing, by the seed.
func paint(t testing.TB, seed uint64, size int64, block int) *picture {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	raw := make([]byte, size)
	for i := int64(0); i < size; i += images.FrameSize / 2 {
		part := raw[i:min(i+images.FrameSize/2, size)]
		switch r.IntN(4) {
		case 0, 1: // zeroes
		case 2:
			for j := range part {
				part[j] = byte(r.Uint32())
			}
		case 3:
			for j := range part {
				part[j] = "refurbished "[j%12] + byte(seed)
			}
		}
	}
	gpt(raw, block)
	p := &picture{raw: raw}
	p.pack(t, block)
	p.m.Grow = 2
	return p
}

// paintFull makes an image in which few frames are zero.
func paintFull(t testing.TB, seed uint64, size int64) *picture {
	p := paint(t, seed, size, 512)
	for i := range p.m.Frames {
		if at := i*images.FrameSize + 2<<20; i%4 != 3 && at+64 < len(p.raw) {
			copy(p.raw[at:], fmt.Sprintf("not zero: image %d, frame %d", seed, i))
		}
	}
	p.pack(t, 512)
	p.m.Grow = 2
	return p
}

// pack cuts raw into frames.
func (p *picture) pack(t testing.TB, block int) {
	t.Helper()
	enc, err := images.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	p.m = &images.Manifest{Name: "test", Created: time.Unix(1e9, 0), Bytes: int64(len(p.raw)), Block: block, Boots: []string{"uefi"}}
	p.frames = nil
	for i := range images.Count(p.m.Bytes) {
		raw := p.raw[i*images.FrameSize:][:p.m.RawLength(int(i))]
		at := int64(len(p.frames))
		var h images.Hash
		p.frames, h = enc.Encode(raw, p.frames)
		f := images.Frame{Hash: h, Length: int64(len(p.frames)) - at}
		if f.Length > 0 {
			f.Offset = at
		}
		p.m.Frames = append(p.m.Frames, f)
	}
	_, key, _ := ed25519.GenerateKey(nil)
	if _, err := images.Sign(p.m, key); err != nil {
		t.Fatal(err)
	}
}

var le = binary.LittleEndian

func crc(b []byte) uint32 { return crc32.ChecksumIEEE(b) }

// gpt puts a table with two partitions over raw (UEFI 2.10 §5.3).
func gpt(raw []byte, block int) {
	clear(raw[:34*block])
	blocks := uint64(len(raw) / block)
	array := make([]byte, 128*128)
	arrayBlocks := uint64(len(array) / block)
	entry := func(i int, kind string, first, last uint64) {
		e := array[i*128:]
		copy(e, kind)
		e[16] = byte(i + 1)
		le.PutUint64(e[32:], first)
		le.PutUint64(e[40:], last)
	}
	mib := uint64(1<<20) / uint64(block)
	usable := blocks - 2 - arrayBlocks
	entry(0, "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b", mib, 2*mib-1)
	entry(1, "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4", 2*mib, usable)
	header := func(self, other, at uint64) []byte {
		h := make([]byte, block)
		copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
		le.PutUint64(h[24:], self)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[40:], 2+arrayBlocks)
		le.PutUint64(h[48:], usable)
		le.PutUint64(h[72:], at)
		le.PutUint32(h[80:], 128)
		le.PutUint32(h[84:], 128)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(array))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	copy(raw[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00")
	le.PutUint32(raw[458:], uint32(blocks-1))
	raw[510], raw[511] = 0x55, 0xaa
	copy(raw[block:], header(1, blocks-1, 2))
	copy(raw[2*block:], array)
	tail := raw[uint64(len(raw))-(arrayBlocks+1)*uint64(block):]
	copy(tail, array)
	copy(tail[len(array):], header(blocks-1, 1, blocks-1-arrayBlocks))
}

// job is for one run.
func (p *picture) job(t testing.TB) Job {
	ok := func(context.Context) error { return nil }
	return Job{Manifest: p.m, Source: p.source(t, nil), Started: ok, Verifying: ok}
}

// wrong compares what a finished disk holds with the image, outside what is the
// PC's own: the two tables and the slots. It gives the first wrong offset, -1
// when there is none.
func (p *picture) wrong(disk []byte, slots map[string][]byte) int64 {
	want := bytes.Clone(p.raw)
	got := bytes.Clone(disk[:len(want)])
	table := 2*p.m.Block + 128*128
	clear(want[:table])
	clear(got[:table])
	end := len(disk) - p.m.Block - 128*128
	if end < len(want) {
		clear(want[end:])
		clear(got[end:])
	}
	for _, s := range p.m.Slots {
		if _, ok := slots[s.Name]; ok {
			clear(want[s.Offset:][:s.Length])
			clear(got[s.Offset:][:s.Length])
		}
	}
	if bytes.Equal(want, got) {
		return -1
	}
	for i := range want {
		if want[i] != got[i] {
			return int64(i)
		}
	}
	panic("unreachable")
}

func mustDone(t *testing.T, o wire.Outcome, raw int64) {
	t.Helper()
	if o.Result != wire.Done || o.ReadBack != raw || o.Written != raw || o.Mismatches != 0 || o.Cause != "" {
		t.Fatalf("outcome %+v, want done with %d bytes", o, raw)
	}
}
