package health

import (
	"encoding/binary"
	"time"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

// logSense reads a log page's parameters (SPC-5, 6.6, 7.3.2): by their code, what
// follows the parameter's head of four bytes.
func logSense(d drive.Drive, page byte) (map[uint16][]byte, error) {
	data := make([]byte, 4096)
	n, err := d.SCSI(drive.SCSI{
		CDB:  []byte{0x4d, 0, 0x40 | page, 0, 0, 0, 0, byte(len(data) >> 8), byte(len(data) & 0xff), 0}, // current values
		Move: drive.In, Data: data, Limit: commandTime,
	})
	if err != nil {
		return nil, err
	}
	return decodeLogPage(data[:n], page), nil
}

func decodeLogPage(b []byte, page byte) map[uint16][]byte {
	found := map[uint16][]byte{}
	if len(b) < 4 || b[0]&0x3f != page {
		return found
	}
	b = b[4:min(len(b), 4+int(binary.BigEndian.Uint16(b[2:])))]
	for len(b) >= 4 {
		end := min(len(b), 4+int(b[3]))
		found[binary.BigEndian.Uint16(b)] = b[4:end]
		b = b[end:]
	}
	return found
}

func readSCSI(d drive.Drive, h *wire.Health, n *notes) {
	h.Source = "scsi"
	heard := false
	page := func(p byte) map[uint16][]byte {
		params, err := logSense(d, p)
		if err == nil && len(params) > 0 {
			heard = true
		}
		return params
	}
	if b := page(0x2f)[0]; len(b) >= 3 { // informational exceptions: 5Dh is a predicted failure
		h.Passed = new(b[0] != 0x5d)
		if b[2] != 0xff {
			h.Temperature = n.celsius(int64(b[2]))
		}
	}
	if b := page(0x0d)[0]; len(b) >= 2 && b[1] != 0xff { // temperature
		h.Temperature = n.celsius(int64(b[1]))
	}
	if b := page(0x15)[0]; len(b) >= 4 { // background scan: minutes with power
		h.Hours = n.count("hours", uint64(binary.BigEndian.Uint32(b))/60, mostHours)
	}
	if b := page(0x0e)[4]; len(b) >= 4 { // starts and stops
		h.Cycles = n.count("power cycles", uint64(binary.BigEndian.Uint32(b)), mostCycles)
	}
	if b := page(0x11)[1]; len(b) >= 4 { // solid state media: endurance used
		h.PercentUsed = new(int64(b[3]))
	}
	reads, writes := page(0x03)[6], page(0x02)[6] // errors that were not corrected
	if reads != nil || writes != nil {
		h.MediaErrors = n.count("media errors", number64(reads)+number64(writes), mostSectors)
	}
	if grown, ok := defects(d); ok {
		h.Reallocated, heard = n.count("reallocated sectors", grown, mostSectors), true
	}
	if test, err := (scsiTest{d}).look(); err == nil {
		h.SelfTest, heard = test.logged, true
	}
	if !heard {
		n.add("the disk says nothing of its health")
	}
}

// number64 reads a counter of any length; one that is too long for 62 bits is
// larger than can be.
func number64(b []byte) (v uint64) {
	for _, c := range b {
		if v > 1<<54 {
			return 1 << 62
		}
		v = v<<8 | uint64(c)
	}
	return v
}

// defects is the length of the grown defect list (SBC-4, 5.17: READ DEFECT DATA
// (10)), in the drive's own format.
func defects(d drive.Drive) (uint64, bool) {
	head := make([]byte, 4)
	n, err := d.SCSI(drive.SCSI{CDB: []byte{0x37, 0, 0x08 | 0x05, 0, 0, 0, 0, 0, byte(len(head)), 0}, Move: drive.In, Data: head, Limit: commandTime})
	if n < len(head) || err != nil {
		return 0, false
	}
	each := uint64(8) // bytes from index, physical sector, long block
	if head[1]&7 == 0 {
		each = 4
	}
	return uint64(binary.BigEndian.Uint16(head[2:])) / each, head[1]&0x08 != 0
}

// scsiTest is the background short self-test of SEND DIAGNOSTIC (SPC-5, 6.42);
// the standard gives it two minutes.
type scsiTest struct{ d drive.Drive }

// able wants the log: a test whose end nobody sees is none.
func (t scsiTest) able() error {
	_, err := t.look()
	return err
}

func (t scsiTest) give(code byte) error {
	_, err := t.d.SCSI(drive.SCSI{CDB: []byte{0x1d, code << 5, 0, 0, 0, 0}, Limit: commandTime})
	return err
}

func (t scsiTest) start() (time.Duration, error) { return 2 * time.Minute, t.give(1) }
func (t scsiTest) abort() error                  { return t.give(4) }

func (t scsiTest) look() (latest, error) {
	params, err := logSense(t.d, 0x10)
	if err != nil {
		return latest{}, err
	}
	b := params[1] // the newest
	if len(b) < 1 {
		return latest{}, errNoSelfTest
	}
	return decodeSCSITest(b), nil
}

var scsiResults = []string{"passed", "aborted by a command", "aborted by another one", "an error kept it from finishing",
	"a part of the disk failed", "its first part failed", "its second part failed", "a part of the disk failed"}

// decodeSCSITest reads a self-test results parameter (SPC-5, 7.3.21): bits 7:5
// say which test, 3:0 how it ended.
func decodeSCSITest(b []byte) latest {
	code := b[0] & 0xf
	l := latest{running: code == 0xf, log: string(b)}
	if b[0]>>5 == 0 && code == 0 { // none was ever made
		return l
	}
	t := wire.SelfTest{Code: new(int64(code)), State: wire.TestUnknown}
	switch {
	case code == 0:
		t.State = wire.TestPassed
	case code <= 2:
		t.State = wire.TestAborted
	case code <= 7:
		t.State = wire.TestFailed
	case code == 0xf:
		t.State = wire.TestRunning
	}
	if int(code) < len(scsiResults) {
		t.Text = scsiResults[code]
	}
	l.logged = &t
	return l
}
