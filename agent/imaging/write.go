// Package imaging writes an image to a disk and reads all of it back.
//
// The order is what makes it safe. First the disk's head becomes zero and marks
// go into its last MiB; then everything between them is written and synced, and
// every frame is read back past the cache and its hash compared; only then the
// table goes in, backup first, the head at the very end. A disk on which any of
// that failed doesn't boot.
package imaging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"refurb/agent/disk"
	"refurb/agent/exchange"
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

// Source gives the image's compressed frames: *exchange.Exchange, and in tests
// sources that come to a bad end. Its methods may be called from several
// goroutines.
type Source interface {
	// Next gives every frame that has bytes and that Job.Found lacks: frame 0
	// before most others, those about in ascending order; io.EOF when all were
	// handed out and found good. How many are out at once, unchecked, is the
	// source's to bound.
	Next(context.Context) (exchange.Frame, error)
	// Checked ends the use of f.Data. A frame that isn't good comes again.
	Checked(f exchange.Frame, good bool)
	// Stored says that frame i is on the disk.
	Stored(i int)
	// Claim is told which frames would survive a power cut, as in
	// wire.Share.Claims. The source may keep the slice.
	Claim(bitmap []byte)
	Stats() exchange.Stats
}

// Job is one image for one disk.
type Job struct {
	Manifest   *images.Manifest
	Source     Source
	Found      []bool            // what the function Found gave, for the same disk
	Rotational bool              // the disk has a head that moves
	Slots      map[string][]byte // content for the image's slots, by name; others stay as they are
	Birth      []byte            // the record for the EFI system partition; nil: none

	// Started is called just before the first write, Verifying when all is
	// written and synced. An error stops the job.
	Started, Verifying func(context.Context) error
	// Sealing, if there is one, is called when all was read back and only that
	// is missing which makes the disk start. An error stops the job.
	Sealing func(context.Context) error

	flushBytes int64 // for tests; 0: 256 MiB
}

func fail(next, format string, a ...any) error {
	return &exchange.Failure{Cause: fmt.Errorf(format, a...), Next: next}
}

// Write puts the job's image onto dev. The outcome is Done only if every byte
// of the image was read back from the disk and matched, and ctx was never
// cancelled; in every other case it is Failed, with a cause and a next step,
// and the disk's head is zero, as far as the disk still obeys. The table is the
// one that was written, nil unless Done.
func Write(ctx context.Context, dev Device, job Job, meter *Meter) (wire.Outcome, *finish.Table) {
	w := &writer{Job: job, layout: lay(job.Manifest, dev.Size()), dev: dev, meter: meter}
	w.wake = sync.NewCond(&w.mu)
	meter.begin(job.Manifest.Bytes, job.Source)
	err := w.run(ctx)
	return w.outcome(err)
}

type writer struct {
	Job
	layout
	dev   Device
	meter *Meter

	table     *finish.Table
	head, end []byte // the image's bytes that are withheld; end starts at endAt
	slots     []slot
	early     []exchange.Frame // that came before frame 0

	mu     sync.Mutex
	wake   *sync.Cond // the ledger has changed, or ctx has ended
	ledger *ledger
	pool   pool

	writeTime, readTime time.Duration

	birth    string // SHA-256 of the record that is on the disk
	warnings []string
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
	w.ledger.wash()
	if err := w.flush(); err != nil {
		return err
	}
	w.writeTime = time.Since(start)

	w.meter.phase.Store(wire.PhaseVerifying)
	if err := w.Verifying(ctx); err != nil {
		return err
	}
	start = time.Now()
	if err := w.readRest(ctx); err != nil {
		return err
	}
	w.readTime = time.Since(start)

	w.meter.phase.Store(wire.PhaseFinishing)
	if err := w.putBirth(); err != nil {
		return err
	}
	if err := w.fillSlots(); err != nil {
		return err
	}
	if w.Sealing != nil {
		if err := w.Sealing(ctx); err != nil {
			return err
		}
	}
	if err := w.seal(ctx); err != nil {
		return w.unseal(err)
	}
	return nil
}

func (w *writer) sync() error { return diskFailure(w.dev.Sync()) }

func diskFailure(err error) error {
	if err == nil {
		return nil
	}
	return fail("put another disk in", "the disk failed: %w", err)
}

const untrusted = "put another disk in: this one can't be trusted"

func lies() error {
	return fail(untrusted, "what was read back from the disk is not what was written to it")
}

func mistake(format string, a ...any) error {
	return fail("tell the coordinator: this is a mistake in the program", format, a...)
}

// outcome words how it ended.
func (w *writer) outcome(err error) (wire.Outcome, *finish.Table) {
	phase, _ := w.meter.phase.Load().(wire.Phase)
	stats := w.Source.Stats()
	o := wire.Outcome{
		Result: wire.Done,
		Root:   w.m.Root.String(), Raw: w.m.Bytes,
		Fetched: stats.Fetched, FromPeers: stats.FromPeers, Sent: stats.Sent, Retries: stats.Retries,
		Written: w.meter.written.Load(), ReadBack: w.meter.readBack.Load(),
		Mismatches: int(w.meter.mismatches.Load()),
		WriteTime:  w.writeTime, ReadTime: w.readTime,
	}
	for _, found := range w.Found {
		if found {
			o.Resumed++
		}
	}
	if err == nil {
		o.Finish, o.Birth, o.Warnings = w.table.Notes, w.birth, w.warnings
		return o, w.table
	}
	o.Result, o.Phase, o.Cause = wire.Failed, phase, strings.ReplaceAll(err.Error(), "\n", ", ")
	o.Next = "start this PC again from the network"
	if f, ok := errors.AsType[*exchange.Failure](err); ok {
		o.Next = f.Next
	} else if e, ok := errors.AsType[*wire.Error](err); ok { // what the appliance said to one of the callers' functions
		o.Cause, o.Next = e.Message, e.Next
	} else if r, ok := errors.AsType[*disk.Refusal](err); ok {
		o.Cause, o.Next = r.Message, r.Next
	}
	return o, nil
}
