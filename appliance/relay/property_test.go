package relay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// world drives a relay with events from bytes and checks after each what must
// always hold.
type world struct {
	t      *testing.T
	r      *Relay
	now    time.Time
	status map[string]*Status
	orders map[string]Order
	moved  map[string]time.Time
	checks int
}

func newWorld(t *testing.T) *world {
	keys := 0
	c := Config{ChainMax: 4, Linger: 20 * time.Second, Key: func() string { keys++; return fmt.Sprint("key", keys) }}
	return &world{t: t, r: New(c), now: begin, status: map[string]*Status{}, orders: map[string]Order{}, moved: map[string]time.Time{}}
}

// play reads two bytes an event: whom it concerns, and what happens.
func (w *world) play(events []byte) {
	for len(events) >= 2 && !w.t.Failed() {
		who, what := int(events[0])%40, events[1]
		events = events[2:]
		id := fmt.Sprintf("pc%02d", who)
		s := w.status[id]
		if s == nil {
			s = &Status{ID: id, Image: []string{"one", "two"}[who%8/7], URL: "http://" + id, Frames: 200, Missing: 200}
			s.Mbit = []int{1000, 1000, 0, 100, 2500}[who%5]
			if who%6 == 5 {
				s.Have = 60
			}
			w.status[id] = s
		}
		arg := int(what >> 4)
		switch what & 15 {
		case 0, 1, 2, 3:
			s.Have = min(s.Have+arg*3, s.Frames)
			s.Rate = int64(arg) * 1e6
		case 4:
			s.Missing = (s.Frames - s.Have) * arg / 15
		case 5:
			s.Missing = s.Frames - s.Have
		case 6:
			s.Backlog = arg * 7
		case 7:
			s.Have, s.Missing, s.Done = s.Frames, 0, arg < 12
		case 8:
			w.now = w.now.Add(time.Duration(arg) * 700 * time.Millisecond)
			continue
		case 9, 10, 11:
			t := Trouble{Source: fmt.Sprintf("pc%02d", arg*2%40), Kind: []Kind{Silent, Refused, Corrupt}[what&15-9], Frame: arg}
			if o := w.orders[id]; len(o.Sources) > 0 && arg > 3 {
				t.Source = o.Sources[arg%len(o.Sources)].ID
			}
			s.Trouble = []Trouble{t}
		case 12:
			if arg == 7 {
				s.URL = ""
			}
		case 13:
			if arg > 8 {
				settled := ""
				if w.r.members[id] != nil {
					settled = s.Image
				}
				w.r.Leave(w.now, id)
				delete(w.status, id)
				delete(w.orders, id)
				w.check(settled)
				continue
			}
		case 14: // all that live say something
			w.now = w.now.Add(300 * time.Millisecond)
			for _, o := range w.order() {
				if (len(o.ID)+int(o.ID[3]))%8 != arg%8 {
					w.update(o)
				}
			}
		}
		w.update(s)
		s.Trouble = nil
		w.now = w.now.Add(40 * time.Millisecond)
	}
}

func (w *world) order() []*Status {
	var all []*Status
	for i := range 40 {
		if s := w.status[fmt.Sprintf("pc%02d", i)]; s != nil {
			all = append(all, s)
		}
	}
	return all
}

func (w *world) update(s *Status) {
	was, known := w.orders[s.ID]
	s.Serial = was.Serial
	s.Missing = min(s.Missing, s.Frames-s.Have)
	o := w.r.Update(w.now, *s)
	same := slices.Equal(o.Sources, was.Sources) && o.Depot == was.Depot && o.Stay == was.Stay && o.Why == was.Why && o.Key == was.Key
	if known && same != (o.Serial == was.Serial) || o.Serial < was.Serial {
		w.t.Errorf("%s: same is %v, serials %d and %d", s.ID, same, was.Serial, o.Serial)
	}
	w.orders[s.ID] = o
	w.check(s.Image)
}

// check looks at all images; settled is the one that time has reached.
func (w *world) check(settled string) {
	for _, im := range w.r.images {
		if im.stale {
			w.t.Error("the line changed after it was assigned")
		}
		line := im.line()
		at := map[*member]int{}
		for i, m := range line {
			at[m] = i
		}
		if len(at) != len(line) {
			w.t.Error("somebody stands twice in the line")
		}
		hold, little, needy := 0, true, 0
		inner := map[*member][2]int{}
		for _, m := range im.members {
			if m.depot {
				hold++
				little = little && m.lacks() <= few
			}
			if _, in := at[m]; !in {
				if m.block != nil || len(m.up) > 0 || m.depot || !m.lost && !m.retired {
					w.t.Errorf("%s: out of the line, %v", m.ID, m.block)
				}
				continue
			}
			for stripe, u := range m.up {
				if _, in := at[u]; !in || !u.serves() || m.avoid[u.ID] || u == m {
					w.t.Errorf("%s: can't get anything from %s", m.ID, u.ID)
				}
				if len(m.up) == 2 {
					n := inner[u]
					n[stripe]++
					inner[u] = n
				}
			}
			if w.checks%4 == 0 {
				depth(w.t, m)
			}
			if m.lacks() > 0 && !m.depot && m.needs(w.now) {
				needy++
				if o := im.why(m, w.now); o == "" {
					w.t.Errorf("%s waits and isn't told why", m.ID)
				}
			}
			if last := w.moved[m.key]; !last.Equal(m.moved) {
				if !last.IsZero() && !m.moved.IsZero() && m.moved.Sub(last) < memory {
					w.t.Errorf("%s moved %v after it moved", m.ID, m.moved.Sub(last))
				}
				w.moved[m.key] = m.moved
			}
			if len(m.avoid) > MaxFew || len(m.accused) > 2 {
				w.t.Errorf("%s avoids %d", m.ID, len(m.avoid))
			}
		}
		if hold > MaxDepot && !little || hold > MaxFew {
			w.t.Errorf("%d hold the depot", hold)
		}
		if needy > 0 && hold == 0 && im.root == settled {
			w.t.Errorf("%d need the appliance and nobody has it", needy)
		}
		for m, n := range inner {
			if in := slices.Contains(m.block.tree, m); in && n[0] > 0 && n[1] > 0 && m != m.block.tree[len(m.block.tree)-1] && !avoids(im) && !twice(m) {
				w.t.Errorf("%s is interior in both trees", m.ID)
			}
		}
		for _, b := range im.blocks {
			if len(b.chain) == 0 || len(b.chain) > max(im.cfg.ChainMax, 0) && b.lane > laneMute {
				w.t.Errorf("a block of %d and %d", len(b.chain), len(b.tree))
			}
		}
	}
	if w.checks++; w.checks%16 != 0 {
		return
	}
	places := map[string]bool{}
	for _, v := range w.r.View(w.now) {
		if key := fmt.Sprint(v.Image, v.Place); v.Place > 0 {
			if places[key] {
				w.t.Errorf("two at %s", key)
			}
			places[key] = true
		}
	}
}

// avoids says whether somebody goes round its source: then trees may overlap.
func avoids(im *image) bool {
	for _, m := range im.members {
		if len(m.avoid) > 0 {
			return true
		}
	}
	return false
}

// twice says whether one outside m's trees gets both stripes from m.
func twice(m *member) bool {
	for _, d := range m.down {
		if d.block != m.block {
			return true
		}
	}
	return false
}

func TestAlwaysHolds(t *testing.T) {
	for seed := range uint64(25) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		events := make([]byte, 900)
		for i := range events {
			events[i] = byte(rnd.Uint32())
		}
		w := newWorld(t)
		w.play(events)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 0, 0x88, 1, 0x99, 1, 0x9b})
	f.Add([]byte{0, 0xf1, 0, 0xf1, 1, 0, 1, 5, 2, 0, 0, 7, 1, 14, 2, 0x3b, 2, 14, 0, 0xfd})
	f.Fuzz(func(t *testing.T, events []byte) {
		newWorld(t).play(events[:min(len(events), 2000)])
	})
}
