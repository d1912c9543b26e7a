package batch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"refurb/appliance/relay"
)

// What happens, and to whom.
type kind uint8

const (
	starts   kind = iota // peer's job begins
	tick                 // peer's report of the second is due
	reports              // peer's report reaches the appliance
	ordered              // the answer reaches the peer
	asks                 // peer asks its source of a stripe
	opened               // the ask has reached the source
	free                 // peer's uplink is free again
	arrives              // a piece has come through a stream
	checks               // peer has hashed a frame
	leaves               // the job of a peer ends
	written              // peer has a frame on its disk
	cut                  // peer's power goes
	silence              // a stream has shown no sign of life for too long
	unmoving             // a taker has taken nothing for too long
)

type event struct {
	at    int64 // virtual nanoseconds
	seq   uint64
	do    kind
	peer  *peer
	s     *stream
	frame int32
	bytes int32
	try   int32 // frame.try, when the piece was sent
	order *relay.Order
}

// queue is a heap of events with four children a node: the earliest first, and
// of those of one moment the one that was added first.
type queue []event

func (q queue) less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}

func (q *queue) push(e event) {
	*q = append(*q, e)
	h := *q
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 4
		if !h.less(i, up) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (q *queue) pop() event {
	h := *q
	top := h[0]
	last := len(h) - 1
	h[0] = h[last]
	h[last] = event{}
	h = h[:last]
	*q = h
	for i := 0; ; {
		best := i
		for c := 4*i + 1; c <= 4*i+4 && c < last; c++ {
			if h.less(c, best) {
				best = c
			}
		}
		if best == i {
			return top
		}
		h[i], h[best] = h[best], h[i]
		i = best
	}
}

// scheduler is the part of the appliance that is asked.
type scheduler interface {
	Update(now time.Time, s relay.Status) relay.Order
	Leave(now time.Time, id string)
	View(now time.Time) []relay.Member
}

// unicast lets everybody take everything from the appliance.
type unicast struct{}

func (unicast) Update(time.Time, relay.Status) relay.Order {
	return relay.Order{Serial: 1, Depot: true}
}
func (unicast) Leave(time.Time, string)       {}
func (unicast) View(time.Time) []relay.Member { return nil }

// trunk is one direction of the link between a switch and the first one.
type trunk struct{ free int64 }

type engine struct {
	Scenario
	rnd    *rand.Rand
	now    int64
	seq    uint64
	events queue
	relay  scheduler
	depot  *peer
	peers  []*peer
	byID   map[string]*peer
	sizes  [][]int32 // by image
	trunks map[[2]int]*trunk
	open   int // peers that still want something
	result Result
}

// epoch is when virtual time begins; any would do.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (e *engine) clock() time.Time { return epoch.Add(time.Duration(e.now)) }

func (e *engine) after(d time.Duration, ev event) {
	ev.at, ev.seq = e.now+int64(d), e.seq
	e.seq++
	e.events.push(ev)
}

// Run plays a scenario until every PC has its image, or lost its power, or the
// limit is reached.
func Run(s Scenario) (Result, error) {
	if err := s.defaults(); err != nil {
		return Result{}, err
	}
	e := &engine{Scenario: s, rnd: rand.New(rand.NewPCG(s.Seed, 1)), byID: map[string]*peer{}, trunks: map[[2]int]*trunk{}}
	if s.Unicast {
		e.relay = unicast{}
	} else {
		e.relay = relay.New(s.Relay)
	}
	e.depot = &peer{id: "appliance", up: rate(s.Uplink), rnd: rand.New(rand.NewPCG(s.Seed, 2))}
	for i, p := range s.PCs {
		for len(e.sizes) <= p.Image {
			e.sizes = append(e.sizes, e.draw())
		}
		q := newPeer(e, i, p)
		e.peers = append(e.peers, q)
		e.byID[q.id] = q
		e.after(p.Join, event{do: starts, peer: q})
		if p.PowerAt > 0 {
			e.after(p.PowerAt, event{do: cut, peer: q})
		}
	}
	e.open = len(e.peers)
	for e.open > 0 && len(e.events) > 0 {
		ev := e.events.pop()
		if ev.at > int64(s.Limit) {
			break
		}
		e.now = ev.at
		e.result.Events++
		e.happen(ev)
	}
	return e.finish(), nil
}

// draw gives the frames of one image their sizes.
func (e *engine) draw() []int32 {
	out := make([]int32, e.Frames)
	for i := range out {
		out[i] = int32(max(1, float64(e.Bytes)*(1+e.Spread*(2*e.rnd.Float64()-1))))
	}
	return out
}

func (e *engine) finish() Result {
	r := &e.result
	for _, p := range e.peers {
		f := Finish{ID: p.id, Took: -1, Frames: p.stored, FromPeers: p.fromPeers, Sent: p.sentBytes, Cut: p.dead}
		if p.doneAt > 0 {
			f.Took = time.Duration(p.doneAt) - p.spec.Join
			r.Last = max(r.Last, time.Duration(p.doneAt))
		}
		r.PCs = append(r.PCs, f)
	}
	for _, n := range e.sizes[0] {
		r.Image += int64(n)
	}
	r.Appliance = e.depot.sentBytes
	r.View = e.relay.View(e.clock())
	return *r
}

func (e *engine) happen(ev event) {
	p, s := ev.peer, ev.s
	switch ev.do {
	case free:
		p.busy = false
		e.pump(p)
		return
	case leaves:
		e.relay.Leave(e.clock(), p.id)
		return
	case arrives:
		e.arrived(s, ev.frame, ev.try, int64(ev.bytes))
		return
	case silence:
		e.silent(s)
		return
	case unmoving:
		if !s.closed {
			e.hangUp(s)
		}
		return
	}
	if p.dead || p.left {
		return
	}
	switch ev.do {
	case starts:
		e.share(p)
	case tick:
		if int64(ev.frame) == p.words {
			e.share(p)
		}
	case reports:
		o := e.relay.Update(e.clock(), p.status(e))
		e.after(e.wire(), event{do: ordered, peer: p, order: &o})
	case ordered:
		e.obey(p, ev.order)
	case asks:
		e.ask(p, int(ev.frame), ev.order)
	case opened:
		e.opened(s)
	case checks:
		e.checked(p, ev.frame)
	case written:
		e.stored(p, ev.frame)
	case cut:
		e.powerCut(p)
	default:
		panic(fmt.Sprint("no such event: ", ev.do))
	}
}

// wire draws how long a small message takes.
func (e *engine) wire() time.Duration {
	return e.Latency + time.Duration(e.rnd.Int64N(int64(time.Millisecond)))
}

// share sends a report, unless one is already on its way, and sees to the next.
func (e *engine) share(p *peer) {
	if !p.reporting {
		p.reporting = true
		e.after(e.wire(), event{do: reports, peer: p})
	}
	e.later(p)
}

// later sets the time of p's next report.
func (e *engine) later(p *peer) {
	p.words++
	p.pause = min(max(2*p.pause, e.Soonest), reportEvery)
	d := p.pause - time.Duration(e.rnd.Int64N(int64(p.pause)/8))
	if p.starved {
		d = min(d, starvedEvery)
	}
	e.after(d, event{do: tick, peer: p, frame: int32(p.words)})
}

// obey follows an order: streams that stay the same go on.
func (e *engine) obey(p *peer, o *relay.Order) {
	if o.Serial < p.order.Serial {
		return
	}
	if o.Serial > p.order.Serial {
		e.result.Orders++
		p.pause = 0 // the news may make more news
		e.later(p)
	}
	same := slices.EqualFunc(o.Sources, p.order.Sources, func(a, b relay.Source) bool {
		return a.ID == b.ID && a.Patient == b.Patient
	})
	p.order = *o
	// Nobody brings anything, so the next answer is the only hope.
	if p.starved = !o.Depot && p.missing > 0 && p.have+p.missing == e.Frames; p.starved {
		e.later(p)
	}
	if !same {
		in := make([]*stream, len(o.Sources))
		for i, s := range slices.Clone(p.in) {
			switch {
			case s == nil:
			case i < len(in) && s.stripes == len(in) && s.from.id == o.Sources[i].ID && s.patient == o.Sources[i].Patient:
				in[i] = s
			default:
				e.hangUp(s)
			}
		}
		p.in = in
		for i := range o.Sources {
			e.after(0, event{do: asks, peer: p, frame: int32(i), order: o})
		}
	}
	if o.Depot && p.fetch == nil {
		p.fetch = &stream{from: e.depot, to: p, cur: -1, stripes: 1, depot: true}
		e.depot.out = append(e.depot.out, p.fetch)
	}
	e.pump(e.depot)
	if p.doneAt > 0 && !o.Stay {
		e.leave(p)
	}
}

// leave ends a PC that has all it wants and of which nobody wants anything.
func (e *engine) leave(p *peer) {
	p.left = true
	for _, s := range slices.Clone(p.out) {
		to, stripe := s.to, s.stripe
		e.hangUp(s)
		e.retry(to, stripe)
	}
	e.after(finishing, event{do: leaves, peer: p})
}

// powerCut ends a PC without a word: nobody learns of it but by its silence.
func (e *engine) powerCut(p *peer) {
	if p.doneAt > 0 {
		return
	}
	p.dead = true
	e.open--
	for _, s := range p.out {
		e.after(silenceAfter, event{do: silence, s: s})
	}
	for _, s := range p.in {
		if s != nil {
			e.after(unmovedAfter, event{do: unmoving, s: s})
		}
	}
	if p.fetch != nil {
		e.after(unmovedAfter, event{do: unmoving, s: p.fetch})
	}
}

// What agent/exchange waits for.
const (
	reportEvery  = 500 * time.Millisecond
	newsAfter    = 50 * time.Millisecond // after an order that is new
	starvedEvery = 200 * time.Millisecond
	finishing    = 5 * time.Second // from the last frame until the job ends
	silenceAfter = time.Second
	connectFor   = 2 * time.Second
	unmovedAfter = 3 * time.Second
	pauseTry     = 500 * time.Millisecond
	maxTakers    = 4
)
