package depot

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"refurb/images"
)

// Resign signs every image that one key has signed with the depot's own key: the
// way from a former key to a new one. Broken off, it goes on when it is called
// again. Images of other keys, and damaged ones, stay as they are.
func (d *Depot) Resign(former ed25519.PublicKey) (signed int, err error) {
	entries, err := d.List()
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if !errors.Is(e.Err, ErrForeign) {
			continue
		}
		path, err := d.path(e.Root)
		if err != nil {
			continue // a folder that is no image
		}
		b, err := os.ReadFile(filepath.Join(path, manifestFile))
		if err != nil {
			return signed, fmt.Errorf("signing image %s again: %w", e.Root, err)
		}
		m, err := images.Parse(b, former)
		if err != nil || m.Root.String() != e.Root {
			continue
		}
		if b, err = images.Sign(m, d.key); err != nil {
			return signed, fmt.Errorf("signing image %s again: %w", e.Root, err)
		}
		fresh := filepath.Join(path, manifestFile+".new")
		if err := errors.Join(writeFile(fresh, b), os.Rename(fresh, filepath.Join(path, manifestFile)), syncDir(path)); err != nil {
			return signed, fmt.Errorf("signing image %s again: %w", e.Root, err)
		}
		signed++
	}
	return signed, nil
}
