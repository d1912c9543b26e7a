package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"refurb/appliance"
	"refurb/appliance/trace"
)

// traceCmd reads what the appliance writes down, and asks it for nothing: it
// works beside one at work and when none runs.
type traceCmd struct {
	dataFlag
	Follow bool   `short:"f" help:"Go on and print what comes."`
	All    bool   `help:"List devices too that only ask for an address."`
	PC     string `arg:"" optional:"" name:"pc" help:"A PC's number or network address (MAC); without it, the newest start of every PC."`
}

const followEvery = 500 * time.Millisecond

func (c *traceCmd) Run(ctx context.Context) error {
	pc, err := named(c.PC)
	if err != nil {
		return err
	}
	if _, err := os.Stat(c.Data); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no data folder %s: another one is given with --data", c.Data)
	}
	kept, err := c.read()
	if err != nil {
		return err
	}
	if pc == "" && !c.Follow {
		return c.list(os.Stdout, kept, time.Now())
	}
	starts := theirs(kept.Starts, pc)
	if pc != "" && len(starts) == 0 && !c.Follow {
		return fmt.Errorf("nothing was seen of %s: `refurb trace` lists the PCs that were; for a PC that isn't there, see docs/boot.md, “When a PC doesn't start”", c.PC)
	}
	if pc != "" {
		for _, s := range slices.Backward(starts) {
			print1(os.Stdout, s, time.Now())
		}
	}
	if !c.Follow {
		return nil
	}
	if len(starts) == 0 {
		fmt.Fprintf(os.Stderr, "waiting for %s\n", cmp.Or(c.PC, "the first PC"))
	}
	seen := newFollower(starts)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
		if kept, err = c.read(); err != nil {
			return err
		}
		seen.show(os.Stdout, theirs(kept.Starts, pc), time.Now())
	}
}

// named is how a PC is looked for: its number, or its network address as it is
// written down.
func named(pc string) (string, error) {
	if n, err := strconv.Atoi(pc); pc == "" || err == nil && n > 0 {
		return pc, nil
	}
	mac, err := net.ParseMAC(pc)
	if err != nil || len(mac) != 6 {
		return "", fmt.Errorf("%q is neither a PC's number nor a network address such as 52:54:00:12:34:56", pc)
	}
	return mac.String(), nil
}

func (c *traceCmd) read() (trace.Kept, error) {
	dir := appliance.TraceFolder(c.Data)
	kept, err := trace.Read(dir)
	if err != nil {
		return kept, fmt.Errorf("boot trace: %w (another folder is given with --data)", err)
	}
	return kept, nil
}

// theirs are the starts of one PC, or all.
func theirs(starts []*trace.Start, pc string) []*trace.Start {
	if pc == "" {
		return starts
	}
	n, err := strconv.Atoi(pc)
	var out []*trace.Start
	for _, s := range starts {
		if s.Has(pc) || err == nil && n > 0 && s.Number == n {
			out = append(out, s)
		}
	}
	return out
}

// list prints the newest start of every PC, and what the network has of others.
func (c *traceCmd) list(w io.Writer, kept trace.Kept, now time.Time) error {
	shown := 0
	for _, s := range kept.Starts {
		if !s.Again.IsZero() || !c.All && !trace.Netbooting(s) {
			continue
		}
		if shown++; shown > 1 {
			fmt.Fprintln(w)
		}
		found := trace.Diagnose(s, now)
		fmt.Fprintf(w, "%s  %s  %s\n  %s\n", s.Last.Local().Format("2006-01-02 15:04:05"), name(s), s.Firmware(), chain(s, found))
		say(w, found, false)
	}
	if shown == 0 {
		fmt.Fprintln(w, "No PC has started from the network lately. Is the cable's light on, and was “network” chosen in the boot menu? See docs/boot.md, “When a PC doesn't start”.")
	}
	for _, l := range kept.House {
		fmt.Fprintf(w, "\n%s\n", l.Text())
	}
	return nil
}

func name(s *trace.Start) string {
	if s.Number > 0 {
		return fmt.Sprintf("PC %d (%s)", s.Number, s.MACs[0])
	}
	return s.MACs[0]
}

// chain is "firmware ✓ loader ✓ script … kernel  initramfs  hello".
func chain(s *trace.Start, found []trace.Finding) string {
	if !trace.Netbooting(s) {
		return "asks for an address only"
	}
	marks := map[trace.Standing]string{trace.Ahead: "·", trace.Here: "…", trace.Past: "✓", trace.Stuck: "✗"}
	var parts []string
	for _, st := range trace.Chain(s, found) {
		parts = append(parts, st.Stage.String()+" "+marks[st.Standing])
	}
	return strings.Join(parts, " → ")
}

func say(w io.Writer, found []trace.Finding, evidence bool) {
	for _, f := range found {
		fmt.Fprintf(w, "  %s: %s\n    → %s\n", f.Severity, f.Cause(), f.Next())
		for _, e := range f.Evidence {
			if evidence {
				fmt.Fprintf(w, "      %s\n", e)
			}
		}
	}
}

// print1 prints one start whole.
func print1(w io.Writer, s *trace.Start, now time.Time) {
	found := trace.Diagnose(s, now)
	fmt.Fprintf(w, "%s  %s  %s  %s\n  %s\n", s.Began.Local().Format("2006-01-02 15:04:05"), name(s), s.Firmware(), s.UUID, chain(s, found))
	for i := range s.Lines {
		fmt.Fprintf(w, "    %s\n", s.Lines[i].Text())
	}
	if s.Dropped > 0 {
		fmt.Fprintf(w, "    (%d more in the middle are not kept)\n", s.Dropped)
	}
	say(w, found, true)
	fmt.Fprintln(w)
}

// follower remembers what was printed.
type follower struct {
	lines map[string]map[string]string // start → line → its text
	found map[string]string            // start → findings
}

func newFollower(starts []*trace.Start) *follower {
	f := &follower{lines: map[string]map[string]string{}, found: map[string]string{}}
	f.show(io.Discard, starts, time.Now())
	return f
}

// show prints what is new, oldest first.
func (f *follower) show(w io.Writer, starts []*trace.Start, now time.Time) {
	here := map[string]bool{}
	for _, s := range slices.Backward(starts) {
		here[s.ID] = true
		if f.lines[s.ID] == nil {
			f.lines[s.ID] = map[string]string{}
		}
		for i := range s.Lines {
			l := &s.Lines[i]
			key, text := fmt.Sprint(l.Time.UnixNano(), l.What, l.File, l.Detail), l.Text()
			if f.lines[s.ID][key] != text {
				f.lines[s.ID][key] = text
				fmt.Fprintf(w, "%s  %s\n", name(s), text)
			}
		}
		var b strings.Builder
		say(&b, trace.Diagnose(s, now), false)
		if b.String() != f.found[s.ID] {
			f.found[s.ID] = b.String()
			fmt.Fprintf(w, "%s\n%s", name(s), b.String())
		}
	}
	for id := range f.lines {
		if !here[id] {
			delete(f.lines, id)
			delete(f.found, id)
		}
	}
}
