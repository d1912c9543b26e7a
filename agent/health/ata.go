package health

import (
	"encoding/binary"
	"strings"
	"time"

	"github.com/anatol/smart.go"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

const smartKey = 0xc24f00 // in the LBA of every SMART command

// smartCommand gives a SMART command by its feature.
func smartCommand(d drive.Drive, feature, low byte, data []byte) (drive.Registers, error) {
	c := drive.ATA{Command: 0xb0, Feature: uint16(feature), LBA: smartKey | uint64(low), Data: data, Limit: commandTime}
	if data != nil {
		c.Move, c.Count = drive.In, uint16(len(data)/512)
	}
	return drive.GiveATA(d, c)
}

func readATA(d drive.Drive, disk wire.Disk, h *wire.Health, n *notes) {
	h.Source = "ata smart"
	if _, err := smartCommand(d, 0xd0, 0, make([]byte, 512)); err != nil { // SMART READ DATA
		// It may be switched off: SMART ENABLE OPERATIONS.
		if _, err := smartCommand(d, 0xd8, 0, nil); err != nil {
			n.add("the disk has no SMART: %v", err)
			return
		}
	}
	h.Passed = ataVerdict(d, n)
	if page, err := ataAttributes(disk.Path); err != nil {
		n.add("its SMART attributes can't be read: %v", err)
	} else {
		decodeATA(page, disk.Rotational, h, n)
	}
	if !disk.Rotational {
		if used, ok := ataUsed(d); ok {
			h.PercentUsed = &used
		}
	}
	if test, err := (ataTest{d}).look(); err == nil {
		h.SelfTest = test.logged
	}
}

// ataVerdict is SMART RETURN STATUS: the drive turns the key round when one of
// its attributes has passed its threshold.
func ataVerdict(d drive.Drive, n *notes) *bool {
	r, err := smartCommand(d, 0xda, 0, nil)
	switch {
	case err != nil:
		n.add("its own verdict can't be read: %v", err)
	case r.LBA>>8&0xffff == smartKey>>8:
		return new(true)
	case r.LBA>>8&0xffff == 0x2cf4:
		return new(false)
	default:
		n.add("its own verdict is neither good nor bad (%06Xh)", r.LBA)
	}
	return nil
}

// ataAttributes reads the attributes with the library, which knows the units of
// many vendors.
func ataAttributes(path string) (page *smart.AtaSmartPage, err error) {
	steady(0, func() {
		var d *smart.SataDevice
		if d, err = smart.OpenSata(path); err == nil {
			defer d.Close()
			page, err = d.ReadSMARTData()
		}
	})
	return page, err
}

// steady runs f on a stack that doesn't move: the library hands the kernel
// addresses of its stack. With this frame for half of it the stack doesn't have
// to grow, and no garbage collection finds it too large and makes it smaller.
//
//go:noinline
func steady(i int, f func()) byte {
	var room [64 << 10]byte
	room[i] = 1
	f()
	return room[len(room)-1-i]
}

func decodeATA(page *smart.AtaSmartPage, rotational bool, h *wire.Health, n *notes) {
	// named finds an attribute that this vendor uses for what others use it for.
	named := func(id uint8, names ...string) (smart.AtaSmartAttr, bool) {
		a, ok := page.Attrs[id]
		if !ok {
			return a, false
		}
		for _, name := range names {
			if strings.Contains(a.Name, name) {
				return a, true
			}
		}
		return a, false
	}
	if a, ok := named(5, "Realloc", "Retired", "Bad_Bl"); ok {
		h.Reallocated = n.count("reallocated sectors", number(a), mostSectors)
	}
	if a, ok := named(197, "Pending"); ok {
		h.Pending = n.count("pending sectors", number(a), mostSectors)
	}
	if a, ok := named(198, "Uncorrect"); ok {
		h.Uncorrectable = n.count("uncorrectable sectors", number(a), mostSectors)
	}
	if a, ok := named(187, "Reported_Uncorrect"); ok {
		h.MediaErrors = n.count("reported errors", number(a), mostSectors)
	}
	if a, ok := named(12, "Power_Cycle"); ok {
		h.Cycles = n.count("power cycles", number(a), mostCycles)
	}
	if a, ok := named(9, "Power_On"); ok {
		hours := number(a)
		switch a.Type { // what this vendor counts
		case smart.AtaDeviceAttributeTypeMin2Hour:
			hours /= 60
		case smart.AtaDeviceAttributeTypeHalfMin2Hour:
			hours /= 120
		case smart.AtaDeviceAttributeTypeSec2Hour:
			hours /= 3600
		}
		h.Hours = n.count("hours", hours, mostHours)
	}
	for _, id := range []uint8{194, 190} {
		a, ok := named(id, "Temperature")
		if !ok || h.Temperature != nil {
			continue
		}
		t, _, _, _, err := a.ParseAsTemperature()
		if err != nil {
			t = int(a.ValueRaw & 0xff)
		}
		h.Temperature = n.celsius(int64(t))
	}
	if rotational {
		return
	}
	// The normalised value of these is the percentage that is left.
	for _, id := range []uint8{231, 233, 202, 169, 177} {
		if a, ok := named(id, "Life_Left", "Wearout_Indicator", "Lifetime_Remain", "Remaining_Life", "Wear_Leveling"); ok && a.Current >= 1 && a.Current <= 100 {
			h.PercentUsed = new(100 - int64(a.Current))
			return
		}
	}
}

// number is what an attribute counts: vendors put other things into the upper
// bytes.
func number(a smart.AtaSmartAttr) uint64 {
	switch a.Type {
	case smart.AtaDeviceAttributeTypeRaw8:
		return a.ValueRaw & 0xff
	case smart.AtaDeviceAttributeTypeRaw16, smart.AtaDeviceAttributeTypeRaw16OptRaw16, smart.AtaDeviceAttributeTypeRaw16OptAvg16:
		return a.ValueRaw & 0xffff
	case smart.AtaDeviceAttributeTypeRaw24OptRaw8, smart.AtaDeviceAttributeTypeRaw24DivRaw24:
		return a.ValueRaw & 0xffffff
	case smart.AtaDeviceAttributeTypeRaw24DivRaw32, smart.AtaDeviceAttributeTypeMsec24Hour32, smart.AtaDeviceAttributeTypeMin2Hour:
		return a.ValueRaw & 0xffffffff
	}
	return a.ValueRaw
}

// ataUsed is the endurance indicator of the device statistics (ACS-4, 9.5.8):
// log 04h, page 7, which counts only with its bits 63 and 62 set.
func ataUsed(d drive.Drive) (int64, bool) {
	data := make([]byte, 512)
	_, err := drive.GiveATA(d, drive.ATA{Command: 0x2f, Ext: true, LBA: 7<<8 | 0x04, Count: 1, Move: drive.In, Data: data, Limit: commandTime})
	if err != nil || data[2] != 7 || binary.LittleEndian.Uint16(data) != 1 {
		return 0, false
	}
	v := binary.LittleEndian.Uint64(data[8:])
	return int64(v & 0xff), v>>62 == 3
}

// ataTest is SMART EXECUTE OFF-LINE IMMEDIATE, off-line: the drive puts it off
// within two seconds when it has other commands (ACS-3, 7.48.5).
type ataTest struct{ d drive.Drive }

func (t ataTest) able() error {
	data, err := t.data()
	if err != nil {
		return err
	}
	if data[367]&(1<<4) == 0 { // off-line data collection capabilities: self-test
		return errNoSelfTest
	}
	return nil
}

func (t ataTest) data() ([]byte, error) {
	data := make([]byte, 512)
	_, err := smartCommand(t.d, 0xd0, 0, data)
	return data, err
}

func (t ataTest) start() (time.Duration, error) {
	data, err := t.data()
	if err != nil {
		return 0, err
	}
	_, err = smartCommand(t.d, 0xd4, 0x01, nil)
	return time.Duration(data[372]) * time.Minute, err
}

func (t ataTest) abort() error {
	_, err := smartCommand(t.d, 0xd4, 0x7f, nil)
	return err
}

func (t ataTest) look() (latest, error) {
	data, err := t.data()
	if err != nil {
		return latest{}, err
	}
	log := make([]byte, 512)
	if _, err := smartCommand(t.d, 0xd5, 0x06, log); err != nil { // SMART READ LOG
		log = nil
	}
	return decodeATATest(data, log), nil
}

var ataResults = []string{"passed", "aborted by a command", "aborted by a reset", "an error kept it from finishing",
	"a part of the disk failed", "its electronics failed", "its heads' movement failed", "reading failed", "damaged by handling"}

// decodeATATest takes the newest test from the SMART data (byte 363: its state,
// as far as the drive remembers) and from the log: 21 entries of 24 bytes after
// the first two, byte 508 tells which, the first being 1 (ACS-3, A.19).
func decodeATATest(data, log []byte) latest {
	if len(data) < 512 {
		return latest{}
	}
	l := latest{running: data[363]>>4 == 0xf, now: ataResult(data[363] >> 4), log: string(log)}
	if len(log) >= 512 && log[508] >= 1 && log[508] <= 21 {
		l.logged = new(ataResult(log[2+24*(int(log[508])-1)+1] >> 4))
	}
	return l
}

func ataResult(code byte) wire.SelfTest {
	t := wire.SelfTest{Code: new(int64(code)), State: wire.TestUnknown}
	switch {
	case code == 0:
		t.State = wire.TestPassed
	case code <= 2:
		t.State = wire.TestAborted
	case code <= 8:
		t.State = wire.TestFailed
	case code == 0xf:
		t.State = wire.TestRunning
	}
	if int(code) < len(ataResults) {
		t.Text = ataResults[code]
	}
	return t
}
