package imaging

import (
	"time"
)

const (
	flushBytes   = 256 << 20       // written since the last flush: time for one
	flushAfter   = 5 * time.Second // so it is when that has waited for so long
	flushIdle    = time.Second     // or for so long, and the disk has nothing else to do
	zeroFrames   = 4               // frames of zeroes by one order to the disk, so that data never waits long
	earlyReaders = 2               // reads at once beside the writing
)

// ledger knows how far every frame is and says what the disk does next. It does
// no I/O and has no lock.
type ledger struct {
	layout
	rotational bool
	batch      int64 // bytes by one flush

	state  []state
	left   int     // frames not yet written
	ready  []piece // decoded and waiting for the disk
	zeroes []int   // frames of zeroes not yet begun, ascending

	dirty   []int // written since the last flush began
	bytes   int64 // of them
	since   time.Time
	washing []int // what the flush that runs is about
	rinsed  []int // what the one before was about; may still lie in the disk's own memory
	ripe    []int // may be read back while others are written
	reading int
}

// state of one frame, from worse to better.
type state uint8

const (
	absent  state = iota
	taken         // good, and on its way to the disk
	written       // the disk says that it has it
	flushed       // the disk says that it would survive a power cut
	matched       // read back, and right, or found so
)

// piece is a decoded frame.
type piece struct {
	frame int
	raw   []byte
}

// task is what one worker does next.
type task struct {
	act
	frame, last int // frames frame to last-1
	raw         []byte
}

type act uint8

const (
	wait  act = iota
	put       // write raw
	zero      // make the frames zero
	flush     // make durable what was written
	read      // read the frame back
	over      // nothing is left to write
)

// newLedger begins with the frames that were found. Those for which again says
// so are to be read once more.
func newLedger(l layout, found []bool, again func(int) bool, rotational bool, batch int64) *ledger {
	if batch <= 0 {
		batch = flushBytes
	}
	g := &ledger{layout: l, rotational: rotational, batch: batch, state: make([]state, len(l.m.Frames))}
	for i, f := range l.m.Frames {
		switch {
		case found != nil && found[i] && again(i):
			g.state[i] = flushed
		case found != nil && found[i]:
			g.state[i] = matched
		default:
			g.left++
			if f.Length == 0 {
				g.zeroes = append(g.zeroes, i)
			}
		}
	}
	return g
}

// take says whether frame i is still wanted, and that it is on its way now.
func (g *ledger) take(i int) bool {
	if g.state[i] != absent || g.m.Frames[i].Length == 0 {
		return false
	}
	g.state[i] = taken
	return true
}

// missing counts the frames that a source still has to give.
func (g *ledger) missing() (n int) {
	for i, s := range g.state {
		if s == absent && g.m.Frames[i].Length > 0 {
			n++
		}
	}
	return n
}

// next decides. Frames that came go first, so that the network never waits for
// what can be done at any time; but a disk with a head that moves takes them and
// the zeroes between them in their order. Reading back is for when nothing can
// be written.
func (g *ledger) next(now time.Time) task {
	waited := now.Sub(g.since)
	idle := len(g.ready) == 0 && len(g.zeroes) == 0
	if g.washing == nil && len(g.dirty) > 0 && (g.bytes >= g.batch || waited >= flushAfter || waited >= flushIdle && idle) {
		g.wash()
		return task{act: flush}
	}
	first := -1
	for k, p := range g.ready {
		if first < 0 || p.frame < g.ready[first].frame {
			first = k
		}
	}
	if first >= 0 && !(g.rotational && len(g.zeroes) > 0 && g.zeroes[0] < g.ready[first].frame) {
		p := g.ready[first]
		g.ready = append(g.ready[:first], g.ready[first+1:]...)
		return task{act: put, frame: p.frame, last: p.frame + 1, raw: p.raw}
	}
	if len(g.zeroes) > 0 {
		n := 1
		for n < len(g.zeroes) && n < zeroFrames && g.zeroes[n] == g.zeroes[0]+n {
			n++
		}
		t := task{act: zero, frame: g.zeroes[0], last: g.zeroes[0] + n}
		g.zeroes = g.zeroes[n:]
		for i := t.frame; i < t.last; i++ {
			g.state[i] = taken
		}
		return t
	}
	if g.left == 0 {
		return task{act: over}
	}
	if !g.rotational && g.reading < earlyReaders && len(g.ripe) > 0 {
		i := g.ripe[0]
		g.ripe = g.ripe[1:]
		g.reading++
		return task{act: read, frame: i, last: i + 1}
	}
	return task{}
}

// wrote says that a task to put or zero is done. It reports whether these are
// the first since a flush began.
func (g *ledger) wrote(t task, n int64, now time.Time) (first bool) {
	if first = len(g.dirty) == 0; first {
		g.since = now
	}
	for i := t.frame; i < t.last; i++ {
		g.state[i] = written
		g.dirty = append(g.dirty, i)
		g.left--
	}
	g.bytes += n
	return first
}

// wash puts aside what the next flush is about: what is written later may miss
// it.
func (g *ledger) wash() { g.washing, g.dirty, g.bytes = g.dirty, nil, 0 }

// rinse says that the flush is done. What it was about may be read back after
// the next one: by then a disk has something newer in its memory.
func (g *ledger) rinse() {
	for _, i := range g.rinsed {
		if !g.late(i) {
			g.ripe = append(g.ripe, i)
		}
	}
	for _, i := range g.washing {
		g.state[i] = flushed
	}
	g.rinsed, g.washing = g.washing, nil
}

// match says that a frame was read back early and was right.
func (g *ledger) match(i int) { g.state[i], g.reading = matched, g.reading-1 }

// claims is what would survive a power cut, for wire.Share.Claims; nil when the
// image is too large for that.
func (g *ledger) claims(limit int) []byte {
	b := make([]byte, (len(g.state)+7)/8)
	if len(b) > limit {
		return nil
	}
	for i, s := range g.state {
		if s >= flushed && !g.late(i) {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}
