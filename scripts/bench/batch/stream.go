package batch

import (
	"fmt"
	"slices"
	"time"

	"refurb/appliance/relay"
)

const (
	piece  = 64 << 10  // bytes that are sent in one go and passed on when they are there
	window = 4 * piece // bytes of one stream on their way at once
)

// stream is one source's push of one stripe to one taker, or what a taker
// fetches from the appliance.
type stream struct {
	from, to        *peer
	stripe, stripes int
	depot           bool
	patient         bool
	closed          bool
	lacks           []bool  // by frame: the source thinks that the taker lacks it
	queue           []int32 // frames to send, as they arrived at the source
	cur             int32   // being sent; -1: none
	sent            int32   // of it
	idle            bool    // of it nothing is wanted: the taker got it elsewhere
	spoilt          bool    // the source changes its bytes
	slow            float64 // of the sender's link, for this frame
	inflight        int64
}

// rate turns Mbit/s into bytes per nanosecond.
func rate(mbit float64) float64 { return mbit / 8 / 1000 }

// pump sends the next piece of p's link, in turn to everybody for whom there is
// one.
func (e *engine) pump(p *peer) {
	if p.busy || p.dead || p.left {
		return
	}
	for i := range p.out {
		at := (p.turn + i) % len(p.out)
		s := p.out[at]
		if n := e.ready(s); n > 0 {
			p.turn = at + 1
			e.send(s, n)
			return
		}
	}
}

// ready gives the bytes that can go through s now, and begins a frame if none is
// being sent.
func (e *engine) ready(s *stream) int32 {
	if s.inflight >= window || s.to.dead && s.cur < 0 {
		return 0
	}
	src := s.from
	if s.cur >= 0 && !s.depot {
		// A frame that broke off at the source gives way to others.
		if f := &src.frames[s.cur]; f.state == lacking && f.got <= s.sent && e.peek(s) >= 0 {
			e.broken(s)
		}
	}
	if s.cur < 0 && !e.begin(s) {
		return 0
	}
	size := s.to.sizes[s.cur]
	have := size
	if !s.depot {
		have = src.frames[s.cur].got
	}
	n := min(piece, have-s.sent)
	if n < piece && s.sent+n < size {
		return 0
	}
	return n
}

// peek gives the next frame that s can send, or -1.
func (e *engine) peek(s *stream) int32 {
	for len(s.queue) > 0 {
		i := s.queue[0]
		f := &s.from.frames[i]
		if s.lacks[i] && f.state != lacking && f.state != gone {
			return i
		}
		s.queue = s.queue[1:]
	}
	return -1
}

func (e *engine) begin(s *stream) bool {
	var i int32
	if s.depot {
		if !s.to.order.Depot {
			return false
		}
		i = s.to.unpromised()
	} else {
		i = e.peek(s)
	}
	if i < 0 {
		return false
	}
	f := &s.to.frames[i]
	s.idle = f.state != lacking
	if !s.idle {
		if !f.boxed && !e.room(s.to, i) {
			s.to.full = true
			return false
		}
		f.mixed = f.mixed || f.by != nil && f.by.from != s.from
		f.state, f.by = coming, s
		f.try++
		for _, t := range s.to.out {
			if t.lacks[i] {
				t.queue = append(t.queue, i)
			}
		}
	}
	if !s.depot {
		s.queue = s.queue[1:]
	}
	s.cur, s.sent = i, f.got
	if s.idle {
		s.sent = 0
	}
	s.spoilt = s.from.spec.Spoils > 0 && s.from.rnd.Float64() < s.from.spec.Spoils
	s.slow = e.jitter(s.from)
	return true
}

func (e *engine) jitter(p *peer) float64 { return 1 + e.Jitter*(2*p.rnd.Float64()-1) }

// send puts n bytes on the link, and books them on all links up to the taker's.
func (e *engine) send(s *stream, n int32) {
	p, to := s.from, s.to
	size := float64(s.to.sizes[s.cur])
	start := e.now
	up := p.up * s.slow
	if s.sent == 0 {
		start += int64(e.Gap * size / up)
		if !s.idle {
			to.slow = e.jitter(to)
		}
	}
	end := start + int64(float64(n)/up)
	at := start + int64(e.Latency)
	for _, t := range e.path(p.spec.Switch, to.spec.Switch) {
		t.free = max(t.free, at) + int64(float64(n)/rate(e.Trunk))
		at = max(at, t.free-int64(float64(n)/rate(e.Trunk)))
		end = max(end, t.free)
	}
	to.downFree = max(to.downFree, at) + int64(float64(n)/(to.down*to.slow))
	end = max(end+int64(e.Latency), to.downFree)
	s.sent += n
	s.inflight += int64(n)
	p.sentBytes += int64(n)
	i := s.cur
	if s.spoilt && !s.idle || !s.depot && p.frames[i].bad {
		to.frames[i].bad = true
	}
	p.busy = true
	busy := start + int64(float64(n)/up) - e.now
	if s.sent == s.to.sizes[i] {
		s.cur = -1
		if !s.depot {
			s.lacks[i] = false
			e.wake(p)
		}
	}
	e.after(time.Duration(busy), event{do: free, peer: p})
	try := to.frames[i].try
	if s.idle {
		i = -1
	}
	e.after(time.Duration(end-e.now), event{do: arrives, s: s, frame: i, bytes: n, try: try})
}

// path gives the links between two switches.
func (e *engine) path(a, b int) []*trunk {
	if a == b {
		return nil
	}
	var out []*trunk
	for _, k := range [][2]int{{a, 0}, {0, b}} {
		if k[0] == k[1] {
			continue
		}
		if e.trunks[k] == nil {
			e.trunks[k] = &trunk{}
		}
		out = append(out, e.trunks[k])
	}
	return out
}

// arrived is the end of a piece's way. Frame -1: nobody wants it.
func (e *engine) arrived(s *stream, i, try int32, n int64) {
	p := s.to
	if p.dead {
		return // and nobody says that it arrived
	}
	s.inflight -= n
	if s.closed || i < 0 || p.frames[i].state != coming || p.frames[i].try != try {
		e.result.Duplicates += n
	} else {
		p.received += n
		if !s.depot {
			p.fromPeers += n
		}
		f := &p.frames[i]
		f.got += int32(n)
		switch size := p.sizes[i]; {
		case f.got == size:
			f.state = whole
			e.after(hashing, event{do: checks, peer: p, frame: i})
		case f.got > size:
			panic(fmt.Sprintf("%s got %d bytes of frame %d, which has %d", p.id, f.got, i, size))
		}
		e.pump(p)
	}
	if !s.closed {
		e.pump(s.from)
	}
}

// broken keeps what has arrived of the frame that is being sent, for whoever
// goes on with it.
func (e *engine) broken(s *stream) {
	if s.cur >= 0 && !s.idle {
		if f := &s.to.frames[s.cur]; f.state == coming && f.by == s {
			f.state = lacking
		}
	}
	s.cur = -1
}

// ask opens a stream, once the source has got the question.
func (e *engine) ask(p *peer, stripe int, o *relay.Order) {
	if o.Serial != p.order.Serial && !(stripe < len(p.order.Sources) && stripe < len(o.Sources) && len(o.Sources) == len(p.order.Sources) && o.Sources[stripe].ID == p.order.Sources[stripe].ID) {
		return
	}
	if p.in[stripe] != nil {
		return
	}
	src := e.byID[p.order.Sources[stripe].ID]
	s := &stream{from: src, to: p, stripe: stripe, stripes: len(p.order.Sources), cur: -1, patient: p.order.Sources[stripe].Patient}
	p.in[stripe] = s
	if src.dead {
		e.after(connectFor, event{do: silence, s: s})
		return
	}
	e.after(e.wire()+e.wire(), event{do: opened, peer: p, s: s})
}

func (e *engine) opened(s *stream) {
	p, src := s.to, s.from
	switch {
	case s.closed:
	case src.dead:
		e.after(connectFor, event{do: silence, s: s})
	case src.left || src.order.Serial == 0 || len(src.out) >= maxTakers:
		e.trouble(s, relay.Refused)
	default:
		s.lacks = make([]bool, e.Frames)
		for i := s.stripe; i < e.Frames; i += s.stripes {
			s.lacks[i] = p.frames[i].state == lacking
		}
		for _, i := range src.shelf {
			if s.lacks[i] {
				s.queue = append(s.queue, i)
			}
		}
		src.out = append(src.out, s)
		e.pump(src)
	}
}

// silent is told that there was no sign of life for a while.
func (e *engine) silent(s *stream) {
	if !s.closed && s.from.dead && !s.to.dead {
		e.trouble(s, relay.Silent)
	}
}

// trouble ends a stream, says so, and tries again in a while.
func (e *engine) trouble(s *stream, k relay.Kind) {
	p := s.to
	p.troubles = append(p.troubles, relay.Trouble{Source: s.from.id, Kind: k})
	e.hangUp(s)
	p.pause = 0
	e.share(p)
	e.retry(p, s.stripe)
}

func (e *engine) retry(p *peer, stripe int) {
	o := p.order
	e.after(pauseTry, event{do: asks, peer: p, frame: int32(stripe), order: &o})
}

// hangUp ends a stream on both sides.
func (e *engine) hangUp(s *stream) {
	if s.closed {
		return
	}
	s.closed = true
	s.cur = -1
	for _, i := range s.to.shelf { // also what was sent whole and is still on its way
		if f := &s.to.frames[i]; f.state == coming && f.by == s {
			f.state = lacking
		}
	}
	is := func(t *stream) bool { return t == s }
	s.from.out = slices.DeleteFunc(s.from.out, is)
	if s.depot {
		s.to.fetch = nil
	} else if s.stripe < len(s.to.in) && s.to.in[s.stripe] == s {
		s.to.in[s.stripe] = nil
	}
	e.wake(s.from)
	e.wake(s.to)
	e.pump(e.depot)
}
