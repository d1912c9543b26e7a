package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// HandOver gives what root has made in a data folder to the folder's owner. The
// service runs as a user of its own, and a command that somebody ran as root
// beside it must not leave it files that it can't read. It does nothing for
// other users and for root's own folder.
func HandOver(data string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	// The owner may swap folders for links while this runs: nothing outside of
	// the root is ever reached.
	root, err := os.OpenRoot(data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	defer root.Close()
	st, err := root.Stat(".")
	if err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	owner, ok := st.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	return fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the appliance works beside us
		}
		if err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
		// A file with a second name may be one of root's from elsewhere.
		own, ok := info.Sys().(*syscall.Stat_t)
		if !ok || own.Uid != 0 || !info.IsDir() && own.Nlink > 1 {
			return nil
		}
		if err := root.Lchown(path, int(owner.Uid), int(owner.Gid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("data folder: %w", err)
		}
		return nil
	})
}
