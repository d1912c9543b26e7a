package main

import (
	"os"
	"strings"
	"testing"
)

// The kernel's arguments are read out of the script that iPXE gets.
func TestKernelLine(t *testing.T) {
	b, err := os.ReadFile("../../../../appliance/netboot/testdata/scripts/agent.ipxe")
	if err != nil {
		t.Fatal(err)
	}
	m := kernelLine.FindSubmatch(b)
	if m == nil || !strings.HasPrefix(string(m[1]), "console=") || !strings.Contains(string(m[1]), " refurb.token=") {
		t.Fatalf("%q", m)
	}
}
