package payload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// An operator may put boot files of his own into the folder extra/ beside
// boot/: an iPXE that Microsoft signed, shim and GRUB for another processor.
// They are served under their names like ours, never in place of ours, and
// nothing is known of them but their bytes.

// extraDir is where they lie.
func (p *Payload) extraDir() string { return filepath.Join(p.Dir, "extra") }

// FS holds the boot files by their flat names, and the extra ones.
func (p *Payload) FS() fs.FS {
	return &withExtra{os.DirFS(filepath.Join(p.Dir, "boot")), os.DirFS(p.extraDir()), p.ours}
}

// ours: a name that no extra file has, be our file there or not.
func (p *Payload) ours(name string) bool {
	_, ok := p.File(name)
	return ok || slices.Contains(required, name)
}

type withExtra struct {
	boot, extra fs.FS
	ours        func(name string) bool
}

func (w *withExtra) Open(name string) (fs.File, error) {
	if w.ours(name) || !plainName(name) {
		return w.boot.Open(name)
	}
	st, err := fs.Stat(w.extra, name)
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist} // a pipe would wait for somebody to write
	}
	if err != nil {
		return nil, err
	}
	return w.extra.Open(name)
}

// plainName: what PCs can ask for. "a-b_1.efi" is; folders and hidden files
// are not.
func plainName(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '.' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	}) < 0
}

// Extra lists the operator's boot files, and says of each one that is not
// served why.
func (p *Payload) Extra() (files []File, refused []string, err error) {
	entries, err := os.ReadDir(p.extraDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("extra boot files: %w", err)
	}
	for _, e := range entries {
		f := File{Name: e.Name(), Path: filepath.Join(p.extraDir(), e.Name()), Package: "extra"}
		st, err := os.Stat(f.Path) // what a link leads to is served
		switch {
		case p.ours(f.Name):
			refused = append(refused, fmt.Sprintf("%q: the payload has a file of this name, which is served", f.Name))
		case !plainName(f.Name):
			refused = append(refused, fmt.Sprintf("%q: name it with at most 64 letters, digits and . _ -", f.Name))
		case err != nil:
			refused = append(refused, fmt.Sprintf("%q: %v", f.Name, err))
		case !st.Mode().IsRegular():
			refused = append(refused, fmt.Sprintf("%q: it is no file; there are no folders", f.Name))
		default:
			if f.Bytes, f.SHA256, err = sumFile(f.Path); err != nil {
				return nil, nil, fmt.Errorf("extra boot files: %w", err)
			}
			files = append(files, f)
		}
	}
	return files, refused, nil
}
