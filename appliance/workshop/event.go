package workshop

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"refurb/agent/wire"
)

// Event takes one step that an agent says its job has made; when it returns nil,
// the step is stored. An event sent again is taken once. An agent that was
// restarted within the same start counts from 1 again, so a repeated step is
// known by its kind as well.
func (r *Registry) Event(ctx context.Context, token string, e wire.Event) error {
	if o := e.Outcome; o != nil && (o.Mismatches < 0 || o.ReadBack < 0) {
		return &Refusal{Kind: Invalid, Message: "The outcome counts less than nothing"} // Clean would make a proof of it
	}
	Clean(&e)
	if e.Seq < 1 || e.Seq > maxEvents {
		return &Refusal{Kind: Invalid, Message: fmt.Sprintf("An event's sequence number is between 1 and %d", maxEvents)}
	}
	var refusal error // of an event that all the same changed the job
	err := r.decide(ctx, func(d *draft) error {
		b, err := r.enter(d, token)
		if err != nil {
			return err
		}
		old := r.jobs[e.Job]
		if old == nil || old.Device != b.Device || old.Boot != b.BootID {
			return &Refusal{Kind: Unauthorized, Message: "This is not a job of this start"}
		}
		again := e.Seq <= len(old.Taken) && old.Taken[e.Seq-1] == e.Kind
		if again && e.Kind != wire.EventImaging {
			return nil
		}
		if !again && e.Seq > len(old.Taken)+1 {
			return &Refusal{Kind: Conflict, Message: fmt.Sprintf("Event %d comes before event %d", e.Seq, len(old.Taken)+1), Next: "Send the events in order"}
		}
		// A restarted agent may fail earlier than before; it can't be done earlier.
		if failed := e.Outcome != nil && e.Outcome.Result != wire.Done; !again && e.Seq <= len(old.Taken) && !(e.Kind == wire.EventOutcome && failed) {
			return &Refusal{Kind: Conflict, Message: fmt.Sprintf("Event %d was another one", e.Seq)}
		}
		j := d.job(old.ID)
		switch e.Kind {
		case wire.EventImaging:
			refusal, err = r.imaging(d, j, token, e, again)
		case wire.EventVerifying:
			if j.State != Imaging {
				return &Refusal{Kind: Conflict, Message: "The job is " + string(j.State) + ", not imaging"}
			}
			err = d.step(j, Verifying, "agent", Event{})
		case wire.EventOutcome:
			err = r.outcome(d, j, e)
		default:
			return &Refusal{Kind: Invalid, Message: "An event “" + string(e.Kind) + "” is not known"}
		}
		if err != nil {
			return err
		}
		if !again && refusal == nil {
			j.Taken = append(j.Taken[:len(j.Taken):len(j.Taken)], e.Kind)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return refusal
}

// imaging is the last moment before the first write. A nil refusal is the leave
// to write.
func (r *Registry) imaging(d *draft, j *Job, token string, e wire.Event, again bool) (refusal, err error) {
	running := again && (j.State == Imaging || j.State == Verifying)
	switch {
	case j.State != Approved && !running:
		return nil, &Refusal{Kind: Conflict, Message: "The job is " + string(j.State) + ": nothing may be written", Next: j.Next}
	case e.Disk == nil:
		return nil, &Refusal{Kind: Invalid, Message: "The event names no disk"}
	case j.Approval == nil || j.Approval.Boot != j.Boot:
		return nil, &Refusal{Kind: Conflict, Message: "There is no approval for this start"}
	case !sameDisk(j.Approval.Disk, *e.Disk):
		j.Reason = fmt.Sprintf("The agent opened another disk (%s, %d bytes, serial “%s”) than the approved one", e.Disk.Path, e.Disk.Bytes, e.Disk.Serial)
		j.Next = "Ask for imaging again and approve the right disk"
		refusal = &Refusal{Kind: Conflict, Message: j.Reason, Next: j.Next}
		return refusal, d.step(j, JobFailed, "appliance", Event{Reason: j.Reason, Result: "failed", Params: diskParams(e.Disk)})
	case running:
		return nil, nil
	}
	j.CheckinHash = hashToken(checkinToken(token, j.ID))
	return nil, d.step(j, Imaging, "agent", Event{Params: diskParams(e.Disk)})
}

func diskParams(id *wire.DiskID) map[string]string {
	return map[string]string{
		"disk": id.Path, "serial": id.Serial, "wwn": id.WWN, "model": id.Model,
		"bytes": strconv.FormatInt(id.Bytes, 10), "logical_block": strconv.Itoa(id.LogicalBlock),
	}
}

// outcome ends a job. Only a proof makes it verified; one that comes after the
// job has ended otherwise is written down and changes nothing.
func (r *Registry) outcome(d *draft, j *Job, e wire.Event) error {
	o := e.Outcome
	if o == nil {
		return &Refusal{Kind: Invalid, Message: "The event carries no outcome"}
	}
	doc, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("writing the outcome down: %w", err)
	}
	sum := sha256.Sum256(doc)
	line := Event{Evidence: hex.EncodeToString(sum[:]), Params: outcomeParams(o)}
	d.documents = append(d.documents, Document{Hash: line.Evidence, JSON: doc})
	if !j.State.Live() {
		for _, k := range j.Taken {
			if k == wire.EventOutcome {
				return &Refusal{Kind: Conflict, Message: "The job has ended with another outcome"}
			}
		}
		line.Device, line.Job, line.Kind, line.Actor = j.Device, j.ID, "late_outcome", "agent"
		line.Reason = "The job had ended before: " + string(j.State)
		d.event(line)
		return nil
	}
	to := JobFailed
	switch o.Result {
	case wire.Done:
		if why := unproven(j, o); why != "" {
			line.Reason, line.Result = "The agent reported success without proof: "+why, "failed"
			j.Next = "Ask for imaging again; if it happens twice, put the PC aside"
			break
		}
		to, line.Result = Verified, "ok"
	case wire.Failed:
		line.Reason, line.Result = o.Cause, "failed"
		j.Next = o.Next
	default: // nobody can say is as good as failed, and says so
		line.Reason, line.Result = o.Cause, "unknown"
		j.Next = o.Next
	}
	if line.Reason == "" && to == JobFailed {
		line.Reason = "The agent gave no cause"
	}
	j.Reason, j.Outcome = Text(line.Reason), o
	if to == Verified {
		j.Next = ""
	}
	return d.step(j, to, "agent", line)
}

func outcomeParams(o *wire.Outcome) map[string]string {
	p := map[string]string{
		"result": string(o.Result), "cause": o.Cause, "phase": string(o.Phase), "root": o.Root,
		"raw": strconv.FormatInt(o.Raw, 10), "fetched": strconv.FormatInt(o.Fetched, 10),
		"written": strconv.FormatInt(o.Written, 10), "read_back": strconv.FormatInt(o.ReadBack, 10),
		"from_peers": strconv.FormatInt(o.FromPeers, 10), "sent": strconv.FormatInt(o.Sent, 10), "resumed": strconv.Itoa(o.Resumed),
		"mismatches": strconv.Itoa(o.Mismatches), "retries": strconv.Itoa(o.Retries), "streams": strconv.Itoa(o.Streams),
		"write_ms": strconv.FormatInt(o.WriteTime.Milliseconds(), 10), "read_ms": strconv.FormatInt(o.ReadTime.Milliseconds(), 10),
		"finish": strings.Join(o.Finish, "; "), "warnings": strings.Join(o.Warnings, "; "),
	}
	if o.Disk != nil {
		p["disk"], p["serial"], p["bytes"] = o.Disk.Path, o.Disk.Serial, strconv.FormatInt(o.Disk.Bytes, 10)
	}
	return p
}

// Checkin takes the word of an installed system that it has started from its
// own drive. The token is good for one job and for the PC it was written in.
func (r *Registry) Checkin(ctx context.Context, token string, f wire.FirstBoot) error {
	Clean(&f)
	var refusal error
	err := r.decide(ctx, func(d *draft) error {
		old := r.jobs[r.checkins[hashToken(token)]]
		if old == nil {
			return &Refusal{Kind: Unauthorized, Message: "This check-in token is not known"}
		}
		switch old.State {
		case FirstBoot:
			return nil
		case Verified:
		case Verifying, JobLost:
			return &Refusal{Kind: Busy, Message: "The outcome of the job is not stored yet", Next: "Try again in a minute"}
		default:
			return &Refusal{Kind: Conflict, Message: "The job is " + string(old.State) + ", not verified"}
		}
		line := Event{Params: map[string]string{
			"system": f.System, "kernel": f.Kernel, "root": f.Root, "mac": f.MAC, "uuid": f.UUID, "firmware": f.Mode,
		}}
		if !r.fits(r.devices[old.Device], f) {
			refusal = &Refusal{Kind: Conflict, Message: "The check-in came from another PC than the one that was imaged"}
			if r.strange[old.ID] {
				return nil
			}
			r.strange[old.ID] = true
			line.Device, line.Job, line.Kind, line.Actor = old.Device, old.ID, "checkin", "system"
			line.Result, line.Reason = "failed", refusal.Error()
			d.event(line)
			return nil
		}
		line.Result = "ok"
		return d.step(d.job(old.ID), FirstBoot, "system", line)
	})
	if err != nil {
		return err
	}
	return refusal
}

// fits reports whether a check-in may come from a device: not if both its
// addresses are known and neither is the device's.
func (r *Registry) fits(dev *Device, f wire.FirstBoot) bool {
	theirs := identityOf(&dev.Report, dev.MACs).uuid
	uuid, mac := strings.ToLower(f.UUID), cleanMAC(f.MAC)
	if filler(uuid) || theirs == "" {
		uuid = ""
	}
	if uuid != "" && (uuid == theirs || swapUUID(uuid) == theirs) {
		return true
	}
	for _, n := range dev.Report.NICs {
		if mac != "" && (cleanMAC(n.MAC) == mac || cleanMAC(n.Permanent) == mac) {
			return true
		}
	}
	return uuid == "" && (mac == "" || len(dev.Report.NICs) == 0)
}
