//go:build e2e

package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/appliance"
	"refurb/appliance/trace"
	"refurb/scripts/lab"
)

// starts are what the appliance has written down of a PC, newest first.
func (s *shop) starts(pc *lab.PC) []*trace.Start {
	s.Helper()
	kept, err := trace.Read(appliance.TraceFolder(s.data))
	must(s, err)
	return slices.DeleteFunc(kept.Starts, func(st *trace.Start) bool { return !st.Has(pc.MAC) })
}

// traced waits until a start of the PC satisfies ok.
func (s *shop) traced(pc *lab.PC, what string, ok func(*trace.Start, []trace.Finding) bool) (*trace.Start, []trace.Finding) {
	s.Helper()
	for {
		starts := s.starts(pc)
		for _, st := range starts {
			if found := trace.Diagnose(st, time.Now()); ok(st, found) {
				return st, found
			}
		}
		select {
		case <-s.ctx.Done():
			var b strings.Builder
			for _, st := range starts {
				for i := range st.Lines {
					b.WriteString(st.Lines[i].Text() + "\n")
				}
			}
			s.Fatalf("%s: waited for %s; the trace has\n%s\nserial port:\n%s", pc.Name, what, b.String(), pc.Tail(1500))
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// A PC whose firmware refuses our boot loader, and one whose cable is pulled
// while it starts: the trace names cause and stage of both, the command line
// says it, and a start that goes well ends in a hello.
func TestTraceNamesWhatStopsAPC(t *testing.T) {
	s := open(t)
	s.lot(false)
	locked, pulled := s.pc(lab.Config{Name: "locked", Firmware: lab.OtherKeys}), s.pc(lab.Config{Name: "pulled", Firmware: lab.BIOS})
	s.start(locked)
	s.start(pulled)

	_, _ = s.traced(pulled, "its boot script", func(st *trace.Start, _ []trace.Finding) bool {
		return slices.ContainsFunc(st.Lines, func(l trace.Line) bool { return l.What == "script" && l.Boots != "" })
	})
	must(t, pulled.Unplug())
	st, found := s.traced(locked, "the firmware to refuse shim", func(_ *trace.Start, found []trace.Finding) bool {
		return len(found) > 0 && found[0].Severity == trace.Failure
	})
	if found[0].ID != "shim-refused" || found[0].With["File"] != "shimx64.efi" || st.Firmware() != "UEFI x64" {
		t.Errorf("firmware with other keys: found %v", found)
	}
	stuck(t, st, found, trace.Loader)
	locked.PowerOff()

	st, found = s.traced(pulled, "its cable to be missed", func(_ *trace.Start, found []trace.Finding) bool {
		return len(found) > 0 && found[0].Severity == trace.Failure
	})
	// Where it was when the cable was pulled is chance; what it was about to do is not.
	stages := map[string]trace.Stage{"no-kernel": trace.Script, "no-initramfs": trace.Kernel, "transfer-slow": trace.Initramfs, "no-hello-card": trace.Initramfs}
	at, ok := stages[found[0].ID]
	if found[0].ID == "transfer-slow" && found[0].With["File"] == "vmlinuz" {
		at = trace.Kernel
	}
	if !ok || len(found[0].Evidence) == 0 {
		t.Errorf("a pulled cable: found %v", found)
	}
	stuck(t, st, found, at)
	out, err := exec.Command(built.refurb, "trace", pulled.MAC, "--data", s.data).CombinedOutput()
	if err != nil || !strings.Contains(string(out), found[0].Cause()) || !strings.Contains(string(out), found[0].Next()) || !strings.Contains(string(out), "✗") {
		t.Errorf("refurb trace: %v\n%s", err, out)
	}

	must(t, pulled.Plug())
	pulled.PowerOff()
	s.start(pulled)
	st, found = s.traced(pulled, "its hello", func(st *trace.Start, _ []trace.Finding) bool { return st.Number > 0 && st.Again.IsZero() })
	if len(found) > 0 && found[0].Severity == trace.Failure {
		t.Errorf("a start that went well: found %v", found)
	}
	if chain := trace.Chain(st, found); chain[len(chain)-1].Stage != trace.Agent || chain[len(chain)-1].Standing != trace.Past {
		t.Errorf("it ends in %v", chain)
	}
	if hello := st.Lines[len(st.Lines)-1]; hello.What != trace.Hello || hello.Link.Card == "" || hello.Link.Address <= 0 {
		t.Errorf("the last line is %+v", hello)
	}
	out, err = exec.Command(built.refurb, "trace", "--data", s.data).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PC 1 ("+pulled.MAC+")") || !strings.Contains(string(out), "hello ✓") {
		t.Errorf("refurb trace: %v\n%s", err, out)
	}
}

func stuck(t *testing.T, st *trace.Start, found []trace.Finding, at trace.Stage) {
	t.Helper()
	for _, step := range trace.Chain(st, found) {
		if (step.Stage == at) != (step.Standing == trace.Stuck) {
			t.Errorf("%s is %s, and it stopped at %s", step.Stage, step.Standing, at)
		}
	}
}
