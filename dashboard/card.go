package dashboard

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
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

// fixed are sentences that the appliance writes in English and that mean the
// same every time, so that they can be said in any language.
var fixed = map[string]string{
	"its spare memory is nearly used up":                                           "health.why.spareless",
	"it has had so many errors that it can't be relied upon":                       "health.why.errors",
	"it can only be read any more":                                                 "health.why.readonly",
	"its protection against power cuts is broken":                                  "health.why.power",
	"it is too hot or too cold":                                                    "health.why.heat",
	"a part of its memory is unreliable":                                           "health.why.region",
	"it gives a warning of a kind that isn't known here":                           "health.why.other",
	"it says itself that it fails":                                                 "health.why.says",
	"its last self-test failed":                                                    "health.why.selftest",
	"it has lost data before":                                                      "health.why.lost",
	"it has outlived what its maker promises":                                      "health.why.outlived",
	"No lot is open":                                                               "why.lot",
	"No image is chosen":                                                           "why.image",
	"This disk holds something":                                                    "why.holds",
	"The disk is blank and waits for approval":                                     "why.blank",
	"The PC restarted before its disk was finished":                                "why.restart",
	"The approval has expired after ten minutes":                                   "why.expired",
	"The approved disk is no longer there":                                         "why.diskgone",
	"The approved disk now holds something else":                                   "why.diskchanged",
	"Cancelled on the dashboard":                                                   "why.cancelled",
	"No disk was found in this PC":                                                 "why.nodisk",
	"The PC answers again":                                                         "why.answers",
	"Put a disk in, or check its cable, and ask for imaging again":                 "next.nodisk",
	"Put an internal disk in and ask for imaging again":                            "next.internal",
	"To image this PC after all, ask for it on the device page":                    "next.again",
	"To image this PC again, ask for it on the device page":                        "next.again",
	"Ask for imaging again; if it happens twice, put the PC aside":                 "next.twice",
	"Look what happened and approve the disk on the device page":                   "next.approve",
	"Approve it on the device page":                                                "next.approve",
	"What was typed doesn't match the disk":                                        "why.typed",
	"Type the last six characters of the disk's serial number":                     "ask.type",
	"The PC doesn't answer":                                                        "why.lost",
	"Switch it on and wait until it shows its number":                              "next.on",
	"This job doesn't wait for an approval":                                        "approve.old",
	"Look at the device page again":                                                "approve.old.next",
	"Close it first":                                                               "next.close",
	"This PC is being imaged":                                                      "why.working",
	"This PC is being erased":                                                      "why.erasing",
	"This PC is on":                                                                "why.on",
	"This PC can't be switched on over the network":                                "wake.not",
	"Press its button":                                                             "next.button",
	"It was switched on a moment ago":                                              "why.woken",
	"Give it half a minute to start":                                               "next.woken",
	"No PC of this lot waits to be switched on":                                    "why.nonewait",
	"Choose what it is to do at its next start first":                              "next.choosestart",
	"A job of this PC waits or runs":                                               "why.jobruns",
	"The PC is not waiting":                                                        "why.notwaiting",
	"This PC starts the agent as it is":                                            "why.startsanyway",
	"Nothing is asked for at the next start":                                       "why.nothingasked",
	"It was asked for together with the erasing":                                   "why.together",
	"The disk that was imaged is no longer in this PC":                             "why.imagedgone",
	"PCs were turned away and nobody says why":                                     "why.refused",
	"The disk was erased with exceptions":                                          "why.exceptions",
	"The disk was not erased":                                                      "why.noterased",
	"Nobody knows whether the disk is erased":                                      "why.eraseunknown",
	"The PC restarted while its disk was being erased: nobody knows what is on it": "why.erasecut",
	"Erase it again; if it happens twice, take the disk out and destroy it":        "next.erasetwice",
	"Erase it, or take it out and start the PC from the network once":              "next.eraseortake",
	"Ask for erasing again on the device page":                                     "next.eraseagain",
	"Ask for it to wait, start it, and come back when it shows its number":         "next.askwait",
	"Approve it again on the device page":                                          "next.approve",
	"Choose one of the disks on the device page":                                   "next.several",
	"erase it again; if it happens again, take the disk out and destroy it":        "next.erasetwice",
	"leave it on for a while, then erase it again; if it happens again, take the disk out and destroy it": "next.eraselater",
	"a coordinator decides whether that is enough or the disk is destroyed":                               "next.exceptions",
	"erase it again: nobody knows what is on the disk":                                                    "next.eraseunknown",
	"ask for erasing again on the dashboard: nobody knows what is on the disk":                            "next.eraseunknown",
	"start this PC again from the network":                                                                "next.start",
	"Put another disk in":                                                                                 "next.otherdisk",
	"Put it back, or image the PC again":                                                                  "next.putback",
	"Wait until it is done, or cancel it":                                                                 "next.wait",
	"This step needs a reason":                                                                            "why.reason",
	"Say why in a few words":                                                                              "next.reason",
	"The disk of this PC has not been written and read back":                                              "why.unproven",
	"Image it first": "next.install",
	"what was read back from the disk is not what was written to it": "why.lies",
	"the disk failed": "why.diskfailed",
	"the disk isn't as large as it says, or doesn't keep what is written to it":         "why.fake",
	"the disk's own self-test failed":                                                   "why.selftest",
	"the image on the appliance is damaged":                                             "why.imagebad",
	"the image on the appliance is damaged, or this PC's memory":                        "why.imageormemory",
	"look at the network cable, the switch and the appliance, then start this PC again": "next.cable",
	"It is not known whether this PC has a disk":                                        "why.diskhidden",
	"This PC has no disk that may be written":                                           "why.nowritable",
	"put another disk in":                                                               "next.otherdisk.again",
	"put another disk in: this one can't be trusted":                                    "next.untrusted",
	"check the image on the dashboard, or import it again":                              "next.reimport",
	"if other PCs get this image, test the memory of this one; otherwise check the image on the dashboard, or import it again": "next.memoryorimage",
	"Put another disk in, or choose another image, and ask for imaging again":                                                  "next.largerdisk",
	"In the firmware setup set the controller to AHCI and ask for imaging again":                                               "next.ahci",
	"Put it back and start this PC from the network once, or image it again":                                                   "next.putbackstart",
	"Image it again": "next.installagain",
	"One of them has left the house and the other is here: one PC can't be in two places":     "why.merge.away",
	"A job waits or runs under both numbers":                                                  "why.merge.both",
	"Both have left the house: that makes two PCs":                                            "why.merge.gone",
	"The number that would go was worked on after the job under the one that stays had begun": "why.merge.later",
	"If one of them came back or was never there, move it first":                              "next.merge.back",
	"Cancel that job first": "next.merge.cancel",
	"Keep that number instead, wait until the job is done, or cancel it": "next.merge.keep",
	"Keep the other number, or move this one to received first":          "next.merge.other",
	"Wait until one of them is done, or cancel it":                       "next.merge.wait",
}

// counted are sentences with one number in them, which stands here as #, or one
// that is written out.
var counted = map[string]string{
	"only # % of its spare memory is left":            "health.why.spare",
	"# % of its life is used":                         "health.why.life",
	"# sectors can't be read":                         "health.why.unreadable",
	"# sectors had to be replaced":                    "health.why.replaced",
	"A job waits or runs under number #":              "why.merge.job",
	"Number # is not in the house by its record":      "why.merge.out",
	"The disk that was imaged was seen in PC # since": "why.elsewhere",
	"one sector can't be read":                        "health.why.unreadable",
	"one sector had to be replaced":                   "health.why.replaced",
	"more than a million sectors can't be read":       "health.why.manyunreadable",
	"more than a million sectors had to be replaced":  "health.why.manyreplaced",
}

// english is a sentence of the appliance or of an agent.
func english(s string) Say {
	s = clean(s, maxNote)
	if id := fixed[s]; id != "" {
		return Say{ID: id}
	}
	if head, tail, ok := strings.Cut(s, ": "); ok && fixed[head] != "" {
		return Say{ID: fixed[head], Text: tail}
	}
	if m := noBytes.FindStringSubmatch(s); m != nil {
		return Say{ID: "why.nobytes", Text: m[1]}
	}
	if m := tooSmall.FindStringSubmatch(s); m != nil {
		return Say{ID: "why.small", Pairs: []any{"Disk", m[1], "Has", m[2], "Needs", m[3]}}
	}
	number := digits.FindString(s)
	id := counted[strings.Replace(s, number, "#", min(len(number), 1))]
	n, err := strconv.Atoi(number)
	switch {
	case id == "" || number != "" && err != nil:
		return Say{Text: s}
	case number == "":
		n = 1
	}
	say := Say{ID: id, Pairs: []any{"N", n}}
	if strings.Contains(s, "sector") {
		say.Count = n
	}
	return say
}

// Sentences with words in them that are different each time.
var (
	noBytes  = regexp.MustCompile(`^no byte of the image came for [0-9hms]+: (.+)$`)
	tooSmall = regexp.MustCompile(`^The disk (\S+) is too small: it has ([^;]+), the image needs ([^;]+)$`)
)

var digits = regexp.MustCompile(`[0-9]+`)

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
