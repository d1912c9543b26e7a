package trace

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The folder holds one small file for each start, put in place whole, so that
// whoever reads it beside a running appliance never sees half of one and never
// holds anything up.

const (
	houseName = "house"
	suffix    = ".json"
	maxFile   = 256 << 10
	maxFiles  = 4096
)

// Kept is what a folder holds.
type Kept struct {
	Starts     []*Start // the one that spoke last first
	House      []Line
	Unreadable []string // ids
}

func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return nil
}

// Read reads a folder, also that of an appliance at work.
func Read(dir string) (Kept, error) {
	var k Kept
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	for _, n := range names[:min(len(names), maxFiles)] {
		id, ok := strings.CutSuffix(n.Name(), suffix)
		if !ok || !n.Type().IsRegular() {
			continue
		}
		var s Start
		var v any = &s
		if id == houseName {
			v = &k.House
		}
		switch err := get(filepath.Join(dir, n.Name()), v); {
		case errors.Is(err, fs.ErrNotExist): // dropped meanwhile
		case errors.Is(err, fs.ErrPermission):
			return k, err
		case err != nil, id != houseName && (s.ID != id || len(s.MACs) == 0 || len(s.Lines) > maxLines):
			k.Unreadable = append(k.Unreadable, id)
		case id != houseName:
			k.Starts = append(k.Starts, &s)
		}
	}
	sortStarts(k.Starts)
	return k, nil
}

func get(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return err
	}
	if len(b) > maxFile {
		return fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return json.Unmarshal(b, v)
}

// put writes one file. It isn't flushed: what a power cut takes of a trace is
// no loss.
func put(dir, id string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	part := filepath.Join(dir, "."+id+".part")
	if err := os.WriteFile(part, b, 0o600); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, filepath.Join(dir, id+suffix))
}

func remove(dir, id string) error {
	if err := os.Remove(filepath.Join(dir, id+suffix)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
