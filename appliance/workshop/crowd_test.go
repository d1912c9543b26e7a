package workshop_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// crowd has so many made-up PCs report themselves with a UUID that it identifies
// nobody any more.
func (h *house) crowd(uuid string) {
	h.t.Helper()
	for i := range 66 {
		h.pc(1000+i, bare(uuid), func(r *wire.Report) { r.Disks[0].Serial = fmt.Sprint("MADE UP ", i) }).boot()
	}
}

// Strangers can give the UUID of a PC as often as they like: it is known by the rest.
func TestStrangersWithTheUUIDOfAPC(t *testing.T) {
	h := open(t)
	h.lot(false)
	p := h.pc(1)
	p.boot()
	h.crowd(p.rep.Identity.UUID)
	h.shown(67)
	if p.boot(); p.plan.Number != 1 {
		t.Errorf("it is number %d now", p.plan.Number)
	}
	h.shown(67)
}

// One that has nothing but what a crowd has, or nothing but the number on a case, is
// a new PC at every start: it says so, and a lot's approval isn't for it, which would
// be one for every start.
func TestNothingOfItsOwn(t *testing.T) {
	onlyCase := func(r *wire.Report) { r.Identity.ChassisSerial = "CHS-1234" }
	for name, like := range map[string][]func(*wire.Report){
		"a UUID of a crowd": {bare(fake), byDongle},
		"a case":            {bare(filler), byDongle, onlyCase},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.lot(true)
			p := h.pc(1, like...).from(dongle)
			h.crowd(fake)
			for n := range 2 {
				p.boot()
				p.wants(wire.ActionHold)
				if v := h.number(67 + n); p.plan.Number != v.Number || len(v.Doubts) != 1 || v.Doubts[0].Kind != workshop.DoubtNobody {
					t.Fatalf("number %d, %+v", p.plan.Number, v.Doubts)
				}
			}
			p.rep.NICs = h.pc(1).rep.NICs // with a card of its own it is known
			p.boot()
			p.wants(wire.ActionImage)
			if p.boot(); p.plan.Number != 69 {
				t.Errorf("number %d", p.plan.Number)
			}
		})
	}
}

// Whoever gives the identity of a PC that is on is told of once, however often and in
// however many ways it does.
func TestImpostorsFillNoLog(t *testing.T) {
	h := open(t)
	h.lot(false)
	c := h.config()
	var said bytes.Buffer
	c.Log = slog.New(slog.NewTextHandler(&said, nil))
	var err error
	if h.Registry, err = workshop.Open(bg, c); err != nil {
		t.Fatal(err)
	}
	p := h.pc(1)
	p.boot()
	for i := range 5 {
		other := h.pc(1, func(r *wire.Report) { r.Disks[0].Serial = fmt.Sprint("MADE UP ", i) })
		other.boots = 10 + i
		other.script()
		h.clock.pass(1)
		p.poll()
		_, err := h.Report(bg, other.token, other.rep)
		refused(t, err, workshop.Conflict)
	}
	if n := strings.Count(said.String(), "same identity"); n != 1 {
		t.Errorf("%d lines", n)
	}
}
