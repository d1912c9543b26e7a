package dashboard

import (
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/labstack/echo/v4"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// Role of a user; each may do all that the ones below may.
type Role int

const (
	Public    Role = iota // nobody in particular
	Viewer                // looks: a donor, a board
	Volunteer             // works at the bench, switches PCs on; may not let anything be written
	Lead                  // approves disks, opens lots, asks for imaging
	Admin                 // adds people
)

var roleNames = [...]string{Public: "public", Viewer: "viewer", Volunteer: "volunteer", Lead: "lead", Admin: "admin"}

func (r Role) String() string {
	if r < 0 || int(r) >= len(roleNames) {
		return "unknown"
	}
	return roleNames[r]
}

// ParseRole reads the name of a role that a user can have.
func ParseRole(s string) (Role, error) {
	for r := Viewer; r <= Admin; r++ {
		if roleNames[r] == s {
			return r, nil
		}
	}
	return Public, fmt.Errorf("there is no role %q: it is one of viewer, volunteer, lead, admin", s)
}

// route is one address of the dashboard.
type route struct {
	method string
	path   string
	least  Role
	do     echo.HandlerFunc
	script bool // scripts call it: HTTP Basic is taken, errors are JSON
}

// routes is the only place that says who may call what.
func (d *Dashboard) routes() []route {
	const get, post = http.MethodGet, http.MethodPost
	return []route{
		{get, "/healthz", Public, d.health, false},
		{get, "/static/*", Public, d.static, false},
		{get, "/setup", Public, d.setupForm, false},
		{post, "/setup", Public, d.setup, false},
		{get, "/login", Public, d.loginForm, false},
		{post, "/login", Public, d.login, false},
		{post, "/language", Public, d.language, false},

		{post, "/logout", Viewer, d.logout, false},
		{get, "/me", Viewer, d.me, false},
		{post, "/me/password", Viewer, d.myPassword, false},
		{get, "/", Viewer, d.bench, false},
		{get, "/bench/stream", Viewer, d.benchStream, false},
		{get, "/starts", Viewer, d.starts, false},
		{get, "/starts/stream", Viewer, d.startsStream, false},
		{get, "/devices", Viewer, d.devices, false},
		{get, "/devices.csv", Viewer, d.devicesCSV, true},
		{get, "/devices/:id", Viewer, d.device, false},
		{get, "/devices/:id/stream", Viewer, d.deviceStream, false},
		{get, "/devices/:id/history/:format", Viewer, d.export, true},
		{get, "/disks", Viewer, d.disks, false},
		{get, "/disks/:key", Viewer, d.disk, false},
		{get, "/lots", Viewer, d.lots, false},
		{get, "/lots/:id", Viewer, d.lot, false},
		{get, "/papers/lot/:id", Viewer, d.lotPapers, false},
		{get, "/papers/:kind/:id", Viewer, d.paper, false},
		{get, "/papers/:kind/:id/json", Viewer, d.paperJSON, true},
		{get, "/checkpoints", Viewer, d.checkpoints, false},
		{get, "/checkpoints/:name", Viewer, d.checkpoint, false},
		{get, "/checkpoints/:name/note", Viewer, d.checkpointNote, true},
		{get, "/images", Viewer, d.images, false},
		{get, "/api/devices", Viewer, d.apiDevices, true},
		{get, "/api/devices/:id", Viewer, d.apiDevice, true},
		{get, "/api/network", Viewer, d.apiNetwork, true},

		{post, "/devices/:id/wake", Volunteer, d.wake, false},
		{post, "/devices/:id/rescue", Volunteer, d.rescue, false},
		{post, "/devices/:id/rescue/forget", Volunteer, d.forgetRescue, false},

		{post, "/devices/:id/approve", Lead, d.approve, false},
		{post, "/devices/:id/shell", Lead, d.rescueShell, false},
		{post, "/devices/:id/erase", Lead, d.erase, false},
		{post, "/devices/:id/again", Lead, d.again, false},
		{post, "/devices/:id/again/forget", Lead, d.forgetAgain, false},
		{post, "/devices/:id/wait", Lead, d.wait, false},
		{post, "/devices/:id/cancel", Lead, d.cancel, false},
		{post, "/devices/:id/move", Lead, d.move, false},
		{get, "/devices/:id/merge", Lead, d.mergeForm, false},
		{post, "/devices/:id/merge", Lead, d.merge, false},
		{get, "/devices/:id/split", Lead, d.splitForm, false},
		{post, "/devices/:id/split", Lead, d.split, false},
		{post, "/devices/:id/doubt", Lead, d.settle, false},
		{post, "/lots", Lead, d.openLot, false},
		{post, "/lots/:id/close", Lead, d.closeLot, false},
		{post, "/lots/:id/intake", Lead, d.lotIntake, false},
		{post, "/lots/:id/wake", Lead, d.wakeLot, false},
		{post, "/checkpoints", Lead, d.makeCheckpoint, false},

		{get, "/users", Admin, d.users, false},
		{post, "/users", Admin, d.addUser, false},
		{post, "/users/:id/role", Admin, d.userRole, false},
		{post, "/users/:id/disabled", Admin, d.userDisabled, false},
		{post, "/users/:id/password", Admin, d.userPassword, false},
		{post, "/users/:id/remove", Admin, d.userRemove, false},
	}
}

// guard lets a request through to a route if who sends it may call it.
func (d *Dashboard) guard(r route) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			c.Set("script", r.script)
			if r.least > Public {
				u, err := d.who(c, r.script)
				if err != nil {
					return err
				}
				c.Set("user", u)
				if u.Role < r.least {
					return &refused{http.StatusForbidden, "error.role." + r.least.String(), "error.role.next"}
				}
			}
			if err := form(c.Request()); err != nil {
				return err
			}
			return next(c)
		}
	}
}

// form reads the fields of a form that was sent. One that is too long or broken
// is refused: FormValue alone would take it for an empty one.
func form(r *http.Request) error {
	if r.Method != http.MethodPost {
		return nil
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); r.ContentLength != 0 && kind != "application/x-www-form-urlencoded" {
		return &refused{http.StatusUnsupportedMediaType, "error.form", "error.form.next"}
	}
	err := r.ParseForm()
	var big *http.MaxBytesError
	if err == nil || errors.As(err, &big) {
		return err
	}
	return &refused{http.StatusBadRequest, "error.form", "error.form.next"}
}

// who sends the request; errLogin if nobody that is known.
func (d *Dashboard) who(c echo.Context, script bool) (User, error) {
	r := c.Request()
	if name, password, ok := r.BasicAuth(); ok && script {
		return d.check(c, name, password)
	}
	id := d.sessions.GetString(r.Context(), "user")
	if id == "" {
		return User{}, errLogin
	}
	u, err := d.cfg.Users.ByID(r.Context(), id)
	switch {
	case errors.Is(err, ErrNoUser):
		return User{}, errLogin
	case err != nil:
		return User{}, fmt.Errorf("who is logged in: %w", err)
	case u.Disabled || u.Stamp != d.sessions.GetString(r.Context(), "stamp"):
		return User{}, errLogin
	}
	return u, nil
}

// check looks at a name and a password, slowly for who guesses.
func (d *Dashboard) check(c echo.Context, name, password string) (User, error) {
	name = strings.TrimSpace(name)
	address, byName := "address "+addressOf(c.Request()), "name "+strings.ToLower(name)
	if len(name) > 4*maxName || len(password) > maxPassword {
		return User{}, &refused{http.StatusUnauthorized, "login.wrong", "login.wrong.next"}
	}
	if wait := d.guesses.take(address, perAddress); wait > 0 {
		return User{}, &slow{wait}
	}
	if wait := d.guesses.take(byName, perName); wait > 0 {
		return User{}, &slow{wait}
	}
	u, err := d.cfg.Users.Check(c.Request().Context(), name, password)
	switch {
	case errors.Is(err, ErrNoUser) || err == nil && u.Disabled:
		d.cfg.Log.Warn("login refused", "name", clean(name, maxName), "from", addressOf(c.Request()))
		return User{}, &refused{http.StatusUnauthorized, "login.wrong", "login.wrong.next"}
	case err != nil:
		return User{}, fmt.Errorf("login: %w", err)
	}
	d.guesses.give(address, perAddress)
	d.guesses.give(byName, perName)
	return u, nil
}

func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func userOf(c echo.Context) (User, bool) { u, ok := c.Get("user").(User); return u, ok }

// can reports whether who sends the request has at least that role.
func can(c echo.Context, least Role) bool { u, ok := userOf(c); return ok && u.Role >= least }

// errLogin sends people to the login page and scripts away.
var errLogin = errors.New("not logged in")

// refused is an error in our own words.
type refused struct {
	status   int
	id, next string // message ids
}

func (e *refused) Error() string { return e.id }

// slow refuses who guesses too fast.
type slow struct{ wait time.Duration }

func (e *slow) Error() string { return "too many tries; wait " + e.wait.String() }

// trouble is an error as people read it.
type trouble struct {
	Status            int
	Tone              Tone
	Icon              string
	Title, Text, Next string
	Link, Href        string
}

// troubleOf words an error. Only what was written for people is shown; the rest
// goes to the log.
func troubleOf(err error, w *words) trouble {
	t := trouble{Status: http.StatusInternalServerError, Tone: toneFail, Icon: "warn", Link: w.T("error.home"), Href: "/"}
	var (
		no   *refused
		wait *slow
		ref  *workshop.Refusal
		he   *echo.HTTPError
		big  *http.MaxBytesError
	)
	switch {
	case errors.Is(err, errLogin):
		t.Status, t.Icon = http.StatusUnauthorized, "lock"
		t.Title, t.Text = w.T("error.login"), w.T("error.login.next")
		t.Link, t.Href = w.T("login.do"), "/login"
	case errors.As(err, &no):
		t.Status = no.status
		t.Title, t.Text = w.T(no.id), w.T(no.next)
		if no.status == http.StatusForbidden {
			t.Icon, t.Tone = "lock", toneHold
		}
	case errors.As(err, &wait):
		t.Status, t.Icon = http.StatusTooManyRequests, "clock"
		t.Title, t.Text = w.T("login.slow"), w.N("login.slow.next", int(wait.wait/time.Second))
	case errors.As(err, &ref):
		t.Status = refusalStatus(ref.Kind)
		t.Title, t.Text = w.plain(english(ref.Message)), w.plain(english(ref.Next))
	case errors.As(err, &big):
		t.Status = http.StatusRequestEntityTooLarge
		t.Title, t.Text = w.T("error.big"), w.T("error.big.next")
	case errors.Is(err, syscall.ENOSPC):
		t.Status = http.StatusInsufficientStorage
		t.Title, t.Text = w.T("error.full"), w.T("error.full.next")
	case errors.As(err, &he) && (he.Code == http.StatusNotFound || he.Code == http.StatusMethodNotAllowed):
		t.Status, t.Icon, t.Tone = he.Code, "search", toneIdle
		t.Title, t.Text = w.T("error.404"), w.T("error.404.next")
	default:
		t.Title, t.Text = w.T("error.500"), w.T("error.500.next")
	}
	return t
}

func refusalStatus(k workshop.Kind) int {
	switch k {
	case workshop.Unauthorized:
		return http.StatusForbidden
	case workshop.NotFound:
		return http.StatusNotFound
	case workshop.Conflict:
		return http.StatusConflict
	case workshop.Busy:
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}

// fail answers every error, and logs the ones that are ours.
func (d *Dashboard) fail(err error, c echo.Context) {
	if c.Response().Committed {
		// Half an answer is out: cut the line, so that nobody takes it for all.
		d.cfg.Log.Error("answer broke off", "path", c.Path(), "err", err)
		panic(http.ErrAbortHandler)
	}
	r := c.Request()
	script, _ := c.Get("script").(bool)
	w := d.langs.of(r)
	t := troubleOf(err, w)
	if t.Status == http.StatusInternalServerError || t.Status == http.StatusInsufficientStorage {
		d.cfg.Log.Error("dashboard", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if strings.HasPrefix(r.URL.Path, "/api/") {
		script = true
	}
	if script && !strings.Contains(r.Header.Get("Accept"), "text/html") {
		if t.Status == http.StatusUnauthorized {
			c.Response().Header().Set("WWW-Authenticate", `Basic realm="Refurb", charset="UTF-8"`)
		}
		_ = c.JSON(t.Status, wire.Error{Message: t.Title, Next: t.Text})
		return
	}
	if errors.Is(err, errLogin) {
		d.toLogin(c)
		return
	}
	if err := d.render(c, t.Status, "error", page{Head: t.Title, Body: t}); err != nil {
		d.cfg.Log.Error("error page", "err", err)
		_ = c.String(http.StatusInternalServerError, t.Title)
	}
}

// done goes back to a page with a word on what happened; a refusal is said there
// too, beside what was typed.
func (d *Dashboard) done(c echo.Context, err error, to, ok string, pairs ...any) error {
	w := d.langs.of(c.Request())
	f := flash{Tone: toneDone}
	var ref *workshop.Refusal
	var no *refused
	var wait *slow
	switch {
	case err == nil:
		f.Text = w.T(ok, pairs...)
	case errors.As(err, &ref) && ref.Kind != workshop.NotFound, errors.As(err, &no), errors.As(err, &wait):
		t := troubleOf(err, w)
		f = flash{Tone: toneFail, Text: t.Title, Next: t.Text}
	default:
		return err
	}
	d.putFlash(c, f)
	return c.Redirect(http.StatusSeeOther, to)
}
