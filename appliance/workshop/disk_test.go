package workshop

import (
	"strings"
	"testing"

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
			if c.hidden != nil && !strings.Contains(got.Next, "AHCI") {
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
	} {
		if got := serialTailMatches(wire.DiskID{Path: "/dev/vda", Serial: c.serial}, c.typed); got != c.want {
			t.Errorf("%q for %q: %v", c.typed, c.serial, got)
		}
	}
}
