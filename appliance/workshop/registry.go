package workshop

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"refurb/agent/wire"
	"refurb/images"
)

// Store keeps what the registry decides. Commit stores a change whole or not at
// all and returns only when it would survive a power cut.
type Store interface {
	Load(ctx context.Context) (State, error)
	Commit(ctx context.Context, c Change) error
}

// Images is the catalogue, as narrow as the registry needs it.
type Images interface {
	Image(root string) (name string, m *images.Manifest, err error)
}

// Config of a Registry. Store, Images and BaseURL are required.
type Config struct {
	Store     Store
	Images    Images
	BaseURL   func() (agentURL, httpURL string) // "https://10.77.0.1:8443", "http://10.77.0.1:8080"
	LostAfter time.Duration                     // silence after which a job is lost; 0: 60 s
	Streams   int                               // connections of one PC to the appliance; 0: one
	Payload   map[string]string                 // which boot files are served, by name: origin and hash; for the log
	Key       ed25519.PrivateKey                // signs birth records; nil: there are none
	PinB64    string                            // base64 of SHA-256 of the agent API's SPKI
	Log       *slog.Logger
	Now       func() time.Time // nil: time.Now
	// Wake sends what switches on the PCs with these network addresses; nil:
	// nothing can.
	Wake func(ctx context.Context, macs []string) error
}

// Bounds against strangers on the LAN, who need no more than a network cable to
// ask for a boot script and to report a PC that doesn't exist.
const (
	maxDevices    = 20_000
	maxBoots      = 4096
	perMAC        = 4 // boots kept for one network address
	maxReports    = 32
	maxEvents     = 32
	betweenStarts = 3 * time.Second // no PC gets from one report to the next faster
	tokenLife     = 24 * time.Hour
	approvalFor   = 10 * time.Minute
	maxWait       = 30 * time.Second // of a long poll
)

// Kind of a Refusal.
type Kind int

const (
	Invalid      Kind = iota // the request is wrong as it stands
	Unauthorized             // the token is not known, or not for this
	NotFound                 // no such device, job or lot
	Conflict                 // not in this state
	Busy                     // too much at once: later
)

// Refusal is an error that people see: what is wrong and what to do about it.
type Refusal struct {
	Kind    Kind
	Message string
	Next    string
	look    bool // what is in a PC stands against it: a fresh look at it may change that
}

func (r *Refusal) Error() string {
	if r.Next == "" {
		return r.Message
	}
	return r.Message + " (" + r.Next + ")"
}

// Registry is the only writer of devices, lots and jobs. Every decision is
// stored before memory changes and before anybody hears of it.
type Registry struct {
	cfg Config

	mu        sync.Mutex
	devices   map[string]*Device // what the maps point to is replaced, never changed
	jobs      map[string]*Job
	history   map[string][]string // device → its jobs, oldest first
	order     map[string]int      // job → its place among all, whatever the clock said
	lots      map[string]*Lot
	open      string              // the open lot
	boots     map[string]*Boot    // by token hash
	byMAC     map[string][]string // token hashes, oldest first
	byBoot    map[string]string   // boot id → token hash
	found     map[string][]string // key of an identity → devices
	stays     map[string][]*Stay  // key of a disk → where it was, oldest first
	within    map[string][]*Stay  // record → stays in it
	allStays  int
	wrote     map[string]*Job    // key of a disk → the newest job that had the leave to change it
	goodbyes  map[string]goodbye // record → the one start that its PC may be known by
	checkins  map[string]string  // hash of a check-in token → job
	strange   map[string]bool    // jobs whose check-in came from another PC
	reports   map[string]int     // token hash → reports taken
	presence  map[string]*presence
	number    int
	watchers  map[*watcher]bool
	newcomers *rate.Limiter
	scripts   *rate.Limiter
	wakes     *rate.Limiter
	sharing   sharing
	flowing   map[string]bool // devices that are shown with a flow
}

// presence is what is known of a device's agent while the program runs.
type presence struct {
	heard    time.Time // arrival of its last request
	left     time.Time // end of its last long poll
	polls    int       // open long polls
	woken    time.Time // when somebody switched it on from here
	progress *wire.Progress
	rate     float64 // smoothed
	serial   int64   // of its plan
	changed  chan struct{}
	online   bool // as last shown
	flow     *Flow
}

// Open loads the registry from its store.
func Open(ctx context.Context, cfg Config) (*Registry, error) {
	if cfg.Store == nil || cfg.Images == nil || cfg.BaseURL == nil {
		return nil, errors.New("workshop: Store, Images and BaseURL are required")
	}
	if cfg.LostAfter <= 0 {
		cfg.LostAfter = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s, err := cfg.Store.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("loading the workshop's records: %w", err)
	}
	r := &Registry{
		cfg:     cfg,
		devices: map[string]*Device{}, jobs: map[string]*Job{}, history: map[string][]string{}, order: map[string]int{},
		lots: map[string]*Lot{}, boots: map[string]*Boot{}, byMAC: map[string][]string{},
		byBoot: map[string]string{}, found: map[string][]string{}, checkins: map[string]string{},
		stays: map[string][]*Stay{}, within: map[string][]*Stay{}, wrote: map[string]*Job{}, goodbyes: map[string]goodbye{},
		strange: map[string]bool{}, reports: map[string]int{}, presence: map[string]*presence{},
		watchers:  map[*watcher]bool{},
		newcomers: rate.NewLimiter(2, 200),
		scripts:   rate.NewLimiter(20, 400),
		wakes:     rate.NewLimiter(2, 20),
		sharing:   sharing{byToken: map[string]*Sharer{}, claims: map[ClaimKey]*Claim{}, fresh: map[ClaimKey]bool{}},
		flowing:   map[string]bool{},
	}
	slices.SortFunc(s.Boots, func(a, b Boot) int { return a.Issued.Compare(b.Issued) })
	r.apply(Change{Devices: s.Devices, Lots: s.Lots, Jobs: s.Jobs, Boots: s.Boots, Claims: s.Claims, Stays: s.Stays})
	if err := r.tidyAll(ctx); err != nil {
		return nil, fmt.Errorf("forgetting where disks were long ago: %w", err)
	}
	// The agents get their time anew: it was this program that was away.
	now := cfg.Now()
	for id := range r.devices {
		r.at(id).left = now
	}
	return r, nil
}

// draft is a decision in the making.
type draft struct {
	r         *Registry
	now       time.Time
	devices   []*Device
	jobs      []*Job
	lots      []*Lot
	boots     []*Boot
	forget    []string
	events    []Event
	documents []Document
	claims    []Claim
	unclaim   []ClaimKey
	stays     []Stay
	unstay    []StayKey
}

// decide runs f, stores what it decided, and only then changes memory and tells
// the watchers. An error of f or of the store leaves everything as it was.
func (r *Registry) decide(ctx context.Context, f func(d *draft) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	d := &draft{r: r, now: r.cfg.Now().UTC()}
	if err := f(d); err != nil {
		return err
	}
	return r.commit(ctx, d)
}

func (r *Registry) commit(ctx context.Context, d *draft) error {
	c := Change{Forget: d.forget, Events: d.events, Documents: d.documents, Claims: d.claims, Unclaim: d.unclaim, Stays: d.stays, Unstay: d.unstay}
	for _, v := range d.devices {
		c.Devices = append(c.Devices, *v)
	}
	for _, v := range d.jobs {
		c.Jobs = append(c.Jobs, *v)
	}
	for _, v := range d.lots {
		c.Lots = append(c.Lots, *v)
	}
	for _, v := range d.boots {
		c.Boots = append(c.Boots, *v)
	}
	if len(c.Devices)+len(c.Jobs)+len(c.Lots)+len(c.Boots)+len(c.Forget)+len(c.Events)+len(c.Claims)+len(c.Unclaim)+len(c.Stays)+len(c.Unstay) == 0 {
		return nil
	}
	// A caller who hangs up now must not leave open whether it was stored.
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer stop()
	if err := r.cfg.Store.Commit(ctx, c); err != nil {
		return fmt.Errorf("storing a decision: %w", err)
	}
	r.apply(c)
	return nil
}

// apply takes a stored change into memory.
func (r *Registry) apply(c Change) {
	var moved []string // records that were merged or split
	for _, v := range c.Devices {
		old := r.devices[v.ID]
		if old != nil && old.Into != v.Into {
			moved = append(moved, v.ID)
		}
		if old != nil {
			for _, k := range identityOf(&old.Report, old.MACs).keys() {
				r.found[k] = without(r.found[k], v.ID)
				if len(r.found[k]) == 0 {
					delete(r.found, k)
				}
			}
		}
		r.devices[v.ID] = &v
		for _, k := range identityOf(&v.Report, v.MACs).keys() {
			r.found[k] = append(r.found[k], v.ID)
		}
		r.number = max(r.number, v.Number)
		r.bump(v.ID)
	}
	for _, v := range c.Jobs {
		if r.jobs[v.ID] == nil {
			r.history[v.Device] = append(r.history[v.Device], v.ID)
			r.order[v.ID] = len(r.order)
		}
		r.jobs[v.ID] = &v
		r.applyWrote(&v)
		if v.CheckinHash != "" {
			r.checkins[v.CheckinHash] = v.ID
		}
		if p := r.at(v.Device); !v.State.Running() {
			p.progress, p.rate = nil, 0
		}
		r.bump(v.Device)
	}
	for _, v := range c.Lots {
		r.lots[v.ID] = &v
		if v.Closed.IsZero() {
			r.open = v.ID
		} else if r.open == v.ID {
			r.open = ""
		}
		r.touchLot(v.ID)
	}
	for _, v := range c.Boots {
		if r.boots[v.TokenHash] == nil {
			r.byMAC[v.MAC] = append(r.byMAC[v.MAC], v.TokenHash)
		}
		r.boots[v.TokenHash] = &v
		if v.BootID != "" {
			r.byBoot[v.BootID] = v.TokenHash
		}
	}
	for _, h := range c.Forget {
		b := r.boots[h]
		if b == nil {
			continue
		}
		delete(r.boots, h)
		delete(r.reports, h)
		if r.byBoot[b.BootID] == h {
			delete(r.byBoot, b.BootID)
		}
		if r.byMAC[b.MAC] = without(r.byMAC[b.MAC], h); len(r.byMAC[b.MAC]) == 0 {
			delete(r.byMAC, b.MAC)
		}
	}
	r.applySharing(c)
	r.applyClaims(c)
	r.applyStays(c)
	for _, id := range moved {
		for _, v := range r.group(id) {
			for _, s := range r.within[v.ID] {
				r.touchDisk(s.Disk)
			}
		}
	}
}

func without(s []string, v string) []string {
	return slices.DeleteFunc(slices.Clone(s), func(x string) bool { return x == v })
}

// at returns the presence of a device.
func (r *Registry) at(device string) *presence {
	p := r.presence[device]
	if p == nil {
		// Serials of plans grow across restarts of the program, so that an
		// agent's old one is never mistaken for the present one.
		p = &presence{serial: r.cfg.Now().UnixMilli(), changed: make(chan struct{})}
		r.presence[device] = p
	}
	return p
}

// bump makes a device's plan a new one and tells everybody.
func (r *Registry) bump(device string) {
	p := r.at(device)
	p.serial++
	close(p.changed)
	p.changed = make(chan struct{})
	r.touch(device, true)
}

// device takes a device into the draft, to be changed there.
func (d *draft) device(id string) *Device {
	for _, v := range d.devices {
		if v.ID == id {
			return v
		}
	}
	v := *d.r.devices[id]
	d.devices = append(d.devices, &v)
	return &v
}

func (d *draft) job(id string) *Job {
	for _, v := range d.jobs {
		if v.ID == id {
			return v
		}
	}
	v := *d.r.jobs[id]
	d.jobs = append(d.jobs, &v)
	return &v
}

// event adds a line to a device's history.
func (d *draft) event(e Event) {
	e.Time = d.now
	e.Reason = Text(e.Reason)
	for k, v := range e.Params {
		if v == "" {
			delete(e.Params, k)
		} else {
			e.Params[k] = Text(v)
		}
	}
	d.events = append(d.events, e)
}

// step moves a job and writes it down. Where the table forbids the step it is a
// mistake of this package, and nothing is stored.
func (d *draft) step(j *Job, to JobState, actor string, e Event) error {
	if !CanJob(j.State, to) {
		return fmt.Errorf("workshop: job %s can't go from %s to %s", j.ID, j.State, to)
	}
	e.Device, e.Job, e.Kind, e.From, e.To, e.Actor = j.Device, j.ID, "job", string(j.State), string(to), actor
	switch to {
	case JobLost, JobFailed, Cancelled:
		j.Before = j.State
	default:
		j.Before = ""
	}
	if to == JobFailed || to == Cancelled {
		j.Hold = ""
	}
	j.State, j.Changed = to, d.now
	d.claimStep(j, to)
	d.event(e)
	return nil
}

func newID() string { return rand.Text() }

// newest job of a device and of the records that were merged into it, or nil.
func (r *Registry) newest(device string) *Job { return r.newestIn(r.group(r.root(device))) }

func (r *Registry) newestIn(group []*Device) *Job {
	var last *Job
	for _, v := range group {
		if j := r.jobs[v.Job]; j != nil && (last == nil || r.order[j.ID] > r.order[last.ID]) {
			last = j
		}
	}
	return last
}

// jobsOf a device and of the records that were merged into it, oldest first.
func (r *Registry) jobsOf(device string) []*Job {
	var all []*Job
	group := r.group(r.root(device))
	for _, v := range group {
		for _, id := range r.history[v.ID] {
			all = append(all, r.jobs[id])
		}
	}
	if len(group) > 1 {
		slices.SortFunc(all, func(a, b *Job) int { return cmp.Compare(r.order[a.ID], r.order[b.ID]) })
	}
	return all
}

// root is the record that a device's id leads to.
func (r *Registry) root(id string) string {
	for v := r.devices[id]; v != nil && v.Into != ""; v = r.devices[id] {
		id = v.Into
	}
	return id
}

// group is a record and all that were merged into it.
func (r *Registry) group(root string) []*Device {
	v := r.devices[root]
	if v == nil {
		return nil
	}
	all := []*Device{v}
	for _, id := range v.Absorbed {
		all = append(all, r.group(id)...)
	}
	return all
}

// shownBy is the record of a group under which the last report came: its own, or
// that of one which was merged into it and which it has not reported since.
func (r *Registry) shownBy(dev *Device) *Device {
	for v := r.devices[dev.Latest]; v != nil; v = r.devices[dev.Latest] {
		dev = v
	}
	return dev
}

// only is the one record that a key of an identity leads to; nil: there is none, or
// there are several.
func (r *Registry) only(key string) *Device {
	one := ""
	for _, id := range r.found[key] {
		root := r.root(id)
		if one != "" && root != one {
			return nil
		}
		one = root
	}
	return r.devices[one]
}

// record finds a device that people want to do something with.
func (r *Registry) record(id string) (*Device, error) {
	v := r.devices[id]
	if v == nil {
		return nil, &Refusal{Kind: NotFound, Message: "There is no such device"}
	}
	if v.Into != "" {
		n := r.devices[r.root(id)].Number
		return nil, &Refusal{Kind: Conflict, Message: fmt.Sprintf("Number %d was found to be the same PC as number %d", v.Number, n), Next: fmt.Sprintf("Go to number %d", n)}
	}
	return v, nil
}
