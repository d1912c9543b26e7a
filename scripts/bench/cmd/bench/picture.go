package main

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"refurb/images"
	"refurb/images/depot"
	"refurb/images/pack"
)

// picture is the image that all engines bring to the disks, in the form that
// each of them wants.
type picture struct {
	m        *images.Manifest
	root     string
	frames   string // path of the compressed frames
	manifest string // path of the signed manifest

	importTime time.Duration
	content    int64 // raw bytes of frames that aren't zero
}

// benchKey signs the image. It guards nothing.
func benchKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) }

// What the appliance's folder holds beside the depot.
const (
	streamFile  = "image.raw.zst" // the raw disk as one stream
	blockMap    = "image.bmap"
	chunkIndex  = "image.caibx"
	desyncIndex = "image.desync.caibx"
)

// paint writes a raw disk: full frames with content and as many of zeroes as
// asked, mixed in runs as a file system leaves them. Content is records of 128
// bytes, each an earlier one with some bytes changed, which packs about as
// tightly as is wanted here and takes the decoder's real ways, not just one
// long copy.
func paint(path string, seed uint64, full, zero int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, images.FrameSize)
	left := full
	for i := range full + zero {
		run := i/8%2 == 1 && full+zero-i > left || left == 0
		if run {
			continue // a hole
		}
		left--
		fill(b, r)
		if i == 0 {
			partition(b, full+zero)
		}
		if _, err := f.WriteAt(b, int64(i)*images.FrameSize); err != nil {
			return err
		}
	}
	if err := f.Truncate(int64(full+zero) * images.FrameSize); err != nil {
		return err
	}
	return f.Close()
}

const record = 128

func fill(b []byte, r *rand.Rand) {
	const fresh = 32 // records of random bytes to begin with
	for i := 0; i < fresh*record; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	for at := fresh * record; at < len(b); at += record {
		from := r.IntN(at/record) * record
		rec := b[at : at+record]
		copy(rec, b[from:from+record])
		binary.LittleEndian.PutUint32(rec[r.IntN(record-4):], r.Uint32())
	}
}

// partition puts an MBR over b with one Linux partition, so that the disk looks
// like one.
func partition(b []byte, frames int) {
	clear(b[:1<<20])
	copy(b, "\xeb\x3c\x90") // code
	e := b[446:]
	e[0], e[4] = 0x80, 0x83
	binary.LittleEndian.PutUint32(e[8:], 2048)
	binary.LittleEndian.PutUint32(e[12:], uint32(frames)*images.FrameSize/512-2048)
	b[510], b[511] = 0x55, 0xaa
}

// compose makes the picture and, for peers, its other forms in dir.
func compose(ctx context.Context, dir string, seed uint64, full, zero int, peers peers) (*picture, error) {
	raw := filepath.Join(dir, "image.raw")
	if err := paint(raw, seed, full, zero); err != nil {
		return nil, err
	}
	defer os.Remove(raw)
	d, err := depot.Open(filepath.Join(dir, "depot"), benchKey())
	if err != nil {
		return nil, err
	}
	src, err := pack.Open(raw)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	start := time.Now()
	root, err := pack.Import(ctx, src, pack.Options{Name: "bench"}, d)
	if err != nil {
		return nil, err
	}
	p := &picture{root: root.String(), importTime: time.Since(start), content: int64(full) * images.FrameSize}
	if _, p.m, err = d.Manifest(p.root); err != nil {
		return nil, err
	}
	p.frames = filepath.Join(dir, "depot", p.root, "frames")
	p.manifest = filepath.Join(dir, "depot", p.root, "manifest")
	if peers == nil {
		return p, nil
	}
	files := filepath.Join(dir, "files")
	if err := os.MkdirAll(files, 0o755); err != nil {
		return nil, err
	}
	if err := os.Link(p.frames, filepath.Join(files, "frames")); err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(files, name) }
	for _, c := range []struct {
		tool string
		args []string
	}{
		{"zstd", []string{"-q", "-3", "-T0", raw, "-o", file(streamFile)}},
		{"bmaptool", []string{"-q", "create", "-o", file(blockMap), raw}},
		{"casync", []string{"make", "--store=" + file("chunks"), "--chunk-size=65536", file(chunkIndex), raw}},
		{"desync", []string{"make", "-s", file("desync"), file(desyncIndex), raw}},
	} {
		if !peers.has(c.tool) {
			continue
		}
		if err := run(ctx, c.tool, c.args...); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %.500s", name, err, out)
	}
	return nil
}
