package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"refurb/appliance"
	"refurb/appliance/audit"
	"refurb/appliance/papers"
)

type auditCmd struct {
	Export       auditExportCmd     `cmd:"" help:"Write one device's audit log."`
	Verify       auditVerifyCmd     `cmd:"" help:"Check an exported log, checkpoints or papers, on any machine; names the first bad line."`
	Checkpoint   auditCheckpointCmd `cmd:"" help:"Sign where all histories stand, to be published."`
	Key          auditKeyCmd        `cmd:"" help:"Print the public key that proves this appliance's exports."`
	Doctor       auditDoctorCmd     `cmd:"" help:"Look at everything that is written down, and say what is wrong."`
	AcceptDamage auditAcceptCmd     `cmd:"" help:"Go on with damaged records; what is wrong is written into the history of the house."`
}

// isData refuses what is no data folder yet: one whose name was mistyped is not
// made, and a key that was made just now has signed nothing.
func isData(data string) error {
	_, err := os.Stat(filepath.Join(data, "keys", "signing.ed25519"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no key is here yet: is %s the appliance's data folder? If it is, restore its keys from your backup; a new one is made by `refurb payload build` (%w)", data, err)
	}
	return nil
}

func oldKeys(data string) (*appliance.Keys, error) {
	if err := isData(data); err != nil {
		return nil, err
	}
	return appliance.LoadKeys(data)
}

func openRecords(data string) (*appliance.Records, *appliance.Keys, error) {
	keys, err := oldKeys(data)
	if err != nil {
		return nil, nil, err
	}
	r, err := appliance.OpenRecords(data, keys)
	return r, keys, err
}

type auditExportCmd struct {
	dataFlag
	Device     string `arg:"" help:"The device's id, from the address of its page; its number works too."`
	Format     string `enum:"jsonl,csv,html" default:"jsonl" help:"jsonl (can be verified), csv or html (prints well)."`
	Out        string `help:"File to write; standard output without it." type:"path"`
	Checkpoint int64  `help:"Number of the checkpoint to prove it in; without it, the newest."`
}

func (c *auditExportCmd) Run(ctx context.Context) (err error) {
	r, keys, err := openRecords(c.Data)
	if err != nil {
		return err
	}
	defer r.Close()
	state, err := r.Load(ctx)
	if err != nil {
		return err
	}
	device := c.Device
	for _, d := range state.Devices {
		if fmt.Sprint(d.Number) == c.Device {
			device = d.ID
		}
	}
	return output(c.Out, func(w io.Writer) error {
		return exportHistory(ctx, r, keys, w, device, audit.Format(c.Format), c.Checkpoint)
	})
}

// output writes to a file, which appears whole or not at all, or to standard output.
func output(path string, write func(io.Writer) error) (err error) {
	if path == "" {
		return write(os.Stdout)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".refurb-*")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Sync(), f.Close())
		if err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	return write(f)
}

type auditVerifyCmd struct {
	Files      []string `arg:"" help:"Exports in JSON Lines, checkpoints, papers (HTML or JSON); each is checked." type:"existingfile"`
	Key        []string `help:"Public key that must have signed, as 'refurb audit key' prints it, or a file with it; a former one too, if the key has changed." placeholder:"KEY"`
	Checkpoint string   `help:"A checkpoint that was published, which must cover the export." type:"existingfile"`
}

func (c *auditVerifyCmd) Run() error {
	var keys []ed25519.PublicKey
	for _, s := range c.Key {
		if b, err := os.ReadFile(s); err == nil && len(b) < 1<<10 {
			s = string(b)
		}
		k, err := audit.ParseKey(strings.TrimSpace(s))
		if err != nil {
			return errors.New("--key: want the line that `refurb audit key` prints on the appliance, or a file that holds it")
		}
		keys = append(keys, k)
	}
	t := audit.Trust{Keys: keys}
	if c.Checkpoint != "" {
		if len(keys) == 0 {
			return errors.New("a checkpoint proves nothing without the key of the house: give it with --key")
		}
		var err error
		if t.Note, err = readStart(c.Checkpoint); err != nil {
			return err
		}
	}
	var notes []string // checkpoints are checked as one row
	var bad []error
	for _, f := range c.Files {
		b, err := readStart(f)
		switch {
		case err != nil:
		case bytes.HasPrefix(b, []byte("refurb/")):
			notes = append(notes, f)
		case papers.Is(b):
			err = verifyPapers(f, keys)
		default:
			err = verifyExport(f, t)
		}
		if err != nil {
			bad = append(bad, err)
		}
	}
	if len(notes) > 0 {
		if err := verifyCheckpoints(notes, keys); err != nil {
			bad = append(bad, err)
		}
	}
	return errors.Join(bad...)
}

// readStart reads as much of a file as a checkpoint can have, and a byte more.
func readStart(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, audit.MaxNote+1))
}

func verifyExport(file string, t audit.Trust) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	// The CSV or the printed page is a mistake, no forgery.
	first := make([]byte, 1)
	if n, _ := f.ReadAt(first, 0); n == 1 && first[0] != '{' {
		return fmt.Errorf("%s can't be verified: it is none of the signed forms. Of an audit log that is the .jsonl file, which the button JSONL gives", file)
	}
	r, err := t.VerifyFile(f)
	if err != nil {
		return fmt.Errorf("%s does not hold: %w", file, err)
	}
	whose := "device " + r.Device
	if r.Device == "" {
		whose = "the house"
	}
	fmt.Printf("good: %s: %d lines of %s, exported %s\n", filepath.Base(file), r.Count, whose, r.Exported.Format(time.RFC3339))
	fmt.Printf("signed by key %s\n", audit.KeyText(r.Key))
	if k := r.Checkpoint; k != nil {
		fmt.Printf("lines 1 to %d stand in checkpoint %d of %s (%s)\n", r.Covered, k.Number, k.Time.Format(time.RFC3339), k.Origin)
		if k.Broken > 0 {
			fmt.Printf("that checkpoint says that %d histories of the house were damaged before it\n", k.Broken)
		}
		if !r.Published {
			fmt.Println("The checkpoint came with the file. Give one that was published before with --checkpoint.")
		}
	}
	if !r.Trusted {
		fmt.Println("That key came with the file. Compare it with the one the appliance's people published, or give theirs with --key.")
	}
	return nil
}

// verifyCheckpoints checks notes as one sequence, whatever order they were named in.
func verifyCheckpoints(files []string, keys []ed25519.PublicKey) error {
	if len(keys) == 0 {
		return errors.New("a checkpoint proves nothing without the key of the house: give it with --key")
	}
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b string) int { return cmp.Compare(filepath.Base(a), filepath.Base(b)) })
	var notes [][]byte
	for _, name := range files {
		b, err := readStart(name)
		if err != nil {
			return err
		}
		notes = append(notes, b)
	}
	all, err := audit.VerifyCheckpoints(notes, keys...)
	var bad *audit.Trouble
	if errors.As(err, &bad) && len(notes) == 1 && bad.Kind == audit.Missing {
		// One alone has nothing before it, and that is no fault.
		var c audit.Checkpoint
		if c, _, err = audit.OpenCheckpoint(notes[0], keys...); err == nil {
			all = []audit.Checkpoint{c}
		}
	}
	if err != nil {
		return fmt.Errorf("the checkpoints do not hold: %w", err)
	}
	for i, c := range all {
		fmt.Printf("good: checkpoint %d of %s, %s: %d histories with %d lines, SHA-256 %s\n",
			c.Number, c.Time.Format(time.RFC3339), c.Origin, c.Chains, c.Lines, audit.NoteHash(notes[i]))
		if c.Broken > 0 {
			fmt.Printf("  it says that %d histories were damaged before it\n", c.Broken)
		}
		if c.NextKey != nil {
			fmt.Printf("  it hands over to key %s\n", audit.KeyText(c.NextKey))
		}
	}
	return nil
}

type auditCheckpointCmd struct {
	dataFlag
	List  bool   `help:"List those that are there, and make none."`
	Print int64  `help:"Print this one, and make none." placeholder:"NUMBER"`
	Out   string `help:"File to write it to; standard output without it." type:"path"`
}

func (c *auditCheckpointCmd) Run(ctx context.Context) error {
	r, _, err := openRecords(c.Data)
	if err != nil {
		return err
	}
	defer r.Close()
	if c.List || c.Print > 0 {
		all, err := r.Checkpoints.All()
		if err != nil {
			return err
		}
		if c.List {
			return listCheckpoints(all)
		}
		i := slices.IndexFunc(all, func(k audit.Kept) bool { return k.Number == c.Print })
		if i < 0 {
			return fmt.Errorf("there is no checkpoint %d: see `refurb audit checkpoint --list`", c.Print)
		}
		return output(c.Out, func(w io.Writer) error { _, err := w.Write(all[i].Note); return err })
	}
	k, fresh, err := r.Checkpoint(ctx, actorConsole)
	switch {
	case err != nil:
		return err
	case k.Note == nil:
		return errors.New("nothing has been written down yet: there is nothing to sign")
	case !fresh:
		fmt.Fprintln(os.Stderr, "Nothing has changed since this one:")
	}
	return output(c.Out, func(w io.Writer) error { _, err := w.Write(k.Note); return err })
}

func listCheckpoints(all []audit.Kept) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NUMBER\tTIME\tHISTORIES\tLINES\tSHA-256\t")
	for _, k := range all {
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%s\n", k.Number, k.Time.Format(time.RFC3339), k.Chains, k.Lines, k.Hash)
	}
	return w.Flush()
}

type auditKeyCmd struct {
	dataFlag
	Out  string `help:"File to write it to; standard output without it." type:"path"`
	All  bool   `help:"Former keys too, the present one first."`
	Note bool   `help:"In the form that other tools for signed notes take."`
}

func (c *auditKeyCmd) Run() error {
	r, keys, err := openRecords(c.Data)
	if err != nil {
		return err
	}
	defer r.Close()
	public := keys.Public()
	if !c.All {
		public = public[:1]
	}
	origin := audit.Origin(public[0])
	if all, err := r.Checkpoints.All(); err == nil && len(all) > 0 {
		origin = all[0].Origin
	}
	return output(c.Out, func(w io.Writer) error {
		for _, k := range public {
			text := audit.KeyText(k)
			if c.Note {
				if text, err = audit.VerifierKey(origin, k); err != nil {
					return err
				}
			}
			if _, err := fmt.Fprintln(w, text); err != nil {
				return err
			}
		}
		return nil
	})
}

type auditDoctorCmd struct{ dataFlag }

func (c *auditDoctorCmd) Run(ctx context.Context) error {
	r, _, err := openRecords(c.Data)
	if err != nil {
		return err
	}
	defer r.Close()
	found, err := r.Examine(ctx)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		fmt.Println("good: the file, all histories, their evidence and the checkpoints hold")
		return nil
	}
	for _, d := range found {
		fmt.Println("-", d.Error())
	}
	return fmt.Errorf("%d things are wrong. Bring back a copy with `refurb restore FILE`, or go on with what is left with `refurb audit accept-damage`", len(found))
}

type auditAcceptCmd struct {
	dataFlag
	Reason string `required:"" help:"What happened, in a sentence; it stands in the history of the house for good."`
}

func (c *auditAcceptCmd) Run(ctx context.Context) error {
	found, k, err := appliance.AcceptDamage(ctx, c.Data, actorConsole, c.Reason)
	if err != nil {
		return err
	}
	for _, d := range found {
		fmt.Println("-", d.Error())
	}
	fmt.Printf("%d things were written down as accepted. Checkpoint %d says so in public: publish it.\n", len(found), k.Number)
	return nil
}
