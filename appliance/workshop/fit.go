package workshop

import (
	"path"
	"slices"

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
// all since it last came back from somebody.
func unfit(dev *Device, jobs []*Job) error {
	no := func(message, next string) error { return &Refusal{Kind: Conflict, Message: message, Next: next} }
	var wrote []*Job // newest first
	var imaged *Job
	for _, j := range slices.Backward(jobs) {
		if j.ID == dev.Back && dev.Back != "" {
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
	if imaged == nil || !imaged.State.Proved() {
		return no("The disk of this PC has not been written and read back", "Image it first")
	}
	seen := false
	for _, d := range dev.Report.Disks {
		if d.Transport == wire.TransportUSB || d.Removable || mmcBoot.MatchString(path.Base(d.Path)) {
			continue // it goes where it came from
		}
		last := slices.IndexFunc(wrote, func(j *Job) bool { return j.Approval.is(d.DiskID) })
		switch {
		case last < 0 && (d.Class == wire.ClassBlank || d.Class == wire.ClassOurs):
		case last < 0:
			return no("The disk "+d.Path+" holds something and was neither erased nor imaged", "Erase it, or take it out and start the PC from the network once")
		case imaged.Approval.is(d.DiskID):
			if wrote[last] != imaged {
				return no("The disk "+d.Path+" was erased after it was imaged", "Image it again")
			}
			seen = true
		case !wrote[last].State.Proved() && wrote[last].State != Erased:
			return no("Nobody knows what is on the disk "+d.Path+": its last job did not end well", "Erase it, or take it out and start the PC from the network once")
		}
	}
	if !seen {
		return no("The disk that was imaged is no longer in this PC", "Put it back, or image the PC again")
	}
	return nil
}

// wrote reports whether a job had the leave to change its disk.
func (j *Job) wrote() bool {
	return j.Approval != nil && (slices.Contains(j.Taken, wire.EventImaging) || slices.Contains(j.Taken, wire.EventErasing))
}
