package exchange

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"refurb/agent/wire"
	"refurb/images"
)

const (
	maxTakers = 4                      // served at once
	signs     = 200 * time.Millisecond // between two signs of life
	unwaited  = time.Second            // a taker that takes nothing for so long is looked at
	unmoved   = 10 * time.Second       // and is let go after this
	maxAsk    = 256 << 10              // bytes of an ask: bitmaps of images up to 4 TiB
)

// ask is what a PC tells its source.
type ask struct {
	Root    string        `json:"root"`
	Stripe  int           `json:"stripe"`
	Stripes int           `json:"stripes"`
	Have    []byte        `json:"have"`              // bitmap: not to be sent
	Partial map[int]int64 `json:"partial,omitempty"` // bytes that are there of a frame
	Patient bool          `json:"patient,omitempty"` // may be told that something is gone
}

// check says what is wrong with an ask.
func (a *ask) check(m *images.Manifest) error {
	switch {
	case a.Root != m.Root.String():
		return errors.New("this PC has another image")
	case a.Stripes < 1 || a.Stripes > maxStripes || a.Stripe < 0 || a.Stripe >= a.Stripes:
		return errors.New("there is no such stripe")
	case len(a.Have) != (len(m.Frames)+7)/8 || len(a.Partial) > len(m.Frames):
		return errors.New("the bitmap doesn't fit the image")
	}
	return nil
}

// taker is a PC that is served.
type taker struct {
	stripe, stripes int
	patient         bool
	dead            bool   // acknowledges nothing
	have            []byte // has or was sent: guarded by the shelf's mu, like the rest
	partial         map[int]int64
	unjudged        []int  // sent, and not checked here yet
	news            []byte // records of verdicts that are to be sent
}

func (t *taker) lacks(i int) bool { return i%t.stripes == t.stripe && !bit(t.have, i) }

// rejected is told that a frame didn't match its hash.
func (t *taker) rejected(i int) {
	for at, j := range t.unjudged {
		if j == i {
			t.unjudged = append(t.unjudged[:at], t.unjudged[at+1:]...)
			t.news = append(t.news, record(recBad, i)...)
			t.have[i/8] &^= 1 << (i % 8)
			return
		}
	}
}

// Listen opens a port for Config.Listener. Where a system sends by BBR, its rest
// of a fifth of a second in ten would add up along a line of PCs: 0.7 s a PC
// were measured.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic") // or what there is
		})
	}}
	return c.Listen(ctx, "tcp", address)
}

// handler serves wire.PathPeer.
func (x *Exchange) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathPeer, x.serve)
	return mux
}

func (x *Exchange) serve(w http.ResponseWriter, r *http.Request) {
	key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	x.mu.Lock()
	want := x.order.Key
	x.mu.Unlock()
	if want == "" || subtle.ConstantTimeCompare([]byte(key), []byte(want)) != 1 {
		http.Error(w, "the appliance didn't send you", http.StatusForbidden)
		return
	}
	var a ask
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAsk)).Decode(&a)
	if err == nil {
		err = a.check(x.cfg.Manifest)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	t := &taker{stripe: a.Stripe, stripes: a.Stripes, patient: a.Patient, have: a.Have, partial: a.Partial}
	if t.partial == nil {
		t.partial = map[int]int64{}
	}
	if !x.shelf.admit(t) {
		http.Error(w, "this PC serves as many as it can", http.StatusServiceUnavailable)
		return
	}
	defer x.shelf.dismiss(t)
	// The connection itself: what goes out is the other's own framing, and one
	// system call a piece.
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	defer x.track(conn)()
	s := &sender{x: x, taker: t, conn: conn}
	err = s.write([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n"))
	if err == nil {
		err = s.run()
	}
	x.log.Debug("served a peer", "address", conn.RemoteAddr(), "err", err)
}

// admit lets a taker in, if there is room.
func (s *shelf) admit(t *taker) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.takers) >= maxTakers {
		return false
	}
	s.takers[t] = true
	return true
}

func (s *shelf) dismiss(t *taker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.takers, t)
	s.announce()
}

// sender feeds one taker.
type sender struct {
	x     *Exchange
	taker *taker
	conn  net.Conn
	never []byte // as last sent
	drops int    // the shelf's, then
}

func (s *sender) write(parts ...[]byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(unmoved)); err != nil {
		return err
	}
	written := make(chan struct{})
	look := time.AfterFunc(unwaited, func() { s.watch(written) })
	b := net.Buffers(parts)
	n, err := b.WriteTo(s.conn)
	close(written)
	if !look.Stop() {
		s.dead(false)
	}
	s.x.sent.Add(n)
	return err
}

// watch looks at a write that takes long. Whoever has only no room just now still
// acknowledges; nothing is kept for one that has lost power.
func (s *sender) watch(written <-chan struct{}) {
	for {
		if silent(s.conn) {
			s.dead(true)
		}
		select {
		case <-written:
			s.dead(false)
			return
		case <-time.After(signs):
		}
	}
}

func (s *sender) dead(is bool) {
	s.x.shelf.mu.Lock()
	defer s.x.shelf.mu.Unlock()
	if s.taker.dead != is {
		s.taker.dead = is
		s.x.shelf.announce()
	}
}

// silent reports whether the other side acknowledges nothing: what was sent has
// been sent again twice, or it was asked for room twice.
func silent(c net.Conn) (is bool) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		is = err == nil && (info.Retransmits >= 2 || info.Probes >= 2)
	})
	return is
}

// door lets so many connections in at once.
type door struct {
	net.Listener
	slots   chan struct{}
	closing <-chan struct{}
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case d.slots <- struct{}{}:
	case <-d.closing:
		return nil, net.ErrClosed
	}
	c, err := d.Listener.Accept()
	if err != nil {
		<-d.slots
		return nil, err
	}
	return &guest{c.(*net.TCPConn), sync.OnceFunc(func() { <-d.slots })}, nil
}

// guest is still a *net.TCPConn, so that a piece goes out by one system call.
type guest struct {
	*net.TCPConn
	leave func()
}

func (g *guest) Close() error {
	defer g.leave()
	return g.TCPConn.Close()
}

// run sends, in the order in which they arrived here, all frames that the taker
// lacks, and goes on until there is nothing more to come.
func (s *sender) run() error {
	shelf := s.x.shelf
	life := time.NewTicker(signs)
	defer life.Stop()
	for {
		shelf.mu.Lock()
		i, b, offset := shelf.pick(s.taker)
		news := s.news()
		over := b == nil && shelf.exhausted(s.taker)
		changed := shelf.wait()
		shelf.mu.Unlock()
		if len(news) > 0 {
			if err := s.write(news); err != nil {
				s.release(b)
				return err
			}
		}
		switch {
		case b != nil:
			err := s.frame(i, b, offset, life.C)
			s.release(b)
			if err != nil {
				return err
			}
			continue
		case over:
			return s.write(record(recEnd))
		}
		select {
		case <-changed:
		case <-life.C:
			if err := s.write(s.alive()); err != nil {
				return err
			}
		case <-s.x.closing:
			return s.write(record(recEnd))
		}
	}
}

func (s *sender) alive() []byte {
	s.x.shelf.mu.Lock()
	defer s.x.shelf.mu.Unlock()
	return record(recAlive, s.x.shelf.total-s.x.shelf.lacking)
}

// frame sends one frame as it arrives.
func (s *sender) frame(i int, b *box, offset int64, life <-chan time.Time) error {
	shelf := s.x.shelf
	head := record(recFrame, i, int(offset))
	for at := int(offset); at < len(b.data); {
		shelf.mu.Lock()
		n, bad, changed := b.n, b.bad, shelf.wait()
		stuck := n == at && !bad && shelf.frames[i].state == lacking && shelf.other(s.taker)
		switch {
		case bad:
			delete(s.taker.partial, i)
		case stuck:
			s.taker.partial[i] = int64(at)
		}
		shelf.mu.Unlock()
		switch {
		case bad: // what has gone out of it may be wrong
			return s.write(append(append(head, recAbort), record(recBad, i)...))
		case stuck:
			return s.write(append(head, recAbort))
		case n > at:
			n = min(n, at+maxPiece)
			if err := s.write(append(head, record(recData, n-at)...), b.data[at:n]); err != nil {
				return err
			}
			head, at = nil, n
			continue
		}
		select {
		case <-changed:
		case <-life:
			if err := s.write(append(head, s.alive()...)); err != nil {
				return err
			}
			head = nil
		}
	}
	shelf.mu.Lock()
	defer shelf.mu.Unlock()
	s.taker.sent(i, b.bad)
	return nil
}

// sent notes that a frame has gone out whole. If it was given up meanwhile, the
// taker learns so and gets it again.
func (t *taker) sent(i int, bad bool) {
	delete(t.partial, i)
	if bad {
		t.news = append(t.news, record(recBad, i)...)
		return
	}
	t.have[i/8] |= 1 << (i % 8)
	t.unjudged = append(t.unjudged, i)
}

func (s *sender) release(b *box) {
	if b != nil {
		s.x.shelf.mu.Lock()
		b.refs--
		s.x.shelf.announce() // it may make room
		s.x.shelf.mu.Unlock()
	}
}

// pick gives the first frame on the shelf that t lacks, and from where.
func (s *shelf) pick(t *taker) (int, *box, int64) {
	for _, i := range s.order {
		f := &s.frames[i]
		if f.box == nil || !t.lacks(i) || f.state == lacking {
			continue
		}
		offset := t.partial[i]
		if offset < 0 || offset >= int64(len(f.box.data)) {
			offset = 0
		}
		f.box.refs++
		return i, f.box, offset
	}
	return 0, nil, 0
}

// other reports whether there is something for t besides a frame that broke off.
func (s *shelf) other(t *taker) bool {
	_, b, _ := s.pick(t)
	if b != nil {
		b.refs--
	}
	return b != nil
}

// exhausted reports whether nothing that t lacks will ever be here.
func (s *shelf) exhausted(t *taker) bool { return s.lacking == 0 && len(t.unjudged) == 0 }

// news gives the records that are due: verdicts, and which frames won't come if
// that has changed.
func (s *sender) news() []byte {
	shelf, t := s.x.shelf, s.taker
	out := t.news
	t.news = nil
	kept := t.unjudged[:0]
	for _, i := range t.unjudged {
		if st := shelf.frames[i].state; st == good || st == gone {
			out = append(out, record(recGood, i)...)
		} else {
			kept = append(kept, i)
		}
	}
	t.unjudged = kept
	if s.never != nil && s.drops == shelf.drops {
		return out
	}
	never := bitmapOf(len(shelf.frames), func(i int) bool {
		return t.lacks(i) && shelf.frames[i].state == gone && shelf.m.Frames[i].Length > 0
	})
	if !bytes.Equal(never, s.never) {
		out = append(append(out, record(recNever, len(never))...), never...)
	}
	s.never, s.drops = never, shelf.drops
	return out
}

// track lets Run close the connection.
func (x *Exchange) track(c io.Closer) (forget func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.conns[c] = true
	select {
	case <-x.closing:
		c.Close() // too late for Run to see it
	default:
	}
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.conns, c)
	}
}
