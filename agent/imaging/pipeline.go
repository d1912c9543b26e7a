package imaging

import (
	"context"
	"io"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"refurb/agent/disk"
	"refurb/agent/exchange"
	"refurb/agent/wire"
	"refurb/images"
)

const (
	workers = 4 // that write and read; with more, single writes get slow
	buffers = 8 // raw frames in memory at once
)

// First lists the frames that Write needs before all others.
func First(m *images.Manifest) []int {
	if m.Frames[0].Length == 0 {
		return nil
	}
	return []int{0}
}

// firstFrame gets frame 0. Others that come meanwhile wait as they are: the
// source bounds them.
func (w *writer) firstFrame(ctx context.Context) error {
	dec, err := images.NewDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	raw, err := w.pool.take(ctx)
	if err != nil {
		return err
	}
	for {
		f, err := w.nextFrame(ctx)
		if err == io.EOF {
			return mistake("the image's source ended before its first frame")
		}
		if err != nil {
			return err
		}
		if f.Index != 0 {
			w.early = append(w.early, f)
			continue
		}
		if w.decode(dec, f, raw) {
			w.ledger.take(0)
			w.ledger.ready = append(w.ledger.ready, piece{0, raw})
			return nil
		}
	}
}

// nextFrame asks the source, and says why when the job was stopped.
func (w *writer) nextFrame(ctx context.Context) (exchange.Frame, error) {
	f, err := w.Source.Next(ctx)
	if err != nil && ctx.Err() != nil {
		return f, context.Cause(ctx)
	}
	return f, err
}

// pool is the memory for raw frames that are on their way. All of it is reused.
type pool chan []byte

func newPool() pool {
	p := make(pool, buffers)
	for range buffers {
		p <- nil // made when it is needed
	}
	return p
}

func (p pool) take(ctx context.Context) ([]byte, error) {
	select {
	case b := <-p:
		if b == nil {
			b = disk.Buffer(images.FrameSize)
		}
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// give takes b back: the whole of it, not what a decoder made of it.
func (p pool) give(b []byte) { p <- b[:images.FrameSize] }

// decode decodes f into raw, checks it, and keeps what is withheld of it.
func (w *writer) decode(dec *images.Decoder, f exchange.Frame, raw []byte) bool {
	got, err := dec.Decode(w.m, f.Index, f.Data, raw)
	w.Source.Checked(f, err == nil)
	if err != nil {
		return false
	}
	at, _ := w.span(f.Index)
	overlay(w.head, 0, got, at)
	overlay(w.end, w.endAt, got, at)
	return true
}

// writeFrames receives, decodes, checks and writes everything that isn't
// withheld, and reads back what it can meanwhile.
func (w *writer) writeFrames(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, w.nudge)()
	g.Go(func() error { return w.receive(ctx) })
	for range workers {
		g.Go(func() error { return w.work(ctx) })
	}
	return g.Wait()
}

// nudge makes the workers look again.
func (w *writer) nudge() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wake.Broadcast()
}

// receive takes frames from the source until it ends. Decoders wait when the
// disk is behind, and so does the source then.
func (w *writer) receive(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	frames := make(chan exchange.Frame)
	g.Go(func() error {
		defer close(frames)
		for {
			var f exchange.Frame
			if len(w.early) > 0 {
				f, w.early = w.early[0], w.early[1:]
			} else if next, err := w.nextFrame(ctx); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			} else {
				f = next
			}
			select {
			case frames <- f:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
	for range min(2, runtime.GOMAXPROCS(0)) {
		g.Go(func() error { return w.decodeFrames(ctx, frames) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.ledger.missing(); n > 0 {
		return mistake("the image's source ended, and %d frames are missing", n)
	}
	return nil
}

func (w *writer) decodeFrames(ctx context.Context, frames <-chan exchange.Frame) error {
	dec, err := images.NewDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	for f := range frames {
		raw, err := w.pool.take(ctx)
		if err != nil {
			return err
		}
		ok := w.decode(dec, f, raw)
		w.mu.Lock()
		if ok = ok && w.ledger.take(f.Index); ok {
			w.ledger.ready = append(w.ledger.ready, piece{f.Index, raw})
			w.wake.Signal()
		}
		w.mu.Unlock()
		if !ok {
			w.pool.give(raw)
		}
	}
	return nil
}

// work does one task after the other until all is written.
func (w *writer) work(ctx context.Context) error {
	for {
		t, err := w.next(ctx)
		if err != nil || t.act == over {
			return err
		}
		if err := w.do(ctx, t); err != nil {
			return err
		}
	}
}

// next waits until there is something to do.
func (w *writer) next(ctx context.Context) (task, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if ctx.Err() != nil {
			return task{}, context.Cause(ctx)
		}
		if t := w.ledger.next(time.Now()); t.act != wait {
			return t, nil
		}
		w.wake.Wait()
	}
}

func (w *writer) do(ctx context.Context, t task) error {
	switch t.act {
	case put:
		defer w.pool.give(t.raw)
		at, _ := w.span(t.frame)
		from, to := w.open(t.frame, t.last)
		if from < to {
			if err := w.writeAt(t.raw[from-at:to-at], from); err != nil {
				return err
			}
		}
		w.wrote(t, max(0, to-from))
		w.Source.Stored(t.frame)
	case zero:
		from, to := w.open(t.frame, t.last)
		if from < to {
			if err := w.dev.Zero(from, to-from); err != nil {
				return diskFailure(err)
			}
		}
		w.wrote(t, max(0, to-from))
	case flush:
		return w.flush()
	case read:
		return w.readEarly(ctx, t.frame)
	}
	return nil
}

func (w *writer) writeAt(b []byte, at int64) error {
	n, err := w.dev.WriteAt(b, at)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	return diskFailure(err)
}

func (w *writer) wrote(t task, n int64) {
	w.meter.written.Add(n)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ledger.wrote(t, n, time.Now()) {
		time.AfterFunc(flushIdle, w.nudge)
	}
	w.wake.Broadcast()
}

// flush makes durable what the ledger has put aside for it, and claims that.
func (w *writer) flush() error {
	if err := w.sync(); err != nil {
		return err
	}
	w.mu.Lock()
	w.ledger.rinse()
	claims := w.ledger.claims(wire.MaxClaims)
	w.wake.Broadcast()
	w.mu.Unlock()
	if claims != nil {
		w.Source.Claim(claims)
	}
	return nil
}
