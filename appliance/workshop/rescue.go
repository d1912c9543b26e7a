package workshop

import (
	"context"
	"time"
)

// Rescue is what a person may have a PC start once, whatever its turn is.
type Rescue string

const (
	RescueShell  Rescue = "shell"   // root on the PC, with its disks: for leads
	RescueMemory Rescue = "memtest" // says what it finds on the PC's screen only
	RescueDisk   Rescue = "local"   // its own disk, though an imaging waits
)

// start is what a boot script says for a choice.
func (k Rescue) start() StartKind {
	switch k {
	case RescueShell:
		return StartShell
	case RescueMemory:
		return StartMemory
	case RescueDisk:
		return StartDisk
	}
	return ""
}

// oneStart bounds how long one start may ask for its script: GRUB asks up to
// three times, and its connections take a while to be given up.
const oneStart = 2 * time.Minute

// Given is the start that a choice was given to.
type Given struct {
	Kind Rescue    `json:"kind"`
	MAC  string    `json:"mac"`
	IPXE bool      `json:"ipxe,omitempty"` // iPXE asked for it
	At   time.Time `json:"at"`
}

// holds reports whether s is that start still: the same card, soon after, and it
// hasn't asked for an address since. Where iPXE in the card gives up, the firmware
// asks for one anew and GRUB comes; a new start would begin with that iPXE again.
func (g *Given) holds(s Start, now time.Time) bool {
	if g == nil || g.MAC != s.MAC {
		return false
	}
	if handed := g.IPXE && !s.IPXE; s.Since.After(g.At) && !handed {
		return false
	}
	age := now.Sub(g.At)
	return age >= 0 && age < oneStart
}

// ChooseRescue has a PC start something else once, the next time that it asks
// for its boot script. A later choice takes the place of an earlier one.
func (r *Registry) ChooseRescue(ctx context.Context, actor, deviceID string, kind Rescue) error {
	if err := known(actor); err != nil {
		return err
	}
	if kind.start() == "" {
		return &Refusal{Kind: Invalid, Message: "A PC can't start “" + Text(string(kind)) + "”", Next: "Choose the rescue shell, the memory test or the PC's own disk"}
	}
	return r.decide(ctx, func(d *draft) error {
		v := r.devices[deviceID]
		if v == nil {
			return &Refusal{Kind: NotFound, Message: "There is no such device"}
		}
		if err := workable(v); err != nil {
			return err
		}
		// One that is lost may well be off, and then this helps to find out why.
		if j := r.newest(deviceID); j != nil && (j.State == Approved || j.State.Running()) {
			return busy(j)
		}
		if v.Rescue == kind {
			return nil
		}
		dev := d.device(deviceID)
		dev.Rescue, dev.Given = kind, nil
		d.event(Event{Device: deviceID, Kind: "rescue_chosen", From: string(v.Rescue), To: string(kind), Actor: actor})
		return nil
	})
}

// ForgetRescue takes a choice back that no start has spent.
func (r *Registry) ForgetRescue(ctx context.Context, actor, deviceID string) error {
	if err := known(actor); err != nil {
		return err
	}
	return r.decide(ctx, func(d *draft) error {
		v := r.devices[deviceID]
		switch {
		case v == nil:
			return &Refusal{Kind: NotFound, Message: "There is no such device"}
		case v.Rescue == "":
			return &Refusal{Kind: Conflict, Message: "Nothing is asked for at the next start", Next: "Look at the device page again"}
		}
		d.device(deviceID).Rescue = ""
		d.event(Event{Device: deviceID, Kind: "rescue_forgotten", From: string(v.Rescue), Actor: actor})
		return nil
	})
}

// rescue spends what was chosen for a device's next start, and gives it again to
// the same start. "": nothing was chosen.
func (d *draft) rescue(v *Device, s Start) StartKind {
	can := func(k Rescue) bool { return k != "" && !(s.Stick && k == RescueMemory) }
	if v.Given.holds(s, d.now) && can(v.Given.Kind) {
		return v.Given.Kind.start()
	}
	if !can(v.Rescue) {
		return ""
	}
	dev := d.device(v.ID)
	dev.Rescue, dev.Given = "", &Given{Kind: v.Rescue, MAC: s.MAC, IPXE: s.IPXE, At: d.now}
	d.event(Event{Device: v.ID, Kind: "rescue_started", To: string(v.Rescue), Actor: "appliance", Params: map[string]string{"mac": s.MAC}})
	return v.Rescue.start()
}
