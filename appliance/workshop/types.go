// Package workshop is what the appliance knows of the people's work: devices,
// lots and jobs, which step may follow which, and whether a disk may be
// written. Registry is the only writer; everything else looks on.
package workshop

import (
	"time"

	"refurb/agent/wire"
)

// JobState is where one attempt to image or to erase one disk in one PC stands.
type JobState string

const (
	Booting   JobState = "booting"
	Reported  JobState = "reported"
	Held      JobState = "held"
	Approved  JobState = "approved"
	Imaging   JobState = "imaging"
	Verifying JobState = "verifying"
	Verified  JobState = "verified"
	FirstBoot JobState = "first_boot_seen"
	Erasing   JobState = "erasing"
	Erased    JobState = "erased" // every step was done and what was read of the disk is empty
	JobFailed JobState = "failed"
	Cancelled JobState = "cancelled"
	JobLost   JobState = "lost"
)

// DeviceState is where a device stands on its way through the house. People
// move it, jobs don't.
type DeviceState string

const (
	Expected      DeviceState = "expected"
	Received      DeviceState = "received"
	Ready         DeviceState = "ready"
	Reserved      DeviceState = "reserved"
	HandedOut     DeviceState = "handed_out"
	Returned      DeviceState = "returned"
	Rejected      DeviceState = "rejected"
	Parts         DeviceState = "parts"
	Recycled      DeviceState = "recycled"
	ReturnedDonor DeviceState = "returned_to_donor"
	DeviceLost    DeviceState = "lost"
	// Merged is a record that was found to be of the same PC as another one, and
	// only leads to that.
	Merged DeviceState = "merged"
)

// Device is one donated PC.
type Device struct {
	ID      string      `json:"id"`     // random, URL-safe
	Number  int         `json:"number"` // 1, 2, 3…: what volunteers say and the PC shows
	State   DeviceState `json:"state"`
	Lot     string      `json:"lot,omitempty"`
	MACs    []string    `json:"macs"` // permanent ones, lower case
	Report  wire.Report `json:"report"`
	Created time.Time   `json:"created"`
	Seen    time.Time   `json:"seen"`          // last word from its agent
	Job     string      `json:"job,omitempty"` // the newest job
	Again   bool        `json:"again"`         // somebody asked for another imaging at its next boot
	AgainBy string      `json:"again_by,omitempty"`
	Image   string      `json:"image"` // root that was asked for; empty: the lot's
	// Back is its newest job when it last came back from somebody or was found
	// again: what that one or an earlier one proved of its disks counts no more.
	Back string `json:"back_job,omitempty"`
	Wait bool   `json:"wait,omitempty"` // somebody asked for the agent at its next start, and for nothing to happen then
	// Rescue is what somebody chose for its next start in place of whatever would
	// be its turn: once, and without a word on its jobs.
	Rescue Rescue `json:"rescue,omitempty"`
	Given  *Given `json:"given,omitempty"` // the start that spent it
	Ties
}

// Ties are what a record has to do with other records.
type Ties struct {
	Into     string      `json:"merged_into,omitempty"`        // the record that this one was merged into
	Was      DeviceState `json:"state_before_merge,omitempty"` // its state until then
	KeptJob  string      `json:"kept_job,omitempty"`           // the newest job under the kept record's number then
	Absorbed []string    `json:"absorbed,omitempty"`           // records that were merged into this one
	Latest   string      `json:"latest,omitempty"`             // one of these, if the newest report came under it
	Unsure   bool        `json:"latest_unsure,omitempty"`      // nobody knows under which; until the next one
	Apart    []string    `json:"apart,omitempty"`              // records of other PCs, as people have said
	Faces    []Face      `json:"faces,omitempty"`              // how it has shown itself, oldest first
	Doubts   []Doubt     `json:"doubts,omitempty"`             // what people have to decide
}

// Face is one way in which a record's PC has shown itself. A record with several
// may hold several PCs.
type Face struct {
	ID       string        `json:"id"`
	Identity wire.Identity `json:"identity"`
	NICs     []wire.NIC    `json:"nics"`
	Disks    []wire.DiskID `json:"disks"`
	First    time.Time     `json:"first"`
	Last     time.Time     `json:"last"`
	Turned   bool          `json:"turned_away,omitempty"` // it has never been let in: the other one was on
}

// DoubtKind is why it isn't sure which record a PC belongs to.
type DoubtKind string

const (
	DoubtPartly DoubtKind = "partly" // it shares something with another record and differs in the rest
	DoubtEqual  DoubtKind = "equal"  // two records fit equally well
	DoubtTwins  DoubtKind = "twins"  // another PC gave the same identity while this one was on
	DoubtNobody DoubtKind = "nobody" // nothing identifies it
)

// Doubt is one that only a person can decide.
type Doubt struct {
	Kind   DoubtKind `json:"kind"`
	Device string    `json:"device,omitempty"` // the other record
	Shares string    `json:"shares,omitempty"`
	At     time.Time `json:"at"`
}

// Text says it in one sentence.
func (d Doubt) Text() string {
	switch d.Kind {
	case DoubtPartly:
		return "It shares " + d.Shares + " with another device and differs in the rest"
	case DoubtEqual:
		return "Two devices fit equally well"
	case DoubtTwins:
		return "Another PC gave the same identity while this one was on"
	case DoubtNobody:
		return "Nothing about it identifies this PC: it will be a new one at every start"
	}
	return ""
}

// Lot is what one donor brings at one time.
type Lot struct {
	ID       string    `json:"id"`
	Donor    string    `json:"donor"`
	Image    string    `json:"image"`    // root
	Standing bool      `json:"standing"` // disks of this lot that are blank or ours may be imaged without asking
	Opened   time.Time `json:"opened"`
	OpenedBy string    `json:"opened_by"`
	Closed   time.Time `json:"closed,omitzero"`
	Intake
}

// Intake is what people count at the door, for the donor's report. What was
// received is the number of the lot's devices.
type Intake struct {
	Promised   int    `json:"promised,omitempty"` // PCs that the donor announced; 0: not said
	Refused    int    `json:"refused,omitempty"`  // turned away at the door, without a record of their own
	RefusedWhy string `json:"refused_why,omitempty"`
}

// Approval lets one disk be written once: in this boot of this device.
type Approval struct {
	By    string      `json:"by"` // a user's id, or "lot:<id>"
	At    time.Time   `json:"at"`
	Boot  string      `json:"boot"`
	Disk  wire.DiskID `json:"disk"`
	Class wire.Class  `json:"class"`
	// ByPath: the disk's serial number or WWN is another one's too, so that its
	// path counts as well.
	ByPath bool `json:"by_path,omitempty"`
	Typed  bool `json:"typed,omitempty"` // a person named this disk; otherwise it was the only one
}

// EraseWish is how a person wants a disk erased.
type EraseWish struct {
	Check   wire.CheckKind
	Install bool // image the disk afterwards
}

// EraseOrder makes a job one that erases.
type EraseOrder struct {
	Check   wire.CheckKind `json:"check"`
	Seed    string         `json:"seed"` // hex, 32 bytes: where samples are taken
	Install bool           `json:"install,omitempty"`
}

// Hold says what a held job waits for, so that the right thing sets it going.
type Hold string

const (
	HoldLot      Hold = "lot"      // no lot is open
	HoldImage    Hold = "image"    // no image is chosen, or it is gone
	HoldApproval Hold = "approval" // a person has to approve the disk
	HoldSeveral  Hold = "several"  // a person has to say which disk, and approve it
	HoldSerial   Hold = "serial"   // the disk gives no serial: approved by path and size
	HoldRestart  Hold = "restart"  // the last attempt was cut off by a restart
	HoldTwins    Hold = "twins"    // another disk gives the same serial number or WWN: approved by path as well
	HoldHidden   Hold = "hidden"   // a controller may hide more disks than are seen
	HoldHealth   Hold = "health"   // the disk is failing: it is not imaged, whoever asks; erasing it is possible
	HoldAsked    Hold = "asked"    // a person asked for it to wait: to be erased or looked at
	HoldErased   Hold = "erased"   // the disk was just erased and nobody has asked for an image
)

// Approvable reports whether a person's approval ends this hold.
func (h Hold) Approvable() bool {
	switch h {
	case HoldApproval, HoldSeveral, HoldSerial, HoldRestart, HoldTwins, HoldHidden, HoldAsked:
		return true
	}
	return false
}

// Job is one attempt to image a disk or, with Erase, to erase one.
type Job struct {
	ID         string        `json:"id"`
	Device     string        `json:"device"`
	Lot        string        `json:"lot,omitempty"`
	State      JobState      `json:"state"`
	Boot       string        `json:"boot"`              // the agent's boot id
	Hold       Hold          `json:"hold,omitempty"`    // what a held job waits for
	CutOff     bool          `json:"cut_off,omitempty"` // an earlier attempt was cut off by a restart and nobody has looked since
	Reason     string        `json:"reason,omitempty"`  // why held, failed or cancelled
	Next       string        `json:"next,omitempty"`    // what to do about it
	Before     JobState      `json:"before,omitempty"`  // the state it was lost or failed in
	Disk       *wire.DiskID  `json:"disk,omitempty"`
	Class      wire.Class    `json:"class,omitempty"`
	Image      string        `json:"image,omitempty"`
	ImageName  string        `json:"image_name,omitempty"`
	Bytes      int64         `json:"bytes,omitempty"` // raw bytes of the image: what a proof has to read back
	Approval   *Approval     `json:"approval,omitempty"`
	Erase      *EraseOrder   `json:"erase,omitempty"`       // this job erases, and images nothing
	JustErased bool          `json:"just_erased,omitempty"` // its PC's disk was erased before, and nobody has asked for an image since
	Standing   string        `json:"standing,omitempty"`    // the lot whose standing approval this job has spent
	Outcome    *wire.Outcome `json:"outcome,omitempty"`
	Suspected  bool          `json:"suspected,omitempty"` // its PC passed damaged frames on
	// Taken holds the kinds of the agent's events in their order; the next one
	// has sequence number len(Taken)+1.
	Taken   []wire.EventKind `json:"taken,omitempty"`
	Created time.Time        `json:"created"`
	Changed time.Time        `json:"changed"`
	// CheckinHash is SHA-256 of the check-in token, hex.
	CheckinHash string `json:"checkin_hash,omitempty"`
}

// Event is one line of a device's history, to be chained by the audit package.
type Event struct {
	Time   time.Time         `json:"time"` // the appliance's clock, UTC
	Device string            `json:"device"`
	Job    string            `json:"job,omitempty"`
	Kind   string            `json:"event"` // "reported", "job", "approved", "payload", "checkin"…
	From   string            `json:"from,omitempty"`
	To     string            `json:"to,omitempty"`
	Actor  string            `json:"actor"`            // user id, "agent", "appliance", "lot:<id>"
	Result string            `json:"result,omitempty"` // ok, failed, unknown
	Reason string            `json:"reason,omitempty"`
	Params map[string]string `json:"params,omitempty"`
	// Evidence is SHA-256 of the document this line rests on (report, outcome), hex.
	Evidence string `json:"evidence_sha256,omitempty"`
	// HeadOf is a device whose history's last line this one is to name, by number
	// and hash. The store knows them, and writes them to Params.
	HeadOf string `json:"-"`
}

// Change is what one decision stores, in one transaction.
type Change struct {
	Devices []Device
	Lots    []Lot
	Jobs    []Job
	Boots   []Boot
	Forget  []string // token hashes of boots that are over
	Events  []Event
	// Documents are what Event.Evidence of this change points to.
	Documents []Document
	Claims    []Claim    // take the place of earlier ones
	Unclaim   []ClaimKey // after Claims
	Stays     []Stay
	Unstay    []StayKey // after Stays
}

// Document is a report or an outcome as it came, kept under its SHA-256.
type Document struct {
	Hash string // hex
	JSON []byte
}

// Boot is one start of an agent: the token that its script carried. The token
// itself is never kept.
type Boot struct {
	TokenHash string    `json:"token_hash"` // SHA-256, hex
	MAC       string    `json:"mac"`
	Device    string    `json:"device,omitempty"` // known after the report
	BootID    string    `json:"boot_id,omitempty"`
	Issued    time.Time `json:"issued"`
}

// State is everything the registry holds, as a store gives it back at start.
type State struct {
	Devices []Device
	Lots    []Lot
	Jobs    []Job // in the order they were made in, whatever the clock said
	Boots   []Boot
	Claims  []Claim
	Stays   []Stay // of each disk in their order
}
