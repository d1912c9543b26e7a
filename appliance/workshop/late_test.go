package workshop_test

import (
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// beside adds another disk to a report, like the first one but for path and
// serial number.
func beside(path, serial string, change ...func(*wire.Disk)) func(*wire.Report) {
	return func(r *wire.Report) {
		d := r.Disks[0]
		d.Path, d.Serial = path, serial
		for _, f := range change {
			f(&d)
		}
		r.Disks = append(r.Disks, d)
	}
}

// A disk shows up after the first report: what was decided without it is decided
// anew.
func TestLateDisk(t *testing.T) {
	late := beside("/dev/sda", "LATE99", func(d *wire.Disk) { d.Class = wire.ClassData })
	t.Run("nobody was asked", func(t *testing.T) {
		for _, again := range []bool{false, true} {
			h := open(t)
			h.lot(!again)
			p := h.pc(1)
			p.boot()
			if again {
				if err := h.ImageAgain(bg, "vol1", p.device().ID, ""); err != nil {
					t.Fatal(err)
				}
				p.poll()
			}
			p.wants(wire.ActionImage)
			late(&p.rep)
			p.report()
			p.wants(wire.ActionHold)
			if j := p.state(workshop.Held); j.Hold != workshop.HoldSeveral || j.Approval != nil {
				t.Fatalf("%+v", j)
			}
			p.approve() // now somebody has looked
			p.poll()
			p.wants(wire.ActionImage)
		}
	})
	t.Run("a person named the disk", func(t *testing.T) {
		h := open(t)
		h.lot(true)
		p := h.pc(1, data)
		p.boot()
		p.approve()
		late(&p.rep)
		p.report()
		p.wants(wire.ActionImage)
		if p.plan.Disk.Path != "/dev/nvme0n1" {
			t.Fatalf("%+v", p.plan.Disk)
		}
	})
	t.Run("a controller turns out to hide some", func(t *testing.T) {
		h := open(t)
		h.lot(true)
		p := h.pc(1)
		p.boot()
		p.rep.HiddenStorage = []string{"Intel VMD"}
		p.report()
		if j := p.state(workshop.Held); j.Hold != workshop.HoldHidden {
			t.Fatalf("%+v", j)
		}
	})
	t.Run("held for the one, asked about the other", func(t *testing.T) {
		h := open(t)
		h.lot(true)
		p := h.pc(1, data)
		p.boot()
		p.rep.Disks[0] = h.pc(7).rep.Disks[0] // hot swap: another one, and blank
		p.report()
		p.wants(wire.ActionImage)
		if p.plan.Disk.Serial != p.rep.Disks[0].Serial {
			t.Fatalf("%+v", p.plan.Disk)
		}
	})
	t.Run("no disk, then one", func(t *testing.T) {
		h := open(t)
		h.lot(true)
		p := h.pc(1, noDisk)
		p.boot()
		p.report()
		p.wants(wire.ActionFail)
		p.rep.Disks = h.pc(1).rep.Disks
		p.report()
		p.wants(wire.ActionImage)
		if n := len(p.device().Jobs); n != 2 {
			t.Fatalf("%d jobs", n)
		}
		// One that was written to is not tried again, whatever else appears.
		p.send(wire.EventImaging, nil)
		p.send(wire.EventOutcome, &wire.Outcome{Result: wire.Failed, Cause: "the disk died"})
		p.rep.Disks = h.pc(2).rep.Disks
		p.report()
		p.wants(wire.ActionFail)
	})
	t.Run("swapped under a standing approval", func(t *testing.T) {
		h := open(t)
		h.lot(true)
		p := h.pc(1)
		p.boot()
		old := *p.plan.Disk
		p.rep.Disks[0] = h.pc(7).rep.Disks[0]
		p.report()
		p.wants(wire.ActionHold)
		p.plan.Disk = &old
		refused(t, p.send(wire.EventImaging, nil), workshop.Conflict)
		p.state(workshop.Held)
	})
}

// Two disks of one serial number, or one at the end of two paths: nothing happens
// unasked, and what is approved is one path.
func TestTwinsAreAskedAbout(t *testing.T) {
	for name, change := range map[string]func(*wire.Report){
		"one serial": beside("/dev/nvme1n1", "S4EVNF0M000001"),
		"one WWN": func(r *wire.Report) {
			r.Disks[0].WWN = "0x5002538d00000001"
			beside("/dev/nvme1n1", "ANOTHER1")(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.lot(true)
			p := h.pc(1, change)
			p.boot()
			p.wants(wire.ActionHold)
			if j := p.state(workshop.Held); j.Hold != workshop.HoldTwins || j.Reason == "" {
				t.Fatalf("%+v", j)
			}
			p.approve()
			p.poll()
			p.wants(wire.ActionImage)
			if a := p.device().Job.Approval; !a.ByPath || a.Disk.Path != "/dev/nvme0n1" {
				t.Fatalf("%+v", a)
			}
			p.send(wire.EventImaging, nil)
			if err := h.Claim(p.token, []byte{1}); err != nil {
				t.Fatal(err)
			}
			if p.poll(); p.plan.Image.Claims != nil {
				t.Fatal("what one twin holds is claimed of both")
			}
			p.seq = 0
			twin := *p.plan.Disk
			twin.Path = "/dev/nvme1n1"
			p.plan.Disk = &twin
			refused(t, p.send(wire.EventImaging, nil), workshop.Conflict)
			p.state(workshop.JobFailed)
		})
	}
	t.Run("the outcome names the twin", func(t *testing.T) {
		h := open(t)
		h.lot(true)
		p := h.pc(1, beside("/dev/nvme1n1", "S4EVNF0M000001"))
		p.boot()
		p.order(workshop.EraseWish{})
		if err := p.send(wire.EventErasing, nil); err != nil {
			t.Fatal(err)
		}
		o := p.empty()
		o.Disk = new(*p.plan.Disk)
		o.Disk.Path = "/dev/nvme1n1"
		if err := p.send(wire.EventOutcome, o); err != nil {
			t.Fatal(err)
		}
		p.state(workshop.JobFailed)
	})
}

// An approval by a person: this disk, this start, ten minutes, to the second.
func TestTenMinutes(t *testing.T) {
	h := open(t)
	h.lot(true)
	for i, c := range []struct {
		after time.Duration
		want  workshop.JobState
	}{{10 * time.Minute, workshop.Imaging}, {10*time.Minute + time.Nanosecond, workshop.Held}} {
		p := h.pc(i, data)
		p.boot()
		p.approve()
		p.poll()
		h.clock.pass(c.after)
		if err := p.send(wire.EventImaging, nil); (err == nil) != (c.want == workshop.Imaging) {
			t.Fatal(err)
		}
		p.poll()
		p.state(c.want)
	}
}

// A PC that came back from somebody, or was lost for a while, is imaged anew
// before anybody else gets it.
func TestWhatCameBackIsImagedAnew(t *testing.T) {
	for name, way := range map[string][]workshop.DeviceState{
		"returned":       {workshop.Ready, workshop.Reserved, workshop.HandedOut, workshop.Returned, workshop.Received},
		"lost and found": {workshop.Ready, workshop.Reserved, workshop.HandedOut, workshop.DeviceLost, workshop.Received},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.lot(true)
			p := h.pc(1)
			p.boot()
			p.image()
			id := p.device().ID
			for _, to := range way {
				h.clock.pass(time.Hour)
				if err := h.MoveDevice(bg, "lead1", id, to, "so it is"); err != nil {
					t.Fatal(to, err)
				}
			}
			h.crash()
			refused(t, h.MoveDevice(bg, "lead1", id, workshop.Ready, ""), workshop.Conflict)
			if err := h.ImageAgain(bg, "lead1", id, ""); err != nil {
				t.Fatal(err)
			}
			p.boot()
			p.image()
			if err := h.MoveDevice(bg, "lead1", id, workshop.Ready, ""); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestIntake(t *testing.T) {
	h := open(t)
	l := h.lot(true)
	p := h.pc(1)
	p.boot()
	in := workshop.Intake{Promised: 30, Refused: 2, RefusedWhy: "too old\n"}
	refused(t, h.SetIntake(bg, "", l.ID, in), workshop.Invalid)
	refused(t, h.SetIntake(bg, "lead1", "nonsense", in), workshop.NotFound)
	for _, bad := range []workshop.Intake{{Promised: -1}, {Refused: -1, RefusedWhy: "x"}, {Promised: 1e6}, {Refused: 1}} {
		refused(t, h.SetIntake(bg, "lead1", l.ID, bad), workshop.Invalid)
	}
	if err := h.CloseLot(bg, "lead1", l.ID); err != nil { // the report is written afterwards
		t.Fatal(err)
	}
	for range 2 {
		if err := h.SetIntake(bg, "lead1", l.ID, in); err != nil {
			t.Fatal(err)
		}
	}
	h.crash()
	got, ok := h.Lot(l.ID)
	if !ok || got.Promised != 30 || got.Refused != 2 || got.RefusedWhy != "too old" || got.Closed.IsZero() {
		t.Fatalf("%+v", got)
	}
	if d := h.LotDevices(l.ID); len(d) != 1 || d[0].Number != 1 || d[0].Job == nil {
		t.Fatalf("%+v", d)
	}
	if _, ok := h.Lot("nonsense"); ok || h.LotDevices("nonsense") != nil || h.Jobs("nonsense") != nil {
		t.Fatal("nothing is something")
	}
	if k := h.kinds(""); len(k) != 3 || k[2] != "lot_intake" {
		t.Fatalf("%v", k)
	}
}
