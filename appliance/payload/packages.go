package payload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	// What was asked for anew since Refresh; nil without one.
	refreshed map[string]bool
	wait      time.Duration // before a second try, twice that before a third
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
	p := &Packages{from: from, etc: "/etc/apt", wait: 2 * time.Second}
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
	for _, d := range []string{"apt/lists/partial", "apt/archives/partial", "apt/sources.list.d", "debs", "unpacked"} {
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

// Mirror is the archive that packages come from, as apt wants it in a source.
func (p *Packages) Mirror() string { return p.from.Main }

// Refresh makes the next Fetch of a package ask the archive for its newest
// version. What is the newest already is not fetched again.
func (p *Packages) Refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refreshed, p.updated = map[string]bool{}, false
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
	if p.refreshed != nil && !p.refreshed[name] {
		ok = false
	}
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
			return pkg, errors.Join(err, p.remember(name, Package{Name: name, Absent: true}))
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
		return pkg, p.remember(name, pkg)
	}
	return pkg, nil
}

func (p *Packages) remember(name string, pkg Package) error {
	p.known[name] = pkg
	if p.refreshed != nil {
		p.refreshed[name] = true
	}
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
		return errors.New("the archive keys of Debian are missing on this machine: install the package debian-archive-keyring")
	}
	if err := p.configure(ctx); err != nil {
		return err
	}
	if p.refreshed != nil {
		// With its lists from before, apt would take a dead network for no news.
		lists := filepath.Join(p.dir, "apt/lists")
		if err := errors.Join(os.RemoveAll(lists), os.MkdirAll(filepath.Join(lists, "partial"), 0o755)); err != nil {
			return fmt.Errorf("package cache: %w", err)
		}
	}
	p.log().Info("reading the package lists", "suite", Suite)
	var said error
	for try := range 3 {
		if try > 0 {
			if err := pause(ctx, time.Duration(try)*p.wait); err != nil {
				return err
			}
		}
		// An error may be of a part that isn't needed: what counts is what came.
		_, said = p.run(ctx, "apt-get", "update", "-o", "APT::Update::Error-Mode=any")
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
		if said != nil {
			p.log().Warn("not all package lists are up to date; going on with those there are", "apt", said)
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

// download leaves the .deb in debs/. What a broken connection left there is
// continued, if the server can.
//
// "apt-get download" would begin anew each time; apt's own helper asks for the
// rest. It gets the checksum from the signed lists, and we check it again.
func (p *Packages) download(ctx context.Context, pkg Package, uri string) (string, error) {
	deb := filepath.Join(p.dir, "debs", pkg.dir()+".deb")
	if err := checkFile(deb, pkg.Bytes, pkg.SHA256); err == nil {
		return deb, nil
	}
	p.log().Info("downloading", "package", pkg.Name, "version", pkg.Version, "bytes", pkg.Bytes)
	var said error
	for try := range 4 {
		if try > 0 {
			if err := pause(ctx, time.Duration(try)*p.wait); err != nil {
				return "", err
			}
		}
		_, said = p.run(ctx, "/usr/lib/apt/apt-helper", "download-file", uri, deb, "SHA256:"+pkg.SHA256)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if said != nil {
			continue
		}
		if said = checkFile(deb, pkg.Bytes, pkg.SHA256); said != nil {
			os.Remove(deb)
			continue
		}
		return deb, nil
	}
	return "", fmt.Errorf("download failed: %w (what came so far is kept: run it again)", said)
}

// unpack lays the package's files out under its root, all or nothing, and drops
// the .deb.
func (p *Packages) unpack(ctx context.Context, deb string, pkg Package) error {
	tmp := pkg.Root + ".part"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if _, err := p.run(ctx, "dpkg-deb", "-x", deb, tmp); err != nil {
		return err
	}
	// After a power cut, the folder's name must not stand for files whose
	// content never reached the disk.
	f, err := os.Open(tmp)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(f.Fd()))
	f.Close()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(pkg.Root); err != nil {
		return err
	}
	if err := os.Rename(tmp, pkg.Root); err != nil {
		return err
	}
	return os.Remove(deb)
}

// Prune removes what no package that is known needs any more: older versions,
// and downloads that were broken off.
func (p *Packages) Prune(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	unlock, err := lockFile(ctx, filepath.Join(p.dir, "lock"))
	if err != nil {
		return fmt.Errorf("package cache: %w", err)
	}
	defer unlock()
	if err := p.recall(); err != nil {
		return err
	}
	needed := map[string]bool{}
	for _, pkg := range p.known {
		needed[pkg.dir()] = true
	}
	for _, dir := range []string{"unpacked", "debs"} {
		entries, err := os.ReadDir(filepath.Join(p.dir, dir))
		if err != nil {
			return fmt.Errorf("package cache: %w", err)
		}
		for _, e := range entries {
			if needed[e.Name()] {
				continue
			}
			if err := os.RemoveAll(filepath.Join(p.dir, dir, e.Name())); err != nil {
				return fmt.Errorf("package cache: %w", err)
			}
		}
	}
	return nil
}

func (p *Packages) log() *slog.Logger {
	if p.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Log
}
