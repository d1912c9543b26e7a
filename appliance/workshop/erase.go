package workshop

import (
	"context"
	"crypto/rand"
	"encoding/hex"

	"refurb/agent/wire"
)

// Erase lets one disk of a PC that waits be erased: in this start of it, within
// ten minutes. serialTail is what the person typed from the disk, as for Approve.
// A PC waits while it is held, and while it still polls after its job has ended;
// then the erasing is a job of its own. Every disk may be named but those that are
// never written: whatever its size, what it holds, and how ill it is.
func (r *Registry) Erase(ctx context.Context, actor, deviceID, diskPath, serialTail string, wish EraseWish) error {
	if err := known(actor); err != nil {
		return err
	}
	if wish.Check != wire.CheckFull && wish.Check != wire.CheckSample {
		return &Refusal{Kind: Invalid, Message: "It is not said how the erased disk is to be read", Next: "Choose “all” or “samples”"}
	}
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return err
	}
	return r.decide(ctx, func(d *draft) error {
		v, err := r.record(deviceID)
		if err != nil {
			return err
		}
		old, err := r.eraseNow(v)
		if err != nil {
			return err
		}
		var disk *wire.Disk
		for _, c := range EraseCandidates(v.Report) {
			if disk == nil && c.Path == diskPath {
				disk = &c
			}
		}
		if disk == nil {
			return &Refusal{Kind: Conflict, Message: Text(diskPath) + " can't be erased", Next: "Choose one of the disks on the device page"}
		}
		if err := confirmed(disk, serialTail); err != nil {
			return err
		}
		dev := d.device(deviceID)
		var j *Job
		if old.State == Held {
			j = d.job(old.ID)
		} else if j, err = r.begin(d, dev, old.Boot); err != nil {
			return err
		}
		j.Erase = &EraseOrder{Check: wish.Check, Seed: hex.EncodeToString(seed[:]), Install: wish.Install && v.State.inWork()}
		j.Image, j.ImageName, j.Bytes = "", "", 0
		return r.approve(d, dev, j, *disk, actor, new(Text(serialTail)))
	})
}

// eraseNow returns the newest job of a device whose PC waits, or says why its
// disks can't be erased now.
func (r *Registry) eraseNow(v *Device) (*Job, error) {
	j := r.newest(v.ID)
	switch {
	case !v.State.erasable():
		return nil, workable(v)
	case j == nil:
		return nil, &Refusal{Kind: Conflict, Message: "This PC has not reported yet", Next: "Start it from the network"}
	case j.State == Approved || j.State.Running():
		return nil, busy(j)
	case j.State == Held:
		return j, nil
	case !j.State.Live() && r.online(r.at(v.ID)):
		return j, nil
	case !j.State.Live():
		return nil, &Refusal{Kind: Conflict, Message: "The PC is not waiting", Next: "Ask for it to wait, start it, and come back when it shows its number"}
	}
	return nil, &Refusal{Kind: Conflict, Message: "The PC doesn't answer", Next: "Switch it on and wait until it shows its number"}
}

// erasable are the disks that Erase may name now.
func (r *Registry) erasable(v *Device) []wire.Disk {
	if _, err := r.eraseNow(v); err != nil {
		return nil
	}
	return EraseCandidates(v.Report)
}

// HoldAtStart asks for the agent at a PC's next start, and for it to wait there
// until somebody says more: so a PC whose disk was imaged can be erased, too.
func (r *Registry) HoldAtStart(ctx context.Context, actor, deviceID string) error {
	if err := known(actor); err != nil {
		return err
	}
	return r.decide(ctx, func(d *draft) error {
		v, err := r.record(deviceID)
		if err != nil {
			return err
		}
		if !v.State.erasable() {
			return workable(v)
		}
		if j := r.newest(deviceID); j != nil && j.State.Live() {
			return &Refusal{Kind: Conflict, Message: "This PC starts the agent as it is", Next: "Look at its card"}
		}
		dev := d.device(deviceID)
		dev.Wait, dev.Again, dev.AgainBy = true, false, ""
		d.event(Event{Device: deviceID, Kind: "hold_at_start", Actor: actor})
		return nil
	})
}
