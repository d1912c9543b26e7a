package workshop

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"refurb/agent/wire"
)

// unfit says why a device may not be given to anybody; nil: it may. jobs are all
// of its own, oldest first. It may when
//   - nothing of it waits or runs,
//   - the newest image that was written to it was proved, on a disk that is still
//     in it and that no later job has touched,
//   - no other disk in it, as it was last seen, was left half erased or half
//     written, or holds anything that was neither erased nor imaged here,
//
// all since it last came back from somebody. A disk that was seen in another PC
// since is none of its own; elsewhere tells what happened to disks there.
func unfit(dev *Device, back map[string]bool, jobs []*Job, elsewhere func(*wire.Disk) away) error {
	no := func(message, next string) error { return &Refusal{Kind: Conflict, Message: message, Next: next} }
	look := func(message, next string) error {
		return &Refusal{Kind: Conflict, Message: message, Next: next, look: true}
	}
	returned := false
	var wrote []*Job // newest first
	var imaged *Job
	for _, j := range slices.Backward(jobs) {
		if returned = back[j.ID]; returned {
			break
		}
		switch {
		case j.State.Live():
			return no("A job of this PC waits or runs", "Wait until it is done, or cancel it")
		case !j.wrote():
			continue
		case imaged == nil && j.Erase == nil:
			imaged = j
		}
		wrote = append(wrote, j)
	}
	if imaged == nil && returned {
		return no("This PC came back since its disk was written", "Image it again")
	}
	if imaged == nil || !imaged.State.Proved() {
		return no("The disk of this PC has not been written and read back", "Image it first")
	}
	seen := false
	for i := range dev.Report.Disks {
		d := &dev.Report.Disks[i]
		if d.Transport == wire.TransportUSB || d.Removable || mmcBoot.MatchString(path.Base(d.Path)) {
			continue // it goes where it came from
		}
		there := elsewhere(d)
		ours := imaged.Approval.is(d.DiskID)
		switch {
		case there.in != 0 && ours:
			return look(fmt.Sprintf("The disk that was imaged was seen in PC %d since", there.in), "Put it back and start this PC from the network once, or image it again")
		case there.in != 0: // it may as well be another disk of the same number that is there
		case there.wrote != nil && ours:
			return no("The disk "+d.Path+" was erased or written in another PC after it was imaged", "Image it again")
		case there.wrote != nil && !there.wrote.State.Proved() && there.wrote.State != Erased:
			return look("Nobody knows what is on the disk "+d.Path+": its last job did not end well", "Erase it, or take it out and start the PC from the network once")
		}
		last := slices.IndexFunc(wrote, func(j *Job) bool { return j.Approval.is(d.DiskID) })
		switch {
		case last < 0 && (d.Class == wire.ClassBlank || d.Class == wire.ClassOurs):
		case there.in != 0 && (last < 0 || !wrote[last].State.Proved() && wrote[last].State != Erased):
			return look(fmt.Sprintf("A disk with the numbers of %s was seen in PC %d since: whether it is still in this one is not known", d.Path, there.in),
				"Start this PC from the network once")
		case last < 0:
			return look("The disk "+d.Path+" holds something and was neither erased nor imaged", "Erase it, or take it out and start the PC from the network once")
		case ours:
			if wrote[last] != imaged {
				return no("The disk "+d.Path+" was erased after it was imaged", "Image it again")
			}
			seen = true
		case !wrote[last].State.Proved() && wrote[last].State != Erased:
			return look("Nobody knows what is on the disk "+d.Path+": its last job did not end well", "Erase it, or take it out and start the PC from the network once")
		}
	}
	if !seen {
		return look("The disk that was imaged is no longer in this PC", "Put it back and start this PC from the network once, or image it again")
	}
	return nil
}

// giveable reports whether somebody may want to give a device away: it is done, and
// in the house.
func (r *Registry) giveable(dev *Device) bool {
	j := r.newest(dev.ID)
	return j != nil && j.State.Proved() && (dev.State.inWork() || dev.State == Reserved)
}

// looksAgain reports whether a start of a PC that is done gets the agent all the
// same: what was last seen in it stands against giving it away, and nobody would see
// that mended if it only ever started its own disk. The agent reports, is given
// nothing to do and sends the PC home; the start after that is its disk's, or a PC
// that begins with the network would go round for ever.
func (r *Registry) looksAgain(dev *Device, s Start, now time.Time) bool {
	return r.worthALook(dev) && !r.sentOn(dev.ID, s, now)
}

func (r *Registry) worthALook(dev *Device) bool {
	if !r.giveable(dev) {
		return false
	}
	no, ok := errors.AsType[*Refusal](r.unfit(dev))
	return ok && no.look
}

// unfit says why a device may not be given to anybody, in face of all that is known.
func (r *Registry) unfit(dev *Device) error {
	if dev.Unsure {
		return &Refusal{Kind: Conflict, Message: "Under which of its numbers this PC was seen last is not known, nor what is in it now", Next: "Start this PC from the network once", look: true}
	}
	back := map[string]bool{}
	for _, v := range r.group(dev.ID) {
		back[v.Back] = v.Back != ""
	}
	now := *dev
	now.Report = r.shownBy(dev).Report
	dev = &now
	return unfit(dev, back, r.jobsOf(dev.ID), func(d *wire.Disk) away { return r.awayOf(dev, d) })
}

// wrote reports whether a job had the leave to change its disk.
func (j *Job) wrote() bool {
	return j.Approval != nil && (slices.Contains(j.Taken, wire.EventImaging) || slices.Contains(j.Taken, wire.EventErasing))
}
