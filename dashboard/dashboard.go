// Package dashboard is the workshop's web pages: what every PC is doing right
// now, what stands in its way, and the few decisions that only people take.
//
// Pages are made on the server and work as plain forms; where scripts run, a
// stream of server-sent events replaces what has changed. View models (card.go,
// detail.go, bench.go, story.go) are pure; routes.go lists every address with
// the least role that may call it.
package dashboard

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/labstack/echo/v4"

	"refurb/appliance/trace"
	"refurb/appliance/workshop"
)

//go:embed templates
var templateFiles embed.FS

// The vendor folder inside is filled by scripts/web-assets.sh; without it the
// pages load themselves again every few seconds.
//
//go:embed all:static
var staticFiles embed.FS

// Config of a Dashboard. All but Trace, Papers, Checkpoints, Network, Code
// and Log are required.
type Config struct {
	Registry *workshop.Registry
	Users    Users
	Images   Images
	History  History
	Trace    *trace.Log // how PCs start; nil: nobody looks
	Papers   Papers     // nil: there are none
	// Checkpoints may be nil: there are none.
	Checkpoints Checkpoints
	// Network tells who gives the PCs their addresses; nil, or false: nobody knows.
	Network  func() (Network, bool)
	Sessions scs.Store
	// Code lets the first person in: it is printed on the server's console and
	// good until there is a user. Empty: nobody can be the first.
	Code string
	Log  *slog.Logger
}

// User is a person who may log in.
type User struct {
	ID       string
	Name     string
	Role     Role
	Disabled bool
	Created  time.Time
	// Stamp changes with the password and when the user is switched off; a
	// session that holds another one has ended.
	Stamp string
}

// ErrNoUser says that there is no such user, or that the password is wrong;
// which of the two is nobody's business.
var ErrNoUser = errors.New("no such user and password")

// ErrNameTaken refuses a second user of the same name.
var ErrNameTaken = errors.New("that name is taken")

// ErrLastAdmin refuses to leave the house without an admin who can log in.
var ErrLastAdmin = errors.New("that is the last administrator who may log in")

// Users keeps the people. A method that finds nobody returns ErrNoUser; what
// would leave no admin is refused with ErrLastAdmin, also when two do it at once.
type Users interface {
	Count(ctx context.Context) (int, error)
	List(ctx context.Context) ([]User, error)
	ByID(ctx context.Context, id string) (User, error)
	// Check returns the user whose password it is. It takes as long for a name
	// that doesn't exist.
	Check(ctx context.Context, name, password string) (User, error)
	Create(ctx context.Context, actor, name, password string, role Role) (User, error)
	SetRole(ctx context.Context, actor, id string, role Role) error
	SetDisabled(ctx context.Context, actor, id string, off bool) error
	SetPassword(ctx context.Context, actor, id, password string) error
	// Remove forgets the person; the history keeps the id.
	Remove(ctx context.Context, actor, id string) error
}

// Image is one entry of the catalogue.
type Image struct {
	Root    string
	Name    string
	Version string
	Bytes   int64 // of the raw disk
	Stored  int64 // in the catalogue
	Created time.Time
	Problem string // empty: it can be used
}

// Images is the catalogue.
type Images interface {
	List(ctx context.Context) ([]Image, error)
}

// History is what is kept of a device for good.
type History interface {
	Events(ctx context.Context, device string) ([]workshop.Event, error) // oldest first
	// Export writes the history in one of Formats, checked on the way out.
	Export(ctx context.Context, w io.Writer, device, format string) error
}

// Formats of an export.
const (
	FormatJSONL = "jsonl"
	FormatCSV   = "csv"
	FormatHTML  = "html"
)

// Dashboard serves the pages.
type Dashboard struct {
	cfg      Config
	echo     *echo.Echo
	handler  http.Handler
	langs    *languages
	pages    *pages
	sessions *scs.SessionManager
	guesses  throttle
	streams  watching
	first    sync.Mutex // held while the first user is made
}

// New checks cfg and readies all pages.
func New(cfg Config) (*Dashboard, error) {
	if cfg.Registry == nil || cfg.Users == nil || cfg.Images == nil || cfg.History == nil || cfg.Sessions == nil {
		return nil, errors.New("the dashboard needs a registry, users, images, a history and a store of sessions")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	langs, err := loadLanguages(localeFiles)
	if err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	pages, err := loadPages(langs)
	if err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	d := &Dashboard{cfg: cfg, echo: echo.New(), langs: langs, pages: pages}
	d.sessions = scs.New()
	d.sessions.Store = cfg.Sessions
	d.sessions.Lifetime = 12 * time.Hour
	d.sessions.Cookie.Name = "refurb"
	d.sessions.Cookie.HttpOnly = true
	d.sessions.Cookie.SameSite = http.SameSiteLaxMode
	d.sessions.ErrorFunc = func(w http.ResponseWriter, r *http.Request, err error) {
		cfg.Log.Error("session store", "err", err)
		http.Error(w, "The session could not be read or kept. Try again; if it stays, look at the server's log.", http.StatusInternalServerError)
	}
	d.echo.HTTPErrorHandler = d.fail
	for _, r := range d.routes() {
		d.echo.Add(r.method, r.path, r.do, d.guard(r))
	}
	guarded := http.NewCrossOriginProtection()
	guarded.SetDenyHandler(d.sessions.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := d.echo.NewContext(r, w)
		d.fail(&refused{http.StatusForbidden, "error.origin", "error.origin.next"}, c)
	})))
	d.handler = headers(guarded.Handler(d.sessions.LoadAndSave(d.echo)))
	return d, nil
}

func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) { d.handler.ServeHTTP(w, r) }

// headers go with every answer. No page holds a script or a style of its own, so
// that text from a PC can't become one even if it escaped its escaping.
func headers(next http.Handler) http.Handler {
	const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		next.ServeHTTP(w, r)
	})
}

// maxForm bounds what a request may send, in bytes.
const maxForm = 64 << 10

func (d *Dashboard) health(c echo.Context) error {
	if _, err := d.cfg.Users.Count(c.Request().Context()); err != nil {
		d.cfg.Log.Error("health", "err", err)
		return c.String(http.StatusServiceUnavailable, "the records can't be read\n")
	}
	return c.String(http.StatusOK, "ok\n")
}

// render writes one page. It is made whole first: a template that fails must not
// leave half a page with a good status.
func (d *Dashboard) render(c echo.Context, status int, name string, p page) error {
	w := d.langs.of(c.Request())
	p.Langs, p.Path = d.langs.list, c.Request().URL.RequestURI()
	if c.Request().Method != http.MethodGet {
		p.Path = "/"
	}
	if p.Head == "" {
		p.Head = w.T(p.Title)
	}
	u, ok := userOf(c)
	if !ok {
		// An address that is nobody's has no guard, and a page that says so
		// still shows the way back to who is logged in.
		var err error
		u, err = d.who(c, false)
		ok = err == nil && u.ID != ""
	}
	if ok {
		p.User, p.Lead, p.Admin = &u, u.Role >= Lead, u.Role >= Admin
	}
	if p.Flash == nil {
		p.Flash = d.popFlash(c)
	}
	var b bytes.Buffer
	if err := d.pages.write(&b, w, name, p); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	return c.HTMLBlob(status, b.Bytes())
}
