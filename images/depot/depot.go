// Package depot is the catalogue of images on the appliance's disk and the HTTP
// serving of it. One folder per image, named by its root; folders that start
// with a dot are imports under way and removals. Several processes may use one
// depot: every change is one rename.
package depot

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"refurb/images"
)

const (
	manifestFile = "manifest"
	framesFile   = "frames"
	importPrefix = ".import-"
	removePrefix = ".removed-"
)

var (
	// ErrUnknown: no image of that root is here.
	ErrUnknown = errors.New("no such image")
	// ErrForeign: its manifest isn't signed by this appliance's key. It is
	// listed, never served.
	ErrForeign = errors.New("unsigned or foreign: import the image again on this appliance, or remove it")
	// ErrDamaged: its files don't belong together. Import it again.
	ErrDamaged = errors.New("damaged: import the image again, or remove it")
)

// A Depot is safe for many goroutines.
type Depot struct {
	dir string
	key ed25519.PrivateKey
	pub ed25519.PublicKey

	mu     sync.Mutex
	loaded map[string]*loaded
}

type loaded struct {
	stamp    os.FileInfo
	file     []byte
	manifest *images.Manifest
	etag     string
}

// Open makes the folder when it isn't there. The key signs what is imported,
// and only what it signed is served.
func Open(dir string, key ed25519.PrivateKey) (*Depot, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("opening the depot: no signing key")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the depot: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the depot: %w", err)
	}
	d := &Depot{dir: dir, key: key, pub: key.Public().(ed25519.PublicKey), loaded: make(map[string]*loaded)}
	// A removal that was interrupted is finished now.
	gone, err := filepath.Glob(filepath.Join(escapeGlob(dir), removePrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("opening the depot: %w", err)
	}
	for _, g := range gone {
		if err := os.RemoveAll(g); err != nil {
			return nil, fmt.Errorf("finishing a removal: %w", err)
		}
	}
	return d, nil
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// Entry is one image of the catalogue. With Err set Manifest is nil, and the
// image can't be used: Err says why.
type Entry struct {
	Root     string
	Manifest *images.Manifest
	Stored   int64 // bytes on the disk
	Err      error
}

// List gives every folder of the depot, the newest image first, bad ones last.
func (d *Depot) List() ([]Entry, error) {
	dirs, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("listing the depot: %w", err)
	}
	var all []Entry
	for _, e := range dirs {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		entry := Entry{Root: e.Name()}
		l, err := d.load(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Lstat(filepath.Join(d.dir, e.Name())); errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
		}
		if err == nil {
			entry.Manifest = l.manifest
			entry.Stored = l.manifest.Compressed() + int64(len(l.file))
		}
		entry.Err = err
		all = append(all, entry)
	}
	slices.SortStableFunc(all, func(a, b Entry) int {
		switch {
		case a.Err == nil && b.Err == nil:
			return b.Manifest.Created.Compare(a.Manifest.Created)
		case a.Err == nil:
			return -1
		case b.Err == nil:
			return 1
		}
		return strings.Compare(a.Root, b.Root)
	})
	return all, nil
}

// Manifest gives an image's manifest file and what it says, checked. Both are
// shared: don't change them. The error wraps ErrUnknown, ErrForeign or
// ErrDamaged.
func (d *Depot) Manifest(root string) ([]byte, *images.Manifest, error) {
	l, err := d.load(root)
	if err != nil {
		return nil, nil, err
	}
	return l.file, l.manifest, nil
}

// path refuses everything but a root, so no name leads out of the depot.
func (d *Depot) path(root string) (string, error) {
	var h images.Hash
	if h.UnmarshalText([]byte(root)) != nil || h.String() != root {
		return "", fmt.Errorf("%w: %.80q is not a root, which has 64 hex digits", ErrUnknown, root)
	}
	return filepath.Join(d.dir, root), nil
}

func (d *Depot) load(root string) (*loaded, error) {
	dir, err := d.path(root)
	if err != nil {
		return nil, err
	}
	if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s", ErrUnknown, root)
		}
		return nil, fmt.Errorf("%w: %s is not a folder (%v)", ErrDamaged, root, err)
	}
	f, err := os.Open(filepath.Join(dir, manifestFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer f.Close()
	stamp, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	d.mu.Lock()
	l := d.loaded[root]
	d.mu.Unlock()
	if l == nil || !os.SameFile(l.stamp, stamp) || l.stamp.Size() != stamp.Size() || !l.stamp.ModTime().Equal(stamp.ModTime()) {
		if l, err = d.read(f, stamp, root); err != nil {
			return nil, err
		}
		d.mu.Lock()
		d.loaded[root] = l
		d.mu.Unlock()
	}
	frames, err := os.Stat(filepath.Join(dir, framesFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if want := l.manifest.Compressed(); frames.Size() != want || !frames.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: its frames have %d bytes, the manifest says %d", ErrDamaged, frames.Size(), want)
	}
	return l, nil
}

func (d *Depot) read(f *os.File, stamp os.FileInfo, root string) (*loaded, error) {
	if !stamp.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: its manifest is not a file", ErrDamaged)
	}
	b, err := io.ReadAll(io.LimitReader(f, images.MaxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	m, err := images.Parse(b, d.pub)
	switch {
	case errors.Is(err, images.ErrSignature), errors.Is(err, images.ErrFormat):
		return nil, fmt.Errorf("%w (%w)", ErrForeign, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	case m.Root.String() != root:
		return nil, fmt.Errorf("%w: its folder is named otherwise than its root %s", ErrDamaged, m.Root)
	}
	return &loaded{stamp, b, m, `"` + images.Sum(b).String()[:32] + `"`}, nil
}

// Verify reads the image whole and checks every frame. It returns nil, the
// first bad frame as an *images.FrameError, or ctx's error. progress may be
// nil; it gets raw bytes.
func (d *Depot) Verify(ctx context.Context, root string, progress func(done, total int64)) error {
	dir, err := d.path(root)
	if err != nil {
		return err
	}
	l, err := d.load(root)
	if err != nil {
		return err
	}
	m := l.manifest
	f, err := os.Open(filepath.Join(dir, framesFile))
	if err != nil {
		return fmt.Errorf("verifying an image: %w", err)
	}
	defer f.Close()
	dec, err := images.NewDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	in, out := make([]byte, images.MaxFrame), make([]byte, images.FrameSize)
	for i, fr := range m.Frames {
		if err := ctx.Err(); err != nil {
			return err
		}
		if fr.Length > 0 {
			if _, err := f.ReadAt(in[:fr.Length], fr.Offset); err != nil {
				return &images.FrameError{Frame: i, Err: err}
			}
			if _, err := dec.Decode(m, i, in[:fr.Length], out); err != nil {
				return err
			}
		}
		if progress != nil {
			progress(min(int64(i+1)*images.FrameSize, m.Bytes), m.Bytes)
		}
	}
	return nil
}

// Remove deletes an image. PCs that are fetching it at the moment get an error
// with their next frame.
func (d *Depot) Remove(root string) error {
	dir, err := d.path(root)
	if err != nil {
		return err
	}
	gone := filepath.Join(d.dir, removePrefix+root+time.Now().UTC().Format(".20060102T150405.000000000"))
	if err := os.Rename(dir, gone); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrUnknown, root)
	} else if err != nil {
		return fmt.Errorf("removing an image: %w", err)
	}
	d.mu.Lock()
	delete(d.loaded, root)
	d.mu.Unlock()
	if err := errors.Join(syncDir(d.dir), os.RemoveAll(gone)); err != nil {
		return fmt.Errorf("removing an image: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func writeFile(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(b))
	return errors.Join(err, f.Sync(), f.Close())
}
