package pack

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/klauspost/compress/zstd"

	"refurb/images"
	"refurb/images/depot"
)

var key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))

func openDepot(t testing.TB, dir string) *depot.Depot {
	t.Helper()
	d, err := depot.Open(dir, key)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const slotAt = 9<<20 + 512*3

// makeDisk writes a raw disk with a GPT, an ESP and a Linux partition, boot
// code, random data with holes between, a slot, and an odd last frame.
func makeDisk(t testing.TB, dir string, block int, seed byte) string {
	t.Helper()
	path := filepath.Join(dir, fmt.Sprintf("disk-%d-%d.img", block, seed))
	const size = 10*images.FrameSize + 12288
	d, err := diskfs.Create(path, size, diskfs.SectorSize(block))
	if err != nil {
		t.Fatal(err)
	}
	at := func(n int) uint64 { return uint64(n / block) }
	table := &gpt.Table{LogicalSectorSize: block, PhysicalSectorSize: block, ProtectiveMBR: true, Partitions: []*gpt.Partition{
		{Index: 1, Type: gpt.EFISystemPartition, Name: "esp", Start: at(1 << 20), End: at(8<<20) - 1},
		{Index: 2, Type: gpt.LinuxRootX86_64, Name: "root", Start: at(8 << 20), End: at(size-(1<<20)) - 1},
	}}
	if err := d.Partition(table); err != nil {
		t.Fatal(err)
	}
	d.Close()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put := func(at int64, b []byte) {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.NewChaCha8([32]byte{seed})
	data := make([]byte, images.FrameSize)
	r.Read(data)
	put(0, []byte{0xEB, 0x63, 0x90}) // boot code
	put(1<<20, data[:100<<10])
	put(4*images.FrameSize-50000, data[:150000]) // over a frame's edge
	put(5*images.FrameSize, make([]byte, images.FrameSize))
	put(6*images.FrameSize, data[:1<<20])
	r.Read(data[:65536])
	put(8*images.FrameSize, bytes.Repeat(data[:65536], 64))
	slot := make([]byte, images.SlotSize)
	copy(slot, images.SlotMark+"checkin\n")
	put(slotAt, slot)
	return path
}

func load(t testing.TB, path string) *Source {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func importFile(t testing.TB, d *depot.Depot, path string, o Options) string {
	t.Helper()
	root, err := Import(t.Context(), load(t, path), o, d)
	if err != nil {
		t.Fatal(err)
	}
	return root.String()
}

// content decodes an image of the depot.
func content(t testing.TB, dir, root string) (*images.Manifest, []byte) {
	t.Helper()
	_, m, err := openDepot(t, dir).Manifest(root)
	if err != nil {
		t.Fatal(err)
	}
	frames, err := os.ReadFile(filepath.Join(dir, root, "frames"))
	if err != nil {
		t.Fatal(err)
	}
	dec, err := images.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	raw := make([]byte, m.Bytes)
	for i, f := range m.Frames {
		if _, err := dec.Decode(m, i, frames[f.Offset:][:f.Length], raw[i*images.FrameSize:]); err != nil {
			t.Fatal(err)
		}
	}
	return m, raw
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRaw(t *testing.T) {
	for _, block := range []int{512, 4096} {
		t.Run(fmt.Sprint(block), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := makeDisk(t, dir, block, 1)
			var calls [][2]int64
			s := load(t, path)
			if s.Format != "raw" {
				t.Errorf("format %s", s.Format)
			}
			d := openDepot(t, dir+"/images")
			root, err := Import(t.Context(), s, Options{Name: "Desktop", Version: "1", Progress: func(a, b int64) { calls = append(calls, [2]int64{a, b}) }}, d)
			if err != nil {
				t.Fatal(err)
			}
			m, got := content(t, dir+"/images", root.String())
			if want := read(t, path); !bytes.Equal(got, want) {
				t.Error("the image differs from the disk")
			}
			if m.Block != block || !slices.Equal(m.Boots, []string{"bios", "uefi"}) || m.Grow != 2 || m.Name != "Desktop" || m.Version != "1" {
				t.Errorf("manifest %+v", m)
			}
			if len(m.Slots) != 1 || m.Slots[0] != (images.Slot{Name: "checkin", Offset: slotAt, Length: images.SlotSize}) {
				t.Errorf("slots %+v", m.Slots)
			}
			var zeroes []int
			for i, f := range m.Frames {
				if f.Length == 0 {
					zeroes = append(zeroes, i)
				}
			}
			if !slices.Equal(zeroes, []int{1, 5, 7}) {
				t.Errorf("frames of zeroes: %v", zeroes)
			}
			if len(calls) != 11 || calls[10] != [2]int64{m.Bytes, m.Bytes} {
				t.Errorf("progress %v", calls)
			}
			if left, _ := os.ReadDir(dir + "/images"); len(left) != 1 {
				t.Errorf("left %v", left)
			}
			if err := d.Verify(t.Context(), root.String(), nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFormats imports one disk in every form and expects one root.
func TestFormats(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := makeDisk(t, dir, 512, 2)
	d := openDepot(t, dir+"/images")
	want := importFile(t, d, path, Options{})
	_, raw := content(t, dir+"/images", want)
	frames := read(t, filepath.Join(dir, "images", want, "frames"))
	qemu := func(args ...string) string {
		out := filepath.Join(dir, fmt.Sprintf("%x.q", images.Sum([]byte(strings.Join(args, " ")))))
		run(t, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), path, out)...)
		return out
	}
	packed := func(in string, cmd ...string) string {
		out := in + "." + cmd[0]
		run(t, "sh", "-c", strings.Join(cmd, " ")+" < "+in+" > "+out)
		return out
	}
	q := qemu("-c")
	v2 := qemu("-o", "compat=0.10")
	snap := qemu("-o", "lazy_refcounts=on")
	run(t, "qemu-img", "snapshot", "-c", "before", snap)
	for _, c := range []struct{ path, format string }{
		{qemu(), "qcow2"},
		{v2, "qcow2"},
		{snap, "qcow2"},
		{q, "qcow2"},
		{qemu("-c", "-o", "compression_type=zstd"), "qcow2"},
		{qemu("-c", "-o", "cluster_size=512"), "qcow2"},
		{qemu("-c", "-o", "cluster_size=4k"), "qcow2"},
		{qemu("-c", "-o", "cluster_size=4k,compression_type=zstd"), "qcow2"},
		{qemu("-c", "-o", "cluster_size=2M"), "qcow2"},
		{qemu("-o", "cluster_size=2M"), "qcow2"},
		{qemu("-o", "preallocation=metadata"), "qcow2"},
		{qemu("-o", "extended_l2=on"), "qcow2"},
		{qemu("-c", "-o", "extended_l2=on"), "qcow2"},
		{packed(path, "gzip", "-1"), "raw.gz"},
		{packed(path, "xz", "-0"), "raw.xz"},
		{packed(path, "xz", "-0", "--block-size=1MiB", "-T1"), "raw.xz"},
		{packed(path, "zstd", "-1"), "raw.zst"},
		{packed(q, "gzip", "-1"), "qcow2.gz"},
		{packed(q, "xz", "-0"), "qcow2.xz"},
		{packed(v2, "zstd", "-1", "--long=27"), "qcow2.zst"},
	} {
		t.Run(c.format+filepath.Ext(c.path), func(t *testing.T) {
			t.Parallel()
			s := load(t, c.path)
			if s.Format != c.format {
				t.Errorf("format %s, want %s", s.Format, c.format)
			}
			dir := t.TempDir()
			d := openDepot(t, dir+"/images")
			root, err := Import(t.Context(), s, Options{}, d)
			if err != nil {
				t.Fatal(err)
			}
			if root.String() != want {
				_, got := content(t, dir+"/images", root.String())
				for i := range min(len(got), len(raw)) {
					if got[i] != raw[i] {
						t.Fatalf("%d bytes of %d, differs at %d", len(got), len(raw), i)
					}
				}
				t.Errorf("%d bytes of %d, otherwise equal", len(got), len(raw))
			}
			if !bytes.Equal(read(t, filepath.Join(dir, "images", want, "frames")), frames) {
				t.Error("the same disk gives other frames in this form")
			}
			if left, _ := os.ReadDir(dir + "/images"); len(left) != 1 {
				t.Errorf("left %v", left)
			}
		})
	}
}

// TestSameFramesWithOneCoreAndMany packs one disk with several numbers of cores,
// also with another number after an interruption.
func TestSameFramesWithOneCoreAndMany(t *testing.T) {
	dir := t.TempDir()
	path := makeDisk(t, dir, 512, 3)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	want, frames := "", []byte(nil)
	for i, cores := range [][]int{{1}, {2}, {5}, {5, 1}, {1, 3}} {
		sub := fmt.Sprintf("%s/images%d", dir, i)
		d := openDepot(t, sub)
		for _, n := range cores[:len(cores)-1] {
			runtime.GOMAXPROCS(n)
			ctx, cancel := context.WithCancel(t.Context())
			if _, err := Import(ctx, load(t, path), Options{Progress: func(done, total int64) {
				if done > total/2 {
					cancel()
				}
			}}, d); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			cancel()
		}
		runtime.GOMAXPROCS(cores[len(cores)-1])
		root := importFile(t, d, path, Options{})
		got := read(t, sub+"/"+root+"/frames")
		if want == "" {
			want, frames = root, got
		}
		if root != want || !bytes.Equal(got, frames) {
			t.Errorf("other frames with %v cores than with one", cores)
		}
	}
}

func TestName(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/a/debian-13.img.xz": "debian-13", "/a/x.qcow2.gz": "x", "/a/x.tar": "x.tar", "/a/Käse.raw": "Käse",
		"/a/a\x1bb\xff.img": "a-b-", "/a/.img": ".img", "/a/" + strings.Repeat("ä", 100): strings.Repeat("ä", 64),
	} {
		if got := (&Source{Path: path}).name(); got != want {
			t.Errorf("%q gives %q, want %q", path, got, want)
		}
	}
}

func refuses(t *testing.T, path, want string, o Options) {
	t.Helper()
	d := openDepot(t, t.TempDir())
	s, err := Open(path)
	if err == nil {
		defer s.Close()
		_, err = Import(t.Context(), s, o, d)
	}
	var r *Refusal
	if !errors.As(err, &r) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want a refusal of %s about %q", err, path, want)
	}
	if u, _ := d.Imports(); len(u) != 0 {
		t.Errorf("left %+v", u)
	}
	if l, _ := d.List(); len(l) != 0 {
		t.Errorf("listed %+v", l)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := makeDisk(t, dir, 512, 4)
	raw := read(t, good)
	p := func(name string) string { return filepath.Join(dir, name) }
	file := func(name string, b []byte) string { return write(t, p(name), b) }
	changed := func(name string, change func(b []byte) []byte) string { return file(name, change(bytes.Clone(raw))) }

	refuses(t, file("empty", nil), "empty", Options{})
	refuses(t, dir, "regular", Options{})
	refuses(t, changed("odd", func(b []byte) []byte { return b[:len(b)-100] }), "truncate -s", Options{})
	refuses(t, changed("cut", func(b []byte) []byte { return b[:len(b)-images.FrameSize] }), "cut short", Options{})
	refuses(t, changed("header", func(b []byte) []byte { b[512+60] ^= 1; return b }), "damaged", Options{})
	refuses(t, changed("entries", func(b []byte) []byte { b[1024+40] ^= 1; return b }), "damaged", Options{})
	refuses(t, changed("iso", func(b []byte) []byte { copy(b[32769:], "CD001"); return b }), "ISO 9660", Options{})
	refuses(t, changed("early slot", func(b []byte) []byte { copy(b[512*100:], images.SlotMark+"checkin\n"); return b }), "first MiB", Options{})
	refuses(t, file("zeroes", make([]byte, 1<<20)), "not a disk", Options{})
	refuses(t, file("text", bytes.Repeat([]byte("no disk\n"), 4096)), "not a disk", Options{})
	refuses(t, file("small", make([]byte, 100)), "not a disk", Options{})
	refuses(t, good, "partition 1", Options{Grow: 1})
	for _, o := range []Options{{Name: "a\nb"}, {Version: strings.Repeat("v", 200)}} {
		var r *Refusal
		if _, err := Import(t.Context(), load(t, good), o, openDepot(t, t.TempDir())); !errors.As(err, &r) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	refuses(t, file("zip", []byte("PK\x03\x04..........")), "zip", Options{})
	refuses(t, file("tar", append(make([]byte, 257), "ustar"+strings.Repeat("\x00", 250)...)), "tar", Options{})

	run(t, "mkfs.fat", "-C", p("fat.img"), "1440")
	refuses(t, p("fat.img"), "not a disk", Options{})
	run(t, "sh", "-c", "gzip -1 < "+good+" | xz -0 > "+p("twice"))
	refuses(t, p("twice"), "twice", Options{})
	run(t, "sh", "-c", "head -c 1000100 "+good+" | gzip > "+p("odd.gz"))
	refuses(t, p("odd.gz"), "multiple", Options{Force: true})

	for _, f := range []string{"vmdk", "vdi", "vhdx", "vpc"} {
		run(t, "qemu-img", "convert", "-f", "raw", "-O", f, good, p("x."+f))
		refuses(t, p("x."+f), "qemu-img convert -f "+f, Options{})
	}
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size", good, p("fixed.vpc"))
	refuses(t, p("fixed.vpc"), "VHD", Options{})

	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", good, p("over.qcow2"))
	refuses(t, p("over.qcow2"), "backing file", Options{})
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s", good, p("aes.qcow2"))
	refuses(t, p("aes.qcow2"), "encrypted", Options{})
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "data_file="+p("outside.raw"), good, p("external.qcow2"))
	refuses(t, p("external.qcow2"), "another file", Options{})
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", good, p("plain.qcow2"))
	q := read(t, p("plain.qcow2"))
	// qemu-img makes LUKS by the processor's speed, and gives up on a busy one,
	// so this one has the header of it only.
	luks := bytes.Clone(q)
	luks[35] = 2
	refuses(t, file("luks.qcow2", luks), "encrypted", Options{})
	refuses(t, file("cut.qcow2", q[:len(q)-(1<<20)]), "cut short", Options{})
	refuses(t, file("head.qcow2", q[:200]), "cut short", Options{})
	refuses(t, file("version.qcow2", append([]byte("QFI\xfb\x00\x00\x00\x09"), q[8:]...)), "version 9", Options{})
	corrupt := bytes.Clone(q)
	corrupt[79] |= 2
	refuses(t, file("corrupt.qcow2", corrupt), "corrupt", Options{})
	run(t, "sh", "-c", "xz -0 < "+p("over.qcow2")+" > "+p("over.qcow2.xz"))
	refuses(t, p("over.qcow2.xz"), "backing file", Options{})
}

func TestForce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := write(t, dir+"/x", bytes.Repeat([]byte("no disk\n"), 4096))
	d := openDepot(t, dir+"/images")
	root := importFile(t, d, path, Options{Force: true})
	if m, raw := content(t, dir+"/images", root); len(raw) != 32768 || len(m.Boots) != 0 || m.Block != 512 {
		t.Errorf("%+v", m)
	}
}

// TestTruncated cuts compressed images everywhere: none may become a shorter
// image. The disk inside has no partition table that would betray it.
func TestTruncated(t *testing.T) {
	t.Parallel()
	raw := make([]byte, 768<<10)
	r := rand.NewChaCha8([32]byte{9})
	for i := 0; i < len(raw); i += 8192 {
		r.Read(raw[i : i+100])
	}
	raw[510], raw[511] = 0x55, 0xAA
	dir := t.TempDir()
	path := write(t, dir+"/disk", raw)
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	w.Write(raw)
	w.Close()
	enc, _ := zstd.NewWriter(nil)
	run(t, "sh", "-c", "xz -0 --block-size=128KiB < "+path+" > "+dir+"/x.xz")
	run(t, "sh", "-c", "head -c 256k "+path+" | xz -0 > "+dir+"/two.xz; tail -c +262145 "+path+" | xz -0 >> "+dir+"/two.xz; printf '\\0\\0\\0\\0' >> "+dir+"/two.xz")
	d := openDepot(t, dir+"/images")
	want := importFile(t, d, path, Options{})
	for name, whole := range map[string][]byte{"gz": gz.Bytes(), "zst": enc.EncodeAll(raw, nil), "xz": read(t, dir+"/x.xz"), "two.xz": read(t, dir+"/two.xz")} {
		f := filepath.Join(dir, "whole."+name)
		if root := importFile(t, d, write(t, f, whole), Options{}); root != want {
			t.Errorf("%s: another root", name)
		}
		for i := range 120 {
			n := len(whole) * i / 120
			if i >= 100 { // the last bytes
				n = len(whole) - 1 - (i - 100)
			}
			if name == "two.xz" && n >= len(whole)-4 && n%4 == 0 {
				continue // only its padding is gone
			}
			f := write(t, filepath.Join(dir, "cut"), whole[:n])
			s, err := Open(f)
			if err == nil {
				_, err = Import(t.Context(), s, Options{Force: true}, d)
				s.Close()
			}
			// A file cut to less than its magic is an odd raw one.
			if err == nil {
				t.Errorf("%s cut to %d of %d bytes: accepted", name, n, len(whole))
			}
		}
		for i := range 60 {
			b := bytes.Clone(whole)
			b[len(b)*i/60] ^= 0x40
			s, err := Open(write(t, filepath.Join(dir, "flipped"), b))
			var root images.Hash
			if err == nil {
				root, err = Import(t.Context(), s, Options{Force: true}, d)
				s.Close()
			}
			if err == nil && root.String() != want && s.Format != "raw" {
				t.Errorf("%s with byte %d changed: another image", name, len(b)*i/60)
			}
		}
	}
	// An xz block that wants 4 GiB of memory.
	b := read(t, dir+"/x.xz")
	b[12+bytes.Index(b[12:], []byte{0x21, 1})+2] = 40
	if _, err := checkXZ(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("a dictionary of 4 GiB: %v", err)
	}
}

func TestChangedSource(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := makeDisk(t, dir, 512, 5)
	d := openDepot(t, dir+"/images")
	once := false
	_, err := Import(t.Context(), load(t, path), Options{Progress: func(int64, int64) {
		if !once {
			once = true
			f, _ := os.OpenFile(path, os.O_WRONLY, 0)
			f.WriteAt([]byte{1}, 8*images.FrameSize)
			f.Close()
		}
	}}, d)
	var r *Refusal
	if !errors.As(err, &r) || !strings.Contains(err.Error(), "changed") {
		t.Errorf("%v", err)
	}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := makeDisk(t, dir, 512, 6)
	d := openDepot(t, dir+"/images")
	var second error
	if _, err := Import(t.Context(), load(t, path), Options{Progress: func(int64, int64) {
		if second == nil {
			_, second = Import(context.Background(), load(t, path), Options{}, d)
		}
	}}, d); err != nil {
		t.Error(err)
	}
	if !errors.Is(second, depot.ErrBusy) {
		t.Errorf("a second import at the same time: %v", second)
	}
}
