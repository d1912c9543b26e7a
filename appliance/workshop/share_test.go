package workshop_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// writing brings a PC to its first write.
func (h *house) writing(n int, change ...func(*wire.Report)) *pc {
	h.t.Helper()
	p := h.pc(n, change...)
	p.boot()
	if p.plan.Action != wire.ActionImage {
		p.approve()
		p.poll()
	}
	if err := p.send(wire.EventImaging, nil); err != nil {
		h.t.Fatal(err)
	}
	return p
}

// restart starts the PC again, as after a power cut, until it may write.
func (p *pc) restart() {
	p.h.t.Helper()
	p.boot()
	if p.plan.Action != wire.ActionImage {
		p.approve()
		p.poll()
	}
	p.wants(wire.ActionImage)
}

func TestWhoMayShare(t *testing.T) {
	bubble(t, func(t *testing.T, h *house, ctx context.Context) {
		sharer := func(p *pc) error {
			s, err := h.Sharer(p.token)
			if err == nil && (s.Job != p.plan.Job || s.Image != root || s.Number != p.plan.Number || s.Frames != int((size+4<<20-1)/(4<<20))) {
				t.Fatalf("%+v", s)
			}
			return err
		}
		no := func(p *pc, kind workshop.Kind) {
			t.Helper()
			refused(t, sharer(p), kind)
		}
		yes := func(p *pc, done bool) {
			t.Helper()
			if err := sharer(p); err != nil {
				t.Fatal(err)
			}
			if s, _ := h.Sharer(p.token); s.Done != done || len(h.Ended([]string{s.Job})) > 0 {
				t.Fatalf("%+v", s)
			}
		}
		p := h.pc(1)
		p.token = "nonsense"
		no(p, workshop.Unauthorized)
		p.script()
		no(p, workshop.Conflict)
		p.report()
		no(p, workshop.Conflict) // held: no lot is open
		h.lot(true)
		p.poll()
		yes(p, false) // it fetches the first frame before it writes
		if err := p.send(wire.EventImaging, nil); err != nil {
			t.Fatal(err)
		}
		yes(p, false)
		time.Sleep(2 * time.Minute)
		p.state(workshop.JobLost)
		if len(h.Ended([]string{p.plan.Job})) > 0 {
			t.Fatal("it would lose its place in line with every word")
		}
		if err := sharer(p); err != nil { // it lives after all
			t.Fatal(err)
		}
		p.state(workshop.JobLost) // but no Share changes a job
		if err := p.send(wire.EventVerifying, nil); err != nil {
			t.Fatal(err)
		}
		yes(p, false)
		if err := p.send(wire.EventOutcome, p.proof()); err != nil {
			t.Fatal(err)
		}
		yes(p, true)
		time.Sleep(119 * time.Second)
		yes(p, true)
		time.Sleep(2 * time.Second)
		no(p, workshop.Conflict)
		if len(h.Ended([]string{p.plan.Job, "nonsense"})) != 2 {
			t.Fatal("it shares for ever")
		}

		p = h.writing(2)
		if err := h.Cancel(ctx, "lead1", p.plan.Job, ""); err != nil {
			t.Fatal(err)
		}
		no(p, workshop.Conflict)
		p = h.writing(3)
		if err := p.send(wire.EventOutcome, &wire.Outcome{Result: wire.Failed, Cause: "the disk"}); err != nil {
			t.Fatal(err)
		}
		no(p, workshop.Conflict)

		// A new start ends the turn of the old one.
		p = h.writing(4)
		old := p.token
		time.Sleep(10 * time.Second)
		p.boot()
		token := p.token
		p.token = old
		no(p, workshop.Conflict)
		p.token = token
		p.approve() // it was cut off
		p.poll()
		p.seq = 0
		if err := p.send(wire.EventImaging, nil); err != nil {
			t.Fatal(err)
		}
		yes(p, false)
	})
}

// Those who were writing when the appliance was killed share on.
func TestSharingGoesOnAfterACrash(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.writing(1)
	h.crash()
	if s, err := h.Sharer(p.token); err != nil || s.Job != p.plan.Job {
		t.Fatal(s, err)
	}
}

func TestClaimsSurvive(t *testing.T) {
	written := []byte{0xff, 0x0f, 0, 0, 1}
	for name, c := range map[string]struct {
		pass  bool               // the claims are a few seconds old
		cut   func(*house, *pc)  // what ends the first attempt
		start func(*house, *pc)  // and how the second one begins
		disk  func(*wire.Report) // the first one's
		want  []byte
	}{
		"a power cut":             {want: written},
		"a failure":               {cut: func(h *house, p *pc) { p.send(wire.EventOutcome, &wire.Outcome{Result: wire.Failed, Cause: "cable"}) }, start: again, want: written},
		"somebody cancels it":     {cut: func(h *house, p *pc) { h.Cancel(bg, "lead1", p.plan.Job, "") }, start: again, want: written},
		"the appliance is killed": {pass: true, cut: func(h *house, p *pc) { h.crash() }, want: written},
		"it is killed after a failure": {cut: func(h *house, p *pc) {
			p.send(wire.EventOutcome, &wire.Outcome{Result: wire.Failed, Cause: "cable"})
			h.crash()
		}, start: again, want: written},
		"another disk in the PC":           {start: func(h *house, p *pc) { p.rep.Disks = h.pc(50).rep.Disks }},
		"a larger disk of the same serial": {start: func(h *house, p *pc) { p.rep.Disks[0].Bytes += 512 }},
		"another model of the same serial": {start: func(h *house, p *pc) { p.rep.Disks[0].Model = "other" }},
		"another WWN":                      {start: func(h *house, p *pc) { p.rep.Disks[0].WWN = "0x5001" }},
		"the disk in another PC":           {start: func(h *house, p *pc) { d := p.rep.Disks; *p = *h.pc(51); p.rep.Disks = d }, want: written},
		"another device name":              {start: func(h *house, p *pc) { p.rep.Disks[0].Path = "/dev/nvme1n1" }, want: written},
		"no serial and no WWN":             {disk: func(r *wire.Report) { r.Disks[0].Serial = "" }},
		"no serial but a WWN":              {disk: func(r *wire.Report) { r.Disks[0].Serial, r.Disks[0].WWN = "", "0x5001" }, want: written},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.lot(true)
			var change []func(*wire.Report)
			if c.disk != nil {
				change = append(change, c.disk)
			}
			p := h.pc(1, change...)
			p.boot()
			if p.plan.Action != wire.ActionImage {
				if err := h.Approve(bg, "lead1", p.device().Job.ID, p.rep.Disks[0].Path, p.rep.Disks[0].Path); err != nil {
					t.Fatal(err)
				}
				p.poll()
			}
			if p.plan.Image.Claims != nil {
				t.Fatal("claims of nobody")
			}
			if err := p.send(wire.EventImaging, nil); err != nil {
				t.Fatal(err)
			}
			if err := h.Claim(p.token, []byte{1}); err != nil {
				t.Fatal(err)
			}
			if err := h.Claim(p.token, slices.Clone(written)); err != nil {
				t.Fatal(err)
			}
			if c.pass {
				ctx, stop := context.WithCancel(bg)
				stop()
				h.Run(ctx) // stores them as it ends
			}
			if c.cut != nil {
				c.cut(h, p)
			}
			if c.start != nil {
				c.start(h, p)
			}
			p.boot()
			if p.plan.Action != wire.ActionImage {
				d := p.rep.Disks[0]
				typed := d.Path
				if d.Serial != "" {
					typed = p.tail()
				}
				if err := h.Approve(bg, "lead1", p.device().Job.ID, d.Path, typed); err != nil {
					t.Fatal(err)
				}
				p.poll()
			}
			p.wants(wire.ActionImage)
			if got := p.plan.Image.Claims; !bytes.Equal(got, c.want) {
				t.Fatalf("the next attempt gets the claims %x, not %x", got, c.want)
			}
		})
	}
}

func again(h *house, p *pc) {
	if err := h.ImageAgain(bg, "lead1", p.device().ID, ""); err != nil {
		h.t.Fatal(err)
	}
}

// What is no longer on the disk is claimed by nobody.
func TestClaimsEnd(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.writing(1)
	if err := h.Claim(p.token, []byte{7}); err != nil {
		t.Fatal(err)
	}
	p.restart()
	if len(p.plan.Image.Claims) == 0 {
		t.Fatal("no claims")
	}
	p.seq = 0
	p.image()
	if err := h.Claim(p.token, []byte{7}); err != nil {
		t.Fatal(err)
	}
	again(h, p)
	p.restart()
	if p.plan.Image.Claims != nil {
		t.Fatal("a proved disk is claimed")
	}

	// Another image on the disk, then the first one again.
	p.seq = 0
	if err := p.send(wire.EventImaging, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Claim(p.token, []byte{7}); err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{other, root} {
		if err := h.Cancel(bg, "lead1", p.plan.Job, ""); err != nil {
			t.Fatal(err)
		}
		if err := h.ImageAgain(bg, "lead1", p.device().ID, image); err != nil {
			t.Fatal(err)
		}
		p.restart()
		if p.plan.Image.Root != image || p.plan.Image.Claims != nil {
			t.Fatalf("%s is claimed: %+v", image, p.plan.Image)
		}
		p.seq = 0
		if err := p.send(wire.EventImaging, nil); err != nil {
			t.Fatal(err)
		}
	}
	h.crash()
	if st, err := h.store.Load(bg); err != nil || len(st.Claims) != 0 {
		t.Fatalf("%v %+v", err, st.Claims)
	}
}

func TestClaimsAreBounded(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.writing(1)
	frames := (size + 4<<20 - 1) / (4 << 20)
	if err := h.Claim(p.token, make([]byte, (frames+7)/8)); err != nil {
		t.Fatal(err)
	}
	refused(t, h.Claim(p.token, make([]byte, (frames+7)/8+1)), workshop.Invalid)
	refused(t, h.Claim("nonsense", []byte{1}), workshop.Unauthorized)
	if err := h.Claim(p.token, nil); err != nil {
		t.Fatal(err)
	}

	// A table that is full loses its oldest lines.
	var c workshop.Change
	start := h.clock.Now().Add(-time.Hour)
	for i := range 10_000 {
		c.Claims = append(c.Claims, workshop.Claim{ClaimKey: workshop.ClaimKey{Serial: fmt.Sprint("old ", i), Image: root}, Frames: []byte{1}, At: start.Add(time.Duration(i) * time.Millisecond)})
	}
	if err := h.store.Commit(bg, c); err != nil {
		t.Fatal(err)
	}
	h.crash()
	if err := h.Claim(p.token, []byte{9}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(bg)
	stop()
	h.Run(ctx)
	h.crash()
	st, err := h.store.Load(bg)
	if err != nil || len(st.Claims) != 10_000 || st.Claims[0].Serial != "old 1" || !strings.HasPrefix(st.Claims[9999].Serial, "S4EV") {
		t.Fatalf("%v, %d claims", err, len(st.Claims))
	}
}

// A plan with all the claims that there can be still fits into a message.
func TestPlanFits(t *testing.T) {
	h := open(t)
	h.shelf.m[root].Bytes = 2 << 40
	h.lot(true)
	p := h.writing(1, func(r *wire.Report) {
		r.Disks[0].Bytes = 4 << 40
		for _, s := range []*string{&r.Disks[0].Path, &r.Disks[0].Model, &r.Disks[0].WWN, &r.Disks[0].Serial} {
			*s += strings.Repeat("x", 300)
		}
	})
	if err := h.Claim(p.token, bytes.Repeat([]byte{255}, wire.MaxClaims)); err != nil {
		t.Fatal(err)
	}
	p.poll()
	b, err := json.Marshal(p.plan)
	if err != nil || len(p.plan.Image.Claims) != wire.MaxClaims || len(b) > wire.MaxMessage {
		t.Fatalf("%d bytes with %d of claims, %v", len(b), len(p.plan.Image.Claims), err)
	}
	refused(t, h.Claim(p.token, make([]byte, wire.MaxClaims+1)), workshop.Invalid)
}

// Claims are stored now and then, not with every word of a PC.
func TestClaimsAreStoredNowAndThen(t *testing.T) {
	bubble(t, func(t *testing.T, h *house, ctx context.Context) {
		h.lot(true)
		p := h.writing(1)
		stored := func() []byte {
			st, err := h.store.Load(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if len(st.Claims) == 0 {
				return nil
			}
			return st.Claims[0].Frames
		}
		var last []byte
		stores := 0
		for i := range 20 {
			if err := h.Claim(p.token, []byte{byte(i + 1)}); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Progress(ctx, p.token, wire.Progress{Job: p.plan.Job}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if now := stored(); !bytes.Equal(now, last) {
				last = now
				stores++
			}
		}
		if stores < 3 || stores > 5 {
			t.Fatalf("stored %d times in 20 s", stores)
		}
	})
}

func TestFlowsAreShown(t *testing.T) {
	h := open(t)
	h.lot(true)
	a, b := h.writing(1), h.writing(2)
	_, updates := h.Watch(t.Context())
	h.Arranged(map[string]workshop.Flow{a.plan.Job: {Appliance: true, To: []int{2}}, b.plan.Job: {From: []int{1}}, "nonsense": {Appliance: true}})
	if f := a.device().Flow; f == nil || !f.Appliance || len(f.To) != 1 {
		t.Fatalf("%+v", f)
	}
	if u := <-updates; len(u.Devices) != 2 {
		t.Fatalf("%+v", u)
	}
	// What is shown already is nothing new.
	h.Arranged(map[string]workshop.Flow{a.plan.Job: {Appliance: true, To: []int{2}}, b.plan.Job: {From: []int{1}, Slow: "disk"}})
	if u := <-updates; len(u.Devices) != 1 || u.Devices[0].Number != 2 || !reflect.DeepEqual(*u.Devices[0].Flow, workshop.Flow{From: []int{1}, Slow: "disk"}) {
		t.Fatalf("%+v", u)
	}
	h.Arranged(nil)
	if u := <-updates; len(u.Devices) != 2 || a.device().Flow != nil {
		t.Fatalf("%+v", u)
	}
	old := b.plan.Job
	b.restart()
	h.Arranged(map[string]workshop.Flow{old: {Appliance: true}})
	if b.device().Flow != nil {
		t.Fatal("an old job's flow is shown")
	}
}

func TestSuspected(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.writing(1)
	for range 3 {
		if err := h.Suspect(bg, p.plan.Job, "memory"); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Suspect(bg, "nonsense", "memory"); err != nil {
		t.Fatal(err)
	}
	h.crash()
	if err := h.Suspect(bg, p.plan.Job, "memory"); err != nil {
		t.Fatal(err)
	}
	d := p.device()
	n := 0
	for _, k := range h.kinds(d.ID) {
		if k == "suspected" {
			n++
		}
	}
	if j := p.state(workshop.Imaging); n != 1 || !j.Suspected {
		t.Fatalf("suspected %d times: %+v", n, j)
	}
	for range 2 {
		if err := h.Suspect(bg, p.plan.Job, ""); err != nil {
			t.Fatal(err)
		}
	}
	if k := h.kinds(d.ID); p.state(workshop.Imaging).Suspected || k[len(k)-1] != "cleared" || k[len(k)-2] == "cleared" {
		t.Fatalf("%v", k)
	}
	if err := h.Suspect(bg, p.plan.Job, "memory"); err != nil {
		t.Fatal(err)
	}
	h.verify(d.ID)
	p.restart()
	if p.device().Job.Suspected {
		t.Fatal("a new start is suspected before it has done anything")
	}
}
