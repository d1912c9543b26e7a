package appliance

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/time/rate"

	"refurb/agent/wire"
	"refurb/appliance/relay"
	"refurb/appliance/workshop"
)

const (
	sharesEach = 10          // Shares of one PC in a second; it needs one to five
	maxTrouble = 16          // of one Share
	lookEvery  = time.Second // how often the dashboard learns how frames flow
	forgotten  = time.Minute // a PC not heard of for so long has no place here
)

// Sharing stands between the PCs that pass frames on to each other, the registry,
// which knows whose jobs run, and the relay, which says who gets frames from
// whom.
type Sharing struct {
	registry *workshop.Registry
	network  func() netip.Prefix // only PCs in it are named to others
	log      *slog.Logger

	mu      sync.Mutex
	relay   *relay.Relay // nil: nobody passes anything on
	callers map[string]*caller
}

// caller is a PC that shares, by its job.
type caller struct {
	*workshop.Sharer
	pace   *rate.Limiter
	heard  time.Time
	serial int64 // of its order, where there is no relay

	// As last logged.
	here      bool
	slow      string
	mute      string
	suspected string

	written string // what it is suspected of, as last stored
}

// NewSharing arranges nothing yet. Without peers every PC gets its frames from
// the appliance.
func NewSharing(r *workshop.Registry, network func() netip.Prefix, peers bool, log *slog.Logger) *Sharing {
	s := &Sharing{registry: r, network: network, log: log, callers: map[string]*caller{}}
	if peers {
		s.relay = relay.New(relay.Config{})
	}
	return s
}

// Run shows how frames flow, and sees who has ended, until ctx does.
func (s *Sharing) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		s.look(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// share takes one PC's word of what it has, and says from where it gets the rest.
// It changes no job and writes nothing to the records.
func (a *agentAPI) share(c echo.Context, token string) error {
	who, err := a.registry.Sharer(token)
	if err != nil {
		return err
	}
	if !a.sharing.may(who) {
		// Not worth a line in the log for each.
		c.Response().Header().Set("Retry-After", "1")
		return refuse(c, http.StatusTooManyRequests, "This PC shares too often", "Try again in a second")
	}
	var p wire.Share
	if err := read(c, wire.MaxMessage, &p); err != nil {
		return err
	}
	if p.Job != who.Job {
		return &workshop.Refusal{Kind: workshop.Conflict, Message: "This is no longer the job of this PC", Next: "Stop sharing"}
	}
	claims := p.Claims
	if err := a.registry.Claim(token, claims); err != nil {
		return err
	}
	if err := cleanShare(&p, who); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, a.sharing.order(who, a.sharing.url(c.Request().RemoteAddr, p.Port), p))
}

// cleanShare holds what a PC says of itself to what can be.
func cleanShare(p *wire.Share, who *workshop.Sharer) error {
	if p.Port > 65535 {
		return &workshop.Refusal{Kind: workshop.Invalid, Message: "There is no port " + strconv.Itoa(p.Port)}
	}
	p.Claims = nil
	workshop.Clean(p)
	p.Mbit = min(p.Mbit, 1_000_000)
	p.Frames = min(p.Frames, who.Frames)
	p.Have = min(p.Have, p.Frames)
	p.Missing = min(p.Missing, p.Frames-p.Have)
	p.Backlog = min(p.Backlog, 100)
	p.Rate = min(p.Rate, 1e12)
	p.Done = p.Done || who.Done
	var known []wire.Trouble
	for _, t := range p.Trouble {
		switch t.Kind {
		case wire.TroubleSilent, wire.TroubleRefused, wire.TroubleCorrupt:
			if t.Frame < who.Frames && len(known) < maxTrouble {
				known = append(known, t)
			}
		}
	}
	p.Trouble = known
	return nil
}

// may reports whether a PC doesn't share far more often than it needs to.
func (s *Sharing) may(who *workshop.Sharer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.callers[who.Job]
	if c == nil {
		c = &caller{pace: rate.NewLimiter(sharesEach, 2*sharesEach)}
		s.callers[who.Job] = c
	}
	c.Sharer, c.heard = who, time.Now()
	return c.pace.Allow()
}

// url is where other PCs reach the one that called from an address. It may choose
// the port, never the host: it must not send the others anywhere.
func (s *Sharing) url(remote string, port int) string {
	at, err := netip.ParseAddrPort(remote)
	if ip := at.Addr().Unmap(); err == nil && port > 0 && s.network().Contains(ip) {
		return "http://" + net.JoinHostPort(ip.String(), strconv.Itoa(port))
	}
	return ""
}

// order is what a PC is to do.
func (s *Sharing) order(who *workshop.Sharer, url string, p wire.Share) wire.Order {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.relay == nil {
		c := s.callers[who.Job]
		if c == nil {
			return wire.Order{Serial: p.Serial + 1, Depot: true} // it ended a moment ago
		}
		if c.serial == 0 {
			c.serial = p.Serial + 1 // an order from before a restart may have been another one
		}
		return wire.Order{Serial: c.serial, Depot: true}
	}
	st := relay.Status{
		ID: who.Job, Image: who.Image, URL: url, Serial: p.Serial, Mbit: p.Mbit, Frames: p.Frames, Have: p.Have,
		Missing: p.Missing, Backlog: p.Backlog, Rate: p.Rate, Done: p.Done,
	}
	for _, t := range p.Trouble {
		st.Trouble = append(st.Trouble, relay.Trouble{Source: t.Source, Kind: relay.Kind(t.Kind), Frame: t.Frame})
	}
	got := s.relay.Update(time.Now(), st)
	o := wire.Order{Serial: got.Serial, Depot: got.Depot, Key: got.Key, Stay: got.Stay, Why: got.Why}
	for _, v := range got.Sources {
		o.Sources = append(o.Sources, wire.Source{ID: v.ID, URL: v.URL, Key: v.Key, Patient: v.Patient})
	}
	return o
}

// look forgets whose job has ended and shows the rest.
func (s *Sharing) look(ctx context.Context) {
	s.mu.Lock()
	jobs := make([]string, 0, len(s.callers))
	for id := range s.callers {
		jobs = append(jobs, id)
	}
	s.mu.Unlock()
	ended := s.registry.Ended(jobs)

	s.mu.Lock()
	now := time.Now()
	for _, id := range ended {
		s.leave(now, id)
	}
	for id, c := range s.callers {
		if now.Sub(c.heard) > forgotten {
			s.leave(now, id)
		}
	}
	flows, suspects := s.flows(now)
	s.mu.Unlock()

	s.registry.Arranged(flows)
	for job, why := range suspects {
		if err := s.registry.Suspect(ctx, job, sentence(why)); err != nil {
			if ctx.Err() == nil {
				s.log.Error("writing a suspicion down", "job", job, "err", err)
			}
			continue // the next look tries again
		}
		s.mu.Lock()
		if c := s.callers[job]; c != nil {
			c.written = why
		}
		s.mu.Unlock()
	}
}

func (s *Sharing) leave(now time.Time, job string) {
	c := s.callers[job]
	if c == nil {
		return
	}
	delete(s.callers, job)
	if s.relay != nil {
		s.relay.Leave(now, job)
	}
	if c.here {
		s.log.Debug("a PC shares no more", "number", c.Number)
	}
}

// flows is the relay's view in the registry's words, and on whom suspicion has
// fallen or, where the reason is empty, from whom it was lifted.
func (s *Sharing) flows(now time.Time) (flows map[string]workshop.Flow, suspects map[string]string) {
	flows, suspects = map[string]workshop.Flow{}, map[string]string{}
	if s.relay == nil {
		for id, c := range s.callers {
			if now.Sub(c.heard) < 5*lookEvery && !c.Done {
				flows[id] = workshop.Flow{Appliance: true}
			}
		}
		return flows, nil
	}
	view := s.relay.View(now)
	number := func(job string) int {
		if c := s.callers[job]; c != nil {
			return c.Number
		}
		return 0
	}
	first, length := map[string]int{}, map[string]int{} // by image: who is at the appliance, members in the line
	to := map[string][]int{}
	for _, m := range view {
		if m.Depot && first[m.Image] == 0 {
			first[m.Image] = number(m.ID)
		}
		length[m.Image] = max(length[m.Image], m.Place)
		if wants(m) {
			for _, id := range m.Sources {
				if n := number(m.ID); n > 0 && (len(to[id]) == 0 || to[id][len(to[id])-1] != n) {
					to[id] = append(to[id], n)
				}
			}
		}
	}
	here := map[string]bool{}
	for _, m := range view {
		c := s.callers[m.ID]
		if c == nil {
			continue
		}
		here[m.ID] = true
		f := workshop.Flow{Appliance: m.Depot, To: to[m.ID], Place: m.Place, Of: length[m.Image], Slow: m.Slow}
		if wants(m) {
			for _, id := range m.Sources {
				if n := number(id); n > 0 {
					f.From = append(f.From, n)
				}
			}
			if n := first[m.Image]; m.Waits != "" && !m.Depot && n != c.Number && (m.Slow == "" || len(f.From) == 0) {
				f.After = n
			}
		}
		flows[m.ID] = f
		if c.written != m.Suspected {
			suspects[m.ID] = m.Suspected
		}
		s.note(c, m)
	}
	for id, c := range s.callers {
		if c.here && !here[id] {
			c.here = false
			s.log.Debug("a PC that shared has fallen silent", "number", c.Number)
		}
	}
	return flows, suspects
}

// wants reports whether a PC still lacks frames.
func wants(m relay.Member) bool { return !m.Done && (m.Have < m.Frames || m.Frames == 0) }

// note logs what is new of a PC.
func (s *Sharing) note(c *caller, m relay.Member) {
	if !c.here {
		s.log.Debug("a PC shares", "number", c.Number, "image", c.Image, "place", m.Place)
	}
	if c.slow != m.Slow && m.Slow != "" {
		s.log.Info("a slow PC was moved to the end of the line", "number", c.Number, "why", m.Slow)
	}
	if c.suspected != m.Suspected {
		if m.Suspected != "" {
			s.log.Warn("a PC is suspected", "number", c.Number, "why", m.Suspected)
		} else {
			s.log.Info("a PC is no longer suspected", "number", c.Number)
		}
	} else if c.mute != m.Mute && m.Mute != "" {
		s.log.Info("nobody gets anything from a PC", "number", c.Number, "why", m.Mute)
	}
	c.here, c.slow, c.mute, c.suspected = true, m.Slow, m.Mute, m.Suspected
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
