package appliance

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// sharer is a PC that writes and may share.
type sharer struct {
	token string
	plan  wire.Plan
	seq   int
}

func (h *house) sharer(n int) *sharer {
	h.Helper()
	s := &sharer{token: h.token(fmt.Sprintf("00:21:cc:00:00:%02x", n))}
	r := report(n)
	r.Disks[0].Serial = fmt.Sprintf("DISK%06d", n)
	if code, e := h.call("POST", wire.PathReport, s.token, text(r), &s.plan); code != 200 || s.plan.Action != wire.ActionImage {
		h.Fatalf("%d %v %+v", code, e, s.plan)
	}
	h.event(s, wire.Event{Kind: wire.EventImaging, Disk: s.plan.Disk})
	return s
}

func (h *house) event(s *sharer, e wire.Event) {
	h.Helper()
	s.seq++
	e.Job, e.Seq = s.plan.Job, s.seq
	if code, msg := h.call("POST", wire.PathEvent, s.token, text(e), nil); code != 204 {
		h.Fatalf("%d %v", code, msg)
	}
}

// share sends p and wants an order.
func (h *house) share(s *sharer, p wire.Share) (o wire.Order) {
	h.Helper()
	p.Job = s.plan.Job
	if code, e := h.call("POST", wire.PathShare, s.token, text(p), &o); code != 200 {
		h.Fatalf("%d %v", code, e)
	}
	return o
}

func (h *house) lot() {
	h.Helper()
	if _, err := h.reg.OpenLot(context.Background(), "u", "ACME", "aa11", true); err != nil {
		h.Fatal(err)
	}
}

func TestShare(t *testing.T) {
	h := newHouse(t)
	h.lot()
	a, b := h.sharer(1), h.sharer(2)
	one := h.share(a, wire.Share{Port: 4711, Frames: 200, Missing: 200})
	if !one.Depot || len(one.Sources) != 0 || one.Key == "" {
		t.Fatalf("%+v", one)
	}
	two := h.share(b, wire.Share{Port: 4712, Frames: 200, Missing: 200})
	if two.Depot || len(two.Sources) != 1 || two.Sources[0].ID != a.plan.Job || two.Sources[0].URL != "http://127.0.0.1:4711" || two.Sources[0].Key != one.Key {
		t.Fatalf("%+v", two)
	}
	two = h.share(b, wire.Share{Port: 4712, Frames: 200, Serial: two.Serial})
	h.sharing.look(t.Context())
	v := h.reg.View().Devices
	if f := v[0].Flow; f == nil || !reflect.DeepEqual(*f, workshop.Flow{Appliance: true, To: []int{2}, Place: 1, Of: 2}) {
		t.Fatalf("%+v", f)
	}
	if f := v[1].Flow; f == nil || !reflect.DeepEqual(*f, workshop.Flow{From: []int{1}, Place: 2, Of: 2}) {
		t.Fatalf("%+v", f)
	}

	// Whose job ends is nobody's source any more.
	h.event(a, wire.Event{Kind: wire.EventOutcome, Outcome: &wire.Outcome{Result: wire.Failed, Cause: "its disk"}})
	if code, _ := h.call("POST", wire.PathShare, a.token, text(wire.Share{Job: a.plan.Job}), nil); code != 409 {
		t.Fatal(code)
	}
	h.sharing.look(t.Context())
	if two = h.share(b, wire.Share{Port: 4712, Frames: 200, Missing: 200, Serial: two.Serial}); !two.Depot || len(two.Sources) != 0 {
		t.Fatalf("%+v", two)
	}
	if f := h.reg.View().Devices[0].Flow; f != nil {
		t.Fatalf("%+v", f)
	}
	// A PC that is proved has all there is, whatever it says.
	h.event(b, wire.Event{Kind: wire.EventVerifying})
	h.event(b, wire.Event{Kind: wire.EventOutcome, Outcome: &wire.Outcome{Result: wire.Done, ReadBack: 1e9, Root: "aa11"}})
	if o := h.share(b, wire.Share{Port: 4712, Frames: 200, Have: 200}); o.Depot || o.Stay {
		t.Fatalf("%+v", o)
	}
	log := h.log.String()
	for _, want := range []string{`msg="a PC shares" number=1`, `msg="a PC shares no more" number=1`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log doesn't say %s:\n%s", want, log)
		}
	}
}

func TestShareRefusals(t *testing.T) {
	h := newHouse(t)
	held := h.token("00:21:cc:00:00:09")
	if code, _ := h.call("POST", wire.PathReport, held, text(report(9)), nil); code != 200 {
		t.Fatal(code)
	}
	h.lot()
	a, b := h.sharer(1), h.sharer(2)
	fresh := h.token("00:21:cc:00:00:03")
	own := func(p wire.Share) string { p.Job = a.plan.Job; return text(p) }
	for _, c := range []struct {
		name, token, body string
		header            []string
		code              int
	}{
		{"good", a.token, own(wire.Share{}), nil, 200},
		{"no token", "", own(wire.Share{}), nil, 401},
		{"a wrong token", "nonsense", own(wire.Share{}), nil, 401},
		{"the check-in's token", a.plan.Image.Checkin.Token, own(wire.Share{}), nil, 401},
		{"another version", a.token, own(wire.Share{}), []string{"Refurb-Wire", "1"}, 426},
		{"before the report", fresh, own(wire.Share{}), nil, 409},
		{"nothing to write", held, own(wire.Share{}), nil, 409},
		{"a foreign job", b.token, own(wire.Share{}), nil, 409},
		{"no job", a.token, "{}", nil, 409},
		{"no JSON", a.token, "<xml/>", nil, 400},
		{"claims that are no base64", a.token, `{"job":"` + a.plan.Job + `","claims":"!"}`, nil, 400},
		{"all claims", a.token, own(wire.Share{Claims: make([]byte, 30)}), nil, 200},
		{"more claims than frames", a.token, own(wire.Share{Claims: make([]byte, 31)}), nil, 400},
		{"more claims than any image has", a.token, own(wire.Share{Claims: make([]byte, wire.MaxClaims+1)}), nil, 400},
		{"too long", a.token, own(wire.Share{Claims: make([]byte, wire.MaxMessage)}), nil, 413},
		{"no such port", a.token, own(wire.Share{Port: 65536}), nil, 400},
		{"a number that is none", a.token, `{"have":1e99}`, nil, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, e := h.call("POST", wire.PathShare, c.token, c.body, nil, c.header...); code != c.code {
				t.Fatalf("%d %v", code, e)
			}
		})
	}
	if strings.Contains(h.log.String(), a.token) {
		t.Error("a token is in the log")
	}
}

func TestShareIsClean(t *testing.T) {
	who := &workshop.Sharer{Frames: 100}
	var many []wire.Trouble
	for i := range 200 {
		many = append(many, wire.Trouble{Source: fmt.Sprint(i, "\x00", strings.Repeat("x", 999)), Kind: wire.TroubleSilent, Frame: i - 5})
	}
	for name, c := range map[string]struct{ in, want wire.Share }{
		"below nothing": {
			wire.Share{Serial: -1, Port: -1, Mbit: -1, Frames: -1, Have: -1, Missing: -1, Backlog: -1, Rate: -1},
			wire.Share{},
		},
		"beyond everything": {
			wire.Share{Port: 65535, Mbit: 1 << 40, Frames: 1 << 40, Have: 60, Missing: 1 << 40, Backlog: 1 << 40, Rate: 1 << 60},
			wire.Share{Port: 65535, Mbit: 1e6, Frames: 100, Have: 60, Missing: 40, Backlog: 100, Rate: 1e12},
		},
		"more than there is": {wire.Share{Frames: 90, Have: 95}, wire.Share{Frames: 90, Have: 90}},
		"claims":             {wire.Share{Claims: []byte{1}}, wire.Share{}},
		"trouble of no kind": {
			wire.Share{Trouble: []wire.Trouble{{Kind: "evil"}, {Kind: wire.TroubleCorrupt, Frame: 100}, {Source: "a\u202eb", Kind: wire.TroubleCorrupt, Frame: 99}}},
			wire.Share{Trouble: []wire.Trouble{{Source: "ab", Kind: wire.TroubleCorrupt, Frame: 99}}},
		},
	} {
		if err := cleanShare(&c.in, who); err != nil || !reflect.DeepEqual(c.in, c.want) {
			t.Errorf("%s: %v %+v", name, err, c.in)
		}
	}
	p := wire.Share{Trouble: many}
	if err := cleanShare(&p, who); err != nil || len(p.Trouble) != maxTrouble {
		t.Fatalf("%v, %d troubles", err, len(p.Trouble))
	}
	for _, v := range p.Trouble {
		if len(v.Source) > wire.MaxText || strings.ContainsRune(v.Source, 0) || v.Frame < 0 {
			t.Fatalf("%+v", v)
		}
	}
	p = wire.Share{}
	if err := cleanShare(&p, &workshop.Sharer{Frames: 100, Done: true}); err != nil || !p.Done {
		t.Fatalf("%v %+v", err, p)
	}
}

// Where a PC serves is where it called from, and in the workshop.
func TestWhereAPCServes(t *testing.T) {
	s := NewSharing(nil, func() netip.Prefix { return netip.MustParsePrefix("10.77.0.0/24") }, true, slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		from string
		port int
		want string
	}{
		{"10.77.0.23:50000", 4711, "http://10.77.0.23:4711"},
		{"[::ffff:10.77.0.23]:50000", 4711, "http://10.77.0.23:4711"},
		{"10.77.0.23:50000", 0, ""},
		{"10.77.1.23:50000", 4711, ""},
		{"192.168.1.5:50000", 4711, ""},
		{"[fe80::1%eth0]:50000", 4711, ""},
		{"127.0.0.1:50000", 4711, ""},
		{"nonsense", 4711, ""},
		{"", 4711, ""},
	} {
		if got := s.url(c.from, c.port); got != c.want {
			t.Errorf("%s with port %d: %q, want %q", c.from, c.port, got, c.want)
		}
	}
}

// A PC outside the workshop's network is served and serves nobody.
func TestShareFromOutside(t *testing.T) {
	h := newHouse(t)
	h.lot()
	h.sharing.network = func() netip.Prefix { return netip.MustParsePrefix("10.77.0.0/24") }
	a, b := h.sharer(1), h.sharer(2)
	h.share(a, wire.Share{Port: 4711, Frames: 200, Missing: 200})
	if o := h.share(b, wire.Share{Port: 4712, Frames: 200, Missing: 200}); len(o.Sources) != 0 {
		t.Fatalf("%+v", o)
	}
}

func TestWithoutPeers(t *testing.T) {
	h := newHouse(t)
	h.lot()
	h.sharing.relay = nil
	a, b := h.sharer(1), h.sharer(2)
	for _, s := range []*sharer{a, b} {
		first := h.share(s, wire.Share{Port: 4711, Frames: 200, Missing: 200, Serial: 7})
		if !first.Depot || first.Serial != 8 || first.Sources != nil || first.Stay || first.Key != "" {
			t.Fatalf("%+v", first)
		}
		if again := h.share(s, wire.Share{Port: 4711, Frames: 200, Missing: 200, Serial: 8}); !reflect.DeepEqual(again, first) {
			t.Fatalf("%+v", again)
		}
	}
	h.sharing.look(t.Context())
	for _, v := range h.reg.View().Devices {
		if v.Flow == nil || !v.Flow.Appliance || v.Flow.Of != 0 {
			t.Fatalf("%+v", v.Flow)
		}
	}
}

func TestTooManyShares(t *testing.T) {
	h := newHouse(t)
	h.lot()
	a, b := h.sharer(1), h.sharer(2)
	busy := 0
	for range 10 * sharesEach {
		if code, e := h.call("POST", wire.PathShare, a.token, text(wire.Share{Job: a.plan.Job}), nil); code == 429 {
			busy++
		} else if code != 200 {
			t.Fatal(code, e)
		}
	}
	if busy == 0 {
		t.Fatal("nobody stops it")
	}
	if n := strings.Count(h.log.String(), "refused"); n > 0 {
		t.Fatalf("%d lines in the log", n)
	}
	h.share(b, wire.Share{}) // the others don't suffer for it
}

// A PC that passes damaged frames on is named, once; and no longer, when it was
// the other one.
func TestSuspicion(t *testing.T) {
	h := newHouse(t)
	h.lot()
	pcs := []*sharer{h.sharer(1), h.sharer(2), h.sharer(3)}
	all := func() {
		for _, s := range pcs {
			h.share(s, wire.Share{Port: 4711, Frames: 200, Missing: 200})
		}
	}
	// until waits for the relay, which hears the accused before it judges.
	until := func(want ...bool) []workshop.DeviceView {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(150 * time.Millisecond) {
			all()
			h.sharing.look(t.Context())
			v := h.reg.View().Devices
			if v[0].Job.Suspected == want[0] && v[1].Job.Suspected == want[1] && v[2].Job.Suspected == want[2] {
				return v
			}
			if time.Now().After(end) {
				t.Fatalf("%v %v %v", v[0].Job.Suspected, v[1].Job.Suspected, v[2].Job.Suspected)
			}
		}
	}
	last := func(device string) workshop.Event {
		t.Helper()
		events, err := h.db.Events(context.Background(), device)
		if err != nil {
			t.Fatal(err)
		}
		return events[len(events)-1]
	}
	all()
	bad := wire.Share{Port: 4711, Frames: 200, Missing: 200, Trouble: []wire.Trouble{{Source: pcs[0].plan.Job, Kind: wire.TroubleCorrupt, Frame: 9}}}
	h.share(pcs[1], bad)
	over, end := context.WithCancel(t.Context())
	end()
	for range 30 { // what could not be stored is not forgotten
		all()
		h.sharing.look(over)
		if strings.Contains(h.log.String(), "a PC is suspected") {
			break
		}
		time.Sleep(150 * time.Millisecond)
	}
	v := until(true, false, false)
	for range 3 {
		h.sharing.look(t.Context())
	}
	if e := last(v[0].ID); e.Kind != "suspected" || e.Actor != "appliance" || !strings.HasPrefix(e.Reason, "It ") || !strings.Contains(e.Reason, "memory") {
		t.Fatalf("%+v", e)
	}
	if n := strings.Count(h.log.String(), "level=WARN"); n != 1 {
		t.Fatalf("%d warnings:\n%s", n, h.log)
	}
	// It accuses the appliance as well: then it is itself the culprit.
	bad.Trouble[0] = wire.Trouble{Kind: wire.TroubleCorrupt, Frame: 11}
	h.share(pcs[1], bad)
	until(false, true, false)
	if e := last(v[0].ID); e.Kind != "cleared" {
		t.Fatalf("%+v", e)
	}
}

// Shares of a whole room while jobs end: nothing is stored for a Share, and the
// race detector looks on.
func TestSharesOfARoom(t *testing.T) {
	h := newHouse(t)
	h.lot()
	const room = 64
	var pcs []*sharer
	for n := range room {
		pcs = append(pcs, h.sharer(n+1))
	}
	before := changes(t, h)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { h.sharing.Run(ctx) })
	for i, s := range pcs {
		wg.Go(func() {
			for round := range 5 {
				p := wire.Share{Job: s.plan.Job, Port: 4000 + i, Frames: 200, Have: 40 * round, Missing: 200 - 40*round, Claims: []byte{byte(round + 1)}}
				var o wire.Order
				if code, e := h.call("POST", wire.PathShare, s.token, text(p), &o); code != 200 {
					t.Errorf("PC %d: %d %v", i+1, code, e)
				}
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			h.sharing.look(ctx)
			h.reg.View()
		}
		stop()
	})
	wg.Wait()
	if after := changes(t, h); after != before {
		t.Errorf("%d bytes of journal before the Shares, %d after", before, after)
	}
	depot, fed := 0, 0
	for i, s := range pcs {
		o := h.share(s, wire.Share{Port: 4000 + i, Frames: 200, Have: 100})
		if o.Depot {
			depot++
		}
		if len(o.Sources) > 0 {
			fed++
		}
	}
	if depot == 0 || depot > 8 || fed < room-8 {
		t.Errorf("%d fetch from the appliance, %d from others", depot, fed)
	}
	for _, s := range pcs {
		h.event(s, wire.Event{Kind: wire.EventOutcome, Outcome: &wire.Outcome{Result: wire.Failed, Cause: "power"}})
	}
	h.sharing.look(t.Context())
	if n := len(h.sharing.callers); n != 0 {
		t.Errorf("%d are remembered for ever", n)
	}
	for _, v := range h.reg.View().Devices {
		if v.Flow != nil {
			t.Errorf("PC %d still shares: %+v", v.Number, v.Flow)
		}
	}
}

// changes is the size of the journal of the records: it grows with every commit.
func changes(t *testing.T, h *house) int64 {
	t.Helper()
	fi, err := os.Stat(filepath.Join(h.dir, "refurb.db-wal"))
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}
