package pack

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"refurb/images"
	"refurb/images/depot"
)

// TestMain lets the test binary be the process that is killed: it imports
// REFURB_TEST_SOURCE into REFURB_TEST_DEPOT and tells its progress.
func TestMain(m *testing.M) {
	src := os.Getenv("REFURB_TEST_SOURCE")
	if src == "" {
		os.Exit(m.Run())
	}
	d, err := depot.Open(os.Getenv("REFURB_TEST_DEPOT"), key)
	if err == nil {
		var s *Source
		if s, err = Open(src); err == nil {
			_, err = Import(context.Background(), s, Options{Progress: func(done, total int64) { fmt.Println(done, total) }}, d)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// want imports without any trouble, beside the depot under test.
func wantFrames(t *testing.T, path string) (string, []byte) {
	t.Helper()
	dir := t.TempDir()
	d := openDepot(t, dir)
	root := importFile(t, d, path, Options{})
	if err := d.Verify(t.Context(), root, nil); err != nil {
		t.Error(err)
	}
	return root, read(t, filepath.Join(dir, root, "frames"))
}

func sameFrames(t *testing.T, dir, root, want string, frames []byte) {
	t.Helper()
	if root != want {
		t.Fatalf("root %s, want %s", root, want)
	}
	if !bytes.Equal(read(t, filepath.Join(dir, root, "frames")), frames) {
		t.Error("other frames than without interruption")
	}
	if _, _, err := openDepot(t, dir).Manifest(root); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

func TestCancelAndResume(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := makeDisk(t, dir, 512, 10)
	gz, xz, q := path+".gz", path+".xz", path+".qcow2.gz"
	run(t, "sh", "-c", "gzip -1 < "+path+" > "+gz+"; xz -0 < "+path+" > "+xz+
		"; qemu-img convert -f raw -O qcow2 "+path+" "+dir+"/q; gzip -1 < "+dir+"/q > "+q)
	want, frames := wantFrames(t, path)
	for src, stops := range map[string][]int{path: {0, 2, 5, 9, 10}, gz: {1, 9}, xz: {7}, q: {1, 9}} {
		t.Run(filepath.Base(src), func(t *testing.T) {
			t.Parallel()
			for _, stop := range stops {
				images := t.TempDir()
				d := openDepot(t, images)
				ctx, cancel := context.WithCancel(t.Context())
				n := 0
				_, err := Import(ctx, load(t, src), Options{Progress: func(done, total int64) {
					if src == q && total < 0 {
						return
					}
					if n++; n > stop {
						cancel()
					}
				}}, d)
				cancel()
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("stopped at %d: %v", stop, err)
				}
				if l, _ := d.List(); len(l) != 0 {
					t.Fatalf("stopped at %d: listed %+v", stop, l)
				}
				if u, _ := d.Imports(); len(u) != 1 || u[0].Running {
					t.Fatalf("imports %+v", u)
				}
				first := int64(-1)
				root, err := Import(t.Context(), load(t, src), Options{Progress: func(done, total int64) {
					if first < 0 {
						first = done
					}
				}}, d)
				if err != nil {
					t.Fatal(err)
				}
				sameFrames(t, images, root.String(), want, frames)
				if src == path && stop > 2*recheck && first <= 4<<20 {
					t.Errorf("stopped at %d: began anew, at %d", stop, first)
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Import(ctx, load(t, path), Options{}, openDepot(t, t.TempDir())); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before it began: %v", err)
	}
}

// TestKilled kills a process that imports, several times over.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := makeDisk(t, dir, 512, 11)
	want, frames := wantFrames(t, path)
	images := dir + "/images"
	for _, lines := range []int{1, 3, 6, 9, 11} {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "REFURB_TEST_SOURCE="+path, "REFURB_TEST_DEPOT="+images)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		s := bufio.NewScanner(out)
		for range lines {
			s.Scan()
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	sameFrames(t, images, importFile(t, openDepot(t, images), path, Options{}), want, frames)
}

// TestDamagedStaging does to a stopped import's files what power cuts and
// people may do.
func TestDamagedStaging(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := makeDisk(t, dir, 512, 12)
	want, frames := wantFrames(t, path)
	r := rand.New(rand.NewPCG(1, 2))
	cut := func(name string) func(string) {
		return func(dir string) {
			fi, err := os.Stat(filepath.Join(dir, name))
			if err == nil {
				os.Truncate(filepath.Join(dir, name), r.Int64N(fi.Size()+1))
			}
		}
	}
	flip := func(name string) func(string) {
		return func(dir string) {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil && len(b) > 0 {
				// Near the end: further in it was flushed long before.
				b[len(b)-1-r.IntN(min(len(b), 300))] ^= 0x41
				os.WriteFile(filepath.Join(dir, name), b, 0o644)
			}
		}
	}
	longer := func(name, what string) func(string) {
		return func(dir string) {
			f, _ := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_WRONLY, 0)
			f.WriteString(what)
			f.Close()
		}
	}
	remove := func(name string) func(string) {
		return func(dir string) { os.Remove(filepath.Join(dir, name)) }
	}
	stopped := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Import(ctx, load(t, path), Options{Progress: func(done, total int64) {
		if done > total*3/4 {
			cancel()
		}
	}}, openDepot(t, stopped))
	cancel()
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for i, damage := range []func(string){
		cut("frames"), cut("frames"), cut("frames"), cut(journalLog), cut(journalLog), cut(journalLog),
		flip("frames"), flip("frames"), flip(journalLog), flip(journalLog), flip(journalLog),
		longer("frames", "rest of a torn write"), longer(journalLog, `{"i":99`), longer(journalLog, "{\"i\":10,\"l\":-5}\n"),
		longer(journalLog, "{\"i\":10,\"z\":99999999}\n"), longer(journalLog, strings.Repeat("x", 10000)),
		remove("frames"), remove(journalLog),
	} {
		images := t.TempDir()
		run(t, "cp", "-a", stopped+"/.", images)
		d := openDepot(t, images)
		staging, _ := filepath.Glob(images + "/.import-*")
		damage(staging[0])
		root, err := Import(t.Context(), load(t, path), Options{}, d)
		if err != nil {
			t.Fatalf("damage %d: %v", i, err)
		}
		sameFrames(t, images, root.String(), want, frames)
	}
}

// TestOtherContentSameStamp: a source that was written without leaving a trace.
func TestOtherContentSameStamp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := makeDisk(t, dir, 512, 13)
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	images := dir + "/images"
	d := openDepot(t, images)
	ctx, cancel := context.WithCancel(t.Context())
	Import(ctx, load(t, path), Options{Progress: func(done, total int64) {
		if done == total {
			cancel()
		}
	}}, d)
	cancel()
	f, _ := os.OpenFile(path, os.O_WRONLY, 0)
	f.WriteAt([]byte("changed"), 8<<22)
	f.Close()
	if err := os.Chtimes(path, fi.ModTime(), fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	want, frames := wantFrames(t, path)
	sameFrames(t, images, importFile(t, d, path, Options{}), want, frames)
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := makeDisk(t, dir, 512, 14)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	more := make([]byte, images.FrameSize)
	rand.NewChaCha8([32]byte{99}).Read(more)
	if _, err := f.WriteAt(more, 3*images.FrameSize); err != nil {
		t.Fatal(err)
	}
	f.Close()
	q := dir + "/q.gz"
	run(t, "sh", "-c", "qemu-img convert -f raw -O qcow2 "+path+" "+dir+"/q; gzip -1 < "+dir+"/q > "+q)
	want, frames := wantFrames(t, path)
	for _, c := range []struct {
		name, src, size string
	}{
		{"before it starts", path, "2m"},
		{"while it packs", path, "5m"},
		{"while it unpacks", q, "8m"},
	} {
		t.Run(c.name, func(t *testing.T) {
			small := t.TempDir()
			if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size="+c.size); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
			d := openDepot(t, small)
			_, err := Import(t.Context(), load(t, c.src), Options{}, d)
			var full *depot.FullError
			if !errors.As(err, &full) || full.Need <= full.Has || !strings.Contains(err.Error(), "refurb image remove") {
				t.Fatalf("%v", err)
			}
			if l, _ := d.List(); len(l) != 0 {
				t.Errorf("listed %+v", l)
			}
			// Somebody made room: it goes on.
			if err := unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
				t.Fatal(err)
			}
			root, err := Import(t.Context(), load(t, c.src), Options{}, d)
			if err != nil {
				t.Fatal(err)
			}
			if c.src == path {
				sameFrames(t, small, root.String(), want, frames)
			}
		})
	}
}

func TestJournalKeepsZeroRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() *journal {
		j, err := openJournal(dir+"/frames", dir+"/log", "head\n")
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	j := open()
	enc, _ := images.NewEncoder()
	raw := bytes.Repeat([]byte("abcd"), images.FrameSize/4)
	packed, h := enc.Encode(raw, nil)
	for i := range 100000 {
		var err error
		if i == 70000 {
			err = j.add(len(raw), packed, h, []images.Slot{{Name: "x", Offset: 5}})
		} else {
			err = j.add(len(raw), nil, images.Hash{}, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(j.flush(), j.close()); err != nil {
		t.Fatal(err)
	}
	if fi, _ := os.Stat(dir + "/log"); fi.Size() > 1000 {
		t.Errorf("the journal has %d bytes", fi.Size())
	}
	j = open()
	defer j.close()
	if len(j.done) != 100000 || j.done[70000].Hash != h || len(j.slots) != 1 {
		t.Errorf("%d frames, %+v, %+v", len(j.done), j.done[70000], j.slots)
	}
}

// TestFailedFlush: frames that may be lost are never called stored, although a
// later flush finds nothing wrong.
func TestFailedFlush(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, err := openJournal(dir+"/frames", dir+"/log", "head\n")
	if err != nil {
		t.Fatal(err)
	}
	enc, _ := images.NewEncoder()
	add := func(text string) error {
		raw := bytes.Repeat([]byte(text), images.FrameSize/len(text))
		packed, h := enc.Encode(raw, nil)
		return errors.Join(j.add(len(raw), packed, h, nil), j.flush(), j.wait())
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(add("safe"))
	log := j.log
	j.log, err = os.Open(dir + "/log") // for reading only
	must(err)
	if add("lost") == nil {
		t.Fatal("a flush that couldn't write said nothing")
	}
	must(j.log.Close())
	j.log = log
	must(add("next"))
	must(j.close())
	j, err = openJournal(dir+"/frames", dir+"/log", "head\n")
	must(err)
	defer j.close()
	if len(j.done) != 1 {
		t.Errorf("%d frames are called stored, want 1", len(j.done))
	}
}
