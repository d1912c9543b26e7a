package workshop

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"refurb/agent/wire"
)

var errToken = &Refusal{Kind: Unauthorized, Message: "The token of this start is not known", Next: "Restart the PC"}

// boot finds the start that a token belongs to.
func (r *Registry) boot(token string, now time.Time) (*Boot, error) {
	b := r.boots[hashToken(token)]
	if b == nil {
		return nil, errToken
	}
	if r.expired(b, now) {
		return nil, &Refusal{Kind: Unauthorized, Message: "The token of this start has expired", Next: "Restart the PC"}
	}
	return b, nil
}

// Started says of which start a token is: the card that fetched its script and,
// once the agent has reported, the device. Empty when the token is not known.
func (r *Registry) Started(token string) (mac, device string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, err := r.boot(token, r.cfg.Now())
	if err != nil {
		return "", ""
	}
	return b.MAC, b.Device
}

// Report takes what a PC says of itself and answers with its plan. The first
// report binds the token to the agent's boot id and to the device.
func (r *Registry) Report(ctx context.Context, token string, rep wire.Report) (wire.Plan, error) {
	doc, err := cleanReport(&rep)
	if err != nil {
		return wire.Plan{}, err
	}
	var boot *Boot
	var refusal error // of a PC that is told of all the same
	err = r.decide(ctx, func(d *draft) error {
		b, err := r.boot(token, d.now)
		if err != nil {
			return err
		}
		r.backAgain(b, &rep)
		if b.BootID != "" && b.BootID != rep.BootID {
			return &Refusal{Kind: Unauthorized, Message: "This token belongs to another start", Next: "Restart the PC"}
		}
		if h := r.byBoot[rep.BootID]; h != "" && h != b.TokenHash {
			return &Refusal{Kind: Unauthorized, Message: "This start has already reported with another token", Next: "Restart the PC"}
		}
		if r.reports[b.TokenHash]++; r.reports[b.TokenHash] > maxReports {
			return &Refusal{Kind: Busy, Message: "This start has reported too often", Next: "Restart the PC"}
		}
		b = &Boot{TokenHash: b.TokenHash, MAC: b.MAC, Device: b.Device, BootID: rep.BootID, Issued: b.Issued}
		var dev *Device
		if b.Device != "" {
			dev = d.device(r.root(b.Device))
		} else if dev, refusal, err = r.identify(d, b, &rep); err != nil || refusal != nil {
			return err
		}
		b.Device = dev.ID
		d.boots = append(d.boots, b)
		boot = b

		sum := sha256.Sum256(doc)
		evidence := hex.EncodeToString(sum[:])
		d.documents = append(d.documents, Document{Hash: evidence, JSON: doc})
		r.shows(d, dev, &rep)
		r.saw(d, dev, &rep)
		dev.Report, dev.Seen, dev.Latest, dev.Unsure = rep, d.now, "", false
		if macs := permanentMACs(&rep); len(macs) > 0 {
			dev.MACs = macs
		}
		params := map[string]string{
			"boot": rep.BootID, "agent": rep.Agent, "kernel": rep.Kernel, "mac": b.MAC,
			"manufacturer": rep.Identity.Manufacturer, "model": rep.Identity.Model,
			"serial": rep.Identity.SystemSerial, "uuid": rep.Identity.UUID,
			"disks": strconv.Itoa(len(rep.Disks)),
		}
		if rep.Stick != "" {
			params["stick"] = rep.Stick
		}
		d.event(Event{Device: dev.ID, Kind: "report", Actor: "agent", Evidence: evidence, Params: params})
		if err := r.reported(d, dev, b); err != nil {
			return err
		}
		r.at(dev.ID).heard = d.now
		return nil
	})
	if err == nil {
		err = refusal
	}
	if err != nil {
		return wire.Plan{}, err
	}
	if err := r.decide(ctx, func(d *draft) error { return r.tidy(d, boot.Device) }); err != nil {
		r.cfg.Log.Error("forgetting where disks were", "err", err)
	}
	return r.answer(ctx, boot, token)
}

// identify finds the device behind a first report, or makes a new one. A refusal
// is for the PC; what was noted with it is stored.
func (r *Registry) identify(d *draft, b *Boot, rep *wire.Report) (dev *Device, refusal, err error) {
	me := identityOf(rep, permanentMACs(rep))
	id, doubt := r.who(me)
	if id != "" {
		// A PC is off between two starts. If the agent of the earlier start
		// has spoken since this one's script was fetched, these are two PCs
		// that say they are one; the job of the first must not suffer.
		v := r.devices[id]
		if j := r.newest(id); j != nil && j.State.Live() && r.at(id).heard.After(b.Issued) {
			r.twins(d, v, b, rep)
			return nil, &Refusal{Kind: Conflict,
				Message: fmt.Sprintf("PC number %d is on and gives the same identity as this one", v.Number),
				Next:    "Switch the other one off, then restart this one"}, nil
		}
		return d.device(id), nil, nil
	}
	if !r.identifies(me) {
		doubt = Doubt{Kind: DoubtNobody}
	}
	if len(r.devices) >= maxDevices || !r.newcomers.AllowN(d.now, 1) {
		return nil, nil, &Refusal{Kind: Busy, Message: "Too many new PCs at once", Next: "Restart this one in a minute"}
	}
	dev = &Device{ID: newID(), Number: r.number + 1, State: Received, Lot: r.open, Created: d.now}
	if doubt.Kind != "" {
		doubt.At = d.now
		dev.Doubts = append(dev.Doubts, doubt)
	}
	d.devices = append(d.devices, dev)
	d.event(Event{Device: dev.ID, Kind: "device_created", To: string(Received), Actor: "appliance", Reason: doubt.Text(), Params: map[string]string{
		"number": strconv.Itoa(dev.Number), "lot": dev.Lot, "mac": b.MAC, "doubt": string(doubt.Kind), "doubt_device": doubt.Device,
	}})
	return dev, nil, nil
}

// reported says what a report means for the device's jobs.
func (r *Registry) reported(d *draft, dev *Device, b *Boot) error {
	cutOff, erased := false, false
	old := r.newest(dev.ID)
	// Not so where the appliance's clock was set back: it would wait for years.
	if old != nil && old.Boot != b.BootID && !d.now.Before(old.Created) && d.now.Sub(old.Created) < betweenStarts {
		return &Refusal{Kind: Busy, Message: "This PC starts again and again", Next: "Wait a few seconds and restart it"}
	}
	// After an erasure the agent looks at its disks again, and there is a new job.
	after := old != nil && old.Boot == b.BootID && old.State == Erased
	// Where no disk could be chosen, a disk that appears is worth a new job.
	late := old != nil && old.Boot == b.BootID && old.State == JobFailed && old.Approval == nil && !sameDisks(&dev.Report, &r.devices[dev.ID].Report)
	if old != nil && old.Boot == b.BootID && !after && !late {
		if !old.State.Live() {
			return nil
		}
		j := d.job(old.ID)
		if j.State == JobLost {
			if err := r.resume(d, dev, j); err != nil {
				return err
			}
		}
		switch j.State {
		case Held:
			return r.settle(d, dev, j)
		case Approved:
			return r.stillApproved(d, dev, j)
		}
		return nil
	}
	switch {
	case old == nil:
	case after:
		erased = true
	case late:
		cutOff, erased = old.CutOff, old.JustErased
	case old.State.Live():
		j := d.job(old.ID)
		to, result, reason := Cancelled, "", "The PC was started again"
		switch j.stood() {
		case Imaging, Verifying:
			to, result, reason, cutOff = JobFailed, "failed", "The PC restarted before it was finished", true
		case Erasing:
			// The drive itself may well be going on with it.
			to, result, cutOff = JobFailed, "unknown", true
			reason = "The PC restarted while its disk was being erased: nobody knows what is on it"
		default:
			cutOff, erased = j.CutOff, j.JustErased
		}
		j.Reason, j.Next = reason, ""
		if err := d.step(j, to, "appliance", Event{Reason: reason, Result: result, Params: map[string]string{"boot": b.BootID}}); err != nil {
			return err
		}
	case !dev.Again && !dev.Wait:
		return nil // it had its turn; the plan is to start from its own disk
	}
	j, err := r.begin(d, dev, b.BootID)
	if err != nil {
		return err
	}
	j.CutOff, j.JustErased = cutOff, erased
	return r.settle(d, dev, j)
}

// begin makes a new job of a start that has reported.
func (r *Registry) begin(d *draft, dev *Device, boot string) (*Job, error) {
	j := &Job{ID: newID(), Device: dev.ID, Lot: dev.Lot, State: Booting, Boot: boot, Created: d.now, Changed: d.now}
	d.jobs = append(d.jobs, j)
	dev.Job = j.ID
	d.event(Event{Device: dev.ID, Job: j.ID, Kind: "payload", Actor: "appliance", Params: maps.Clone(r.cfg.Payload)})
	return j, d.step(j, Reported, "agent", Event{Params: map[string]string{"boot": boot}})
}

// resume takes a lost job up where it was.
func (r *Registry) resume(d *draft, dev *Device, j *Job) error {
	to := j.Before
	if err := d.step(j, to, "agent", Event{Reason: "The PC answers again"}); err != nil {
		return err
	}
	j.Reason, j.Next = "", ""
	dev.Seen = d.now
	switch to {
	case Held, Reported:
		return r.settle(d, dev, j)
	case Approved:
		return r.stillApproved(d, dev, j)
	}
	return nil
}

// imageFor finds the image that a device is to get.
func (r *Registry) imageFor(dev *Device) string {
	if dev.Image != "" {
		return dev.Image
	}
	for _, id := range []string{dev.Lot, r.open} {
		if l := r.lots[id]; l != nil && l.Closed.IsZero() && l.Image != "" {
			return l.Image
		}
	}
	if l := r.lots[dev.Lot]; l != nil {
		return l.Image
	}
	return ""
}

// settle decides what becomes of a job that is reported or held.
func (r *Registry) settle(d *draft, dev *Device, j *Job) error {
	return r.follow(d, dev, j, r.assess(d, dev, j))
}

// assess gathers what speaks for and against imaging and judges it.
func (r *Registry) assess(d *draft, dev *Device, j *Job) verdict {
	if dev.Lot == "" && r.open != "" {
		dev.Lot = r.open
		// What a donor's report counts stands in the history, not only in a record.
		d.event(Event{Device: dev.ID, Job: j.ID, Kind: "lot_joined", Actor: "appliance", Params: map[string]string{"lot": dev.Lot}})
	}
	j.Lot = dev.Lot
	f := facts{report: dev.Report, lotOpen: r.open != "", cutOff: j.CutOff, erased: j.JustErased, wait: dev.Wait}
	if dev.Again {
		f.again = dev.AgainBy
	}
	// A PC that nothing identifies is a new one at every start: for it, once per
	// device would be once per start.
	// So it may be for one that fits two records.
	countable := r.identifies(identityOf(&dev.Report, dev.MACs)) && !slices.ContainsFunc(dev.Doubts, func(v Doubt) bool { return v.Kind == DoubtEqual })
	if l := r.lots[r.open]; l != nil && l.Standing && dev.Lot == l.ID && dev.State.inWork() && countable {
		f.standing = l.ID
		for _, past := range r.jobsOf(dev.ID) {
			if past.Standing == l.ID {
				f.standing = "" // once per device and lot
			}
		}
	}
	if root := r.imageFor(dev); root != "" {
		f.image = true
		name, m, err := r.cfg.Images.Image(root)
		if f.gone = err; err == nil {
			j.Image, j.ImageName = root, Text(name)
			f.bytes, f.block, j.Bytes = m.Bytes, m.Block, m.Bytes
		}
	}
	return judge(f)
}

// follow turns a verdict into the job's next step.
func (r *Registry) follow(d *draft, dev *Device, j *Job, v verdict) error {
	j.Disk, j.Class = nil, ""
	if v.disk != nil {
		id := v.disk.DiskID
		j.Disk, j.Class = &id, v.disk.Class
	}
	switch v.state {
	case Approved:
		return r.approve(d, dev, j, *v.disk, v.by, nil)
	case Held:
		was := j.Hold
		j.Reason, j.Next, j.Hold = v.reason, v.next, v.hold
		if j.State == Held {
			if was != j.Hold {
				d.event(Event{Device: j.Device, Job: j.ID, Kind: "hold", From: string(was), To: string(j.Hold), Actor: "appliance", Reason: v.reason})
			}
			return nil
		}
	default:
		j.Reason, j.Next = v.reason, v.next
	}
	return d.step(j, v.state, "appliance", Event{Reason: v.reason, Result: map[bool]string{true: "failed"}[v.state == JobFailed], Params: map[string]string{"hold": string(j.Hold)}})
}

// approve lets one disk be written once. typed is what a person copied from it,
// or nil where the disk was the only one and nobody was asked.
func (r *Registry) approve(d *draft, dev *Device, j *Job, disk wire.Disk, by string, typed *string) error {
	id := disk.DiskID
	j.Disk, j.Class = &id, disk.Class
	j.Approval = &Approval{By: by, At: d.now, Boot: j.Boot, Disk: id, Class: disk.Class, ByPath: twin(&dev.Report, id) != "", Typed: typed != nil}
	j.Hold, j.Reason, j.Next, j.CutOff, j.JustErased = "", "", "", false, false
	if lot, ok := strings.CutPrefix(by, "lot:"); ok {
		j.Standing = lot
	}
	dev.Again, dev.AgainBy, dev.Wait = false, "", false
	health := DiskHealth(&disk)
	p := map[string]string{
		"disk": id.Path, "serial": id.Serial, "wwn": id.WWN, "model": id.Model, "bytes": strconv.FormatInt(id.Bytes, 10),
		"class": string(disk.Class), "boot": j.Boot, "image": j.Image, "image_name": j.ImageName,
		"health": string(health.State), "health_reasons": strings.Join(health.Reasons, "; "),
	}
	if typed != nil {
		p["typed"] = *typed
	}
	if e := j.Erase; e != nil {
		p["job"], p["check"], p["seed"], p["install"] = "erase", string(e.Check), e.Seed, strconv.FormatBool(e.Install)
	}
	return d.step(j, Approved, by, Event{Params: p})
}

// stillApproved takes an approval back that no longer holds: ten minutes have
// passed, the disk is another one or holds something else, others have appeared
// beside it, or the image is gone.
func (r *Registry) stillApproved(d *draft, dev *Device, j *Job) error {
	a := j.Approval
	disk, why := a.withdrawn(&dev.Report, d.now)
	v := verdict{state: Held, hold: HoldApproval, reason: why, next: "Approve it again on the device page", disk: disk}
	if j.Erase != nil {
		if why == "" {
			return nil
		}
		j.Approval, j.Erase = nil, nil
		// Nothing else is done in its place before somebody has looked.
		if w := r.assess(d, dev, j); w.state == Held {
			v.hold = w.hold
		}
		v.next = "Ask for erasing again on the device page"
		return r.follow(d, dev, j, v)
	}
	_, m, err := r.cfg.Images.Image(j.Image)
	switch {
	case why != "":
	case err != nil:
		v.hold, v.reason = HoldImage, "The chosen image is not there: "+Text(err.Error())
		v.next = "Import it again, or choose another one on the device page"
	case failing(disk) != "":
		v.hold, v.reason = HoldHealth, "The approved disk is failing: "+failing(disk)
		v.next = "Put another disk in"
	case !a.Typed:
		// It was approved for being the only one.
		c := ChooseDisk(dev.Report, m.Bytes, m.Block)
		if c.Verdict == Go {
			return nil
		}
		if v.reason, v.next, v.disk = c.Reason, c.Next, c.Disk; c.Verdict == Ask {
			v.hold = c.Hold
		}
	default:
		return nil
	}
	j.Approval = nil
	return r.follow(d, dev, j, v)
}

// enter finds who speaks, notes that it does, and takes up a lost job.
func (r *Registry) enter(d *draft, token string) (*Boot, error) {
	b, err := r.boot(token, d.now)
	if err != nil {
		return nil, err
	}
	if b.Device == "" {
		return nil, &Refusal{Kind: Conflict, Message: "This start has not reported yet", Next: "Send the report first"}
	}
	j := r.newest(b.Device)
	if j == nil || j.Boot != b.BootID {
		return b, nil // an old start says nothing about the present one
	}
	r.at(b.Device).heard = d.now
	if j.State == JobLost {
		return b, r.resume(d, d.device(b.Device), d.job(j.ID))
	}
	if j.State == Approved && j.Approval.expired(d.now) {
		return b, r.stillApproved(d, d.device(b.Device), d.job(j.ID))
	}
	return b, nil
}

// Progress takes a number to show. It changes no job.
func (r *Registry) Progress(ctx context.Context, token string, p wire.Progress) (reply wire.ProgressReply, err error) {
	Clean(&p)
	err = r.decide(ctx, func(d *draft) error {
		b, err := r.enter(d, token)
		if err != nil {
			return err
		}
		j := r.newest(b.Device)
		if len(d.jobs) > 0 {
			j = d.jobs[0]
		}
		switch {
		case j == nil || j.Boot != b.BootID || p.Job != j.ID:
			reply = wire.ProgressReply{Stop: true, Why: "This is no longer the job of this PC"}
		case j.State == Cancelled || j.State == JobFailed:
			reply = wire.ProgressReply{Stop: true, Why: j.Reason}
		case j.State.Running():
			at := r.at(b.Device)
			p.Done = min(p.Done, p.Total)
			if at.rate == 0 || at.progress == nil || at.progress.Phase != p.Phase {
				at.rate = float64(p.Rate)
			}
			at.rate += (float64(p.Rate) - at.rate) / 4
			at.progress = &p
			r.touch(b.Device, false)
		}
		return nil
	})
	return reply, err
}
