package payload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Suite that everything comes from: kernel, modules, firmware, shim, GRUB and
// iPXE of one release were tested together by the people who made it.
const Suite = "trixie"

// ErrNoPackage means that the archive doesn't carry a package.
var ErrNoPackage = errors.New("the archive has no such package")

// Package is one that lies unpacked in the cache.
type Package struct {
	Name    string `json:"name"` // the real one behind a meta package
	Version string `json:"version"`
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256"`           // of the .deb, as the signed lists have it
	Root    string `json:"-"`                // where it is unpacked
	Absent  bool   `json:"absent,omitempty"` // the archive hasn't got it
}

// dir is the folder's name inside unpacked/.
func (p Package) dir() string { return p.Name + "_" + strings.ReplaceAll(p.Version, ":", "%3a") }

// Packages fetches Debian packages with the system's own apt under a private
// configuration: its own lists, state and cache below one folder, so that
// nothing of the machine changes, and no root is needed. Lists and packages
// are proven by Debian's archive keys and never taken unproven.
//
// What was fetched once is remembered in packages.json and needs no network
// again, until Refresh.
type Packages struct {
	Log *slog.Logger // nil: silent

	dir     string
	from    archives
	keyring string
	etc     string // apt's own configuration, for proxies and credentials

	mu      sync.Mutex
	known   map[string]Package // by the name that was asked for
	updated bool
	refresh bool // don't trust known until the lists were read
}

// keyrings are where Debian keeps its archive keys, the newer name first.
var keyrings = []string{
	"/usr/share/keyrings/debian-archive-keyring.pgp",
	"/usr/share/keyrings/debian-archive-keyring.gpg",
}

// OpenPackages prepares the cache in dir. An empty mirror means DEBIAN_MIRROR
// from the environment, else the machine's own.
func OpenPackages(dir string, mirror string) (*Packages, error) {
	if mirror == "" {
		mirror = os.Getenv("DEBIAN_MIRROR")
	}
	from, err := chooseArchives(mirror, "/etc/apt")
	if err != nil {
		return nil, err
	}
	p := &Packages{from: from, etc: "/etc/apt"}
	for _, k := range keyrings {
		if _, err := os.Stat(k); err == nil {
			p.keyring = k
			break
		}
	}
	if p.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	return p, p.prepare()
}

// prepare makes the folders.
func (p *Packages) prepare() error {
	for _, d := range []string{"apt/lists/partial", "apt/archives/partial", "apt/sources.list.d", "debs/partial", "unpacked"} {
		if err := os.MkdirAll(filepath.Join(p.dir, d), 0o755); err != nil {
			return fmt.Errorf("package cache: %w", err)
		}
	}
	return p.recall()
}

// recall reads what an earlier run, or another program just now, has fetched.
func (p *Packages) recall() error {
	p.known = map[string]Package{}
	b, err := os.ReadFile(filepath.Join(p.dir, "packages.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("package cache: %w", err)
	}
	if err := json.Unmarshal(b, &p.known); err != nil {
		p.known = map[string]Package{} // only a record of what can be fetched again
	}
	return nil
}

// Refresh forgets which versions were taken, so that the next Fetch asks the
// archive for the newest. What is still the newest is not fetched again.
func (p *Packages) Refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refresh, p.updated = true, false
}

// Fetch downloads and unpacks packages and says where each lies, by the name
// that was asked for. A kernel's meta package stands for the kernel it names.
// No maintainer script runs. Broken off at any point, a second call goes on.
func (p *Packages) Fetch(ctx context.Context, names ...string) (map[string]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	unlock, err := lockFile(ctx, filepath.Join(p.dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	defer unlock()
	if err := p.recall(); err != nil {
		return nil, err
	}
	if p.refresh {
		// Keep what is known should the network be gone.
		if err := p.update(ctx); err != nil {
			return nil, err
		}
		p.known, p.refresh = map[string]Package{}, false
	}
	roots := map[string]string{}
	for _, n := range names {
		pkg, err := p.fetch(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", n, err)
		}
		roots[n] = pkg.Root
	}
	return roots, nil
}

// Package tells what Fetch took under a name.
func (p *Packages) Package(name string) (Package, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pkg, ok := p.known[name]
	pkg.Root = filepath.Join(p.dir, "unpacked", pkg.dir())
	return pkg, ok && !pkg.Absent
}

var debianName = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]{1,127}$`) // Debian Policy 5.6.1

func (p *Packages) fetch(ctx context.Context, name string) (Package, error) {
	if !debianName.MatchString(name) {
		return Package{}, fmt.Errorf("%q is no name of a Debian package", name)
	}
	pkg, ok := p.known[name]
	if ok && pkg.Absent {
		return pkg, ErrNoPackage
	}
	var uri string
	if !ok {
		if err := p.update(ctx); err != nil {
			return pkg, err
		}
		var err error
		if pkg, uri, err = p.resolve(ctx, name); errors.Is(err, ErrNoPackage) {
			p.known[name] = Package{Name: name, Absent: true}
			return pkg, errors.Join(err, p.remember())
		} else if err != nil {
			return pkg, err
		}
	}
	pkg.Root = filepath.Join(p.dir, "unpacked", pkg.dir())
	if _, err := os.Stat(pkg.Root); err != nil {
		if uri == "" { // remembered, but its folder was removed
			if err := p.update(ctx); err != nil {
				return pkg, err
			}
			var err error
			if pkg, uri, err = p.resolve(ctx, name); err != nil {
				return pkg, err
			}
			pkg.Root = filepath.Join(p.dir, "unpacked", pkg.dir())
		}
		deb, err := p.download(ctx, pkg, uri)
		if err != nil {
			return pkg, err
		}
		if err := p.unpack(ctx, deb, pkg); err != nil {
			return pkg, err
		}
	}
	if !ok {
		p.known[name] = pkg
		return pkg, p.remember()
	}
	return pkg, nil
}

func (p *Packages) remember() error {
	b, err := json.MarshalIndent(p.known, "", "\t")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(p.dir, "packages.json"), append(b, '\n'), 0o644)
}

// update brings the lists up to date, once per Packages. Security updates,
// point updates and firmware are wanted but not needed: a mirror may lack them.
func (p *Packages) update(ctx context.Context) error {
	if p.updated {
		return nil
	}
	if p.keyring == "" {
		return errors.New("Debian's archive keys are missing on this machine: install the package debian-archive-keyring")
	}
	if err := p.configure(ctx); err != nil {
		return err
	}
	p.log().Info("reading the package lists", "suite", Suite)
	var said error
	for try := range 3 {
		if try > 0 {
			if err := pause(ctx, time.Duration(try)*2*time.Second); err != nil {
				return err
			}
		}
		// An error may be of a part that isn't needed: what counts is what came.
		_, said = p.run(ctx, "apt-get", "update")
		have, err := p.targets(ctx)
		if err != nil {
			return err
		}
		if !slices.Contains(have, Suite+" main") {
			if said == nil {
				said = errors.New("no package list came")
			}
			continue
		}
		for _, want := range []string{Suite + " non-free-firmware", Suite + "-updates main", Suite + "-security main"} {
			if !slices.Contains(have, want) {
				p.log().Warn("the mirror does not serve a part of Debian; going on without it", "part", want)
			}
		}
		p.updated = true
		return nil
	}
	return fmt.Errorf("the package lists of Debian %s can't be had: %w (check the network, or name a mirror in DEBIAN_MIRROR)", Suite, said)
}

// targets lists "suite component" of the package lists that are there.
func (p *Packages) targets(ctx context.Context) ([]string, error) {
	out, err := p.run(ctx, "apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT)", "Created-By: Packages")
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSpace(out), "\n"), nil
}

// resolve asks the lists for a package's newest version.
func (p *Packages) resolve(ctx context.Context, name string) (Package, string, error) {
	out, err := p.run(ctx, "apt-cache", "show", "--no-all-versions", name)
	if ctx.Err() != nil {
		return Package{}, "", ctx.Err()
	}
	stanzas := parseDeb822([]byte(out))
	if err != nil || len(stanzas) == 0 || stanzas[0]["package"] != name {
		return Package{}, "", ErrNoPackage
	}
	if real := kernelBehind(stanzas[0]); real != "" && real != name {
		return p.resolve(ctx, real)
	}
	out, err = p.run(ctx, "apt-get", "download", "--print-uris", name)
	if err != nil {
		return Package{}, "", err
	}
	pkg, uri, err := parseURI(out)
	if err != nil {
		return pkg, "", err
	}
	pkg.Name, pkg.Version = name, stanzas[0]["version"]
	return pkg, uri, nil
}

var kernelDepends = regexp.MustCompile(`^(linux-image-[0-9][a-z0-9.+-]*) \(=`)

// kernelBehind is the kernel that a meta package such as linux-image-amd64
// depends on, or "".
func kernelBehind(stanza map[string]string) string {
	for d := range strings.SplitSeq(stanza["depends"], ",") {
		if m := kernelDepends.FindStringSubmatch(strings.TrimSpace(d)); m != nil {
			return m[1]
		}
	}
	return ""
}

// uriLine is what "apt-get --print-uris" prints per file.
var uriLine = regexp.MustCompile(`(?m)^'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$`)

func parseURI(out string) (Package, string, error) {
	m := uriLine.FindStringSubmatch(out)
	if m == nil {
		return Package{}, "", fmt.Errorf("apt gave no SHA-256 for it: %q", bounded(out))
	}
	n, err := strconv.ParseInt(m[3], 10, 64)
	if err != nil {
		return Package{}, "", err
	}
	return Package{Bytes: n, SHA256: m[4]}, m[1], nil
}

// download leaves the .deb in debs/. What a broken connection left in
// debs/partial is continued, if the server can.
//
// "apt-get download" would begin anew each time; apt's own helper asks for the
// rest. It gets the checksum from the signed lists, and we check it again.
func (p *Packages) download(ctx context.Context, pkg Package, uri string) (string, error) {
	name := pkg.dir() + ".deb"
	final := filepath.Join(p.dir, "debs", name)
	if err := checkFile(final, pkg.Bytes, pkg.SHA256); err == nil {
		return final, nil
	}
	part := filepath.Join(p.dir, "debs/partial", name)
	p.log().Info("downloading", "package", pkg.Name, "version", pkg.Version, "bytes", pkg.Bytes)
	var said error
	for try := range 4 {
		if try > 0 {
			if err := pause(ctx, time.Duration(try)*2*time.Second); err != nil {
				return "", err
			}
		}
		_, said = p.run(ctx, "/usr/lib/apt/apt-helper", "download-file", uri, part, "SHA256:"+pkg.SHA256)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if said != nil {
			continue
		}
		if said = checkFile(part, pkg.Bytes, pkg.SHA256); said != nil {
			os.Remove(part)
			continue
		}
		return final, keep(part, final)
	}
	return "", fmt.Errorf("download failed: %w (what came so far is kept: run it again)", said)
}

// keep moves a checked download to its place. From a mirror on this machine
// apt makes a link instead of a copy.
func keep(part, final string) error {
	if target, err := os.Readlink(part); err == nil {
		b, err := os.ReadFile(target)
		if err != nil {
			return err
		}
		if err := writeFile(final, b, 0o644); err != nil {
			return err
		}
		return os.Remove(part)
	}
	return os.Rename(part, final)
}

// unpack lays the package's files out under its root, all or nothing.
func (p *Packages) unpack(ctx context.Context, deb string, pkg Package) error {
	tmp := pkg.Root + ".part"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if _, err := p.run(ctx, "dpkg-deb", "-x", deb, tmp); err != nil {
		return err
	}
	if err := os.RemoveAll(pkg.Root); err != nil {
		return err
	}
	return os.Rename(tmp, pkg.Root)
}

func (p *Packages) log() *slog.Logger {
	if p.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Log
}

// checkFile compares a file's size and SHA-256.
func checkFile(name string, size int64, sum string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("%s has %d bytes, expected %d", filepath.Base(name), n, size)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("%s has the SHA-256 %s, expected %s", filepath.Base(name), got, sum)
	}
	return nil
}

// writeFile replaces a file at once: other readers see the old or the new one.
func writeFile(name string, b []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(b); err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// lockFile keeps other programs out until the returned function is called.
func lockFile(ctx context.Context, name string) (func(), error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err == unix.EWOULDBLOCK {
			err = pause(ctx, 200*time.Millisecond)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
