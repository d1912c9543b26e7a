package recipes

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"refurb/images"
)

const stickArgs = "quiet refurb.find=1"

func stickImage(t *testing.T, kernel, args string) (path, id string) {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "1767225600")
	path = filepath.Join(t.TempDir(), "stick.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, err = writeStick(f, stubs(), []byte("ia32"), []byte(kernel), bytes.Repeat([]byte("initrd"), 2_000_000), args)
	if err != nil {
		t.Fatal(err)
	}
	return path, id
}

// The system's own tools find a sound disk with the files where firmware and
// GRUB look for them.
func TestStickOnDisk(t *testing.T) {
	path, id := stickImage(t, "kernel", stickArgs)
	tool := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
	if out := tool("sgdisk", "--verify", path); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	if out := tool("sgdisk", "--info=3", path); !strings.Contains(out, images.StickType) {
		t.Errorf("the third partition bears no mark: %s", out)
	}
	if out := tool("sgdisk", "--print", path); !strings.Contains(out, id) {
		t.Errorf("the disk's GUID is not %s: %s", id, out)
	}
	raw := read(t, path)
	esp := filepath.Join(t.TempDir(), "esp")
	if err := os.WriteFile(esp, raw[espAt:len(raw)-mib-backup], 0o644); err != nil {
		t.Fatal(err)
	}
	tool("fsck.fat", "-n", esp)
	for name, want := range map[string]string{
		"EFI/BOOT/BOOTX64.EFI": string(stubs().shim), "EFI/BOOT/grubx64.efi": string(stubs().grub), "EFI/BOOT/BOOTIA32.EFI": "ia32",
		"vmlinuz": "kernel", "initrd": strings.Repeat("initrd", 2_000_000), "EFI/refurb/stick-" + id: id + "\r\n",
	} {
		if got := tool("mtype", "-i", esp, "::"+name); got != want {
			t.Errorf("%s holds %.40q", name, got)
		}
	}
	menu := tool("mtype", "-i", esp, "::EFI/debian/grub.cfg")
	if !strings.Contains(menu, "linux /vmlinuz "+stickArgs+" refurb.stick="+id+";") || strings.Contains(menu, "%!") {
		t.Errorf("menu:\n%s", menu)
	}
	le := binary.LittleEndian
	if le.Uint64(raw[0x5c:]) != biosAt/sector || le.Uint64(raw[biosAt+0x1f4:]) != biosAt/sector+1 {
		t.Error("the BIOS's way to GRUB's core is not laid")
	}
	// The protective entry stays as the standard wants it; a second one is active.
	if raw[446] != 0 || raw[450] != 0xee || raw[462] != 0x80 || raw[466] != 0 {
		t.Errorf("the first sector's entries: % x", raw[446:510])
	}
}

func TestStickSameBytesTwice(t *testing.T) {
	a, id := stickImage(t, "kernel", stickArgs)
	b, id2 := stickImage(t, "kernel", stickArgs)
	if id != id2 || !bytes.Equal(read(t, a), read(t, b)) {
		t.Error("two sticks of the same input differ")
	}
	for _, c := range [][2]string{{"kernel2", stickArgs}, {"kernel", stickArgs + " refurb.url=https://10.0.0.1:8443"}} {
		if _, other := stickImage(t, c[0], c[1]); other == id {
			t.Errorf("a stick of %q has the same GUID", c)
		}
	}
}

func TestStickRefuses(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "d"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := writeStick(f, stubs(), nil, nil, nil, "quiet; reboot"); err == nil {
		t.Error("a command in the kernel's arguments was taken")
	}
	out := filepath.Join(t.TempDir(), "stick.img")
	if _, err := BuildStick(t.Context(), Stick{Out: out, Boot: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "no way to fetch") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("half a stick was left behind")
	}
}
