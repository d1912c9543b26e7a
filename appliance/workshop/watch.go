package workshop

import (
	"cmp"
	"context"
	"slices"
	"time"

	"refurb/agent/wire"
)

// dull is how long changes are gathered that only move a bar.
const dull = time.Second

// watcher holds what one reader has not seen yet. It keeps names, not states,
// so a reader who sleeps for an hour costs no more than one who doesn't.
type watcher struct {
	devices, lots map[string]bool
	now, soon     chan struct{} // capacity 1
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// touch marks a device as changed for every watcher.
func (r *Registry) touch(device string, notable bool) {
	device = r.root(device)
	for w := range r.watchers {
		w.devices[device] = true
		if notable {
			poke(w.now)
		} else {
			poke(w.soon)
		}
	}
}

func (r *Registry) touchLot(id string) {
	for w := range r.watchers {
		w.lots[id] = true
		poke(w.now)
	}
}

// Watch returns the state now and a channel of what changes after it. The
// channel is closed when ctx ends. Changes that the reader is too slow for are
// merged; nobody waits for a reader.
func (r *Registry) Watch(ctx context.Context) (View, <-chan Update) {
	w := &watcher{devices: map[string]bool{}, lots: map[string]bool{}, now: make(chan struct{}, 1), soon: make(chan struct{}, 1)}
	r.mu.Lock()
	v := r.view()
	r.watchers[w] = true
	r.mu.Unlock()
	updates := make(chan Update)
	go func() {
		defer close(updates)
		defer func() {
			r.mu.Lock()
			delete(r.watchers, w)
			r.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.now:
			case <-w.soon:
				t := time.NewTimer(dull)
				select {
				case <-ctx.Done():
					t.Stop()
					return
				case <-w.now:
					t.Stop()
				case <-t.C:
				}
			}
			u := r.update(w)
			if len(u.Devices)+len(u.Lots) == 0 {
				continue
			}
			select {
			case <-ctx.Done():
				return
			case updates <- u:
			}
		}
	}()
	return v, updates
}

func (r *Registry) update(w *watcher) Update {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := Update{Time: r.cfg.Now().UTC()}
	for id := range w.devices {
		if r.devices[id].Into != "" { // merged since
			continue
		}
		u.Devices = append(u.Devices, r.deviceView(r.devices[id]))
	}
	for id := range w.lots {
		u.Lots = append(u.Lots, *r.lots[id])
	}
	clear(w.devices)
	clear(w.lots)
	for _, c := range []chan struct{}{w.now, w.soon} { // what was called for is in this update
		select {
		case <-c:
		default:
		}
	}
	slices.SortFunc(u.Devices, func(a, b DeviceView) int { return cmp.Compare(a.Number, b.Number) })
	slices.SortFunc(u.Lots, func(a, b Lot) int { return b.Opened.Compare(a.Opened) })
	return u
}

// View returns everything as it is now.
func (r *Registry) View() View {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.view()
}

func (r *Registry) view() View {
	v := View{Time: r.cfg.Now().UTC()}
	for _, d := range r.devices {
		if d.Into != "" {
			continue
		}
		v.Devices = append(v.Devices, r.deviceView(d))
	}
	for _, l := range r.lots {
		v.Lots = append(v.Lots, *l)
	}
	slices.SortFunc(v.Devices, func(a, b DeviceView) int { return cmp.Compare(a.Number, b.Number) })
	slices.SortFunc(v.Lots, func(a, b Lot) int { return b.Opened.Compare(a.Opened) })
	return v
}

// Jobs returns the jobs of a device, oldest first.
func (r *Registry) Jobs(device string) []Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Job
	for _, j := range r.jobsOf(device) {
		all = append(all, *j)
	}
	return all
}

// Lot returns one lot.
func (r *Registry) Lot(id string) (Lot, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lots[id]
	if l == nil {
		return Lot{}, false
	}
	return *l, true
}

// LotDevices returns the devices of a lot by number.
func (r *Registry) LotDevices(lot string) []DeviceView {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []DeviceView
	for _, d := range r.devices {
		if d.Lot == lot && d.Into == "" {
			all = append(all, r.deviceView(d))
		}
	}
	slices.SortFunc(all, func(a, b DeviceView) int { return cmp.Compare(a.Number, b.Number) })
	return all
}

// Device returns one device with all its jobs. The id of a record that was merged
// into it leads there.
func (r *Registry) Device(id string) (DeviceDetail, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.devices[r.root(id)]
	if v == nil {
		return DeviceDetail{}, false
	}
	id = v.ID
	d := DeviceDetail{DeviceView: r.deviceView(v), Candidates: r.candidates(v, r.newest(id)), Erasable: r.erasable(v)}
	if l := r.lots[v.Lot]; l != nil {
		d.Lot = new(*l)
	}
	for _, j := range slices.Backward(r.jobsOf(id)) {
		d.Jobs = append(d.Jobs, *j)
	}
	r.detailTies(&d, v)
	return d, true
}

func (r *Registry) deviceView(d *Device) DeviceView {
	p := r.at(d.ID)
	v := DeviceView{Device: *d, Job: r.newest(d.ID), Progress: p.progress, Online: r.online(p), Flow: p.flow}
	for _, m := range r.group(d.ID)[1:] {
		v.Numbers = append(v.Numbers, m.Number)
	}
	if len(v.Numbers) > 0 {
		v.Report = r.shownBy(d).Report
	}
	if r.giveable(d) {
		v.Unfit = r.unfit(d)
	}
	if p.heard.After(v.Seen) {
		v.Seen = p.heard.UTC()
	}
	if p.progress != nil && p.rate >= 1 {
		todo := p.progress.Total - p.progress.Done
		switch {
		case p.progress.Phase == wire.PhaseImaging:
			todo += stillToRead(d, v.Job, p.progress.Total)
		case p.progress.Phase == wire.PhaseErasing && v.Job != nil && v.Job.Erase != nil && v.Job.Erase.Check == wire.CheckFull && v.Job.Disk != nil:
			todo += v.Job.Disk.Bytes
		}
		if seconds := float64(todo) / p.rate; seconds >= 0 && seconds < 100*3600 { // below: a size that nobody has
			v.ETA = time.Duration(seconds * float64(time.Second))
		}
	}
	return v
}

// stillToRead is how much of a disk is still to be read back when all is written. A
// disk with a moving head is read afterwards; another one while the network is
// what limits, so that it may be all or nothing: half is never far off.
func stillToRead(d *Device, j *Job, total int64) int64 {
	if j != nil && j.Disk != nil {
		for _, disk := range d.Report.Disks {
			if disk.Rotational && sameDisk(*j.Disk, disk.DiskID) {
				return total
			}
		}
	}
	return total / 2
}

func (r *Registry) online(p *presence) bool {
	return p.polls > 0 || !p.heard.IsZero() && r.cfg.Now().Sub(later(p.heard, p.left)) <= r.cfg.LostAfter
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Run looks for agents that have fallen silent, approvals that have expired and
// starts that are over, until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	claims := make(chan struct{})
	go func() {
		defer close(claims)
		r.keepClaims(ctx)
	}()
	defer func() { <-claims }()
	tick := time.NewTicker(min(max(r.cfg.LostAfter/4, 50*time.Millisecond), 5*time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		for _, id := range r.suspects() {
			if err := r.decide(ctx, func(d *draft) error { return r.check(d, id) }); err != nil && ctx.Err() == nil {
				r.cfg.Log.Error("looking after a device", "device", id, "err", err)
			}
		}
		if err := r.decide(ctx, r.forget); err != nil && ctx.Err() == nil {
			r.cfg.Log.Error("forgetting starts that are over", "err", err)
		}
	}
}

// suspects lists the devices that check may want to change, and shows who went
// offline.
func (r *Registry) suspects() (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, v := range r.devices {
		p := r.at(id)
		if on := r.online(p); on != p.online {
			p.online = on
			r.touch(id, true)
		}
		if j := r.jobs[v.Job]; j != nil && j.State.Live() && j.State != JobLost {
			ids = append(ids, id)
		}
	}
	return ids
}

// check moves a job whose PC has fallen silent, whose approval has expired or whose
// wait is over.
func (r *Registry) check(d *draft, id string) error {
	j := r.newest(id)
	if j == nil || !j.State.Live() || j.State == JobLost {
		return nil
	}
	p := r.at(id)
	if silent := d.now.Sub(later(p.heard, p.left)); p.polls == 0 && silent > r.cfg.LostAfter {
		v := d.job(j.ID)
		v.Reason = "The PC has not answered for " + silent.Round(time.Second).String()
		v.Next = "Look at its screen, its cable and its power"
		return d.step(v, JobLost, "appliance", Event{Reason: v.Reason})
	}
	if j.State == Approved && j.Approval.expired(d.now) {
		return r.stillApproved(d, d.device(id), d.job(j.ID))
	}
	if j.State == Held && r.come(r.devices[id], j) {
		return r.settle(d, d.device(id), d.job(j.ID))
	}
	return nil
}

// come reports whether the lot or the image that a held job waits for is there
// now. OpenLot sees to it at once, but may be cut short; an image comes back
// without a word.
func (r *Registry) come(dev *Device, j *Job) bool {
	switch j.Hold {
	case HoldLot:
		return r.open != ""
	case HoldImage:
		root := r.imageFor(dev)
		if root == "" {
			return false
		}
		_, _, err := r.cfg.Images.Image(root)
		return err == nil
	}
	return false
}

func (r *Registry) forget(d *draft) error {
	for h, b := range r.boots {
		if r.expired(b, d.now) {
			d.forget = append(d.forget, h)
		}
	}
	return nil
}
