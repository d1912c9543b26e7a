package relay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// model is a workshop of virtual PCs that do what the relay tells them. In each
// step a link of 1000 Mbit/s carries one frame each way, stored and forwarded.
type model struct {
	t      *testing.T
	r      *Relay
	rnd    *rand.Rand
	now    time.Time
	frames int
	pcs    []*vpc
	sent   int      // frames the appliance sent
	slow   []string // who was called slow
	turn   int
}

const tick = 50 * time.Millisecond // one step

type vpc struct {
	id         string
	mbit, disk int // disk: steps per frame, 0: none
	memory     int // frames
	joins      int // step
	cut        int // step at which its power goes, 0: never
	corrupts   bool
	lie        func(*Status)   // it takes and gives nothing, and says this
	deaf       map[string]bool // who can't reach it

	order   Order
	have    []bool
	arrived []int // frames in memory, in order of arrival
	gone    []bool
	written int // of arrived, from the front
	n       int // frames it has
	heard   map[string]int
	recent  []int // n at the last steps
	trouble []Trouble
	damaged map[string]int // frame and source of which it complained → step
	busy    float64        // of its downlink, this step
	up      float64        // of its uplink, this step
	carry   map[string]float64
	done    int // step at which it had written all
	over    bool
	state   Status
}

func newModel(t *testing.T, seed uint64, frames int, c Config) *model {
	c.Key = func() string { return "key" }
	return &model{t: t, r: New(c), rnd: rand.New(rand.NewPCG(seed, 1)), now: begin, frames: frames}
}

func (w *model) add(n int, change func(i int, p *vpc)) {
	for range n {
		p := &vpc{
			id: fmt.Sprintf("pc%03d", len(w.pcs)), mbit: 1000, memory: 24, have: make([]bool, w.frames), gone: make([]bool, w.frames),
			heard: map[string]int{}, damaged: map[string]int{}, carry: map[string]float64{}, deaf: map[string]bool{},
		}
		if change != nil {
			change(len(w.pcs), p)
		}
		w.pcs = append(w.pcs, p)
	}
}

func (p *vpc) live(step int) bool {
	return step >= p.joins && (p.cut == 0 || step < p.cut) && !p.over
}

func (p *vpc) width() float64 { return min(float64(p.mbit)/1000, 1) }

// promised says whether a source will bring f.
func (w *model) promised(p *vpc, f int, step int) bool {
	if n := len(p.order.Sources); n > 0 {
		s := w.find(p.order.Sources[f%n].ID)
		return s != nil && !s.gone[f]
	}
	return false
}

func (w *model) find(id string) *vpc {
	for _, p := range w.pcs {
		if p.id == id {
			return p
		}
	}
	return nil
}

// room makes room for one more frame, unless all that is in memory is not
// written yet or lacked by one that p waits for.
func (w *model) room(p *vpc, step int) bool {
	if len(p.arrived) < p.memory {
		return true
	}
	for i, f := range p.arrived[:p.written] {
		if !slices.ContainsFunc(w.pcs, func(c *vpc) bool {
			n := len(c.order.Sources)
			return n > 0 && c.live(step) && c.order.Sources[f%n].ID == p.id && !c.order.Sources[f%n].Patient && !c.have[f] && !c.deaf[p.id] && step-c.heard[p.id] < 20
		}) {
			p.arrived, p.written = slices.Delete(p.arrived, i, i+1), p.written-1
			p.gone[f] = true
			return true
		}
	}
	return false
}

func (w *model) take(p *vpc, f, step int) {
	p.have[f] = true
	p.arrived = append(p.arrived, f)
	p.n++
}

func (w *model) step(step int) {
	for _, p := range w.pcs {
		p.busy, p.up = p.width(), p.width()
		if p.live(step) {
			for p.written < len(p.arrived) && (p.disk == 0 || step%p.disk == 0) {
				p.written++
				if p.disk > 0 {
					break
				}
			}
		}
	}
	// The appliance.
	var holders []*vpc
	for _, p := range w.pcs {
		if p.live(step) && p.order.Depot && p.lie == nil {
			holders = append(holders, p)
		}
	}
	uplink := 1.0
	for range holders {
		w.turn++
		p := holders[w.turn%len(holders)]
		down := p.busy
		if slices.ContainsFunc(p.order.Sources, func(src Source) bool {
			s := w.find(src.ID)
			return s != nil && s.live(step) && slices.ContainsFunc(s.arrived, func(f int) bool { return !p.have[f] })
		}) {
			down /= 2 // two connections share a link
		}
		if share := min(uplink, down); share > 0 {
			f := slices.IndexFunc(p.have, func(bool) bool { return false })
			for i, h := range p.have {
				if !h && !w.promised(p, i, step) {
					f = i
					break
				}
			}
			p.carry[""] += share
			if f < 0 || !w.room(p, step) {
				p.carry[""] = 0
				continue
			}
			uplink -= share
			p.busy -= share
			if p.carry[""] >= 1 {
				p.carry[""]--
				w.take(p, f, step)
				w.sent++
			}
		}
	}
	// PCs, the last in the line first: a frame goes one hop a step.
	for _, c := range slices.Backward(w.pcs) {
		if !c.live(step) || c.lie != nil {
			continue
		}
		n := len(c.order.Sources)
		for stripe, src := range c.order.Sources {
			s := w.find(src.ID)
			if s == nil || !s.live(step) || c.deaf[s.id] {
				if step-c.heard[src.ID] >= 20 {
					c.heard[src.ID] = step
					c.trouble = append(c.trouble, Trouble{Source: src.ID, Kind: Silent})
					w.share(c, step)
					break
				}
				continue
			}
			c.heard[s.id] = step
			share := min(c.busy, s.up, 1/float64(n))
			f := -1
			for _, a := range s.arrived {
				if a%n == stripe && !c.have[a] {
					f = a
					break
				}
			}
			if f < 0 || share <= 0 || !w.room(c, step) {
				continue
			}
			c.busy -= share
			s.up -= share
			if c.carry[s.id] += share; c.carry[s.id] < 0.999 {
				continue
			}
			c.carry[s.id]--
			if s.corrupts && w.rnd.IntN(4) == 0 {
				if at, ok := c.damaged[s.id]; !ok || step-at > 20 {
					c.damaged[s.id] = step
					c.trouble = append(c.trouble, Trouble{Source: s.id, Kind: Corrupt, Frame: f})
				}
				continue
			}
			w.take(c, f, step)
		}
	}
	for i, p := range w.pcs {
		if p.live(step) && (step == p.joins || (step+i)%20 == 0) {
			w.share(p, step)
		}
	}
	w.now = w.now.Add(tick)
}

func (w *model) share(p *vpc, step int) {
	missing := 0
	for f, h := range p.have {
		if !h && !w.promised(p, f, step) {
			missing++
		}
	}
	p.recent = append(p.recent, p.n)
	rate := (p.n - p.recent[max(0, len(p.recent)-3)]) * 6000000 / 2 // 20 a second are 1000 Mbit/s
	done := p.n == w.frames && p.written == len(p.arrived)
	if done && p.done == 0 {
		p.done = step
	}
	s := Status{
		ID: p.id, Image: "image", URL: "http://" + p.id, Serial: p.order.Serial, Mbit: p.mbit, Frames: w.frames, Have: p.n,
		Missing: missing, Backlog: 100 * (len(p.arrived) - p.written) / p.memory, Rate: int64(rate), Done: done, Trouble: p.trouble,
	}
	if p.lie != nil {
		p.lie(&s)
	}
	p.state = s
	p.trouble = nil
	was := p.order
	p.order = w.r.Update(w.now, s)
	if m := w.r.members[p.id]; m != nil && m.slow != "" && !slices.Contains(w.slow, p.id) {
		w.slow = append(w.slow, p.id)
	}
	if !slices.Equal(was.Sources, p.order.Sources) {
		for _, s := range p.order.Sources {
			p.heard[s.ID] = step
		}
	}
	for id := range w.r.images["image"].guilty {
		if !w.find(id).corrupts {
			w.t.Fatalf("%s is called a culprit", id)
		}
	}
	if p.order.Serial < was.Serial {
		w.t.Fatalf("%s: serial %d after %d", p.id, p.order.Serial, was.Serial)
	}
	if done && !p.order.Stay {
		p.over = true
		w.r.Leave(w.now, p.id)
	}
}

// run lets the model work until everybody that lives is done, and gives the step.
func (w *model) run(most int) int {
	w.t.Helper()
	for step := range most {
		w.step(step)
		left := slices.ContainsFunc(w.pcs, func(p *vpc) bool { return p.done == 0 && p.lie == nil && (p.cut == 0 || p.cut > step) })
		if !left {
			return step
		}
	}
	for _, v := range w.r.View(w.now) {
		w.t.Logf("%+v", v)
	}
	w.t.Fatalf("not done after %d steps", most)
	return 0
}

func TestModelCleanBatch(t *testing.T) {
	for _, n := range []int{1, 2, 4, 16, 40, 100} {
		w := newModel(t, 1, 200, Config{ChainMax: 16})
		w.add(n, nil)
		steps := w.run(2000)
		t.Logf("%3d PCs: %d steps, %.2f images sent", n, steps, float64(w.sent)/200)
		if w.sent != 200 {
			t.Errorf("%d PCs: the appliance sent %d of 200 frames", n, w.sent)
		}
		if steps > 200+2*n+60 {
			t.Errorf("%d PCs: %d steps", n, steps)
		}
	}
}

func TestModelFaults(t *testing.T) {
	for _, c := range []struct {
		name   string
		n      int
		change func(i int, p *vpc)
		steps  int // of the median of those who are well
		images float64
	}{
		{"clean", 16, nil, 250, 1},
		{"power cut", 16, func(i int, p *vpc) {
			if i == 5 {
				p.cut = 90
			}
		}, 310, 1.15},
		{"slow head", 16, func(i int, p *vpc) {
			if i == 0 {
				p.disk = 10
			}
		}, 500, 2},
		{"slow in the middle", 16, func(i int, p *vpc) {
			if i == 7 {
				p.disk = 10
			}
		}, 400, 2},
		{"slow at the end", 16, func(i int, p *vpc) {
			if i == 15 {
				p.disk = 10
			}
		}, 400, 2},
		{"two slow", 16, func(i int, p *vpc) {
			if i == 3 || i == 4 {
				p.disk = 8
			}
		}, 600, 2},
		{"all equally slow", 16, func(i int, p *vpc) { p.disk = 4 }, 1000, 1.5},
		{"late", 16, func(i int, p *vpc) {
			if i > 12 {
				p.joins = 100 + i
			}
		}, 260, 1.6},
		{"trickle", 60, func(i int, p *vpc) { p.joins = 5 * i }, 300, 2},
		{"links", 16, func(i int, p *vpc) {
			if i < 5 {
				p.mbit = 100
			}
		}, 320, 2.1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newModel(t, 1, 200, Config{ChainMax: 20})
			w.add(c.n, c.change)
			last := w.run(6000)
			var well []int
			for _, p := range w.pcs {
				if p.cut == 0 && p.mbit == 1000 && (p.disk == 0 || c.name == "all equally slow") {
					well = append(well, p.done-p.joins)
				}
			}
			slices.Sort(well)
			images := float64(w.sent) / 200
			t.Logf("median %d, last %d, %.2f images", well[len(well)/2], last, images)
			if well[len(well)/2] > c.steps || images > c.images {
				t.Errorf("more than %d or %.2f", c.steps, c.images)
			}
		})
	}
}

// Whatever fails, whoever lives gets the image.
func TestModelRandomFailures(t *testing.T) {
	for seed := range uint64(150) {
		w := newModel(t, seed, 120, Config{ChainMax: 3 + int(seed%6)})
		rnd := w.rnd
		var culprit string
		w.add(3+rnd.IntN(22), func(i int, p *vpc) {
			p.joins = rnd.IntN(3) * rnd.IntN(100)
			p.memory = 8 + rnd.IntN(40)
			switch rnd.IntN(8) {
			case 0:
				p.cut = p.joins + 1 + rnd.IntN(250)
			case 1:
				p.disk = 1 + rnd.IntN(8)
			case 2:
				p.mbit = 100
			case 3:
				p.deaf[fmt.Sprintf("pc%03d", rnd.IntN(25))] = true
			case 4:
				if culprit == "" && seed%2 == 0 {
					p.corrupts = true
					culprit = p.id
				}
			}
		})
		steps := w.run(12000)
		t.Logf("seed %d: %d PCs, %d steps, %.2f images", seed, len(w.pcs), steps, float64(w.sent)/120)
	}
}

func TestModelOneCorrupts(t *testing.T) {
	for who := range 12 {
		w := newModel(t, uint64(who), 120, Config{ChainMax: 5})
		w.add(12, func(i int, p *vpc) { p.corrupts = i == who })
		named := map[string]bool{}
		for step := range 1000 {
			w.step(step)
			for _, v := range w.r.View(w.now) {
				if v.Suspected != "" {
					named[v.ID] = true
				}
			}
		}
		for _, p := range w.pcs {
			if p.done == 0 {
				t.Errorf("%d corrupts, %s isn't done", who, p.id)
			}
		}
		// The last in the line and the leaf of leaves have nobody to harm.
		if id := w.pcs[who].id; len(named) > 1 || len(named) == 1 && !named[id] || len(named) == 0 && who < 10 {
			t.Errorf("%s corrupts, named: %v", id, named)
		}
	}
}

func TestModelOnePowerCut(t *testing.T) {
	for _, chain := range []int{4, 32} {
		for who := range 16 {
			w := newModel(t, uint64(who), 200, Config{ChainMax: chain})
			w.add(16, func(i int, p *vpc) {
				if i == who {
					p.cut = 47
				}
			})
			for step := range 160 {
				w.step(step)
			}
			for _, m := range w.r.members {
				if m.ID == w.pcs[who].id || m.mute != "" || m.slow != "" || len(m.avoid) > 0 || m.struck || !m.moved.IsZero() || m.lost {
					t.Errorf("chain of %d, %d is dead: held against %s: %q %q %v %v %v", chain, who, m.ID, m.mute, m.slow, m.avoid, m.struck, m.moved.Sub(begin))
				}
			}
			w.run(700)
		}
	}
}
