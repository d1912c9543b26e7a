package drivers

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Where a boot image keeps what this package loads, relative to its root.
// u-root's init inserts every /lib/modules/*.ko on its own, in no order worth
// having, so the modules live elsewhere.
const (
	IndexPath    = "lib/modules/refurb.json"
	ModulesPath  = "usr/lib/refurb/modules"
	FirmwarePath = "lib/firmware"
)

// MaxIndex bounds the bytes of an index that is read.
const MaxIndex = 8 << 20

// Index says which of the boot image's modules serve which hardware. It stands
// for modules.alias, modules.dep and modules.softdep of the kernel it names.
type Index struct {
	Kernel  string            `json:"kernel"` // as uname -r says it
	Modules map[string]Module `json:"modules"`
	// Always lists modules that no device asks for by alias, or asks for too
	// late to be of use.
	Always []string `json:"always,omitempty"`
	// NoFirmware lists firmware files that a module names and the boot image
	// hasn't got.
	NoFirmware []string `json:"no_firmware,omitempty"`
}

// Module is one kernel module. Names are the kernel's: underscores, no suffix.
type Module struct {
	File     string   `json:"file"` // in ModulesPath: "e1000e.ko.xz"
	Aliases  []string `json:"aliases,omitempty"`
	Depends  []string `json:"depends,omitempty"` // must be loaded before
	Before   []string `json:"before,omitempty"`  // loaded before, if there
	After    []string `json:"after,omitempty"`   // loaded after, if there
	Firmware []string `json:"firmware,omitempty"`
}

// Name turns a file or an option's spelling into the kernel's:
// "i2c-hid-acpi.ko.xz" is i2c_hid_acpi.
func Name(s string) string {
	s = path.Base(s)
	if i := strings.Index(s, ".ko"); i >= 0 {
		s = s[:i]
	}
	return strings.ReplaceAll(s, "-", "_")
}

// ParseIndex reads an index and refuses one whose parts don't fit together.
func ParseIndex(b []byte) (*Index, error) {
	if len(b) > MaxIndex {
		return nil, fmt.Errorf("driver index: %d bytes, at most %d are read", len(b), MaxIndex)
	}
	var x Index
	if err := json.Unmarshal(b, &x); err != nil {
		return nil, fmt.Errorf("driver index: %w", err)
	}
	for name, m := range x.Modules {
		if name != Name(name) || m.File == "" || m.File != path.Base(m.File) {
			return nil, fmt.Errorf("driver index: module %q has the file %q: want a plain name in %s", name, m.File, ModulesPath)
		}
	}
	return &x, nil
}

// Closure lists names and everything that they need, sorted.
func (x *Index) Closure(names ...string) []string {
	seen := map[string]bool{}
	for _, n := range names {
		for _, m := range x.Order(n) {
			seen[m] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// Order lists what is to be loaded for one module, itself included, each after
// what it needs. Names that the index doesn't know are left out: they are built
// into the kernel, or the loader will say what is missing.
func (x *Index) Order(name string) []string {
	var out []string
	seen := map[string]bool{}
	var visit func(string)
	visit = func(n string) {
		m, ok := x.Modules[n]
		if !ok || seen[n] {
			return
		}
		seen[n] = true
		for _, d := range m.Before {
			visit(d)
		}
		for _, d := range m.Depends {
			visit(d)
		}
		out = append(out, n)
		for _, d := range m.After {
			visit(d)
		}
	}
	visit(name)
	return out
}

// matcher finds the modules of a modalias. An alias is a shell pattern; nearly
// all begin with a long literal part ("pci:v00008086d000010D3"), so patterns
// are looked up by that part instead of being tried one by one.
type matcher struct {
	byLiteral map[string][]pattern
	longest   int
}

type pattern struct {
	text   string
	module string
}

func newMatcher(x *Index) *matcher {
	m := &matcher{byLiteral: map[string][]pattern{}}
	for _, name := range slices.Sorted(maps.Keys(x.Modules)) {
		for _, a := range x.Modules[name].Aliases {
			lit := a
			if i := strings.IndexAny(a, `*?[\`); i >= 0 {
				lit = a[:i]
			}
			if lit == "" {
				continue // would be tried on every device
			}
			m.byLiteral[lit] = append(m.byLiteral[lit], pattern{a, name})
			m.longest = max(m.longest, len(lit))
		}
	}
	return m
}

// match lists the modules for modalias, those with the most exact alias first:
// the driver of one chip goes before the one of its class.
func (m *matcher) match(modalias string) []string {
	var out []string
	for n := min(len(modalias), m.longest); n > 0; n-- {
		for _, p := range m.byLiteral[modalias[:n]] {
			ok, err := path.Match(p.text, modalias)
			if err != nil || !ok || slices.Contains(out, p.module) {
				continue // a malformed alias matches nothing
			}
			out = append(out, p.module)
		}
	}
	return out
}
