package workshop

import (
	"fmt"

	"refurb/agent/wire"
)

// HealthState is what a disk's own words amount to.
type HealthState string

const (
	HealthGood    HealthState = "good"
	HealthWorn    HealthState = "worn"    // it works and may be given away; somebody should know
	HealthFailing HealthState = "failing" // it is not imaged, whoever asks
	HealthUnknown HealthState = "unknown" // it says nothing that could be judged, which keeps nobody from using it
)

// HealthVerdict is a state with its reasons, the worst first: each one short
// sentence for a volunteer.
type HealthVerdict struct {
	State   HealthState
	Reasons []string
}

// Where the lines are drawn, and why there. Failing is only what a standard calls
// so, or what a study of many disks found to come before a failure: nobody can
// overrule it.
//
//   - The drive's own verdict, and bits 0, 2, 3 and 4 of the NVMe critical warning
//     (NVM Express Base 2.0, figure 207): failing. Heat (bit 1) may be the PC's fault.
//   - Spare memory below the drive's own threshold (the same figure): failing.
//   - A self-test that found something (ACS-3, SPC-5, NVMe 5.16.1.7): failing.
//   - A spinning disk with one sector that can't be read: failing. Pinheiro, Weber,
//     Barroso, "Failure Trends in a Large Disk Drive Population", FAST 2007: after
//     the first scan error a disk is 39 times as likely to fail within two months,
//     after the first sector on probation 16 times. Erasing writes such sectors anew:
//     a disk that shows none afterwards is judged anew.
//   - Reallocated sectors: the same study has one as the threshold too (14 times),
//     but most such disks live on, so it is worn. A hundred are our choice of where
//     one scratch ends.
//   - On solid-state disks vendors count other things in these places, and replacing
//     blocks is their way of life: worn at most.
//   - Life used: 100 % is what the maker promised, not a failure (NVMe, the same
//     figure). 80 % is where it is worth knowing before the PC is given away.
const (
	manyReallocated = 100
	wornPercent     = 80
)

var criticalWarnings = []struct {
	bit   int64
	state HealthState
	words string
}{
	{1 << 0, HealthFailing, "its spare memory is nearly used up"},
	{1 << 2, HealthFailing, "it has had so many errors that it can't be relied upon"},
	{1 << 3, HealthFailing, "it can only be read any more"},
	{1 << 4, HealthFailing, "its protection against power cuts is broken"},
	{1 << 1, HealthWorn, "it is too hot or too cold"},
	{1 << 5, HealthWorn, "a part of its memory is unreliable"},
	{^0x3f, HealthWorn, "it gives a warning of a kind that isn't known here"},
}

// DiskHealth judges what a disk says of itself.
func DiskHealth(d *wire.Disk) HealthVerdict {
	h := d.Health
	if h == nil {
		return HealthVerdict{State: HealthUnknown}
	}
	v := HealthVerdict{State: HealthUnknown}
	if h.Passed != nil || h.CriticalWarning != nil {
		v.State = HealthGood
	}
	var worn []string
	say := func(s HealthState, words string) {
		if s == HealthFailing {
			v.Reasons = append(v.Reasons, words)
		} else {
			worn = append(worn, words)
		}
	}
	// is tells whether a counter was answered and has reached n.
	is := func(p *int64, n int64) bool { return p != nil && *p >= n }

	var warning int64
	if h.CriticalWarning != nil {
		warning = *h.CriticalWarning
	}
	for _, w := range criticalWarnings {
		if warning&w.bit != 0 {
			say(w.state, w.words)
		}
	}
	if h.Passed != nil && !*h.Passed && warning == 0 {
		say(HealthFailing, "it says itself that it fails")
	}
	if h.Spare != nil && h.SpareThreshold != nil && *h.Spare < *h.SpareThreshold && warning&1 == 0 {
		say(HealthFailing, fmt.Sprintf("only %d %% of its spare memory is left", *h.Spare))
	}
	if h.SelfTest != nil && h.SelfTest.State == wire.TestFailed {
		say(HealthFailing, "its last self-test failed")
	}
	unreadable := HealthWorn
	if d.Rotational {
		unreadable = HealthFailing
	}
	switch { // both count the same sectors, found by reading or by a scan
	case is(h.Pending, 1) && (h.Uncorrectable == nil || *h.Pending >= *h.Uncorrectable):
		say(unreadable, sectors(*h.Pending, "can't be read"))
	case is(h.Uncorrectable, 1):
		say(unreadable, sectors(*h.Uncorrectable, "can't be read"))
	}
	switch {
	case is(h.Reallocated, manyReallocated) && d.Rotational:
		say(HealthFailing, sectors(*h.Reallocated, "had to be replaced"))
	case is(h.Reallocated, manyReallocated), is(h.Reallocated, 1) && d.Rotational:
		say(HealthWorn, sectors(*h.Reallocated, "had to be replaced"))
	}
	if is(h.MediaErrors, 1) {
		say(HealthWorn, "it has lost data before")
	}
	switch {
	case is(h.PercentUsed, 100):
		say(HealthWorn, "it has outlived what its maker promises")
	case is(h.PercentUsed, wornPercent):
		say(HealthWorn, fmt.Sprintf("%d %% of its life is used", *h.PercentUsed))
	}
	switch {
	case len(v.Reasons) > 0:
		v.State = HealthFailing
	case len(worn) > 0:
		v.State = HealthWorn
	}
	v.Reasons = append(v.Reasons, worn...)
	return v
}

func sectors(n int64, what string) string {
	switch {
	case n == 1:
		return "one sector " + what
	case n > 1_000_000:
		return "more than a million sectors " + what
	}
	return fmt.Sprintf("%d sectors %s", n, what)
}
