package payload

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Options of Build.
type Options struct {
	Dir     string // the payload's folder
	Cache   string // the packages' folder; empty: "cache" beside Dir
	Agent   string // the agent's program, static
	Base    string // u-root's archive with init and shell
	Pin     string // base64 of the SHA-256 of the appliance's TLS key
	Key     ed25519.PublicKey
	Version string
	Mirror  string // empty: DEBIAN_MIRROR, else the machine's own
	Refresh bool   // ask the mirror for newer packages
	Log     *slog.Logger

	tune func(*Packages) // tests have an archive and a key of their own
}

// kernelPackage stands for the newest kernel of the suite.
const kernelPackage = "linux-image-amd64"

// firmwarePackages serve the drivers on the list. They aren't free software and
// a mirror may lack them.
var firmwarePackages = []string{"firmware-realtek", "firmware-misc-nonfree", "firmware-bnx2"}

// origins are the boot files that are taken from a package as they are.
var origins = []struct{ name, pkg, path string }{
	{Shim, "shim-signed", "usr/lib/shim/shimx64.efi.signed"},
	{GrubNet, "grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"},
	{GrubDisk, "grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"},
	{GrubIA32, "grub-efi-ia32-unsigned", "usr/lib/grub/i386-efi/monolithic/grubnetia32.efi"},
	{PXEBIOS, "ipxe", "usr/lib/ipxe/undionly.kpxe"},
	{PXEUEFI, "ipxe", "usr/lib/ipxe/snponly.efi"},
	{Memtest, "memtest86+", "boot/memtest86+x64.bin"},
	{MemtestEFI, "memtest86+", "boot/memtest86+x64.efi"},
	{MemtestIA32, "memtest86+", "boot/memtest86+ia32.efi"},
}

// revocations that shim asks for beside itself. Debian's package has none yet.
var revocations = []string{"revocations_sbat.efi", "revocations_sku.efi", "shim_certificate_0.efi"}

// maxBootFile bounds one boot file that is read into memory.
const maxBootFile = 256 << 20

// Build makes the boot files in o.Dir. What is there already and was made of
// the same things is kept, so that a second call, or one after only the agent
// has changed, is quick and needs no network. payload.json is written last: a
// build that was broken off leaves nothing that Open takes for whole.
func Build(ctx context.Context, o Options) (*Payload, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if len(o.Key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("boot files: the image key has %d bytes, expected %d", len(o.Key), ed25519.PublicKeySize)
	}
	if pin, err := base64.StdEncoding.DecodeString(o.Pin); err != nil || len(pin) != sha256.Size {
		return nil, errors.New("boot files: the pin of the appliance's TLS key is no SHA-256 in base64")
	}
	agent, err := readBounded(o.Agent, maxBootFile)
	if err != nil {
		return nil, fmt.Errorf("the agent's program: %w (run make)", err)
	}
	base, err := readBounded(o.Base, maxBootFile)
	if err != nil {
		return nil, fmt.Errorf("the base of the initramfs: %w (run make)", err)
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "boot"), 0o755); err != nil {
		return nil, fmt.Errorf("boot files: %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(o.Dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("boot files: %w", err)
	}
	defer unlock()

	b := &builder{Options: o, out: &Payload{Dir: o.Dir, Format: format, Suite: Suite}}
	if old, err := readPayload(o.Dir); err == nil {
		b.old = old
	}
	for _, step := range []func(context.Context) error{
		b.openPackages,
		b.takeFiles,
		b.drivers,
		func(ctx context.Context) error { return b.initrd(ctx, base, agent) },
		b.finish,
	} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return Open(o.Dir)
}

// builder is one run of Build.
type builder struct {
	Options
	old, out *Payload // old may be nil
	packages *Packages
	firmware []string // folders of the firmware packages that there are
}

// openPackages fetches what the boot files are made of.
func (b *builder) openPackages(ctx context.Context) error {
	cache := cmp.Or(b.Cache, filepath.Join(filepath.Dir(filepath.Clean(b.Dir)), "cache"))
	p, err := OpenPackages(cache, b.Mirror)
	if err != nil {
		return err
	}
	p.Log = b.Log
	if b.tune != nil {
		b.tune(p)
	}
	if b.Refresh {
		p.Refresh()
	}
	b.packages = p
	names := []string{kernelPackage}
	for _, f := range origins {
		if !slices.Contains(names, f.pkg) {
			names = append(names, f.pkg)
		}
	}
	if _, err := p.Fetch(ctx, names...); err != nil {
		return fmt.Errorf("boot files: %w", err)
	}
	for _, name := range firmwarePackages {
		roots, err := p.Fetch(ctx, name)
		if errors.Is(err, ErrNoPackage) {
			b.Log.Warn("firmware left out: the mirror does not serve it", "package", name)
			continue
		}
		if err != nil {
			return fmt.Errorf("boot files: %w", err)
		}
		names = append(names, name)
		b.firmware = append(b.firmware, roots[name])
	}
	for _, name := range names {
		pkg, ok := p.Package(name)
		if !ok {
			return fmt.Errorf("boot files: package %s was lost from the cache (%s)", name, next)
		}
		b.out.Packages = append(b.out.Packages, pkg)
	}
	return nil
}

// takeFiles copies the kernel and the boot loaders.
func (b *builder) takeFiles(ctx context.Context) error {
	kernel, _ := b.packages.Package(kernelPackage)
	images, _ := filepath.Glob(filepath.Join(kernel.Root, "boot/vmlinuz-*"))
	if len(images) != 1 {
		return fmt.Errorf("boot files: package %s holds %d kernels, expected 1", kernel.Name, len(images))
	}
	if err := b.copy(Vmlinuz, kernel, images[0]); err != nil {
		return err
	}
	for _, f := range origins {
		pkg, _ := b.packages.Package(f.pkg)
		if err := b.copy(f.name, pkg, filepath.Join(pkg.Root, f.path)); err != nil {
			return err
		}
	}
	shim, _ := b.packages.Package("shim-signed")
	for _, name := range revocations {
		for _, suffix := range []string{".signed", ""} {
			src := filepath.Join(shim.Root, "usr/lib/shim", name+suffix)
			if _, err := os.Stat(src); err != nil {
				continue
			}
			if err := b.copy(name, shim, src); err != nil {
				return err
			}
			break
		}
	}
	return ctx.Err()
}

func (b *builder) copy(name string, pkg Package, src string) error {
	if b.keep(name, pkg.SHA256) {
		return nil
	}
	data, err := readBounded(src, maxBootFile)
	if err != nil {
		return fmt.Errorf("boot file %s: %w", name, err)
	}
	return b.put(name, data, pkg.Name, pkg.Version, pkg.SHA256)
}

// keep takes over a file of the earlier payload that was made of the same input
// and is still whole.
func (b *builder) keep(name, input string) bool {
	if b.old == nil {
		return false
	}
	f, ok := b.old.File(name)
	if !ok || f.Input != input || f.check() != nil {
		return false
	}
	b.out.Files = append(b.out.Files, f)
	return true
}

func (b *builder) put(name string, data []byte, pkg, version, input string) error {
	if len(data) == 0 {
		return fmt.Errorf("boot file %s: package %s has nothing in it", name, pkg)
	}
	f := File{
		Name: name, Path: filepath.Join(b.Dir, "boot", name), SHA256: sum(data), Bytes: int64(len(data)),
		Package: pkg, Version: version, Input: input,
	}
	if f.check() != nil {
		if err := writeFile(f.Path, data, 0o644); err != nil {
			return fmt.Errorf("boot file %s: %w", name, err)
		}
	}
	b.out.Files = append(b.out.Files, f)
	return nil
}

// drivers makes the segment of modules and firmware.
func (b *builder) drivers(ctx context.Context) error {
	kernel, _ := b.packages.Package(kernelPackage)
	input := []string{fmt.Sprint(format), driverList, kernel.SHA256}
	for _, name := range firmwarePackages {
		pkg, _ := b.packages.Package(name)
		input = append(input, pkg.SHA256)
	}
	key := sum([]byte(strings.Join(input, "\x00")))
	if b.keep(Drivers, key) {
		o := b.old
		b.out.Kernel, b.out.Modules, b.out.Firmware = o.Kernel, o.Modules, o.Firmware
		b.out.NoFirmware, b.out.NoDriver = o.NoFirmware, o.NoDriver
		return nil
	}
	b.Log.Info("gathering drivers", "kernel", kernel.Name)
	seeds, err := parseSeeds(driverList)
	if err != nil {
		return err
	}
	tree, err := openKernel(kernel.Root)
	if err != nil {
		return fmt.Errorf("drivers: %w", err)
	}
	set, err := collectDrivers(ctx, tree, seeds, b.firmware)
	if err != nil {
		return fmt.Errorf("drivers: %w", err)
	}
	data, err := driversSegment(set)
	if err != nil {
		return fmt.Errorf("drivers: %w", err)
	}
	b.out.Kernel = set.index.Kernel
	b.out.Modules, b.out.Firmware = len(set.modules), len(set.firmware)
	b.out.NoFirmware, b.out.NoDriver = set.index.NoFirmware, set.absent
	return b.put(Drivers, data, kernel.Name, kernel.Version, key)
}

// initrd puts the segments together. The compressed base is kept beside the
// boot files by its content, because it takes longest.
func (b *builder) initrd(ctx context.Context, base, agent []byte) error {
	seg, err := b.base(base)
	if err != nil {
		return err
	}
	path := filepath.Join(b.Dir, "boot", Drivers)
	drv, err := readBounded(path, maxBootFile)
	if err != nil {
		return fmt.Errorf("boot file %s: %w", Drivers, err)
	}
	last, err := agentSegment(agent, b.Pin, b.Key, b.Version)
	if err != nil {
		return fmt.Errorf("the agent's segment: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	whole := slices.Concat(seg, drv, last)
	return b.put(Initrd, whole, own, b.Version, "")
}

func (b *builder) base(base []byte) ([]byte, error) {
	dir := filepath.Join(b.Dir, "segments")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("boot files: %w", err)
	}
	// The name says what went in; the file's end, whether it is whole.
	name := filepath.Join(dir, fmt.Sprintf("base-%d-%s.zst", packing, sum(base)[:16]))
	if c, err := readBounded(name, maxBootFile); err == nil && len(c) > sha256.Size {
		body, tail := c[:len(c)-sha256.Size], c[len(c)-sha256.Size:]
		if got := sha256.Sum256(body); string(got[:]) == string(tail) {
			return body, nil
		}
	}
	b.Log.Info("compressing the base of the initramfs")
	seg, err := baseSegment(base)
	if err != nil {
		return nil, fmt.Errorf("the base of the initramfs, %s: %w (run make)", b.Base, err)
	}
	stale, _ := filepath.Glob(filepath.Join(dir, "base-*.zst"))
	for _, s := range stale {
		os.Remove(s)
	}
	tail := sha256.Sum256(seg)
	if err := writeFile(name, slices.Concat(seg, tail[:]), 0o644); err != nil {
		return nil, fmt.Errorf("boot files: %w", err)
	}
	return seg, nil
}

// finish writes payload.json and removes boot files that are no longer listed.
func (b *builder) finish(ctx context.Context) error {
	slices.SortFunc(b.out.Files, func(x, y File) int { return cmp.Compare(x.Name, y.Name) })
	b.out.Sum = b.out.Digest()
	data, err := json.MarshalIndent(b.out, "", "\t")
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(b.Dir, "payload.json"), append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("boot files: %w", err)
	}
	entries, err := os.ReadDir(filepath.Join(b.Dir, "boot"))
	if err != nil {
		return fmt.Errorf("boot files: %w", err)
	}
	for _, e := range entries {
		if _, ok := b.out.File(e.Name()); !ok {
			if err := os.RemoveAll(filepath.Join(b.Dir, "boot", e.Name())); err != nil {
				return fmt.Errorf("boot files: %w", err)
			}
		}
	}
	if err := b.packages.Prune(ctx); err != nil {
		return err
	}
	b.Log.Info("boot files are ready", "payload", b.out.Describe())
	return nil
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
