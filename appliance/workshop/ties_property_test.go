package workshop_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// told is what somebody who watches knows of who may not be given away.
type told struct {
	of      map[string]string
	updates <-chan workshop.Update
	stop    context.CancelFunc
}

func watch(h *house) *told {
	ctx, stop := context.WithCancel(bg)
	view, updates := h.Watch(ctx)
	w := &told{of: map[string]string{}, updates: updates, stop: stop}
	w.hear(view.Devices)
	return w
}

func (w *told) hear(devices []workshop.DeviceView) {
	for _, d := range devices {
		w.of[d.ID] = fmt.Sprint(d.Unfit)
	}
}

// same waits until what was told is what is.
func (w *told) same(t *rapid.T, shown []workshop.DeviceView) {
	late := time.After(5 * time.Second)
	for {
		stale := ""
		for _, d := range shown {
			if now := fmt.Sprint(d.Unfit); w.of[d.ID] != now {
				stale = fmt.Sprintf("number %d: told %q, it is %q", d.Number, w.of[d.ID], now)
			}
		}
		if stale == "" {
			return
		}
		select {
		case u := <-w.updates:
			w.hear(u.Devices)
		case <-late:
			t.Fatal(stale)
		}
	}
}

// Whatever PCs say of themselves and people make of it: no number has two live
// jobs, what is shown is one card for each group of records, nothing leaves on a
// disk that is elsewhere, who watches is told of all that changes that, and every
// history verifies.
func TestTiesWhateverHappens(t *testing.T) {
	// Each run takes a file and several starts of the program: a quarter of the
	// usual number, unless somebody asks for more.
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := flag.Set("rapid.checks", "25"); err != nil {
			t.Fatal(err)
		}
		defer flag.Set("rapid.checks", checks.DefValue)
	}
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		h := in(rt, dir)
		defer func() { h.store.Close() }()
		h.lot(true)
		told := watch(h)
		defer func() { told.stop() }()
		numbers := map[int]string{} // number → record, for good
		var pcs []*pc
		for i := range 4 {
			p := h.pc(i + 1)
			if rapid.Bool().Draw(rt, "bare") {
				bare(rapid.SampledFrom([]string{fake, filler, ""}).Draw(rt, "uuid"))(&p.rep)
			}
			switch rapid.IntRange(0, 3).Draw(rt, "cards") {
			case 0:
				byDongle(&p.rep)
				p.from(dongle)
			case 1:
				alongside(dongle, "usb")(&p.rep)
			}
			p.boots = i * 1000
			pcs = append(pcs, p)
		}
		any := func(t *rapid.T) *pc { return rapid.SampledFrom(pcs).Draw(t, "pc") }
		some := func(t *rapid.T) workshop.DeviceDetail {
			all := h.View().Devices
			if len(all) == 0 {
				t.Skip("none yet")
			}
			d, _ := h.Device(rapid.SampledFrom(all).Draw(t, "device").ID)
			return d
		}
		start := func(p *pc) {
			h.clock.pass(time.Minute)
			if _, token, err := h.Boot(bg, workshop.Start{MAC: p.mac, UUID: p.rep.Identity.UUID}); err == nil && token != "" {
				p.token, p.seq = token, 0
				p.boots++
				p.rep.BootID = fmt.Sprintf("boot %d", p.boots)
				rep := p.rep
				rep.Disks, rep.NICs = slices.Clone(p.rep.Disks), slices.Clone(p.rep.NICs)
				p.plan, _ = h.Report(bg, p.token, rep)
			}
		}
		image := func(p *pc) {
			plan, err := h.Plan(bg, p.token, 0, 0)
			if err != nil || plan.Action != wire.ActionImage {
				return
			}
			p.plan, p.seq = plan, 0
			for _, k := range []wire.EventKind{wire.EventImaging, wire.EventVerifying} {
				if p.send(k, nil) != nil {
					return
				}
			}
			p.send(wire.EventOutcome, p.proof())
		}
		rt.Repeat(map[string]func(*rapid.T){
			"start": func(t *rapid.T) { start(any(t)) },
			"image": func(t *rapid.T) { image(any(t)) },
			"work": func(t *rapid.T) {
				p := any(t)
				start(p)
				image(p)
			},
			"move a disk": func(t *rapid.T) {
				a, b := any(t), any(t)
				a.rep.Disks, b.rep.Disks = b.rep.Disks, a.rep.Disks
				a.token, b.token = "", ""
				if rapid.Bool().Draw(t, "started") {
					start(b)
				}
			},
			"take it out": func(t *rapid.T) { any(t).rep.Disks = nil },
			"cancel": func(t *rapid.T) {
				if d := some(t); d.Job != nil {
					h.Cancel(bg, "lead1", d.Job.ID, "")
				}
			},
			"merge":  func(t *rapid.T) { h.Merge(bg, "lead1", some(t).ID, some(t).ID, "why") },
			"merge2": func(t *rapid.T) { h.Merge(bg, "lead1", some(t).ID, some(t).ID, "why") },
			"split": func(t *rapid.T) {
				d, part := some(t), workshop.Parting{}
				if len(d.Records) > 0 && rapid.Bool().Draw(t, "record") {
					part.Record = d.Records[0].ID
				} else if len(d.Faces) > 0 {
					part.Faces = []string{d.Faces[0].ID}
				}
				id, err := h.Split(bg, "lead1", d.ID, part, "why")
				if err != nil {
					return
				}
				a, _ := h.Device(id)
				b, _ := h.Device(d.ID)
				if a.ID == b.ID || !slices.Contains(a.Apart, b.ID) || !slices.Contains(b.Apart, a.ID) {
					t.Fatalf("%+v and %+v are not apart", a.Ties, b.Ties)
				}
			},
			"decide": func(t *rapid.T) {
				if d := some(t); len(d.Doubts) > 0 {
					h.Decide(bg, "lead1", d.ID, d.Doubts[0].Kind, d.Doubts[0].Device, "why")
				}
			},
			"give": func(t *rapid.T) {
				d := some(t)
				if h.MoveDevice(bg, "lead1", d.ID, workshop.Ready, "") != nil {
					return
				}
				i := slices.IndexFunc(d.Jobs, func(j workshop.Job) bool { return j.State.Proved() })
				if i < 0 {
					t.Fatalf("ready without a proof: %+v", d.Jobs)
				}
				for _, f := range d.Followed {
					if f.Key == workshop.DiskKey(d.Jobs[i].Approval.Disk) && f.Stays[0].Number != d.Number && !f.Twin {
						t.Fatalf("number %d is ready on a disk that is in number %d", d.Number, f.Stays[0].Number)
					}
				}
				h.MoveDevice(bg, "lead1", d.ID, workshop.Received, "")
			},
			"crash": func(*rapid.T) {
				told.stop()
				h.crash()
				told = watch(h)
			},
			"": func(t *rapid.T) {
				st, err := h.store.Load(bg)
				if err != nil {
					t.Fatal(err)
				}
				groups := 0
				for _, v := range st.Devices {
					if v.Into == "" {
						groups++
					}
					if id := numbers[v.Number]; id != "" && id != v.ID {
						t.Fatalf("number %d was given twice", v.Number)
					}
					numbers[v.Number] = v.ID
					if d, ok := h.Device(v.ID); !ok || v.Into == "" && d.ID != v.ID || d.Into != "" {
						t.Fatalf("%s leads to %+v", v.ID, d.Ties)
					}
				}
				shown := h.View().Devices
				if len(shown) != groups {
					t.Fatalf("%d devices are shown, %d groups", len(shown), groups)
				}
				jobs := 0
				for _, v := range shown {
					d, _ := h.Device(v.ID)
					jobs += len(d.Jobs)
					for i, j := range d.Jobs {
						if j.State.Live() && i > 0 {
							t.Fatalf("an old job of number %d is %s", v.Number, j.State)
						}
					}
				}
				if jobs != len(st.Jobs) {
					t.Fatalf("%d jobs are found, there are %d", jobs, len(st.Jobs))
				}
				told.same(t, shown)
			},
		})
		h.crash() // the histories are sealed again at a start
		for _, id := range numbers {
			h.verify(id)
		}
	})
}
