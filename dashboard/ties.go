package dashboard

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// Ties is what a device has to do with other records, as its page shows it.
type Ties struct {
	ID       string
	Lead     bool
	Doubts   []DoubtLine
	Records  []RecordLine
	CanSplit bool // there is something that can leave it
	Moves    []DiskMove
}

// DoubtLine is one that a person has to decide.
type DoubtLine struct {
	Kind   workshop.DoubtKind
	Say    Say
	Other  string // id of the other record
	Number int
	Split  bool // there may be two PCs in this record
}

// RecordLine is one that was merged into another.
type RecordLine struct {
	ID     string
	Number int
}

// DiskMove is a disk of a device that was elsewhere too, or is now.
type DiskMove struct {
	Key, Name string
	Twin      bool
	Stays     []StayLine
}

// StayLine is one time that a disk was in a device.
type StayLine struct {
	Device  string
	Number  int
	Here    bool // in the device of the page
	Now     bool
	Since   time.Time
	Until   time.Time // last seen there
	Jobs    []StayJob
	Unknown bool
}

// StayJob is what was done to a disk there.
type StayJob struct {
	Look
	When  time.Time
	Paper string // address; empty: there is none
}

// shares are what two PCs may have in common, in the reader's words.
var shares = map[string]string{
	"the SMBIOS UUID": "shares.uuid", "the system serial": "shares.system", "the board serial": "shares.board",
	"the chassis serial": "shares.chassis", "a network address": "shares.mac",
}

func tiesOf(w *words, v workshop.DeviceDetail, lead bool) Ties {
	t := Ties{ID: v.ID, Lead: lead, CanSplit: len(v.Faces) > 1}
	for _, d := range v.Doubts {
		l := DoubtLine{Kind: d.Kind, Other: d.Device, Number: d.Number, Split: d.Kind == workshop.DoubtTwins}
		switch d.Kind {
		case workshop.DoubtPartly:
			var list []string
			for s := range strings.SplitSeq(d.Shares, ", ") {
				if id := shares[s]; id != "" {
					list = append(list, w.T(id))
				}
			}
			l.Say = Say{ID: "doubt.partly", Pairs: []any{"N", d.Number, "Shares", strings.Join(list, w.T("list.comma"))}}
		case workshop.DoubtEqual:
			l.Say = Say{ID: "doubt.equal", Pairs: []any{"N", d.Number}}
		case workshop.DoubtTwins:
			l.Say = Say{ID: "doubt.twins"}
		case workshop.DoubtNobody:
			l.Say = Say{ID: "doubt.nobody"}
		default:
			continue
		}
		t.Doubts = append(t.Doubts, l)
	}
	for _, r := range v.Records {
		t.Records = append(t.Records, RecordLine{r.ID, r.Number})
		t.CanSplit = t.CanSplit || r.Direct
	}
	for _, d := range v.Followed {
		if m := moveOf(d, v.ID); slices.ContainsFunc(m.Stays, func(s StayLine) bool { return !s.Here || !s.Now }) {
			t.Moves = append(t.Moves, m)
		}
	}
	return t
}

// moveOf tells where a disk was; here is the device of the page, or none.
func moveOf(d workshop.DiskStory, here string) DiskMove {
	m := DiskMove{Key: d.Key, Name: nameOfDisk(d.Disk), Twin: d.Twin}
	for i, s := range bounded(d.Stays, 20) {
		if n := len(m.Stays); n > 0 && m.Stays[n-1].Device == s.Device { // taken out and put back
			m.Stays[n-1].Since = s.Since
			m.Stays[n-1].Jobs = append(m.Stays[n-1].Jobs, jobsOfStay(s.Jobs)...)
			continue
		}
		m.Stays = append(m.Stays, StayLine{Device: s.Device, Number: s.Number, Here: s.Device == here, Now: i == 0 && s.Gone.IsZero(), Since: s.Since, Until: s.Last, Jobs: jobsOfStay(s.Jobs)})
	}
	return m
}

func jobsOfStay(jobs []workshop.Job) (lines []StayJob) {
	for _, j := range bounded(jobs, 8) {
		l := StayJob{Look: eraseLook(&j, looks[j.State]), When: j.Changed}
		if !j.State.Live() {
			kind := "imaging"
			if j.Erase != nil {
				kind = "erasure"
			}
			l.Paper = "/papers/" + kind + "/" + j.ID
		}
		lines = append(lines, l)
	}
	return lines
}

func nameOfDisk(d wire.DiskID) string {
	return strings.TrimSpace(clean(d.Model, maxLine) + " " + clean(d.Serial, maxLine))
}

// DisksPage lists the disks that were seen.
type DisksPage struct {
	Find  string
	Disks []DiskLine
	More  int
	All   int
}

// DiskLine is one of them.
type DiskLine struct {
	Key, Model, Serial string
	Bytes              int64
	Class              Look
	DiskMove
}

func disksOf(all []workshop.DiskStory, find string) DisksPage {
	p := DisksPage{Find: clean(find, maxLine), All: len(all)}
	want := strings.ToLower(p.Find)
	for _, d := range all {
		l := DiskLine{Key: d.Key, Model: clean(d.Disk.Model, maxLine), Serial: clean(d.Disk.Serial, maxLine), Bytes: d.Disk.Bytes, Class: classOf(d.Class), DiskMove: moveOf(d, "")}
		if want != "" && !strings.Contains(strings.ToLower(l.Model+" "+l.Serial+" "+clean(d.Disk.WWN, maxLine)), want) {
			continue
		}
		if len(p.Disks) == maxLines {
			p.More++
			continue
		}
		p.Disks = append(p.Disks, l)
	}
	return p
}

func (d *Dashboard) disks(c echo.Context) error {
	return d.render(c, http.StatusOK, "disks", page{Title: "disks.title", Nav: "devices", Body: disksOf(d.cfg.Registry.Disks(), c.QueryParam("q"))})
}

func (d *Dashboard) disk(c echo.Context) error {
	v, ok := d.cfg.Registry.Disk(c.Param("key"))
	if !ok {
		return echo.ErrNotFound
	}
	body := disksOf([]workshop.DiskStory{v}, "").Disks[0]
	return d.render(c, http.StatusOK, "one-disk", page{Head: body.Name, Nav: "devices", Body: body})
}

// MergePage shows what would come of a merge.
type MergePage struct {
	ID, Other  string
	Keep, Gone MergeSide
	Jobs       int
	Place      workshop.DeviceState
	Donor      string
	Was        bool
	Refused    Say
	Next       Say
	Find       string
}

// MergeSide is one of the two records.
type MergeSide struct {
	Card
	Place workshop.DeviceState
	Rows  []SideRow
	Seen  time.Time
}

// SideRow is what one record says of its PC, and how much of that the other one
// says, too.
type SideRow struct {
	Name   string // message id
	Values []SideValue
}

// SideValue is one value of a record.
type SideValue struct {
	Text string
	Same bool
}

func sideOf(v, other workshop.DeviceView) MergeSide {
	s := MergeSide{Card: cardOf(v), Place: v.State, Seen: v.Seen}
	row := func(name string, mine, theirs []string) {
		r := SideRow{Name: name}
		for _, x := range mine {
			r.Values = append(r.Values, SideValue{x, slices.Contains(theirs, x)})
		}
		s.Rows = append(s.Rows, r)
	}
	disks := func(v workshop.DeviceView) (names []string) {
		for _, x := range bounded(v.Report.Disks, 8) {
			names = append(names, nameOfDisk(x.DiskID))
		}
		return names
	}
	row("fact.serial", cleanAll([]string{serialOf(v)}), cleanAll([]string{serialOf(other)}))
	row("fact.uuid", cleanAll([]string{v.Report.Identity.UUID}), cleanAll([]string{other.Report.Identity.UUID}))
	row("side.macs", cleanAll(v.MACs), cleanAll(other.MACs))
	row("in.disks", disks(v), disks(other))
	return s
}

// mergeForm asks which records are one PC and shows what would come of it.
func (d *Dashboard) mergeForm(c echo.Context) error {
	v, ok := d.cfg.Registry.Device(c.Param("id"))
	if !ok {
		return echo.ErrNotFound
	}
	find := strings.TrimLeft(strings.TrimSpace(clean(c.QueryParam("with"), maxLine)), "#0 ")
	other, ok := d.byNumber(find)
	if !ok || other == v.ID {
		return d.done(c, &refused{http.StatusNotFound, "merge.none", "merge.none.next"}, d.back(c), "")
	}
	keep, gone := v.ID, other
	if c.QueryParam("keep") == "other" {
		keep, gone = gone, keep
	}
	m, err := d.cfg.Registry.AsMerged(keep, gone)
	if err != nil {
		return d.done(c, err, d.back(c), "")
	}
	p := MergePage{ID: v.ID, Other: other, Keep: sideOf(m.Keep, m.Gone), Gone: sideOf(m.Gone, m.Keep), Jobs: m.Jobs, Place: m.State, Was: m.Was, Find: find}
	if l, ok := d.cfg.Registry.Lot(m.Lot); ok {
		p.Donor = clean(l.Donor, maxLine)
	}
	if m.Refused != nil {
		p.Refused, p.Next = english(m.Refused.Message), english(m.Refused.Next)
	}
	return d.render(c, http.StatusOK, "merge", page{Title: "merge.title", Nav: "devices", Body: p})
}

// byNumber finds a device by a number that it has or had.
func (d *Dashboard) byNumber(text string) (id string, ok bool) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return "", false
	}
	for _, v := range d.cfg.Registry.View().Devices {
		if v.Number == n || slices.Contains(v.Numbers, n) {
			return v.ID, true
		}
	}
	return "", false
}

func (d *Dashboard) merge(c echo.Context) error {
	keep, gone := clean(c.FormValue("keep"), maxLine), clean(c.FormValue("gone"), maxLine)
	if c.Param("id") != keep && c.Param("id") != gone {
		return echo.ErrNotFound
	}
	err := d.cfg.Registry.Merge(c.Request().Context(), actor(c), keep, gone, clean(c.FormValue("reason"), maxLine))
	to := "/devices/" + keep
	if err != nil {
		to = d.back(c)
	}
	return d.done(c, err, to, "merge.done")
}

// SplitPage asks what leaves a record.
type SplitPage struct {
	ID      string
	Number  int
	Records []RecordLine
	Faces   []FaceLine
}

// FaceLine is one way in which a record's PC has shown itself.
type FaceLine struct {
	ID            string
	Model, Serial string
	UUID          string
	MACs, Disks   []string
	First, Last   time.Time
	Turned        bool
}

func (d *Dashboard) splitForm(c echo.Context) error {
	v, ok := d.cfg.Registry.Device(c.Param("id"))
	if !ok {
		return echo.ErrNotFound
	}
	p := SplitPage{ID: v.ID, Number: v.Number}
	for _, r := range v.Records {
		if r.Direct {
			p.Records = append(p.Records, RecordLine{r.ID, r.Number})
		}
	}
	if len(v.Faces) > 1 {
		for _, f := range slices.Backward(v.Faces) {
			one := workshop.DeviceView{Device: workshop.Device{Report: wire.Report{Identity: f.Identity}}}
			l := FaceLine{ID: f.ID, Model: modelOf(f.Identity), Serial: serialOf(one), UUID: clean(f.Identity.UUID, maxLine), First: f.First, Last: f.Last, Turned: f.Turned}
			for _, n := range f.NICs {
				l.MACs = append(l.MACs, clean(n.MAC, maxLine))
			}
			for _, x := range f.Disks {
				l.Disks = append(l.Disks, nameOfDisk(x))
			}
			p.Faces = append(p.Faces, l)
		}
	}
	return d.render(c, http.StatusOK, "split", page{Title: "split.title", Nav: "devices", Body: p})
}

func (d *Dashboard) split(c echo.Context) error {
	p := workshop.Parting{Record: clean(c.FormValue("record"), maxLine)}
	for _, f := range bounded(c.Request().Form["face"], 16) {
		p.Faces = append(p.Faces, clean(f, maxLine))
	}
	id, err := d.cfg.Registry.Split(c.Request().Context(), actor(c), c.Param("id"), p, clean(c.FormValue("reason"), maxLine))
	if err != nil {
		return d.done(c, err, d.back(c), "")
	}
	v, _ := d.cfg.Registry.Device(id)
	return d.done(c, nil, d.back(c), "split.done", "N", v.Number)
}

// settle decides a doubt: two PCs, or one that it always was.
func (d *Dashboard) settle(c echo.Context) error {
	err := d.cfg.Registry.Decide(c.Request().Context(), actor(c), c.Param("id"), workshop.DoubtKind(clean(c.FormValue("doubt"), maxLine)), clean(c.FormValue("other"), maxLine), clean(c.FormValue("reason"), maxLine))
	return d.done(c, err, d.back(c), "doubt.done")
}
