package workshop_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// madeUp are disks that nobody has ever seen.
func madeUp(from, n int) (disks []wire.Disk) {
	for i := range n {
		disks = append(disks, wire.Disk{Transport: wire.TransportSATA, Class: wire.ClassData, DiskID: wire.DiskID{
			Path: fmt.Sprintf("/dev/sd%d", from+i), Serial: fmt.Sprintf("MADEUP%06d", from+i), Model: "none", Bytes: 1e9, LogicalBlock: 512,
		}})
	}
	return disks
}

// A PC that reports other disks again and again is remembered with the newest of
// them, and with the one that was worked on; after a restart as well.
func TestMadeUpDisksAreForgotten(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1).done()
	written := workshop.DiskKey(p.rep.Disks[0].DiskID)
	for i := range 20 {
		h.clock.pass(time.Second)
		p.rep.Disks = madeUp(10*i, 10)
		p.report()
	}
	for _, crash := range []bool{false, true} {
		if crash {
			h.crash()
		}
		found := map[string]bool{}
		for _, f := range h.number(1).Followed {
			found[f.Disk.Serial] = true
		}
		if len(found) != 65 || len(h.Disks()) != 65 {
			t.Fatalf("%d disks are remembered, %d in all", len(found), len(h.Disks()))
		}
		for _, d := range madeUp(140, 60) {
			if !found[d.Serial] {
				t.Fatalf("%s is forgotten", d.Serial)
			}
		}
		if d, ok := h.Disk(written); !ok || len(d.Stays) != 1 || len(d.Stays[0].Jobs) != 1 || d.Stays[0].Gone.IsZero() {
			t.Fatalf("the disk that was written: %+v", d)
		}
	}
}

// A disk that two PCs report in turn keeps where it is, and where it was written.
func TestDiskToAndFro(t *testing.T) {
	h := open(t)
	h.lot(true)
	a, b := h.pc(1).done(), h.pc(2, noDisk)
	b.boot()
	disk := a.rep.Disks
	disk[0].Class = wire.ClassData
	for range 20 {
		for _, p := range []*pc{a, b} {
			h.clock.pass(time.Minute)
			p.rep.Disks = disk
			p.report()
		}
	}
	for _, crash := range []bool{false, true} {
		if crash {
			h.crash()
		}
		d := h.Disks()
		if len(d) != 1 || d[0].Twin || len(d[0].Stays) > 16 || len(d[0].Stays) < 10 {
			t.Fatalf("%+v", d)
		}
		stays := d[0].Stays
		if stays[0].Number != 2 || !stays[0].Gone.IsZero() {
			t.Fatalf("it is in %+v", stays[0])
		}
		told := 0
		for i, s := range stays {
			told += len(s.Jobs)
			if i > 0 && (s.Number == stays[i-1].Number || s.Gone.IsZero()) {
				t.Fatalf("%+v", stays)
			}
		}
		if told != 1 {
			t.Fatalf("the job is told %d times", told)
		}
		refused(t, h.MoveDevice(bg, "lead1", h.number(1).ID, workshop.Ready, ""), workshop.Conflict)
	}
}

// shelved is a store in memory.
type shelved struct {
	state workshop.State
	stays map[workshop.StayKey]workshop.Stay
	n     int // changes
}

func (s *shelved) Load(context.Context) (workshop.State, error) {
	st := s.state
	st.Stays = slices.SortedFunc(maps.Values(s.stays), func(a, b workshop.Stay) int { return a.N - b.N })
	return st, nil
}

func (s *shelved) Commit(_ context.Context, c workshop.Change) error {
	s.n++
	for _, v := range c.Stays {
		s.stays[workshop.StayKey{Disk: v.Disk, N: v.N}] = v
	}
	for _, k := range c.Unstay {
		delete(s.stays, k)
	}
	return nil
}

// However many made-up PCs there are, all their disks together are bounded; those that
// were seen last stay, and so do those that were written, however long ago.
func TestAllDisksAreBounded(t *testing.T) {
	const devices, each = 1600, 64
	s := &shelved{stays: map[workshop.StayKey]workshop.Stay{}}
	now := time.Date(2026, 3, 4, 9, 0, 0, 0, time.UTC)
	written := wire.DiskID{Path: "/dev/sda", Serial: "WRITTEN", Bytes: 1e9}
	for n := range devices {
		id := fmt.Sprintf("D%d", n)
		s.state.Devices = append(s.state.Devices, workshop.Device{ID: id, Number: n + 1, State: workshop.Received})
		for i := range each {
			v := workshop.Stay{Disk: fmt.Sprintf("%d/%d", n, i), N: 1, Device: id, Last: now.Add(time.Duration(n*each+i) * time.Second)}
			if n == 0 && i == 0 {
				v.Disk = workshop.DiskKey(written)
				s.state.Jobs = []workshop.Job{{ID: "J", Device: id, State: workshop.Verified, Approval: &workshop.Approval{Disk: written}, Taken: []wire.EventKind{wire.EventImaging}}}
			}
			s.stays[workshop.StayKey{Disk: v.Disk, N: 1}] = v
		}
	}
	var r *workshop.Registry
	for range 2 {
		var err error
		if r, err = workshop.Open(bg, workshop.Config{Store: s, Images: &shelf{}, BaseURL: func() (string, string) { return "", "" }, Now: func() time.Time { return now }}); err != nil {
			t.Fatal(err)
		}
		if got := len(r.Disks()); got != len(s.stays) || got != 99_000 || s.n != 1 {
			t.Fatalf("%d disks are remembered, %d stored, by %d changes", got, len(s.stays), s.n)
		}
	}
	for _, k := range []string{workshop.DiskKey(written), fmt.Sprintf("%d/%d", devices-1, each-1)} {
		if _, ok := r.Disk(k); !ok {
			t.Errorf("%s is forgotten", k)
		}
	}
	if _, ok := r.Disk("0/1"); ok {
		t.Error("the oldest is remembered")
	}
}
