package dashboard

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// Tone is a state's colour; it is the name of a class in the style sheet.
type Tone string

const (
	toneFail Tone = "fail"
	toneHold Tone = "hold"
	toneRun  Tone = "run"
	toneDone Tone = "done"
	toneIdle Tone = "idle"
)

// Group is a part of the bench, in the order in which people look.
type Group int

const (
	groupNeeds Group = iota // failed, lost or held: somebody has to come
	groupWork
	groupDone
	groupRest // nothing happens and nothing is wanted
)

// Look is how a state is shown: never by colour alone.
type Look struct {
	Tone Tone
	Icon string
	Word string // message id
}

var looks = map[workshop.JobState]Look{
	workshop.Booting:   {toneRun, "power", "state.booting"},
	workshop.Reported:  {toneRun, "search", "state.reported"},
	workshop.Held:      {toneHold, "hand", "state.held"},
	workshop.Approved:  {toneRun, "play", "state.approved"},
	workshop.Imaging:   {toneRun, "write", "state.imaging"},
	workshop.Verifying: {toneRun, "verify", "state.verifying"},
	workshop.Verified:  {toneDone, "check", "state.verified"},
	workshop.FirstBoot: {toneDone, "check2", "state.first_boot_seen"},
	workshop.Erasing:   {toneRun, "erase", "state.erasing"},
	workshop.Erased:    {toneDone, "check", "state.erased"},
	workshop.JobFailed: {toneFail, "cross", "state.failed"},
	workshop.Cancelled: {toneIdle, "dash", "state.cancelled"},
	workshop.JobLost:   {toneFail, "unplug", "state.lost"},
}

var lookNone = Look{toneIdle, "pc", "state.none"}
var lookFinishing = Look{toneRun, "finish", "state.finishing"}
var lookUnfit = Look{toneHold, "warn", "state.unfit"}
var lookChecking = Look{toneRun, "verify", "state.checking"}

// Card is one device as a list shows it. All text in it is clean.
type Card struct {
	ID     string
	Number int
	Model  string // empty: not known
	Look
	Group   Group
	Step    int // 1 writing or erasing, 2 reading back; 0: neither
	Percent int // -1: none
	Rate    int64
	Left    time.Duration
	Since   time.Time // when a step began that doesn't say how far it is
	Why     Say
	Next    Say
	Silent  bool // it should be talking and isn't
	Begun   bool // its progress is known
	Flow    []Bit
	Suspect bool // it passed damaged data on
	Image   string
	Start   Say // what was chosen for its next start
}

// Long says how wide the number is, so that its type shrinks: "", "long" or "longer".
func (c Card) Long() string {
	switch n := len(strconv.Itoa(c.Number)); {
	case n > 4:
		return "longer"
	case n > 3:
		return "long"
	}
	return ""
}

// Say is a sentence: a message of ours, or text that came in English.
type Say struct {
	ID    string
	Pairs []any
	Count int    // with ID: it is a plural of so many
	Text  string // with ID: a detail behind it, in English
}

func (s Say) Empty() bool { return s.ID == "" && s.Text == "" }

// cardOf shows one device.
func cardOf(v workshop.DeviceView) Card {
	c := Card{
		ID: v.ID, Number: v.Number, Model: modelOf(v.Report.Identity),
		Look: lookNone, Group: groupRest, Percent: -1, Start: nextStart(v.Rescue),
	}
	if v.Job == nil {
		return c
	}
	j := v.Job
	look, ok := looks[j.State]
	if !ok {
		look = lookNone
	}
	c.Look, c.Image = eraseLook(j, look), clean(j.ImageName, maxLine)
	c.Flow, c.Suspect = flowOf(v.Flow), j.Suspected
	switch j.State {
	case workshop.JobFailed, workshop.JobLost, workshop.Held:
		c.Group = groupNeeds
		c.Why, c.Next = whyOf(j), nextOf(j)
	case workshop.Verified, workshop.FirstBoot, workshop.Erased:
		c.Group = groupDone
		if no, ok := errors.AsType[*workshop.Refusal](v.Unfit); ok {
			c.Look, c.Group = lookUnfit, groupNeeds
			c.Why, c.Next = english(no.Message), english(no.Next)
		}
	case workshop.Cancelled:
		c.Why = whyOf(j)
		if c.Tone == toneFail { // cut off in the middle of erasing: nobody knows
			c.Group, c.Next = groupNeeds, nextOf(j)
		}
	default:
		c.Group = groupWork
		c.Silent = !v.Online && j.State != workshop.Booting
	}
	switch j.State {
	case workshop.Imaging:
		c.Step, c.Percent = 1, 0
	case workshop.Verifying:
		c.Step, c.Percent = 2, 0
	case workshop.Erasing:
		c.Step, c.Since, c.Begun = 1, j.Changed, true // some disks don't say how far they are
	}
	if p := v.Progress; p != nil && c.Step > 0 {
		c.Begun, c.Percent = true, percent(p.Done, p.Total)
		c.Rate = max(0, p.Rate)
		c.Left = v.ETA
		switch p.Phase {
		case wire.PhaseErasing, wire.PhaseChecking:
			if p.Phase == wire.PhaseChecking {
				c.Look, c.Step = lookChecking, 2
			}
			if p.Total <= 0 {
				c.Percent, c.Rate, c.Left = -1, 0, 0
			} else {
				c.Since = time.Time{}
			}
		case wire.PhaseVerifying:
			c.Step = 2
		case wire.PhaseFinishing:
			c.Look, c.Percent, c.Rate, c.Left = lookFinishing, -1, 0, 0
		}
	}
	return c
}

// percent rounds down: 100 is only shown when nothing is left.
func percent(done, total int64) int {
	if total <= 0 || done <= 0 {
		return 0
	}
	return int(100 * (float64(min(done, total)) / float64(total)))
}

// modelOf is what people call the PC. A filler is no name.
func modelOf(id wire.Identity) string {
	filler := func(field string) bool { return slices.Contains(id.Placeholders, field) }
	maker, model := clean(id.Manufacturer, maxLine/2), clean(id.Model, maxLine/2)
	if filler("manufacturer") {
		maker = ""
	}
	if filler("model") {
		model = ""
	}
	// "HP HP EliteDesk" helps nobody.
	if n := len(maker); n > 0 && len(model) > n && model[:n] == maker {
		return model
	}
	if maker == "" || model == "" {
		return maker + model
	}
	return maker + " " + model
}

// whyOf says why a job stands still, in the reader's language where the state
// says it all; the appliance's own English words carry the detail otherwise.
func whyOf(j *workshop.Job) Say {
	text := english(j.Reason)
	switch j.State {
	case workshop.JobLost:
		return Say{ID: "why.lost"}
	case workshop.Held:
		switch j.Hold {
		case workshop.HoldLot:
			return Say{ID: "why.lot"}
		case workshop.HoldImage:
			return Say{ID: "why.image"}
		case workshop.HoldSeveral:
			return Say{ID: "why.several"}
		case workshop.HoldSerial:
			return Say{ID: "why.serial"}
		case workshop.HoldRestart:
			return Say{ID: "why.restart"}
		case workshop.HoldApproval:
			if text.ID != "" && text.ID != "why.holds" {
				return text
			}
			switch j.Class {
			case wire.ClassBlank:
				return Say{ID: "why.blank"}
			case wire.ClassOurs:
				return Say{ID: "why.ours"}
			case wire.ClassStructured:
				return Say{ID: "why.structured"}
			case wire.ClassEncrypted:
				return Say{ID: "why.encrypted"}
			case wire.ClassLocked:
				return Say{ID: "why.locked"}
			case wire.ClassUnreadable:
				return Say{ID: "why.unreadable"}
			}
			return Say{ID: "why.data"}
		case workshop.HoldTwins:
			return Say{ID: "why.twins"}
		case workshop.HoldHidden:
			return Say{ID: "why.hidden"}
		case workshop.HoldHealth:
			return Say{ID: "why.health"}
		case workshop.HoldErased:
			return Say{ID: "why.erased"}
		case workshop.HoldAsked:
			return Say{ID: "why.asked"}
		}
	case workshop.JobFailed:
		if text.ID == "" {
			text.Text = sentence(text.Text)
		}
	}
	return text
}

// sentence begins with a capital letter; agents tell causes in the middle of one.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

func nextOf(j *workshop.Job) Say {
	switch {
	case j.State == workshop.JobLost:
		return Say{ID: "next.lost"}
	case j.State != workshop.Held:
	case j.Hold == workshop.HoldLot:
		return Say{ID: "next.lot"}
	case j.Hold == workshop.HoldImage:
		return Say{ID: "next.image"}
	case j.Hold == workshop.HoldSeveral:
		return Say{ID: "next.several"}
	case j.Hold == workshop.HoldTwins:
		return Say{ID: "next.twins"}
	case j.Hold == workshop.HoldHidden:
		return Say{ID: "next.hidden"}
	case j.Hold == workshop.HoldHealth:
		return Say{ID: "next.health"}
	case j.Hold == workshop.HoldErased:
		return Say{ID: "next.erased"}
	case j.Hold == workshop.HoldAsked:
		return Say{ID: "next.asked"}
	case j.Hold == workshop.HoldApproval && !keeps(j.Class):
		return Say{ID: "next.decide"}
	case j.Hold.Approvable():
		return Say{ID: "next.approve"}
	}
	next := english(j.Next)
	if next.ID == "next.start" && j.State == workshop.JobFailed && j.Erase == nil {
		// By itself it would start its own disk.
		return Say{ID: "next.retry"}
	}
	next.Text = sentence(next.Text)
	return next
}

// order of the bench: by group, failures before holds, then by number, so that
// a card moves only when its state does.
func order(a, b Card) int {
	return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(urgency(a), urgency(b)), cmp.Compare(a.Number, b.Number))
}

func urgency(c Card) int {
	if c.Group == groupNeeds && c.Tone == toneHold {
		return 1
	}
	return 0
}
