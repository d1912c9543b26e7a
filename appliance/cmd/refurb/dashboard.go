package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"refurb/appliance"
	"refurb/appliance/audit"
	"refurb/appliance/papers"
	"refurb/appliance/store"
	"refurb/appliance/workshop"
	"refurb/dashboard"
	"refurb/images/depot"
)

// newDashboard puts the pages before an appliance. While nobody can log in, it
// prints the code that makes the first admin.
func newDashboard(ctx context.Context, a *appliance.Appliance, log *slog.Logger) (http.Handler, error) {
	users := people{a.Store.Users()}
	n, err := users.Count(ctx)
	if err != nil {
		return nil, err
	}
	code := ""
	if n == 0 {
		text := rand.Text()
		code = text[:4] + "-" + text[4:8] + "-" + text[8:12]
		fmt.Fprintf(os.Stderr, "\n  Nobody can log in yet. Open the dashboard in a browser, at port 8000 of this PC\n  unless you chose another, and make the first account with this\n  one-time code: %s\n\n", code)
	}
	return dashboard.New(dashboard.Config{
		Registry: a.Registry, Users: users, Images: shelf{a.Depot}, History: history{a},
		Trace: a.Trace, Papers: drawer{papers.New(evidence{a.Store}, a.Keys.Signing)}, Checkpoints: points{a},
		Network:  network(a),
		Sessions: a.Store.Sessions(), Code: code, Log: log,
	})
}

// people are the store's users with the dashboard's roles.
type people struct{ store.Users }

// trouble says the store's errors in the dashboard's words.
func trouble(err error) error {
	switch {
	case errors.Is(err, store.ErrNoUser):
		return dashboard.ErrNoUser
	case errors.Is(err, store.ErrNameTaken):
		return dashboard.ErrNameTaken
	case errors.Is(err, store.ErrLastAdmin):
		return dashboard.ErrLastAdmin
	}
	return err
}

func person(u store.User, err error) (dashboard.User, error) {
	if err != nil {
		return dashboard.User{}, trouble(err)
	}
	role, err := dashboard.ParseRole(u.Role)
	return dashboard.User{ID: u.ID, Name: u.Name, Role: role, Disabled: u.Disabled, Created: u.Created, Stamp: u.Stamp}, err
}

func (p people) List(ctx context.Context) ([]dashboard.User, error) {
	all, err := p.Users.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []dashboard.User
	for _, u := range all {
		v, err := person(u, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (p people) ByID(ctx context.Context, id string) (dashboard.User, error) {
	return person(p.Users.ByID(ctx, id))
}

func (p people) Check(ctx context.Context, name, password string) (dashboard.User, error) {
	return person(p.Users.Check(ctx, name, password))
}

func (p people) Create(ctx context.Context, actor, name, password string, role dashboard.Role) (dashboard.User, error) {
	return person(p.Users.Create(ctx, actor, name, password, role.String()))
}

func (p people) SetRole(ctx context.Context, actor, id string, role dashboard.Role) error {
	return trouble(p.Users.SetRole(ctx, actor, id, role.String()))
}

func (p people) SetDisabled(ctx context.Context, actor, id string, off bool) error {
	return trouble(p.Users.SetDisabled(ctx, actor, id, off))
}

func (p people) SetPassword(ctx context.Context, actor, id, password string) error {
	return trouble(p.Users.SetPassword(ctx, actor, id, password))
}

func (p people) Remove(ctx context.Context, actor, id string) error {
	return trouble(p.Users.Remove(ctx, actor, id))
}

// shelf is the depot as the dashboard lists it.
type shelf struct{ *depot.Depot }

func (s shelf) List(context.Context) ([]dashboard.Image, error) {
	entries, err := s.Depot.List()
	if err != nil {
		return nil, err
	}
	var out []dashboard.Image
	for _, e := range entries {
		i := dashboard.Image{Root: e.Root, Stored: e.Stored}
		if e.Err != nil {
			i.Name, i.Problem = e.Root[:min(len(e.Root), 12)], e.Err.Error()
		} else {
			m := e.Manifest
			i.Name, i.Version, i.Bytes, i.Created = m.Name, m.Version, m.Bytes, m.Created
		}
		out = append(out, i)
	}
	return out, nil
}

// history reads the store and exports through the audit package.
type history struct{ *appliance.Appliance }

func (h history) Events(ctx context.Context, device string) ([]workshop.Event, error) {
	return h.Store.Events(ctx, device)
}

func (h history) Export(ctx context.Context, w io.Writer, device, format string) error {
	return exportHistory(ctx, h.Records, h.Keys, w, device, audit.Format(format), 0)
}

// network is the boot service's outlook as the dashboard shows it.
func network(a *appliance.Appliance) func() (dashboard.Network, bool) {
	return func() (dashboard.Network, bool) {
		st, ok := a.Network()
		if !ok {
			return dashboard.Network{}, false
		}
		n := dashboard.Network{
			Mode: st.Mode.String(), Fixed: st.Fixed, Why: string(st.Why), Since: st.Since, Own: st.Own.Addr().String(),
			Givers: []string{}, Boots: []string{}, Apart: st.Apart(), Moves: a.Moves(), Twin: st.Twin(), Needs: st.Needs(), Text: st.Text(),
		}
		for _, o := range st.Others {
			if o.Boots {
				n.Boots = append(n.Boots, o.Addr.String())
			} else {
				n.Givers = append(n.Givers, o.Addr.String())
			}
		}
		return n, true
	}
}

// points are the records' checkpoints as the dashboard shows them.
type points struct{ *appliance.Appliance }

func (p points) view(k audit.Kept) dashboard.Checkpoint {
	v := dashboard.Checkpoint{
		Name: k.Name, Number: k.Number, Chains: k.Chains, Lines: k.Lines, Broken: k.Broken, Time: k.Time,
		Note: string(k.Note), SHA256: k.Hash, Root: k.Root.String(), Origin: k.Origin,
	}
	if _, key, err := audit.OpenCheckpoint(k.Note, p.Keys.Public()...); err == nil {
		v.Key = audit.KeyText(key)
	}
	return v
}

func (p points) List(context.Context) ([]dashboard.Checkpoint, error) {
	all, err := p.Records.Checkpoints.All()
	if err != nil {
		return nil, err
	}
	out := make([]dashboard.Checkpoint, 0, len(all))
	for _, k := range slices.Backward(all) {
		out = append(out, p.view(k))
	}
	return out, nil
}

func (p points) Make(ctx context.Context, actor string) (dashboard.Checkpoint, bool, error) {
	k, fresh, err := p.Records.Checkpoint(ctx, actor)
	if bad := new(appliance.Damaged); errors.As(err, &bad) {
		return dashboard.Checkpoint{}, false, fmt.Errorf("%w: %w", dashboard.ErrDamaged, err)
	}
	return p.view(k), fresh, err
}

// exportHistory writes a history with its proof in the checkpoint of that
// number; 0: in the newest, if there is one.
func exportHistory(ctx context.Context, r *appliance.Records, k *appliance.Keys, w io.Writer, device string, format audit.Format, number int64) error {
	// The proof first: a checkpoint that is made meanwhile may know lines that we
	// would not have read.
	proof, err := r.Proof(device, number)
	if err != nil {
		return err
	}
	if proof == nil && number > 0 {
		return fmt.Errorf("checkpoint %d saw nothing of a device %q", number, device)
	}
	lines, err := r.Lines(ctx, device)
	if err != nil {
		return err
	}
	if len(lines) == 0 {
		return fmt.Errorf("no history of a device %q: its id is in the address of its page", device)
	}
	entries := make([]audit.Entry, len(lines))
	for i, l := range lines {
		entries[i] = audit.Entry(l)
	}
	var c audit.Cover
	if format == audit.HTML {
		if c, err = cover(ctx, r.Store, device); err != nil {
			return err
		}
	}
	return audit.ExportWith(w, device, entries, format, k.Signing, time.Now(), proof, c)
}

// cover tells whose PC it was and which one, for the top of the printed page.
func cover(ctx context.Context, s *store.Store, device string) (audit.Cover, error) {
	var c audit.Cover
	d, err := s.Device(ctx, device)
	if err != nil {
		return c, err
	}
	if c.Names, err = (evidence{s}).Names(ctx); err != nil {
		return c, err
	}
	donor := strings.TrimPrefix(c.Names["lot:"+d.Lot], lotOf)
	c.Names["appliance"], c.Names["agent"], c.Names["system"] = "Refurb", "the PC", "the installed system"
	if d.ID == "" {
		return c, nil // the house
	}
	id := d.Report.Identity
	c.Title = fmt.Sprintf("PC %d", d.Number)
	if name := strings.TrimSpace(id.Manufacturer + " " + id.Model); name != "" {
		c.Title += " · " + name
	}
	if donor != "" {
		c.Facts = append(c.Facts, audit.Fact{Name: "Donor", Value: donor})
	}
	if id.SystemSerial != "" {
		c.Facts = append(c.Facts, audit.Fact{Name: "Serial number", Value: id.SystemSerial})
	}
	return c, nil
}
