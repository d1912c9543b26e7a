package audit

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Folder keeps the checkpoints of a house: NNNNNN.note, which may be published,
// and beside it NNNNNN.heads with the heads that moved since the note before, so
// that a proof can be made for any of them. No file is ever written twice.
type Folder struct {
	Dir  string
	Keys []ed25519.PublicKey // present and former ones of this house
}

// Kept is one checkpoint of a folder.
type Kept struct {
	Checkpoint
	Name string // of the file, without its ending
	Note []byte
	Hash string // NoteHash
}

const (
	noteExt  = ".note"
	headsExt = ".heads"
)

func nameOf(number int64) string { return fmt.Sprintf("%06d", number) }

// All gives every checkpoint, oldest first, checked as one sequence. The error
// is a *Trouble if they are not what was once written.
func (f Folder) All() ([]Kept, error) {
	entries, err := os.ReadDir(f.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	var all []Kept
	var notes [][]byte
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), noteExt)
		if !ok || strings.HasPrefix(name, ".") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(f.Dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("checkpoints: %w", err)
		}
		all, notes = append(all, Kept{Name: name, Note: b, Hash: NoteHash(b)}), append(notes, b)
	}
	checked, err := VerifyCheckpoints(notes, f.Keys...)
	if err != nil {
		return nil, err
	}
	for i, c := range checked {
		if all[i].Checkpoint = c; all[i].Name != nameOf(c.Number) {
			return nil, &Trouble{Part: "checkpoint " + all[i].Name, Kind: Changed, Text: fmt.Sprintf("it holds number %d", c.Number)}
		}
	}
	return all, nil
}

// Heads gives the chains as checkpoint number saw them, which its root proves.
func (f Folder) Heads(all []Kept, number int64) ([]Head, error) {
	at := map[string]Head{}
	for _, k := range all {
		if k.Number > number {
			break
		}
		bad := func(text string) error {
			return &Trouble{Part: "the heads of checkpoint " + k.Name, Kind: Changed, Text: text}
		}
		b, err := os.ReadFile(filepath.Join(f.Dir, k.Name+headsExt))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &Trouble{Part: "the heads of checkpoint " + k.Name, Kind: Missing, Text: "the file is not there"}
		}
		if err != nil {
			return nil, fmt.Errorf("checkpoints: %w", err)
		}
		in := bufio.NewScanner(bytes.NewReader(b))
		for in.Scan() {
			var h Head
			if err := json.Unmarshal(in.Bytes(), &h); err != nil {
				return nil, bad("it can't be read")
			}
			if at[h.Device] = h; h.Seq == 0 { // gone, and people know
				delete(at, h.Device)
			}
		}
		if in.Err() != nil {
			return nil, bad("it can't be read")
		}
		if k.Number < number {
			continue
		}
		heads := make([]Head, 0, len(at))
		for _, h := range at {
			heads = append(heads, h)
		}
		heads = sortHeads(heads)
		if root, lines, err := rootOf(heads); err != nil || root != k.Root || lines != k.Lines || int64(len(heads)) != k.Chains {
			return nil, bad("they don't lead to its root")
		}
		return heads, nil
	}
	return nil, fmt.Errorf("there is no checkpoint %d: see `refurb audit checkpoint --list`", number)
}

// Prove makes the proof that checkpoint number covers a device's chain; 0 is the
// newest. It is nil if there is no checkpoint, or none of it.
func (f Folder) Prove(device string, number int64) (*Proof, error) {
	all, err := f.All()
	if err != nil {
		return nil, err
	}
	if number == 0 {
		if len(all) == 0 {
			return nil, nil
		}
		number = all[len(all)-1].Number
	}
	heads, err := f.Heads(all, number)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(k Kept) bool { return k.Number == number })
	return prove(all[i].Note, heads, device)
}

// Next is what Add signs beside the heads.
type Next struct {
	Time    time.Time
	NextKey ed25519.PublicKey
	// Number is where to go on when the folder is empty; 0: it is the first ever.
	Number int64
	Origin string // likewise; empty: the key's own
	// Broken lets chains not go on from the checkpoint before. Without it they
	// must: Add counts on its caller to have looked.
	Broken int64
}

// Add signs heads as the checkpoint after the last one of all, which All gave.
// When it returns, the files survive a power cut.
func (f Folder) Add(all []Kept, heads []Head, key ed25519.PrivateKey, n Next) (Kept, error) {
	heads = sortHeads(heads)
	var before []Head
	c := Checkpoint{
		Origin: n.Origin, Chains: int64(len(heads)), Number: max(n.Number, 1), Prev: Start,
		Time: n.Time.UTC().Truncate(time.Second), Broken: n.Broken, NextKey: n.NextKey,
	}
	if c.Origin == "" {
		c.Origin = Origin(key.Public().(ed25519.PublicKey))
	}
	if len(all) > 0 {
		last := all[len(all)-1]
		var err error
		if before, err = f.Heads(all, last.Number); err != nil {
			return Kept{}, err
		}
		c.Origin, c.Number, c.Prev = last.Origin, last.Number+1, last.Hash
	}
	var err error
	if c.Root, c.Lines, err = rootOf(heads); err != nil {
		return Kept{}, fmt.Errorf("making a checkpoint: %w", err)
	}
	b, err := c.sign(key)
	if err != nil {
		return Kept{}, err
	}
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return Kept{}, fmt.Errorf("checkpoints: %w", err)
	}
	k := Kept{Checkpoint: c, Name: nameOf(c.Number), Note: b, Hash: NoteHash(b)}
	// The heads first: a note without them would prove nothing. What an attempt
	// that was cut off has left of them is no checkpoint's yet.
	heading := filepath.Join(f.Dir, k.Name+headsExt)
	if _, err := os.Lstat(filepath.Join(f.Dir, k.Name+noteExt)); errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(heading)
	}
	if err := writeOnce(heading, moved(before, heads)); err != nil {
		return Kept{}, err
	}
	return k, writeOnce(filepath.Join(f.Dir, k.Name+noteExt), b)
}

// moved lists, one a line, the heads that differ; a chain that is gone has Seq 0.
func moved(before, now []Head) []byte {
	old := map[string]Head{}
	for _, h := range before {
		old[h.Device] = h
	}
	var b bytes.Buffer
	put := func(h Head) {
		line, _ := json.Marshal(h) // three plain fields
		b.Write(append(line, '\n'))
	}
	for _, h := range now {
		if old[h.Device] != h {
			put(h)
		}
		delete(old, h.Device)
	}
	for _, h := range before {
		if _, gone := old[h.Device]; gone {
			put(Head{Device: h.Device})
		}
	}
	return b.Bytes()
}

// writeOnce makes a file whole, or not at all, and never over another one.
func writeOnce(path string, b []byte) error {
	dir := filepath.Dir(path)
	t, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("checkpoints: %w", err)
	}
	defer os.Remove(t.Name())
	_, err = t.Write(b)
	if err = errors.Join(err, t.Sync(), t.Close()); err != nil {
		return fmt.Errorf("checkpoints: %w", err)
	}
	if err := os.Link(t.Name(), path); err != nil { // unlike a rename, never replaces
		return fmt.Errorf("checkpoints: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("checkpoints: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// SetAside moves everything of a folder that no longer holds together to a
// folder beside its files, so that a new sequence can begin. It says which
// number to go on with and whose the old ones were, as far as they can be read.
func (f Folder) SetAside(now time.Time) (number int64, origin string, err error) {
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return 0, "", fmt.Errorf("checkpoints: %w", err)
	}
	entries, err := os.ReadDir(f.Dir)
	if err != nil {
		return 0, "", fmt.Errorf("checkpoints: %w", err)
	}
	aside := filepath.Join(f.Dir, "set-aside-"+now.UTC().Format("20060102T150405Z"))
	if err := os.Mkdir(aside, 0o700); err != nil {
		return 0, "", fmt.Errorf("checkpoints: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		path := filepath.Join(f.Dir, e.Name())
		if name, ok := strings.CutSuffix(e.Name(), noteExt); ok {
			if n, err := strconv.ParseInt(name, 10, 64); err == nil {
				number = max(number, n)
			}
			if b, err := os.ReadFile(path); err == nil {
				if c, _, t := openCheckpoint(b, f.Keys); t == nil {
					origin = c.Origin
				}
			}
		}
		if err := os.Rename(path, filepath.Join(aside, e.Name())); err != nil {
			return 0, "", fmt.Errorf("checkpoints: %w", err)
		}
	}
	return number + 1, origin, nil
}
