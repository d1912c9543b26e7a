package lab

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const unit = "../service/refurb.service"

// What the lab's appliance gets along with is what the service gives it.
func TestServiceHasTheLabsPowers(t *testing.T) {
	b, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key != "AmbientCapabilities" && key != "CapabilityBoundingSet" {
			continue
		}
		seen++
		var have []string
		for _, c := range strings.Fields(value) {
			have = append(have, strings.ToLower(strings.TrimPrefix(c, "CAP_")))
		}
		want := slices.Clone(Capabilities)
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Errorf("%s is %v, the lab's appliance has %v", key, have, want)
		}
	}
	if seen != 2 {
		t.Errorf("%d lines about capabilities", seen)
	}
}

// systemd itself has no fault to find with the unit, and rates its exposure low.
func TestServiceIsSandboxed(t *testing.T) {
	for _, args := range [][]string{
		{"security", "--offline=true", "--threshold=25", "--no-pager", unit},
	} {
		if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil {
			t.Errorf("systemd-analyze %v: %v\n%s", args, err, out)
		}
	}
}
