package workshop_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/store"
	"refurb/appliance/workshop"
)

func TestCancelWhileImaging(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1)
	p.boot()
	p.send(wire.EventImaging, nil)
	progress := func() wire.ProgressReply {
		r, err := h.Progress(bg, p.token, wire.Progress{Job: p.plan.Job, Phase: wire.PhaseImaging, Done: 1e9, Total: size, Rate: 1e8})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := progress(); r.Stop {
		t.Fatalf("%+v", r)
	}
	// 7 GB to write and half of 8 GB to read back at 100 MB/s.
	if d := p.device(); d.ETA != 110*time.Second || !d.Online || d.Progress.Done != 1e9 {
		t.Fatalf("%+v", d.DeviceView)
	}
	refused(t, h.ImageAgain(bg, "lead1", p.device().ID, ""), workshop.Conflict)
	refused(t, h.MoveDevice(bg, "lead1", p.device().ID, workshop.Rejected, "broken"), workshop.Conflict)
	if err := h.Cancel(bg, "lead1", p.plan.Job, "wrong PC"); err != nil {
		t.Fatal(err)
	}
	if r := progress(); !r.Stop || r.Why != "wrong PC" {
		t.Fatalf("%+v", r)
	}
	refused(t, h.Cancel(bg, "lead1", p.plan.Job, ""), workshop.Conflict)
	// It was done in that very moment: written down, and still cancelled.
	refused(t, p.send(wire.EventVerifying, nil), workshop.Conflict)
	if err := p.send(wire.EventOutcome, p.proof()); err != nil {
		t.Fatal(err)
	}
	p.state(workshop.Cancelled)
	if got := h.kinds(p.device().ID); got[len(got)-1] != "late_outcome" {
		t.Fatalf("%v", got)
	}
	if !p.script() {
		t.Fatal("a cancelled PC got the agent again")
	}
}

// How long it takes depends on what is read back while others are written.
func TestTimeLeft(t *testing.T) {
	for name, c := range map[string]struct {
		rotational bool
		phase      wire.Phase
		done       int64
		want       time.Duration
	}{
		"writing, read meanwhile":            {false, wire.PhaseImaging, 1e9, 110 * time.Second},
		"writing, read afterwards":           {true, wire.PhaseImaging, 1e9, 150 * time.Second},
		"reading back, much was read before": {false, wire.PhaseVerifying, 7e9, 10 * time.Second},
		"reading back all":                   {true, wire.PhaseVerifying, 0, 80 * time.Second},
		"the last steps":                     {false, wire.PhaseFinishing, size, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.lot(true)
			p := h.writing(1, func(r *wire.Report) { r.Disks[0].Rotational = c.rotational })
			if _, err := h.Progress(bg, p.token, wire.Progress{Job: p.plan.Job, Phase: c.phase, Done: c.done, Total: size, Rate: 1e8}); err != nil {
				t.Fatal(err)
			}
			if d := p.device(); d.ETA != c.want {
				t.Errorf("%v, want %v", d.ETA, c.want)
			}
		})
	}

	h := open(t)
	h.lot(true)
	p := h.writing(1, func(r *wire.Report) { r.Disks[0].Rotational = true })
	if _, err := h.Progress(bg, p.token, wire.Progress{Job: p.plan.Job, Phase: wire.PhaseImaging, Total: 1<<63 - 1, Rate: 1e8}); err != nil {
		t.Fatal(err)
	}
	if d := p.device(); d.ETA < 0 {
		t.Errorf("a size that nobody has: %v", d.ETA)
	}
}

func TestTwoPCsOfOneIdentity(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1)
	p.boot()
	p.send(wire.EventImaging, nil)
	twin := h.pc(1)
	twin.mac = "00:00:5e:00:53:01"
	twin.script()
	twin.rep.BootID = "twin"
	h.clock.pass(time.Minute)
	p.poll() // the first is alive
	_, err := h.Report(bg, twin.token, twin.rep)
	refused(t, err, workshop.Conflict)
	p.state(workshop.Imaging)
}

func TestIdentityAcrossStarts(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1, noDisk)
	p.boot()
	h.ImageAgain(bg, "vol1", p.device().ID, "")
	// With a disk, another network card and a dongle, it stays one device.
	p.rep.Disks = h.pc(1).rep.Disks
	p.rep.NICs = []wire.NIC{{MAC: "00:21:cc:77:77:77", Permanent: "00:21:cc:77:77:77", Bus: "pci"}, {MAC: "00:e0:4c:36:01:02", Bus: "usb"}}
	p.mac = "00:e0:4c:36:01:02"
	p.boot()
	if p.plan.Number != 1 || len(h.View().Devices) != 1 {
		t.Fatalf("%+v", p.plan)
	}
	p.image()
	if !p.script() {
		t.Fatal("not recognised by its dongle and its UUID")
	}
	// Another PC on the same dongle is another device.
	q := h.pc(2)
	q.mac, q.rep.NICs = p.mac, []wire.NIC{{MAC: p.mac, Bus: "usb"}}
	q.boot()
	if q.plan.Number != 2 {
		t.Fatalf("%+v", q.plan)
	}
	// A UUID that a maker gave twice: a new device and a line that says so.
	r := h.pc(3)
	r.rep.Identity.UUID = p.rep.Identity.UUID
	r.boot()
	if r.plan.Number != 3 {
		t.Fatalf("%+v", r.plan)
	}
	events, _ := h.store.Events(bg, r.device().ID)
	if events[0].Kind != "device_created" || !strings.Contains(events[0].Reason, "SMBIOS UUID") {
		t.Fatalf("%+v", events[0])
	}
}

func TestDevicesMove(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1)
	p.boot()
	p.image()
	id := p.device().ID
	move := func(to workshop.DeviceState, why string) error { return h.MoveDevice(bg, "lead1", id, to, why) }
	refused(t, move(workshop.HandedOut, ""), workshop.Conflict)
	for _, to := range []workshop.DeviceState{workshop.Ready, workshop.Reserved, workshop.HandedOut} {
		if err := move(to, ""); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, h.ImageAgain(bg, "lead1", id, ""), workshop.Conflict) // it belongs to somebody
	if err := move(workshop.Returned, ""); err != nil {
		t.Fatal(err)
	}
	refused(t, move(workshop.Recycled, "  "), workshop.Invalid)
	if err := h.ImageAgain(bg, "lead1", id, ""); err != nil {
		t.Fatal(err)
	}
	p.rep.Disks[0].Class = wire.ClassData
	p.boot()
	p.wants(wire.ActionHold) // asking again never approves a disk that holds something
	if err := move(workshop.Received, ""); err != nil {
		t.Fatal(err)
	}
	refused(t, move(workshop.Ready, ""), workshop.Conflict)
	refused(t, h.MoveDevice(bg, "lead1", "nonsense", workshop.Ready, ""), workshop.NotFound)
}

func TestLots(t *testing.T) {
	h := open(t)
	_, err := h.OpenLot(bg, "lead1", " ", root, true)
	refused(t, err, workshop.Invalid)
	_, err = h.OpenLot(bg, "lead1", "ACME", "nonsense", true)
	refused(t, err, workshop.NotFound)
	l := h.lot(true)
	_, err = h.OpenLot(bg, "lead1", "Other", root, true)
	refused(t, err, workshop.Conflict)
	refused(t, h.CloseLot(bg, "lead1", "nonsense"), workshop.NotFound)
	for range 2 {
		if err := h.CloseLot(bg, "lead1", l.ID); err != nil {
			t.Fatal(err)
		}
	}
	p := h.pc(1)
	p.boot()
	p.wants(wire.ActionHold)
	h.crash()
	h.lot(true)
	p.poll()
	p.wants(wire.ActionImage)
	if got := h.kinds(""); !slices.Equal(got, []string{"lot_opened", "lot_closed", "lot_opened"}) {
		t.Fatalf("%v", got)
	}
}

func TestStrangersAreBounded(t *testing.T) {
	h := open(t)
	made, refusedAt := 0, 0
	for i := range 400 {
		kind, token, err := h.Boot(bg, workshop.Start{MAC: h.pc(i).mac})
		if err != nil || kind != workshop.StartAgent {
			t.Fatalf("script %d: %v", i, err)
		}
		rep := h.pc(i).rep
		rep.BootID = token
		if _, err = h.Report(bg, token, rep); err == nil {
			made++
		} else {
			refused(t, err, workshop.Busy)
			refusedAt++
		}
	}
	if made != 200 || refusedAt != 200 {
		t.Fatalf("%d made, %d refused", made, refusedAt)
	}
	_, _, err := h.Boot(bg, workshop.Start{MAC: "00:00:5e:00:53:01"})
	refused(t, err, workshop.Busy)
	// One start can't fill the records by reporting again and again.
	h.clock.pass(time.Hour)
	p := h.pc(1000)
	p.boot()
	n := 0
	for range 100 {
		if _, err := h.Report(bg, p.token, p.rep); err != nil {
			refused(t, err, workshop.Busy)
			n++
		}
	}
	if n < 60 {
		t.Fatalf("only %d of 100 reports were refused", n)
	}
}

func TestCheckinFromAnotherPC(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1)
	p.boot()
	token := p.plan.Image.Checkin.Token
	refused(t, h.Checkin(bg, token, wire.FirstBoot{}), workshop.Unauthorized) // nothing was written yet
	p.send(wire.EventImaging, nil)
	refused(t, h.Checkin(bg, token, wire.FirstBoot{}), workshop.Conflict)
	p.send(wire.EventVerifying, nil)
	refused(t, h.Checkin(bg, token, wire.FirstBoot{}), workshop.Busy)
	p.send(wire.EventOutcome, p.proof())
	for range 3 {
		refused(t, h.Checkin(bg, token, wire.FirstBoot{MAC: "00:00:5e:00:53:01", UUID: "9f2c1a00-7d1b-11e5-9284-b827eb9e62be"}), workshop.Conflict)
	}
	p.state(workshop.Verified)
	if got := h.kinds(p.device().ID); got[len(got)-1] != "checkin" || got[len(got)-2] != "verified" {
		t.Fatalf("%v", got)
	}
	h.crash() // the token is in nobody's memory
	if err := h.Checkin(bg, token, wire.FirstBoot{UUID: strings.ToUpper(p.rep.Identity.UUID)}); err != nil {
		t.Fatal(err)
	}
	p.state(workshop.FirstBoot)
}

// A donor who wants a PC back, or one that goes for parts: no lot and no slip of
// the hand images it.
func TestOutOfTheWorkshop(t *testing.T) {
	h := open(t)
	p := h.pc(1)
	p.boot()
	p.wants(wire.ActionHold)
	id := p.device().ID
	if err := h.MoveDevice(bg, "lead1", id, workshop.ReturnedDonor, "the donor asked"); err != nil {
		t.Fatal(err)
	}
	h.lot(true)
	p.poll()
	p.wants(wire.ActionHold)
	refused(t, h.Approve(bg, "lead1", p.plan.Job, "/dev/nvme0n1", p.tail()), workshop.Conflict)
	refused(t, h.ImageAgain(bg, "lead1", id, root), workshop.Conflict)
}

// A standing approval counts once per device, so not for a PC that is a new one
// at every start.
func TestNamelessPCIsNotCounted(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1, func(r *wire.Report) {
		r.Identity = wire.Identity{UUID: "03000200-0400-0500-0006-000700080009", SystemSerial: "To be filled by O.E.M."}
		r.NICs = []wire.NIC{{Name: "eth0", MAC: "00:e0:4c:68:00:01", Bus: "usb"}}
	})
	for range 2 {
		p.boot()
		p.wants(wire.ActionHold)
	}
	if n := len(h.View().Devices); n != 2 {
		t.Fatalf("%d devices", n)
	}
	if err := h.Approve(bg, "lead1", p.plan.Job, "/dev/nvme0n1", p.tail()); err != nil {
		t.Fatal(err)
	}
	p.poll()
	p.wants(wire.ActionImage)
}

// Whoever opens a lot and hangs up leaves no PC waiting.
func TestOpenLotAndHangUp(t *testing.T) {
	h := open(t)
	p := h.pc(1)
	p.boot()
	ctx, hangUp := context.WithCancel(bg)
	c := h.config()
	c.Store = hangingUp{h.store, hangUp}
	var err error
	if h.Registry, err = workshop.Open(bg, c); err != nil {
		t.Fatal(err)
	}
	if _, err := h.OpenLot(ctx, "lead1", "ACME S.A.", root, true); err != nil {
		t.Fatal(err)
	}
	p.poll()
	p.wants(wire.ActionImage)
}

type hangingUp struct {
	*store.Store
	hangUp func()
}

func (s hangingUp) Commit(ctx context.Context, c workshop.Change) error {
	defer s.hangUp()
	return s.Store.Commit(ctx, c)
}
