package dashboard

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
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
	for end := time.Now().Add(5 * time.Second); len(h.dash.streams) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d streams stay open after their browsers have gone", len(h.dash.streams))
		}
	}
}

func TestTooManyStreams(t *testing.T) {
	h := newHouse(t)
	h.user("Lena", Lead)
	b := h.as("Lena")
	for range maxStreams {
		h.dash.streams <- struct{}{}
	}
	if status, _ := b.get("/bench/stream"); status != http.StatusServiceUnavailable {
		t.Errorf("one more: %d", status)
	}
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
	b := benchOf(v, "", true)
	equal(numbers(b), 4, 6, 2, 5, 10, 3, 7, 1, 8)
	if b.Needs != 5 || b.Work != 2 || b.Done != 1 || b.All != 9 || b.NoLot {
		t.Errorf("counts: %+v", b)
	}
	equal(numbers(benchOf(v, "old", true)), 10, 9)
	equal(numbers(benchOf(v, "none", true)))
	if !benchOf(workshop.View{}, "", true).Fresh {
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
