package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"refurb/appliance"
	"refurb/appliance/payload"
	"refurb/images/depot"
	"refurb/images/pack"
	"refurb/images/recipes"
)

type imageCmd struct {
	Import imageImportCmd `cmd:"" help:"Take a disk image in: raw or qcow2, also inside .gz, .xz or .zst."`
	Build  imageBuildCmd  `cmd:"" help:"Build one of the systems that come with Refurb, and take it in."`
	List   imageListCmd   `cmd:"" help:"What can be put on PCs."`
	Verify imageVerifyCmd `cmd:"" help:"Read an image whole and check every byte."`
	Remove imageRemoveCmd `cmd:"" help:"Remove an image."`
}

// newDepot makes what isn't there yet: images may be taken in before the
// appliance runs for the first time.
func newDepot(data string) (*depot.Depot, error) { return openDepot(data, appliance.LoadKeys) }

// oldDepot is for what needs images that are there.
func oldDepot(data string) (*depot.Depot, error) { return openDepot(data, oldKeys) }

func openDepot(data string, load func(string) (*appliance.Keys, error)) (*depot.Depot, error) {
	keys, err := load(data)
	if err != nil {
		return nil, err
	}
	return depot.Open(filepath.Join(data, "images"), keys.Signing)
}

type imageImportCmd struct {
	dataFlag
	File    string `arg:"" help:"The disk image." type:"path"`
	Name    string `help:"What people see; the file's name without it."`
	Release string `help:"Version that people see."`
	Grow    int    `help:"Partition that grows to the end of a larger disk; 0: the last one if it is Linux, -1: none."`
	Force   bool   `help:"Take a file that doesn't look like a disk."`
}

func (c *imageImportCmd) Run(ctx context.Context) error {
	d, err := newDepot(c.Data)
	if err != nil {
		return err
	}
	return take(ctx, d, c.File, pack.Options{Name: c.Name, Version: c.Release, Grow: c.Grow, Force: c.Force})
}

// take imports a file with a progress bar. Interrupted, it says how to go on.
func take(ctx context.Context, d *depot.Depot, file string, o pack.Options) error {
	src, err := pack.Open(file)
	if err != nil {
		return err
	}
	defer src.Close()
	progress, done := bar("importing " + filepath.Base(file))
	o.Progress = progress
	root, err := pack.Import(ctx, src, o, d)
	done()
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("import stopped: the same command goes on where it was: %w", err)
	}
	if err != nil {
		return err
	}
	_, m, err := d.Manifest(root.String())
	if err != nil {
		return err
	}
	fmt.Printf("imported %s: %s raw, %s stored, boots %v, root %s\n", strings.TrimSpace(m.Name+" "+m.Version), size(m.Bytes), size(m.Compressed()), m.Boots, root)
	return nil
}

type imageBuildCmd struct {
	dataFlag
	Recipe  string `arg:"" help:"tiny or debian-desktop."`
	Cache   string `help:"Folder for downloads, kept between runs; without it DATA/cache." type:"path"`
	Mirror  string `help:"Debian's mirror, ending in /debian; without it the machine's own." env:"DEBIAN_MIRROR"`
	Updates string `help:"Mirror that the finished desktop asks for updates; without it the one it was built from."`
	Tiny    string `hidden:"" name:"tinyos" type:"path"`
}

func (c *imageBuildCmd) Run(ctx context.Context, log *slog.Logger) error {
	d, err := newDepot(c.Data)
	if err != nil {
		return err
	}
	cache := or(c.Cache, filepath.Join(c.Data, "cache"))
	pkgs, err := payload.OpenPackages(cache, c.Mirror)
	if err != nil {
		return err
	}
	pkgs.Log = log
	out := filepath.Join(cache, c.Recipe+".raw")
	err = recipes.Build(ctx, c.Recipe, recipes.Options{
		Out: out, Boot: filepath.Join(c.Data, "payload", "boot"), TinyInit: or(c.Tiny, companion("tinyos")),
		Fetch: pkgs.Fetch, Mirror: pkgs.Mirror(), Apt: c.Updates, Cache: filepath.Join(cache, "recipes"), Log: log,
	})
	if err != nil {
		return err
	}
	if err := take(ctx, d, out, pack.Options{Name: c.Recipe}); err != nil {
		return err
	}
	return os.Remove(out)
}

type imageListCmd struct {
	dataFlag
	JSON bool `name:"json" help:"For scripts."`
}

func (c *imageListCmd) Run() error {
	d, err := oldDepot(c.Data)
	if err != nil {
		return err
	}
	entries, err := d.List()
	if err != nil {
		return err
	}
	type entry struct {
		Root    string    `json:"root"`
		Name    string    `json:"name"`
		Version string    `json:"version,omitempty"`
		Bytes   int64     `json:"bytes"`
		Stored  int64     `json:"stored"`
		Boots   []string  `json:"boots"`
		Created time.Time `json:"created"`
		Problem string    `json:"problem,omitempty"`
	}
	all := []entry{}
	for _, e := range entries {
		v := entry{Root: e.Root, Stored: e.Stored}
		if e.Err != nil {
			v.Problem = e.Err.Error()
		} else {
			m := e.Manifest
			v.Name, v.Version, v.Bytes, v.Boots, v.Created = m.Name, m.Version, m.Bytes, m.Boots, m.Created
		}
		all = append(all, v)
	}
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(all)
	}
	if len(all) == 0 {
		fmt.Println(asTyped("No image yet. Make one with `refurb image build debian-desktop`, or bring your own with `refurb image import FILE`.", os.Args[0]))
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ROOT\tNAME\tVERSION\tRAW\tSTORED\tBOOTS\tSINCE\t")
	for _, v := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%v\t%s\t%s\n", v.Root[:min(12, len(v.Root))], v.Name, v.Version, size(v.Bytes), size(v.Stored), v.Boots, v.Created.Format("2006-01-02"), v.Problem)
	}
	return w.Flush()
}

type imageVerifyCmd struct {
	dataFlag
	Root string `arg:"" help:"The image's root, or its first digits."`
}

func (c *imageVerifyCmd) Run(ctx context.Context) error {
	d, err := oldDepot(c.Data)
	if err != nil {
		return err
	}
	root, err := find(d, c.Root)
	if err != nil {
		return err
	}
	progress, done := bar("reading")
	err = d.Verify(ctx, root, progress)
	done()
	if err != nil {
		return err
	}
	fmt.Println("good: every frame is what was signed")
	return nil
}

type imageRemoveCmd struct {
	dataFlag
	Root string `arg:"" help:"The image's root, or its first digits."`
}

func (c *imageRemoveCmd) Run() error {
	d, err := oldDepot(c.Data)
	if err != nil {
		return err
	}
	root, err := find(d, c.Root)
	if err != nil {
		return err
	}
	return d.Remove(root)
}

// find completes the first digits of a root.
func find(d *depot.Depot, start string) (string, error) {
	entries, err := d.List()
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		if start != "" && len(start) <= len(e.Root) && e.Root[:len(start)] == start {
			found = append(found, e.Root)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("no such image %q: see `refurb image list`", start)
	}
	return "", fmt.Errorf("%d images start with %q: give more digits", len(found), start)
}

// bar shows progress on a terminal, and one line where there is none.
func bar(what string) (progress func(done, total int64), end func()) {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return func(int64, int64) {}, func() {}
	}
	b := progressbar.NewOptions64(-1, progressbar.OptionSetDescription(what), progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionShowBytes(true), progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish())
	return func(done, total int64) {
		if total > 0 && b.GetMax64() != total {
			b.ChangeMax64(total)
		}
		_ = b.Set64(done) // a bar that can't be drawn is no reason to stop
	}, func() { _ = b.Exit() }
}

func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%d B", n)
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// companion is a file that the build leaves beside this program.
func companion(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	return filepath.Join(filepath.Dir(self), name)
}
