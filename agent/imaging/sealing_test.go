package imaging

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"refurb/agent/wire"
)

// Whoever is asked last sees a disk that holds the whole image and doesn't
// start, and can leave it like that.
func TestSealing(t *testing.T) {
	for _, c := range []struct {
		name  string
		says  error
		cause string
	}{
		{"yes", nil, ""},
		{"no", &wire.Error{Message: "the disk's own self-test failed", Next: "put another disk in"}, "self-test failed"},
		{"stopped meanwhile", errors.New("stopped by the workshop"), "stopped by the workshop"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := paint(t, 3, 9<<20, 512)
			d := newMemory(12<<20, 512)
			j := p.job(t)
			asked := 0
			starts := func() bool { return len(bytes.Trim(d.data[:1<<20], "\x00")) > 0 }
			m := new(Meter)
			j.Sealing = func(context.Context) error {
				if asked++; starts() || m.Progress().Phase != wire.PhaseFinishing || m.readBack.Load() < 1 {
					t.Error("asked too early or too late")
				}
				return c.says
			}
			out, table := Write(t.Context(), d, j, m)
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}
			if c.says == nil {
				mustDone(t, out, p.m.Bytes)
				return
			}
			if out.Result != wire.Failed || table != nil || !strings.Contains(out.Cause, c.cause) || starts() {
				t.Errorf("%+v; it starts: %v", out, starts())
			}
			if e, ok := errors.AsType[*wire.Error](c.says); ok && out.Next != e.Next {
				t.Errorf("next: %q", out.Next)
			}
		})
	}
}
