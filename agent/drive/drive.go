// Package drive gives a drive the commands for which the kernel has no call of
// its own: SCSI and, within it, ATA commands through SG_IO (SPC-5, SAT-4), and
// NVMe admin commands (NVM Express Base 2.0).
//
// Who gives a command says how long it may take. The kernel doesn't always keep
// to that with a drive that is dying: whoever can't wait runs it aside.
package drive

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Drive takes commands: *File, and in tests recorded answers.
type Drive interface {
	// SCSI gives one command and tells how many bytes of Data were moved. An
	// error is a *Sense when the drive itself gave it.
	SCSI(SCSI) (int, error)
	// NVMe gives one admin command; the result is dword 0 of its completion. An
	// error is an NVMeStatus when the drive itself gave it.
	NVMe(NVMe) (uint32, error)
}

// Move is the way that the data go.
type Move int

const (
	None Move = iota
	In        // from the drive
	Out       // to the drive
)

// SCSI is a command as SG_IO takes it.
type SCSI struct {
	CDB   []byte
	Move  Move
	Data  []byte
	Limit time.Duration
}

// NVMe is an admin command. Which way the data go is in the opcode.
type NVMe struct {
	Opcode              uint8
	NSID                uint32
	CDW10, CDW11, CDW12 uint32
	CDW13, CDW14, CDW15 uint32
	Data                []byte
	Limit               time.Duration
}

// Sense is how a drive refuses a SCSI command, or tells something about one
// that went well.
type Sense struct {
	Status byte   // SAM: 02h CHECK CONDITION, 18h RESERVATION CONFLICT…
	Bytes  []byte // sense data, in fixed or descriptor form; may be empty
}

func (s *Sense) Error() string {
	key, asc, ascq := s.Key()
	return fmt.Sprintf("the drive refused the command (status %02Xh, sense %X/%02X/%02X)", s.Status, key, asc, ascq)
}

// Key is the sense key with its additional code and qualifier; all zero when
// there is none (SPC-5, 4.4).
func (s *Sense) Key() (key, asc, ascq byte) {
	b := s.Bytes
	switch {
	case len(b) >= 4 && b[0]&0x7f >= 0x72:
		return b[1] & 0x0f, b[2], b[3]
	case len(b) >= 14:
		return b[2] & 0x0f, b[12], b[13]
	case len(b) >= 3:
		return b[2] & 0x0f, 0, 0
	}
	return 0, 0, 0
}

// NVMeStatus is the status field of a completion without its phase bit: bits 7:0
// the code, 10:8 its type.
type NVMeStatus uint16

func (s NVMeStatus) Error() string {
	return fmt.Sprintf("the drive refused the command (type %Xh, status %02Xh)", uint16(s)>>8&7, uint16(s)&0xff)
}

// Refused reports that the drive, or the kernel in its place, knows no such
// command, as opposed to one that went wrong.
func Refused(err error) bool {
	if s, ok := errors.AsType[*Sense](err); ok {
		key, _, _ := s.Key()
		return key == 0x5 || key == 0xb // ILLEGAL REQUEST; ABORTED COMMAND, as libata says it
	}
	if _, ok := errors.AsType[NVMeStatus](err); ok {
		return true
	}
	for _, no := range []error{unix.ENOTTY, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.ENOMSG} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// File is a drive's open node.
type File struct{ f *os.File }

// On gives commands on a descriptor that somebody else closes.
func On(f *os.File) File { return File{f} }

// Open opens a node for commands alone, without claiming the disk.
func Open(path string) (File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return File{}, fmt.Errorf("open %s: %w", path, err)
	}
	return File{os.NewFile(uintptr(fd), path)}, nil
}

func (d File) Close() error { return d.f.Close() }

// sgIO is struct sg_io_hdr of scsi/sg.h.
type sgIO struct {
	interfaceID          int32
	direction            int32
	cdbLen, senseLen     uint8
	_                    uint16
	dataLen              uint32
	data, cdb, sense     uintptr
	timeoutMS, _         uint32
	_                    int32
	_                    uintptr
	status, _, _, wrote  uint8
	hostStatus, drStatus uint16
	residue              int32
	_, _                 uint32
}

const (
	ioctlSG        = 0x2285
	driverSense    = 0x08 // DRIVER_SENSE: there is sense data, nothing else is wrong
	checkCondition = 0x02
)

func (d File) SCSI(c SCSI) (int, error) {
	sense := new([64]byte)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(sense)
	pin.Pin(unsafe.SliceData(c.CDB))
	h := &sgIO{
		interfaceID: 'S', direction: map[Move]int32{None: -1, Out: -2, In: -3}[c.Move],
		cdbLen: uint8(len(c.CDB)), cdb: uintptr(unsafe.Pointer(unsafe.SliceData(c.CDB))),
		senseLen: uint8(len(sense)), sense: uintptr(unsafe.Pointer(sense)),
		timeoutMS: milliseconds(c.Limit),
	}
	if len(c.Data) > 0 {
		pin.Pin(unsafe.SliceData(c.Data))
		h.dataLen, h.data = uint32(len(c.Data)), uintptr(unsafe.Pointer(unsafe.SliceData(c.Data)))
	}
	if err := d.ioctl(ioctlSG, unsafe.Pointer(h)); err != nil {
		return 0, err
	}
	n := len(c.Data) - min(max(0, int(h.residue)), len(c.Data))
	switch {
	case h.hostStatus != 0 || h.drStatus&^driverSense != 0:
		return n, fmt.Errorf("the command failed on its way (host %d, driver %d)", h.hostStatus, h.drStatus)
	case h.status != 0:
		return n, &Sense{Status: h.status, Bytes: sense[:min(int(h.wrote), len(sense))]}
	}
	return n, nil
}

// nvmeAdmin is struct nvme_admin_cmd of linux/nvme_ioctl.h.
type nvmeAdmin struct {
	opcode, flags        uint8
	_                    uint16
	nsid                 uint32
	_, _                 uint32 // cdw2, cdw3
	metadata             uint64
	addr                 uint64
	metadataLen, dataLen uint32
	cdw                  [6]uint32 // 10 to 15
	timeoutMS, result    uint32
}

const ioctlNVMeAdmin = 0xC0484E41 // _IOWR('N', 0x41, struct nvme_admin_cmd)

func (d File) NVMe(c NVMe) (uint32, error) {
	cmd := &nvmeAdmin{
		opcode: c.Opcode, nsid: c.NSID, dataLen: uint32(len(c.Data)), timeoutMS: milliseconds(c.Limit),
		cdw: [6]uint32{c.CDW10, c.CDW11, c.CDW12, c.CDW13, c.CDW14, c.CDW15},
	}
	if len(c.Data) > 0 {
		var pin runtime.Pinner
		defer pin.Unpin()
		pin.Pin(unsafe.SliceData(c.Data))
		cmd.addr = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(c.Data))))
	}
	err := d.ioctl(ioctlNVMeAdmin, unsafe.Pointer(cmd))
	return cmd.result, err
}

// ioctl gives what the driver returned: a negative number is an error of the
// kernel's, a positive one the NVMe status. EINTR is no reason to ask again: no
// signal ends these calls, it is how the NVMe driver says that a command took
// longer than its limit, and another format isn't wanted.
func (d File) ioctl(request uint, arg unsafe.Pointer) error {
	defer runtime.KeepAlive(d.f)
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), uintptr(request), uintptr(arg))
	switch {
	case errno != 0:
		return errno
	case r != 0:
		return NVMeStatus(r)
	}
	return nil
}

func milliseconds(d time.Duration) uint32 { return uint32(min(d/time.Millisecond, 1<<31)) }
