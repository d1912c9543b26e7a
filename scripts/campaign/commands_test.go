package campaign

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"refurb/agent/drive"
)

// firmware is what an NVMe drive does by itself: it identifies itself, formats
// and sanitizes (NVM Express Base 2.0). A sanitize goes on over a power cut, and
// nothing can be read meanwhile.
type firmware struct {
	sanicap uint32 // bit 0 crypto, 1 block
	status  uint16 // of the last sanitize: 0 none, 1 done, 2 under way
	until   time.Time
	effect  func()
}

// nvme is an opened drive that takes commands.
type nvme struct{ *handle }

func (n nvme) Drive() drive.Drive { return commands(n) }

type commands struct{ *handle }

func (c commands) SCSI(drive.SCSI) (int, error) { return 0, unix.ENOTTY }

func (c commands) NVMe(cmd drive.NVMe) (uint32, error) {
	lie, salt, err := c.step("command", 0, 0)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch lie {
	case "refuse":
		return 0, drive.NVMeStatus(0x06) // internal error
	case "lie":
		return 0, nil
	}
	status := c.obey(cmd, lie == "part", salt)
	switch {
	case lie == "late":
		return 0, unix.EIO
	case status != 0:
		return 0, drive.NVMeStatus(status)
	}
	return 0, nil
}

func (c commands) obey(cmd drive.NVMe, part bool, salt uint64) uint16 {
	const invalidOpcode, invalidField, underWay = 0x01, 0x02, 0x1d
	le, f := binary.LittleEndian, c.firmware
	c.tick()
	switch cmd.Opcode {
	case 0x06: // Identify
		clear(cmd.Data)
		switch cmd.CDW10 {
		case 1:
			le.PutUint16(cmd.Data[256:], 2) // Format NVM
			le.PutUint32(cmd.Data[328:], f.sanicap)
		case 2:
			le.PutUint32(cmd.Data, 1)
		}
	case 0x02: // Get Log Page
		if cmd.CDW10&0xff != 0x81 {
			return invalidField
		}
		clear(cmd.Data)
		le.PutUint16(cmd.Data[2:], f.status)
		le.PutUint32(cmd.Data[12:], 20)
		le.PutUint32(cmd.Data[16:], 1)
	case 0x84: // Sanitize
		action := cmd.CDW10 & 7
		switch {
		case f.status == 2:
			return underWay
		case action == 2 && f.sanicap&2 == 0, action == 4 && f.sanicap&1 == 0, action != 2 && action != 4:
			return invalidField
		}
		f.status, f.until = 2, time.Now().Add(20*time.Second)
		f.effect = func() { c.wipe(action, part, salt) }
	case 0x80: // Format NVM
		if f.status == 2 {
			return underWay
		}
		if ses := cmd.CDW10 >> 9 & 7; ses != 0 {
			c.wipe(2, part, salt)
		}
	default:
		return invalidOpcode
	}
	return 0
}

// tick ends a sanitize whose time has come.
func (d *medium) tick() {
	if f := d.firmware; f != nil && f.status == 2 && !time.Now().Before(f.until) {
		f.effect()
		f.status = 1
	}
}

// wipe is the effect of a command: ones after a block erase, noise where the key
// was changed. A bad drive leaves the second half out.
func (d *medium) wipe(action uint32, part bool, salt uint64) {
	n := len(d.data)
	if part {
		n /= 2
	}
	r := rand.NewPCG(salt, 7)
	for i := 0; i < 4096; i += 8 {
		b := ^uint64(0)
		if action == 4 {
			b = r.Uint64()
		}
		binary.LittleEndian.PutUint64(d.data[i:], b)
	}
	for i := 4096; i < n; i *= 2 {
		copy(d.data[i:min(2*i, n)], d.data)
	}
	copy(d.durable, d.data)
	d.pending = nil
}
