package workshop_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// bubble runs f with a registry that looks after its devices, in a time of its
// own.
func bubble(t *testing.T, f func(t *testing.T, h *house, ctx context.Context)) {
	dir := open(t) // the file is made outside: its clean-up is no part of the story
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, path: dir.path + ".bubble", shelf: dir.shelf}
		h.start()
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- h.Run(ctx) }()
		f(t, h, ctx)
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := h.store.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestLostAndFound(t *testing.T) {
	bubble(t, func(t *testing.T, h *house, ctx context.Context) {
		h.lot(true)
		p := h.pc(1)
		p.boot()
		if err := p.send(wire.EventImaging, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Second)
		p.state(workshop.Imaging)
		if !p.device().Online {
			t.Fatal("offline before its time")
		}
		time.Sleep(10 * time.Second)
		j := p.state(workshop.JobLost)
		if j.Before != workshop.Imaging || p.device().Online || j.Reason == "" {
			t.Fatalf("%+v", j)
		}
		refused(t, h.Approve(ctx, "lead1", j.ID, "/dev/nvme0n1", p.tail()), workshop.Conflict)
		// The cable is put back: the same start goes on where it was.
		if err := p.send(wire.EventVerifying, nil); err != nil {
			t.Fatal(err)
		}
		p.state(workshop.Verifying)
		time.Sleep(2 * time.Minute)
		p.state(workshop.JobLost)
		if err := p.send(wire.EventOutcome, p.proof()); err != nil {
			t.Fatal(err)
		}
		p.state(workshop.Verified)
		time.Sleep(time.Hour) // what has ended can't be lost
		p.state(workshop.Verified)
	})
}

func TestLostWhileHeld(t *testing.T) {
	bubble(t, func(t *testing.T, h *house, ctx context.Context) {
		p := h.pc(1)
		p.boot()
		p.state(workshop.Held)
		time.Sleep(2 * time.Minute)
		p.state(workshop.JobLost)
		h.lot(true)
		p.poll() // it was only asleep: and now there is a lot
		p.wants(wire.ActionImage)
		time.Sleep(2 * time.Minute)
		if j := p.state(workshop.JobLost); j.Before != workshop.Approved {
			t.Fatalf("%+v", j)
		}
		time.Sleep(10 * time.Minute)
		p.poll()
		p.wants(wire.ActionHold) // its approval has expired meanwhile
	})
}

func TestLongPoll(t *testing.T) {
	bubble(t, func(t *testing.T, h *house, ctx context.Context) {
		p := h.pc(1)
		p.boot()
		p.wants(wire.ActionHold)
		start := time.Now()
		plan, err := h.Plan(ctx, p.token, p.plan.Serial, time.Hour)
		if err != nil || plan.Serial != p.plan.Serial || time.Since(start) != 30*time.Second {
			t.Fatalf("%+v %v after %v", plan, err, time.Since(start))
		}
		// Polling keeps a job alive.
		for range 20 {
			if _, err := h.Plan(ctx, p.token, plan.Serial, 25*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		p.state(workshop.Held)
		got := make(chan wire.Plan)
		go func() {
			plan, err := h.Plan(ctx, p.token, plan.Serial, 25*time.Second)
			if err != nil {
				t.Error(err)
			}
			got <- plan
		}()
		time.Sleep(3 * time.Second)
		start = time.Now()
		h.lot(true)
		if plan := <-got; plan.Action != wire.ActionImage || time.Since(start) > time.Second || plan.Serial <= p.plan.Serial {
			t.Fatalf("%+v", plan)
		}
		// An agent that hangs up is told nothing, least of all that all is well.
		gone, hangUp := context.WithCancel(ctx)
		hangUp()
		if _, err := h.Plan(gone, p.token, 0, time.Second); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}

func TestApprovalExpiresByItself(t *testing.T) {
	bubble(t, func(t *testing.T, h *house, ctx context.Context) {
		h.lot(false)
		p := h.pc(1)
		p.boot()
		p.approve()
		for range 25 {
			if _, err := h.Plan(ctx, p.token, p.plan.Serial, 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(25 * time.Second)
		}
		if j := p.state(workshop.Held); j.Approval != nil || j.Hold != workshop.HoldApproval {
			t.Fatalf("%+v", j)
		}
	})
}

func TestWatch(t *testing.T) {
	bubble(t, func(t *testing.T, h *house, ctx context.Context) {
		h.lot(true)
		p := h.pc(1)
		p.boot()
		watching, stop := context.WithCancel(ctx)
		view, changes := h.Watch(watching)
		if len(view.Devices) != 1 || len(view.Lots) != 1 || view.Devices[0].Job.State != workshop.Approved {
			t.Fatalf("%+v", view)
		}
		// A step is told at once.
		start := time.Now()
		if err := p.send(wire.EventImaging, nil); err != nil {
			t.Fatal(err)
		}
		if u := <-changes; len(u.Devices) != 1 || u.Devices[0].Job.State != workshop.Imaging || time.Since(start) > 0 {
			t.Fatalf("%+v after %v", u, time.Since(start))
		}
		// A thousand numbers while nobody reads become one update, and nobody waits.
		for i := range 1000 {
			if _, err := h.Progress(ctx, p.token, wire.Progress{Job: p.plan.Job, Phase: wire.PhaseImaging, Done: int64(i), Total: size, Rate: 1e8}); err != nil {
				t.Fatal(err)
			}
		}
		if time.Since(start) > 0 {
			t.Fatal("somebody waited for a reader")
		}
		u := <-changes
		if len(u.Devices) != 1 || u.Devices[0].Progress.Done != 999 || time.Since(start) > time.Second {
			t.Fatalf("%+v after %v", u, time.Since(start))
		}
		synctest.Wait()
		select {
		case u, ok := <-changes:
			// Whatever is left over says the same.
			if !ok || u.Devices[0].Progress.Done != 999 {
				t.Fatalf("%+v", u)
			}
		default:
		}
		// Falling silent is shown.
		var last workshop.Update
		for last.Time.IsZero() || last.Devices[0].Online {
			last = <-changes
		}
		stop()
		for range changes {
		}
	})
}

// The disk of a PC that is done turns up in another one: whoever watches is told of
// the first one too.
func TestWatchesADiskGo(t *testing.T) {
	bubble(t, func(t *testing.T, h *house, ctx context.Context) {
		h.lot(true)
		a, b := h.pc(1).done(), h.pc(2, noDisk)
		view, changes := h.Watch(ctx)
		if d := view.Devices[0]; d.Unfit != nil {
			t.Fatal(d.Unfit)
		}
		b.gets(a, wire.ClassOurs)
		start := time.Now()
		b.boot()
		for u := range changes {
			i := slices.IndexFunc(u.Devices, func(d workshop.DeviceView) bool { return d.Number == 1 })
			if i < 0 {
				continue
			}
			if d := u.Devices[i]; d.Unfit == nil || time.Since(start) > 0 {
				t.Fatalf("%v after %v", d.Unfit, time.Since(start))
			}
			return
		}
	})
}

// Sixty-four agents, a slow reader, a fast one and people, all at once.
func TestManyAtOnce(t *testing.T) {
	h := open(t)
	h.clock = nil
	h.store.Close()
	h.start()
	h.lot(true)
	ctx, stop := context.WithCancel(bg)
	defer stop()
	go h.Run(ctx)
	h.Watch(ctx) // never reads
	_, changes := h.Watch(ctx)
	seen := make(chan map[string]workshop.JobState)
	go func() {
		m := map[string]workshop.JobState{}
		for u := range changes {
			for _, d := range u.Devices {
				m[d.ID] = d.Job.State
			}
		}
		seen <- m
	}()
	const n = 64
	errs := make(chan error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs <- run(ctx, h, h.pc(i), i%2 == 1) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	time.Sleep(600 * time.Millisecond)
	stop()
	states := <-seen
	numbers := map[int]bool{}
	for _, d := range h.View().Devices {
		numbers[d.Number] = true
		if d.Job.State != workshop.Verified || states[d.ID] != workshop.Verified {
			t.Errorf("device %d is %s, seen as %s", d.Number, d.Job.State, states[d.ID])
		}
		h.verify(d.ID)
	}
	if len(numbers) != n {
		t.Errorf("%d numbers for %d PCs", len(numbers), n)
	}
}

// run is an agent from its script to its outcome; one with data on its disk has
// somebody who approves it.
func run(ctx context.Context, h *house, p *pc, full bool) error {
	_, token, err := h.Boot(ctx, workshop.Start{MAC: p.mac, UUID: p.rep.Identity.UUID})
	if err != nil {
		return err
	}
	p.rep.BootID = "boot " + p.mac
	if full {
		data(&p.rep)
	}
	plan, err := h.Report(ctx, token, p.rep)
	if err != nil {
		return err
	}
	for plan.Action == wire.ActionHold {
		go h.Approve(ctx, "lead1", plan.Job, p.rep.Disks[0].Path, p.tail())
		if plan, err = h.Plan(ctx, token, plan.Serial, 5*time.Second); err != nil {
			return err
		}
	}
	if plan.Action != wire.ActionImage {
		return fmt.Errorf("plan %+v", plan)
	}
	p.plan = plan
	for i, e := range []wire.Event{{Kind: wire.EventImaging, Disk: plan.Disk}, {Kind: wire.EventVerifying}, {Kind: wire.EventOutcome, Outcome: p.proof()}} {
		e.Job, e.Seq = plan.Job, i+1
		for range 2 {
			if err := h.Event(ctx, token, e); err != nil {
				return err
			}
		}
		for k := range 10 {
			if _, err := h.Progress(ctx, token, wire.Progress{Job: plan.Job, Phase: wire.PhaseImaging, Done: int64(k), Total: 10, Rate: 1}); err != nil {
				return err
			}
		}
	}
	return nil
}

// A PC that is switched off in the middle of a long poll and on again: the end
// of the old poll must not count as a word of a second PC.
func TestPowerCycleDuringALongPoll(t *testing.T) {
	bubble(t, func(t *testing.T, h *house, ctx context.Context) {
		p := h.pc(1)
		p.boot()
		p.wants(wire.ActionHold)
		old, have := p.token, p.plan.Serial
		done := make(chan struct{})
		go func() {
			defer close(done)
			h.Plan(ctx, old, have, 25*time.Second)
		}()
		time.Sleep(15 * time.Second)
		p.script()
		<-done // the connection is dead and nobody has said so
		p.report()
		p.wants(wire.ActionHold)
		p.state(workshop.Held)
	})
}

// What a held PC waits for sets it going even if nobody says so: here the lot is
// stored and nothing after it is, as when the program is killed in between.
func TestLotOpenedAndNothingAfter(t *testing.T) {
	bubble(t, func(t *testing.T, h *house, ctx context.Context) {
		p := h.pc(1)
		p.boot()
		opened := time.Now().UTC()
		if err := h.store.Commit(ctx, workshop.Change{Lots: []workshop.Lot{{ID: "lot1", Donor: "ACME S.A.", Image: root, Opened: opened, OpenedBy: "lead1"}}}); err != nil {
			t.Fatal(err)
		}
		r, err := workshop.Open(ctx, h.config())
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		run, stop := context.WithCancel(ctx)
		go func() { done <- r.Run(run) }()
		h.Registry = r
		time.Sleep(10 * time.Second)
		stop()
		<-done
		if j := p.state(workshop.Held); j.Hold != workshop.HoldApproval || j.Lot != "lot1" {
			t.Fatalf("%+v", j)
		}
	})
}

func TestImageComesBack(t *testing.T) {
	bubble(t, func(t *testing.T, h *house, ctx context.Context) {
		h.lot(false)
		m := h.shelf.m[root]
		h.shelf.remove(root)
		p := h.pc(1)
		p.boot()
		if j := p.state(workshop.Held); j.Hold != workshop.HoldImage {
			t.Fatalf("%+v", j)
		}
		lines, plan := len(h.kinds(p.device().ID)), p.poll()
		time.Sleep(20 * time.Second)
		if n := len(h.kinds(p.device().ID)); n != lines || p.poll().Serial != plan.Serial {
			t.Fatalf("waiting wrote %d lines", n-lines)
		}
		h.shelf.mu.Lock()
		h.shelf.m[root] = m // imported again
		h.shelf.mu.Unlock()
		time.Sleep(10 * time.Second)
		if j := p.state(workshop.Held); j.Hold != workshop.HoldApproval {
			t.Fatalf("%+v", j)
		}
	})
}

// The server's clock falls back by years, as with an empty battery: what happened
// last counts still, also after a restart of the program.
func TestClockFallsBackOverTheYears(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1)
	p.boot()
	p.image()
	id := p.device().ID
	move := func(all ...workshop.DeviceState) error {
		for _, to := range all {
			if err := h.MoveDevice(bg, "lead1", id, to, "so it is"); err != nil {
				return err
			}
		}
		return nil
	}

	h.clock.pass(-6 * 365 * 24 * time.Hour)
	if err := h.HoldAtStart(bg, "lead1", id); err != nil {
		t.Fatal(err)
	}
	p.rep.Disks[0].Class = wire.ClassOurs
	p.boot()
	p.order(workshop.EraseWish{})
	if err := p.send(wire.EventErasing, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Cancel(bg, "lead1", p.state(workshop.Erasing).ID, "it takes too long"); err != nil {
		t.Fatal(err)
	}
	h.crash()
	p.h = h
	refused(t, move(workshop.Ready), workshop.Conflict)

	// Nor is what is proved after a PC has come back older than that.
	h.clock.pass(12 * 365 * 24 * time.Hour)
	imageAgain := func() {
		t.Helper()
		if err := h.ImageAgain(bg, "lead1", id, ""); err != nil {
			t.Fatal(err)
		}
		p.boot()
		p.image()
	}
	imageAgain()
	if err := move(workshop.Ready, workshop.Reserved, workshop.HandedOut, workshop.Returned, workshop.Received); err != nil {
		t.Fatal(err)
	}
	refused(t, move(workshop.Ready), workshop.Conflict)
	h.clock.pass(-6 * 365 * 24 * time.Hour)
	refused(t, move(workshop.Ready), workshop.Conflict)
	imageAgain()
	if err := move(workshop.Ready); err != nil {
		t.Fatal(err)
	}
}
