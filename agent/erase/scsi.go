package erase

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

// Service actions of SANITIZE, 48h (SBC-4 §5.30).
const (
	sanitizeOverwrite = 1
	sanitizeBlock     = 2
	sanitizeCrypto    = 3
)

// askSCSI asks for each service action of SANITIZE by REPORT SUPPORTED OPERATION
// CODES (SPC-5 §6.35): 3 and 5 mean that there is one.
func (f *facts) askSCSI(d drive.Drive) error {
	var actions uint8
	for action := byte(sanitizeOverwrite); action <= sanitizeCrypto; action++ {
		b := make([]byte, 64)
		n, err := d.SCSI(drive.SCSI{CDB: []byte{0xa3, 0x0c, 2, 0x48, 0, action, 0, 0, 0, byte(len(b)), 0, 0}, Move: drive.In, Data: b, Limit: quick})
		if err != nil {
			if _, ok := errors.AsType[*drive.Sense](err); ok && answered(err) {
				continue // no such service action, or no such question
			}
			return fmt.Errorf("SCSI REPORT SUPPORTED OPERATION CODES: %w", err)
		}
		if n >= 2 && (b[1]&7 == 3 || b[1]&7 == 5) {
			actions |= 1 << action
		}
	}
	f.SCSISanitize, f.SCSIActions = new(actions != 0), new(actions)
	return nil
}

// scsiSanitize is SANITIZE with IMMED: it goes on by itself.
func scsiSanitize(method string, d drive.Drive, size int64) command {
	action := map[string]byte{scsiBlock: sanitizeBlock, scsiCrypto: sanitizeCrypto, scsiOverwrite: sanitizeOverwrite}[method]
	cmd := drive.SCSI{CDB: []byte{0x48, 0x80 | action, 0, 0, 0, 0, 0, 0, 0, 0}, Limit: time.Minute}
	if method == scsiOverwrite {
		// One pass of a pattern of four zeroes.
		cmd.Data, cmd.Move = []byte{1, 0, 0, 4, 0, 0, 0, 0}, drive.Out
		cmd.CDB[8] = byte(len(cmd.Data))
	}
	return command{
		text:  fmt.Sprintf("48h service action=%02Xh IMMED=1 AUSE=0", action),
		limit: bySize(size),
		give: func() (string, error) {
			_, err := d.SCSI(cmd)
			if s, ok := errors.AsType[*drive.Sense](err); ok {
				if key, _, _ := s.Key(); key == 6 { // UNIT ATTENTION: it tells some news and has done nothing
					_, err = d.SCSI(cmd)
				}
			}
			return "status=00h", err
		},
		poll: func() (state, error) { return scsiStatus(d) },
	}
}

// scsiStatus asks by REQUEST SENSE (SPC-5 §6.39), which tells the progress of a
// sanitize, and when it tells nothing by TEST UNIT READY, which tells a failure.
func scsiStatus(d drive.Drive) (state, error) {
	b := make([]byte, 252)
	n, err := d.SCSI(drive.SCSI{CDB: []byte{0x03, 0, 0, 0, byte(len(b)), 0}, Move: drive.In, Data: b, Limit: quick})
	if err != nil {
		return state{}, fmt.Errorf("SCSI REQUEST SENSE: %w", err)
	}
	said := &drive.Sense{Bytes: b[:n]}
	if key, _, _ := said.Key(); key == 0 || key == 6 {
		_, err := d.SCSI(drive.SCSI{CDB: make([]byte, 6), Limit: quick})
		if err == nil {
			return state{result: wire.Done, code: "status=00h"}, nil
		}
		var ok bool
		if said, ok = errors.AsType[*drive.Sense](err); !ok {
			return state{}, fmt.Errorf("SCSI TEST UNIT READY: %w", err)
		}
	}
	key, asc, ascq := said.Key()
	s := state{code: codeOf(said)}
	switch {
	case key == 2 && asc == 0x04 && ascq == 0x1b: // SANITIZE IN PROGRESS
		s.running = true
		if f := said.Bytes; len(f) >= 18 && f[0]&0x7f <= 0x71 && f[15]&0x80 != 0 {
			s.percent = 100 * float64(binary.BigEndian.Uint16(f[16:])) / 65536
		}
	case key == 3 && asc == 0x31 && ascq == 0x03: // SANITIZE COMMAND FAILED
		s.result = wire.Failed
	default:
		return s, said
	}
	return s, nil
}
