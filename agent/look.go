package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"refurb/agent/disk"
	"refurb/agent/hardware"
	"refurb/agent/wire"
)

// A PC that waits looks whether disks come and go, and reports anew when they
// do. The appliance takes 32 reports of one boot.
const (
	lookEvery = 3 * time.Second
	lookPause = 10 * time.Second // between two reports
	maxLooks  = 16
)

var errDisks = errors.New("a disk has come or gone")

// disks is what a PC remembers of its disks for as long as it runs.
type disks struct {
	present []string          // as they were when they were last looked at
	first   map[string]uint64 // by path: which disk a person saw there first
	looks   int
	looked  time.Time
}

// lookAgain makes the report anew and gives the appliance's answer to it.
func (a *agent) lookAgain(ctx context.Context) (wire.Plan, error) {
	a.disks.looks++
	a.log.Info("looking at the disks again")
	a.report = a.look(ctx)
	a.remember()
	return a.client.report(ctx, a.report)
}

// remember notes which disks the report is about.
func (a *agent) remember() {
	a.disks.looked = time.Now()
	if a.disks.present == nil && a.present != nil {
		a.disks.present = a.present()
	}
	if a.disks.first == nil {
		a.disks.first = map[string]uint64{}
	}
	for _, d := range a.report.Disks {
		n, ok := hardware.Sequence("/", d.Path)
		if _, known := a.disks.first[d.Path]; ok && !known {
			a.disks.first[d.Path] = n
		}
	}
}

// unmistakable refuses a disk of which nothing but its place says that it is the
// approved one, when another one may have taken that place since: one without a
// number, or with the number of another disk of this PC.
func (j *job) unmistakable(d Disk) error {
	id := d.ID()
	twin := slices.ContainsFunc(j.report.Disks, func(o wire.Disk) bool { return o.Path != id.Path && same(o.DiskID, id) })
	if !twin && (id.Serial != "" || id.WWN != "") {
		return nil
	}
	n, ok := hardware.Sequence("/", id.Path)
	if first, known := j.disks.first[id.Path]; ok && known && n != first {
		return &disk.Refusal{Message: id.Path + " has no serial number of its own, and was taken out and put in again or is another disk",
			Next: "start this PC again from the network, so that it reports anew"}
	}
	return nil
}

// same says that two disks differ in nothing but their place.
func same(a, b wire.DiskID) bool {
	a.Path, b.Path = "", ""
	return a == b
}

// next waits for another plan, or for a disk that comes or goes.
func (a *agent) next(ctx context.Context, have int64) (wire.Plan, error) {
	if a.present == nil {
		return a.client.plan(ctx, have)
	}
	polling, stop := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if a.disksChange(polling) {
			stop(errDisks)
		}
	}()
	plan, err := a.client.plan(polling, have)
	stop(nil)
	<-watched
	if ctx.Err() != nil || !errors.Is(context.Cause(polling), errDisks) {
		return plan, err
	}
	return a.lookAgain(ctx)
}

// disksChange waits until other disks are there than were looked at last, and
// for two looks in a row the same. It is false when ctx ends before.
func (a *agent) disksChange(ctx context.Context) bool {
	for now := a.present(); ; {
		if !pause(ctx, lookEvery) {
			return false
		}
		before := now
		now = a.present()
		if a.disks.looks < maxLooks && time.Since(a.disks.looked) >= lookPause &&
			slices.Equal(now, before) && !slices.Equal(now, a.disks.present) {
			a.disks.present = now
			return true
		}
	}
}
