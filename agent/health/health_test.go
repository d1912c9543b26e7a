package health

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anatol/smart.go"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

// played answers commands as a test says: SCSI by operation code, ATA by command
// and feature, NVMe by opcode and the low byte of CDW10.
type played struct {
	scsi func(c drive.SCSI) ([]byte, error)
	ata  func(command, feature byte, lba uint32) ([]byte, drive.Registers, error)
	nvme func(c drive.NVMe) ([]byte, error)
}

var (
	illegal   = &drive.Sense{Status: 2, Bytes: []byte{0x72, 5, 0x20, 0}}
	errBroken = errors.New("the command failed on its way (host 7, driver 0)")
)

func (p played) SCSI(c drive.SCSI) (int, error) {
	if c.CDB[0] == 0x85 && p.ata != nil {
		data, r, err := p.ata(c.CDB[14], c.CDB[4], uint32(c.CDB[8])|uint32(c.CDB[10])<<8|uint32(c.CDB[12])<<16)
		if err == nil && c.Move == drive.None {
			err = &drive.Sense{Status: 2, Bytes: []byte{0x72, 1, 0, 0x1d, 0, 0, 0, 14, 9, 12, 0, r.Error, 0, byte(r.Count), 0, byte(r.LBA), 0, byte(r.LBA >> 8), 0, byte(r.LBA >> 16), r.Device, r.Status}}
		}
		return copy(c.Data, data), err
	}
	if p.scsi == nil {
		return 0, illegal
	}
	data, err := p.scsi(c)
	return copy(c.Data, data), err
}

func (p played) NVMe(c drive.NVMe) (uint32, error) {
	if p.nvme == nil {
		return 0, drive.NVMeStatus(1)
	}
	data, err := p.nvme(c)
	copy(c.Data, data)
	return 0, err
}

// nvmeLog02 is a health log as QEMU 7.2 gives it, but for what it leaves empty.
func nvmeLog02(change func(b []byte)) []byte {
	b := make([]byte, 512)
	binary.LittleEndian.PutUint16(b[1:], 323) // 50 °C
	b[3], b[4], b[5] = 97, 10, 4
	binary.LittleEndian.PutUint64(b[112:], 812)  // power cycles
	binary.LittleEndian.PutUint64(b[128:], 9001) // hours
	if change != nil {
		change(b)
	}
	return b
}

func TestNVMe(t *testing.T) {
	read := func(log []byte, err error) *wire.Health {
		h, n := &wire.Health{}, notes{}
		readNVMe(played{nvme: func(c drive.NVMe) ([]byte, error) {
			if c.Opcode == 0x02 && c.CDW10&0xff == 0x02 {
				if c.NSID != everyNamespace || c.CDW10>>16 != 127 {
					t.Errorf("the log was asked for with %+v", c)
				}
				return log, err
			}
			return nil, drive.NVMeStatus(2)
		}}, h, &n)
		h.Error = n.String()
		return h
	}
	h := read(nvmeLog02(nil), nil)
	if !*h.Passed || *h.Temperature != 50 || *h.Spare != 97 || *h.SpareThreshold != 10 || *h.PercentUsed != 4 ||
		*h.Cycles != 812 || *h.Hours != 9001 || *h.MediaErrors != 0 || h.SelfTest != nil || h.Error != "" {
		t.Errorf("%+v", h)
	}
	if h := read(nvmeLog02(func(b []byte) { b[0] = 0x04 }), nil); *h.Passed || *h.CriticalWarning != 4 {
		t.Errorf("critical warning: %+v", h)
	}
	// What can't be is left out, and said.
	h = read(nvmeLog02(func(b []byte) {
		binary.LittleEndian.PutUint16(b[1:], 65535)
		b[3] = 200
		b[140] = 1 // hours above 2^64
		binary.LittleEndian.PutUint64(b[112:], 1<<63)
		binary.LittleEndian.PutUint64(b[160:], 1<<60)
	}), nil)
	if h.Temperature != nil || h.Spare != nil || h.Hours != nil || h.Cycles != nil || h.MediaErrors != nil || h.PercentUsed == nil {
		t.Errorf("%+v", h)
	}
	if len(h.Error) > wire.MaxText || !strings.Contains(h.Error, "temperature can't be") {
		t.Errorf("%q", h.Error)
	}
	// A drive whose refusal nobody noticed would look like a healthy one at 0 K.
	if h := read(make([]byte, 512), nil); h.Passed != nil || h.Error == "" {
		t.Errorf("an empty log: %+v", h)
	}
	if h := read(nvmeLog02(nil), drive.NVMeStatus(0x109)); h.Passed != nil || h.Hours != nil || h.Error == "" {
		t.Errorf("a refused log: %+v", h)
	}
}

func attribute(id uint8, name string, typ int, current uint8, raw uint64) smart.AtaSmartAttr {
	return smart.AtaSmartAttr{Id: id, Name: name, Type: typ, Current: current, ValueRaw: raw}
}

func TestATAAttributes(t *testing.T) {
	known := func(v int64) *int64 { return &v }
	for _, c := range []struct {
		name  string
		spins bool
		attrs []smart.AtaSmartAttr
		want  wire.Health
		note  string
	}{
		{"a spinning disk", true, []smart.AtaSmartAttr{
			attribute(5, "Reallocated_Sector_Ct", smart.AtaDeviceAttributeTypeRaw16OptRaw16, 100, 0x0001_0000_0008),
			attribute(9, "Power_On_Hours", smart.AtaDeviceAttributeTypeRaw24OptRaw8, 60, 0x2b_00_7530),
			attribute(12, "Power_Cycle_Count", smart.AtaDeviceAttributeTypeRaw48, 99, 2211),
			attribute(194, "Temperature_Celsius", smart.AtaDeviceAttributeTypeTempMinMax, 64, 0x002d_0012_0024),
			attribute(197, "Current_Pending_Sector", smart.AtaDeviceAttributeTypeRaw48, 100, 3),
			attribute(198, "Offline_Uncorrectable", smart.AtaDeviceAttributeTypeRaw48, 100, 1),
			attribute(187, "Reported_Uncorrect", smart.AtaDeviceAttributeTypeRaw48, 100, 6),
		}, wire.Health{Reallocated: known(8), Hours: known(30000), Cycles: known(2211), Temperature: known(36), Pending: known(3), Uncorrectable: known(1), MediaErrors: known(6)}, ""},
		{"hours in minutes", true, []smart.AtaSmartAttr{attribute(9, "Power_On_Minutes", smart.AtaDeviceAttributeTypeMin2Hour, 1, 600)}, wire.Health{Hours: known(10)}, ""},
		{"hours in half minutes", true, []smart.AtaSmartAttr{attribute(9, "Power_On_Half_Minutes", smart.AtaDeviceAttributeTypeHalfMin2Hour, 1, 1200)}, wire.Health{Hours: known(10)}, ""},
		{"hours in seconds", true, []smart.AtaSmartAttr{attribute(9, "Power_On_Seconds", smart.AtaDeviceAttributeTypeSec2Hour, 1, 36000)}, wire.Health{Hours: known(10)}, ""},
		{"hours and milliseconds", false, []smart.AtaSmartAttr{attribute(9, "Power_On_Hours_and_Msec", smart.AtaDeviceAttributeTypeMsec24Hour32, 1, 0x36ee80_0000000a)}, wire.Health{Hours: known(10)}, ""},
		{"hours that can't be", true, []smart.AtaSmartAttr{attribute(9, "Power_On_Hours", smart.AtaDeviceAttributeTypeRaw48, 1, 0xffffffffffff)}, wire.Health{}, "hours can't be"},
		{"seconds beyond time", true, []smart.AtaSmartAttr{attribute(9, "Power_On_Seconds", smart.AtaDeviceAttributeTypeSec2Hour, 1, 1<<63)}, wire.Health{}, "hours can't be"},
		{"a temperature that can't be", true, []smart.AtaSmartAttr{attribute(194, "Temperature_Celsius", smart.AtaDeviceAttributeTypeRaw48, 1, 0xff)}, wire.Health{}, "temperature can't be"},
		{"no thermometer", true, []smart.AtaSmartAttr{attribute(194, "Temperature_Celsius", smart.AtaDeviceAttributeTypeRaw48, 1, 0)}, wire.Health{}, ""},
		{"the numbers mean other things here", false, []smart.AtaSmartAttr{
			attribute(5, "Lifetime_Writes", smart.AtaDeviceAttributeTypeRaw48, 1, 7), attribute(197, "Unknown_Attribute", smart.AtaDeviceAttributeTypeRaw48, 1, 7), attribute(9, "", 0, 1, 7),
		}, wire.Health{}, ""},
		{"life left", false, []smart.AtaSmartAttr{attribute(231, "SSD_Life_Left", smart.AtaDeviceAttributeTypeRaw48, 93, 0)}, wire.Health{PercentUsed: known(7)}, ""},
		{"life left, but it spins", true, []smart.AtaSmartAttr{attribute(231, "SSD_Life_Left", smart.AtaDeviceAttributeTypeRaw48, 93, 0)}, wire.Health{}, ""},
		{"life left of 255", false, []smart.AtaSmartAttr{attribute(233, "Media_Wearout_Indicator", smart.AtaDeviceAttributeTypeRaw48, 255, 0)}, wire.Health{}, ""},
	} {
		page := &smart.AtaSmartPage{Attrs: map[uint8]smart.AtaSmartAttr{}}
		for _, a := range c.attrs {
			page.Attrs[a.Id] = a
		}
		var n notes
		got := wire.Health{}
		decodeATA(page, c.spins, &got, &n)
		for _, f := range []struct {
			what      string
			got, want *int64
		}{
			{"reallocated", got.Reallocated, c.want.Reallocated}, {"pending", got.Pending, c.want.Pending}, {"uncorrectable", got.Uncorrectable, c.want.Uncorrectable},
			{"hours", got.Hours, c.want.Hours}, {"cycles", got.Cycles, c.want.Cycles}, {"temperature", got.Temperature, c.want.Temperature},
			{"used", got.PercentUsed, c.want.PercentUsed}, {"media errors", got.MediaErrors, c.want.MediaErrors},
		} {
			if (f.got == nil) != (f.want == nil) || f.got != nil && *f.got != *f.want {
				t.Errorf("%s: %s is not as it should be: %+v", c.name, f.what, got)
			}
		}
		if (c.note == "") != (len(n) == 0) || !strings.Contains(n.String(), c.note) {
			t.Errorf("%s: noted %q", c.name, n)
		}
	}
}

func TestATAVerdict(t *testing.T) {
	for lba, want := range map[uint64]string{0xc24f00: "good", 0x2cf400: "bad", 0: "unknown", 0xc2f400: "unknown"} {
		var n notes
		v := ataVerdict(played{ata: func(command, feature byte, _ uint32) ([]byte, drive.Registers, error) {
			return nil, drive.Registers{LBA: lba, Status: 0x50}, nil
		}}, &n)
		got := "unknown"
		if v != nil {
			got = map[bool]string{true: "good", false: "bad"}[*v]
		}
		if got != want || (v == nil) != (len(n) > 0) {
			t.Errorf("%06x: %s, %q", lba, got, n)
		}
	}
}

func TestATAWithoutSMART(t *testing.T) {
	var h wire.Health
	var n notes
	readATA(played{}, wire.Disk{}, &h, &n)
	if h.Passed != nil || !strings.Contains(n.String(), "no SMART") {
		t.Errorf("%+v, %q", h, n)
	}
}

func TestATAUsed(t *testing.T) {
	page := make([]byte, 512)
	page[0], page[2] = 1, 7
	for raw, want := range map[uint64]int64{3<<62 | 12: 12, 3<<62 | 255: 255, 1<<63 | 12: -1, 12: -1} {
		binary.LittleEndian.PutUint64(page[8:], raw)
		got, ok := ataUsed(played{ata: func(command, _ byte, lba uint32) ([]byte, drive.Registers, error) {
			if command != 0x2f || lba != 0x0704 {
				t.Errorf("asked %02x %x", command, lba)
			}
			return page, drive.Registers{}, nil
		}})
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%x: %d, want %d", raw, got, want)
		}
	}
}

// logPage puts parameters into a log page as SPC-5 has them.
func logPage(page byte, params ...[]byte) []byte {
	b := []byte{page, 0, 0, 0}
	for _, p := range params { // code, then value
		b = append(b, p[0], p[1], 0x03, byte(len(p)-2))
		b = append(b, p[2:]...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-4))
	return b
}

func TestSCSI(t *testing.T) {
	pages := map[byte][]byte{
		0x2f: logPage(0x2f, []byte{0, 0, 0, 0, 31}),
		0x0d: logPage(0x0d, []byte{0, 0, 0, 33}, []byte{0, 1, 0, 68}),
		0x15: logPage(0x15, append([]byte{0, 0, 0, 0x12, 0x4f, 0x80}, make([]byte, 11)...)), // 1,200,000 minutes
		0x0e: logPage(0x0e, []byte{0, 1, '2', '0'}, []byte{0, 4, 0, 0, 0, 55}),
		0x03: logPage(0x03, []byte{0, 0, 9}, []byte{0, 6, 0, 0, 0, 0, 0, 0, 0, 2}),
		0x10: logPage(0x10, append([]byte{0, 1, 0x20, 1}, make([]byte, 14)...)),
	}
	d := played{scsi: func(c drive.SCSI) ([]byte, error) {
		switch {
		case c.CDB[0] == 0x4d && pages[c.CDB[2]&0x3f] != nil:
			return pages[c.CDB[2]&0x3f], nil
		case c.CDB[0] == 0x37:
			return []byte{0, 0x0d, 0, 24}, nil
		}
		return nil, illegal
	}}
	var h wire.Health
	var n notes
	readSCSI(d, &h, &n)
	if !*h.Passed || *h.Temperature != 33 || *h.Hours != 20000 || *h.Cycles != 55 || *h.MediaErrors != 2 || *h.Reallocated != 3 ||
		h.SelfTest == nil || h.SelfTest.State != wire.TestPassed || len(n) > 0 {
		t.Errorf("%+v, %q", h, n)
	}
	pages[0x2f] = logPage(0x2f, []byte{0, 0, 0x5d, 0x10, 255})
	if h = (wire.Health{}); readSCSI2(d, &h) || *h.Passed {
		t.Errorf("a predicted failure: %+v", h)
	}
	h, n = wire.Health{}, nil
	readSCSI(played{}, &h, &n)
	if h.Passed != nil || !strings.Contains(n.String(), "says nothing") {
		t.Errorf("a disk without log pages: %+v, %q", h, n)
	}
}

func readSCSI2(d drive.Drive, h *wire.Health) bool {
	var n notes
	readSCSI(d, h, &n)
	return len(n) > 0
}

func TestMMC(t *testing.T) {
	for _, c := range []struct {
		life, end string
		used      int64 // -1: not known
		passed    string
	}{
		{"0x01 0x01", "0x01", 0, "yes"},
		{"0x03 0x06", "0x02", 50, "yes"},
		{"0x0b 0x01", "0x03", 101, "no"},
		{"0x00 0x00", "0x00", -1, ""},
		{"0xff", "what", -1, ""},
		{"", "", -1, ""},
	} {
		dir := t.TempDir()
		if c.life != "" {
			for name, s := range map[string]string{"life_time": c.life, "pre_eol_info": c.end} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(s+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		var h wire.Health
		var n notes
		readMMC(dir, &h, &n)
		used, passed := int64(-1), ""
		if h.PercentUsed != nil {
			used = *h.PercentUsed
		}
		if h.Passed != nil {
			passed = map[bool]string{true: "yes", false: "no"}[*h.Passed]
		}
		if used != c.used || passed != c.passed {
			t.Errorf("%q %q: %d %q", c.life, c.end, used, passed)
		}
	}
}

// A disk that nobody can ask gives an answer that says so.
func TestReadAlwaysAnswers(t *testing.T) {
	for _, transport := range []string{wire.TransportVirtio, wire.TransportUSB, wire.TransportSATA, wire.TransportNVMe, wire.TransportSCSI, wire.TransportMMC, ""} {
		h := Read(t.Context(), wire.Disk{DiskID: wire.DiskID{Path: filepath.Join(t.TempDir(), "nothing")}, Transport: transport})
		if h == nil || h.Error == "" || h.Passed != nil {
			t.Errorf("%s: %+v", transport, h)
		}
	}
}

// A file on which every command fails, and the library's way through it.
func TestReadOfNoDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, transport := range []string{wire.TransportSATA, wire.TransportNVMe, wire.TransportSCSI} {
		h := Read(t.Context(), wire.Disk{DiskID: wire.DiskID{Path: path}, Transport: transport})
		if h.Error == "" || h.Passed != nil || h.SelfTest != nil {
			t.Errorf("%s: %+v", transport, h)
		}
	}
	if _, err := ataAttributes(path); err == nil {
		t.Error("a file has SMART attributes")
	}
}

// Whatever a drive answers, reading it ends, without a panic, within the bounds.
func FuzzRead(f *testing.F) {
	f.Add(nvmeLog02(nil), []byte{0x10, 0x20})
	f.Add(logPage(0x2f, []byte{0, 0, 0, 0, 31}), []byte{})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		d := played{
			scsi: func(c drive.SCSI) ([]byte, error) {
				if len(b) > 0 && c.CDB[0] == 0x4d {
					return append([]byte{c.CDB[2] & 0x3f}, a...), nil
				}
				return a, nil
			},
			ata: func(byte, byte, uint32) ([]byte, drive.Registers, error) {
				return append(b, a...), drive.Registers{LBA: uint64(len(a))}, nil
			},
			nvme: func(drive.NVMe) ([]byte, error) { return append(a, b...), nil },
		}
		for _, read := range []func(drive.Drive, *wire.Health, *notes){
			readNVMe, readSCSI, func(d drive.Drive, h *wire.Health, n *notes) { readATA(d, wire.Disk{}, h, n) },
		} {
			var h wire.Health
			var n notes
			read(d, &h, &n)
			if len(n.String()) > wire.MaxText {
				t.Fatalf("%d bytes of notes", len(n.String()))
			}
			for _, v := range []*int64{h.Hours, h.Cycles, h.Reallocated, h.Pending, h.Spare, h.PercentUsed, h.MediaErrors} {
				if v != nil && (*v < 0 || *v > mostSectors) {
					t.Fatalf("%+v", h)
				}
			}
		}
	})
}
