package workshop

import (
	"strings"
	"testing"

	"refurb/agent/wire"
)

func TestUnfit(t *testing.T) {
	a, b := disk("/dev/sda", 120), disk("/dev/sdb", 500)
	ran := func(state JobState, d wire.Disk, kinds ...wire.EventKind) *Job {
		j := &Job{ID: newID(), State: state, Taken: kinds, Approval: &Approval{Disk: d.DiskID}}
		if len(kinds) > 0 && kinds[0] == wire.EventErasing {
			j.Erase = &EraseOrder{}
		}
		return j
	}
	imaged := ran(Verified, a, wire.EventImaging, wire.EventVerifying, wire.EventOutcome)
	booted := ran(FirstBoot, a, wire.EventImaging, wire.EventVerifying, wire.EventOutcome)
	failed := ran(JobFailed, a, wire.EventImaging, wire.EventOutcome)
	never := ran(Cancelled, a) // it wrote nothing
	erased := func(d wire.Disk) *Job { return ran(Erased, d, wire.EventErasing, wire.EventOutcome) }
	broken := func(s JobState, d wire.Disk) *Job { return ran(s, d, wire.EventErasing) }
	data := func(d wire.Disk, c wire.Class) wire.Disk { d.Class = c; return d }
	for name, c := range map[string]struct {
		jobs  []*Job
		disks []wire.Disk
		back  *Job
		says  string // empty: it may go
	}{
		"imaged":                          {[]*Job{imaged}, []wire.Disk{a}, nil, ""},
		"booted":                          {[]*Job{booted}, []wire.Disk{data(a, wire.ClassData)}, nil, ""},
		"imaged after a failure":          {[]*Job{failed, imaged}, []wire.Disk{a}, nil, ""},
		"imaged, and another one refused": {[]*Job{imaged, never}, []wire.Disk{a}, nil, ""},
		"erased and imaged":               {[]*Job{erased(a), imaged}, []wire.Disk{a}, nil, ""},
		"beside a blank one":              {[]*Job{imaged}, []wire.Disk{a, b}, nil, ""},
		"beside one of ours":              {[]*Job{imaged}, []wire.Disk{a, data(b, wire.ClassOurs)}, nil, ""},
		"beside a stick":                  {[]*Job{imaged}, []wire.Disk{a, disk("/dev/sdc", 32, func(d *wire.Disk) { d.Transport, d.Class = wire.TransportUSB, wire.ClassData })}, nil, ""},
		"beside one that was erased":      {[]*Job{imaged, erased(b)}, []wire.Disk{a, data(b, wire.ClassData)}, nil, ""},
		"another one erased at last":      {[]*Job{imaged, broken(JobFailed, b), erased(b)}, []wire.Disk{a, b}, nil, ""},
		"the half erased one is out":      {[]*Job{imaged, broken(JobFailed, b)}, []wire.Disk{a}, nil, ""},
		"imaged after it came back":       {[]*Job{failed, imaged}, []wire.Disk{a}, failed, ""},

		"nothing ever":                {nil, []wire.Disk{a}, nil, "not been written"},
		"failed":                      {[]*Job{failed}, []wire.Disk{a}, nil, "not been written"},
		"failed after it was imaged":  {[]*Job{imaged, failed}, []wire.Disk{a}, nil, "not been written"},
		"cancelled while imaging":     {[]*Job{imaged, ran(Cancelled, a, wire.EventImaging)}, []wire.Disk{a}, nil, "not been written"},
		"erased only":                 {[]*Job{erased(a)}, []wire.Disk{a}, nil, "not been written"},
		"lost":                        {[]*Job{ran(JobLost, a, wire.EventImaging)}, []wire.Disk{a}, nil, "waits or runs"},
		"held":                        {[]*Job{imaged, ran(Held, a)}, []wire.Disk{a}, nil, "waits or runs"},
		"erased afterwards":           {[]*Job{imaged, erased(a)}, []wire.Disk{a}, nil, "erased after"},
		"half erased afterwards":      {[]*Job{imaged, broken(JobFailed, a)}, []wire.Disk{a}, nil, "erased after"},
		"cancelled while erasing":     {[]*Job{imaged, broken(Cancelled, a)}, []wire.Disk{a}, nil, "erased after"},
		"another one half erased":     {[]*Job{imaged, broken(JobFailed, b)}, []wire.Disk{a, b}, nil, "did not end well"},
		"another one half written":    {[]*Job{ran(JobFailed, b, wire.EventImaging), imaged}, []wire.Disk{a, b}, nil, "did not end well"},
		"another one holds something": {[]*Job{imaged}, []wire.Disk{a, data(b, wire.ClassData)}, nil, "neither erased nor imaged"},
		"another one is structured":   {[]*Job{imaged}, []wire.Disk{a, data(b, wire.ClassStructured)}, nil, "neither erased nor imaged"},
		"another one is locked":       {[]*Job{imaged}, []wire.Disk{a, data(b, wire.ClassLocked)}, nil, "neither erased nor imaged"},
		"another one can't be written": {[]*Job{imaged}, []wire.Disk{a, disk("/dev/sdb", 9, func(d *wire.Disk) { d.ReadOnly, d.Class = true, wire.ClassData })}, nil,
			"neither erased nor imaged"},
		"the disk is out":          {[]*Job{imaged}, nil, nil, "no longer in this PC"},
		"the disk was swapped":     {[]*Job{imaged}, []wire.Disk{b}, nil, "no longer in this PC"},
		"imaged before it was out": {[]*Job{imaged}, []wire.Disk{a}, imaged, "came back since"},
	} {
		dev, back := &Device{Report: wire.Report{Disks: c.disks}}, map[string]bool{}
		if c.back != nil {
			back[c.back.ID] = true
		}
		err := unfit(dev, back, c.jobs, func(*wire.Disk) away { return away{} })
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What happened to its disks in other PCs counts, too.
func TestUnfitElsewhere(t *testing.T) {
	a, b := disk("/dev/sda", 120), disk("/dev/sdb", 500)
	imaged := &Job{ID: "imaged", State: Verified, Taken: []wire.EventKind{wire.EventImaging}, Approval: &Approval{Disk: a.DiskID}}
	there := func(s JobState, d wire.Disk) *Job {
		return &Job{ID: "there", State: s, Taken: []wire.EventKind{wire.EventErasing}, Approval: &Approval{Disk: d.DiskID}, Erase: &EraseOrder{}}
	}
	for name, c := range map[string]struct {
		away map[string]away
		says string
	}{
		"nothing":                         {nil, ""},
		"the imaged one is elsewhere":     {map[string]away{"/dev/sda": {in: 14}}, "seen in PC 14 since"},
		"another one is elsewhere":        {map[string]away{"/dev/sdb": {in: 14}}, ""},
		"data: one of its number there":   {map[string]away{"/dev/sdb": {in: 14}}, "Start this PC from the network once"},
		"it was erased elsewhere":         {map[string]away{"/dev/sda": {wrote: there(Erased, a)}}, "in another PC after it was imaged"},
		"another was erased elsewhere":    {map[string]away{"/dev/sdb": {wrote: there(Erased, b)}}, ""},
		"another was half erased there":   {map[string]away{"/dev/sdb": {wrote: there(JobFailed, b)}}, "did not end well"},
		"another is being erased there":   {map[string]away{"/dev/sdb": {wrote: there(Erasing, b)}}, "did not end well"},
		"a bad one that is not here now":  {map[string]away{"/dev/sdb": {in: 14, wrote: there(JobFailed, b)}}, ""},
		"the imaged one was erased there": {map[string]away{"/dev/sda": {in: 14, wrote: there(Erased, a)}}, "seen in PC 14 since"},
	} {
		b := b
		if strings.HasPrefix(name, "data:") {
			b.Class = wire.ClassData
		}
		dev := &Device{Report: wire.Report{Disks: []wire.Disk{a, b}}}
		err := unfit(dev, nil, []*Job{imaged}, func(d *wire.Disk) away { return c.away[d.Path] })
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
