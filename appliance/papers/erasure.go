package papers

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// ErasurePaper says how one medium was erased, or that it was not.
type ErasurePaper struct {
	Device   Device             `json:"device"`
	Job      string             `json:"job"`
	Medium   Medium             `json:"medium"`
	Result   wire.ErasureResult `json:"result"`
	Reasons  []string           `json:"reasons"` // why the result is not erased without exceptions
	Level    wire.Level         `json:"level"`
	Warnings []string           `json:"warnings"`
	Order    Order              `json:"order"`
	// Verifier is who read the medium afterwards: the program that erased it.
	Verifier string        `json:"verifier"`
	Erasure  *wire.Erasure `json:"erasure,omitempty"` // as the agent reported it; none: it never did
	History  []Step        `json:"history"`
	Evidence []string      `json:"evidence_sha256"`
	Basis    Basis         `json:"basis"`
}

// Medium is what was erased. Makers put their name into the model.
type Medium struct {
	wire.DiskID
	Firmware  string     `json:"firmware,omitempty"`
	Type      string     `json:"type"` // hdd, ssd, nvme, emmc, virtual, unknown
	Transport string     `json:"transport,omitempty"`
	Class     wire.Class `json:"class_before,omitempty"`
	Found     []string   `json:"signatures_before,omitempty"`
}

// flash keeps copies of what was written out of reach of any overwriting.
func (m Medium) flash() bool { return m.Type != "hdd" && m.Type != "virtual" }

// erases reports whether a job was one that erases, and came to it.
func erases(job []line) bool {
	return slices.ContainsFunc(job, func(l line) bool { return l.Kind == "job" && l.To == string(workshop.Erasing) })
}

// erasure makes the paper of one job that erased, whatever came of it.
func erasure(f facts, id string) (*ErasurePaper, error) {
	job := f.job(id)
	if !erases(job) {
		return nil, notFound("There is no erasure with this number")
	}
	p := &ErasurePaper{
		Job: id, Verifier: "agent", Result: wire.ErasureUnknown, Level: wire.LevelNone,
		Reasons: []string{}, Warnings: []string{}, Evidence: []string{},
	}
	var began, end line
	for _, l := range job {
		if l.Kind == "job" && l.To == string(workshop.Erasing) && began.seq == 0 {
			began = l
		}
		end = ending(end, l)
		if l.Evidence != "" && !slices.Contains(p.Evidence, l.Evidence) {
			p.Evidence = append(p.Evidence, l.Evidence)
		}
		p.History = append(p.History, stepOf(l))
		p.Basis = basisOf(f.device, l)
	}
	if end.seq == 0 {
		return nil, &workshop.Refusal{Kind: workshop.Conflict, Message: "This erasure has not ended", Next: "Wait for it; the PC's screen shows how far it is"}
	}
	rep, err := f.reportBefore(began.seq)
	if err != nil {
		return nil, err
	}
	p.Device = f.about(rep)
	p.Medium = Medium{DiskID: diskOf(began.Params), Type: "unknown"}
	if d := diskIn(rep, p.Medium.DiskID); d != nil {
		p.Medium.Firmware, p.Medium.Transport, p.Medium.Class, p.Medium.Found = d.Firmware, d.Transport, d.Class, d.Found
	}
	p.Order, _ = orderOf(job)
	var o wire.Outcome
	if end.Evidence != "" {
		if o, err = document[wire.Outcome](f, end); err != nil {
			return nil, err
		}
	}
	if p.Erasure = o.Erasure; p.Erasure != nil {
		if p.Medium.Type = p.Erasure.Medium; p.Medium.Type == "" {
			p.Medium.Type = "unknown"
		}
		if p.Medium.Transport == "" {
			p.Medium.Transport = p.Erasure.Transport
		}
	}
	p.judge(end, o)
	return p, nil
}

// ending follows a job's lines to the one that it stands at the end with; none
// while it runs. A lost job may go on, and has ended until it does.
func ending(end, l line) line {
	switch {
	case l.Kind == "late_outcome":
		return l
	case l.Kind != "job":
		return end
	}
	switch workshop.JobState(l.To) {
	case workshop.Erased, workshop.Verified, workshop.FirstBoot, workshop.JobFailed, workshop.Cancelled, workshop.JobLost:
		return l
	}
	return line{}
}

// judge says the result. It believes the agent's word only as far as its own
// numbers and the chain's line bear it out.
func (p *ErasurePaper) judge(end line, o wire.Outcome) {
	because := func(format string, a ...any) { p.Reasons = append(p.Reasons, fmt.Sprintf(format, a...)) }
	if end.Reason != "" {
		because("%s", workshop.Text(end.Reason))
	}
	e := p.Erasure
	if e == nil {
		because("The agent never reported how the erasure went: what is on the medium is not known")
		return
	}
	p.Level = level(e.Steps, p.Medium.flash())
	if p.Level != e.Level && e.Level != "" {
		p.Warnings = append(p.Warnings, fmt.Sprintf("The agent called the level %q. No step that it reports as done amounts to that on this medium.", e.Level))
	}
	if p.Level == wire.LevelClear && p.Medium.flash() {
		p.Warnings = append(p.Warnings, "This medium is flash, or may be, and what was done to it is Clear, not Purge: flash keeps spare blocks that this doesn’t reach for certain, and they may hold older data.")
	}
	p.Result = e.Result
	for _, x := range e.Exceptions {
		because("%s", x)
	}
	switch e.Result {
	case wire.NotErased, wire.ErasureUnknown:
		return
	case wire.Erased, wire.ErasedExceptions:
	default:
		p.Result = wire.ErasureUnknown
		because("The agent gave no result that is known")
		return
	}
	c := e.Check
	var doubt, gap string // the one leaves nothing of the claim, the other an exception
	switch {
	case o.Disk != nil && (o.Disk.Serial != p.Medium.Serial || o.Disk.Bytes != p.Medium.Bytes):
		doubt = "it names another disk than the one that was to be erased"
	case p.Level == wire.LevelNone:
		doubt = "no step that erases was reported as done"
	case c.Bytes <= 0:
		doubt = "nothing was read back"
	case c.Kind != wire.CheckFull && c.Kind != wire.CheckSample:
		doubt = "it doesn't say how it was read back"
	case c.Errors > 0:
		gap = "not everything could be read back"
	case c.Kind == wire.CheckFull && c.Bytes < p.Medium.Bytes:
		gap = "not all of it was read back"
	case e.Result == wire.Erased && end.To != string(workshop.Erased):
		gap = "the appliance did not accept it as done"
	}
	switch {
	case c.Mismatches > 0:
		p.Result = wire.NotErased
		because("%s that were read were not empty", count(c.Mismatches, "blocks"))
	case doubt != "", gap != "" && e.Result == wire.Erased:
		p.Result = wire.ErasureUnknown
		because("The agent reported success, but %s", doubt+gap)
	case gap != "":
		because("%s", strings.ToUpper(gap[:1])+gap[1:])
	}
}

// level is what the steps that were done amount to. On flash an overwrite through
// the plug is Clear at most (NIST SP 800-88 rev. 1, table A-8; one that the drive
// does by itself is another thing), and telling a disk that blocks are free is
// nothing at all.
func level(steps []wire.EraseStep, flash bool) wire.Level {
	got := wire.LevelNone
	for _, s := range steps {
		l, m := s.Level, strings.ToLower(s.Method)
		switch {
		case s.Result != wire.Done, strings.Contains(m, "discard"), strings.Contains(m, "trim"):
			continue
		case flash && strings.Contains(m, "overwrite") && !strings.Contains(m, "sanitize") && l == wire.LevelPurge:
			l = wire.LevelClear
		}
		if l == wire.LevelPurge || l == wire.LevelClear && got == wire.LevelNone {
			got = l
		}
	}
	return got
}

var verdicts = map[wire.ErasureResult]struct{ sign, text string }{
	wire.Erased:           {"✓", "Erased"},
	wire.ErasedExceptions: {"!", "Erased with exceptions"},
	wire.NotErased:        {"✗", "Not erased"},
	wire.ErasureUnknown:   {"?", "Unknown"},
}

var mediums = map[string]string{
	"hdd": "hard disk (magnetic)", "ssd": "solid-state disk (flash)", "nvme": "NVMe solid-state disk (flash)",
	"emmc": "eMMC or SD (flash)", "virtual": "virtual disk", "unknown": "unknown: treated as flash",
}

func (p *ErasurePaper) face() face {
	v := verdicts[p.Result]
	if v.text == "" {
		v = verdicts[wire.ErasureUnknown]
	}
	f := face{Title: "Erasure certificate", Sub: append([]string{nameOf(p.Medium.DiskID)}, p.Device.title()...), Sign: v.sign, Verdict: v.text}
	switch p.Result {
	case wire.Erased:
		f.Lead = "The medium below was erased and read back as described. " + levelText(p.Level)
	case wire.ErasedExceptions:
		f.Title = "Erasure record"
		f.Lead = "The medium below was erased, but for the exceptions listed, which may still hold data. Whether that is enough is for people to say."
	case wire.NotErased:
		f.Title = "Erasure record"
		f.Lead = "An erasure of the medium below was tried and did not succeed. Treat it as a medium that holds data."
	default:
		f.Title = "Erasure record"
		f.Lead = "An erasure of the medium below was begun, and nobody can say how it ended. Treat it as a medium that holds data."
	}
	f.Reasons = p.Reasons
	f.Warnings = p.Warnings
	m := section{Title: "The medium"}
	m.fact("Maker and model", or(p.Medium.Model, "not given by the medium"))
	m.code("Serial number", or(p.Medium.Serial, "none given by the medium"))
	m.code("WWN", p.Medium.WWN)
	m.fact("Size", exactBytes(p.Medium.Bytes))
	m.fact("Logical block", or(count(int64(p.Medium.LogicalBlock), "bytes"), "not known"))
	m.fact("Firmware", p.Medium.Firmware)
	m.fact("Media type", or(mediums[p.Medium.Type], p.Medium.Type))
	if p.Medium.Transport != "" {
		m.fact("Plug", busOf(p.Medium.Transport))
	}
	held := string(p.Medium.Class)
	if len(p.Medium.Found) > 0 {
		held += " (" + strings.Join(p.Medium.Found, ", ") + ")"
	}
	m.fact("Content before, by its signatures", held)
	f.add(m)
	f.add(p.Device.section())
	f.add(p.method()...)
	who := section{Title: "Who"}
	who.Facts = append(who.Facts, fact{Name: "Ordered by (operator)", Who: p.Order.By}, fact{Name: "Ordered at", Value: clock(p.Order.At)})
	who.fact("How it was confirmed", or(confirmed(p.Order), "not recorded"))
	who.fact("Verified by", "Refurb's agent, the program that erased it; no second person")
	f.add(who)
	f.history(p.History, p.Basis)
	f.Proves = []string{
		"These are the commands that were given, what the medium answered, and what was read from it afterwards, as the program recorded them at the time.",
	}
	if p.Result == wire.NotErased || p.Result == wire.ErasureUnknown {
		f.Proves = append(f.Proves, "It does not prove that anything was erased.")
	}
	f.Not = []string{
		"It doesn't show that the medium did what it answered: a completion code is the medium's own word.",
		"Reading shows what a medium gives out through its plug. Blocks that it has put aside or hides can't be read that way.",
		"“Clear” and “Purge” are used as in NIST SP 800-88 rev. 1. This paper claims no conformity with that or any other standard: it says what was done and what was read back.",
	}
	if e := p.Erasure; e != nil && e.Check.Kind == wire.CheckSample {
		f.Not = append(f.Not, fmt.Sprintf("Only samples were read, %s of %s. The seed above says which, so that anybody can read the same again.", bytesText(e.Check.Bytes), bytesText(p.Medium.Bytes)))
	}
	return f
}

func levelText(l wire.Level) string {
	switch l {
	case wire.LevelPurge:
		return "What was done amounts to Purge."
	case wire.LevelClear:
		return "What was done amounts to Clear."
	}
	return "What was done amounts to neither Clear nor Purge."
}

// method tells what was done, in the order it was done.
func (p *ErasurePaper) method() []section {
	e := p.Erasure
	if e == nil {
		return []section{{Title: "What was done", Notes: []string{"Not known: no report of it arrived."}}}
	}
	steps := section{Title: "What was done, in its order", Head: []string{"Step", "The medium's capability", "Command", "Answer", "Result", "Took"}}
	for _, s := range e.Steps {
		result := string(s.Result)
		if s.Result == "" {
			result = "passed over"
		}
		steps.Rows = append(steps.Rows, []cell{
			{Text: s.Method, Sub: levelName(s.Level)}, {Text: or(s.Bits, "–"), Code: true}, {Text: or(s.Command, "not given"), Code: s.Command != ""},
			{Text: or(s.Code, "–"), Code: true}, {Text: result, Sub: s.Why}, {Text: or(took(s.Started, s.Ended), "–")},
		})
	}
	if len(e.Steps) == 0 {
		steps.Notes = []string{"No step is recorded."}
	}
	how := section{Title: "Method"}
	name := "Level (Clear, Purge)"
	if p.Result != wire.Erased {
		name = "Level of what was reported as done"
	}
	how.fact(name, levelName(p.Level))
	how.fact("Tool", "Refurb's agent "+or(e.Tool, "of an unknown version"))
	how.fact("Started", clockOr(e.Started)+" (the PC's own clock)")
	how.fact("Ended", clockOr(e.Ended)+" (the PC's own clock)")
	c := e.Check
	check := section{Title: "What was read back"}
	switch c.Kind {
	case wire.CheckFull:
		check.fact("Method", "the whole medium, from end to end")
	case wire.CheckSample:
		check.fact("Method", "samples were read, at places chosen by the seed")
	default:
		check.fact("Method", "nothing was read back")
	}
	check.fact("Expected", c.Expect)
	check.code("Seed", c.Seed)
	part := share(c.Bytes, p.Medium.Bytes)
	if c.Errors > 0 && c.Bytes >= p.Medium.Bytes {
		part = ", but for what could not be read"
	}
	check.fact("Read", exactBytes(c.Bytes)+part)
	check.fact("Blocks that differed", count(c.Mismatches, ""))
	check.fact("Blocks that could not be read", count(c.Errors, ""))
	hidden := section{Title: "Hidden areas (HPA, DCO)"}
	if h := e.Hidden; h == nil {
		hidden.fact("Hidden areas", "not asked, or the medium knows none")
	} else {
		hidden.fact("Visible", exactBytes(h.Visible))
		hidden.fact("Native size (HPA)", known(h.Native))
		hidden.fact("Real size (DCO)", known(h.Real))
		hidden.fact("Note", h.Note)
	}
	sections := []section{how, steps, check, hidden}
	if s := abilities(e.Abilities); len(s.Facts) > 0 {
		sections = append(sections, s)
	}
	if e.Before != nil || e.After != nil {
		sections = append(sections, healthTable(e.Before, e.After))
	}
	return sections
}

// abilities prints the words in which the medium said what it can.
func abilities(a *wire.Abilities) section {
	s := section{Title: "What the medium says it can (as read)"}
	if a == nil {
		return s
	}
	word := func(name string, v *uint16) {
		if v != nil {
			s.code(name, fmt.Sprintf("%04Xh", *v))
		}
	}
	if a.NVMeSanitize != nil {
		s.code("NVMe SANICAP", fmt.Sprintf("%08Xh", *a.NVMeSanitize))
	}
	if a.NVMeFormat != nil {
		s.code("NVMe FNA", fmt.Sprintf("%02Xh", *a.NVMeFormat))
	}
	word("NVMe OACS", a.NVMeOACS)
	word("ATA word 59 (sanitize)", a.ATASanitize)
	word("ATA word 82 (commands)", a.ATACommands)
	word("ATA word 89 (erase time)", a.ATAMinutes)
	word("ATA word 90 (enhanced erase time)", a.ATAEnhanced)
	word("ATA word 128 (security)", a.ATASecurity)
	if a.NVMeNamespaces != nil {
		s.fact("NVMe namespaces", count(int64(*a.NVMeNamespaces), ""))
	}
	if a.SCSISanitize != nil {
		s.fact("SCSI SANITIZE", map[bool]string{true: "known to it", false: "not known to it"}[*a.SCSISanitize])
	}
	if a.SCSIActions != nil {
		s.code("SCSI SANITIZE, service actions", fmt.Sprintf("%02Xh", *a.SCSIActions))
	}
	s.fact("Not answered", a.Error)
	return s
}

func levelName(l wire.Level) string {
	switch l {
	case wire.LevelPurge:
		return "Purge"
	case wire.LevelClear:
		return "Clear"
	}
	return "neither"
}

// confirmed tells how the order was given.
func confirmed(o Order) string {
	switch {
	case o.Typed != "":
		return "“" + o.Typed + "” was typed from the disk's serial number or path; valid ten minutes, for this disk and this start"
	case strings.HasPrefix(o.By, "lot:"):
		return "by the lot's standing approval, which covers blank disks and our own"
	case o.By != "":
		return "asked for on the device's page; the disk was blank or our own"
	}
	return ""
}

func known(n int64) string {
	if n <= 0 {
		return "not known"
	}
	return exactBytes(n)
}

func took(from, to time.Time) string {
	if from.IsZero() || to.Before(from) {
		return ""
	}
	return span(to.Sub(from))
}

// healthTable puts what a medium said of itself before beside after.
func healthTable(before, after *wire.Health) section {
	s := section{Title: "What the medium says of its health", Head: []string{"", "Before", "After"}}
	b, a := healthFacts(before), healthFacts(after)
	for i := range b {
		if b[i].Value != "–" || a[i].Value != "–" {
			s.Rows = append(s.Rows, []cell{{Text: b[i].Name}, {Text: b[i].Value}, {Text: a[i].Value}})
		}
	}
	return s
}

func healthFacts(h *wire.Health) []fact {
	if h == nil {
		h = &wire.Health{Error: "not asked"}
	}
	n := func(v *int64, unit string) string {
		if v == nil {
			return "–"
		}
		return count(*v, unit)
	}
	passed := "–"
	if h.Passed != nil {
		if passed = "failing"; *h.Passed {
			passed = "passed"
		}
	}
	test := "–"
	if h.SelfTest != nil {
		test = strings.TrimSpace(h.SelfTest.State + " " + h.SelfTest.Text)
	}
	return []fact{
		{Name: "Source", Value: or(h.Source, "–")}, {Name: "Not answered", Value: or(h.Error, "–")}, {Name: "Its own verdict", Value: passed},
		{Name: "Power-on hours", Value: n(h.Hours, "")}, {Name: "Power cycles", Value: n(h.Cycles, "")}, {Name: "Reallocated sectors", Value: n(h.Reallocated, "")},
		{Name: "Pending sectors", Value: n(h.Pending, "")}, {Name: "Uncorrectable sectors", Value: n(h.Uncorrectable, "")}, {Name: "Life used", Value: n(h.PercentUsed, "%")},
		{Name: "Spare left", Value: n(h.Spare, "%")}, {Name: "Media errors", Value: n(h.MediaErrors, "")}, {Name: "Temperature", Value: n(h.Temperature, "°C")},
		{Name: "Last self-test", Value: test},
	}
}
