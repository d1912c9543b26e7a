package relay

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// say is a PC's status: enough for the rules to look at.
func say(id string, have int, more ...func(*Status)) Status {
	s := Status{ID: id, Image: "image", URL: "http://" + id, Mbit: 1000, Frames: 100, Have: have}
	for _, f := range more {
		f(&s)
	}
	return s
}

func missing(n int) func(*Status)    { return func(s *Status) { s.Missing = n } }
func serial(o Order) func(*Status)   { return func(s *Status) { s.Serial = o.Serial } }
func mbit(n int) func(*Status)       { return func(s *Status) { s.Mbit = n } }
func backlog(n int) func(*Status)    { return func(s *Status) { s.Backlog = n } }
func inImage(i string) func(*Status) { return func(s *Status) { s.Image = i } }
func done(s *Status)                 { s.Done, s.Have = true, s.Frames }
func trouble(k Kind, of string) func(*Status) {
	return func(s *Status) { s.Trouble = append(s.Trouble, Trouble{Source: of, Kind: k, Frame: 7}) }
}

func from(o Order) string {
	var ids []string
	for _, s := range o.Sources {
		ids = append(ids, s.ID)
	}
	return strings.Join(ids, " ")
}

// bench is a relay with a clock of its own.
type bench struct {
	t   *testing.T
	r   *Relay
	now time.Time
}

func newBench(t *testing.T, c Config) *bench { return &bench{t, New(c), begin} }

func (b *bench) hear(ss ...Status) (o Order) {
	for _, s := range ss {
		o = b.r.Update(b.now, s)
	}
	return o
}

func (b *bench) pass(d time.Duration) { b.now = b.now.Add(d) }

func (b *bench) want(what string, o Order, sources string, depot bool) {
	b.t.Helper()
	if from(o) != sources || o.Depot != depot {
		b.t.Errorf("%s: from %q and depot %v, want %q and %v; why: %s", what, from(o), o.Depot, sources, depot, o.Why)
	}
}

func TestAloneAndInAChain(t *testing.T) {
	b := newBench(t, Config{})
	b.want("alone", b.hear(say("a", 0, missing(100))), "", true)
	b.want("second", b.hear(say("b", 0, missing(100))), "a", false)
	b.want("third", b.hear(say("c", 0, missing(100))), "b", false)
	b.want("another image", b.hear(say("x", 0, missing(100), inImage("other"))), "", true)
	b.want("a faster one in time", b.hear(say("d", 0, missing(100), mbit(2500))), "", true)
	b.want("the first", b.hear(say("a", 2, missing(98))), "d", false)
	b.hear(say("d", 60, missing(40), mbit(2500)), say("a", 60), say("b", 60), say("c", 60))
	b.want("a faster one late", b.hear(say("e", 0, missing(100), mbit(2500))), "d", false)
	b.want("a slow link", b.hear(say("f", 0, missing(100), mbit(100))), "c", false)
	if o := b.hear(say("f", 0, missing(100), mbit(100))); !o.Sources[0].Patient {
		t.Error("a link of 100 Mbit/s holds one of 1000 up")
	}
}

func TestSerialGrowsWithContentOnly(t *testing.T) {
	b := newBench(t, Config{})
	first := b.hear(say("a", 0, func(s *Status) { s.Serial = 41 }))
	if first.Serial != 42 || first.Key == "" {
		t.Errorf("after an appliance's restart: %+v", first)
	}
	second := b.hear(say("a", 5, serial(first), missing(95)))
	if second.Serial != first.Serial {
		t.Errorf("nothing changed: %d after %d", second.Serial, first.Serial)
	}
	b.hear(say("b", 0))
	if third := b.hear(say("a", 6, serial(second), missing(94))); third.Serial != first.Serial+1 || !third.Stay {
		t.Errorf("b profits now: %+v", third)
	}
}

func TestDepot(t *testing.T) {
	b := newBench(t, Config{})
	head := b.hear(say("a", 0, missing(100)))
	late := b.hear(say("b", 0))
	b.hear(say("a", 50, missing(50), serial(head)))
	b.want("its source has frames for it", b.hear(say("b", 10, missing(30), serial(late))), "a", false)
	o := b.hear(say("b", 70, missing(30), serial(late)))
	b.want("the head isn't ready", o, "a", false)
	if o.Why == "" {
		t.Error("b isn't told why it waits")
	}
	b.hear(say("a", 100))
	b.want("the head is ready", b.hear(say("b", 70, missing(30), serial(o))), "a", true)
	b.hear(say("c", 0, missing(100)))
	b.want("behind it", b.hear(say("c", 0, missing(100))), "b", false)
	// The holder says no more: the next gets the appliance.
	for range 8 {
		b.pass(time.Second)
		o = b.hear(say("a", 100), say("c", 0, missing(100), serial(o)))
	}
	b.want("the holder is gone", o, "a", true)
	b.r.Leave(b.now, "a")
	b.want("all others are gone", b.hear(say("c", 0, missing(100), serial(o))), "", true)
}

func TestDoneStaysWhileSomebodyProfits(t *testing.T) {
	b := newBench(t, Config{Linger: 10 * time.Second})
	b.hear(say("a", 0, missing(100)))
	o := b.hear(say("b", 0))
	if a := b.hear(say("a", 100, done)); !a.Stay {
		t.Error("b still gets frames from a")
	}
	b.want("from one that is done", b.hear(say("b", 60, missing(20), serial(o))), "a", true)
	b.hear(say("b", 80, missing(20), serial(o)))
	if a := b.hear(say("a", 100, done)); a.Stay {
		t.Error("a has nothing for b any more")
	}
	b.want("alone", b.hear(say("b", 80, missing(20), serial(o))), "", true)

	b = newBench(t, Config{Linger: 10 * time.Second})
	b.hear(say("a", 0, missing(100)), say("b", 0), say("a", 100, done))
	for i := range 13 {
		b.pass(time.Second)
		a := b.hear(say("b", i), say("a", 100, done))
		if want := i < 9; a.Stay != want {
			t.Errorf("%d s after the end: stay is %v", i+1, a.Stay)
		}
	}
}

func TestSilence(t *testing.T) {
	b := newBench(t, Config{})
	all := func(except string) {
		for _, id := range []string{"a", "b", "c", "d"} {
			if id != except {
				b.hear(say(id, 10))
			}
		}
	}
	all("")
	b.pass(time.Second)
	all("")
	b.pass(900 * time.Millisecond)
	b.want("b was heard of a moment ago", b.hear(say("c", 10, trouble(Silent, "b"))), "b", false)
	b.pass(100 * time.Millisecond)
	all("b")
	b.pass(time.Second)
	all("b")
	b.pass(100 * time.Millisecond)
	b.want("nobody heard of b for 2 s", b.hear(say("c", 10)), "a", false)
	b.want("who stands behind", b.hear(say("d", 10)), "c", false)
	b.want("b lives after all", b.hear(say("b", 10)), "d", false)

	// A word against somebody that is no source of one's own is no fact.
	b.hear(say("d", 10, trouble(Silent, "a")), say("b", 10, trouble(Refused, "a")), say("d", 10, trouble(Corrupt, "a")))
	b.pass(3 * time.Second)
	all("")
	for _, m := range b.r.View(b.now) {
		if m.Mute != "" || m.Suspected != "" || m.Slow != "" {
			t.Errorf("held against %s: %s%s%s", m.ID, m.Mute, m.Suspected, m.Slow)
		}
	}
}

func TestComplaintsOfOneThatLives(t *testing.T) {
	b := newBench(t, Config{})
	all := func() { b.hear(say("a", 10), say("b", 10), say("c", 10), say("d", 10)) }
	all()
	b.want("once", b.hear(say("c", 10, trouble(Refused, "b"))), "b", false)
	b.pass(time.Second)
	all()
	b.want("twice", b.hear(say("c", 10, trouble(Refused, "b"))), "a", false)
	b.want("others still get something", b.hear(say("e", 10)), "b", false)
	for range 15 {
		b.pass(time.Second)
		all()
	}
	b.r.Leave(b.now, "a")
	b.r.Leave(b.now, "d")
	b.want("never again", b.hear(say("c", 10)), "", true)
}

// When the whole network is away for a while, nobody is thrown out for it.
func TestPauseOfAll(t *testing.T) {
	b := newBench(t, Config{})
	b.hear(say("a", 10), say("b", 10), say("c", 10))
	b.pass(4 * time.Second)
	b.want("the last speaks first", b.hear(say("c", 10, trouble(Silent, "b"))), "b", false)
	b.hear(say("b", 10, trouble(Silent, "a")), say("a", 10))
	b.want("all are back", b.hear(say("b", 10)), "a", false)
}

func TestDamage(t *testing.T) {
	b := newBench(t, Config{})
	all := func() {
		b.pass(time.Second)
		b.hear(say("a", 10), say("b", 10), say("c", 10), say("d", 10))
	}
	all()
	// d says first what c got damaged from b itself.
	b.hear(say("d", 10, trouble(Corrupt, "c")))
	b.pass(500 * time.Millisecond)
	b.hear(say("c", 10, trouble(Corrupt, "b")))
	for range 5 {
		all()
	}
	for _, m := range b.r.View(b.now) {
		if (m.Suspected != "") != (m.ID == "b") {
			t.Errorf("%s: %q", m.ID, m.Suspected)
		}
	}
	b.want("behind the culprit", b.hear(say("c", 10)), "a", false)
	b.want("the culprit", b.hear(say("b", 10)), "d", false)
	b.r.Leave(b.now, "b")
	b.hear(say("b", 10))
	b.want("it is known when it comes again", b.hear(say("e", 10)), "d", false)

	// Who accuses one after the other has the damage itself.
	b = newBench(t, Config{})
	all()
	b.hear(say("c", 10, trouble(Corrupt, "b")))
	all()
	all()
	b.want("another source", b.hear(say("c", 10, trouble(Corrupt, "a"))), "a", false)
	all()
	all()
	for _, m := range b.r.View(b.now) {
		if (m.Suspected != "") != (m.ID == "c") {
			t.Errorf("%s: %q", m.ID, m.Suspected)
		}
	}
}

// A disk counts as slow when others are faster, not when it is busy.
func TestSlowDisks(t *testing.T) {
	for _, c := range []struct {
		name   string
		others int // percent of their memory
		slow   bool
	}{{"the others have room", 5, true}, {"all are as slow", 80, false}} {
		b := newBench(t, Config{})
		moved := false
		for i := range 12 {
			b.hear(say("a", 4*i), say("b", 4*i, backlog(80)), say("c", 4*i, backlog(c.others)), say("d", 4*i, backlog(c.others)))
			b.pass(time.Second)
		}
		for _, m := range b.r.View(b.now) {
			moved = moved || m.Slow != ""
			if m.Slow != "" && (m.ID != "b" || m.Place != 4) {
				t.Errorf("%s: %+v", c.name, m)
			}
		}
		if moved != c.slow {
			t.Errorf("%s: moved is %v", c.name, moved)
		}
	}
}

func TestSlowHop(t *testing.T) {
	b := newBench(t, Config{})
	rate := func(n int) func(*Status) { return func(s *Status) { s.Frames, s.Rate = 1000, int64(n)*1e6 } }
	place := func(id string) (Member, int) {
		v := b.r.View(b.now)
		i := slices.IndexFunc(v, func(m Member) bool { return m.ID == id })
		return v[i], v[i].Place
	}
	// c gets a third of what b gets, behind whomever it stands.
	for i := range 30 {
		fast, slow := say("", 9*i), 3*i
		for _, id := range []string{"a", "b", "d"} {
			fast.ID, fast.URL = id, "http://"+id
			rate(100)(&fast)
			b.hear(fast)
			if id == "b" {
				b.hear(say("c", slow, rate(30)))
			}
		}
		b.pass(time.Second)
		if m, _ := place("c"); i < 6 && m.Slow != "" {
			t.Errorf("after %d s c is moved before its source was changed", i)
		}
	}
	if m, at := place("c"); m.Slow == "" || at != 4 {
		t.Errorf("c: %+v", m)
	}
	if m, _ := place("b"); m.Slow != "" || m.Mute != "" {
		t.Errorf("b: %+v", m)
	}
}

// A head with a bad cable holds up everybody; but when all heads get little, the
// appliance is the slow one, and the line is as it was.
func TestSlowHead(t *testing.T) {
	slow := func(who string) func(string, int) int {
		return func(id string, _ int) int {
			if strings.Contains(who, id) {
				return 10
			}
			return 90
		}
	}
	for _, c := range []struct {
		name  string
		pcs   string                          // in the order in which they come
		pace  func(id string, second int) int // MB/s that each would get from the appliance; below 0: it isn't there yet
		moved string                          // at the end
	}{
		{"the head's cable", "abcdef", slow("a"), "a"},
		{"two cables", "abcdef", slow("ab"), "ab"},
		{"of two PCs", "ab", slow("a"), "a"},
		{"the appliance", "abcdef", slow("abcdef"), ""},
		{"the appliance, two PCs", "ab", slow("ab"), ""},
		{"nobody else", "a", slow("a"), ""},
		{"nobody else at first", "abcdef", func(id string, second int) int {
			if id != "a" && second < 15 {
				return -1
			}
			return slow("a")(id, second)
		}, "a"},
		{"the appliance, for a moment now and then", "abcdef", func(_ string, second int) int {
			if second%12 < 3 {
				return 10
			}
			return 90
		}, ""},
		{"the appliance, about a quarter", "abcdef", func(id string, _ int) int {
			if id < "c" {
				return 30
			}
			return 33
		}, ""},
		{"the appliance, for half of the time", "abcdef", func(_ string, second int) int {
			if second < 30 {
				return 20
			}
			return 40
		}, ""},
	} {
		b := newBench(t, Config{})
		have, orders := map[string]int{}, map[string]Order{} // in MB
		moves := 0
		for second := range 60 {
			for id := range strings.SplitSeq(c.pcs, "") {
				o, pace := orders[id], c.pace(id, second)
				if pace < 0 {
					continue
				}
				missing := 100_000 - have[id]
				if len(o.Sources) > 0 {
					pace, missing = min(pace, have[o.Sources[0].ID]-have[id]), 0
				} else if !o.Depot {
					pace = 0
				}
				have[id] += pace
				next := b.hear(say(id, have[id], serial(o), func(s *Status) {
					s.Frames, s.Missing, s.Rate = 100_000, missing, int64(pace)*1e6
				}))
				if from(next) != from(o) {
					moves++
				}
				orders[id] = next
			}
			b.pass(time.Second)
		}
		moved := ""
		for id := range strings.SplitSeq(c.pcs, "") {
			if b.member(id).Slow != "" {
				moved += id
			}
		}
		if moved != c.moved || moves > 4*len(c.pcs) {
			t.Errorf("%s: %q stand behind, after %d changes", c.name, moved, moves)
		}
		if f := have[c.pcs[len(c.pcs)-1:]]; c.moved != "" && f < 3000 {
			t.Errorf("%s: the last PC has %d MB after a minute", c.name, f)
		}
	}
}

func TestBounds(t *testing.T) {
	b := newBench(t, Config{})
	if o := b.hear(Status{ID: strings.Repeat("x", 1000), Image: "i"}); o.Why == "" || len(b.r.members) > 0 {
		t.Errorf("a long name: %+v", o)
	}
	o := b.hear(Status{ID: "a", Image: "i", URL: strings.Repeat("x", 1000), Frames: -4, Have: 7, Missing: -1, Rate: -1, Backlog: 900, Serial: -8})
	if m := b.r.members["a"]; m.URL != "" || m.Frames != 0 || m.Have != 0 || m.Backlog != 100 || o.Serial != 1 {
		t.Errorf("%+v", m.Status)
	}
	for i := range MaxMembers + 5 {
		o = b.hear(say(fmt.Sprint(i), 0, inImage(fmt.Sprint(i%100))))
	}
	if len(b.r.members) != MaxMembers || o.Why == "" || o.Depot {
		t.Errorf("%d members, the last is told: %+v", len(b.r.members), o)
	}
	for i := range MaxMembers {
		b.r.Leave(b.now, fmt.Sprint(i))
	}
	b.r.Leave(b.now, "a")
	if len(b.r.members)+len(b.r.images) > 0 {
		t.Error("something is left of nobody")
	}
}

func BenchmarkUpdate1000(b *testing.B) {
	r := New(Config{})
	now := begin
	orders := make([]Order, 1000)
	status := make([]Status, 1000)
	for i := range status {
		status[i] = Status{ID: fmt.Sprint(i), Image: "image", URL: "http://10.0.0.1:4711", Mbit: 1000, Frames: 1 << 20}
		orders[i] = r.Update(now, status[i])
	}
	for i := 0; b.Loop(); i++ {
		s := &status[i%1000]
		s.Have, s.Serial, s.Rate = s.Have+1, orders[i%1000].Serial, 1e8
		orders[i%1000] = r.Update(now, *s)
		now = now.Add(time.Millisecond)
	}
}
