package erase

import (
	"encoding/binary"
	"fmt"
	"time"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

// Admin opcodes of NVM Express Base 2.0, figure 138.
const (
	opGetLog   = 0x02
	opIdentify = 0x06
	opFormat   = 0x80
	opSanitize = 0x84

	logSanitize = 0x81
)

// askNVMe reads Identify Controller (figure 275), counts the namespaces and
// reads how this one is formatted (NVM command set 1.0, figure 97).
func (f *facts) askNVMe(d drive.Drive) error {
	b := make([]byte, 4096)
	identify := func(cns, nsid uint32) error {
		clear(b)
		_, err := d.NVMe(drive.NVMe{Opcode: opIdentify, NSID: nsid, CDW10: cns, Data: b, Limit: quick})
		return err
	}
	if err := identify(1, 0); err != nil {
		return fmt.Errorf("NVMe Identify Controller: %w", err)
	}
	f.NVMeOACS = new(binary.LittleEndian.Uint16(b[256:]))
	f.NVMeSanitize = new(binary.LittleEndian.Uint32(b[328:]))
	f.NVMeFormat = new(b[524])
	if *f.NVMeOACS&8 != 0 { // namespace management: UNVMCAP, 16 bytes
		f.unallocated = int64(min(binary.LittleEndian.Uint64(b[296:]), 1<<60))
	}

	list := func(cns uint32) (n int, first uint32, err error) {
		if err := identify(cns, 0); err != nil {
			return 0, 0, err
		}
		first = binary.LittleEndian.Uint32(b)
		for n < len(b)/4 && binary.LittleEndian.Uint32(b[4*n:]) != 0 {
			n++
		}
		return n, first, nil
	}
	n, nsid, err := list(0x02) // active on this controller
	if err != nil {
		return fmt.Errorf("NVMe list of namespaces: %w", err)
	}
	if *f.NVMeOACS&8 != 0 { // there may be some that are not attached
		all, _, err := list(0x10)
		if err != nil {
			return fmt.Errorf("NVMe list of allocated namespaces: %w", err)
		}
		n = max(n, all)
	}
	f.NVMeNamespaces = new(n)
	if n != 1 {
		return nil
	}
	if err := identify(0, nsid); err != nil {
		f.NVMeNamespaces = nil
		return fmt.Errorf("NVMe Identify Namespace: %w", err)
	}
	f.nsid = nsid
	flbas, dps := uint32(b[26]), uint32(b[29])
	// The format stays what it is: LBAF, MSET, PI, PIL and LBAFU.
	f.format = flbas&0x1f | dps&7<<5 | dps>>3&1<<8 | flbas>>5&3<<12
	return nil
}

// nvmeSanitize is the Sanitize command (figure 303). With AUSE 0 a drive on which
// it failed serves no data until a later one succeeds.
func (f *facts) nvmeSanitize(method string, d drive.Drive, size int64) command {
	action := map[string]uint32{nvmeBlock: 2, nvmeOverwrite: 3, nvmeCrypto: 4}[method]
	cdw10 := action
	text := fmt.Sprintf("84h SANACT=%d AUSE=0", action)
	if method == nvmeOverwrite {
		cdw10 |= 1 << 4 // one pass
		text += " OWPASS=1 OVRPAT=0"
	}
	c := command{text: text, limit: bySize(size)}
	if l, err := sanitizeLog(d); err == nil {
		if s := l.estimate(action); s > 0 {
			c.limit = min(2*s+time.Hour, 2*bySize(size))
		}
	}
	c.give = func() (string, error) {
		_, err := d.NVMe(drive.NVMe{Opcode: opSanitize, CDW10: cdw10, Limit: time.Minute})
		return "SC=00h", err
	}
	c.poll = func() (state, error) {
		l, err := sanitizeLog(d)
		if err != nil {
			return state{}, err
		}
		return l.state(), nil
	}
	return c
}

// sanLog is the Sanitize Status log page (figure 235).
type sanLog []byte

func sanitizeLog(d drive.Drive) (sanLog, error) {
	b := make([]byte, 512)
	_, err := d.NVMe(drive.NVMe{Opcode: opGetLog, NSID: 0xffffffff, CDW10: uint32(len(b)/4-1)<<16 | logSanitize, Data: b, Limit: quick})
	if err != nil {
		return nil, fmt.Errorf("NVMe sanitize status log: %w", err)
	}
	return b, nil
}

func (l sanLog) state() state {
	sstat := binary.LittleEndian.Uint16(l[2:])
	s := state{code: fmt.Sprintf("SSTAT=%Xh", sstat&7)}
	switch sstat & 7 {
	case 1, 4: // 4: done, and deallocated although that was not asked for
		s.result = wire.Done
	case 2:
		s.running = true
		s.percent = 100 * float64(binary.LittleEndian.Uint16(l)) / 65536
	case 3:
		s.result = wire.Failed
	}
	return s
}

// estimate is the drive's own, 0 if it gives none.
func (l sanLog) estimate(action uint32) time.Duration {
	at, ok := map[uint32]int{3: 8, 2: 12, 4: 16}[action]
	if !ok {
		return 0
	}
	s := binary.LittleEndian.Uint32(l[at:])
	if s == 0xffffffff {
		return 0
	}
	return time.Duration(s) * time.Second
}

// nvmeFormat is the Format NVM command (figure 189) with secure erase settings:
// 1 erases user data, 2 the key. It returns when it has ended.
func (f *facts) nvmeFormat(ses uint32, d drive.Drive, size int64) command {
	c := command{text: fmt.Sprintf("80h NSID=%d SES=%d LBAF=%d", f.nsid, ses, f.format&0xf), limit: bySize(size)}
	c.give = func() (string, error) {
		_, err := d.NVMe(drive.NVMe{Opcode: opFormat, NSID: f.nsid, CDW10: f.format&^(7<<9) | ses<<9, Limit: c.limit})
		return "SC=00h", err
	}
	return c
}
