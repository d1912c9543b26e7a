package dashboard

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/labstack/echo/v4"
)

// Bounds of what people type.
const (
	maxName     = 64  // runes
	minPassword = 10  // runes
	maxPassword = 256 // bytes: a password is hashed, and hashing costs
)

// Login is the login page; Name comes back after a wrong password.
type Login struct {
	Name string
	Next string
}

func (d *Dashboard) loginForm(c echo.Context) error {
	n, err := d.cfg.Users.Count(c.Request().Context())
	if err != nil {
		return fmt.Errorf("are there users: %w", err)
	}
	if n == 0 {
		return c.Redirect(http.StatusSeeOther, "/setup")
	}
	return d.render(c, http.StatusOK, "login", page{Title: "login.title", Body: Login{Next: local(c.QueryParam("next"))}})
}

func (d *Dashboard) login(c echo.Context) error {
	l := Login{Name: clean(c.FormValue("name"), maxName), Next: local(c.FormValue("next"))}
	u, err := d.check(c, c.FormValue("name"), c.FormValue("password"))
	var no *refused
	var wait *slow
	switch {
	case errors.As(err, &no), errors.As(err, &wait):
		t := troubleOf(err, d.langs.of(c.Request()))
		return d.render(c, t.Status, "login", page{Title: "login.title", Body: l, Flash: &flash{toneFail, t.Title, t.Text}})
	case err != nil:
		return err
	}
	if err := d.enter(c, u); err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, l.Next)
}

// enter starts u's session under a new token, so that one that was planted
// before is worth nothing.
func (d *Dashboard) enter(c echo.Context, u User) error {
	ctx := c.Request().Context()
	if err := d.sessions.RenewToken(ctx); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	d.sessions.Put(ctx, "user", u.ID)
	d.sessions.Put(ctx, "stamp", u.Stamp)
	return nil
}

func (d *Dashboard) logout(c echo.Context) error {
	if err := d.sessions.Destroy(c.Request().Context()); err != nil {
		return fmt.Errorf("logout: %w", err)
	}
	return c.Redirect(http.StatusSeeOther, "/login")
}

// toLogin sends a person to the login page and, after it, back.
func (d *Dashboard) toLogin(c echo.Context) {
	to := "/login"
	if r := c.Request(); r.Method == http.MethodGet && r.URL.Path != "/" && !strings.HasSuffix(r.URL.Path, "/stream") {
		to += "?next=" + url.QueryEscape(r.URL.RequestURI())
	}
	status := http.StatusSeeOther
	if strings.HasSuffix(c.Request().URL.Path, "/stream") {
		status = http.StatusUnauthorized // an event stream must not follow to a page
		_ = c.NoContent(status)
		return
	}
	_ = c.Redirect(status, to)
}

func (d *Dashboard) language(c echo.Context) error {
	w, ok := d.langs.byTag(c.FormValue("lang"))
	if !ok {
		return &refused{http.StatusBadRequest, "error.404", "error.404.next"}
	}
	c.SetCookie(&http.Cookie{Name: langCookie, Value: w.Tag, Path: "/", MaxAge: 365 * 24 * 3600, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	return c.Redirect(http.StatusSeeOther, local(c.FormValue("back")))
}

// local is the way to a page of ours; everything else leads home. A second slash
// or a backslash would let a browser leave this server.
func local(to string) string {
	if len(to) > 512 || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") {
		return "/"
	}
	u, err := url.Parse(to)
	if err != nil || u.IsAbs() || u.Host != "" || strings.HasPrefix(path.Clean(u.Path), "//") {
		return "/"
	}
	return to
}

// goodPassword refuses one that is too short or can't be hashed.
func goodPassword(p string) error {
	switch {
	case utf8.RuneCountInString(p) < minPassword:
		return &refused{http.StatusBadRequest, "password.short", "password.short.next"}
	case len(p) > maxPassword:
		return &refused{http.StatusBadRequest, "password.long", "password.long.next"}
	}
	return nil
}

// goodName trims a user's name and refuses what can't be one.
func goodName(s string) (string, error) {
	name := clean(s, maxName)
	if name == "" || utf8.RuneCountInString(s) > maxName {
		return "", &refused{http.StatusBadRequest, "name.bad", "name.bad.next"}
	}
	return name, nil
}

func (d *Dashboard) putFlash(c echo.Context, f flash) {
	ctx := c.Request().Context()
	d.sessions.Put(ctx, "flash", string(f.Tone)+"\n"+f.Text+"\n"+f.Next)
}

func (d *Dashboard) popFlash(c echo.Context) *flash {
	ctx := c.Request().Context()
	if !d.sessions.Exists(ctx, "flash") {
		return nil
	}
	tone, rest, _ := strings.Cut(d.sessions.PopString(ctx, "flash"), "\n")
	text, next, _ := strings.Cut(rest, "\n")
	return &flash{Tone(tone), text, next}
}

// static files never change under one address: it holds their version.
func (d *Dashboard) static(c echo.Context) error {
	name := path.Join("static", path.Clean("/"+c.Param("*")))
	b, err := fs.ReadFile(staticFiles, name)
	if err != nil {
		return echo.ErrNotFound
	}
	if c.QueryParam("v") != "" {
		c.Response().Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	return c.Blob(http.StatusOK, contentType(name), b)
}
