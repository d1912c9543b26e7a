package dashboard

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"refurb/appliance/trace"
	"refurb/appliance/workshop"
)

const (
	openFor   = 2 * time.Hour    // a start that stopped longer ago is nobody's worry now
	quietFor  = 3 * time.Minute  // a start that says nothing and has no finding
	otherFor  = 15 * time.Minute // another DHCP server was seen so lately
	maxStarts = 60               // cards on the page
	maxOthers = 30
	startTick = 2 * time.Second // findings come with time, too
)

// Starts is the page of PCs that start from the network.
type Starts struct {
	Groups []StartGroup
	Others []StartCard // devices that only ask for an address
	Server string      // another DHCP server on a network that should be ours
	Proxy  bool
	Open   int // PCs that don't start
	More   int
}

// StartGroup is one section of it.
type StartGroup struct {
	Title string // message id
	Cards []StartCard
}

// StartCard is one start of one PC. All text in it is clean.
type StartCard struct {
	Key      string // unique on its page, and good for an id
	Number   int
	Device   string // id; empty when nobody knows the PC
	Model    string
	MACs     []string
	Firmware string
	Look
	Steps    []StartStep
	Began    time.Time
	Last     time.Time
	Findings []StartFinding
	LastTime *StartFinding // why the start before it stopped, while nothing is said of this one
	Lines    []string
	Dropped  int
}

// StartStep is a stage of a start.
type StartStep struct {
	Word, Icon string
	Class      string // "past", "here", "stuck" or ""
}

// StartFinding is what is wrong and what to do.
type StartFinding struct {
	Tone        Tone
	Icon        string
	Cause, Next Say
	Evidence    []string
}

var stageLooks = map[trace.Stage]StartStep{
	trace.Firmware:  {Word: "trace.stage.firmware", Icon: "power"},
	trace.Loader:    {Word: "trace.stage.loader", Icon: "down"},
	trace.Script:    {Word: "trace.stage.script", Icon: "files"},
	trace.Kernel:    {Word: "trace.stage.kernel", Icon: "chip"},
	trace.Initramfs: {Word: "trace.stage.initramfs", Icon: "box"},
	trace.Agent:     {Word: "trace.stage.hello", Icon: "check2"},
	trace.Disk:      {Word: "trace.stage.disk", Icon: "disk"},
}

var severityLooks = map[trace.Severity]Look{
	trace.Failure: {toneFail, "cross", ""},
	trace.Warning: {toneHold, "warn", ""},
	trace.Note:    {toneIdle, "eye", ""},
}

// startOf shows one start; before is the PC's start before it, or nil.
func startOf(s, before *trace.Start, now time.Time) StartCard {
	found := trace.Diagnose(s, now)
	c := StartCard{
		Key: strings.NewReplacer(".", "-", ":", "-").Replace(s.ID), Number: s.Number, Device: s.Device, Firmware: s.Firmware(),
		Began: s.Began, Last: s.Last, Dropped: s.Dropped,
	}
	for _, m := range s.MACs {
		c.MACs = append(c.MACs, clean(m, maxLine))
	}
	for i := range s.Lines {
		c.Lines = append(c.Lines, clean(s.Lines[i].Text(), maxNote))
	}
	for _, f := range found {
		c.Findings = append(c.Findings, findingOf(f))
	}
	c.Look = startLook(s, found, now)
	if trace.Netbooting(s) {
		for _, st := range trace.Chain(s, found) {
			step := stageLooks[st.Stage]
			switch st.Standing {
			case trace.Past:
				step.Class = "past"
			case trace.Here:
				step.Class = "here"
			case trace.Stuck:
				step.Class, step.Icon = "stuck", "cross"
			}
			c.Steps = append(c.Steps, step)
		}
	}
	if before != nil && len(found) == 0 && c.Tone == toneRun {
		if was := trace.Diagnose(before, now); len(was) > 0 && was[0].Severity == trace.Failure {
			f := findingOf(was[0])
			c.LastTime = &f
		}
	}
	return c
}

func startLook(s *trace.Start, found []trace.Finding, now time.Time) Look {
	steps := trace.Chain(s, found)
	last := steps[len(steps)-1]
	switch {
	case !trace.Netbooting(s):
		return Look{toneIdle, "nic", "trace.is.other"}
	case len(found) > 0 && found[0].Severity == trace.Failure:
		return Look{toneFail, "cross", "trace.is.stopped"}
	case last.Stage == trace.Agent && last.Standing == trace.Past:
		return Look{toneDone, "check", "trace.is.arrived"}
	case last.Stage == trace.Disk && last.Standing >= trace.Here:
		return Look{toneDone, "disk", "trace.is.disk"}
	case !s.Again.IsZero() || now.Sub(s.Last) > quietFor:
		return Look{toneIdle, "dash", "trace.is.quiet"}
	}
	return Look{toneRun, "play", "trace.is.running"}
}

func findingOf(f trace.Finding) StartFinding {
	look := severityLooks[f.Severity]
	var pairs []any
	for k, v := range f.With {
		pairs = append(pairs, k, clean(v, maxNote))
	}
	g := StartFinding{
		Tone: look.Tone, Icon: look.Icon,
		Cause: Say{ID: "trace.cause." + f.ID, Pairs: pairs}, Next: Say{ID: "trace.next." + f.ID, Pairs: pairs},
	}
	for _, e := range f.Evidence {
		g.Evidence = append(g.Evidence, clean(e, maxNote))
	}
	return g
}

// known gives a card the number and the model that the records have of the PC.
func (c *StartCard) known(v *workshop.View) {
	for i := range v.Devices {
		d := &v.Devices[i]
		if d.ID == c.Device || c.Device == "" && slices.ContainsFunc(c.MACs, func(m string) bool { return slices.Contains(d.MACs, m) }) {
			c.Device, c.Number, c.Model = d.ID, d.Number, modelOf(d.Report.Identity)
			return
		}
	}
}

// startsOf sorts what is kept, newest first, into what people look for.
func startsOf(starts []*trace.Start, house []trace.Line, mode string, v workshop.View, now time.Time) Starts {
	groups := []StartGroup{{Title: "trace.group.stopped"}, {Title: "trace.group.running"}, {Title: "trace.group.arrived"}, {Title: "trace.group.earlier"}}
	p := Starts{Proxy: mode == "proxy"}
	shown := 0
	for _, s := range starts {
		if !s.Again.IsZero() {
			continue
		}
		c := startOf(s, beforeOf(s, starts), now)
		if len(c.Steps) == 0 {
			if len(p.Others) < maxOthers {
				c.known(&v)
				p.Others = append(p.Others, c)
			}
			continue
		}
		at := 3
		switch {
		case c.Tone == toneFail && now.Sub(s.Last) < openFor:
			at = 0
			p.Open++
		case c.Tone == toneRun:
			at = 1
		case c.Tone == toneDone && now.Sub(s.Last) < openFor:
			at = 2
		}
		if shown++; shown > maxStarts {
			p.More++
			continue
		}
		c.known(&v)
		groups[at].Cards = append(groups[at].Cards, c)
	}
	for _, g := range groups {
		if len(g.Cards) > 0 {
			p.Groups = append(p.Groups, g)
		}
	}
	for _, l := range house {
		if l.Problem == "other" && !p.Proxy && now.Sub(l.End()) < otherFor {
			p.Server = clean(l.Server, maxLine)
		}
	}
	return p
}

// beforeOf is the start of the same PC before s; starts are newest first.
func beforeOf(s *trace.Start, starts []*trace.Start) *trace.Start {
	var found *trace.Start
	for _, o := range starts {
		if o != s && o.Began.Before(s.Began) && o.Has(s.MACs[0]) && (found == nil || found.Began.Before(o.Began)) {
			found = o
		}
	}
	return found
}

// openStarts counts the PCs that don't start now.
func (d *Dashboard) openStarts() (n int) {
	if d.cfg.Trace == nil {
		return 0
	}
	now := time.Now()
	for _, s := range d.cfg.Trace.Starts() {
		if s.Again.IsZero() && now.Sub(s.Last) < openFor {
			if found := trace.Diagnose(s, now); len(found) > 0 && found[0].Severity == trace.Failure {
				n++
			}
		}
	}
	return n
}

// deviceStarts are the last starts of one device.
func (d *Dashboard) deviceStarts(id string, macs []string) []StartCard {
	if d.cfg.Trace == nil {
		return nil
	}
	const most = 3
	all := d.cfg.Trace.Starts()
	mine := slices.DeleteFunc(slices.Clone(all), func(s *trace.Start) bool {
		return s.Device != id && !(s.Device == "" && slices.ContainsFunc(macs, s.Has)) || !trace.Netbooting(s)
	})
	slices.SortFunc(mine, func(a, b *trace.Start) int { return cmp.Or(b.Began.Compare(a.Began), strings.Compare(a.ID, b.ID)) })
	var cards []StartCard
	for _, s := range mine[:min(len(mine), most)] {
		cards = append(cards, startOf(s, nil, time.Now()))
	}
	return cards
}

func (d *Dashboard) startsNow() Starts {
	if d.cfg.Trace == nil {
		return Starts{}
	}
	return startsOf(d.cfg.Trace.Starts(), d.cfg.Trace.House(), d.cfg.Trace.Mode(), d.cfg.Registry.View(), time.Now())
}

func (d *Dashboard) starts(c echo.Context) error {
	return d.render(c, http.StatusOK, "starts", page{Title: "trace.title", Nav: "bench", Live: true, Body: d.startsNow()})
}

func (d *Dashboard) startsStream(c echo.Context) error {
	w := d.langs.of(c.Request())
	var seen startsSeen
	return d.follow(c, func(*workshop.Update) (string, error) { return seen.show(d.pages, w, d.startsNow()) },
		d.traceWakes(c.Request().Context(), streamPause))
}

// traceWakes tells when starts may look another way: something was seen, or
// time has gone by.
func (d *Dashboard) traceWakes(ctx context.Context, pause time.Duration) <-chan struct{} {
	if d.cfg.Trace == nil {
		return nil
	}
	changes, out := d.cfg.Trace.Changes(ctx), make(chan struct{}, 1)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-changes:
			case <-time.After(startTick):
			}
			select {
			case out <- struct{}{}:
			default:
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}()
	return out
}

// startsSeen is what one browser shows of the page.
type startsSeen struct {
	shape string
	cards map[string]string
}

// show returns the cards that differ, or the whole list when its order does.
func (s *startsSeen) show(p *pages, w *words, v Starts) (string, error) {
	var shape, changed, all strings.Builder
	cards := map[string]string{}
	fmt.Fprint(&shape, v.Server, v.Proxy, v.Open, v.More)
	each := func(list []StartCard) error {
		for _, c := range list {
			var b strings.Builder
			if err := p.write(&b, w, "start-card", c); err != nil {
				return err
			}
			cards[c.Key] = b.String()
			fmt.Fprintf(&shape, "%s,", c.Key)
			if s.cards[c.Key] != b.String() {
				changed.WriteString(b.String())
			}
		}
		return nil
	}
	for _, g := range v.Groups {
		fmt.Fprintf(&shape, "/%s:", g.Title)
		if err := each(g.Cards); err != nil {
			return "", err
		}
	}
	shape.WriteString("/others:")
	if err := each(v.Others); err != nil {
		return "", err
	}
	same := s.shape == shape.String()
	s.shape, s.cards = shape.String(), cards
	if same {
		return changed.String(), nil
	}
	err := p.write(&all, w, "starts-live", v)
	return all.String(), err
}
