package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

const (
	spanFrames = 4       // frames by one request, where there are several connections
	spanBytes  = 8 << 20 // compressed bytes, likewise
)

// depot gets frames from the appliance by HTTP ranges.
type depot struct {
	x      *Exchange
	client *http.Client
}

func newDepot(x *Exchange) *depot {
	dial := x.cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: x.cfg.Stall, KeepAlive: 15 * time.Second}).DialContext
	}
	return &depot{x, &http.Client{
		Transport: &http.Transport{
			DialContext:           dial,
			MaxConnsPerHost:       x.cfg.Streams,
			MaxIdleConnsPerHost:   x.cfg.Streams,
			ResponseHeaderTimeout: x.cfg.Stall,
			DisableCompression:    true,
			ReadBufferSize:        bytesRead,
		},
		// The plan names the address; whoever redirects is somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// fetches gets from the appliance what it is to give, until ctx ends.
func (x *Exchange) fetches(ctx context.Context) {
	trouble := trouble{patience: x.cfg.Patience}
	tick := time.NewTicker(idle)
	defer tick.Stop()
	fetched := false
	for ctx.Err() == nil {
		list, running, release := x.span(ctx)
		if len(list) == 0 {
			if fetched {
				fetched = false
				x.poke() // others may be waiting for their turn
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			continue
		}
		err := x.depot.fetch(running, list, trouble.over)
		withdrawn := running.Err() != nil
		release()
		if errors.Is(err, errFirst) { // it is fetched next, unless a source promises it
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			continue
		}
		fetched = true
		if err == nil || withdrawn {
			continue
		}
		x.retries.Add(1)
		if err := trouble.wait(ctx, err); err != nil && ctx.Err() == nil {
			x.fail(err)
			return
		}
	}
}

const idle = 50 * time.Millisecond // between two looks whether there is something to fetch

// span claims frames to fetch from the appliance. The context ends when the
// appliance's leave is withdrawn.
func (x *Exchange) span(ctx context.Context) (list []int, running context.Context, release func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	maxFrames, maxBytes := 1<<30, int64(1<<60)
	if x.cfg.Streams > 1 {
		maxFrames, maxBytes = spanFrames, spanBytes
	}
	if x.switching || x.cfg.Share != nil && x.order.Serial == 0 && !x.order.Depot {
		return nil, nil, nil // not told anything yet
	}
	taken := func(i int) bool { return x.claimed[i] || x.promised(i) }
	// The first ones may always be fetched: they are few, and without them
	// nothing else can go to the disk.
	list = x.shelf.choose(taken, !x.order.Depot, maxFrames, maxBytes)
	if len(list) == 0 {
		return nil, nil, nil
	}
	if x.order.Depot && x.leaveToFetch != nil {
		ctx = x.leaveToFetch
	}
	running, cancel := context.WithCancel(ctx)
	for _, i := range list {
		x.claimed[i] = true
	}
	return list, running, func() {
		cancel()
		x.mu.Lock()
		defer x.mu.Unlock()
		for _, i := range list {
			delete(x.claimed, i)
		}
	}
}

// promised reports whether another PC will bring frame i. Call it with mu held.
func (x *Exchange) promised(i int) bool {
	for _, s := range x.sources {
		if s.promised(i) {
			return true
		}
	}
	return false
}

// fetch gets frames that lie one behind the other in the file, by one request.
// Of a connection that breaks, what has arrived stays.
func (d *depot) fetch(ctx context.Context, list []int, came func()) error {
	frames := d.x.cfg.Manifest.Frames
	last := frames[list[len(list)-1]]
	end := last.Offset + last.Length
	var body *stream
	defer func() { body.close() }()
	for _, i := range list {
		offset := d.x.shelf.partial(0, 1)[i]
		b, err := d.x.shelf.begin(ctx, i, offset, "")
		if err != nil {
			return err
		}
		if b == nil {
			return nil // somebody else has brought it meanwhile; the rest is claimed anew
		}
		if body != nil && offset > 0 { // the start is here: it isn't what comes next
			body.close()
			body = nil
		}
		if body == nil {
			if body, err = d.open(ctx, frames[i].Offset+offset, end); err != nil {
				d.x.shelf.end(i, b)
				return err
			}
		}
		for b.n < len(b.data) && err == nil {
			var n int
			n, err = body.read(b.data[b.n:min(len(b.data), b.n+bytesRead)])
			if n > 0 {
				came()
				d.x.count(n, false)
				d.x.shelf.grow(b, n)
				if n < bytesRead/2 && b.n < len(b.data) {
					time.Sleep(pauseRead)
				}
			}
		}
		d.x.shelf.end(i, b)
		if b.n < len(b.data) {
			return err
		}
	}
	return nil
}

const reimport = "check the image on the dashboard, or import it again"

// open asks for the bytes from (included) to end (excluded). A *Failure is what
// asking again will hardly cure.
func (d *depot) open(ctx context.Context, from, end int64) (*stream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stream{cancel: cancel, ctx: ctx, stall: d.x.cfg.Stall}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.x.cfg.URL, nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, end-1))
	resp, err := d.client.Do(req)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	s.body = resp.Body
	var a, b, all int64
	n, _ := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &a, &b, &all)
	switch code := resp.StatusCode; {
	case code >= 500:
		err = fmt.Errorf("the appliance answered %s", resp.Status)
	case code == http.StatusRequestedRangeNotSatisfiable, n == 3 && all < end,
		code == http.StatusOK && resp.ContentLength == 0: // Go's server answers so for an empty file
		err = fail(reimport, "the image on the appliance is damaged: its frames end too early")
	case code >= 400:
		err = fail("choose the image for this PC again on the dashboard", "the appliance doesn't give this image away: it answered %s", resp.Status)
	case code != http.StatusPartialContent, n != 3, a != from, b != end-1:
		err = fail("tell the coordinator: the appliance is broken", "the appliance sent another part of the image than was asked for (%s, %.60q)", resp.Status, resp.Header.Get("Content-Range"))
	}
	if err != nil {
		s.close()
		return nil, err
	}
	s.timer = time.AfterFunc(s.stall, func() { cancel(errStalled) })
	s.timer.Stop()
	return s, nil
}

var errStalled = errors.New("the connection fell silent")

// stream is a body that is given up when one read takes too long. Time between
// reads doesn't count: then it is the disk that is slow.
type stream struct {
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

func (s *stream) read(p []byte) (int, error) {
	s.timer.Reset(s.stall)
	n, err := s.body.Read(p)
	s.timer.Stop()
	if err != nil && context.Cause(s.ctx) == errStalled {
		err = errStalled
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (s *stream) close() {
	if s != nil {
		s.cancel(nil)
		s.body.Close()
	}
}

// trouble waits between attempts, longer each time, and loses patience.
type trouble struct {
	patience time.Duration
	since    time.Time
	times    int
}

const maxRefusals = 5 // answers in a row that are a *Failure

func (t *trouble) over() { t.since, t.times = time.Time{}, 0 }

func (t *trouble) wait(ctx context.Context, err error) error {
	if t.times++; t.times == 1 {
		t.since = time.Now()
	}
	if f, ok := errors.AsType[*Failure](err); ok && t.times >= maxRefusals {
		return f
	}
	if silent := time.Since(t.since); silent >= t.patience {
		return fail(lookAtCable, "no byte of the image came for %v: %w", silent.Round(time.Second), err)
	}
	pause := min(100*time.Millisecond<<min(t.times, 6), t.patience/4)
	pause = pause/2 + rand.N(pause/2+1) // so that a room full of PCs doesn't come back at once
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
