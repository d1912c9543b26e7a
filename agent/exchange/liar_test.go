package exchange

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/images"
)

// A conversation is what a made-up source says in one stream. When it returns,
// the stream breaks.
type conversation func(say func(...[]byte) error, a ask, r *http.Request)

// madeUp is a source that follows a script, one conversation a stream; the last
// one is repeated.
func madeUp(t *testing.T, talk ...conversation) wire.Source {
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var a ask
		if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
			t.Error(err)
		}
		c := http.NewResponseController(w)
		say := func(parts ...[]byte) error {
			c.SetWriteDeadline(time.Now().Add(1500 * time.Millisecond))
			w.Write(bytes.Join(parts, nil))
			return c.Flush()
		}
		say()
		talk[min(int(n.Add(1)), len(talk))-1](say, a, r)
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(s.Close)
	return wire.Source{ID: "made up", URL: s.URL, Key: "any"}
}

// lives gives signs of life until nobody listens.
func lives(say func(...[]byte) error, _ ask, r *http.Request) {
	for say(record(recAlive, 0)) == nil {
		select {
		case <-time.After(signs):
		case <-r.Context().Done():
			return
		}
	}
}

// told is a frame as a source sends it.
func (p *picture) told(i int) []byte { return tell(i, p.bytes(i)) }

func (p *picture) bytes(i int) []byte { return p.frames[p.m.Frames[i].Offset:][:p.m.Frames[i].Length] }

func tell(i int, b []byte) []byte {
	out := record(recFrame, i, 0)
	for piece := range slices.Chunk(b, maxPiece) {
		out = append(append(out, record(recData, len(piece))...), piece...)
	}
	return out
}

func broken(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

// until waits for something.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

// check is what imaging does with a frame before it is written.
func (c *pc) check(t *testing.T, f Frame) bool {
	t.Helper()
	dec, err := images.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	_, err = dec.Decode(c.cfg.Manifest, f.Index, f.Data, make([]byte, images.FrameSize))
	c.Checked(f, err == nil)
	return err == nil
}

func (c *pc) want(t *testing.T) Frame {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	f, err := c.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The start of a frame that its source found bad is not kept: the frame comes
// again from its first byte.
func TestBadStart(t *testing.T) {
	t.Parallel()
	p := paint(t, 8, false)
	h := newHall(t, p)
	c := h.join("a", nil)
	bad := broken(p.bytes(0))
	h.order("a", wire.Order{Sources: []wire.Source{madeUp(t, func(say func(...[]byte) error, a ask, r *http.Request) {
		say(record(recFrame, 0, 0), record(recData, 40_000), bad[:40_000], record(recAbort), record(recBad, 0), p.told(0))
		lives(say, a, r)
	})}})
	if !c.check(t, c.want(t)) {
		t.Error("the bad start is still there")
	}
}

// A source that begins a frame anew is listened to, whatever is here of it.
func TestBeginsAnew(t *testing.T) {
	t.Parallel()
	p := paint(t, 8, false)
	h := newHall(t, p)
	c := h.join("a", nil)
	h.order("a", wire.Order{Sources: []wire.Source{madeUp(t, func(say func(...[]byte) error, a ask, r *http.Request) {
		say(record(recFrame, 0, 0), record(recData, 40_000), p.bytes(0)[:40_000], record(recAbort), p.told(0))
		lives(say, a, r)
	})}})
	if !c.check(t, c.want(t)) {
		t.Error("it doesn't fit together")
	}
}

// A frame that a source thinks is here is promised by nobody when it turns out
// to be bad, and nobody is named who can't own up any more.
func TestBadOfAnotherStream(t *testing.T) {
	t.Parallel()
	p := paint(t, 8, false)
	h := newHall(t, p)
	c := h.join("a", nil)
	first := madeUp(t, func(say func(...[]byte) error, a ask, r *http.Request) {
		say(tell(0, broken(p.bytes(0))))
		lives(say, a, r)
	})
	h.order("a", wire.Order{Sources: []wire.Source{first}})
	f := c.want(t)
	asked := make(chan ask, 10)
	again := madeUp(t, func(say func(...[]byte) error, a ask, r *http.Request) {
		asked <- a
		lives(say, a, r)
	})
	h.order("a", wire.Order{Sources: []wire.Source{again}}) // the same PC by its name
	if a := <-asked; !bit(a.Have, 0) {
		t.Fatal("it asked for what it has")
	}
	c.check(t, f)
	c.poke()
	until(t, "the frame is missing", func() bool { s, _ := h.said("a"); return s.Missing == 1 })
	for _, s := range c.following() {
		s.mu.Lock()
		if s.times > 0 || len(s.spoilt) > 0 {
			t.Error("blamed for what came in another stream")
		}
		s.mu.Unlock()
	}
}

// A source that owns up and sends the frame again, all of it before this PC
// came to look, is innocent.
func TestOwnsUpEarly(t *testing.T) {
	t.Parallel()
	p := paint(t, 8, false)
	h := newHall(t, p)
	c := h.join("a", nil)
	h.order("a", wire.Order{Sources: []wire.Source{madeUp(t, func(say func(...[]byte) error, a ask, r *http.Request) {
		say(tell(0, broken(p.bytes(0))), record(recBad, 0), p.told(0), record(recGood, 0), p.told(1))
		lives(say, a, r)
	})}})
	f := c.want(t)
	if next := c.want(t); next.Index != 1 { // so all of that has been heard
		t.Fatal(next.Index)
	}
	c.check(t, f)
	c.poke()
	until(t, "the frame is missing", func() bool { s, _ := h.said("a"); return s.Missing == 1 })
	if _, trouble := h.said("a"); len(trouble) > 0 {
		t.Errorf("%+v", trouble)
	}
}

// A source that was named, and that the appliance believes in all the same, is
// asked again after a while.
func TestSecondChance(t *testing.T) {
	t.Parallel()
	p := paint(t, 8, false)
	h := newHall(t, p)
	c := h.join("a", nil)
	h.order("a", wire.Order{Sources: []wire.Source{madeUp(t,
		func(say func(...[]byte) error, a ask, r *http.Request) {
			say(tell(0, broken(p.bytes(0))), record(recGood, 0))
			lives(say, a, r)
		},
		func(say func(...[]byte) error, a ask, r *http.Request) {
			for i, f := range p.m.Frames {
				if f.Length > 0 {
					say(p.told(i))
				}
			}
			lives(say, a, r)
		})}})
	h.all(c)
	want := wire.Trouble{Source: "made up", Kind: wire.TroubleCorrupt}
	_, trouble := h.said("a")
	trouble = slices.DeleteFunc(trouble, func(v wire.Trouble) bool { return v.Kind == wire.TroubleSilent }) // a machine that has too much to do
	if len(trouble) != 1 || trouble[0] != want {
		t.Errorf("%+v", trouble)
	}
}

// An order that names the PC itself, one source twice, or three of them, loses
// nothing.
func TestOddOrders(t *testing.T) {
	t.Parallel()
	p := paint(t, 8, false)
	h := newHall(t, p)
	a := h.join("a", nil)
	h.order("a", wire.Order{Sources: []wire.Source{a.source()}, Depot: true})
	h.all(a)
	b := h.join("b", nil)
	h.order("b", wire.Order{Sources: []wire.Source{a.source(), a.source(), a.source()}})
	h.all(b)
}

// Memory gets tight, and the start of a frame that broke off is forgotten after a
// taker got it. It was never checked: the taker gets the frame from its first
// byte when it comes again, or this PC would be named for what others sent.
func TestForgottenStart(t *testing.T) {
	p := paint(t, 24, true)
	s := newShelf(p.m, minMemory, nil, nil)
	taker := &taker{stripes: 1, have: make([]byte, 3), partial: map[int]int64{}}
	s.admit(taker)
	b, err := s.begin(t.Context(), 0, 0, "a")
	if err != nil || b == nil {
		t.Fatal(b, err)
	}
	s.grow(b, 1000)
	s.end(0, b)
	taker.partial[0] = 1000 // and went on to something else
	for i := 1; !b.bad; i++ {
		if p.m.Frames[i].Length == 0 {
			continue
		}
		if b, err := s.begin(t.Context(), i, 0, "b"); err != nil || b == nil {
			t.Fatal(b, err)
		}
	}
	s.frames[0].state, s.frames[0].box = whole, &box{data: make([]byte, p.m.Frames[0].Length)}
	s.order = append(s.order, 0)
	taker.have = []byte{0xfe, 0xff, 0xff}
	if i, b, offset := s.pick(taker); i != 0 || b == nil || offset != 0 {
		t.Errorf("frame %d goes on at %d", i, offset)
	}
}

// Whoever let nothing in for long doesn't complain that its source went away.
func TestLetGo(t *testing.T) {
	t.Parallel()
	p := paint(t, 24, true)
	h := newHall(t, p)
	c := h.join("a", func(c *Config) { c.Memory = minMemory })
	left := make(chan struct{})
	h.order("a", wire.Order{Sources: []wire.Source{madeUp(t,
		func(say func(...[]byte) error, a ask, r *http.Request) {
			defer close(left)
			for i, f := range p.m.Frames {
				if f.Length > 0 && say(p.told(i)) != nil {
					return
				}
			}
			t.Error("everything fitted")
		},
		func(say func(...[]byte) error, a ask, r *http.Request) {
			for i, f := range p.m.Frames {
				if n := a.Partial[i]; f.Length > 0 && !bit(a.Have, i) {
					b := tell(i, p.bytes(i)[n:])
					copy(b, record(recFrame, i, int(n)))
					if say(b) != nil {
						return
					}
				}
			}
			lives(say, a, r)
		})}})
	<-left
	h.all(c)
	if _, trouble := h.said("a"); len(trouble) > 0 {
		t.Errorf("%+v", trouble)
	}
}

// The first frame is damaged on its way. Nothing can be written without it, so
// memory fills up with others; it must come all the same.
func TestFirstComesBad(t *testing.T) {
	t.Parallel()
	p := paint(t, 24, true)
	var n atomic.Int64
	p.wrap = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == 1 {
				w = &spoiler{w}
			}
			h.ServeHTTP(w, r)
		})
	}
	h := newHall(t, p)
	modest := func(c *Config) { c.Memory, c.First = minMemory, []int{0} }
	a, b := h.join("a", modest), h.join("b", modest)
	h.order("b", wire.Order{Sources: []wire.Source{a.source()}})
	for !a.taken() {
		h.order("a", wire.Order{})
		time.Sleep(10 * time.Millisecond)
	}
	h.order("a", wire.Order{Depot: true})
	got := make(chan error, 2)
	for _, c := range []*pc{a, b} {
		go func() { got <- c.firstThenRest(t.Context()) }()
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	h.order("b", wire.Order{Sources: []wire.Source{a.source()}, Depot: true}) // it may have had to let some pass
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	a.complete(t)
	b.complete(t)
}

// firstThenRest works as imaging does: what comes before frame 0 waits.
func (c *pc) firstThenRest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	dec, err := images.NewDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	raw := make([]byte, images.FrameSize)
	var early []Frame
	for first := false; !first; {
		f, err := c.Next(ctx)
		if err != nil {
			return err
		}
		if f.Index != 0 {
			early = append(early, f)
			continue
		}
		_, err = dec.Decode(c.cfg.Manifest, 0, f.Data, raw)
		first = err == nil
		c.Checked(f, first)
	}
	c.got = append(c.got, 0)
	c.Stored(0)
	for _, f := range early {
		_, err := dec.Decode(c.cfg.Manifest, f.Index, f.Data, raw)
		c.Checked(f, err == nil)
		if err == nil {
			c.got = append(c.got, f.Index)
			c.Stored(f.Index)
		}
	}
	return c.work(ctx, 0)
}
