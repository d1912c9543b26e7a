package workshop_test

import (
	"testing"

	"refurb/appliance/workshop"
)

// A wish for another installation can be taken back: the next start is an
// ordinary one, and the wish stands in the history all the same.
func TestForgetAgain(t *testing.T) {
	h := open(t)
	refused(t, h.ForgetAgain(bg, "lead1", "nobody"), workshop.NotFound)
	p := h.pc(1, noDisk)
	if _, err := h.OpenLot(bg, "lead1", "Donor", root, true); err != nil {
		t.Fatal(err)
	}
	p.boot()
	p.state(workshop.JobFailed)
	id := p.device().ID
	refused(t, h.ForgetAgain(bg, "lead1", id), workshop.Conflict)
	if err := h.ImageAgain(bg, "lead1", id, other); err != nil {
		t.Fatal(err)
	}
	refused(t, h.ForgetAgain(bg, "", id), workshop.Invalid)
	if err := h.ForgetAgain(bg, "lead2", id); err != nil {
		t.Fatal(err)
	}
	if d := p.device(); d.Again || d.AgainBy != "" || d.Image != "" {
		t.Errorf("%+v", d.Device)
	}
	if !p.script() {
		t.Error("the PC gets the agent, as if the wish still stood")
	}
	events, err := h.store.Events(bg, id)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(events); events[n-1].Kind != "image_again_forgotten" || events[n-1].Actor != "lead2" || events[n-2].Kind != "image_again" {
		t.Errorf("%+v", events[max(0, n-2):])
	}
}

// One that is held with a wish goes back to what it waited for without it.
func TestForgetAgainOfAHeldPC(t *testing.T) {
	h := open(t)
	p := h.pc(1, data)
	p.boot() // no lot is open
	id := p.device().ID
	if err := h.ImageAgain(bg, "lead1", id, root); err != nil {
		t.Fatal(err)
	}
	if hold := p.device().Job.Hold; hold != workshop.HoldApproval {
		t.Fatalf("held for %s", hold)
	}
	if err := h.ForgetAgain(bg, "lead1", id); err != nil {
		t.Fatal(err)
	}
	if j := p.device().Job; j.State != workshop.Held || j.Hold != workshop.HoldLot {
		t.Errorf("%s, held for %s", j.State, j.Hold)
	}
}

func TestForgetWait(t *testing.T) {
	h := open(t)
	p := h.pc(1, noDisk)
	if _, err := h.OpenLot(bg, "lead1", "Donor", root, true); err != nil {
		t.Fatal(err)
	}
	p.boot()
	id := p.device().ID
	if err := h.HoldAtStart(bg, "lead1", id); err != nil {
		t.Fatal(err)
	}
	if err := h.ForgetAgain(bg, "lead1", id); err != nil {
		t.Fatal(err)
	}
	if p.device().Wait || !p.script() {
		t.Error("it would still wait")
	}
	refused(t, h.ForgetAgain(bg, "lead1", id), workshop.Conflict)
}
