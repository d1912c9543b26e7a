package dashboard

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/audit"
	"refurb/appliance/workshop"
)

// stream reads server-sent events as a browser does.
type stream struct {
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

func openStream(t *testing.T, b *browser, path string) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.h.srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.Client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != http.StatusOK || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("%s: %d %s", path, res.StatusCode, res.Header.Get("Content-Type"))
	}
	s := bufio.NewScanner(res.Body)
	s.Buffer(nil, 1<<20)
	return &stream{s, cancel}
}

// next event's data.
func (s *stream) next(t *testing.T) string {
	t.Helper()
	var data []string
	name := ""
	for s.lines.Scan() {
		line := s.lines.Text()
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "" && data != nil:
			if name != "change" {
				t.Errorf("an event %q", name)
			}
			return strings.Join(data, "\n")
		case field == "event":
			name = value
		case field == "data":
			data = append(data, value)
		case field != "" && field != "retry" && line != "":
			t.Errorf("a line %q", line)
		}
	}
	t.Fatalf("the stream ended: %v", s.lines.Err())
	return ""
}

// A browser gets everything first, then no more than what has changed.
func TestStream(t *testing.T) {
	h := newHouse(t)
	lead := h.user("Lena", Lead)
	b := h.as("Lena")
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Donor", h.shelf.list[0].Root, true); err != nil {
		t.Fatal(err)
	}
	one := h.start(someReport(1, "Dell", "OptiPlex", blankDisk("AA000001")))
	two := h.start(someReport(2, "Acer", "Veriton", blankDisk("AA000002"))).image()
	s := openStream(t, b, "/bench/stream")
	first := s.next(t)
	wants(t, first, `id="bench"`, "OptiPlex", "Veriton", `id="counts"`)

	two.progress(wire.PhaseImaging, 6*gb, 12*gb, 100_000_000)
	second := s.next(t)
	wants(t, second, `id="c-`+two.device().ID+`"`, "50")
	if strings.Contains(second, "OptiPlex") || strings.Contains(second, `id="bench"`) {
		t.Error("what hasn't changed is sent again")
	}
	three := h.start(someReport(3, "HP", "ProDesk", dataDisk("AA000003")))
	wants(t, s.next(t), `id="bench"`, "ProDesk", "OptiPlex")

	if err := h.reg.CloseLot(t.Context(), lead.ID, h.reg.View().Lots[0].ID); err != nil {
		t.Fatal(err)
	}
	wants(t, s.next(t), `id="bench"`, "No lot is open.")

	// The page of one PC hears nothing of the others.
	page := openStream(t, b, "/devices/"+three.device().ID+"/stream")
	wants(t, page.next(t), `id="device-hero"`, `id="device-ask"`, "AA<mark>000003</mark>")
	one.image().progress(wire.PhaseImaging, gb, 12*gb, 100_000_000)
	if err := h.reg.Cancel(t.Context(), lead.ID, three.device().Job.ID, "no"); err != nil {
		t.Fatal(err)
	}
	change := page.next(t)
	wants(t, change, `id="device-hero"`, "Cancelled")
	if strings.Contains(change, `id="device-in"`) {
		t.Error("what is in it is sent again")
	}
}

// From where a PC gets its data, and when all are done, changes on the bench and
// nothing else is sent again.
func TestSharingOnTheBench(t *testing.T) {
	h := newHouse(t)
	lead := h.user("Lena", Lead)
	b := h.as("Lena")
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Donor", h.shelf.list[0].Root, true); err != nil {
		t.Fatal(err)
	}
	one := h.start(someReport(1, "Dell", "OptiPlex", blankDisk("AA000001"))).image().progress(wire.PhaseImaging, 6*gb, 12*gb, 100_000_000)
	two := h.start(someReport(2, "Acer", "Veriton", blankDisk("AA000002"))).image().progress(wire.PhaseImaging, 6*gb, 12*gb, 50_000_000)
	s := openStream(t, b, "/bench/stream")
	wants(t, s.next(t), "all done in about", "4 min")
	h.reg.Arranged(map[string]workshop.Flow{
		one.plan.Job: {Appliance: true, To: []int{2}, Place: 1, Of: 2},
		two.plan.Job: {From: []int{1}, After: 1, Place: 2, Of: 2},
	})
	change := s.next(t)
	wants(t, change, "from the server", "helps 1 other PC", "from PC 1", "waits: PC 1 is served first", "2 of 2 in line")
	if strings.Contains(change, `id="bench"`) || strings.Contains(change, `id="left"`) {
		t.Error("what hasn't changed is sent again")
	}
	for range 4 {
		two.progress(wire.PhaseImaging, 6*gb, 12*gb, 200_000_000)
	}
	change = s.next(t)
	wants(t, change, `id="left"`, "all done in about")
	if strings.Contains(change, `id="bench"`) || strings.Contains(change, "OptiPlex") {
		t.Error("what hasn't changed is sent again")
	}
	if err := h.reg.Suspect(t.Context(), one.plan.Job, "memory"); err != nil {
		t.Fatal(err)
	}
	wants(t, s.next(t), "May damage data: test its memory")
	page := "/devices/" + one.device().ID
	_, body := b.get(page)
	wants(t, body, "This PC may damage data that it passes on.", "Another PC got damaged data from it", "from the server", "1 of 2 in line", ">PC 2<")

	var v workshop.View
	_, body = b.get("/api/devices")
	decode(t, body, &v)
	if f := v.Devices[1].Flow; f == nil || len(f.From) != 1 || f.From[0] != 1 || !v.Devices[0].Job.Suspected {
		t.Errorf("the API says %s", body)
	}
	if _, body = b.get(page + "/history/jsonl"); !strings.Contains(body, `"event":"suspected"`) {
		t.Error("the history doesn't say who is suspected")
	}
	if _, err := audit.VerifyFile(strings.NewReader(body), nil); err != nil {
		t.Error(err)
	}
}

// What a card says of sharing, in order.
func TestFlowOf(t *testing.T) {
	l, err := loadLanguages(localeFiles)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flow *workshop.Flow
		want string
	}{
		{nil, ""},
		{&workshop.Flow{}, ""},
		{&workshop.Flow{Appliance: true, Place: 1, Of: 16}, "from the server"},
		{&workshop.Flow{From: []int{3}}, "from PC 3"},
		{&workshop.Flow{From: []int{3}, Appliance: true}, "from PC 3 and the server"},
		{&workshop.Flow{From: []int{3, 7}, To: []int{1, 2}}, "from PC 3 and PC 7; helps 2 other PCs"},
		{&workshop.Flow{After: 2, Place: 5, Of: 16}, "waits: PC 2 is served first; 5 of 16 in line"},
		{&workshop.Flow{From: []int{3}, Slow: "its disk"}, "from PC 3; slow: lets the others pass"},
		{&workshop.Flow{To: []int{4}}, "helps 1 other PC"},
	} {
		var got []string
		for _, b := range flowOf(c.flow) {
			got = append(got, l.list[0].plain(b.Say))
		}
		if s := strings.Join(got, "; "); s != c.want {
			t.Errorf("%+v: %q, want %q", c.flow, s, c.want)
		}
	}
}

func TestAllDone(t *testing.T) {
	work := func(left time.Duration) Card { return Card{Group: groupWork, Begun: true, Left: left} }
	for name, c := range map[string]struct {
		cards []Card
		want  time.Duration
	}{
		"nobody":                {nil, 0},
		"the last one":          {[]Card{work(time.Minute), work(6 * time.Minute), work(2 * time.Minute)}, 6 * time.Minute},
		"one that has begun":    {[]Card{work(time.Minute), {Group: groupWork}}, time.Minute},
		"one that stands still": {[]Card{work(time.Minute), work(0)}, 0},
		"one that is silent":    {[]Card{{Group: groupWork, Begun: true, Left: time.Minute, Silent: true}}, 0},
		"one that failed":       {[]Card{work(time.Minute), {Group: groupNeeds, Begun: true}}, time.Minute},
		"one that finishes":     {[]Card{{Group: groupWork, Begun: true, Look: lookFinishing}}, time.Second},
	} {
		if got := allDone(c.cards); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// A browser that reads nothing holds up nobody, and has no place for ever.
func TestSlowBrowser(t *testing.T) {
	h := newHouse(t)
	lead := h.user("Lena", Lead)
	b := h.as("Lena")
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Donor", h.shelf.list[0].Root, true); err != nil {
		t.Fatal(err)
	}
	p := h.start(someReport(1, "Dell", "OptiPlex", blankDisk("AA000001"))).image()
	asleep := openStream(t, b, "/bench/stream")
	awake := openStream(t, b, "/bench/stream")
	awake.next(t)
	start := time.Now()
	for i := range int64(500) {
		p.progress(wire.PhaseImaging, i*gb/50, 12*gb, 100_000_000)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("500 reports of progress took %v", took)
	}
	for {
		if strings.Contains(awake.next(t), ">83<small>") {
			break
		}
	}
	asleep.cancel()
	awake.cancel()
	for end := time.Now().Add(5 * time.Second); h.dash.streams.open() > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d streams stay open after their browsers have gone", h.dash.streams.open())
		}
	}
}

// One person can't take all places, and all together not more than there are.
func TestTooManyStreams(t *testing.T) {
	h := newHouse(t)
	h.user("Lena", Lead)
	h.user("Vito", Volunteer)
	lena, vito := h.as("Lena"), h.as("Vito")
	for range maxStreamsEach {
		openStream(t, lena, "/bench/stream").next(t)
	}
	status, body := lena.get("/bench/stream")
	if status != http.StatusServiceUnavailable {
		t.Errorf("one more of the same person: %d", status)
	}
	wants(t, body, "Too many pages are open")
	his := openStream(t, vito, "/bench/stream")
	his.next(t)
	for n := h.dash.streams.open(); n < maxStreams; n++ {
		if _, ok := h.dash.streams.enter(fmt.Sprint("user ", n)); !ok {
			t.Fatalf("place %d is refused", n)
		}
	}
	if status, _ := vito.get("/bench/stream"); status != http.StatusServiceUnavailable {
		t.Errorf("one more than all: %d", status)
	}
	his.cancel()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if leave, ok := h.dash.streams.enter("somebody"); ok {
			leave()
			break
		}
		if time.Now().After(end) {
			t.Fatal("a place stays taken after its browser has gone")
		}
	}
}

func (s *watching) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

// The order of the bench: failures, holds, work, done; by number in each, so
// that nothing jumps while somebody reads.
func TestBenchOrder(t *testing.T) {
	now := time.Now()
	v := workshop.View{Time: now, Lots: []workshop.Lot{{ID: "l", Donor: "Donor"}, {ID: "old", Donor: "Old", Closed: now}}}
	add := func(n int, s workshop.JobState, lot string, seen time.Time) {
		d := workshop.DeviceView{Device: workshop.Device{ID: string(rune('a' + n)), Number: n, Lot: lot, Seen: seen}}
		if s != "" {
			d.Job = &workshop.Job{State: s, Hold: workshop.HoldApproval}
		}
		v.Devices = append(v.Devices, d)
	}
	add(1, workshop.FirstBoot, "l", now)
	add(2, workshop.Held, "l", now)
	add(3, workshop.Imaging, "l", now)
	add(4, workshop.JobLost, "l", now)
	add(5, workshop.Held, "l", now)
	add(6, workshop.JobFailed, "l", now)
	add(7, workshop.Booting, "l", now)
	add(8, "", "l", now)
	add(9, workshop.FirstBoot, "old", now.Add(-40*time.Hour)) // long gone
	add(10, workshop.Held, "old", now.Add(-40*time.Hour))     // somebody must still come
	add(11, workshop.Erasing, "l", now)
	add(12, workshop.Erased, "l", now)
	numbers := func(b Bench) (all []int) {
		for _, g := range b.Groups {
			for _, c := range g.Cards {
				all = append(all, c.Number)
			}
		}
		return all
	}
	equal := func(got []int, want ...int) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%v, want %v", got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%v, want %v", got, want)
			}
		}
	}
	b := benchOf(v, "", true, 0)
	equal(numbers(b), 4, 6, 2, 5, 10, 3, 7, 11, 1, 12, 8)
	if b.Needs != 5 || b.Work != 3 || b.Done != 2 || b.All != 11 || b.NoLot {
		t.Errorf("counts: %+v", b)
	}
	equal(numbers(benchOf(v, "old", true, 0)), 10, 9)
	equal(numbers(benchOf(v, "none", true, 0)))
	if !benchOf(workshop.View{}, "", true, 0).Fresh {
		t.Error("an empty house doesn't say what to do")
	}
}

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		done, total int64
		want        int
	}{{0, 0, 0}, {-5, 10, 0}, {5, -1, 0}, {999, 1000, 99}, {1000, 1000, 100}, {2000, 1000, 100}, {1 << 62, 1<<62 + 1<<61, 66}} {
		if got := percent(c.done, c.total); got != c.want {
			t.Errorf("%d of %d: %d, want %d", c.done, c.total, got, c.want)
		}
	}
}
