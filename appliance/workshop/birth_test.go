package workshop_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// The birth record is the same however often the plan is answered, is for this
// disk, and the history says whether the one that was written is it.
func TestBirth(t *testing.T) {
	for _, honest := range []bool{true, false} {
		h := open(t)
		h.lot(true)
		p := h.pc(1, func(r *wire.Report) { r.Disks[0].WWN = "eui.0025385b71b0e1c8" })
		p.boot()
		doc := p.plan.Image.Birth
		h.clock.pass(5 * time.Minute)
		p.send(wire.EventImaging, nil)
		h.crash()
		p.report()
		if string(p.plan.Image.Birth) != string(doc) {
			t.Fatalf("%s\n%s", doc, p.plan.Image.Birth)
		}
		b, err := wire.ParseBirth(doc, key.Public().(ed25519.PublicKey))
		if err != nil || !b.For(p.rep.Disks[0].DiskID) || b.Job != p.plan.Job || b.Number != 1 || b.Root != root || b.Image != "debian-desktop" || b.Disk.Path != "" {
			t.Fatalf("%+v %v", b, err)
		}
		p.seq = 0
		p.send(wire.EventImaging, nil)
		p.send(wire.EventVerifying, nil)
		o := p.proof()
		sum := sha256.Sum256(doc)
		if o.Birth = hex.EncodeToString(sum[:]); !honest {
			o.Birth = strings.Repeat("0", 64)
		}
		o.SelfTest = &wire.SelfTest{State: wire.TestPassed}
		if err := p.send(wire.EventOutcome, o); err != nil {
			t.Fatal(err)
		}
		p.state(workshop.Verified)
		events, _ := h.store.Events(bg, p.device().ID)
		e := events[len(events)-1].Params
		if (e["birth"] == o.Birth) != honest || (e["birth_unexpected"] == o.Birth) == honest || e["self_test"] != "passed" {
			t.Fatalf("%+v", e)
		}
	}
}

func TestFailingDiskIsNotImaged(t *testing.T) {
	ill := func(r *wire.Report) { r.Disks[0].Health = &wire.Health{Passed: new(false)} }
	h := open(t)
	h.lot(true)
	p := h.pc(1, ill)
	p.boot()
	p.wants(wire.ActionHold)
	j := p.state(workshop.Held)
	if j.Hold != workshop.HoldHealth || j.Reason == "" || j.Next == "" || len(p.device().Candidates) != 0 || len(p.device().Erasable) != 1 {
		t.Fatalf("%+v", j)
	}
	refused(t, h.Approve(bg, "lead1", j.ID, "/dev/nvme0n1", p.tail()), workshop.Conflict)
	if err := h.ImageAgain(bg, "lead1", j.Device, ""); err != nil {
		t.Fatal(err)
	}
	if p.state(workshop.Held).Hold != workshop.HoldHealth {
		t.Fatal("asking again is not healing")
	}
	p.order(workshop.EraseWish{Install: true})
	p.erase()
	p.report()
	if p.state(workshop.Held).Hold != workshop.HoldHealth {
		t.Fatal("nor is erasing")
	}
	// One of two.
	q := h.pc(2, ill, func(r *wire.Report) {
		d := r.Disks[0]
		d.Path, d.Serial, d.Health = "/dev/sda", "GOOD99", nil
		r.Disks = append(r.Disks, d)
	})
	q.boot()
	if c := q.device().Candidates; len(c) != 1 || c[0].Path != "/dev/sda" {
		t.Fatalf("%+v", c)
	}
	refused(t, h.Approve(bg, "lead1", q.plan.Job, "/dev/nvme0n1", q.tail()), workshop.Conflict)
	if err := h.Approve(bg, "lead1", q.plan.Job, "/dev/sda", "GOOD99"); err != nil {
		t.Fatal(err)
	}
	// It fails between the approval and the first write.
	v := h.pc(3)
	v.boot()
	v.wants(wire.ActionImage)
	ill(&v.rep)
	v.report()
	if v.state(workshop.Held).Hold != workshop.HoldHealth {
		t.Fatal("a failing disk is imaged")
	}
}
