package workshop

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"refurb/agent/wire"
)

// Verdict of ChooseDisk. The zero value writes nothing.
type Verdict int

const (
	Fail Verdict = iota // no disk of this PC can take the image
	Ask                 // a person has to say
	Go                  // Choice.Disk is the one; who may approve it is another question
)

// Choice is what ChooseDisk found.
type Choice struct {
	Verdict    Verdict
	Disk       *wire.Disk  // with Go, and with Ask when there is only one
	Candidates []wire.Disk // every disk that could take the image
	Hold       Hold        // with Ask
	Reason     string      // with Ask and Fail: one sentence for a volunteer
	Next       string      // what to do about it
}

// mmcBoot are the boot and replay-protected areas of an eMMC chip. They show up
// as block devices of a few MiB beside the real disk; some firmware starts from
// them, and a write there can't be undone.
var mmcBoot = regexp.MustCompile(`^mmcblk[0-9]+(boot[0-9]+|rpmb|gp[0-9]+)$`)

// never says why a disk is never written, whatever anybody approves; empty: it
// is a candidate.
func never(d *wire.Disk) string {
	switch {
	case !strings.HasPrefix(d.Path, "/dev/") || path.Clean(d.Path) != d.Path:
		return "has no device of its own"
	case mmcBoot.MatchString(path.Base(d.Path)):
		return "is a boot area of an eMMC chip"
	case d.Transport == wire.TransportUSB:
		return "is a USB disk"
	case d.Removable:
		return "is removable"
	case d.ReadOnly:
		return "is read-only"
	case d.InUse != "":
		return "is in use: " + d.InUse
	case d.Bytes <= 0:
		return "gives no size"
	}
	return ""
}

// EraseCandidates are the disks that may be erased once a person has named one:
// all but those that are never written, whatever their size and block size.
func EraseCandidates(rep wire.Report) []wire.Disk {
	return slices.DeleteFunc(slices.Clone(rep.Disks), func(d wire.Disk) bool { return never(&d) != "" })
}

// ChooseDisk picks the disk for an image of need bytes whose partition table was
// made for logical blocks of block bytes.
func ChooseDisk(rep wire.Report, need int64, block int) Choice {
	var candidates, fit []wire.Disk
	var seen, misfit []string
	for _, d := range rep.Disks {
		if why := never(&d); why != "" {
			seen = append(seen, d.Path+" "+why)
			continue
		}
		candidates = append(candidates, d)
		if why := tooBad(&d, need, block); why != "" {
			misfit = append(misfit, why)
			continue
		}
		fit = append(fit, d)
	}
	switch {
	case len(candidates) == 0 && len(rep.HiddenStorage) > 0:
		// The PC may hold disks that nobody has seen: unknown, not zero.
		return Choice{
			Reason: "It is not known whether this PC has a disk: a controller in RAID mode hides the disks (" + few(rep.HiddenStorage) + ")",
			Next:   "In the firmware setup set the controller to AHCI and ask for imaging again",
		}
	case len(candidates) == 0 && len(seen) > 0:
		return Choice{
			Reason: "This PC has no disk that may be written: " + few(seen),
			Next:   "Put an internal disk in and ask for imaging again",
		}
	case len(candidates) == 0:
		return Choice{
			Reason: "No disk was found in this PC",
			Next:   "Put a disk in, or check its cable, and ask for imaging again",
		}
	case len(fit) == 0:
		return Choice{
			Reason: few(misfit),
			Next:   "Put another disk in, or choose another image, and ask for imaging again",
		}
	case alike(&rep, fit) != "":
		c := Choice{
			Verdict: Ask, Hold: HoldTwins, Candidates: fit,
			Reason: "Two disks of this PC give the same serial number or WWN, or one is seen twice: " + alike(&rep, fit),
			Next:   "Take one of them out and restart the PC, or choose the disk by its path on the device page and approve it",
		}
		if len(candidates) == 1 {
			c.Disk = &fit[0]
		}
		return c
	case len(candidates) > 1:
		// Even when only one of them fits: which disk is whose is for a person to say.
		names := make([]string, len(candidates))
		for i, d := range candidates {
			names[i] = d.Path + " (" + gigabytes(d.Bytes, 1) + ")"
		}
		return Choice{
			Verdict: Ask, Hold: HoldSeveral, Candidates: fit,
			Reason: fmt.Sprintf("This PC has %d disks: %s", len(candidates), few(names)),
			Next:   "Choose the disk on the device page and approve it",
		}
	case len(rep.HiddenStorage) > 0:
		return Choice{
			Verdict: Ask, Hold: HoldHidden, Disk: &fit[0], Candidates: fit,
			Reason: "This PC may have more disks than can be seen: a controller hides them (" + few(rep.HiddenStorage) + ")",
			Next:   "In the firmware setup set the controller to AHCI and restart the PC, or look inside and approve the disk on the device page",
		}
	case fit[0].Serial == "":
		return Choice{
			Verdict: Ask, Hold: HoldSerial, Disk: &fit[0], Candidates: fit,
			Reason: "The disk " + fit[0].Path + " gives no serial number",
			Next:   "Look that it is the right one and approve it on the device page",
		}
	}
	return Choice{Verdict: Go, Disk: &fit[0], Candidates: fit}
}

// tooBad says why a candidate can't take the image; empty: it can.
func tooBad(d *wire.Disk, need int64, block int) string {
	switch {
	case d.Bytes < need:
		has, wants := gigabytes(d.Bytes, 1), gigabytes(need, 1)
		for digits := 2; has == wants && digits <= 9; digits++ {
			has, wants = gigabytes(d.Bytes, digits), gigabytes(need, digits)
		}
		return fmt.Sprintf("The disk %s is too small: it has %s, the image needs %s", d.Path, has, wants)
	case d.LogicalBlock != block:
		// A partition table counts in logical blocks: written to a disk of
		// another block size it points to the wrong places.
		return fmt.Sprintf("The disk %s has logical blocks of %d bytes, the image was made for %d", d.Path, d.LogicalBlock, block)
	}
	return ""
}

// gigabytes are decimal, as on a disk's label.
func gigabytes(n int64, digits int) string {
	return fmt.Sprintf("%.*f GB", digits, float64(n)/1e9)
}

// few joins at most four things, so that a screen can show them.
func few(s []string) string {
	if len(s) > 4 {
		s = append(s[:4:4], fmt.Sprintf("%d more", len(s)-4))
	}
	return strings.Join(s, "; ")
}

// sameDisks reports whether two reports of one PC show the same disks.
func sameDisks(a, b *wire.Report) bool {
	return slices.EqualFunc(a.Disks, b.Disks, func(x, y wire.Disk) bool { return x.DiskID == y.DiskID })
}

// twin finds another disk of a report that can't be told from d by what an
// approval goes by: the path of it, or nothing. Two paths to one disk (multipath)
// look the same as two disks of one serial number. The boot areas of an eMMC chip
// carry the chip's own serial number and don't count.
func twin(rep *wire.Report, d wire.DiskID) string {
	self := false
	for _, x := range rep.Disks {
		switch {
		case x.Path == d.Path && !self:
			self = true
		case x.Path == d.Path:
			return x.Path
		case mmcBoot.MatchString(path.Base(x.Path)):
		case d.Serial != "" && strings.EqualFold(x.Serial, d.Serial), d.WWN != "" && strings.EqualFold(x.WWN, d.WWN):
			return x.Path
		}
	}
	return ""
}

// alike names two disks that can't be told apart, if one of them may be chosen.
func alike(rep *wire.Report, among []wire.Disk) string {
	for _, d := range among {
		if other := twin(rep, d.DiskID); other != "" {
			return d.Path + " and " + other
		}
	}
	return ""
}

// sameDisk reports whether an opened disk is the approved one. Its path may be
// another; without a serial number the path is all that tells two equal disks
// apart.
func sameDisk(approved, opened wire.DiskID) bool {
	switch {
	case approved.Bytes != opened.Bytes || approved.Serial != opened.Serial || approved.LogicalBlock != opened.LogicalBlock:
		return false
	case approved.Serial == "" && approved.Path != opened.Path:
		return false
	case approved.WWN != "" && opened.WWN != "" && approved.WWN != opened.WWN:
		return false
	}
	return true
}

// is reports whether a disk is the approved one.
func (a *Approval) is(d wire.DiskID) bool {
	return sameDisk(a.Disk, d) && (!a.ByPath || a.Disk.Path == d.Path)
}

// mayOpen reports whether the disk that an agent has opened is the approved one,
// in face of all the disks it has reported: a twin never stands for it, though
// the disk itself may have got another path.
func (a *Approval) mayOpen(rep *wire.Report, d wire.DiskID) bool {
	return a.is(d) && (a.Disk.Path == d.Path || twin(rep, d) == "" || twin(rep, a.Disk) == "")
}

// withdrawn says why an approval no longer holds in face of what the PC reports
// now; empty: it does. disk is the approved one, if it is still there.
func (a *Approval) withdrawn(rep *wire.Report, now time.Time) (disk *wire.Disk, why string) {
	if i := slices.IndexFunc(rep.Disks, func(x wire.Disk) bool { return a.is(x.DiskID) }); i >= 0 {
		disk = &rep.Disks[i]
	}
	switch {
	case a.expired(now):
		why = "The approval has expired after ten minutes"
	case disk == nil || never(disk) != "":
		why = "The approved disk is no longer there"
	case disk.Class != a.Class:
		why = "The approved disk now holds something else"
	case !a.ByPath && twin(rep, disk.DiskID) != "":
		why = "Another disk with the serial number or WWN of the approved one has appeared: " + twin(rep, disk.DiskID)
	}
	return disk, why
}

// serialTailMatches reports whether typed is what a person must copy from the disk's
// label: the last six characters of its serial number, all of a shorter one, or
// the path again if it has none.
func serialTailMatches(d wire.DiskID, typed string) bool {
	typed = strings.TrimSpace(typed)
	serial := []rune(strings.TrimSpace(d.Serial))
	if len(serial) == 0 {
		return typed == d.Path
	}
	if len(serial) > 6 {
		serial = serial[len(serial)-6:]
	}
	return strings.EqualFold(typed, strings.TrimSpace(string(serial))) // a space at the seam can't be typed
}
