package dashboard

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
)

// Setup is the page that makes the first user.
type Setup struct {
	Name   string
	NoCode bool // the server was started without one
}

// gone reports that there is a user, and so no first one to be made.
func (d *Dashboard) gone(c echo.Context) error {
	n, err := d.cfg.Users.Count(c.Request().Context())
	if err != nil {
		return fmt.Errorf("are there users: %w", err)
	}
	if n > 0 {
		return echo.ErrNotFound
	}
	return nil
}

func (d *Dashboard) setupForm(c echo.Context) error {
	if err := d.gone(c); err != nil {
		return err
	}
	return d.render(c, http.StatusOK, "setup", page{Title: "setup.title", Body: Setup{NoCode: d.cfg.Code == ""}})
}

func (d *Dashboard) setup(c echo.Context) error {
	d.first.Lock()
	defer d.first.Unlock()
	if err := d.gone(c); err != nil {
		return err
	}
	u, err := d.firstUser(c)
	var no *refused
	var wait *slow
	switch {
	case errors.As(err, &no), errors.As(err, &wait):
		t := troubleOf(err, d.langs.of(c.Request()))
		s := Setup{Name: clean(c.FormValue("name"), maxName), NoCode: d.cfg.Code == ""}
		return d.render(c, t.Status, "setup", page{Title: "setup.title", Body: s, Flash: &flash{toneFail, t.Title, t.Text}})
	case err != nil:
		return err
	}
	if err := d.enter(c, u); err != nil {
		return err
	}
	d.cfg.Log.Info("the first user was made", "name", u.Name)
	return c.Redirect(http.StatusSeeOther, "/lots")
}

func (d *Dashboard) firstUser(c echo.Context) (User, error) {
	if wait := d.guesses.take("code", perCode); wait > 0 {
		return User{}, &slow{wait}
	}
	// Hashes have one length, so that nothing is told by the time it takes.
	typed := sha256.Sum256([]byte(plainCode(c.FormValue("code"))))
	right := sha256.Sum256([]byte(plainCode(d.cfg.Code)))
	if subtle.ConstantTimeCompare(typed[:], right[:]) != 1 || d.cfg.Code == "" {
		d.cfg.Log.Warn("wrong first-run code", "from", addressOf(c.Request()))
		return User{}, &refused{http.StatusForbidden, "setup.wrong", "setup.wrong.next"}
	}
	d.guesses.give("code", perCode)
	name, err := goodName(c.FormValue("name"))
	if err != nil {
		return User{}, err
	}
	password := c.FormValue("password")
	if err := goodPassword(password); err != nil {
		return User{}, err
	}
	u, err := d.cfg.Users.Create(c.Request().Context(), "setup", name, password, Admin)
	if err != nil {
		return User{}, fmt.Errorf("the first user: %w", err)
	}
	return u, nil
}

// plainCode is a code without what people leave out or add when they copy it.
func plainCode(s string) string {
	return strings.ToUpper(strings.NewReplacer(" ", "", "-", "").Replace(s))
}
