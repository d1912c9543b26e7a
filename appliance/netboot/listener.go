package netboot

import (
	"errors"
	"io"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Listener is l with an eye on which PC each connection belongs to; serve the
// routes of Register on it. When a PC asks for an address anew, it has been
// restarted, and what the kernel still keeps of its connections is in the way:
// GRUB leaves the one open that its configuration came over, counts its ports
// from the same number at every start, and then waits for 20 seconds and more
// behind each connection that was not forgotten here.
func (s *Server) Listener(l net.Listener) net.Listener { return listener{l, s} }

type listener struct {
	net.Listener
	server *Server
}

// maxConns is far more than a PC ever has open at once; each costs a file.
const maxConns = 128

func (l listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		t, ok := c.(*net.TCPConn)
		if !ok {
			return c, err
		}
		k := &conn{TCPConn: t, server: l.server}
		if peer, ok := t.RemoteAddr().(*net.TCPAddr); ok {
			k.peer = peer.AddrPort().Addr().Unmap()
		}
		if k.enter() {
			narrow(t)
			return k, err
		}
		_ = t.Close()
	}
}

// GRUB announces no segment size, so it gets 536 bytes a packet (RFC 9293 §3.7.1),
// and 15 of them at once, which is its window. Some cards' firmware drivers lose of
// that many: under OVMF an rtl8139 took three minutes for a kernel that takes it a
// quarter of one in portions of four.
const (
	grubSegment = 536
	grubBuffer  = 2 << 10 // the kernel doubles it, and counts its own overhead in
)

func narrow(t *net.TCPConn) {
	raw, err := t.SyscallConn()
	if err != nil {
		return
	}
	segment := 0
	_ = raw.Control(func(fd uintptr) { segment, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
	if 0 < segment && segment <= grubSegment {
		_ = t.SetWriteBuffer(grubBuffer)
	}
}

// enter counts k in, unless its PC has too many already.
func (c *conn) enter() bool {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns[c.peer]) >= maxConns {
		return false
	}
	if s.conns[c.peer] == nil {
		s.conns[c.peer] = map[*conn]struct{}{}
	}
	s.conns[c.peer][c] = struct{}{}
	return true
}

// conn keeps TCPConn's ReadFrom, which sends files without copying them.
type conn struct {
	*net.TCPConn
	server *Server
	peer   netip.Addr
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if errors.Is(err, io.EOF) {
		// The PC has all it wants, and GRUB won't hear our end: a reset takes
		// nothing from it, and spares the kernel a minute in LAST-ACK.
		_ = c.SetLinger(0)
	}
	return n, err
}

func (c *conn) Close() error {
	s := c.server
	s.mu.Lock()
	delete(s.conns[c.peer], c)
	if len(s.conns[c.peer]) == 0 {
		delete(s.conns, c.peer)
	}
	s.mu.Unlock()
	return c.TCPConn.Close()
}

// forget resets what a PC that was restarted left open.
func (s *Server) forget(addrs ...netip.Addr) {
	var left []*conn
	s.mu.Lock()
	for _, a := range addrs {
		for c := range s.conns[a] {
			left = append(left, c)
		}
	}
	s.mu.Unlock()
	for _, c := range left {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}
