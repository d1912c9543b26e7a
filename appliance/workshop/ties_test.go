package workshop_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

const dongle = "00:e0:4c:36:01:02"

// bare boards tell nothing of their own: a maker's UUID at the most.
func bare(uuid string) func(*wire.Report) {
	return func(r *wire.Report) {
		r.Identity = wire.Identity{Manufacturer: "Default string", Model: "Default string", UUID: uuid, SystemSerial: "To be filled by O.E.M.", BoardSerial: "Default string"}
	}
}

// byDongle has a USB card and no other.
func byDongle(r *wire.Report) {
	r.NICs = []wire.NIC{{Name: "eth0", MAC: dongle, Permanent: dongle, Bus: "usb"}}
}

// alongside adds a card.
func alongside(mac, bus string) func(*wire.Report) {
	return func(r *wire.Report) {
		r.NICs = append(slices.Clone(r.NICs), wire.NIC{Name: "eth1", MAC: mac, Permanent: mac, Bus: bus})
	}
}

func (p *pc) from(mac string) *pc { p.mac = mac; return p }

// done images a PC to the end; its next start would be from its own disk.
func (p *pc) done() *pc {
	p.h.t.Helper()
	p.boot()
	p.wants(wire.ActionImage)
	p.image()
	return p
}

// local reports whether a PC would be sent to its own disk, without starting it.
func (p *pc) local() bool {
	p.h.t.Helper()
	kind, _, err := p.h.Boot(bg, workshop.Start{MAC: p.mac, UUID: p.rep.Identity.UUID})
	if err != nil {
		p.h.t.Fatal(err)
	}
	return kind == workshop.StartDisk
}

// by number, and not by what it says of itself.
func (h *house) number(n int) workshop.DeviceDetail {
	h.t.Helper()
	for _, v := range h.View().Devices {
		if v.Number == n || slices.Contains(v.Numbers, n) {
			d, _ := h.Device(v.ID)
			return d
		}
	}
	h.t.Fatalf("there is no number %d", n)
	return workshop.DeviceDetail{}
}

func (h *house) shown(want int) {
	h.t.Helper()
	if got := len(h.View().Devices); got != want {
		h.t.Fatalf("%d devices are shown, not %d", got, want)
	}
}

// Who starts is told apart by more than one address.
func TestWhoStarts(t *testing.T) {
	for name, c := range map[string]struct {
		first, second []func(*wire.Report)
		a, b          string // where they start from; empty: their own card
		uuid          string // that the second gives at the start, if it is another one
		local         bool   // the second is taken for the first
		devices       int    // once both have reported
	}{
		"itself":                                  {nil, nil, "", "", "", true, 1},
		"a dongle that goes round":                {[]func(*wire.Report){alongside(dongle, "usb")}, []func(*wire.Report){other2, alongside(dongle, "usb")}, dongle, dongle, "", false, 2},
		"its only card is a dongle":               {[]func(*wire.Report){byDongle}, []func(*wire.Report){byDongle}, dongle, dongle, "", true, 1},
		"both have only the dongle":               {[]func(*wire.Report){byDongle}, []func(*wire.Report){other2, byDongle}, dongle, dongle, "", false, 2},
		"boards with one UUID and a dongle":       {[]func(*wire.Report){bare(fake), byDongle}, []func(*wire.Report){bare(fake), byDongle, otherDisk}, dongle, dongle, "", false, 2},
		"boards with one UUID and cards":          {[]func(*wire.Report){bare(fake)}, []func(*wire.Report){bare(fake), otherCard, otherDisk}, "", "00:21:cc:00:00:02", "", false, 2},
		"boards with a filler for a UUID":         {[]func(*wire.Report){bare(filler)}, []func(*wire.Report){bare(filler), otherCard, otherDisk}, "", "00:21:cc:00:00:02", "", false, 2},
		"the same board with a filler":            {[]func(*wire.Report){bare(filler)}, []func(*wire.Report){bare(filler)}, "", "", "", true, 1},
		"a card that went into another board":     {[]func(*wire.Report){bare(filler)}, []func(*wire.Report){bare(uuid3)}, "", "", "", false, 1},
		"no address at all":                       {[]func(*wire.Report){zeroCard}, []func(*wire.Report){other2, zeroCard}, "00:00:00:00:00:00", "00:00:00:00:00:00", "", false, 2},
		"an address that drivers fall back to":    {[]func(*wire.Report){bare(filler), fallback}, []func(*wire.Report){bare(filler), fallback, otherDisk}, "00:e0:4c:68:00:01", "00:e0:4c:68:00:01", "", false, 2},
		"two cards, by the other one":             {[]func(*wire.Report){alongside("a4:4c:c8:44:55:66", "pci")}, []func(*wire.Report){alongside("a4:4c:c8:44:55:66", "pci")}, "", "a4:4c:c8:44:55:66", "", true, 1},
		"the UUID in the other byte order":        {nil, nil, "", "", "44454c4c-4200-1035-8052-b4c04f000001", true, 1},
		"by dongle, UUID in the other byte order": {[]func(*wire.Report){byDongle}, []func(*wire.Report){byDongle}, dongle, dongle, "44454c4c-4200-1035-8052-b4c04f000001", true, 1},
		"a UUID made of the address":              {nil, nil, "", "", "00000000-0000-0000-0000-0021cc000001", true, 1},
		"no UUID at the start":                    {nil, nil, "", "", "-", true, 1},
		"a dongle and no UUID at the start":       {[]func(*wire.Report){byDongle}, []func(*wire.Report){byDongle}, dongle, dongle, "-", false, 1},
		"a disk that came from another PC":        {nil, []func(*wire.Report){other2}, "", "00:21:cc:00:00:02", "", false, 2},
		"first without a disk":                    {[]func(*wire.Report){noDisk}, nil, "", "", "", true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.lot(true)
			a, b := h.pc(1, c.first...), h.pc(1, c.second...)
			if c.a != "" {
				a.from(c.a)
			}
			if c.b != "" {
				b.from(c.b)
			}
			if a.boot(); a.plan.Action == wire.ActionImage {
				a.image()
			}
			switch c.uuid {
			case "":
			case "-":
				b.rep.Identity.UUID = ""
			default:
				b.rep.Identity.UUID = c.uuid
			}
			if got := b.local(); got != c.local {
				t.Fatalf("local %v", got)
			}
			b.rep.Identity.UUID = h.pc(1, c.second...).rep.Identity.UUID
			if !c.local && c.uuid == "" {
				a.h.clock.pass(tenMinutes)
				b.boots = 10
				b.boot()
			}
			h.shown(c.devices)
		})
	}
}

const (
	fake       = "11111111-2222-3333-4444-555555555555"
	filler     = "03000200-0400-0500-0006-000700080009"
	uuid3      = "7a5c1a00-7d1b-11e5-9284-b827eb9e62be"
	tenMinutes = 600e9
)

func other2(r *wire.Report) {
	r.Identity.UUID, r.Identity.SystemSerial = "9f2c1a00-7d1b-11e5-9284-b827eb9e62be", "PF0XOTHER"
	otherCard(r)
	otherDisk(r)
}
func otherCard(r *wire.Report) {
	r.NICs = []wire.NIC{{Name: "eth0", MAC: "00:21:cc:00:00:02", Permanent: "00:21:cc:00:00:02", Bus: "pci"}}
}
func otherDisk(r *wire.Report) {
	if len(r.Disks) > 0 {
		r.Disks[0].Serial = "S4EVNF0M999999"
	}
}
func zeroCard(r *wire.Report) {
	r.NICs = []wire.NIC{{Name: "eth0", MAC: "00:00:00:00:00:00", Permanent: "00:00:00:00:00:00", Driver: "r8125", Bus: "pci"}}
}
func fallback(r *wire.Report) {
	r.NICs = []wire.NIC{{Name: "eth0", MAC: "00:e0:4c:68:00:01", Permanent: "00:e0:4c:68:00:01", Driver: "r8169", Bus: "pci"}}
}

// A PC that is first seen by a dongle and says nothing of itself, later by its own
// card: two records, which a lead merges. All of both is found under the one.
func TestMerge(t *testing.T) {
	h := open(t)
	h.lot(true)
	first := h.pc(1, bare(filler), byDongle).from(dongle)
	first.boot() // nothing identifies it, so that a lot's approval isn't for it
	first.wants(wire.ActionHold)
	first.approve()
	first.poll()
	first.image()
	second := h.pc(1, bare(filler)) // with its own card, and the same disk
	second.rep.Disks[0].Class = wire.ClassOurs
	second.boots = 10
	second.boot()
	h.shown(2)
	a, b := h.number(1), h.number(2)
	if len(a.Doubts) != 1 || a.Doubts[0].Kind != workshop.DoubtNobody {
		t.Fatalf("%+v", a.Doubts)
	}
	refused(t, h.Merge(bg, "lead1", b.ID, a.ID, " "), workshop.Invalid)
	refused(t, h.Merge(bg, "", b.ID, a.ID, "why"), workshop.Invalid)
	refused(t, h.Merge(bg, "lead1", b.ID, "nobody", "why"), workshop.NotFound)
	refused(t, h.Merge(bg, "lead1", b.ID, b.ID, "why"), workshop.Invalid)
	refused(t, h.Merge(bg, "lead1", a.ID, b.ID, "the same sticker"), workshop.Conflict) // its job waits or runs
	if m, err := h.AsMerged(a.ID, b.ID); err != nil || m.Refused == nil || m.Jobs != 2 {
		t.Fatalf("%+v %v", m, err)
	}
	h.shown(2)
	second.image()
	if m, err := h.AsMerged(a.ID, b.ID); err != nil || m.Refused != nil || m.State != workshop.Received {
		t.Fatalf("%+v %v", m, err)
	}
	if err := h.Merge(bg, "lead1", a.ID, b.ID, "the same sticker"); err != nil {
		t.Fatal(err)
	}
	for _, crash := range []bool{false, true} {
		if crash {
			h.crash()
		}
		h.shown(1)
		v := h.number(2)
		if v.ID != a.ID || v.Number != 1 || len(v.Jobs) != 2 || !slices.Equal(v.Numbers, []int{2}) || len(v.Records) != 1 || v.Job.Device != b.ID {
			t.Fatalf("%+v", v)
		}
		if v, ok := h.Device(b.ID); !ok || v.ID != a.ID {
			t.Fatal("the other number leads nowhere")
		}
		// Its agent has to start anew, and is the kept one then.
		_, err := h.Plan(bg, second.token, 0, 0)
		refused(t, err, workshop.Unauthorized)
		if !second.local() {
			t.Fatal("a PC that is done gets the agent again")
		}
	}
	// The first start of the system counts, though the record is merged.
	if err := h.Checkin(bg, second.plan.Image.Checkin.Token, wire.FirstBoot{MAC: second.mac}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{a.ID, b.ID} {
		h.verify(id)
	}
	gone, _ := h.store.Events(bg, b.ID)
	kept, _ := h.store.Events(bg, a.ID)
	i := slices.IndexFunc(gone, func(e workshop.Event) bool { return e.Kind == "merged_into" })
	k := kept[len(kept)-1]
	lines, _ := h.store.Lines(bg, b.ID)
	if e := gone[i]; e.From != "received" || e.To != "merged" || e.Actor != "lead1" || e.Reason != "the same sticker" || e.Params["number"] != "1" || len(e.Params["head"]) != 64 {
		t.Fatalf("%+v", e)
	}
	if k.Kind != "merged_from" || k.Params["head"] != lines[i].Hash || k.Params["head_seq"] != fmt.Sprint(i+1) || k.Params["number"] != "2" {
		t.Fatalf("%+v, and the other history ends with %s", k, lines[i].Hash)
	}
	// Nobody does anything to what only leads elsewhere.
	refused(t, h.MoveDevice(bg, "lead1", b.ID, workshop.Parts, "broken"), workshop.Conflict)
	refused(t, h.ImageAgain(bg, "lead1", b.ID, ""), workshop.Conflict)
	refused(t, h.HoldAtStart(bg, "lead1", b.ID), workshop.Conflict)
	refused(t, h.ForgetAgain(bg, "lead1", b.ID), workshop.Conflict)
	refused(t, h.Erase(bg, "lead1", b.ID, "/dev/nvme0n1", second.tail(), workshop.EraseWish{Check: wire.CheckFull}), workshop.Conflict)
	refused(t, h.Merge(bg, "lead1", a.ID, b.ID, "again"), workshop.Conflict)
	// The disk was seen under both numbers and never moved.
	if d := h.number(1).Followed; len(d) != 1 || len(d[0].Stays) != 2 || d[0].Stays[0].Number != 1 || d[0].Stays[1].Number != 1 {
		t.Fatalf("%+v", d)
	}
	// What was proved under one number lets the PC go; the number is not used again.
	if err := h.MoveDevice(bg, "lead1", a.ID, workshop.Ready, ""); err != nil {
		t.Fatal(err)
	}
	third := h.pc(3)
	third.boot()
	if third.plan.Number != 3 {
		t.Fatalf("a new PC got number %d", third.plan.Number)
	}
}

// What can't be one PC is not merged, and each refusal says why.
func TestMergeRefusals(t *testing.T) {
	for _, c := range []struct {
		keep, gone []workshop.DeviceState
		ok         bool
		says       string
	}{
		{nil, nil, true, ""},
		{[]workshop.DeviceState{workshop.Parts}, nil, true, ""},
		{nil, []workshop.DeviceState{workshop.DeviceLost}, true, ""},
		{[]workshop.DeviceState{workshop.DeviceLost}, nil, false, "not in the house"},
		{[]workshop.DeviceState{workshop.Recycled}, nil, false, "two places"},
		{nil, []workshop.DeviceState{workshop.ReturnedDonor}, false, "two places"},
		{[]workshop.DeviceState{workshop.Recycled}, []workshop.DeviceState{workshop.Recycled}, false, "two PCs"},
		{[]workshop.DeviceState{workshop.Ready, workshop.Reserved, workshop.HandedOut}, nil, false, "two places"},
		{[]workshop.DeviceState{workshop.Ready, workshop.Reserved, workshop.HandedOut}, []workshop.DeviceState{workshop.DeviceLost}, true, ""},
		{[]workshop.DeviceState{workshop.Ready, workshop.Reserved, workshop.HandedOut, workshop.Returned}, nil, true, ""},
	} {
		h := open(t)
		h.lot(true)
		a, b := h.pc(1).done(), h.pc(2).done()
		for p, states := range map[*pc][]workshop.DeviceState{a: c.keep, b: c.gone} {
			for _, s := range states {
				if err := h.MoveDevice(bg, "lead1", p.device().ID, s, "test"); err != nil {
					t.Fatal(err)
				}
			}
		}
		err := h.Merge(bg, "lead1", a.device().ID, b.device().ID, "why")
		if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v and %v: %v", c.keep, c.gone, err)
		}
	}
}

// A merge that was wrong is undone: everybody has what was theirs, and they don't
// flow together again, unless people say so.
func TestMergeUndone(t *testing.T) {
	h := open(t)
	h.lot(true)
	a, b := h.pc(1).done(), h.pc(2).done()
	idA, idB := a.device().ID, b.device().ID
	for _, id := range []string{idA, idB} {
		if err := h.MoveDevice(bg, "lead1", id, workshop.Ready, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Merge(bg, "lead1", idA, idB, "I thought so"); err != nil {
		t.Fatal(err)
	}
	_, err := h.Split(bg, "lead1", idA, workshop.Parting{Record: idB}, "")
	refused(t, err, workshop.Invalid)
	_, err = h.Split(bg, "lead1", idA, workshop.Parting{Record: idA}, "why")
	refused(t, err, workshop.NotFound)
	got, err := h.Split(bg, "lead1", idA, workshop.Parting{Record: idB}, "they stand side by side")
	if err != nil || got != idB {
		t.Fatal(got, err)
	}
	h.crash()
	h.shown(2)
	va, vb := h.number(1), h.number(2)
	if va.State != workshop.Received || vb.State != workshop.Ready || va.ID != idA || vb.ID != idB || len(va.Jobs) != 1 || len(vb.Jobs) != 1 || len(va.Records) != 0 {
		t.Fatalf("%+v\n%+v", va, vb)
	}
	if !slices.Contains(va.Apart, idB) || !slices.Contains(vb.Apart, idA) {
		t.Fatal("nobody remembers that they are two")
	}
	if k := h.kinds(idB); !slices.Equal(k[len(k)-2:], []string{"merged_into", "split_from"}) {
		t.Fatal(k)
	}
	if k := h.kinds(idA); !slices.Equal(k[len(k)-3:], []string{"merged_from", "split_off", "device_moved"}) {
		t.Fatal(k)
	}
	h.verify(idA)
	h.verify(idB)
	if err := h.Merge(bg, "lead1", idB, idA, "one all the same"); err != nil {
		t.Fatal(err)
	}
	if v := h.number(1); v.ID != idB || len(v.Apart) != 0 {
		t.Fatalf("%+v", v)
	}
}

// Two boards with one UUID in one record: the second was turned away while the
// first was on, and a lead makes two of them.
func TestSplit(t *testing.T) {
	h := open(t)
	h.lot(true)
	a := h.pc(1, bare(fake), byDongle).from(dongle)
	b := h.pc(1, bare(fake), byDongle, noDisk).from(dongle)
	b.boots = 10
	a.boot()
	b.script()
	a.image()
	h.clock.pass(tenMinutes)
	a.boots = 20
	if a.script() {
		t.Fatal("a board without a name of its own is told apart at its start")
	}
	a.report()
	// The second comes with a UUID that the first has, and no disk: it can't be told apart.
	b.boot()
	h.shown(1)
	v := h.number(1)
	if len(v.Shown) != 2 {
		t.Fatalf("%+v", v.Shown)
	}
	var leaving string
	for _, f := range v.Shown {
		if len(f.Disks) == 0 {
			leaving = f.ID
		}
	}
	for _, faces := range [][]string{nil, {"nonsense"}, {v.Shown[0].ID, v.Shown[1].ID}} {
		_, err := h.Split(bg, "lead1", v.ID, workshop.Parting{Faces: faces}, "why")
		refused(t, err, workshop.Invalid)
	}
	id, err := h.Split(bg, "lead1", v.ID, workshop.Parting{Faces: []string{leaving}}, "two boards of one kind")
	if err != nil {
		t.Fatal(err)
	}
	h.crash()
	h.shown(2)
	n, o := h.number(2), h.number(1)
	if n.ID != id || n.State != workshop.Received || n.Lot == nil || len(n.Report.Disks) != 0 || len(n.Jobs) != 0 {
		t.Fatalf("%+v", n)
	}
	// What was proved in the record of two lets neither go.
	refused(t, h.MoveDevice(bg, "lead1", o.ID, workshop.Ready, ""), workshop.Conflict)
	refused(t, h.MoveDevice(bg, "lead1", n.ID, workshop.Ready, ""), workshop.Conflict)
	if k := h.kinds(id); !slices.Equal(k, []string{"split_from"}) {
		t.Fatal(k)
	}
	if e, _ := h.store.Events(bg, id); e[0].Params["number"] != "2" || e[0].Params["from_number"] != "1" || len(e[0].Params["head"]) != 64 {
		t.Fatalf("%+v", e[0])
	}
	h.verify(id)
	h.verify(o.ID)
	// From now on the disk tells them apart, and a third board is a new one.
	a.boot()
	if a.plan.Number != 1 {
		t.Fatalf("the first board is number %d", a.plan.Number)
	}
	h.clock.pass(tenMinutes)
	c := h.pc(1, bare(fake), byDongle, otherDisk).from(dongle)
	c.boots = 30
	c.boot()
	if c.plan.Number != 3 {
		t.Fatalf("a third board is number %d", c.plan.Number)
	}
}

// Two PCs that are on at once with one identity: the second is refused, somebody
// hears of it, and can make two of them.
func TestTwins(t *testing.T) {
	h := open(t)
	h.lot(true)
	a := h.pc(1, bare(fake), byDongle, data).from(dongle)
	b := h.pc(1, bare(fake), byDongle, noDisk).from("00:e0:4c:36:01:03")
	a.boot()
	h.clock.pass(tenMinutes)
	b.boots = 10
	b.script()
	h.clock.pass(1e9)
	a.poll()
	for range 3 {
		_, err := h.Report(bg, b.token, b.rep)
		refused(t, err, workshop.Conflict)
	}
	v := h.number(1)
	if len(v.Doubts) != 1 || v.Doubts[0].Kind != workshop.DoubtTwins || len(v.Shown) != 2 || !v.Shown[0].Turned {
		t.Fatalf("%+v %+v", v.Doubts, v.Shown)
	}
	if n := slices.Index(h.kinds(v.ID), "identity_doubt"); n < 0 || slices.Contains(h.kinds(v.ID)[n+1:], "identity_doubt") {
		t.Fatal(h.kinds(v.ID))
	}
	_, err := h.Split(bg, "lead1", v.ID, workshop.Parting{Faces: []string{v.Shown[0].ID}}, "I see two of them")
	refused(t, err, workshop.Conflict) // a job waits
	if err := h.Decide(bg, "lead1", v.ID, workshop.DoubtTwins, "", "it was one, restarted in haste"); err != nil {
		t.Fatal(err)
	}
	if v := h.number(1); len(v.Doubts) != 0 {
		t.Fatalf("%+v", v.Doubts)
	}
	refused(t, h.Decide(bg, "lead1", v.ID, workshop.DoubtTwins, "", "again"), workshop.Conflict)
}

// A doubt between two records is decided either way.
func TestDoubtIsDecided(t *testing.T) {
	h := open(t)
	h.lot(true)
	h.pc(1, bare(fake)).done()
	b := h.pc(1, bare(fake), otherCard, otherDisk).from("00:21:cc:00:00:02")
	b.boots = 10
	b.boot()
	v := h.number(2)
	if len(v.Doubts) != 1 || v.Doubts[0].Kind != workshop.DoubtPartly || v.Doubts[0].Number != 1 || v.Doubts[0].Shares != "the SMBIOS UUID" {
		t.Fatalf("%+v", v.Doubts)
	}
	refused(t, h.Decide(bg, "lead1", v.ID, workshop.DoubtPartly, v.ID, "why"), workshop.Conflict)
	if err := h.Decide(bg, "lead1", v.ID, workshop.DoubtPartly, h.number(1).ID, "two cards, two boards"); err != nil {
		t.Fatal(err)
	}
	if v := h.number(2); len(v.Doubts) != 0 {
		t.Fatalf("%+v", v.Doubts)
	}
	// The UUID now identifies neither; a third board that gives nothing else is a new one.
	c := h.pc(1, bare(fake), byDongle, noDisk).from(dongle)
	c.boots = 20
	c.boot()
	h.shown(3)
}

// A disk that moves takes its history along, and leaves the PC without a system.
func TestDiskMoves(t *testing.T) {
	h := open(t)
	h.lot(true)
	a := h.pc(1).done()
	idA := a.device().ID
	b := h.pc(2, noDisk)
	b.boot()
	b.state(workshop.JobFailed)
	if err := h.MoveDevice(bg, "lead1", idA, workshop.Ready, ""); err != nil {
		t.Fatal(err)
	}
	if err := h.MoveDevice(bg, "lead1", idA, workshop.Received, ""); err != nil {
		t.Fatal(err)
	}
	b.rep.Disks = slices.Clone(a.rep.Disks)
	b.rep.Disks[0].Class, b.rep.Disks[0].Path = wire.ClassOurs, "/dev/nvme1n1"
	b.report() // a disk that appears is worth a new job
	for _, crash := range []bool{false, true} {
		if crash {
			h.crash()
		}
		err := h.MoveDevice(bg, "lead1", idA, workshop.Ready, "")
		if refused(t, err, workshop.Conflict); !strings.Contains(err.Error(), "seen in PC 2 since") {
			t.Fatal(err)
		}
		refused(t, h.MoveDevice(bg, "lead1", b.device().ID, workshop.Ready, ""), workshop.Conflict)
		all := h.Disks()
		if len(all) != 1 || len(all[0].Stays) != 2 || all[0].Stays[0].Number != 2 || !all[0].Stays[0].Gone.IsZero() || all[0].Stays[1].Number != 1 ||
			all[0].Stays[1].Gone.IsZero() || len(all[0].Stays[1].Jobs) != 1 || all[0].Stays[1].Jobs[0].State != workshop.Verified {
			t.Fatalf("%+v", all)
		}
		if d, ok := h.Disk(all[0].Key); !ok || d.Disk.Path != "/dev/nvme1n1" {
			t.Fatalf("%+v", d)
		}
		for _, n := range []int{1, 2} {
			if f := h.number(n).Followed; len(f) != 1 || f[0].Key != all[0].Key {
				t.Fatalf("%+v", f)
			}
		}
	}
	// Back again: it is the PC's own proof that counts, and nobody wrote meanwhile.
	if err := h.Cancel(bg, "lead1", b.device().Job.ID, ""); err != nil {
		t.Fatal(err)
	}
	if err := h.HoldAtStart(bg, "lead1", idA); err != nil {
		t.Fatal(err)
	}
	a.rep.Disks[0].Class = wire.ClassOurs
	a.boot()
	if err := h.Cancel(bg, "lead1", a.device().Job.ID, ""); err != nil {
		t.Fatal(err)
	}
	if err := h.MoveDevice(bg, "lead1", idA, workshop.Ready, ""); err != nil {
		t.Fatal(err)
	}
}
