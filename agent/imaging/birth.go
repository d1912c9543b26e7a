package imaging

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"

	"refurb/agent/disk"
	"refurb/agent/esp"
	"refurb/agent/wire"
	"refurb/images"
)

// putBirth puts the record on the EFI system partition and reads it again. It
// happens when every frame was read back and before the head goes in: whatever
// becomes of it, a disk that failed doesn't start. That the image has no room
// for it is a warning; that the disk fails or lies is what it is anywhere else.
//
// A frame that was changed so is not on the disk any more for whoever takes the
// job up later: that goes by the frame's hash.
func (w *writer) putBirth() error {
	if len(w.Birth) == 0 {
		return nil
	}
	r := &frames{writer: w, got: map[int][]byte{}}
	at, size, err := w.esp()
	var groups [][]esp.Write
	if err == nil {
		groups, err = record(r, at, size, w.Birth, w.m.Block)
	}
	if r.err != nil {
		return r.err
	}
	if err != nil {
		w.warnings = append(w.warnings, "no birth record is on the disk: "+err.Error())
		return nil
	}
	for _, group := range groups {
		if err := w.placeAll(group); err != nil {
			return err
		}
	}
	if err := w.readBirth(at, size); err != nil {
		return err
	}
	sum := sha256.Sum256(w.Birth)
	w.birth = hex.EncodeToString(sum[:])
	return nil
}

// esp is where the EFI system partition lies. It must lie where all is on the
// disk already.
func (w *writer) esp() (at, size int64, err error) {
	p := w.table.ESP
	if p == nil {
		return 0, 0, errors.New("the image has no EFI system partition")
	}
	block := int64(w.m.Block)
	at, size = int64(p.First)*block, int64(p.Last-p.First+1)*block
	if at < w.headEnd || at+size > w.endAt {
		return 0, 0, errors.New("the EFI system partition lies in the disk's first or last MiB")
	}
	return at, size, nil
}

func record(r io.ReaderAt, at, size int64, content []byte, block int) ([][]esp.Write, error) {
	v, err := esp.Open(r, at, size)
	if err != nil {
		return nil, err
	}
	return v.Put(wire.BirthPath, content, block)
}

// placeAll writes a group, syncs, and compares what the disk gives back.
func (w *writer) placeAll(group []esp.Write) error {
	for i, b := range group {
		group[i].B = disk.Buffer(len(b.B))
		copy(group[i].B, b.B)
		for _, s := range w.slots { // a block may hold a part of a slot
			overlay(s.b, s.at, b.B, b.At)
		}
		if err := w.writeAt(group[i].B, b.At); err != nil {
			return err
		}
	}
	if err := w.sync(); err != nil {
		return err
	}
	for _, b := range group {
		again := disk.Buffer(len(b.B))
		if _, err := w.dev.ReadAt(again, b.At); err != nil {
			return diskFailure(err)
		}
		if !bytes.Equal(again, b.B) {
			w.meter.mismatches.Add(1)
			return lies()
		}
	}
	return nil
}

// readBirth looks for the record as a later boot will.
func (w *writer) readBirth(at, size int64) error {
	r := &blocks{dev: w.dev}
	var got []byte
	v, err := esp.Open(r, at, size)
	if err == nil {
		got, err = v.Read(wire.BirthPath, len(w.Birth))
	}
	switch {
	case r.err != nil:
		return diskFailure(r.err)
	case err != nil:
		return fail(untrusted, "the birth record can't be read again: %w", err)
	case !bytes.Equal(got, w.Birth):
		w.meter.mismatches.Add(1)
		return lies()
	}
	return nil
}

// frames reads from the disk by whole frames and believes only those that match
// their hash: what is put back must not be spoilt by a disk that lies once more.
type frames struct {
	*writer
	got map[int][]byte
	err error // of the disk
}

const maxFrames = 8 // in memory; an EFI system partition's tables and folders lie in fewer

func (r *frames) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		i := int((off + int64(n)) / images.FrameSize)
		b, err := r.frame(i)
		if err != nil {
			return n, err
		}
		at, _ := r.span(i)
		k := copy(p[n:], b[min(off+int64(n)-at, int64(len(b))):])
		if k == 0 {
			return n, io.EOF
		}
		n += k
	}
	return len(p), nil
}

func (r *frames) frame(i int) ([]byte, error) {
	switch b := r.got[i]; {
	case b != nil:
		return b, nil
	case i < 0 || i >= len(r.m.Frames):
		return nil, io.EOF
	case len(r.got) == maxFrames:
		return nil, errors.New("the EFI system partition is too scattered")
	}
	b := disk.Buffer(r.m.RawLength(i))
	at, _ := r.span(i)
	if _, err := r.dev.ReadAt(b, at); err != nil {
		r.err = diskFailure(err)
		return nil, err
	}
	if !r.right(i, b) {
		r.err = lies()
		return nil, r.err
	}
	r.got[i] = b
	return b, nil
}

// blocks reads anything of a device by whole blocks, and keeps the device's
// first error.
type blocks struct {
	dev Device
	err error
}

func (r *blocks) ReadAt(p []byte, off int64) (int, error) {
	block := int64(r.dev.Block())
	from, to := off/block*block, (off+int64(len(p))+block-1)/block*block
	b := disk.Buffer(int(to - from))
	if _, err := r.dev.ReadAt(b, from); err != nil {
		if r.err == nil {
			r.err = err
		}
		return 0, err
	}
	return copy(p, b[off-from:]), nil
}
