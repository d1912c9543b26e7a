package netboot

import (
	"errors"
	"io"
	"net"
)

// Listener lets connections of l that the PC has ended be forgotten at once;
// serve the routes of Register on it. GRUB ends a connection and never hears
// the server's end, and after a restart it uses the same ports again: the
// kernel would hold them for a minute or two, in the state LAST-ACK, and GRUB
// would wait 20 seconds for each.
func Listener(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if t, ok := c.(*net.TCPConn); ok {
		return &conn{TCPConn: t}, err
	}
	return c, err
}

// conn keeps TCPConn's ReadFrom, which sends files without copying them.
type conn struct{ *net.TCPConn }

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if errors.Is(err, io.EOF) {
		// The PC has all it wants: a reset takes nothing from it.
		_ = c.TCPConn.SetLinger(0)
	}
	return n, err
}
