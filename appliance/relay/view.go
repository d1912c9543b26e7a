package relay

import (
	"cmp"
	"slices"
	"time"
)

// Member is one PC as the dashboard shows it.
type Member struct {
	ID, Image string
	Place     int      // in its image's line, from 1; 0: out of it
	Sources   []string // IDs, one per stripe
	Depot     bool
	Waits     string // what it waits for; empty: nothing
	Slow      string // why it stands at the end; empty: it doesn't
	Mute      string // why nobody gets anything from it; empty: somebody may
	Suspected string // that it passes damaged data on: a volunteer should look
	Rate      int64  // compressed bytes per second
	Have      int
	Frames    int
	Missing   int
	Done      bool
	Unheard   time.Duration // since its last status
}

// View is every member, by image and then in the order of the line, those out of
// it last. It changes nothing.
func (r *Relay) View(now time.Time) []Member {
	var view []Member
	for _, im := range r.images {
		place := map[*member]int{}
		for i, m := range im.line() {
			place[m] = i + 1
		}
		for _, m := range im.all() {
			v := Member{
				ID: m.ID, Image: m.Image, Place: place[m], Depot: m.depot, Waits: im.why(m, now),
				Slow: m.slow, Mute: m.mute, Suspected: im.guilty[m.ID], Rate: m.Rate, Have: m.Have, Frames: m.Frames,
				Missing: m.Missing, Done: m.Done, Unheard: max(now.Sub(m.heard), 0),
			}
			for _, u := range m.up {
				v.Sources = append(v.Sources, u.ID)
			}
			view = append(view, v)
		}
	}
	slices.SortFunc(view, func(a, b Member) int {
		if c := cmp.Compare(a.Image, b.Image); c != 0 {
			return c
		}
		if (a.Place == 0) != (b.Place == 0) {
			return cmp.Compare(b.Place, a.Place)
		}
		return cmp.Or(cmp.Compare(a.Place, b.Place), cmp.Compare(a.ID, b.ID))
	})
	return view
}
