// Package imaging writes an image to a disk and reads all of it back.
//
// The order is what makes it safe. First the disk's head and last MiB become
// zero; then everything between them is written and synced; then every frame is
// read back past the cache and its hash compared; only then the table goes in,
// backup first, the head at the very end. A disk on which any of that failed
// doesn't boot.
package imaging

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"refurb/agent/disk"
	"refurb/agent/finish"
	"refurb/agent/wire"
	"refurb/images"
)

// Device is what a whole disk has to offer: *disk.Disk, and in tests disks that
// break or lie. Offsets, lengths and memory are multiples of Block.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Zero(off, n int64) error
	Sync() error
	Size() int64
	Block() int
}

// Job is one image for one disk.
type Job struct {
	Manifest  *images.Manifest
	FramesURL string
	Streams   int               // HTTP connections at once; 0: 8
	Slots     map[string][]byte // content for the image's slots, by name; others stay as they are

	// Started is called just before the first write, Verifying when all is
	// written and synced. An error stops the job.
	Started, Verifying func(context.Context) error

	Stall    time.Duration // a silent connection is given up after this; 0: 20 s
	Patience time.Duration // so is the job, when a stream gets nothing for so long; 0: 10 min
}

const (
	maxStreams = 16
	writers    = 4       // decode, check and write at once; more makes single writes slow
	tail       = 1 << 20 // bytes at the disk's end that go in late, like the head
)

// Failure is why a job failed and what a volunteer does next.
type Failure struct {
	Cause error
	Next  string
}

func (f *Failure) Error() string { return f.Cause.Error() }
func (f *Failure) Unwrap() error { return f.Cause }

func fail(next, format string, a ...any) error {
	return &Failure{Cause: fmt.Errorf(format, a...), Next: next}
}

// Write puts the job's image onto dev. The outcome is Done only if every byte
// of the image was read back from the disk and matched, and ctx was never
// cancelled; in every other case it is Failed, with a cause and a next step,
// and the disk's head is zero, as far as the disk still obeys. The table is the
// one that was written, nil unless Done.
func Write(ctx context.Context, dev Device, job Job, meter *Meter) (wire.Outcome, *finish.Table) {
	if job.Stall <= 0 {
		job.Stall = 20 * time.Second
	}
	if job.Patience <= 0 {
		job.Patience = 10 * time.Minute
	}
	streams := min(job.Streams, maxStreams)
	if streams <= 0 {
		streams = 8
	}
	meter.phase.Store(wire.PhaseImaging)
	meter.total.Store(job.Manifest.Bytes)
	w := &writer{Job: job, dev: dev, m: job.Manifest, meter: meter, streams: streams}
	w.fetcher = newFetcher(job, streams, meter)
	defer w.fetcher.close()
	err := w.run(ctx)
	return w.outcome(err)
}

type writer struct {
	Job
	dev     Device
	m       *images.Manifest
	meter   *Meter
	fetcher *fetcher
	streams int

	table *finish.Table
	// head and end are the image's bytes that are withheld from the disk until
	// the rest was read back. end starts at endAt and is empty when the image
	// doesn't reach into the disk's last MiB.
	head, end []byte
	endAt     int64
	early     map[int][]byte // frames that were needed for head and end, raw
	slots     []slot

	writeTime, readTime time.Duration
}

// slot is the whole blocks around one of the image's slots: first as they were
// read back and matched, then with the PC's own content.
type slot struct {
	at     int64
	b      []byte
	data   []byte
	dataAt int64
}

// run is the whole story.
func (w *writer) run(ctx context.Context) error {
	if err := w.fits(); err != nil {
		return err
	}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	if err := w.Started(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := w.clearEnds(ctx); err != nil {
		return err
	}
	if err := w.writeFrames(ctx); err != nil {
		return err
	}
	if err := w.sync(); err != nil {
		return err
	}
	w.writeTime = time.Since(start)

	w.meter.phase.Store(wire.PhaseVerifying)
	if err := w.Verifying(ctx); err != nil {
		return err
	}
	start = time.Now()
	if err := w.readBack(ctx); err != nil {
		return err
	}
	w.readTime = time.Since(start)

	w.meter.phase.Store(wire.PhaseFinishing)
	if err := w.fillSlots(); err != nil {
		return err
	}
	if err := w.seal(ctx); err != nil {
		return errors.Join(err, w.unseal())
	}
	return nil
}

// fits refuses what can't work, before anything is written.
func (w *writer) fits() error {
	size, block := w.dev.Size(), w.dev.Block()
	switch {
	case w.m.Block != block:
		return fail("choose an image made for such disks, or another disk",
			"the disk has blocks of %d bytes, the image is made for %d", block, w.m.Block)
	case w.m.Bytes > size:
		return fail("choose a smaller image or a larger disk",
			"the disk is too small: %.1f GB, the image needs %.1f GB", float64(size)/1e9, float64(w.m.Bytes)/1e9)
	case size%int64(block) != 0 || size < images.Head:
		return fail("try another disk", "a disk of %d bytes with blocks of %d makes no sense", size, block)
	}
	for _, s := range w.m.Slots {
		if len(w.Slots[s.Name]) > s.Length {
			return fail("tell the coordinator: image and appliance don't fit together",
				"%d bytes don't go into the image's slot %q of %d", len(w.Slots[s.Name]), s.Name, s.Length)
		}
	}
	return nil
}

// prepare fetches what is withheld and makes the table for this disk, so that
// an image that can't be fitted is refused before the first write.
func (w *writer) prepare(ctx context.Context) error {
	headEnd := min(images.Head, w.m.Bytes)
	w.endAt = min(max(w.dev.Size()-tail, headEnd), w.m.Bytes)
	w.head, w.end = disk.Buffer(int(headEnd)), make([]byte, w.m.Bytes-w.endAt)
	w.early = map[int][]byte{}
	dec, err := images.NewDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	for i := range w.m.Frames {
		at := int64(i) * images.FrameSize
		if to := at + int64(w.m.RawLength(i)); i > 0 && to <= w.endAt {
			continue
		}
		raw, err := w.get(ctx, dec, i, nil, disk.Buffer(w.m.RawLength(i)))
		if err != nil {
			return err
		}
		overlay(w.head, 0, raw, at)
		overlay(w.end, w.endAt, raw, at)
		w.early[i] = raw
	}
	w.reserve()
	var guid [16]byte
	rand.Read(guid[:])
	guid[7], guid[8] = guid[7]&0x0f|0x40, guid[8]&0x3f|0x80 // version 4; the third field is little-endian on disk
	w.table, err = finish.Fit(w.head, w.m.Block, w.m.Bytes, w.dev.Size(), w.m.Grow, guid)
	if err != nil {
		return fail("tell the coordinator: this image must be made again", "the image's partition table doesn't fit this disk: %w", err)
	}
	return nil
}

// overlay copies what src, which lies at srcAt, has in common with dst at dstAt.
func overlay(dst []byte, dstAt int64, src []byte, srcAt int64) {
	from, to := max(dstAt, srcAt), min(dstAt+int64(len(dst)), srcAt+int64(len(src)))
	if from < to {
		copy(dst[from-dstAt:to-dstAt], src[from-srcAt:])
	}
}

const maxRefetch = 3

// get decodes frame i into raw, out of b or, when b is nil, as fetched; what
// doesn't match its hash is fetched again.
func (w *writer) get(ctx context.Context, dec *images.Decoder, i int, b, raw []byte) ([]byte, error) {
	n := 0
	if b == nil {
		n = -1 // the first fetch is none again
	}
	for ; ; n++ {
		if b != nil || w.m.Frames[i].Length == 0 {
			got, err := dec.Decode(w.m, i, b, raw)
			if err == nil {
				return got, nil
			}
			if n >= maxRefetch {
				return nil, fail(reimport,
					"the image on the appliance is damaged: %w", err)
			}
			w.meter.retries.Add(1)
		}
		var err error
		if b, err = w.fetcher.frame(ctx, i, b); err != nil {
			return nil, err
		}
	}
}

// clearEnds makes the disk one that doesn't boot and stays so.
func (w *writer) clearEnds(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	size := w.dev.Size()
	if err := w.dev.Zero(0, images.Head); err != nil {
		return diskFailure(err)
	}
	if err := w.dev.Zero(max(0, size-tail), min(tail, size)); err != nil {
		return diskFailure(err)
	}
	return w.sync()
}

func (w *writer) sync() error { return diskFailure(w.dev.Sync()) }

func diskFailure(err error) error {
	if err == nil {
		return nil
	}
	return fail("put another disk in", "the disk failed: %w", err)
}

// put writes the part of a frame that isn't withheld.
func (w *writer) put(i int, raw []byte) error {
	at := int64(i) * images.FrameSize
	from, to := max(at, int64(len(w.head))), min(at+int64(len(raw)), w.endAt)
	if from >= to {
		return nil
	}
	if n, err := w.dev.WriteAt(raw[from-at:to-at], from); err != nil {
		return diskFailure(err)
	} else if int64(n) != to-from {
		return diskFailure(io.ErrShortWrite)
	}
	w.meter.written.Add(to - from)
	return nil
}

// putZero does the same for frames of zeroes, first to last-1.
func (w *writer) putZero(first, last int) error {
	from := max(int64(first)*images.FrameSize, int64(len(w.head)))
	to := min(int64(last)*images.FrameSize, w.endAt)
	if from >= to {
		return nil
	}
	if err := w.dev.Zero(from, to-from); err != nil {
		return diskFailure(err)
	}
	w.meter.written.Add(to - from)
	return nil
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
		block := int64(w.dev.Block())
		from, to := s.Offset/block*block, min((s.Offset+int64(s.Length)+block-1)/block*block, w.endAt)
		w.slots = append(w.slots, slot{from, disk.Buffer(int(max(0, to-from))), data, s.Offset})
	}
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
	if _, err := w.dev.WriteAt(b, at); err != nil {
		return diskFailure(err)
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
		return w.lies()
	}
	return nil
}

func (w *writer) lies() error {
	return fail("put another disk in: this one can't be trusted", "what was read back from the disk is not what was written to it")
}

// seal writes what was withheld: the disk's end with the backup table, then the
// head.
func (w *writer) seal(ctx context.Context) error {
	size := w.dev.Size()
	endAt := size - int64(len(w.table.Backup))
	if len(w.end) > 0 {
		endAt = min(endAt, w.endAt)
	}
	end := disk.Buffer(int(size - endAt))
	overlay(end, endAt, w.end, w.endAt)
	copy(end[len(end)-len(w.table.Backup):], w.table.Backup)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(end) > 0 {
		if err := w.place(end, endAt); err != nil {
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
		return fail("tell the coordinator: this is a mistake in the program", "%d of %d bytes were read back", got, w.m.Bytes)
	}
	return nil
}

func (w *writer) count(n int) {
	w.meter.written.Add(int64(n))
	w.meter.readBack.Add(int64(n))
}

// unseal makes a disk whose sealing failed one that doesn't boot again. It is
// not to be stopped.
func (w *writer) unseal() error {
	size := w.dev.Size()
	err := errors.Join(
		w.dev.Zero(0, images.Head),
		w.dev.Zero(max(0, size-tail), min(tail, size)),
		w.dev.Sync())
	if err != nil {
		return fail("take the disk out of this PC: it may still start from it", "and it could not be made unbootable again: %w", err)
	}
	return nil
}

// outcome words how it ended.
func (w *writer) outcome(err error) (wire.Outcome, *finish.Table) {
	phase, _ := w.meter.phase.Load().(wire.Phase)
	o := wire.Outcome{
		Result: wire.Done,
		Root:   w.m.Root.String(), Raw: w.m.Bytes,
		Fetched: w.meter.fetched.Load(), Written: w.meter.written.Load(), ReadBack: w.meter.readBack.Load(),
		Mismatches: int(w.meter.mismatches.Load()), Retries: int(w.meter.retries.Load()),
		Streams: w.streams, WriteTime: w.writeTime, ReadTime: w.readTime,
	}
	if err == nil {
		o.Finish = w.table.Notes
		return o, w.table
	}
	o.Result, o.Phase, o.Cause = wire.Failed, phase, strings.ReplaceAll(err.Error(), "\n", ", ")
	o.Next = "start this PC again from the network"
	if f, ok := errors.AsType[*Failure](err); ok {
		o.Next = f.Next
	} else if e, ok := errors.AsType[*wire.Error](err); ok { // what the appliance said to one of the callers' functions
		o.Cause, o.Next = e.Message, e.Next
	}
	return o, nil
}
