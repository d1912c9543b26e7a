package dashboard

import (
	"strconv"
	"strings"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// DiskView is one disk of a device.
type DiskView struct {
	Path, Model, Serial string
	Bytes               int64
	Kind                string // message id
	Class               Look
	Means               string // message id: the class in a sentence
	Found               string
	InUse               string
	ReadOnly, Removable bool
	Health              HealthView
}

// classes say what a disk holds, never by colour alone.
var classes = map[wire.Class]Look{
	wire.ClassBlank:      {toneDone, "blank", "class.blank"},
	wire.ClassOurs:       {toneDone, "logo", "class.ours"},
	wire.ClassStructured: {toneHold, "pieces", "class.structured"},
	wire.ClassData:       {toneHold, "files", "class.data"},
	wire.ClassEncrypted:  {toneHold, "cipher", "class.encrypted"},
	wire.ClassLocked:     {toneHold, "lock", "class.locked"},
	wire.ClassUnreadable: {toneFail, "warn", "class.unreadable"},
}

// classOf shows a class; what can't be named counts as data.
func classOf(c wire.Class) Look {
	if l, ok := classes[c]; ok {
		return l
	}
	return classes[wire.ClassData]
}

// diskOf shows one disk.
func diskOf(d wire.Disk) DiskView {
	class := classOf(d.Class)
	v := DiskView{
		Path: clean(d.Path, maxLine), Model: clean(d.Model, maxLine), Serial: clean(d.Serial, maxLine), Bytes: d.Bytes,
		Kind: kindOf(d), Class: class, Means: class.Word + ".means",
		InUse: clean(d.InUse, maxLine), ReadOnly: d.ReadOnly, Removable: d.Removable, Health: healthOf(&d),
	}
	for i, f := range bounded(d.Found, 8) {
		if i > 0 {
			v.Found += ", "
		}
		v.Found += clean(f, 24)
	}
	return v
}

func kindOf(d wire.Disk) string {
	switch {
	case d.Transport == wire.TransportUSB:
		return "disk.usb"
	case d.Transport == wire.TransportNVMe:
		return "disk.nvme"
	case d.Transport == wire.TransportMMC:
		return "disk.mmc"
	case d.Transport == wire.TransportVirtio:
		return "disk.virtual"
	case d.Rotational:
		return "disk.hdd"
	}
	return "disk.ssd"
}

// HealthView is what a disk says of itself, judged.
type HealthView struct {
	Look
	Reasons []Say
	Facts   []Say
}

var healths = map[workshop.HealthState]Look{
	workshop.HealthGood:    {toneDone, "pulse", "health.good"},
	workshop.HealthWorn:    {toneHold, "pulse", "health.worn"},
	workshop.HealthFailing: {toneFail, "warn", "health.failing"},
	workshop.HealthUnknown: {toneIdle, "pulse", "health.unknown"},
}

func healthOf(d *wire.Disk) HealthView {
	verdict := workshop.DiskHealth(d)
	look, ok := healths[verdict.State]
	if !ok {
		look = healths[workshop.HealthUnknown]
	}
	v := HealthView{Look: look}
	for _, r := range bounded(verdict.Reasons, 8) {
		v.Reasons = append(v.Reasons, english(r))
	}
	h := d.Health
	if h == nil {
		return v
	}
	if h.Hours != nil {
		v.Facts = append(v.Facts, Say{ID: "health.hours", Pairs: []any{"N", strconv.FormatInt(*h.Hours, 10)}})
	}
	if h.PercentUsed != nil && verdict.State == workshop.HealthGood {
		v.Facts = append(v.Facts, Say{ID: "health.used", Pairs: []any{"N", strconv.FormatInt(*h.PercentUsed, 10)}})
	}
	if t := h.SelfTest; t != nil {
		switch t.State {
		case wire.TestPassed, wire.TestRunning, wire.TestAborted:
			v.Facts = append(v.Facts, Say{ID: "health.test." + t.State})
		}
	}
	return v
}

// tail is how many characters of a serial a person types.
const tail = 6

// Ask is one disk that a person has to name before it is overwritten or erased.
type Ask struct {
	DiskView
	Job   string
	Head  string // of the serial, up to what is to be typed
	Tail  string // what is to be typed
	ByDev bool   // the disk has no serial: its path is to be typed
}

func askOf(job string, d wire.Disk) Ask {
	a := Ask{Job: job, DiskView: diskOf(d)}
	// Cut before it is made short for the page: the registry asks for the end.
	serial := []rune(strings.TrimSpace(d.Serial))
	at := max(0, len(serial)-tail)
	a.Head, a.Tail = clean(string(serial[:at]), maxLine), clean(string(serial[at:]), maxLine)
	if len(serial) == 0 {
		a.ByDev, a.Tail = true, a.Path
	}
	return a
}

// EraseForm has a disk erased.
type EraseForm struct {
	Job    string // the newest one when the page was made
	Disks  []Ask
	Image  string        // that can be installed afterwards; empty: none
	Open   bool          // it may be what this PC waits for
	Full   time.Duration // that reading all of the largest disk takes, roughly
	AnyDev bool          // a disk has no serial number
}

// eraseOf offers what the registry would take.
func eraseOf(v workshop.DeviceDetail) *EraseForm {
	j := v.Job
	if j == nil || len(v.Erasable) == 0 {
		return nil
	}
	f := &EraseForm{Job: j.ID}
	for _, disk := range bounded(v.Erasable, 16) {
		a := askOf(j.ID, disk)
		f.AnyDev = f.AnyDev || a.ByDev
		f.Disks = append(f.Disks, a)
		f.Full = max(f.Full, readingOf(disk))
		if j.State == workshop.Held && !keeps(disk.Class) {
			f.Open = true
		}
	}
	if inWork(v.State) {
		f.Image = clean(j.ImageName, maxLine)
	}
	return f
}

// keeps reports whether a disk of a class may be imaged without a question, so
// that nobody is likely to want it erased.
func keeps(c wire.Class) bool { return c == wire.ClassBlank || c == wire.ClassOurs }

// readingOf guesses how long reading a disk takes, by its kind.
func readingOf(d wire.Disk) time.Duration {
	perSecond := int64(350e6)
	switch {
	case d.Transport == wire.TransportNVMe:
		perSecond = 1200e6
	case d.Transport == wire.TransportMMC:
		perSecond = 130e6
	case d.Rotational:
		perSecond = 120e6
	}
	return time.Duration(d.Bytes/perSecond) * time.Second
}

// Erasure is what an erasure came to.
type Erasure struct {
	Look
	Level      string // message id
	Steps      []EraseLine
	Read       int64
	Of         int64
	Check      string // message id
	Mismatches int
	Errors     int
	Exceptions []string
	Hidden     *wire.HiddenArea
	Took       time.Duration
}

// EraseLine is one rung of the ladder that was tried or passed over.
type EraseLine struct {
	Look
	Method, Command, Code, Why string
}

// eraseLooks word a result; all but the first are failures.
var eraseLooks = map[wire.ErasureResult]Look{
	wire.Erased:           {toneDone, "check", "state.erased"},
	wire.ErasedExceptions: {toneFail, "warn", "erase.exceptions"},
	wire.NotErased:        {toneFail, "cross", "erase.not"},
	wire.ErasureUnknown:   {toneFail, "ask", "erase.unknown"},
}

// eraseLook is how a job that erases looks before it begins and once it has
// ended: only the state that the registry gave it says erased, whatever the agent
// claims.
func eraseLook(j *workshop.Job, look Look) Look {
	switch {
	case j.Erase != nil && j.State == workshop.Approved:
		look.Word = "state.toerase"
		return look
	case j.Erase == nil || j.State != workshop.JobFailed && j.State != workshop.Cancelled:
		return look
	case j.Outcome != nil && j.Outcome.Erasure != nil && j.Outcome.Erasure.Result != wire.Erased:
		if l, ok := eraseLooks[j.Outcome.Erasure.Result]; ok {
			return l
		}
		return eraseLooks[wire.ErasureUnknown]
	case j.Before == workshop.Erasing: // cut off in the middle, or a claim without proof
		return eraseLooks[wire.ErasureUnknown]
	}
	return look
}

func erasureOf(j *workshop.Job) *Erasure {
	if j.Erase == nil || j.Outcome == nil || j.Outcome.Erasure == nil {
		return nil
	}
	e := j.Outcome.Erasure
	v := &Erasure{
		Look: eraseLook(j, looks[j.State]), Level: "erase.level.none",
		Read: e.Check.Bytes, Mismatches: int(e.Check.Mismatches), Errors: int(e.Check.Errors),
		Exceptions: cleanAll(e.Exceptions), Hidden: e.Hidden, Took: e.Ended.Sub(e.Started),
	}
	if j.Disk != nil {
		v.Of = j.Disk.Bytes
	}
	// How deep a way goes says nothing of a disk that it didn't reach everywhere.
	switch {
	case v.Look == eraseLooks[wire.ErasedExceptions]:
		v.Level = "erase.level.except"
	case j.State != workshop.Erased:
	case e.Level == wire.LevelClear, e.Level == wire.LevelPurge:
		v.Level = "erase.level." + string(e.Level)
	}
	switch e.Check.Kind {
	case wire.CheckFull, wire.CheckSample:
		v.Check = "erase.read." + string(e.Check.Kind)
	}
	for _, s := range bounded(e.Steps, 32) {
		l := EraseLine{Method: clean(s.Method, maxLine), Command: clean(s.Command, maxLine), Code: clean(s.Code, maxLine), Why: clean(s.Why, maxNote)}
		switch s.Result {
		case wire.Done:
			l.Look = Look{toneDone, "check", "erase.step.done"}
		case wire.Failed:
			l.Look = Look{toneFail, "cross", "erase.step.failed"}
		case "":
			l.Look = Look{toneIdle, "dash", "erase.step.passed"}
		default:
			l.Look = Look{toneFail, "ask", "erase.step.unknown"}
		}
		v.Steps = append(v.Steps, l)
	}
	return v
}
