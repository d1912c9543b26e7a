package disk

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
)

var (
	ourKey     = ed25519.NewKeyFromSeed([]byte("the key of this appliance's own."))
	anotherKey = ed25519.NewKeyFromSeed([]byte("the key of another appliance, ok"))
	ourPublic  = ourKey.Public().(ed25519.PublicKey)
	thisDisk   = wire.DiskID{Path: "/dev/sda", Serial: "S4EN0001", WWN: "naa.5", Model: "Disk", Bytes: 80 << 20, LogicalBlock: 512}
)

func record(t *testing.T, id wire.DiskID, key ed25519.PrivateKey) []byte {
	t.Helper()
	b, err := wire.SignBirth(wire.Birth{Number: 7, Job: "j", Disk: id, Image: "tiny", Root: "ab", Signed: time.Unix(1e9, 0)}, key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// imaged makes a disk that looks as after imaging: a GPT with an EFI system
// partition by mkfs.fat and an ext4 behind it, and the record where it belongs.
func imaged(t *testing.T, record []byte, fat ...string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "disk")
	if err := os.WriteFile(filepath.Join(dir, "birth.json"), record, 0o600); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`truncate -s 80M disk
		printf 'label: gpt\nstart=2048,size=40M,type=U\n,,L\n' | sfdisk -q disk
		truncate -s 40M esp
		mkfs.fat %s esp
		mmd -i esp ::EFI ::EFI/refurb
		mcopy -i esp birth.json ::EFI/refurb/birth.json
		dd if=esp of=disk bs=1M seek=1 conv=notrunc
		mkfs.ext4 -q -E offset=$((41*1024*1024)) disk 30M`, strings.Join(fat, " "))
	cmd := exec.Command("sh", "-e", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

// holes is a disk of which some places can't be read.
type holes struct {
	io.ReaderAt
	at []int64
}

func (h holes) ReadAt(p []byte, off int64) (int, error) {
	for _, at := range h.at {
		if at >= off && at < off+int64(len(p)) {
			return 0, errors.New("input/output error")
		}
	}
	return h.ReaderAt.ReadAt(p, off)
}

func TestOurs(t *testing.T) {
	good := record(t, thisDisk, ourKey)
	with := func(f func(*wire.DiskID)) wire.DiskID { id := thisDisk; f(&id); return id }
	files, whole := map[string]string{}, t // a disk may serve several cases
	for _, c := range []struct {
		name   string
		record []byte
		fat    string
		facts  Facts
		change string // of the disk, by a shell
		holes  []int64
		class  wire.Class
	}{
		{name: "ours", record: good, class: wire.ClassOurs},
		{name: "ours, FAT32", record: good, fat: "-F 32 -s 1", class: wire.ClassOurs},
		{name: "ours, FAT12", record: good, fat: "-F 12 -s 64", class: wire.ClassOurs},
		{name: "padded", record: append(good, "  \n\x00\x00"...), class: wire.ClassOurs},
		{name: "at another path", record: good, facts: Facts{ID: with(func(d *wire.DiskID) { d.Path = "/dev/sdb" })}, class: wire.ClassOurs},
		{name: "another serial", record: good, facts: Facts{ID: with(func(d *wire.DiskID) { d.Serial = "S4EN0002" })}, class: wire.ClassData},
		{name: "another WWN", record: good, facts: Facts{ID: with(func(d *wire.DiskID) { d.WWN = "" })}, class: wire.ClassData},
		{name: "another size", record: good, facts: Facts{ID: with(func(d *wire.DiskID) { d.Bytes++ })}, class: wire.ClassData},
		{name: "a disk that nobody can tell from another", record: record(t, with(func(d *wire.DiskID) { d.Serial, d.WWN = "", "" }), ourKey),
			facts: Facts{ID: with(func(d *wire.DiskID) { d.Serial, d.WWN = "", "" })}, class: wire.ClassData},
		{name: "another appliance's", record: record(t, thisDisk, anotherKey), class: wire.ClassData},
		{name: "no key", record: good, facts: Facts{ID: thisDisk, Key: ed25519.PublicKey{}}, class: wire.ClassData},
		{name: "changed", record: []byte(strings.Replace(string(good), "tiny", "tinx", 1)), class: wire.ClassData},
		{name: "no record", record: []byte("{}"), class: wire.ClassData},
		{name: "too long", record: append(good, make([]byte, wire.MaxBirth)...), class: wire.ClassData},
		{name: "encrypted since", record: good, class: wire.ClassEncrypted,
			change: "printf 'LUKS\\272\\276\\000\\002' | dd of=disk bs=1M seek=41 conv=notrunc"},
		{name: "dying: one place can't be read", record: good, holes: []int64{60 << 20}, class: wire.ClassData},
		{name: "dying: its end can't be read", record: good, holes: []int64{80<<20 - 1}, class: wire.ClassData},
		{name: "the ESP's table can't be read", record: good, holes: []int64{1<<20 + 600}, class: wire.ClassData},
		{name: "no ESP any more", record: good, change: "sfdisk -q --part-type disk 1 L", class: wire.ClassData},
		{name: "backup table alone", record: good, change: "dd if=/dev/zero of=disk bs=512 count=34 conv=notrunc", class: wire.ClassOurs},
		{name: "no table", record: good, change: "dd if=/dev/zero of=disk bs=512 count=34 conv=notrunc; dd if=/dev/zero of=disk bs=1M seek=79 count=1 conv=notrunc", class: wire.ClassData},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.facts.ID == (wire.DiskID{}) {
				c.facts.ID = thisDisk
			}
			if c.facts.Key == nil {
				c.facts.Key = ourPublic
			}
			if c.fat == "" {
				c.fat = "-F 16"
			}
			key := c.fat + string(c.record) + c.change
			if files[key] == "" {
				files[key] = imaged(whole, c.record, c.fat)
				if c.change != "" {
					cmd := exec.Command("sh", "-e", "-c", c.change)
					cmd.Dir = filepath.Dir(files[key])
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Fatalf("%v: %s", err, out)
					}
				}
			}
			f, err := os.Open(files[key])
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			at := c.holes
			if len(at) > 0 && at[0] == 60<<20 { // wherever a sample lies
				at = nil
				for p := int64(56 << 20); p < 64<<20; p += sample {
					at = append(at, p)
				}
			}
			class, found := Classify(holes{f, at}, 80<<20, c.facts)
			if class != c.class {
				t.Errorf("%s %v, want %s", class, found, c.class)
			}
			for _, name := range found {
				if strings.Contains(name, "tiny") || strings.Contains(name, "S4EN") {
					t.Errorf("%q tells what the disk holds", name)
				}
			}
		})
	}
}
