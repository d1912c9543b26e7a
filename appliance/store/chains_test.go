package store_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"refurb/appliance/audit"
	"refurb/appliance/store"
	"refurb/appliance/workshop"
)

// proven is change with evidence that is what its line says.
func proven(n int) workshop.Change {
	c := change(n)
	doc := fmt.Appendf(nil, `{"device":%d}`, n)
	h := sha256.Sum256(doc)
	c.Documents = []workshop.Document{{Hash: hex.EncodeToString(h[:]), JSON: doc}}
	c.Events[1].Evidence = c.Documents[0].Hash
	return c
}

const noTriggers = `DROP TRIGGER events_keep; DROP TRIGGER events_stay; DROP TRIGGER chains_grow; DROP TRIGGER chains_stay; DROP TRIGGER documents_keep; DROP TRIGGER documents_stay; `

// What somebody with a SQLite shell has done is found, all of it and where it is.
func TestInspect(t *testing.T) {
	for name, c := range map[string]struct {
		query string
		says  []string // every finding, but for those that tell of the triggers
	}{
		"nothing":               {``, nil},
		"triggers":              {noTriggers, nil},
		"a line":                {noTriggers + `UPDATE events SET line = replace(line, 'report', 'forged') WHERE device = 'D2' AND seq = 2`, []string{"device D2 is damaged: line 2 was changed"}},
		"two lines":             {noTriggers + `UPDATE events SET line = replace(line, 'agent', 'Agent') WHERE seq = 2 AND device <> 'D3'`, []string{"D1 is damaged: line 2", "D2 is damaged: line 2"}},
		"a column beside it":    {noTriggers + `UPDATE events SET kind = 'job' WHERE device = 'D1' AND seq = 2`, []string{"D1 is damaged: line 2 was changed"}},
		"the job's column":      {noTriggers + `UPDATE events SET job = 'J9' WHERE device = 'D1' AND seq = 1`, []string{"D1 is damaged: line 1 was changed"}},
		"the first line":        {noTriggers + `DELETE FROM events WHERE device = 'D1' AND seq = 1`, []string{"D1 is damaged: line 1 is missing"}},
		"first gone, next lies": {noTriggers + `DELETE FROM events WHERE device = 'D1' AND seq = 1; UPDATE events SET line = replace(line, 'agent', 'Agent') WHERE device = 'D1'`, []string{"line 1 is missing", "line 2 was changed"}},
		"the last line":         {noTriggers + `DELETE FROM events WHERE device = 'D1' AND seq = 2`, []string{"D1 is damaged: line 2 is missing at the end"}},
		"a head":                {noTriggers + `DELETE FROM chains WHERE device = 'D2'`, []string{"D2 is damaged: its 2 lines have no head", "D2 is damaged: line 1 is missing"}[:1]},
		"a document":            {noTriggers + `UPDATE documents SET json = '{"device":7}' WHERE CAST(json AS TEXT) = '{"device":1}'`, []string{"line 2 of device D1 is damaged: document"}},
		"a document is gone":    {noTriggers + `DELETE FROM documents WHERE CAST(json AS TEXT) = '{"device":3}'`, []string{"line 2 of device D3 is damaged: document"}},
		"a device of its own":   {`INSERT INTO devices SELECT 'D9', 99, state, lot, doc FROM devices WHERE id = 'D1'`, []string{"D9 is damaged: line 1 is missing"}},
		"a trigger that lets through": {`DROP TRIGGER events_keep; CREATE TRIGGER events_keep BEFORE UPDATE ON events BEGIN SELECT 1; END`,
			[]string{"trigger events_keep is another one"}},
		"a trigger of theirs": {`CREATE TRIGGER mine AFTER INSERT ON events BEGIN DELETE FROM claims; END`, []string{"trigger mine is none of ours"}},
		"a table":             {`DROP TABLE claims`, []string{"table claims is missing"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, path := open(t)
			for n := range 3 {
				if err := s.Commit(bg, proven(n+1)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := raw(t, path).Exec(c.query); err != nil {
				t.Fatal(err)
			}
			found, err := s.Inspect(bg)
			if err != nil {
				t.Fatal(err)
			}
			var says []string
			triggers := 0
			for _, d := range found {
				if d.Part == store.PartSchema && d.How == "is missing" && strings.HasPrefix(d.Name, "trigger ") {
					triggers++
					continue
				}
				says = append(says, d.Error())
			}
			if want := strings.Count(c.query, "DROP TRIGGER") - strings.Count(c.query, "CREATE TRIGGER events_keep"); triggers != want {
				t.Errorf("%d triggers are missing, %d were said to be", want, triggers)
			}
			if len(says) != len(c.says) {
				t.Fatalf("%q, want %q", says, c.says)
			}
			for i := range says {
				if !strings.Contains(says[i], c.says[i]) {
					t.Errorf("%q doesn't say %q", says[i], c.says[i])
				}
			}
			// The same is found again, to the byte: that is how people accept it.
			if again, err := s.Inspect(bg); err != nil || !reflect.DeepEqual(found, again) {
				t.Errorf("%v\n%v\n%v", err, found, again)
			}
			if strings.Contains(name, "table") {
				return
			}
			if err := s.Mend(bg); err != nil {
				t.Fatal(err)
			}
			found, err = s.Inspect(bg)
			for _, d := range found {
				if d.Part == store.PartHead || d.Part == store.PartSchema && d.How != "is none of ours" {
					t.Errorf("not mended: %v", d)
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTruncatedFile(t *testing.T) {
	s, path := open(t)
	for n := range 40 {
		if err := s.Commit(bg, proven(n+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, keep := range []int64{st.Size() - 4096, st.Size() / 2, 5000, 50} {
		cut := filepath.Join(t.TempDir(), "cut.db")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cut, b[:keep], 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := store.Open(cut, audit.Seal)
		if err == nil {
			var found []store.Damage
			if found, err = c.Inspect(bg); err == nil && len(found) > 0 {
				err = found[0]
			}
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%d bytes of %d: %v", keep, st.Size(), err)
		}
	}
}

// A copy made while the appliance writes is whole, and opens.
func TestBackupDuringWrites(t *testing.T) {
	s, path := open(t)
	if err := s.Commit(bg, proven(1)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for n := 2; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.Commit(bg, proven(n)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 5 {
		to := filepath.Join(filepath.Dir(path), fmt.Sprintf("it's a copy %d.db", i))
		if err := s.Backup(bg, to); err != nil {
			t.Fatal(err)
		}
		if err := s.Backup(bg, to); err == nil {
			t.Error("a copy was overwritten")
		}
		if st, err := os.Stat(to); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", st.Mode(), err)
		}
		c, err := store.Open(to, audit.Seal)
		if err != nil {
			t.Fatal(err)
		}
		if found, err := c.Inspect(bg); err != nil || len(found) > 0 {
			t.Errorf("%v %v", found, err)
		}
		st, err := c.Load(bg)
		if err != nil || len(st.Devices) == 0 || len(st.Devices) != len(st.Jobs) {
			t.Errorf("%d devices, %d jobs: %v", len(st.Devices), len(st.Jobs), err)
		}
		if err := c.Commit(bg, proven(10_000)); err != nil { // and goes on
			t.Error(err)
		}
		c.Close()
	}
}

func BenchmarkAudit_start(b *testing.B) {
	path := filepath.Join(b.TempDir(), "refurb.db")
	s, err := store.Open(path, audit.Seal)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const lines = 100_000
	for n := range 200 {
		var c workshop.Change
		for i := range lines / 200 {
			c.Events = append(c.Events, workshop.Event{Time: noon, Device: fmt.Sprint("D", n*5+i%5), Job: "J", Kind: "job", From: "imaging", To: "verifying", Actor: "agent",
				Params: map[string]string{"disk": "/dev/sda", "serial": "S4EVNX0M", "wwn": "0x5002538e4", "model": "SAMSUNG", "bytes": "512110190592", "logical_block": "512"}})
		}
		if err := s.Commit(bg, c); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if found, err := s.Inspect(bg); err != nil || len(found) > 0 {
			b.Fatal(found, err)
		}
	}
	b.ReportMetric(float64(lines*b.N)/b.Elapsed().Seconds(), "lines_per_s")
}
