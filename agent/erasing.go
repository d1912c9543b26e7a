package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"refurb/agent/drive"
	"refurb/agent/erase"
	"refurb/agent/health"
	"refurb/agent/screen"
	"refurb/agent/wire"
)

// erase does what a plan to erase says and returns when the appliance has stored
// how it ended, or ctx has. touched says that the disk may hold something else
// than what was reported.
func (a *agent) erase(ctx context.Context, plan wire.Plan) (out wire.Outcome, touched bool) {
	j := &job{agent: a, plan: plan}
	var m erase.Meter
	running, stop := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	watching, unwatch := context.WithCancel(ctx)
	go func() {
		defer close(watched)
		j.follow(watching, stop, m.Progress, func(p wire.Progress) screen.View {
			v := picture(p, m.Doing(), "")
			v.Next = "Don't switch this PC off"
			return v
		})
	}()
	out, touched = j.erase(running, &m)
	unwatch()
	<-watched
	stop(nil)
	j.conclude(ctx, &out)
	return out, touched
}

// erase is the way from a plan to an outcome.
func (j *job) erase(ctx context.Context, m *erase.Meter) (out wire.Outcome, touched bool) {
	plan := j.plan
	no := func(err error) (wire.Outcome, bool) {
		out := notDone(err)
		out.Phase = wire.PhaseErasing
		if j.begun() > 0 {
			out.Result = wire.Unknown // a run that crashed has begun to destroy
		}
		return out, false
	}
	if plan.Disk == nil || plan.Erase == nil || plan.Job == "" {
		return no(errors.New("the appliance's plan names no disk or not how to erase it"))
	}
	approved := []wire.Class{plan.Content}
	switch n := j.begun(); {
	case n >= maxBegun:
		return no(&wire.Error{Message: fmt.Sprintf("the program on this PC crashed %d times while it erased the disk", n),
			Next: "tell the coordinator: nobody knows what is on this disk"})
	case n > 0: // it was the approved one when it was begun
		approved = []wire.Class{wire.ClassBlank, wire.ClassOurs, wire.ClassStructured, wire.ClassData, wire.ClassEncrypted,
			wire.ClassLocked, wire.ClassUnreadable}
	}
	d, err := j.open(*plan.Disk, approved...)
	if err != nil {
		return no(err)
	}
	defer d.Close()
	if err := j.unmistakable(d); err != nil {
		return no(err)
	}
	id := d.ID()
	seen := wire.Disk{DiskID: id, Transport: wire.TransportOther}
	if i := slices.IndexFunc(j.report.Disks, func(d wire.Disk) bool { return d.Path == id.Path }); i >= 0 {
		seen = j.report.Disks[i]
	}
	job := erase.Job{
		Disk: d, Medium: erase.MediumOf(seen.Transport, seen.Rotational), Transport: seen.Transport,
		Want: *plan.Erase, State: j.cfg.State, Tool: j.cfg.Version, Before: seen.Health,
		Begin: func(ctx context.Context) error {
			if err := j.event(ctx, wire.Event{Kind: wire.EventErasing, Disk: &id}); err != nil {
				return err
			}
			// Minutes may have passed since the disk was opened.
			if err := d.Check(*plan.Disk, j.cfg.Key, approved...); err != nil {
				return err
			}
			touched = true
			return j.begin(id)
		},
	}
	if seen.Health != nil {
		job.Health = func(ctx context.Context) *wire.Health { return health.Read(ctx, seen) }
	}
	if able, ok := d.(interface{ Drive() drive.Drive }); ok {
		job.Drive = able.Drive()
	}
	e, err := erase.Run(ctx, job, m)
	if err != nil {
		out, _ = no(err)
		out.Disk = &id
		return out, touched
	}
	out = erased(&e, context.Cause(ctx))
	out.Disk = &id
	j.log.Info("erased", "disk", id.Path, "result", e.Result, "level", e.Level, "read", e.Check.Bytes, "mismatches", e.Check.Mismatches)
	return out, touched
}

// erased words an erasure as an outcome; stopped is why it was stopped, if it was.
func erased(e *wire.Erasure, stopped error) wire.Outcome {
	out := wire.Outcome{Result: wire.Failed, Phase: wire.PhaseErasing, Erasure: e}
	if e.Check.Kind != "" {
		out.Phase = wire.PhaseChecking
	}
	why := "" // the last step that failed says it best
	for _, s := range e.Steps {
		if s.Result == wire.Failed || s.Result == wire.Unknown || s.Method == "reading" {
			why = ": " + s.Method + ": " + s.Why
		}
	}
	const destroy = "if it happens again, take the disk out and destroy it"
	switch e.Result {
	case wire.Erased:
		return wire.Outcome{Result: wire.Done, Erasure: e}
	case wire.ErasedExceptions:
		out.Cause = "the disk was erased with exceptions: " + strings.Join(e.Exceptions, "; ")
		out.Next = "a coordinator decides whether that is enough or the disk is destroyed"
	case wire.NotErased:
		out.Cause, out.Next = "the disk was not erased"+why, "erase it again; "+destroy
		if e.Check.Mismatches > 0 {
			out.Cause = "the disk still holds something after it was erased"
		}
	default:
		out.Result = wire.Unknown
		out.Cause, out.Next = "nobody knows whether the disk is erased"+why, "leave it on for a while, then erase it again; "+destroy
	}
	if stopped != nil && e.Result != wire.ErasedExceptions {
		out.Cause, out.Next = refusalOf(stopped)
		out.Next = orElse(out.Next, "erase it again: nobody knows what is on the disk")
	}
	return out
}
