package dashboard

import (
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"refurb/appliance/workshop"
)

// lately is how long a device that nobody works on stays on the bench.
const lately = 16 * time.Hour

// Bench is the first page: what is going on right now.
type Bench struct {
	Lot    string // id of the lot that is looked at; empty: everything that is on the bench
	Lots   []LotLink
	Groups []BenchGroup
	Needs  int
	Work   int
	Done   int
	All    int
	Left   time.Duration // until all who work are done; 0: not known
	Fresh  bool          // the house has no device at all yet
	Lead   bool
	NoLot  bool // no lot is open
	Net    *netLine

	Stopped int // PCs that don't start from the network
}

// LotLink is a way to one lot's devices.
type LotLink struct{ ID, Donor string }

// BenchGroup is one section of the bench; it is there even when it is empty, so
// that its place on the page can be filled.
type BenchGroup struct {
	Group Group
	Title string // message id
	Cards []Card
	Small bool
}

// benchOf shows v, or only the devices of one lot.
func benchOf(v workshop.View, lot string, lead bool, stopped int) Bench {
	b := Bench{Lot: lot, Lead: lead, Stopped: stopped, Fresh: len(v.Devices) == 0, NoLot: true}
	open := map[string]bool{}
	for _, l := range v.Lots {
		if l.Closed.IsZero() {
			open[l.ID] = true
			b.NoLot = false
		}
		if l.Closed.IsZero() || l.ID == lot {
			b.Lots = append(b.Lots, LotLink{l.ID, clean(l.Donor, maxLine)})
		}
	}
	var cards []Card
	for _, dv := range v.Devices {
		if lot != "" && dv.Lot != lot || lot == "" && !onBench(dv, open, v.Time) {
			continue
		}
		cards = append(cards, cardOf(dv))
	}
	slices.SortFunc(cards, order)
	groups := [4]BenchGroup{
		{Group: groupNeeds, Title: "group.needs"},
		{Group: groupWork, Title: "group.work"},
		{Group: groupDone, Title: "group.done", Small: true},
		{Group: groupRest, Title: "group.rest", Small: true},
	}
	for _, c := range cards {
		groups[c.Group].Cards = append(groups[c.Group].Cards, c)
	}
	b.Groups = groups[:]
	b.Needs, b.Work, b.Done, b.All = len(groups[0].Cards), len(groups[1].Cards), len(groups[2].Cards), len(cards)
	b.Left = allDone(cards)
	return b
}

// onBench reports whether a device is worth a place without anybody asking for it.
func onBench(v workshop.DeviceView, open map[string]bool, now time.Time) bool {
	switch {
	case v.Job != nil && v.Job.State.Live():
		return true
	case open[v.Lot]:
		return true
	}
	return now.Sub(v.Seen) < lately
}

func (d *Dashboard) benchNow(v workshop.View, lot string, lead bool, stopped int) Bench {
	b := benchOf(v, lot, lead, stopped)
	b.Net = netOf(d.network())
	return b
}

func (d *Dashboard) bench(c echo.Context) error {
	v := d.cfg.Registry.View()
	lot := clean(c.QueryParam("lot"), maxLine)
	return d.render(c, http.StatusOK, "bench", page{Title: "nav.bench", Nav: "bench", Live: true, Body: d.benchNow(v, lot, can(c, Lead), d.openStarts())})
}
