package depot

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"refurb/images"
)

var key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))

func open(t testing.TB) *Depot {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "images"), key)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// add stores an image of three frames, the middle one zero; seed makes it
// another image.
func add(t testing.TB, d *Depot, id, name string, seed byte) (string, []byte) {
	t.Helper()
	raw := make([]byte, 2*images.FrameSize+8192)
	r := rand.NewChaCha8([32]byte{seed})
	r.Read(raw[:images.FrameSize])
	r.Read(raw[2*images.FrameSize:])
	m := &images.Manifest{Name: name, Created: time.Unix(int64(seed), 0).UTC(), Bytes: int64(len(raw)), Block: 512}
	e, err := images.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	var frames []byte
	for at := 0; at < len(raw); at += images.FrameSize {
		n := len(frames)
		var f images.Frame
		frames, f.Hash = e.Encode(raw[at:min(at+images.FrameSize, len(raw))], frames)
		if f.Length = int64(len(frames) - n); f.Length > 0 {
			f.Offset = int64(n)
		}
		m.Frames = append(m.Frames, f)
	}
	i, err := d.Begin(id)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if err := os.WriteFile(i.Frames(), frames, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(i.Path("journal"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := i.Commit(m)
	if err != nil {
		t.Fatal(err)
	}
	return root.String(), frames
}

func TestCatalogue(t *testing.T) {
	d := open(t)
	if l, err := d.List(); err != nil || len(l) != 0 {
		t.Fatalf("a new depot lists %v, %v", l, err)
	}
	old, _ := add(t, d, "a", "old", 1)
	young, frames := add(t, d, "b", "young", 2)
	l, err := d.List()
	if err != nil || len(l) != 2 || l[0].Root != young || l[1].Root != old || l[0].Manifest.Name != "young" {
		t.Fatalf("list: %+v, %v", l, err)
	}
	if l[0].Stored <= int64(len(frames)) {
		t.Errorf("stored %d", l[0].Stored)
	}
	names, _ := os.ReadDir(filepath.Join(d.dir, young))
	if len(names) != 2 {
		t.Errorf("its folder holds %v", names)
	}
	var calls []int64
	if err := d.Verify(t.Context(), young, func(done, total int64) { calls = append(calls, done) }); err != nil {
		t.Error(err)
	}
	if len(calls) != 3 || calls[2] != l[0].Manifest.Bytes {
		t.Errorf("progress %v", calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := d.Verify(ctx, young, func(int64, int64) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled verify: %v", err)
	}
	if err := d.Remove(old); err != nil {
		t.Error(err)
	}
	if err := d.Remove(old); !errors.Is(err, ErrUnknown) {
		t.Errorf("removed twice: %v", err)
	}
	if _, _, err := d.Manifest(old); !errors.Is(err, ErrUnknown) {
		t.Errorf("a removed image: %v", err)
	}
	left, _ := os.ReadDir(d.dir)
	if len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestReplace(t *testing.T) {
	d := open(t)
	root, _ := add(t, d, "a", "first name", 1)
	if err := os.WriteFile(filepath.Join(d.dir, root, framesFile), []byte("broken"), 0o644); err != nil {
		t.Fatal(err)
	}
	again, _ := add(t, d, "other", "second name", 1)
	if again != root {
		t.Fatal("another root")
	}
	_, m, err := d.Manifest(root)
	if err != nil || m.Name != "second name" {
		t.Errorf("after importing again: %+v, %v", m, err)
	}
	if err := d.Verify(t.Context(), root, nil); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(d.dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestPathTricks(t *testing.T) {
	d := open(t)
	root, _ := add(t, d, "a", "x", 1)
	outside := filepath.Join(filepath.Dir(d.dir), strings.Repeat("0", 64))
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", ".", "..", "/", "../" + strings.Repeat("0", 64), root + "/", "./" + root, strings.ToUpper(root),
		root[:63], root + "0", root[:63] + "/", root[:63] + "g", ".import-a", "..\x00" + root[4:]} {
		if err := d.Remove(bad); !errors.Is(err, ErrUnknown) {
			t.Errorf("Remove(%q): %v", bad, err)
		}
		if _, _, err := d.Manifest(bad); !errors.Is(err, ErrUnknown) {
			t.Errorf("Manifest(%q): %v", bad, err)
		}
		if err := d.Verify(t.Context(), bad, nil); !errors.Is(err, ErrUnknown) {
			t.Errorf("Verify(%q): %v", bad, err)
		}
		if _, err := d.Begin(bad); err == nil && !images.SlotName(bad) {
			t.Errorf("Begin(%q)", bad)
		}
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
	if _, _, err := d.Manifest(root); err != nil {
		t.Error(err)
	}
}

// TestBadEntries damages an image in every way its files can be damaged.
func TestBadEntries(t *testing.T) {
	foreign := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
	for _, c := range []struct {
		name   string
		want   error
		damage func(t *testing.T, dir string)
	}{
		{"other key", ErrForeign, func(t *testing.T, dir string) {
			b, _ := os.ReadFile(filepath.Join(dir, manifestFile))
			m, err := images.Parse(b, key.Public().(ed25519.PublicKey))
			if err != nil {
				t.Fatal(err)
			}
			if b, err = images.Sign(m, foreign); err != nil {
				t.Fatal(err)
			}
			put(t, dir, manifestFile, b)
		}},
		{"unsigned", ErrForeign, func(t *testing.T, dir string) {
			b, _ := os.ReadFile(filepath.Join(dir, manifestFile))
			put(t, dir, manifestFile, b[bytes.IndexByte(b, '\n')+1:])
		}},
		{"empty manifest", ErrForeign, func(t *testing.T, dir string) { put(t, dir, manifestFile, nil) }},
		{"huge manifest", ErrForeign, func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, manifestFile), images.MaxManifest+1); err != nil {
				t.Fatal(err)
			}
		}},
		{"no manifest", ErrDamaged, func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, manifestFile)) }},
		{"manifest is a folder", ErrDamaged, func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, manifestFile))
			os.Mkdir(filepath.Join(dir, manifestFile), 0o755)
		}},
		{"no frames", ErrDamaged, func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, framesFile)) }},
		{"frames cut", ErrDamaged, func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, framesFile), 100) }},
		{"frames longer", ErrDamaged, func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, framesFile), 64<<20) }},
		{"another image's folder", ErrDamaged, func(t *testing.T, dir string) {
			b := []byte(filepath.Base(dir))
			b[0] ^= 1 // stays a hex digit for 0 to 9 and a to f but "a" and "f"
			if b[0] == '`' || b[0] == 'g' {
				b[0] = '5'
			}
			if err := os.Rename(dir, filepath.Join(filepath.Dir(dir), string(b))); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := open(t)
			root, _ := add(t, d, "a", "x", 1)
			if _, _, err := d.Manifest(root); err != nil { // so that it is known already
				t.Fatal(err)
			}
			c.damage(t, filepath.Join(d.dir, root))
			l, err := d.List()
			if err != nil || len(l) != 1 || l[0].Manifest != nil {
				t.Fatalf("list: %+v, %v", l, err)
			}
			if !errors.Is(l[0].Err, c.want) {
				t.Errorf("error %v, want %v", l[0].Err, c.want)
			}
			for _, file := range []string{manifestFile, framesFile} {
				if code := get(t, d, "GET", "/images/"+l[0].Root+"/"+file, nil).StatusCode; code != 500 {
					t.Errorf("%s was served: %d", file, code)
				}
			}
			if err := d.Remove(l[0].Root); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("stray", func(t *testing.T) {
		d := open(t)
		put(t, d.dir, "notes.txt", []byte("x"))
		put(t, d.dir, strings.Repeat("a", 64), []byte("x"))
		if l, err := d.List(); err != nil || len(l) != 2 || l[0].Err == nil || l[1].Err == nil {
			t.Errorf("list: %+v, %v", l, err)
		}
	})
}

func put(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyNamesTheFirstBadFrame(t *testing.T) {
	d := open(t)
	root, frames := add(t, d, "a", "x", 1)
	_, m, err := d.Manifest(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{2, 0} {
		frames[m.Frames[i].Offset+m.Frames[i].Length/2] ^= 4
		put(t, filepath.Join(d.dir, root), framesFile, frames)
		var fe *images.FrameError
		if err := d.Verify(t.Context(), root, nil); !errors.As(err, &fe) || fe.Frame != i {
			t.Errorf("frame %d changed: %v", i, err)
		}
	}
}

func TestImports(t *testing.T) {
	d := open(t)
	i, err := d.Begin("abc-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Begin("abc-1"); !errors.Is(err, ErrBusy) {
		t.Errorf("twice at once: %v", err)
	}
	put(t, i.dir, framesFile, make([]byte, 10000))
	u, err := d.Imports()
	if err != nil || len(u) != 1 || !u[0].Running || u[0].ID != "abc-1" || u[0].Stored < 10000 {
		t.Errorf("%+v, %v", u, err)
	}
	if err := d.Discard("abc-1"); !errors.Is(err, ErrBusy) {
		t.Errorf("discarded a running import: %v", err)
	}
	if err := i.Close(); err != nil {
		t.Error(err)
	}
	if u, _ := d.Imports(); len(u) != 1 || u[0].Running {
		t.Errorf("%+v", u)
	}
	// The depot's next opening leaves it, and clears an interrupted removal.
	gone := filepath.Join(d.dir, removePrefix+"x")
	os.Mkdir(gone, 0o755)
	if d, err = Open(d.dir, key); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the removal is still there")
	}
	if l, _ := d.List(); len(l) != 0 {
		t.Errorf("an import is listed: %+v", l)
	}
	if err := d.Discard("abc-1"); err != nil {
		t.Error(err)
	}
	if err := d.Discard("abc-1"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if u, _ := d.Imports(); len(u) != 0 {
		t.Errorf("%+v", u)
	}
}

func TestCommitRefuses(t *testing.T) {
	d := open(t)
	i, err := d.Begin("a")
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	m := &images.Manifest{Name: "x", Bytes: 512, Block: 512, Frames: []images.Frame{{Length: 5, Hash: images.Hash{1}}}}
	if _, err := i.Commit(m); err == nil {
		t.Error("committed without frames")
	}
	m.Bytes = 0
	if _, err := i.Commit(m); err == nil {
		t.Error("committed a bad manifest")
	}
	if l, _ := d.List(); len(l) != 0 {
		t.Errorf("listed: %+v", l)
	}
}

func TestFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	d, err := Open(dir, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Room(1 << 20); err != nil {
		t.Error(err)
	}
	err = d.Room(4 << 20)
	var full *FullError
	if !errors.As(err, &full) || full.Has <= 0 || full.Has >= 4<<20 || !strings.Contains(err.Error(), "refurb image remove") {
		t.Errorf("%v", err)
	}
	i, err := d.Begin("a")
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	werr := os.WriteFile(i.Frames(), make([]byte, 8<<20), 0o644)
	if err := d.Full(werr, 100); !errors.As(err, &full) || full.Need <= full.Has {
		t.Errorf("%v", err)
	}
	if err := d.Full(fs.ErrNotExist, 1); err != fs.ErrNotExist {
		t.Error(err)
	}
	// The manifest has no room either: Commit says so and lists nothing.
	os.Truncate(i.Frames(), 0)
	fill, _ := os.Create(i.Path("fill"))
	for err == nil {
		_, err = fill.Write(make([]byte, 4096))
	}
	fill.Close()
	m := &images.Manifest{Name: "x", Bytes: 512, Block: 512, Frames: []images.Frame{{}}}
	if _, err := i.Commit(m); !errors.As(err, &full) {
		t.Errorf("commit on a full disk: %v", err)
	}
	if l, _ := d.List(); len(l) != 0 {
		t.Errorf("listed: %+v", l)
	}
}
