package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"refurb/agent/disk"
	"refurb/agent/finish"
	"refurb/agent/hardware"
	"refurb/agent/link"
	"refurb/agent/screen"
	"refurb/agent/wire"
)

// A PC that was started from a stick has no boot script that says where the
// appliance is. It asks the network, believes nobody, and speaks to the first
// one that has the key which came with the stick.
const (
	searchTime = 6 * time.Second  // one question to the network
	tryTime    = 10 * time.Second // for one address: a false one may accept and say nothing
	searchRest = 3 * time.Second
)

const newStick = "make a new stick on this workshop's appliance: sudo build/refurb payload usb"

// join finds the appliance and asks it what a boot script would say. local means
// that there is nothing to do here.
func (a *agent) join(ctx context.Context, lease *link.Lease) (local bool, err error) {
	if a.recall() {
		return false, nil
	}
	card, err := net.InterfaceByName(lease.Interface)
	if err != nil {
		return false, err
	}
	ask := wire.BootAsk{MAC: card.HardwareAddr.String(), UUID: hardware.UUID("/"), Key: base64.StdEncoding.EncodeToString(a.cfg.Key)}
	answer, err := a.find(ctx, ask, lease.Find)
	if err == nil && answer.Shell {
		err = ErrShell
	}
	if err != nil || answer.Local {
		return answer.Local, err
	}
	a.client = newClient(a.cfg, a.lost)
	return false, a.note()
}

// find searches until an appliance with our key has answered or ctx ends.
func (a *agent) find(ctx context.Context, ask wire.BootAsk, search func(context.Context, func(link.Found)) error) (wire.BootAnswer, error) {
	body, err := json.Marshal(ask)
	if err != nil {
		return wire.BootAnswer{}, err
	}
	s := &searching{agent: a, cfg: a.cfg, body: body}
	for {
		if s.round(ctx, search) {
			a.cfg.URL, a.cfg.Token = s.url, s.answer.Token
			return *s.answer, nil
		}
		if ctx.Err() != nil {
			return wire.BootAnswer{}, context.Cause(ctx)
		}
		v := s.verdict()
		a.log.Warn("no appliance yet", "why", v.Detail)
		a.show(v)
		pause(ctx, searchRest)
	}
}

// searching is one search and what came of it.
type searching struct {
	*agent
	cfg  Config
	body []byte
	fail error // of the question itself

	mu      sync.Mutex
	tried   []string
	foreign []string // addresses where another key is
	dead    []string // and those that don't answer, with why
	refused *wire.Error
	answer  *wire.BootAnswer
	url     string // whose answer it is
}

// round asks once. It is true when somebody has answered whom this PC believes.
func (s *searching) round(ctx context.Context, search func(context.Context, func(link.Found)) error) bool {
	s.tried, s.foreign, s.dead, s.refused = nil, nil, nil, nil
	round, stop := context.WithCancel(ctx)
	defer stop()
	asking, cancel := context.WithTimeout(round, searchTime)
	defer cancel()
	var tries sync.WaitGroup
	known := map[string]bool{}
	try := func(f link.Found) { // all at once: those that stall don't hold the right one up
		if known[f.URL] {
			return
		}
		known[f.URL] = true
		s.trying(f)
		tries.Go(func() {
			if s.try(round, f) {
				stop()
			}
		})
	}
	s.trying(link.Found{})
	if s.cfg.URL != "" {
		try(link.Found{URL: s.cfg.URL, By: "the stick"})
	}
	s.fail = search(asking, try)
	tries.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answer != nil
}

// trying shows whom it tries. Before there is anybody, what it showed last stays:
// a reason that flickers can't be read.
func (s *searching) trying(f link.Found) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.URL != "" {
		s.tried = append(s.tried, "trying "+f.URL+", named by "+f.By)
	}
	v := screen.View{Kind: screen.Working, Title: "Looking for the appliance", Detail: "asking this network, by DHCP and by mDNS", Percent: -1}
	s.agent.mu.Lock()
	if s.agent.view.Kind == screen.Failed || s.agent.view.Kind == screen.Waiting {
		v = s.agent.view
	}
	s.agent.mu.Unlock()
	v.Lines = s.tried[max(0, len(s.tried)-3):]
	s.show(v)
}

// try asks one address. It is true for an answer.
func (s *searching) try(ctx context.Context, f link.Found) bool {
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	cfg := s.cfg
	cfg.URL = f.URL
	c := newClient(cfg, func(error) {})
	defer c.api.CloseIdleConnections()
	var answer wire.BootAnswer
	err := c.call(ctx, http.MethodPost, wire.PathBoot, s.body, &answer)
	if err == nil && !answer.Local && !answer.Shell && answer.Token == "" {
		err = errors.New("its answer holds no token")
	}
	refused, isRefusal := errors.AsType[*wire.Error](err)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.answer != nil:
		return false
	case err == nil:
		s.answer, s.url = &answer, f.URL
		s.log.Info("found the appliance", "url", f.URL, "by", f.By, "local", answer.Local)
		return true
	case errors.Is(err, errPin):
		s.foreign = append(s.foreign, f.URL)
	case isRefusal:
		s.refused = refused
	default:
		s.dead = append(s.dead, f.URL+": "+err.Error())
	}
	if !errors.Is(ctx.Err(), context.Canceled) {
		s.log.Warn("not the appliance", "url", f.URL, "by", f.By, "err", err)
	}
	return false
}

// verdict says what keeps this PC from its appliance. The appliance's own word
// comes first; another's key says more than one that doesn't answer.
func (s *searching) verdict() screen.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := screen.View{Kind: screen.Failed, Title: "No appliance", Percent: -1}
	switch {
	case s.refused != nil:
		v.Title, v.Detail, v.Next = "Refused", text(s.refused.Message), text(orElse(s.refused.Next, newStick))
	case len(s.foreign) > 0:
		v.Title = "Another appliance's stick"
		v.Detail = text("this stick belongs to another appliance than the one at " + strings.Join(s.foreign[:min(2, len(s.foreign))], " and "))
		v.Next = newStick
	case len(s.dead) > 0:
		v.Detail = text("the appliance doesn't answer: " + s.dead[0])
		v.Next = "look whether the appliance runs and its cable is in place; this PC goes on trying"
	case s.fail != nil:
		v.Detail, v.Next = text(s.fail.Error()), "use another network socket of this PC; it goes on trying"
	default:
		v.Kind = screen.Waiting
		v.Detail = "nobody on this network says where the appliance is"
		v.Next = "look whether the appliance runs and this PC's cable leads to its network; or make a stick that knows its address: sudo build/refurb payload usb --url"
	}
	if n := len(s.tried); n > 0 {
		v.Lines = []string{fmt.Sprintf("%d tried, again in %v", n, searchRest)}
	}
	return v
}

// joined is what a restarted agent has to know: a second token for the same start
// would be refused.
type joined struct{ URL, Token string }

func (a *agent) joinedPath() string { return filepath.Join(a.cfg.State, "joined.json") }

func (a *agent) note() error {
	b, err := json.Marshal(joined{a.cfg.URL, a.cfg.Token})
	if err == nil {
		if err = os.MkdirAll(a.cfg.State, 0o700); err == nil {
			err = os.WriteFile(a.joinedPath(), b, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("noting where the appliance is: %w", err)
	}
	return nil
}

func (a *agent) recall() bool {
	b, err := os.ReadFile(a.joinedPath())
	var j joined
	if err != nil || json.Unmarshal(b, &j) != nil || j.URL == "" || j.Token == "" {
		return false
	}
	a.cfg.URL, a.cfg.Token = j.URL, j.Token
	a.client = newClient(a.cfg, a.lost)
	return true
}

// leave ends a start from a stick so that the next one doesn't begin there again:
// the firmware is told to start the installed system, or a person takes the stick
// out. It returns when this PC may restart.
func (a *agent) leave(ctx context.Context) {
	if a.cfg.Stick == "" {
		return
	}
	stick, ok := disk.FindStick(a.cfg.Stick)
	if !ok {
		return // it was taken out long ago
	}
	vars, _, err := finish.Firmware()
	if err == nil && vars != nil {
		var done string
		if done, err = finish.Next(vars); err == nil {
			a.log.Info("the stick is still in", "disk", stick.Path, "firmware", done)
			return
		}
	}
	a.log.Info("waiting for the stick to be taken out", "disk", stick.Path, "firmware", err)
	a.mu.Lock()
	v := a.view
	a.mu.Unlock()
	v.Detail, v.Next = "this PC starts from its own disk as soon as the stick is out", "take the USB stick out"
	a.show(v)
	for stick.There() && pause(ctx, time.Second) {
	}
}
