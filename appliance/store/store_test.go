package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"

	"refurb/agent/wire"
	"refurb/appliance/audit"
	"refurb/appliance/store"
	"refurb/appliance/workshop"
)

var (
	bg   = context.Background()
	noon = time.Date(2026, 3, 4, 12, 0, 0, 123456789, time.UTC)

	_ scs.CtxStore   = store.Sessions{}
	_ workshop.Store = (*store.Store)(nil)
)

func open(t *testing.T) (*store.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "with blank & ? #", "refurb.db")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(path, audit.Seal)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, path
}

// raw opens the file past the store, as somebody with a SQLite shell would.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+strings.NewReplacer("?", "%3f", "#", "%23").Replace(path)+"?_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func change(n int) workshop.Change {
	id := fmt.Sprint("D", n)
	return workshop.Change{
		Devices: []workshop.Device{{ID: id, Number: n, State: workshop.Received, Lot: "L", MACs: []string{"00:21:cc:00:00:01"}, Created: noon, Seen: noon, Job: id + "J",
			Report: wire.Report{BootID: "b", Clock: noon, Identity: wire.Identity{Model: "π"}, Disks: []wire.Disk{{DiskID: wire.DiskID{Path: "/dev/sda", Bytes: 1 << 62}}}}}},
		Jobs: []workshop.Job{{ID: id + "J", Device: id, Lot: "L", State: workshop.Held, Hold: workshop.HoldLot, Boot: "b", Created: noon, Changed: noon,
			Taken: []wire.EventKind{wire.EventImaging}, Approval: &workshop.Approval{By: "u", At: noon}, Outcome: &wire.Outcome{Result: wire.Done, ReadBack: 1 << 60}}},
		Boots:     []workshop.Boot{{TokenHash: id + "T", MAC: "00:21:cc:00:00:01", Device: id, BootID: id + "B", Issued: noon}},
		Events:    []workshop.Event{{Time: noon, Device: id, Kind: "device_created", Actor: "appliance"}, {Time: noon, Device: id, Kind: "report", Actor: "agent", Params: map[string]string{"a": "b"}}},
		Documents: []workshop.Document{{Hash: id + "H", JSON: []byte(`{"x":1}`)}},
	}
}

func TestWhatIsStoredComesBack(t *testing.T) {
	s, path := open(t)
	c := change(1)
	c.Lots = []workshop.Lot{{ID: "L", Donor: "ACME", Opened: noon, OpenedBy: "u"}}
	key := workshop.ClaimKey{Serial: "S", WWN: "0x5", Model: "π", Bytes: 1 << 62, Image: "aa"}
	c.Claims = []workshop.Claim{{ClaimKey: key, Frames: []byte{0, 255}, At: noon}}
	for range 2 { // again is a change too
		if err := s.Commit(bg, c); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(path, audit.Seal)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.Load(bg)
	want := workshop.State{Devices: c.Devices, Lots: c.Lots, Jobs: c.Jobs, Boots: c.Boots, Claims: c.Claims}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%v\n%+v\n%+v", err, got, want)
	}
	events, err := s.Events(bg, "D1")
	if err != nil || len(events) != 4 || !reflect.DeepEqual(events[1], c.Events[1]) {
		t.Fatalf("%v %+v", err, events)
	}
	if b, err := s.Document(bg, "D1H"); err != nil || string(b) != `{"x":1}` {
		t.Fatalf("%s %v", b, err)
	}
	if b, err := s.Document(bg, "nonsense"); err != nil || b != nil {
		t.Fatalf("%s %v", b, err)
	}
	if err := s.Commit(bg, workshop.Change{Forget: []string{"D1T", "nonsense"}}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load(bg); err != nil || len(got.Boots) != 0 || len(got.Claims) != 1 {
		t.Fatalf("%v %+v", err, got)
	}
	again := workshop.Change{Claims: []workshop.Claim{{ClaimKey: key, Frames: []byte{1}, At: noon}}}
	if err := s.Commit(bg, again); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load(bg); err != nil || !reflect.DeepEqual(got.Claims, again.Claims) {
		t.Fatalf("%v %+v", err, got.Claims)
	}
	for _, k := range []workshop.ClaimKey{{Serial: "S", WWN: "0x5", Model: "π", Bytes: 1 << 62, Image: "bb"}, key} {
		if err := s.Commit(bg, workshop.Change{Unclaim: []workshop.ClaimKey{k}}); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Load(bg); err != nil || (len(got.Claims) == 0) != (k == key) {
			t.Fatalf("%v %+v", err, got.Claims)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", fi.Mode(), err)
	}
}

func TestPragmas(t *testing.T) {
	s, path := open(t)
	var mode string
	if err := raw(t, path).QueryRow("PRAGMA journal_mode").Scan(&mode); err != nil || mode != "wal" {
		t.Fatal(mode, err)
	}
	c := change(1)
	c.Jobs[0].Device = "nobody"
	if err := s.Commit(bg, c); err == nil || !strings.Contains(err.Error(), "FOREIGN KEY") {
		t.Fatalf("a job of no device was stored: %v", err)
	}
}

// A change is stored whole or not at all, wherever it fails.
func TestAllOrNothing(t *testing.T) {
	s, _ := open(t)
	if err := s.Commit(bg, change(1)); err != nil {
		t.Fatal(err)
	}
	before, err := s.Load(bg)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(*workshop.Change){
		"a number twice":      func(c *workshop.Change) { c.Devices[0].Number = 1 },
		"a job of no device":  func(c *workshop.Change) { c.Jobs[0].Device = "nobody" },
		"an event too long":   func(c *workshop.Change) { c.Events[1].Reason = strings.Repeat("x", 1<<20) },
		"a time out of range": func(c *workshop.Change) { c.Events[1].Time = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		c := change(2)
		f(&c)
		if err := s.Commit(bg, c); err == nil {
			t.Errorf("%s: stored", name)
		}
		if after, err := s.Load(bg); err != nil || !reflect.DeepEqual(before, after) {
			t.Errorf("%s: %v, left %+v", name, err, after)
		}
		if l, err := s.Lines(bg, "D2"); err != nil || len(l) != 0 {
			t.Errorf("%s: %v, left %d lines", name, err, len(l))
		}
	}
	ctx, stop := context.WithCancel(bg)
	stop()
	if err := s.Commit(ctx, change(2)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled, and yet %v", err)
	}
	if err := s.Commit(bg, change(2)); err != nil { // and the writer still works
		t.Fatal(err)
	}
}

func TestDiskFull(t *testing.T) {
	s, _ := open(t)
	if err := s.Commit(bg, change(1)); err != nil {
		t.Fatal(err)
	}
	if err := store.LimitPages(s, 4); err != nil {
		t.Fatal(err)
	}
	n := 2
	var err error
	for ; n < 500; n++ {
		if err = s.Commit(bg, change(n)); err != nil {
			break
		}
	}
	if !errors.Is(err, store.ErrFull) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("after %d: %v", n, err)
	}
	st, err := s.Load(bg)
	if err != nil || len(st.Devices) != n-1 {
		t.Fatalf("%v: %d devices, %d were acknowledged", err, len(st.Devices), n-1)
	}
	if err := store.LimitPages(s, 1<<20); err != nil { // somebody made room
		t.Fatal(err)
	}
	if err := s.Commit(bg, change(n)); err != nil {
		t.Fatal(err)
	}
}

func TestHistoryIsAppendOnly(t *testing.T) {
	s, path := open(t)
	if err := s.Commit(bg, change(1)); err != nil {
		t.Fatal(err)
	}
	db := raw(t, path)
	for _, q := range []string{
		"UPDATE events SET kind = 'x'", "DELETE FROM events", "UPDATE chains SET seq = 1", "UPDATE chains SET hash = 'x'", "DELETE FROM chains",
		"UPDATE documents SET json = 'x'", "DELETE FROM documents",
	} {
		if _, err := db.Exec(q); err == nil || !strings.Contains(err.Error(), "append-only") && !strings.Contains(err.Error(), "line by line") {
			t.Errorf("%s: %v", q, err)
		}
	}
	if _, err := s.Load(bg); err != nil {
		t.Fatal(err)
	}
}

// Somebody with a SQLite shell drops the triggers first.
func TestDamagedHistoryIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ query, says string }{
		"a line":               {"UPDATE events SET line = replace(line, 'report', 'forged') WHERE seq = 2", "line 2 was changed"},
		"a line that stays":    {"UPDATE events SET line = line || ' ' WHERE seq = 1", "line 1 was changed"},
		"no line":              {"UPDATE events SET line = 'x' WHERE seq = 1", "line 1 can't be read"},
		"a hash":               {"UPDATE events SET hash = replace(hash, 'a', 'b') WHERE seq = 1", "line 1 was changed"},
		"the first is gone":    {"DELETE FROM events WHERE seq = 1", "line 1 is missing"},
		"the last is gone":     {"DELETE FROM events WHERE seq = 2", "line 2 is missing at the end"},
		"all are gone":         {"DELETE FROM events", "line 1 is missing"},
		"all and their head":   {"DELETE FROM events; DELETE FROM chains", "line 1 is missing"},
		"the last, head moved": {"DELETE FROM events WHERE seq = 2; UPDATE chains SET seq = 1", "doesn't fit the head"},
		"no head":              {"DELETE FROM chains", "have no head"},
		"another device":       {"UPDATE events SET device = 'D9'; UPDATE chains SET device = 'D9'", "line 1 was changed"},
		"an added line":        {"INSERT INTO events SELECT device, 3, job, kind, prev_hash, hash, line FROM events WHERE seq = 2", "line 3 was changed"},
	} {
		t.Run(name, func(t *testing.T) {
			s, path := open(t)
			if err := s.Commit(bg, change(1)); err != nil {
				t.Fatal(err)
			}
			db := raw(t, path)
			if _, err := db.Exec("DROP TRIGGER events_keep; DROP TRIGGER events_stay; DROP TRIGGER chains_grow; DROP TRIGGER chains_stay; " + c.query); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Load(bg); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "copy") {
				t.Fatalf("%v doesn't say %q", err, c.says)
			}
		})
	}
}

func TestNewerRecordsAreRefused(t *testing.T) {
	s, path := open(t)
	s.Close()
	db := raw(t, path)
	if _, err := db.Exec("PRAGMA user_version = 999"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(path, audit.Seal); err == nil || !strings.Contains(err.Error(), "999") || !strings.Contains(err.Error(), "newer") {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"2", []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(path+"2", audit.Seal); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Fatal(err)
	}
	if _, err := store.Open(filepath.Join(path, "below a file"), audit.Seal); err == nil {
		t.Fatal("opened")
	}
}

// The server and a command beside it write to one file.
func TestTwoWriters(t *testing.T) {
	a, path := open(t)
	b, err := store.Open(path, audit.Seal)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var wg sync.WaitGroup
	for i, s := range []*store.Store{a, b} {
		wg.Go(func() {
			for k := range 25 {
				c := workshop.Change{Events: []workshop.Event{{Time: noon, Kind: "note", Actor: fmt.Sprint(i, k)}}}
				if err := s.Commit(bg, c); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := a.Load(bg); err != nil {
		t.Fatal(err)
	}
	if l, err := b.Lines(bg, ""); err != nil || len(l) != 50 {
		t.Fatal(len(l), err)
	}
}

func TestUsers(t *testing.T) {
	s, path := open(t)
	u := s.Users()
	if n, err := u.Count(bg); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	ana, err := u.Create(bg, "setup", "  Ana\u202e Müller ", "correct horse", "admin")
	if err != nil || ana.Name != "Ana Müller" || ana.Role != "admin" {
		t.Fatalf("%+v %v", ana, err)
	}
	if _, err := u.Create(bg, "setup", "Zoe", "battery staple", "admin"); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Create(bg, "setup", "ANA MÜLLER", "battery staple", "viewer"); !errors.Is(err, store.ErrNameTaken) {
		t.Fatal(err)
	}
	for _, p := range []string{"", "short", strings.Repeat("x", 300)} {
		if _, err := u.Create(bg, "setup", "Bob", p, "viewer"); err == nil {
			t.Errorf("a password of %d bytes was taken", len(p))
		}
	}
	if _, err := u.Create(bg, "setup", "\x00", "correct horse", "viewer"); err == nil {
		t.Error("a user without a name")
	}
	check := func(name, password string) (store.User, error) { return u.Check(bg, name, password) }
	if got, err := check("ana müller", "correct horse"); err != nil || got.ID != ana.ID || got.Stamp != ana.Stamp {
		t.Fatalf("%+v %v", got, err)
	}
	for _, c := range [][2]string{{"Ana Müller", "wrong horse"}, {"nobody", "correct horse"}, {"", ""}, {"Ana Müller", strings.Repeat("x", 1000)}} {
		if got, err := check(c[0], c[1]); !errors.Is(err, store.ErrNoUser) || got != (store.User{}) {
			t.Fatalf("%+v %v", got, err)
		}
	}
	if err := u.SetPassword(bg, ana.ID, ana.ID, "new password"); err != nil {
		t.Fatal(err)
	}
	if _, err := check("Ana Müller", "correct horse"); !errors.Is(err, store.ErrNoUser) {
		t.Fatal(err)
	}
	after, err := check("Ana Müller", "new password")
	if err != nil || after.Stamp == ana.Stamp {
		t.Fatalf("%+v %v", after, err)
	}
	if err := u.SetDisabled(bg, "setup", ana.ID, true); err != nil {
		t.Fatal(err)
	}
	if got, err := u.ByID(bg, ana.ID); err != nil || !got.Disabled || got.Stamp == after.Stamp {
		t.Fatalf("%+v %v", got, err)
	}
	if err := u.SetRole(bg, "setup", "nobody", "admin"); !errors.Is(err, store.ErrNoUser) {
		t.Fatal(err)
	}
	if _, err := u.ByID(bg, "nobody"); !errors.Is(err, store.ErrNoUser) {
		t.Fatal(err)
	}
	if err := u.SetRole(bg, "setup", ana.ID, "lead"); err != nil {
		t.Fatal(err)
	}
	if all, err := u.List(bg); err != nil || len(all) != 2 || all[0].Role != "lead" {
		t.Fatalf("%+v %v", all, err)
	}
	events, err := s.Events(bg, "")
	if err != nil || len(events) != 5 || events[0].Kind != "user_created" || events[0].Params["user"] != ana.ID {
		t.Fatalf("%+v %v", events, err)
	}
	var lines string
	if err := raw(t, path).QueryRow("SELECT group_concat(line) FROM events").Scan(&lines); err != nil || strings.Contains(lines, "Ana") {
		t.Fatalf("a name in the history: %s %v", lines, err)
	}
	var kept string
	if err := raw(t, path).QueryRow("SELECT password FROM users").Scan(&kept); err != nil || !strings.HasPrefix(kept, "$argon2id$v=19$") {
		t.Fatal(kept, err)
	}
	// The registry loads beside all this.
	if _, err := s.Load(bg); err != nil {
		t.Fatal(err)
	}
}

func TestSessions(t *testing.T) {
	s, path := open(t)
	x := s.Sessions()
	if _, ok, err := x.Find("t"); ok || err != nil {
		t.Fatal(ok, err)
	}
	for _, v := range []string{"one", "two"} {
		if err := x.Commit("t", []byte(v), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if b, ok, err := x.Find("t"); string(b) != v || !ok || err != nil {
			t.Fatal(b, ok, err)
		}
	}
	if err := x.Commit("old", []byte("x"), time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := x.Find("old"); ok || err != nil {
		t.Fatal("an expired session was found")
	}
	var n int
	if err := raw(t, path).QueryRow("SELECT count(*) FROM sessions WHERE token_hash = 't'").Scan(&n); err != nil || n != 0 {
		t.Fatal("a token is kept as it is")
	}
	for range 2 {
		if err := x.Delete("t"); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, _ := x.Find("t"); ok {
		t.Fatal("a session outlived its end")
	}
}

// Every acknowledged change is there, whole, in a copy of the files taken at any
// moment.
func TestCopiedMidway(t *testing.T) {
	s, path := open(t)
	var mu sync.Mutex // a copy of two files is taken between commits, as a snapshot would
	acked := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; n <= 60; n++ {
			mu.Lock()
			err := s.Commit(bg, change(n))
			acked = n
			mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for i := 0; ; i++ {
		to := filepath.Join(t.TempDir(), "copy.db")
		mu.Lock()
		want := acked
		for _, ext := range []string{"", "-wal"} {
			b, err := os.ReadFile(path + ext)
			if err != nil {
				t.Fatal(err)
			}
			if ext == "-wal" && i%2 == 1 { // the power fails while the next commit is being written
				b = append(b, b[:min(len(b), 5000)]...)
			}
			if err := os.WriteFile(to+ext, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		mu.Unlock()
		c, err := store.Open(to, audit.Seal)
		if err != nil {
			t.Fatal(err)
		}
		st, err := c.Load(bg)
		if err != nil || len(st.Devices) != want || len(st.Jobs) != want {
			t.Fatalf("%v: %d devices of %d", err, len(st.Devices), want)
		}
		c.Close()
		select {
		case <-done:
			return
		default:
		}
	}
}
