package papers

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// NoStoragePaper says that a PC came without a disk that holds anything.
type NoStoragePaper struct {
	Device      Device     `json:"device"`
	Looked      time.Time  `json:"looked"` // by the appliance's clock
	Agent       string     `json:"agent"`
	Kernel      string     `json:"kernel"`
	Boot        string     `json:"boot"`
	Buses       []BusCount `json:"buses"`
	Disks       []DiskSeen `json:"disks"`       // that read as blank or as ours
	Controllers []string   `json:"controllers"` // seen, with their drivers
	Hidden      []string   `json:"hidden"`      // that may hide disks: none, or there is no paper
	DataBearing int        `json:"data_bearing_devices"`
	// Later are disks that may hold data and were first seen in this PC after
	// that look.
	Later   []DiskSeen `json:"later"`
	History []Step     `json:"history"`
	Basis   Basis      `json:"basis"`
}

// BusCount is how many disks were found behind one kind of plug.
type BusCount struct {
	Bus   string `json:"bus"`
	Disks int    `json:"disks"`
}

// DiskSeen is one disk as a report listed it.
type DiskSeen struct {
	wire.DiskID
	Transport string     `json:"transport"`
	Class     wire.Class `json:"class"`
	Seen      time.Time  `json:"seen"`
}

// buses are all that an agent looks behind, in the order they are printed.
var buses = []struct{ transport, name string }{
	{wire.TransportSATA, "SATA"}, {wire.TransportNVMe, "NVMe"}, {wire.TransportMMC, "eMMC and SD"}, {wire.TransportSCSI, "SCSI and SAS"},
	{wire.TransportUSB, "USB"}, {wire.TransportVirtio, "virtual (virtio)"}, {wire.TransportOther, "any other"},
}

func busOf(transport string) string {
	for _, b := range buses {
		if b.transport == transport {
			return b.name
		}
	}
	return "any other"
}

// noStorage makes the paper from the first report of a device, or says why there
// is none. What a later report shows can't tell what the PC came with.
func noStorage(f facts) (*NoStoragePaper, error) {
	no := func(why, next string) (*NoStoragePaper, error) {
		return nil, &workshop.Refusal{Kind: workshop.Conflict, Message: why, Next: next}
	}
	if n, ok := f.merged(); ok {
		return no("This record was merged into number "+n, "Look for the paper there")
	}
	group := f.all()
	if slices.ContainsFunc(group, facts.mixed) {
		return no("Two PCs were in one record: what each of them came with is not known", "")
	}
	if len(group) > 1 && slices.ContainsFunc(group, facts.setBack) {
		return no("The clock was set back while this PC had several records: which of its reports was the first is not known", "")
	}
	all := f.allReports()
	if len(all) == 0 {
		return no("Nobody has looked into this PC yet", "Start it from the network")
	}
	first := all[0]
	rep, err := document[wire.Report](f, first)
	if err != nil {
		return nil, err
	}
	if len(rep.HiddenStorage) > 0 {
		return no("What was in this PC is not known: a controller may have hidden disks at its first start ("+short(rep.HiddenStorage)+")",
			"Look at what the firmware setup shows, and write that down yourself")
	}
	for _, p := range rep.Problems {
		if strings.HasPrefix(p, "storage controllers:") || strings.HasPrefix(p, "disks:") {
			return no("What was in this PC is not known: at its first start not everything could be looked at ("+p+")", "")
		}
	}
	p := &NoStoragePaper{
		Device: f.about(rep), Looked: first.Time, Agent: rep.Agent, Kernel: rep.Kernel, Boot: rep.BootID,
		Disks: []DiskSeen{}, Controllers: append([]string{}, rep.Controllers...), Hidden: []string{}, Later: []DiskSeen{},
		Basis: basisOf(first.Device, first),
	}
	count := map[string]int{}
	for _, d := range rep.Disks {
		if mayHold(d.Class) {
			return no(fmt.Sprintf("This PC came with a disk that may hold data: %s (%s)", nameOf(d.DiskID), d.Class),
				"Erase that disk: its certificate is the proof")
		}
		count[busOf(d.Transport)]++
		p.Disks = append(p.Disks, DiskSeen{d.DiskID, d.Transport, d.Class, first.Time})
	}
	for _, b := range buses {
		p.Buses = append(p.Buses, BusCount{b.name, count[b.name]})
	}
	for _, l := range all[1:] {
		later, err := document[wire.Report](f, l)
		if err != nil {
			return nil, err
		}
		for _, d := range later.Disks {
			if !mayHold(d.Class) || len(p.Later) == 64 || slices.ContainsFunc(p.Later, func(s DiskSeen) bool { return s.Serial == d.Serial && s.Bytes == d.Bytes }) {
				continue
			}
			if diskIn(rep, d.DiskID) != nil {
				continue // it was there and blank: what it holds now came later
			}
			p.Later = append(p.Later, DiskSeen{d.DiskID, d.Transport, d.Class, l.Time})
			p.Basis = basisOf(l.Device, l)
		}
	}
	for _, a := range group {
		for _, l := range a.lines {
			if a.device == first.Device && l.seq <= first.seq && (l.Kind == "device_created" || l.seq == first.seq) {
				p.History = append(p.History, stepOf(l))
			}
		}
	}
	return p, nil
}

func (p *NoStoragePaper) face() face {
	f := face{Title: "Storage certificate: none on arrival", Sub: p.Device.title(), Sign: "∅", Verdict: "0 data-bearing devices"}
	if len(p.Disks) == 0 {
		f.Lead = "When this PC was first started here, on " + day(p.Looked) + ", no disk of any kind was found in it."
	} else {
		f.Title = "Storage certificate: no data on arrival"
		f.Lead = fmt.Sprintf("When this PC was first started here, on %s, %s in it, and none that held data. A disk that was put in before that start looks the same.",
			day(p.Looked), plural(len(p.Disks), "disk was", "disks were"))
	}
	f.add(p.Device.section())
	look := section{Title: "What was looked for"}
	for _, b := range p.Buses {
		look.fact(b.Bus, plural(b.Disks, "disk", "disks"))
	}
	look.fact("RAID mode, VMD, controllers without a driver", "none seen: none that could hide a disk")
	if len(p.Controllers) == 0 {
		look.fact("Storage controllers seen", "not listed by this version of the agent, or none")
	}
	for _, c := range p.Controllers {
		look.fact("Storage controller seen", c)
	}
	f.add(look)
	if len(p.Disks) > 0 {
		f.add(diskTable("Disks that were found, by what their content reads as", p.Disks))
	}
	if len(p.Later) > 0 {
		s := diskTable("Put in later", p.Later)
		s.Notes = []string{"These disks may hold data and were first seen in this PC after that look. This paper doesn't cover them; what became of them stands in papers of their own."}
		f.add(s)
	}
	f.add(section{Title: "Who looked, and when", Facts: []fact{
		{Name: "Looked", Value: clock(p.Looked) + " (the appliance's clock)"},
		{Name: "By", Value: "Refurb's agent " + or(p.Agent, "of an unknown version") + ", started from the network; Linux " + or(p.Kernel, "of an unknown version")},
		{Name: "Start", Value: p.Boot, Code: true},
		{Name: "Looked into the case", Value: "nobody, as far as is recorded"},
	}})
	f.history(p.History, p.Basis)
	f.Proves = []string{
		"At that start the PC's firmware and Linux showed no disk behind any of the plugs above that held data, and no controller that could hide one.",
	}
	f.Not = []string{
		"It doesn't show what was in the PC before that start: a disk may have been taken out by its owner or by anybody else.",
		"A disk that is switched off in the firmware's setup, unplugged, or dead doesn't show itself. Nobody's eyes are part of this paper.",
		"“Blank” is what the beginning, the end and samples in between read as; it is no erasure.",
	}
	return f
}

func diskTable(title string, disks []DiskSeen) section {
	s := section{Title: title, Head: []string{"Model", "Serial number", "Size", "Plug", "Content", "First seen"}}
	for _, d := range disks {
		s.Rows = append(s.Rows, []cell{{Text: or(d.Model, "–")}, {Text: or(d.Serial, "none"), Code: true}, {Text: bytesText(d.Bytes)}, {Text: busOf(d.Transport)}, {Text: string(d.Class)}, {Text: clock(d.Seen)}})
	}
	return s
}
