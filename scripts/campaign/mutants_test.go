package campaign

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	"refurb/agent"
	"refurb/appliance/workshop"
)

// mutant is a program, a disk or a file that breaks a promise.
type mutant struct {
	open    func(*handle) agent.Disk              // what the agent gets for a disk
	commit  func(workshop.Change) workshop.Change // what is stored instead
	records func(file string)                     // somebody at the file, before it is judged
}

// elsewhere writes everything to a second disk, too.
type elsewhere struct {
	*handle
	to *handle
}

func (e elsewhere) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) <= e.to.Bytes {
		_, _ = e.to.WriteAt(p, off)
	}
	return e.handle.WriteAt(p, off)
}

// A campaign that can't fail says nothing: whoever breaks a promise is noticed,
// and for that promise.
func TestJudgeNotices(t *testing.T) {
	is := func(state workshop.JobState) func(workshop.Job) bool {
		return func(j workshop.Job) bool { return j.State == state }
	}
	edit := func(t *testing.T, query string) func(string) {
		return func(file string) {
			db, err := sql.Open("sqlite3", "file:"+file)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			var guards string // that make the table one that only grows
			err = db.QueryRow(`SELECT coalesce(group_concat('DROP TRIGGER ' || name, ';'), '') FROM sqlite_master WHERE type = 'trigger'`).Scan(&guards)
			if err == nil {
				_, err = db.Exec(guards + ";" + query)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, w *world)
		crime string
	}{
		{"nobody", func(*testing.T, *world) {}, ""},
		// The one lie that no agent can find out: what is read is what was written,
		// but the disk holds something else.
		{"a disk that echoes what it was given", func(_ *testing.T, w *world) {
			w.all[0].echo = bytes.Clone(w.all[0].data)
		}, "false"},
		{"an agent that writes to the stick as well", func(_ *testing.T, w *world) {
			w.broken.open = func(h *handle) agent.Disk {
				return elsewhere{h, &handle{medium: w.at("/dev/campaign-b"), p: h.p, id: h.id}}
			}
		}, "wrong"},
		{"an appliance that forgets that the disk is being written", func(_ *testing.T, w *world) {
			w.broken.commit = func(c workshop.Change) workshop.Change {
				if slices.ContainsFunc(c.Jobs, is(workshop.Verifying)) {
					return workshop.Change{}
				}
				return c
			}
		}, "lost"},
		{"an appliance that forgets a cancelling over its own death", func(_ *testing.T, w *world) {
			w.script.faults = []fault{{place: "event", kind: "cancel", at: 2}, {place: "event", kind: "kill-before", at: 3}, {place: "progress", kind: "kill-before", at: 1}, {place: "event", kind: "kill-before", at: 2}}
			w.broken.commit = func(c workshop.Change) workshop.Change {
				if slices.ContainsFunc(c.Jobs, is(workshop.Cancelled)) {
					return workshop.Change{}
				}
				return c
			}
		}, "false"},
		{"somebody who cuts the history", func(t *testing.T, w *world) {
			w.broken.records = edit(t, `DELETE FROM events WHERE rowid = (SELECT max(rowid) FROM events)`)
		}, "lost"},
		{"somebody who edits the history", func(t *testing.T, w *world) {
			w.broken.records = edit(t, `UPDATE events SET line = replace(line, '"to":"verified"', '"to":"cancelled"')`)
		}, "lost"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := os.MkdirTemp(filepath.Dir(shelf.images), "run")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			var w *world
			synctest.Test(t, func(t *testing.T) {
				w = newWorld(1, dir)
				w.script.faults, w.standing = nil, true
				c.spoil(t, w)
				w.run()
			})
			if got := w.judge.guilty; c.crime == "" && len(got) > 0 || c.crime != "" && len(got[c.crime]) == 0 {
				t.Errorf("the judge finds %v\n%s", got, w.story())
			}
		})
	}
}
