package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What can't be found is said to be so, whatever the reason.
func TestTraceArguments(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	for _, tt := range []struct{ data, pc, want string }{
		{gone, "", "there is no data folder " + gone + ": another one is given with --data"},
		{t.TempDir(), "nonsense", `"nonsense" is neither a PC's number nor a network address such as 52:54:00:12:34:56`},
		{t.TempDir(), "0", "is neither"},
		{t.TempDir(), "7", "nothing was seen of 7"},
		{t.TempDir(), "52-54-00-AB-34-56", "nothing was seen of 52-54-00-AB-34-56"},
	} {
		c := traceCmd{dataFlag: dataFlag{Data: tt.data}, PC: tt.pc}
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v", tt.pc, err)
		}
	}
	for in, want := range map[string]string{"": "", "12": "12", "52-54-00-AB-34-56": "52:54:00:ab:34:56"} {
		if got, err := named(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

// Whoever follows a PC that sends nothing yet sees that it is looked for.
func TestTraceWaits(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	old := os.Stderr
	os.Stderr = w
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	err = (&traceCmd{dataFlag: dataFlag{Data: t.TempDir()}, Follow: true, PC: "7"}).Run(ctx)
	os.Stderr = old
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, _ := r.Read(b)
	if got := string(b[:n]); got != "waiting for 7\n" {
		t.Errorf("%q", got)
	}
}
