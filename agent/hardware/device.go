package hardware

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"refurb/agent/wire"
)

// OpenedIdentity reads who the disk behind an open descriptor is: its name by
// the device number, its size and block by ioctl, and its serial both from sysfs
// and, for SATA, NVMe and SCSI, by a command to the drive on this very
// descriptor. It fails when the two disagree, when the descriptor is no whole
// disk, or when the drive doesn't answer in time. root is "/" on a PC.
func OpenedIdentity(root string, f *os.File) (wire.DiskID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return wire.DiskID{}, fmt.Errorf("look at %s: %w", f.Name(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return wire.DiskID{}, fmt.Errorf("%s is no block device", f.Name())
	}
	t := tree(root)
	number := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	dir := filepath.Join("sys/dev/block", number)
	if t.exists(dir, "partition") {
		return wire.DiskID{}, fmt.Errorf("%s is a partition, not a whole disk", f.Name())
	}
	name := t.link(dir)
	if name == "" {
		return wire.DiskID{}, fmt.Errorf("the kernel has no disk %s behind %s any more; the disk may have been unplugged", number, f.Name())
	}
	id, err := DiskIdentity(root, name)
	if err != nil {
		return id, err
	}
	said, err := within(probeTime, func() (wire.DiskID, error) { return askDescriptor(f, transport(name, t.real(dir))) })
	runtime.KeepAlive(f)
	if err != nil {
		return id, fmt.Errorf("ask %s who it is: %w", id.Path, err)
	}
	switch {
	case said.Bytes != id.Bytes:
		return id, fmt.Errorf("%s has %d bytes, the kernel says %d; the disk was changed, start again", id.Path, said.Bytes, id.Bytes)
	case said.LogicalBlock != id.LogicalBlock:
		return id, fmt.Errorf("%s has blocks of %d bytes, the kernel says %d; the disk was changed, start again", id.Path, said.LogicalBlock, id.LogicalBlock)
	case said.Serial != "" && said.Serial != id.Serial:
		return id, fmt.Errorf("%s says its serial is %q, the kernel says %q; the disk was changed, start again", id.Path, said.Serial, id.Serial)
	}
	return id, nil
}

// askDescriptor fills Bytes, LogicalBlock and, where the drive has a command for
// it, Serial.
func askDescriptor(f *os.File, transport string) (wire.DiskID, error) {
	var id wire.DiskID
	var size uint64
	if err := ioctl(f, unix.BLKGETSIZE64, unsafe.Pointer(&size)); err != nil {
		return id, fmt.Errorf("size: %w", err)
	}
	if size > 1<<62 {
		return id, fmt.Errorf("size %d makes no sense", size)
	}
	block, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return id, fmt.Errorf("block size: %w", err)
	}
	id.Bytes, id.LogicalBlock = int64(size), block
	a, err := ask(f, transport)
	if err != nil && !errors.Is(err, errNoCommand) && !refused(err) {
		return id, err
	}
	id.Serial = a.serial
	return id, nil
}

// refused reports that the device has no such command, as opposed to one that
// failed: USB cases and virtual disks answer little.
func refused(err error) bool {
	return errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) ||
		errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOMSG) || errors.Is(err, errRefused) || errors.Is(err, errShort)
}

var (
	errNoCommand = errors.New("this kind of disk has no command for it")
	errRefused   = errors.New("the drive refused the command")
)

// askDevice opens a device node and asks the drive. Both may hang in the kernel
// for minutes on a dying drive, so both happen aside; what answers too late is
// dropped. A disk that has no such command gives an empty answer.
func askDevice(node, transport string) (answer, error) {
	return within(probeTime, func() (answer, error) {
		fd, err := unix.Open(node, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return answer{}, err
		}
		f := os.NewFile(uintptr(fd), node)
		defer f.Close()
		a, err := ask(f, transport)
		if errors.Is(err, errNoCommand) || refused(err) {
			return answer{}, nil
		}
		return a, err
	})
}

// within runs f aside and waits no longer than d. A call that the kernel never
// ends keeps its goroutine; nothing can end it.
func within[T any](d time.Duration, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.v, r.err
	case <-timer.C:
		var none T
		return none, fmt.Errorf("no answer within %v", d)
	}
}

// ask sends the command that fits the transport.
func ask(f *os.File, transport string) (answer, error) {
	switch transport {
	case wire.TransportNVMe:
		return askNVMe(f)
	case wire.TransportSATA:
		a, err := askATA(f)
		if err != nil && refused(err) {
			return askSCSI(f)
		}
		return a, err
	case wire.TransportSCSI, wire.TransportUSB:
		return askSCSI(f)
	}
	return answer{}, errNoCommand
}

func ioctl(f *os.File, request uint, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

func askATA(f *os.File) (answer, error) {
	var id [512]byte
	if err := ioctl(f, unix.HDIO_GET_IDENTITY, unsafe.Pointer(&id)); err != nil {
		return answer{}, err
	}
	return parseHDIO(id[:])
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
	cdw10, _, _, _, _, _ uint32 // to cdw15
	timeoutMS, _         uint32 // result
}

const ioctlNVMeAdmin = 0xC0484E41 // _IOWR('N', 0x41, struct nvme_admin_cmd)

func askNVMe(f *os.File) (answer, error) {
	data := new([4096]byte)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(data)
	cmd := &nvmeAdmin{
		opcode: 0x06, cdw10: 1, // Identify, CNS 01h: the controller
		addr: uint64(uintptr(unsafe.Pointer(data))), dataLen: uint32(len(data)),
		timeoutMS: uint32(probeTime / time.Millisecond / 2),
	}
	if err := ioctl(f, ioctlNVMeAdmin, unsafe.Pointer(cmd)); err != nil {
		return answer{}, err
	}
	return parseNVMe(data[:])
}

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
	status, _, _, _      uint8
	hostStatus, drStatus uint16
	residue              int32
	_, info              uint32
}

const ioctlSG = 0x2285

func askSCSI(f *os.File) (answer, error) {
	data, sense := new([255]byte), new([32]byte)
	cdb := &[6]byte{0x12, 1, 0x80, 0, byte(len(data)), 0} // INQUIRY, EVPD, page 80h
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(data)
	pin.Pin(sense)
	pin.Pin(cdb)
	h := &sgIO{
		interfaceID: 'S', direction: -3, // from the device
		cdbLen: uint8(len(cdb)), senseLen: uint8(len(sense)), dataLen: uint32(len(data)),
		data: uintptr(unsafe.Pointer(data)), cdb: uintptr(unsafe.Pointer(cdb)), sense: uintptr(unsafe.Pointer(sense)),
		timeoutMS: uint32(probeTime / time.Millisecond / 2),
	}
	if err := ioctl(f, ioctlSG, unsafe.Pointer(h)); err != nil {
		return answer{}, err
	}
	if h.status != 0 {
		return answer{}, errRefused
	}
	if h.hostStatus != 0 || h.drStatus != 0 {
		return answer{}, fmt.Errorf("the command failed on its way (host %d, driver %d)", h.hostStatus, h.drStatus)
	}
	n := len(data) - int(max(0, h.residue))
	serial, err := parseVPD80(data[:max(0, n)])
	return answer{serial: serial}, err
}
