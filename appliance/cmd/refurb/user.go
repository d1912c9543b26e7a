package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"

	"refurb/appliance"
	"refurb/appliance/store"
)

type userCmd struct {
	List  userListCmd  `cmd:"" help:"Who may log in to the dashboard."`
	Add   userAddCmd   `cmd:"" help:"Add a user; asks for the password."`
	Reset userResetCmd `cmd:"" help:"Give a user a new password, for when nobody can log in."`
}

// actorConsole stands in the log for whoever sat at the server.
const actorConsole = "console"

type userListCmd struct{ dataFlag }

func (c *userListCmd) Run(ctx context.Context) error {
	return withUsers(c.Data, func(u store.Users) error {
		all, err := u.List(ctx)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tROLE\tSINCE\t")
		for _, v := range all {
			off := ""
			if v.Disabled {
				off = "switched off"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.Name, v.Role, v.Created.Format("2006-01-02"), off)
		}
		return w.Flush()
	})
}

type userAddCmd struct {
	dataFlag
	Name string `arg:""`
	Role string `arg:"" enum:"viewer,volunteer,lead,admin" help:"viewer, volunteer, lead or admin."`
}

func (c *userAddCmd) Run(ctx context.Context) error {
	return withUsers(c.Data, func(u store.Users) error {
		password, err := askPassword()
		if err != nil {
			return err
		}
		_, err = u.Create(ctx, actorConsole, c.Name, password, c.Role)
		return err
	})
}

type userResetCmd struct {
	dataFlag
	Name string `arg:""`
}

func (c *userResetCmd) Run(ctx context.Context) error {
	return withUsers(c.Data, func(u store.Users) error {
		all, err := u.List(ctx)
		if err != nil {
			return err
		}
		for _, v := range all {
			if v.Name != c.Name {
				continue
			}
			password, err := askPassword()
			if err != nil {
				return err
			}
			return u.SetPassword(ctx, actorConsole, v.ID, password)
		}
		return fmt.Errorf("there is no user %q: see `refurb user list`", c.Name)
	})
}

// withUsers takes only a data folder that is one already: whoever mistypes its
// name must not believe that a user was added.
func withUsers(data string, f func(store.Users) error) error {
	if err := isData(data); err != nil {
		return err
	}
	s, err := appliance.OpenStore(data)
	if err != nil {
		return err
	}
	return errors.Join(f(s.Users()), s.Close())
}

// askPassword asks twice on a terminal, or takes one line of standard input.
func askPassword() (string, error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, 4096)).ReadString('\n')
		if err != nil && !(errors.Is(err, io.EOF) && line != "") {
			return "", fmt.Errorf("no password on standard input: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	var got [2]string
	for i, ask := range []string{"Password: ", "Again: "} {
		fmt.Fprint(os.Stderr, ask)
		b, err := term.ReadPassword(fd)
		fmt.Fprintln(os.Stderr)
		if err != nil {
			return "", err
		}
		got[i] = string(b)
	}
	if got[0] != got[1] {
		return "", errors.New("the two passwords differ; nothing was changed")
	}
	return got[0], nil
}
