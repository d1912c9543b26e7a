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

// change does something to another user. Nobody takes their own rights away:
// the house would stand without an admin.
func (d *Dashboard) change(c echo.Context, ok string, do func(id string) error) error {
	id := c.Param("id")
	if id == actor(c) {
		return d.done(c, &refused{http.StatusConflict, "user.self", "user.self.next"}, "/users", "")
	}
	err := do(id)
	if errors.Is(err, ErrNoUser) {
		return echo.ErrNotFound
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

func (d *Dashboard) userPassword(c echo.Context) error {
	if err := goodPassword(c.FormValue("password")); err != nil {
		return d.done(c, err, "/users", "")
	}
	id := c.Param("id")
	err := d.cfg.Users.SetPassword(c.Request().Context(), actor(c), id, c.FormValue("password"))
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
	return d.done(c, err, "/users", "user.password")
}
