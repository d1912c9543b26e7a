package appliance

import (
	"net"
	"net/netip"
	"sync"
)

// A crowd of connections is bounded, and what one address has of it as well:
// each connection costs a file and memory, and one PC that opens them without
// end must not keep the others out. What is too much is closed at once.
type crowd struct {
	net.Listener
	most, each int

	mu   sync.Mutex
	all  int
	from map[netip.Addr]int
}

func bounded(l net.Listener, most, each int) net.Listener {
	return &crowd{Listener: l, most: most, each: each, from: map[netip.Addr]int{}}
}

func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var peer netip.Addr
		if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
			peer = a.AddrPort().Addr().Unmap()
		}
		if leave, ok := c.enter(peer); ok {
			return &member{Conn: conn, leave: leave}, nil
		}
		_ = conn.Close()
	}
}

func (c *crowd) enter(peer netip.Addr) (leave func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= c.most || c.from[peer] >= c.each {
		return nil, false
	}
	c.all++
	c.from[peer]++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all--
		if c.from[peer]--; c.from[peer] == 0 {
			delete(c.from, peer)
		}
	}), true
}

type member struct {
	net.Conn
	leave func()
}

func (m *member) Close() error {
	m.leave()
	return m.Conn.Close()
}
