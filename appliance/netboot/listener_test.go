package netboot

import (
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A PC with GRUB's small segments gets little at once, any other as much as the
// kernel likes.
func TestListenerNarrow(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours := (&Server{conns: map[netip.Addr]map[*conn]struct{}{}}).Listener(l)
	buffer := func(segment int) (n int) {
		d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			if segment == 0 {
				return nil
			}
			return raw.Control(func(fd uintptr) {
				if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment); err != nil {
					t.Error(err)
				}
			})
		}}
		pc, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		c, err := ours.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(*conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) { n, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF) })
		return n
	}
	if n := buffer(grubSegment); n > 8<<10 {
		t.Errorf("GRUB's connection buffers %d bytes", n)
	}
	if n := buffer(0); n < 64<<10 {
		t.Errorf("any other buffers %d bytes", n)
	}
}
