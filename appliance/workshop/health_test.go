package workshop

import (
	"math"
	"slices"
	"strings"
	"testing"

	"refurb/agent/wire"
)

func TestDiskHealth(t *testing.T) {
	yes, no := new(true), new(false)
	n := func(v int64) *int64 { return &v }
	for _, c := range []struct {
		name    string
		spins   bool
		health  *wire.Health
		state   HealthState
		reasons []string // parts of them, in their order
	}{
		{"nobody asked", true, nil, HealthUnknown, nil},
		{"it doesn't answer", true, &wire.Health{Error: "no answer within 30s"}, HealthUnknown, nil},
		{"a counter and no verdict", true, &wire.Health{Hours: n(3)}, HealthUnknown, nil},
		{"passed", true, &wire.Health{Passed: yes, Reallocated: n(0), Pending: n(0), Uncorrectable: n(0)}, HealthGood, nil},
		{"its own verdict", true, &wire.Health{Passed: no}, HealthFailing, []string{"says itself"}},

		{"nvme, no warning", false, &wire.Health{Passed: yes, CriticalWarning: n(0), Spare: n(100), SpareThreshold: n(10), PercentUsed: n(3)}, HealthGood, nil},
		{"nvme without spare figures", false, &wire.Health{Passed: yes, CriticalWarning: n(0), Spare: n(0), SpareThreshold: n(0)}, HealthGood, nil},
		{"spare warning", false, &wire.Health{Passed: no, CriticalWarning: n(1), Spare: n(5), SpareThreshold: n(10)}, HealthFailing, []string{"spare memory is nearly"}},
		{"spare below threshold, no warning", false, &wire.Health{Passed: yes, CriticalWarning: n(0), Spare: n(9), SpareThreshold: n(10)}, HealthFailing, []string{"only 9 %"}},
		{"spare at its threshold", false, &wire.Health{Passed: yes, CriticalWarning: n(0), Spare: n(10), SpareThreshold: n(10)}, HealthGood, nil},
		{"heat alone", false, &wire.Health{Passed: no, CriticalWarning: n(2)}, HealthWorn, []string{"hot"}},
		{"unreliable", false, &wire.Health{Passed: no, CriticalWarning: n(4)}, HealthFailing, []string{"relied upon"}},
		{"read-only", false, &wire.Health{Passed: no, CriticalWarning: n(8)}, HealthFailing, []string{"only be read"}},
		{"backup power", false, &wire.Health{Passed: no, CriticalWarning: n(16)}, HealthFailing, []string{"power cuts"}},
		{"memory region", false, &wire.Health{Passed: no, CriticalWarning: n(32)}, HealthWorn, []string{"unreliable"}},
		{"a bit of the future", false, &wire.Health{Passed: no, CriticalWarning: n(128)}, HealthWorn, []string{"isn't known"}},
		{"several bits, the worst first", false, &wire.Health{Passed: no, CriticalWarning: n(2 | 8)}, HealthFailing, []string{"only be read", "hot"}},

		{"one pending sector", true, &wire.Health{Passed: yes, Pending: n(1)}, HealthFailing, []string{"one sector can't be read"}},
		{"pending and uncorrectable are told once", true, &wire.Health{Passed: yes, Pending: n(2), Uncorrectable: n(3)}, HealthFailing, []string{"3 sectors"}},
		{"uncorrectable alone", true, &wire.Health{Passed: yes, Uncorrectable: n(7)}, HealthFailing, []string{"7 sectors"}},
		{"the same on a solid-state disk", false, &wire.Health{Passed: yes, Pending: n(7)}, HealthWorn, []string{"7 sectors"}},
		{"one reallocated", true, &wire.Health{Passed: yes, Reallocated: n(1)}, HealthWorn, []string{"one sector had"}},
		{"99 reallocated", true, &wire.Health{Passed: yes, Reallocated: n(99)}, HealthWorn, []string{"99"}},
		{"100 reallocated", true, &wire.Health{Passed: yes, Reallocated: n(100)}, HealthFailing, []string{"100"}},
		{"solid-state, 99", false, &wire.Health{Passed: yes, Reallocated: n(99)}, HealthGood, nil},
		{"solid-state, 100", false, &wire.Health{Passed: yes, Reallocated: n(100)}, HealthWorn, []string{"100"}},
		{"media errors", false, &wire.Health{Passed: yes, MediaErrors: n(1)}, HealthWorn, []string{"lost data"}},

		{"79 % used", false, &wire.Health{Passed: yes, PercentUsed: n(79)}, HealthGood, nil},
		{"80 % used", false, &wire.Health{Passed: yes, PercentUsed: n(80)}, HealthWorn, []string{"80 %"}},
		{"past its promise", false, &wire.Health{Passed: yes, PercentUsed: n(255)}, HealthWorn, []string{"outlived"}},
		{"worn without a verdict", false, &wire.Health{PercentUsed: n(90)}, HealthWorn, []string{"90 %"}},

		{"self-test failed", true, &wire.Health{Passed: yes, SelfTest: &wire.SelfTest{State: wire.TestFailed}}, HealthFailing, []string{"self-test failed"}},
		{"self-test aborted", true, &wire.Health{Passed: yes, SelfTest: &wire.SelfTest{State: wire.TestAborted}}, HealthGood, nil},
		{"a state that isn't one", true, &wire.Health{Passed: yes, SelfTest: &wire.SelfTest{State: "FAILED!"}}, HealthGood, nil},

		{"everything at once", true, &wire.Health{Passed: no, Pending: n(1), Reallocated: n(5), SelfTest: &wire.SelfTest{State: wire.TestFailed}},
			HealthFailing, []string{"says itself", "self-test", "can't be read", "replaced"}},
		{"nonsense", true, &wire.Health{Passed: yes, Pending: n(math.MaxInt64), Spare: n(math.MinInt64), SpareThreshold: n(math.MinInt64), PercentUsed: n(-1), CriticalWarning: n(0)},
			HealthFailing, []string{"more than a million"}},
	} {
		got := DiskHealth(&wire.Disk{Rotational: c.spins, Health: c.health})
		fits := got.State == c.state && len(got.Reasons) == len(c.reasons)
		for i := 0; fits && i < len(c.reasons); i++ {
			fits = strings.Contains(got.Reasons[i], c.reasons[i])
		}
		if !fits {
			t.Errorf("%s: %s %q, want %s %q", c.name, got.State, got.Reasons, c.state, c.reasons)
		}
	}
}

// Whatever a disk says, the verdict is one of four, has a reason when it is bad,
// and the reasons fit on a screen.
func FuzzDiskHealth(f *testing.F) {
	f.Add(true, true, int64(0), int64(0), int64(0), int64(0), "passed")
	f.Fuzz(func(t *testing.T, spins, passed bool, a, b, c, e int64, test string) {
		v := DiskHealth(&wire.Disk{Rotational: spins, Health: &wire.Health{Passed: &passed, CriticalWarning: &a, Spare: &b, SpareThreshold: &c,
			Reallocated: &e, Pending: &a, Uncorrectable: &b, PercentUsed: &c, MediaErrors: &e, SelfTest: &wire.SelfTest{State: test}}})
		bad := v.State == HealthWorn || v.State == HealthFailing
		if bad != (len(v.Reasons) > 0) || !bad && v.State != HealthGood {
			t.Fatalf("%s with %q", v.State, v.Reasons)
		}
		if !passed && v.State == HealthGood {
			t.Fatal("good although it says itself that it fails")
		}
		if slices.ContainsFunc(v.Reasons, func(s string) bool { return len(s) > 100 }) {
			t.Fatalf("%q", v.Reasons)
		}
	})
}
