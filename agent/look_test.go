package agent

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/screen"
	"refurb/agent/wire"
)

// waiting is an agent that is held, and reports are what the appliance got.
func waiting(t *testing.T, present func() []string) (a *agent, reports *atomic.Int32) {
	t.Helper()
	a = newAgent(Config{Show: func(screen.View) {}, Log: slog.New(slog.DiscardHandler)})
	reports = new(atomic.Int32)
	a.present = present
	a.look = func(context.Context) wire.Report {
		a.disks.present = present()
		return wire.Report{BootID: "b1"}
	}
	a.client.api.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		plan := wire.Plan{Serial: 1, Action: wire.ActionHold}
		if r.URL.Path == wire.PathReport {
			plan.Serial += int64(reports.Add(1))
		} else {
			select { // as a long poll
			case <-time.After(pollTime):
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
		b, _ := json.Marshal(plan)
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(string(b)))}, nil
	})
	return a, reports
}

// A disk that comes late, or takes another one's place under the same name, is
// reported soon, without a restart; a PC whose disks come and go all the time
// doesn't use up what the appliance takes from one boot.
func TestDisksComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var now []string
		steps := []struct {
			at   time.Duration
			list []string
		}{
			{0, []string{"sda 3 100"}},
			{time.Minute, []string{"sda 3 100", "sdb 9 200"}},      // comes late
			{2 * time.Minute, []string{"sda 3 100", "sdb 12 200"}}, // another one in its place
			{3 * time.Minute, []string{"sda 3 100"}},               // is taken out
		}
		a, reports := waiting(t, func() []string {
			for _, s := range steps {
				if time.Since(start) >= s.at {
					now = s.list
				}
			}
			return now
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		go a.work(ctx, wire.Report{})
		for i, at := range []time.Duration{0, time.Minute, 2 * time.Minute, 3 * time.Minute, 290 * time.Second} {
			time.Sleep(at - time.Since(start) + 20*time.Second)
			if got := int(reports.Load()); at < 290*time.Second && got != i+1 || at >= 290*time.Second && got != 4 {
				t.Errorf("after %v: %d reports", at, got)
			}
			if at == 290*time.Second {
				break
			}
		}
		cancel()
		synctest.Wait()
	})
	synctest.Test(t, func(t *testing.T) {
		n := 0
		start := time.Now()
		a, reports := waiting(t, func() []string {
			n = int(time.Since(start) / (20 * time.Second))
			return []string{string(rune('a' + n%2))}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		a.work(ctx, wire.Report{})
		if got := reports.Load(); got != 1+maxLooks {
			t.Errorf("%d reports", got)
		}
	})
}

// opened is a disk that says who it is.
type opened struct {
	Disk
	id wire.DiskID
}

func (o opened) ID() wire.DiskID { return o.id }

// Where nothing but its place tells a disk from another, it has to be the one
// that was there when a person saw it. Any block device will do as the place.
func TestUnmistakable(t *testing.T) {
	id := wire.DiskID{Path: "/dev/loop0", Serial: "S1", WWN: "w", Model: "M", Bytes: 100, LogicalBlock: 512}
	with := func(f func(*wire.DiskID)) wire.DiskID { d := id; f(&d); return d }
	bare := with(func(d *wire.DiskID) { d.Serial, d.WWN = "", "" })
	elsewhere := func(d wire.DiskID) wire.DiskID { d.Path = "/dev/loop1"; return d }
	another := with(func(d *wire.DiskID) { d.Serial = "S2" })
	for _, c := range []struct {
		name         string
		disk         wire.DiskID
		beside       []wire.DiskID
		placeMatters bool
	}{
		{"alone", id, nil, false},
		{"beside another", id, []wire.DiskID{elsewhere(another)}, false},
		{"the same serial on another model", id, []wire.DiskID{elsewhere(with(func(d *wire.DiskID) { d.Model = "N" }))}, false},
		{"the same serial twice, or two paths to one disk", id, []wire.DiskID{elsewhere(id)}, true},
		{"no number", bare, nil, true},
		{"two of a kind without a number", bare, []wire.DiskID{elsewhere(bare)}, true},
		{"no serial, but a WWN", with(func(d *wire.DiskID) { d.Serial = "" }), nil, false},
	} {
		a := &agent{report: wire.Report{Disks: []wire.Disk{{DiskID: c.disk}}}}
		for _, d := range c.beside {
			a.report.Disks = append(a.report.Disks, wire.Disk{DiskID: d})
		}
		a.remember()
		j := &job{agent: a}
		if err := j.unmistakable(opened{id: c.disk}); err != nil {
			t.Errorf("%s, the same: %v", c.name, err)
		}
		a.disks.first[c.disk.Path]--
		a.remember() // another look doesn't make it the one that was approved
		if err := j.unmistakable(opened{id: c.disk}); (err != nil) != c.placeMatters {
			t.Errorf("%s, another one in its place: %v", c.name, err)
		}
	}
}
