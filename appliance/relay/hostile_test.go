package relay

import (
	"testing"
	"time"
)

func (b *bench) member(id string) Member {
	for _, m := range b.r.View(b.now) {
		if m.ID == id {
			return m
		}
	}
	return Member{}
}

// A head that gets everything fast and passes it on slowly is the slow one, not
// those behind it, however many there are.
func TestHeadThatSendsSlowly(t *testing.T) {
	b := newBench(t, Config{})
	ids := []string{"a", "b", "c", "d", "e", "f"}
	have, orders := map[string]int{}, map[string]Order{}
	b.hear(say("a", 0, missing(100)))
	for range 40 {
		for _, id := range ids {
			pace, before := 3, orders[id].Sources
			if orders[id].Depot || len(before) > 0 && before[0].ID != "a" {
				pace = 9
			}
			have[id] += pace
			if len(before) > 0 {
				have[id] = min(have[id], have[before[0].ID])
			}
			orders[id] = b.hear(say(id, have[id], serial(orders[id]), func(s *Status) { s.Frames, s.Rate = 10000, int64(pace)*11e6 }))
		}
		b.pass(time.Second)
	}
	for _, id := range ids {
		if m := b.member(id); (m.Slow != "") != (id == "a") {
			t.Errorf("%s: place %d, slow: %q", id, m.Place, m.Slow)
		}
	}
}

// liar is a PC that says what it likes, before three that tell the truth and get
// what there is.
func liar(t *testing.T, seconds int, lie func(second int, s *Status)) (b *bench, first int) {
	b = newBench(t, Config{})
	ids := []string{"x", "a", "b", "c"}
	have, orders := map[string]int{}, map[string]Order{}
	first = -1
	for second := range seconds {
		for _, id := range ids {
			o := orders[id]
			s := say(id, have[id], serial(o))
			s.Frames = 1000
			if id == "x" {
				lie(second, &s)
			} else {
				if o.Depot {
					have[id] += 20
				} else if len(o.Sources) > 0 {
					have[id] = max(have[id], have[o.Sources[0].ID])
				}
				if s.Have = have[id]; s.Have > 0 {
					s.Rate = 1e8
				}
				if len(o.Sources) == 0 {
					s.Missing = s.Frames - s.Have
				}
				if have[id] > 0 && first < 0 {
					first = second
				}
			}
			orders[id] = b.hear(s)
		}
		b.pass(time.Second)
	}
	return b, first
}

// A PC that holds the appliance and everybody up with words alone costs the
// others less than a minute.
func TestLiarsCostABoundedTime(t *testing.T) {
	for name, lie := range map[string]func(second int, s *Status){
		"it gets something now and then": func(second int, s *Status) {
			s.Mbit, s.Have, s.Rate = 10000, 1+second/8, 1e12
			s.Missing = s.Frames - s.Have
		},
		"what it has comes and goes": func(second int, s *Status) {
			s.Mbit, s.Have, s.Rate = 10000, second%2, 1e12
			s.Missing = s.Frames - s.Have
		},
		"it has nearly everything": func(second int, s *Status) {
			s.Mbit, s.Have, s.Missing, s.Rate = 10000, 900+second/8, 10, 1e12
		},
		"it has everything and isn't done": func(second int, s *Status) { s.Mbit, s.Have = 10000, 1000 },
		"its memory is full":               func(second int, s *Status) { s.Backlog, s.Missing = 100, 1000 },
		"it lacks everything and waits": func(second int, s *Status) {
			s.Mbit, s.Backlog = 2500, 40
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, first := liar(t, 150, lie)
			if first < 0 || first > 60 {
				t.Errorf("the others got their first frame after %d s", first)
			}
			for _, id := range []string{"a", "b", "c"} {
				if m := b.member(id); m.Have < 1000 {
					t.Errorf("%s has %d after 150 s: %+v", id, m.Have, m)
				}
			}
		})
	}
}

// Whose memory is full of what the PC behind it still lacks gets little, and is
// not slow for it.
func TestHeldBackIsNotSlow(t *testing.T) {
	b := newBench(t, Config{})
	for i := range 12 {
		at := func(have, mbytes int) func(*Status) {
			return func(s *Status) { s.Frames, s.Have, s.Rate = 1000, have, int64(mbytes)*1e6 }
		}
		b.hear(say("a", 0, at(10*i, 100)), say("b", 0, at(10*i, 100)), say("c", 0, at(20+3*i, 30)), say("d", 0, at(3*i, 30)))
		if i < 4 {
			b.hear(say("c", 0, at(10*i, 30)))
		}
		b.pass(time.Second)
	}
	for _, id := range []string{"a", "b", "c"} {
		if m := b.member(id); m.Slow != "" {
			t.Errorf("%s: %+v", id, m)
		}
	}
	if m := b.member("b"); m.Place != 2 {
		t.Errorf("b was moved for c's sake: %+v", m)
	}
}

// Who has waited long for its turn at the appliance has time to use it.
func TestTurnAfterALongWait(t *testing.T) {
	b := newBench(t, Config{})
	o := b.hear(say("a", 0, missing(100)))
	b.hear(say("b", 50, missing(50)))
	for i := range 20 {
		b.pass(time.Second)
		b.hear(say("a", 5*i, missing(100-5*i)))
		o = b.hear(say("b", 50, missing(50), serial(o)))
	}
	b.hear(say("a", 100))
	b.want("its turn", b.hear(say("b", 50, missing(50), serial(o))), "a", true)
	for range 4 {
		b.pass(300 * time.Millisecond)
		b.hear(say("a", 100))
	}
	if m := b.member("b"); m.Slow != "" || !m.Depot {
		t.Errorf("%+v", m)
	}
}

// Whoever is done, then isn't, then is, doesn't keep the others' orders moving.
func TestDoneThatSwings(t *testing.T) {
	b := newBench(t, Config{})
	ids := []string{"a", "b", "c", "d"}
	for _, id := range ids {
		b.hear(say(id, 50)) // found on the disk
	}
	changes, last := 0, map[string]string{}
	for i := range 100 {
		b.hear(say("x", 0, func(s *Status) { s.Done = i%2 == 1 }))
		b.pass(100 * time.Millisecond)
		for _, id := range ids {
			if o := from(b.hear(say(id, 50+i/10, missing(50-i/10)))); o != last[id] {
				changes, last[id] = changes+1, o
			}
		}
		b.pass(200 * time.Millisecond)
	}
	if changes > 4*len(ids) {
		t.Errorf("%d orders changed in 30 s", changes)
	}
}

// One PC says anything at all, and passes nothing on. The others get the image
// in a bounded time.
func TestModelOneLies(t *testing.T) {
	worst := 0
	for seed := range uint64(50) {
		w := newModel(t, seed, 300, Config{ChainMax: 4 + int(seed%2)*60})
		rnd := w.rnd
		who := rnd.IntN(12)
		w.add(12, func(i int, p *vpc) {
			p.memory = 24 + rnd.IntN(40)
			p.joins = rnd.IntN(2) * rnd.IntN(200)
			if i != who {
				return
			}
			p.joins = rnd.IntN(30)
			p.mbit = []int{1000, 10000}[rnd.IntN(2)]
			calm := rnd.IntN(8) // how often it changes its mind
			var say Status
			p.lie = func(s *Status) {
				if s.Serial == 0 || rnd.IntN(1+calm*calm) == 0 {
					say.Have = rnd.IntN(s.Frames + 1)
					say.Missing = []int{0, s.Frames, rnd.IntN(s.Frames)}[rnd.IntN(3)]
					say.Backlog = []int{0, 100}[rnd.IntN(2)]
					say.Rate = []int64{0, 1e6, 1e12}[rnd.IntN(3)]
					say.Done = rnd.IntN(6) == 0
				}
				if rnd.IntN(20) == 0 {
					say.Have = min(say.Have+1, s.Frames)
				}
				s.Have, s.Missing, s.Backlog, s.Rate, s.Done, s.Trouble = say.Have, say.Missing, say.Backlog, say.Rate, say.Done, nil
				for _, u := range w.pcs[who].order.Sources {
					if rnd.IntN(6) == 0 {
						s.Trouble = append(s.Trouble, Trouble{Source: u.ID, Kind: []Kind{Silent, Refused}[rnd.IntN(2)]})
					}
				}
			}
		})
		steps := w.run(8000)
		worst = max(worst, steps)
		t.Logf("seed %d: %d steps, slow: %v", seed, steps, w.slow)
	}
	if limit := 300 + 200 + 60*20; worst > limit {
		t.Errorf("%d steps, want at most %d: a liar costs a minute", worst, limit)
	}
}
