package exchange

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/wire"
)

// An appliance that is going down, or changes its mind all the time, is not
// asked more often than others are.
func TestPace(t *testing.T) {
	p := paint(t, 8, false)
	for _, c := range []struct {
		name string
		most int
		say  func(n int) (wire.Order, error)
	}{
		{"the same", 25, func(int) (wire.Order, error) { return wire.Order{Serial: 1, Key: "k"}, nil }},
		{"away after an order", 25, func(n int) (wire.Order, error) {
			if n == 1 {
				return wire.Order{Serial: 1, Key: "k"}, nil
			}
			return wire.Order{}, errors.New("connection refused")
		}},
		{"another each time", 60, func(n int) (wire.Order, error) { return wire.Order{Serial: int64(n), Key: "k"}, nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				found := make([]bool, len(p.m.Frames))
				for i := range found {
					found[i] = true
				}
				x := New(Config{Manifest: p.m, URL: "http://nowhere.invalid", Found: found, Share: func(context.Context, wire.Share) (wire.Order, error) {
					n++
					return c.say(n)
				}})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				x.follows(ctx)
				if n < 15 || n > c.most {
					t.Errorf("%d words in 10 s", n)
				}
			})
		})
	}
}

// Words in a hurry don't make a burst look like a fast link.
func TestRate(t *testing.T) {
	var r rate
	at, bytes := time.Unix(0, 0), int64(0)
	say := func(after time.Duration, more int64) int64 {
		at, bytes = at.Add(after), bytes+more
		return r.over(at, bytes)
	}
	say(0, 0)
	for range 10 {
		say(reports, 50<<20)
	}
	for range 4 {
		if got := say(50*time.Millisecond, 10<<20); got > 120<<20 {
			t.Errorf("%d MiB/s", got>>20)
		}
	}
	for range 5 {
		say(reports, 0)
	}
	if got := say(reports, 0); got != 0 {
		t.Errorf("%d when nothing came", got)
	}
}
