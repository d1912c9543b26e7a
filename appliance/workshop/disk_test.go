package workshop

import (
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
)

func disk(path string, gb float64, change ...func(*wire.Disk)) wire.Disk {
	d := wire.Disk{
		DiskID:    wire.DiskID{Path: path, Serial: "SER-" + path[5:], Bytes: int64(gb * 1e9), LogicalBlock: 512},
		Transport: wire.TransportSATA, Class: wire.ClassBlank,
	}
	for _, f := range change {
		f(&d)
	}
	return d
}

func TestChooseDisk(t *testing.T) {
	usb := func(d *wire.Disk) { d.Transport = wire.TransportUSB }
	removable := func(d *wire.Disk) { d.Removable = true }
	readOnly := func(d *wire.Disk) { d.ReadOnly = true }
	inUse := func(d *wire.Disk) { d.InUse = "mounted" }
	mmc := func(d *wire.Disk) { d.Transport = wire.TransportMMC }
	fourK := func(d *wire.Disk) { d.LogicalBlock = 4096 }
	noSerial := func(d *wire.Disk) { d.Serial = "" }
	data := func(d *wire.Disk) { d.Class = wire.ClassData }
	serial := func(s string) func(*wire.Disk) { return func(d *wire.Disk) { d.Serial = s } }
	wwn := func(s string) func(*wire.Disk) { return func(d *wire.Disk) { d.WWN = s } }
	for _, c := range []struct {
		name    string
		disks   []wire.Disk
		hidden  []string
		block   int
		verdict Verdict
		hold    Hold
		chosen  string
		among   int
		says    string
	}{
		{name: "one", disks: []wire.Disk{disk("/dev/sda", 120)}, verdict: Go, chosen: "/dev/sda", among: 1},
		{name: "one that holds something is chosen too: approving is another matter", disks: []wire.Disk{disk("/dev/sda", 120, data)}, verdict: Go, chosen: "/dev/sda", among: 1},
		{name: "exact fit", disks: []wire.Disk{disk("/dev/sda", 8)}, verdict: Go, chosen: "/dev/sda", among: 1},
		{name: "beside a stick", disks: []wire.Disk{disk("/dev/sda", 32, usb), disk("/dev/nvme0n1", 256)}, verdict: Go, chosen: "/dev/nvme0n1", among: 1},
		{name: "beside a card", disks: []wire.Disk{disk("/dev/mmcblk1", 32, mmc, removable), disk("/dev/sda", 256)}, verdict: Go, chosen: "/dev/sda", among: 1},
		{name: "eMMC with its areas", disks: []wire.Disk{disk("/dev/mmcblk0", 32, mmc), disk("/dev/mmcblk0boot0", 16, mmc), disk("/dev/mmcblk0boot1", 16, mmc), disk("/dev/mmcblk0rpmb", 16, mmc)},
			verdict: Go, chosen: "/dev/mmcblk0", among: 1},
		{name: "only areas", disks: []wire.Disk{disk("/dev/mmcblk0boot0", 16, mmc)}, says: "boot area"},
		{name: "none", says: "No disk was found"},
		{name: "none but sticks", disks: []wire.Disk{disk("/dev/sda", 32, usb)}, says: "/dev/sda is a USB disk"},
		{name: "read-only", disks: []wire.Disk{disk("/dev/sda", 32, readOnly)}, says: "read-only"},
		{name: "in use", disks: []wire.Disk{disk("/dev/sda", 32, inUse)}, says: "in use: mounted"},
		{name: "no size", disks: []wire.Disk{disk("/dev/sda", 0)}, says: "no size"},
		{name: "a path that climbs", disks: []wire.Disk{disk("/dev/../etc/passwd", 32)}, says: "no device"},
		{name: "not a device", disks: []wire.Disk{disk("/etc/sda", 32)}, says: "no device"},
		{name: "hidden by RAID mode", hidden: []string{"pci 8086:282a"}, says: "not known whether"},
		{name: "hidden beside one that is seen", hidden: []string{"pci 8086:282a"}, disks: []wire.Disk{disk("/dev/sda", 120)}, verdict: Ask, hold: HoldHidden, chosen: "/dev/sda", among: 1, says: "more disks than can be seen"},
		{name: "hidden beside two", hidden: []string{"pci 8086:282a"}, disks: []wire.Disk{disk("/dev/sda", 120), disk("/dev/sdb", 120)}, verdict: Ask, hold: HoldSeveral, among: 2},
		{name: "one serial twice", disks: []wire.Disk{disk("/dev/sda", 120, serial("S1")), disk("/dev/sdb", 500, serial("s1"))}, verdict: Ask, hold: HoldTwins, among: 2, says: "/dev/sda and /dev/sdb"},
		{name: "two paths to one disk", disks: []wire.Disk{disk("/dev/sda", 120, serial("S1"), wwn("0x5000")), disk("/dev/sdb", 120, serial("S1"), wwn("0x5000"))}, verdict: Ask, hold: HoldTwins, among: 2, says: "or one is seen twice"},
		{name: "one WWN, two serials", disks: []wire.Disk{disk("/dev/sda", 120, wwn("0x5000")), disk("/dev/sdb", 120, wwn("0x5000"))}, verdict: Ask, hold: HoldTwins, among: 2},
		{name: "a stick with the disk's serial", disks: []wire.Disk{disk("/dev/sda", 120, serial("S1")), disk("/dev/sdb", 32, usb, serial("S1"))}, verdict: Ask, hold: HoldTwins, chosen: "/dev/sda", among: 1},
		{name: "one path twice", disks: []wire.Disk{disk("/dev/sda", 120), disk("/dev/sda", 120, serial("S2"))}, verdict: Ask, hold: HoldTwins, among: 2},
		{name: "no serial twice", disks: []wire.Disk{disk("/dev/sda", 120, noSerial), disk("/dev/sdb", 120, noSerial)}, verdict: Ask, hold: HoldSeveral, among: 2},
		{name: "eMMC whose areas carry its serial", disks: []wire.Disk{disk("/dev/mmcblk0", 32, mmc, serial("0x1")), disk("/dev/mmcblk0boot0", 16, mmc, serial("0x1"))}, verdict: Go, chosen: "/dev/mmcblk0", among: 1},
		{name: "hidden, and a stick", hidden: []string{"pci 8086:282a"}, disks: []wire.Disk{disk("/dev/sda", 32, usb)}, says: "RAID mode"},
		{name: "two", disks: []wire.Disk{disk("/dev/sda", 120), disk("/dev/sdb", 500)}, verdict: Ask, hold: HoldSeveral, among: 2, says: "/dev/sdb (500.0 GB)"},
		{name: "two, one too small: still asked", disks: []wire.Disk{disk("/dev/sda", 4), disk("/dev/sdb", 500)}, verdict: Ask, hold: HoldSeveral, among: 1},
		{name: "two, both too small", disks: []wire.Disk{disk("/dev/sda", 4), disk("/dev/sdb", 5)}, says: "too small"},
		{name: "too small", disks: []wire.Disk{disk("/dev/sda", 4)}, says: "it has 4.0 GB, the image needs 8.0 GB"},
		{name: "too small by a hair", disks: []wire.Disk{disk("/dev/sda", 7.9999)}, says: "it has 7.9999 GB, the image needs 8.0000 GB"},
		{name: "4096-byte blocks", disks: []wire.Disk{disk("/dev/sda", 120, fourK)}, says: "blocks of 4096 bytes, the image was made for 512"},
		{name: "4096 for 4096", disks: []wire.Disk{disk("/dev/sda", 120, fourK)}, block: 4096, verdict: Go, chosen: "/dev/sda", among: 1},
		{name: "512 for 4096", disks: []wire.Disk{disk("/dev/sda", 120)}, block: 4096, says: "blocks of 512 bytes"},
		{name: "no serial", disks: []wire.Disk{disk("/dev/vda", 120, noSerial)}, verdict: Ask, hold: HoldSerial, chosen: "/dev/vda", among: 1, says: "no serial"},
	} {
		t.Run(c.name, func(t *testing.T) {
			block := c.block
			if block == 0 {
				block = 512
			}
			got := ChooseDisk(wire.Report{Disks: c.disks, HiddenStorage: c.hidden}, 8e9, block)
			if got.Verdict != c.verdict || got.Hold != c.hold || len(got.Candidates) != c.among {
				t.Fatalf("%+v", got)
			}
			if (got.Disk == nil) != (c.chosen == "") || got.Disk != nil && got.Disk.Path != c.chosen {
				t.Fatalf("chose %v", got.Disk)
			}
			if !strings.Contains(got.Reason, c.says) {
				t.Fatalf("%q doesn't say %q", got.Reason, c.says)
			}
			if (got.Verdict != Go) && (got.Reason == "" || got.Next == "") {
				t.Fatal("it doesn't say what to do")
			}
			if c.hidden != nil && c.hold != HoldSeveral && !strings.Contains(got.Next, "AHCI") {
				t.Fatalf("%q", got.Next)
			}
		})
	}
}

// Whatever a report claims, no disk that must never be written becomes a candidate.
func FuzzChooseDisk(f *testing.F) {
	f.Add("/dev/sda", "S", int64(1e11), 512, "usb", true, false, "")
	f.Add("/dev/mmcblk0boot0", "", int64(-1), 0, "mmc", false, false, "x")
	f.Fuzz(func(t *testing.T, path, serial string, bytes int64, block int, transport string, removable, readOnly bool, inUse string) {
		d := wire.Disk{DiskID: wire.DiskID{Path: path, Serial: serial, Bytes: bytes, LogicalBlock: block}, Transport: transport, Removable: removable, ReadOnly: readOnly, InUse: inUse}
		c := ChooseDisk(wire.Report{Disks: []wire.Disk{d}}, 8e9, 512)
		if c.Verdict == Fail != (len(c.Candidates) == 0) {
			t.Fatalf("%+v", c)
		}
		if len(c.Candidates) > 0 && (removable || readOnly || inUse != "" || transport == "usb" || bytes < 8e9 || block != 512 || !strings.HasPrefix(path, "/dev/")) {
			t.Fatalf("%+v", c)
		}
		if c.Verdict == Go && serial == "" {
			t.Fatal("a disk without a serial number goes on unasked")
		}
	})
}

func TestSameDisk(t *testing.T) {
	a := wire.DiskID{Path: "/dev/sda", Serial: "S1", WWN: "w", Bytes: 100, LogicalBlock: 512}
	with := func(f func(*wire.DiskID)) wire.DiskID { b := a; f(&b); return b }
	for _, c := range []struct {
		name string
		a, b wire.DiskID
		want bool
	}{
		{"itself", a, a, true},
		{"seen at another path", a, with(func(d *wire.DiskID) { d.Path = "/dev/sdb" }), true},
		{"another serial", a, with(func(d *wire.DiskID) { d.Serial = "S2" }), false},
		{"another size", a, with(func(d *wire.DiskID) { d.Bytes++ }), false},
		{"another block size", a, with(func(d *wire.DiskID) { d.LogicalBlock = 4096 }), false},
		{"another WWN", a, with(func(d *wire.DiskID) { d.WWN = "v" }), false},
		{"no WWN now", a, with(func(d *wire.DiskID) { d.WWN = "" }), true},
		{"the serial is gone", a, with(func(d *wire.DiskID) { d.Serial = "" }), false},
		{"no serial, same path", with(func(d *wire.DiskID) { d.Serial = "" }), with(func(d *wire.DiskID) { d.Serial = "" }), true},
		{"no serial, another path", with(func(d *wire.DiskID) { d.Serial = "" }), with(func(d *wire.DiskID) { d.Serial = ""; d.Path = "/dev/sdb" }), false},
	} {
		if got := sameDisk(c.a, c.b); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// One disk never stands for another one that looks the same.
func TestTwins(t *testing.T) {
	id := func(path, serial, wwn string) wire.DiskID {
		return wire.DiskID{Path: path, Serial: serial, WWN: wwn, Bytes: 100, LogicalBlock: 512}
	}
	a := id("/dev/sda", "S1", "")
	for _, c := range []struct {
		name     string
		approved wire.DiskID
		byPath   bool
		report   []wire.DiskID
		opened   wire.DiskID
		want     bool
	}{
		{"itself", a, false, []wire.DiskID{a}, a, true},
		{"itself, beside another", a, false, []wire.DiskID{a, id("/dev/sdb", "S2", "")}, a, true},
		{"itself at another path than reported", a, false, []wire.DiskID{a}, id("/dev/sdb", "S1", ""), true},
		{"itself, reported again at its new path", a, false, []wire.DiskID{id("/dev/sdb", "S1", "")}, id("/dev/sdb", "S1", ""), true},
		{"its twin", a, true, []wire.DiskID{a, id("/dev/sdb", "S1", "")}, id("/dev/sdb", "S1", ""), false},
		{"itself beside its twin", a, true, []wire.DiskID{a, id("/dev/sdb", "S1", "")}, a, true},
		{"at another path beside its twin", a, true, []wire.DiskID{a, id("/dev/sdb", "S1", "")}, id("/dev/sdc", "S1", ""), false},
		{"a twin that came later", a, false, []wire.DiskID{a, id("/dev/sdb", "S1", "")}, id("/dev/sdb", "S1", ""), false},
		{"a twin by WWN that came later", id("/dev/sda", "S1", "w"), false, []wire.DiskID{id("/dev/sda", "S1", "w"), id("/dev/sdb", "S1", "w")}, id("/dev/sdb", "S1", "w"), false},
		{"no serial, another path", id("/dev/sda", "", ""), false, []wire.DiskID{id("/dev/sda", "", ""), id("/dev/sdb", "", "")}, id("/dev/sdb", "", ""), false},
	} {
		rep := wire.Report{}
		for _, d := range c.report {
			rep.Disks = append(rep.Disks, wire.Disk{DiskID: d})
		}
		p := Approval{Disk: c.approved, ByPath: c.byPath}
		if got := p.mayOpen(&rep, c.opened); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestWithdrawn(t *testing.T) {
	now := time.Date(2026, 3, 4, 9, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		change func(*Approval, *wire.Report)
		says   string
	}{
		"nothing":             {func(*Approval, *wire.Report) {}, ""},
		"nine minutes":        {func(a *Approval, _ *wire.Report) { a.At = now.Add(-9 * time.Minute) }, ""},
		"another path":        {func(_ *Approval, r *wire.Report) { r.Disks[0].Path = "/dev/sdx" }, ""},
		"another beside it":   {func(_ *Approval, r *wire.Report) { r.Disks = append(r.Disks, disk("/dev/sdb", 120)) }, ""},
		"eleven minutes":      {func(a *Approval, _ *wire.Report) { a.At = now.Add(-11 * time.Minute) }, "ten minutes"},
		"from the future":     {func(a *Approval, _ *wire.Report) { a.At = now.Add(time.Minute) }, "ten minutes"},
		"pulled":              {func(_ *Approval, r *wire.Report) { r.Disks = nil }, "no longer there"},
		"swapped":             {func(_ *Approval, r *wire.Report) { r.Disks[0].Serial = "OTHER" }, "no longer there"},
		"of another size":     {func(_ *Approval, r *wire.Report) { r.Disks[0].Bytes-- }, "no longer there"},
		"mounted meanwhile":   {func(_ *Approval, r *wire.Report) { r.Disks[0].InUse = "mounted" }, "no longer there"},
		"holds something now": {func(_ *Approval, r *wire.Report) { r.Disks[0].Class = wire.ClassData }, "something else"},
		"a twin came late": {func(_ *Approval, r *wire.Report) {
			r.Disks = append(r.Disks, disk("/dev/sdb", 120, func(d *wire.Disk) { d.Serial = r.Disks[0].Serial }))
		}, "has appeared: /dev/sdb"},
		"by path, at another one": {func(a *Approval, r *wire.Report) { a.ByPath, r.Disks[0].Path = true, "/dev/sdx" }, "no longer there"},
	} {
		rep := wire.Report{Disks: []wire.Disk{disk("/dev/sda", 120)}}
		a := Approval{Disk: rep.Disks[0].DiskID, Class: wire.ClassBlank, At: now}
		c.change(&a, &rep)
		if _, why := a.withdrawn(&rep, now); (why == "") != (c.says == "") || !strings.Contains(why, c.says) {
			t.Errorf("%s: %q", name, why)
		}
	}
}

func TestSerialTail(t *testing.T) {
	for _, c := range []struct {
		serial, typed string
		want          bool
	}{
		{"WD-WCC4N1234567", "234567", true},
		{"WD-WCC4N12345AB", "2345ab ", true},
		{"WD-WCC4N12345AB", "345AB", false},
		{"WD-WCC4N12345AB", "", false},
		{"WD-WCC4N12345AB", "WD-WCC", false},
		{"WD-WCC4N12345AB", "WD-WCC4N12345AB", false},
		{"S1", "s1", true},
		{"S1", "", false},
		{"", "/dev/vda", true},
		{"", "", false},
		{"  ", "", false},
		{"ÄÖÜÄÖÜX", "öüäöüx", true},
		{"WD WCC 12345", "12345", true},
		{"WD WCC 12345", "2345", false},
	} {
		if got := serialTailMatches(wire.DiskID{Path: "/dev/vda", Serial: c.serial}, c.typed); got != c.want {
			t.Errorf("%q for %q: %v", c.typed, c.serial, got)
		}
	}
}
