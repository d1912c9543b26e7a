package workshop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"refurb/agent/wire"
)

// Event takes one step that an agent says its job has made; when it returns nil,
// the step is stored. An event sent again is taken once. An agent that was
// restarted within the same start counts from 1 again, so a repeated step is
// known by its kind as well.
func (r *Registry) Event(ctx context.Context, token string, e wire.Event) error {
	if o := e.Outcome; o != nil && (o.Mismatches < 0 || o.ReadBack < 0 ||
		o.Erasure != nil && min(o.Erasure.Check.Bytes, o.Erasure.Check.Mismatches, o.Erasure.Check.Errors) < 0) {
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
		if again && e.Kind != wire.EventImaging && e.Kind != wire.EventErasing {
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
		case wire.EventImaging, wire.EventErasing:
			refusal, err = r.leave(d, j, token, e, again)
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

// leave is the last moment before the first write, or before the first command
// that destroys. A nil refusal is the leave to go on. An agent that was restarted
// asks again and gets it again.
func (r *Registry) leave(d *draft, j *Job, token string, e wire.Event, again bool) (refusal, err error) {
	running := again && j.State.Running()
	dev := r.devices[j.Device]
	switch {
	case (e.Kind == wire.EventErasing) != (j.Erase != nil):
		return nil, &Refusal{Kind: Conflict, Message: "That is not what this job is for", Next: "Ask for the plan again"}
	case j.State != Approved && !running:
		return nil, &Refusal{Kind: Conflict, Message: "The job is " + string(j.State) + ": nothing may be written", Next: j.Next}
	case e.Disk == nil:
		return nil, &Refusal{Kind: Invalid, Message: "The event names no disk"}
	case j.Approval == nil || j.Approval.Boot != j.Boot:
		return nil, &Refusal{Kind: Conflict, Message: "There is no approval for this start"}
	case !j.Approval.mayOpen(&dev.Report, *e.Disk):
		j.Reason = fmt.Sprintf("The agent opened another disk (%s, %d bytes, serial “%s”) than the approved one", e.Disk.Path, e.Disk.Bytes, e.Disk.Serial)
		j.Next = "Ask again and approve the right disk"
		refusal = &Refusal{Kind: Conflict, Message: j.Reason, Next: j.Next}
		line := Event{Reason: j.Reason, Result: "failed", Params: diskParams(e.Disk)}
		if running && j.Erase != nil {
			line.Result = "unknown" // what was begun on the approved one
		}
		return refusal, d.step(j, JobFailed, "appliance", line)
	case running:
		return nil, nil
	}
	line := Event{Params: diskParams(e.Disk)}
	if j.Erase != nil {
		line.Params["check"], line.Params["seed"] = string(j.Erase.Check), j.Erase.Seed
		return nil, d.step(j, Erasing, "agent", line)
	}
	j.CheckinHash = hashToken(checkinToken(token, j.ID))
	return nil, d.step(j, Imaging, "agent", line)
}

func diskParams(id *wire.DiskID) map[string]string {
	return map[string]string{
		"disk": id.Path, "serial": id.Serial, "wwn": id.WWN, "model": id.Model,
		"bytes": strconv.FormatInt(id.Bytes, 10), "logical_block": strconv.Itoa(id.LogicalBlock),
	}
}

// outcome ends a job. Only a proof makes it verified or erased; one that comes after the
// job has ended otherwise is written down and changes nothing.
func (r *Registry) outcome(d *draft, j *Job, e wire.Event) error {
	o := e.Outcome
	if o == nil {
		return &Refusal{Kind: Invalid, Message: "The event carries no outcome"}
	}
	doc, err := outcomeDoc(o)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(doc)
	line := Event{Evidence: hex.EncodeToString(sum[:]), Params: r.outcomeParams(j, o)}
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
	v := end(j, o)
	line.Reason, line.Result = v.reason, v.result
	j.Reason, j.Next, j.Outcome = Text(v.reason), v.next, o
	if err := d.step(j, v.to, "agent", line); err != nil {
		return err
	}
	if v.to == Erased || v.to == Verified {
		r.both(d, j)
	}
	if v.to == Erased && j.Erase.Install {
		// As if the one who approved the erasing had asked for an image after it.
		dev := d.device(j.Device)
		dev.Again, dev.AgainBy = true, j.Approval.By
		d.event(Event{Device: j.Device, Job: j.ID, Kind: "image_again", Actor: j.Approval.By, Reason: "It was asked for together with the erasing"})
	}
	return nil
}

// outcomeDoc is an outcome as it is kept. Escaping < for HTML here would blow a
// bounded message up to six times its size.
func outcomeDoc(o *wire.Outcome) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(o); err != nil {
		return nil, fmt.Errorf("writing the outcome down: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func (r *Registry) outcomeParams(j *Job, o *wire.Outcome) map[string]string {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	p := map[string]string{
		"result": string(o.Result), "cause": o.Cause, "phase": string(o.Phase), "warnings": strings.Join(o.Warnings, "; "),
	}
	if o.Disk != nil {
		p["disk"], p["serial"], p["bytes"] = o.Disk.Path, o.Disk.Serial, number(o.Disk.Bytes)
	}
	if t := o.SelfTest; t != nil {
		p["self_test"], p["self_test_text"] = t.State, t.Text
	}
	if j.Erase != nil {
		eraseParams(p, o.Erasure)
		return p
	}
	for k, v := range map[string]string{
		"root": o.Root, "raw": number(o.Raw), "fetched": number(o.Fetched), "written": number(o.Written), "read_back": number(o.ReadBack),
		"from_peers": number(o.FromPeers), "sent": number(o.Sent), "resumed": strconv.Itoa(o.Resumed),
		"mismatches": strconv.Itoa(o.Mismatches), "retries": strconv.Itoa(o.Retries), "streams": strconv.Itoa(o.Streams),
		"write_ms": number(o.WriteTime.Milliseconds()), "read_ms": number(o.ReadTime.Milliseconds()),
		"finish": strings.Join(o.Finish, "; "),
	} {
		p[k] = v
	}
	if o.Birth != "" {
		// Which of the two it is decides whether the paper may speak of a birth record.
		key := "birth_unexpected"
		if j.Approval != nil {
			if sum := sha256.Sum256(r.birth(r.devices[j.Device], j)); o.Birth == hex.EncodeToString(sum[:]) {
				key = "birth"
			}
		}
		p[key] = o.Birth
	}
	return p
}

// eraseParams are what the line itself says of an erasure; every step stands in
// the document behind it.
func eraseParams(p map[string]string, e *wire.Erasure) {
	if e == nil {
		return
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	p["erasure"], p["level"], p["medium"], p["transport"], p["tool"] = string(e.Result), string(e.Level), e.Medium, e.Transport, e.Tool
	p["check"], p["seed"], p["expect"] = string(e.Check.Kind), e.Check.Seed, e.Check.Expect
	p["read"], p["mismatches"], p["errors"] = number(e.Check.Bytes), number(e.Check.Mismatches), number(e.Check.Errors)
	p["exceptions"] = few(e.Exceptions)
	if !e.Started.IsZero() {
		p["started"], p["ended"] = e.Started.UTC().Format(time.RFC3339), e.Ended.UTC().Format(time.RFC3339)
	}
	for _, s := range e.Steps {
		if s.Result == wire.Done { // the last one that did something
			p["method"], p["bits"], p["command"], p["code"] = s.Method, s.Bits, s.Command, s.Code
		}
	}
	if h := e.Hidden; h != nil {
		p["visible"], p["native"], p["real"] = number(h.Visible), number(h.Native), number(h.Real)
	}
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
// addresses are known and neither is the device's, nor of a record merged with it.
func (r *Registry) fits(dev *Device, f wire.FirstBoot) bool {
	uuid, mac := plainUUID(f.UUID), cleanMAC(f.MAC)
	said, cards := false, 0
	for _, v := range r.group(r.root(dev.ID)) {
		theirs := identityOf(&v.Report, v.MACs).uuid
		if uuid != "" && uuid == theirs {
			return true
		}
		for _, n := range v.Report.NICs {
			if cards++; mac != "" && (cleanMAC(n.MAC) == mac || cleanMAC(n.Permanent) == mac) {
				return true
			}
		}
		said = said || theirs != ""
	}
	return (uuid == "" || !said) && (mac == "" || cards == 0)
}
