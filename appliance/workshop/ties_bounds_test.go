package workshop

import (
	"fmt"
	"slices"
	"testing"

	"refurb/agent/wire"
)

// PCs that were turned away push out nothing of what was let in, and are few.
func TestTurnedFacesAreFew(t *testing.T) {
	var v Device
	add := func(id string, turned bool) { v.addFace(Face{ID: id, Turned: turned}) }
	for i := range 9 {
		add(fmt.Sprint("in ", i), false)
		add(fmt.Sprint("out ", i), true)
	}
	add("in 3", true) // one that was let in, seen again while it is on
	add("out 8", false)
	var ids []string
	for _, f := range v.Faces {
		ids = append(ids, fmt.Sprint(f.ID, " ", f.Turned))
	}
	want := []string{"in 2 false", "in 4 false", "in 5 false", "in 6 false", "in 7 false", "out 7 true", "in 8 false", "in 3 false", "out 8 false"}
	if !slices.Equal(ids, want) {
		t.Fatalf("%q", ids)
	}
}

// As many made-up PCs as there may be, with the UUID of a real one: it identifies
// nobody any more, and finding that out costs no more than a few would.
func TestKeyOfACrowd(t *testing.T) {
	r := &Registry{devices: map[string]*Device{}, found: map[string][]string{}}
	me := identity{uuid: "x", macs: []string{"m"}}
	add := func(key string) *Device {
		v := &Device{ID: fmt.Sprint(len(r.devices))}
		r.devices[v.ID] = v
		r.found[key] = append(r.found[key], v.ID)
		return v
	}
	add("mac m").MACs = []string{"00:21:cc:00:00:01"}
	for range maxShared {
		add("uuid x")
	}
	void := func(want bool) {
		t.Helper()
		if got := r.void("uuid x"); got != want {
			t.Errorf("void %v", got)
		}
	}
	void(false)
	r.devices["7"].Apart = []string{"a PC that has another UUID", "7"}
	void(false)
	r.devices["7"].Apart, r.devices["9"].Apart = []string{"9"}, []string{"7"}
	void(true)
	r.devices["9"].Into, r.devices["8"].Absorbed = "8", []string{"9"}
	void(true)
	r.devices["7"].Apart, r.devices["9"].Apart = nil, nil
	void(false)
	few := testing.AllocsPerRun(1, func() { r.who(me) })
	add("uuid x")
	void(true)
	for len(r.devices) < maxDevices {
		add("uuid x")
	}
	void(true)
	if all := testing.AllocsPerRun(1, func() { r.who(me) }); all > few {
		t.Errorf("%v allocations among %d records, %v among %d", all, len(r.devices), few, maxShared)
	}
	if r.only("uuid x") != nil || r.only("uuid y") != nil {
		t.Error("one of many")
	}
}

// How many records a report is held against is bounded in all, and what a record costs
// as well: a made-up PC may have as many cards and disks as fit into a report.
func TestReportsOfManyCards(t *testing.T) {
	var rep wire.Report
	for i := range maxList {
		mac := fmt.Sprintf("00:21:cc:00:00:%02x", i)
		rep.NICs = append(rep.NICs, wire.NIC{MAC: mac, Permanent: mac, Bus: "pci"})
		rep.Disks = append(rep.Disks, wire.Disk{DiskID: wire.DiskID{Path: fmt.Sprint("/dev/sd", i), Serial: fmt.Sprint("S4EVNF0M", i)}})
	}
	if keys := identityOf(&rep, permanentMACs(&rep)).keys(); len(keys) > 32+4 {
		t.Errorf("%d keys", len(keys))
	}
	if n := testing.AllocsPerRun(10, func() { identityOf(&rep, nil) }); n > 6*maxList {
		t.Errorf("%v allocations for %d disks", n, maxList)
	}
}
