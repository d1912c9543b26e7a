package payload

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
	"github.com/ulikunitz/xz"

	"refurb/agent/drivers"
)

// module makes the least that is a kernel module: an ELF file for x86-64 with
// the sections .modinfo and .shstrtab.
func module(info ...string) []byte {
	names := "\x00.modinfo\x00.shstrtab\x00"
	body := strings.Join(info, "\x00") + "\x00"
	var b bytes.Buffer
	const head = 64
	h := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Ehsize: head, Shentsize: 64, Shnum: 3, Shstrndx: 2,
		Shoff: uint64(head + len(names) + len(body)),
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	binary.Write(&b, binary.LittleEndian, h)
	b.WriteString(names + body)
	binary.Write(&b, binary.LittleEndian, []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: uint64(head + len(names)), Size: uint64(len(body)), Addralign: 1},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: head, Size: uint64(len(names)), Addralign: 1},
	})
	return b.Bytes()
}

func compress(t *testing.T, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.WriterConfig{DictCap: 1 << 16}.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = w.Write(b); err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// kernel lays out an unpacked kernel package and firmware package.
func kernel(t *testing.T, root string) {
	t.Helper()
	dir := filepath.Join(root, "usr/lib/modules/6.12.0-test")
	for file, info := range map[string][]string{
		"net/r8169.ko.xz":        {"license=GPL", "softdep=pre: realtek", "firmware=rtl_nic/rtl8168h-2.fw", "firmware=rtl_nic/none.fw", "firmware=../../etc/shadow", "alias=pci:v000010ECd00008168sv*sd*bc*sc*i*", "depends=libphy,mdio-devres"},
		"net/realtek.ko.xz":      {"alias=mdio:0000000000011100110010????", "depends=libphy"},
		"net/libphy.ko.xz":       {"depends="},
		"net/mdio_devres.ko.xz":  {"depends=libphy"},
		"net/unwanted.ko.xz":     {"alias=pci:v*"},
		"net/tg3.ko.xz":          {"depends=libphy,builtin-thing", "alias=pci:v000014E4d00001600sv*sd*bc*sc*i*"},
		"net/phy/broadcom.ko.xz": {"depends=libphy"},
		"scsi/sd_mod.ko.xz":      {"softdep=pre: crct10dif post: sg", "alias=scsi:t-0x00*", "alias=sd"},
		"scsi/sg.ko":             {"depends="},
		"lib/crct10dif_generic.ko.xz": {
			"alias=crypto-crct10dif",
		},
	} {
		b := string(module(info...))
		if strings.HasSuffix(file, ".xz") {
			b = compress(t, []byte(b))
		}
		write(t, filepath.Join(dir, "kernel", file), b)
	}
	write(t, filepath.Join(dir, "modules.builtin"), "kernel/drivers/input/serio/i8042.ko\nkernel/lib/builtin-thing.ko\n")
	write(t, filepath.Join(root, "boot/vmlinuz-6.12.0-test"), "kernel")
}

func collect(t *testing.T, list string) (*driverSet, error) {
	t.Helper()
	root, fw := t.TempDir(), t.TempDir()
	kernel(t, root)
	write(t, filepath.Join(fw, "usr/lib/firmware/rtl_nic/rtl8168h-2.fw"), "firmware")
	tree, err := openKernel(root)
	if err != nil {
		t.Fatal(err)
	}
	seeds, err := parseSeeds(list)
	if err != nil {
		t.Fatal(err)
	}
	return collectDrivers(t.Context(), tree, seeds, []string{fw})
}

const someDrivers = "r8169 # wired\ntg3 with=broadcom\nsd_mod always\ni8042\npata-acpi\n"

func TestCollectDrivers(t *testing.T) {
	set, err := collect(t, someDrivers)
	if err != nil {
		t.Fatal(err)
	}
	x := set.index
	if got, want := strings.Join(x.Closure("r8169", "tg3", "sd_mod"), " "), "broadcom crct10dif_generic libphy mdio_devres r8169 realtek sd_mod sg tg3"; got != want {
		t.Errorf("modules %q, want %q", got, want)
	}
	if len(x.Modules) != 9 || len(set.modules) != 9 {
		t.Errorf("%d modules in the index, %d files; want 9", len(x.Modules), len(set.modules))
	}
	for name, want := range map[string]string{
		"r8169":  "libphy realtek mdio_devres r8169",
		"tg3":    "libphy broadcom tg3",
		"sd_mod": "crct10dif_generic sd_mod sg",
	} {
		if got := strings.Join(x.Order(name), " "); got != want {
			t.Errorf("order %q, want %q", got, want)
		}
	}
	if got := x.Modules["sd_mod"].Aliases; !slices.Equal(got, []string{"scsi:t-0x00*"}) {
		t.Errorf("aliases of sd_mod %q", got)
	}
	if x.Modules["sg"].File != "sg.ko" || x.Modules["tg3"].File != "tg3.ko.xz" {
		t.Errorf("files %q, %q", x.Modules["sg"].File, x.Modules["tg3"].File)
	}
	if !slices.Equal(x.Always, []string{"sd_mod"}) || !slices.Equal(set.absent, []string{"pata_acpi"}) {
		t.Errorf("always %q, absent %q", x.Always, set.absent)
	}
	if len(set.firmware) != 1 || string(set.firmware["rtl_nic/rtl8168h-2.fw"]) != "firmware" || !slices.Equal(x.NoFirmware, []string{"rtl_nic/none.fw"}) {
		t.Errorf("firmware %q, missing %q", set.firmware, x.NoFirmware)
	}
}

// Modules go in byte for byte: their signature is part of the file.
func TestModulesAreUntouched(t *testing.T) {
	set, err := collect(t, "sg\nr8169")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(set.modules["sg.ko"], module("depends=")) {
		t.Error("sg.ko was changed")
	}
	if want := compress(t, module("depends=")); string(set.modules["libphy.ko.xz"]) != want {
		t.Error("libphy.ko.xz was changed")
	}
}

func TestCollectRefuses(t *testing.T) {
	for name, info := range map[string]string{
		"a dependency that is nowhere": string(module("depends=nowhere")),
		"no ELF":                       "hello",
	} {
		root := t.TempDir()
		kernel(t, root)
		write(t, filepath.Join(root, "usr/lib/modules/6.12.0-test/kernel/bad.ko"), info)
		tree, err := openKernel(root)
		if err != nil {
			t.Fatal(err)
		}
		_, err = collectDrivers(t.Context(), tree, []seed{{name: "bad"}}, nil)
		if err == nil || !strings.Contains(err.Error(), "module bad of kernel 6.12.0-test") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := openKernel(t.TempDir()); err == nil {
		t.Error("an empty kernel package was taken")
	}
}

func TestOwnDriverList(t *testing.T) {
	seeds, err := parseSeeds(driverList)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, s := range seeds {
		if names[s.name] {
			t.Errorf("%s is listed twice", s.name)
		}
		names[s.name] = true
	}
	if len(seeds) < 110 {
		t.Errorf("%d drivers", len(seeds))
	}
	for line := range strings.Lines(driverList) {
		if f := strings.TrimSpace(line); f != "" && !strings.Contains(f, "#") {
			t.Errorf("%q does not say what for", f)
		}
	}
	if _, err := parseSeeds("ahci allways"); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a typing slip gave %v", err)
	}
}

// FuzzModinfo: no file, however broken, makes the reader fail other than by an
// error, and nothing that it returns leads out of the firmware's folder.
func FuzzModinfo(f *testing.F) {
	f.Add(module("alias=pci:v*", "depends=a,b-c,", "softdep=pre: x post: y", "firmware=a/b"))
	f.Add(module("firmware=/etc/passwd", "firmware=../x", "softdep=post:", "=", "depends"))
	f.Add([]byte(elf.ELFMAG))
	f.Fuzz(func(t *testing.T, b []byte) {
		mi, err := parseModinfo(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, fw := range mi.firmware {
			if !filepath.IsLocal(fw) {
				t.Errorf("firmware %q", fw)
			}
		}
		for _, d := range slices.Concat(mi.depends, mi.before, mi.after) {
			if d != drivers.Name(d) {
				t.Errorf("module name %q", d)
			}
		}
	})
}

func TestSegments(t *testing.T) {
	set, err := collect(t, someDrivers)
	if err != nil {
		t.Fatal(err)
	}
	seg, err := driversSegment(set)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := collect(t, someDrivers)
	if seg2, _ := driversSegment(again); !bytes.Equal(seg, seg2) {
		t.Error("two runs gave different bytes")
	}
	if len(seg)%segmentAlign != 0 {
		t.Errorf("%d bytes: not padded", len(seg))
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(seg)))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{".": true}
	for _, r := range records {
		if !seen[filepath.Dir(r.Name)] {
			t.Errorf("%s comes before its folder", r.Name)
		}
		seen[r.Name] = true
		if r.UID != 0 || r.GID != 0 || r.MTime != 0 {
			t.Errorf("%s: owner %d:%d, time %d", r.Name, r.UID, r.GID, r.MTime)
		}
		// u-root's init would insert these on its own.
		if ok, _ := filepath.Match("lib/modules/*.ko*", r.Name); ok {
			t.Errorf("%s is where init looks", r.Name)
		}
		if r.Name == drivers.IndexPath {
			b := make([]byte, r.FileSize)
			if _, err := r.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			x, err := drivers.ParseIndex(b)
			if err != nil || len(x.Modules) != 9 {
				t.Errorf("index: %v", err)
			}
		}
	}
	for _, want := range []string{"lib/firmware/rtl_nic/rtl8168h-2.fw", "usr/lib/refurb/modules/tg3.ko.xz", "lib/modules/refurb.json"} {
		if !seen[want] {
			t.Errorf("%s is missing", want)
		}
	}
}

func TestAgentSegmentIsReproducible(t *testing.T) {
	key := make([]byte, 32)
	a, err := agentSegment([]byte("agent"), "pin", key, "1")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := agentSegment([]byte("agent"), "pin", key, "1")
	c, _ := agentSegment([]byte("other"), "pin", key, "1")
	if !bytes.Equal(a, b) || bytes.Equal(a, c) {
		t.Error("the same input must give the same bytes, another one others")
	}
	if len(a)%segmentAlign != 0 {
		t.Errorf("%d bytes: not padded", len(a))
	}
}

func TestPad(t *testing.T) {
	for n, want := range map[int]int{0: 0, 1: 512, 511: 512, 512: 512, 513: 1024} {
		if got := len(pad(make([]byte, n))); got != want {
			t.Errorf("%d bytes become %d, want %d", n, got, want)
		}
	}
}
