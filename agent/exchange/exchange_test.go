package exchange

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"refurb/agent/wire"
)

func TestAlone(t *testing.T) {
	for _, streams := range []int{1, 4} {
		t.Run(fmt.Sprint(streams), func(t *testing.T) {
			p := paint(t, 24, false)
			h := newHall(t, p)
			last := len(p.m.Frames) - 1
			c := h.join("a", func(c *Config) { c.Share, c.Streams, c.First = nil, streams, []int{0, last, last - 2} })
			h.all(c)
			if p.sent.Load() != int64(len(p.frames)) || c.Stats().Fetched != p.sent.Load() {
				t.Errorf("the appliance sent %d bytes, %d arrived, the image has %d", p.sent.Load(), c.Stats().Fetched, len(p.frames))
			}
			if streams == 1 && (c.got[0] != 0 || c.got[1] != last || c.got[2] != last-2 || c.got[3] != 1) {
				t.Errorf("order %v", c.got)
			}
			c.stop()
			if err := <-c.ran; err != nil {
				t.Error(err)
			}
		})
	}
}

// Sources broke off in the middle of frames; the appliance gives the rest of
// them, each from its byte on.
func TestStartsAreHere(t *testing.T) {
	t.Parallel()
	p := paint(t, 24, false)
	h := newHall(t, p)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &pc{id: "a", Exchange: New(Config{Manifest: p.m, URL: h.url, Listener: l})}
	here := 0
	for _, i := range []int{0, 1, 5, 8, 9} {
		b, err := c.shelf.begin(t.Context(), i, 0, "gone")
		if err != nil {
			t.Fatal(err)
		}
		c.shelf.grow(b, copy(b.data[:1000*(i+1)], p.bytes(i)))
		c.shelf.end(i, b)
		here += b.n
	}
	go c.Run(t.Context())
	h.all(c)
	if s := c.Stats(); s.Retries > 0 || s.Fetched != int64(len(p.frames)-here) {
		t.Errorf("%+v for %d bytes, of which %d were here", s, len(p.frames), here)
	}
}

// A chain of PCs: the appliance sends each frame once.
func TestChain(t *testing.T) {
	t.Parallel()
	p := paint(t, 24, false)
	h := newHall(t, p)
	var pcs []*pc
	for i := range 5 {
		c := h.join(fmt.Sprint(i), func(c *Config) { c.First = []int{0, 23} })
		if i == 0 {
			h.order(c.id, wire.Order{Depot: true})
		} else {
			h.order(c.id, wire.Order{Sources: []wire.Source{pcs[i-1].source()}})
		}
		pcs = append(pcs, c)
	}
	h.all(pcs...)
	if p.sent.Load() != int64(len(p.frames)) {
		t.Errorf("the appliance sent %d bytes, the image has %d", p.sent.Load(), len(p.frames))
	}
	for _, c := range pcs[1:] {
		if s := c.Stats(); s.FromPeers != int64(len(p.frames)) || s.Fetched != s.FromPeers {
			t.Errorf("%s: %+v", c.id, s)
		}
	}
	// It stays while it is asked to.
	h.order("0", wire.Order{Depot: true, Stay: true})
	left := make(chan struct{})
	go func() { pcs[0].Linger(t.Context(), time.Minute); close(left) }()
	for !func() bool { s, _ := h.said("0"); return s.Done }() {
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case <-left:
		t.Error("left although others profit")
	default:
	}
	h.order("0", wire.Order{Depot: true})
	<-left
}

// Two stripes from two sources.
func TestStripes(t *testing.T) {
	t.Parallel()
	p := paint(t, 24, false)
	h := newHall(t, p)
	a, b := h.join("a", nil), h.join("b", nil)
	h.order("a", wire.Order{Depot: true})
	h.order("b", wire.Order{Sources: []wire.Source{a.source()}})
	c := h.join("c", nil)
	h.order("c", wire.Order{Sources: []wire.Source{a.source(), b.source()}})
	h.all(a, b, c)
	if p.sent.Load() != int64(len(p.frames)) {
		t.Errorf("the appliance sent %d bytes, the image has %d", p.sent.Load(), len(p.frames))
	}
}

// A source dies in the middle; what it left half done is taken up by the next
// one, at the byte.
func TestSourceDies(t *testing.T) {
	t.Parallel()
	p := paint(t, 40, false)
	p.wrap = throttled(4 << 20)
	h := newHall(t, p)
	a, b, c := h.join("a", nil), h.join("b", nil), h.join("c", nil)
	h.order("a", wire.Order{Depot: true})
	h.order("b", wire.Order{Sources: []wire.Source{a.source()}})
	h.order("c", wire.Order{Sources: []wire.Source{b.source()}})
	go func() {
		for b.shelf.left() > 15 {
			time.Sleep(5 * time.Millisecond)
		}
		b.stop()
		for {
			if _, trouble := h.said("c"); len(trouble) > 0 {
				if trouble[0].Source != "b" {
					t.Errorf("%+v", trouble)
				}
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		h.order("c", wire.Order{Sources: []wire.Source{a.source()}})
	}()
	go b.work(t.Context(), 0)
	h.all(a, c)
	if p.sent.Load() != int64(len(p.frames)) {
		t.Errorf("the appliance sent %d bytes, the image has %d", p.sent.Load(), len(p.frames))
	}
	if got, most := c.Stats().Fetched, int64(len(p.frames)); got != most {
		t.Errorf("%d bytes fetched for %d", got, most)
	}
}

func (s *shelf) left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lacking
}

// throttled sends so many bytes a second.
func throttled(rate int) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(&slow{w, rate}, r) })
	}
}

type slow struct {
	http.ResponseWriter
	rate int
}

func (s *slow) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		k := min(len(b), 32<<10)
		time.Sleep(time.Duration(k) * time.Second / time.Duration(s.rate))
		k, err = s.ResponseWriter.Write(b[:k])
		s.ResponseWriter.(http.Flusher).Flush()
		n, b = n+k, b[k:]
	}
	return n, err
}

// A late joiner gets from its source what that still has; the rest when the
// appliance lets it.
func TestLate(t *testing.T) {
	t.Parallel()
	p := paint(t, 24, true)
	h := newHall(t, p)
	a := h.join("a", func(c *Config) { c.Memory = minMemory; c.First = []int{0, 23} })
	h.order("a", wire.Order{Depot: true})
	h.all(a)
	b := h.join("b", func(c *Config) { c.First = []int{0, 23} })
	h.order("b", wire.Order{Sources: []wire.Source{a.source()}})
	done := make(chan struct{})
	go func() { defer close(done); h.all(b) }()
	for {
		if s, _ := h.said("b"); s.Have > 0 && s.Missing > 0 && s.Have+s.Missing == s.Frames {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if b.Stats().FromPeers == 0 || p.sent.Load() != int64(len(p.frames)) {
		t.Errorf("%+v, the appliance sent %d of %d", b.Stats(), p.sent.Load(), len(p.frames))
	}
	h.order("b", wire.Order{Sources: []wire.Source{a.source()}, Depot: true})
	<-done
	if s := b.Stats(); s.Fetched != int64(len(p.frames)) {
		t.Errorf("%d bytes fetched, the image has %d", s.Fetched, len(p.frames))
	}
}

// Whoever damages bytes is named, and only that one.
func TestCorruptor(t *testing.T) {
	t.Parallel()
	p := paint(t, 24, false)
	h := newHall(t, p)
	a := h.join("a", nil)
	h.order("a", wire.Order{Depot: true})
	bad := corruptor(t, a.url)
	b := h.join("b", nil)
	h.order("b", wire.Order{Sources: []wire.Source{{ID: "bad", URL: bad, Key: "key of a"}}})
	c := h.join("c", nil)
	h.order("c", wire.Order{Sources: []wire.Source{b.source()}})
	go func() {
		for {
			_, trouble := h.said("b")
			for _, x := range trouble {
				if x.Kind == wire.TroubleCorrupt && x.Source == "bad" {
					h.order("b", wire.Order{Sources: []wire.Source{a.source()}})
					return
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	h.all(a, b, c)
	_, trouble := h.said("c")
	for _, x := range trouble {
		if x.Kind == wire.TroubleCorrupt {
			t.Errorf("c complained of b: %+v", trouble)
		}
	}
	if p.sent.Load() != int64(len(p.frames)) {
		t.Errorf("the appliance sent %d bytes, the image has %d", p.sent.Load(), len(p.frames))
	}
}

// corruptor passes on what the PC at url serves, with one bit wrong a megabyte
// in.
func corruptor(t *testing.T, url string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequestWithContext(r.Context(), r.Method, url+r.URL.Path, r.Body)
		req.Header = r.Header
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		buf := make([]byte, 64<<10)
		for at := 0; ; {
			n, err := resp.Body.Read(buf)
			if from := 1 << 20; n > 2000 && at < from && at+n >= from {
				buf[n-700] ^= 16
			}
			at += n
			w.Write(buf[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// A slow successor that may be told that something is gone doesn't hold its
// source up; one that may not does, and loses nothing.
func TestMemoryIsBounded(t *testing.T) {
	for _, patient := range []bool{true, false} {
		t.Run(fmt.Sprint("patient ", patient), func(t *testing.T) {
			p := paint(t, 44, true) // more than two memories and what a kernel may keep of a connection
			h := newHall(t, p)
			a := h.join("a", func(c *Config) { c.Memory = minMemory })
			b := h.join("b", func(c *Config) { c.Memory = minMemory })
			src := a.source()
			src.Patient = patient
			h.order("b", wire.Order{Sources: []wire.Source{src}})
			for !a.taken() {
				h.order("a", wire.Order{}) // b finds a only when a has a key
				time.Sleep(10 * time.Millisecond)
			}
			h.order("a", wire.Order{Depot: true})
			adone, bdone := make(chan error, 1), make(chan error, 1)
			go func() { adone <- a.work(t.Context(), 0) }()
			if patient {
				if err := <-adone; err != nil {
					t.Fatal(err)
				}
				h.order("b", wire.Order{Sources: []wire.Source{src}, Depot: true})
			} else {
				time.Sleep(500 * time.Millisecond)
				if a.shelf.left() == 0 {
					t.Error("it didn't wait for its successor")
				}
			}
			go func() { bdone <- b.work(t.Context(), time.Millisecond) }()
			if err := <-bdone; err != nil {
				t.Fatal(err)
			}
			b.complete(t)
			a.shelf.mu.Lock()
			defer a.shelf.mu.Unlock()
			if a.shelf.used > minMemory {
				t.Errorf("%d bytes held", a.shelf.used)
			}
			if sent := p.sent.Load(); !patient && sent != int64(len(p.frames)) {
				t.Errorf("the appliance sent %d bytes, the image has %d", sent, len(p.frames))
			}
		})
	}
}

func (x *Exchange) taken() bool {
	x.shelf.mu.Lock()
	defer x.shelf.mu.Unlock()
	return len(x.shelf.takers) > 0
}

// Strangers, and questions that make no sense, are refused.
func TestRefusals(t *testing.T) {
	t.Parallel()
	p := paint(t, 8, false)
	h := newHall(t, p)
	a := h.join("a", nil)
	h.order("a", wire.Order{})
	for a.Stats(); ; time.Sleep(5 * time.Millisecond) {
		if s, _ := h.said("a"); s.Serial > 0 {
			break
		}
		a.poke()
	}
	root, empty := p.m.Root.String(), `"AA=="`
	for _, c := range []struct {
		name, key, body string
		code            int
	}{
		{"no key", "", "{}", 403},
		{"another's key", "key of b", "{}", 403},
		{"no JSON", "key of a", "x", 400},
		{"another image", "key of a", `{"root":"00","stripes":1,"have":` + empty + `}`, 400},
		{"no stripes", "key of a", `{"root":"` + root + `","have":` + empty + `}`, 400},
		{"stripe out of bounds", "key of a", `{"root":"` + root + `","stripe":-1,"stripes":1,"have":` + empty + `}`, 400},
		{"short bitmap", "key of a", `{"root":"` + root + `","stripes":1,"have":""}`, 400},
		{"endless", "key of a", `{"root":"` + string(bytes.Repeat([]byte{'a'}, maxAsk)) + `"}`, 400},
	} {
		req, _ := http.NewRequest("POST", a.url+wire.PathPeer, bytes.NewReader([]byte(c.body)))
		req.Header.Set("Authorization", "Bearer "+c.key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.code {
			t.Errorf("%s: %s", c.name, resp.Status)
		}
	}
}

// A frame that is damaged in the appliance's own file ends the job; one that is
// damaged on its way doesn't.
func TestDamage(t *testing.T) {
	t.Parallel()
	for _, times := range []int64{2, 100} {
		p := paint(t, 8, false)
		var n atomic.Int64
		p.wrap = func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1) <= times {
					w = &spoiler{w}
				}
				h.ServeHTTP(w, r)
			})
		}
		h := newHall(t, p)
		c := h.join("a", func(c *Config) { c.Share = nil })
		err := c.work(t.Context(), 0)
		if times == 2 && err != nil {
			t.Error(err)
		}
		var f *Failure
		if times > 2 && (!errors.As(err, &f) || f.Next == "") {
			t.Errorf("%v", err)
		}
	}
}

type spoiler struct{ http.ResponseWriter }

func (s *spoiler) Write(b []byte) (int, error) {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return s.ResponseWriter.Write(b)
}

// Two PCs that feed each other a stripe each, both with memory full of what the
// other lacks, don't wait for ever.
func TestTwoTreesDontJam(t *testing.T) {
	t.Parallel()
	p := paint(t, 24, true)
	h := newHall(t, p)
	small := func(c *Config) { c.Memory = minMemory }
	a, b := h.join("a", small), h.join("b", small)
	root := h.join("root", func(c *Config) { c.Memory = 256 << 20 })
	h.order("root", wire.Order{Depot: true})
	h.order("a", wire.Order{Sources: []wire.Source{root.source(), b.source()}})
	h.order("b", wire.Order{Sources: []wire.Source{a.source(), root.source()}})
	go func() { // what was dropped, the appliance has
		for t.Context().Err() == nil {
			for _, id := range []string{"a", "b"} {
				if s, _ := h.said(id); s.Missing > 0 && s.Serial > 0 {
					h.mu.Lock()
					o := h.orders[id]
					o.Depot = true
					h.orders[id] = o
					h.mu.Unlock()
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	h.all(root, a, b)
}
