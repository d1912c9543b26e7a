package imaging

import (
	"context"
	"slices"

	"refurb/images"
)

// Found reads from dev the frames that an earlier attempt claims to have
// written there (bitmap as in wire.Share.Claims) and says which of them are what
// they should be; nil when none is. Claims are not trusted: a wrong one costs
// time. What the meter counts goes on in Write. Nothing is written.
//
// A disk without the marks of this image in its last MiB has nothing to be
// found: nobody knows what became of it since.
func Found(ctx context.Context, dev Device, m *images.Manifest, claims []byte, rotational bool, meter *Meter) ([]bool, error) {
	n := len(m.Frames)
	if len(claims) != (n+7)/8 || m.Block != dev.Block() || m.Bytes > dev.Size() {
		return nil, nil
	}
	meter.begin(m.Bytes, nil)
	// After a crash of the agent, what it wrote may still be on its way.
	if err := dev.Sync(); err != nil {
		return nil, nil
	}
	l := lay(m, dev.Size())
	if ok, err := marked(dev, l); err != nil || !ok || l.tailAt >= l.size {
		return nil, nil
	}
	var list []int
	for i := range n {
		if claims[i/8]>>(i%8)&1 == 1 && !l.late(i) {
			list = append(list, i)
		}
	}
	found := make([]bool, n)
	look := reading{dev: dev, layout: l, list: list, pool: newPool(), inTurn: rotational}
	err := look.all(ctx, func(i int, b []byte, err error) error {
		if err == nil && m.Check(i, b) == nil { // one that can't be read will be written again
			found[i] = true
			meter.written.Add(int64(len(b)))
		}
		return nil
	})
	if err == nil {
		err = look.further(ctx, found, meter)
	}
	if err != nil || !slices.Contains(found, true) {
		return nil, err
	}
	return found, nil
}

const maxMisses = 8 // frames in a row that aren't there, before looking further is pointless

// further looks behind the frames that were found for those that were written
// after the last claim.
func (r *reading) further(ctx context.Context, found []bool, meter *Meter) error {
	b, err := r.pool.take(ctx)
	if err != nil {
		return err
	}
	defer r.pool.give(b)
	misses := maxMisses // nothing is looked for before the first claim
	for i, f := range r.layout.m.Frames {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if found[i] {
			misses = 0
		}
		if found[i] || f.Length == 0 || r.layout.late(i) || misses >= maxMisses {
			continue
		}
		misses++
		from, to := r.layout.span(i)
		if _, err := r.dev.ReadAt(b[:to-from], from); err == nil && r.layout.m.Check(i, b[:to-from]) == nil {
			found[i], misses = true, 0
			meter.written.Add(to - from)
		}
	}
	return nil
}

// resumed says that something was found.
func (w *writer) resumed() bool { return slices.Contains(w.Found, true) }

// resume counts what was found as written and, but for what will be read once
// more, as read back.
func (w *writer) resume() {
	var written, readBack int64
	for i, s := range w.ledger.state {
		if s >= flushed {
			written += int64(w.m.RawLength(i))
		}
		if s == matched {
			readBack += int64(w.m.RawLength(i))
		}
	}
	w.meter.written.Store(written)
	w.meter.readBack.Store(readBack)
}
