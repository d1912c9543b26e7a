package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	"refurb/agent/drivers"
	"refurb/agent/link"
	"refurb/agent/screen"
	"refurb/agent/wire"
)

// While a PC has no network only its own screen can say why.

const (
	patience = 20 * time.Second // for a cable or an address, before a person is asked
	reload   = 3 * time.Second  // between two looks for a network card that was plugged in
)

// noNetwork shows what a PC waits for, and gives a network card that comes late
// its driver.
type noNetwork struct {
	show  func(screen.View)
	load  func(context.Context) (drivers.Result, error)
	gaps  []wire.Gap
	what  string
	since time.Time
	last  time.Time // look for drivers
}

// says is told again and again what link.Up waits for.
func (n *noNetwork) says(ctx context.Context, what string) {
	now := time.Now()
	if what != n.what {
		n.what, n.since = what, now
	}
	if what == link.NoCard && now.Sub(n.last) >= reload {
		if found, err := n.load(ctx); err == nil {
			n.gaps = found.Gaps
		}
		n.last = time.Now()
	}
	n.show(waitingView(what, now.Sub(n.since), n.gaps))
}

// waitingView is the screen of a PC that has waited for so long.
func waitingView(what string, d time.Duration, gaps []wire.Gap) screen.View {
	v := screen.View{Kind: screen.Working, Title: "Network", Detail: what, Percent: -1}
	switch {
	case what == link.NoCard:
		v.Kind, v.Next = screen.Waiting, "plug in a USB network card, and move the cable there"
		cards := networkGaps(gaps)
		if len(cards) == 0 {
			return v
		}
		v.Detail = "no network card works: " + lineOf(cards[0])
		for _, g := range cards[1:] {
			v.Lines = append(v.Lines, lineOf(g))
		}
	case d < patience:
	case what == link.NoCable:
		v.Kind, v.Next = screen.Waiting, "plug the network cable in, at both ends; if it is, try another cable and another switch port"
	default: // an address
		v.Kind, v.Next = screen.Waiting, "use another switch port, or switch STP off there (PortFast); look whether the appliance is on"
	}
	return v
}

// networkGaps are network cards without a driver and, after them, firmware that
// a driver misses: a card may be what asked for it.
func networkGaps(gaps []wire.Gap) []wire.Gap {
	isCard := func(g wire.Gap) bool { return strings.Contains(g.What, "network") }
	var out []wire.Gap
	for _, g := range gaps {
		if isCard(g) || strings.HasPrefix(g.What, "driver ") {
			out = append(out, g)
		}
	}
	slices.SortStableFunc(out, func(a, b wire.Gap) int {
		switch {
		case isCard(a) == isCard(b):
			return 0
		case isCard(a):
			return -1
		}
		return 1
	})
	return out
}

// lineOf names a card as a shop or a search does: by its numbers.
func lineOf(g wire.Gap) string { return text(g.ID + ", " + g.What + ": " + g.Reason) }
