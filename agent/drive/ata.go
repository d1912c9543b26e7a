package drive

import (
	"errors"
	"fmt"
	"time"
)

// ATA is an ATA command (ACS-4). Ext sends all 48 bits of LBA and 16 of Feature
// and Count, without it the low 28 and 8.
type ATA struct {
	Command        byte
	Feature, Count uint16
	LBA            uint64
	Device         byte
	Ext            bool
	Move           Move // by PIO
	Data           []byte
	Limit          time.Duration
}

// Registers are what a drive leaves behind when a command has ended.
type Registers struct {
	Status, Error, Device byte
	Count                 uint16
	LBA                   uint64
}

// Bits of Registers.Status.
const (
	ataError = 1 << 0
	ataFault = 1 << 5
)

// ATAError is a command that the drive ended with an error.
type ATAError struct {
	Registers
	sense *Sense
}

func (e *ATAError) Unwrap() error { return e.sense }

func (e *ATAError) Error() string {
	return fmt.Sprintf("the drive ended the command with an error (status %02Xh, error %02Xh)", e.Status, e.Registers.Error)
}

var errNoRegisters = errors.New("the drive's registers did not come back")

// GiveATA gives an ATA command by ATA PASS-THROUGH (16) (SAT-4, 12.2.2). A
// command without data tells its registers; with one that has data they are
// only known when it fails.
func GiveATA(d Drive, c ATA) (Registers, error) {
	cdb := []byte{0x85, 0, 0, byte(c.Feature >> 8), byte(c.Feature), byte(c.Count >> 8), byte(c.Count),
		byte(c.LBA >> 24), byte(c.LBA), byte(c.LBA >> 32), byte(c.LBA >> 8), byte(c.LBA >> 40), byte(c.LBA >> 16),
		c.Device, c.Command, 0}
	switch c.Move { // protocol; then length in Count, in blocks, and its direction
	case In:
		cdb[1], cdb[2] = 4<<1, 0x0e
	case Out:
		cdb[1], cdb[2] = 5<<1, 0x06
	default:
		cdb[1], cdb[2] = 3<<1, 0x20 // CK_COND: tell the registers
	}
	if c.Ext {
		cdb[1] |= 1
	} else {
		cdb[13] |= byte(c.LBA>>24) & 0x0f
		cdb[3], cdb[5], cdb[7], cdb[9], cdb[11] = 0, 0, 0, 0, 0
	}
	_, err := d.SCSI(SCSI{CDB: cdb, Move: c.Move, Data: c.Data, Limit: c.Limit})
	sense, told := errors.AsType[*Sense](err)
	switch {
	case err != nil && !told:
		return Registers{}, err
	case err == nil && c.Move != None:
		return Registers{}, nil
	case err == nil:
		return Registers{}, errNoRegisters
	}
	r, ok := registers(sense.Bytes)
	switch {
	case !ok:
		return r, err
	case r.Status&(ataError|ataFault) != 0:
		return r, &ATAError{r, sense}
	}
	return r, nil
}

// registers finds the ATA status return descriptor, or the same in fixed form
// (SAT-4, 12.2.6 and 12.2.7).
func registers(b []byte) (Registers, bool) {
	if len(b) >= 8 && b[0]&0x7f == 0x72 {
		for d := b[8:min(len(b), 8+int(b[7]))]; len(d) >= 2; d = d[min(len(d), 2+int(d[1])):] {
			if d[0] != 0x09 || d[1] < 12 || len(d) < 14 {
				continue
			}
			r := Registers{Error: d[3], Count: uint16(d[5]), Device: d[12], Status: d[13],
				LBA: uint64(d[7]) | uint64(d[9])<<8 | uint64(d[11])<<16}
			if d[2]&1 != 0 { // EXTEND
				r.Count |= uint16(d[4]) << 8
				r.LBA |= uint64(d[6])<<24 | uint64(d[8])<<32 | uint64(d[10])<<40
			}
			return r, true
		}
		return Registers{}, false
	}
	if len(b) < 18 || b[0]&0x7f != 0x70 {
		return Registers{}, false
	}
	r := Registers{Error: b[3], Status: b[4], Device: b[5], Count: uint16(b[6]),
		LBA: uint64(b[9]) | uint64(b[10])<<8 | uint64(b[11])<<16}
	switch {
	case b[12] == 0 && b[13] == 0x1d: // ATA PASS-THROUGH INFORMATION AVAILABLE
		return r, true
	case b[0]&0x80 != 0 && failed(r.Status):
		return r, true // Linux tells errors in this form, with a code of their own
	case b[0]&0x80 == 0 && failed(b[9]):
		// Before 6.11 it put them at the wrong place, and the end is cut off.
		return Registers{Error: b[8], Status: b[9], Device: b[10], Count: uint16(b[11]), LBA: uint64(b[17])}, true
	}
	return Registers{}, false
}

// failed says that status is that of a drive which is there (DRDY), not busy
// any more (BSY) and has ended a command with an error.
func failed(status byte) bool {
	return status&0xc0 == 0x40 && status&(ataError|ataFault) != 0
}
