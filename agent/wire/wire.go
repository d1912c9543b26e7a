// Package wire is the language that the agent and the appliance speak: JSON
// over TLS, one type per message. It knows only the standard library, so both
// sides can hold it without holding each other.
//
// Sizes are bytes and times RFC 3339 unless a name says otherwise. Every string
// in a Report comes from a donated PC and is hostile: whoever shows or stores
// it bounds and escapes it.
package wire

import "time"

// Version of the protocol, sent in the header Refurb-Wire. The appliance
// refuses a version that it doesn't know with 426 and a text that says so.
//
// History:
//
//	1  report, plan, progress, event, first-boot check-in
//	2  share: PCs pass frames on to each other, and resume from claimed ones
//	3  erasure, health of disks, birth record; classes ours, encrypted and locked
//	4  boot: an agent that came from a stick asks what a boot script would say; Report.Stick
const Version = 4

// Paths of the agent API (TLS). All but PathBoot and PathCheckin want
// "Authorization: Bearer <boot token>"; PathCheckin wants the job's check-in
// token, PathBoot none.
const (
	PathBoot     = "/v1/boot"     // POST BootAsk → BootAnswer
	PathReport   = "/v1/report"   // POST Report  → Plan
	PathPlan     = "/v1/plan"     // GET ?have=<Plan.Serial>&wait=<seconds> → Plan, long-polled
	PathProgress = "/v1/progress" // POST Progress → ProgressReply
	PathEvent    = "/v1/event"    // POST Event    → 204 once it is stored
	PathShare    = "/v1/share"    // POST Share    → Order
	PathCheckin  = "/v1/checkin"  // POST FirstBoot → 204 once it is stored
	PathImages   = "/images/"     // plain HTTP: /images/<root>/{manifest,frames}, ranges

	// PathPeer is what a PC serves to other PCs: POST Ask → a stream of frames.
	PathPeer = "/v1/peer"
)

// Limits that both sides hold.
const (
	MaxReport  = 1 << 20  // bytes of a Report's JSON
	MaxMessage = 64 << 10 // bytes of any other message
	MaxText    = 256      // bytes of one string that is stored or shown
)

// Error is the body of every refusal: what is wrong and what to do next.
type Error struct {
	Message string `json:"message"`
	Next    string `json:"next,omitempty"`
}

func (e *Error) Error() string {
	if e.Next == "" {
		return e.Message
	}
	return e.Message + " (" + e.Next + ")"
}

// BootAsk is what a PC says that was started from a stick: what it would have said
// when it fetched a boot script.
type BootAsk struct {
	MAC  string `json:"mac"`                   // of the card that it asks with
	UUID string `json:"smbios_uuid,omitempty"` // lower case, with dashes
	Key  string `json:"key"`                   // base64 of the key for images that the stick carries
}

// BootAnswer is what a boot script would say: a token for this start, that there
// is nothing to do here, or that a person wants a shell.
type BootAnswer struct {
	Local bool   `json:"local"`
	Shell bool   `json:"shell,omitempty"`
	Token string `json:"token,omitempty"`
}

// Report is what one PC says of itself: once per boot, and again when its disks
// have changed while it waits. A pointer that is nil and a string that is empty
// mean "not known", never zero.
type Report struct {
	BootID   string    `json:"boot_id"`         // /proc/sys/kernel/random/boot_id
	Stick    string    `json:"stick,omitempty"` // GUID of the USB stick that it was started from; empty: the network
	Agent    string    `json:"agent"`           // version of the agent
	Kernel   string    `json:"kernel"`
	Clock    time.Time `json:"clock"` // the PC's own clock: evidence only
	Identity Identity  `json:"identity"`
	Firmware Firmware  `json:"firmware"`
	CPU      CPU       `json:"cpu"`
	RAM      RAM       `json:"ram"`
	Disks    []Disk    `json:"disks"`
	NICs     []NIC     `json:"nics"`
	Gaps     []Gap     `json:"gaps,omitempty"` // hardware that had no driver or no firmware
	Problems []string  `json:"problems,omitempty"`
	// Network is how this PC came to its address: slow switch ports and cables
	// show in it.
	Network *Network `json:"network,omitempty"`
	// Controllers in RAID or VMD mode, or without a driver: then "no disk
	// found" means unknown, not zero.
	HiddenStorage []string `json:"hidden_storage,omitempty"`
	// Controllers are all storage controllers that were seen, with their
	// drivers: what a paper on a PC without disks rests on.
	Controllers []string `json:"storage_controllers,omitempty"`
}

// Identity as SMBIOS types 1 to 3 give it. Placeholders lists the JSON names of
// the fields whose value is a known filler ("To be filled by O.E.M.", all Fs…);
// those never identify a device.
type Identity struct {
	UUID          string   `json:"smbios_uuid,omitempty"` // lower case, with dashes
	Manufacturer  string   `json:"manufacturer,omitempty"`
	Model         string   `json:"model,omitempty"`
	ModelVersion  string   `json:"version,omitempty"`
	SKU           string   `json:"sku,omitempty"`
	Family        string   `json:"family,omitempty"`
	SystemSerial  string   `json:"system_serial,omitempty"`
	BoardSerial   string   `json:"board_serial,omitempty"`
	ChassisSerial string   `json:"chassis_serial,omitempty"`
	ChassisType   string   `json:"chassis_type,omitempty"`
	Placeholders  []string `json:"placeholders,omitempty"`
}

// Firmware modes.
const (
	ModeBIOS   = "bios"
	ModeUEFI32 = "uefi32"
	ModeUEFI64 = "uefi64"
)

type Firmware struct {
	Mode       string `json:"mode"`
	Vendor     string `json:"vendor,omitempty"`
	Version    string `json:"version,omitempty"`
	Date       string `json:"date,omitempty"`
	SecureBoot *bool  `json:"secure_boot,omitempty"`
	SetupMode  *bool  `json:"setup_mode,omitempty"`
}

type CPU struct {
	Model   string `json:"model,omitempty"`
	Vendor  string `json:"vendor,omitempty"`
	Cores   int    `json:"cores,omitempty"`
	Threads int    `json:"threads,omitempty"`
	Level   int    `json:"x86_64_level,omitempty"` // 1 to 4
}

type RAM struct {
	Bytes   int64       `json:"bytes"`           // usable, from the kernel
	Slots   int         `json:"slots,omitempty"` // from SMBIOS 16
	Modules []RAMModule `json:"modules,omitempty"`
}

type RAMModule struct {
	Slot         string `json:"slot,omitempty"`
	Bytes        int64  `json:"bytes"`
	Type         string `json:"type,omitempty"` // DDR3, DDR4…
	Form         string `json:"form,omitempty"`
	MTs          int    `json:"mt_per_s,omitempty"`
	Manufacturer string `json:"manufacturer,omitempty"`
	Part         string `json:"part,omitempty"`
	Serial       string `json:"serial,omitempty"`
}

// Transports of a disk.
const (
	TransportSATA   = "sata"
	TransportNVMe   = "nvme"
	TransportSCSI   = "scsi"
	TransportVirtio = "virtio"
	TransportMMC    = "mmc"
	TransportUSB    = "usb"
	TransportOther  = "other"
)

// Class of what a disk holds, by the signatures at its head and tail and by
// sampled blocks. Anything that can't be read or named is data.
type Class string

const (
	ClassBlank      Class = "blank"
	ClassOurs       Class = "ours"       // a birth record of this appliance, made for this very disk
	ClassStructured Class = "structured" // a partition table and nothing known behind it
	ClassData       Class = "data"
	ClassEncrypted  Class = "encrypted" // LUKS, BitLocker, encrypted APFS…
	ClassLocked     Class = "locked"    // the disk itself wants a password
	ClassUnreadable Class = "unreadable"
)

// DiskID names one physical disk. Serial and Bytes bind an approval; Path is
// only where it was seen this boot.
type DiskID struct {
	Path         string `json:"path"` // /dev/nvme0n1
	Serial       string `json:"serial,omitempty"`
	WWN          string `json:"wwn,omitempty"`
	Model        string `json:"model,omitempty"`
	Bytes        int64  `json:"bytes"`
	LogicalBlock int    `json:"logical_block"`
}

type Disk struct {
	DiskID
	Firmware      string `json:"firmware,omitempty"`
	Transport     string `json:"transport"`
	PhysicalBlock int    `json:"physical_block,omitempty"`
	Rotational    bool   `json:"rotational"`
	Removable     bool   `json:"removable"`
	ReadOnly      bool   `json:"read_only"`
	InUse         string `json:"in_use,omitempty"` // by whom: "mounted", "held by dm-0"…
	Class         Class  `json:"class"`
	// Found lists the signatures that made the class: "gpt", "ntfs", "luks"…
	// Never labels, names or content.
	Found []string `json:"found,omitempty"`

	Health    *Health    `json:"health,omitempty"`    // nil: nobody has asked
	Abilities *Abilities `json:"abilities,omitempty"` // how it can erase itself; nil: nobody has asked
}

type NIC struct {
	Name      string `json:"name"`
	MAC       string `json:"mac"`           // in use
	Permanent string `json:"permanent_mac"` // burnt in; empty when the driver can't say
	Driver    string `json:"driver,omitempty"`
	Bus       string `json:"bus,omitempty"` // "pci", "usb"
	Mbit      int    `json:"mbit_per_s,omitempty"`
	Link      bool   `json:"link"`
	Wake      *bool  `json:"wake,omitempty"` // a magic packet switches the PC on by this card, as far as its driver says
}

// Network tells how long the PC waited for the network that it reports over.
type Network struct {
	Card      string `json:"card"`       // NIC.Name
	CarrierMS int64  `json:"carrier_ms"` // from switching the card on to a link
	AddressMS int64  `json:"address_ms"` // from the link to an address
}

// Gap is a piece of hardware that the boot files could not serve.
type Gap struct {
	ID     string `json:"id"`   // "pci 10ec:8125", "usb 0bda:8153"
	What   string `json:"what"` // PCI class in words, or the driver that asked
	Reason string `json:"reason"`
}

// Action is what the appliance wants of the PC now.
type Action string

const (
	ActionHold  Action = "hold"  // wait; Plan.Reason says for what; poll again
	ActionImage Action = "image" // write Plan.Image to Plan.Disk
	ActionErase Action = "erase" // erase Plan.Disk as Plan.Erase says
	ActionLocal Action = "local" // nothing to do here: reboot, the local disk will start
	ActionFail  Action = "fail"  // nothing can be done; Plan.Reason and Plan.Next say why
)

// Plan answers a report. Serial grows with every change, so that a long poll
// returns as soon as the plan is another one.
type Plan struct {
	Serial int64  `json:"serial"`
	Number int    `json:"number"` // the device's number in the workshop, shown huge
	Action Action `json:"action"`
	Reason string `json:"reason,omitempty"` // one sentence for a volunteer
	Next   string `json:"next,omitempty"`   // what to do about it
	Unfit  bool   `json:"unfit,omitempty"`  // with ActionLocal: the PC may not be given away as it is, for the reason above
	Job    string `json:"job,omitempty"`

	Disk    *DiskID `json:"disk,omitempty"`
	Content Class   `json:"content,omitempty"` // the class that was approved; another one now means stop
	Image   *Image  `json:"image,omitempty"`
	Erase   *Erase  `json:"erase,omitempty"`
}

// Image tells the agent what to fetch and from where. Manifest and frames go in
// the clear: the manifest is signed by the key in the initramfs.
type Image struct {
	Name        string  `json:"name"`
	Root        string  `json:"root"` // hex
	ManifestURL string  `json:"manifest_url"`
	FramesURL   string  `json:"frames_url"`
	Streams     int     `json:"streams"`          // connections to the appliance when there are no peers
	Claims      []byte  `json:"claims,omitempty"` // Share.Claims of an earlier attempt on this disk with this image
	Checkin     Checkin `json:"checkin"`          // written into the image's check-in slot, if it has one
	Birth       []byte  `json:"birth,omitempty"`  // a signed Birth, for the EFI system partition once all was read back
}

// Phase of a job as the agent sees it.
type Phase string

const (
	PhaseImaging   Phase = "imaging"
	PhaseVerifying Phase = "verifying"
	PhaseFinishing Phase = "finishing"
	PhaseErasing   Phase = "erasing"
	PhaseChecking  Phase = "checking" // an erased disk is read
)

// Progress is droppable: the latest one wins and none changes a job's state.
type Progress struct {
	Job     string `json:"job"`
	Phase   Phase  `json:"phase"`
	Done    int64  `json:"done"`  // raw bytes
	Total   int64  `json:"total"` // raw bytes
	Rate    int64  `json:"rate"`  // raw bytes per second, over the last seconds
	Fetched int64  `json:"fetched"`
	Retries int    `json:"retries"`
}

// ProgressReply carries the wish to stop back to the agent; the appliance never
// calls the agent.
type ProgressReply struct {
	Stop bool   `json:"stop"`
	Why  string `json:"why,omitempty"`
}

// Share is what a PC has of its image. It is sent twice a second while the job
// runs or others profit from it, and at once when a source fails. The latest
// one wins.
type Share struct {
	Job     string    `json:"job"`
	Serial  int64     `json:"serial"`            // of the Order that this PC follows; 0: none yet
	Port    int       `json:"port"`              // where it serves PathPeer; 0: it can't
	Mbit    int       `json:"mbit_per_s"`        // speed of the card in use; 0: unknown
	Frames  int       `json:"frames"`            // that the image has; those of zeroes don't count anywhere here
	Have    int       `json:"have"`              // received and checked, or found on the disk
	Missing int       `json:"missing"`           // neither here nor promised by any source: only the appliance can give them
	Backlog int       `json:"backlog"`           // percent of the memory that is full of frames not yet written
	Rate    int64     `json:"rate"`              // compressed bytes per second received, over the last seconds
	Done    bool      `json:"done"`              // wants nothing more; stays for others
	Trouble []Trouble `json:"trouble,omitempty"` // since the last Share
	// Claims has bit i%8 of byte i/8 set when frame i was written to the disk and
	// flushed, frames of zeroes included. Only sent when it has changed.
	Claims []byte `json:"claims,omitempty"`
}

// MaxClaims bounds Share.Claims: an image of 1 TiB.
const MaxClaims = 32 << 10

// Trouble is what a PC had with a source.
type Trouble struct {
	Source string      `json:"source"` // Source.ID; empty: the appliance
	Kind   TroubleKind `json:"kind"`
	Frame  int         `json:"frame,omitempty"`
}

type TroubleKind string

const (
	TroubleSilent  TroubleKind = "silent"  // nothing came, not even a sign of life
	TroubleRefused TroubleKind = "refused" // it can't be reached, or doesn't serve this PC
	TroubleCorrupt TroubleKind = "corrupt" // Frame didn't match its hash, and the source had called it good
)

// Order says where a PC gets its frames from.
type Order struct {
	Serial int64 `json:"serial"` // grows with every change
	// Sources are other PCs, one per stripe or none. Frame i belongs to stripe
	// i mod len(Sources).
	Sources []Source `json:"sources,omitempty"`
	Depot   bool     `json:"depot"`         // fetch what no source promises from the appliance
	Key     string   `json:"key"`           // who shows it is served by this PC
	Stay    bool     `json:"stay"`          // others still profit from this PC
	Why     string   `json:"why,omitempty"` // what it waits for, one sentence for a volunteer
}

// Source is a PC that passes frames on.
type Source struct {
	ID  string `json:"id"`
	URL string `json:"url"` // http://10.77.0.23:4711
	Key string `json:"key"`
	// Patient: this PC is slower than those before it and must not hold them up,
	// so its source may drop what it lacks.
	Patient bool `json:"patient,omitempty"`
}

// EventKind is a step of a job that is stored and chained.
type EventKind string

const (
	EventImaging   EventKind = "imaging"   // the first write is about to happen
	EventErasing   EventKind = "erasing"   // the first command that destroys is about to be given
	EventVerifying EventKind = "verifying" // all is written and synced, reading back begins
	EventOutcome   EventKind = "outcome"   // the last one
)

// Event is idempotent by (Job, Seq): sent again until it is acknowledged.
type Event struct {
	Job     string    `json:"job"`
	Seq     int       `json:"seq"` // 1, 2, 3…
	Kind    EventKind `json:"kind"`
	Clock   time.Time `json:"clock"`
	Disk    *DiskID   `json:"disk,omitempty"`    // with EventImaging and EventErasing: read from the opened descriptor
	Outcome *Outcome  `json:"outcome,omitempty"` // with EventOutcome
}

// Result of a job. There are three, and none is the zero value.
type Result string

const (
	Done    Result = "done"    // every byte was read back and matched
	Failed  Result = "failed"  // it did not happen; Cause says why
	Unknown Result = "unknown" // nobody can say; treated as failed by everyone
)

type Outcome struct {
	Result Result `json:"result"`
	Cause  string `json:"cause,omitempty"` // what went wrong, one sentence
	Next   string `json:"next,omitempty"`  // what a volunteer does next
	Phase  Phase  `json:"phase,omitempty"` // where it went wrong

	Disk       *DiskID       `json:"disk,omitempty"`
	Root       string        `json:"root,omitempty"`
	Raw        int64         `json:"raw,omitempty"`       // bytes the image holds
	Fetched    int64         `json:"fetched,omitempty"`   // compressed bytes received
	Written    int64         `json:"written,omitempty"`   // bytes written, zeroes included
	ReadBack   int64         `json:"read_back,omitempty"` // bytes read from the disk and matched
	Mismatches int           `json:"mismatches"`
	Retries    int           `json:"retries"`
	Streams    int           `json:"streams,omitempty"`
	FromPeers  int64         `json:"from_peers,omitempty"` // of Fetched: bytes that other PCs passed on
	Sent       int64         `json:"sent,omitempty"`       // bytes passed on to other PCs until then
	Resumed    int           `json:"resumed,omitempty"`    // frames found on the disk from an earlier attempt
	WriteTime  time.Duration `json:"write_ns,omitempty"`
	ReadTime   time.Duration `json:"read_ns,omitempty"`
	Finish     []string      `json:"finish,omitempty"`   // "partition 3 grown to 120 GB", "boot entry 0007 first"
	Warnings   []string      `json:"warnings,omitempty"` // "the firmware refused a boot entry"

	Birth    string    `json:"birth,omitempty"`     // SHA-256, hex, of the birth record that was written and read again
	SelfTest *SelfTest `json:"self_test,omitempty"` // the disk's own, run beside the job
	Erasure  *Erasure  `json:"erasure,omitempty"`   // of a job that erases
}

// Checkin is what a freshly imaged system needs in order to say, once, that it
// started from its own drive. It is JSON, padded with spaces to the slot's size.
type Checkin struct {
	URL   string `json:"url"`   // https://10.77.0.1:8443/v1/checkin
	Pin   string `json:"pin"`   // base64 of SHA-256 of the server's SPKI, as curl's --pinnedpubkey wants it after "sha256//"
	Token string `json:"token"` // good for one job
}

// FirstBoot is the body of a check-in.
type FirstBoot struct {
	System string `json:"system"` // PRETTY_NAME of os-release
	Kernel string `json:"kernel"`
	Root   string `json:"root"`     // the root file system's device as the system sees it
	MAC    string `json:"mac"`      // one MAC of the machine
	UUID   string `json:"smbios"`   // SMBIOS UUID, if readable
	Mode   string `json:"firmware"` // bios, uefi32, uefi64
}
