package imaging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"refurb/images"
)

// fetcher gets frames of one image by HTTP ranges. Methods may be called from
// several goroutines.
type fetcher struct {
	client   *http.Client
	url      string
	m        *images.Manifest
	meter    *Meter
	stall    time.Duration // a connection that is silent for so long is given up
	patience time.Duration // a stream that gets no byte for so long is given up
}

func newFetcher(j Job, streams int, meter *Meter) *fetcher {
	return &fetcher{
		client: &http.Client{
			Transport: &http.Transport{
				DialContext:           (&net.Dialer{Timeout: j.Stall, KeepAlive: 15 * time.Second}).DialContext,
				MaxConnsPerHost:       streams + writers, // writers fetch again what was damaged on its way
				MaxIdleConnsPerHost:   streams + writers,
				ResponseHeaderTimeout: j.Stall,
				DisableCompression:    true,
				ReadBufferSize:        64 << 10,
			},
			// The plan names the address; whoever redirects is somebody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		url: j.FramesURL, m: j.Manifest, meter: meter, stall: j.Stall, patience: j.Patience,
	}
}

func (f *fetcher) close() { f.client.CloseIdleConnections() }

// fetch gets frames that lie one behind the other in the file, by one request
// as long as nothing breaks, and hands each over as soon as it is whole. A
// broken connection goes on where it stopped. buffer gives room for n bytes.
func (f *fetcher) fetch(ctx context.Context, list []int, buffer func(n int64) ([]byte, error), emit func(i int, b []byte) error) error {
	last := f.m.Frames[list[len(list)-1]]
	end := last.Offset + last.Length
	var body *stream
	defer func() { body.close() }()
	trouble := trouble{patience: f.patience}
	for _, i := range list {
		frame := f.m.Frames[i]
		b, err := buffer(frame.Length)
		if err != nil {
			return err
		}
		for n := 0; n < len(b); {
			var got int
			if body == nil {
				body, err = f.open(ctx, frame.Offset+int64(n), end)
			}
			if err == nil {
				got, err = body.read(b[n:])
				n += got
				f.meter.fetched.Add(int64(got))
			}
			if got > 0 {
				trouble.over()
			}
			if err == nil || n == len(b) {
				continue
			}
			body.close()
			body = nil
			f.meter.retries.Add(1)
			if err := trouble.wait(ctx, err); err != nil {
				return err
			}
		}
		if err := emit(i, b); err != nil {
			return err
		}
	}
	return nil
}

// frame gets one frame into b.
func (f *fetcher) frame(ctx context.Context, i int, b []byte) ([]byte, error) {
	err := f.fetch(ctx, []int{i},
		func(n int64) ([]byte, error) { b = grown(b, n); return b, nil },
		func(int, []byte) error { return nil })
	return b, err
}

// grown gives n bytes, in b's memory if that is large enough.
func grown(b []byte, n int64) []byte {
	if int64(cap(b)) < n {
		return make([]byte, n)
	}
	return b[:n]
}

const reimport = "check the image on the dashboard, or import it again"

// open asks for the bytes from (included) to end (excluded). A *Failure is what
// asking again will hardly cure.
func (f *fetcher) open(ctx context.Context, from, end int64) (*stream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stream{cancel: cancel, ctx: ctx, stall: f.stall}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, end-1))
	resp, err := f.client.Do(req)
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
	s.timer = time.AfterFunc(f.stall, func() { cancel(errStalled) })
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
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if t.times++; t.times == 1 {
		t.since = time.Now()
	}
	if f, ok := errors.AsType[*Failure](err); ok && t.times >= maxRefusals {
		return f
	}
	if silent := time.Since(t.since); silent >= t.patience {
		return fail("look at the network cable, the switch and the appliance, then start this PC again",
			"no byte of the image came for %v: %w", silent.Round(time.Second), err)
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
