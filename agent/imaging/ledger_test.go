package imaging

import (
	"math/rand/v2"
	"testing"
	"time"

	"refurb/images"
)

// A model of some workers takes tasks in any order and finishes them in any
// other. Whatever happens, every frame is written once, nothing is read or
// claimed that wasn't flushed, and all of it comes to an end.
func TestLedger(t *testing.T) {
	for seed := uint64(0); seed < 300; seed += every {
		r := rand.New(rand.NewPCG(seed, 7))
		m := &images.Manifest{Block: 512, Bytes: int64(1+r.IntN(200))*images.FrameSize - int64(r.IntN(2))*512}
		n := int(images.Count(m.Bytes))
		m.Frames = make([]images.Frame, n)
		found := make([]bool, n)
		l := lay(m, m.Bytes+int64(r.IntN(3))<<20)
		coming := []int{}
		for i := range m.Frames {
			m.Frames[i].Length = int64(r.IntN(2))
			found[i] = r.IntN(4) == 0 && !l.late(i)
			if m.Frames[i].Length > 0 && !found[i] {
				coming = append(coming, i)
			}
		}
		rotational := r.IntN(2) == 0
		g := newLedger(l, found, func(int) bool { return false }, rotational, int64(1+r.IntN(64))<<20)
		now := time.Unix(0, 0)
		var running []task
		written := make([]int, n) // how often
		flushes := make([]int, n) // that began after it was written
		seen := make([]bool, n)
		idle := 0
		ended := false
		for !ended || len(running) > 0 {
			now = now.Add(time.Duration(r.IntN(100)) * time.Millisecond)
			switch k := r.IntN(3); {
			case k == 0 && len(coming) > 0 && len(g.ready) < buffers:
				i := coming[0]
				coming = coming[1:]
				if !g.take(i) || g.take(i) {
					t.Fatalf("seed %d: frame %d is wanted once", seed, i)
				}
				g.ready = append(g.ready, piece{frame: i})
			case k == 1 && len(running) < workers && !ended:
				next := g.next(now)
				switch next.act {
				case over:
					ended = true
					if g.missing() > 0 || len(coming) > 0 {
						t.Fatalf("seed %d: over too early", seed)
					}
				case wait:
					if idle++; idle > 100000 {
						t.Fatalf("seed %d: stuck", seed)
					}
				case flush:
					for i := range flushes {
						if written[i] > 0 {
							flushes[i]++
						}
					}
					running = append(running, next)
				case read:
					i := next.frame
					if rotational || l.late(i) || flushes[i] < 2 || seen[i] || len(g.ready) > 0 {
						t.Fatalf("seed %d: frame %d is read: flushed %d times, read %v", seed, i, flushes[i], seen[i])
					}
					seen[i] = true
					running = append(running, next)
				default:
					running = append(running, next)
				}
			case k == 2 && len(running) > 0:
				j := r.IntN(len(running))
				done := running[j]
				running = append(running[:j], running[j+1:]...)
				switch done.act {
				case put, zero:
					for i := done.frame; i < done.last; i++ {
						if written[i]++; written[i] > 1 || found[i] || (done.act == zero) != (m.Frames[i].Length == 0) {
							t.Fatalf("seed %d: frame %d is written by %v, %d times, found %v", seed, i, done.act, written[i], found[i])
						}
					}
					g.wrote(done, int64(done.last-done.frame)*images.FrameSize, now)
				case flush:
					g.rinse()
				case read:
					g.match(done.frame)
				}
			}
			if r.IntN(50) > 0 {
				continue
			}
			claims := g.claims(1 << 20)
			for i := range n {
				if claimed(claims, i) && (l.late(i) || !found[i] && flushes[i] == 0) {
					t.Fatalf("seed %d: frame %d is claimed", seed, i)
				}
			}
		}
		for i := range n {
			if written[i] == 0 && !found[i] {
				t.Fatalf("seed %d: frame %d was never written", seed, i)
			}
		}
		g.wash()
		g.rinse()
		all := g.claims(1 << 20)
		for i := range n {
			if claimed(all, i) == l.late(i) {
				t.Fatalf("seed %d: in the end frame %d is claimed: %v", seed, i, claimed(all, i))
			}
		}
		if g.claims(len(all)-1) != nil {
			t.Fatal("claims without limit")
		}
	}
}
