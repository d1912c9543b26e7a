package relay

import (
	"fmt"
	"testing"
	"time"
)

var begin = time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)

// room is an image of members that were never heard: its line is all that is
// looked at.
func hall(chainMax int) *image {
	return &image{cfg: &Config{ChainMax: chainMax}, members: map[string]*member{}, guilty: map[string]string{}}
}

func (im *image) enter(n, mbit int) (ms []*member) {
	for range n {
		im.seq++
		id := fmt.Sprintf("pc%d", im.seq)
		m := &member{Status: Status{ID: id, URL: "http://" + id, Mbit: mbit, Frames: 100}, seq: im.seq,
			past: map[string]time.Time{}, avoid: map[string]bool{}}
		im.members[id] = m
		im.place(m)
		ms = append(ms, m)
	}
	im.assign(begin)
	return ms
}

// load is how many halves of its own rate a member sends.
func load(ms map[string]*member) map[*member]int {
	sent := map[*member]int{}
	for _, m := range ms {
		for _, u := range m.up {
			sent[u] += 2 / len(m.up)
		}
	}
	return sent
}

// depth checks that no stripe of m has a cycle, and gives its hops to the head.
func depth(t *testing.T, m *member) int {
	t.Helper()
	deepest := 0
	for stripe := range m.up {
		n := 0
		for at := m; len(at.up) > 0; n++ {
			at = at.up[stripe%len(at.up)]
			if n > 5000 {
				t.Fatalf("%s gets stripe %d from itself", m.ID, stripe)
			}
		}
		deepest = max(deepest, n)
	}
	return deepest
}

func TestTreesAreDisjointAndShallow(t *testing.T) {
	for n := 1; n <= 300; n += 1 + n/12 {
		im := hall(8)
		ms := im.enter(n, 1000)
		sent := load(im.members)
		var log int
		for p := 1; p < n; p *= 2 {
			log++
		}
		heads := 0
		for i, m := range ms {
			inner := [2]int{}
			for _, o := range ms {
				if len(o.up) == 2 {
					for stripe, u := range o.up {
						if u == m {
							inner[stripe]++
						}
					}
				}
			}
			if i >= 8 && inner[0] > 0 && inner[1] > 0 {
				t.Fatalf("%d: %s is interior in both trees", n, m.ID)
			}
			if inner[0] > 2 || inner[1] > 2 || sent[m] > 2 {
				t.Fatalf("%d: %s sends %d halves of what it gets", n, m.ID, sent[m])
			}
			if d := depth(t, m); d > 8+log+1 {
				t.Fatalf("%d: %s stands %d deep", n, m.ID, d)
			}
			if len(m.up) == 0 {
				heads++
			}
		}
		if heads != 1 {
			t.Fatalf("%d: %d heads", n, heads)
		}
	}
}

// One more PC changes the sources of three others at most, and one that goes
// those of the neighbours and of the one that takes its place.
func TestGrowthAndShrinkageLeaveTheRestAlone(t *testing.T) {
	im := hall(8)
	sources := func() map[string]string {
		all := map[string]string{}
		for id, m := range im.members {
			for _, u := range m.up {
				all[id] += u.ID + " "
			}
		}
		return all
	}
	changed := func(a, b map[string]string) (n int) {
		for id, s := range b {
			if was, ok := a[id]; ok && was != s {
				n++
			}
		}
		return n
	}
	before := sources()
	for range 200 {
		im.enter(1, 1000)
		after := sources()
		if n := changed(before, after); n > 3 {
			t.Fatalf("%d members: one more changed the sources of %d", len(im.members), n)
		}
		before = after
	}
	for i := 0; len(im.members) > 0; i++ {
		all := im.all()
		m := all[i*7%len(all)]
		im.remove(m)
		delete(im.members, m.ID)
		im.assign(begin)
		for _, o := range im.members {
			depth(t, o)
		}
		after := sources()
		// Its children in one tree, a leaf that moves up when a pair goes, the
		// last that takes its place, and its children when it was the chain's end.
		if n := changed(before, after); n > 9 {
			t.Fatalf("%d members: one less changed the sources of %d", len(im.members), n)
		}
		before = after
	}
	if len(im.blocks) != 0 {
		t.Errorf("nobody is there, but %d blocks", len(im.blocks))
	}
}

func TestOrderOfTheLine(t *testing.T) {
	im := hall(8)
	im.enter(2, 100)
	im.enter(2, 0)
	im.enter(1, 2500)
	im.enter(1, 10)
	line := ""
	for _, m := range im.line() {
		line += m.ID + " "
		if first := m.ID == "pc3" || m.ID == "pc1" || m.ID == "pc6"; m.patient != first {
			t.Errorf("%s: patient is %v", m.ID, m.patient)
		}
	}
	if line != "pc5 pc3 pc4 pc1 pc2 pc6 " {
		t.Error(line)
	}
}
