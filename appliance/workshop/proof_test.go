package workshop

import (
	"slices"
	"strings"
	"testing"

	"refurb/agent/wire"
)

func TestUnproven(t *testing.T) {
	id := wire.DiskID{Path: "/dev/sda", Serial: "S1", Bytes: 9e9, LogicalBlock: 512}
	job := Job{State: Verifying, Bytes: 8e9, Image: "root", Approval: &Approval{Disk: id}}
	good := wire.Outcome{Result: wire.Done, ReadBack: 8e9, Root: "root", Disk: &id}
	if why := unproven(&job, &good); why != "" {
		t.Fatal(why)
	}
	for name, f := range map[string]func(*Job, *wire.Outcome){
		"not reading back":  func(j *Job, o *wire.Outcome) { j.State = Imaging },
		"approved only":     func(j *Job, o *wire.Outcome) { j.State = Approved },
		"a byte less":       func(j *Job, o *wire.Outcome) { o.ReadBack-- },
		"a byte more":       func(j *Job, o *wire.Outcome) { o.ReadBack++ },
		"nothing":           func(j *Job, o *wire.Outcome) { o.ReadBack = 0 },
		"a mismatch":        func(j *Job, o *wire.Outcome) { o.Mismatches = 1 },
		"fewer than none":   func(j *Job, o *wire.Outcome) { o.Mismatches = -1 },
		"another image":     func(j *Job, o *wire.Outcome) { o.Root = "other" },
		"no image":          func(j *Job, o *wire.Outcome) { o.Root = "" },
		"no image anywhere": func(j *Job, o *wire.Outcome) { o.Root, j.Image = "", "" },
		"no size anywhere":  func(j *Job, o *wire.Outcome) { o.ReadBack, j.Bytes = 0, 0 },
		"another disk": func(j *Job, o *wire.Outcome) {
			o.Disk = &wire.DiskID{Path: "/dev/sda", Serial: "S2", Bytes: 9e9, LogicalBlock: 512}
		},
		"no approval":        func(j *Job, o *wire.Outcome) { j.Approval = nil },
		"the job erases":     func(j *Job, o *wire.Outcome) { j.Erase = &EraseOrder{} },
		"a failed self-test": func(j *Job, o *wire.Outcome) { o.SelfTest = &wire.SelfTest{State: wire.TestFailed} },
	} {
		j, o := job, good
		f(&j, &o)
		if unproven(&j, &o) == "" {
			t.Errorf("%s: taken for a proof", name)
		}
	}
}

func erasure() (Job, wire.Outcome) {
	id := wire.DiskID{Path: "/dev/sda", Serial: "S1", Bytes: 9e9, LogicalBlock: 512}
	job := Job{State: Erasing, Approval: &Approval{Disk: id}, Erase: &EraseOrder{Check: wire.CheckFull, Seed: "5eed"}}
	return job, wire.Outcome{Result: wire.Done, Disk: &id, Erasure: &wire.Erasure{
		Result: wire.Erased, Level: wire.LevelPurge,
		Steps: []wire.EraseStep{
			{Method: "nvme sanitize crypto", Level: wire.LevelPurge, Why: "the disk doesn't know it"},
			{Method: "nvme sanitize block", Level: wire.LevelPurge, Command: "84h SANACT=2", Code: "SSTAT=1h", Result: wire.Done},
		},
		Check: wire.ReadCheck{Kind: wire.CheckFull, Seed: "5eed", Expect: "zero", Bytes: 9e9},
	}}
}

// Every way to claim an erasure that wasn't proved.
func TestUnerased(t *testing.T) {
	type change func(*Job, *wire.Outcome)
	sampled := func(j *Job, o *wire.Outcome) {
		j.Erase.Check, o.Erasure.Check.Kind, o.Erasure.Check.Bytes = wire.CheckSample, wire.CheckSample, 1e6
	}
	overwritten := func(_ *Job, o *wire.Outcome) {
		o.Erasure.Level, o.Erasure.Steps[1].Level = wire.LevelClear, wire.LevelClear
	}
	for name, f := range map[string]change{
		"as it should be":              func(*Job, *wire.Outcome) {},
		"samples":                      sampled,
		"samples were asked, all read": func(j *Job, o *wire.Outcome) { j.Erase.Check = wire.CheckSample },
		"an overwrite":                 overwritten,
		"an overwrite after a purge that failed": func(j *Job, o *wire.Outcome) {
			overwritten(j, o)
			o.Erasure.Steps[0].Result, o.Erasure.Steps[0].Command = wire.Failed, "84h"
		},
		"a purge and an overwrite": func(_ *Job, o *wire.Outcome) {
			o.Erasure.Steps[0] = wire.EraseStep{Level: wire.LevelClear, Command: "write", Result: wire.Done}
		},
		"hidden areas, purged": func(_ *Job, o *wire.Outcome) { o.Erasure.Hidden = &wire.HiddenArea{Visible: 9e9, Native: 10e9} },
		"no hidden areas, cleared": func(j *Job, o *wire.Outcome) {
			overwritten(j, o)
			o.Erasure.Hidden = &wire.HiddenArea{Visible: 9e9, Native: 9e9, Real: 9e9}
		},
	} {
		j, o := erasure()
		f(&j, &o)
		if e := end(&j, &o); e != (ending{to: Erased, result: "ok"}) {
			t.Errorf("%s: %+v", name, e)
		}
	}
	for name, c := range map[string]struct {
		change change
		result string
	}{
		"the job images":         {func(j *Job, _ *wire.Outcome) { j.Erase = nil }, "failed"},
		"approved only":          {func(j *Job, _ *wire.Outcome) { j.State = Approved }, "failed"},
		"imaging":                {func(j *Job, _ *wire.Outcome) { j.State = Imaging }, "failed"},
		"nothing of the erasing": {func(_ *Job, o *wire.Outcome) { o.Erasure = nil }, "failed"},
		"a read-back instead": {func(j *Job, o *wire.Outcome) {
			o.Erasure, j.Bytes, j.Image, o.ReadBack, o.Root = nil, 9e9, "r", 9e9, "r"
		}, "failed"},
		"with exceptions":             {func(_ *Job, o *wire.Outcome) { o.Erasure.Result = wire.ErasedExceptions }, "failed"},
		"not erased":                  {func(_ *Job, o *wire.Outcome) { o.Erasure.Result = wire.NotErased }, "failed"},
		"not known":                   {func(_ *Job, o *wire.Outcome) { o.Erasure.Result = wire.ErasureUnknown }, "unknown"},
		"no word":                     {func(_ *Job, o *wire.Outcome) { o.Erasure.Result = "" }, "unknown"},
		"another word":                {func(_ *Job, o *wire.Outcome) { o.Erasure.Result = "true" }, "unknown"},
		"a word in capitals":          {func(_ *Job, o *wire.Outcome) { o.Erasure.Result = "ERASED" }, "unknown"},
		"failed, but erased":          {func(_ *Job, o *wire.Outcome) { o.Result = wire.Failed }, "failed"},
		"unknown, but erased":         {func(_ *Job, o *wire.Outcome) { o.Result = wire.Unknown }, "unknown"},
		"no result, but erased":       {func(_ *Job, o *wire.Outcome) { o.Result = "" }, "unknown"},
		"a garbled result":            {func(_ *Job, o *wire.Outcome) { o.Result = "Done" }, "unknown"},
		"unknown, with exceptions":    {func(_ *Job, o *wire.Outcome) { o.Result, o.Erasure.Result = wire.Unknown, wire.ErasedExceptions }, "unknown"},
		"done, with exceptions named": {func(_ *Job, o *wire.Outcome) { o.Erasure.Exceptions = []string{"12 sectors"} }, "failed"},
		"no disk":                     {func(_ *Job, o *wire.Outcome) { o.Disk = nil }, "failed"},
		"another disk": {func(_ *Job, o *wire.Outcome) {
			o.Disk.Serial = "S2"
			o.Disk = &wire.DiskID{Serial: "S2", Bytes: 9e9, LogicalBlock: 512}
		}, "failed"},
		"its twin": {func(j *Job, o *wire.Outcome) {
			j.Approval.ByPath = true
			d := *o.Disk
			d.Path = "/dev/sdb"
			o.Disk = &d
		}, "failed"},
		"no approval":                       {func(j *Job, _ *wire.Outcome) { j.Approval = nil }, "failed"},
		"no steps":                          {func(_ *Job, o *wire.Outcome) { o.Erasure.Steps = nil }, "failed"},
		"no step done":                      {func(_ *Job, o *wire.Outcome) { o.Erasure.Steps[1].Result = wire.Failed }, "failed"},
		"a step of unknown end":             {func(_ *Job, o *wire.Outcome) { o.Erasure.Steps[1].Result = wire.Unknown }, "failed"},
		"a step not given":                  {func(_ *Job, o *wire.Outcome) { o.Erasure.Steps[1].Result = "" }, "failed"},
		"a step without a command":          {func(_ *Job, o *wire.Outcome) { o.Erasure.Steps[1].Command = "" }, "failed"},
		"a step that amounts to nothing":    {func(_ *Job, o *wire.Outcome) { o.Erasure.Steps[1].Level = wire.LevelNone }, "failed"},
		"a clear that calls itself a purge": {func(_ *Job, o *wire.Outcome) { o.Erasure.Steps[1].Level = wire.LevelClear }, "failed"},
		"no level":                          {func(_ *Job, o *wire.Outcome) { o.Erasure.Level = "" }, "failed"},
		"no reading":                        {func(_ *Job, o *wire.Outcome) { o.Erasure.Check = wire.ReadCheck{} }, "failed"},
		"samples instead of all":            {func(_ *Job, o *wire.Outcome) { o.Erasure.Check.Kind, o.Erasure.Check.Bytes = wire.CheckSample, 1e6 }, "failed"},
		"samples that cover all":            {func(_ *Job, o *wire.Outcome) { o.Erasure.Check.Kind = wire.CheckSample }, "failed"},
		"all, but a byte":                   {func(_ *Job, o *wire.Outcome) { o.Erasure.Check.Bytes-- }, "failed"},
		"all, and a byte more":              {func(_ *Job, o *wire.Outcome) { o.Erasure.Check.Bytes++ }, "failed"},
		"all of nothing": {func(j *Job, o *wire.Outcome) {
			o.Erasure.Check.Bytes = 0
			j.Approval.Disk.Bytes = 0
			o.Disk = &j.Approval.Disk
		}, "failed"},
		"no samples":                {func(j *Job, o *wire.Outcome) { sampled(j, o); o.Erasure.Check.Bytes = 0 }, "failed"},
		"more samples than disk":    {func(j *Job, o *wire.Outcome) { sampled(j, o); o.Erasure.Check.Bytes = 1e12 }, "failed"},
		"samples of its own choice": {func(j *Job, o *wire.Outcome) { sampled(j, o); o.Erasure.Check.Seed = "other" }, "failed"},
		"samples from no seed":      {func(j *Job, o *wire.Outcome) { sampled(j, o); o.Erasure.Check.Seed = "" }, "failed"},
		"zeroes not expected":       {func(_ *Job, o *wire.Outcome) { o.Erasure.Check.Expect = "data" }, "failed"},
		"an earlier step of unknown end": {func(_ *Job, o *wire.Outcome) {
			o.Erasure.Steps[0].Command, o.Erasure.Steps[0].Result = "84h SANACT=4", wire.Unknown
		}, "failed"},
		"an earlier step of no end": {func(_ *Job, o *wire.Outcome) { o.Erasure.Steps[0].Command = "84h SANACT=4" }, "failed"},
		"anything expected":         {func(_ *Job, o *wire.Outcome) { o.Erasure.Check.Expect = "" }, "failed"},
		"a mismatch":                {func(_ *Job, o *wire.Outcome) { o.Erasure.Check.Mismatches = 1 }, "failed"},
		"a read error":              {func(_ *Job, o *wire.Outcome) { o.Erasure.Check.Errors = 1 }, "failed"},
		"a hidden area, cleared": {func(j *Job, o *wire.Outcome) {
			overwritten(j, o)
			o.Erasure.Hidden = &wire.HiddenArea{Visible: 9e9, Native: 10e9}
		}, "failed"},
		"a real size, cleared": {func(j *Job, o *wire.Outcome) {
			overwritten(j, o)
			o.Erasure.Hidden = &wire.HiddenArea{Visible: 9e9, Real: 10e9}
		}, "failed"},
		"a size of its own, cleared": {func(j *Job, o *wire.Outcome) {
			overwritten(j, o)
			o.Erasure.Hidden = &wire.HiddenArea{Visible: 10e9, Native: 10e9}
		}, "failed"},
	} {
		j, o := erasure()
		c.change(&j, &o)
		e := end(&j, &o)
		if e.to != JobFailed || e.result != c.result || e.reason == "" {
			t.Errorf("%s: %+v", name, e)
		}
		if o.Result == wire.Done && e.next == "" {
			t.Errorf("%s: it doesn't say what to do", name)
		}
	}
	j, o := erasure()
	o.Erasure.Result, o.Erasure.Exceptions = wire.ErasedExceptions, []string{"12 sectors couldn't be written"}
	if e := end(&j, &o); !strings.Contains(e.reason, "12 sectors") {
		t.Error(e.reason)
	}
}

// Whatever words stand where a result belongs: there is one that is success.
func FuzzEnd(f *testing.F) {
	f.Add("done", "erased", "done", "purge", true)
	f.Add("", "", "", "", false)
	f.Add("Done", "erased ", "unknown", "clear", true)
	f.Fuzz(func(t *testing.T, result, erased, step, level string, erase bool) {
		id := wire.DiskID{Path: "/dev/sda", Serial: "S1", Bytes: 8e9, LogicalBlock: 512}
		j, o := Job{State: Verifying, Bytes: 8e9, Image: "root", Approval: &Approval{Disk: id}}, wire.Outcome{ReadBack: 8e9, Root: "root", Disk: &id}
		if erase {
			j, o = erasure()
			o.Erasure.Result, o.Erasure.Steps[1].Result, o.Erasure.Level = wire.ErasureResult(erased), wire.Result(step), wire.Level(level)
		}
		o.Result = wire.Result(result)
		e := end(&j, &o)
		want := result == "done" && (!erase || erased == "erased" && step == "done" && level == "purge")
		if (e.to != JobFailed) != want || (e.result == "ok") != want || !slices.Contains([]string{"ok", "failed", "unknown"}, e.result) {
			t.Fatalf("%+v", e)
		}
	})
}
