package workshop_test

import (
	"context"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

const (
	own     = "4c4c4544-0042-3510-8052-b4c04f000001"
	swapped = "44454c4c-4200-1035-8052-b4c04f000001"
)

// nameless is a board without a serial number, with a dongle for its only card.
func (h *house) nameless(change ...func(*wire.Report)) *pc {
	return h.pc(1, append([]func(*wire.Report){bare(own), byDongle}, change...)...).from(dongle)
}

// another is a second one of its kind, with the same dongle.
func (h *house) another(change func(*wire.Report)) *pc {
	p := h.nameless(change)
	p.boots = 1000
	return p
}

// Such a board gets home after its agent has said all it had to say: once, soon, and
// only as long as it can be nobody else.
func TestGoodbye(t *testing.T) {
	for name, c := range map[string]struct {
		before  func(*house)      // the goodbye
		between func(*house, *pc) // that and the start
		local   bool
	}{
		"at once":                {nil, nil, true},
		"after a long self-test": {nil, func(h *house, _ *pc) { h.clock.pass(4 * time.Minute) }, true},
		"other byte order":       {nil, func(_ *house, p *pc) { p.rep.Identity.UUID = swapped }, true},
		"too late":               {nil, func(h *house, _ *pc) { h.clock.pass(5 * time.Minute) }, false},
		"clock set back":         {nil, func(h *house, _ *pc) { h.clock.pass(-time.Minute) }, false},
		"appliance restarted":    {nil, func(h *house, _ *pc) { h.crash() }, false},
		"no UUID":                {nil, func(_ *house, p *pc) { p.rep.Identity.UUID = "" }, false},
		"another UUID":           {nil, func(_ *house, p *pc) { p.rep.Identity.UUID = uuid3 }, false},
		"another dongle":         {nil, func(_ *house, p *pc) { p.from("00:e0:4c:36:01:03") }, false},
		"used":                   {nil, func(_ *house, p *pc) { p.local() }, false},
		"used by another board":  {nil, func(h *house, _ *pc) { h.another(otherDisk).local() }, false},
		"it is to wait": {nil, func(h *house, _ *pc) {
			if err := h.HoldAtStart(bg, "lead1", h.number(1).ID); err != nil {
				t.Error(err)
			}
		}, false},
		"it is to be imaged again": {nil, func(h *house, _ *pc) {
			if err := h.ImageAgain(bg, "lead1", h.number(1).ID, ""); err != nil {
				t.Error(err)
			}
		}, false},
		"it is to start a shell": {nil, func(h *house, _ *pc) {
			if err := h.ChooseRescue(bg, "lead1", h.number(1).ID, workshop.RescueShell); err != nil {
				t.Error(err)
			}
		}, false},
		"another board with its UUID reported": {nil, func(h *house, _ *pc) { h.pc(2, bare(own), otherDisk).boot() }, false},
		"a PC with its dongle reported":        {nil, func(h *house, _ *pc) { h.pc(2, alongside(dongle, "usb")).boot() }, false},
		"a PC that came by its dongle reported": {nil, func(h *house, _ *pc) {
			p := h.pc(2).from(dongle)
			p.boots = 1000
			p.boot()
		}, false},
		"somebody came by its dongle before and was never heard of": {func(h *house) { h.another(otherDisk).script() }, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.lot(true)
			p := h.nameless().done()
			if c.before != nil {
				c.before(h)
			}
			p.poll()
			p.wants(wire.ActionLocal)
			if c.between != nil {
				c.between(h, p)
			}
			if got := p.local(); got != c.local {
				t.Fatalf("local %v", got)
			}
		})
	}
}

// Right after the first board has used its start a second one comes, with the same
// UUID and the same dongle: it gets the agent, and from then on neither is known at
// its start.
func TestGoodbyeOfTwo(t *testing.T) {
	h := open(t)
	h.lot(true)
	a, b := h.nameless().done(), h.another(otherDisk)
	a.poll()
	if !a.local() {
		t.Fatal("a PC that is done gets the agent again")
	}
	b.boot()
	if b.wants(wire.ActionImage); b.plan.Number != 2 {
		t.Fatalf("it is taken for number %d", b.plan.Number)
	}
	b.image()
	b.poll()
	b.wants(wire.ActionLocal)
	if a.local() || b.local() {
		t.Fatal("one of two boards is sent to its disk")
	}
}

// A boot loader that asks for its script twice is no second board.
func TestGoodbyeAfterTwoTries(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.nameless()
	p.script()
	h.clock.pass(20 * time.Second)
	p.script()
	p.report()
	p.image()
	p.poll()
	if !p.local() {
		t.Fatal("it gets the agent again")
	}
}

// As long as nobody has decided whether there are two boards, neither gets home.
func TestGoodbyeInDoubt(t *testing.T) {
	for _, decided := range []bool{false, true} {
		h := open(t)
		h.lot(true)
		p, b := h.nameless(), h.another(noDisk)
		p.boot()
		b.script()
		h.clock.pass(time.Second)
		p.poll()
		_, err := h.Report(bg, b.token, b.rep)
		refused(t, err, workshop.Conflict)
		p.image()
		for range 4 { // the other one's start is forgotten
			h.clock.pass(10 * time.Minute)
			if p.script() {
				t.Fatal("it is sent to its disk")
			}
			p.report()
			p.wants(wire.ActionLocal)
			h.clock.pass(10 * time.Minute)
		}
		if decided {
			if err := h.Decide(bg, "lead1", h.number(1).ID, workshop.DoubtTwins, "", "there is one only"); err != nil {
				t.Fatal(err)
			}
		}
		p.poll()
		if got := p.local(); got != decided {
			t.Errorf("local %v, decided %v", got, decided)
		}
	}
}

// counting counts what is stored.
type counting struct {
	workshop.Store
	n int
}

func (c *counting) Commit(ctx context.Context, ch workshop.Change) error {
	c.n++
	return c.Store.Commit(ctx, ch)
}

// Whoever asks for a script in the name of a PC that starts from its own disk costs
// the appliance no decision, and takes nobody's place.
func TestOwnDiskCostsNothing(t *testing.T) {
	h := open(t)
	count := &counting{Store: h.store}
	c := h.config()
	c.Store = count
	var err error
	if h.Registry, err = workshop.Open(bg, c); err != nil {
		t.Fatal(err)
	}
	h.lot(true)
	p := h.pc(1).done()
	before := count.n
	for range 2000 {
		if !p.local() {
			t.Fatal("it gets the agent")
		}
	}
	if count.n != before {
		t.Fatalf("%d changes were stored", count.n-before)
	}
	h.pc(2).boot()
}
