package disk

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

// answers is a drive that gives recorded answers. Virtual disks know none of
// these commands.
type answers struct {
	t        *testing.T
	nvme     []byte // Identify Controller; nil: no NVMe drive
	page     []byte // Level 0 Discovery; nil: refused
	security int    // times that it was asked for that
}

func (a *answers) SCSI(c drive.SCSI) (int, error) {
	if a.nvme != nil || c.CDB[0] != 0xa2 || c.CDB[1] != 1 || c.CDB[3] != 1 {
		a.t.Errorf("asked for % x", c.CDB)
	}
	a.security++
	if a.page == nil {
		return 0, &drive.Sense{Status: 2}
	}
	return copy(c.Data, a.page), nil
}

func (a *answers) NVMe(c drive.NVMe) (uint32, error) {
	switch {
	case a.nvme == nil:
		return 0, unix.ENOTTY
	case c.Opcode == 0x06 && c.CDW10 == 1:
		copy(c.Data, a.nvme)
		return 0, nil
	case c.Opcode == 0x82 && c.CDW10 == 0x01000100 && c.CDW11 == uint32(len(c.Data)):
		a.security++
		if a.page == nil {
			return 0, drive.NVMeStatus(2)
		}
		copy(c.Data, a.page)
		return 0, nil
	}
	a.t.Errorf("asked for %+v", c)
	return 0, errors.New("unknown")
}

func TestLock(t *testing.T) {
	words := func(w ...uint16) []byte { // pairs of word number and value
		b := make([]byte, 512)
		for i := 0; i < len(w); i += 2 {
			binary.LittleEndian.PutUint16(b[2*w[i]:], w[i+1])
		}
		return b
	}
	controller := func(oacs byte) []byte { b := make([]byte, 4096); b[256] = oacs; return b }
	// TPer (0001h), Geometry (0003h), then Locking (0002h) with the given bits.
	discovery := func(locking byte) []byte {
		b := make([]byte, 48)
		b = append(b, 0, 1, 0x10, 12, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		b = append(b, 0, 3, 0x10, 28)
		b = append(b, make([]byte, 28)...)
		b = append(b, 0, 2, 0x10, 12, locking, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		return b
	}
	for _, c := range []struct {
		name  string
		ata   []byte
		nvme  []byte
		page  []byte
		want  string
		asked int
	}{
		{name: "neither ATA nor NVMe"},
		{name: "no security", ata: words(48, 0x4000)},
		{name: "security, no password", ata: words(128, 0x0021)},
		{name: "frozen", ata: words(128, 0x0029)},
		{name: "enabled and unlocked", ata: words(128, 0x0003)},
		{name: "locked", ata: words(128, 0x0027), want: lockATA},
		{name: "locked, maximum security, count expired", ata: words(128, 0x0117|4), want: lockATA},
		{name: "word 128 is nonsense", ata: words(128, 0xfffe)},
		{name: "trusted, word 48 not valid", ata: words(48, 0xc001)},
		{name: "trusted, no answer", ata: words(48, 0x4001), asked: 1},
		{name: "opal, not enabled", ata: words(48, 0x4001), page: discovery(0x01), asked: 1},
		{name: "opal, enabled and open", ata: words(48, 0x4001), page: discovery(0x0b), asked: 1},
		{name: "opal, locked", ata: words(48, 0x4001), page: discovery(0x0f), want: lockOpal, asked: 1},
		{name: "opal, the shadow MBR stands in", ata: words(48, 0x4001), page: discovery(0x1b), want: lockOpal, asked: 1},
		{name: "opal, the shadow MBR is done", ata: words(48, 0x4001), page: discovery(0x3b), asked: 1},
		{name: "nvme without security", nvme: controller(0x1e)},
		{name: "nvme, refused", nvme: controller(1), asked: 1},
		{name: "nvme, open", nvme: controller(0x17), page: discovery(0x03), asked: 1},
		{name: "nvme, locked", nvme: controller(0x17), page: discovery(0x07), want: lockOpal, asked: 1},
		{name: "no features", nvme: controller(1), page: make([]byte, 48), asked: 1},
		{name: "an answer cut off", nvme: controller(1), page: discovery(7)[:90], asked: 1},
		{name: "a length that is too large", nvme: controller(1), page: append([]byte{0xff, 0xff, 0xff, 0xff}, discovery(7)[4:]...), want: lockOpal, asked: 1},
	} {
		a := &answers{t: t, nvme: c.nvme, page: c.page}
		if got := lockOf(c.ata, a); got != c.want || a.security != c.asked {
			t.Errorf("%s: %q, asked %d times", c.name, got, a.security)
		}
	}
	if class, found := Classify(&block{size: size}, size, Facts{Lock: lockATA}); class != wire.ClassLocked || found[0] != lockATA {
		t.Error(class, found)
	}
}

func FuzzOpal(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) { opalLocked(b) })
}
