package workshop_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

func class(c wire.Class) func(*wire.Report) {
	return func(r *wire.Report) { r.Disks[0].Class = c }
}

// A PC that holds something is erased and, in the same start, installed.
func TestErasedAndInstalled(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1, data)
	p.boot()
	p.wants(wire.ActionHold)
	held := p.plan.Job
	if d := p.device(); len(d.Erasable) != 1 {
		t.Fatalf("%+v", d.Erasable)
	}
	p.order(workshop.EraseWish{Install: true})
	if e := p.plan.Erase; p.plan.Job != held || p.plan.Image != nil || p.plan.Content != wire.ClassData || *p.plan.Disk != p.rep.Disks[0].DiskID || e.Check != wire.CheckFull || len(e.Seed) != 64 {
		t.Fatalf("%+v", p.plan)
	}
	refused(t, p.send(wire.EventImaging, nil), workshop.Conflict) // that is not what was approved
	_, err := h.Sharer(p.token)
	refused(t, err, workshop.Conflict)
	if err := p.send(wire.EventErasing, nil); err != nil {
		t.Fatal(err)
	}
	p.state(workshop.Erasing)
	refused(t, p.send(wire.EventVerifying, nil), workshop.Conflict)
	if r, err := h.Progress(bg, p.token, wire.Progress{Job: held, Phase: wire.PhaseErasing, Done: 128e9, Total: 256e9, Rate: 1e9}); err != nil || r.Stop {
		t.Fatal(r, err)
	}
	if d := p.device(); d.Progress.Phase != wire.PhaseErasing || d.ETA != 384*time.Second { // and then all of it is read
		t.Fatalf("%+v", d.DeviceView)
	}
	_, err = h.Sharer(p.token)
	refused(t, err, workshop.Conflict)
	if len(h.Ended([]string{held})) != 1 {
		t.Fatal("somebody waits for frames of a PC that erases")
	}
	if err := p.send(wire.EventOutcome, p.empty()); err != nil {
		t.Fatal(err)
	}
	j := p.state(workshop.Erased)
	if j.State.Proved() || j.State.Live() || j.Outcome.Erasure.Level != wire.LevelPurge {
		t.Fatalf("%+v", j)
	}
	p.poll()
	p.wants(wire.ActionHold) // until it has looked at its disks again
	p.rep.Disks[0].Class, p.rep.Disks[0].Found, p.seq = wire.ClassBlank, nil, 0
	p.report()
	p.wants(wire.ActionImage)
	if a := p.device().Job.Approval; a.By != "lead1" || a.Class != wire.ClassBlank || p.plan.Job == held {
		t.Fatalf("%+v", a)
	}
	p.image()
	p.state(workshop.Verified)

	d := p.device()
	want := []string{"device_created", "report", "payload", "reported", "held", "approved", "erasing", "erased", "image_again", "report", "payload", "reported", "approved", "imaging", "verifying", "verified"}
	if got := h.kinds(d.ID); !slices.Equal(got, want) {
		t.Fatalf("%v", got)
	}
	events, _ := h.store.Events(bg, d.ID)
	if e := events[5]; e.Actor != "lead1" || e.Params["typed"] != p.tail() || e.Params["job"] != "erase" || e.Params["check"] != "full" || e.Params["seed"] == "" || e.Params["install"] != "true" || e.Params["health"] == "" {
		t.Fatalf("%+v", e)
	}
	e := events[7]
	for k, want := range map[string]string{
		"erasure": "erased", "level": "purge", "method": "nvme sanitize block", "bits": "SANICAP=0x00000002", "command": "84h SANACT=2", "code": "SSTAT=1h",
		"check": "full", "read": "256000000000", "mismatches": "0", "errors": "0", "serial": p.rep.Disks[0].Serial,
	} {
		if e.Params[k] != want {
			t.Errorf("%s is %q in the line", k, e.Params[k])
		}
	}
	var o wire.Outcome
	doc, err := h.store.Document(bg, e.Evidence)
	if err != nil || json.Unmarshal(doc, &o) != nil || o.Erasure.Steps[0].Code != "SSTAT=1h" || e.Result != "ok" || e.Actor != "agent" {
		t.Fatalf("%s %v", doc, err)
	}
	h.verify(d.ID)
	if jobs := h.Jobs(d.ID); len(jobs) != 2 || jobs[0].ID != held || jobs[1].State != workshop.Verified {
		t.Fatalf("%+v", jobs)
	}
}

// Without installing the PC waits, whatever standing approval there is; and
// switching it off and on changes nothing.
func TestErasedOnly(t *testing.T) {
	h := open(t)
	p := h.pc(1, data)
	p.boot() // no lot is open: erasing needs none
	p.order(workshop.EraseWish{Check: wire.CheckSample})
	p.erase()
	h.lot(true)
	p.report()
	p.wants(wire.ActionHold)
	if j := p.state(workshop.Held); j.Hold != workshop.HoldErased || j.Next == "" {
		t.Fatalf("%+v", j)
	}
	refused(t, h.Approve(bg, "lead1", p.plan.Job, "/dev/nvme0n1", p.tail()), workshop.Conflict)
	h.crash()
	p.boot()
	if j := p.state(workshop.Held); j.Hold != workshop.HoldErased {
		t.Fatalf("%+v", j)
	}
	if err := h.ImageAgain(bg, "vol1", p.device().ID, ""); err != nil {
		t.Fatal(err)
	}
	p.poll()
	p.wants(wire.ActionImage)
}

// A PC that is switched off right after its erasing starts from its own disk,
// unless an image was asked for with it.
func TestSwitchedOffAfterErasing(t *testing.T) {
	for _, install := range []bool{false, true} {
		h := open(t)
		h.lot(true)
		p := h.pc(1, data)
		p.boot()
		p.order(workshop.EraseWish{Install: install})
		p.erase()
		if local := p.script(); local == install {
			t.Fatalf("install %v, local %v", install, local)
		}
		if !install {
			continue
		}
		h.clock.pass(time.Minute)
		p.report()
		p.wants(wire.ActionImage)
	}
}

// The wish for an image after the erasing covers a blank disk and nothing else.
func TestInstallAfterErasingIsNoBlankCheque(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1, data)
	p.boot()
	p.order(workshop.EraseWish{Install: true})
	p.erase()
	data(&p.rep) // it says it is erased, and isn't
	p.report()
	p.wants(wire.ActionHold)
	p.state(workshop.Held)
}

func TestWhoMayEraseWhat(t *testing.T) {
	h := open(t)
	h.lot(false)
	wish := workshop.EraseWish{Check: wire.CheckFull}
	p := h.pc(1, data, func(r *wire.Report) {
		small, stick, locked, odd := r.Disks[0], r.Disks[0], r.Disks[0], r.Disks[0]
		small.Path, small.Serial, small.Bytes = "/dev/sda", "SMALL1", 1e9
		stick.Path, stick.Serial, stick.Transport = "/dev/sdb", "STICK1", wire.TransportUSB
		locked.Path, locked.Serial, locked.Class = "/dev/sdc", "LOCKED", wire.ClassLocked
		odd.Path, odd.Serial, odd.LogicalBlock, odd.Class = "/dev/sdd", "4KDISK", 4096, wire.ClassUnreadable
		odd.Health = &wire.Health{Passed: new(false)}
		r.Disks = append(r.Disks, small, stick, locked, odd)
	})
	refused(t, h.Erase(bg, "lead1", "nobody", "/dev/sda", "SMALL1", wish), workshop.NotFound)
	p.boot()
	id := p.device().ID
	for _, c := range []struct {
		actor, disk, typed string
		check              wire.CheckKind
		kind               workshop.Kind
	}{
		{"", "/dev/sda", "SMALL1", wire.CheckFull, workshop.Invalid},
		{"lead1", "/dev/sda", "SMALL1", "", workshop.Invalid},
		{"lead1", "/dev/sda", "SMALL1", "none", workshop.Invalid},
		{"lead1", "/dev/sda", "", wire.CheckFull, workshop.Invalid},
		{"lead1", "/dev/sda", "LOCKED", wire.CheckFull, workshop.Invalid}, // another one's
		{"lead1", "/dev/sdb", "STICK1", wire.CheckFull, workshop.Conflict},
		{"lead1", "/dev/sdz", "SMALL1", wire.CheckFull, workshop.Conflict},
	} {
		refused(t, h.Erase(bg, c.actor, id, c.disk, c.typed, workshop.EraseWish{Check: c.check}), c.kind)
	}
	if d := p.device(); len(d.Erasable) != 4 || d.Job.State != workshop.Held || d.Job.Erase != nil {
		t.Fatalf("%+v", d)
	}
	for disk, typed := range map[string]string{"/dev/sda": "small1", "/dev/sdc": "LOCKED", "/dev/sdd": "4KDISK"} {
		if err := h.Erase(bg, "lead1", id, disk, typed, wish); err != nil {
			t.Fatal(disk, err)
		}
		p.poll()
		p.wants(wire.ActionErase)
		if p.plan.Disk.Path != disk {
			t.Fatalf("%+v", p.plan)
		}
		refused(t, h.Erase(bg, "lead1", id, disk, typed, wish), workshop.Conflict) // one at a time
		refused(t, h.ImageAgain(bg, "lead1", id, ""), workshop.Conflict)
		// Cancelled before anything happened, and the PC still polls: a job of its own.
		if err := h.Cancel(bg, "lead1", p.plan.Job, ""); err != nil {
			t.Fatal(err)
		}
		p.poll()
		p.wants(wire.ActionFail)
	}
	h.clock.pass(2 * time.Minute) // it is off
	refused(t, h.Erase(bg, "lead1", id, "/dev/sda", "SMALL1", wish), workshop.Conflict)
	if len(p.device().Erasable) != 0 {
		t.Fatal("a PC that is off may be erased")
	}
	// A rejected PC is erased before it goes to the recycler; one that was given back isn't touched.
	if err := h.MoveDevice(bg, "lead1", id, workshop.Rejected, "too old"); err != nil {
		t.Fatal(err)
	}
	if err := h.HoldAtStart(bg, "lead1", id); err != nil {
		t.Fatal(err)
	}
	p.boot()
	p.wants(wire.ActionHold)
	if err := h.Erase(bg, "lead1", id, "/dev/sda", "SMALL1", workshop.EraseWish{Check: wire.CheckFull, Install: true}); err != nil {
		t.Fatal(err)
	}
	if p.device().Job.Erase.Install {
		t.Fatal("a rejected PC is to be installed")
	}
	if err := h.Cancel(bg, "lead1", p.device().Job.ID, ""); err != nil {
		t.Fatal(err)
	}
	if err := h.MoveDevice(bg, "lead1", id, workshop.ReturnedDonor, "wanted back"); err != nil {
		t.Fatal(err)
	}
	p.poll()
	refused(t, h.Erase(bg, "lead1", id, "/dev/sda", "SMALL1", wish), workshop.Conflict)
	refused(t, h.HoldAtStart(bg, "lead1", id), workshop.Conflict)
}

// A PC whose disk was imaged is brought back into the agent, and waits.
func TestHoldAtStart(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1)
	p.boot()
	refused(t, h.HoldAtStart(bg, "lead1", p.device().ID), workshop.Conflict) // it is there already
	p.image()
	id := p.device().ID
	if !p.script() {
		t.Fatal("a finished PC got the agent")
	}
	refused(t, h.HoldAtStart(bg, "lead1", "nobody"), workshop.NotFound)
	if err := h.HoldAtStart(bg, "lead1", id); err != nil {
		t.Fatal(err)
	}
	p.rep.Disks[0].Class = wire.ClassOurs
	p.boot()
	p.wants(wire.ActionHold)
	if j := p.state(workshop.Held); j.Hold != workshop.HoldAsked {
		t.Fatalf("%+v", j)
	}
	p.order(workshop.EraseWish{})
	p.erase()
	p.state(workshop.Erased)
	if err := h.ImageAgain(bg, "lead1", id, ""); err != nil {
		t.Fatal(err)
	}
	p.report()
	p.wants(wire.ActionImage)
}

// Ten minutes, this start, this disk.
func TestEraseApprovalIsBound(t *testing.T) {
	ready := func(t *testing.T) (*house, *pc) {
		h := open(t)
		h.lot(true)
		p := h.pc(1, data)
		p.boot()
		p.order(workshop.EraseWish{Install: true})
		return h, p
	}
	gone := func(t *testing.T, p *pc) {
		t.Helper()
		p.poll()
		p.wants(wire.ActionHold)
		if j := p.state(workshop.Held); j.Erase != nil || j.Approval != nil || j.Next == "" {
			t.Fatalf("%+v", j)
		}
		refused(t, p.send(wire.EventErasing, nil), workshop.Conflict)
		if p.device().Again {
			t.Fatal("an erasing that never happened leaves a wish for an image")
		}
	}
	t.Run("ten minutes", func(t *testing.T) {
		h, p := ready(t)
		h.clock.pass(10*time.Minute + time.Second)
		refused(t, p.send(wire.EventErasing, nil), workshop.Conflict)
		gone(t, p)
		p.order(workshop.EraseWish{}) // asked for again
		h.crash()
		p.poll()
		p.wants(wire.ActionErase) // a restart of the appliance takes nothing away
	})
	t.Run("expired, and blank by now", func(t *testing.T) {
		h, p := ready(t)
		h.clock.pass(11 * time.Minute)
		class(wire.ClassBlank)(&p.rep)
		p.report()
		gone(t, p) // a person's wish never turns into an imaging
	})
	t.Run("this start", func(t *testing.T) {
		_, p := ready(t)
		old := *p
		p.boot()
		p.wants(wire.ActionHold)
		refused(t, old.send(wire.EventErasing, nil), workshop.Conflict)
		gone(t, p)
	})
	for name, change := range map[string]func(*wire.Report){
		"swapped":           func(r *wire.Report) { r.Disks[0].Serial = "ANOTHER1" },
		"pulled":            noDisk,
		"another class":     class(wire.ClassBlank),
		"in use":            func(r *wire.Report) { r.Disks[0].InUse = "held by md0" },
		"a twin comes late": func(r *wire.Report) { d := r.Disks[0]; d.Path = "/dev/nvme1n1"; r.Disks = append(r.Disks, d) },
	} {
		t.Run("reported again: "+name, func(t *testing.T) {
			_, p := ready(t)
			change(&p.rep)
			p.report()
			gone(t, p)
		})
	}
	for name, change := range map[string]func(*wire.DiskID){
		"serial": func(d *wire.DiskID) { d.Serial = "ANOTHER1" },
		"size":   func(d *wire.DiskID) { d.Bytes-- },
		"blocks": func(d *wire.DiskID) { d.LogicalBlock = 4096 },
	} {
		t.Run("opened with another "+name, func(t *testing.T) {
			_, p := ready(t)
			change(p.plan.Disk)
			refused(t, p.send(wire.EventErasing, nil), workshop.Conflict)
			if j := p.state(workshop.JobFailed); j.Reason == "" {
				t.Fatalf("%+v", j)
			}
		})
	}
	t.Run("no disk named", func(t *testing.T) {
		h, p := ready(t)
		refused(t, h.Event(bg, p.token, wire.Event{Job: p.plan.Job, Seq: 1, Kind: wire.EventErasing}), workshop.Invalid)
		p.state(workshop.Approved)
	})
	t.Run("the job images", func(t *testing.T) {
		h := open(t)
		h.lot(true)
		p := h.pc(1)
		p.boot()
		refused(t, p.send(wire.EventErasing, nil), workshop.Conflict)
		p.state(workshop.Approved)
	})
}

// The agent is restarted in the middle and takes the erasing up again; the
// appliance, too.
func TestErasingGoesOn(t *testing.T) {
	h := open(t)
	p := h.pc(1, data)
	p.boot()
	p.order(workshop.EraseWish{})
	if err := p.send(wire.EventErasing, nil); err != nil {
		t.Fatal(err)
	}
	plan := p.plan
	for range 2 {
		h.crash()
		class(wire.ClassBlank)(&p.rep) // half of it is gone already
		p.report()
		if p.plan.Action != wire.ActionErase || p.plan.Erase.Seed != plan.Erase.Seed || p.plan.Content != wire.ClassData || *p.plan.Disk != *plan.Disk {
			t.Fatalf("%+v", p.plan)
		}
		p.seq = 0
		if err := p.send(wire.EventErasing, nil); err != nil {
			t.Fatal(err)
		}
		p.state(workshop.Erasing)
	}
	h.clock.pass(3 * time.Hour) // sanitizing a large disk takes its time: the approval was for the beginning
	p.poll()
	p.seq = 0
	if err := p.send(wire.EventErasing, nil); err != nil {
		t.Fatal(err)
	}
	// But not on another disk.
	other := *p
	other.plan.Disk = &wire.DiskID{Path: "/dev/sda", Serial: "OTHER", Bytes: 256e9, LogicalBlock: 512}
	other.seq = 0
	refused(t, other.send(wire.EventErasing, nil), workshop.Conflict)
	p.state(workshop.JobFailed)
	events, _ := h.store.Events(bg, p.device().ID)
	if e := events[len(events)-1]; e.Result != "unknown" {
		t.Fatalf("%+v", e)
	}
}

func TestErasingLostAndFound(t *testing.T) {
	bubble(t, func(t *testing.T, h *house, ctx context.Context) {
		p := h.pc(1, data)
		p.boot()
		p.order(workshop.EraseWish{})
		if err := p.send(wire.EventErasing, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if j := p.state(workshop.JobLost); j.Before != workshop.Erasing {
			t.Fatalf("%+v", j)
		}
		refused(t, h.Erase(ctx, "lead1", p.device().ID, "/dev/nvme0n1", p.tail(), workshop.EraseWish{Check: wire.CheckFull}), workshop.Conflict)
		refused(t, h.MoveDevice(ctx, "lead1", p.device().ID, workshop.Recycled, "old"), workshop.Conflict)
		p.poll()
		p.wants(wire.ActionErase)
		p.state(workshop.Erasing)
		if err := p.send(wire.EventOutcome, p.empty()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		p.state(workshop.Erased)
	})
}

func TestRestartWhileErasing(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1, data)
	p.boot()
	p.order(workshop.EraseWish{Install: true})
	if err := p.send(wire.EventErasing, nil); err != nil {
		t.Fatal(err)
	}
	p.rep.Disks[0].Class, p.rep.Disks[0].Found = wire.ClassBlank, nil
	p.boot()
	p.wants(wire.ActionHold)
	d := p.device()
	if j := d.Job; j.Hold != workshop.HoldRestart || d.Jobs[1].State != workshop.JobFailed || !strings.Contains(d.Jobs[1].Reason, "nobody knows") {
		t.Fatalf("%+v", d.Jobs)
	}
	events, _ := h.store.Events(bg, d.ID)
	i := slices.IndexFunc(events, func(e workshop.Event) bool { return e.To == "failed" })
	if events[i].Result != "unknown" {
		t.Fatalf("%+v", events[i])
	}
	// Its outcome comes late, by the old start's token: it counts for nothing.
	p.order(workshop.EraseWish{})
	p.erase()
	p.state(workshop.Erased)
}

func TestCancelWhileErasing(t *testing.T) {
	h := open(t)
	p := h.pc(1, data)
	p.boot()
	p.order(workshop.EraseWish{Install: true})
	if err := p.send(wire.EventErasing, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Cancel(bg, "lead1", p.plan.Job, "wrong disk"); err != nil {
		t.Fatal(err)
	}
	if r, err := h.Progress(bg, p.token, wire.Progress{Job: p.plan.Job, Phase: wire.PhaseErasing}); err != nil || !r.Stop {
		t.Fatal(r, err)
	}
	refused(t, p.send(wire.EventErasing, nil), workshop.Conflict)
	// It was done in that very moment: written down, and cancelled all the same.
	if err := p.send(wire.EventOutcome, p.empty()); err != nil {
		t.Fatal(err)
	}
	if j := p.state(workshop.Cancelled); j.Outcome != nil || p.device().Again {
		t.Fatalf("%+v", j)
	}
	events, _ := h.store.Events(bg, p.device().ID)
	n := len(events)
	if late, cancelled := events[n-1], events[n-2]; late.Kind != "late_outcome" || late.Evidence == "" || late.Params["erasure"] != "erased" || late.Result != "" || cancelled.Result != "unknown" {
		t.Fatalf("%+v", events[n-2:])
	}
	p.order(workshop.EraseWish{}) // and once more, in the same start
	p.erase()
	p.state(workshop.Erased)
}

// Whatever the agent says but a proof: the disk is not erased, no image follows,
// and nobody gets the PC.
func TestNothingErasedWithoutProof(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*wire.Outcome)
		result string
	}{
		"exceptions":      {func(o *wire.Outcome) { o.Result, o.Erasure.Result = wire.Failed, wire.ErasedExceptions }, "failed"},
		"not erased":      {func(o *wire.Outcome) { o.Result, o.Erasure.Result = wire.Failed, wire.NotErased }, "failed"},
		"unknown":         {func(o *wire.Outcome) { o.Result, o.Erasure.Result = wire.Unknown, wire.ErasureUnknown }, "unknown"},
		"garbage":         {func(o *wire.Outcome) { o.Result = "true" }, "unknown"},
		"nothing":         {func(o *wire.Outcome) { *o = wire.Outcome{} }, "unknown"},
		"no erasure":      {func(o *wire.Outcome) { o.Erasure = nil }, "failed"},
		"nothing read":    {func(o *wire.Outcome) { o.Erasure.Check = wire.ReadCheck{} }, "failed"},
		"another's seed":  {func(o *wire.Outcome) { o.Erasure.Check.Kind, o.Erasure.Check.Seed = wire.CheckSample, "00" }, "failed"},
		"a mismatch":      {func(o *wire.Outcome) { o.Erasure.Check.Mismatches = 1 }, "failed"},
		"no command":      {func(o *wire.Outcome) { o.Erasure.Steps[0].Command = "" }, "failed"},
		"an image's word": {func(o *wire.Outcome) { *o = wire.Outcome{Result: wire.Done, Root: root, ReadBack: size, Disk: o.Disk} }, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.lot(true)
			p := h.pc(1, data)
			p.boot()
			p.order(workshop.EraseWish{Install: true})
			if err := p.send(wire.EventErasing, nil); err != nil {
				t.Fatal(err)
			}
			o := p.empty()
			c.change(o)
			if err := p.send(wire.EventOutcome, o); err != nil {
				t.Fatal(err)
			}
			j := p.state(workshop.JobFailed)
			events, _ := h.store.Events(bg, j.Device)
			if e := events[len(events)-1]; j.Reason == "" || e.Result != c.result || e.Evidence == "" {
				t.Fatalf("%+v", e)
			}
			if p.device().Again {
				t.Fatal("an image follows")
			}
			p.report() // it is blank, it says
			p.wants(wire.ActionFail)
			refused(t, h.MoveDevice(bg, "lead1", j.Device, workshop.Ready, ""), workshop.Conflict)
		})
	}
	t.Run("less than no mismatches", func(t *testing.T) {
		h := open(t)
		p := h.pc(1, data)
		p.boot()
		p.order(workshop.EraseWish{})
		p.send(wire.EventErasing, nil)
		for _, f := range []func(*wire.ReadCheck){func(c *wire.ReadCheck) { c.Mismatches = -1 }, func(c *wire.ReadCheck) { c.Errors = -1 }, func(c *wire.ReadCheck) { c.Bytes = -1 }} {
			o := p.empty()
			f(&o.Erasure.Check)
			refused(t, p.send(wire.EventOutcome, o), workshop.Invalid)
		}
		p.state(workshop.Erasing)
	})
}

// A message as long as may be, all of characters that JSON for HTML escapes.
func TestOutcomeIsBounded(t *testing.T) {
	h := open(t)
	p := h.pc(1, data)
	p.boot()
	p.order(workshop.EraseWish{})
	p.send(wire.EventErasing, nil)
	o := p.empty()
	o.Erasure.Steps = nil
	for range 200 {
		o.Erasure.Steps = append(o.Erasure.Steps, wire.EraseStep{Method: strings.Repeat("<", 1000), Why: strings.Repeat("&", 1000)})
		o.Erasure.Exceptions = append(o.Erasure.Exceptions, strings.Repeat("<", 1000))
	}
	if err := p.send(wire.EventOutcome, o); err != nil {
		t.Fatal(err)
	}
	events, _ := h.store.Events(bg, p.device().ID)
	doc, _ := h.store.Document(bg, events[len(events)-1].Evidence)
	if j := p.state(workshop.JobFailed); len(doc) == 0 || len(doc) > wire.MaxMessage || len(j.Outcome.Erasure.Steps) != 64 {
		t.Fatalf("%d bytes, %d steps", len(doc), len(j.Outcome.Erasure.Steps))
	}
}

// What an erased disk held of an image is no longer claimed.
func TestErasingVoidsClaims(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.writing(1)
	if err := h.Claim(p.token, []byte{255, 3}); err != nil {
		t.Fatal(err)
	}
	p.boot()
	p.wants(wire.ActionHold) // cut off
	p.order(workshop.EraseWish{Install: true})
	p.erase()
	p.report()
	p.wants(wire.ActionImage)
	if p.plan.Image.Claims != nil {
		t.Fatalf("%x", p.plan.Image.Claims)
	}
}
