package payload

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestExtraFiles(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	p := &Payload{Dir: dir, Files: []File{{Name: "vmlinuz"}, {Name: "initrd"}}}
	if files, refused, err := p.Extra(); files != nil || refused != nil || err != nil {
		t.Errorf("without the folder: %v, %v, %v", files, refused, err)
	}
	put("boot/vmlinuz", "ours")
	put("extra/vmlinuz", "theirs")
	put("extra/shimx64.efi", "theirs") // ours is gone: it is not replaced
	put("extra/shimaa64.efi", "for arm64")
	put("extra/.hidden", "x")
	put("extra/with space", "x")
	put("extra/folder/file", "x")
	put("secret", "x")
	if err := errors.Join(os.Symlink(filepath.Join(dir, "boot/vmlinuz"), filepath.Join(dir, "extra/link.efi")), unix.Mkfifo(filepath.Join(dir, "extra/pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"vmlinuz": "ours", "shimx64.efi": "", "shimaa64.efi": "for arm64", ".hidden": "", "with space": "", "folder/file": "",
		"folder": "", "../secret": "", "link.efi": "ours", "pipe": "", "none": "", "": "", ".": "",
	} {
		done := make(chan string)
		go func() {
			b, err := fs.ReadFile(p.FS(), name)
			if err != nil {
				b = nil
			}
			done <- string(b)
		}()
		select {
		case got := <-done:
			if got != want {
				t.Errorf("%q holds %q, want %q", name, got, want)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%q keeps who asks for it waiting", name)
		}
	}
	files, refused, err := p.Extra()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	if want := []string{"link.efi", "shimaa64.efi"}; !slices.Equal(names, want) || files[1].Bytes != 9 || files[1].SHA256 != sum([]byte("for arm64")) {
		t.Errorf("extra files %+v, want %q", files, want)
	}
	for _, name := range []string{".hidden", "vmlinuz", "shimx64.efi", "folder", "pipe", "with space"} {
		if !slices.ContainsFunc(refused, func(s string) bool { return strings.HasPrefix(s, `"`+name+`": `) }) {
			t.Errorf("nothing is said of %s: %q", name, refused)
		}
	}
}
