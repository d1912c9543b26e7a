package erase

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

// Commands of ACS-4 (and, for HPA and DCO, ATA8-ACS).
const (
	ataIdentify        = 0xec
	ataSanitizeDevice  = 0xb4
	ataSetPassword     = 0xf1
	ataUnlock          = 0xf2
	ataErasePrepare    = 0xf3
	ataEraseUnit       = 0xf4
	ataDisablePassword = 0xf6
	ataReadNativeMax   = 0x27
	ataMaxAddress      = 0x78
	ataDCO             = 0xb1
	dcoIdentify        = 0xc2
)

// Password is the user password that a disk has while it is erased by its
// security feature set. It is no secret: after a power cut in the middle the
// disk is locked with it, and whoever knows it can unlock the disk.
const Password = "refurb-erases-this-disk"

const noNative = "the native size"

type ataWords []byte

func (w ataWords) word(n int) uint16 { return binary.LittleEndian.Uint16(w[2*n:]) }

func identifyATA(d drive.Drive) (ataWords, error) {
	b := make([]byte, 512)
	if _, err := drive.GiveATA(d, drive.ATA{Command: ataIdentify, Count: 1, Move: drive.In, Data: b, Limit: quick}); err != nil {
		return nil, fmt.Errorf("ATA IDENTIFY DEVICE: %w", err)
	}
	return b, nil
}

// askATA reads IDENTIFY DEVICE (ACS-4 §7.13).
func (f *facts) askATA(d drive.Drive) error {
	w, err := identifyATA(d)
	if err != nil {
		return err
	}
	f.ATASanitize, f.ATACommands = new(w.word(59)), new(w.word(82))
	f.ATAMinutes, f.ATAEnhanced = new(w.word(89)), new(w.word(90))
	f.ATASecurity = new(w.word(128))
	f.words = w
	return nil
}

// hiddenATA reads what the disk holds back: the native size by READ NATIVE MAX
// ADDRESS EXT (ATA8-ACS §7.36) or, of newer disks, GET NATIVE MAX ADDRESS EXT
// (ACS-4 §7.1), the factory's by DEVICE CONFIGURATION IDENTIFY (ATA8-ACS §7.8). A
// disk without any has nothing to tell.
func (f *facts) hiddenATA(d drive.Drive, size, sector int64) *wire.HiddenArea {
	w82, w83 := f.words.word(82), f.words.word(83)
	if w83&0xc000 != 0x4000 {
		return nil
	}
	h := &wire.HiddenArea{Visible: size}
	var notes []string
	asked := false
	accessible := f.words.word(119)&0xc100 == 0x4100 // the feature set that took the place of the HPA
	if accessible || w82&hasHPA != 0 && w83&(1<<10) != 0 {
		asked = true
		cmd := drive.ATA{Command: ataReadNativeMax, Device: 0x40, Ext: true, Limit: quick}
		if accessible {
			cmd.Command = ataMaxAddress
		}
		r, err := drive.GiveATA(d, cmd)
		switch n := int64(r.LBA+1) * sector; {
		case err != nil:
			notes = append(notes, noNative+" couldn't be read")
		case r.LBA >= 1<<47 || n < size:
			notes = append(notes, noNative+" makes no sense")
		default:
			h.Native = n
		}
	}
	if w83&(1<<11) != 0 {
		asked = true
		b := make([]byte, 512)
		_, err := drive.GiveATA(d, drive.ATA{Command: ataDCO, Feature: dcoIdentify, Count: 1, Move: drive.In, Data: b, Limit: quick})
		switch lba := binary.LittleEndian.Uint64(b[6:]); {
		case err != nil:
			notes = append(notes, "the device configuration overlay couldn't be read")
		case lba >= 1<<47 || int64(lba+1)*sector < size:
			notes = append(notes, "the device configuration overlay makes no sense")
		default:
			h.Real = int64(lba+1) * sector
		}
	}
	if !asked {
		return nil
	}
	h.Note = strings.Join(notes, "; ")
	return h
}

// ataSanitize is SANITIZE DEVICE (ACS-4 §7.33 to §7.38): the feature says what,
// and the LBA holds a word that nobody sends by mistake.
func ataSanitize(method string, d drive.Drive, size int64) command {
	cmd := drive.ATA{Command: ataSanitizeDevice, Ext: true, Device: 0x40, Limit: time.Minute}
	switch method {
	case ataCrypto:
		cmd.Feature, cmd.LBA = 0x11, 0x43727970 // "Cryp"
	case ataBlock:
		cmd.Feature, cmd.LBA = 0x12, 0x426b4572 // "BkEr"
	case ataOverwrite:
		cmd.Feature, cmd.LBA, cmd.Count = 0x14, 0x4f57<<32, 1 // "OW", pattern 0, one pass
	}
	return command{
		text:  fmt.Sprintf("B4h feature=%04Xh count=%04Xh", cmd.Feature, cmd.Count),
		limit: bySize(size),
		give: func() (string, error) {
			r, err := drive.GiveATA(d, cmd)
			return fmt.Sprintf("status=%02Xh", r.Status), err
		},
		poll: func() (state, error) { return sanitizeStatus(d) },
	}
}

// sanitizeStatus is SANITIZE STATUS EXT (ACS-4 §7.39): Count has bit 15 done
// without error, 14 in progress, 13 frozen; LBA 15:0 is the progress.
func sanitizeStatus(d drive.Drive) (state, error) {
	r, err := drive.GiveATA(d, drive.ATA{Command: ataSanitizeDevice, Feature: 0, Ext: true, Device: 0x40, Limit: quick})
	if e, ok := errors.AsType[*drive.ATAError](err); ok {
		// LBA 7:0 has the reason; 1 is an operation that failed.
		s := state{code: fmt.Sprintf("status=%02Xh reason=%02Xh", e.Status, e.LBA&0xff)}
		if e.LBA&0xff == 1 {
			s.result = wire.Failed
			return s, nil
		}
		return s, err
	}
	if err != nil {
		return state{}, fmt.Errorf("ATA SANITIZE STATUS: %w", err)
	}
	s := state{code: fmt.Sprintf("count=%04Xh", r.Count)}
	switch {
	case r.Count&(1<<14) != 0:
		s.running, s.percent = true, 100*float64(r.LBA&0xffff)/65536
	case r.Count&(1<<15) != 0:
		s.result = wire.Done
	}
	return s, nil
}

// ataErase sets the temporary password and gives SECURITY ERASE UNIT (ACS-4
// §7.44), which returns when it has ended. A drive that has erased itself has no
// password any more; run looks whether that is so.
func (f *facts) ataErase(enhanced bool, d drive.Drive) command {
	var mode uint16
	word := f.ATAMinutes
	if enhanced {
		mode, word = 2, f.ATAEnhanced
	}
	c := command{text: fmt.Sprintf("F1h, F3h, F4h enhanced=%d", mode>>1), limit: securityTime(word)}
	c.give = func() (string, error) {
		if err := security(d, ataSetPassword, 0, quick); err != nil {
			return "", fmt.Errorf("setting the password: %w", err)
		}
		w, err := identifyATA(d)
		if err != nil {
			return "", err
		}
		if w.word(128)&secEnabled == 0 {
			return "", refusal("the disk took the password and has none")
		}
		if _, err := drive.GiveATA(d, drive.ATA{Command: ataErasePrepare, Limit: quick}); err != nil {
			return "", fmt.Errorf("preparing: %w", err)
		}
		if err := security(d, ataEraseUnit, mode, c.limit); err != nil {
			return "", err
		}
		return "status=50h", nil
	}
	return c
}

// refusal is what the drive as much as said.
type refusal string

func (r refusal) Error() string { return string(r) }

// security gives a command whose data begin with a control word and our
// password; identifier 0 is the user's, level 0 is high.
func security(d drive.Drive, command byte, control uint16, limit time.Duration) error {
	b := make([]byte, 512)
	binary.LittleEndian.PutUint16(b, control)
	copy(b[2:34], Password)
	_, err := drive.GiveATA(d, drive.ATA{Command: command, Count: 1, Move: drive.Out, Data: b, Limit: limit})
	return err
}

// securityTime reads word 89 or 90 (ACS-4 §7.13.6.43): in units of two minutes,
// the highest value for more. Twice that, and half an hour, is waited.
func securityTime(word *uint16) time.Duration {
	const unknown = 12 * time.Hour
	if word == nil || *word == 0 {
		return unknown
	}
	n, most := time.Duration(*word&0xff), time.Duration(0xff)
	if *word&0x8000 != 0 {
		n, most = time.Duration(*word&0x7fff), 0x7fff
	}
	if n == most || n == 0 {
		return 24 * time.Hour
	}
	return min(2*n*2*time.Minute+30*time.Minute, 48*time.Hour)
}

// release takes our password from the disk, and tells what was done if there was
// something to do. It fails when the disk still has a password afterwards, or
// when nobody can know.
func release(d drive.Drive) (did bool, err error) {
	w, err := identifyATA(d)
	if err != nil {
		return false, err
	}
	if w.word(128)&secEnabled == 0 {
		return false, nil
	}
	if w.word(128)&secLocked != 0 {
		if err := security(d, ataUnlock, 0, quick); err != nil {
			return true, fmt.Errorf("unlocking: %w", err)
		}
	}
	if err := security(d, ataDisablePassword, 0, quick); err != nil {
		return true, fmt.Errorf("removing the password: %w", err)
	}
	if w, err = identifyATA(d); err != nil {
		return true, err
	}
	if w.word(128)&secEnabled != 0 {
		return true, refusal("the disk keeps its password")
	}
	return true, nil
}
