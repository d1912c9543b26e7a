package workshop

import (
	"slices"
	"strings"
	"testing"
)

// The matrices repeat the tables in another shape on purpose: a slip in one of
// them shows.

func TestJobSteps(t *testing.T) {
	states := []JobState{Booting, Reported, Held, Approved, Imaging, Verifying, Verified, FirstBoot, Erasing, Erased, JobFailed, Cancelled, JobLost}
	//                 bo re he ap im ve VD FB er ED fa ca lo
	matrix(t, states, CanJob, `
		booting         .  x  .  .  .  .  .  .  .  .  x  x  x
		reported        .  .  x  x  .  .  .  .  .  .  x  x  x
		held            .  .  .  x  .  .  .  .  .  .  x  x  x
		approved        .  .  x  .  x  .  .  .  x  .  x  x  x
		imaging         .  .  .  .  .  x  .  .  .  .  x  x  x
		verifying       .  .  .  .  .  .  x  .  .  .  x  x  x
		verified        .  .  .  .  .  .  .  x  .  .  .  .  .
		first_boot_seen .  .  .  .  .  .  .  .  .  .  .  .  .
		erasing         .  .  .  .  .  .  .  .  .  x  x  x  x
		erased          .  .  .  .  .  .  .  .  .  .  .  .  .
		failed          .  .  .  .  .  .  .  .  .  .  .  .  .
		cancelled       .  .  .  .  .  .  .  .  .  .  .  .  .
		lost            x  x  x  x  x  x  .  .  x  .  x  x  .`)
}

func TestDeviceSteps(t *testing.T) {
	states := []DeviceState{Expected, Received, Ready, Reserved, HandedOut, Returned, Rejected, Parts, Recycled, ReturnedDonor, DeviceLost}
	matrix(t, states, CanDevice, `
		expected          . x . . . . x . . . x
		received          . . x . . . x x x x x
		ready             . x . x . . x x x x x
		reserved          . . x . x . x x x x x
		handed_out        . . . . . x . . . . x
		returned          . x . . . . x x x x x
		rejected          . x . . . . . x x x x
		parts             . . . . . . . . x . x
		recycled          . . . . . . . . . . .
		returned_to_donor . . . . . . . . . . .
		lost              . x . . . . . . . . .`)
}

func matrix[S ~string](t *testing.T, states []S, can func(S, S) bool, want string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(want), "\n")
	if len(lines) != len(states) {
		t.Fatalf("%d rows for %d states", len(lines), len(states))
	}
	for i, l := range lines {
		f := strings.Fields(l)
		if len(f) != len(states)+1 || S(f[0]) != states[i] {
			t.Fatalf("row %q", l)
		}
		for k, to := range states {
			if got := can(states[i], to); got != (f[k+1] == "x") {
				t.Errorf("%s → %s: %v", states[i], to, got)
			}
		}
		if can(states[i], "nonsense") || can("nonsense", states[i]) || can("", states[i]) {
			t.Errorf("%s: a step from or to nowhere", states[i])
		}
	}
}

func TestOnlyVerifyingLeadsToVerified(t *testing.T) {
	for from, tos := range jobSteps {
		if slices.Contains(tos, Verified) != (from == Verifying) {
			t.Errorf("%s → verified", from)
		}
		if slices.Contains(tos, Erased) != (from == Erasing) || from == Erased && from.Proved() {
			t.Errorf("%s → erased", from)
		}
		if from.Live() == (len(tos) == 0) && from != Verified {
			t.Errorf("%s: live %v with %d steps left", from, from.Live(), len(tos))
		}
		if from.Live() && from.Proved() {
			t.Errorf("%s is both live and proved", from)
		}
	}
}
