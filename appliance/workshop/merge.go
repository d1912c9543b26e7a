package workshop

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"refurb/agent/wire"
)

// Merging is what would come of a merge, to be shown before it is done.
type Merging struct {
	Keep, Gone DeviceView
	Jobs       int         // of both
	State      DeviceState // that the kept one then has
	Lot        string      // that it then counts in
	Was        bool        // people had said that these are two PCs
	Refused    *Refusal    // why it can't be done; nil: it can
}

// AsMerged tells what would come of a merge.
func (r *Registry) AsMerged(keep, gone string) (Merging, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, err := r.record(keep)
	if err != nil {
		return Merging{}, err
	}
	b, err := r.record(gone)
	if err != nil {
		return Merging{}, err
	}
	m := Merging{Keep: r.deviceView(a), Gone: r.deviceView(b), State: a.State, Lot: a.Lot, Was: r.apart(a.ID, b.ID)}
	if m.Lot == "" {
		m.Lot = b.Lot
	}
	m.Jobs = len(r.jobsOf(a.ID)) + len(r.jobsOf(b.ID))
	m.Refused = r.mergeable(a, b)
	return m, nil
}

// maxGroup bounds how many records may be one PC. Papers read no more.
const maxGroup = 17

// left are the states of what is no longer in the house.
func (s DeviceState) left() bool {
	return s == HandedOut || s == Recycled || s == ReturnedDonor
}

// mergeable says why one record can't be merged into another; nil: it can.
func (r *Registry) mergeable(keep, gone *Device) *Refusal {
	no := func(next, message string, args ...any) *Refusal {
		return &Refusal{Kind: Conflict, Message: fmt.Sprintf(message, args...), Next: next}
	}
	a, b := r.newest(keep.ID), r.newest(gone.ID)
	switch k, g := keep.State, gone.State; {
	case keep.ID == gone.ID:
		return &Refusal{Kind: Invalid, Message: "That is the same record", Next: "Choose another one"}
	case len(r.group(keep.ID))+len(r.group(gone.ID)) > maxGroup:
		return no("Take those out again that are other PCs", "There would be more than %d records in one", maxGroup)
	case b != nil && b.State.Live() && a != nil && a.State.Live():
		return no("Wait until one of them is done, or cancel it", "A job waits or runs under both numbers")
	case b != nil && b.State.Live():
		return no("Keep that number instead, wait until the job is done, or cancel it", "A job waits or runs under number %d", gone.Number)
	case a != nil && b != nil && a.State.Live() && r.order[b.ID] > r.order[a.ID]:
		return no("Cancel that job first", "The number that would go was worked on after the job under the one that stays had begun")
	case (k == DeviceLost || k == Expected) && g != k:
		return no("Keep the other number, or move this one to received first", "Number %d is not in the house by its record", keep.Number)
	case g == DeviceLost || g == Expected:
	case k.left() && g.left():
		return no("If one of them came back or was never there, move it first", "Both have left the house: that makes two PCs")
	case k.left() != g.left():
		return no("If one of them came back or was never there, move it first", "One of them has left the house and the other is here: one PC can't be in two places")
	}
	return nil
}

// Merge makes two records one: what was recorded under the one number is found
// under the other from then on. Nothing is moved or rewritten; the histories stay
// as they are, each with a line that names the end of the other.
func (r *Registry) Merge(ctx context.Context, actor, keep, gone, reason string) error {
	reason, err := asked(actor, reason)
	if err != nil {
		return err
	}
	return r.decide(ctx, func(d *draft) error {
		a, err := r.record(keep)
		if err != nil {
			return err
		}
		b, err := r.record(gone)
		if err != nil {
			return err
		}
		if no := r.mergeable(a, b); no != nil {
			return no
		}
		apart := ""
		if r.apart(a.ID, b.ID) {
			apart = "true"
			r.together(d, a.ID, b.ID)
		}
		k, g := d.device(keep), d.device(gone)
		was := g.State
		jobA, jobB := r.newest(keep), r.newest(gone)
		g.Into, g.Was, g.State, g.KeptJob = keep, was, Merged, k.Job
		if jobA != nil && jobA.State.Live() {
			g.KeptJob = "" // what it does, it does to both
		}
		if (was == DeviceLost || was.left()) && jobB != nil {
			g.Back = jobB.ID // nobody knows what was done to its disks while it was away
		}
		// Jobs are in their order whatever the clock said. Where the two disagree, one
		// of them has reported since without a job, or the clock was wrong.
		later := jobB != nil && (jobA == nil || r.order[jobB.ID] > r.order[jobA.ID])
		k.Unsure = a.Unsure || b.Unsure || later != r.shownBy(b).Seen.After(r.shownBy(a).Seen)
		if later {
			k.Latest = gone
		}
		// What was asked for under either number was not asked of what they are now.
		k.Again, k.AgainBy, k.Wait = false, "", false
		g.Again, g.AgainBy, g.Wait = false, "", false
		k.Absorbed = append(slices.Clone(k.Absorbed), gone)
		for h, boot := range r.boots { // their agents have to start anew, as the one; only work goes on
			if root := r.root(boot.Device); root == gone || root == keep && !r.inUse(boot) {
				d.forget = append(d.forget, h)
			}
		}
		d.event(Event{Device: gone, Kind: "merged_into", From: string(was), To: string(Merged), Actor: actor, Reason: reason, HeadOf: keep, Params: map[string]string{
			"device": keep, "number": strconv.Itoa(k.Number), "were_apart": apart,
		}})
		d.event(Event{Device: keep, Kind: "merged_from", Actor: actor, Reason: reason, HeadOf: gone, Params: map[string]string{
			"device": gone, "number": strconv.Itoa(g.Number), "were_apart": apart,
		}})
		if k.Lot == "" && g.Lot != "" {
			k.Lot = g.Lot
			d.event(Event{Device: keep, Kind: "lot_joined", Actor: actor, Params: map[string]string{"lot": k.Lot}})
		}
		return nil
	})
}

// asked refuses an act without a name or a reason.
func asked(actor, reason string) (string, error) {
	if err := known(actor); err != nil {
		return "", err
	}
	if reason = Text(reason); reason == "" {
		return "", &Refusal{Kind: Invalid, Message: "This step needs a reason", Next: "Say why in a few words"}
	}
	return reason, nil
}

// together takes back that two groups were said to be two PCs.
func (r *Registry) together(d *draft, a, b string) {
	for _, side := range [][2]string{{a, b}, {b, a}} {
		for _, v := range r.group(side[0]) {
			if slices.ContainsFunc(v.Apart, func(id string) bool { return r.root(id) == side[1] }) {
				x := d.device(v.ID)
				x.Apart = slices.DeleteFunc(slices.Clone(x.Apart), func(id string) bool { return r.root(id) == side[1] })
			}
		}
	}
}

// Parting says what leaves a record in a split: a record that was merged into it,
// or ways in which it has shown itself.
type Parting struct {
	Record string
	Faces  []string
}

// Split takes one PC out of a record that holds two, and returns the record it has
// from then on. The two don't flow together again unless people merge them. What
// was done stays in the history it was written to; as nobody knows in which of the
// two PCs it was, it lets neither of them go to anybody.
func (r *Registry) Split(ctx context.Context, actor, id string, p Parting, reason string) (leaves string, err error) {
	if reason, err = asked(actor, reason); err != nil {
		return "", err
	}
	err = r.decide(ctx, func(d *draft) error {
		v, err := r.record(id)
		if err != nil {
			return err
		}
		if j := r.newest(id); j != nil && j.State.Live() {
			return &Refusal{Kind: Conflict, Message: "A job of this PC waits or runs", Next: "Wait until it is done, or cancel it"}
		}
		var n *Device
		if p.Record != "" {
			n, err = r.release(d, v, p.Record, reason, actor)
		} else {
			n, err = r.divide(d, v, p.Faces, reason, actor)
		}
		if err != nil {
			return err
		}
		o := d.device(id)
		o.Apart, n.Apart = append(slices.Clone(o.Apart), n.ID), append(slices.Clone(n.Apart), id)
		o.Doubts = slices.DeleteFunc(slices.Clone(o.Doubts), func(x Doubt) bool { return x.Kind == DoubtTwins || x.Device == n.ID })
		o.Again, o.AgainBy, o.Wait = false, "", false
		for h, boot := range r.boots {
			if boot.Device != "" && r.root(boot.Device) == id {
				d.forget = append(d.forget, h)
			}
		}
		leaves = n.ID
		return nil
	})
	if err != nil {
		return "", err
	}
	return leaves, nil
}

// release undoes a merge.
func (r *Registry) release(d *draft, v *Device, record, reason, actor string) (*Device, error) {
	if !slices.Contains(v.Absorbed, record) {
		return nil, &Refusal{Kind: NotFound, Message: "That record was not merged into this one", Next: "Look at the device page again"}
	}
	o, n := d.device(v.ID), d.device(record)
	o.Absorbed = without(o.Absorbed, record)
	state := n.Was
	since := n.KeptJob != v.Job
	n.Into, n.Was, n.State, n.KeptJob = "", "", state, ""
	// A report that came since may be of the other PC.
	theirs := func(rep identity) bool {
		same, other := weigh(rep, identityOf(&n.Report, n.MACs), nil)
		return same >= enough && same > other
	}
	if me := faceOf(&v.Report, d.now); theirs(identityOf(&v.Report, v.MACs)) && !slices.ContainsFunc(v.Faces, func(f Face) bool { return f.ID == me.ID }) {
		n.Report, n.Seen = v.Report, v.Seen
		o.showLast(v.Faces)
	}
	// What was done since the merge may have been done to either.
	if since {
		o.Back = v.Job
		if j := r.newestIn(r.group(record)); j != nil {
			n.Back = j.ID
		}
	}
	switch {
	case len(o.Absorbed) == 0:
		o.Latest, o.Unsure = "", false
	case o.Latest == record:
		o.Latest, o.Unsure = "", true
	}
	r.partingLines(d, o, n, "", reason, actor, string(Merged), string(state))
	r.unready(d, o, actor)
	if since {
		r.unready(d, n, actor)
	}
	return n, nil
}

// divide makes a record of its own of some of the ways in which one has shown itself.
func (r *Registry) divide(d *draft, v *Device, ids []string, reason, actor string) (*Device, error) {
	var go_, stay []Face
	for _, f := range v.Faces {
		if slices.Contains(ids, f.ID) {
			go_ = append(go_, f)
		} else {
			stay = append(stay, f)
		}
	}
	switch {
	case len(go_) == 0:
		return nil, &Refusal{Kind: Invalid, Message: "Nothing is chosen that leaves this record", Next: "Choose how the other PC has shown itself"}
	case len(stay) == 0:
		return nil, &Refusal{Kind: Invalid, Message: "Nothing would be left of this record", Next: "Leave what belongs to the PC that bears this number"}
	case len(r.devices) >= maxDevices:
		return nil, &Refusal{Kind: Busy, Message: "There are too many devices"}
	}
	o := d.device(v.ID)
	n := &Device{ID: newID(), Number: r.number + 1, State: Received, Lot: v.Lot, Created: d.now, Seen: d.now}
	d.devices = append(d.devices, n)
	n.Faces, o.Faces = go_, stay
	if me := faceOf(&v.Report, d.now); slices.ContainsFunc(go_, func(f Face) bool { return f.ID == me.ID }) {
		n.Report, n.MACs, n.Seen = v.Report, v.MACs, v.Seen
		o.showLast(stay)
	} else {
		n.showLast(go_)
	}
	if j := r.newest(v.ID); j != nil {
		o.Back = j.ID
	}
	// The disks that only the other PC has shown were in that one.
	for _, f := range go_ {
		for _, disk := range f.Disks {
			key := DiskKey(disk)
			kept := slices.ContainsFunc(stay, func(f Face) bool {
				return slices.ContainsFunc(f.Disks, func(x wire.DiskID) bool { return DiskKey(x) == key })
			})
			if all := r.stays[key]; !kept && len(all) > 0 && r.root(all[len(all)-1].Device) == v.ID {
				s := *all[len(all)-1]
				s.Device = n.ID
				d.stays = append(d.stays, s)
			}
		}
	}
	r.partingLines(d, o, n, strconv.Itoa(n.Number), reason, actor, "", string(Received))
	r.unready(d, o, actor)
	return n, nil
}

// showLast lets a record stand as its newest face showed it. What else was in the
// PC is told by its next start.
func (v *Device) showLast(faces []Face) {
	if len(faces) == 0 {
		return
	}
	f := slices.MaxFunc(faces, func(a, b Face) int { return a.Last.Compare(b.Last) })
	v.Report = f.report()
	v.MACs = permanentMACs(&v.Report)
}

// partingLines writes a split into both histories. number is set where the record
// is a new one.
func (r *Registry) partingLines(d *draft, o, n *Device, number, reason, actor, from, to string) {
	keys := func(v *Device) map[string]string {
		return map[string]string{"uuid": v.Report.Identity.UUID, "serial": v.Report.Identity.SystemSerial, "mac": firstOf(v.MACs)}
	}
	off := keys(n)
	off["device"], off["number"] = n.ID, strconv.Itoa(n.Number)
	d.event(Event{Device: o.ID, Kind: "split_off", Actor: actor, Reason: reason, Params: off, HeadOf: map[bool]string{true: n.ID}[number == ""]})
	p := keys(n)
	p["device"], p["from_number"], p["lot"] = o.ID, strconv.Itoa(o.Number), n.Lot
	p["number"] = number
	d.event(Event{Device: n.ID, Kind: "split_from", From: from, To: to, Actor: actor, Reason: reason, Params: p, HeadOf: o.ID})
}

func firstOf(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// unready takes a record back that was ready for somebody and no longer may be.
func (r *Registry) unready(d *draft, v *Device, actor string) {
	if v.State != Ready && v.State != Reserved {
		return
	}
	d.event(Event{Device: v.ID, Kind: "device_moved", From: string(v.State), To: string(Received), Actor: actor, Reason: "Its record held two PCs: it has to be imaged again"})
	v.State = Received
}

// Decide settles a doubt: the two records are two PCs, or, where no other record is
// named, this is the one PC it always was.
func (r *Registry) Decide(ctx context.Context, actor, id string, kind DoubtKind, other, reason string) error {
	reason, err := asked(actor, reason)
	if err != nil {
		return err
	}
	return r.decide(ctx, func(d *draft) error {
		v, err := r.record(id)
		if err != nil {
			return err
		}
		found := false
		for _, m := range r.group(id) {
			is := func(x Doubt) bool {
				return x.Kind == kind && (other == "" && x.Device == "" || r.root(x.Device) == other)
			}
			if slices.ContainsFunc(m.Doubts, is) {
				found = true
				x := d.device(m.ID)
				x.Doubts = slices.DeleteFunc(slices.Clone(x.Doubts), is)
			}
		}
		if !found {
			return &Refusal{Kind: Conflict, Message: "There is no such doubt any more", Next: "Look at the device page again"}
		}
		params := map[string]string{"doubt": string(kind)}
		if other != "" {
			w, err := r.record(other)
			if err != nil {
				return err
			}
			x, y := d.device(v.ID), d.device(w.ID)
			x.Apart, y.Apart = append(slices.Clone(x.Apart), y.ID), append(slices.Clone(y.Apart), x.ID)
			params["device"], params["number"] = y.ID, strconv.Itoa(y.Number)
			d.event(Event{Device: y.ID, Kind: "kept_apart", Actor: actor, Reason: reason, Params: map[string]string{"device": x.ID, "number": strconv.Itoa(x.Number)}})
			d.event(Event{Device: x.ID, Kind: "kept_apart", Actor: actor, Reason: reason, Params: params})
			return nil
		}
		d.event(Event{Device: v.ID, Kind: "doubt_settled", Actor: actor, Reason: reason, Params: params})
		return nil
	})
}
