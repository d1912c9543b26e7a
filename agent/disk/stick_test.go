package disk

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"refurb/agent/hardware"
	"refurb/agent/wire"
	"refurb/images"
)

const aStick = "8BB66F21-DD66-81C9-8209-3A24D18EDC40"

// marked gives a disk the partition table of a stick, by another program.
func marked(t *testing.T, file string) {
	t.Helper()
	out, err := exec.Command("sgdisk", "--disk-guid="+aStick, "--new=1:2048:4095", "--typecode=1:EF00",
		"--new=2:4096:6143", "--typecode=2:"+images.StickType, file).CombinedOutput()
	if err != nil {
		t.Fatalf("sgdisk: %v\n%s", err, out)
	}
}

// A stick is refused whatever it is plugged into and whatever was approved.
func TestStickIsNeverOpened(t *testing.T) {
	id, file := loop(t, 8<<20)
	every := []wire.Class{wire.ClassBlank, wire.ClassOurs, wire.ClassStructured, wire.ClassData, wire.ClassEncrypted}
	if d, err := Open(id, nil, every...); err != nil {
		t.Fatalf("before it was one: %v", err)
	} else {
		d.Close()
	}
	marked(t, file)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(id, nil, every...)
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok || !strings.Contains(refusal.Message, "stick") || refusal.Next == "" {
		t.Errorf("a stick: %v", err)
	}
	if _, found := Inspect(t.Context(), id, nil); !slices.Contains(found, StickMark) {
		t.Errorf("it is reported as %v", found)
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("it was changed: %v", err)
	}
	// A mark in a table whose checksums no longer hold counts as well.
	broken := bytes.Clone(before)
	broken[512+16] ^= 0xff
	if _, ok := StickID(bytes.NewReader(broken)); !ok {
		t.Error("a damaged table made it a disk")
	}
}

func TestStickID(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stick")
	if err := os.WriteFile(file, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := StickID(bytes.NewReader(make([]byte, 8<<20))); ok {
		t.Error("a blank disk is a stick")
	}
	if _, ok := StickID(bytes.NewReader(make([]byte, 100))); ok {
		t.Error("nothing is a stick")
	}
	marked(t, file)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := StickID(bytes.NewReader(b)); !ok || id != aStick {
		t.Errorf("it is %q, %v", id, ok)
	}
}

// FindStick looks at what is plugged in; loop devices don't count as disks, so
// that here it looks in vain, and a stick that was there is noticed to be gone.
func TestFindStick(t *testing.T) {
	if s, ok := FindStick(aStick); ok {
		t.Errorf("found %+v", s)
	}
	id, _ := loop(t, 8<<20)
	n, ok := hardware.Sequence("/", id.Path)
	if !ok {
		t.Fatal("this kernel gives disks no sequence number")
	}
	if s := (Stick{Path: id.Path, sequence: n}); !s.There() {
		t.Error("it is there")
	}
	if s := (Stick{Path: id.Path, sequence: n - 1}); s.There() {
		t.Error("another one stands in for it")
	}
	if s := (Stick{Path: "/dev/nothing-here", sequence: n}); s.There() {
		t.Error("it is gone")
	}
}
