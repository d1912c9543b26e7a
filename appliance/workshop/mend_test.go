package workshop_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// An un-erased disk doesn't get past because a disk of the same cheap serial number
// is in another PC.
func TestDataDiskOfACommonNumber(t *testing.T) {
	h := open(t)
	h.lot(true)
	a := h.pc(1).done()
	second := a.rep.Disks[0]
	second.Path, second.Serial, second.WWN, second.Class, second.Model = "/dev/sdb", "AA000000000000000001", "", wire.ClassData, "cheap"
	a.rep.Disks = append(slices.Clone(a.rep.Disks), second)
	id := a.device().ID
	h.HoldAtStart(bg, "lead1", id)
	a.boot()
	if err := h.Cancel(bg, "lead1", a.device().Job.ID, ""); err != nil {
		t.Fatal(err)
	}
	refused(t, h.MoveDevice(bg, "lead1", id, workshop.Ready, ""), workshop.Conflict)
	b := h.pc(2)
	second.Path = "/dev/sda"
	b.rep.Disks = []wire.Disk{second}
	b.boot()
	err := h.MoveDevice(bg, "lead1", id, workshop.Ready, "")
	if refused(t, err, workshop.Conflict); !strings.Contains(err.Error(), "Start this PC from the network once") {
		t.Fatal(err)
	}
}

// A proof from before a PC was lost doesn't come back by a merge.
func TestLostProofStaysLost(t *testing.T) {
	h := open(t)
	h.lot(true)
	a := h.pc(1).done()
	idA := a.device().ID
	if err := h.MoveDevice(bg, "lead1", idA, workshop.DeviceLost, "gone"); err != nil {
		t.Fatal(err)
	}
	b := h.pc(2)
	b.rep.Disks = slices.Clone(a.rep.Disks)
	b.rep.Disks[0].Class = wire.ClassOurs
	b.boot()
	idB := h.number(2).ID
	if err := h.Cancel(bg, "lead1", h.number(2).Job.ID, ""); err != nil {
		t.Fatal(err)
	}
	if err := h.Merge(bg, "lead1", idB, idA, "found again, with another board"); err != nil {
		t.Fatal(err)
	}
	refused(t, h.MoveDevice(bg, "lead1", idB, workshop.Ready, ""), workshop.Conflict)
}

// A record that leaves after something was written under the common number isn't
// ready on its old proof.
func TestReleasedIsNotReady(t *testing.T) {
	h := open(t)
	h.lot(true)
	a, b := h.pc(1).done(), h.pc(2).done()
	idA, idB := a.device().ID, b.device().ID
	if err := h.MoveDevice(bg, "lead1", idB, workshop.Ready, ""); err != nil {
		t.Fatal(err)
	}
	if err := h.MoveDevice(bg, "lead1", idA, workshop.Ready, ""); err != nil {
		t.Fatal(err)
	}
	if err := h.Merge(bg, "lead1", idA, idB, "I thought so"); err != nil {
		t.Fatal(err)
	}
	if err := h.MoveDevice(bg, "lead1", idA, workshop.Received, ""); err != nil {
		t.Fatal(err)
	}
	if err := h.HoldAtStart(bg, "lead1", idA); err != nil {
		t.Fatal(err)
	}
	b.rep.Disks[0].Class = wire.ClassOurs
	b.boot()
	if err := h.Cancel(bg, "lead1", h.number(1).Job.ID, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Split(bg, "lead1", idA, workshop.Parting{Record: idB}, "two"); err != nil {
		t.Fatal(err)
	}
	if v := h.number(2); v.State != workshop.Received {
		t.Fatalf("it is %s", v.State)
	}
	refused(t, h.MoveDevice(bg, "lead1", idB, workshop.Ready, ""), workshop.Conflict)
	h.verify(idB)
}

// What a merged PC has in it is what its last report showed, though the clock was
// ahead at an earlier one.
func TestLastReportByOrder(t *testing.T) {
	for _, ahead := range []bool{false, true} {
		h := open(t)
		h.lot(true)
		if ahead {
			h.clock.pass(365 * 24 * time.Hour)
		}
		a := h.pc(1).done()
		if ahead {
			h.clock.pass(-365 * 24 * time.Hour)
		}
		b := h.pc(2)
		b.rep.Disks = slices.Clone(a.rep.Disks)
		b.rep.Disks[0].Class = wire.ClassOurs
		b.boot()
		idA, idB := h.number(1).ID, h.number(2).ID
		h.Cancel(bg, "lead1", h.number(2).Job.ID, "")
		if err := h.Merge(bg, "lead1", idB, idA, "one"); err != nil {
			t.Fatal(err)
		}
		err := h.MoveDevice(bg, "lead1", idB, workshop.Ready, "")
		if ahead != (err != nil && strings.Contains(err.Error(), "seen last is not known")) {
			t.Fatal(ahead, err)
		}
		if err == nil {
			h.MoveDevice(bg, "lead1", idB, workshop.Received, "")
		}
		h.HoldAtStart(bg, "lead1", idB)
		d := b.rep.Disks[0]
		d.Path, d.Serial, d.WWN, d.Class = "/dev/sdz", "DONOR99999", "", wire.ClassData
		b.rep.Disks = append(slices.Clone(b.rep.Disks), d)
		b.boot()
		h.Cancel(bg, "lead1", h.number(2).Job.ID, "")
		err = h.MoveDevice(bg, "lead1", idB, workshop.Ready, "")
		if refused(t, err, workshop.Conflict); !strings.Contains(err.Error(), "neither erased nor imaged") {
			t.Fatal(err)
		}
	}
}

// What was asked for under either number is over once they are one, and so are the
// starts of both.
func TestMergeForgetsWhatWasAsked(t *testing.T) {
	h := open(t)
	h.lot(true)
	a, b := h.pc(1).done(), h.pc(2).done()
	idA, idB := a.device().ID, b.device().ID
	for _, id := range []string{idA, idB} {
		if err := h.ImageAgain(bg, "lead1", id, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Merge(bg, "lead1", idA, idB, "one"); err != nil {
		t.Fatal(err)
	}
	if v := h.number(1); v.Again || v.AgainBy != "" || v.Wait {
		t.Fatalf("%+v", v.Device)
	}
	for _, p := range []*pc{a, b} {
		_, err := h.Plan(bg, p.token, 0, 0)
		refused(t, err, workshop.Unauthorized)
	}
}
