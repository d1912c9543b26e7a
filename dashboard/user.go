package dashboard

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"
)

// UsersPage lists the people.
type UsersPage struct {
	Users []User
	Me    string
	Roles []Role
}

func (d *Dashboard) users(c echo.Context) error {
	list, err := d.cfg.Users.List(c.Request().Context())
	if err != nil {
		return fmt.Errorf("list of users: %w", err)
	}
	body := UsersPage{Me: actor(c), Roles: []Role{Viewer, Volunteer, Lead, Admin}}
	for _, u := range list {
		u.Name = clean(u.Name, maxName)
		body.Users = append(body.Users, u)
	}
	return d.render(c, http.StatusOK, "users", page{Title: "nav.users", Nav: "users", Body: body})
}

func (d *Dashboard) addUser(c echo.Context) error {
	name, err := goodName(c.FormValue("name"))
	if err == nil {
		err = goodPassword(c.FormValue("password"))
	}
	role, bad := ParseRole(c.FormValue("role"))
	if err == nil && bad != nil {
		err = &refused{http.StatusBadRequest, "role.bad", "role.bad.next"}
	}
	if err == nil {
		_, err = d.cfg.Users.Create(c.Request().Context(), actor(c), name, c.FormValue("password"), role)
	}
	if errors.Is(err, ErrNameTaken) {
		err = &refused{http.StatusConflict, "name.taken", "name.taken.next"}
	}
	return d.done(c, err, "/users", "user.added", "Name", name)
}

// change does something to another user. Nobody takes their own rights away, and
// somebody must be left who can give them.
func (d *Dashboard) change(c echo.Context, ok string, do func(id string) error) error {
	id := c.Param("id")
	if id == actor(c) {
		return d.done(c, &refused{http.StatusConflict, "user.self", "user.self.next"}, "/users", "")
	}
	err := do(id)
	switch {
	case errors.Is(err, ErrNoUser):
		return echo.ErrNotFound
	case errors.Is(err, ErrLastAdmin):
		err = &refused{http.StatusConflict, "user.last", "user.last.next"}
	}
	return d.done(c, err, "/users", ok)
}

func (d *Dashboard) userRole(c echo.Context) error {
	role, err := ParseRole(c.FormValue("role"))
	if err != nil {
		return d.done(c, &refused{http.StatusBadRequest, "role.bad", "role.bad.next"}, "/users", "")
	}
	return d.change(c, "user.changed", func(id string) error {
		return d.cfg.Users.SetRole(c.Request().Context(), actor(c), id, role)
	})
}

func (d *Dashboard) userDisabled(c echo.Context) error {
	off := c.FormValue("disabled") == "yes"
	return d.change(c, "user.changed", func(id string) error {
		return d.cfg.Users.SetDisabled(c.Request().Context(), actor(c), id, off)
	})
}

func (d *Dashboard) userRemove(c echo.Context) error {
	return d.change(c, "user.removed", func(id string) error {
		return d.cfg.Users.Remove(c.Request().Context(), actor(c), id)
	})
}

func (d *Dashboard) userPassword(c echo.Context) error {
	if c.Param("id") == actor(c) { // one's own needs the present one too
		return c.Redirect(http.StatusSeeOther, "/me")
	}
	return d.newPassword(c, c.Param("id"), "/users")
}

// newPassword ends every session of a user but the one that asks for it.
func (d *Dashboard) newPassword(c echo.Context, id, back string) error {
	password := c.FormValue("password")
	if err := goodPassword(password); err != nil {
		return d.done(c, err, back, "")
	}
	err := d.cfg.Users.SetPassword(c.Request().Context(), actor(c), id, password)
	if errors.Is(err, ErrNoUser) {
		return echo.ErrNotFound
	}
	if err == nil && id == actor(c) {
		// One's own session goes on under the new password.
		u, err := d.cfg.Users.ByID(c.Request().Context(), id)
		if err != nil {
			return fmt.Errorf("new password: %w", err)
		}
		if err := d.enter(c, u); err != nil {
			return err
		}
	}
	return d.done(c, err, back, "user.password")
}

// me is the page of who looks at it.
func (d *Dashboard) me(c echo.Context) error {
	u, _ := userOf(c)
	u.Name = clean(u.Name, maxName)
	return d.render(c, http.StatusOK, "me", page{Title: "me.title", Nav: "me", Body: u})
}

// myPassword wants the present password: a session that somebody left open must
// not become theirs. Wrong ones count as guesses.
func (d *Dashboard) myPassword(c echo.Context) error {
	u, _ := userOf(c)
	known, err := d.check(c, u.Name, c.FormValue("old"))
	var no *refused
	if errors.As(err, &no) || err == nil && known.ID != u.ID {
		err = &refused{http.StatusForbidden, "me.wrong", "me.wrong.next"}
	}
	if err != nil {
		return d.done(c, err, "/me", "")
	}
	return d.newPassword(c, u.ID, "/me")
}
