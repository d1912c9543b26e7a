package exchange

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"refurb/agent/wire"
)

const (
	silence    = time.Second            // five signs of life that didn't come
	connecting = 2 * time.Second        // to be connected and answered
	pauseRead  = 1 * time.Millisecond   // what trickles in is gathered, not passed on byte by byte
	distrust   = 4 * time.Second        // likewise, when it sent wrong bytes: the appliance needs three to judge
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
	cancel  context.CancelFunc
	done    chan struct{}

	mu       sync.Mutex
	promises bool   // it is connected, or we still hope so
	not      []byte // bitmap: what it will never send
	times    int    // how many of its frames were bad
	// Of the stream that is being read, or was read last.
	name   string       // no other stream has it; empty: cut off
	cut    func(error)  // ends it; nil when it has ended
	passed []byte       // bitmap: what it doesn't send again, unless it says that it was bad
	said   map[int]bool // what it found itself of frames that it sent; once bad, always bad
	spoilt map[int]bool // its frames that were bad here and of which it hasn't said so yet

	// Only for the goroutine that reads.
	at   int
	held time.Time // when memory here had been full for long
	box  *box
	life *time.Timer
}

// follow takes frames from w until ctx ends.
func (x *Exchange) follow(ctx context.Context, w wire.Source, stripe, stripes int) *source {
	ctx, cancel := context.WithCancel(ctx)
	s := &source{x: x, wire: w, stripe: stripe, stripes: stripes, cancel: cancel, done: make(chan struct{}), promises: true}
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
			pause := pauseTry
			switch {
			case err == nil:
				x.poke() // it has no more than it has sent: somebody else must go on
			case errors.Is(err, errWrong):
				pause = distrust // the appliance may think otherwise: then it stays the source
			case time.Since(s.held) < 2*unmoved:
				s.held = time.Time{} // it didn't wait for this PC, which took nothing for long
				x.retries.Add(1)
				x.poke()
			default:
				kind := wire.TroubleRefused
				if errors.Is(err, errSilent) {
					kind = wire.TroubleSilent
				}
				x.log.Info("a peer gives nothing", "peer", w.URL, "err", err)
				x.retries.Add(1)
				x.complain(wire.Trouble{Source: w.ID, Kind: kind})
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}()
	return s
}

func (s *source) stop() {
	s.cancel()
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
	return s.promises && i%s.stripes == s.stripe && !bit(s.not, i) && !bit(s.passed, i)
}

// brings reports whether from is the stream that is being read. Of one that has
// ended nobody is blamed: who was cut off can't own up.
func (s *source) brings(from string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.name != "" && s.name == from
}

// pass notes whether frame i will not be sent again.
func (s *source) pass(i int, passed bool) {
	if s.passed[i/8] &^= 1 << (i % 8); passed {
		s.passed[i/8] |= 1 << (i % 8)
	}
}

// begin forgets what was said in the last stream and gives what is here already.
func (s *source) begin(cut func(error)) (have []byte) {
	have = s.x.shelf.has()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name = fmt.Sprintf("%s %d", s.wire.ID, s.x.streams.Add(1))
	s.passed = bytes.Clone(have)
	s.said, s.spoilt = map[int]bool{}, map[int]bool{}
	s.promises, s.cut = true, cut
	return have
}

func (s *source) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = nil
}

// pull asks once and reads until the stream ends. nil: the source has sent all
// that it has.
func (s *source) pull(ctx context.Context) error {
	x := s.x
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	have := s.begin(cancel)
	defer s.end()
	body, err := json.Marshal(ask{
		Root: x.cfg.Manifest.Root.String(), Stripe: s.stripe, Stripes: s.stripes,
		Have: have, Partial: x.shelf.partial(s.stripe, s.stripes), Patient: s.wire.Patient,
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
	err = receive(bufio.NewReaderSize(&gather{Reader: resp.Body}, bytesRead), x.cfg.Manifest, &inlet{s, ctx})
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
	if i%s.stripes != s.stripe {
		return nil
	}
	s.mu.Lock()
	s.pass(i, true)
	s.mu.Unlock()
	start := time.Now()
	if s.box, err = s.x.shelf.begin(s.ctx, i, offset, s.name); errors.Is(err, errFirst) {
		err = nil // this one is lost, or the first one would never come
	}
	if time.Since(start) > silence {
		s.held = time.Now()
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
	if s.box.n == len(s.box.data) {
		s.x.shelf.end(s.at, s.box)
		s.box = nil
	}
}

// gather reads what has come meanwhile by one system call: when a read has
// emptied the connection, the next one comes a little later. Pieces that wait in
// memory are not held up by it.
type gather struct {
	io.Reader
	empty bool
}

func (g *gather) Read(p []byte) (int, error) {
	if g.empty {
		time.Sleep(pauseRead)
	}
	n, err := g.Reader.Read(p)
	g.empty = n < bytesRead/2
	return n, err
}

func (s *inlet) abort() {
	s.life.Reset(silence)
	s.mu.Lock()
	s.pass(s.at, false)
	s.mu.Unlock()
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
	guilty := ok && s.spoilt[i]
	if before, judged := s.said[i]; !judged || before {
		s.said[i] = ok
	}
	if !ok {
		delete(s.spoilt, i)
		s.pass(i, false) // it comes again
	}
	s.mu.Unlock()
	if guilty {
		s.corrupt(i)
	} else if !ok {
		s.x.shelf.spoil(i, s.name)
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
	if !judged {
		s.spoilt[i] = true
	}
	s.times++
	name := s.name
	guilty := said || s.times >= maxSpoilt
	s.mu.Unlock()
	switch {
	case guilty:
		s.corrupt(i)
	case !judged:
		time.AfterFunc(toOwnUp, func() {
			s.mu.Lock()
			still := s.spoilt[i] && s.name == name && s.cut != nil // or it can't own up any more
			s.mu.Unlock()
			if still {
				s.corrupt(i)
			}
		})
	}
}

func (s *source) corrupt(i int) {
	s.x.log.Warn("a peer sends wrong bytes", "peer", s.wire.URL, "frame", i)
	s.x.complain(wire.Trouble{Source: s.wire.ID, Kind: wire.TroubleCorrupt, Frame: i})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name, s.times = "", 0
	if s.cut != nil {
		s.cut(errWrong)
	}
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
