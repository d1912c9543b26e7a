package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"refurb/agent/erase"
	"refurb/agent/screen"
	"refurb/agent/wire"
	"refurb/images"
)

// eraser is a PC whose disk holds somebody's data, and a plan to erase it.
func eraser(t *testing.T, meddle func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool) (*appliance, *pc) {
	t.Helper()
	a := start(t, meddle)
	p := newPC(t, a)
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-L", "holidays", p.id.Path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	a.plan.Action, a.plan.Content = wire.ActionErase, wire.ClassData
	a.plan.Image, a.plan.Erase = nil, &wire.Erase{Check: wire.CheckFull, Seed: strings.Repeat("a5", 32)}
	return a, p
}

// wipe runs the PC until ctx ends or it has nothing more to do.
func (p *pc) wipe(ctx context.Context) {
	a := newAgent(p.cfg)
	a.farewell, a.present = 0, nil
	report := wire.Report{BootID: "b1", RAM: wire.RAM{Bytes: 1 << 30}, Disks: []wire.Disk{{DiskID: p.id, Transport: wire.TransportVirtio, Class: wire.ClassData}}}
	a.look = func(context.Context) wire.Report {
		r := report
		r.Disks = []wire.Disk{{DiskID: p.id, Transport: wire.TransportVirtio, Class: wire.ClassBlank}}
		return r
	}
	a.work(ctx, report)
}

func (a *appliance) reported() []wire.Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.reports)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never %s", what)
		}
	}
}

func TestEraseOneDisk(t *testing.T) {
	warned := func(v screen.View) bool {
		return v.Kind == screen.Working && v.Title == "Erasing" && strings.Contains(v.Next, "Don't switch")
	}
	var shown func() bool
	a, p := eraser(t, func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			return r.URL.Path == wire.PathEvent && !shown() && refuse(w, 503, wire.Error{Message: "the store is busy"})
		}
	})
	shown = func() bool { return p.showed(warned) }
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // or the screen never says to leave it on
	defer cancel()
	p.wipe(ctx)
	o := a.outcome()
	if o == nil {
		t.Fatal("no outcome")
	}
	if got := a.kinds(); !slices.Equal(got, []string{"1erasing", "2outcome"}) {
		t.Fatalf("events %v", got)
	}
	if d := a.events[0].Disk; d == nil || *d != p.id {
		t.Fatalf("the erasing event names %+v, not %+v", d, p.id)
	}
	e := o.Erasure
	if o.Result != wire.Done || *o.Disk != p.id || e == nil || e.Result != wire.Erased || e.Level != wire.LevelClear ||
		e.Medium != "virtual" || e.Tool != "test" || e.Check.Bytes != p.id.Bytes || e.Check.Mismatches+e.Check.Errors != 0 {
		t.Fatalf("outcome %+v, %+v", o, e)
	}
	now, err := os.ReadFile(p.file)
	if err != nil || !images.Zero(now) {
		t.Fatalf("the disk holds something: %v", err)
	}
	if r := a.reported(); len(r) != 2 || r[1].BootID != "b1" || r[1].Disks[0].Class != wire.ClassBlank {
		t.Fatalf("reports %+v", r)
	}
}

// After an erasing the plan may be to image the same disk, within the same boot.
func TestEraseThenImage(t *testing.T) {
	image := wire.Plan{}
	a, p := eraser(t, func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if r.URL.Path == wire.PathReport && len(a.reported()) == 1 {
				a.setPlan(func(p *wire.Plan) { n := p.Serial; *p = image; p.Serial = n })
			}
			return false
		}
	})
	b := start(t, nil) // only to have its image served
	image = b.plan
	image.Job, image.Disk = "j2", &p.id
	p.cfg.Key = b.key
	p.wipe(t.Context())
	if got := a.kinds(); !slices.Equal(got, []string{"1erasing", "2outcome", "1imaging", "2verifying", "3outcome"}) {
		t.Fatalf("events %v", got)
	}
	if o := a.outcome(); o.Result != wire.Done || o.ReadBack != int64(len(b.raw)) {
		t.Fatalf("%+v", o)
	}
}

func TestNotErased(t *testing.T) {
	for _, c := range []struct {
		name        string
		meddle      func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool
		before      func(a *appliance, p *pc)
		cause, next string
	}{
		{name: "may not begin", cause: "The approval has expired", next: "Approve it again",
			meddle: func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
				return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
					return r.URL.Path == wire.PathEvent && bytes.Contains(body, []byte(`"kind":"erasing"`)) &&
						refuse(w, 409, wire.Error{Message: "The approval has expired", Next: "Approve it again"})
				}
			}},
		{name: "stopped before it began", cause: "stopped by the workshop: Ana: not this one", next: "erasing again",
			meddle: func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
				return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
					if r.URL.Path == wire.PathProgress {
						json.NewEncoder(w).Encode(wire.ProgressReply{Stop: true, Why: "Ana: not this one"})
						return true
					}
					return r.URL.Path == wire.PathEvent && bytes.Contains(body, []byte(`"kind":"erasing"`)) && sleep(r.Context(), 10*time.Second)
				}
			}},
		{name: "another class", cause: "was approved as", next: "approve it again", before: func(a *appliance, p *pc) { a.plan.Content = wire.ClassEncrypted }},
		{name: "another serial", cause: "serial number", next: "start this PC again", before: func(a *appliance, p *pc) { id := p.id; id.Serial = "S1"; a.plan.Disk = &id }},
		{name: "no way to check", cause: "which nobody knows", next: "start this PC again", before: func(a *appliance, p *pc) { a.plan.Erase.Check = "" }},
		{name: "no seed", cause: "seed", next: "start this PC again", before: func(a *appliance, p *pc) { a.plan.Erase.Seed = "" }},
		{name: "not how", cause: "how to erase it", next: "start this PC again", before: func(a *appliance, p *pc) { a.plan.Erase = nil }},
		{name: "crashes for ever", cause: "crashed 3 times", next: "nobody knows", before: func(a *appliance, p *pc) {
			j := &job{agent: newAgent(p.cfg), plan: a.plan}
			for range maxBegun {
				if err := j.begin(p.id); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, p := eraser(t, c.meddle)
			if c.before != nil {
				c.before(a, p)
			}
			was, err := os.ReadFile(p.file)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); p.wipe(ctx) }()
			until(t, "an outcome", func() bool { return a.outcome() != nil })
			o := a.outcome()
			result := wire.Failed
			if c.name == "crashes for ever" {
				result = wire.Unknown
			}
			if o.Result != result || !strings.Contains(o.Cause, c.cause) || !strings.Contains(o.Next, c.next) || o.Erasure != nil || o.Phase != wire.PhaseErasing {
				t.Errorf("outcome %+v", o)
			}
			until(t, "on the screen", func() bool {
				return p.showed(func(v screen.View) bool { return v.Kind == screen.Failed && v.Detail == o.Cause && v.Next == o.Next })
			})
			cancel()
			<-ended
			if got := a.reported(); len(got) != 1 {
				t.Errorf("%d reports of a disk that nobody touched", len(got))
			}
			if now, err := os.ReadFile(p.file); err != nil || !bytes.Equal(was, now) {
				t.Errorf("the disk was written to (%v)", err)
			}
		})
	}
}

// An agent that crashed in the middle comes back within the same boot: whatever
// is on the disk by now, it is the one that was approved.
func TestEraseAfterCrash(t *testing.T) {
	a, p := eraser(t, nil)
	j := &job{agent: newAgent(p.cfg), plan: a.plan}
	if err := j.begin(p.id); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+p.id.Path, "bs=1M", "count=2", "oflag=direct").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	a.plan.Content = wire.ClassEncrypted // as it was then
	p.wipe(t.Context())
	if o := a.outcome(); o == nil || o.Result != wire.Done || o.Erasure.Result != wire.Erased {
		t.Fatalf("%+v", o)
	}
}

// A disk of which nobody knows what it holds keeps saying so: the PC doesn't
// start from it.
func TestUnknownStays(t *testing.T) {
	polled := make(chan struct{})
	poll := sync.OnceFunc(func() { close(polled) })
	a, p := eraser(t, func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if r.URL.Path == wire.PathReport && len(a.reported()) == 1 {
				a.setPlan(func(p *wire.Plan) { p.Action, p.Reason = wire.ActionLocal, "its own disk" })
			}
			if r.URL.Path == wire.PathPlan {
				poll()
			}
			return false
		}
	})
	lost, err := json.Marshal(map[string]any{"Seed": a.plan.Erase.Seed, "Steps": []wire.EraseStep{{
		Method: "nvme sanitize block", Level: wire.LevelPurge, Command: "84h", Result: wire.Unknown, Why: "its status can't be read"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(p.cfg.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.cfg.State, "erasing.json"), lost, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.wipe(ctx) }()
	select {
	case <-polled: // the plan to start it from its disk has come, and the PC waits for another one
	case <-ended:
		t.Error("the PC goes on")
	}
	cancel()
	<-ended
	if o := a.outcome(); o == nil || o.Result != wire.Unknown {
		t.Fatalf("%+v", o)
	}
	if p.showed(func(v screen.View) bool { return v.Kind == screen.Done }) {
		t.Error("the screen says that there is nothing to do")
	}
}

func TestErasedWords(t *testing.T) {
	for _, c := range []struct {
		e       wire.Erasure
		stopped error
		result  wire.Result
		cause   string
	}{
		{e: wire.Erasure{Result: wire.Erased}, result: wire.Done},
		{e: wire.Erasure{Result: wire.ErasedExceptions, Exceptions: []string{"one", "two"}}, result: wire.Failed, cause: "with exceptions: one; two"},
		{e: wire.Erasure{Result: wire.NotErased, Steps: []wire.EraseStep{{Method: "overwrite", Result: wire.Failed, Why: "gone"}}}, result: wire.Failed, cause: "not erased: overwrite: gone"},
		{e: wire.Erasure{Result: wire.NotErased, Check: wire.ReadCheck{Mismatches: 1}}, result: wire.Failed, cause: "still holds something"},
		{e: wire.Erasure{Result: wire.ErasureUnknown}, result: wire.Unknown, cause: "nobody knows"},
		{e: wire.Erasure{Result: wire.ErasureUnknown}, stopped: &wire.Error{Message: "stopped by Ana"}, result: wire.Unknown, cause: "stopped by Ana"},
		{e: wire.Erasure{}, result: wire.Unknown, cause: "nobody knows"},
	} {
		o := erased(&c.e, c.stopped)
		if o.Result != c.result || !strings.Contains(o.Cause, c.cause) || (c.result == wire.Done) != (o.Next == "") || o.Erasure != &c.e {
			t.Errorf("%+v: %+v", c.e, o)
		}
	}
}

// The kinds of disks that the report has are those that Look can ask.
func TestLookAsksNobodyElse(t *testing.T) {
	for _, transport := range []string{wire.TransportVirtio, wire.TransportUSB, wire.TransportMMC, wire.TransportOther} {
		if a := erase.Look(t.Context(), "/dev/null", transport); a != nil {
			t.Errorf("%s: %+v", transport, a)
		}
	}
	for _, transport := range []string{wire.TransportSATA, wire.TransportNVMe, wire.TransportSCSI} {
		if a := erase.Look(t.Context(), "/dev/null", transport); a == nil || a.Error == "" {
			t.Errorf("%s: %+v", transport, a)
		}
		if a := erase.Look(t.Context(), "/dev/nosuchdisk", transport); a == nil || !strings.Contains(a.Error, "no such") {
			t.Errorf("%s: %+v", transport, a)
		}
	}
}
