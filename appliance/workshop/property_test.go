package workshop_test

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// world is what the test knows to be true beside what the registry says.
type world struct {
	*house
	rt       *rapid.T
	pcs      []*pc
	taken    map[string][]wire.EventKind // job → events that were acknowledged
	proved   map[string]bool             // job → a proof was acknowledged
	emptied  map[string]bool             // job → a proof of an erasure was acknowledged
	allowed  map[string]bool             // boot id + serial → somebody approved it
	ordered  map[string]bool             // boot id + serial → somebody had it erased
	installs map[string]bool             // job → with an image after its erasing
	wished   map[string]bool             // serial number of a PC → a person asked for another imaging
	standing bool                        // some lot's blank disks were approved beforehand
	claims   map[string]bool             // disk, image and word of a claim that was taken
	crashes  int
}

// Whatever PCs, people and power cuts do: nothing is verified or erased without a
// proof, no disk may be written or erased that nobody approved for that start and
// for that, nothing is given away unproved, and what was acknowledged is never
// forgotten.
func TestWhateverHappens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		w := &world{rt: rt, house: in(rt, dir), taken: map[string][]wire.EventKind{}, proved: map[string]bool{}, allowed: map[string]bool{}, wished: map[string]bool{}, claims: map[string]bool{}, emptied: map[string]bool{}, ordered: map[string]bool{}, installs: map[string]bool{}}
		defer func() { w.store.Close() }()
		for i := range 3 {
			w.pcs = append(w.pcs, w.pc(i+1, []func(*wire.Report){func(*wire.Report) {}, data, noDisk}[i]))
		}
		// A morning as any other; then whatever happens.
		w.OpenLot(bg, "lead1", "ACME", root, true)
		w.standing = true
		for _, p := range w.pcs[:2] {
			p.script()
			w.rereportOf(p)
			for range rapid.SampledFrom([]int{2, 2, 1, 0, 3}).Draw(rt, "steps") {
				w.next(p)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"boot": w.boot, "report": w.rereport, "poll": w.pollOne, "event": w.event, "old event": w.oldEvent, "lie": w.lie, "lie again": w.lie, "lie once more": w.lie, "progress": w.progress, "claim": w.claim, "claim too": w.claim,
			"erase": w.eraseOne, "erase too": w.eraseOne, "hold": w.holdAtStart, "ready": w.ready, "forget": w.forget,
			"approve": w.approveOne, "again": w.again, "cancel": w.cancel, "lot": w.openLot, "close": w.closeLot, "swap disk": w.swap,
			"event too": w.event, "checkin": w.checkin, "time": w.time, "crash": w.crashNow, "step": w.step, "step on": w.step, "step further": w.step, "": w.check,
		})
	})
}

func (w *world) any(t *rapid.T) *pc { return rapid.SampledFrom(w.pcs).Draw(t, "pc") }

// saw notes a plan and holds it to the rules.
func (w *world) saw(p *pc, plan wire.Plan) {
	if plan.Job != p.plan.Job {
		p.seq = 0
	}
	p.plan = plan
	switch plan.Action {
	case wire.ActionErase:
		switch {
		case plan.Disk == nil || plan.Erase == nil || plan.Image != nil || len(plan.Erase.Seed) != 64:
			w.rt.Fatalf("an erase plan that lacks something: %+v", plan)
		case !w.ordered[p.rep.BootID+plan.Disk.Serial]:
			w.rt.Fatalf("nobody asked for this erasing: %+v", plan)
		}
		return
	case wire.ActionImage:
	default:
		return
	}
	if i := plan.Image; i != nil && i.Claims != nil && !w.claims[fmt.Sprint(plan.Disk.Serial, i.Root, i.Claims)] {
		w.rt.Fatalf("a PC is told of frames that nobody wrote to its disk: %x", i.Claims)
	}
	switch blank := plan.Content == wire.ClassBlank || plan.Content == wire.ClassOurs; {
	case plan.Disk == nil || plan.Image == nil || plan.Erase != nil:
		w.rt.Fatalf("an image plan without a disk or an image: %+v", plan)
	case w.allowed[p.rep.BootID+plan.Disk.Serial]:
	case blank && (w.standing || w.wished[p.rep.Identity.SystemSerial]):
	default:
		w.rt.Fatalf("nobody approved this: %+v", plan)
	}
}

func (w *world) boot(t *rapid.T) {
	p := w.any(t)
	w.clock.pass(5 * time.Second)
	if !p.script() {
		w.rereportOf(p)
	}
}

func (w *world) rereport(t *rapid.T) { w.rereportOf(w.any(t)) }

func (w *world) rereportOf(p *pc) {
	if p.token == "" {
		return
	}
	rep := p.rep
	rep.Disks = slices.Clone(rep.Disks)
	rep.NICs = slices.Clone(rep.NICs)
	if plan, err := w.Report(bg, p.token, rep); err == nil {
		w.saw(p, plan)
	}
}

func (w *world) pollOne(t *rapid.T) {
	w.pollOf(w.any(t))
}

func (w *world) pollOf(p *pc) {
	if plan, err := w.Plan(bg, p.token, 0, 0); err == nil {
		w.saw(p, plan)
	}
}

func (w *world) deliver(p *pc, e wire.Event) {
	proof := e.Outcome != nil && e.Outcome.Result == wire.Done && e.Outcome.ReadBack == size && e.Outcome.Mismatches == 0 &&
		p.plan.Image != nil && e.Outcome.Root == p.plan.Image.Root
	emptied := p.plan.Erase != nil && e.Job == p.plan.Job && reflect.DeepEqual(e.Outcome, p.empty())
	state := workshop.JobState("")
	for _, d := range w.View().Devices {
		if d.Job != nil && d.Job.ID == e.Job {
			state = d.Job.State
			if state == workshop.JobLost {
				state = d.Job.Before
			}
		}
	}
	if err := w.Event(bg, p.token, e); err != nil {
		return
	}
	have := w.taken[e.Job]
	restarted := e.Seq <= len(have) && have[e.Seq-1] != e.Kind // and failed earlier than before
	if restarted && (e.Kind != wire.EventOutcome || e.Outcome.Result == wire.Done) {
		w.rt.Fatalf("%s was acknowledged as event %d, which was %s", e.Kind, e.Seq, have[e.Seq-1])
	}
	if e.Seq == len(have)+1 || restarted {
		w.taken[e.Job] = append(have, e.Kind)
	} else if e.Seq > len(have) {
		w.rt.Fatalf("event %d of %s was acknowledged after %v", e.Seq, e.Job, have)
	}
	if proof && state == workshop.Verifying {
		w.proved[e.Job] = true
	}
	if emptied && state == workshop.Erasing {
		w.emptied[e.Job] = true
		if w.installs[e.Job] {
			w.wished[p.rep.Identity.SystemSerial] = true
		}
	}
	if e.Seq > p.seq {
		p.seq = e.Seq
	}
}

// step does what an honest agent does next.
func (w *world) step(t *rapid.T) { w.next(w.any(t)) }

func (w *world) next(p *pc) {
	if p.plan.Action == wire.ActionErase && p.seq < 2 {
		e := wire.Event{Job: p.plan.Job, Seq: p.seq + 1, Kind: wire.EventErasing, Disk: new(*p.plan.Disk)}
		if p.seq == 1 {
			e.Kind, e.Disk, e.Outcome = wire.EventOutcome, nil, p.empty()
		}
		if w.deliver(p, e); w.emptied[p.plan.Job] && len(p.rep.Disks) > 0 {
			p.rep.Disks[0].Class = wire.ClassBlank
			w.rereportOf(p)
		}
		return
	}
	if p.plan.Action != wire.ActionImage {
		return
	}
	e := wire.Event{Job: p.plan.Job, Seq: p.seq + 1}
	switch p.seq {
	case 0:
		e.Kind, e.Disk = wire.EventImaging, new(*p.plan.Disk)
	case 1:
		e.Kind = wire.EventVerifying
	case 2:
		e.Kind, e.Outcome = wire.EventOutcome, p.proof()
	default:
		return
	}
	w.deliver(p, e)
}

// event is anything an agent might send.
func (w *world) event(t *rapid.T) {
	p := w.any(t)
	e := wire.Event{
		Job: p.plan.Job, Seq: p.seq + rapid.SampledFrom([]int{1, 1, 1, 0, 2, -1}).Draw(t, "seq"),
		Kind: rapid.SampledFrom([]wire.EventKind{wire.EventImaging, wire.EventVerifying, wire.EventOutcome, wire.EventErasing}).Draw(t, "kind"),
	}
	if p.plan.Disk != nil && rapid.IntRange(0, 3).Draw(t, "disk") > 0 {
		e.Disk = new(*p.plan.Disk)
	}
	if e.Kind == wire.EventOutcome {
		e.Outcome = &wire.Outcome{
			Result:     rapid.SampledFrom([]wire.Result{wire.Done, wire.Done, wire.Done, wire.Failed, wire.Unknown, "", "true", "Done"}).Draw(t, "result"),
			ReadBack:   rapid.SampledFrom([]int64{size, size, size - 1, 0}).Draw(t, "read"),
			Mismatches: rapid.SampledFrom([]int{0, 0, 1, -1}).Draw(t, "bad"), Root: rapid.SampledFrom([]string{root, root, other, ""}).Draw(t, "root"),
		}
	}
	if e.Outcome != nil && p.plan.Erase != nil && rapid.Bool().Draw(t, "erasure") {
		o := p.empty()
		o.Result = e.Outcome.Result
		o.Erasure.Result = rapid.SampledFrom([]wire.ErasureResult{wire.Erased, wire.Erased, wire.ErasedExceptions, wire.NotErased, wire.ErasureUnknown, "", "true"}).Draw(t, "erased")
		e.Outcome = o
	}
	w.deliver(p, e)
}

func (w *world) oldEvent(t *rapid.T) {
	p := w.any(t)
	for job, kinds := range w.taken {
		if job == p.plan.Job && len(kinds) > 0 && kinds[0] == wire.EventImaging && p.plan.Disk != nil {
			w.deliver(p, wire.Event{Job: job, Seq: 1, Kind: wire.EventImaging, Disk: new(*p.plan.Disk)})
		}
	}
}

// lie claims success with a proof that has at most one flaw, at any time.
func (w *world) lie(t *rapid.T) {
	p := w.any(t)
	if p.plan.Erase != nil {
		o := p.empty()
		switch x := o.Erasure; rapid.IntRange(0, 7).Draw(t, "flaw") {
		case 0:
			x.Check.Mismatches++
		case 1:
			x.Check.Bytes = 0
		case 2:
			x.Steps = nil
		case 3:
			x.Check.Kind, x.Check.Seed = wire.CheckSample, "00"
		case 4:
			x.Steps[0].Result = wire.Unknown
		case 5:
			o.Disk = &wire.DiskID{Path: o.Disk.Path, Serial: "ANOTHER", Bytes: o.Disk.Bytes, LogicalBlock: 512}
		case 6:
			x.Check.Errors++
		}
		w.deliver(p, wire.Event{Job: p.plan.Job, Seq: p.seq + 1, Kind: wire.EventOutcome, Outcome: o})
		return
	}
	if p.plan.Image == nil {
		return
	}
	o := p.proof()
	switch rapid.IntRange(0, 4).Draw(t, "flaw") {
	case 0:
		o.ReadBack--
	case 1:
		o.Mismatches++
	case 2:
		o.Root = other
	case 3:
		o.ReadBack = 0
	}
	w.deliver(p, wire.Event{Job: p.plan.Job, Seq: p.seq + 1, Kind: wire.EventOutcome, Outcome: o})
}

func (w *world) progress(t *rapid.T) {
	p := w.any(t)
	w.Progress(bg, p.token, wire.Progress{Job: p.plan.Job, Phase: wire.PhaseImaging, Done: size, Total: size, Rate: 1})
}

func (w *world) approveOne(t *rapid.T) {
	p := w.any(t)
	if len(p.rep.Disks) == 0 || p.plan.Job == "" {
		return
	}
	typed := rapid.SampledFrom([]string{p.tail(), p.tail(), "000000"}).Draw(t, "typed")
	if err := w.Approve(bg, "lead1", p.plan.Job, p.rep.Disks[0].Path, typed); err == nil {
		if typed != p.tail() {
			w.rt.Fatalf("a wrong serial number was taken")
		}
		w.allowed[p.rep.BootID+p.rep.Disks[0].Serial] = true
	}
}

func (w *world) eraseOne(t *rapid.T) {
	p := w.any(t)
	if len(p.rep.Disks) == 0 || p.plan.Job == "" {
		return
	}
	typed := rapid.SampledFrom([]string{p.tail(), p.tail(), "000000"}).Draw(t, "typed")
	wish := workshop.EraseWish{
		Check:   rapid.SampledFrom([]wire.CheckKind{wire.CheckFull, wire.CheckSample, ""}).Draw(t, "check"),
		Install: rapid.Bool().Draw(t, "install"),
	}
	for _, d := range w.View().Devices {
		if d.Report.Identity.SystemSerial != p.rep.Identity.SystemSerial || w.Erase(bg, "lead1", d.ID, p.rep.Disks[0].Path, typed, wish) != nil {
			continue
		}
		if typed != p.tail() || wish.Check == "" {
			w.rt.Fatalf("an order of %q with %q was taken", typed, wish.Check)
		}
		now, _ := w.Device(d.ID)
		w.ordered[now.Job.Boot+p.rep.Disks[0].Serial] = true
		w.installs[now.Job.ID] = wish.Install
		if p.rep.BootID == now.Job.Boot {
			w.pollOf(p)
		}
	}
}

func (w *world) holdAtStart(t *rapid.T) {
	for _, d := range w.View().Devices {
		if d.Report.Identity.SystemSerial == w.any(t).rep.Identity.SystemSerial {
			w.HoldAtStart(bg, "lead1", d.ID)
		}
	}
}

func (w *world) forget(t *rapid.T) {
	for _, d := range w.View().Devices {
		w.ForgetAgain(bg, "lead1", d.ID)
	}
}

// ready tries to move every PC towards the people who wait for one.
func (w *world) ready(t *rapid.T) {
	for _, v := range w.View().Devices {
		if w.MoveDevice(bg, "lead1", v.ID, workshop.Ready, "") != nil {
			continue
		}
		d, _ := w.Device(v.ID)
		i := slices.IndexFunc(d.Jobs, func(j workshop.Job) bool {
			return slices.ContainsFunc(w.taken[j.ID], func(k wire.EventKind) bool { return k == wire.EventImaging || k == wire.EventErasing })
		})
		if i < 0 || !w.proved[d.Jobs[i].ID] {
			w.rt.Fatalf("ready without proof: %+v", d.Jobs)
		}
		w.MoveDevice(bg, "lead1", v.ID, workshop.Received, "")
	}
}

func (w *world) again(t *rapid.T) {
	p := w.any(t)
	for _, d := range w.View().Devices {
		if d.Report.Identity.SystemSerial == p.rep.Identity.SystemSerial && w.ImageAgain(bg, "vol1", d.ID, "") == nil {
			w.wished[p.rep.Identity.SystemSerial] = true
		}
	}
}

// claim says that some frames are on the disk that the plan named. Whoever gets
// them back must have the same disk and the same image.
func (w *world) claim(t *rapid.T) {
	p := w.any(t)
	if p.plan.Disk == nil || p.plan.Image == nil {
		return
	}
	word := []byte{byte(rapid.IntRange(0, 255).Draw(t, "frames")), 1}
	s, err := w.Sharer(p.token)
	if err == nil && s.Job == p.plan.Job && w.Claim(p.token, word) == nil {
		w.claims[fmt.Sprint(p.plan.Disk.Serial, p.plan.Image.Root, word)] = true
	}
}

func (w *world) cancel(t *rapid.T) { w.Cancel(bg, "lead1", w.any(t).plan.Job, "") }

func (w *world) openLot(t *rapid.T) {
	standing := rapid.Bool().Draw(t, "standing")
	if _, err := w.OpenLot(bg, "lead1", "ACME", root, standing); err == nil && standing {
		w.standing = true
	}
}

func (w *world) closeLot(t *rapid.T) {
	for _, l := range w.View().Lots {
		w.CloseLot(bg, "lead1", l.ID)
	}
}

// swap puts another disk in; the PC is off, so its token is gone.
func (w *world) swap(t *rapid.T) {
	p := w.any(t)
	p.rep.Disks = w.pc(rapid.IntRange(100, 105).Draw(t, "disk")).rep.Disks
	p.rep.Disks[0].Class = rapid.SampledFrom([]wire.Class{wire.ClassBlank, wire.ClassData, wire.ClassOurs, wire.ClassLocked, "future"}).Draw(t, "class")
	p.token, p.plan = "", wire.Plan{}
}

func (w *world) checkin(t *rapid.T) {
	if p := w.any(t); p.plan.Image != nil {
		w.Checkin(bg, p.plan.Image.Checkin.Token, wire.FirstBoot{MAC: p.mac})
	}
}

func (w *world) time(t *rapid.T) {
	w.clock.pass(time.Duration(rapid.IntRange(1, 900).Draw(t, "seconds")) * time.Second)
}

func (w *world) crashNow(t *rapid.T) {
	w.crashes++
	before := w.View()
	w.crash()
	after := w.View()
	if len(before.Devices) != len(after.Devices) || len(before.Lots) != len(after.Lots) {
		w.rt.Fatalf("%d devices and %d lots, and after a crash %d and %d", len(before.Devices), len(before.Lots), len(after.Devices), len(after.Lots))
	}
	for i, b := range before.Devices {
		a := after.Devices[i]
		if a.ID != b.ID || a.State != b.State || a.Again != b.Again || a.Wait != b.Wait || (a.Job == nil) != (b.Job == nil) || a.Job != nil && fmt.Sprint(a.Job.ID, a.Job.State, a.Job.Taken) != fmt.Sprint(b.Job.ID, b.Job.State, b.Job.Taken) {
			w.rt.Fatalf("%+v was %+v before a crash", a, b)
		}
	}
}

func (w *world) check(t *rapid.T) {
	for _, v := range w.View().Devices {
		d, _ := w.Device(v.ID)
		live := 0
		for i, j := range d.Jobs {
			if j.State.Proved() && !w.proved[j.ID] {
				w.rt.Fatalf("verified without proof: %+v", j)
			}
			if j.State == workshop.Erased && !w.emptied[j.ID] {
				w.rt.Fatalf("erased without proof: %+v", j)
			}
			if j.Erase != nil && (j.State == workshop.Imaging || j.State.Proved()) || j.Erase == nil && (j.State == workshop.Erasing || j.State == workshop.Erased) {
				w.rt.Fatalf("one job erases and images: %+v", j)
			}
			if got := w.taken[j.ID]; !slices.Equal(got, j.Taken) && !(len(got) == 0 && len(j.Taken) == 0) {
				w.rt.Fatalf("acknowledged were %v, kept are %v", got, j.Taken)
			}
			if j.State.Live() {
				live++
				if i != 0 {
					w.rt.Fatalf("an old job is still %s", j.State)
				}
			}
			if (j.State == workshop.Approved || j.State.Running()) && (j.Approval == nil || j.Approval.Boot != j.Boot) {
				w.rt.Fatalf("no approval for this start: %+v", j)
			}
		}
		if live > 1 {
			w.rt.Fatalf("%d live jobs", live)
		}
	}
}
