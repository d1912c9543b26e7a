package exchange

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/images"
)

// picture is an image made for a test, with what the appliance serves of it.
type picture struct {
	m      *images.Manifest
	frames []byte
	sent   atomic.Int64 // bytes that the appliance gave out
	wrap   func(http.Handler) http.Handler
}

// paint makes n frames, of which one in four is zero. Fat ones don't compress.
func paint(t testing.TB, n int, fat bool) *picture {
	t.Helper()
	painting.Lock()
	defer painting.Unlock()
	if p := painted[[2]any{n, fat}]; p != nil {
		return &picture{m: p.m, frames: p.frames}
	}
	r := rand.New(rand.NewPCG(uint64(n), 1))
	enc, err := images.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	p := &picture{m: &images.Manifest{Name: "test", Created: time.Unix(1e9, 0), Bytes: int64(n) * images.FrameSize, Block: 512, Boots: []string{"uefi"}}}
	for i := range n {
		raw := make([]byte, images.FrameSize)
		if i%4 != 2 {
			random := raw[:50_000+r.IntN(400_000)]
			if fat {
				random = raw
			}
			rand.NewChaCha8([32]byte{byte(i)}).Read(random)
		}
		at := int64(len(p.frames))
		var h images.Hash
		p.frames, h = enc.Encode(raw, p.frames)
		f := images.Frame{Hash: h, Length: int64(len(p.frames)) - at}
		if f.Length > 0 {
			f.Offset = at
		}
		p.m.Frames = append(p.m.Frames, f)
	}
	_, key, _ := ed25519.GenerateKey(nil)
	if _, err := images.Sign(p.m, key); err != nil {
		t.Fatal(err)
	}
	painted[[2]any{n, fat}] = &picture{m: p.m, frames: p.frames}
	return p
}

var (
	painting sync.Mutex
	painted  = map[[2]any]*picture{}
)

// counted counts a body's bytes.
type counted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n.Add(int64(n))
	return n, err
}

func (p *picture) serve(t testing.TB) string {
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(counted{w, &p.sent}, r, "frames", time.Time{}, bytes.NewReader(p.frames))
	})
	if p.wrap != nil {
		h = p.wrap(h)
	}
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// pc is a PC of a test.
type pc struct {
	*Exchange
	id   string
	url  string
	stop context.CancelFunc
	ran  chan error
	got  []int // frames in the order of Next
}

// hall is a workshop whose orders the test makes up.
type hall struct {
	t   *testing.T
	p   *picture
	url string

	mu       sync.Mutex
	orders   map[string]wire.Order
	shares   map[string]wire.Share
	troubles map[string][]wire.Trouble
}

func newHall(t *testing.T, p *picture) *hall {
	return &hall{t: t, p: p, url: p.serve(t), orders: map[string]wire.Order{}, shares: map[string]wire.Share{}, troubles: map[string][]wire.Trouble{}}
}

func (h *hall) order(id string, o wire.Order) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o.Key = "key of " + id
	o.Serial = h.orders[id].Serial + 1
	h.orders[id] = o
}

func (h *hall) share(id string) func(context.Context, wire.Share) (wire.Order, error) {
	return func(_ context.Context, s wire.Share) (wire.Order, error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.shares[id] = s
		h.troubles[id] = append(h.troubles[id], s.Trouble...)
		o, ok := h.orders[id]
		if !ok {
			return o, errors.New("not yet")
		}
		return o, nil
	}
}

func (h *hall) said(id string) (wire.Share, []wire.Trouble) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.shares[id], h.troubles[id]
}

// join starts a PC.
func (h *hall) join(id string, change func(*Config)) *pc {
	h.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	cfg := Config{Manifest: h.p.m, URL: h.url, Share: h.share(id), Job: id, Listener: l, Stall: 8 * time.Second, Patience: 40 * time.Second}
	if change != nil {
		change(&cfg)
	}
	c := &pc{Exchange: New(cfg), id: id, url: "http://" + l.Addr().String(), ran: make(chan error, 1)}
	ctx, cancel := context.WithCancel(h.t.Context())
	c.stop = cancel
	go func() { c.ran <- c.Run(ctx) }()
	h.t.Cleanup(func() { cancel(); l.Close() })
	return c
}

func (c *pc) source() wire.Source { return wire.Source{ID: c.id, URL: c.url, Key: "key of " + c.id} }

// work takes, checks and stores everything; pause is how slow the disk is.
func (c *pc) work(ctx context.Context, pause time.Duration) error {
	dec, err := images.NewDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	raw := make([]byte, images.FrameSize)
	for {
		f, err := c.Next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = dec.Decode(c.cfg.Manifest, f.Index, f.Data, raw)
		c.Checked(f, err == nil)
		if err == nil {
			c.got = append(c.got, f.Index)
			time.Sleep(pause)
			c.Stored(f.Index)
		}
	}
}

// all has every PC work and fails the test if one doesn't get everything.
func (h *hall) all(pcs ...*pc) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for _, c := range pcs {
		wg.Go(func() {
			if err := c.work(ctx, 0); err != nil {
				h.t.Errorf("%s: %v", c.id, err)
			} else {
				c.complete(h.t)
			}
		})
	}
	wg.Wait()
}

func (c *pc) complete(t *testing.T) {
	t.Helper()
	seen := map[int]bool{}
	for _, i := range c.got {
		if seen[i] {
			t.Errorf("%s: frame %d came twice", c.id, i)
		}
		seen[i] = true
	}
	for i, f := range c.cfg.Manifest.Frames {
		if f.Length > 0 && !seen[i] && (i >= len(c.cfg.Found) || !c.cfg.Found[i]) {
			t.Errorf("%s: frame %d is missing", c.id, i)
		}
	}
}
