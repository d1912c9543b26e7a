package payload

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

const kernelDeb = "linux-image-6.12.0-test_6.12.0-1_amd64.deb"

// options for a build out of a, with a base and an agent of a few bytes.
func options(t *testing.T, a *archive) Options {
	t.Helper()
	dir := t.TempDir()
	base, err := buildCPIO([]cpio.Record{cpio.StaticFile("init", "init", 0o755)})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "base.cpio"), string(base))
	write(t, filepath.Join(dir, "agent"), "agent one")
	return Options{
		Dir: filepath.Join(dir, "payload"), Agent: filepath.Join(dir, "agent"), Base: filepath.Join(dir, "base.cpio"),
		Pin: base64.StdEncoding.EncodeToString(make([]byte, 32)), Key: make(ed25519.PublicKey, 32),
		Version: "test", Mirror: a.url(),
		tune: func(p *Packages) { p.keyring, p.wait = a.keyring, time.Millisecond },
	}
}

func TestBuild(t *testing.T) {
	a := debian(t)
	o := options(t, a)
	p, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range required {
		f, ok := p.File(name)
		if !ok {
			t.Fatalf("%s is missing", name)
		}
		if b, err := fs.ReadFile(p.FS(), name); err != nil || int64(len(b)) != f.Bytes || sum(b) != f.SHA256 {
			t.Errorf("%s: %v, %d bytes; payload.json says %d", name, err, len(b), f.Bytes)
		}
	}
	if f, _ := p.File(Shim); f.Package != "shim-signed" || f.Version != "1:2.0~1" {
		t.Errorf("shim is of %s %s", f.Package, f.Version)
	}
	if p.Kernel != "6.12.0-test" || p.Modules == 0 || p.Firmware != 1 || len(p.NoFirmware) != 1 {
		t.Errorf("payload %+v", p)
	}
	served := p.Served()
	for _, f := range p.Files {
		if s := served[f.Name]; !strings.Contains(s, f.Package+" "+f.Version) || !strings.HasSuffix(s, f.SHA256) || len(s) > 256 {
			t.Errorf("%s is served as %q", f.Name, s)
		}
	}
	if d := p.Describe(); !strings.Contains(d, "6.12.0-test") || !strings.Contains(d, p.Digest()) {
		t.Errorf("description %q", d)
	}
	checkInitrd(t, filepath.Join(o.Dir, "boot", Initrd), "agent one")

	// Again without a network: nothing is asked and nothing changes.
	a.set(func() { a.down = true })
	asked := a.requests()
	before, _ := os.Stat(filepath.Join(o.Dir, "boot", Drivers))
	again, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest() != p.Digest() || a.requests() != asked {
		t.Errorf("the second build asked %d times and made %s, first %s", a.requests()-asked, again.Digest(), p.Digest())
	}

	// Another agent: only the initrd is another one.
	write(t, o.Agent, "agent two")
	newer, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range newer.Files {
		old, _ := p.File(f.Name)
		if changed := f.SHA256 != old.SHA256; changed != (f.Name == Initrd) {
			t.Errorf("%s changed: %v", f.Name, changed)
		}
	}
	if after, _ := os.Stat(filepath.Join(o.Dir, "boot", Drivers)); after.ModTime() != before.ModTime() {
		t.Error("the drivers' segment was written again")
	}
	checkInitrd(t, filepath.Join(o.Dir, "boot", Initrd), "agent two")
}

// checkInitrd takes the initramfs apart as the kernel does: cpio archives or
// zstd frames, with zeroes between.
func checkInitrd(t *testing.T, name, agent string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	read := func(b []byte) {
		records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b)))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			c := make([]byte, r.FileSize)
			if r.FileSize > 0 {
				if _, err := r.ReadAt(c, 0); err != nil {
					t.Fatal(err)
				}
			}
			files[r.Name] = string(c)
		}
	}
	// Segments begin at multiples of 512, where such a magic begins.
	begin := -1
	flush := func(end int) {
		switch {
		case begin < 0:
		case bytes.HasPrefix(b[begin:], []byte("070701")):
			read(b[begin:end])
		default:
			raw, err := dec.DecodeAll(bytes.TrimRight(b[begin:end], "\x00"), nil)
			if err != nil {
				t.Fatalf("segment at %d: %v", begin, err)
			}
			read(raw)
		}
	}
	for off := 0; off < len(b); off += segmentAlign {
		zst := bytes.HasPrefix(b[off:], []byte{0x28, 0xb5, 0x2f, 0xfd})
		if zst || bytes.HasPrefix(b[off:], []byte("070701")) && (begin < 0 || !bytes.HasPrefix(b[begin:], []byte("070701"))) {
			flush(off)
			begin = off
		}
	}
	flush(len(b))
	for name, want := range map[string]string{"init": "init", "bin/refurb-agent": agent, "bin/uinit": "refurb-agent"} {
		if files[name] != want {
			t.Errorf("%s in the initramfs is %q, want %q", name, files[name], want)
		}
	}
	for _, name := range []string{"etc/refurb/agent.json", "lib/modules/refurb.json", "usr/lib/refurb/modules/r8169.ko.xz"} {
		if files[name] == "" {
			t.Errorf("%s is not in the initramfs", name)
		}
	}
}

func TestOpenFindsDamage(t *testing.T) {
	o := options(t, debian(t))
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o.Dir); err != nil {
		t.Fatal(err)
	}
	damage := map[string]func(b []byte) []byte{
		"missing":   func([]byte) []byte { return nil },
		"truncated": func(b []byte) []byte { return b[:len(b)-1] },
		"changed":   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"longer":    func(b []byte) []byte { return append(b, 0) },
	}
	for _, name := range required {
		for what, ruin := range damage {
			path := filepath.Join(o.Dir, "boot", name)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if b := ruin(bytes.Clone(whole)); b != nil {
				write(t, path, string(b))
			} else if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			_, err = Open(o.Dir)
			var d *Damage
			if !errors.As(err, &d) || d.File != path || !strings.Contains(err.Error(), "refurb payload build") {
				t.Errorf("%s %s: error %v", name, what, err)
			}
			write(t, path, string(whole))
		}
	}
	list := filepath.Join(o.Dir, "payload.json")
	whole, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"broken":          "{",
		"of another time": `{"format":99}`,
		"with a way out":  strings.Replace(string(whole), `"vmlinuz"`, `"../vmlinuz"`, 1),
		"without kernel":  strings.Replace(string(whole), `"vmlinuz"`, `"vmlinux"`, 1),
		"with a new sum":  strings.Replace(string(whole), `"digest": "`, `"digest": "0`, 1),
	} {
		write(t, list, text)
		if _, err := Open(o.Dir); err == nil || !strings.Contains(err.Error(), "refurb payload build") {
			t.Errorf("payload.json %s: error %v", what, err)
		}
		// The next build repairs it.
		if _, err := Build(t.Context(), o); err != nil {
			t.Errorf("payload.json %s: not repaired: %v", what, err)
		}
	}
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o.Dir); err == nil || !strings.Contains(err.Error(), "never built") {
		t.Errorf("no payload.json: error %v", err)
	}
}

// The connection breaks in the middle of the largest package: what came is not
// fetched a second time.
func TestDownloadGoesOn(t *testing.T) {
	a := debian(t)
	st, err := os.Stat(filepath.Join(a.root, "pool", kernelDeb))
	if err != nil {
		t.Fatal(err)
	}
	a.set(func() { a.cut[kernelDeb] = st.Size() / 2 })
	if _, err := Build(t.Context(), options(t, a)); err != nil {
		t.Fatal(err)
	}
	asked, sent := a.count(kernelDeb)
	if asked < 2 || sent > st.Size()+st.Size()/10 {
		t.Errorf("%d requests, %d bytes sent for a file of %d", asked, sent, st.Size())
	}
}

func TestCancelledBuildIsNoPayload(t *testing.T) {
	a := debian(t)
	o := options(t, a)
	// As soon as the kernel is asked for, the operator gives up.
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if n, _ := a.count(kernelDeb); n > 0 {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := Build(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want cancelled", err)
	}
	if _, err := Open(o.Dir); err == nil {
		t.Error("a build that was broken off passes for whole")
	}
	if _, err := Build(t.Context(), o); err != nil {
		t.Errorf("the next build: %v", err)
	}
}

func TestForgedArchiveIsRefused(t *testing.T) {
	forge := map[string]func(a *archive){
		"package":         func(a *archive) { a.ruin[kernelDeb] = "not what was signed" },
		"list":            func(a *archive) { a.ruin["Packages"] = "Package: linux-image-amd64\n" },
		"without a seal":  func(a *archive) { a.ruin["InRelease"] = "Suite: trixie\nCodename: trixie\n" },
		"another's seal":  func(a *archive) { a.keyring = keyringOfStranger(t) },
		"no keys to hand": func(a *archive) { a.keyring = filepath.Join(t.TempDir(), "none.gpg") },
	}
	for name, f := range forge {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits between its tries
			a := debian(t)
			f(a)
			o := options(t, a)
			if _, err := Build(t.Context(), o); err == nil {
				t.Error("taken")
			}
			if _, err := Open(o.Dir); err == nil {
				t.Error("it left a payload")
			}
		})
	}
}

func keyringOfStranger(t *testing.T) string {
	t.Helper()
	for _, k := range keyrings {
		if _, err := os.Stat(k); err == nil {
			return k // Debian's own: it didn't sign the test's archive
		}
	}
	t.Fatal("this machine has no Debian archive keys: install debian-archive-keyring")
	return ""
}

func TestRefreshTakesNewer(t *testing.T) {
	a := debian(t)
	o := options(t, a)
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	a.add("shim-signed", "1:2.1", "", func(root string) {
		write(t, filepath.Join(root, "usr/lib/shim/shimx64.efi.signed"), "newer")
	})
	a.publish()
	o.Refresh = true
	p, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if f, _ := p.File(Shim); f.Version != "1:2.1" || f.Bytes != 5 {
		t.Errorf("shim %+v after a refresh", f)
	}
	if n, _ := a.count(kernelDeb); n != 1 {
		t.Errorf("the kernel was fetched %d times", n)
	}
	cache := filepath.Join(filepath.Dir(o.Dir), "cache")
	if shims, _ := filepath.Glob(filepath.Join(cache, "unpacked/shim-signed_*")); len(shims) != 1 {
		t.Errorf("older versions were left: %v", shims)
	}
	if debs, _ := os.ReadDir(filepath.Join(cache, "debs")); len(debs) != 0 {
		t.Errorf("downloads were left: %v", debs)
	}
}

// A refresh without a network fails and leaves what was there.
func TestRefreshWithoutNetwork(t *testing.T) {
	a := debian(t)
	o := options(t, a)
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	a.srv.Close()
	o.Refresh = true
	if _, err := Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), "check the network") {
		t.Errorf("error %v", err)
	}
	if _, err := Open(o.Dir); err != nil {
		t.Errorf("the payload was lost: %v", err)
	}
	o.Refresh = false
	if _, err := Build(t.Context(), o); err != nil {
		t.Errorf("a build without a network: %v", err)
	}
}

// A mirror may be a folder: a disk that somebody brought along.
func TestMirrorInAFolder(t *testing.T) {
	a := debian(t)
	o := options(t, a)
	o.Mirror = "file:" + a.root
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if a.requests() != 0 {
		t.Error("the server was asked")
	}
}

func TestFetchRefusesNames(t *testing.T) {
	a := debian(t)
	p, err := OpenPackages(t.TempDir(), a.url())
	if err != nil {
		t.Fatal(err)
	}
	p.keyring = a.keyring
	for _, name := range []string{"", "-o", "../x", "a b", "Upper", "x=1"} {
		if _, err := p.Fetch(t.Context(), name); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	if _, err := p.Fetch(t.Context(), "no-such-package"); !errors.Is(err, ErrNoPackage) {
		t.Errorf("error %v, want ErrNoPackage", err)
	}
	roots, err := p.Fetch(t.Context(), "linux-image-amd64", "ipxe")
	if err != nil || !strings.Contains(roots["linux-image-amd64"], "linux-image-6.12.0-test") {
		t.Errorf("%v, %v", roots, err)
	}
}

func TestBuildChecksItsOptions(t *testing.T) {
	a := newArchive(t)
	for name, ruin := range map[string]func(*Options){
		"agent": func(o *Options) { o.Agent += "x" },
		"base":  func(o *Options) { o.Base += "x" },
		"pin":   func(o *Options) { o.Pin = "x" },
		"key":   func(o *Options) { o.Key = nil },
	} {
		o := options(t, a)
		ruin(&o)
		if _, err := Build(t.Context(), o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if a.requests() != 0 {
		t.Error("asked the network before it looked at its options")
	}
}
