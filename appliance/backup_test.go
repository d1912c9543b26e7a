package appliance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"refurb/appliance/audit"
	"refurb/appliance/store"
)

func TestBackupAndRestore(t *testing.T) {
	data := kept(t)
	r, err := records(t, data)
	if err != nil {
		t.Fatal(err)
	}
	sticks := t.TempDir()
	// An old one, then more work and a checkpoint, then one with keys while
	// somebody writes.
	old, err := r.Backup(t.Context(), sticks, false)
	if err != nil {
		t.Fatal(err)
	}
	write(t, r, "B", 3)
	if _, _, err := r.Checkpoint(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				write(t, r, fmt.Sprint("W", i%9), 1)
				if i%20 == 19 {
					if _, _, err := r.Checkpoint(t.Context(), "u"); err != nil {
						t.Error(err)
					}
				}
			}
		}
	})
	full, err := r.Backup(t.Context(), filepath.Join(sticks, "full.tar.gz"), true)
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{old, full} {
		if st, err := os.Stat(f); err != nil || st.Mode().Perm() != 0o600 {
			t.Error(st.Mode(), err)
		}
	}
	if _, err := r.Backup(t.Context(), filepath.Join(sticks, "not-in"), false); err == nil || !strings.Contains(err.Error(), "is the stick in") {
		t.Errorf("a stick that isn't in: %v", err)
	}
	if _, err := r.Backup(t.Context(), full, false); err == nil {
		t.Error("a backup was overwritten")
	}
	if _, err := Restore(t.Context(), t.TempDir(), old); err == nil || !strings.Contains(err.Error(), "without keys") {
		t.Errorf("restored without keys: %v", err)
	}

	t.Run("on another machine", func(t *testing.T) {
		other := t.TempDir()
		done, err := Restore(t.Context(), other, full)
		if err != nil || len(done.Found) > 0 || !done.Keys || done.Aside != "" {
			t.Fatalf("%+v %v", done, err)
		}
		again, err := records(t, other)
		if err != nil {
			t.Fatal(err)
		}
		if !again.key.Equal(r.key) {
			t.Error("another key")
		}
		lines, err := again.Lines(t.Context(), "B")
		if err != nil || len(lines) != 10 {
			t.Errorf("%d lines: %v", len(lines), err)
		}
		if _, _, err := again.Checkpoint(t.Context(), "u"); err != nil {
			t.Error(err)
		}
		for _, name := range secrets {
			if st, err := os.Stat(filepath.Join(other, name)); err != nil || st.Mode().Perm() != 0o600 {
				t.Error(st.Mode(), err)
			}
		}
	})
	t.Run("after a crash, nothing that was stored is lost", func(t *testing.T) {
		crashed := t.TempDir()
		write(t, r, "E", 3)
		for _, name := range []string{recordsFile, recordsFile + "-wal"} { // as they lie there, nothing closed
			b, err := os.ReadFile(filepath.Join(data, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(crashed, name), b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		done, err := Restore(t.Context(), crashed, full)
		if err != nil {
			t.Fatal(err)
		}
		if left, _ := filepath.Glob(filepath.Join(crashed, recordsFile+"*-*al")); len(left) > 0 {
			t.Error("a journal is left:", left)
		}
		aside, err := store.Open(done.Aside, audit.Seal)
		if err != nil {
			t.Fatal(err)
		}
		defer aside.Close()
		if lines, err := aside.Lines(t.Context(), "E"); err != nil || len(lines) != 3 {
			t.Errorf("%d lines of what was there: %v", len(lines), err)
		}
	})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	t.Run("damaged ones change nothing", func(t *testing.T) {
		b, err := os.ReadFile(full)
		if err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(filepath.Join(data, recordsFile))
		if err != nil {
			t.Fatal(err)
		}
		for name, bad := range map[string][]byte{"cut": b[:len(b)-9], "half": b[:len(b)/2], "empty": nil, "edited": append(slices.Clone(b[:2000]), slices.Concat([]byte("xxxx"), b[2004:])...)} {
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Restore(t.Context(), data, file); err == nil {
				t.Errorf("%s: restored", name)
			}
			if after, err := os.ReadFile(filepath.Join(data, recordsFile)); err != nil || string(after) != string(before) {
				t.Errorf("%s: the records were changed", name)
			}
		}
	})
	t.Run("not under a running appliance", func(t *testing.T) {
		lock, err := lockData(data)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if _, err := Restore(t.Context(), data, full); err == nil || !strings.Contains(err.Error(), "another appliance") {
			t.Error(err)
		}
	})
	t.Run("an older one is noticed", func(t *testing.T) {
		done, err := Restore(t.Context(), data, old)
		if err != nil || done.Aside == "" || len(done.Found) == 0 {
			t.Fatalf("%+v %v", done, err)
		}
		if says := (&Damaged{done.Found}).Error(); !strings.Contains(says, "older copy of the records") {
			t.Error(says)
		}
		if _, err := records(t, data); err == nil {
			t.Fatal("the appliance would work with it unseen")
		}
		if _, k, err := AcceptDamage(t.Context(), data, "console", "the newest copy was lost"); err != nil || k.Broken == 0 {
			t.Fatal(k, err)
		}
		if _, err := records(t, data); err != nil {
			t.Fatal(err)
		}
	})
}
