package workshop

import "refurb/agent/wire"

// HealthState is what a disk's own word amounts to.
type HealthState string

const (
	HealthGood    HealthState = "good"
	HealthWorn    HealthState = "worn"
	HealthFailing HealthState = "failing"
	HealthUnknown HealthState = "unknown"
)

// HealthVerdict is a state with its reasons, one short sentence each.
type HealthVerdict struct {
	State   HealthState
	Reasons []string
}

// DiskHealth judges what a disk says of itself.
func DiskHealth(d *wire.Disk) HealthVerdict {
	switch h := d.Health; {
	case h == nil || h.Passed == nil:
		return HealthVerdict{State: HealthUnknown}
	case !*h.Passed:
		return HealthVerdict{State: HealthFailing, Reasons: []string{"its own verdict is that it fails"}}
	}
	return HealthVerdict{State: HealthGood}
}
