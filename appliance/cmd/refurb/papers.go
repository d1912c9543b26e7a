package main

import (
	"context"
	"crypto/ed25519"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"refurb/appliance"
	"refurb/appliance/audit"
	"refurb/appliance/papers"
	"refurb/appliance/store"
	"refurb/appliance/workshop"
	"refurb/dashboard"
)

// lotOf is how a lot's standing approval is called, before the donor's name.
const lotOf = "the lot of "

// evidence is the store as papers are made from it.
type evidence struct{ *store.Store }

func (e evidence) Chain(ctx context.Context, device string) ([]audit.Entry, error) {
	lines, err := e.Lines(ctx, device)
	entries := make([]audit.Entry, len(lines))
	for i, l := range lines {
		entries[i] = audit.Entry(l)
	}
	return entries, err
}

func (e evidence) Names(ctx context.Context) (map[string]string, error) {
	names := map[string]string{}
	users, err := e.Users().List(ctx)
	if err != nil {
		return nil, err
	}
	for _, u := range users {
		names[u.ID] = u.Name
	}
	lines, err := e.Lines(ctx, "")
	for _, l := range lines {
		// A line that can't be read is damage that people know of: the devices
		// keep their papers.
		var v workshop.Event
		if json.Unmarshal(l.Line, &v) == nil && v.Kind == "lot_opened" {
			names["lot:"+v.Params["lot"]] = lotOf + v.Params["donor"]
		}
	}
	return names, err
}

// drawer is the office as the dashboard asks it.
type drawer struct{ *papers.Office }

func (d drawer) List(ctx context.Context, device string) ([]dashboard.Paper, error) {
	list, err := d.Office.List(ctx, device)
	var all []dashboard.Paper
	for _, p := range list {
		all = append(all, dashboard.Paper{Kind: string(p.Kind), ID: p.ID, Time: p.Time, Result: p.Result, Refused: p.Refused})
	}
	return all, err
}

func (d drawer) Write(ctx context.Context, w io.Writer, kind, id, format string) error {
	return d.Office.Write(ctx, w, papers.Kind(kind), id, papers.Format(format))
}

type papersCmd struct {
	dataFlag
	What string `arg:"" name:"device|lot" help:"A device's number or id, or a lot's id from the address of its page."`
	To   string `required:"" help:"Folder to write to; made if it isn't there, and must be empty." type:"path" placeholder:"DIR"`
}

//go:embed papers.txt
var papersReadme string

func (c *papersCmd) Run(ctx context.Context) error {
	r, keys, err := openRecords(c.Data)
	if err != nil {
		return err
	}
	defer r.Close()
	state, err := r.Load(ctx)
	if err != nil {
		return err
	}
	into := map[string]string{}
	for _, d := range state.Devices {
		into[d.ID] = d.Into
	}
	// root is the record that one leads to: the papers of merged ones go with it.
	root := func(id string) string {
		for into[id] != "" {
			id = into[id]
		}
		return id
	}
	devices, lot := state.Devices, (*workshop.Lot)(nil)
	keep := func(d workshop.Device) bool { return d.ID == c.What || fmt.Sprint(d.Number) == c.What }
	if i := slices.IndexFunc(state.Lots, func(l workshop.Lot) bool { return l.ID == c.What }); i >= 0 {
		lot = &state.Lots[i]
		keep = func(d workshop.Device) bool { return d.Lot == lot.ID }
	}
	wanted := map[string]bool{}
	for _, d := range devices {
		if keep(d) && (lot == nil || d.Into == "") { // a lot counts a merged pair where it is kept
			wanted[root(d.ID)] = true
		}
	}
	devices = slices.DeleteFunc(devices, func(d workshop.Device) bool { return !wanted[root(d.ID)] })
	if lot == nil && len(devices) == 0 {
		return fmt.Errorf("there is no device and no lot %q: a device's number stands on its card, a lot's id in the address of its page", c.What)
	}
	if err := emptyFolder(c.To); err != nil {
		return err
	}
	b := bundle{office: papers.New(evidence{r.Store}, keys.Signing), records: r, keys: keys, dir: c.To}
	for _, d := range devices {
		if err := b.device(ctx, d); err != nil {
			return err
		}
	}
	if lot == nil {
		return b.finish(fmt.Sprintf("PC %d", devices[0].Number))
	}
	if err := b.paper(ctx, papers.Donor, lot.ID, "donor-report"); err != nil {
		return err
	}
	if err := b.file("all-papers.html", func(w io.Writer) error { return b.office.WriteLot(ctx, w, lot.ID) }); err != nil {
		return err
	}
	return b.finish("the lot of " + lot.Donor)
}

// emptyFolder makes a folder, or takes one that is empty: old papers among new
// ones would be sent along.
func emptyFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty: name another folder", dir)
	}
	return err
}

// bundle is a folder of papers in the making.
type bundle struct {
	office  *papers.Office
	records *appliance.Records
	keys    *appliance.Keys
	dir     string
	count   int
	none    []string
}

func (b *bundle) file(name string, write func(io.Writer) error) error {
	if err := output(filepath.Join(b.dir, name), write); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.Chmod(filepath.Join(b.dir, name), 0o644)
}

// paper writes one in both its forms.
func (b *bundle) paper(ctx context.Context, k papers.Kind, id, name string) error {
	for _, f := range []papers.Format{papers.JSON, papers.HTML} {
		err := b.file(name+"."+string(f), func(w io.Writer) error { return b.office.Write(ctx, w, k, id, f) })
		if err != nil {
			return err
		}
	}
	b.count++
	return nil
}

// device writes all papers of a device and its audit log.
func (b *bundle) device(ctx context.Context, d workshop.Device) error {
	list, err := b.office.List(ctx, d.ID)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("pc-%d-", d.Number)
	numbers := map[papers.Kind]int{}
	for _, p := range list {
		if p.Refused != nil {
			b.none = append(b.none, fmt.Sprintf("PC %d, %s: %s.", d.Number, p.Kind, p.Refused.Message))
			continue
		}
		at := name + string(p.Kind)
		if numbers[p.Kind]++; p.Kind != papers.NoStorage {
			at += fmt.Sprintf("-%d", numbers[p.Kind])
		}
		if err := b.paper(ctx, p.Kind, p.ID, at); err != nil {
			return err
		}
	}
	for _, f := range []audit.Format{audit.JSONLines, audit.HTML} {
		err := b.file(name+"audit-log."+string(f), func(w io.Writer) error {
			return exportHistory(ctx, b.records, b.keys, w, d.ID, f, 0)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// finish adds what a stranger needs to check the rest.
func (b *bundle) finish(what string) error {
	key := audit.KeyText(b.keys.Signing.Public().(ed25519.PublicKey))
	none := "None.\n"
	if len(b.none) > 0 {
		none = "- " + strings.Join(b.none, "\n- ") + "\n"
	}
	text := strings.NewReplacer("WHAT", what, "KEY", key, "NONE\n", none).Replace(papersReadme)
	err := errors.Join(
		b.file("public-key.txt", func(w io.Writer) error { _, err := fmt.Fprintln(w, key); return err }),
		b.file("README.txt", func(w io.Writer) error { _, err := io.WriteString(w, text); return err }),
	)
	if err == nil {
		fmt.Printf("%d papers of %s are in %s\n", b.count, what, b.dir)
	}
	return err
}

// verifyPapers checks papers, in JSON or on a page.
func verifyPapers(file string, keys []ed25519.PublicKey) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if len(keys) == 0 {
		keys = []ed25519.PublicKey{nil}
	}
	var rep papers.Report
	for _, k := range keys {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		var again error
		if rep, again = papers.Verify(f, k); again == nil {
			err = nil
			break
		}
		err = again
	}
	if err != nil {
		return fmt.Errorf("%s does not hold: %w", file, err)
	}
	for _, p := range rep.Papers {
		fmt.Printf("good: %s: %s: %s\n  as of %s, SHA-256 %s\n", filepath.Base(file), p.Title(), p.Verdict(), p.Time().Format(time.RFC3339), p.SHA256)
	}
	fmt.Printf("signed by key %s\n", audit.KeyText(rep.Key))
	if !rep.Trusted {
		fmt.Println("That key came with the file. Compare it with the one the appliance's people published, or give theirs with --key.")
	}
	switch rep.Page {
	case papers.SamePage:
		fmt.Println("The page says what was signed, to the letter. People's names and the day of printing on it are not signed.")
	case papers.OtherPage:
		return errors.New("the signed documents in this page are good, but the page was laid out by another version of this program: whether it shows what they say is not known; believe the lines above, or verify the JSON files")
	}
	return nil
}
