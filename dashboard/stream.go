package dashboard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"refurb/appliance/workshop"
)

const (
	streamBeat  = 15 * time.Second       // a comment, so that no one on the way takes the line for dead
	streamPause = 300 * time.Millisecond // between two events; what comes in between is merged
	streamWrite = 10 * time.Second       // a browser that takes longer is let go and comes back by itself
)

// How many pages may watch at once, and those of one person: each holds a
// connection. A whole workshop may share one login.
const (
	maxStreams     = 256
	maxStreamsEach = 64
)

// watching counts the open streams.
type watching struct {
	mu  sync.Mutex
	all int
	by  map[string]int // user → streams
}

func (s *watching) enter(user string) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxStreams || s.by[user] >= maxStreamsEach {
		return nil, false
	}
	if s.by == nil {
		s.by = map[string]int{}
	}
	s.all++
	s.by[user]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all--
		if s.by[user]--; s.by[user] == 0 {
			delete(s.by, user)
		}
	}, true
}

// sse writes server-sent events (WHATWG HTML, section 9.2) to one browser.
type sse struct {
	w    http.ResponseWriter
	ctl  *http.ResponseController
	buf  bytes.Buffer
	sent bool
}

func newSSE(c echo.Context) *sse {
	w := c.Response().Writer
	h := c.Response().Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("X-Accel-Buffering", "no")
	c.Response().WriteHeader(http.StatusOK)
	return &sse{w: w, ctl: http.NewResponseController(w)}
}

// event sends html under the name that the pages listen for.
func (s *sse) event(html string) error {
	s.buf.Reset()
	if !s.sent {
		s.buf.WriteString("retry: 2000\n")
		s.sent = true
	}
	s.buf.WriteString("event: change\n")
	// A carriage return would end a line too, and with it start a field.
	for line := range strings.SplitSeq(strings.ReplaceAll(html, "\r", ""), "\n") {
		s.buf.WriteString("data: ")
		s.buf.WriteString(line)
		s.buf.WriteByte('\n')
	}
	s.buf.WriteByte('\n')
	return s.flush()
}

func (s *sse) beat() error {
	s.buf.Reset()
	s.buf.WriteString(": still here\n\n")
	return s.flush()
}

func (s *sse) flush() error {
	if err := s.ctl.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := s.w.Write(s.buf.Bytes()); err != nil {
		return err
	}
	return s.ctl.Flush()
}

// follow keeps one browser up to date: show says what of the page is to be
// replaced now, given what has changed; nil means that all of it is. The browser
// gets everything first, so that one that comes back misses nothing. also wakes it
// when something else than the registry has changed; it may be nil.
func (d *Dashboard) follow(c echo.Context, show func(*workshop.Update) (string, error), also <-chan struct{}) error {
	leave, ok := d.streams.enter(actor(c))
	if !ok {
		return &refused{http.StatusServiceUnavailable, "error.streams", "error.streams.next"}
	}
	defer leave()
	ctx, cancel := context.WithCancel(c.Request().Context())
	defer cancel()
	_, changes := d.cfg.Registry.Watch(ctx)
	first, err := show(nil)
	if err != nil {
		return err
	}
	out := newSSE(c)
	if err := out.event(first); err != nil {
		return nil // the browser has gone; it will come back
	}
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	for {
		var update *workshop.Update
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			// Who was switched off in the meantime sees no more.
			if _, err := d.who(c, false); err != nil {
				return nil
			}
			// What isn't the registry's may have changed too.
			html, err := show(&workshop.Update{})
			if err != nil {
				d.cfg.Log.Error("event stream", "path", c.Path(), "err", err)
				return nil
			}
			if html == "" {
				err = out.beat()
			} else {
				err = out.event(html)
			}
			if err != nil {
				return nil
			}
			continue
		case u, ok := <-changes:
			if !ok {
				return nil
			}
			update = &u
		case <-also:
			update = nil
		}
		html, err := show(update)
		if err != nil {
			d.cfg.Log.Error("event stream", "path", c.Path(), "err", err)
			return nil
		}
		if html == "" {
			continue
		}
		if err := out.event(html); err != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(streamPause):
		}
	}
}

func (d *Dashboard) benchStream(c echo.Context) error {
	lot, lead := clean(c.QueryParam("lot"), maxLine), can(c, Lead)
	w := d.langs.of(c.Request())
	var seen benchSeen
	stopped := -1
	return d.follow(c, func(u *workshop.Update) (string, error) {
		was := stopped
		if stopped = d.openStarts(); u == nil && was == stopped {
			return "", nil // a start that goes on is none of the bench's business
		}
		return seen.show(d.pages, w, d.benchNow(d.cfg.Registry.View(), lot, lead, stopped))
	}, d.traceWakes(c.Request().Context(), startTick))
}

// benchSeen is what one browser shows of the bench.
type benchSeen struct {
	shape  string
	counts string
	left   string
	net    string
	starts string
	cards  map[string]string
}

// show returns the pieces that differ from what the browser has: cards alone
// while their order stands, else the whole list.
func (s *benchSeen) show(p *pages, w *words, b Bench) (string, error) {
	var shape, all strings.Builder
	cards := map[string]string{}
	var changed strings.Builder
	piece := func(name string, data any) (string, error) {
		var out strings.Builder
		err := p.write(&out, w, name, data)
		return out.String(), err
	}
	fmt.Fprint(&shape, b.NoLot, b.Fresh)
	for _, g := range b.Groups {
		fmt.Fprintf(&shape, "/%d:", g.Group)
		for _, card := range g.Cards {
			fmt.Fprintf(&shape, "%s,", card.ID)
			html, err := piece("card", card)
			if err != nil {
				return "", err
			}
			if s.cards[card.ID] != html {
				changed.WriteString(html)
			}
			cards[card.ID] = html
		}
	}
	counts, err := piece("counts", b)
	if err != nil {
		return "", err
	}
	left, err := piece("bench-left", b)
	if err != nil {
		return "", err
	}
	net, err := piece("net", b)
	if err != nil {
		return "", err
	}
	if s.left != left {
		changed.WriteString(left)
	}
	if s.net != net {
		changed.WriteString(net)
	}
	starts, err := piece("starts-link", b.Stopped)
	if err != nil {
		return "", err
	}
	if s.starts != starts {
		changed.WriteString(starts)
	}
	old := *s
	s.shape, s.counts, s.left, s.net, s.starts, s.cards = shape.String(), counts, left, net, starts, cards
	if old.shape != s.shape || old.counts != s.counts {
		all.WriteString(starts)
		all.WriteString(net)
		err := p.write(&all, w, "bench-live", b)
		return all.String(), err
	}
	return changed.String(), nil
}
