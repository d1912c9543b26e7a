package papers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// A certificate says no more than the chain and the numbers bear out.
func TestErasureVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		change             func(e *wire.Outcome)
		none               bool // no outcome ever came
		to, result, reason string
		want               wire.ErasureResult
		level              wire.Level
		says               []string
	}{
		"as it should be": {to: "erased", result: "ok", want: wire.Erased, level: wire.LevelPurge, says: []string{"Erasure certificate", "amounts to Purge", "word 59=5000h", "B4h/0012h", "status=50h", "the disk aborted the command", "passed over", "5000h"}},
		"never heard of again": {none: true, to: "failed", result: "unknown", reason: "The PC restarted before it was finished", want: wire.ErasureUnknown, level: wire.LevelNone,
			says: []string{"Erasure record", "nobody can say how it ended", "The PC restarted before it was finished", "Treat it as a medium that holds data"}},
		"lost":                    {none: true, to: "lost", want: wire.ErasureUnknown, level: wire.LevelNone, says: []string{"is not known"}},
		"cancelled in the middle": {none: true, to: "cancelled", want: wire.ErasureUnknown, level: wire.LevelNone},
		"not accepted":            {to: "failed", result: "failed", reason: "The agent reported success without proof: it names exceptions", want: wire.ErasureUnknown, level: wire.LevelPurge, says: []string{"did not accept it"}},
		"exceptions": {change: func(o *wire.Outcome) {
			o.Result, o.Erasure.Result, o.Erasure.Exceptions = wire.Failed, wire.ErasedExceptions, []string{"34 sectors could not be read"}
			o.Erasure.Check.Errors = 34
		}, to: "failed", result: "failed", reason: "The disk was erased with exceptions", want: wire.ErasedExceptions, level: wire.LevelPurge, says: []string{"Erasure record", "may still hold data", "34 sectors could not be read", "Erased with exceptions"}},
		"exceptions, and nothing read": {change: func(o *wire.Outcome) { o.Erasure.Result, o.Erasure.Check = wire.ErasedExceptions, wire.ReadCheck{} }, to: "failed", want: wire.ErasureUnknown, level: wire.LevelPurge},
		"not erased":                   {change: func(o *wire.Outcome) { o.Erasure.Result = wire.NotErased }, to: "failed", result: "failed", want: wire.NotErased, level: wire.LevelPurge, says: []string{"Not erased", "It does not prove that anything was erased"}},
		"unknown":                      {change: func(o *wire.Outcome) { o.Erasure.Result = wire.ErasureUnknown }, to: "failed", result: "unknown", want: wire.ErasureUnknown, level: wire.LevelPurge},
		"a word nobody knows":          {change: func(o *wire.Outcome) { o.Erasure.Result = "wiped" }, to: "erased", want: wire.ErasureUnknown, level: wire.LevelPurge},
		"no erasure in the outcome":    {change: func(o *wire.Outcome) { o.Erasure = nil }, to: "erased", want: wire.ErasureUnknown, level: wire.LevelNone},
		"mismatches":                   {change: func(o *wire.Outcome) { o.Erasure.Check.Mismatches = 1 }, to: "erased", want: wire.NotErased, level: wire.LevelPurge, says: []string{"were not empty"}},
		"not all was read":             {change: func(o *wire.Outcome) { o.Erasure.Check.Bytes-- }, to: "erased", want: wire.ErasureUnknown, level: wire.LevelPurge, says: []string{"99.99"}},
		"nothing was read":             {change: func(o *wire.Outcome) { o.Erasure.Check = wire.ReadCheck{} }, to: "erased", want: wire.ErasureUnknown, level: wire.LevelPurge, says: []string{"nothing was read back"}},
		"not everything could be read": {change: func(o *wire.Outcome) { o.Erasure.Check.Errors = 1 }, to: "erased", want: wire.ErasureUnknown, level: wire.LevelPurge},
		"another disk":                 {change: func(o *wire.Outcome) { o.Disk.Serial = "OTHER" }, to: "erased", want: wire.ErasureUnknown, level: wire.LevelPurge, says: []string{"names another disk"}},
		"no step":                      {change: func(o *wire.Outcome) { o.Erasure.Steps = nil }, to: "erased", want: wire.ErasureUnknown, level: wire.LevelNone},
		"only discarded": {change: func(o *wire.Outcome) {
			o.Erasure.Steps = []wire.EraseStep{{Method: "BLKDISCARD", Level: wire.LevelPurge, Command: "BLKDISCARD", Result: wire.Done}}
		}, to: "erased", want: wire.ErasureUnknown, level: wire.LevelNone},
		"overwritten flash": {change: func(o *wire.Outcome) {
			o.Erasure.Steps = []wire.EraseStep{{Method: "overwrite with zeroes", Level: wire.LevelPurge, Command: "write", Result: wire.Done}}
		}, to: "erased", want: wire.Erased, level: wire.LevelClear, says: []string{"is Clear, not Purge", "The agent called the level"}},
		"overwritten by the drive": {change: func(o *wire.Outcome) {
			o.Erasure.Steps = []wire.EraseStep{{Method: "nvme sanitize overwrite", Level: wire.LevelPurge, Command: "84h SANACT=3", Result: wire.Done}}
		}, to: "erased", want: wire.Erased, level: wire.LevelPurge},
		"overwritten hard disk": {change: func(o *wire.Outcome) {
			o.Erasure.Medium, o.Erasure.Level = "hdd", wire.LevelClear
			o.Erasure.Steps = []wire.EraseStep{{Method: "overwrite with zeroes", Level: wire.LevelClear, Command: "write", Result: wire.Done}}
		}, to: "erased", want: wire.Erased, level: wire.LevelClear, says: []string{"amounts to Clear"}},
		"samples": {change: func(o *wire.Outcome) { o.Erasure.Check.Kind, o.Erasure.Check.Bytes = wire.CheckSample, 5_001_078_620 }, to: "erased", want: wire.Erased, level: wire.LevelPurge, says: []string{"Only samples were read", "1.00"}},
	} {
		b := newBook(t)
		b.device("DEV1", 1, somePC(ssd))
		o := erased()
		if c.change != nil {
			c.change(o)
		}
		if c.none {
			o = nil
		}
		b.erase("DEV1", "JOB1", ssd.DiskID, o, c.to, c.result, c.reason)
		office := New(b, key)
		file := write(t, office, Erasure, "JOB1", JSON)
		rep, err := Verify(bytes.NewReader(file), pub)
		if err != nil {
			t.Fatal(err)
		}
		p := rep.Papers[0].content.(*ErasurePaper)
		if p.Result != c.want || p.Level != c.level {
			t.Errorf("%s: %s (%s), want %s (%s); %q", name, p.Result, p.Level, c.want, c.level, p.Reasons)
		}
		if p.Result != wire.Erased && len(p.Reasons) == 0 && c.reason != "" {
			t.Errorf("%s: the paper gives no reason", name)
		}
		page := string(write(t, office, Erasure, "JOB1", HTML))
		for _, s := range append(c.says, "704413", "S4EVNX0R704413") {
			if !strings.Contains(page, s) {
				t.Errorf("%s: the page doesn't say %q", name, s)
			}
		}
		if p.Result != wire.Erased && (strings.Contains(page, "<span>Erased</span>") || strings.Contains(page, "Erasure certificate") || strings.Contains(page, "What was done amounts to")) {
			t.Errorf("%s: the page says that it is erased", name)
		}
	}
}

// An agent's late word doesn't make a certificate, and a job that runs has none.
func TestErasureThatHasNotEnded(t *testing.T) {
	b := newBook(t)
	b.device("DEV1", 1, somePC(ssd))
	b.erase("DEV1", "JOB1", ssd.DiskID, nil, "lost", "", "")
	b.step("DEV1", "JOB1", "lost", "erasing", "agent", workshop.Event{})
	o := New(b, key)
	var ref *workshop.Refusal
	if err := o.Write(t.Context(), &bytes.Buffer{}, Erasure, "JOB1", JSON); !errors.As(err, &ref) || !strings.Contains(ref.Message, "has not ended") {
		t.Errorf("while it runs: %v", err)
	}
	b.step("DEV1", "JOB1", "erasing", "failed", "appliance", workshop.Event{Result: "unknown", Reason: "The PC restarted"})
	b.add(workshop.Event{Device: "DEV1", Job: "JOB1", Kind: "late_outcome", Actor: "agent", Reason: "The job had ended before: failed", Evidence: b.doc(erased())})
	rep, err := Verify(bytes.NewReader(write(t, o, Erasure, "JOB1", JSON)), pub)
	if err != nil || rep.Papers[0].Verdict() != "Unknown" {
		t.Errorf("with a late word: %v %+v", err, rep)
	}
}

// The certificate that there was no storage is refused where nobody can know it.
func TestNoStorage(t *testing.T) {
	usb := ssd
	usb.Transport = wire.TransportUSB
	blankDisk, ours := fresh, fresh
	ours.Class, ours.Serial = wire.ClassOurs, "OURS1"
	with := func(change func(*wire.Report)) wire.Report {
		r := somePC()
		change(&r)
		return r
	}
	of := func(c wire.Class) wire.Report {
		d := ssd
		d.Class = c
		return somePC(d)
	}
	for name, c := range map[string]struct {
		first wire.Report
		later []wire.Report
		says  string // on the page; with a minus before it: why there is none
	}{
		"nothing":             {first: somePC(), says: "no disk of any kind was found"},
		"a new disk":          {first: somePC(blankDisk), says: "A disk that was put in before that start looks the same"},
		"a disk of ours":      {first: somePC(ours), says: "1 disk was in it"},
		"a new disk later":    {first: somePC(), later: []wire.Report{somePC(blankDisk)}, says: "no disk of any kind"},
		"a full disk later":   {first: somePC(), later: []wire.Report{somePC(ssd)}, says: "Put in later"},
		"data":                {first: somePC(ssd), says: "-came with a disk that may hold data"},
		"data on a stick":     {first: somePC(usb), says: "-came with a disk that may hold data"},
		"only partitions":     {first: of(wire.ClassStructured), says: "-may hold data"},
		"encrypted":           {first: of(wire.ClassEncrypted), says: "-may hold data"},
		"locked":              {first: of(wire.ClassLocked), says: "-may hold data"},
		"unreadable":          {first: of(wire.ClassUnreadable), says: "-may hold data"},
		"a class of tomorrow": {first: of("quantum"), says: "-may hold data"},
		"RAID":                {first: with(func(r *wire.Report) { r.HiddenStorage = []string{"Intel VMD"} }), says: "-is not known: a controller may have hidden disks"},
		"RAID, and AHCI later": {first: with(func(r *wire.Report) { r.HiddenStorage = []string{"Intel VMD"} }), later: []wire.Report{somePC()},
			says: "-is not known: a controller"},
		"no PCI bus":   {first: with(func(r *wire.Report) { r.Problems = []string{"storage controllers: this kernel shows no PCI bus"} }), says: "-not everything could be looked at"},
		"hanging disk": {first: with(func(r *wire.Report) { r.Problems = []string{"disks: no answer in time"} }), says: "-not everything could be looked at"},
	} {
		b := newBook(t)
		b.device("DEV1", 1, c.first)
		for i, r := range c.later {
			r.BootID = fmt.Sprint("boot-", i+2)
			b.report("DEV1", r)
		}
		var page bytes.Buffer
		err := New(b, key).Write(t.Context(), &page, NoStorage, "DEV1", HTML)
		if why, no := strings.CutPrefix(c.says, "-"); no {
			var ref *workshop.Refusal
			if !errors.As(err, &ref) || !strings.Contains(ref.Message, why) {
				t.Errorf("%s: %v", name, err)
			}
		} else if err != nil || !strings.Contains(page.String(), c.says) || !strings.Contains(page.String(), "0 data-bearing devices") {
			t.Errorf("%s: %v; the page lacks %q", name, err, c.says)
		}
	}
	b := newBook(t)
	b.add(workshop.Event{Device: "DEV1", Kind: "device_created", To: "expected", Actor: "LEAD7", Params: map[string]string{"number": "1"}})
	if err := New(b, key).Write(t.Context(), &bytes.Buffer{}, NoStorage, "DEV1", HTML); err == nil {
		t.Error("a PC that nobody has looked into has a certificate")
	}
}

func TestImagingVerdicts(t *testing.T) {
	b := newBook(t)
	b.device("DEV1", 1, somePC(fresh))
	b.image("DEV1", "JOB1", fresh.DiskID, "lot:LOT1")
	for job, o := range map[string]*wire.Outcome{"MISMATCH": {Result: wire.Done, ReadBack: 5, Mismatches: 1}, "NOTHING": {Result: wire.Done}, "STRANGE": {Result: wire.Done, ReadBack: 5, Birth: strings.Repeat("0c", 32)}} {
		b.step("DEV1", job, "reported", "approved", "LEAD7", workshop.Event{Params: diskParams(fresh.DiskID)})
		b.step("DEV1", job, "approved", "imaging", "agent", workshop.Event{Params: diskParams(fresh.DiskID)})
		b.step("DEV1", job, "verifying", "verified", "agent", workshop.Event{Result: "ok", Evidence: b.doc(o)})
	}
	for job, to := range map[string]string{"FAILED": "failed", "LOST": "lost", "CANCELLED": "cancelled"} {
		b.step("DEV1", job, "approved", "imaging", "agent", workshop.Event{Params: diskParams(fresh.DiskID)})
		b.step("DEV1", job, "imaging", to, "agent", workshop.Event{Result: "failed", Reason: "cable"})
	}
	o := New(b, key)
	for job, want := range map[string]string{"JOB1": "Written and read back", "MISMATCH": "Unknown", "NOTHING": "Unknown", "STRANGE": "Written and read back", "FAILED": "Not finished", "LOST": "Unknown", "CANCELLED": "Not finished"} {
		rep, err := Verify(bytes.NewReader(write(t, o, Imaging, job, JSON)), pub)
		if err != nil || rep.Papers[0].Verdict() != want {
			t.Errorf("%s: %v %q, want %q", job, err, rep.Papers[0].Verdict(), want)
		}
		// A birth record is named only where the appliance had signed that very one.
		p := rep.Papers[0].content.(*ImagingPaper)
		if has := p.Outcome != nil && p.Outcome.Birth != ""; has != (job == "JOB1") {
			t.Errorf("%s names a birth record: %v", job, has)
		}
	}
}

// An image was signed by the key of its day.
func TestKeyOfTheDay(t *testing.T) {
	b := newBook(t)
	b.device("DEV1", 1, somePC(fresh))
	for i, job := range []string{"FIRST", "SECOND", "THIRD"} {
		b.image("DEV1", job, fresh.DiskID, "lot:LOT1")
		b.add(workshop.Event{Kind: "key_rotated", Actor: "LEAD7", Params: map[string]string{"old": fmt.Sprint("key ", i)}})
	}
	b.image("DEV1", "LAST", fresh.DiskID, "lot:LOT1")
	for job, want := range map[string]string{"FIRST": "key 0", "SECOND": "key 1", "THIRD": "key 2", "LAST": publicKey(key)} {
		rep, err := Verify(bytes.NewReader(write(t, New(b, key), Imaging, job, JSON)), pub)
		if err != nil {
			t.Fatal(err)
		}
		if got := rep.Papers[0].content.(*ImagingPaper).SignedBy; got != want {
			t.Errorf("%s: %s, want %s", job, got, want)
		}
	}
	// A damaged history of the house leaves a device its papers, and no guess.
	b.chains[""] = b.chains[""][1:]
	if page := string(write(t, New(b, key), Imaging, "FIRST", HTML)); !strings.Contains(page, "not known: the history of the house is damaged") {
		t.Error("the key of an image is guessed")
	}
	if err := New(b, key).Write(t.Context(), &bytes.Buffer{}, Donor, "LOT1", JSON); err == nil {
		t.Error("a donor's report rests on a damaged history")
	}
}

func TestDonorCounts(t *testing.T) {
	b := newBook(t)
	move := func(id string, to workshop.DeviceState) {
		b.add(workshop.Event{Device: id, Kind: "device_moved", To: string(to), Actor: "LEAD7", Reason: "given to Mrs. Secret"})
	}
	disk := func(serial string) wire.Disk {
		d := ssd
		d.Serial = serial
		return d
	}
	b.device("D1", 1, somePC(disk("A"), disk("B"))) // both found, one erased, one with exceptions
	o := erased()
	o.Disk.Serial = "A"
	a, bb := disk("A").DiskID, disk("B").DiskID
	b.erase("D1", "E1", a, nil, "failed", "unknown", "cable") // the first try doesn't count
	b.erase("D1", "E2", a, o, "erased", "ok", "")
	x := erased()
	x.Disk.Serial, x.Erasure.Result, x.Erasure.Check.Errors = "B", wire.ErasedExceptions, 3
	b.erase("D1", "E3", bb, x, "failed", "failed", "with exceptions")
	b.image("D1", "I1", a, "LEAD7")
	move("D1", workshop.HandedOut)
	b.device("D2", 2, somePC(disk("C"))) // found, tried in vain
	b.erase("D2", "E4", disk("C").DiskID, nil, "lost", "", "")
	move("D2", workshop.Recycled)
	b.device("D3", 3, somePC(disk("D"))) // found, never tried
	move("D3", workshop.Rejected)
	hidden := somePC()
	hidden.HiddenStorage = []string{"RAID"}
	b.device("D4", 4, hidden)
	move("D4", workshop.Parts)
	b.device("D5", 5, somePC(fresh)) // what we write to a new disk is not what the donor left on it
	b.image("D5", "I2", fresh.DiskID, "lot:LOT1")
	written := fresh
	written.Class = wire.ClassData
	again := somePC(written)
	again.BootID = "boot-9"
	b.report("D5", again)
	tower := somePC()
	tower.Identity.ChassisType = "Blade"
	b.device("D6", 6, tower)
	b.image("D6", "I3", fresh.DiskID, "lot:LOT1")
	b.add(workshop.Event{Device: "D7", Kind: "device_created", To: "expected", Actor: "LEAD7", Params: map[string]string{"number": "7", "lot": "LOT1"}})
	b.lots["LOT1"] = append(b.lots["LOT1"], "D7")
	b.add(workshop.Event{Kind: "lot_closed", Actor: "LEAD7", Params: map[string]string{"lot": "LOT1"}})
	file := write(t, New(b, key), Donor, "LOT1", JSON)
	var s Signed
	if err := json.Unmarshal(file, &s); err != nil {
		t.Fatal(err)
	}
	p := decode(t, s).(*DonorPaper)
	twelve := 12
	want := Counts{Promised: &twelve, Received: 6, Refused: 2, NoStorage: 2, NotKnown: 1, Media: 4, Erased: 1, Exceptions: 1, NotErased: 1, Untouched: 1,
		Refurbished: 3, HandedOut: 1, Parts: 1, Recycled: 1}
	if *p.Counts.Promised != 12 {
		t.Errorf("promised: %d", *p.Counts.Promised)
	}
	if p.Counts.Promised = &twelve; p.Counts != want {
		t.Errorf("%+v\nwant\n%+v", p.Counts, want)
	}
	if p.Donor != "Ville d’Esch" || p.Closed.IsZero() || len(p.Lines) != 7 || p.Lines[0].Storage != "held data" || p.Lines[3].Storage != "unknown" || p.Lines[4].Storage != "none" || len(p.Lines[0].Papers) != 4 {
		t.Errorf("%+v", p)
	}
	if len(p.Carbon) != 1 || p.Carbon[0].Kind != "laptop" || p.Carbon[0].Count != 2 || p.Carbon[0].LowKg() != 138 || p.Carbon[0].HighKg() != 450 || p.Other != 1 {
		t.Errorf("%+v, other %d", p.Carbon, p.Other)
	}
	page := string(write(t, New(b, key), Donor, "LOT1", HTML))
	if strings.Contains(page, "Secret") || len(p.Months) != 0 {
		t.Error("the report leads to somebody")
	}
	for _, c := range p.Carbon {
		for _, f := range []Factor{c.Low, c.High} {
			if !strings.Contains(page, f.Source[:20]) || !strings.Contains(page, fmt.Sprint(f.Year)) {
				t.Errorf("the page doesn't say where %+v is from", f)
			}
		}
	}
}

func TestMonthsLeadToNobody(t *testing.T) {
	for _, c := range []struct {
		months map[string]int
		want   string
	}{
		{nil, ""},
		{map[string]int{"2026-11": 4}, ""},
		{map[string]int{"2026-11": 2, "2026-12": 2}, ""},
		{map[string]int{"2026-11": 5}, "2026-11 5"},
		{map[string]int{"2026-10": 3, "2026-11": 2}, "2026-10 fewer than 5, 2026-11 fewer than 5"},
		{map[string]int{"2026-10": 3, "2026-11": 9, "2026-12": 7}, "2026-10 fewer than 5, 2026-11 9, 2026-12 not told"},
		{map[string]int{"2026-09": 1, "2026-10": 3, "2026-11": 9}, "2026-09 fewer than 5, 2026-10 fewer than 5, 2026-11 9"},
	} {
		var got []string
		for _, m := range hide(c.months) {
			got = append(got, m.Month+" "+m.Count)
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%v: %q, want %q", c.months, got, c.want)
		}
	}
}

func TestKinds(t *testing.T) {
	for chassis, want := range map[string]string{
		"Notebook": "laptop", "Laptop": "laptop", "Sub Notebook": "laptop", "Convertible": "laptop", "Desktop": "desktop", "Low Profile Desktop": "desktop",
		"Mini Tower": "desktop", "All In One": "desktop", "Mini PC": "desktop", "Space-saving": "desktop", "Blade": "", "": "", "Rack Mount Chassis": "",
	} {
		if got := kindOf(chassis); got != want {
			t.Errorf("%s: %q, want %q", chassis, got, want)
		}
	}
	for k, f := range factors {
		if f[0].Kg >= f[1].Kg || f[0].Source == "" || f[1].Source == "" || f[0].Year < 2000 || f[1].Year < 2000 {
			t.Errorf("%s: %+v", k, f)
		}
	}
}

func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		digits(0): "0", digits(999): "999", digits(1000): "1\u00a0000", digits(-1234567): "-1\u00a0234\u00a0567", share(1, 1): ", all of it", share(999_999, 1_000_000): ", 99.99\u00a0% of it",
		share(1, 0): "", bytesText(12e9): "12.0\u00a0GB", bytesText(512): "512\u00a0bytes",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A pair of records that are one PC is one device in the donor's report, with the
// papers of both, and what it came with is what was seen first under either.
func TestMergedPair(t *testing.T) {
	b := newBook(t)
	disk := wire.Disk{DiskID: wire.DiskID{Path: "/dev/sda", Serial: "S4EVNX0R704413", Model: "Samsung", Bytes: 512e9, LogicalBlock: 512}, Transport: wire.TransportSATA, Class: wire.ClassData}
	b.device("ONE", 1, somePC(disk))
	b.erase("ONE", "JOB1", disk.DiskID, nil, "failed", "unknown", "cut off")
	b.device("TWO", 2, somePC()) // its disk is out by now
	o := New(b, key)
	wrong := write(t, o, NoStorage, "TWO", JSON) // as long as nobody knows that it is one PC
	if len(wrong) == 0 {
		t.Fatal("no paper")
	}
	b.add(workshop.Event{Device: "ONE", Kind: "merged_into", From: "received", To: "merged", Actor: "LEAD7", Params: map[string]string{"device": "TWO", "number": "2"}})
	b.add(workshop.Event{Device: "TWO", Kind: "merged_from", Actor: "LEAD7", Params: map[string]string{"device": "ONE", "number": "1"}})
	for _, id := range []string{"ONE", "TWO"} {
		if err := o.Write(t.Context(), io.Discard, NoStorage, id, JSON); err == nil {
			t.Errorf("%s is said to have come without a disk", id)
		}
	}
	p, _, err := o.donor(t.Context(), "LOT1")
	if err != nil {
		t.Fatal(err)
	}
	if p.Counts.Received != 1 || p.Counts.Media != 1 || p.Counts.NotErased != 1 || len(p.Lines) != 1 || p.Lines[0].Device.Number != 2 || len(p.Lines[0].Papers) != 1 {
		t.Fatalf("%+v %+v", p.Counts, p.Lines)
	}
	if b := write(t, o, Erasure, "JOB1", JSON); len(b) == 0 {
		t.Fatal("the paper of the merged record is gone")
	}
	// Taken back, they are two again.
	b.add(workshop.Event{Device: "TWO", Kind: "split_off", Actor: "LEAD7", Params: map[string]string{"device": "ONE", "number": "1"}})
	b.add(workshop.Event{Device: "ONE", Kind: "split_from", From: "merged", To: "received", Actor: "LEAD7", Params: map[string]string{"device": "TWO", "from_number": "2"}})
	if p, _, err = o.donor(t.Context(), "LOT1"); err != nil || p.Counts.Received != 2 || p.Lines[0].Device.Number != 1 || p.Lines[0].State != "received" {
		t.Fatalf("%+v %v", p, err)
	}
	if string(write(t, o, NoStorage, "TWO", JSON)) != string(wrong) {
		t.Fatal("the same history gives another paper")
	}
}

// A record that held two PCs tells of neither what it came with; the new one has
// its number and its lot from its first line.
func TestSplitRecord(t *testing.T) {
	b := newBook(t)
	b.device("ONE", 1, somePC())
	b.add(workshop.Event{Device: "ONE", Kind: "split_off", Actor: "LEAD7", Params: map[string]string{"device": "NEW", "number": "2"}})
	b.add(workshop.Event{Device: "NEW", Kind: "split_from", To: "received", Actor: "LEAD7", Params: map[string]string{"device": "ONE", "from_number": "1", "number": "2", "lot": "LOT1"}})
	b.lots["LOT1"] = append(b.lots["LOT1"], "NEW")
	b.report("NEW", somePC())
	o := New(b, key)
	for _, id := range []string{"ONE", "NEW"} {
		if err := o.Write(t.Context(), io.Discard, NoStorage, id, JSON); err == nil || !strings.Contains(err.Error(), "Two PCs") {
			t.Errorf("%s: %v", id, err)
		}
	}
	p, _, err := o.donor(t.Context(), "LOT1")
	if err != nil || p.Counts.Received != 2 || p.Lines[1].Device.Number != 2 || p.Lines[1].State != "received" {
		t.Fatalf("%+v %v", p, err)
	}
}

// A disk that goes from one PC of a lot to another one counts once, and its erasing
// there is its erasing.
func TestMovedDiskCountsOnce(t *testing.T) {
	b := newBook(t)
	disk := wire.Disk{DiskID: wire.DiskID{Path: "/dev/sda", Serial: "S4EVNX0R704413", Model: "Samsung", Bytes: 512e9, LogicalBlock: 512}, Transport: wire.TransportSATA, Class: wire.ClassData}
	b.device("ONE", 1, somePC(disk))
	b.device("TWO", 2, somePC(disk))
	b.erase("TWO", "JOB2", disk.DiskID, nil, "failed", "unknown", "cut off")
	p, _, err := New(b, key).donor(t.Context(), "LOT1")
	if err != nil || p.Counts.Media != 1 || p.Counts.NotErased != 1 || p.Counts.Untouched != 0 || p.Counts.Received != 2 {
		t.Fatalf("%+v %v", p.Counts, err)
	}
}
