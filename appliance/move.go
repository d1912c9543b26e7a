package appliance

import (
	"context"
	"errors"
	"slices"
	"time"

	"refurb/appliance/netboot"
)

// ErrMoves ends Run when another address is needed: a new start takes it.
var ErrMoves = errors.New("the network has changed, and the appliance needs another address")

// moveAfter is for how long the network has to stay as it is: who plugged a router
// in by mistake has it out again.
const moveAfter = 20 * time.Second

// moves says whether a new start would give the appliance an address that PCs
// reach, and they don't reach the one that it has: a router of another network came
// after us, or the one that lent us ours is gone for good. What a person or another
// program has chosen stays. A router that doesn't answer us would give us no
// address either.
func (p *place) moves(st netboot.Status) bool {
	switch {
	case !p.chosen:
		return false
	case p.lent:
		return st.Why == netboot.Kept && st.Stay == netboot.Lent
	}
	return st.Apart() && slices.ContainsFunc(st.Givers(), func(o netboot.Other) bool { return o.Answers && !o.Appliance })
}

// follow ends with ErrMoves when the appliance needs another address and no PC is
// here that would lose it.
func (a *Appliance) follow(ctx context.Context) error {
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		switch st, _ := a.Network(); {
		case !a.place.moves(st):
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
			a.log.Warn("PCs don't reach this appliance's address: it takes another one as soon as no PC is here that uses it", "address", a.place.addr)
		case time.Since(since) >= a.place.patience && !a.occupied():
			return ErrMoves
		}
	}
}

// occupied: an agent is here, or was a moment ago.
func (a *Appliance) occupied() bool {
	for _, d := range a.Registry.View().Devices {
		if d.Online {
			return true
		}
	}
	return false
}

// Moves says that the appliance will take another address by itself.
func (a *Appliance) Moves() bool {
	st, ok := a.Network()
	return ok && a.place.moves(st)
}
