package drive

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// recorded plays one answer and keeps the command.
type recorded struct {
	sense string // hex; empty: the command went well without any
	err   error
	got   SCSI
}

func (r *recorded) SCSI(c SCSI) (int, error) {
	r.got = c
	if r.err != nil {
		return 0, r.err
	}
	if r.sense == "" {
		return len(c.Data), nil
	}
	b, err := hex.DecodeString(strings.ReplaceAll(r.sense, " ", ""))
	if err != nil {
		panic(err)
	}
	return 0, &Sense{Status: checkCondition, Bytes: b}
}

func (r *recorded) NVMe(NVMe) (uint32, error) { return 0, errors.ErrUnsupported }

// Sense data as SAT-4 (12.2.6) and Linux lay them out: SMART RETURN STATUS of a
// good disk, the same with the key turned round, in both forms.
const (
	goodDescriptor = "72 01 00 1d 00 00 00 0e 09 0c 00 00 00 00 00 00 00 4f 00 c2 a0 50"
	badDescriptor  = "72 01 00 1d 00 00 00 0e 09 0c 00 00 00 00 00 00 00 f4 00 2c a0 50"
	goodFixed      = "70 00 01 00 50 a0 00 0a 00 00 4f c2 00 1d 00 00 00 00"
	abortedFixed   = "f0 00 0b 04 51 40 01 0a 80 01 00 00 00 00 00 00 00 00" // libata since Linux 6.11
	abortedShifted = "70 00 0b 00 00 00 00 0a 04 51 40 01 00 00 00 00 80 01" // and before
	extended       = "72 01 00 1d 00 00 00 0e 09 0c 01 00 12 34 06 03 05 02 04 01 e0 50"
	aborted        = "72 0b 00 00 00 00 00 0e 09 0c 00 04 00 00 00 00 00 4f 00 c2 a0 51"
	otherFirst     = "72 01 00 1d 00 00 00 14 02 04 00 00 00 00 09 0c 00 00 00 00 00 00 00 4f 00 c2 a0 50"
)

func TestGiveATA(t *testing.T) {
	status := ATA{Command: 0xb0, Feature: 0xda, LBA: 0xc24f00, Limit: time.Second}
	for _, c := range []struct {
		name, sense string
		lba         uint64
		count       uint16
		fails       bool
	}{
		{"good", goodDescriptor, 0xc24f00, 0, false},
		{"bad", badDescriptor, 0x2cf400, 0, false},
		{"good, fixed form", goodFixed, 0xc24f00, 0, false},
		{"48 bits", extended, 0x040506010203, 0x1234, false},
		{"another descriptor before it", otherFirst, 0xc24f00, 0, false},
		{"the drive aborts it", aborted, 0xc24f00, 0, true},
		{"no registers", "72 05 20 00 00 00 00 00", 0, 0, true},
		{"descriptor cut short", goodDescriptor[:44], 0, 0, true},
		{"nothing came back", "", 0, 0, true},
		{"a descriptor of no length", "72 01 00 1d 00 00 00 0e 00 00 00 00 00 00 00 00 00 00 00 00 00 00", 0, 0, true},
	} {
		d := &recorded{sense: c.sense}
		r, err := GiveATA(d, status)
		if (err != nil) != c.fails {
			t.Errorf("%s: %+v, %v", c.name, r, err)
		}
		if !c.fails && (r.LBA != c.lba || r.Count != c.count || r.Status != 0x50) {
			t.Errorf("%s: %x", c.name, r)
		}
	}
	for _, sense := range []string{aborted, abortedFixed, abortedShifted} {
		_, err := GiveATA(&recorded{sense: sense}, status)
		if e, ok := errors.AsType[*ATAError](err); !ok || e.Registers.Error != 4 || !Refused(err) || sense != aborted && e.LBA != 1 {
			t.Errorf("an aborted command: %v, refused %v", err, Refused(err))
		}
	}
	// These are no drive's registers: it is busy, or the bytes mean something else.
	for _, sense := range []string{
		"f0 00 0b 00 d1 40 00 0a 00 00 00 00 00 00 00 00 00 00",
		"70 00 0b 00 00 00 00 0a 00 00 00 00 47 00 00 00 00 00",
		"70 00 05 00 00 00 00 0a 00 00 00 00 20 00 00 00 00 00",
	} {
		_, err := GiveATA(&recorded{sense: sense}, status)
		if e, ok := errors.AsType[*ATAError](err); ok || err == nil {
			t.Errorf("%s: %+v", sense, e)
		}
	}
}

// The bytes of ATA PASS-THROUGH (16), as SAT-4 has them.
func TestPassThrough(t *testing.T) {
	data := make([]byte, 512)
	for _, c := range []struct {
		name string
		give ATA
		cdb  string
	}{
		{"SMART RETURN STATUS", ATA{Command: 0xb0, Feature: 0xda, LBA: 0xc24f00}, "85 06 20 00 da 00 00 00 00 00 4f 00 c2 00 b0 00"},
		{"SMART READ LOG 06h", ATA{Command: 0xb0, Feature: 0xd5, Count: 1, LBA: 0xc24f06, Move: In, Data: data}, "85 08 0e 00 d5 00 01 00 06 00 4f 00 c2 00 b0 00"},
		{"SECURITY SET PASSWORD", ATA{Command: 0xf1, Count: 1, Move: Out, Data: data}, "85 0a 06 00 00 00 01 00 00 00 00 00 00 00 f1 00"},
		{"READ LOG EXT", ATA{Command: 0x2f, Ext: true, Count: 1, LBA: 0x0704, Move: In, Data: data}, "85 09 0e 00 00 00 01 00 04 00 07 00 00 00 2f 00"},
		{"48 bits", ATA{Command: 0xb4, Ext: true, Feature: 0x1234, Count: 0x5678, LBA: 0x060504030201, Device: 0xe0}, "85 07 20 12 34 56 78 04 01 05 02 06 03 e0 b4 00"},
		{"28 bits", ATA{Command: 0xec, LBA: 0x0f030201, Device: 0xe0}, "85 06 20 00 00 00 00 00 01 00 02 00 03 ef ec 00"},
	} {
		d := &recorded{}
		_, _ = GiveATA(d, c.give)
		if want, _ := hex.DecodeString(strings.ReplaceAll(c.cdb, " ", "")); !bytes.Equal(d.got.CDB, want) {
			t.Errorf("%s: % x, want % x", c.name, d.got.CDB, want)
		}
	}
}

func TestRefused(t *testing.T) {
	sense := func(b ...byte) error { return &Sense{Status: 2, Bytes: b} }
	for _, c := range []struct {
		err  error
		want bool
	}{
		{sense(0x72, 0x05, 0x20, 0x00), true},
		{sense(0x70, 0, 0x05, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0x20, 0), true},
		{sense(0x72, 0x0b, 0, 0), true},
		{sense(0x72, 0x03, 0x11, 0), false}, // a medium error is no refusal
		{sense(), false},
		{NVMeStatus(0x0001), true},
		{unix.ENOTTY, true},
		{unix.EIO, false},
		{errNoRegisters, false},
	} {
		if Refused(c.err) != c.want {
			t.Errorf("%v: refused %v", c.err, !c.want)
		}
	}
}

func FuzzSense(f *testing.F) {
	for _, s := range []string{goodDescriptor, badDescriptor, goodFixed, abortedFixed, abortedShifted, extended, aborted, otherFirst} {
		b, _ := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &Sense{Status: 2, Bytes: b}
		_ = s.Error()
		if r, ok := registers(b); ok && r.LBA>>48 != 0 {
			t.Fatalf("%+v", r)
		}
	})
}
