package workshop

import "refurb/agent/wire"

// facts are all that decides whether a reported PC may be imaged.
type facts struct {
	report   wire.Report
	lotOpen  bool
	standing string // id of the open lot, if its standing approval holds for this device and is unused
	again    string // who asked for another imaging; empty: nobody
	cutOff   bool   // a restart cut an earlier attempt off and nobody has looked since
	erased   bool   // its disk was just erased, and nobody has asked for an image
	wait     bool   // somebody asked for it to wait

	image bool  // one is chosen
	gone  error // why it can't be had
	bytes int64
	block int
}

// verdict is Held, Approved or JobFailed.
type verdict struct {
	state        JobState
	hold         Hold
	reason, next string
	disk         *wire.Disk
	by           string // with Approved: a user's id or "lot:<id>"
}

// judge decides what becomes of a job. It never approves a disk that holds
// anything but what this appliance put there, whoever asks: that takes Approve,
// with the serial typed. A failing disk isn't imaged at all.
func judge(f facts) verdict {
	held := func(h Hold, reason, next string) verdict {
		return verdict{state: Held, hold: h, reason: reason, next: next}
	}
	switch {
	case f.erased && f.again == "":
		return held(HoldErased, "The disk is erased", "Ask for an image on the device page, or switch the PC off")
	case !f.lotOpen && f.again == "":
		return held(HoldLot, "No lot is open", "Open a lot for the donor of this PC")
	case !f.image:
		return held(HoldImage, "No image is chosen", "Choose an image with “Install at the next start” on the device page")
	case f.gone != nil:
		return held(HoldImage, "The chosen image is not there: "+Text(f.gone.Error()), "Import it again, or choose another one on the device page")
	}
	c := ChooseDisk(f.report, f.bytes, f.block)
	v := verdict{state: Held, hold: c.Hold, reason: c.Reason, next: c.Next, disk: c.Disk}
	switch {
	case c.Verdict == Fail:
		v.state = JobFailed
	case c.Disk != nil && failing(c.Disk) != "":
		v.hold = HoldHealth
		v.reason = "The disk " + c.Disk.Path + " is failing: " + failing(c.Disk)
		v.next = "Put another disk in; this one may still be erased on the device page"
	case c.Verdict == Ask:
	case f.cutOff:
		v.hold = HoldRestart
		v.reason = "The PC restarted before its disk was finished"
		v.next = "Look what happened and approve the disk on the device page"
	case f.wait && f.again == "":
		v.hold = HoldAsked
		v.reason = "Somebody asked for this PC to wait"
		v.next = "Erase its disk or approve imaging on the device page"
	case c.Disk.Class != wire.ClassBlank && c.Disk.Class != wire.ClassOurs:
		v.hold = HoldApproval
		v.reason, v.next = contentReason(c.Disk.Class), "Approve it on the device page, or have it erased"
	case f.again != "":
		v.state, v.by = Approved, f.again
	case f.standing != "":
		v.state, v.by = Approved, "lot:"+f.standing
	default:
		v.hold = HoldApproval
		v.reason = "The disk is blank and waits for approval"
		if c.Disk.Class == wire.ClassOurs {
			v.reason = "The disk holds an image of this workshop and waits for approval"
		}
		v.next = "Approve it on the device page"
	}
	return v
}

// contentReason says for a volunteer why a disk of a class is not imaged unasked.
func contentReason(c wire.Class) string {
	switch c {
	case wire.ClassEncrypted:
		return "This disk holds encrypted data"
	case wire.ClassLocked:
		return "This disk is locked with a password of its own"
	case wire.ClassUnreadable:
		return "This disk can't be read"
	}
	return "This disk holds something"
}

// failing says why a disk must not be given to anybody; empty: nothing that it
// says of itself speaks against it.
func failing(d *wire.Disk) string {
	v := DiskHealth(d)
	if v.State != HealthFailing {
		return ""
	}
	if len(v.Reasons) == 0 {
		return "it says so itself"
	}
	return few(v.Reasons)
}
