// Package exchange gets an image's frames to a PC, from the appliance and from
// other PCs, and passes them on.
//
// Each PC has at most one source per stripe, another PC that the appliance
// names. A source sends everything that the PC lacks, in the order in which it
// arrives at the source itself and byte by byte as it does, so that a chain of
// PCs runs at the speed of its links and not at that divided by its length.
// What no source promises comes from the appliance, when the appliance says so.
// Bytes are passed on unchecked, and whoever receives a frame checks it before
// it is written or counted.
package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"refurb/agent/wire"
	"refurb/images"
)

// Config says what to get and from where. Zero values mean the defaults.
type Config struct {
	Manifest *images.Manifest
	URL      string // of the frames on the appliance
	Memory   int64  // bytes of compressed frames that are held at once; 0: 64 MiB, at least 32
	Streams  int    // connections to the appliance; 0: 1
	First    []int  // frames that are wanted before all others, and are kept
	Found    []bool // by frame: on the disk already; nil: none

	// Share tells the appliance what this PC has and gets its order. nil: no other
	// PCs, everything comes from the appliance.
	Share    func(context.Context, wire.Share) (wire.Order, error)
	Job      string
	Listener net.Listener // of TCP, where other PCs are served; nil: they aren't
	Mbit     int          // speed of the card in use; 0: unknown

	Stall    time.Duration // a silent connection to the appliance is given up after this; 0: 20 s
	Patience time.Duration // so is the job, when nothing comes for so long; 0: 10 min
	Log      *slog.Logger  // nil: none

	// Dial connects to the appliance; nil: as the kernel does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	minMemory  = 32 << 20
	maxStreams = 16
	maxStripes = 2
	maxConns   = 16 // of other PCs, served or not
	maxBad     = 3  // times that the appliance's frame may be damaged on its way
)

const lookAtCable = "look at the network cable, the switch and the appliance, then start this PC again"

// Failure is why frames can't be had, or an image not written, and what a
// volunteer does next.
type Failure struct {
	Cause error
	Next  string
}

func (f *Failure) Error() string { return f.Cause.Error() }
func (f *Failure) Unwrap() error { return f.Cause }

func fail(next, format string, a ...any) error {
	return &Failure{Cause: fmt.Errorf(format, a...), Next: next}
}

// Exchange gets one image. Its methods may be called from several goroutines.
type Exchange struct {
	cfg   Config
	log   *slog.Logger
	shelf *shelf
	depot *depot
	peers *http.Client

	fetched, fromPeers, sent, retries atomic.Int64
	streams                           atomic.Int64  // from other PCs so far
	closing                           chan struct{} // closed when Run ends
	poked                             chan struct{}
	failed                            chan struct{} // closed when err is set
	leave                             chan struct{} // closed when nobody profits from this PC any more

	mu      sync.Mutex
	err     error
	order   wire.Order
	sources []*source
	claimed map[int]bool // frames that a connection to the appliance is about to bring
	bad     map[int]int  // how often the appliance's frame was bad
	trouble []wire.Trouble
	claims  []byte
	done    bool // everything is on the disk
	conns   map[io.Closer]bool

	told         bool               // there was an order
	switching    bool               // from one order to the next
	leaveToFetch context.Context    // ends when the appliance withdraws its leave
	withdraw     context.CancelFunc // nil: there is no leave
	goodbye      sync.Once
}

// New makes an exchange. It does nothing before Run.
func New(cfg Config) *Exchange {
	if cfg.Memory <= 0 {
		cfg.Memory = 64 << 20
	}
	cfg.Memory = max(cfg.Memory, minMemory)
	cfg.Streams = min(max(cfg.Streams, 1), maxStreams)
	if cfg.Stall <= 0 {
		cfg.Stall = 20 * time.Second
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 10 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.First = slices.DeleteFunc(slices.Clone(cfg.First), func(i int) bool { return i < 0 || i >= len(cfg.Manifest.Frames) })
	x := &Exchange{
		cfg: cfg, log: cfg.Log, shelf: newShelf(cfg.Manifest, cfg.Memory, cfg.First, cfg.Found),
		closing: make(chan struct{}), poked: make(chan struct{}, 1), failed: make(chan struct{}), leave: make(chan struct{}),
		claimed: map[int]bool{}, bad: map[int]int{}, conns: map[io.Closer]bool{},
		peers: peerClient(),
	}
	x.depot = newDepot(x)
	x.order.Depot = cfg.Share == nil
	return x
}

// Run gets and serves frames until ctx ends. The error is a *Failure that says
// why frames can't be had; Next gives it, too. Run is called once.
func (x *Exchange) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var parts sync.WaitGroup
	if x.cfg.Listener != nil {
		// Strangers have no key, and can't keep others out for long.
		server := &http.Server{Handler: x.handler(), ReadHeaderTimeout: time.Second, ReadTimeout: 3 * time.Second, IdleTimeout: time.Second, MaxHeaderBytes: 8 << 10,
			ErrorLog: slog.NewLogLogger(x.log.Handler(), slog.LevelDebug)}
		parts.Go(func() {
			err := server.Serve(&door{x.cfg.Listener, make(chan struct{}, maxConns), x.closing})
			if ctx.Err() == nil {
				x.log.Warn("other PCs can't be served", "err", err) // this one goes on
			}
		})
		defer server.Close()
	}
	if x.cfg.Share != nil {
		parts.Go(func() { x.follows(ctx) })
	}
	for range x.cfg.Streams {
		parts.Go(func() { x.fetches(ctx) })
	}
	select {
	case <-ctx.Done():
	case <-x.failed:
	}
	cancel()
	close(x.closing)
	x.mu.Lock()
	for c := range x.conns {
		c.Close()
	}
	err := x.err
	x.mu.Unlock()
	if x.cfg.Listener != nil {
		x.cfg.Listener.Close()
	}
	parts.Wait()
	x.depot.client.CloseIdleConnections()
	return err
}

// Frame is one whole compressed frame. Data is good until Checked.
type Frame struct {
	Index int
	Data  []byte
}

// Next waits for a frame that is to be decoded and checked: the First ones
// first, the others about in ascending order. io.EOF: every frame was found
// good.
func (x *Exchange) Next(ctx context.Context) (Frame, error) {
	i, b, err := x.shelf.next(ctx, x.failed)
	if errors.Is(err, errFailed) {
		x.mu.Lock()
		defer x.mu.Unlock()
		return Frame{}, x.err
	}
	if err != nil {
		return Frame{}, err
	}
	return Frame{i, b.data}, nil
}

// Checked is what decoding f and hashing it gave. A bad frame is fetched again
// and handed out again.
func (x *Exchange) Checked(f Frame, good bool) {
	from := x.shelf.checked(f.Index, good)
	if good {
		return
	}
	x.retries.Add(1)
	x.mu.Lock()
	var guilty *source
	for _, s := range x.sources {
		if s.brings(from) {
			guilty = s
		}
	}
	if from == "" {
		x.bad[f.Index]++
	}
	times := x.bad[f.Index]
	x.mu.Unlock()
	switch {
	case guilty != nil:
		guilty.blame(f.Index)
	case times > maxBad:
		x.fail(fail("if other PCs get this image, test the memory of this one; otherwise "+reimport,
			"the image on the appliance is damaged, or this PC's memory: frame %d never matches its hash", f.Index))
	}
}

// Stored says that a frame is on the disk, so that its memory may be used
// again.
func (x *Exchange) Stored(index int) { x.shelf.written(index) }

// Claim tells the appliance, with the next word to it, which frames are written
// and flushed: bit i%8 of byte i/8 for frame i.
func (x *Exchange) Claim(bitmap []byte) {
	if len(bitmap) > wire.MaxClaims {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.claims = slices.Clone(bitmap)
}

// Stats are counted from the start.
type Stats struct {
	Fetched   int64  // compressed bytes received
	FromPeers int64  // of these, from other PCs
	Sent      int64  // bytes passed on
	Retries   int    // requests and frames that had to be repeated
	Takers    int    // PCs that are being served
	Why       string // what it waits for; empty: it doesn't
}

func (x *Exchange) Stats() Stats {
	x.mu.Lock()
	why := x.order.Why
	x.mu.Unlock()
	x.shelf.mu.Lock()
	takers := len(x.shelf.takers)
	x.shelf.mu.Unlock()
	return Stats{x.fetched.Load(), x.fromPeers.Load(), x.sent.Load(), int(x.retries.Load()), takers, why}
}

// Linger is for a PC that is done: it goes on serving others while the appliance
// says that they profit from it, at most so long.
func (x *Exchange) Linger(ctx context.Context, atMost time.Duration) {
	if x.cfg.Share == nil || x.cfg.Listener == nil {
		return
	}
	x.mu.Lock()
	x.done = true
	x.mu.Unlock()
	x.poke()
	select {
	case <-x.leave:
	case <-x.closing:
	case <-x.failed:
	case <-ctx.Done():
	case <-time.After(atMost):
	}
}

// fail ends Run.
func (x *Exchange) fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		x.err = err
		close(x.failed)
	}
}

func (x *Exchange) count(n int, peer bool) {
	x.fetched.Add(int64(n))
	if peer {
		x.fromPeers.Add(int64(n))
	}
}
