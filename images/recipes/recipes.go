// Package recipes builds the systems that Refurb gives away, as raw disk images
// with blocks of 512 bytes. Every one of them starts on BIOS, on UEFI x64 with
// Secure Boot on or off and on UEFI IA32 without it, and reserves the slot "checkin" (images.Slot), so
// that a PC can say once that it started from its own drive.
package recipes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Recipe is one system that can be built.
type Recipe struct {
	Name string
	Text string // one line for people

	build func(ctx context.Context, o Options, out *os.File) error
}

// Options of a build. Boot, TinyInit and Fetch are for what a recipe wants of
// them; an error names the one that is missing.
type Options struct {
	Out      string // the raw image's file; it appears whole or not at all
	Boot     string // folder of boot files: vmlinuz, drivers.cpio (recipe tiny)
	TinyInit string // the built program images/recipes/tinyos (recipe tiny)

	// Fetch unpacks Debian 13 packages and says into which folders (recipe tiny).
	Fetch func(ctx context.Context, pkgs ...string) (map[string]string, error)

	Mirror string // of Debian, ending in /debian: where the packages come from (recipe debian-desktop)
	Apt    string // the mirror that the finished system asks for updates; empty: Mirror
	Cache  string // folder that keeps packages between builds; empty: none kept
	Log    *slog.Logger
}

// List of all recipes.
func List() []Recipe {
	return []Recipe{
		{"tiny", "a test system of 64 MiB: starts from its own drive, checks in, switches off", buildTiny},
		{"debian-desktop", "Debian 13 with Xfce, Firefox and LibreOffice in five languages, for giving away", buildDesktop},
	}
}

// epoch is the date of everything that a build makes, unless SOURCE_DATE_EPOCH
// says another: the same input gives the same bytes.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Build makes the system called name and writes it to o.Out.
func Build(ctx context.Context, name string, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	var known []string
	for _, r := range List() {
		if r.Name == name {
			return r.into(ctx, o)
		}
		known = append(known, r.Name)
	}
	return fmt.Errorf("no recipe %q (known: %s)", name, strings.Join(known, ", "))
}

func (r Recipe) into(ctx context.Context, o Options) (err error) {
	if o.Out == "" {
		return errors.New("recipe " + r.Name + ": no file to write was given")
	}
	// mmdebstrap, mke2fs and go-diskfs's FAT all take their dates from this
	// variable and have no other way to be told.
	if os.Getenv("SOURCE_DATE_EPOCH") == "" {
		if err := os.Setenv("SOURCE_DATE_EPOCH", strconv.FormatInt(epoch.Unix(), 10)); err != nil {
			return err
		}
		defer os.Unsetenv("SOURCE_DATE_EPOCH")
	}
	if err := os.MkdirAll(filepath.Dir(o.Out), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(o.Out), "."+filepath.Base(o.Out)+"-*.part")
	if err != nil {
		return fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("recipe %s: %w", r.Name, err)
		}
	}()
	start := time.Now()
	if err := r.build(ctx, o, f); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), o.Out); err != nil {
		return err
	}
	o.Log.Info("image built", "recipe", r.Name, "file", o.Out, "took", time.Since(start).Round(time.Millisecond))
	return nil
}
