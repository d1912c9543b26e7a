package link

import (
	"log/slog"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Arm has every wired card that can listen for a magic packet while the PC is off.
// Some cards keep it; others forget it with the next system's driver, or when the
// power was cut.
func Arm(log *slog.Logger) {
	all, err := cards()
	if err != nil {
		log.Warn("wake on LAN", "err", err)
		return
	}
	for _, l := range all {
		name := l.Attrs().Name
		w, err := askWOL(name, getWOL, wolinfo{})
		if err != nil {
			continue // most drivers of virtual and USB cards have no such call
		}
		now, change := w.armed()
		if change {
			if now, err = askWOL(name, setWOL, now); err == nil {
				now, err = askWOL(name, getWOL, wolinfo{}) // what became of it
			}
		}
		switch {
		case err != nil:
			log.Warn("wake on LAN", "interface", name, "err", err)
		case now.options&wakeMagic != 0:
			log.Info("wake on LAN is armed", "interface", name)
		}
	}
}

// Wakes reports whether a card can listen for a magic packet, as far as its driver
// knows; EOPNOTSUPP: its driver has no such call.
func Wakes(name string) (bool, error) {
	w, err := askWOL(name, getWOL, wolinfo{})
	return w.supported&wakeMagic != 0, err
}

// From linux/ethtool.h.
const (
	getWOL    = 0x05
	setWOL    = 0x06
	wakeMagic = 1 << 5
)

// wolinfo is struct ethtool_wolinfo, and ifreq the struct of linux/if.h with a pointer
// in it: both to their last byte, since the kernel reads and writes them whole. A
// shorter one costs whatever lies behind it in memory.
type (
	wolinfo struct {
		cmd, supported, options uint32
		password                [6]byte
		_                       [2]byte
	}
	ifreq struct {
		name [unix.IFNAMSIZ]byte
		data *wolinfo
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}
)

// armed adds the magic packet to what a card listens for, if it can and doesn't yet.
func (w wolinfo) armed() (to wolinfo, change bool) {
	change = w.supported&wakeMagic != 0 && w.options&wakeMagic == 0
	if change {
		w.options |= wakeMagic
	}
	return w, change
}

func askWOL(name string, cmd uint32, w wolinfo) (wolinfo, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return w, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	w.cmd = cmd
	req := ifreq{data: &w}
	if copy(req.name[:len(req.name)-1], name) < len(name) {
		return w, unix.ENODEV
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return w, os.NewSyscallError("ethtool", errno)
	}
	return w, nil
}
