package hardware

import (
	"encoding/binary"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"refurb/agent/wire"
)

// structure is one SMBIOS structure: its bytes after the four of the head, and
// its strings, which the bytes name by number from 1 on.
func structure(kind byte, handle uint16, body []byte, words ...string) []byte {
	b := []byte{kind, byte(4 + len(body)), byte(handle), byte(handle >> 8)}
	b = append(b, body...)
	for _, w := range words {
		b = append(append(b, w...), 0)
	}
	if len(words) == 0 {
		b = append(b, 0)
	}
	return append(b, 0)
}

// entry3 is a 64-bit entry point of the given version.
func entry3(major, minor byte) []byte {
	b := make([]byte, 24)
	copy(b, "_SM3_")
	b[6], b[7], b[8], b[10] = 24, major, minor, 1
	var sum byte
	for _, v := range b {
		sum += v
	}
	b[5] = -sum
	return b
}

// entry2 is a 32-bit entry point of the given version.
func entry2(major, minor byte) []byte {
	b := make([]byte, 31)
	copy(b, "_SM_")
	b[5], b[6], b[7] = 31, major, minor
	copy(b[16:], "_DMI_")
	sum := func(b []byte) (s byte) {
		for _, v := range b {
			s += v
		}
		return s
	}
	b[21] = -sum(b[16:])
	b[4] = -sum(b)
	return b
}

var uuidBytes = []byte{0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}

// system is structure 1 of SMBIOS 2.4 and later.
func system(uuid []byte, words ...string) []byte {
	body := append([]byte{1, 2, 3, 4}, uuid...)
	return structure(1, 1, append(body, 6 /* wake-up */, 5, 6), words...)
}

// dimm is structure 17 of SMBIOS 3.3.
func dimm(array, size uint16, extended uint32, speed uint16, words ...string) []byte {
	b := make([]byte, 0x5C)
	le := binary.LittleEndian
	le.PutUint16(b[0x04:], array)
	le.PutUint16(b[0x0C:], size)
	b[0x0E] = 0x0D // SODIMM
	b[0x10] = 1
	b[0x12] = 0x1A // DDR4
	le.PutUint16(b[0x15:], 3200)
	b[0x17], b[0x18], b[0x1A] = 2, 3, 4
	le.PutUint32(b[0x1C:], extended)
	le.PutUint16(b[0x20:], speed)
	return structure(17, 0x40, b[4:], words...)
}

func array(handle uint16, use byte, slots uint16) []byte {
	b := make([]byte, 0x0F)
	b[5] = use
	binary.LittleEndian.PutUint16(b[0x0D:], slots)
	return structure(16, handle, b[4:])
}

func thinkpad() []byte {
	var b []byte
	b = append(b, structure(0, 0, []byte{1, 2, 0, 0, 3, 0, 0, 0}, "LENOVO", "N1QET88W (1.63 )", "04/22/2020")...)
	b = append(b, system(uuidBytes, "LENOVO", "20HES2RC00", "ThinkPad T470", "PF0XXXXX", "LENOVO_MT_20HE", "ThinkPad T470")...)
	b = append(b, structure(2, 2, []byte{1, 2, 3, 4, 0, 0, 0, 0, 0, 10}, "LENOVO", "20HES2RC00", "SDK0J40697 WIN", "L1HF7XXXXXX")...)
	b = append(b, structure(3, 3, []byte{1, 0x80 | 10, 2, 3}, "LENOVO", "None", "PF0XXXXX")...)
	b = append(b, array(0x10, 3, 2)...)
	b = append(b, array(0x11, 6, 1)...) // flash
	b = append(b, dimm(0x10, 0x7FFF, 32<<10, 2400, "ChannelA-DIMM0", "Samsung", "12345678A", "M471A4G43MB1-CTD  ")...)
	b = append(b, dimm(0x10, 0, 0, 0, "ChannelB-DIMM0", " ", " ", " ")...)
	b = append(b, dimm(0x11, 16, 0, 0, "SPI", " ", " ", " ")...)
	return append(b, structure(127, 0xFFFF, nil)...)
}

func TestSMBIOS(t *testing.T) {
	f, err := parseSMBIOS(entry3(3, 2), thinkpad())
	if err != nil {
		t.Fatal(err)
	}
	want := firmwareTables{
		identity: wire.Identity{
			UUID: "00112233-4455-6677-8899-aabbccddeeff", Manufacturer: "LENOVO", Model: "20HES2RC00",
			ModelVersion: "ThinkPad T470", SKU: "LENOVO_MT_20HE", Family: "ThinkPad T470", SystemSerial: "PF0XXXXX",
			BoardSerial: "L1HF7XXXXXX", ChassisSerial: "PF0XXXXX", ChassisType: "Notebook",
		},
		vendor: "LENOVO", version: "N1QET88W (1.63 )", date: "04/22/2020",
		slots: 2,
		modules: []wire.RAMModule{{Slot: "ChannelA-DIMM0", Bytes: 32 << 30, Type: "DDR4", Form: "SODIMM", MTs: 2400,
			Manufacturer: "Samsung", Part: "M471A4G43MB1-CTD", Serial: "12345678A"}},
	}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got  %+v\nwant %+v", f, want)
	}
}

func TestUUIDOrder(t *testing.T) {
	const little, wireOrder = "00112233-4455-6677-8899-aabbccddeeff", "33221100-5544-7766-8899-aabbccddeeff"
	for _, c := range []struct {
		entry []byte
		want  string
	}{
		{entry3(3, 0), little}, {entry2(2, 8), little}, {entry2(2, 6), little},
		{entry2(2, 5), wireOrder}, {entry2(2, 3), wireOrder},
	} {
		f, err := parseSMBIOS(c.entry, system(uuidBytes, "a", "b", "c", "d"))
		if err != nil || f.identity.UUID != c.want {
			t.Errorf("%d.%d: %q, %v", c.entry[6], c.entry[7], f.identity.UUID, err)
		}
	}
}

// A table that breaks off keeps what stood before.
func TestSMBIOSBroken(t *testing.T) {
	whole := thinkpad()
	cut := len(structure(0, 0, []byte{1, 2, 0, 0, 3, 0, 0, 0}, "LENOVO", "N1QET88W (1.63 )", "04/22/2020")) +
		len(system(uuidBytes, "LENOVO", "20HES2RC00", "ThinkPad T470", "PF0XXXXX", "LENOVO_MT_20HE", "ThinkPad T470"))
	f, err := parseSMBIOS(entry3(3, 2), whole[:cut+7])
	if err == nil || f.identity.SystemSerial != "PF0XXXXX" || f.vendor != "LENOVO" {
		t.Errorf("got %+v, %v", f, err)
	}
	f, err = parseSMBIOS([]byte("nonsense"), whole)
	if err == nil || f.identity.SystemSerial != "PF0XXXXX" {
		t.Errorf("bad entry point: got %+v, %v", f, err)
	}
	if f, err := parseSMBIOS(entry3(3, 2), nil); err != nil || f.identity.UUID != "" {
		t.Errorf("empty: %+v, %v", f, err)
	}
	// A string number beyond the strings, and a structure shorter than its fields.
	if f, _ := parseSMBIOS(entry3(3, 2), structure(1, 1, []byte{9, 0}, "x")); f.identity.Manufacturer != "" {
		t.Errorf("bad string number: %+v", f.identity)
	}
}

func TestModuleSizes(t *testing.T) {
	for _, c := range []struct {
		size     uint16
		extended uint32
		want     int64
		none     bool
	}{
		{size: 0, none: true}, {size: 0xFFFF, want: 0}, {size: 4096, want: 4 << 30},
		{size: 0x8000 | 512, want: 512 << 10}, {size: 0x7FFF, extended: 64 << 10, want: 64 << 30},
		{size: 0x7FFF, extended: 0x80000000 | 32<<10, want: 32 << 30},
	} {
		f, err := parseSMBIOS(entry3(3, 2), dimm(0, c.size, c.extended, 0, "A", "0000", "00000000", "Not Specified"))
		switch {
		case err != nil:
			t.Error(err)
		case c.none != (len(f.modules) == 0):
			t.Errorf("%#x: %+v", c.size, f.modules)
		case !c.none && (f.modules[0].Bytes != c.want || f.modules[0].MTs != 3200):
			t.Errorf("%#x: %+v, want %d bytes", c.size, f.modules[0], c.want)
		case !c.none && f.modules[0].Manufacturer+f.modules[0].Serial+f.modules[0].Part != "":
			t.Errorf("fillers came through: %+v", f.modules[0])
		}
	}
}

func TestPlaceholders(t *testing.T) {
	for _, v := range []string{"To be filled by O.E.M.", "TO BE FILLED BY O.E.M", "Default string", "System Serial Number",
		"0123456789", "000000000", "FFFFFFFF", "ffffffff-ffff-ffff-ffff-ffffffffffff", "00000000-0000-0000-0000-000000000000",
		"None", "N/A", "Not Specified", "Not Applicable", "System Product Name", "-", "...", "*", "0", "/.....", "Chassis Serial Number", "INVALID", " none "} {
		if !filler(v, 1) {
			t.Errorf("%q passes for real", v)
		}
	}
	for _, v := range []string{"", "PF0XXXXX", "L1HF7XXXXXX", "00112233-4455-6677-8899-aabbccddeeff", "OptiPlex 7050", "5CG1234567", "00000001", "HP"} {
		if filler(v, 1) {
			t.Errorf("%q passes for a filler", v)
		}
	}
	if filler("1.1", 4) || !filler("0000", 4) {
		t.Error("a version 1.1 is real, 0000 isn't")
	}
	ami := []byte{0x00, 0x02, 0x00, 0x03, 0x00, 0x04, 0x00, 0x05, 0x00, 0x06, 0x00, 0x07, 0x00, 0x08, 0x00, 0x09}
	f, err := parseSMBIOS(entry3(3, 2), system(ami, "MSI", "MS-7A38", "1.0", "To be filled by O.E.M.", "Default string", " "))
	if err != nil || f.identity.UUID != "03000200-0400-0500-0006-000700080009" ||
		!reflect.DeepEqual(f.identity.Placeholders, []string{"smbios_uuid", "sku", "system_serial"}) {
		t.Errorf("got %+v, %v", f.identity, err)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"  a  b\t\n": "a b", "a\x00b": "a b", "\xff\xfeab": "ab", "\x1b[31mred": "[31mred",
		"a\u202eb\u200bc\ufeff": "abc", "Müller Ω": "Müller Ω", "\u00a0x\u2003y": "x y", "": "",
		strings.Repeat("é", 300): strings.Repeat("é", 128),
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func fit(t *testing.T, s string) {
	t.Helper()
	if len(s) > wire.MaxText || !utf8.ValidString(s) || strings.ContainsAny(s, "\x00\n\x1b\x7f") || s != strings.TrimSpace(s) {
		t.Errorf("unfit: %q", s)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x00\xff\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		fit(t, clean(s))
		if c := clean(s); clean(c) != c {
			t.Errorf("%q is not clean yet", c)
		}
	})
}

func FuzzSMBIOS(f *testing.F) {
	f.Add(entry3(3, 2), thinkpad())
	f.Add(entry2(2, 5), system(uuidBytes, "a"))
	f.Add([]byte{}, structure(17, 1, []byte{0, 0, 0xFF}))
	f.Fuzz(func(t *testing.T, entry, table []byte) {
		got, _ := parseSMBIOS(entry, table)
		id := got.identity
		for _, s := range []string{got.vendor, got.version, got.date, id.UUID, id.Manufacturer, id.Model, id.ModelVersion,
			id.SKU, id.Family, id.SystemSerial, id.BoardSerial, id.ChassisSerial, id.ChassisType} {
			fit(t, s)
		}
		if len(got.modules) > maxModules {
			t.Errorf("%d modules", len(got.modules))
		}
		for _, m := range got.modules {
			for _, s := range []string{m.Slot, m.Type, m.Form, m.Manufacturer, m.Part, m.Serial} {
				fit(t, s)
			}
			if m.Bytes < 0 || m.MTs < 0 {
				t.Errorf("%+v", m)
			}
		}
	})
}

func FuzzDrive(f *testing.F) {
	f.Add([]byte(vpd(0x80, []byte("abc"))))
	f.Add([]byte(vpd(0x89, append(make([]byte, 56), identify("m", "s", "f")...))))
	f.Add(identify("m", "s", "f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		serial, _ := parseVPD80(b)
		fit(t, serial)
		for _, parse := range []func([]byte) (answer, error){parseVPD89, parseATA, parseNVMe} {
			a, err := parse(b)
			if err != nil && a != (answer{}) {
				t.Errorf("an answer with an error: %+v", a)
			}
			fit(t, a.serial)
			fit(t, a.model)
			fit(t, a.firmware)
		}
	})
}
