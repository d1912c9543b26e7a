package payload

import (
	"bytes"
	"context"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"refurb/agent/drivers"
)

//go:embed drivers.txt
var driverList string

// maxModule bounds one module once it is unpacked. The largest on the list has
// less than 3 MiB.
const maxModule = 64 << 20

// seed is one line of drivers.txt.
type seed struct {
	name   string
	with   []string
	always bool
}

func parseSeeds(text string) ([]seed, error) {
	var out []seed
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		s := seed{name: drivers.Name(f[0])}
		for _, opt := range f[1:] {
			with, ok := strings.CutPrefix(opt, "with=")
			switch {
			case ok:
				for w := range strings.SplitSeq(with, ",") {
					s.with = append(s.with, drivers.Name(w))
				}
			case opt == "always":
				s.always = true
			default:
				return nil, fmt.Errorf("driver list, line %d: unknown word %q", n, opt)
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// modinfo is what a module says of itself.
type modinfo struct {
	aliases, depends, before, after, firmware []string
}

// parseModinfo reads the section .modinfo of a kernel module: "key=value"
// strings, each ended by a zero byte.
func parseModinfo(ko io.ReaderAt) (modinfo, error) {
	var mi modinfo
	f, err := elf.NewFile(ko)
	if err != nil {
		return mi, fmt.Errorf("no kernel module: %w", err)
	}
	sec := f.Section(".modinfo")
	if sec == nil {
		return mi, errors.New("no kernel module: it has no section .modinfo")
	}
	if sec.Size > maxModule {
		return mi, fmt.Errorf("section .modinfo claims %d bytes", sec.Size)
	}
	data, err := sec.Data()
	if err != nil {
		return mi, fmt.Errorf("section .modinfo: %w", err)
	}
	for kv := range bytes.SplitSeq(data, []byte{0}) {
		k, v, _ := strings.Cut(string(kv), "=")
		switch k {
		case "alias":
			// Without a bus it is asked for by the kernel, not by a device.
			if strings.Contains(v, ":") {
				mi.aliases = append(mi.aliases, v)
			}
		case "depends":
			for d := range strings.SplitSeq(v, ",") {
				if d != "" {
					mi.depends = append(mi.depends, drivers.Name(d))
				}
			}
		case "softdep":
			mi.softdep(v)
		case "firmware":
			if v != "" && fs.ValidPath(v) {
				mi.firmware = append(mi.firmware, v)
			}
		}
	}
	return mi, nil
}

// softdep reads "pre: a b post: c" (modprobe.d(5)).
func (mi *modinfo) softdep(v string) {
	var list *[]string
	for w := range strings.FieldsSeq(v) {
		switch w {
		case "pre:":
			list = &mi.before
		case "post:":
			list = &mi.after
		default:
			if list != nil {
				*list = append(*list, drivers.Name(w))
			}
		}
	}
}

// openModule unpacks a module into memory as its name says.
func openModule(name string, raw []byte) (io.ReaderAt, error) {
	var r io.Reader
	switch path.Ext(name) {
	case ".ko":
		return bytes.NewReader(raw), nil
	case ".xz":
		x, err := xz.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		r = x
	case ".zst":
		z, err := zstd.NewReader(bytes.NewReader(raw), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	default:
		return nil, fmt.Errorf("%s: a module ends in .ko, .ko.xz or .ko.zst", name)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxModule {
		return nil, fmt.Errorf("unpacks to more than %d bytes", maxModule)
	}
	return bytes.NewReader(b), nil
}

// kernelTree is a kernel package, unpacked.
type kernelTree struct {
	release string            // as uname -r says it
	files   map[string]string // module name → file
	builtin map[string]bool
}

func openKernel(root string) (*kernelTree, error) {
	var dirs []string
	for _, base := range []string{"usr/lib/modules", "lib/modules"} {
		d, _ := filepath.Glob(filepath.Join(root, base, "*/kernel"))
		dirs = append(dirs, d...)
	}
	if len(dirs) != 1 {
		return nil, fmt.Errorf("the kernel package holds %d sets of modules, expected 1", len(dirs))
	}
	dir := filepath.Dir(dirs[0])
	k := &kernelTree{release: filepath.Base(dir), files: map[string]string{}, builtin: map[string]bool{}}
	err := filepath.WalkDir(dirs[0], func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(d.Name(), ".ko") {
			k.files[drivers.Name(d.Name())] = p
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		k.builtin[drivers.Name(strings.TrimSpace(line))] = true
	}
	return k, nil
}

// find gives the name under which the kernel has a module that another one asks
// for, or "". Soft dependencies name an algorithm ("crc32c") more often than
// the module that has it ("crc32c_generic").
func (k *kernelTree) find(name string) string {
	for _, n := range []string{name, name + "_generic"} {
		if _, ok := k.files[n]; ok {
			return n
		}
	}
	return ""
}

// driverSet is what goes into the segment of drivers.
type driverSet struct {
	index    *drivers.Index
	modules  map[string][]byte // by file name, as the package has them
	firmware map[string][]byte // by the name that drivers ask for
	absent   []string          // on the list, but not in this kernel
}

// collectDrivers takes the seeds and all that they need out of a kernel, and
// the firmware that they name out of the firmware packages' folders.
func collectDrivers(ctx context.Context, k *kernelTree, seeds []seed, firmware []string) (*driverSet, error) {
	set := &driverSet{
		index:    &drivers.Index{Kernel: k.release, Modules: map[string]drivers.Module{}},
		modules:  map[string][]byte{},
		firmware: map[string][]byte{},
	}
	with := map[string][]string{}
	var queue []string
	for _, s := range seeds {
		switch {
		case k.builtin[s.name]:
			continue
		case k.files[s.name] == "":
			set.absent = append(set.absent, s.name)
			continue
		}
		queue = append(queue, s.name)
		with[s.name] = s.with
		if s.always {
			set.index.Always = append(set.index.Always, s.name)
		}
	}
	for len(queue) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := queue[0]
		queue = queue[1:]
		if _, ok := set.index.Modules[name]; ok {
			continue
		}
		m, raw, err := readModule(k, name, with[name])
		if err != nil {
			return nil, fmt.Errorf("module %s of kernel %s: %w", name, k.release, err)
		}
		set.index.Modules[name] = m
		set.modules[m.File] = raw
		queue = slices.Concat(queue, m.Depends, m.Before, m.After)
	}
	missing := map[string]bool{}
	for _, m := range set.index.Modules {
		for _, fw := range m.Firmware {
			if !set.addFirmware(fw, firmware) {
				missing[fw] = true
			}
		}
	}
	set.index.NoFirmware = slices.Sorted(maps.Keys(missing))
	slices.Sort(set.absent)
	return set, nil
}

// readModule reads one module and what it says. Dependencies that are built in
// are dropped; one that is nowhere makes the module useless and is an error.
func readModule(k *kernelTree, name string, with []string) (drivers.Module, []byte, error) {
	file := k.files[name]
	raw, err := readBounded(file, maxModule)
	if err != nil {
		return drivers.Module{}, nil, err
	}
	ko, err := openModule(file, raw)
	if err != nil {
		return drivers.Module{}, nil, err
	}
	mi, err := parseModinfo(ko)
	if err != nil {
		return drivers.Module{}, nil, err
	}
	m := drivers.Module{
		File:     name + file[strings.LastIndex(file, ".ko"):],
		Aliases:  mi.aliases,
		Firmware: mi.firmware,
	}
	for _, d := range mi.depends {
		if k.files[d] != "" {
			m.Depends = append(m.Depends, d)
		} else if !k.builtin[d] {
			return m, nil, fmt.Errorf("it needs %s, which this kernel hasn't got", d)
		}
	}
	for _, d := range slices.Concat(mi.before, with) {
		if d = k.find(d); d != "" && d != name && !slices.Contains(m.Before, d) {
			m.Before = append(m.Before, d)
		}
	}
	for _, d := range mi.after {
		if d = k.find(d); d != "" && d != name {
			m.After = append(m.After, d)
		}
	}
	return m, raw, nil
}

// addFirmware takes a file, or those that a pattern names, out of the first
// folder that has it. The kernel finds compressed ones too.
func (s *driverSet) addFirmware(name string, dirs []string) bool {
	for _, dir := range dirs {
		for _, base := range []string{"usr/lib/firmware", "lib/firmware"} {
			root := filepath.Join(dir, base)
			found := false
			for _, suffix := range []string{"", ".xz", ".zst"} {
				files, _ := filepath.Glob(filepath.Join(root, name+suffix))
				for _, f := range files {
					rel, err := filepath.Rel(root, f)
					if err != nil {
						continue
					}
					if b, err := readInside(root, rel); err == nil {
						s.firmware[filepath.ToSlash(rel)] = b
						found = true
					}
				}
			}
			if found {
				return true
			}
		}
	}
	return false
}

// readInside reads a file below root, following links only within it.
func readInside(root, name string) ([]byte, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxModule+1))
	if err == nil && len(b) > maxModule {
		err = fmt.Errorf("%s: more than %d bytes", name, maxModule)
	}
	return b, err
}
