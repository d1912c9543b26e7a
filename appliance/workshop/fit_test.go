package workshop

import (
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
)

func TestUnfit(t *testing.T) {
	now := time.Date(2026, 3, 4, 9, 0, 0, 0, time.UTC)
	a, b := disk("/dev/sda", 120), disk("/dev/sdb", 500)
	ran := func(state JobState, d wire.Disk, kinds ...wire.EventKind) *Job {
		j := &Job{State: state, Created: now, Taken: kinds, Approval: &Approval{Disk: d.DiskID}}
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
		back  time.Time
		says  string // empty: it may go
	}{
		"imaged":                          {[]*Job{imaged}, []wire.Disk{a}, time.Time{}, ""},
		"booted":                          {[]*Job{booted}, []wire.Disk{data(a, wire.ClassData)}, time.Time{}, ""},
		"imaged after a failure":          {[]*Job{failed, imaged}, []wire.Disk{a}, time.Time{}, ""},
		"imaged, and another one refused": {[]*Job{imaged, never}, []wire.Disk{a}, time.Time{}, ""},
		"erased and imaged":               {[]*Job{erased(a), imaged}, []wire.Disk{a}, time.Time{}, ""},
		"beside a blank one":              {[]*Job{imaged}, []wire.Disk{a, b}, time.Time{}, ""},
		"beside one of ours":              {[]*Job{imaged}, []wire.Disk{a, data(b, wire.ClassOurs)}, time.Time{}, ""},
		"beside a stick":                  {[]*Job{imaged}, []wire.Disk{a, disk("/dev/sdc", 32, func(d *wire.Disk) { d.Transport, d.Class = wire.TransportUSB, wire.ClassData })}, time.Time{}, ""},
		"beside one that was erased":      {[]*Job{imaged, erased(b)}, []wire.Disk{a, data(b, wire.ClassData)}, time.Time{}, ""},
		"another one erased at last":      {[]*Job{imaged, broken(JobFailed, b), erased(b)}, []wire.Disk{a, b}, time.Time{}, ""},
		"the half erased one is out":      {[]*Job{imaged, broken(JobFailed, b)}, []wire.Disk{a}, time.Time{}, ""},
		"imaged after it came back":       {[]*Job{imaged}, []wire.Disk{a}, now.Add(-time.Hour), ""},

		"nothing ever":                {nil, []wire.Disk{a}, time.Time{}, "not been written"},
		"failed":                      {[]*Job{failed}, []wire.Disk{a}, time.Time{}, "not been written"},
		"failed after it was imaged":  {[]*Job{imaged, failed}, []wire.Disk{a}, time.Time{}, "not been written"},
		"cancelled while imaging":     {[]*Job{imaged, ran(Cancelled, a, wire.EventImaging)}, []wire.Disk{a}, time.Time{}, "not been written"},
		"erased only":                 {[]*Job{erased(a)}, []wire.Disk{a}, time.Time{}, "not been written"},
		"lost":                        {[]*Job{ran(JobLost, a, wire.EventImaging)}, []wire.Disk{a}, time.Time{}, "waits or runs"},
		"held":                        {[]*Job{imaged, ran(Held, a)}, []wire.Disk{a}, time.Time{}, "waits or runs"},
		"erased afterwards":           {[]*Job{imaged, erased(a)}, []wire.Disk{a}, time.Time{}, "erased after"},
		"half erased afterwards":      {[]*Job{imaged, broken(JobFailed, a)}, []wire.Disk{a}, time.Time{}, "erased after"},
		"cancelled while erasing":     {[]*Job{imaged, broken(Cancelled, a)}, []wire.Disk{a}, time.Time{}, "erased after"},
		"another one half erased":     {[]*Job{imaged, broken(JobFailed, b)}, []wire.Disk{a, b}, time.Time{}, "did not end well"},
		"another one half written":    {[]*Job{ran(JobFailed, b, wire.EventImaging), imaged}, []wire.Disk{a, b}, time.Time{}, "did not end well"},
		"another one holds something": {[]*Job{imaged}, []wire.Disk{a, data(b, wire.ClassData)}, time.Time{}, "neither erased nor imaged"},
		"another one is structured":   {[]*Job{imaged}, []wire.Disk{a, data(b, wire.ClassStructured)}, time.Time{}, "neither erased nor imaged"},
		"another one is locked":       {[]*Job{imaged}, []wire.Disk{a, data(b, wire.ClassLocked)}, time.Time{}, "neither erased nor imaged"},
		"another one can't be written": {[]*Job{imaged}, []wire.Disk{a, disk("/dev/sdb", 9, func(d *wire.Disk) { d.ReadOnly, d.Class = true, wire.ClassData })}, time.Time{},
			"neither erased nor imaged"},
		"the disk is out":          {[]*Job{imaged}, nil, time.Time{}, "no longer in this PC"},
		"the disk was swapped":     {[]*Job{imaged}, []wire.Disk{b}, time.Time{}, "no longer in this PC"},
		"imaged before it was out": {[]*Job{imaged}, []wire.Disk{a}, now.Add(time.Hour), "not been written"},
	} {
		err := unfit(&Device{Report: wire.Report{Disks: c.disks}, Back: c.back}, c.jobs)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
