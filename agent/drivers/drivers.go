// Package drivers loads the kernel modules that a PC's hardware asks for.
//
// Each device in sysfs carries a modalias; the boot image's Index says which
// modules answer to it and what those need. Modules stay compressed and signed
// as the distribution made them: the kernel unpacks them itself, so that their
// signature still counts when Secure Boot has locked the kernel down.
package drivers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"refurb/agent/wire"
)

// Result of Load.
type Result struct {
	Kernel string     // the kernel that the index was made for
	Loaded []string   // in this order, by this call
	Failed []Failure  // modules that the kernel refused
	Gaps   []wire.Gap // hardware that is left without
}

// Failure is a module that was wanted and could not be loaded.
type Failure struct {
	Module string
	Reason string
}

// Settling. USB devices show up after their controller's driver has returned:
// a port is debounced for 100 ms and reset for 50 more (USB 2.0, 7.1.7.3 and
// 7.1.7.5), once per hub on the way.
const (
	usbTick  = 20 * time.Millisecond
	usbQuiet = 600 * time.Millisecond // without a new device
	usbLimit = 5 * time.Second        // altogether
)

// Load inserts the modules for the hardware of the system under root ("/"
// outside of tests), again and again until no device asks for another one. It
// fails only when it can't begin or ctx ends; a module that doesn't load is a
// Failure, and hardware without a driver a Gap. To call it again is cheap and
// picks up what was plugged in since; most network drivers ask for firmware only
// when their port is brought up, so a call after that sees what they missed.
func Load(ctx context.Context, root string) (Result, error) {
	l, err := open(root)
	if err != nil {
		return Result{}, err
	}
	return l.load(ctx)
}

// loader is one run of Load.
type loader struct {
	root   string
	index  *Index
	match  *matcher
	insert func(path string) error // finit_module outside of tests

	done   map[string]bool   // present now, whoever loaded it
	failed map[string]string // why
	res    Result
}

func open(root string) (*loader, error) {
	f, err := os.Open(filepath.Join(root, IndexPath))
	if err != nil {
		return nil, fmt.Errorf("driver index: %w (the boot files are incomplete: run sudo build/refurb payload build)", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxIndex+1))
	if err != nil {
		return nil, fmt.Errorf("driver index: %w", err)
	}
	x, err := ParseIndex(b)
	if err != nil {
		return nil, err
	}
	return &loader{
		root: root, index: x, match: newMatcher(x), insert: insert,
		done: map[string]bool{}, failed: map[string]string{},
		res: Result{Kernel: x.Kernel},
	}, nil
}

func (l *loader) load(ctx context.Context) (Result, error) {
	for _, name := range l.index.Always {
		if name == "efivarfs" && !l.exists("sys/firmware/efi") {
			continue // refused by the kernel there, and no failure
		}
		if err := l.want(ctx, name); err != nil {
			return l.res, err
		}
	}
	limit := time.Now().Add(usbLimit)
	asked := map[string]bool{}
	for {
		seq := l.uevents()
		before := len(l.res.Loaded)
		for _, d := range cardsFirst(l.devices()) {
			if asked[d.modalias] {
				continue
			}
			asked[d.modalias] = true
			for _, name := range l.match.match(d.modalias) {
				if err := l.want(ctx, name); err != nil {
					return l.res, err
				}
			}
		}
		if len(l.res.Loaded) > before {
			continue
		}
		if more, err := l.settle(ctx, seq, limit); err != nil {
			return l.res, err
		} else if !more {
			break
		}
	}
	l.res.Gaps = l.gaps()
	return l.res, nil
}

// cardsFirst: a network card needs seconds for its cable, which the other drivers
// can use.
func cardsFirst(all []device) []device {
	var first, rest []device
	for _, d := range all {
		if strings.HasPrefix(d.modalias, "pci:") && strings.Contains(d.modalias, "bc02sc") {
			first = append(first, d)
		} else {
			rest = append(rest, d)
		}
	}
	return append(first, rest...)
}

// settle waits for late USB devices if this run has started a host controller.
// It is true when the kernel has announced something since seq.
func (l *loader) settle(ctx context.Context, seq string, limit time.Time) (bool, error) {
	host := slices.ContainsFunc(l.res.Loaded, func(m string) bool {
		return strings.HasSuffix(m, "hci_hcd") || strings.HasSuffix(m, "hci_pci")
	})
	quiet := time.Now().Add(usbQuiet)
	for host && time.Now().Before(quiet) && time.Now().Before(limit) {
		if l.uevents() != seq {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(usbTick):
		}
	}
	return false, nil
}

// uevents is the kernel's count of device announcements.
func (l *loader) uevents() string {
	b, _ := os.ReadFile(filepath.Join(l.root, "sys/kernel/uevent_seqnum"))
	return strings.TrimSpace(string(b))
}

// want loads name and what it needs. The error is ctx's only.
func (l *loader) want(ctx context.Context, name string) error {
	for _, n := range l.index.Order(name) {
		if l.done[n] || l.failed[n] != "" {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if l.exists("sys/module", n) {
			l.done[n] = true
			continue
		}
		m := l.index.Modules[n]
		if reason := l.blocked(m); reason != "" {
			l.fail(n, reason)
			continue
		}
		switch err := l.insert(filepath.Join(l.root, ModulesPath, m.File)); {
		case err == nil:
			l.done[n] = true
			l.res.Loaded = append(l.res.Loaded, n)
		case errors.Is(err, unix.EEXIST):
			l.done[n] = true
		case errors.Is(err, unix.ENODEV):
			// The module looked for its hardware and found none. It is not
			// in, and nothing is lost.
			l.done[n] = true
		default:
			l.fail(n, explain(err))
		}
	}
	return nil
}

// blocked says which module that m can't do without has failed.
func (l *loader) blocked(m Module) string {
	for _, d := range m.Depends {
		if why := l.failed[d]; why != "" {
			return fmt.Sprintf("it needs %s, and that one failed: %s", d, why)
		}
	}
	return ""
}

func (l *loader) fail(name, reason string) {
	l.failed[name] = reason
	l.res.Failed = append(l.res.Failed, Failure{name, reason})
}

func (l *loader) exists(elem ...string) bool {
	_, err := os.Stat(filepath.Join(l.root, filepath.Join(elem...)))
	return err == nil
}

// explain puts finit_module(2)'s errors in words.
func explain(err error) string {
	switch {
	case errors.Is(err, unix.EKEYREJECTED), errors.Is(err, unix.ENOKEY):
		return "its signature was refused (Secure Boot is on and the module isn't the kernel's own)"
	case errors.Is(err, unix.ENOEXEC):
		return "it was made for another kernel"
	case errors.Is(err, unix.ENOENT):
		return "a part that it needs is not in our boot files"
	case errors.Is(err, unix.EOPNOTSUPP):
		return "this kernel can't unpack it"
	case errors.Is(err, unix.EPERM):
		return "the kernel takes no modules (module loading is switched off, or this isn't root)"
	}
	return "the kernel refused it: " + err.Error()
}

// insert hands one module file to the kernel, which unpacks it itself if its
// name says that it is compressed.
func insert(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	return unix.FinitModule(int(f.Fd()), "", flags)
}
