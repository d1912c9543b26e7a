package batch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"refurb/appliance/relay"
)

// hashing is how long it takes to decode a frame and to hash what came out.
const hashing = 4 * time.Millisecond

type state uint8

const (
	lacking state = iota // perhaps with a start of it in memory
	coming               // somebody brings it
	whole                // all bytes are here, unchecked
	good                 // checked, in memory
	gone                 // on the disk, no longer in memory
)

type frame struct {
	by     *stream // that brings or brought it
	got    int32
	try    int32 // counts who began or went on with it
	state  state
	boxed  bool // it takes up memory
	mixed  bool // several brought it
	bad    bool // some byte is wrong
	stored bool
}

// peer is one PC, or the appliance, which has everything and no disk.
type peer struct {
	id       string
	spec     PC
	rnd      *rand.Rand
	sizes    []int32
	up, down float64 // bytes per nanosecond
	slow     float64 // of its link inwards, for this frame
	busy     bool
	turn     int
	downFree int64 // when all that is booked on its link inwards has come
	diskFree int64

	out   []*stream // takers, in the order in which they came
	in    []*stream // by stripe; nil: none now
	fetch *stream   // from the appliance

	frames  []frame
	shelf   []int32 // frames in memory, as they arrived
	used    int64
	backlog int64 // of used: not yet on the disk
	full    bool  // something waits for memory
	have    int
	stored  int
	doneAt  int64
	dead    bool // without power
	left    bool

	order     relay.Order
	reporting bool
	words     int64         // reports so far
	pause     time.Duration // until the next
	starved   bool
	missing   int // as it said last
	troubles  []relay.Trouble
	received  int64
	fromPeers int64
	sentBytes int64
	rate      int64
	rateAt    int64
	rateOf    int64
}

func newPeer(e *engine, i int, p PC) *peer {
	return &peer{
		id: fmt.Sprintf("pc%04d", i+1), spec: p, rnd: rand.New(rand.NewPCG(e.Seed, uint64(i)+3)),
		sizes: e.sizes[p.Image], up: rate(p.Actual), down: rate(p.Actual), slow: 1, frames: make([]frame, e.Frames),
	}
}

// status is what a PC says of itself.
func (p *peer) status(e *engine) relay.Status {
	p.reporting = false
	if d := e.now - p.rateAt; d >= int64(900*time.Millisecond) {
		p.rate = (p.received - p.rateOf) * int64(time.Second) / d
		p.rateAt, p.rateOf = e.now, p.received
	}
	s := relay.Status{
		ID: p.id, Image: fmt.Sprint("image", p.spec.Image), URL: "http://" + p.id, Serial: p.order.Serial, Mbit: p.spec.Mbit,
		Frames: e.Frames, Have: p.have, Backlog: int(100 * p.backlog / p.spec.Memory), Rate: p.rate, Done: p.doneAt > 0,
		Trouble: p.troubles,
	}
	for i := range p.frames {
		if p.frames[i].state == lacking && !p.promised(i) {
			s.Missing++
		}
	}
	p.troubles, p.missing = nil, s.Missing
	return s
}

// promised reports whether frame i may be expected from a source.
func (p *peer) promised(i int) bool {
	if len(p.in) == 0 {
		return false
	}
	s := p.in[i%len(p.in)]
	return s != nil && (s.lacks == nil || s.lacks[i] && s.from.frames[i].state != gone)
}

// unpromised gives the first frame that only the appliance can give, or -1.
func (p *peer) unpromised() int32 {
	for i := range p.frames {
		if p.frames[i].state == lacking && !p.promised(i) {
			return int32(i)
		}
	}
	return -1
}

// needed reports whether a taker that must not be let down lacks frame i.
func (p *peer) needed(i int32) bool {
	for _, s := range p.out {
		if s.lacks[i] && !s.patient || s.cur == i {
			return true
		}
	}
	return false
}

// room makes room for frame i, if it can: first what is on the disk and nobody
// needs goes, then the starts of frames that broke off.
func (e *engine) room(p *peer, i int32) bool {
	n := int64(p.sizes[i])
	drop := func(what func(int32) bool) {
		p.shelf = slices.DeleteFunc(p.shelf, func(j int32) bool {
			if p.used+n <= p.spec.Memory || !what(j) {
				return false
			}
			e.unbox(p, j)
			return true
		})
	}
	if p.used+n > p.spec.Memory {
		drop(func(j int32) bool {
			f := &p.frames[j]
			if f.state != good || !f.stored || p.needed(j) {
				return false
			}
			f.state = gone
			return true
		})
		drop(func(j int32) bool { return p.frames[j].state == lacking })
	}
	if p.used+n > p.spec.Memory {
		return false
	}
	p.used += n
	p.backlog += n
	p.frames[i].boxed = true
	p.shelf = append(p.shelf, i)
	return true
}

// unbox gives back the memory of frame i.
func (e *engine) unbox(p *peer, i int32) {
	f := &p.frames[i]
	p.used -= int64(p.sizes[i])
	if !f.stored {
		p.backlog -= int64(p.sizes[i])
	}
	f.boxed, f.mixed, f.bad, f.got, f.by = false, false, false, 0, nil
}

// wake lets those go on who waited for p's memory.
func (e *engine) wake(p *peer) {
	if !p.full {
		return
	}
	p.full = false
	for _, s := range p.in {
		if s != nil {
			e.pump(s.from)
		}
	}
	if p.fetch != nil {
		e.pump(e.depot)
	}
}

// checked has hashed frame i.
func (e *engine) checked(p *peer, i int32) {
	f := &p.frames[i]
	if f.bad {
		e.rejected(p, i)
		return
	}
	f.state = good
	p.have++
	p.diskFree = max(p.diskFree, e.now) + int64(float64(e.Raw)/p.spec.Disk*1000)
	e.after(time.Duration(p.diskFree-e.now), event{do: written, peer: p, frame: i})
}

// rejected throws a wrong frame away, and finds out whether its source is to
// blame or says itself that it passed on what it got.
func (e *engine) rejected(p *peer, i int32) {
	f := &p.frames[i]
	by, mixed := f.by, f.mixed
	f.state = lacking
	e.result.Duplicates += int64(f.got)
	e.unbox(p, i)
	p.shelf = slices.DeleteFunc(p.shelf, func(j int32) bool { return j == i })
	for _, s := range p.out {
		if int(i)%s.stripes == s.stripe && s.to.frames[i].state <= whole {
			s.lacks[i] = true
			if s.cur == i {
				e.broken(s)
			}
		}
	}
	switch {
	case by == nil || by.closed || by.depot || mixed:
	case by.lacks[i] || by.from.frames[i].bad: // it owns up to it, or will
		e.pump(by.from)
	default:
		p.troubles = append(p.troubles, relay.Trouble{Source: by.from.id, Kind: relay.Corrupt, Frame: int(i)})
		e.hangUp(by)
		e.share(p)
	}
	e.wake(p)
	e.pump(e.depot)
}

// stored has frame i on the disk.
func (e *engine) stored(p *peer, i int32) {
	p.frames[i].stored = true
	p.backlog -= int64(p.sizes[i])
	p.stored++
	if p.stored == e.Frames {
		p.doneAt = e.now
		e.open--
		e.share(p)
	}
	e.wake(p)
}
