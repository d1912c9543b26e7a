package imaging

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"

	"refurb/agent/disk"
	"refurb/agent/finish"
	"refurb/images"
)

// slot is the whole blocks around one of the image's slots: first as they were
// read back and matched, then with the PC's own content.
type slot struct {
	at     int64
	b      []byte
	data   []byte
	dataAt int64
}

// fits refuses what can't work, before anything is written.
func (w *writer) fits() error {
	block := w.dev.Block()
	switch {
	case w.m.Block != block:
		return fail("choose an image made for such disks, or another disk",
			"the disk has blocks of %d bytes, the image is made for %d", block, w.m.Block)
	case w.m.Bytes > w.size:
		return fail("choose a smaller image or a larger disk",
			"the disk is too small: %.1f GB, the image needs %.1f GB", float64(w.size)/1e9, float64(w.m.Bytes)/1e9)
	case w.size%int64(block) != 0 || w.size < images.Head:
		return fail("try another disk", "a disk of %d bytes with blocks of %d makes no sense", w.size, block)
	case w.Found != nil && len(w.Found) != len(w.m.Frames):
		return mistake("%d frames were looked for on the disk, the image has %d", len(w.Found), len(w.m.Frames))
	}
	for _, s := range w.m.Slots {
		if len(w.Slots[s.Name]) > s.Length {
			return fail("tell the coordinator: image and appliance don't fit together",
				"%d bytes don't go into the image's slot %q of %d", len(w.Slots[s.Name]), s.Name, s.Length)
		}
	}
	return nil
}

// prepare gets the head and makes the table for this disk, so that an image
// that can't be fitted is refused before the first write.
func (w *writer) prepare(ctx context.Context) error {
	w.pool = newPool()
	w.head, w.end = disk.Buffer(int(w.headEnd)), make([]byte, w.m.Bytes-w.endAt)
	w.reserve()
	w.ledger = newLedger(w.layout, w.Found, w.ownBlocks, w.Rotational, w.flushBytes)
	w.resume()
	if w.m.Frames[0].Length > 0 {
		if err := w.firstFrame(ctx); err != nil {
			return err
		}
	}
	var guid [16]byte
	rand.Read(guid[:])
	guid[7], guid[8] = guid[7]&0x0f|0x40, guid[8]&0x3f|0x80 // version 4; the third field is little-endian on disk
	var err error
	w.table, err = finish.Fit(w.head, w.m.Block, w.m.Bytes, w.size, w.m.Grow, guid)
	if err != nil {
		return fail("tell the coordinator: this image must be made again", "the image's partition table doesn't fit this disk: %w", err)
	}
	return nil
}

// clearEnds makes the disk one that doesn't boot and stays so, and finds out
// whether it is as large as it says. Marks that an earlier attempt left and
// Found has seen stay: they were there before the frames that it found.
func (w *writer) clearEnds(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := w.dev.Zero(0, images.Head); err != nil {
		return diskFailure(err)
	}
	var places []int64
	if !w.resumed() {
		places = w.landmarks()
		b := disk.Buffer(w.m.Block)
		for _, at := range places {
			w.mark(b, at)
			if err := w.writeAt(b, at); err != nil {
				return err
			}
		}
		last := disk.Buffer(int(w.size - w.tailAt))
		w.marks(last, w.tailAt)
		if err := w.writeAt(last, w.tailAt); err != nil {
			return err
		}
	}
	if err := w.sync(); err != nil {
		return err
	}
	b, want := disk.Buffer(w.m.Block), make([]byte, w.m.Block)
	for _, at := range places {
		if _, err := w.dev.ReadAt(b, at); err != nil {
			return diskFailure(err)
		}
		if w.mark(want, at); !bytes.Equal(b, want) {
			w.meter.mismatches.Add(1)
			return fake(at)
		}
	}
	return w.checkEnds()
}

func fake(at int64) error {
	return fail(untrusted, "the disk isn't as large as it says, or doesn't keep what is written to it: what was put at %.1f GB is gone", float64(at)/1e9)
}

// checkEnds reads the disk's head, which must be zero, and its last MiB, which
// must hold the marks. Whatever was written to one place and went to another as
// well has hit one of them: see docs/adr/0007.
func (w *writer) checkEnds() error {
	head := disk.Buffer(images.Head)
	if _, err := w.dev.ReadAt(head, 0); err != nil {
		return diskFailure(err)
	}
	if !images.Zero(head) {
		w.meter.mismatches.Add(1)
		return fake(0)
	}
	ok, err := marked(w.dev, w.layout)
	if err == nil && !ok {
		w.meter.mismatches.Add(1)
		return fake(w.tailAt)
	}
	return err
}

// marked says whether the disk's last MiB holds the marks.
func marked(dev Device, l layout) (bool, error) {
	b := disk.Buffer(int(l.size - l.tailAt))
	if len(b) == 0 {
		return true, nil
	}
	if _, err := dev.ReadAt(b, l.tailAt); err != nil {
		return false, diskFailure(err)
	}
	want := make([]byte, len(b))
	l.marks(want, l.tailAt)
	return bytes.Equal(b, want), nil
}

// reserve prepares the slots that will be filled. The part of one that lies in
// the withheld end goes there.
func (w *writer) reserve() {
	for _, s := range w.m.Slots {
		content, ok := w.Slots[s.Name]
		if !ok {
			continue
		}
		data := append(bytes.Clone(content), bytes.Repeat([]byte{' '}, s.Length-len(content))...)
		if len(content) < s.Length {
			data[s.Length-1] = '\n'
		}
		block := int64(w.m.Block)
		from, to := s.Offset/block*block, min((s.Offset+int64(s.Length)+block-1)/block*block, w.endAt)
		w.slots = append(w.slots, slot{from, disk.Buffer(int(max(0, to-from))), data, s.Offset})
	}
}

// ownBlocks says that frame i holds a part of a slot, so that its bytes are
// needed once more.
func (w *writer) ownBlocks(i int) bool {
	from, to := w.span(i)
	for _, s := range w.slots {
		if s.at < to && s.at+int64(len(s.b)) > from {
			return true
		}
	}
	return false
}

// fillSlots puts what belongs to this PC alone into the image's reserved places,
// and reads it again.
func (w *writer) fillSlots() error {
	for _, s := range w.slots {
		overlay(w.end, w.endAt, s.data, s.dataAt)
		for _, t := range w.slots { // blocks of 4096 may hold several slots
			overlay(t.b, t.at, s.data, s.dataAt)
		}
	}
	for _, s := range w.slots {
		if len(s.b) == 0 {
			continue
		}
		if err := w.place(s.b, s.at); err != nil {
			return err
		}
	}
	return nil
}

// place writes b, syncs, and compares what the disk gives back.
func (w *writer) place(b []byte, at int64) error {
	if err := w.writeAt(b, at); err != nil {
		return err
	}
	if err := w.sync(); err != nil {
		return err
	}
	again := disk.Buffer(len(b))
	if _, err := w.dev.ReadAt(again, at); err != nil {
		return diskFailure(err)
	}
	if !bytes.Equal(again, b) {
		w.meter.mismatches.Add(1)
		return lies()
	}
	return nil
}

// seal writes what was withheld: the disk's last MiB with the backup table, then
// the head.
func (w *writer) seal(ctx context.Context) error {
	at := min(w.tailAt, w.size-int64(len(w.table.Backup)))
	end := disk.Buffer(int(w.size - at))
	overlay(end, at, w.end, w.endAt)
	copy(end[len(end)-len(w.table.Backup):], w.table.Backup)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(end) > 0 {
		if err := w.place(end, at); err != nil {
			return err
		}
	}
	w.count(len(w.end))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	copy(w.head, w.table.Head)
	if err := w.place(w.head, 0); err != nil {
		return err
	}
	w.count(len(w.head))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if got := w.meter.readBack.Load(); got != w.m.Bytes {
		return mistake("%d of %d bytes were read back", got, w.m.Bytes)
	}
	return nil
}

func (w *writer) count(n int) {
	w.meter.written.Add(int64(n))
	w.meter.readBack.Add(int64(n))
}

// unseal makes a disk whose sealing failed one that doesn't boot again. It is
// not to be stopped. why is what went wrong, and comes back.
func (w *writer) unseal(why error) error {
	err := errors.Join(
		w.dev.Zero(0, images.Head),
		w.dev.Zero(w.tailAt, w.size-w.tailAt),
		w.dev.Sync())
	if err != nil { // whatever went wrong before, this matters more
		return fail("take the disk out of this PC: it may still start from it", "%w, and the disk could not be made unbootable again: %w", why, err)
	}
	return why
}
