package appliance

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"refurb/appliance/audit"
	"refurb/appliance/workshop"
)

// records opens those of a folder and looks at them, as the appliance does.
func records(t *testing.T, data string) (*Records, error) {
	t.Helper()
	keys, err := LoadKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenRecords(data, keys)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { r.Close() })
	return r, r.Check(t.Context())
}

func write(t *testing.T, r *Records, device string, lines int) {
	t.Helper()
	for i := range lines {
		doc := fmt.Appendf(nil, `{"of":%q,"number":%d,"at":%d}`, device, i, time.Now().UnixNano())
		c := workshop.Change{
			Events:    []workshop.Event{{Time: time.Now().UTC(), Device: device, Kind: "report", Actor: "agent", Evidence: hashOf(doc)}},
			Documents: []workshop.Document{{Hash: hashOf(doc), JSON: doc}},
		}
		if err := r.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

// kept is a data folder with two devices, a checkpoint, and more lines since.
func kept(t *testing.T) (data string) {
	t.Helper()
	data = t.TempDir()
	r, err := records(t, data)
	if err != nil {
		t.Fatal(err)
	}
	write(t, r, "A", 3)
	write(t, r, "B", 5)
	if _, fresh, err := r.Checkpoint(t.Context(), "u"); err != nil || !fresh {
		t.Fatal(fresh, err)
	}
	write(t, r, "B", 2)
	write(t, r, "C", 1)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return data
}

// outside does what somebody with a SQLite shell would.
func outside(t *testing.T, data, query string) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(data, recordsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
	// All of it in one file, so that tests may cut it.
	if _, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
}

const open = `DROP TRIGGER events_keep; DROP TRIGGER events_stay; DROP TRIGGER chains_grow; DROP TRIGGER chains_stay; DROP TRIGGER documents_keep; DROP TRIGGER documents_stay; `

// shut makes the triggers again, as a careful forger would.
func shut(t *testing.T, data string) {
	t.Helper()
	fresh := t.TempDir()
	s, err := OpenStore(fresh)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(fresh, recordsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var all string
	if err := db.QueryRow(`SELECT group_concat(sql, '; ') FROM sqlite_master WHERE type = 'trigger'`).Scan(&all); err != nil {
		t.Fatal(err)
	}
	outside(t, data, all)
}

// rewrite gives a device a history of n lines that holds together by itself.
func rewrite(t *testing.T, data, device string, n int) {
	t.Helper()
	outside(t, data, open+fmt.Sprintf("DELETE FROM events WHERE device = '%s'; DELETE FROM chains WHERE device = '%[1]s'", device))
	shut(t, data)
	r, _ := records(t, data)
	write(t, r, device, n)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// Whatever is done to the records while the appliance is off is noticed when it
// starts, and can be accepted, once, in the open; or it can't and says so.
func TestDamageIsNoticedAtStart(t *testing.T) {
	edit := func(query string) func(*testing.T, string) {
		return func(t *testing.T, data string) { outside(t, data, query) }
	}
	both := func(query string) func(*testing.T, string) {
		return func(t *testing.T, data string) { outside(t, data, open+query); shut(t, data) }
	}
	point := func(data, ext string) string { return filepath.Join(data, "checkpoints", "000001"+ext) }
	for _, c := range []struct {
		name  string
		do    func(t *testing.T, data string)
		says  string // empty: nothing is wrong
		final bool   // only a restore helps
	}{
		{"nothing", func(*testing.T, string) {}, "", false},
		{"a trigger less", edit("DROP TRIGGER events_keep"), "trigger events_keep is missing", false},
		{"a line edited", both("UPDATE events SET line = replace(line, 'agent', 'Agent') WHERE device = 'B' AND seq = 7"), "device B is damaged: line 7 was changed", false},
		{"a line gone", both("DELETE FROM events WHERE device = 'B' AND seq = 2"), "device B is damaged: line 2 is missing", false},
		{"the end gone", both("DELETE FROM events WHERE device = 'B' AND seq > 5"), "line 6 is missing at the end", false},
		{"the end gone, and a head that knows of more", both("DELETE FROM events WHERE device = 'B' AND seq > 6; UPDATE chains SET seq = 9 WHERE device = 'B'"), "line 7 is missing at the end", false},
		{"a head cut off", both("UPDATE chains SET seq = 6, hash = (SELECT hash FROM events WHERE device = 'B' AND seq = 6) WHERE device = 'B'"), "line 7 doesn't fit the head", false},
		{"a head broken", both("UPDATE chains SET hash = '00' WHERE device = 'B'"), "line 7 doesn't fit the head", false},
		{"a head gone", both("DELETE FROM chains WHERE device = 'B'"), "device B is damaged: its 7 lines have no head", false},
		{"all lines gone", both("DELETE FROM events WHERE device = 'B'"), "device B is damaged: line 1 is missing", false},
		{"the lines of the house gone", both("DELETE FROM events WHERE device = ''"), "the history of the house is damaged: line 1 is missing", false},
		{"the head of the house broken", both("UPDATE chains SET seq = 7, hash = 'x' WHERE device = ''"), "the history of the house is damaged: line 2 is missing at the end", false},
		{"the last hash broken", both("UPDATE events SET hash = '00' WHERE device = 'B' AND seq = 7"), "line 7 was changed", true},
		{"a document edited", both("UPDATE documents SET json = 'x' WHERE CAST(json AS TEXT) LIKE '%\"A\"%'"), "was changed", false},
		{"a document gone", both("DELETE FROM documents WHERE CAST(json AS TEXT) LIKE '%\"C\"%'"), "is missing", false},
		{"a history rewritten, as long as before", func(t *testing.T, data string) { rewrite(t, data, "B", 7) }, "the history of device B up to line 5 is another one than checkpoint 1", false},
		{"a history rewritten, longer", func(t *testing.T, data string) { rewrite(t, data, "A", 9) }, "the history of device A up to line 3 is another one", false},
		{"a history rewritten, shorter", func(t *testing.T, data string) { rewrite(t, data, "A", 2) }, "the history of device A ends at line 2, and checkpoint 1", false},
		{"a history gone without a trace", both("DELETE FROM events WHERE device = 'A'; DELETE FROM chains WHERE device = 'A'"), "the history of device A is gone", false},
		{"all histories gone", both("DELETE FROM events; DELETE FROM chains"), "the history of device A is gone", false},
		{"the file gone", func(t *testing.T, data string) { os.Remove(filepath.Join(data, recordsFile)) }, "the history of device A is gone", false},
		{"the file emptied", func(t *testing.T, data string) { os.Truncate(filepath.Join(data, recordsFile), 0) }, "the history of device A is gone", false},
		{"the file cut", func(t *testing.T, data string) {
			outside(t, data, "SELECT 1")
			st, err := os.Stat(filepath.Join(data, recordsFile))
			if err != nil {
				t.Fatal(err)
			}
			os.Truncate(filepath.Join(data, recordsFile), st.Size()-8192)
		}, "the file of records is damaged", true},
		{"a table gone", edit("DROP TABLE documents"), "table documents is missing", true},
		{"the checkpoint gone", func(t *testing.T, data string) { os.Remove(point(data, ".note")) }, "checkpoint 1 of", false},
		{"all checkpoints gone", func(t *testing.T, data string) { os.RemoveAll(filepath.Join(data, "checkpoints")) }, "checkpoint 1 of", false},
		{"the checkpoint edited", func(t *testing.T, data string) { os.WriteFile(point(data, ".note"), []byte("refurb/x\n"), 0o600) }, "the folder checkpoints was changed", false},
		{"its heads gone", func(t *testing.T, data string) { os.Remove(point(data, ".heads")) }, "the folder checkpoints was changed", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := kept(t)
			c.do(t, data)
			r, err := records(t, data)
			if c.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := AcceptDamage(t.Context(), data, "console", "x"); err == nil {
					t.Fatal("nothing was accepted")
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "refurb restore") {
				t.Fatalf("%v doesn't say %q and what to do", err, c.says)
			}
			if r != nil {
				if _, _, err := r.Checkpoint(t.Context(), "u"); err == nil {
					t.Error("a checkpoint was made of it")
				}
				r.Close()
			}
			if _, err := Open(t.Context(), Config{Data: data}, slog.New(slog.DiscardHandler)); err == nil {
				t.Error("the appliance works with it")
			}
			found, k, err := AcceptDamage(t.Context(), data, "console", "the disk broke")
			if c.final {
				if err == nil {
					t.Fatal("a broken file was accepted")
				}
				return
			}
			if err != nil || len(found) == 0 {
				t.Fatal(err)
			}
			// Now the house goes on, and what it does is proven as ever.
			r, err = records(t, data)
			if err != nil {
				t.Fatalf("accepted, and yet %v", err)
			}
			if k.Number != 2 || c.name != "a trigger less" && k.Broken == 0 || k.Origin != audit.Origin(r.key.Public().(ed25519.PublicKey)) {
				t.Errorf("%+v", k.Checkpoint)
			}
			events, err := r.house(t.Context())
			if err != nil || !slices.ContainsFunc(events, func(e workshop.Event) bool { return e.Kind == kindAccepted && e.Reason == "the disk broke" }) {
				t.Error("the history of the house doesn't tell of it", err)
			}
			for _, device := range []string{"A", "B", "C", "", "D"} {
				write(t, r, device, 2)
			}
			if err := r.Check(t.Context()); err != nil {
				t.Fatalf("accepted, went on, and now %v", err)
			}
			if _, fresh, err := r.Checkpoint(t.Context(), "u"); err != nil || !fresh {
				t.Fatal(fresh, err)
			}
			// What is done later is new damage.
			outside(t, data, open+"UPDATE events SET line = replace(line, 'agent', 'AGENT') WHERE device = 'D' AND seq = 1")
			shut(t, data)
			if _, err := records(t, data); err == nil || !strings.Contains(err.Error(), "device D is damaged: line 1") {
				t.Errorf("new damage: %v", err)
			}
		})
	}
}

func TestCheckpointOnlyOfChanges(t *testing.T) {
	data := t.TempDir()
	r, err := records(t, data)
	if err != nil {
		t.Fatal(err)
	}
	make := func(want bool, number int64) {
		t.Helper()
		k, fresh, err := r.Checkpoint(t.Context(), "u")
		if err != nil || fresh != want || k.Number != number {
			t.Fatalf("%d %v %v, want %d %v", k.Number, fresh, err, number, want)
		}
	}
	make(false, 0)
	write(t, r, "A", 1)
	make(true, 1)
	make(false, 1)
	make(false, 1)
	write(t, r, "", 1)
	make(true, 2)
	write(t, r, "A", 1)
	make(true, 3)
	make(false, 3)
}

// The server and a command beside it make checkpoints at once.
func TestTwoCheckpointers(t *testing.T) {
	data := kept(t)
	a, err := records(t, data)
	if err != nil {
		t.Fatal(err)
	}
	b, err := records(t, data)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, r := range []*Records{a, b} {
		wg.Go(func() {
			for n := range 5 {
				write(t, r, fmt.Sprint("X", i), 1)
				if _, _, err := r.Checkpoint(t.Context(), "u"); err != nil {
					t.Error(n, err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := records(t, data); err != nil {
		t.Fatal(err)
	}
}

// A day without anybody: checkpoint and copy at start, then at midnight, and
// seven copies stay.
func TestDaily(t *testing.T) {
	data := t.TempDir()
	r, err := records(t, data)
	if err != nil {
		t.Fatal(err)
	}
	write(t, r, "A", 1)
	if r.recent() {
		t.Fatal("there is nothing yet")
	}
	log := slog.New(slog.DiscardHandler)
	if err := r.day(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	if !r.recent() {
		t.Error("the day is not done")
	}
	for i := range 12 { // as ten days would leave them
		if err := os.WriteFile(filepath.Join(r.backups(), fmt.Sprintf("refurb-202001%02dT000000Z.tar.gz", i+1)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(r.copies()[12]); err != nil {
		t.Fatal(err)
	}
	write(t, r, "A", 1)
	cut, busy := filepath.Join(data, ".backup-1"), filepath.Join(data, ".backup-2")
	old := time.Now().Add(-25 * time.Hour)
	if err := errors.Join(os.Mkdir(cut, 0o700), os.Mkdir(busy, 0o700), os.Chtimes(cut, old, old)); err != nil {
		t.Fatal(err)
	}
	if err := r.day(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cut); err == nil {
		t.Error("what a power cut left is still there")
	}
	if _, err := os.Stat(busy); err != nil {
		t.Error("a copy under way was swept away")
	}
	left := r.copies()
	if len(left) != keepBackups || !strings.Contains(left[0], "20200107") || strings.Contains(left[6], "2020") {
		t.Error(left)
	}
	all, err := r.Checkpoints.All()
	if err != nil || len(all) != 2 {
		t.Error(len(all), err)
	}
}

// The clock was ahead for a week. Set right, it makes copies whose names sort
// before all others: they are not the oldest.
func TestCopiesOfAClockThatWasAhead(t *testing.T) {
	data := t.TempDir()
	r, err := records(t, data)
	if err != nil {
		t.Fatal(err)
	}
	write(t, r, "A", 1)
	if err := os.Mkdir(r.backups(), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range keepBackups {
		if err := os.WriteFile(filepath.Join(r.backups(), fmt.Sprintf("refurb-209901%02dT000000Z.tar.gz", i+1)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.day(t.Context(), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	left := r.copies()
	if len(left) != keepBackups || strings.Contains(left[0], "2099") || !strings.Contains(left[1], "20990102") {
		t.Error(left)
	}
}

// A copy that doesn't fit is not begun: what is free is for what PCs report.
func TestNoRoomForACopy(t *testing.T) {
	data := t.TempDir()
	r, err := records(t, data)
	if err != nil {
		t.Fatal(err)
	}
	write(t, r, "A", 1)
	path := filepath.Join(data, recordsFile)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<42); err != nil { // with a hole of four terabytes
		t.Fatal(err)
	}
	err = r.day(t.Context(), slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "make room") {
		t.Error(err)
	}
	if err := os.Truncate(path, st.Size()); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(data, ".backup-*")); len(left)+len(r.copies()) > 0 {
		t.Error(left, r.copies())
	}
	write(t, r, "A", 1)
	if err := r.day(t.Context(), slog.New(slog.DiscardHandler)); err != nil || len(r.copies()) != 1 {
		t.Error(err, r.copies())
	}
}

// Three days pass by; on the second, the records are damaged for a while.
func TestDaysPassBy(t *testing.T) {
	data := t.TempDir()
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC
		keys, err := LoadKeys(data)
		if err != nil {
			t.Fatal(err)
		}
		r, err := OpenRecords(data, keys)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		count := func(points, copies int) {
			t.Helper()
			all, err := r.Checkpoints.All()
			if got := len(r.copies()); err != nil || len(all) != points || got != copies {
				t.Errorf("%v: %d checkpoints and %d copies, want %d and %d (%v)", time.Now(), len(all), got, points, copies, err)
			}
		}
		time.Sleep(20 * time.Hour)
		write(t, r, "A", 1)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Daily(ctx, slog.New(slog.DiscardHandler)) }()
		time.Sleep(time.Hour)
		count(1, 1) // at the start: there were none
		write(t, r, "A", 1)
		time.Sleep(2 * time.Hour)
		count(1, 1)
		time.Sleep(2 * time.Hour)
		count(2, 2) // at midnight
		time.Sleep(24 * time.Hour)
		count(2, 3) // nothing was written
		outside(t, data, "DROP TRIGGER events_keep")
		write(t, r, "A", 1)
		time.Sleep(24 * time.Hour)
		count(2, 3) // nothing is signed and no copy pushes a good one out
		if err := r.Mend(ctx); err != nil {
			t.Error(err)
		}
		time.Sleep(90 * time.Minute)
		count(3, 4) // an hour later, not a day
		stop()
		if err := <-ended; err != context.Canceled {
			t.Error(err)
		}
	})
}

func TestUntilMidnight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC
		for _, c := range []struct{ after, want time.Duration }{{0, 24 * time.Hour}, {time.Second, 24*time.Hour - time.Second}, {23 * time.Hour, time.Second}} {
			time.Sleep(c.after)
			if c.after == 23*time.Hour {
				time.Sleep(59*time.Minute + 58*time.Second)
			}
			if got := untilMidnight(time.Now()); got != c.want {
				t.Errorf("%v: %v, want %v", c.after, got, c.want)
			}
		}
	})
}
