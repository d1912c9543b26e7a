package main

import (
	"log/slog"
	"os"
	"strings"
	"testing"
)

// A wrong card is found before anything else is: no folder, and no code for a
// first visit that can't be made.
func TestServeWithoutCard(t *testing.T) {
	data := t.TempDir()
	for name, want := range map[string]string{"": "no network interface given", "nosuch0": "there is no network interface", "lo": "no PC can be plugged into"} {
		c := serveCmd{Interface: name, Data: data}
		if err := c.Run(t.Context(), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if left, err := os.ReadDir(data); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}
