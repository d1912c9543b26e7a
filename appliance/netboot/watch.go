package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const remindEvery = 10 * time.Minute // of what a person has to see to

// Status is who gives the addresses now, and what that rests on.
func (s *Server) Status() Status {
	s.outlookMu.Lock()
	defer s.outlookMu.Unlock()
	return s.outlook.status()
}

func (s *Server) mode() Mode {
	s.outlookMu.Lock()
	defer s.outlookMu.Unlock()
	return s.outlook.mode
}

// now is the configuration with the mode as it is now, for Decide.
func (s *Server) now() Config {
	cfg := s.cfg
	cfg.Mode = s.mode()
	return cfg
}

// learn tells the outlook something. What is new of it is in force at once, and
// logged.
func (s *Server) learn(f func(o *outlook, now time.Time)) {
	s.outlookMu.Lock()
	now := time.Now()
	before := len(s.outlook.entries)
	f(s.outlook, now)
	fresh := s.outlook.settle(now) || len(s.outlook.entries) > before
	st := s.outlook.status()
	s.outlookMu.Unlock()
	if fresh {
		s.announce(st)
	}
}

func (s *Server) announce(st Status) {
	if s.cfg.Changed != nil {
		s.cfg.Changed(s.Status()) // the newest, should two come at once
	}
	say := s.log.Info
	if st.Needs() {
		say = s.log.Warn
	}
	say("DHCP: "+st.Text(), "mode", st.Mode)
	if st.Why == Clash {
		other := st.Givers()[0].Addr.String()
		s.sight(Sighting{What: "offer", IP: other, Server: other, Arch: NoArch, Problem: ProblemOther, Err: st.Text()})
	}
}

// watch keeps looking for other DHCP servers until ctx ends: somebody may plug a
// router in, or out. It hears what they say to anybody, asks now and then, and at
// once when the cable was out. PCs that choose another are noticed by their
// requests, in serveDHCP.
func (s *Server) watch(ctx context.Context) error {
	if up, err := linkUp(s.cfg.Interface); err == nil {
		s.outlookMu.Lock()
		s.outlook.linked(time.Now(), up)
		s.outlook.settle(time.Now())
		s.outlookMu.Unlock()
	}
	s.announce(s.Status())
	for told := ""; ; {
		err := s.watchOnce(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// The interface may go away and come back.
		if told != err.Error() {
			told = err.Error()
			s.log.Warn("another DHCP server would not be noticed", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (s *Server) watchOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e, err := openEars(s.cfg.Interface)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { e.conn.Close() })()
	defer e.conn.Close()
	signs := e.listen(ctx)
	links, err := linkEvents(ctx)
	if err != nil {
		s.log.Debug("link events", "err", err)
	}
	s.learn(func(o *outlook, _ time.Time) { o.mac = e.mac.String() })
	next := time.NewTimer(0)
	defer next.Stop()
	var asked time.Time
	before := Proxy
	remind := time.NewTicker(remindEvery)
	defer remind.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case h, ok := <-signs:
			if !ok {
				return errors.New("the network card " + s.cfg.Interface + " is gone")
			}
			s.learn(func(o *outlook, now time.Time) { o.hear(now, h) })
			continue
		case _, ok := <-links:
			if !ok {
				links = nil
			}
		case <-remind.C:
			if st := s.Status(); st.Needs() {
				s.announce(st)
			}
		case <-next.C:
		}
		up, err := linkUp(s.cfg.Interface)
		if err != nil {
			return err
		}
		s.learn(func(o *outlook, now time.Time) {
			if up && !o.link {
				asked = time.Time{} // at once
			}
			o.linked(now, up)
		})
		s.outlookMu.Lock()
		pace, mode := s.outlook.pace(), s.outlook.mode
		s.outlookMu.Unlock()
		// That we give addresses from now on is said at once: see outlook.peer.
		if up && (time.Since(asked) >= pace || mode == Full && before != Full) {
			before = mode
			asked = time.Now()
			if err := e.ask(mode, s.cfg.IP); err != nil && !passing(err) {
				return fmt.Errorf("asking for DHCP servers: %w", err)
			} else if err == nil {
				s.learn(func(o *outlook, _ time.Time) { o.probed() })
			}
		}
		// Once a second at least: time alone may change the mode.
		next.Reset(min(max(pace-time.Since(asked), 10*time.Millisecond), time.Second))
	}
}

// linkEvents says that something about a link is new, until ctx ends. What an event
// says is looked up anyway, so that several may be told as one.
func linkEvents(ctx context.Context) (<-chan struct{}, error) {
	all := make(chan netlink.LinkUpdate)
	if err := netlink.LinkSubscribe(all, ctx.Done()); err != nil {
		return nil, err
	}
	news := make(chan struct{}, 1)
	go func() {
		defer close(news)
		for range all { // whoever sends them only ends when it can send
			select {
			case news <- struct{}{}:
			default:
			}
		}
	}()
	return news, nil
}

func linkUp(name string) (bool, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return false, fmt.Errorf("the network card %s is gone", name)
	}
	return ifi.Flags&net.FlagRunning != 0, nil
}

// passing errors of a send end with the link's being back.
func passing(err error) bool {
	return errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN)
}

// noticed takes up what a PC's or another appliance's packet says of other
// servers.
func (s *Server) noticed(d Decision) {
	if d.Other.IsValid() && !d.Relay.IsValid() { // behind a relay others may well serve
		s.learn(func(o *outlook, now time.Time) { o.hear(now, heard{addr: d.Other}) })
	}
	if p := d.Peer; p != nil && p.Addr.IsValid() && !d.Relay.IsValid() {
		s.learn(func(o *outlook, now time.Time) { o.peer(now, p.Addr, d.Client.MAC, p.Mode) })
	}
}
