package health

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

// patient is a drive that tests itself, seen through the commands of its kind.
type patient struct {
	takes   time.Duration // that a test lasts
	code    byte          // how it ends, in the words of its kind
	minutes byte          // that it says a test lasts; ATA only
	dumb    bool          // takes the command and does nothing
	unable  bool          // says that it has no self-test
	refuses bool          // refuses to start one
	nolog   bool          // ATA: it has no log
	deaf    int           // looks that fail once the test runs; -1: all

	begun   time.Time // zero: none runs
	tests   int
	last    byte // code of the last one that ended
	aborted bool
	panics  bool
}

func (p *patient) settle() {
	if !p.begun.IsZero() && time.Since(p.begun) >= p.takes {
		p.begun, p.last = time.Time{}, p.code
		p.tests++
	}
}

func (p *patient) command(code uint32, start, abort uint32) bool {
	switch {
	case p.unable || p.refuses && code == start:
		return false
	case code == abort:
		p.aborted = true
		if !p.begun.IsZero() {
			p.begun, p.last = time.Time{}, 1
			p.tests++
		}
	case code == start && !p.dumb:
		p.begun = time.Now()
	}
	return true
}

// looked tells whether this look is answered.
func (p *patient) looked() bool {
	p.settle()
	if p.begun.IsZero() || p.deaf == 0 {
		return true
	}
	p.deaf--
	return false
}

func (p *patient) SCSI(c drive.SCSI) (int, error) {
	if p.panics {
		panic("a mistake")
	}
	return played{ata: p.ata, scsi: p.scsi}.SCSI(c)
}

func (p *patient) ata(command, feature byte, lba uint32) ([]byte, drive.Registers, error) {
	done := drive.Registers{Status: 0x50, LBA: uint64(lba)}
	b := make([]byte, 512)
	switch feature {
	case 0xd0:
		if !p.looked() {
			return nil, done, errBroken
		}
		if b[363] = p.last << 4; !p.begun.IsZero() {
			b[363] = 0xf9
		}
		if b[372] = p.minutes; !p.unable {
			b[367] = 1 << 4
		}
	case 0xd4:
		if !p.command(lba&0xff, 0x01, 0x7f) {
			return nil, done, illegal
		}
	case 0xd5:
		if p.nolog {
			return nil, done, illegal
		}
		if p.tests > 0 {
			at := (p.tests - 1) % 21
			b[508], b[2+24*at], b[2+24*at+1] = byte(at+1), 1, p.last<<4
		}
	}
	return b, done, nil
}

func (p *patient) scsi(c drive.SCSI) ([]byte, error) {
	switch c.CDB[0] {
	case 0x1d:
		if !p.command(uint32(c.CDB[1]>>5), 1, 4) {
			return nil, illegal
		}
		return nil, nil
	case 0x4d:
		if p.unable {
			return nil, illegal
		}
		if !p.looked() {
			return nil, errBroken
		}
		v := make([]byte, 18)
		if v[1], v[2], v[3] = 1, p.last, byte(p.tests); p.tests > 0 {
			v[2] |= 1 << 5
		}
		if !p.begun.IsZero() {
			v[2], v[3] = 1<<5|0xf, byte(p.tests+1)
		}
		return logPage(0x10, v), nil
	}
	return nil, illegal
}

func (p *patient) NVMe(c drive.NVMe) (uint32, error) {
	switch {
	case c.Opcode == 0x06:
		if !p.unable {
			binary.LittleEndian.PutUint16(c.Data[256:], 1<<4)
		}
	case c.Opcode == 0x14:
		if !p.command(c.CDW10, 1, 0xf) {
			return 0, drive.NVMeStatus(0x01)
		}
	case c.Opcode == 0x02 && c.CDW10&0xff == 0x06:
		if !p.looked() {
			return 0, errBroken
		}
		for i := range 20 {
			c.Data[4+28*i] = 0xf
		}
		for i := range min(p.tests, 20) {
			c.Data[4+28*i] = 1<<4 | p.last
			binary.LittleEndian.PutUint64(c.Data[4+28*i+4:], uint64(100+p.tests-i))
		}
		if !p.begun.IsZero() {
			c.Data[0], c.Data[1] = 1, 42
		}
	}
	return 0, nil
}

func TestSelfTest(t *testing.T) {
	kinds := []string{wire.TransportSATA, wire.TransportSCSI, wire.TransportNVMe}
	failed := map[string]byte{wire.TransportSATA: 7, wire.TransportSCSI: 5, wire.TransportNVMe: 6}
	for _, c := range []struct {
		name    string
		kinds   []string
		p       patient
		fails   bool          // it ends with what its kind calls a failure
		job     time.Duration // how long the disk is at work
		stop    time.Duration // when the job is broken off; 0: never
		stalls  bool
		state   string
		text    string
		aborted bool
		within  time.Duration
	}{
		{name: "it ends before the job does", p: patient{takes: 2 * time.Minute}, job: 10 * time.Minute, state: wire.TestPassed, within: 130 * time.Second},
		{name: "the job ends first and waits", p: patient{takes: 2 * time.Minute}, job: 30 * time.Second, state: wire.TestPassed, within: 125 * time.Second},
		{name: "it finds something", p: patient{takes: time.Minute}, fails: true, job: 5 * time.Minute, state: wire.TestFailed, text: "fail", within: 70 * time.Second},
		{name: "done at the first look", p: patient{}, job: time.Minute, state: wire.TestPassed, within: 10 * time.Second},
		{name: "tests were made before", p: patient{takes: time.Minute, tests: 30}, job: time.Minute, state: wire.TestPassed, within: 70 * time.Second},
		{name: "the last test failed, and this one has to count", p: patient{takes: time.Minute, tests: 3, last: 7}, job: time.Minute, state: wire.TestPassed, within: 70 * time.Second},
		{name: "it never ends", p: patient{takes: time.Hour}, job: time.Minute, state: wire.TestUnknown, text: "still running", aborted: true, within: 4 * time.Minute},
		{name: "the drive names a quarter of an hour", kinds: kinds[:1], p: patient{takes: time.Hour, minutes: 15}, job: time.Minute, state: wire.TestUnknown, text: "4m0s", aborted: true, within: 6 * time.Minute},
		{name: "the drive takes the command and does nothing", p: patient{dumb: true}, job: time.Minute, state: wire.TestUnknown, text: "no trace", within: 10 * time.Second},
		{name: "nothing is done, and the log has an old test", p: patient{dumb: true, tests: 2}, job: time.Minute, state: wire.TestUnknown, text: "no trace", within: 10 * time.Second},
		{name: "no log, but seen running", kinds: kinds[:1], p: patient{takes: time.Minute, nolog: true}, job: time.Minute, state: wire.TestPassed, within: 70 * time.Second},
		{name: "no log and never seen", kinds: kinds[:1], p: patient{nolog: true}, job: time.Minute, state: wire.TestUnknown, text: "no trace", within: 10 * time.Second},
		{name: "it has no self-test", p: patient{unable: true}, job: time.Minute, state: wire.TestUnsupported, within: time.Second},
		{name: "it refuses", p: patient{refuses: true}, job: time.Minute, state: wire.TestUnsupported, within: time.Second},
		{name: "the job is broken off", p: patient{takes: time.Hour}, job: time.Hour, stop: time.Minute, state: wire.TestAborted, text: "job ended", aborted: true, within: 61 * time.Second},
		{name: "the disk stands still beside it", p: patient{takes: time.Hour}, job: time.Hour, stalls: true, state: wire.TestAborted, text: "stood still", aborted: true, within: 11 * time.Second},
		{name: "two looks fail", p: patient{takes: time.Minute, deaf: 2}, job: 5 * time.Minute, state: wire.TestPassed, within: 70 * time.Second},
		{name: "no look is answered", p: patient{takes: time.Minute, deaf: -1}, job: 5 * time.Minute, state: wire.TestUnknown, text: "doesn't say", within: 31 * time.Second},
		{name: "one runs already", p: patient{takes: time.Minute, begun: time.Unix(946684800-20, 0)}, job: 5 * time.Minute, state: wire.TestPassed, within: 50 * time.Second},
	} {
		if c.kinds == nil {
			c.kinds = kinds
		}
		for _, kind := range c.kinds {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := new(c.p)
					if c.fails {
						p.code = failed[kind]
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if c.stop > 0 {
						time.AfterFunc(c.stop, cancel)
					}
					idle := make(chan struct{})
					time.AfterFunc(c.job, func() { close(idle) })
					begun := time.Now()
					got := SelfTest(ctx, p, kind, idle, func() bool { return c.stalls })
					took := time.Since(begun)
					if got.State != c.state || !strings.Contains(got.Text, c.text) {
						t.Errorf("%s: %q, want %s: %q", got.State, got.Text, c.state, c.text)
					}
					if took > c.within {
						t.Errorf("it took %v", took)
					}
					if p.aborted != c.aborted {
						t.Errorf("called off: %v", p.aborted)
					}
					if got.State != wire.TestUnsupported && (got.Started != begun || got.Ended != begun.Add(took)) {
						t.Errorf("from %v to %v", got.Started, got.Ended)
					}
					time.Sleep(c.job) // the timers of the test
				})
			})
		}
	}
}

// Every code that a standard knows, and those that it doesn't.
func TestResults(t *testing.T) {
	words := map[string]string{"p": wire.TestPassed, "f": wire.TestFailed, "a": wire.TestAborted, "?": wire.TestUnknown, "r": wire.TestRunning}
	for kind, want := range map[string]string{
		"nvme": "paaaafffaa?????", // 0Fh: no entry
		"ata":  "paaffffff??????r",
		"scsi": "paafffff???????r",
	} {
		for code, w := range []byte(want) {
			var l latest
			switch kind {
			case "nvme":
				log := make([]byte, 4+28)
				log[4] = 1<<4 | byte(code)
				l = decodeNVMeTest(log)
			case "ata":
				data, log := make([]byte, 512), make([]byte, 512)
				data[363], log[508], log[3] = byte(code)<<4, 1, byte(code)<<4
				l = decodeATATest(data, log)
				if l.running != (code == 0xf) || l.now.State != l.logged.State {
					t.Errorf("ata %x: %+v", code, l)
				}
			case "scsi":
				l = decodeSCSITest(append([]byte{1<<5 | byte(code)}, make([]byte, 15)...))
			}
			if fmt.Sprint(l.logged.State) != words[string(w)] || *l.logged.Code != int64(code) {
				t.Errorf("%s %x: %+v, want %s", kind, code, l.logged, words[string(w)])
			}
		}
	}
	if l := decodeNVMeTest(append(make([]byte, 4), 0x1f)); l.logged != nil {
		t.Error("a short log")
	}
	empty := make([]byte, 4+28)
	empty[4] = 0xf
	if l := decodeNVMeTest(empty); l.logged != nil || l.running {
		t.Error("no test was made")
	}
	if l := decodeATATest(make([]byte, 512), make([]byte, 512)); l.logged != nil {
		t.Error("an empty log")
	}
	full := make([]byte, 512)
	full[508] = 255
	if l := decodeATATest(make([]byte, 512), full); l.logged != nil {
		t.Error("an entry behind the last one")
	}
}

// A mistake in reading what a drive says must not end the job beside it.
func TestPanicIsContained(t *testing.T) {
	got := SelfTest(t.Context(), &patient{panics: true}, wire.TransportSATA, nil, nil)
	if got.State != wire.TestUnknown || got.Text == "" {
		t.Errorf("%+v", got)
	}
}
