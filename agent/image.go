package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"refurb/agent/exchange"
	"refurb/agent/finish"
	"refurb/agent/imaging"
	"refurb/agent/screen"
	"refurb/agent/wire"
	"refurb/images"
)

// job is one attempt to put an image on a disk.
type job struct {
	*agent
	plan  wire.Plan
	seq   int
	meter imaging.Meter
	// What gets the frames, and passes them on even when this PC is done; nil
	// until it is known what is wanted.
	frames  *exchange.Exchange
	testing atomic.Int64 // nothing is left but the disk's self-test, until this Unix time at most; 0: there is
}

// image does what the plan says and returns when the appliance has stored how
// it ended, or ctx has.
func (a *agent) image(ctx context.Context, plan wire.Plan) wire.Outcome {
	j := &job{agent: a, plan: plan}
	running, stop := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	watching, unwatch := context.WithCancel(ctx)
	go func() {
		defer close(watched)
		j.watch(watching, stop)
	}()
	sharing, unshare := context.WithCancel(ctx)
	defer unshare()
	out := j.write(running, sharing)
	unwatch()
	<-watched
	stop(nil)

	j.conclude(ctx, &out)
	if out.Result == wire.Done {
		j.linger(ctx, j.frames)
	}
	return out
}

// conclude shows how the job ended and returns when the appliance has stored it,
// or ctx has ended.
func (j *job) conclude(ctx context.Context, out *wire.Outcome) {
	out.Cause, out.Next = text(out.Cause), text(out.Next)
	j.log.Info("outcome", "result", out.Result, "cause", out.Cause, "read_back", out.ReadBack, "finish", out.Finish)
	v := screen.View{Kind: screen.Working, Title: "Telling the appliance", Percent: -1}
	if out.Result != wire.Done {
		v = failed(out.Cause, out.Next)
	}
	j.show(v)
	err := j.event(ctx, wire.Event{Kind: wire.EventOutcome, Outcome: out})
	if err != nil && ctx.Err() == nil {
		// Refused for good: the disk is as it is, but for the workshop this PC is
		// not done.
		cause, next := refusalOf(err)
		out.Result, out.Cause, out.Next = wire.Failed, text("the appliance refused the outcome: "+cause), text(next)
		j.log.Error("outcome refused", "err", err)
	}
}

// write is the way from a plan to an outcome. It reports the first two steps
// itself. Frames are passed on to others until sharing ends.
func (j *job) write(ctx, sharing context.Context) wire.Outcome {
	plan := j.plan
	if plan.Disk == nil || plan.Image == nil || plan.Job == "" {
		return notDone(errors.New("the appliance's plan names no disk or no image"))
	}
	m, err := j.client.manifest(ctx, plan.Image, j.cfg.Key)
	if err != nil {
		return notDone(err)
	}
	checkin, err := json.Marshal(plan.Image.Checkin)
	if err != nil {
		return notDone(err)
	}
	approved := []wire.Class{plan.Content}
	switch n := j.begun(); {
	case n >= maxBegun:
		return notDone(&wire.Error{Message: fmt.Sprintf("the program on this PC crashed %d times while it worked on the disk", n),
			Next: "tell the coordinator; try another disk"})
	case n > 0:
		// What half an image looks like, whatever was there before; a whole one is ours.
		approved = []wire.Class{wire.ClassBlank, wire.ClassOurs, wire.ClassStructured, wire.ClassData, wire.ClassEncrypted}
	}
	d, err := j.open(*plan.Disk, approved...)
	if err != nil {
		return notDone(err)
	}
	if err := j.unmistakable(d); err != nil {
		d.Close()
		return notDone(err)
	}
	id := d.ID()
	birth, noBirth := j.birth(id, m)
	rotational := slices.ContainsFunc(j.report.Disks, func(d wire.Disk) bool { return d.Path == id.Path && d.Rotational })
	found, err := imaging.Found(ctx, d, m, plan.Image.Claims, rotational, &j.meter)
	if err != nil {
		d.Close()
		return notDone(err)
	}
	j.frames = j.exchange(m, imaging.First(m), found)
	go j.frames.Run(sharing) // Next says what went wrong
	test := j.selfTest(ctx, d)
	out, table := imaging.Write(ctx, d, imaging.Job{
		Manifest: m, Source: j.frames, Found: found, Rotational: rotational,
		Slots: map[string][]byte{"checkin": checkin}, Birth: birth,
		Started: func(ctx context.Context) error {
			if err := j.event(ctx, wire.Event{Kind: wire.EventImaging, Disk: &id}); err != nil {
				return err
			}
			// Minutes may have passed since the disk was opened: others were waited
			// for, or the appliance.
			if err := d.Check(*plan.Disk, j.cfg.Key, approved...); err != nil {
				return err
			}
			return j.begin(id)
		},
		Verifying: func(ctx context.Context) error {
			return j.event(ctx, wire.Event{Kind: wire.EventVerifying})
		},
		Sealing: test.good,
	}, &j.meter)
	out.SelfTest = test.end()
	if err := d.Close(); err != nil && out.Result == wire.Done {
		out.Warnings = append(out.Warnings, text("closing the disk: "+err.Error()))
	}
	if noBirth != "" && out.Result == wire.Done {
		out.Warnings = append(out.Warnings, text(noBirth))
	}
	out.Disk, out.Streams = &id, j.streams()
	if out.Result == wire.Done {
		j.firmware(&out, m, table)
	}
	return out
}

// birth is the plan's record for the disk, or why there is none. The appliance
// made it before the disk was opened.
func (j *job) birth(id wire.DiskID, m *images.Manifest) (record []byte, why string) {
	if len(j.plan.Image.Birth) == 0 {
		return nil, ""
	}
	b, err := wire.ParseBirth(j.plan.Image.Birth, j.cfg.Key)
	switch {
	case err != nil:
		return nil, "no birth record is on the disk: " + err.Error()
	case !b.For(id) || b.Root != m.Root.String() || b.Job != j.plan.Job:
		return nil, "no birth record is on the disk: the appliance sent one for another job or disk"
	}
	return j.plan.Image.Birth, ""
}

func notDone(err error) wire.Outcome {
	cause, next := refusalOf(err)
	return wire.Outcome{Result: wire.Failed, Phase: wire.PhaseImaging, Cause: cause, Next: orElse(next, "start this PC again from the network")}
}

// streams is how many connections to the appliance there are. One fills a link
// and brings the frames in their order, which is what other PCs need.
func (j *job) streams() int { return max(j.plan.Image.Streams, 1) }

// firmware makes the PC start from its disk. What goes wrong here is a warning:
// the disk is good, and firmware finds it without our entry as well.
func (j *job) firmware(out *wire.Outcome, m *images.Manifest, table *finish.Table) {
	warn := func(s string) { out.Warnings = append(out.Warnings, text(s)) }
	mode := "bios"
	if strings.HasPrefix(j.report.Firmware.Mode, "uefi") {
		mode = "uefi"
	}
	if len(m.Boots) > 0 && !slices.Contains(m.Boots, mode) {
		warn(fmt.Sprintf("the image starts with %s, but this PC was started with %s", strings.Join(m.Boots, ", "), mode))
	}
	if j.cfg.Bench != nil {
		return // the firmware here is that of somebody's own machine
	}
	vars, file, err := finish.Firmware()
	switch {
	case err != nil:
		warn(err.Error())
	case vars == nil: // a BIOS
	case table.ESP == nil:
		warn("the image has no EFI system partition, so there is no boot entry")
	default:
		if !finish.Startable(out.Disk.Path, int64(m.Block), *table.ESP, file) {
			warn(fmt.Sprintf("this PC's firmware (%s) starts only %s, and the image has no such file: the PC won't start from its disk; choose an image that has it", j.report.Firmware.Mode, file))
			return
		}
		did, err := finish.BootEntry(vars, *table.ESP, file)
		if err != nil {
			warn(err.Error())
			return
		}
		out.Finish = append(out.Finish, did)
	}
}

// event sends the job's next step until it is stored.
func (j *job) event(ctx context.Context, e wire.Event) error {
	j.seq++
	e.Job, e.Seq, e.Clock = j.plan.Job, j.seq, time.Now()
	return j.client.event(ctx, e)
}

// A job that has begun to write has destroyed what made the disk's class. If
// the agent crashes and comes back within the same boot, this note, which dies
// with the boot, says that the data on the disk is our own, and how often this
// was tried.
type note struct {
	Job   string
	Disk  wire.DiskID
	Times int
}

// maxBegun ends a job that crashes at the same place again and again: each time
// may take longer than the supervisor's patience.
const maxBegun = 3

func (j *job) notePath() string { return filepath.Join(j.cfg.State, "begun.json") }

func (j *job) begin(id wire.DiskID) error {
	b, err := json.Marshal(note{j.plan.Job, id, j.begun() + 1})
	if err == nil {
		if err = os.MkdirAll(j.cfg.State, 0o700); err == nil {
			err = os.WriteFile(j.notePath(), b, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("noting that the job has begun: %w", err)
	}
	return nil
}

// begun is how often the job began in this boot.
func (j *job) begun() int {
	b, err := os.ReadFile(j.notePath())
	var n note
	if err != nil || json.Unmarshal(b, &n) != nil || j.plan.Disk == nil || n.Job != j.plan.Job || n.Disk != *j.plan.Disk {
		return 0
	}
	return n.Times
}

// watch shows how far the imaging is.
func (j *job) watch(ctx context.Context, stop context.CancelCauseFunc) {
	j.follow(ctx, stop, j.meter.Progress, func(p wire.Progress) screen.View {
		v := picture(p, j.plan.Image.Name, j.meter.Waits())
		if until := j.testing.Load(); until != 0 {
			left := max(time.Until(time.Unix(until, 0)), 0) + time.Minute - 1
			v.Detail = fmt.Sprintf("the disk tests itself, at most %d min more", left/time.Minute)
		}
		return v
	})
}

// follow shows how far the job is and tells the appliance, once a second, until
// ctx ends. The appliance's answer may be to stop.
func (j *job) follow(ctx context.Context, stop context.CancelCauseFunc, look func() wire.Progress, paint func(wire.Progress) screen.View) {
	var r rate
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for sent := make(chan struct{}, 1); ; {
		p := look()
		p.Job = j.plan.Job
		p.Rate = r.over(p, time.Now())
		if p.Phase != "" {
			j.show(paint(p))
			select {
			case sent <- struct{}{}: // one at a time; a slow one is not waited for
				go func() {
					defer func() { <-sent }()
					j.tell(ctx, p, stop)
				}()
			default:
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (j *job) tell(ctx context.Context, p wire.Progress, stop context.CancelCauseFunc) {
	reply, err := j.client.progress(ctx, p)
	refused, ok := errors.AsType[*wire.Error](err)
	switch {
	case ok:
		j.lost(nil)
		stop(&wire.Error{Message: "stopped by the appliance: " + refused.Message, Next: refused.Next})
	case err != nil:
		if ctx.Err() == nil {
			j.lost(err) // or the screen would show a job that stands still, and not why
		}
	default:
		j.lost(nil)
		if reply.Stop {
			next := "ask for imaging again on the dashboard if this PC is to be done"
			if j.plan.Action == wire.ActionErase {
				next = "ask for erasing again on the dashboard: nobody knows what is on the disk"
			}
			stop(&wire.Error{Message: "stopped by the workshop: " + orElse(reply.Why, "no reason was given"), Next: next})
		}
	}
}

var phases = map[wire.Phase]string{
	wire.PhaseImaging:   "Writing",
	wire.PhaseVerifying: "Reading back",
	wire.PhaseFinishing: "Finishing",
	wire.PhaseErasing:   "Erasing",
	wire.PhaseChecking:  "Checking that it is erased",
}

func picture(p wire.Progress, image, waits string) screen.View {
	v := screen.View{Kind: screen.Working, Title: phases[p.Phase], Detail: image, Percent: -1, Rate: p.Rate}
	if p.Phase == wire.PhaseImaging && waits != "" {
		v.Detail = text(waits)
	}
	if p.Total > 0 {
		v.Percent = 100 * float64(p.Done) / float64(p.Total)
	}
	if p.Rate > 0 {
		v.ETA = time.Duration(float64(p.Total-p.Done) / float64(p.Rate) * float64(time.Second)).Round(time.Second)
	}
	return v
}

// rate is the speed over the last seconds of one phase.
type rate struct {
	phase wire.Phase
	past  []struct {
		at   time.Time
		done int64
	}
}

func (r *rate) over(p wire.Progress, now time.Time) int64 {
	if p.Phase != r.phase {
		r.phase, r.past = p.Phase, nil
	}
	r.past = append(r.past, struct {
		at   time.Time
		done int64
	}{now, p.Done})
	if len(r.past) > 8 {
		r.past = r.past[1:]
	}
	since := now.Sub(r.past[0].at).Seconds()
	if since <= 0 {
		return 0
	}
	return int64(float64(p.Done-r.past[0].done) / since)
}
