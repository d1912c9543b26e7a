package campaign

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// network is the workshop's switch: connections in memory, so that hours of
// waiting take no time, and all that can befall a cable.
type network struct {
	w *world

	mu        sync.Mutex
	moved     *sync.Cond // bytes, or the state of a connection, a cable, a clock
	unplugged bool
	listeners map[string]*listener
	conns     map[*conn]bool
}

func newNetwork(w *world) *network {
	n := &network{w: w, listeners: map[string]*listener{}, conns: map[*conn]bool{}}
	n.moved = sync.NewCond(&n.mu)
	return n
}

// room is what one direction of a connection holds until it is read.
const room = 256 << 10

// pipe is one direction of a connection.
type pipe struct {
	b     []byte
	ended bool // no more will be written
}

// conn is one end. Its fields belong to the network's lock.
type conn struct {
	n             *network
	in, out       *pipe
	peer          *conn
	addr          address
	closed        bool
	err           error // of the connection: it was reset
	reads, writes time.Time

	trick faultKind // of the PC's end, once after bytes bytes came in or went out
	after int
	stuck bool
}

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

type listener struct {
	n    *network
	addr string
	in   chan net.Conn
	done chan struct{}
	once sync.Once
}

func (n *network) listen(addr string) *listener {
	l := &listener{n: n, addr: addr, in: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[addr] = l
	return l
}

func (l *listener) Addr() net.Addr { return address(l.addr) }
func (l *listener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// dial is the agent's way out, while its process lives.
func (n *network) dial(ctx context.Context, p *process, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	time.Sleep(time.Millisecond)
	hole := false
	var later *fault
	for _, f := range n.w.due("dial") {
		switch f.kind {
		case "refused":
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		case "hole":
			hole = true
		default:
			later = &f
		}
	}
	n.mu.Lock()
	l := n.listeners[addr]
	hole = hole || n.unplugged || p.dead.Load()
	n.mu.Unlock()
	switch {
	case hole:
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	case l == nil:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	there, back := &pipe{}, &pipe{}
	ours := &conn{n: n, in: back, out: there, addr: "10.77.0.23:40000"}
	theirs := &conn{n: n, in: there, out: back, addr: address(addr), peer: ours}
	ours.peer = theirs
	if later != nil {
		ours.trick, ours.after = later.kind, later.arg
	}
	n.mu.Lock()
	n.conns[ours], n.conns[theirs] = true, true
	n.mu.Unlock()
	select {
	case l.in <- theirs:
		p.hold(ours)
		return ours, nil
	case <-l.done:
	case <-ctx.Done():
	}
	ours.Close()
	theirs.Close()
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
}

// forget is the end of a program that listened.
func (n *network) forget(addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addrs {
		if l := n.listeners[a]; l != nil {
			l.Close()
			delete(n.listeners, a)
		}
	}
}

// unplug pulls the cable for so long. Both ends keep their connections.
func (n *network) unplug(d time.Duration) {
	n.mu.Lock()
	n.unplugged = true
	n.mu.Unlock()
	n.w.later(d, func() {
		n.mu.Lock()
		n.unplugged = false
		n.moved.Broadcast()
		n.mu.Unlock()
		n.w.say("the cable is back")
	})
}

// reset ends every connection of one side at once, as the death of its program
// does. nil: all there are.
func (n *network) reset(mine func(*conn) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if mine == nil || mine(c) {
			c.reset()
		}
	}
	n.moved.Broadcast()
}

func (c *conn) reset() {
	for _, e := range []*conn{c, c.peer} {
		e.err = syscall.ECONNRESET
		e.in.b = nil
		delete(c.n.conns, e)
	}
}

// still reports whether nothing moves on this connection.
func (c *conn) still() bool { return c.n.unplugged || c.stuck || c.peer.stuck }

// wait returns an error when there is nothing to wait for.
func (c *conn) wait(deadline time.Time) error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.err != nil:
		return &net.OpError{Op: "read", Net: "tcp", Err: c.err}
	case !deadline.IsZero() && !time.Now().Before(deadline):
		return os.ErrDeadlineExceeded
	}
	c.n.moved.Wait()
	return nil
}

func (c *conn) Read(p []byte) (int, error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for {
		if c.closed || c.err != nil || c.still() || len(c.in.b) == 0 && !c.in.ended {
			if err := c.wait(c.reads); err != nil {
				return 0, err
			}
			continue
		}
		if len(c.in.b) == 0 {
			return 0, io.EOF
		}
		n := copy(p, c.in.b)
		if hit := c.trip(n); hit >= 0 {
			switch c.trick {
			case "flip":
				p[hit] ^= 1 << (hit % 8)
			case "reset":
				c.reset()
				c.n.moved.Broadcast()
				continue
			case "silence":
				c.stuck = true
				continue
			}
		}
		c.in.b = c.in.b[n:]
		c.n.moved.Broadcast()
		return n, nil
	}
}

func (c *conn) Write(p []byte) (done int, err error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for done < len(p) {
		free := room - len(c.out.b)
		if c.closed || c.err != nil || c.still() || c.peer.closed || free <= 0 {
			if c.peer.closed && c.err == nil {
				c.err = syscall.EPIPE
			}
			if err := c.wait(c.writes); err != nil {
				return done, err
			}
			continue
		}
		n := min(free, len(p)-done)
		c.out.b = append(c.out.b, p[done:done+n]...)
		done += n
		if hit := c.trip(n); hit >= 0 {
			switch c.trick {
			case "flip":
				c.out.b[len(c.out.b)-n+hit] ^= 1 << (hit % 8)
			case "reset":
				c.reset()
			case "silence":
				c.stuck = true
			}
		}
		c.n.moved.Broadcast()
	}
	return done, nil
}

// trip counts n bytes and gives the place among them that the trick hits, -1: none.
func (c *conn) trip(n int) int {
	if c.trick == "" {
		return -1
	}
	if c.after >= n {
		c.after -= n
		return -1
	}
	hit := c.after
	c.after = 1 << 60
	return hit
}

func (c *conn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed, c.out.ended = true, true
	delete(c.n.conns, c)
	c.n.moved.Broadcast()
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.addr }
func (c *conn) RemoteAddr() net.Addr { return c.peer.addr }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
func (c *conn) SetReadDeadline(t time.Time) error  { return c.until(&c.reads, t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.until(&c.writes, t) }

func (c *conn) until(deadline *time.Time, t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	*deadline = t
	c.n.moved.Broadcast()
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), func() {
			c.n.mu.Lock()
			defer c.n.mu.Unlock()
			c.n.moved.Broadcast()
		})
	}
	return nil
}
