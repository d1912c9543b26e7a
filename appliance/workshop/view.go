package workshop

import (
	"time"

	"refurb/agent/wire"
)

// View is everything a list of devices shows, at one moment.
type View struct {
	Time    time.Time    `json:"time"`
	Devices []DeviceView `json:"devices"` // by number
	Lots    []Lot        `json:"lots"`    // newest first
}

// DeviceView is one line of that list. What it points to is not changed later:
// a new state comes as a new DeviceView.
type DeviceView struct {
	Device
	Job      *Job           `json:"newest_job,omitempty"`
	Progress *wire.Progress `json:"progress,omitempty"` // only while its job is imaging, verifying or erasing
	ETA      time.Duration  `json:"eta_ns,omitempty"`   // until the job is done, reading back included; 0: not known
	Online   bool           `json:"online"`             // its agent was heard of within Config.LostAfter
	Flow     *Flow          `json:"flow,omitempty"`     // while it shares frames with others
	Numbers  []int          `json:"numbers,omitempty"`  // of the records that were merged into it
	Unfit    error          `json:"-"`                  // why a PC that is done may not be given to anybody, a Refusal; nil: it may, it isn't done, or nobody means to
}

// Update is what changed since the one before it. A device or a lot comes
// whole. None is ever removed, but for one that was merged into another one,
// which then comes instead.
type Update struct {
	Time    time.Time    `json:"time"`
	Devices []DeviceView `json:"devices,omitempty"`
	Lots    []Lot        `json:"lots,omitempty"`
}

// DeviceDetail is all there is to one device but its history, which the store
// keeps.
type DeviceDetail struct {
	DeviceView
	Lot        *Lot        `json:"its_lot,omitempty"`
	Jobs       []Job       `json:"jobs"`                 // newest first
	Candidates []wire.Disk `json:"candidates,omitempty"` // disks that an approval may name now; empty unless the job waits for one
	Erasable   []wire.Disk `json:"erasable,omitempty"`   // disks that Erase may name now; empty unless the PC waits
	Records    []Record    `json:"records,omitempty"`    // that were merged into it
	Doubts     []OpenDoubt `json:"open_doubts,omitempty"`
	Shown      []Face      `json:"shown,omitempty"`    // how it has shown itself, merged records included
	Followed   []DiskStory `json:"followed,omitempty"` // disks that are or were in it, wherever else they were
}

// Record is one that was merged into another.
type Record struct {
	ID     string `json:"id"`
	Number int    `json:"number"`
	Direct bool   `json:"direct"` // a split can take it out again
}

// OpenDoubt is one that somebody has to decide, with the number of the other record.
type OpenDoubt struct {
	Doubt
	Number int `json:"number,omitempty"` // 0: there is none
}
