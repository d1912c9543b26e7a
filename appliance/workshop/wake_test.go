package workshop_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// waker notes whom the registry would switch on.
type waker struct {
	*house
	sent [][]string
	err  error
}

func wakerOf(t *testing.T) *waker {
	w := &waker{house: open(t)}
	c := w.config()
	c.Wake = func(_ context.Context, macs []string) error {
		w.sent = append(w.sent, macs)
		return w.err
	}
	var err error
	if w.Registry, err = workshop.Open(bg, c); err != nil {
		t.Fatal(err)
	}
	w.clock.pass(time.Hour) // everybody has been silent
	return w
}

// A PC is switched on by all its own cards that can, and by no dongle's.
func TestWake(t *testing.T) {
	w := wakerOf(t)
	w.lot(false)
	no := false
	p := w.pc(1, func(r *wire.Report) {
		r.NICs = append(r.NICs,
			wire.NIC{Name: "eth1", MAC: "00:21:cc:00:01:01", Permanent: "00:21:cc:00:01:01", Bus: "pci"},
			wire.NIC{Name: "eth2", MAC: "00:21:cc:00:01:02", Permanent: "00:21:cc:00:01:02", Bus: "pci", Wake: &no},
			wire.NIC{Name: "usb0", MAC: "00:21:cc:00:01:03", Permanent: "00:21:cc:00:01:03", Bus: "usb"})
	})
	p.boot()
	id := p.device().ID
	refused(t, w.Wake(bg, "vol1", id), workshop.Conflict) // it is on
	w.clock.pass(time.Hour)
	if err := w.Wake(bg, "vol1", id); err != nil {
		t.Fatal(err)
	}
	if want := [][]string{{p.mac, "00:21:cc:00:01:01"}}; !slices.EqualFunc(w.sent, want, slices.Equal) {
		t.Fatalf("woken: %v", w.sent)
	}
	refused(t, w.Wake(bg, "vol1", id), workshop.Busy)
	w.clock.pass(11 * time.Second)
	w.err = errors.New("no link")
	refused(t, w.Wake(bg, "vol1", id), workshop.Busy)
	if events, _ := w.store.Events(bg, id); events[len(events)-1].Kind != "wake" || events[len(events)-1].Result != "failed" || events[len(events)-1].Actor != "vol1" {
		t.Errorf("the history says %+v", events[len(events)-1])
	}
	w.verify(id)
	refused(t, w.Wake(bg, "", id), workshop.Invalid)
	refused(t, w.Wake(bg, "vol1", "nonsense"), workshop.NotFound)
	if err := w.MoveDevice(bg, "lead1", id, workshop.Rejected, "broken"); err != nil {
		t.Fatal(err)
	}
	w.clock.pass(time.Minute)
	refused(t, w.Wake(bg, "vol1", id), workshop.Conflict) // not ours any more
}

func TestWakeNothingThere(t *testing.T) {
	w := wakerOf(t)
	w.lot(false)
	no := false
	p := w.pc(1, func(r *wire.Report) { r.NICs[0].Wake = &no })
	p.boot()
	w.clock.pass(time.Hour)
	refused(t, w.Wake(bg, "vol1", p.device().ID), workshop.Conflict)
	if len(w.sent) != 0 {
		t.Errorf("woken: %v", w.sent)
	}
	h := open(t) // without a network to wake on
	h.lot(false)
	q := h.pc(1)
	q.boot()
	h.clock.pass(time.Hour)
	refused(t, h.Wake(bg, "vol1", q.device().ID), workshop.Conflict)
}

// All of a lot that have something to do, and nobody else.
func TestWakeLot(t *testing.T) {
	w := wakerOf(t)
	l := w.lot(false)
	var pcs []*pc
	for i := range 4 {
		p := w.pc(i + 1)
		p.boot()
		if err := w.Cancel(bg, "lead1", p.device().Job.ID, "not now"); err != nil {
			t.Fatal(err)
		}
		pcs = append(pcs, p)
	}
	refused(t, w.WakeLot(bg, "lead1", l.ID), workshop.Conflict)
	for i, choose := range []func(id string) error{
		func(id string) error { return w.ImageAgain(bg, "lead1", id, "") },
		func(id string) error { return w.HoldAtStart(bg, "lead1", id) },
		func(id string) error { return w.ChooseRescue(bg, "vol1", id, workshop.RescueMemory) },
	} {
		if err := choose(pcs[i].device().ID); err != nil {
			t.Fatal(err)
		}
	}
	w.clock.pass(time.Hour)
	if err := w.WakeLot(bg, "lead1", l.ID); err != nil {
		t.Fatal(err)
	}
	if want := [][]string{{pcs[0].mac, pcs[1].mac, pcs[2].mac}}; !slices.EqualFunc(w.sent, want, slices.Equal) {
		t.Errorf("woken: %v", w.sent)
	}
	refused(t, w.WakeLot(bg, "lead1", l.ID), workshop.Busy)
	refused(t, w.WakeLot(bg, "lead1", "nonsense"), workshop.NotFound)
}

// A lot of any number of made-up PCs, each with any number of cards, is switched on in
// turns.
func TestWakeLotInTurns(t *testing.T) {
	w := wakerOf(t)
	lot := w.lot(false).ID
	const pcs, cards = 300, 20
	for n := range pcs {
		p := w.pc(n+1, noDisk)
		for i := range cards {
			mac := fmt.Sprintf("00:22:cc:%02x:%02x:%02x", i, n>>8, n&255)
			p.rep.NICs = append(p.rep.NICs, wire.NIC{MAC: mac, Permanent: mac, Bus: "pci"})
		}
		p.boot()
		if err := w.ChooseRescue(bg, "vol1", p.device().ID, workshop.RescueMemory); err != nil {
			t.Fatal(err)
		}
	}
	w.clock.pass(time.Hour)
	woken := map[string]bool{}
	for turn, most := range []int{256 * 8, 44 * 8} {
		if err := w.WakeLot(bg, "vol1", lot); err != nil {
			t.Fatal(err)
		}
		if n := len(w.sent[turn]); n > most {
			t.Fatalf("%d addresses at once", n)
		}
		for _, mac := range w.sent[turn] {
			woken[mac] = true
		}
	}
	if len(woken) != pcs*8 {
		t.Errorf("%d addresses were woken", len(woken))
	}
}
