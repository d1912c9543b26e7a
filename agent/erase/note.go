package erase

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"refurb/agent/wire"
)

// note is how far an erasure is. It lies where a crash of the agent doesn't
// reach and a restart of the PC does: a PC that was restarted in the middle
// begins anew. The seed, which is new for every job, says whose it is.
type note struct {
	Seed    string
	Started time.Time
	Marks   []mark
	Blind   bool // the disk couldn't be read, so there are none
	Steps   []wire.EraseStep
	// Blocks that zeroes couldn't be written to.
	Unwritten int64
	Method    string    // in hand
	Since     time.Time // it is
	Accepted  bool      // the drive took its command
	Password  bool      // ours may be on the disk
}

func notePath(dir string) string { return filepath.Join(dir, "erasing.json") }

func (n *note) save(dir string) error {
	b, err := json.Marshal(n)
	if err == nil {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			tmp := notePath(dir) + ".new"
			if err = os.WriteFile(tmp, b, 0o600); err == nil {
				err = os.Rename(tmp, notePath(dir))
			}
		}
	}
	if err != nil {
		return fmt.Errorf("noting how far the erasing is: %w", err)
	}
	return nil
}

// load gives the note of the same erasure, if there is one.
func load(dir, seed string) (*note, bool) {
	b, err := os.ReadFile(notePath(dir))
	n := &note{}
	if err != nil || json.Unmarshal(b, n) != nil || n.Seed != seed {
		return &note{Seed: seed, Started: time.Now()}, false
	}
	return n, true
}
