package workshop

import (
	"context"
	"slices"
	"strconv"

	"refurb/agent/wire"
)

func known(actor string) error {
	if Text(actor) == "" {
		return &Refusal{Kind: Invalid, Message: "Nobody is named as the one who asks"}
	}
	return nil
}

// OpenLot opens a donor's lot. image is the root of the image its PCs get and
// may be empty until one is chosen per device; standing lets their blank disks be
// imaged without asking, once each. PCs that waited for a lot join it.
func (r *Registry) OpenLot(ctx context.Context, actor, donor, image string, standing bool) (Lot, error) {
	if err := known(actor); err != nil {
		return Lot{}, err
	}
	donor = Text(donor)
	if donor == "" {
		return Lot{}, &Refusal{Kind: Invalid, Message: "The lot names no donor", Next: "Enter who gave these PCs"}
	}
	var lot Lot
	err := r.decide(ctx, func(d *draft) error {
		if l := r.lots[r.open]; l != nil {
			return &Refusal{Kind: Conflict, Message: "The lot of " + l.Donor + " is still open", Next: "Close it first"}
		}
		params := map[string]string{"donor": donor, "image": image, "standing": strconv.FormatBool(standing)}
		if image != "" {
			name, _, err := r.cfg.Images.Image(image)
			if err != nil {
				return &Refusal{Kind: NotFound, Message: "This image is not there: " + Text(err.Error()), Next: "Choose another one"}
			}
			params["image_name"] = name
		}
		lot = Lot{ID: newID(), Donor: donor, Image: image, Standing: standing, Opened: d.now, OpenedBy: actor}
		params["lot"] = lot.ID
		l := lot
		d.lots = append(d.lots, &l)
		d.event(Event{Kind: "lot_opened", Actor: actor, Params: params})
		return nil
	})
	if err != nil {
		return Lot{}, err
	}
	// Each waiting PC is a decision of its own: one that fails to be stored
	// must not close the lot again.
	// Nor does one who hangs up leave the rest of them waiting.
	ctx = context.WithoutCancel(ctx)
	for _, v := range r.waiting() {
		if err := r.again(ctx, v); err != nil {
			r.cfg.Log.Error("settling a PC that waited for a lot", "device", v, "err", err)
		}
	}
	return lot, nil
}

// waiting lists the devices whose job waits for a lot or an image.
func (r *Registry) waiting() (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.devices {
		if j := r.jobs[v.Job]; j != nil && j.State == Held && (j.Hold == HoldLot || j.Hold == HoldImage) {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

// again settles a held job anew.
func (r *Registry) again(ctx context.Context, device string) error {
	return r.decide(ctx, func(d *draft) error {
		if j := r.newest(device); j != nil && j.State == Held {
			return r.settle(d, d.device(device), d.job(j.ID))
		}
		return nil
	})
}

// SetIntake notes what was counted at the door for a lot, open or closed.
func (r *Registry) SetIntake(ctx context.Context, actor, id string, in Intake) error {
	if err := known(actor); err != nil {
		return err
	}
	in.RefusedWhy = Text(in.RefusedWhy)
	switch {
	case min(in.Promised, in.Refused) < 0 || max(in.Promised, in.Refused) > maxDevices:
		return &Refusal{Kind: Invalid, Message: "That is no number of PCs", Next: "Enter a number between 0 and " + strconv.Itoa(maxDevices)}
	case in.Refused > 0 && in.RefusedWhy == "":
		return &Refusal{Kind: Invalid, Message: "PCs were turned away and nobody says why", Next: "Say why in a few words"}
	}
	return r.decide(ctx, func(d *draft) error {
		l := r.lots[id]
		if l == nil {
			return &Refusal{Kind: NotFound, Message: "There is no such lot"}
		}
		if l.Intake == in {
			return nil
		}
		v := *l
		v.Intake = in
		d.lots = append(d.lots, &v)
		d.event(Event{Kind: "lot_intake", Actor: actor, Reason: in.RefusedWhy, Params: map[string]string{
			"lot": id, "donor": l.Donor, "promised": strconv.Itoa(in.Promised), "refused": strconv.Itoa(in.Refused),
		}})
		return nil
	})
}

// CloseLot closes a lot. Jobs that run go on; its standing approval ends.
func (r *Registry) CloseLot(ctx context.Context, actor, id string) error {
	if err := known(actor); err != nil {
		return err
	}
	return r.decide(ctx, func(d *draft) error {
		l := r.lots[id]
		if l == nil {
			return &Refusal{Kind: NotFound, Message: "There is no such lot"}
		}
		if !l.Closed.IsZero() {
			return nil
		}
		v := *l
		v.Closed = d.now
		d.lots = append(d.lots, &v)
		d.event(Event{Kind: "lot_closed", Actor: actor, Params: map[string]string{"lot": id, "donor": l.Donor}})
		return nil
	})
}

// Approve lets one disk of a held PC be written: in this start of it, within ten
// minutes. serialTail is what the person typed from the disk: the last six
// characters of its serial number, all of a shorter one, or its path again if it
// has none.
func (r *Registry) Approve(ctx context.Context, actor, jobID, diskPath, serialTail string) error {
	if err := known(actor); err != nil {
		return err
	}
	return r.decide(ctx, func(d *draft) error {
		old := r.jobs[jobID]
		switch {
		case old == nil:
			return &Refusal{Kind: NotFound, Message: "There is no such job"}
		case old.State == JobLost:
			return &Refusal{Kind: Conflict, Message: "The PC doesn't answer", Next: "Switch it on and wait until it shows its number"}
		case old.State != Held || r.newest(old.Device) != old:
			return &Refusal{Kind: Conflict, Message: "This job doesn't wait for an approval", Next: "Look at the device page again"}
		}
		dev, j := d.device(old.Device), d.job(jobID)
		if err := workable(dev); err != nil {
			return err
		}
		if !j.Hold.Approvable() {
			return &Refusal{Kind: Conflict, Message: "An approval is not enough here: " + j.Reason, Next: j.Next}
		}
		if _, _, err := r.cfg.Images.Image(j.Image); err != nil {
			return &Refusal{Kind: Conflict, Message: "The image is not there: " + Text(err.Error()), Next: "Choose another one"}
		}
		disk := r.candidate(dev, j, diskPath)
		if disk == nil {
			return &Refusal{Kind: Conflict, Message: "The image can't go to " + Text(diskPath) + ": it doesn't fit, it is failing, or there is no such disk", Next: "Choose one of the disks on the device page"}
		}
		if err := confirmed(disk, serialTail); err != nil {
			return err
		}
		return r.approve(d, dev, j, *disk, actor, new(Text(serialTail)))
	})
}

// confirmed refuses what was not copied from the disk.
func confirmed(disk *wire.Disk, serialTail string) error {
	if serialTailMatches(disk.DiskID, serialTail) {
		return nil
	}
	next := "Type the last six characters of the disk's serial number"
	if disk.Serial == "" {
		next = "This disk has no serial number: type its path, " + disk.Path
	}
	return &Refusal{Kind: Invalid, Message: "What was typed doesn't match the disk", Next: next}
}

func (r *Registry) candidate(dev *Device, j *Job, path string) *wire.Disk {
	for _, c := range r.candidates(dev, j) {
		if c.Path == path {
			return &c
		}
	}
	return nil
}

// candidates are the disks that an approval of a held job may name.
func (r *Registry) candidates(dev *Device, j *Job) []wire.Disk {
	if j == nil || j.State != Held || !j.Hold.Approvable() {
		return nil
	}
	_, m, err := r.cfg.Images.Image(j.Image)
	if err != nil {
		return nil
	}
	fit := ChooseDisk(dev.Report, m.Bytes, m.Block).Candidates
	return slices.DeleteFunc(fit, func(d wire.Disk) bool { return failing(&d) != "" })
}

// ImageAgain asks for another imaging at the PC's next start, or for another
// image now if it is held. image is a root; empty means the lot's. The request
// counts as approval of a blank disk and of nothing else.
func (r *Registry) ImageAgain(ctx context.Context, actor, deviceID, image string) error {
	if err := known(actor); err != nil {
		return err
	}
	return r.decide(ctx, func(d *draft) error {
		v, err := r.record(deviceID)
		if err != nil {
			return err
		}
		if err := workable(v); err != nil {
			return err
		}
		params := map[string]string{"image": image}
		if image != "" {
			name, _, err := r.cfg.Images.Image(image)
			if err != nil {
				return &Refusal{Kind: NotFound, Message: "This image is not there: " + Text(err.Error()), Next: "Choose another one"}
			}
			params["image_name"] = name
		}
		j := r.newest(deviceID)
		if j != nil && (j.State == Approved || j.State.Running()) {
			return busy(j)
		}
		dev := d.device(deviceID)
		dev.Again, dev.AgainBy, dev.Image, dev.Wait = true, actor, image, false
		d.event(Event{Device: deviceID, Kind: "image_again", Actor: actor, Params: params})
		if j != nil && j.State == Held {
			return r.settle(d, dev, d.job(j.ID))
		}
		return nil
	})
}

// ForgetAgain takes back what ImageAgain or HoldAtStart asked for, as long as
// nothing has come of it: the PC's next start is an ordinary one again.
func (r *Registry) ForgetAgain(ctx context.Context, actor, deviceID string) error {
	if err := known(actor); err != nil {
		return err
	}
	return r.decide(ctx, func(d *draft) error {
		v, err := r.record(deviceID)
		if err != nil {
			return err
		}
		if !v.Again && !v.Wait {
			return &Refusal{Kind: Conflict, Message: "Nothing is asked for at the next start", Next: "Look at the device page again"}
		}
		dev := d.device(deviceID)
		kind := "hold_at_start_forgotten"
		if v.Again {
			kind, dev.Image = "image_again_forgotten", ""
		}
		dev.Again, dev.AgainBy, dev.Wait = false, "", false
		d.event(Event{Device: deviceID, Kind: kind, Actor: actor})
		if j := r.newest(deviceID); j != nil && j.State == Held {
			return r.settle(d, dev, d.job(j.ID))
		}
		return nil
	})
}

// busy refuses what must wait for a job that is approved or runs.
func busy(j *Job) error {
	what := "This PC is being imaged"
	if j.Erase != nil {
		what = "This PC is being erased"
	}
	return &Refusal{Kind: Conflict, Message: what, Next: "Wait until it is done, or cancel it"}
}

// workable refuses a device that has left the workshop, for good or for somebody.
func workable(v *Device) error {
	if v.State.inWork() {
		return nil
	}
	return &Refusal{Kind: Conflict, Message: "The device is " + string(v.State), Next: "Move it back to received first"}
}

// Cancel ends a job. An agent that is writing hears of it with its next
// progress; its disk doesn't start.
func (r *Registry) Cancel(ctx context.Context, actor, jobID, reason string) error {
	if err := known(actor); err != nil {
		return err
	}
	return r.decide(ctx, func(d *draft) error {
		old := r.jobs[jobID]
		if old == nil {
			return &Refusal{Kind: NotFound, Message: "There is no such job"}
		}
		if !old.State.Live() {
			return &Refusal{Kind: Conflict, Message: "The job has ended: " + string(old.State)}
		}
		j, dev := d.job(jobID), d.device(old.Device)
		dev.Again, dev.AgainBy, dev.Wait = false, "", false
		if j.Reason = Text(reason); j.Reason == "" {
			j.Reason = "Cancelled on the dashboard"
		}
		j.Next = "To image this PC after all, ask for it on the device page"
		line := Event{}
		if j.stood() == Erasing {
			j.Next, line.Result = "Nobody knows what is left on the disk: erase it again", "unknown"
		}
		line.Reason = j.Reason
		return d.step(j, Cancelled, actor, line)
	})
}

// MoveDevice moves a device on its way through the house. Nothing leaves for a
// person before its disk was read back and every other one is known to be clean.
func (r *Registry) MoveDevice(ctx context.Context, actor, deviceID string, to DeviceState, reason string) error {
	if err := known(actor); err != nil {
		return err
	}
	return r.decide(ctx, func(d *draft) error {
		v, err := r.record(deviceID)
		if err != nil {
			return err
		}
		reason = Text(reason)
		j := r.newest(deviceID)
		switch {
		case !CanDevice(v.State, to):
			return &Refusal{Kind: Conflict, Message: "A device that is " + string(v.State) + " can't become " + string(to)}
		case reason == "" && needsReason(to):
			return &Refusal{Kind: Invalid, Message: "This step needs a reason", Next: "Say why in a few words"}
		case j != nil && j.State.Live() && j.stood().Running():
			return busy(j)
		case to == Ready || to == Reserved || to == HandedOut:
			if err := r.unfit(v); err != nil {
				return err
			}
		}
		dev := d.device(deviceID)
		dev.State = to
		if to == Returned || v.State == DeviceLost {
			dev.Back = ""
			if j != nil {
				dev.Back = j.ID
			}
		}
		d.event(Event{Device: deviceID, Kind: "device_moved", From: string(v.State), To: string(to), Actor: actor, Reason: reason})
		return nil
	})
}
