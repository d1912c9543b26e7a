package workshop

import (
	"fmt"

	"refurb/agent/wire"
)

// ending is what an outcome makes of its job.
type ending struct {
	to           JobState
	result       string // of the line in the history: ok, failed or unknown
	reason, next string
}

// end judges an outcome. Only a proof ends a job well; a result that is missing or
// that nobody knows counts as unknown, and unknown as failed.
func end(j *Job, o *wire.Outcome) ending {
	good, why, again := Verified, unproven(j, o), "Ask for imaging again; if it happens twice, put the PC aside"
	if j.Erase != nil {
		good, why, again = Erased, unerased(j, o), "Erase it again; if it happens twice, take the disk out and destroy it"
	}
	e := ending{to: JobFailed, result: "unknown", reason: o.Cause, next: o.Next}
	switch {
	case o.Result == wire.Done && why == "":
		return ending{to: good, result: "ok"}
	case j.Erase != nil && o.Erasure != nil && o.Erasure.Result != wire.Erased:
		if r := o.Erasure.Result; (r == wire.ErasedExceptions || r == wire.NotErased) && (o.Result == wire.Done || o.Result == wire.Failed) {
			e.result = "failed"
		}
		if e.reason == "" {
			e.reason = notErased(o.Erasure)
		}
		if e.next == "" {
			e.next = again
		}
	case o.Result == wire.Done:
		e.result, e.next = "failed", again
		e.reason = "The agent reported success without proof: " + why
	case o.Result == wire.Failed:
		e.result = "failed"
	}
	if e.reason == "" {
		e.reason = "The agent gave no cause"
	}
	return e
}

func notErased(e *wire.Erasure) string {
	switch e.Result {
	case wire.ErasedExceptions:
		if len(e.Exceptions) > 0 {
			return "The disk was erased with exceptions: " + few(e.Exceptions)
		}
		return "The disk was erased with exceptions"
	case wire.NotErased:
		return "The disk was not erased"
	}
	return "Nobody knows whether the disk is erased"
}

// unproven says why an outcome that claims success doesn't prove it; empty: it
// does.
func unproven(j *Job, o *wire.Outcome) string {
	switch {
	case j.Erase != nil:
		return "the job was to erase"
	case j.State != Verifying:
		return "the job was " + string(j.State) + ", not reading back"
	case j.Bytes <= 0 || o.ReadBack != j.Bytes:
		return "not every byte was read back"
	case o.Mismatches != 0:
		return "what was read back differs from the image"
	case j.Image == "" || o.Root != j.Image:
		return "it names another image"
	case o.Disk != nil && (j.Approval == nil || !j.Approval.is(*o.Disk)):
		return "it names another disk"
	case o.SelfTest != nil && o.SelfTest.State == wire.TestFailed:
		return "the disk's own self-test failed"
	}
	return ""
}

// unerased says why an outcome that claims an erasure doesn't prove it; empty:
// it does.
func unerased(j *Job, o *wire.Outcome) string {
	e := o.Erasure
	switch {
	case j.Erase == nil:
		return "the job was to image"
	case j.State != Erasing:
		return "the job was " + string(j.State) + ", not erasing"
	case e == nil:
		return "it says nothing of the erasing"
	case e.Result != wire.Erased:
		return "the erasing itself says: " + string(e.Result)
	case o.Disk == nil || j.Approval == nil:
		return "it names no disk"
	case !j.Approval.is(*o.Disk):
		return "it names another disk"
	case len(e.Exceptions) > 0:
		return "it names exceptions: " + few(e.Exceptions)
	}
	if why := stepless(e); why != "" {
		return why
	}
	size := j.Approval.Disk.Bytes
	if h := e.Hidden; h != nil && e.Level != wire.LevelPurge && max(h.Native, h.Real) > size {
		// What is written through the interface reaches only what it shows.
		return fmt.Sprintf("%d bytes of the disk are hidden from the system", max(h.Native, h.Real)-size)
	}
	return unread(j.Erase, &e.Check, size)
}

// stepless says why the steps of an erasure don't bear out its level.
func stepless(e *wire.Erasure) string {
	best := wire.LevelNone
	for _, s := range e.Steps {
		switch {
		case s.Command != "" && s.Result != wire.Done && s.Result != wire.Failed:
			return "nobody knows how the step “" + s.Method + "” ended"
		case s.Result != wire.Done:
		case s.Command == "":
			return "the step “" + s.Method + "” is done without a command"
		case s.Level == wire.LevelPurge, s.Level == wire.LevelClear && best == wire.LevelNone:
			best = s.Level
		}
	}
	switch {
	case best == wire.LevelNone:
		return "no step of it erased anything"
	case e.Level != best:
		return "it claims to be a " + string(e.Level) + " and its steps amount to a " + string(best)
	}
	return ""
}

// unread says why the reading of an erased disk is no proof.
func unread(order *EraseOrder, c *wire.ReadCheck, size int64) string {
	switch {
	case c.Kind != wire.CheckFull && (c.Kind != wire.CheckSample || order.Check != wire.CheckSample):
		return "the disk was not read as it was asked"
	case c.Kind == wire.CheckSample && c.Seed != order.Seed:
		return "its samples were taken at other places than asked"
	case c.Expect != "zero":
		return "an erased disk should read as zeroes, and it looked for something else"
	case c.Bytes <= 0 || c.Bytes > size || c.Kind == wire.CheckFull && c.Bytes != size:
		return fmt.Sprintf("%d of %d bytes were read", c.Bytes, size)
	case c.Errors != 0:
		return "parts of the disk couldn't be read"
	case c.Mismatches != 0:
		return "parts of the disk still hold something"
	}
	return ""
}
