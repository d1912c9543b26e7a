package dashboard

import (
	"slices"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
	"refurb/images"
)

// Detail is the page of one device.
type Detail struct {
	Card
	Lead    bool
	Place   workshop.DeviceState
	Moves   []workshop.DeviceState
	Donor   string
	LotID   string
	Seen    time.Time
	Created time.Time
	Online  bool
	Again   bool // its next start images it
	Wait    bool // at its next start it waits
	CanWait bool // it may be asked to
	Known   bool // it has reported what is in it

	Worker    bool          // who looks may work at the bench
	CanWake   bool          // it is off, and its network card may switch it on
	NoWake    bool          // its network cards can't
	Choices   []StartChoice // for its next start
	StartWarn string        // id of what stands in the way of what is chosen

	JobID   string
	Running bool // its job can be cancelled
	CanAsk  bool // another imaging can be asked for
	Way     []WayStep
	Done    int64
	Total   int64
	Retries int
	Proof   *Proof
	Share   *Share
	Ask     []Ask
	Erases  bool // its job erases
	Erase   *EraseForm
	Erasure *Erasure // what its erasure came to
	Images  []Image  // what it can be imaged with
	Chosen  string   // root that is asked for now

	Facts    []FactGroup
	Disks    []DiskView
	Hidden   []string
	Gaps     []string
	Problems []string
	Jobs     []JobLine
}

// Share is how a device shares its data with others now.
type Share struct {
	From  []Bit
	Helps int
	To    []int // the numbers of the PCs
	Line  Say
	Slow  bool
}

// WayStep is one of the few steps that every job takes.
type WayStep struct {
	Word  string
	Icon  string
	Class string // "past", "here" or ""
}

// Proof is what a job did, with its numbers.
type Proof struct {
	Written, ReadBack, Fetched int64
	Rate                       int64
	Peers, Sent                int64 // bytes from and to other PCs
	Found                      int64 // bytes that were on the disk from an earlier attempt
	Mismatches                 int
	Took                       time.Duration
	Finish, Warnings           []string
	When                       time.Time
}

// JobLine is one earlier attempt.
type JobLine struct {
	Look
	When  time.Time
	Image string
	Why   Say
}

// detailOf shows one device to somebody of a role.
func detailOf(v workshop.DeviceDetail, lead bool) Detail {
	d := Detail{
		Card: cardOf(v.DeviceView), Lead: lead, Place: v.State, Moves: movesOf(v),
		Seen: v.Seen, Created: v.Created, Online: v.Online, Again: v.Again, Wait: v.Wait, Known: v.Report.BootID != "",
		Chosen: v.Image,
	}
	d.Silent = false // the page says it in words
	wakes := len(v.Wakable()) > 0
	d.CanWake, d.NoWake = inWork(v.State) && !v.Online && wakes, d.Known && !wakes
	d.Choices, d.StartWarn = choicesOf(v, lead), warnStart(v, v.Rescue)
	if f := v.Flow; f != nil {
		d.Share = &Share{From: sourceOf(f), Helps: len(f.To), To: bounded(f.To, 8), Slow: f.Slow != ""}
		if f.Of > 1 && f.Place > 0 {
			d.Share.Line = lineOf(f)
		}
	}
	if v.Lot != nil {
		d.Donor, d.LotID = clean(v.Lot.Donor, maxLine), v.Lot.ID
	}
	if j := v.Job; j != nil {
		d.JobID, d.Running = j.ID, j.State.Live()
		var phase wire.Phase
		if v.Progress != nil {
			phase = v.Progress.Phase
		}
		d.Way = wayOf(j, phase)
		d.Proof, d.Erasure, d.Erase = proofOf(j), erasureOf(j), eraseOf(v)
		d.Erases = j.Erase != nil
		if p := v.Progress; p != nil {
			d.Done, d.Total, d.Retries = p.Done, p.Total, p.Retries
		}
		for _, disk := range v.Candidates {
			d.Ask = append(d.Ask, askOf(j.ID, disk))
		}
	}
	switch s := jobState(v.Job); s {
	case workshop.Approved, workshop.Imaging, workshop.Verifying, workshop.Erasing:
	default:
		d.CanAsk = inWork(v.State)
		d.CanWait = v.Job != nil && !s.Live() && d.Erase == nil && !v.Wait && v.State != workshop.HandedOut
	}
	for i, j := range v.Jobs {
		if i > 0 && i <= 20 {
			line := JobLine{Look: eraseLook(&j, looks[j.State]), When: j.Changed, Why: english(j.Reason)}
			if j.Erase == nil {
				line.Image = clean(j.ImageName, maxLine)
			}
			d.Jobs = append(d.Jobs, line)
		}
	}
	rep := v.Report
	d.Facts = factsOf(rep, v.MACs)
	for _, disk := range bounded(rep.Disks, 64) {
		d.Disks = append(d.Disks, diskOf(disk))
	}
	d.Hidden, d.Problems = cleanAll(rep.HiddenStorage), cleanAll(rep.Problems)
	for _, g := range bounded(rep.Gaps, 64) {
		d.Gaps = append(d.Gaps, clean(g.What, maxLine)+" ("+clean(g.ID, maxLine)+"): "+clean(g.Reason, maxLine))
	}
	return d
}

// inWork reports whether a device may be worked on where it stands in the house.
func inWork(s workshop.DeviceState) bool {
	switch s {
	case workshop.Expected, workshop.Received, workshop.Ready, workshop.Returned:
		return true
	}
	return false
}

// movesOf lists where people may take a device now. The registry decides; what
// it would refuse anyway is not offered.
func movesOf(v workshop.DeviceDetail) []workshop.DeviceState {
	s := jobState(v.Job)
	if s.Running() {
		return nil
	}
	return slices.DeleteFunc(workshop.NextStates(v.State), func(to workshop.DeviceState) bool {
		gives := to == workshop.Ready || to == workshop.Reserved || to == workshop.HandedOut
		return gives && (!s.Proved() || v.Unfit != nil)
	})
}

func jobState(j *workshop.Job) workshop.JobState {
	if j == nil {
		return ""
	}
	return j.State
}

// wayOf shows how far a job came; phase is what its agent is at.
func wayOf(j *workshop.Job, phase wire.Phase) []WayStep {
	at := map[workshop.JobState]int{
		workshop.Booting: 0, workshop.Reported: 0, workshop.Held: 0, workshop.Approved: 1,
		workshop.Imaging: 1, workshop.Verifying: 2, workshop.Verified: 3, workshop.FirstBoot: 4,
		workshop.Erasing: 1, workshop.Erased: 3,
	}
	state := j.State
	ended := state == workshop.JobFailed || state == workshop.Cancelled || state == workshop.JobLost
	if ended {
		state = j.Before
	}
	here := at[state]
	steps := []WayStep{{Word: "way.report", Icon: "search"}, {Word: "way.write", Icon: "write"}, {Word: "way.verify", Icon: "verify"}, {Word: "way.first", Icon: "power"}}
	if j.Erase != nil {
		steps = []WayStep{{Word: "way.report", Icon: "search"}, {Word: "way.erase", Icon: "erase"}, {Word: "way.verify", Icon: "verify"}}
		if phase == wire.PhaseChecking && state == workshop.Erasing {
			here = 2
		}
	}
	for i := range steps {
		switch {
		case i < here:
			steps[i].Class, steps[i].Icon = "past", "check"
		case i == here:
			steps[i].Class = "here"
			if ended {
				steps[i].Icon = looks[j.State].Icon
			}
		}
	}
	return steps
}

func proofOf(j *workshop.Job) *Proof {
	o := j.Outcome
	if o == nil || j.Erase != nil {
		return nil
	}
	p := &Proof{
		Written: o.Written, ReadBack: o.ReadBack, Fetched: o.Fetched, Mismatches: o.Mismatches,
		Peers: o.FromPeers, Sent: o.Sent, Found: int64(o.Resumed) * images.FrameSize,
		Took: o.WriteTime + o.ReadTime, Finish: cleanAll(o.Finish), Warnings: cleanAll(o.Warnings), When: j.Changed,
	}
	if s := o.WriteTime.Seconds(); s > 0 {
		p.Rate = int64(float64(o.Raw) / s)
	}
	if p.Written+p.ReadBack == 0 && p.Took == 0 && len(p.Finish)+len(p.Warnings) == 0 {
		return nil
	}
	return p
}

func bounded[T any](s []T, n int) []T { return s[:min(n, len(s))] }

func cleanAll(s []string) (out []string) {
	for _, v := range bounded(s, 64) {
		if v = clean(v, maxNote); v != "" {
			out = append(out, v)
		}
	}
	return out
}
