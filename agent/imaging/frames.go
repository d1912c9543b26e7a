package imaging

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"refurb/agent/disk"
	"refurb/images"
)

const (
	spanFrames = 4       // frames by one request, at most
	spanBytes  = 8 << 20 // compressed bytes by one request, at most
	zeroFrames = 64      // frames of zeroes by one order to the disk: 256 MiB
	maxLies    = 16      // frames that don't match before reading on is pointless
)

// piece is what a writer gets to do: one fetched frame, or frames of zeroes up
// to but without last.
type piece struct {
	frame, last int
	data        []byte // compressed; nil for zeroes
}

// writeFrames fetches, decodes, checks and writes everything that isn't
// withheld. Fetchers run ahead of the writers by as many frames as there are
// buffers.
func (w *writer) writeFrames(ctx context.Context) error {
	for i, raw := range w.early {
		if err := w.put(i, raw); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	spans := make(chan []int)
	work := make(chan piece, 2*w.streams)
	free := make(chan []byte, 2*w.streams)
	for range cap(free) {
		free <- nil
	}

	var feeding sync.WaitGroup // all that send to work
	feeding.Add(1 + w.streams)
	g.Go(func() error {
		defer feeding.Done()
		defer close(spans)
		return w.feed(ctx, spans, work)
	})
	for range w.streams {
		g.Go(func() error {
			defer feeding.Done()
			return w.fetchSpans(ctx, spans, free, work)
		})
	}
	g.Go(func() error {
		feeding.Wait()
		close(work)
		return nil
	})
	for range writers {
		g.Go(func() error { return w.writePieces(ctx, work, free) })
	}
	err := g.Wait()
	clear(w.early)
	return err
}

// feed cuts the image into spans for the fetchers and runs of zeroes for the
// writers, in the disk's order.
func (w *writer) feed(ctx context.Context, spans chan<- []int, work chan<- piece) error {
	frames := w.m.Frames
	for i := 0; i < len(frames); {
		if _, done := w.early[i]; done {
			i++
			continue
		}
		same := func(j int) bool {
			_, done := w.early[j]
			return j < len(frames) && !done && (frames[j].Length == 0) == (frames[i].Length == 0)
		}
		if frames[i].Length == 0 {
			p := piece{frame: i, last: i + 1}
			for same(p.last) && p.last-i < zeroFrames {
				p.last++
			}
			if err := send(ctx, work, p); err != nil {
				return err
			}
			i = p.last
			continue
		}
		// Short spans at the end keep all streams busy until the last frame.
		limit := spanFrames
		if len(frames)-i <= 2*w.streams {
			limit = 1
		}
		span, size := []int{i}, frames[i].Length
		for j := i + 1; same(j) && len(span) < limit && size+frames[j].Length <= spanBytes; j++ {
			span, size = append(span, j), size+frames[j].Length
		}
		if err := send(ctx, spans, span); err != nil {
			return err
		}
		i += len(span)
	}
	return nil
}

func send[T any](ctx context.Context, c chan<- T, v T) error {
	select {
	case c <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (w *writer) fetchSpans(ctx context.Context, spans <-chan []int, free <-chan []byte, work chan<- piece) error {
	buffer := func(n int64) ([]byte, error) {
		select {
		case b := <-free:
			return grown(b, n), nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	emit := func(i int, b []byte) error { return send(ctx, work, piece{frame: i, data: b}) }
	for span := range spans {
		if err := w.fetcher.fetch(ctx, span, buffer, emit); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) writePieces(ctx context.Context, work <-chan piece, free chan<- []byte) error {
	dec, err := images.NewDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	raw := disk.Buffer(images.FrameSize)
	for p := range work {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if p.data == nil {
			err = w.putZero(p.frame, p.last)
		} else {
			var got []byte
			if got, err = w.get(ctx, dec, p.frame, p.data, raw); err == nil {
				err = w.put(p.frame, got)
			}
			free <- p.data // there is room: it came from there
		}
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// readBack reads every frame from the disk and compares it with its hash. What
// is withheld must be zero on the disk and counts as read only when it is in
// place; so must what lies behind the image in the disk's last MiB.
func (w *writer) readBack(ctx context.Context) error {
	size := w.dev.Size()
	if behind := disk.Buffer(int(size - max(w.m.Bytes, size-tail))); len(behind) > 0 {
		if _, err := w.dev.ReadAt(behind, size-int64(len(behind))); err != nil {
			return diskFailure(err)
		}
		if !images.Zero(behind) {
			w.meter.mismatches.Add(1)
			return w.lies()
		}
	}
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range writers {
		g.Go(func() error {
			b := disk.Buffer(images.FrameSize)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(w.m.Frames) {
					return nil
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := w.readFrame(i, b[:w.m.RawLength(i)]); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if w.meter.mismatches.Load() > 0 {
		return w.lies()
	}
	return nil
}

func (w *writer) readFrame(i int, b []byte) error {
	if _, err := w.dev.ReadAt(b, int64(i)*images.FrameSize); err != nil {
		return diskFailure(err)
	}
	at := int64(i) * images.FrameSize
	free := int64(len(b))
	good := true
	for _, kept := range []struct {
		at int64
		b  []byte
	}{{0, w.head}, {w.endAt, w.end}} {
		from, to := max(kept.at, at), min(kept.at+int64(len(kept.b)), at+int64(len(b)))
		if from < to {
			good = good && images.Zero(b[from-at:to-at])
			copy(b[from-at:to-at], kept.b[from-kept.at:])
			free -= to - from
		}
	}
	if !good || w.m.Check(i, b) != nil {
		if w.meter.mismatches.Add(1) >= maxLies {
			return w.lies()
		}
		return nil
	}
	for _, s := range w.slots {
		overlay(s.b, s.at, b, at)
	}
	w.meter.readBack.Add(free)
	return nil
}
