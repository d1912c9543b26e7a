package workshop_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// gets puts the disks of another PC into this one, where they look like this.
func (p *pc) gets(from *pc, class wire.Class) {
	p.rep.Disks = slices.Clone(from.rep.Disks)
	p.rep.Disks[0].Class = class
}

// The disk of a PC that is done is carried off and brought back. Each time the PC
// starts from the network its agent looks again, and the start after that is its own
// disk's; once all is well it isn't asked any more.
func TestLooksAgain(t *testing.T) {
	h := open(t)
	h.lot(true)
	a, b := h.pc(1).done(), h.pc(2, noDisk)
	a.poll()
	if !a.local() {
		t.Fatal("a PC that is done doesn't start its own disk")
	}
	b.gets(a, wire.ClassOurs)
	b.boot()

	a.rep.Disks = nil
	a.boot()
	a.wants(wire.ActionLocal)
	if !a.plan.Unfit || !strings.Contains(a.plan.Reason, "no longer in this PC") {
		t.Errorf("the PC's screen says %q", a.plan.Reason)
	}
	since := h.clock.Now()
	for range 3 { // a boot loader may ask again
		if kind, _, err := h.Boot(bg, workshop.Start{MAC: a.mac, UUID: a.rep.Identity.UUID, Since: since}); err != nil || kind != workshop.StartDisk {
			t.Fatalf("the start after the look: %s, %v", kind, err)
		}
	}
	if h.number(1).Unfit == nil {
		t.Fatal("a PC without its disk may be given away")
	}
	jobs := len(h.number(1).Jobs)

	a.gets(b, wire.ClassOurs)
	h.clock.pass(10 * time.Minute)
	a.boot()
	a.wants(wire.ActionLocal)
	if d := h.number(1); d.Unfit != nil || a.plan.Unfit || len(d.Jobs) != jobs {
		t.Fatalf("%v, %d jobs", d.Unfit, len(d.Jobs))
	}
	h.clock.pass(10 * time.Minute)
	if !a.local() {
		t.Fatal("a PC that is well again is looked at")
	}
}

// To ask for another imaging makes no unfit PC a fit one.
func TestUnfitThoughAskedForAgain(t *testing.T) {
	h := open(t)
	h.lot(true)
	a, b := h.pc(1).done(), h.pc(2, noDisk)
	b.gets(a, wire.ClassOurs)
	b.boot()
	if err := h.ImageAgain(bg, "lead1", h.number(1).ID, ""); err != nil {
		t.Fatal(err)
	}
	if h.number(1).Unfit == nil {
		t.Fatal("its disk is elsewhere and it is shown as done")
	}
}

// What a disk went through in another PC counts where it is now.
func TestDiskErasedElsewhere(t *testing.T) {
	h := open(t)
	h.lot(true)
	a, b := h.pc(1).done(), h.pc(2, noDisk)
	b.gets(a, wire.ClassData)
	b.boot()
	b.order(workshop.EraseWish{})
	b.erase()
	if err := h.HoldAtStart(bg, "lead1", h.number(1).ID); err != nil {
		t.Fatal(err)
	}
	a.boot()
	h.Cancel(bg, "lead1", h.number(1).Job.ID, "")
	err := h.MoveDevice(bg, "lead1", h.number(1).ID, workshop.Ready, "")
	if refused(t, err, workshop.Conflict); !strings.Contains(err.Error(), "in another PC after it was imaged") {
		t.Fatal(err)
	}
}

// Cheap disks of one serial number: the ones that were worked on at once are two.
func TestDisksOfOneNumber(t *testing.T) {
	h := open(t)
	h.lot(true)
	same := func(r *wire.Report) { r.Disks[0].Serial = "AA000000000000000001" }
	a, b := h.pc(1, same), h.pc(2, same)
	a.boot()
	b.boot()
	a.image()
	b.image()
	for _, n := range []int{1, 2} {
		if err := h.MoveDevice(bg, "lead1", h.number(n).ID, workshop.Ready, ""); err != nil {
			t.Fatal(err)
		}
	}
	if d := h.Disks(); len(d) != 1 || !d[0].Twin {
		t.Fatalf("%+v", d)
	}
}
