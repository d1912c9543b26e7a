package health

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/anatol/smart.go"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

const everyNamespace = 0xffffffff

// nvmeLog reads a log page whole.
func nvmeLog(d drive.Drive, page uint8, size int) ([]byte, error) {
	data := make([]byte, size)
	_, err := d.NVMe(drive.NVMe{
		Opcode: 0x02, NSID: everyNamespace, Data: data, Limit: commandTime, // Get Log Page
		CDW10: uint32(page) | uint32(size/4-1)<<16,
	})
	return data, err
}

func readNVMe(d drive.Drive, h *wire.Health, n *notes) {
	h.Source = "nvme log 02h"
	data, err := nvmeLog(d, 0x02, 512)
	var log smart.NvmeSMARTLog
	if err == nil {
		err = binary.Read(bytes.NewReader(data), binary.LittleEndian, &log)
	}
	switch {
	case err != nil:
		n.add("its health log can't be read: %v", err)
	case len(bytes.Trim(data, "\x00")) == 0: // 0 K is no temperature
		n.add("its health log is empty")
	default:
		decodeNVMe(&log, h, n)
	}
	if test, err := (nvmeTest{d}).look(); err == nil {
		h.SelfTest = test.logged
	}
}

func decodeNVMe(log *smart.NvmeSMARTLog, h *wire.Health, n *notes) {
	h.CriticalWarning = new(int64(log.CritWarning))
	h.Passed = new(log.CritWarning == 0) // NVMe has no other verdict of its own
	h.PercentUsed = new(int64(log.PercentUsed))
	h.Spare = n.count("spare", uint64(log.AvailSpare), 100)
	h.SpareThreshold = n.count("threshold of spare", uint64(log.SpareThresh), 100)
	if log.Temperature != 0 {
		h.Temperature = n.celsius(int64(log.Temperature) - 273) // from Kelvin
	}
	wide := func(what string, v smart.Uint128, most uint64) *int64 {
		if v.Val[1] != 0 {
			v.Val[0] = 1<<64 - 1
		}
		return n.count(what, v.Val[0], most)
	}
	h.Hours = wide("hours", log.PowerOnHours, mostHours)
	h.Cycles = wide("power cycles", log.PowerCycles, mostCycles)
	h.MediaErrors = wide("media errors", log.MediaErrors, mostSectors)
}

// nvmeTest is Device Self-test (5.9).
type nvmeTest struct{ d drive.Drive }

var errNoSelfTest = errors.New("the disk has no self-test")

// able reads OACS of Identify Controller: bit 4.
func (t nvmeTest) able() error {
	id := make([]byte, 4096)
	if _, err := t.d.NVMe(drive.NVMe{Opcode: 0x06, CDW10: 1, Data: id, Limit: commandTime}); err != nil {
		return err
	}
	if binary.LittleEndian.Uint16(id[256:])&(1<<4) == 0 {
		return errNoSelfTest
	}
	return nil
}

func (t nvmeTest) give(code uint32) error {
	_, err := t.d.NVMe(drive.NVMe{Opcode: 0x14, NSID: everyNamespace, CDW10: code, Limit: commandTime})
	return err
}

// The standard gives the short test two minutes.
func (t nvmeTest) start() (time.Duration, error) { return 2 * time.Minute, t.give(0x1) }
func (t nvmeTest) abort() error                  { return t.give(0xf) }

func (t nvmeTest) look() (latest, error) {
	if err := t.able(); err != nil {
		return latest{}, err
	}
	log, err := nvmeLog(t.d, 0x06, 4+20*28)
	if err != nil {
		return latest{}, err
	}
	return decodeNVMeTest(log), nil
}

var nvmeResults = []string{"passed", "aborted by a command", "aborted by a reset", "aborted: a namespace was removed",
	"aborted by a format", "an error kept it from finishing", "a part of the disk failed", "a part of the disk failed",
	"aborted", "aborted by an erasure"}

// decodeNVMeTest reads the operation in progress and, 4 bytes on, the newest
// result: its code in bits 3:0, Fh for none.
func decodeNVMeTest(log []byte) latest {
	if len(log) < 4+28 {
		return latest{}
	}
	l := latest{running: log[0]&0xf != 0, log: string(log[4:])}
	newest := log[4:]
	code := newest[0] & 0xf
	if code == 0xf {
		return l
	}
	t := wire.SelfTest{Code: new(int64(code)), State: wire.TestUnknown}
	switch {
	case code == 0:
		t.State = wire.TestPassed
	case code >= 5 && code <= 7:
		t.State = wire.TestFailed
	case code <= 9:
		t.State = wire.TestAborted
	}
	if int(code) < len(nvmeResults) {
		t.Text = nvmeResults[code]
	}
	if code == 7 {
		t.Text += fmt.Sprintf(" (%d)", newest[1]) // the segment
	}
	l.logged = &t
	return l
}
