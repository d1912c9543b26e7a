package workshop

import (
	"slices"
	"time"
)

// jobSteps is every step a job may take. Only a read-back that matched leads
// from verifying to verified, only a proof from erasing to erased; a lost job
// takes up where it was or ends.
var jobSteps = map[JobState][]JobState{
	Booting:   {Reported, JobFailed, Cancelled, JobLost},
	Reported:  {Held, Approved, JobFailed, Cancelled, JobLost},
	Held:      {Approved, JobFailed, Cancelled, JobLost},
	Approved:  {Held, Imaging, Erasing, JobFailed, Cancelled, JobLost},
	Imaging:   {Verifying, JobFailed, Cancelled, JobLost},
	Verifying: {Verified, JobFailed, Cancelled, JobLost},
	Verified:  {FirstBoot},
	FirstBoot: {},
	Erasing:   {Erased, JobFailed, Cancelled, JobLost},
	Erased:    {},
	JobFailed: {},
	Cancelled: {},
	JobLost:   {Booting, Reported, Held, Approved, Imaging, Verifying, Erasing, JobFailed, Cancelled},
}

// deviceSteps is every step a device may take through the house.
var deviceSteps = map[DeviceState][]DeviceState{
	Expected:      {Received, Rejected, DeviceLost},
	Received:      {Ready, Rejected, Parts, Recycled, ReturnedDonor, DeviceLost},
	Ready:         {Received, Reserved, Rejected, Parts, Recycled, ReturnedDonor, DeviceLost},
	Reserved:      {Ready, HandedOut, Rejected, Parts, Recycled, ReturnedDonor, DeviceLost},
	HandedOut:     {Returned, DeviceLost},
	Returned:      {Received, Rejected, Parts, Recycled, ReturnedDonor, DeviceLost},
	Rejected:      {Received, Parts, Recycled, ReturnedDonor, DeviceLost},
	Parts:         {Recycled, DeviceLost},
	Recycled:      {},
	ReturnedDonor: {},
	DeviceLost:    {Received},
	Merged:        {}, // only a split leads back
}

// CanJob reports whether a job may go from one state to the other.
func CanJob(from, to JobState) bool { return slices.Contains(jobSteps[from], to) }

// CanDevice reports whether people may move a device from one state to the other.
func CanDevice(from, to DeviceState) bool { return slices.Contains(deviceSteps[from], to) }

// NextStates lists where a device may be moved from a state.
func NextStates(from DeviceState) []DeviceState { return slices.Clone(deviceSteps[from]) }

// Live reports whether a job may still go on: its PC starts the agent.
func (s JobState) Live() bool {
	switch s {
	case Booting, Reported, Held, Approved, Imaging, Verifying, Erasing, JobLost:
		return true
	}
	return false
}

// Running reports whether a job may be writing to its disk right now.
func (s JobState) Running() bool { return s == Imaging || s == Verifying || s == Erasing }

// Proved reports whether a job's disk was imaged, read back and matched. An
// erasure proves no installation.
func (s JobState) Proved() bool { return s == Verified || s == FirstBoot }

// stood is the state a job counts in: a lost one counts where it was lost.
func (j *Job) stood() JobState {
	if j.State == JobLost {
		return j.Before
	}
	return j.State
}

// expired reports whether an approval is over. One from the future is, too: the
// appliance's clock was set back, and nobody knows how old it is.
func (a *Approval) expired(now time.Time) bool {
	age := now.Sub(a.At)
	return age < 0 || age > approvalFor
}

// inWork reports whether a device may be imaged where it stands in the house.
func (s DeviceState) inWork() bool {
	switch s {
	case Expected, Received, Ready, Returned:
		return true
	}
	return false
}

// erasable reports whether a device's disks may be erased where it stands: also
// when it is on its way out of the house without a system.
func (s DeviceState) erasable() bool { return s.inWork() || s == Rejected || s == Parts }

// needsReason are the exits that somebody will ask about one day.
func needsReason(to DeviceState) bool {
	switch to {
	case Rejected, Parts, Recycled, ReturnedDonor, DeviceLost:
		return true
	}
	return false
}
