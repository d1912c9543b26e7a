package finish

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/u-root/u-root/pkg/efivarfs"
)

// nvram is a firmware's memory, good or bad.
type nvram struct {
	vars   map[string][]byte
	writes []string
	refuse string // a variable that can't be set
	forget string // one that is taken and not kept
}

func (n *nvram) Get(d efivarfs.VariableDescriptor) (efivarfs.VariableAttributes, []byte, error) {
	if b, ok := n.vars[d.Name]; ok && d.GUID == global {
		return attributes, b, nil
	}
	return 0, nil, os.ErrNotExist
}

func (n *nvram) List() (list []efivarfs.VariableDescriptor, err error) {
	for name := range n.vars {
		list = append(list, efivarfs.VariableDescriptor{Name: name, GUID: global})
	}
	// Somebody else's variable of such a name is none of ours.
	return append(list, efivarfs.VariableDescriptor{Name: "Boot0000", GUID: uuid.New()}), nil
}

func (n *nvram) Remove(efivarfs.VariableDescriptor) error {
	return errors.New("nothing is ever removed")
}

func (n *nvram) Set(d efivarfs.VariableDescriptor, a efivarfs.VariableAttributes, b []byte) error {
	if a != 7 || d.GUID != global {
		return errors.New("wrong attributes or GUID")
	}
	n.writes = append(n.writes, d.Name)
	switch d.Name {
	case n.refuse:
		return errors.New("no space left on device")
	case n.forget:
		return nil
	}
	n.vars[d.Name] = bytes.Clone(b)
	return nil
}

var efiPart = Partition{Number: 2, First: 4096, Last: 135167, GUID: [16]byte{0xef, 0xbe, 0xad, 0xde, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}

const bootFile = `\EFI\BOOT\BOOTX64.EFI`

// The bytes, field by field, of UEFI 2.10 §3.1.3 and §10.3.
func TestLoadOption(t *testing.T) {
	want := "01000000" + "5e00" + // active; 94 bytes of device path
		"520065006600750072006200" + "0000" + // Refurb
		"04012a00" + "02000000" + "0010000000000000" + "0000020000000000" + // hard drive, partition 2, first block, blocks
		"efbeadde0102030405060708090a0b0c" + "02" + "02" + // GUID; GPT; by GUID
		"04043000" + hex.EncodeToString(ucs2(bootFile)) +
		"7fff0400"
	got := hex.EncodeToString(loadOption(Description, efiPart, bootFile))
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestBootEntry(t *testing.T) {
	ours := loadOption(Description, efiPart, bootFile)
	network := loadOption("UEFI PXEv4 (MAC:001122334455)", efiPart, `\x`)
	for _, c := range []struct {
		name   string
		vars   map[string][]byte
		want   string
		order  []byte
		writes []string
	}{
		{"first", map[string][]byte{"Boot0000": network, "BootOrder": {0, 0}, "BootCurrent": {0, 0}},
			"boot entry 0001 first", []byte{1, 0, 0, 0}, []string{"Boot0001", "BootOrder"}},
		{"again, another disk", map[string][]byte{"Boot0000": network, "Boot0007": loadOption(Description, Partition{}, bootFile), "BootOrder": {0, 0, 7, 0}},
			"boot entry 0007 first", []byte{7, 0, 0, 0}, []string{"Boot0007", "BootOrder"}},
		{"nothing to do", map[string][]byte{"Boot0003": ours, "BootOrder": {3, 0, 9, 0}},
			"boot entry 0003 first", []byte{3, 0, 9, 0}, nil},
		{"only the order", map[string][]byte{"Boot0003": ours, "BootOrder": {9, 0, 3, 0, 8, 0, 3, 0}},
			"boot entry 0003 first", []byte{3, 0, 9, 0, 8, 0}, []string{"BootOrder"}},
		{"no order yet", map[string][]byte{},
			"boot entry 0000 first", []byte{0, 0}, []string{"Boot0000", "BootOrder"}},
		{"broken entries", map[string][]byte{"Boot0000": {1}, "Boot0001": {}, "Boot0002": bytes.Repeat([]byte{1}, 99), "BootOrder": {5}},
			"boot entry 0003 first", []byte{3, 0}, []string{"Boot0003", "BootOrder"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &nvram{vars: c.vars}
			did, err := BootEntry(n, efiPart, bootFile)
			if err != nil || did != c.want {
				t.Fatalf("%q, %v", did, err)
			}
			if !bytes.Equal(n.vars["BootOrder"], c.order) || !slices.Equal(n.writes, c.writes) {
				t.Errorf("order %v, writes %v", n.vars["BootOrder"], n.writes)
			}
			if !bytes.Equal(n.vars["Boot"+did[11:15]], ours) {
				t.Error("the entry is another one")
			}
		})
	}
	for _, n := range []*nvram{{refuse: "Boot0000"}, {refuse: "BootOrder"}, {forget: "Boot0000"}, {forget: "BootOrder"}} {
		n.vars = map[string][]byte{}
		if did, err := BootEntry(n, efiPart, bootFile); err == nil {
			t.Errorf("%+v: %q", n, did)
		}
	}
}

func FuzzDescription(f *testing.F) {
	f.Add(loadOption(Description, efiPart, bootFile))
	f.Fuzz(func(t *testing.T, b []byte) {
		if description(b) == Description && !bytes.Contains(b, ucs2(Description)) {
			t.Fatal("found what isn't there")
		}
	})
}

// Firmware of 32 bits starts another file than that of 64.
func TestStartable(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	for _, args := range [][]string{
		{"mkfs.vfat", "-C", disk, "2048"},
		{"mmd", "-i", disk, "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-i", disk, "efi_test.go", "::/EFI/BOOT/BOOTX64.EFI"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	whole := Partition{First: 0, Last: 4095}
	if !Startable(disk, 512, whole, `\EFI\BOOT\BOOTX64.EFI`) {
		t.Error("the file is there")
	}
	if Startable(disk, 512, whole, `\EFI\BOOT\BOOTIA32.EFI`) {
		t.Error("there is no such file")
	}
	if !Startable(disk, 512, Partition{First: 8, Last: 4095}, bootFile) || !Startable(disk+"x", 512, whole, bootFile) {
		t.Error("what can't be read says nothing against the image")
	}
}

func TestNext(t *testing.T) {
	ours := loadOption(Description, efiPart, bootFile)
	n := &nvram{vars: map[string][]byte{"Boot0007": ours, "BootOrder": {0, 0, 7, 0}}}
	if did, err := Next(n); err != nil || did != "boot entry 0007 next" || !bytes.Equal(n.vars["BootNext"], []byte{7, 0}) || !slices.Equal(n.writes, []string{"BootNext"}) {
		t.Errorf("%q, %v; wrote %v", did, err, n.writes)
	}
	for _, n := range []*nvram{
		{vars: map[string][]byte{"Boot0000": loadOption("Windows Boot Manager", efiPart, bootFile)}}, // not ours to start
		{vars: map[string][]byte{"Boot0007": ours}, refuse: "BootNext"},
		{vars: map[string][]byte{"Boot0007": ours}, forget: "BootNext"},
	} {
		if did, err := Next(n); err == nil {
			t.Errorf("%+v: %q", n, did)
		}
	}
}
