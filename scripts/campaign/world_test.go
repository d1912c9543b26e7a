package campaign

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"refurb/agent"
	"refurb/agent/disk"
	"refurb/agent/screen"
	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// world is one run: one PC, one appliance, one lead, and what goes wrong.
type world struct {
	seed   uint64
	script *script
	judge  *judge
	net    *network
	house  *house
	pc     *pc

	mu     sync.Mutex
	rand   *rand.Rand
	drives map[string]*medium // by path, as they are plugged in now
	all    []*medium
	picture
	standing bool
	latency  time.Duration       // of the disk
	pace     time.Duration       // of the network, by 32 KiB
	erase    *workshop.EraseWish // what the lead wants first
	broken   mutant
	over     atomic.Bool
	tasks    sync.WaitGroup
}

// pc is the machine: its power, its disks' places, and the agents on it.
type pc struct {
	w      *world
	events chan string // "power", "crash", "failed"

	mu      sync.Mutex
	running *process
}

// process is one life of the agent's program.
type process struct {
	w     *world
	token string
	dead  atomic.Bool

	mu    sync.Mutex
	conns []*conn
}

const (
	mac      = "52:54:00:12:34:56"
	maxBoots = 4
	patience = 3 * time.Hour // of people with one boot
	target   = "/dev/campaign-a"
)

// newWorld draws a run from its seed.
func newWorld(seed uint64, dir string) *world {
	r := rand.New(rand.NewPCG(seed, 4))
	w := &world{seed: seed, rand: r, drives: map[string]*medium{}}
	w.script = &script{passed: map[string]int{}, hit: map[string]int{}, start: time.Now()}
	w.judge, w.net = newJudge(w), newNetwork(w)
	w.house, w.pc = &house{w: w, dir: dir}, &pc{w: w, events: make(chan string, 100)}
	w.picture = *shelf.pictures[[]int{0, 0, 2, 3, 1, 1}[r.IntN(6)]]

	size := w.m.Bytes + []int64{0, 512 * 7 * 8, 3 << 20}[r.IntN(3)]
	d := w.drive("TARGET", target, size, w.m.Block)
	if d.Rotational = r.IntN(3) == 0; !d.Rotational {
		d.Transport, d.firmware = wire.TransportNVMe, &firmware{sanicap: r.Uint32N(4)}
	}
	switch r.IntN(4) {
	case 0: // somebody's data
		for i := range 4096 {
			d.data[i] = byte(r.Uint32())
		}
		for i := 4096; i < 2<<20; i *= 2 {
			copy(d.data[i:2*i], d.data)
		}
	case 1: // a table and nothing behind it
		gpt(d.data, w.m.Block)
	}
	d.remember()
	w.plug(d)
	// A stick that nobody may ever write, and in half of all PCs a second disk.
	stick := w.drive("STICK", "/dev/campaign-b", 4<<20, 512)
	stick.Transport, stick.Removable = wire.TransportUSB, true
	w.plug(stick)
	if r.IntN(2) == 0 {
		second := w.drive("SECOND", "/dev/campaign-c", size, w.m.Block)
		copy(second.data[1<<20:], "somebody's letters")
		w.plug(second)
	}
	// A slow disk or network: frames are flushed, claimed and read back while
	// others still come.
	w.latency = []time.Duration{time.Millisecond, time.Millisecond, 150 * time.Millisecond, 900 * time.Millisecond}[r.IntN(4)]
	w.pace = []time.Duration{0, 20 * time.Millisecond, 300 * time.Millisecond}[r.IntN(3)]
	w.standing = r.IntN(2) == 0
	if r.IntN(3) == 0 {
		w.standing = false
		w.erase = &workshop.EraseWish{Check: []wire.CheckKind{wire.CheckFull, wire.CheckFull, wire.CheckSample}[r.IntN(3)], Install: r.IntN(2) == 0}
	}
	w.script.faults = draw(r)
	return w
}

func (w *world) plug(d *medium) {
	w.drives[d.Path] = d
	w.all = append(w.all, d)
}

func (w *world) at(path string) *medium {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.drives[path]
}

func (w *world) bySerial(serial string) *medium {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.all, func(d *medium) bool { return d.Serial == serial })
	if i < 0 {
		return nil
	}
	return w.all[i]
}

func (w *world) draw(n uint64) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.Uint64N(n)
}

// later does something after a while, unless the run is over by then.
func (w *world) later(d time.Duration, f func()) {
	w.tasks.Go(func() {
		for end := time.Now().Add(d); time.Now().Before(end) && !w.over.Load(); {
			time.Sleep(min(time.Until(end), 10*time.Second))
		}
		if !w.over.Load() {
			f()
		}
	})
}

// run is the whole story of one PC.
func (w *world) run() {
	if err := w.house.start(); err != nil {
		w.blame("harness", "%v", err)
		return
	}
	w.tasks.Go(w.lead)
	for _, f := range w.script.faults {
		if f.place == "clock" {
			w.later(time.Duration(f.arg%30_000)*time.Millisecond, func() { w.due("clock") })
		}
	}
	for n := range maxBoots {
		local, token := w.house.boot(mac)
		if local {
			w.say("the PC starts from its own disk")
			break
		}
		w.say("the PC starts the agent, time %d", n+1)
		if w.pc.boot(token, fmt.Sprintf("boot-%d-%d", w.seed, n)) {
			w.checkin(token)
			break
		}
		time.Sleep(10 * time.Second)
	}
	w.over.Store(true)
	w.house.kill(0)
	w.net.reset(nil)
	w.tasks.Wait()
	w.house.all.Wait()
	time.Sleep(time.Hour) // for handlers that nobody waits for
	if f := w.broken.records; f != nil {
		f(w.house.path())
	}
	w.judge.verdict(context.Background(), w.house.path())
}

// boot is one session of the PC, from power to power. It reports whether the
// agent said that it is finished.
func (p *pc) boot(token, id string) (finished bool) {
	w := p.w
	state := filepath.Join(w.house.dir, id)
	deadline := time.After(patience)
	for len(p.events) > 0 {
		<-p.events
	}
	for {
		proc := &process{w: w, token: token}
		p.mu.Lock()
		p.running = proc
		p.mu.Unlock()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan bool, 1)
		w.tasks.Go(func() {
			out, err := agent.Run(ctx, proc.config(id, state))
			if ctx.Err() == nil && err != nil {
				w.say("the agent ends: %v", err)
			}
			ended <- err == nil && out.Result == wire.Done && !proc.dead.Load()
		})
		what := "ended"
		select {
		case finished = <-ended:
		case what = <-p.events:
		case <-deadline:
			what = "patience"
		}
		proc.kill()
		cancel()
		if what == "crash" {
			w.say("the agent is started again")
			time.Sleep(2 * time.Second)
			continue
		}
		w.say("the PC goes off: %s", what)
		if what == "power" {
			w.mu.Lock()
			all := slices.Clone(w.all)
			w.mu.Unlock()
			for _, d := range all {
				d.powerCut(w.draw)
			}
		}
		_ = os.RemoveAll(state)
		return finished
	}
}

// end is how a session ends: the whole PC's power is cut, or only the agent's
// program dies. Nothing that it does after this moment has an effect.
func (p *pc) end(how string, _ uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil && p.running.kill() {
		p.events <- how
	}
}

// restart is somebody at the switch.
func (p *pc) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil && !p.running.dead.Load() {
		p.events <- "somebody restarts it"
	}
}

// pull takes the target out of the PC; at its next start it may be back.
func (p *pc) pull(salt uint64) {
	d := p.w.at(target)
	if d == nil {
		return
	}
	d.gone.Store(true)
	p.w.say("%s is pulled out", d.name)
	p.w.later(time.Duration(1+salt%60)*time.Second, func() {
		d.powerCut(p.w.draw)
		d.gone.Store(false)
		p.w.say("%s is back", d.name)
	})
}

// swap puts another disk where the target was, equal but for its serial number.
func (p *pc) swap() {
	old := p.w.at(target)
	p.w.mu.Lock()
	d := p.w.drive("OTHER"+fmt.Sprint(len(p.w.all)), target, old.Bytes, old.LogicalBlock)
	d.Model, d.Rotational = old.Model, old.Rotational
	p.w.plug(d)
	p.w.mu.Unlock()
	old.gone.Store(true)
	p.w.say("%s takes the place of %s", d.name, old.name)
}

func (p *process) hold(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
}

// kill makes a process one that has no effect any more. It reports whether it
// lived.
func (p *process) kill() bool {
	if p.dead.Swap(true) {
		return false
	}
	p.mu.Lock()
	mine := slices.Clone(p.conns)
	p.mu.Unlock()
	p.w.net.reset(func(c *conn) bool { return slices.Contains(mine, c) })
	return true
}

func (p *process) config(id, state string) agent.Config {
	pin, _ := base64.StdEncoding.DecodeString(shelf.keys.Pin)
	return agent.Config{
		URL: "https://" + agentsAt, Token: p.token, Pin: [sha256.Size]byte(pin), Key: p.w.key(), Version: "campaign",
		State: state, Log: slog.New(slog.DiscardHandler),
		Show: func(v screen.View) {
			if v.Kind == screen.Done && v.Title == "Finished" && !p.dead.Load() {
				j := p.w.judge
				j.mu.Lock()
				j.finished[p.token] = true
				j.mu.Unlock()
			}
		},
		Bench: &agent.Bench{
			Report: func(ctx context.Context) wire.Report { return p.report(id) },
			Open: func(plan wire.DiskID, approved ...wire.Class) (agent.Disk, error) {
				h, err := p.open(plan, approved...)
				if err != nil {
					p.w.say("%v", err)
					return nil, err
				}
				switch f := p.w.broken.open; {
				case f != nil:
					return f(h), nil
				case h.firmware != nil:
					return nvme{h}, nil
				}
				return h, nil
			},
			Dial: func(ctx context.Context, _, addr string) (net.Conn, error) { return p.w.net.dial(ctx, p, addr) },
		},
	}
}

// report is what the agent would find out about this PC, the disks' content by
// its own means.
func (p *process) report(id string) wire.Report {
	r := wire.Report{BootID: id, Agent: "campaign", Clock: time.Now(), RAM: wire.RAM{Bytes: 16 << 30},
		Identity: wire.Identity{SystemSerial: "PF0X1234", Manufacturer: "Campaign"}, Firmware: wire.Firmware{Mode: wire.ModeBIOS},
		NICs: []wire.NIC{{Name: "eth0", MAC: mac, Permanent: mac, Bus: "pci", Link: true}}}
	for _, path := range []string{"/dev/campaign-a", "/dev/campaign-b", "/dev/campaign-c"} {
		d := p.w.at(path)
		if d == nil || d.gone.Load() {
			continue
		}
		h := &handle{medium: d, p: p, id: d.DiskID}
		w := d.Disk
		w.Class, w.Found = disk.Classify(looker{h}, d.Bytes, disk.Facts{ID: h.id, Key: p.w.key()})
		r.Disks = append(r.Disks, w)
	}
	return r
}

// lead is the person at the dashboard: opens the lot, approves by the serial on
// the label, asks again after a failure, has failed PCs switched off.
func (w *world) lead() {
	ctx := context.Background()
	failedFor := map[string]int{}
	erased, wishes := false, 0
	tried := func(job string, err error) {
		if failedFor[job]++; err != nil && failedFor[job]%8 == 0 {
			w.pc.restart()
		}
	}
	for !w.over.Load() {
		time.Sleep(time.Duration(1+w.draw(4)) * time.Second)
		l := w.house.life()
		if l == nil {
			continue
		}
		v := l.reg.View()
		if len(v.Lots) == 0 {
			_, _ = l.reg.OpenLot(ctx, lead, donor, w.root, w.standing)
			continue
		}
		for _, d := range v.Devices {
			if d.Job == nil {
				continue
			}
			switch j := *d.Job; {
			case j.State == workshop.Held && w.erase != nil && !erased && wishes < 2:
				if t := w.at(target); t != nil {
					err := l.reg.Erase(ctx, lead, d.ID, target, t.Serial[len(t.Serial)-6:], *w.erase)
					w.say("the lead has %s erased: %v", t.name, err)
					if err == nil {
						wishes++
					}
					tried(j.ID, err)
				}
			case j.State == workshop.Erased:
				erased = true
			case j.State == workshop.Held && j.Hold.Approvable():
				if t := w.at(target); t != nil {
					err := l.reg.Approve(ctx, lead, j.ID, target, t.Serial[len(t.Serial)-6:])
					w.say("the lead approves %s: %v", t.name, err)
					tried(j.ID, err)
				}
			case j.State == workshop.Held && (erased || j.Hold == workshop.HoldErased):
				err := l.reg.ImageAgain(ctx, lead, d.ID, "")
				w.say("the lead has the erased disk imaged: %v", err)
				tried(j.ID, err)
			case j.State == workshop.JobFailed || j.State == workshop.Cancelled:
				if failedFor[j.ID]++; failedFor[j.ID] == 5 {
					if err := l.reg.ImageAgain(ctx, lead, d.ID, ""); err != nil {
						failedFor[j.ID]--
						continue
					}
					w.pc.restart()
				}
			}
		}
	}
}

// cancel ends the newest job, as a person would who has changed his mind.
func (h *house) cancel() {
	l := h.life()
	if l == nil {
		return
	}
	for _, d := range l.reg.View().Devices {
		if d.Job == nil || !d.Job.State.Live() {
			continue
		}
		err := l.reg.Cancel(context.Background(), lead, d.Job.ID, "another image")
		h.w.say("the lead cancels: %v", err)
		if err == nil {
			h.w.judge.mu.Lock()
			h.w.judge.cancelled[d.Job.ID] = true
			h.w.judge.mu.Unlock()
		}
	}
}
