package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whoever lacks rights is told what helps, and isn't sent elsewhere.
func TestLackOfRights(t *testing.T) {
	err := fmt.Errorf("opening the records: %w", &fs.PathError{Op: "open", Path: "/var/lib/refurb/refurb.db", Err: fs.ErrPermission})
	if s := rights(err, 1000); !strings.Contains(s, "sudo") {
		t.Errorf("%q", s)
	}
	for _, s := range []string{rights(err, 0), rights(fs.ErrNotExist, 1000)} {
		if s != "" {
			t.Errorf("%q", s)
		}
	}
	if _, _, err := openRecords(t.TempDir()); err == nil || !strings.Contains(err.Error(), "data folder") {
		t.Errorf("a folder without keys: %v", err)
	}
}

// A folder whose name was mistyped is neither made nor filled.
func TestMistypedFolder(t *testing.T) {
	parent := t.TempDir()
	data := dataFlag{Data: filepath.Join(parent, "refrub")}
	root := strings.Repeat("ab", 32)
	for name, err := range map[string]error{
		"image list":   (&imageListCmd{dataFlag: data}).Run(),
		"image verify": (&imageVerifyCmd{dataFlag: data, Root: root}).Run(t.Context()),
		"image remove": (&imageRemoveCmd{dataFlag: data, Root: root}).Run(),
		"user list":    (&userListCmd{data}).Run(t.Context()),
		"user add":     (&userAddCmd{dataFlag: data, Name: "Ana", Role: "lead"}).Run(t.Context()),
	} {
		if err == nil || !strings.Contains(err.Error(), data.Data) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("they left %v, %v", left, err)
	}
}

func TestSameDisk(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "backup")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !sameDisk(file, dir) || sameDisk(file, "/proc") || sameDisk(file, filepath.Join(dir, "nowhere")) {
		t.Error("which file lies on which disk isn't known")
	}
}

// Commands are named as this one was called, or a shell doesn't find them.
func TestAsTyped(t *testing.T) {
	const text = "no such image: see `refurb image list`"
	for self, want := range map[string]string{
		"refurb": text, "/usr/local/lib/refurb/refurb": text, "build/refurb": "no such image: see `build/refurb image list`",
	} {
		if got := asTyped(text, self); got != want {
			t.Errorf("%s: %s", self, got)
		}
	}
}
