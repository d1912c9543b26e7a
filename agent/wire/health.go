package wire

import "time"

// Health is what a disk says of itself. A nil field was not answered.
type Health struct {
	Source          string    `json:"source,omitempty"` // "ata smart", "nvme log 02h", "scsi"
	Error           string    `json:"error,omitempty"`  // why little or nothing is known
	Passed          *bool     `json:"passed,omitempty"` // the disk's own verdict
	Hours           *int64    `json:"hours,omitempty"`
	Cycles          *int64    `json:"cycles,omitempty"`
	Reallocated     *int64    `json:"reallocated,omitempty"`   // sectors, ATA attribute 5
	Pending         *int64    `json:"pending,omitempty"`       // ATA attribute 197
	Uncorrectable   *int64    `json:"uncorrectable,omitempty"` // ATA attribute 198
	PercentUsed     *int64    `json:"percent_used,omitempty"`  // of the life its maker gives it; may pass 100
	Spare           *int64    `json:"spare,omitempty"`         // percent left
	SpareThreshold  *int64    `json:"spare_threshold,omitempty"`
	MediaErrors     *int64    `json:"media_errors,omitempty"`
	Temperature     *int64    `json:"temperature,omitempty"`      // °C
	CriticalWarning *int64    `json:"critical_warning,omitempty"` // bits, NVMe SMART log byte 0
	SelfTest        *SelfTest `json:"self_test,omitempty"`        // the last one in the disk's log
}

// States of a SelfTest.
const (
	TestPassed      = "passed"
	TestFailed      = "failed"
	TestRunning     = "running"
	TestAborted     = "aborted"
	TestUnsupported = "unsupported"
	TestUnknown     = "unknown"
)

// SelfTest is the short one that disks know.
type SelfTest struct {
	State   string    `json:"state"`
	Code    *int64    `json:"code,omitempty"` // as the disk gave it
	Text    string    `json:"text,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
}
