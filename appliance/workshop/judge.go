package workshop

import "refurb/agent/wire"

// facts are all that decides whether a reported PC may be imaged.
type facts struct {
	report   wire.Report
	lotOpen  bool
	standing string // id of the open lot, if its standing approval holds for this device and is unused
	again    string // who asked for another imaging; empty: nobody
	cutOff   bool   // a restart cut an earlier attempt off and nobody has looked since

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
// anything, whoever asks: that takes Approve, with the serial typed.
func judge(f facts) verdict {
	held := func(h Hold, reason, next string) verdict {
		return verdict{state: Held, hold: h, reason: reason, next: next}
	}
	switch {
	case !f.lotOpen && f.again == "":
		return held(HoldLot, "No lot is open", "Open a lot for the donor of this PC")
	case !f.image:
		return held(HoldImage, "No image is chosen", "Choose an image with “Image again” on the device page")
	case f.gone != nil:
		return held(HoldImage, "The chosen image is not there: "+Text(f.gone.Error()), "Import it again, or choose another one on the device page")
	}
	c := ChooseDisk(f.report, f.bytes, f.block)
	v := verdict{state: Held, hold: c.Hold, reason: c.Reason, next: c.Next, disk: c.Disk}
	switch {
	case c.Verdict == Fail:
		v.state = JobFailed
	case c.Verdict == Ask:
	case f.cutOff:
		v.hold = HoldRestart
		v.reason = "The PC restarted before its disk was finished"
		v.next = "Look what happened and approve the disk on the device page"
	case c.Disk.Class != wire.ClassBlank:
		v.hold = HoldApproval
		v.reason = "This disk holds something"
		v.next = "Approve it on the device page"
	case f.again != "":
		v.state, v.by = Approved, f.again
	case f.standing != "":
		v.state, v.by = Approved, "lot:"+f.standing
	default:
		v.hold = HoldApproval
		v.reason = "The disk is blank and waits for approval"
		v.next = "Approve it on the device page"
	}
	return v
}

// unproven says why an outcome that claims success doesn't prove it; empty: it
// does.
func unproven(j *Job, o *wire.Outcome) string {
	switch {
	case j.State != Verifying:
		return "the job was " + string(j.State) + ", not reading back"
	case j.Bytes <= 0 || o.ReadBack != j.Bytes:
		return "not every byte was read back"
	case o.Mismatches != 0:
		return "what was read back differs from the image"
	case j.Image == "" || o.Root != j.Image:
		return "it names another image"
	case o.Disk != nil && (j.Approval == nil || !sameDisk(j.Approval.Disk, *o.Disk)):
		return "it names another disk"
	}
	return ""
}
