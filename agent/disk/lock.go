package disk

import (
	"encoding/binary"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"refurb/agent/drive"
)

// What locks a disk, as Found says it.
const (
	lockATA  = "ata password" // the ATA security feature set
	lockOpal = "opal"         // TCG Opal: ranges are locked, or the shadow MBR stands in for the disk
)

// lock asks a disk whether it is locked. One that can't be asked, or doesn't
// answer, is locked by nothing that is known: what can't be read of it then
// makes its class.
func lock(f *os.File) string {
	id, err := identifyATA(f)
	if err != nil {
		id = nil
	}
	return lockOf(id, drive.On(f))
}

// lockOf goes by IDENTIFY DEVICE, which is nil if the disk is on no ATA
// controller, and by what the drive answers. Drives are asked only for what they
// say they have: the question alone would fill the error logs of others.
func lockOf(id []byte, d drive.Drive) string {
	switch {
	case ataLocked(id):
		return lockATA
	case ataTrusted(id) && opalLocked(securityIn(d)), id == nil && nvmeSecurity(d) && opalLocked(securityReceive(d)):
		return lockOpal
	}
	return ""
}

// ataLocked looks at word 128 of IDENTIFY DEVICE (ACS-4 §7.13.6.67): bit 0 says
// that there is a security feature set, bit 2 that the disk is locked.
func ataLocked(id []byte) bool {
	return len(id) == 512 && binary.LittleEndian.Uint16(id[2*128:])&5 == 5
}

// ataTrusted looks at word 48: bit 14 set and bit 15 clear make it valid, bit 0
// is the Trusted Computing feature set.
func ataTrusted(id []byte) bool {
	return len(id) == 512 && binary.LittleEndian.Uint16(id[2*48:])&0xc001 == 0x4001
}

// opalLocked reads a Level 0 Discovery (TCG Storage Architecture Core 2.01
// §3.3.6): a header of 48 bytes that begins with the length of what follows it,
// then features. Of the locking feature (0002h; Opal SSC 2.01 §3.1.1.3) byte 4
// has bit 1 enabled, 2 locked, 4 shadow MBR enabled, 5 shadow MBR done.
func opalLocked(page []byte) bool {
	if len(page) < 48 {
		return false
	}
	page = page[:min(uint64(len(page)), uint64(binary.BigEndian.Uint32(page))+4)]
	for at := 48; at+5 <= len(page); {
		if b := page[at+4]; binary.BigEndian.Uint16(page[at:]) == 2 {
			return b&2 != 0 && (b&4 != 0 || b&0x30 == 0x10)
		}
		at += 4 + int(page[at+3])
	}
	return false
}

// identifyATA asks for IDENTIFY DEVICE by HDIO_DRIVE_CMD (linux/hdreg.h), which
// only disks on an ATA controller answer: a USB case is not to be tried with
// commands that it may not stand.
func identifyATA(f *os.File) ([]byte, error) {
	const hdioDriveCmd = 0x031f
	b := new([4 + 512]byte)
	b[0], b[3] = 0xec, 1 // one sector comes back
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), hdioDriveCmd, uintptr(unsafe.Pointer(b))); errno != 0 {
		return nil, errno
	}
	runtime.KeepAlive(f)
	return b[4:], nil
}

const askTime = 2500 * time.Millisecond

// securityIn asks for Level 0 Discovery by SECURITY PROTOCOL IN (SPC-5 §6.39),
// which libata makes TRUSTED RECEIVE of: protocol 1, page 1, in units of 512
// bytes. nil: no answer.
func securityIn(d drive.Drive) []byte {
	page := make([]byte, 2048)
	n, err := d.SCSI(drive.SCSI{CDB: []byte{0xa2, 1, 0, 1, 0x80, 0, 0, 0, 0, byte(len(page) / 512), 0, 0}, Move: drive.In, Data: page, Limit: askTime})
	if err != nil {
		return nil
	}
	return page[:n]
}

// nvmeSecurity says whether the controller has Security Send and Receive: bit 0
// of OACS, byte 256 of Identify Controller (NVM Express Base 2.0, figure 275).
func nvmeSecurity(d drive.Drive) bool {
	id := make([]byte, 4096)
	_, err := d.NVMe(drive.NVMe{Opcode: 0x06, CDW10: 1, Data: id, Limit: askTime})
	return err == nil && id[256]&1 != 0
}

// securityReceive asks for Level 0 Discovery (opcode 82h; protocol 1, page 1).
func securityReceive(d drive.Drive) []byte {
	page := make([]byte, 2048)
	if _, err := d.NVMe(drive.NVMe{Opcode: 0x82, CDW10: 1<<24 | 1<<8, CDW11: uint32(len(page)), Data: page, Limit: askTime}); err != nil {
		return nil
	}
	return page
}
