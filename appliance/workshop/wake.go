package workshop

import (
	"context"
	"slices"
	"strings"
	"time"

	"refurb/agent/wire"
)

const (
	betweenWakes = 10 * time.Second // so soon may the same PC be switched on again
	wakesAtOnce  = 256              // PCs; a lot may hold any number of made-up ones
)

// Wakable lists the network addresses that a PC can be switched on by: those of
// its own cards, except where the agent found that a card can't. A dongle's is
// not among MACs.
func (v *Device) Wakable() []string {
	var macs []string
	for _, mac := range v.MACs {
		cannot := slices.ContainsFunc(v.Report.NICs, func(n wire.NIC) bool {
			return (cleanMAC(n.Permanent) == mac || n.Permanent == "" && cleanMAC(n.MAC) == mac) && n.Wake != nil && !*n.Wake
		})
		if !cannot {
			macs = append(macs, mac)
		}
	}
	return bounded(macs)
}

// Waits reports whether a PC is off, may be switched on over the network, and
// something is to happen when it starts.
func (v *DeviceView) Waits() bool {
	return v.State.inWork() && !v.Online && len(v.Wakable()) > 0 &&
		(v.Again || v.Wait || v.Rescue != "" || v.Job != nil && v.Job.State == JobLost)
}

// Wake switches a PC on by its network cards. Nobody hears whether it worked: a
// PC that starts is seen soon after.
func (r *Registry) Wake(ctx context.Context, actor, deviceID string) error {
	if err := known(actor); err != nil {
		return err
	}
	return r.wake(ctx, actor, func() ([]*Device, error) {
		v := r.devices[deviceID]
		switch {
		case v == nil:
			return nil, &Refusal{Kind: NotFound, Message: "There is no such device"}
		case !v.State.inWork():
			return nil, workable(v)
		case r.online(r.at(v.ID)):
			return nil, &Refusal{Kind: Conflict, Message: "This PC is on"}
		case len(v.Wakable()) == 0:
			return nil, &Refusal{Kind: Conflict, Message: "This PC can't be switched on over the network", Next: "Press its button"}
		}
		return []*Device{v}, nil
	})
}

// WakeLot switches on all PCs of a lot for which something waits.
func (r *Registry) WakeLot(ctx context.Context, actor, lotID string) error {
	if err := known(actor); err != nil {
		return err
	}
	return r.wake(ctx, actor, func() (who []*Device, err error) {
		if r.lots[lotID] == nil {
			return nil, &Refusal{Kind: NotFound, Message: "There is no such lot"}
		}
		for _, v := range r.devices {
			view := DeviceView{Device: *v, Job: r.newest(v.ID), Online: r.online(r.at(v.ID))}
			if v.Lot == lotID && view.Waits() {
				who = append(who, v)
			}
		}
		if len(who) == 0 {
			return nil, &Refusal{Kind: Conflict, Message: "No PC of this lot waits to be switched on", Next: "Choose what it is to do at its next start first"}
		}
		slices.SortFunc(who, func(a, b *Device) int { return a.Number - b.Number })
		return who, nil
	})
}

// wake sends to whom choose names, outside the lock, and writes it down.
func (r *Registry) wake(ctx context.Context, actor string, choose func() ([]*Device, error)) error {
	if r.cfg.Wake == nil {
		return &Refusal{Kind: Conflict, Message: "Nothing can be switched on from here"}
	}
	who, macs, err := r.toWake(choose)
	if err != nil {
		return err
	}
	sent := r.cfg.Wake(ctx, macs)
	// What went out is written down, whoever hangs up meanwhile.
	err = r.decide(context.WithoutCancel(ctx), func(d *draft) error {
		for _, v := range who {
			e := Event{Device: v.ID, Kind: "wake", Actor: actor, Result: "ok", Params: map[string]string{"macs": strings.Join(v.Wakable(), " ")}}
			if sent != nil {
				e.Result, e.Reason = "failed", sent.Error()
			}
			d.event(e)
		}
		return nil
	})
	if sent != nil {
		r.cfg.Log.Error("switching PCs on", "err", sent)
		return &Refusal{Kind: Busy, Message: "The signal could not be sent: " + Text(sent.Error()), Next: "Look at the appliance's network card"}
	}
	return err
}

// toWake chooses, and leaves out who was just woken.
func (r *Registry) toWake(choose func() ([]*Device, error)) (who []*Device, macs []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if who, err = choose(); err != nil {
		return nil, nil, err
	}
	now := r.cfg.Now()
	who = slices.DeleteFunc(who, func(v *Device) bool {
		since := now.Sub(r.at(v.ID).woken)
		return since >= 0 && since < betweenWakes
	})
	if len(who) == 0 || !r.wakes.AllowN(now, 1) {
		return nil, nil, &Refusal{Kind: Busy, Message: "It was switched on a moment ago", Next: "Give it half a minute to start"}
	}
	// Who is left out comes first the next time.
	slices.SortStableFunc(who, func(a, b *Device) int { return r.at(a.ID).woken.Compare(r.at(b.ID).woken) })
	who = who[:min(len(who), wakesAtOnce)]
	for _, v := range who {
		r.at(v.ID).woken = now
		macs = append(macs, v.Wakable()...)
	}
	return who, macs, nil
}
