package recipes

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// desktopFiles hold what makes a Debian the give-away desktop: the list of
// packages, the files laid over them, and the script that ties them together.
//
//go:embed all:desktop
var desktopFiles embed.FS

const (
	suite     = "trixie"
	rootLabel = "refurb-root"
	rootUUID  = "5b0e7d3c-64a9-4d8e-9d34-1f6f7a0c2d11"
	espBytes  = 128 * mib
	rootAt    = espAt + espBytes
	slack     = 384 * mib // free at the first start, before the file system grows
)

// keyrings are where Debian keeps the keys of its archive, the newer name first.
var keyrings = []string{"/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"}

// desktopMenu is all that lies on the EFI system partition: the real menu is
// Debian's own, which follows the system's updates.
const desktopMenu = `search --no-floppy --fs-uuid --set=root ` + rootUUID + `
set prefix=($root)/boot/grub
configfile $prefix/grub.cfg
`

// firstMenu is that menu until Debian makes its own at the first kernel update.
const firstMenu = `set timeout_style=hidden
set timeout=1
insmod all_video
set gfxpayload=keep
search --no-floppy --fs-uuid --set=root ` + rootUUID + `
menuentry "Debian" {
  linux /vmlinuz root=LABEL=` + rootLabel + ` ro quiet
  initrd /initrd.img
}
menuentry "Debian, with messages and a simple screen" {
  linux /vmlinuz root=LABEL=` + rootLabel + ` ro nomodeset
  initrd /initrd.img
}
`

// buildDesktop needs no loop device: the file systems are made as files.
func buildDesktop(ctx context.Context, o Options, out *os.File) error {
	if o.Mirror == "" {
		return errors.New("no Debian mirror was given")
	}
	if os.Getuid() != 0 {
		return errors.New("packages are installed into a folder, which takes root: run it with sudo")
	}
	for _, tool := range []string{"mmdebstrap", "mkfs.ext4"} {
		if _, err := findTool(tool); err != nil {
			return err
		}
	}
	work, err := os.MkdirTemp(filepath.Dir(o.Out), ".desktop-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work) // what mmdebstrap mounts there is gone with its mount namespace
	laid := filepath.Join(work, "desktop")
	if err := layOut(laid); err != nil {
		return err
	}
	offer, err := readOffer(ctx, o.Mirror)
	if err != nil {
		return err
	}
	root := filepath.Join(work, "root")
	if err := bootstrap(ctx, o, offer, laid, root); err != nil {
		return err
	}
	// mmdebstrap left the mirror of the workshop in there.
	err = errors.Join(
		os.WriteFile(filepath.Join(root, "etc/apt/sources.list"), []byte(strings.Join(offer.sources(cmp.Or(o.Apt, o.Mirror)), "\n")+"\n"), 0o644),
		os.WriteFile(filepath.Join(root, "boot/grub/grub.cfg"), []byte(firstMenu), 0o644),
	)
	if err != nil {
		return err
	}
	l, mok, err := installedLoaders(ctx, root)
	if err != nil {
		return err
	}
	o.Log.Info("making the disk", "recipe", "debian-desktop")
	used, err := treeBytes(root)
	if err != nil {
		return err
	}
	rootBytes := (used + used/20 + slack + mib - 1) / mib * mib
	size := rootAt + rootBytes + backup
	err = partition(out, size, "7E0C2F60-51B1-4D0B-9A52-7A1B7E5D0100", []part{
		{"BIOS boot", gpt.BIOSBoot, "7E0C2F60-51B1-4D0B-9A52-7A1B7E5D0101", biosAt, espAt - biosAt},
		{"EFI system", gpt.EFISystemPartition, "7E0C2F60-51B1-4D0B-9A52-7A1B7E5D0102", espAt, espBytes},
		{"root", linuxRootX64, "7E0C2F60-51B1-4D0B-9A52-7A1B7E5D0103", rootAt, rootBytes},
	})
	if err != nil {
		return err
	}
	if err := embedCore(out, l.boot, l.core, biosAt, espAt-biosAt); err != nil {
		return err
	}
	slot, err := desktopESP(out, l, mok)
	if err != nil {
		return err
	}
	if err := makeExt4(ctx, out.Name(), root, rootBytes); err != nil {
		return err
	}
	return checkSlot(ctx, out, size, slot)
}

// layOut writes the embedded files into dir, for mmdebstrap's hooks.
func layOut(dir string) error {
	return fs.WalkDir(desktopFiles, "desktop", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimPrefix(p, "desktop"))
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		b, err := desktopFiles.ReadFile(p)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if bytes.HasPrefix(b, []byte("#!")) {
			mode = 0o755
		}
		return os.WriteFile(to, b, mode)
	})
}

// names reads one of the lists of packages.
func names(file string) []string {
	b, err := desktopFiles.ReadFile("desktop/" + file)
	if err != nil {
		panic(err) // it is embedded
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		out = append(out, strings.Fields(line)...)
	}
	return out
}

// offer is what a mirror serves besides the suite's main part.
type offer struct {
	mirror   string
	firmware bool
	security string // address of the security updates; "" when they are not there
}

// sources are apt's lines for a mirror that serves the same.
func (f offer) sources(mirror string) []string {
	parts := "main"
	if f.firmware {
		parts += " non-free-firmware"
	}
	lines := []string{"deb " + mirror + " " + suite + " " + parts, "deb " + mirror + " " + suite + "-updates " + parts}
	if f.security != "" {
		lines = append(lines, "deb "+securityOf(mirror)+" "+suite+"-security "+parts)
	}
	return lines
}

func securityOf(mirror string) string {
	return strings.TrimSuffix(strings.TrimRight(mirror, "/"), "/debian") + "/debian-security"
}

// readOffer asks the mirror. Nothing is believed but what to ask for: apt checks
// the signatures.
func readOffer(ctx context.Context, mirror string) (offer, error) {
	mirror = strings.TrimRight(mirror, "/")
	f := offer{mirror: mirror}
	release, err := get(ctx, mirror+"/dists/"+suite+"/InRelease")
	if err != nil {
		return f, fmt.Errorf("the Debian mirror does not answer: %w (is this machine online? another one can be named by DEBIAN_MIRROR)", err)
	}
	f.firmware = serves(release, "non-free-firmware")
	if _, err := get(ctx, securityOf(mirror)+"/dists/"+suite+"-security/InRelease"); err == nil {
		f.security = securityOf(mirror)
	}
	return f, ctx.Err()
}

// serves looks for a component in a Release file's header.
func serves(release []byte, component string) bool {
	s := bufio.NewScanner(bytes.NewReader(release))
	for s.Scan() {
		if list, ok := strings.CutPrefix(s.Text(), "Components:"); ok {
			return slices.Contains(strings.Fields(list), component)
		}
	}
	return false
}

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 64<<10))
}

// bootstrap installs the packages into root and lays the files over them.
func bootstrap(ctx context.Context, o Options, f offer, laid, root string) error {
	i := slices.IndexFunc(keyrings, func(p string) bool { _, err := os.Stat(p); return err == nil })
	if i < 0 {
		return errors.New("the keys of Debian's archive are missing: run \"make setup\"")
	}
	include := names("packages")
	if f.firmware {
		include = append(include, names("firmware")...)
	} else {
		o.Log.Warn("the mirror has no non-free-firmware: Wi-Fi and graphics of many PCs will not work", "recipe", "debian-desktop")
	}
	args := []string{
		"--mode=root", "--variant=apt", "--architectures=amd64", "--format=directory", "--keyring=" + keyrings[i],
		`--aptopt=APT::Install-Recommends "false"`, `--aptopt=Acquire::Retries "3"`,
		"--dpkgopt=force-unsafe-io", // no sync per file: a build that is cut off starts anew anyway
		`--dpkgopt=path-exclude=/usr/share/man/*`, `--dpkgopt=path-exclude=/usr/share/doc/*`, `--dpkgopt=path-include=/usr/share/doc/*/copyright`,
		"--include=" + strings.Join(include, ","),
		"--customize-hook=" + filepath.Join(laid, "customize.sh"),
	}
	env := append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	if o.Cache != "" {
		debs, err := filepath.Abs(filepath.Join(o.Cache, "desktop"))
		if err != nil {
			return err
		}
		if err := os.MkdirAll(debs, 0o755); err != nil {
			return err
		}
		env = append(env, "REFURB_DEBS="+debs)
		args = append(args,
			"--skip=download/empty", "--skip=essential/unlink", // both insist on a cache without packages
			`--setup-hook=mkdir -p "$1/var/cache/apt/archives" && cp -R "$REFURB_DEBS/." "$1/var/cache/apt/archives/"`,
			`--customize-hook=chroot "$1" apt-get -q autoclean && rm -rf "$REFURB_DEBS.new" && mkdir "$REFURB_DEBS.new" && cp -p "$1"/var/cache/apt/archives/*.deb "$REFURB_DEBS.new/" && rm -rf "$REFURB_DEBS" && mv "$REFURB_DEBS.new" "$REFURB_DEBS"`)
	}
	args = append(args, suite, root)
	args = append(args, f.sources(f.mirror)...)
	o.Log.Info("installing packages", "recipe", "debian-desktop", "packages", len(include))
	tool, err := findTool("mmdebstrap")
	if err != nil {
		return err
	}
	return run(ctx, o, env, tool, args...)
}

// findTool also looks where root's programs are: sudo and cron leave that out.
func findTool(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("the program %s is missing: run \"make setup\"", name)
}

// run runs a program with mounts and processes of its own: none of them outlives
// it, however it ends. Its error tells the last lines that it said.
func run(ctx context.Context, o Options, env []string, name string, args ...string) error {
	said := &lines{log: o.Log.With("program", filepath.Base(name))}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s: %w; its last lines:\n%s", filepath.Base(name), err, strings.Join(said.last, "\n"))
	}
	return nil
}

// lines keeps the last lines that are written to it, and logs all.
type lines struct {
	log  *slog.Logger
	part []byte
	last []string
}

func (l *lines) Write(b []byte) (int, error) {
	const keep, longest = 12, 1000
	l.part = append(l.part, b...)
	for {
		i := bytes.IndexByte(l.part, '\n')
		if i < 0 && len(l.part) < longest {
			return len(b), nil
		}
		if i < 0 {
			i = longest - 1
		}
		line := strings.TrimSpace(string(l.part[:i]))
		l.part = l.part[i+1:]
		l.log.Debug(line)
		if l.last = append(l.last, line); len(l.last) > keep {
			l.last = l.last[1:]
		}
	}
}

// installedLoaders takes the boot loaders from the new system itself.
func installedLoaders(ctx context.Context, root string) (l loaders, mok []byte, err error) {
	pkg := map[string]string{}
	for _, name := range grubTool {
		pkg[name] = root
	}
	if l.boot, l.core, err = grubCore(ctx, pkg); err != nil {
		return l, nil, err
	}
	var errs [4]error
	l.shim, errs[0] = os.ReadFile(filepath.Join(root, shimFile))
	l.grub, errs[1] = os.ReadFile(filepath.Join(root, grubFile))
	mok, errs[2] = os.ReadFile(filepath.Join(root, mokFile))
	l.grub32, errs[3] = os.ReadFile(filepath.Join(root, grub32File))
	return l, mok, errors.Join(errs[:]...)
}

// desktopESP fills the EFI system partition. /EFI/BOOT starts on every PC;
// /EFI/debian is where Debian's updates put theirs.
func desktopESP(out *os.File, l loaders, mok []byte) (slot int64, err error) {
	e, err := makeESP(out, espAt, espBytes, "REFURB_EFI")
	if err != nil {
		return 0, err
	}
	if slot, err = e.reserve(); err != nil {
		return 0, err
	}
	err = e.write(
		content{"/EFI/BOOT/BOOTX64.EFI", l.shim},
		content{"/EFI/BOOT/grubx64.efi", l.grub},
		content{"/EFI/BOOT/mmx64.efi", mok},
		content{"/EFI/BOOT/BOOTIA32.EFI", l.grub32},
		content{"/EFI/debian/shimx64.efi", l.shim},
		content{"/EFI/debian/grubx64.efi", l.grub},
		content{"/EFI/debian/mmx64.efi", mok},
		content{"/EFI/debian/grub.cfg", []byte(desktopMenu)},
	)
	if err != nil {
		return 0, err
	}
	return slot, e.close()
}

// treeBytes is what a tree takes in an ext4 with blocks of 4 KiB.
func treeBytes(root string) (n int64, err error) {
	const block, inode = 4096, 256
	err = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n += inode
		if d.IsDir() || d.Type().IsRegular() {
			n += (info.Size() + block - 1) / block * block
		}
		return nil
	})
	return n, err
}

// makeExt4 makes the root file system inside the disk's file. Features that
// GRUB or an older e2fsprogs doesn't know are left out; the space is known to be
// zero, so that neither this nor the first start has to write zeroes.
func makeExt4(ctx context.Context, disk, root string, size int64) error {
	tool, err := findTool("mkfs.ext4")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, tool, "-q", "-F", "-L", rootLabel, "-U", rootUUID, "-m", "1", "-b", "4096",
		"-O", "^orphan_file,^metadata_csum_seed",
		"-E", fmt.Sprintf("offset=%d,hash_seed=%s,assume_storage_prezeroed=1,nodiscard", int64(rootAt), rootUUID),
		"-d", root, disk, fmt.Sprintf("%dk", size/1024))
	// The name under which e2fsprogs before 1.47.1 takes its date.
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME="+os.Getenv("SOURCE_DATE_EPOCH"))
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, bytes.TrimSpace(text))
	}
	return nil
}
