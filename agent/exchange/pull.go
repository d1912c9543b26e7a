package exchange

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"refurb/agent/wire"
)

const (
	silence    = time.Second            // five signs of life that didn't come
	connecting = 2 * time.Second        // to be connected and answered
	pauseRead  = 4 * time.Millisecond   // what trickles in is gathered, not passed on byte by byte
	newcomer   = time.Second            // that a source may take to learn of this PC
	pauseTry   = 500 * time.Millisecond // before the same source is asked again
)

var (
	errSilent = errors.New("it fell silent")
	errNotYet = errors.New("it doesn't serve this PC")
	errWrong  = errors.New("it sends wrong bytes")
)

// source is one PC from which frames of one stripe come.
type source struct {
	x       *Exchange
	wire    wire.Source
	stripe  int
	stripes int
	cancel  context.CancelCauseFunc
	done    chan struct{}

	mu       sync.Mutex
	promises bool         // it is connected, or we still hope so
	not      []byte       // bitmap: what it will never send
	said     map[int]bool // what it found itself of frames that it sent
	spoilt   map[int]bool // its frames that were bad here, unless it sends them again
	times    int          // how many that were in all

	// Of the stream that is being read.
	at   int
	box  *box
	life *time.Timer
}

// follow takes frames from w until ctx ends.
func (x *Exchange) follow(ctx context.Context, w wire.Source, stripe, stripes int) *source {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &source{x: x, wire: w, stripe: stripe, stripes: stripes, cancel: cancel, done: make(chan struct{}), promises: true, said: map[int]bool{}, spoilt: map[int]bool{}}
	go func() {
		defer close(s.done)
		for since := time.Now(); ctx.Err() == nil; {
			err := s.pull(ctx)
			// Both sides' orders are on their way at the same time.
			if errors.Is(err, errNotYet) && time.Since(since) < newcomer {
				select {
				case <-time.After(newcomer / 10):
				case <-ctx.Done():
				}
				continue
			}
			s.set(false)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				kind := wire.TroubleRefused
				if errors.Is(err, errSilent) {
					kind = wire.TroubleSilent
				}
				x.log.Info("a peer gives nothing", "peer", w.URL, "err", err)
				x.retries.Add(1)
				x.complain(wire.Trouble{Source: w.ID, Kind: kind})
			} else {
				x.poke() // it has no more than it has sent: somebody else must go on
			}
			select {
			case <-time.After(pauseTry):
			case <-ctx.Done():
			}
		}
	}()
	return s
}

func (s *source) stop() {
	s.cancel(context.Canceled)
	<-s.done
}

// set says whether frames may be expected from this source.
func (s *source) set(promises bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.promises = promises
}

// promised reports whether frame i may be expected from this source.
func (s *source) promised(i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.promises && i%s.stripes == s.stripe && !bit(s.not, i) && !s.spoilt[i]
}

// pull asks once and reads until the stream ends. nil: the source has sent all
// that it has.
func (s *source) pull(ctx context.Context) error {
	x := s.x
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body, err := json.Marshal(ask{
		Root: x.cfg.Manifest.Root.String(), Stripe: s.stripe, Stripes: s.stripes,
		Have: x.shelf.has(), Partial: x.shelf.partial(s.stripe, s.stripes), Patient: s.wire.Patient,
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.wire.URL+wire.PathPeer, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.wire.Key)
	s.life = time.AfterFunc(connecting, func() { cancel(errSilent) })
	defer s.life.Stop()
	s.set(true)
	resp, err := x.peers.Do(req)
	if err != nil {
		return because(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusServiceUnavailable {
		return fmt.Errorf("%w: %s", errNotYet, resp.Status)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %s", resp.Status)
	}
	s.box = nil
	err = receive(bufio.NewReaderSize(resp.Body, bytesRead), x.cfg.Manifest, &inlet{s, ctx})
	if s.box != nil {
		x.shelf.end(s.at, s.box)
	}
	return because(ctx, err)
}

// because gives the reason for which ctx ended, or err.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// inlet puts what a source sends on the shelf.
type inlet struct {
	*source
	ctx context.Context
}

func (s *inlet) frame(i int, offset int64) (err error) {
	// Memory may be full for a while; that is no silence of the source.
	s.life.Stop()
	defer s.life.Reset(silence)
	s.at = i
	s.box = nil
	if i%s.stripes == s.stripe {
		s.box, err = s.x.shelf.begin(s.ctx, i, offset, s.wire.ID)
	}
	return err
}

func (s *inlet) room() []byte {
	if s.box == nil {
		return nil
	}
	return s.box.data[s.box.n:]
}

func (s *inlet) arrived(n int) {
	s.life.Reset(silence)
	if s.box == nil || n == 0 {
		return
	}
	s.x.count(n, true)
	s.x.shelf.grow(s.box, n)
	switch {
	case s.box.n == len(s.box.data):
		s.x.shelf.end(s.at, s.box)
		s.box = nil
	case n < bytesRead/2:
		time.Sleep(pauseRead)
	}
}

func (s *inlet) abort() {
	s.life.Reset(silence)
	if s.box != nil {
		s.x.shelf.end(s.at, s.box)
		s.box = nil
	}
}

func (s *inlet) never(bitmap []byte) {
	s.life.Reset(silence)
	s.mu.Lock()
	s.not = bitmap
	s.mu.Unlock()
	s.x.poke()
}

func (s *inlet) alive(int) { s.life.Reset(silence) }

// verdict is what the source itself found of a frame that it has sent before.
func (s *inlet) verdict(i int, ok bool) {
	s.life.Reset(silence)
	s.mu.Lock()
	s.said[i] = ok
	guilty := ok && s.spoilt[i]
	if !ok {
		delete(s.spoilt, i) // it comes again
	}
	s.mu.Unlock()
	if guilty {
		s.corrupt(i)
	}
}

const (
	toOwnUp   = 2 * time.Second // for a source to say that a frame was bad
	maxSpoilt = 8               // bad frames, whatever it says of them
)

// blame is told that frame i, which came from this source, was bad. A source
// that owns up to it only passed on what it got; one that calls it good, says
// nothing, or does so again and again, is named.
func (s *source) blame(i int) {
	s.mu.Lock()
	said, judged := s.said[i]
	if !judged || said {
		s.spoilt[i] = true
	}
	s.times++
	guilty := said || s.times >= maxSpoilt
	s.mu.Unlock()
	switch {
	case guilty:
		s.corrupt(i)
	case !judged:
		time.AfterFunc(toOwnUp, func() {
			s.mu.Lock()
			still := s.spoilt[i]
			s.mu.Unlock()
			select {
			case <-s.done: // whoever was cut off can't own up
			default:
				if still {
					s.corrupt(i)
				}
			}
		})
	}
}

func (s *source) corrupt(i int) {
	s.x.log.Warn("a peer sends wrong bytes", "peer", s.wire.URL, "frame", i)
	s.x.complain(wire.Trouble{Source: s.wire.ID, Kind: wire.TroubleCorrupt, Frame: i})
	s.cancel(errWrong)
}

// peerClient speaks to other PCs: one request a connection, no redirects, no
// proxies.
func peerClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:        (&net.Dialer{Timeout: connecting, KeepAlive: 15 * time.Second}).DialContext,
			DisableKeepAlives:  true,
			DisableCompression: true,
			ReadBufferSize:     bytesRead,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
