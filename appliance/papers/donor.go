package papers

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// DonorPaper says what became of what a donor gave. It says nothing of the
// people who were given something.
type DonorPaper struct {
	Lot    string      `json:"lot"`
	Donor  string      `json:"donor"`
	Opened time.Time   `json:"opened"`
	Closed time.Time   `json:"closed,omitzero"`
	By     string      `json:"opened_by"`
	Counts Counts      `json:"counts"`
	Months []Month     `json:"handed_out_by_month"`
	Carbon []Carbon    `json:"co2e"`
	Other  int         `json:"co2e_not_counted"` // refurbished devices that no factor was found for
	Lines  []DonorLine `json:"devices"`
	Basis  Basis       `json:"basis"` // in the history of the house
	// Until is the time of the newest line, of any history, that this rests on.
	Until time.Time `json:"until"`
}

// Counts are devices unless they say media.
type Counts struct {
	Promised    *int `json:"promised,omitempty"` // none: not recorded
	Received    int  `json:"received"`
	Refused     int  `json:"refused"` // at the door and later
	NoStorage   int  `json:"without_data_on_arrival"`
	NotKnown    int  `json:"storage_not_known"`
	Media       int  `json:"data_bearing_media"` // that may hold data when first seen
	Erased      int  `json:"media_erased"`
	Exceptions  int  `json:"media_erased_with_exceptions"`
	NotErased   int  `json:"media_not_erased"` // tried, and not erased or unknown
	Untouched   int  `json:"media_not_tried"`  // or the first attempt still runs
	Refurbished int  `json:"refurbished"`
	HandedOut   int  `json:"handed_out"`
	Parts       int  `json:"parts"`
	Recycled    int  `json:"recycled"`
	Returned    int  `json:"returned_to_donor"`
	Lost        int  `json:"lost"`
}

// Month is how many were handed out in one. What could lead from a date to a
// person is not told: fewer than five are not counted out.
type Month struct {
	Month string `json:"month"` // "2026-11"
	Count string `json:"count"`
}

// DonorLine is one device.
type DonorLine struct {
	Device  Device     `json:"device"`
	State   string     `json:"state"`
	Storage string     `json:"storage_on_arrival"` // none, held data, unknown
	Papers  []PaperRef `json:"papers"`
	Basis   Basis      `json:"basis"` // where its history stood
}

// PaperRef names a paper by its fingerprint.
type PaperRef struct {
	Kind   Kind   `json:"kind"`
	ID     string `json:"id"`
	SHA256 string `json:"sha256"` // of its JSON file
	Result string `json:"result"`
}

// fewest is the least number that is told where it is tied to a time or a kind
// of recipient.
const fewest = 5

// donorReport makes the paper of a lot from the history of the house and of each
// of its devices, in their order.
func donorReport(house facts, lot string, devices []facts, key ed25519.PrivateKey) (*DonorPaper, error) {
	p := &DonorPaper{Lot: lot, Months: []Month{}, Carbon: []Carbon{}, Lines: []DonorLine{}}
	opened := false
	for _, l := range house.lines {
		if l.Params["lot"] != lot {
			continue
		}
		p.Basis, p.Until = basisOf("", l), l.Time
		switch l.Kind {
		case "lot_opened":
			p.Donor, p.Opened, p.By, opened = workshop.Text(l.Params["donor"]), l.Time, workshop.Text(l.Actor), true
		case "lot_closed":
			p.Closed = l.Time
		}
		// People count at the door, and may count again: the last word holds.
		if n, err := strconv.Atoi(l.Params["promised"]); err == nil && n > 0 {
			p.Counts.Promised = &n
		}
		if n, err := strconv.Atoi(l.Params["refused"]); err == nil && n >= 0 {
			p.Counts.Refused = n
		}
	}
	if !opened {
		return nil, notFound("There is no such lot in the history of the house")
	}
	kinds, months := map[string]int{}, map[string]int{}
	results := map[string]outcomeOf{} // by medium; the last attempt counts, in whichever device
	for _, f := range devices {
		d, err := donorLine(f, key, &p.Counts, months, results)
		if err != nil {
			return nil, fmt.Errorf("device %d: %w", f.number(), err)
		}
		if d.refurbished {
			p.Counts.Refurbished++
			if k := kindOf(d.Device.Chassis); k != "" {
				kinds[k]++
			} else {
				p.Other++
			}
		}
		if d.Basis.Time.After(p.Until) {
			p.Until = d.Basis.Time
		}
		p.Lines = append(p.Lines, d.DonorLine)
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		p.Carbon = append(p.Carbon, Carbon{k, kinds[k], factors[k][0], factors[k][1]})
	}
	p.Months = hide(months)
	media, err := firstSeen(devices)
	if err != nil {
		return nil, err
	}
	for _, m := range media {
		c := &p.Counts
		c.Media++
		switch r, tried := results[m]; {
		case !tried:
			c.Untouched++
		case r.result == wire.Erased:
			c.Erased++
		case r.result == wire.ErasedExceptions:
			c.Exceptions++
		default:
			c.NotErased++
		}
	}
	return p, nil
}

// outcomeOf is what an attempt to erase a medium came to.
type outcomeOf struct {
	result wire.ErasureResult
	basis  Basis
}

// after reports whether a paper is the later one of two: by the order of the chain
// that both rest on, whatever the clock said, and by time only between chains.
func (b Basis) after(other Basis) bool {
	if b.Chain == other.Chain {
		return b.Seq >= other.Seq
	}
	return !b.Time.Before(other.Time)
}

// hide counts months out only where no month with fewer than five can be worked
// out: not from the month itself, nor as what is left of the sum.
func hide(months map[string]int) []Month {
	all := []Month{}
	hidden, sum, smallest := 0, 0, ""
	for _, m := range slices.Sorted(maps.Keys(months)) {
		n := months[m]
		sum += n
		if n < fewest {
			hidden++
		} else if smallest == "" || n < months[smallest] {
			smallest = m
		}
	}
	if sum < fewest {
		return all
	}
	for _, m := range slices.Sorted(maps.Keys(months)) {
		switch n := months[m]; {
		case n < fewest:
			all = append(all, Month{m, "fewer than 5"})
		case hidden == 1 && m == smallest:
			all = append(all, Month{m, "not told"})
		default:
			all = append(all, Month{m, strconv.Itoa(n)})
		}
	}
	return all
}

type counted struct {
	DonorLine
	refurbished bool
}

// donorLine makes the line of one device and counts it.
func donorLine(f facts, key ed25519.PrivateKey, c *Counts, months map[string]int, results map[string]outcomeOf) (counted, error) {
	d := counted{DonorLine: DonorLine{State: string(workshop.Received), Papers: []PaperRef{}}}
	var moved time.Time
	for _, l := range f.lines {
		if to := l.To; to != "" && (l.Kind == "device_created" || l.Kind == "device_moved" || l.Kind == "split_from") {
			d.State, moved = workshop.Text(to), l.Time
		}
		d.Basis = basisOf(f.device, l)
	}
	rep, err := f.reportBefore(0)
	if err != nil {
		return d, err
	}
	d.Device = f.about(rep)
	var imaged Basis
	for _, a := range f.all() {
		last, image := map[string]outcomeOf{}, Basis{Chain: a.device} // of this chain
		refurbished := false
		papers, err := of(a, key)
		if err != nil {
			return d, err
		}
		for _, p := range papers {
			if p.no != nil {
				continue
			}
			switch v := p.content.(type) {
			case *ErasurePaper:
				key := mediumKey(v.Medium.DiskID)
				if v.Medium.Serial == "" {
					key = f.device + " " + key
				}
				if old, tried := last[key]; !tried || p.basis.after(old.basis) {
					last[key] = outcomeOf{v.Result, p.basis}
				}
			case *ImagingPaper:
				if p.basis.after(image) {
					refurbished, image = v.Result == ReadBack, p.basis
				}
			}
			d.Papers = append(d.Papers, PaperRef{Kind: p.kind, ID: p.id, SHA256: hashOf(p.file), Result: resultOf(p.content)})
		}
		for key, o := range last {
			if old, tried := results[key]; !tried || o.basis.after(old.basis) {
				results[key] = o
			}
		}
		if image.Seq > 0 && image.after(imaged) {
			d.refurbished, imaged = refurbished, image
		}
	}
	media, err := firstSeen([]facts{f})
	if err != nil {
		return d, err
	}
	var refusal *workshop.Refusal
	switch _, err := noStorage(f); {
	case err == nil:
		d.Storage = "none"
		c.NoStorage++
	case !errors.As(err, &refusal):
		return d, err
	case len(media) > 0:
		d.Storage = "held data"
	default:
		d.Storage = "unknown"
	}
	state := workshop.DeviceState(d.State)
	if state != workshop.Expected {
		c.Received++
		if d.Storage == "unknown" {
			c.NotKnown++
		}
	}
	switch state {
	case workshop.Rejected:
		c.Refused++
	case workshop.HandedOut:
		c.HandedOut++
		months[moved.UTC().Format("2006-01")]++
	case workshop.Parts:
		c.Parts++
	case workshop.Recycled:
		c.Recycled++
	case workshop.ReturnedDonor:
		c.Returned++
	case workshop.DeviceLost:
		c.Lost++
	}
	return d, nil
}

func mediumKey(id wire.DiskID) string {
	name := id.Serial + " " + id.WWN
	if id.Serial == "" {
		name = id.Path
	}
	return name + " " + strconv.FormatInt(id.Bytes, 10)
}

// firstSeen lists the media that may have held data when they were first seen in
// any of the devices, each once: a disk goes from one to the other. What one that
// came blank holds later, we put there.
func firstSeen(devices []facts) (media []string, err error) {
	type sight struct {
		line
		f facts
	}
	var chains [][]sight
	for _, f := range devices {
		for _, a := range f.all() {
			var c []sight
			for _, l := range a.reports() {
				c = append(c, sight{l, f})
			}
			chains = append(chains, c)
		}
	}
	seen := map[string]bool{}
	for _, l := range interleave(chains, func(s sight) time.Time { return s.Time }) {
		rep, err := document[wire.Report](l.f, l.line)
		if err != nil {
			return nil, err
		}
		for _, d := range rep.Disks {
			k := mediumKey(d.DiskID)
			if d.Serial == "" {
				k = l.f.device + " " + k // a path names a disk in one PC only
			}
			if !seen[k] {
				if seen[k] = true; mayHold(d.Class) {
					media = append(media, k)
				}
			}
		}
	}
	return media, nil
}

func (p *DonorPaper) face() face {
	c := p.Counts
	f := face{Title: "Donor report", Sub: []string{p.Donor}, Sign: "∑", Verdict: plural(c.Received, "device", "devices") + " received", Wide: true}
	f.Lead = fmt.Sprintf("What became of the devices that %s gave, as it stood on %s.", p.Donor, day(p.Until))
	lot := section{Title: "The lot"}
	lot.fact("Donor", p.Donor)
	lot.fact("Opened", clock(p.Opened))
	lot.Facts = append(lot.Facts, fact{Name: "Opened by", Who: p.By})
	if !p.Closed.IsZero() {
		lot.fact("Closed", clock(p.Closed))
	}
	lot.code("Lot", p.Lot)
	f.add(lot)
	n := section{Title: "In numbers"}
	promised := "not recorded"
	if c.Promised != nil {
		promised = strconv.Itoa(*c.Promised)
	}
	n.fact("Announced", promised)
	for _, v := range []struct {
		name string
		n    int
	}{
		{"Received", c.Received}, {"Turned away", c.Refused}, {"Without data on arrival", c.NoStorage}, {"Data on arrival not known", c.NotKnown},
		{"Data-bearing media found", c.Media}, {"… of these erased", c.Erased}, {"… erased with exceptions", c.Exceptions},
		{"… not erased, or not known", c.NotErased}, {"… no erasure has ended yet", c.Untouched},
		{"Refurbished (installed and read back)", c.Refurbished}, {"Handed out", c.HandedOut}, {"Used for parts", c.Parts}, {"Recycled", c.Recycled},
		{"Returned to the donor", c.Returned}, {"Lost", c.Lost},
	} {
		n.fact(v.name, strconv.Itoa(v.n))
	}
	f.add(n)
	if len(p.Months) > 0 {
		m := section{Title: "Handed out, by month"}
		for _, v := range p.Months {
			m.fact(v.Month, v.Count)
		}
		m.Notes = []string{"Numbers under five are not told where they are tied to a time, so that nobody is found by them."}
		f.add(m)
	}
	f.add(p.carbon())
	f.add(p.table())
	f.basis(p.Basis)
	f.Proves = []string{"What the appliance recorded of each device by that day. Each paper that is named stands for itself and can be checked by its SHA-256."}
	f.Not = []string{
		"It doesn't tell who was given a device, and isn't meant to.",
		"Which devices belong to the lot was read from the appliance's records and held against each device's history; that none was left out is its people's word.",
		"The figures on CO2e are published factors times a count. Nobody measured anything here.",
	}
	return f
}

func (p *DonorPaper) carbon() section {
	s := section{Title: "CO2e, by published factors", Head: []string{"Kind", "Refurbished", "Factor", "Amounts to", "What the factor measures", "Source"}}
	low, high := 0, 0
	for _, c := range p.Carbon {
		for _, x := range []struct {
			f  Factor
			kg int
		}{{c.Low, c.LowKg()}, {c.High, c.HighKg()}} {
			s.Rows = append(s.Rows, []cell{{Text: c.Kind}, {Text: strconv.Itoa(c.Count)}, {Text: count(int64(x.f.Kg), "kg")}, {Text: count(int64(x.kg), "kg")}, {Text: x.f.Of}, {Text: x.f.Source, Sub: strconv.Itoa(x.f.Year)}})
		}
		low, high = low+c.LowKg(), high+c.HighKg()
	}
	if len(p.Carbon) > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("Together between %s and %s of CO2e, if each refurbished device takes the place of a new one.", count(int64(low), "kg"), count(int64(high), "kg")))
	}
	if p.Other > 0 {
		s.Notes = append(s.Notes, plural(p.Other, "refurbished device is", "refurbished devices are")+" of a kind that no factor was found for, and not counted.")
	}
	if len(p.Carbon)+p.Other == 0 {
		s.Notes = []string{"No device was refurbished yet."}
	}
	return s
}

var kindText = map[Kind]string{NoStorage: "data on arrival", Erasure: "erasure", Imaging: "installation"}

func (p *DonorPaper) table() section {
	s := section{Title: "Each device", Head: []string{"No.", "Device", "Serial number", "Data on arrival", "Where it is", "Papers"}}
	for _, l := range p.Lines {
		var refs []string
		for _, r := range l.Papers {
			refs = append(refs, kindText[r.Kind]+": "+stateText(r.Result)+" · "+r.SHA256)
		}
		s.Rows = append(s.Rows, []cell{
			{Text: strconv.Itoa(l.Device.Number)}, {Text: l.Device.name()}, {Text: or(l.Device.serial(), "none"), Code: true},
			{Text: l.Storage}, {Text: stateText(l.State)}, {Lines: refs},
		})
	}
	if len(p.Lines) == 0 {
		s.Notes = []string{"No device came yet."}
	}
	return s
}
