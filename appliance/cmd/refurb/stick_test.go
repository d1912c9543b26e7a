package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The folder is tried before the work, and nothing is left in it.
func TestStickFolder(t *testing.T) {
	dir := t.TempDir()
	gone := filepath.Join(dir, "gone")
	err := (&payloadUSBCmd{Out: filepath.Join(gone, "stick.img")}).Run(t.Context(), nil)
	if err == nil || !strings.HasPrefix(err.Error(), "can't write to "+gone+": ") || !strings.Contains(err.Error(), "--out FILE") {
		t.Errorf("a folder that isn't there: %v", err)
	}
	if err := writable(filepath.Join(dir, "stick.img")); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestFixedAddress(t *testing.T) {
	for s, ok := range map[string]bool{
		"https://10.77.0.1:8443":     true,
		"https://10.77.0.1:8443/":    true,
		"https://[fd00::1]:8443":     true,
		"http://10.77.0.1:8443":      false,
		"https://10.77.0.1":          false,
		"https://refurb.local:8443":  false, // the PC has no name service
		"https://10.77.0.1:8443/v1":  false,
		"https://me@10.77.0.1:8443":  false,
		"10.77.0.1":                  false,
		"https://10.77.0.1:8443?a=b": false,
	} {
		if err := fixedAddress(s); (err == nil) != ok {
			t.Errorf("%s: %v", s, err)
		}
	}
	if err := fixedAddress("https://refurb.local:8443"); err == nil || strings.Contains(err.Error(), "ParseAddr") {
		t.Errorf("a name: %v", err)
	}
}
