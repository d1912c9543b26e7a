package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"refurb/appliance"
	"refurb/appliance/workshop"
)

// What people type, from a working appliance to a stranger's machine and back
// from a backup.
func TestAuditCommands(t *testing.T) {
	data, away := t.TempDir(), t.TempDir()
	keys, err := appliance.LoadKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	line := func(device string) {
		t.Helper()
		r, err := appliance.OpenRecords(data, keys)
		if err != nil {
			t.Fatal(err)
		}
		e := workshop.Event{Time: time.Now().UTC(), Device: device, Kind: "report", Actor: "agent"}
		if err := errors.Join(r.Commit(t.Context(), workshop.Change{Events: []workshop.Event{e, e}}), r.Close()); err != nil {
			t.Fatal(err)
		}
	}
	refurb := func(want int, args ...string) {
		t.Helper()
		if got := run(t.Context(), args); got != want {
			t.Fatalf("refurb %q ended with %d, want %d", args, got, want)
		}
	}
	at := func(name string) string { return filepath.Join(away, name) }
	line("A")
	line("B")
	refurb(0, "audit", "checkpoint", "--data", data, "--out", at("1.note"))
	line("A")
	refurb(0, "backup", "--data", data, "--to", at("old.tar.gz"))
	line("A")
	refurb(0, "audit", "checkpoint", "--data", data, "--out", at("2.note"))
	refurb(0, "audit", "checkpoint", "--data", data, "--print", "1", "--out", at("1-again.note"))
	refurb(0, "audit", "checkpoint", "--data", data, "--list")
	refurb(0, "audit", "key", "--data", data, "--out", at("house.pub"))
	refurb(0, "audit", "key", "--data", data, "--all", "--note")
	refurb(0, "audit", "export", "A", "--data", data, "--out", at("a.jsonl"))
	refurb(0, "audit", "export", "A", "--data", data, "--checkpoint", "1", "--out", at("a1.jsonl"))
	refurb(0, "audit", "export", "B", "--data", data, "--format", "html", "--out", at("b.html"))
	refurb(1, "audit", "export", "nobody", "--data", data)
	refurb(0, "audit", "doctor", "--data", data)
	refurb(1, "audit", "accept-damage", "--data", data, "--reason", "none")

	// On another machine, with nothing but these files.
	refurb(0, "audit", "verify", at("a.jsonl"))
	refurb(0, "audit", "verify", "--key", at("house.pub"), "--checkpoint", at("2.note"), at("a.jsonl"))
	refurb(0, "audit", "verify", "--key", at("house.pub"), "--checkpoint", at("1.note"), at("a1.jsonl"))
	refurb(1, "audit", "verify", "--key", at("house.pub"), "--checkpoint", at("1.note"), at("a.jsonl"))
	refurb(1, "audit", "verify", "--checkpoint", at("2.note"), at("a.jsonl")) // without a key
	refurb(0, "audit", "verify", "--key", at("house.pub"), at("2.note"), at("1.note"))
	refurb(0, "audit", "verify", "--key", at("house.pub"), at("2.note"))
	refurb(1, "audit", "verify", "--key", "nonsense", at("2.note"))
	refurb(1, "audit", "verify", at("2.note"))
	refurb(1, "audit", "verify", at("b.html"))
	b, err := os.ReadFile(at("a.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("forged.jsonl"), bytes.Replace(b, []byte(`"report"`), []byte(`"Report"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	refurb(1, "audit", "verify", at("forged.jsonl"))

	// An old backup comes back, and the house says so.
	refurb(damaged, "restore", "--data", data, at("old.tar.gz"))
	refurb(1, "audit", "doctor", "--data", data)
	refurb(damaged, "audit", "checkpoint", "--data", data)
	unit, err := os.ReadFile("../../../scripts/service/refurb.service")
	if err != nil || !bytes.Contains(unit, fmt.Appendf(nil, "\nRestartPreventExitStatus=%d\n", damaged)) {
		t.Error("the service is started again and again with damaged records", err)
	}
	refurb(0, "audit", "accept-damage", "--data", data, "--reason", "the newest copy was lost")
	refurb(0, "audit", "doctor", "--data", data)
	refurb(0, "key", "rotate", "--data", data)
	refurb(0, "key", "rotate", "--tls", "--data", data)
	refurb(0, "audit", "export", "A", "--data", data, "--out", at("new.jsonl"))
	refurb(1, "audit", "verify", "--key", at("house.pub"), at("new.jsonl"))
	refurb(0, "audit", "key", "--data", data, "--out", at("new.pub"))
	refurb(0, "audit", "verify", "--key", at("new.pub"), at("new.jsonl"))
	notes, err := filepath.Glob(filepath.Join(data, "checkpoints", "*.note"))
	if err != nil || len(notes) < 5 {
		t.Fatal(notes, err)
	}
	refurb(0, slices.Concat([]string{"audit", "verify", "--key", at("house.pub")}, notes)...)
	refurb(1, slices.Concat([]string{"audit", "verify", "--key", at("house.pub")}, notes[:1], notes[2:])...)
	refurb(1, "audit", "key", "--data", filepath.Join(away, "nothing"))
}
