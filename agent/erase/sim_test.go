package erase

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"golang.org/x/sys/unix"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

// fault is what happens to one call.
type fault int

const (
	none   fault = iota
	broken       // the kernel gives an error, nothing was done
	late         // the kernel gives an error, and yet it was done
	refuse       // the drive gives an error
	lie          // success is reported, nothing was done
	vanish       // the disk is gone from now on
	stall        // the call doesn't come back
)

var faults = []fault{broken, late, refuse, lie, vanish, stall}

func (f fault) String() string {
	return [...]string{"none", "broken", "late", "refuse", "lie", "vanish", "stall"}[f]
}

// sim plays one drive at the seam, by the standards' words: its medium, what it
// holds back, its sanitize and security states. It is the only thing in this
// repository that can play sanitize, ATA security, HPA and DCO: no virtual
// machine has a disk that does.
type sim struct {
	transport string
	media     []byte
	spare     []byte // cells that no write reaches

	// What it says of itself.
	sanicap    uint32
	oacs       uint16
	fna        byte
	namespaces int
	spared     uint64 // UNVMCAP
	words      map[int]uint16
	native     int64 // sectors, by READ NATIVE MAX
	dco        int64
	actions    byte // SCSI

	fake  bool // all commands succeed and erase nothing
	sulky bool // no sanitize is taken, as after SANITIZE FREEZE LOCK
	brief bool // errors come in fixed form, as libata tells them

	// What happens to it.
	mu      sync.Mutex
	faultAt func(call int) fault
	calls   int
	gone    bool
	freed   chan struct{} // lets stalled calls go at the end of a test

	// Where it is.
	sanitizing  int // polls until it ends; 0: none runs
	polls       int // that a sanitize takes
	willFail    bool
	sstat       uint16
	effect      func()
	password    string
	enabled     bool
	locked      bool
	prepared    bool
	formatSES   []uint32 // that were asked for
	everCommand []string
}

const simSize = 8*block + 3*512

func newSim(transport string) *sim {
	r := rand.New(rand.NewPCG(1, 2))
	s := &sim{transport: transport, media: make([]byte, simSize), spare: make([]byte, 4096), namespaces: 1, polls: 3, freed: make(chan struct{})}
	for i := range s.media {
		s.media[i] = byte(r.Uint32())
	}
	copy(s.spare, s.media[:len(s.spare)])
	return s
}

func (s *sim) Size() int64 { return int64(len(s.media)) }
func (s *sim) Block() int  { return 512 }

// next is the fault of the call that begins now.
func (s *sim) next() (fault, error) {
	f, err := s.meet()
	if f == stall && err == nil {
		<-s.freed
		err = unix.EIO
	}
	return f, err
}

func (s *sim) meet() (fault, error) {
	s.mu.Lock() // a call that was given up may not have ended
	defer s.mu.Unlock()
	s.calls++
	f := none
	if s.faultAt != nil {
		f = s.faultAt(s.calls)
	}
	if f == vanish {
		s.gone = true
	}
	if s.gone {
		return f, unix.ENODEV
	}
	if f == broken {
		return f, unix.EIO
	}
	return f, nil
}

func (s *sim) busy() bool { return s.sanitizing > 0 || s.sstat == 3 }

func (s *sim) ReadAt(b []byte, at int64) (int, error) {
	f, err := s.next()
	switch {
	case err != nil:
		return 0, err
	case f == refuse, f == late, s.busy(), s.locked:
		return 0, unix.EIO
	}
	n := copy(b, s.media[at:])
	if f == lie {
		for i := range b[:n] {
			b[i] ^= 0x5a
		}
	}
	return n, nil
}

func (s *sim) WriteAt(b []byte, at int64) (int, error) {
	f, err := s.next()
	switch {
	case err != nil:
		return 0, err
	case f == refuse, s.busy(), s.locked:
		return 0, unix.EIO
	case f == lie:
		return len(b), nil
	}
	n := copy(s.media[at:], b)
	if f == late {
		return 0, unix.EIO
	}
	return n, nil
}

func (s *sim) Zero(at, n int64) error {
	_, err := s.WriteAt(make([]byte, n), at)
	return err
}

func (s *sim) Sync() error {
	f, err := s.next()
	if err == nil && (f == refuse || f == late) {
		err = unix.EIO
	}
	return err
}

// crypto leaves garbage, block erase what a maker likes.
func (s *sim) crypto() {
	r := rand.New(rand.NewPCG(3, uint64(s.calls)))
	for i := range s.media {
		s.media[i] = byte(r.Uint32())
	}
	clear(s.spare)
}

func (s *sim) ones() {
	for i := range s.media {
		s.media[i] = 0xff
	}
	clear(s.spare)
}

func (s *sim) zeroes() { clear(s.media); clear(s.spare) }

func (s *sim) sanitize(effect func()) {
	s.sanitizing, s.effect, s.sstat = s.polls, effect, 2
	if s.polls == 0 {
		s.sanitizing = 1
		s.tick()
	}
}

// tick is one look at how far it is.
func (s *sim) tick() {
	if s.sanitizing == 0 {
		return
	}
	if s.sanitizing--; s.sanitizing > 0 {
		return
	}
	if s.willFail {
		s.sstat = 3
		return
	}
	s.sstat = 1
	if !s.fake {
		s.effect()
	}
}

func (s *sim) NVMe(c drive.NVMe) (uint32, error) {
	f, err := s.next()
	switch {
	case err != nil:
		return 0, err
	case s.transport != wire.TransportNVMe:
		return 0, unix.ENOTTY
	case f == refuse:
		return 0, drive.NVMeStatus(0x06) // internal error
	case f == lie:
		return 0, nil
	}
	status := s.nvme(c)
	if f == late {
		return 0, unix.EIO
	}
	if status != 0 {
		return 0, drive.NVMeStatus(status)
	}
	return 0, nil
}

func (s *sim) nvme(c drive.NVMe) uint16 {
	le := binary.LittleEndian
	s.everCommand = append(s.everCommand, fmt.Sprintf("%02Xh", c.Opcode))
	switch c.Opcode {
	case opIdentify:
		clear(c.Data)
		switch c.CDW10 {
		case 1:
			le.PutUint16(c.Data[256:], s.oacs)
			le.PutUint64(c.Data[296:], s.spared)
			le.PutUint32(c.Data[328:], s.sanicap)
			c.Data[524] = s.fna
		case 2, 0x10:
			for i := range s.namespaces {
				le.PutUint32(c.Data[4*i:], uint32(i+1))
			}
		case 0:
			c.Data[26], c.Data[29] = 0x21, 0x00 // LBAF 17: LBAFU 1, LBAF 1
		}
	case opGetLog:
		s.tick()
		clear(c.Data)
		le.PutUint16(c.Data[2:], s.sstat)
		if s.sanitizing > 0 {
			le.PutUint16(c.Data, uint16(65535*(s.polls-s.sanitizing)/max(s.polls, 1)))
		}
		le.PutUint32(c.Data[12:], 20)
		le.PutUint32(c.Data[16:], 0xffffffff)
	case opSanitize:
		bit, ok := map[uint32]uint32{2: 2, 3: 4, 4: 1}[c.CDW10&7]
		if !ok || s.sanicap&bit == 0 {
			return 0x02
		}
		if s.sanitizing > 0 {
			return 0x1d
		}
		s.sanitize(map[uint32]func(){2: s.ones, 3: s.zeroes, 4: s.crypto}[c.CDW10&7])
	case opFormat:
		s.formatSES = append(s.formatSES, c.CDW10>>9&7)
		if s.oacs&2 == 0 {
			return 0x01
		}
		if s.busy() {
			return 0x1d
		}
		if c.CDW10&0x301f != 0x1001 || c.NSID != 1 {
			return 0x010a // invalid format
		}
		switch ses := c.CDW10 >> 9 & 7; {
		case s.fake, ses == 0:
		case ses == 2:
			s.crypto()
		default:
			s.zeroes()
		}
	default:
		return 0x01
	}
	return 0
}

func (s *sim) SCSI(c drive.SCSI) (int, error) {
	f, err := s.next()
	switch {
	case err != nil:
		return 0, err
	case s.transport == wire.TransportVirtio || s.transport == wire.TransportNVMe:
		return 0, unix.ENOTTY
	case f == refuse && c.CDB[0] == 0x85:
		return 0, ataSense(0x51, 0x04, 0, 0)
	case f == refuse:
		return 0, &drive.Sense{Status: 2, Bytes: []byte{0x72, 5, 0x20, 0}}
	case f == lie && c.CDB[0] == 0x85 && c.Move == drive.None:
		return 0, ataSense(0x50, 0, 0, 0)
	case f == lie:
		return len(c.Data), nil
	}
	n, err := 0, error(nil)
	if c.CDB[0] == 0x85 && s.transport == wire.TransportSATA {
		n, err = s.ata(c)
	} else {
		n, err = s.scsi(c)
	}
	if f == late {
		return 0, unix.EIO
	}
	if sense, ok := errors.AsType[*drive.Sense](err); ok && s.brief && sense.Bytes[0] == 0x72 && len(sense.Bytes) == 22 && sense.Bytes[21]&1 != 0 {
		b := sense.Bytes
		err = &drive.Sense{Status: 2, Bytes: []byte{0xf0, 0, b[1], b[11], b[21], b[20], b[13], 10, 0x80, b[15], b[17], b[19], 0, 0, 0, 0, 0, 0}}
	}
	return n, err
}

// ataSense is the status return descriptor that a drive's registers come in.
func ataSense(status, errByte byte, count uint16, lba uint64) *drive.Sense {
	key, asc, ascq := byte(1), byte(0), byte(0x1d)
	if status&1 != 0 {
		key, asc, ascq = 0xb, 0, 0
	}
	return &drive.Sense{Status: 2, Bytes: []byte{0x72, key, asc, ascq, 0, 0, 0, 14, 0x09, 12, 1, errByte,
		byte(count >> 8), byte(count), byte(lba >> 24), byte(lba), byte(lba >> 32), byte(lba >> 8), byte(lba >> 40), byte(lba >> 16), 0, status}}
}

var aborted = func() error { return ataSense(0x51, 0x04, 0, 0) }

func (s *sim) word(n int) uint16 {
	w := s.words[n]
	if n == 128 && w&secSupported != 0 {
		w &^= secEnabled | secLocked
		if s.enabled {
			w |= secEnabled
		}
		if s.locked {
			w |= secLocked
		}
	}
	return w
}

func (s *sim) ata(c drive.SCSI) (int, error) {
	b := c.CDB
	feature, count := uint16(b[3])<<8|uint16(b[4]), uint16(b[5])<<8|uint16(b[6])
	lba := uint64(b[8]) | uint64(b[10])<<8 | uint64(b[12])<<16 | uint64(b[7])<<24 | uint64(b[9])<<32 | uint64(b[11])<<40
	s.everCommand = append(s.everCommand, fmt.Sprintf("%02Xh", b[14]))
	done := func() (int, error) {
		if c.Move == drive.None {
			return 0, ataSense(0x50, 0, 0, 0)
		}
		return len(c.Data), nil
	}
	frozen := s.words[128]&secFrozen != 0
	password := func() string { return string(bytes.TrimRight(c.Data[2:34], "\x00")) }
	switch b[14] {
	case ataIdentify:
		for i := range 256 {
			binary.LittleEndian.PutUint16(c.Data[2*i:], s.word(i))
		}
		return len(c.Data), nil
	case ataReadNativeMax, ataMaxAddress:
		newer := s.words[119] != 0
		if s.native == 0 || b[1]&1 == 0 || feature != 0 || newer != (b[14] == ataMaxAddress) {
			return 0, aborted()
		}
		return 0, ataSense(0x50, 0, 0, uint64(s.native-1))
	case ataDCO:
		if s.dco == 0 || feature != dcoIdentify {
			return 0, aborted()
		}
		clear(c.Data)
		binary.LittleEndian.PutUint64(c.Data[6:], uint64(s.dco-1))
		return len(c.Data), nil
	case ataSanitizeDevice:
		if feature == 0 {
			s.tick()
			switch s.sstat {
			case 3:
				return 0, ataSense(0x51, 0x04, 0, 1)
			case 2:
				return 0, ataSense(0x50, 0, 1<<14, uint64(65535*(s.polls-s.sanitizing)/max(s.polls, 1)))
			case 1:
				return 0, ataSense(0x50, 0, 1<<15, 0xffff)
			}
			return 0, ataSense(0x50, 0, 0, 0)
		}
		bit, effect, key := uint16(0), s.ones, uint64(0)
		switch feature {
		case 0x11:
			bit, effect, key = sanCrypto, s.crypto, 0x43727970
		case 0x12:
			bit, effect, key = sanBlock, s.ones, 0x426b4572
		case 0x14:
			bit, effect, key = sanOverwrite, s.zeroes, 0x4f57<<32
		}
		if s.sulky || s.words[59]&bit == 0 || lba != key || s.locked || s.sanitizing > 0 || feature == 0x14 && count&15 != 1 {
			return 0, aborted()
		}
		s.sanitize(effect)
		return done()
	case ataSetPassword:
		if frozen || s.locked {
			return 0, aborted()
		}
		s.password, s.enabled = password(), true
		return done()
	case ataUnlock:
		if !s.enabled || password() != s.password {
			return 0, aborted()
		}
		s.locked = false
		return done()
	case ataErasePrepare:
		s.prepared = true
		return done()
	case ataEraseUnit:
		prepared := s.prepared
		s.prepared = false
		if !prepared || frozen || !s.enabled || password() != s.password {
			return 0, aborted()
		}
		if s.willFail {
			return 0, aborted()
		}
		if !s.fake {
			if s.ones(); c.Data[0]&2 == 0 {
				clear(s.media)
			}
		}
		s.enabled, s.locked = false, false
		return done()
	case ataDisablePassword:
		if s.locked || !s.enabled || password() != s.password {
			return 0, aborted()
		}
		s.enabled = false
		return done()
	}
	return 0, aborted()
}

func (s *sim) scsi(c drive.SCSI) (int, error) {
	illegal := &drive.Sense{Status: 2, Bytes: []byte{0x72, 5, 0x20, 0}}
	s.everCommand = append(s.everCommand, fmt.Sprintf("%02Xh", c.CDB[0]))
	switch c.CDB[0] {
	case 0xa3:
		if c.CDB[3] != 0x48 || s.actions == 0 {
			return 0, illegal
		}
		clear(c.Data)
		c.Data[1] = 1
		if s.actions&(1<<c.CDB[5]) != 0 {
			c.Data[1] = 3
		}
		return 12, nil
	case 0x48:
		action := c.CDB[1] & 0x1f
		if s.actions&(1<<action) == 0 || c.CDB[1]&0x80 == 0 || action == 1 && (int(c.CDB[8]) != len(c.Data) || c.Data[0]&0x1f != 1) {
			return 0, illegal
		}
		s.sanitize([]func(){nil, s.zeroes, s.ones, s.crypto}[action])
		return 0, nil
	case 0x03, 0x00:
		if c.CDB[0] == 0x03 {
			s.tick()
		}
		sense := make([]byte, 18)
		sense[0], sense[7] = 0x70, 10
		switch s.sstat {
		case 2:
			sense[2], sense[12], sense[13], sense[15] = 2, 0x04, 0x1b, 0x80
		case 3:
			sense[2], sense[12], sense[13] = 3, 0x31, 0x03
		}
		if c.CDB[0] == 0x03 {
			return copy(c.Data, sense), nil
		}
		if s.sstat >= 2 {
			return 0, &drive.Sense{Status: 2, Bytes: sense}
		}
		return 0, nil
	}
	return 0, illegal
}
