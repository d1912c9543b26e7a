package appliance

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// What root leaves in the service's folder becomes the service's; what lies
// elsewhere stays root's, whatever the service puts in the way.
func TestHandOver(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: nothing to hand over")
		if err := HandOver(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		return
	}
	const uid = 12345
	data, elsewhere := t.TempDir(), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(data, "images", "a"), 0o700))
	must(os.WriteFile(filepath.Join(data, "images", "a", "frames"), nil, 0o600))
	must(os.WriteFile(filepath.Join(elsewhere, "shadow"), nil, 0o600))
	must(os.Symlink(elsewhere, filepath.Join(data, "payload")))
	must(os.Symlink(filepath.Join(elsewhere, "shadow"), filepath.Join(data, "link")))
	must(os.Link(filepath.Join(elsewhere, "shadow"), filepath.Join(data, "hard")))
	owner := func(path string) uint32 {
		t.Helper()
		st, err := os.Lstat(path)
		must(err)
		return st.Sys().(*syscall.Stat_t).Uid
	}

	must(HandOver(data))
	if owner(filepath.Join(data, "images")) != 0 {
		t.Fatal("root's own folder was given away")
	}
	must(os.Chown(data, uid, uid))
	must(HandOver(data))
	for _, f := range []string{"images", "images/a", "images/a/frames", "link"} {
		if owner(filepath.Join(data, f)) != uid {
			t.Errorf("%s still belongs to %d", f, owner(filepath.Join(data, f)))
		}
	}
	for _, f := range []string{elsewhere, filepath.Join(elsewhere, "shadow")} {
		if owner(f) != 0 {
			t.Errorf("%s was given away", f)
		}
	}
	must(HandOver(filepath.Join(data, "none")))
}
