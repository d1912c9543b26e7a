package dashboard

import (
	"slices"
	"strconv"
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
	Known   bool // it has reported what is in it

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
	Images  []Image // what it can be imaged with
	Chosen  string  // root that is asked for now

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

// WayStep is one of the four steps that every job takes.
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

// Ask is the question that a person has to answer before a disk is erased.
type Ask struct {
	Job   string
	Path  string
	Model string
	Bytes int64
	Kind  string // message id
	Head  string // of the serial, up to what is to be typed
	Tail  string // what is to be typed
	ByDev bool   // the disk has no serial: its path is to be typed
	Class string // message id
	Tone  Tone
	Found string
}

// Fact is one line of what is in a device.
type Fact struct {
	Name   string // message id
	Value  string
	Say    string // message id of the value, where it is ours
	Code   bool   // a serial or an address: kept in its own direction
	Filler bool   // the maker never filled it in
	Bytes  int64
	Mem    int64
	N      int // a count, with Say as its plural message
}

type FactGroup struct {
	Title string
	Icon  string
	Facts []Fact
}

// DiskView is one disk of a device.
type DiskView struct {
	Path, Model, Serial string
	Bytes               int64
	Kind                string // message id
	Class               string // message id
	Tone                Tone
	Found               string
	InUse               string
	ReadOnly, Removable bool
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
		Seen: v.Seen, Created: v.Created, Online: v.Online, Again: v.Again, Known: v.Report.BootID != "",
		Chosen: v.Image,
	}
	d.Silent = false // the page says it in words
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
		d.Way = wayOf(j)
		d.Proof = proofOf(j)
		if p := v.Progress; p != nil {
			d.Done, d.Total, d.Retries = p.Done, p.Total, p.Retries
		}
		for _, disk := range v.Candidates {
			d.Ask = append(d.Ask, askOf(j.ID, disk))
		}
	}
	switch s := jobState(v.Job); s {
	case workshop.Approved, workshop.Imaging, workshop.Verifying:
	default:
		switch v.State {
		case workshop.Expected, workshop.Received, workshop.Ready, workshop.Returned:
			d.CanAsk = true
		}
	}
	for i, j := range v.Jobs {
		if i > 0 && i <= 20 {
			d.Jobs = append(d.Jobs, JobLine{looks[j.State], j.Changed, clean(j.ImageName, maxLine), english(j.Reason)})
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

// movesOf lists where people may take a device now. The registry decides; what
// it would refuse anyway is not offered.
func movesOf(v workshop.DeviceDetail) []workshop.DeviceState {
	s := jobState(v.Job)
	if s == workshop.Imaging || s == workshop.Verifying {
		return nil
	}
	return slices.DeleteFunc(workshop.NextStates(v.State), func(to workshop.DeviceState) bool {
		gives := to == workshop.Ready || to == workshop.Reserved || to == workshop.HandedOut
		return gives && !s.Proved()
	})
}

func jobState(j *workshop.Job) workshop.JobState {
	if j == nil {
		return ""
	}
	return j.State
}

// wayOf shows how far a job came.
func wayOf(j *workshop.Job) []WayStep {
	at := map[workshop.JobState]int{
		workshop.Booting: 0, workshop.Reported: 0, workshop.Held: 0, workshop.Approved: 1,
		workshop.Imaging: 1, workshop.Verifying: 2, workshop.Verified: 3, workshop.FirstBoot: 4,
	}
	state := j.State
	ended := state == workshop.JobFailed || state == workshop.Cancelled || state == workshop.JobLost
	if ended {
		state = j.Before
	}
	here := at[state]
	steps := []WayStep{{Word: "way.report", Icon: "search"}, {Word: "way.write", Icon: "write"}, {Word: "way.verify", Icon: "verify"}, {Word: "way.first", Icon: "power"}}
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
	if o == nil {
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

// tail is how many characters of a serial a person types.
const tail = 6

func askOf(job string, d wire.Disk) Ask {
	v := diskOf(d)
	a := Ask{Job: job, Path: d.Path, Model: v.Model, Bytes: d.Bytes, Kind: v.Kind, Class: v.Class, Tone: v.Tone, Found: v.Found}
	serial := []rune(v.Serial)
	switch n := len(serial); {
	case n == 0:
		a.ByDev, a.Tail = true, v.Path
	case n > tail:
		a.Head, a.Tail = string(serial[:n-tail]), string(serial[n-tail:])
	default:
		a.Tail = v.Serial
	}
	return a
}

// diskOf shows one disk.
func diskOf(d wire.Disk) DiskView {
	v := DiskView{
		Path: clean(d.Path, maxLine), Model: clean(d.Model, maxLine), Serial: clean(d.Serial, maxLine), Bytes: d.Bytes,
		InUse: clean(d.InUse, maxLine), ReadOnly: d.ReadOnly, Removable: d.Removable,
	}
	for i, f := range bounded(d.Found, 8) {
		if i > 0 {
			v.Found += ", "
		}
		v.Found += clean(f, 24)
	}
	switch {
	case d.Transport == wire.TransportUSB:
		v.Kind = "disk.usb"
	case d.Transport == wire.TransportNVMe:
		v.Kind = "disk.nvme"
	case d.Transport == wire.TransportMMC:
		v.Kind = "disk.mmc"
	case d.Transport == wire.TransportVirtio:
		v.Kind = "disk.virtual"
	case d.Rotational:
		v.Kind = "disk.hdd"
	default:
		v.Kind = "disk.ssd"
	}
	switch d.Class {
	case wire.ClassBlank:
		v.Class, v.Tone = "class.blank", toneDone
	case wire.ClassStructured:
		v.Class, v.Tone = "class.structured", toneHold
	case wire.ClassUnreadable:
		v.Class, v.Tone = "class.unreadable", toneFail
	default: // what can't be named counts as data
		v.Class, v.Tone = "class.data", toneHold
	}
	return v
}

// factsOf lists what a report says, leaving out what it doesn't know.
func factsOf(rep wire.Report, macs []string) []FactGroup {
	id, fw := rep.Identity, rep.Firmware
	var groups []FactGroup
	add := func(title, icon string, facts ...Fact) {
		facts = slices.DeleteFunc(facts, func(f Fact) bool {
			return f.Value == "" && f.Say == "" && f.Bytes == 0 && f.Mem == 0
		})
		if len(facts) > 0 {
			groups = append(groups, FactGroup{title, icon, facts})
		}
	}
	named := func(msg, field, value string, code bool) Fact {
		return Fact{Name: msg, Value: clean(value, maxLine), Code: code, Filler: slices.Contains(id.Placeholders, field)}
	}
	add("fact.identity", "pc",
		named("fact.maker", "manufacturer", id.Manufacturer, false),
		named("fact.model", "model", id.Model, false),
		named("fact.version", "version", id.ModelVersion, false),
		named("fact.family", "family", id.Family, false),
		named("fact.sku", "sku", id.SKU, true),
		Fact{Name: "fact.chassis", Value: clean(id.ChassisType, maxLine)},
		named("fact.serial", "system_serial", id.SystemSerial, true),
		named("fact.board", "board_serial", id.BoardSerial, true),
		named("fact.case", "chassis_serial", id.ChassisSerial, true),
		named("fact.uuid", "smbios_uuid", id.UUID, true),
	)
	mode := ""
	switch fw.Mode {
	case wire.ModeBIOS:
		mode = "BIOS"
	case wire.ModeUEFI32:
		mode = "UEFI, 32 bit"
	case wire.ModeUEFI64:
		mode = "UEFI, 64 bit"
	}
	firmware := []Fact{{Name: "fact.mode", Value: mode}}
	if fw.SecureBoot != nil {
		say := "fact.off"
		if *fw.SecureBoot {
			say = "fact.on"
		}
		firmware = append(firmware, Fact{Name: "fact.secureboot", Say: say})
	}
	if fw.SetupMode != nil && *fw.SetupMode {
		firmware = append(firmware, Fact{Name: "fact.setupmode", Say: "fact.on"})
	}
	add("fact.firmware", "shield", append(firmware,
		Fact{Name: "fact.vendor", Value: clean(fw.Vendor, maxLine)},
		Fact{Name: "fact.version", Value: clean(fw.Version, maxLine)},
		Fact{Name: "fact.date", Value: clean(fw.Date, maxLine)},
	)...)
	cpu := []Fact{{Name: "fact.model", Value: clean(rep.CPU.Model, maxLine)}}
	if rep.CPU.Cores > 0 {
		v := strconv.Itoa(rep.CPU.Cores)
		if rep.CPU.Threads > 0 {
			v += " / " + strconv.Itoa(rep.CPU.Threads)
		}
		cpu = append(cpu, Fact{Name: "fact.cores", Value: v})
	}
	if rep.CPU.Level > 0 {
		cpu = append(cpu, Fact{Name: "fact.level", Value: "x86-64-v" + strconv.Itoa(rep.CPU.Level)})
	}
	add("fact.cpu", "chip", cpu...)
	ram := []Fact{{Name: "fact.total", Mem: rep.RAM.Bytes}}
	if rep.RAM.Slots > 0 {
		ram = append(ram, Fact{Name: "fact.slots", Value: strconv.Itoa(len(rep.RAM.Modules)) + " / " + strconv.Itoa(rep.RAM.Slots)})
	}
	for _, m := range bounded(rep.RAM.Modules, 64) {
		text := clean(m.Type, 16)
		if m.MTs > 0 {
			text += " " + strconv.Itoa(m.MTs) + " MT/s"
		}
		for _, s := range []string{m.Manufacturer, m.Part} {
			if s = clean(s, 40); s != "" {
				text += " · " + s
			}
		}
		ram = append(ram, Fact{Name: clean(m.Slot, 24), Mem: m.Bytes, Value: text})
	}
	add("fact.ram", "ram", ram...)
	var nics []Fact
	for _, n := range bounded(rep.NICs, 32) {
		mac := n.Permanent
		if mac == "" {
			mac = n.MAC
		}
		nics = append(nics, Fact{Name: clean(n.Name, 24), Value: clean(mac, 40), Code: true})
		text := clean(n.Driver, 24)
		if n.Bus == "usb" {
			text += " · USB"
		}
		if n.Link && n.Mbit > 0 {
			text += " · " + strconv.Itoa(n.Mbit) + " Mbit/s"
		}
		nics = append(nics, Fact{Name: "", Value: text, Filler: false})
	}
	if len(nics) == 0 {
		for _, m := range bounded(macs, 8) {
			nics = append(nics, Fact{Name: "MAC", Value: clean(m, 40), Code: true})
		}
	}
	add("fact.nics", "nic", nics...)
	return groups
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
