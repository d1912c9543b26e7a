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

	"refurb/agent/drive"
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
	_, said := errors.AsType[*drive.Sense](err)
	return said || drive.Refused(err) || errors.Is(err, errShort)
}

var errNoCommand = errors.New("this kind of disk has no command for it")

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

func askNVMe(f *os.File) (answer, error) {
	data := make([]byte, 4096)
	// Identify, CNS 01h: the controller
	if _, err := drive.On(f).NVMe(drive.NVMe{Opcode: 0x06, CDW10: 1, Data: data, Limit: probeTime / 2}); err != nil {
		return answer{}, err
	}
	return parseNVMe(data)
}

func askSCSI(f *os.File) (answer, error) {
	data := make([]byte, 255)
	n, err := drive.On(f).SCSI(drive.SCSI{ // INQUIRY, EVPD, page 80h
		CDB: []byte{0x12, 1, 0x80, 0, byte(len(data)), 0}, Move: drive.In, Data: data, Limit: probeTime / 2,
	})
	if err != nil {
		return answer{}, err
	}
	serial, err := parseVPD80(data[:n])
	return answer{serial: serial}, err
}
