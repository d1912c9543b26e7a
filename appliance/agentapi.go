package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"refurb/agent/wire"
	"refurb/appliance/store"
	"refurb/appliance/trace"
	"refurb/appliance/workshop"
)

const (
	wireHeader  = "Refurb-Wire"
	bodyTimeout = 30 * time.Second // for a request's body to arrive whole
	maxGuesses  = 20               // wrong tokens of one address in a minute
	maxGuessers = 4096             // addresses that are remembered
)

// RegisterAgentAPI serves wire's paths. Unknown JSON fields are passed over, so
// that a newer agent of the same version is understood; every bound holds. tell is
// told of the ends of PCs' starts; it must not block.
func RegisterAgentAPI(e *echo.Echo, r *workshop.Registry, s *Sharing, tell func(trace.Sighting), log *slog.Logger) {
	a := &agentAPI{registry: r, sharing: s, tell: tell, log: log, said: newSeldom(log), guesses: map[string]*guesses{}}
	e.POST(wire.PathBoot, a.boot)
	e.POST(wire.PathReport, a.with(true, a.report))
	e.GET(wire.PathPlan, a.with(true, a.plan))
	e.POST(wire.PathProgress, a.with(true, a.progress))
	e.POST(wire.PathEvent, a.with(true, a.event))
	e.POST(wire.PathShare, a.with(true, a.share))
	// An image outlives the appliance that made it: whatever version it names, a
	// check-in is a check-in.
	e.POST(wire.PathCheckin, a.with(false, a.checkin))
}

type agentAPI struct {
	registry *workshop.Registry
	sharing  *Sharing
	tell     func(trace.Sighting)
	log      *slog.Logger
	said     *seldom // of who is refused

	mu      sync.Mutex
	guesses map[string]*guesses
}

// guesses of one address since start.
type guesses struct {
	start time.Time
	n     int
}

// with checks what all calls have in common, and turns errors into answers.
func (a *agentAPI) with(versioned bool, call func(echo.Context, string) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		req := c.Request()
		if v := req.Header.Get(wireHeader); versioned && v != strconv.Itoa(wire.Version) {
			message := "This appliance speaks version " + strconv.Itoa(wire.Version) + " of the agents' language, not “" + workshop.Text(v) + "”"
			if c.Path() == wire.PathReport {
				a.refused(c, "", message)
			}
			return refuse(c, http.StatusUpgradeRequired, message, "Restart the PC from the network, so that it gets the appliance's own agent")
		}
		from, _, err := net.SplitHostPort(req.RemoteAddr)
		if err != nil {
			from = req.RemoteAddr
		}
		if a.barred(from, false) {
			c.Response().Header().Set("Retry-After", "60")
			return refuse(c, http.StatusTooManyRequests, "Too many wrong tokens came from this address", "Wait a minute, then restart the PC")
		}
		token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		if !ok || token == "" || len(token) > wire.MaxText {
			a.barred(from, true)
			return refuse(c, http.StatusUnauthorized, "The request carries no token", "Restart the PC from the network")
		}
		err = call(c, token)
		var ref *workshop.Refusal
		if errors.As(err, &ref) && ref.Kind == workshop.Unauthorized {
			a.barred(from, true)
		}
		return a.answer(c, err)
	}
}

// boot is for PCs that came from a stick and have no token yet. It gives them what
// a boot script would: whoever asks, and no more.
func (a *agentAPI) boot(c echo.Context) error {
	if v := c.Request().Header.Get(wireHeader); v != strconv.Itoa(wire.Version) {
		return refuse(c, http.StatusUpgradeRequired, "This stick speaks version “"+workshop.Text(v)+"” of the agents' language, this appliance version "+strconv.Itoa(wire.Version),
			"Make a new stick: sudo build/refurb payload usb")
	}
	var ask wire.BootAsk
	err := read(c, wire.MaxMessage, &ask)
	if err != nil {
		return a.answer(c, err)
	}
	seen := trace.Sighting{Time: time.Now(), What: trace.Stick, Arch: -1, MAC: strings.ToLower(ask.MAC), UUID: ask.UUID, IP: from(c), Boots: "agent"}
	answer, err := a.registry.StickBoot(c.Request().Context(), ask)
	if err != nil {
		if ref := new(workshop.Refusal); errors.As(err, &ref) && ref.Kind != workshop.Invalid {
			seen.What, seen.Err = trace.Refused, ref.Message
			a.tell(seen)
		}
		return a.answer(c, err)
	}
	if answer.Local {
		seen.Boots = "disk"
	}
	a.tell(seen)
	toldOfStick(a.log, ask.MAC, c.Request().RemoteAddr, answer.Local)
	return c.JSON(http.StatusOK, answer)
}

func toldOfStick(log *slog.Logger, mac, from string, local bool) {
	say := log.Info // each costs one of the few tokens
	if local {
		say = log.Debug // costs nothing: anybody could fill the log
	}
	say("a PC started from a stick", "mac", workshop.Text(mac), "from", from, "local", local)
}

// barred counts a wrong token if guess is set, and reports whether an address
// has tried too many.
func (a *agentAPI) barred(from string, guess bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	g, now := a.guesses[from], time.Now()
	if g != nil && now.Sub(g.start) > time.Minute {
		delete(a.guesses, from)
		g = nil
	}
	if guess {
		if g == nil {
			if len(a.guesses) >= maxGuessers {
				for k, old := range a.guesses {
					if now.Sub(old.start) > time.Minute || len(a.guesses) >= maxGuessers {
						delete(a.guesses, k)
					}
				}
			}
			g = &guesses{start: now}
			a.guesses[from] = g
		}
		g.n++
	}
	return g != nil && g.n >= maxGuesses
}

// answer turns an error into a refusal. What is not the caller's business is
// logged here, once.
func (a *agentAPI) answer(c echo.Context, err error) error {
	var ref *workshop.Refusal
	var tooBig *http.MaxBytesError
	var bad *badBody
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ref):
		status := http.StatusBadRequest
		switch ref.Kind {
		case workshop.Unauthorized:
			status = http.StatusUnauthorized
		case workshop.NotFound:
			status = http.StatusNotFound
		case workshop.Conflict:
			status = http.StatusConflict
		case workshop.Busy:
			status = http.StatusTooManyRequests
			c.Response().Header().Set("Retry-After", "10")
		}
		a.said.say(slog.LevelInfo, "an agent was refused", "path", c.Path(), "from", c.Request().RemoteAddr, "why", ref.Message)
		return refuse(c, status, ref.Message, ref.Next)
	case errors.As(err, &tooBig):
		return refuse(c, http.StatusRequestEntityTooLarge, "The message is too long", "")
	case errors.Is(err, os.ErrDeadlineExceeded):
		// Not the message's fault: an agent takes a 400 for the last word.
		return refuse(c, http.StatusRequestTimeout, "The message didn't arrive whole in time", "Try again")
	case errors.As(err, &bad):
		return refuse(c, http.StatusBadRequest, bad.Error(), "")
	case errors.Is(err, context.Canceled):
		// Either the agent has hung up, or the appliance is ending.
		return refuse(c, http.StatusServiceUnavailable, "The appliance is ending", "Try again")
	case errors.Is(err, store.ErrFull):
		a.log.Error("an agent's call could not be stored", "path", c.Path(), "err", err)
		return refuse(c, http.StatusInsufficientStorage, "The disk of the appliance is full", "Make room on it; this PC goes on by itself")
	}
	a.log.Error("an agent's call failed", "path", c.Path(), "from", c.Request().RemoteAddr, "err", err)
	return refuse(c, http.StatusInternalServerError, "The appliance has a problem of its own", "Look at its log; this PC tries again")
}

func refuse(c echo.Context, status int, message, next string) error {
	return c.JSON(status, wire.Error{Message: message, Next: next})
}

// badBody is a message that is no JSON of the right shape.
type badBody struct{ err error }

func (b *badBody) Error() string { return "The message can't be read: " + workshop.Text(b.err.Error()) }
func (b *badBody) Unwrap() error { return b.err }

// read takes one JSON value of at most limit bytes and nothing after it.
func read(c echo.Context, limit int64, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(c.Response(), c.Request().Body, limit))
	if err := dec.Decode(v); err != nil {
		return &badBody{err}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("something follows it")
		}
		return &badBody{err}
	}
	return nil
}

func (a *agentAPI) report(c echo.Context, token string) error {
	var rep wire.Report
	if err := read(c, wire.MaxReport, &rep); err != nil {
		return err
	}
	plan, err := a.registry.Report(c.Request().Context(), token, rep)
	if ref := new(workshop.Refusal); errors.As(err, &ref) {
		a.refused(c, token, ref.Message)
	}
	if err != nil {
		return err
	}
	mac, device := a.registry.Started(token)
	a.tell(hello(mac, from(c), device, plan.Number, &rep))
	return c.JSON(http.StatusOK, plan)
}

func (a *agentAPI) plan(c echo.Context, token string) error {
	number := func(name string) (int64, error) {
		s := c.QueryParam(name)
		if s == "" {
			return 0, nil
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return 0, &badBody{errors.New(name + " is no number")}
		}
		return n, nil
	}
	have, err := number("have")
	if err != nil {
		return err
	}
	wait, err := number("wait")
	if err != nil {
		return err
	}
	plan, err := a.registry.Plan(c.Request().Context(), token, have, time.Duration(min(wait, 3600))*time.Second)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, plan)
}

func (a *agentAPI) progress(c echo.Context, token string) error {
	var p wire.Progress
	if err := read(c, wire.MaxMessage, &p); err != nil {
		return err
	}
	reply, err := a.registry.Progress(c.Request().Context(), token, p)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, reply)
}

func (a *agentAPI) event(c echo.Context, token string) error {
	var e wire.Event
	if err := read(c, wire.MaxMessage, &e); err != nil {
		return err
	}
	if err := a.registry.Event(c.Request().Context(), token, e); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// refused tells of an agent that was turned away.
func (a *agentAPI) refused(c echo.Context, token, why string) {
	mac, _ := a.registry.Started(token)
	a.tell(trace.Sighting{Time: time.Now(), What: trace.Refused, Arch: -1, MAC: mac, IP: from(c), Err: why})
}

func from(c echo.Context) string {
	ip, _, err := net.SplitHostPort(c.Request().RemoteAddr)
	if err != nil {
		return ""
	}
	return ip
}

func (a *agentAPI) checkin(c echo.Context, token string) error {
	var f wire.FirstBoot
	if err := read(c, wire.MaxMessage, &f); err != nil {
		return err
	}
	if err := a.registry.Checkin(c.Request().Context(), token, f); err != nil {
		return err
	}
	a.tell(trace.Sighting{Time: time.Now(), What: trace.FirstBoot, Arch: -1, MAC: strings.ToLower(f.MAC), IP: from(c), UUID: strings.ToLower(f.UUID), Detail: f.System})
	return c.NoContent(http.StatusNoContent)
}
