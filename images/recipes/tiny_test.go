package recipes

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"refurb/images"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/partition/gpt"
)

// stubs have the shape of Debian's boot loaders, as far as the layout cares.
func stubs() loaders {
	core := bytes.Repeat([]byte{0xc0}, 100_001)
	binary.LittleEndian.PutUint16(core[0x1fc:], 7)
	binary.LittleEndian.PutUint16(core[0x1fe:], 0x820)
	return loaders{
		boot: bytes.Repeat([]byte{0xb0}, 512), core: core,
		shim: bytes.Repeat([]byte("shim"), 1000), grub: bytes.Repeat([]byte("grub"), 1000), grub32: bytes.Repeat([]byte("ia32"), 1000),
	}
}

func tinyImage(t *testing.T) string {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "1767225600")
	path := filepath.Join(t.TempDir(), "tiny.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The program in the initrd may name the mark's beginning, and a stray mark
	// off a sector's start is none.
	initrd := []byte("x" + images.SlotMark + "checkin\n refurb-slot-")
	if err := writeTiny(t.Context(), f, stubs(), bytes.Repeat([]byte("kernel"), 100_000), initrd); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTinySameBytesTwice(t *testing.T) {
	a, b := read(t, tinyImage(t)), read(t, tinyImage(t))
	if !bytes.Equal(a, b) {
		t.Error("two builds of the same input differ")
	}
	if len(a) != tinyBytes {
		t.Errorf("%d bytes, want %d", len(a), tinyBytes)
	}
}

func TestTinyOnDisk(t *testing.T) {
	path := tinyImage(t)
	raw := read(t, path)
	d, err := diskfs.Open(path, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	table, err := d.GetPartitionTable()
	if err != nil {
		t.Fatal(err)
	}
	g := table.(*gpt.Table)
	if err := g.Verify(d.Backend, uint64(len(raw))); err != nil {
		t.Error(err)
	}
	if g.RecoveredFromBackup || g.Partitions[0].Type != gpt.BIOSBoot || g.Partitions[1].Type != gpt.EFISystemPartition {
		t.Errorf("partition table: %+v", g)
	}
	fs, err := d.GetFilesystem(2)
	if err != nil {
		t.Fatal(err)
	}
	menu, err := fs.ReadFile("EFI/debian/grub.cfg")
	if err != nil {
		t.Fatal(err)
	}
	// What the menu promises the system is where an import finds the slot.
	offset := bytes.Index(raw, append([]byte(images.SlotMark+"checkin\n"), ' '))
	for offset%512 != 0 {
		offset += 1 + bytes.Index(raw[offset+1:], []byte(images.SlotMark))
	}
	if want := "refurb.slot=" + strconv.Itoa(offset) + " "; !strings.Contains(string(menu), want) {
		t.Errorf("menu lacks %q:\n%s", want, menu)
	}
	slot := raw[offset : offset+images.SlotSize]
	if !bytes.Equal(slot, slotContent("checkin")) {
		t.Errorf("slot holds %q", slot[:80])
	}
	inFile, err := fs.ReadFile("EFI/refurb/checkin")
	if err != nil || !bytes.Equal(inFile, slot) {
		t.Errorf("the file is not the slot: %v", err)
	}
	shim, err := fs.ReadFile("EFI/BOOT/BOOTX64.EFI")
	if err != nil || !bytes.Equal(shim, stubs().shim) {
		t.Errorf("fallback boot loader: %v", err)
	}
	grub32, err := fs.ReadFile("EFI/BOOT/BOOTIA32.EFI")
	if err != nil || !bytes.Equal(grub32, stubs().grub32) {
		t.Errorf("fallback boot loader for 32 bits: %v", err)
	}
}

func TestEmbedCore(t *testing.T) {
	path := tinyImage(t)
	raw := read(t, path)
	le := binary.LittleEndian
	if got := le.Uint64(raw[0x5c:]); got != 2048 {
		t.Errorf("boot.img looks for the core at sector %d, not 2048", got)
	}
	if raw[0x66] != 0x90 || raw[0x67] != 0x90 {
		t.Error("boot.img still checks the BIOS's drive number")
	}
	if le.Uint32(raw[440:]) != 0 || raw[450] != 0xee || le.Uint16(raw[510:]) != 0xaa55 {
		t.Error("the partition entries of the first sector were not kept")
	}
	core := raw[biosAt:]
	if start, n, seg := le.Uint64(core[0x1f4:]), le.Uint16(core[0x1fc:]), le.Uint16(core[0x1fe:]); start != 2049 || n != 195 || seg != 0x820 {
		t.Errorf("the core's block list: from %d, %d sectors, segment %#x", start, n, seg)
	}

	l := stubs()
	for name, c := range map[string]struct {
		boot, core []byte
		room       int64
	}{
		"boot.img of a wrong size": {l.boot[:511], l.core, mib},
		"core too large":           {l.boot, make([]byte, mib+1), mib},
		"core too small":           {l.boot, l.core[:512], mib},
		"no block list":            {l.boot, make([]byte, 100_000), mib},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "d"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := embedCore(f, c.boot, c.core, biosAt, c.room); err == nil {
				t.Error("accepted")
			}
			if st, _ := f.Stat(); st.Size() != 0 {
				t.Error("something was written all the same")
			}
		})
	}
}

func TestCheckSlot(t *testing.T) {
	mark := images.SlotMark + "checkin\n"
	at := func(offsets ...int) []byte {
		b := make([]byte, 9*mib)
		for _, o := range offsets {
			copy(b[o:], mark)
		}
		return b
	}
	for name, c := range map[string]struct {
		disk []byte
		want int64
		ok   bool
	}{
		"once":                   {at(4096), 4096, true},
		"elsewhere":              {at(8192), 4096, false},
		"twice":                  {at(4096, 4*mib), 4096, false},
		"not at all":             {at(), 4096, false},
		"off a sector's start":   {at(4097), 4096, false},
		"beside one that is off": {at(4096, 5001, 4*mib-10), 4096, true},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkSlot(t.Context(), bytes.NewReader(c.disk), int64(len(c.disk)), c.want)
			if (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if checkSlot(ctx, bytes.NewReader(at(4096)), 9*mib, 4096) == nil {
		t.Error("cancelled, and yet done")
	}
}

func TestBuildSaysWhatIsMissing(t *testing.T) {
	boot := t.TempDir()
	for name, c := range map[string]struct {
		recipe string
		o      Options
		want   string
	}{
		"unknown recipe": {"windows", Options{}, "known: tiny, debian-desktop"},
		"no file":        {"tiny", Options{}, "no file to write"},
		"no boot files":  {"tiny", Options{Out: "x"}, "no folder of boot files"},
		"empty folder":   {"tiny", Options{Out: "x", Boot: boot}, "refurb payload build"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if c.o.Out != "" {
				c.o.Out = filepath.Join(dir, c.o.Out)
			}
			err := Build(t.Context(), c.recipe, c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
