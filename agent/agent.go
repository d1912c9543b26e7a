// Package agent is what runs on a donated PC: it says what the PC is, asks the
// appliance what to do, and does that.
package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"refurb/agent/disk"
	"refurb/agent/drivers"
	"refurb/agent/erase"
	"refurb/agent/hardware"
	"refurb/agent/health"
	"refurb/agent/link"
	"refurb/agent/screen"
	"refurb/agent/wire"
)

// Config comes from the boot files and the kernel's command line.
type Config struct {
	URL, Token string            // of the appliance, for this boot; without a token it is looked for
	Stick      string            // GUID of the USB stick that the PC started from; empty: the network
	Pin        [32]byte          // SHA-256 of the appliance's SPKI
	Key        ed25519.PublicKey // signs image manifests
	Version    string
	MAC        net.HardwareAddr // of the card that the PC booted from; nil if unknown
	State      string           // a folder that lives as long as this boot
	Show       func(screen.View)
	Log        *slog.Logger
	Bench      *Bench // nil on a PC
}

// ErrShell: a lead has chosen the rescue shell for this start.
var ErrShell = errors.New("a rescue shell is wanted on this PC")

// Run takes one PC through one boot. When it returns without an error, the PC
// has nothing more to do here and restarts: the outcome says whether it was
// imaged; it is the zero value when there was nothing to do. An error is what
// kept it from the appliance, a *wire.Error if the appliance itself refused it.
// While a person has to look at the PC, Run doesn't return.
func Run(ctx context.Context, cfg Config) (wire.Outcome, error) {
	a := newAgent(cfg)
	if b := cfg.Bench; b != nil {
		return a.work(ctx, b.Report(ctx))
	}
	a.show(screen.View{Kind: screen.Working, Title: "Starting", Detail: "loading drivers", Percent: -1})
	var ports link.Ports
	rising, risen := context.WithCancel(ctx)
	defer risen()
	go ports.Raise(rising)
	found, err := drivers.Load(ctx, "/")
	risen()
	if err != nil {
		a.log.Error("drivers", "err", err) // what the kernel has built in may do
	}
	wait := noNetwork{show: a.show, gaps: found.Gaps, last: time.Now(), load: func(ctx context.Context) (drivers.Result, error) { return drivers.Load(ctx, "/") }}
	lease, err := ports.Up(ctx, cfg.MAC, a.log, func(what string) { wait.says(ctx, what) })
	if err != nil {
		return wire.Outcome{}, fmt.Errorf("no network: %w", err)
	}
	a.log.Info("network", "interface", lease.Interface, "address", lease.Address)
	a.lease = lease
	keep, stop := context.WithCancel(ctx)
	defer stop()
	go lease.Keep(keep)
	go link.Arm(a.log) // so that it can be switched on from the dashboard later
	// Network cards ask for their firmware only when the port comes up.
	if later, err := drivers.Load(ctx, "/"); err == nil {
		found.Gaps = later.Gaps
	}

	if cfg.Token == "" {
		local, err := a.join(ctx, lease)
		if err != nil {
			return wire.Outcome{}, err
		}
		if local {
			a.show(screen.View{Kind: screen.Done, Title: "Nothing to do", Detail: "starting from its own disk", Percent: -1,
				Lines: []string{"this PC was started from a stick, and the appliance wants nothing of it"}})
			pause(ctx, a.farewell)
			a.leave(ctx)
			return wire.Outcome{}, nil
		}
	}
	a.show(screen.View{Kind: screen.Working, Title: "Looking at this PC", Percent: -1})
	out, err := a.work(ctx, a.examine(ctx, found))
	if err == nil {
		a.leave(ctx)
	}
	return out, err
}

type agent struct {
	cfg    Config
	log    *slog.Logger
	client *client
	report wire.Report
	lease  *link.Lease // nil in tests that bring no network up
	// How long "finished" stays on the screen.
	farewell time.Duration
	// look makes the report again; present says which disks are there, and is nil
	// where that isn't watched.
	look    func(context.Context) wire.Report
	present func() []string
	disks   disks

	mu      sync.Mutex
	number  int
	view    screen.View
	offline error // why the appliance can't be reached just now
}

func newAgent(cfg Config) *agent {
	a := &agent{cfg: cfg, log: cfg.Log, farewell: 5 * time.Second}
	a.client = newClient(cfg, a.lost)
	if cfg.Bench != nil {
		a.look = cfg.Bench.Report
		return a
	}
	a.present = func() []string { return hardware.Present("/") }
	a.look = func(ctx context.Context) wire.Report {
		found, err := drivers.Load(ctx, "/") // for a controller that came with its disk
		if err != nil {
			a.log.Error("drivers", "err", err)
		}
		return a.examine(ctx, found)
	}
	return a
}

// examine makes the report.
func (a *agent) examine(ctx context.Context, found drivers.Result) wire.Report {
	if a.present != nil {
		a.disks.present = a.present() // what comes while we look is looked at again
	}
	r := hardware.Collect(ctx, "/")
	// Spinning disks take a while to show up.
	for deadline := time.Now().Add(diskWait); len(r.Disks) == 0 && time.Now().Before(deadline) && pause(ctx, time.Second); {
		r.Disks, _ = hardware.Disks("/")
	}
	var looks sync.WaitGroup
	for i := range r.Disks {
		d := &r.Disks[i]
		seen := *d
		looks.Go(func() { d.Health = health.Read(ctx, seen) })
		looks.Go(func() { d.Abilities = erase.Look(ctx, seen.Path, seen.Transport) })
		looks.Go(func() { d.Class, d.Found = disk.Inspect(ctx, d.DiskID, a.cfg.Key) })
	}
	looks.Wait()
	for i := range r.Disks {
		if d := &r.Disks[i]; slices.Contains(d.Found, disk.StickMark) {
			d.InUse = "as a Refurb stick" // never written, however it is plugged in
		}
	}
	r.Agent, r.Stick = a.cfg.Version, a.cfg.Stick
	if l := a.lease; l != nil {
		r.Network = &wire.Network{Card: l.Interface, CarrierMS: l.Carrier.Milliseconds(), AddressMS: l.Waited.Milliseconds()}
	}
	r.Gaps = append(r.Gaps, found.Gaps...)
	for _, f := range found.Failed {
		r.Problems = append(r.Problems, text("driver "+f.Module+": "+f.Reason))
	}
	return r
}

const diskWait = 15 * time.Second

// work reports and follows the plan until there is nothing more to do.
func (a *agent) work(ctx context.Context, r wire.Report) (wire.Outcome, error) {
	a.report = r
	a.remember()
	a.show(screen.View{Kind: screen.Working, Title: "Reporting to the appliance", Percent: -1})
	plan, err := a.client.report(ctx, r)
	if err != nil {
		return wire.Outcome{}, err
	}
	var last wire.Outcome
	tried := map[string]bool{} // jobs that this run has ended
	for {
		a.setNumber(plan.Number)
		switch {
		case plan.Action == wire.ActionImage && !tried[plan.Job]:
			tried[plan.Job] = true
			if last = a.image(ctx, plan); ctx.Err() != nil {
				return last, context.Cause(ctx)
			}
			if last.Result != wire.Done {
				a.show(failed(last.Cause, last.Next))
			}
		case plan.Action == wire.ActionErase && !tried[plan.Job]:
			tried[plan.Job] = true
			out, touched := a.erase(ctx, plan)
			if ctx.Err() != nil {
				return out, context.Cause(ctx)
			}
			if last = (wire.Outcome{}); out.Result != wire.Done {
				last = out
				a.show(failed(out.Cause, out.Next))
			}
			if touched { // the disk holds something else now
				if plan, err = a.lookAgain(ctx); err != nil {
					return last, err
				}
				continue
			}
		case undone(last) && plan.Action != wire.ActionHold:
			// The screen keeps saying what went wrong until somebody acts.
		case last.Result == wire.Done && plan.Action == wire.ActionImage:
			// An outcome is stored whether the workshop believes it or not; the
			// plan that comes of it says which.
		case last.Result == wire.Done && plan.Action == wire.ActionLocal:
			a.show(screen.View{Kind: screen.Done, Title: "Finished", Detail: "restarting", Percent: 100, Lines: last.Warnings})
			pause(ctx, a.farewell)
			return last, nil
		case plan.Action == wire.ActionLocal:
			v := screen.View{Kind: screen.Done, Title: "Nothing to do", Detail: orElse(plan.Reason, "starting from its own disk"), Next: plan.Next, Percent: -1}
			if plan.Unfit {
				v.Kind, v.Title = screen.Waiting, "Not to be given away"
			}
			a.show(v)
			pause(ctx, a.farewell)
			return last, nil
		case plan.Action == wire.ActionHold:
			last = wire.Outcome{}
			a.show(screen.View{Kind: screen.Waiting, Title: "Waiting", Detail: plan.Reason, Next: plan.Next, Percent: -1})
		default:
			last = wire.Outcome{}
			a.show(failed(orElse(plan.Reason, "nothing can be done with this PC"), plan.Next))
		}
		next, err := a.next(ctx, plan.Serial)
		if ctx.Err() != nil {
			return last, context.Cause(ctx)
		}
		if err != nil && last.Result == wire.Done {
			a.log.Warn("no plan after the outcome", "err", err) // a boot that has ended may be forgotten; the outcome is stored
			plan.Action = wire.ActionLocal
			continue
		}
		if err != nil {
			if !undone(last) {
				return last, err
			}
			a.log.Error("no plan", "err", err) // the failure on the screen matters more
			<-ctx.Done()
			return last, context.Cause(ctx)
		}
		if next.Serial == plan.Serial {
			pause(ctx, time.Second) // an appliance that doesn't wait isn't asked all the time
		}
		plan = next
	}
}

// undone tells of a job that a person has to look at.
func undone(o wire.Outcome) bool { return o.Result == wire.Failed || o.Result == wire.Unknown }

func failed(cause, next string) screen.View {
	return screen.View{Kind: screen.Failed, Title: "Failed", Detail: cause, Next: next, Percent: -1}
}

// show puts v on the screen, with the PC's number and, if it is so, that the
// appliance doesn't answer.
func (a *agent) show(v screen.View) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.view = v
	a.paint()
}

func (a *agent) paint() {
	v := a.view
	v.Number = a.number
	if a.offline != nil {
		v.Lines = append(v.Lines[:len(v.Lines):len(v.Lines)], "waiting for the appliance: "+text(a.offline.Error()))
	}
	a.cfg.Show(v)
}

func (a *agent) setNumber(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.number = n
}

// lost is told by the client whether the appliance answers.
func (a *agent) lost(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && a.offline == nil {
		a.log.Warn("the appliance doesn't answer", "err", err)
	}
	changed := (err == nil) != (a.offline == nil)
	a.offline = err
	if changed {
		a.paint()
	}
}

// pause waits, and tells whether ctx lasted.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// text makes one line of a message that goes to the appliance or the screen.
func text(s string) string {
	s = strings.ToValidUTF8(strings.Join(strings.Fields(s), " "), "?")
	if len(s) > wire.MaxText {
		s = strings.ToValidUTF8(s[:wire.MaxText-3], "") + "…"
	}
	return s
}

// refusalOf words any error as cause and next step.
func refusalOf(err error) (cause, next string) {
	if r, ok := errors.AsType[*disk.Refusal](err); ok {
		return r.Message, r.Next
	}
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e.Message, e.Next
	}
	return err.Error(), ""
}
