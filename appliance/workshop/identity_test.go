package workshop

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"refurb/agent/wire"
)

const (
	uuidA, uuidB = "4c4c4544-0042-3510-8052-b4c04f564231", "9f2c1a00-7d1b-11e5-9284-b827eb9e62be"
	macA, macB   = "00:21:cc:11:22:33", "a4:4c:c8:44:55:66"
)

func person(uuid, system, board string, macs ...string) wire.Report {
	r := wire.Report{Identity: wire.Identity{Manufacturer: "Dell Inc.", UUID: uuid, SystemSerial: system, BoardSerial: board}}
	for _, m := range macs {
		r.NICs = append(r.NICs, wire.NIC{MAC: m, Permanent: m, Bus: "pci"})
	}
	return r
}

func TestMatch(t *testing.T) {
	a := person(uuidA, "SYS-A1", "BRD-A1", macA)
	b := person(uuidB, "SYS-B1", "BRD-B1", macB)
	shared := wire.NIC{MAC: "00:e0:4c:36:01:02", Permanent: "00:e0:4c:36:01:02", Bus: "usb"}
	with := func(r wire.Report, f func(*wire.Report)) wire.Report { f(&r); return r }
	in := func(d wire.Disk) func(*wire.Report) { return func(r *wire.Report) { r.Disks = []wire.Disk{d} } }
	for _, c := range []struct {
		name     string
		rep      wire.Report
		known    []wire.Report
		want     int
		conflict bool
	}{
		{"nobody is known", a, nil, -1, false},
		{"itself", a, []wire.Report{b, a}, 1, false},
		{"another", a, []wire.Report{b}, -1, false},
		{"another network card", person(uuidA, "SYS-A1", "BRD-A1", "00:21:cc:99:99:99"), []wire.Report{a, b}, 0, false},
		{"its UUID changed by a firmware update", person(uuidB[:35]+"0", "SYS-A1", "BRD-A1", macA), []wire.Report{a}, 0, false},
		{"another board in the same case", person(uuidB, "SYS-A1", "BRD-X", macB), []wire.Report{a}, -1, true},
		{"its card in another PC", person(uuidB, "SYS-B1", "BRD-B1", macA), []wire.Report{a}, -1, true},
		{"its card in another PC that is known", person(uuidB, "SYS-B1", "BRD-B1", macA), []wire.Report{a, b}, 1, false},
		{"a UUID that a maker gave twice", person(uuidA, "SYS-Z9", "BRD-Z9", macB), []wire.Report{a}, -1, true},
		{"a UUID twice, nothing else but other cards", person(uuidA, "", "", macB), []wire.Report{person(uuidA, "", "", macA)}, -1, true},
		{"a UUID alone", person(uuidA, "", ""), []wire.Report{a, b}, 0, false},
		{"a card alone", person("", "", "", macA), []wire.Report{a, b}, 0, false},
		{"a serial alone", person("", "SYS-A1", ""), []wire.Report{a, b}, 0, false},
		{"the same number from another maker", with(person("", "SYS-A1", ""), func(r *wire.Report) { r.Identity.Manufacturer = "HP" }), []wire.Report{a}, -1, false},
		{"a case alone is not enough", with(person("", "", ""), func(r *wire.Report) { r.Identity.ChassisSerial = "CHS-1" }),
			[]wire.Report{with(person("", "", ""), func(r *wire.Report) { r.Identity.ChassisSerial = "CHS-1" })}, -1, false},
		{"the same dongle", with(person(uuidA, "", ""), func(r *wire.Report) { r.NICs = []wire.NIC{shared} }),
			[]wire.Report{with(person(uuidB, "", ""), func(r *wire.Report) { r.NICs = []wire.NIC{shared} })}, -1, false},
		{"nothing but the same dongle", wire.Report{NICs: []wire.NIC{shared}}, []wire.Report{{NICs: []wire.NIC{shared}}}, -1, false},
		{"fillers", person("ffffffff-ffff-ffff-ffff-ffffffffffff", "To Be Filled By O.E.M.", "Default string"),
			[]wire.Report{person("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "To be filled by O.E.M.", "Default string")}, -1, false},
		{"a filler that the agent flagged", with(person("", "ABCD1234", ""), func(r *wire.Report) { r.Identity.Placeholders = []string{"system_serial"} }),
			[]wire.Report{person("", "ABCD1234", "")}, -1, false},
		{"two that fit equally", a, []wire.Report{a, a}, -1, true},
		{"its UUID in the other byte order", person(swapUUID(uuidA), "", "", macA), []wire.Report{person(uuidA, "", "", macA)}, 0, false},
		{"a UUID alone in the other byte order", person(swapUUID(uuidA), "", ""), []wire.Report{a, b}, 0, false},
		{"a UUID alone, and other disks", with(person(uuidA, "", ""), in(disk("/dev/sda", 120))), []wire.Report{with(person(uuidA, "", ""), in(disk("/dev/sdb", 500)))}, -1, true},
		{"a UUID alone, and the same disk", with(person(uuidA, "", ""), in(disk("/dev/sda", 120))), []wire.Report{with(person(uuidA, "", ""), in(disk("/dev/sda", 120)))}, 0, false},
		{"a UUID alone, first without a disk", with(person(uuidA, "", ""), in(disk("/dev/sda", 120))), []wire.Report{person(uuidA, "", "")}, 0, false},
		{"a disk in another PC", with(b, in(disk("/dev/sda", 120))), []wire.Report{with(a, in(disk("/dev/sda", 120)))}, -1, false},
		{"another disk", with(a, in(disk("/dev/sdb", 500))), []wire.Report{with(a, in(disk("/dev/sda", 120)))}, 0, false},
		{"two that fit equally, and the disk of one", with(person(uuidA, "", ""), in(disk("/dev/sda", 120))), []wire.Report{person(uuidA, "", ""), with(person(uuidA, "", ""), in(disk("/dev/sda", 120)))}, 1, false},
		{"two cards, seen by one each time", person(uuidA, "SYS-A1", "", macB), []wire.Report{person(uuidA, "SYS-A1", "", macA)}, 0, false},
		{"two cards, both listed", person("", "", "", macA, macB), []wire.Report{person("", "", "", macB)}, 0, false},
		{"a better one beside one in doubt", a, []wire.Report{person(uuidA, "SYS-Z9", "BRD-Z9", macB), a}, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var known []candidate
			for i := range c.known {
				known = append(known, candidate{identityOf(&c.known[i], permanentMACs(&c.known[i])), fmt.Sprint(i)})
			}
			want := ""
			if c.want >= 0 {
				want = fmt.Sprint(c.want)
			}
			got, doubt := match(identityOf(&c.rep, permanentMACs(&c.rep)), known, nil)
			if got != want || (doubt.Kind != "") != c.conflict {
				t.Fatalf("%q %+v", got, doubt)
			}
		})
	}
}

func TestPermanentMACs(t *testing.T) {
	for _, c := range []struct {
		name string
		nics []wire.NIC
		want []string
	}{
		{"burnt in", []wire.NIC{{MAC: "02:aa:00:00:00:09", Permanent: "00-21-CC-11-22-33", Bus: "pci"}}, []string{macA}},
		{"in use stands in", []wire.NIC{{MAC: macA, Bus: "pci"}}, []string{macA}},
		{"made up", []wire.NIC{{MAC: "02:aa:00:00:00:09", Bus: "pci"}}, nil},
		{"made up by a hypervisor and burnt in", []wire.NIC{{Permanent: "52:54:00:12:34:56", Bus: "pci"}}, []string{"52:54:00:12:34:56"}},
		{"a dongle", []wire.NIC{{MAC: macA, Permanent: macA, Bus: "USB"}}, nil},
		{"zeros", []wire.NIC{{Permanent: "00:00:00:00:00:00"}}, nil},
		{"a group", []wire.NIC{{Permanent: "01:00:5e:00:00:01"}}, nil},
		{"nonsense", []wire.NIC{{Permanent: "hello"}, {Permanent: "00:21:cc:11:22:3g"}, {Permanent: "00:21:cc:11:22"}}, nil},
		{"none that the driver finds, and one made up", []wire.NIC{{MAC: "02:11:22:33:44:55", Permanent: "00:00:00:00:00:00", Bus: "pci"}}, nil},
		{"none that the driver finds, and one set", []wire.NIC{{MAC: macA, Permanent: "00:00:00:00:00:00", Bus: "pci"}}, []string{macA}},
		{"what drivers fall back to", []wire.NIC{{Permanent: "00:00:00:00:00:02"}, {Permanent: "88:88:88:88:88:88"}, {Permanent: "00:e0:4c:68:00:01"}, {Permanent: "00:e0:4c:53:44:58"}}, nil},
		{"twice", []wire.NIC{{Permanent: macB}, {Permanent: macA}, {Permanent: macA}}, []string{macA, macB}},
	} {
		if got := permanentMACs(&wire.Report{NICs: c.nics}); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestFillers(t *testing.T) {
	for _, s := range []string{"", " ", "0", "N/A", "To be filled by O.E.M.", "TO BE FILLED BY  O.E.M.", "Default string", "System Serial Number",
		"0123456789", "00000000", "FFFFFFFF", "........", "xxxxxxx", "00000000-0000-0000-0000-000000000000", "03000200-0400-0500-0006-000700080009", "None"} {
		if !filler(s) {
			t.Errorf("%q counts", s)
		}
	}
	for _, s := range []string{"5CG1234XYZ", "PF0ABC12", uuidA, "1S20L5CTO1WW"} {
		if filler(s) {
			t.Errorf("%q doesn't count", s)
		}
	}
}

func TestSwapUUID(t *testing.T) {
	const a, b = "00112233-4455-6677-8899-aabbccddeeff", "33221100-5544-7766-8899-aabbccddeeff"
	if swapUUID(a) != b || swapUUID(b) != a || swapUUID("nonsense") != "" || swapUUID("") != "" {
		t.Fatal(swapUUID(a))
	}
}

// A UUID that people found on two boards doesn't make one doubt who a card is of.
func TestMatchVoidUUID(t *testing.T) {
	a := identity{uuid: uuidA, macs: []string{macA}, disks: []string{"one"}}
	b := identity{uuid: uuidA, macs: []string{macA}, disks: []string{"other"}}
	if id, doubt := match(b, []candidate{{a, "a"}}, map[string]bool{"uuid " + uuidA: true}); id != "a" {
		t.Fatalf("%q %+v", id, doubt)
	}
}

// Matching doesn't depend on the order of what is known, and what is found
// agrees in something.
func FuzzMatch(f *testing.F) {
	f.Add("u1|s1|b1|"+macA, "u1|s2|b2|"+macB, "u2|s1|b1|"+macA)
	f.Fuzz(func(t *testing.T, x, y, z string) {
		make := func(s string) identity {
			p := append(strings.SplitN(s, "|", 4), "", "", "", "")
			r := person(p[0], p[1], p[2], p[3])
			return identityOf(&r, permanentMACs(&r))
		}
		me, a, b := make(x), make(y), make(z)
		i, doubt := match(me, []candidate{{a, "a"}, {b, "b"}}, nil)
		k, again := match(me, []candidate{{b, "b"}, {a, "a"}}, nil)
		if i != k || doubt != again {
			t.Fatalf("%q %+v and %q %+v", i, doubt, k, again)
		}
		if i != "" {
			if same, other := weigh(me, map[string]identity{"a": a, "b": b}[i], nil); same < enough || same <= other {
				t.Fatal("it doesn't agree")
			}
		}
	})
}

func TestPlainUUID(t *testing.T) {
	if plainUUID(strings.ToUpper(uuidA)) == "" || plainUUID(uuidA) != plainUUID(swapUUID(uuidA)) || plainUUID(uuidA) == plainUUID(uuidB) {
		t.Fatal(plainUUID(uuidA), plainUUID(swapUUID(uuidA)))
	}
	for _, s := range []string{"", "03000200-0400-0500-0006-000700080009", "00020003-0004-0005-0006-000700080009", "78563412-3412-7856-90ab-cddeefaabbcc",
		"00000000-0000-0000-0000-00e04c680001", "00000000-0000-0000-0000-000000000001"} {
		if got := plainUUID(s); got != "" {
			t.Errorf("%q counts as %q", s, got)
		}
	}
	if s := "00000000-0000-0000-0000-0021cc112233"; plainUUID(s) != s {
		t.Error("one that is made of its own address doesn't count")
	}
}

func TestDiskKey(t *testing.T) {
	id := wire.DiskID{Path: "/dev/sda", Serial: "S4EVNF0M1", WWN: "eui.0025385b71b00e2d", Model: "Samsung", Bytes: 1}
	moved := id
	moved.Path, moved.Bytes, moved.Serial = "/dev/nvme1n1", 2, " s4evnf0m1 "
	if DiskKey(id) == "" || DiskKey(id) != DiskKey(moved) {
		t.Error("another plug or a size that was hidden makes it another disk")
	}
	for _, other := range []wire.DiskID{{Serial: "S4EVNF0M2", WWN: id.WWN, Model: id.Model}, {Serial: id.Serial, WWN: "eui.0025385b71b00e2e", Model: id.Model}, {Serial: id.Serial, WWN: id.WWN, Model: "Other"}} {
		if DiskKey(other) == DiskKey(id) {
			t.Errorf("%+v is taken for another one", other)
		}
	}
	for _, none := range []wire.DiskID{{Model: "Samsung"}, {Serial: "0000000000", Model: "x"}, {Serial: "N/A", WWN: "eui.0000000000000000"}, {WWN: "0x0000000000000000"}} {
		if DiskKey(none) != "" {
			t.Errorf("%+v is followed", none)
		}
	}
}
