package hardware

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"refurb/agent/wire"
)

// tree is the file system that the kernel shows of a PC: "/" on the PC itself,
// a folder in tests.
type tree string

// maxFile bounds whatever a PC can make us read in one go. The largest file in
// use is the SMBIOS table, a few kB in practice.
const maxFile = 1 << 20

func (t tree) path(elem ...string) string {
	return filepath.Join(append([]string{string(t)}, elem...)...)
}

// bytes reads at most maxFile bytes.
func (t tree) bytes(elem ...string) ([]byte, error) {
	f, err := os.Open(t.path(elem...))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// text is a one-value attribute, cleaned; "" when there is none.
func (t tree) text(elem ...string) string {
	b, err := t.bytes(elem...)
	if err != nil {
		return ""
	}
	return clean(string(b))
}

// number is a one-value attribute in decimal or 0x form; ok is false when it is
// missing or is no number.
func (t tree) number(elem ...string) (n int64, ok bool) {
	n, err := strconv.ParseInt(t.text(elem...), 0, 64)
	return n, err == nil
}

// names lists a folder, sorted; a folder that isn't there is an empty one.
func (t tree) names(elem ...string) []string {
	entries, err := os.ReadDir(t.path(elem...))
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (t tree) exists(elem ...string) bool {
	_, err := os.Stat(t.path(elem...))
	return err == nil
}

// real resolves links, so that the path tells how a device is attached. The
// result begins at the tree's root.
func (t tree) real(elem ...string) string {
	p, err := filepath.EvalSymlinks(t.path(elem...))
	if err != nil {
		return ""
	}
	root, err := filepath.EvalSymlinks(string(t))
	if err != nil {
		return ""
	}
	return "/" + strings.TrimPrefix(strings.TrimPrefix(p, root), "/")
}

// link is the last element of what a link points to: a driver's or a
// subsystem's name.
func (t tree) link(elem ...string) string {
	target, err := os.Readlink(t.path(elem...))
	if err != nil {
		return ""
	}
	return clean(filepath.Base(target))
}

// clean makes a string from a PC fit to be sent on: valid UTF-8, printable
// (no control characters, no invisible or direction marks), single spaces,
// trimmed, at most wire.MaxText bytes.
func clean(s string) string {
	if len(s) > 4*wire.MaxText {
		s = s[:4*wire.MaxText]
	}
	var b strings.Builder
	gap := false
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
		case unicode.IsSpace(r) || r == 0:
			gap = b.Len() > 0
		case unicode.IsPrint(r):
			n := utf8.RuneLen(r)
			if gap {
				n++
			}
			if b.Len()+n > wire.MaxText {
				return b.String()
			}
			if gap {
				b.WriteByte(' ')
				gap = false
			}
			b.WriteRune(r)
		}
	}
	return b.String()
}

// problem words a failure for the report. Paths are the kernel's own names.
func problem(what string, err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return clean(fmt.Sprintf("%s: %v", what, err))
}
