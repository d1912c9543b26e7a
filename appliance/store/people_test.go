package store_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"refurb/appliance/store"
)

// The house never stands without an admin who can log in.
func TestLastAdminStays(t *testing.T) {
	s, _ := open(t)
	u := s.Users()
	add := func(name, role string) string {
		t.Helper()
		v, err := u.Create(bg, "setup", name, "correct horse", role)
		if err != nil {
			t.Fatal(err)
		}
		return v.ID
	}
	ana, ben, lea := add("Ana", "admin"), add("Ben", "admin"), add("Lea", "lead")
	if err := u.SetDisabled(bg, ben, ana, true); err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func() error{
		"switched off": func() error { return u.SetDisabled(bg, ana, ben, true) },
		"demoted":      func() error { return u.SetRole(bg, ana, ben, "lead") },
		"removed":      func() error { return u.Remove(bg, ana, ben) },
	} {
		if err := do(); !errors.Is(err, store.ErrLastAdmin) {
			t.Errorf("the last admin is %s: %v", what, err)
		}
	}
	if v, err := u.ByID(bg, ben); err != nil || v.Disabled || v.Role != "admin" {
		t.Fatalf("%+v %v", v, err)
	}
	// What doesn't concern admins goes on.
	if err := errors.Join(u.SetRole(bg, ben, lea, "viewer"), u.SetDisabled(bg, ben, lea, true), u.SetPassword(bg, ben, ben, "another one"), u.SetRole(bg, ben, ben, "admin")); err != nil {
		t.Fatal(err)
	}
	// And with a second admin, the first may go.
	if err := errors.Join(u.SetDisabled(bg, ben, ana, false), u.Remove(bg, ana, ben)); err != nil {
		t.Fatal(err)
	}
}

// Two admins who switch each other off in the same moment.
func TestTwoAdminsAtOnce(t *testing.T) {
	s, _ := open(t)
	u := s.Users()
	ids := []string{}
	for _, name := range []string{"Ana", "Ben"} {
		v, err := u.Create(bg, "setup", name, "correct horse", "admin")
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, v.ID)
	}
	for range 20 {
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i := range ids {
			wg.Go(func() { errs[i] = u.SetDisabled(bg, ids[i], ids[1-i], true) })
		}
		wg.Wait()
		refused := 0
		for i, err := range errs {
			if errors.Is(err, store.ErrLastAdmin) {
				refused++
			} else if err != nil {
				t.Fatal(err)
			} else if err := u.SetDisabled(bg, "console", ids[1-i], false); err != nil {
				t.Fatal(err)
			}
		}
		if refused != 1 {
			t.Fatalf("%d of 2 were refused: %v", refused, errs)
		}
	}
}

// A person who is removed is gone from the file, and the history stays whole.
func TestRemovedNameIsGone(t *testing.T) {
	s, path := open(t)
	u := s.Users()
	admin, err := u.Create(bg, "setup", "Ana", "correct horse", "admin")
	if err != nil {
		t.Fatal(err)
	}
	const name = "Xanthippe Quisling"
	gone, err := u.Create(bg, admin.ID, name, "correct horse", "lead")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Events(bg, ""); err != nil { // a reader has its own connection
		t.Fatal(err)
	}
	holds := func() (n int) {
		files, err := filepath.Glob(path + "*")
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			n += bytes.Count(bytes.ToLower(b), []byte("xanthippe"))
		}
		return n
	}
	if holds() == 0 {
		t.Fatal("the name is nowhere even before: this test sees nothing")
	}
	if err := u.Remove(bg, admin.ID, gone.ID); err != nil {
		t.Fatal(err)
	}
	if n := holds(); n != 0 {
		t.Errorf("the name still stands in the file %d times", n)
	}
	if _, err := u.ByID(bg, gone.ID); !errors.Is(err, store.ErrNoUser) {
		t.Error(err)
	}
	if err := u.Remove(bg, admin.ID, gone.ID); !errors.Is(err, store.ErrNoUser) {
		t.Error(err)
	}
	events, err := s.Events(bg, "")
	if err != nil {
		t.Fatal(err)
	}
	last := events[len(events)-1]
	if last.Kind != "user_removed" || last.Params["user"] != gone.ID || last.Actor != admin.ID {
		t.Errorf("%+v", last)
	}
	// Sealed again from the start, each line is what it was.
	if _, err := s.Lines(bg, ""); err != nil {
		t.Error(err)
	}
	// The name is free for somebody else, who is another person.
	again, err := u.Create(bg, admin.ID, name, "correct horse", "viewer")
	if err != nil || again.ID == gone.ID {
		t.Errorf("%+v %v", again, err)
	}
}
