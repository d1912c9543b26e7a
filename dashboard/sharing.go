package dashboard

import (
	"time"

	"refurb/appliance/workshop"
)

// Bit is a short remark on a card.
type Bit struct {
	Icon string // empty: none
	Say
}

// sourceOf says from where a PC gets its data.
func sourceOf(f *workshop.Flow) (bits []Bit) {
	switch n := len(f.From); {
	case n == 0 && f.Appliance:
		bits = append(bits, Bit{"down", Say{ID: "flow.server"}})
	case n == 1 && f.Appliance:
		bits = append(bits, Bit{"down", Say{ID: "flow.both", Pairs: []any{"N", f.From[0]}}})
	case n == 1:
		bits = append(bits, Bit{"down", Say{ID: "flow.from", Pairs: []any{"N", f.From[0]}}})
	case n > 1:
		bits = append(bits, Bit{"down", Say{ID: "flow.from2", Pairs: []any{"A", f.From[0], "B", f.From[1]}}})
	}
	if f.After > 0 {
		bits = append(bits, Bit{"clock", Say{ID: "flow.waits", Pairs: []any{"N", f.After}}})
	}
	return bits
}

// flowOf is how a PC shares, in a few words for its card.
func flowOf(f *workshop.Flow) []Bit {
	if f == nil {
		return nil
	}
	bits := sourceOf(f)
	if n := len(f.To); n > 0 {
		bits = append(bits, Bit{"up", Say{ID: "flow.helps", Count: n}})
	}
	if f.After > 0 && f.Of > 1 && f.Place > 0 { // to the others it makes no difference
		bits = append(bits, Bit{"", lineOf(f)})
	}
	if f.Slow != "" {
		bits = append(bits, Bit{"", Say{ID: "flow.slow"}})
	}
	return bits
}

func lineOf(f *workshop.Flow) Say {
	return Say{ID: "flow.line", Pairs: []any{"N", f.Place, "Of", f.Of}}
}

// allDone is how long it takes until the last of the PCs at work is done. A PC
// that has only just begun is passed over; one that stands still makes the end
// unknown, which is 0.
func allDone(cards []Card) (last time.Duration) {
	for _, c := range cards {
		switch {
		case c.Group != groupWork || !c.Begun:
		case c.Look == lookFinishing:
			last = max(last, time.Second)
		case c.Left == 0 || c.Silent:
			return 0
		default:
			last = max(last, c.Left)
		}
	}
	return last
}
