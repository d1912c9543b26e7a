package imaging

import (
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	sampleSize = 32 // frames read early that are read once more; of a small image one in sixteen, but at least
	sampleFew  = 8
	maxLies    = 16 // frames that don't match before reading on is pointless
)

// readEarly reads back a frame while others are still written.
func (w *writer) readEarly(ctx context.Context, i int) error {
	b, err := w.pool.take(ctx)
	if err != nil {
		return err
	}
	defer w.pool.give(b)
	b = b[:w.m.RawLength(i)]
	at, _ := w.span(i)
	if _, err := w.dev.ReadAt(b, at); err != nil {
		return diskFailure(err)
	}
	if !w.right(i, b) {
		return lies()
	}
	w.countFrame(i)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ledger.match(i)
	return nil
}

// readRest reads back, after the last sync, what was not read before, and some
// of what was. The disk's ends come first: they show whether anything that was
// written later went where it doesn't belong.
func (w *writer) readRest(ctx context.Context) error {
	if err := w.checkEnds(); err != nil {
		return err
	}
	var early, list []int
	for i, s := range w.ledger.state {
		if s == matched {
			early = append(early, i)
		} else {
			list = append(list, i)
		}
	}
	again := sample(early, min(sampleSize, max(sampleFew, len(early)/16)))
	list = append(again, list...)
	if w.Rotational {
		slices.Sort(list)
	}
	rest := reading{dev: w.dev, layout: w.layout, list: list, pool: w.pool, inTurn: w.Rotational}
	err := rest.all(ctx, func(i int, b []byte, err error) error {
		switch {
		case err != nil:
			return diskFailure(err)
		case !w.right(i, b):
			if w.meter.mismatches.Load() >= maxLies {
				return lies()
			}
		case w.ledger.state[i] != matched:
			w.countFrame(i)
		}
		return nil
	})
	if err == nil && w.meter.mismatches.Load() > 0 {
		err = lies()
	}
	return err
}

// sample draws n of list, or all when there are fewer; nobody can know which.
func sample(list []int, n int) []int {
	var seed [32]byte
	rand.Read(seed[:])
	r := mathrand.New(mathrand.NewChaCha8(seed))
	list = slices.Clone(list)
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(n, len(list))]
}

// right says whether b, which was read from the disk, is frame i. What is
// withheld is not on the disk: it counts as read when it is in place. Slots keep
// their part of it.
func (w *writer) right(i int, b []byte) bool {
	at, _ := w.span(i)
	overlay(b, at, w.head, 0)
	overlay(b, at, w.end, w.endAt)
	if w.m.Check(i, b) != nil {
		w.meter.mismatches.Add(1)
		return false
	}
	for _, s := range w.slots {
		overlay(s.b, s.at, b, at)
	}
	return true
}

func (w *writer) countFrame(i int) {
	from, to := w.open(i, i+1)
	w.meter.readBack.Add(max(0, to-from))
}

// reading is a walk through a list of frames on a disk.
type reading struct {
	dev    Device
	layout layout
	list   []int
	pool   pool
	inTurn bool // one read follows the other, as suits a head that moves; hashing goes on beside

	mu sync.Mutex
}

// all hands each frame of the list to use, which several goroutines call.
func (r *reading) all(ctx context.Context, use func(i int, b []byte, err error) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for range min(workers, len(r.list)) {
		g.Go(func() error {
			b, err := r.pool.take(ctx)
			if err != nil {
				return err
			}
			defer r.pool.give(b)
			for {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				i, err := r.next(b)
				if i < 0 {
					return nil
				}
				if err := use(i, b[:r.layout.m.RawLength(i)], err); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// next reads the list's next frame into b; -1 at its end.
func (r *reading) next(b []byte) (int, error) {
	r.mu.Lock()
	unlock := sync.OnceFunc(r.mu.Unlock)
	defer unlock()
	if len(r.list) == 0 {
		return -1, nil
	}
	i := r.list[0]
	r.list = r.list[1:]
	if !r.inTurn {
		unlock()
	}
	from, to := r.layout.span(i)
	_, err := r.dev.ReadAt(b[:to-from], from)
	return i, err
}
