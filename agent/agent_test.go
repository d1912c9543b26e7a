package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/disk"
	"refurb/agent/screen"
	"refurb/agent/wire"
	"refurb/images"
)

func TestOnePC(t *testing.T) {
	a := start(t, nil)
	p := newPC(t, a)
	out, err := p.run(t.Context())
	if err != nil || out.Result != wire.Done || out.ReadBack != out.Raw || out.Raw != int64(len(a.raw)) {
		t.Fatalf("%+v, %v", out, err)
	}
	if got := a.kinds(); !slices.Equal(got, []string{"1imaging", "2verifying", "3outcome"}) {
		t.Fatalf("events %v", got)
	}
	if d := a.events[0].Disk; d == nil || *d != p.id {
		t.Fatalf("the imaging event names %+v, not %+v", d, p.id)
	}
	if o := a.outcome(); o.Streams != 3 || o.Result != wire.Done || *o.Disk != p.id {
		t.Fatalf("outcome %+v", o)
	}
	got, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(a.raw)
	slot := fmt.Appendf(nil, "%-*s\n", images.SlotSize-1, `{"url":"https://10.77.0.1:8443/v1/checkin","pin":"p","token":"check-in"}`)
	copy(want[2<<20:], slot)
	if !bytes.Equal(got[:len(want)], want) || !images.Zero(got[len(want):]) {
		t.Fatal("the disk holds something else")
	}
	if !p.showed(func(v screen.View) bool { return v.Kind == screen.Done && v.Number == 42 && v.Title == "Finished" }) {
		t.Fatal("the screen never said that it is finished")
	}
}

// The appliance is away, answers nonsense and takes events twice: the outcome
// arrives all the same, and the screen says what it waits for.
func TestApplianceStumbles(t *testing.T) {
	var n int
	var mu sync.Mutex
	a := start(t, func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			n++
			switch n % 4 {
			case 1:
				panic(http.ErrAbortHandler)
			case 2:
				return refuse(w, 503, wire.Error{Message: "the store is busy"})
			}
			return false
		}
	})
	p := newPC(t, a)
	out, err := p.run(t.Context())
	if err != nil || out.Result != wire.Done {
		t.Fatalf("%+v, %v", out, err)
	}
	if o := a.outcome(); o == nil || o.Result != wire.Done {
		t.Fatalf("the appliance has %+v", o)
	}
	if !p.showed(func(v screen.View) bool {
		return len(v.Lines) > 0 && strings.HasPrefix(v.Lines[0], "waiting for the appliance")
	}) {
		t.Fatal("the screen never said that the appliance doesn't answer")
	}
}

// What a PC waits for while others come first, or while the appliance is away, is
// on its screen.
func TestScreenSaysWhy(t *testing.T) {
	const turn = "It waits for its turn."
	said := func(v screen.View) bool { return v.Detail == turn && v.Title == "Writing" }
	away := func(v screen.View) bool {
		return v.Title == "Writing" && len(v.Lines) > 0 && strings.HasPrefix(v.Lines[0], "waiting for the appliance")
	}
	var p atomic.Pointer[pc]
	a := start(t, func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			seen := p.Load().showed
			switch {
			case r.URL.Path == wire.PathProgress && !seen(away):
				return refuse(w, 503, wire.Error{Message: "the store is busy"})
			case r.URL.Path == wire.PathShare && !(seen(said) && seen(away)):
				json.NewEncoder(w).Encode(wire.Order{Serial: 1, Key: "k", Why: turn})
				return true
			case r.URL.Path == wire.PathShare:
				json.NewEncoder(w).Encode(wire.Order{Serial: 2, Key: "k", Depot: true})
				return true
			}
			return false
		}
	})
	p.Store(newPC(t, a))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if out, err := p.Load().run(ctx); err != nil || out.Result != wire.Done {
		t.Fatalf("%+v, %v", out, err)
	}
}

func TestNotDone(t *testing.T) {
	for _, c := range []struct {
		name   string
		meddle func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool
		before func(t *testing.T, a *appliance, p *pc)
		cause  string
		next   string
		kept   bool // the disk was not touched
	}{
		{name: "stopped by a person", cause: "stopped by the workshop: Ana: wrong image", next: "dashboard",
			meddle: func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
				return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
					if r.URL.Path == wire.PathProgress {
						json.NewEncoder(w).Encode(wire.ProgressReply{Stop: true, Why: "Ana: wrong image"})
						return true
					}
					// The first write waits until the wish to stop has come through.
					return r.URL.Path == wire.PathEvent && bytes.Contains(body, []byte(`"kind":"verifying"`)) && sleep(r.Context(), 5*time.Second)
				}
			}},
		{name: "may not begin", cause: "The approval has expired", next: "Approve it again", kept: true,
			meddle: func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
				return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
					if r.URL.Path == wire.PathEvent && bytes.Contains(body, []byte(`"kind":"imaging"`)) {
						return refuse(w, 409, wire.Error{Message: "The approval has expired", Next: "Approve it again"})
					}
					return false
				}
			}},
		{name: "another disk", cause: "its serial number is none, not \"S1\"", next: "start this PC again", kept: true,
			before: func(t *testing.T, a *appliance, p *pc) { id := p.id; id.Serial = "S1"; a.plan.Disk = &id }},
		{name: "another size", cause: "its size is", next: "start this PC again", kept: true,
			before: func(t *testing.T, a *appliance, p *pc) { id := p.id; id.Bytes++; a.plan.Disk = &id }},
		{name: "no disk any more", cause: "gone", next: "plugged in", kept: true,
			before: func(t *testing.T, a *appliance, p *pc) {
				id := p.id
				id.Path = "/dev/nosuchdisk"
				a.plan.Disk = &id
			}},
		{name: "somebody's data", cause: "holds \"data\" now: unknown data", next: "approve it again", kept: true,
			before: func(t *testing.T, a *appliance, p *pc) {
				if out, err := exec.Command("dd", "if=/dev/urandom", "of="+p.id.Path, "bs=4096", "count=1", "seek=2", "oflag=direct").CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}},
		{name: "its content changes while it waits to begin", cause: `holds "encrypted" now: luks`, next: "approve it again", kept: true,
			meddle: func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
				return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
					if e := (wire.Event{}); r.URL.Path == wire.PathEvent && json.Unmarshal(body, &e) == nil && e.Kind == wire.EventImaging {
						// Somebody writes to it on its way to us, as another path to it could.
						if err := luksHeader(e.Disk.Path); err != nil {
							t.Error(err)
						}
					}
					return false
				}
			}},
		{name: "another image's manifest", cause: "manifest of another image", next: "check the image", kept: true,
			before: func(t *testing.T, a *appliance, p *pc) { a.plan.Image.Root = strings.Repeat("ab", 32) }},
		{name: "a manifest by somebody else", cause: "not signed by this key", next: "check the image", kept: true,
			before: func(t *testing.T, a *appliance, p *pc) { p.cfg.Key, _, _ = ed25519.GenerateKey(nil) }},
		{name: "no manifest", cause: "404", kept: true,
			before: func(t *testing.T, a *appliance, p *pc) { a.plan.Image.ManifestURL += "x" }},
		{name: "a plan without a disk", cause: "names no disk", kept: true,
			before: func(t *testing.T, a *appliance, p *pc) { a.plan.Disk = nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := start(t, c.meddle)
			p := newPC(t, a)
			if c.before != nil {
				c.before(t, a, p)
			}
			was, err := os.ReadFile(p.file)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); p.run(ctx) }()
			for deadline := time.Now().Add(20 * time.Second); a.outcome() == nil; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("no outcome")
				}
			}
			o := a.outcome()
			if o.Result != wire.Failed || !strings.Contains(o.Cause, c.cause) || !strings.Contains(o.Next, c.next) || o.Next == "" {
				t.Fatalf("outcome %+v", o)
			}
			time.Sleep(50 * time.Millisecond)
			select {
			case <-ended:
				t.Fatal("the PC restarts without anybody having read why it failed")
			default:
			}
			cancel()
			<-ended
			if !p.showed(func(v screen.View) bool { return v.Kind == screen.Failed && v.Detail == o.Cause && v.Next == o.Next }) {
				t.Fatal("the screen doesn't say why")
			}
			now, err := os.ReadFile(p.file)
			if err != nil {
				t.Fatal(err)
			}
			if i := 0x400000; string(now[i:i+4]) == "SKUL" {
				clear(now[i : i+6]) // that was not us
			}
			if c.kept && !bytes.Equal(was, now) {
				t.Fatal("the disk was written to")
			}
			if !images.Zero(now[:512]) {
				t.Fatal("the disk may start")
			}
		})
	}
}

// luksHeader puts LUKS2's second header where it may lie, so that the disk's head
// stays zero.
func luksHeader(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := disk.Buffer(4096)
	copy(b, "SKUL\xba\xbe")
	_, err = f.WriteAt(b, 0x400000)
	return err
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	return true
}

// A record for another disk, or one that nobody signed, is not put on a disk.
func TestForeignBirth(t *testing.T) {
	for name, sign := range map[string]func(a *appliance, p *pc) []byte{
		"for another job or disk": func(a *appliance, p *pc) []byte {
			id := p.id
			id.Serial = "S1"
			b, err := wire.SignBirth(wire.Birth{Job: "j1", Disk: id, Root: a.manifest.Root.String()}, a.private)
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
		"not signed by this appliance": func(a *appliance, p *pc) []byte {
			_, key, _ := ed25519.GenerateKey(nil)
			b, _ := wire.SignBirth(wire.Birth{Job: "j1", Disk: p.id, Root: a.manifest.Root.String()}, key)
			return b
		},
	} {
		a := start(t, nil)
		p := newPC(t, a)
		a.plan.Image.Birth = sign(a, p)
		out, err := p.run(t.Context())
		if err != nil || out.Result != wire.Done || out.Birth != "" || len(out.Warnings) == 0 || !strings.Contains(strings.Join(out.Warnings, " "), name) {
			t.Errorf("%s: %+v %v", name, out, err)
		}
	}
}

func TestHeldThenApproved(t *testing.T) {
	a := start(t, nil)
	p := newPC(t, a)
	a.plan.Action, a.plan.Reason, a.plan.Next = wire.ActionHold, "no lot is open", "open a lot"
	ended := make(chan wire.Outcome)
	go func() { out, _ := p.run(t.Context()); ended <- out }()
	for !p.showed(func(v screen.View) bool {
		return v.Kind == screen.Waiting && v.Detail == "no lot is open" && v.Next == "open a lot"
	}) {
		time.Sleep(10 * time.Millisecond)
	}
	a.setPlan(func(p *wire.Plan) { p.Action = wire.ActionImage })
	if out := <-ended; out.Result != wire.Done {
		t.Fatalf("%+v", out)
	}
}

func TestLocal(t *testing.T) {
	a := start(t, nil)
	p := newPC(t, a)
	a.plan.Action = wire.ActionLocal
	if out, err := p.run(t.Context()); err != nil || out.Result != "" {
		t.Fatalf("%+v, %v", out, err)
	}
}

// A PC that starts its own disk and may not be given away says so in amber.
func TestLocalAndUnfit(t *testing.T) {
	a := start(t, nil)
	p := newPC(t, a)
	a.plan.Action, a.plan.Unfit, a.plan.Reason, a.plan.Next = wire.ActionLocal, true, "its disk is elsewhere", "put it back"
	if out, err := p.run(t.Context()); err != nil || out.Result != "" {
		t.Fatalf("%+v, %v", out, err)
	}
	if !p.showed(func(v screen.View) bool {
		return v.Kind == screen.Waiting && v.Detail == "its disk is elsewhere" && v.Next == "put it back"
	}) {
		t.Error("the screen doesn't say it")
	}
}

// An agent that crashed in the middle comes back within the same boot and goes
// on; in another boot, or for another disk, the data on the disk is somebody's.
func TestCrashAndAgain(t *testing.T) {
	a := start(t, nil)
	p := newPC(t, a)
	if err := os.WriteFile(p.id.Path, bytes.Repeat([]byte("half an image"), 1<<16), 0); err != nil {
		t.Fatal(err)
	}
	j := &job{agent: newAgent(p.cfg), plan: a.plan}
	if j.begun() != 0 {
		t.Fatal("begun before it began")
	}
	if err := j.begin(p.id); err != nil {
		t.Fatal(err)
	}
	other := &job{agent: j.agent, plan: a.plan}
	other.plan.Job = "j2"
	if j.begun() != 1 || other.begun() != 0 {
		t.Fatal("the note is for this job alone")
	}
	if out, err := p.run(t.Context()); err != nil || out.Result != wire.Done {
		t.Fatalf("%+v, %v", out, err)
	}
}

// A job that crashes each time it is begun ends as failed, before the disk is
// touched again.
func TestCrashesForEver(t *testing.T) {
	a := start(t, nil)
	p := newPC(t, a)
	j := &job{agent: newAgent(p.cfg), plan: a.plan}
	for range maxBegun {
		if err := j.begin(p.id); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if out := j.image(ctx, a.plan); out.Result != wire.Failed || !strings.Contains(out.Cause, "crashed 3 times") || out.Next == "" {
		t.Fatalf("%+v", out)
	}
	if got := a.kinds(); !slices.Equal(got, []string{"1outcome"}) {
		t.Fatalf("events %v", got)
	}
}

// The workshop stores the outcome of a job that was cancelled at the last moment
// and goes by its own: the screen must not say that the PC is finished.
func TestDoneButCancelled(t *testing.T) {
	a := start(t, nil)
	a.disbelieve = true
	p := newPC(t, a)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error)
	go func() { _, err := p.run(ctx); ended <- err }()
	for !p.showed(func(v screen.View) bool { return v.Kind == screen.Failed && v.Detail == "cancelled by Ana" }) {
		select {
		case err := <-ended:
			t.Fatalf("the PC restarts without anybody having read why: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	<-ended
	if p.showed(func(v screen.View) bool { return v.Kind == screen.Done }) {
		t.Fatal("the screen said that it is finished")
	}
}

// The outcome is stored; that the appliance then forgets the boot is no failure.
func TestForgottenAfterwards(t *testing.T) {
	a := start(t, func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			return r.URL.Path == wire.PathPlan && refuse(w, 401, wire.Error{Message: "The token has expired"})
		}
	})
	p := newPC(t, a)
	if out, err := p.run(t.Context()); err != nil || out.Result != wire.Done {
		t.Fatalf("%+v, %v", out, err)
	}
	if !p.showed(func(v screen.View) bool { return v.Kind == screen.Done && v.Title == "Finished" }) {
		t.Fatal("the screen never said that it is finished")
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An image that the appliance can't read is answered with 500 for ever.
func TestManifestIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(Config{}, func(error) {})
		c.plain.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 500, Status: "500 Internal Server Error", Body: io.NopCloser(strings.NewReader("disk broken"))}, nil
		})
		start := time.Now()
		_, err := c.manifest(t.Context(), &wire.Image{ManifestURL: "http://10.77.0.1/m"}, nil)
		if e, ok := errors.AsType[*wire.Error](err); !ok || !strings.Contains(e.Message, "500") || e.Next == "" || time.Since(start) != manifestTime {
			t.Fatalf("after %v: %v", time.Since(start), err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("stopped by Ana"))
		if _, err := c.manifest(ctx, &wire.Image{}, nil); err == nil || err.Error() != "stopped by Ana" {
			t.Fatal(err)
		}
	})
}

func TestWrongServer(t *testing.T) {
	a := start(t, nil)
	p := newPC(t, a)
	p.cfg.Pin[0] ^= 1
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := p.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if len(a.reports) > 0 {
		t.Fatal("the report went to a server with another key")
	}
	if !p.showed(func(v screen.View) bool { return len(v.Lines) > 0 && strings.Contains(v.Lines[0], "another key") }) {
		t.Fatal("the screen doesn't say so")
	}
}

func TestUnauthorized(t *testing.T) {
	a := start(t, func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			return refuse(w, 401, wire.Error{Message: "The token has expired"})
		}
	})
	p := newPC(t, a)
	_, err := p.run(t.Context())
	if e, ok := errors.AsType[*wire.Error](err); !ok || e.Message != "The token has expired" || !strings.Contains(e.Next, "start this PC again") {
		t.Fatalf("%v", err)
	}
}
