package workshop_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

var (
	bg  = context.Background()
	key = ed25519.NewKeyFromSeed(make([]byte, 32))
)

func TestBlankDiskUnderStandingApproval(t *testing.T) {
	h := open(t)
	lot := h.lot(true)
	p := h.pc(1)
	p.boot()
	p.wants(wire.ActionImage)
	if p.plan.Number != 1 || p.plan.Image.Root != root || p.plan.Image.FramesURL != "http://10.77.0.1:8080/images/aa11/frames" ||
		p.plan.Image.Checkin.URL != "https://10.77.0.1:8443/v1/checkin" || p.plan.Content != wire.ClassBlank || p.plan.Disk.Path != "/dev/nvme0n1" {
		t.Fatalf("%+v", p.plan)
	}
	checkin := p.plan.Image.Checkin.Token
	p.image()
	j := p.state(workshop.Verified)
	if j.Approval.By != "lot:"+lot.ID || j.Outcome.ReadBack != size {
		t.Fatalf("%+v", j)
	}
	p.poll()
	p.wants(wire.ActionLocal)
	if !p.script() {
		t.Fatal("a finished PC got the agent again")
	}
	f := wire.FirstBoot{System: "Debian 13", MAC: strings.ToUpper(p.mac)}
	refused(t, h.Checkin(bg, "nonsense", f), workshop.Unauthorized)
	for range 2 { // it may not hear the answer
		if err := h.Checkin(bg, checkin, f); err != nil {
			t.Fatal(err)
		}
	}
	p.state(workshop.FirstBoot)
	if !p.script() {
		t.Fatal("a finished PC got the agent again")
	}
	d := p.device()
	want := []string{"device_created", "report", "payload", "reported", "approved", "imaging", "verifying", "verified", "first_boot_seen"}
	if got := h.kinds(d.ID); !slices.Equal(got, want) {
		t.Fatalf("%v", got)
	}
	events, _ := h.store.Events(bg, d.ID)
	for _, e := range events {
		if e.Evidence == "" {
			continue
		}
		if b, err := h.store.Document(bg, e.Evidence); err != nil || !json.Valid(b) {
			t.Fatalf("the evidence of %s: %q %v", e.Kind, b, err)
		}
	}
	if e := events[2]; e.Params["vmlinuz"] != "linux-image 6.12 sha256 56" {
		t.Fatalf("the boot files aren't in the history: %+v", e)
	}
	if e := events[7]; e.Params["read_back"] != "8000000000" || e.Result != "ok" || e.Actor != "agent" || e.Evidence == "" {
		t.Fatalf("%+v", e)
	}
	h.verify(d.ID)
	h.verify("")
}

func TestDataIsHeldUntilTheSerialIsTyped(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1, data)
	p.boot()
	p.wants(wire.ActionHold)
	j := p.state(workshop.Held)
	if j.Hold != workshop.HoldApproval || p.plan.Reason == "" || p.plan.Next == "" || len(p.device().Candidates) != 1 {
		t.Fatalf("%+v", j)
	}
	refused(t, h.Approve(bg, "lead1", j.ID, "/dev/nvme0n1", "000000"), workshop.Invalid)
	refused(t, h.Approve(bg, "lead1", j.ID, "/dev/sdb", p.tail()), workshop.Conflict)
	refused(t, h.Approve(bg, "", j.ID, "/dev/nvme0n1", p.tail()), workshop.Invalid)
	refused(t, h.Approve(bg, "lead1", "nonsense", "/dev/nvme0n1", p.tail()), workshop.NotFound)
	p.plan.Disk = &p.rep.Disks[0].DiskID
	refused(t, p.send(wire.EventImaging, nil), workshop.Conflict)
	p.state(workshop.Held)
	p.approve()
	refused(t, h.Approve(bg, "lead1", j.ID, "/dev/nvme0n1", p.tail()), workshop.Conflict)
	p.poll()
	p.wants(wire.ActionImage)
	refused(t, h.Event(bg, p.token, wire.Event{Job: j.ID, Seq: 1, Kind: wire.EventImaging}), workshop.Invalid) // no disk named
	if p.plan.Content != wire.ClassData {
		t.Fatalf("%+v", p.plan)
	}
	p.image()
	p.state(workshop.Verified)
	events, _ := h.store.Events(bg, p.device().ID)
	i := slices.IndexFunc(events, func(e workshop.Event) bool { return e.To == "approved" })
	if e := events[i]; e.Actor != "lead1" || e.Params["typed"] != p.tail() || e.Params["class"] != "data" || e.Params["serial"] != p.rep.Disks[0].Serial {
		t.Fatalf("%+v", e)
	}
}

func TestHolds(t *testing.T) {
	second := func(r *wire.Report) {
		d := r.Disks[0]
		d.Path, d.Serial = "/dev/sda", "SECOND99"
		r.Disks = append(r.Disks, d)
	}
	nameless := func(r *wire.Report) { r.Disks[0].Serial = "" }
	for _, c := range []struct {
		name        string
		change      func(*wire.Report)
		noLot       bool
		disk, type_ string
		hold        workshop.Hold
	}{
		{"several", second, false, "/dev/sda", "COND99", workshop.HoldSeveral},
		{"no serial", nameless, false, "/dev/nvme0n1", "/dev/nvme0n1", workshop.HoldSerial},
		{"structured", func(r *wire.Report) { r.Disks[0].Class = wire.ClassStructured }, false, "/dev/nvme0n1", "000001", workshop.HoldApproval},
		{"a class from the future", func(r *wire.Report) { r.Disks[0].Class = "future" }, false, "/dev/nvme0n1", "000001", workshop.HoldApproval},
		{"no lot", func(*wire.Report) {}, true, "/dev/nvme0n1", "000001", workshop.HoldLot},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := open(t)
			if !c.noLot {
				h.lot(true)
			}
			p := h.pc(1, c.change)
			p.boot()
			p.wants(wire.ActionHold)
			j := p.state(workshop.Held)
			if j.Hold != c.hold {
				t.Fatalf("%+v", j)
			}
			err := h.Approve(bg, "lead1", j.ID, c.disk, c.type_)
			if c.noLot {
				refused(t, err, workshop.Conflict)
				h.lot(true) // sets it going
			} else if err != nil {
				t.Fatal(err)
			}
			p.poll()
			p.wants(wire.ActionImage)
			if p.plan.Disk.Path != c.disk {
				t.Fatalf("%+v", p.plan.Disk)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	h := open(t)
	h.lot(true)
	for i, c := range []struct {
		change func(*wire.Report)
		says   string
	}{
		{noDisk, "No disk"},
		{func(r *wire.Report) { r.Disks, r.HiddenStorage = nil, []string{"pci 8086:282a"} }, "not known"},
		{func(r *wire.Report) { r.Disks[0].Bytes = 4e9 }, "too small"},
		{func(r *wire.Report) { r.Disks[0].LogicalBlock = 4096 }, "4096"},
	} {
		p := h.pc(i+1, c.change)
		p.boot()
		p.wants(wire.ActionFail)
		if !strings.Contains(p.plan.Reason, c.says) || p.plan.Next == "" {
			t.Errorf("%+v", p.plan)
		}
		p.state(workshop.JobFailed)
		if !p.script() {
			t.Error("a failed PC got the agent again unasked")
		}
		// The disk is put in and imaging asked for again.
		p.rep.Disks, p.rep.HiddenStorage = h.pc(i+1).rep.Disks, nil
		if err := h.ImageAgain(bg, "vol1", p.device().ID, ""); err != nil {
			t.Fatal(err)
		}
		p.boot()
		p.wants(wire.ActionImage)
		if by := p.device().Job.Approval.By; by != "vol1" {
			t.Errorf("approved by %s", by)
		}
	}
}

func TestNothingWithoutProof(t *testing.T) {
	for name, change := range map[string]func(*wire.Outcome){
		"fewer bytes":   func(o *wire.Outcome) { o.ReadBack-- },
		"a mismatch":    func(o *wire.Outcome) { o.Mismatches = 1 },
		"another image": func(o *wire.Outcome) { o.Root = other },
		"another disk":  func(o *wire.Outcome) { o.Disk = &wire.DiskID{Path: "/dev/sdz", Serial: "x"} },
		"unknown":       func(o *wire.Outcome) { o.Result = wire.Unknown },
		"no result":     func(o *wire.Outcome) { o.Result = "" },
		"failed":        func(o *wire.Outcome) { o.Result, o.Cause = wire.Failed, "the disk died" },
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.lot(true)
			p := h.pc(1)
			p.boot()
			for _, k := range []wire.EventKind{wire.EventImaging, wire.EventVerifying} {
				if err := p.send(k, nil); err != nil {
					t.Fatal(err)
				}
			}
			o := p.proof()
			change(o)
			if err := p.send(wire.EventOutcome, o); err != nil {
				t.Fatal(err)
			}
			j := p.state(workshop.JobFailed)
			if j.Reason == "" {
				t.Fatal("it gives no reason")
			}
			refused(t, h.Checkin(bg, p.plan.Image.Checkin.Token, wire.FirstBoot{}), workshop.Conflict)
			refused(t, h.MoveDevice(bg, "lead1", j.Device, workshop.Ready, ""), workshop.Conflict)
		})
	}
	t.Run("done before it was read back", func(t *testing.T) {
		h := open(t)
		h.lot(true)
		p := h.pc(1)
		p.boot()
		if err := p.send(wire.EventImaging, nil); err != nil {
			t.Fatal(err)
		}
		if err := p.send(wire.EventOutcome, p.proof()); err != nil {
			t.Fatal(err)
		}
		if j := p.state(workshop.JobFailed); !strings.Contains(j.Reason, "without proof") {
			t.Fatal(j.Reason)
		}
	})
	t.Run("less than no mismatches", func(t *testing.T) {
		h := open(t)
		h.lot(true)
		p := h.pc(1)
		p.boot()
		p.send(wire.EventImaging, nil)
		p.send(wire.EventVerifying, nil)
		o := p.proof()
		o.Mismatches = -1
		refused(t, p.send(wire.EventOutcome, o), workshop.Invalid)
		p.state(workshop.Verifying)
	})
}

func TestEventsAreTakenOnceAndInOrder(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1)
	p.boot()
	job := p.plan.Job
	event := func(seq int, kind wire.EventKind) error {
		e := wire.Event{Job: job, Seq: seq, Kind: kind, Disk: p.plan.Disk}
		if kind == wire.EventOutcome {
			e.Outcome = p.proof()
		}
		return h.Event(bg, p.token, e)
	}
	refused(t, event(0, wire.EventImaging), workshop.Invalid)
	refused(t, event(1000, wire.EventImaging), workshop.Invalid)
	refused(t, event(2, wire.EventVerifying), workshop.Conflict)
	refused(t, event(1, wire.EventVerifying), workshop.Conflict)
	refused(t, event(1, "nonsense"), workshop.Invalid)
	refused(t, h.Event(bg, p.token, wire.Event{Job: "another", Seq: 1, Kind: wire.EventImaging}), workshop.Unauthorized)
	for range 3 {
		if err := event(1, wire.EventImaging); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, event(2, wire.EventImaging), workshop.Conflict)
	refused(t, event(3, wire.EventOutcome), workshop.Conflict)
	for range 2 {
		if err := event(2, wire.EventVerifying); err != nil {
			t.Fatal(err)
		}
		if err := event(1, wire.EventImaging); err != nil { // the agent was restarted and does it all again
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := event(3, wire.EventOutcome); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, event(4, wire.EventImaging), workshop.Conflict)
	refused(t, event(4, wire.EventOutcome), workshop.Conflict)
	p.state(workshop.Verified)
	got := h.kinds(p.device().ID)
	if n := len(got); !slices.Equal(got[n-4:], []string{"approved", "imaging", "verifying", "verified"}) {
		t.Fatalf("%v", got)
	}
}

// An agent that was restarted within its start counts from 1 again: a failure
// must not pass for a repetition.
func TestRestartedAgentFails(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1)
	p.boot()
	if err := p.send(wire.EventImaging, nil); err != nil {
		t.Fatal(err)
	}
	p.report()
	p.wants(wire.ActionImage)
	p.seq = 0
	if err := p.send(wire.EventOutcome, &wire.Outcome{Result: wire.Failed, Cause: "the disk now holds something"}); err != nil {
		t.Fatal(err)
	}
	p.state(workshop.JobFailed)
}

func TestAnotherDiskThanTheApprovedOne(t *testing.T) {
	h := open(t)
	h.lot(true)
	for i, again := range []bool{false, true} {
		p := h.pc(i + 1)
		p.boot()
		if again {
			if err := p.send(wire.EventImaging, nil); err != nil {
				t.Fatal(err)
			}
			p.seq = 0
		}
		p.plan.Disk = &wire.DiskID{Path: "/dev/nvme0n1", Serial: "ANOTHER", Bytes: 256e9, LogicalBlock: 512}
		refused(t, p.send(wire.EventImaging, nil), workshop.Conflict)
		if j := p.state(workshop.JobFailed); !strings.Contains(j.Reason, "ANOTHER") {
			t.Fatal(j.Reason)
		}
	}
}

func TestTokens(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1)
	p.script()
	_, err := h.Plan(bg, p.token, 0, 0)
	refused(t, err, workshop.Conflict) // nothing before the report
	_, err = h.Report(bg, "nonsense", p.rep)
	refused(t, err, workshop.Unauthorized)
	p.report()
	rep := p.rep
	rep.BootID = "another start"
	_, err = h.Report(bg, p.token, rep)
	refused(t, err, workshop.Unauthorized)
	if kind, token, err := h.Boot(bg, workshop.Start{MAC: "00:00:5e:00:53:01"}); kind != workshop.StartAgent || err != nil {
		t.Fatal(err)
	} else {
		_, err = h.Report(bg, token, p.rep) // the same start with another token
		refused(t, err, workshop.Unauthorized)
	}
	// Four scripts more, and the token of the live job still counts.
	for range 6 {
		q := *p
		q.script()
	}
	p.poll()
	p.wants(wire.ActionImage)
	// Of tokens that nobody has used, the last four count.
	mac := "00:00:5e:00:53:02"
	var tokens []string
	for range 6 {
		_, token, err := h.Boot(bg, workshop.Start{MAC: mac})
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
	}
	for i, token := range tokens {
		q := h.pc(50 + i)
		q.rep.BootID = "start " + token
		_, err := h.Report(bg, token, q.rep)
		if (err == nil) != (i >= 2) {
			t.Fatalf("token %d: %v", i, err)
		}
	}
	// A day later an unused one has expired, and the one of a live job has not.
	_, token, _ := h.Boot(bg, workshop.Start{MAC: mac})
	h.clock.pass(25 * time.Hour)
	rep = h.pc(60).rep
	rep.BootID = "late"
	_, err = h.Report(bg, token, rep)
	refused(t, err, workshop.Unauthorized)
	p.poll()
	p.wants(wire.ActionHold) // known still, but the approval has expired
	for _, mac := range []string{"", "nonsense", "00:11:22:33:44", "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01"} {
		_, _, err := h.Boot(bg, workshop.Start{MAC: mac})
		refused(t, err, workshop.Invalid)
	}
}

func TestRestartWhileImaging(t *testing.T) {
	for _, until := range []wire.EventKind{wire.EventImaging, wire.EventVerifying} {
		h := open(t)
		h.lot(true)
		p := h.pc(1)
		p.boot()
		first := p.plan.Job
		p.send(wire.EventImaging, nil)
		if until == wire.EventVerifying {
			p.send(wire.EventVerifying, nil)
		}
		p.boot()
		p.wants(wire.ActionHold) // blank and under standing approval, and yet
		j := p.state(workshop.Held)
		if j.Hold != workshop.HoldRestart || j.ID == first {
			t.Fatalf("%+v", j)
		}
		d := p.device()
		if old := d.Jobs[1]; old.ID != first || old.State != workshop.JobFailed || !strings.Contains(old.Reason, "restarted") {
			t.Fatalf("%+v", old)
		}
		// Switching it off and on doesn't make that forgotten, nor does a crash.
		h.crash()
		p.boot()
		p.wants(wire.ActionHold)
		if p.state(workshop.Held).Hold != workshop.HoldRestart {
			t.Fatal("forgotten")
		}
		if err := h.ImageAgain(bg, "vol1", d.ID, ""); err != nil {
			t.Fatal(err)
		}
		if p.state(workshop.Held).Hold != workshop.HoldRestart {
			t.Fatal("asking again is not looking")
		}
		p.approve()
		p.poll()
		p.image()
		p.state(workshop.Verified)
	}
}

func TestStandingApprovalCountsOnce(t *testing.T) {
	h := open(t)
	lot := h.lot(true)
	p := h.pc(1)
	p.boot()
	p.wants(wire.ActionImage)
	p.boot() // before the first write
	p.wants(wire.ActionHold)
	if err := h.CloseLot(bg, "lead1", lot.ID); err != nil {
		t.Fatal(err)
	}
	h.lot(true) // another lot's doesn't count for this device either
	p.boot()
	p.wants(wire.ActionHold)
	q := h.pc(2)
	q.boot()
	q.wants(wire.ActionImage)
}

func TestApprovalExpires(t *testing.T) {
	h := open(t)
	h.lot(false)
	p := h.pc(1)
	p.boot()
	p.wants(wire.ActionHold)
	p.approve()
	p.poll()
	p.wants(wire.ActionImage)
	h.clock.pass(10*time.Minute + time.Second)
	refused(t, p.send(wire.EventImaging, nil), workshop.Conflict)
	p.poll()
	p.wants(wire.ActionHold)
	p.approve()
	p.poll()
	// The disk is read again: the agent was restarted and finds it written to.
	data(&p.rep)
	p.report()
	p.wants(wire.ActionHold)
	p.approve()
	// Another start.
	p.boot()
	p.wants(wire.ActionHold)
	if p.device().Job.Approval != nil {
		t.Fatal("an approval outlived its start")
	}
}

func TestImageGoesAway(t *testing.T) {
	h := open(t)
	h.lot(false)
	p := h.pc(1)
	p.boot()
	p.approve()
	h.shelf.remove(root)
	p.poll()
	p.wants(wire.ActionHold)
	if p.state(workshop.Held).Hold != workshop.HoldImage {
		t.Fatal(p.plan.Reason)
	}
	refused(t, h.Approve(bg, "lead1", p.plan.Job, "/dev/nvme0n1", p.tail()), workshop.Conflict)
	refused(t, h.ImageAgain(bg, "lead1", p.device().ID, "nonsense"), workshop.NotFound)
	if err := h.ImageAgain(bg, "lead1", p.device().ID, other); err != nil {
		t.Fatal(err)
	}
	p.poll()
	p.wants(wire.ActionImage) // blank, and a person has asked
	if p.plan.Image.Root != other {
		t.Fatalf("%+v", p.plan.Image)
	}
}

// The appliance's clock was ahead, and is right again after a restart: nobody
// knows how old an approval is, and no PC waits for the time to come round again.
func TestClockSetBack(t *testing.T) {
	h := open(t)
	h.lot(false)
	p := h.pc(1)
	p.boot()
	p.approve()
	h.clock.pass(-24 * time.Hour)
	h.crash()
	p.poll()
	p.wants(wire.ActionHold)
	p.boot()
	p.wants(wire.ActionHold)
	p.approve()
	p.poll()
	p.wants(wire.ActionImage)
}
