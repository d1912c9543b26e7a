package depot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"refurb/images"
)

// An Import is a folder in the depot where an image is being put together. It
// outlives the process: Begin with the same id finds what is there. It is
// locked while it is open.
type Import struct {
	ID   string
	d    *Depot
	dir  string
	lock *os.File
}

// ErrBusy: another process is at the same import.
var ErrBusy = errors.New("this import is already running")

// Begin makes or reopens the folder for id, which has letters, digits and "-".
func (d *Depot) Begin(id string) (*Import, error) {
	if !images.SlotName(id) {
		return nil, fmt.Errorf("%.80q can't name an import", id)
	}
	dir := filepath.Join(d.dir, importPrefix+id)
	for range 10 {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, d.Full(fmt.Errorf("starting an import: %w", err), 0)
		}
		i, err := d.reopen(id)
		if !errors.Is(err, fs.ErrNotExist) {
			return i, err
		}
		// Another process finished it between the two steps.
	}
	return nil, ErrBusy
}

// reopen locks an import's folder; fs.ErrNotExist when there is none.
func (d *Depot) reopen(id string) (*Import, error) {
	dir := filepath.Join(d.dir, importPrefix+id)
	lock, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening an import: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("locking an import: %w", err)
	}
	// Its folder may have been renamed between opening and locking.
	mine, err := lock.Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = os.Stat(dir); err == nil && !os.SameFile(mine, there) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("opening an import: %w", err)
	}
	return &Import{id, d, dir, lock}, nil
}

// Path of a file in the import's folder.
func (i *Import) Path(name string) string { return filepath.Join(i.dir, name) }

// Frames is where the compressed frames go.
func (i *Import) Frames() string { return i.Path(framesFile) }

// Close unlocks the import and leaves its files for the next Begin.
func (i *Import) Close() error { return i.lock.Close() }

// Discard deletes the import's files and unlocks it.
func (i *Import) Discard() error {
	return errors.Join(os.RemoveAll(i.dir), i.lock.Close())
}

// Commit signs m and makes the import an image of the catalogue, in one step
// that holds after a power cut: all files are on the disk before the rename.
// Everything else in the folder is deleted. An image of the same root is
// replaced.
func (i *Import) Commit(m *images.Manifest) (images.Hash, error) {
	file, err := images.Sign(m, i.d.key)
	if err != nil {
		return images.Hash{}, err
	}
	if err := i.commit(m, file); err != nil {
		return images.Hash{}, i.d.Full(fmt.Errorf("storing the image: %w", err), int64(len(file)))
	}
	return m.Root, nil
}

func (i *Import) commit(m *images.Manifest, file []byte) error {
	f, err := os.OpenFile(i.Frames(), os.O_RDWR|os.O_CREATE, 0o644) // all zero: no frames were written
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() != m.Compressed() {
		err = fmt.Errorf("the frames have %d bytes, not %d", fi.Size(), m.Compressed())
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := writeFile(i.Path(manifestFile), file); err != nil {
		return err
	}
	files, err := os.ReadDir(i.dir)
	if err != nil {
		return err
	}
	for _, e := range files {
		if e.Name() != manifestFile && e.Name() != framesFile {
			if err := os.RemoveAll(i.Path(e.Name())); err != nil {
				return err
			}
		}
	}
	if err := syncDir(i.dir); err != nil {
		return err
	}
	to := filepath.Join(i.d.dir, m.Root.String())
	switch err := unix.Renameat2(unix.AT_FDCWD, i.dir, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err {
	case nil:
		return syncDir(i.d.dir)
	case unix.EEXIST:
	default:
		return os.NewSyscallError("rename", err)
	}
	// The old image lies in the import's folder for a moment; a crash here
	// leaves it there, and the next import of this source starts over it.
	if err := unix.Renameat2(unix.AT_FDCWD, i.dir, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE); err != nil {
		return os.NewSyscallError("rename", err)
	}
	return errors.Join(syncDir(i.d.dir), os.RemoveAll(i.dir))
}

// Unfinished is an import that was interrupted, or is running.
type Unfinished struct {
	ID      string
	Stored  int64 // bytes on the disk
	Changed time.Time
	Running bool
}

// Imports lists what Begin left and Commit did not finish.
func (d *Depot) Imports() ([]Unfinished, error) {
	dirs, err := filepath.Glob(filepath.Join(escapeGlob(d.dir), importPrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("listing imports: %w", err)
	}
	var all []Unfinished
	for _, dir := range dirs {
		u := Unfinished{ID: strings.TrimPrefix(filepath.Base(dir), importPrefix)}
		files, err := os.ReadDir(dir)
		if err != nil {
			continue // finished meanwhile
		}
		for _, e := range files {
			if fi, err := e.Info(); err == nil {
				if st, ok := fi.Sys().(*syscall.Stat_t); ok {
					u.Stored += st.Blocks * 512
				}
				if fi.ModTime().After(u.Changed) {
					u.Changed = fi.ModTime()
				}
			}
		}
		if i, err := d.reopen(u.ID); errors.Is(err, ErrBusy) {
			u.Running = true
		} else if err == nil {
			i.Close()
		}
		all = append(all, u)
	}
	return all, nil
}

// Discard deletes an interrupted import; ErrBusy when it is running.
func (d *Depot) Discard(id string) error {
	if !images.SlotName(id) {
		return fmt.Errorf("%.80q can't name an import", id)
	}
	i, err := d.reopen(id)
	if err != nil {
		return err
	}
	return i.Discard()
}

// FullError: the disk under the depot has no room.
type FullError struct{ Need, Has int64 }

func (e *FullError) Error() string {
	return fmt.Sprintf("the server's disk is full: needs %s, has %s; remove an image with `refurb image remove` or free space",
		amount(e.Need), amount(e.Has))
}

func (e *FullError) Unwrap() error { return unix.ENOSPC }

func amount(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.0f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%d kB", (n+999)/1000)
}

// Room returns a *FullError unless need more bytes fit. It keeps a twentieth of
// the disk, at most 256 MiB, for the records that share it: an image must not
// stop the workshop's database.
func (d *Depot) Room(need int64) error {
	has, err := d.room()
	if err != nil {
		return err
	}
	if need > has {
		return &FullError{need, has}
	}
	return nil
}

func (d *Depot) room() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return 0, fmt.Errorf("asking for the free space of %s: %w", d.dir, err)
	}
	block := int64(st.Bsize)
	return max(0, int64(st.Bavail)*block-min(256<<20, int64(st.Blocks)*block/20)), nil
}

// Full makes a "no space left" or a quota's error a *FullError, for need more
// bytes, and leaves other errors alone.
func (d *Depot) Full(err error, need int64) error {
	var full *FullError
	if errors.As(err, &full) || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	has, _ := d.room()
	return &FullError{max(need, has+1), has}
}
