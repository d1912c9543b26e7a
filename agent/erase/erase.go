// Package erase erases whole disks, and believes no drive that it did.
//
// A disk is asked what it can (wire.Abilities), the ways are put in an order
// (Ladder), and the best one is taken; if it fails the next one. Around that:
//
//   - Before the first command some blocks are looked at, and after each method
//     again. A method that left one of them as it was counts as failed, whatever
//     the drive said: there are drives, and were tools, that report success and
//     erase nothing.
//   - A method that doesn't leave zeroes is followed by writing them, so that a
//     disk which is read afterwards has to be blank, all of it or at places that
//     a seed tells.
//   - A command whose end nobody knows makes the result unknown. So does a
//     status that can't be read.
//   - What is known to be out of reach is an exception: hidden areas, reallocated
//     sectors, the spare cells of flash that was only overwritten.
//
// Sources: NVM Express Base 2.0 (Sanitize, Format NVM, sanitize status log),
// ACS-4 and ATA8-ACS (SANITIZE DEVICE, security, HPA, DCO), SAT-4, SBC-4 and
// SPC-5 (SANITIZE, REPORT SUPPORTED OPERATION CODES, REQUEST SENSE), NIST SP
// 800-88 rev. 1.
package erase

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

// Job is one disk to be erased.
type Job struct {
	Disk      Disk
	Drive     drive.Drive // of the same disk; nil: it takes no commands
	Medium    Medium
	Transport string
	Want      wire.Erase
	State     string // a folder that outlives the agent but not the boot
	Tool      string
	// Begin is called before the first command that destroys; an error is a no.
	Begin  func(context.Context) error
	Before *wire.Health
	Health func(context.Context) *wire.Health // looks again at the end; may be nil
}

// run is one erasure.
type run struct {
	Job
	m       *Meter
	seed    []byte
	facts   *facts
	note    *note
	resumed bool
	stopped bool
	later   []wire.EraseStep
}

// Run erases the disk and reads it. It returns an error only when nothing was
// done to the disk; all else is in the result. When ctx ends, it stops where that
// is possible: a drive that erases itself goes on.
func Run(ctx context.Context, job Job, m *Meter) (wire.Erasure, error) {
	r := &run{Job: job, m: m}
	var err error
	if r.seed, err = hex.DecodeString(job.Want.Seed); err != nil || len(r.seed) != 32 {
		return wire.Erasure{}, errors.New("the plan's seed is no 32 bytes")
	}
	if c := job.Want.Check; c != wire.CheckFull && c != wire.CheckSample {
		return wire.Erasure{}, fmt.Errorf("the plan asks for the check %.20q, which nobody knows", c)
	}
	if job.Drive != nil {
		r.Drive = patient{job.Drive}
	}
	m.begin(wire.PhaseErasing, "asking the disk how it can be erased", 0)
	r.facts = ask(r.Drive, job.Transport)
	r.note, r.resumed = load(job.State, job.Want.Seed)
	if !r.resumed {
		r.look(ctx)
	}
	if ctx.Err() != nil {
		return wire.Erasure{}, context.Cause(ctx)
	}
	if err := r.note.save(job.State); err != nil {
		return wire.Erasure{}, err
	}
	if err := job.Begin(ctx); err != nil {
		return wire.Erasure{}, err
	}

	r.unlock(ctx)
	r.settle(ctx)
	hidden := r.facts.hidden(r.Drive, job.Disk.Size(), job.Disk.Block())
	e := wire.Erasure{Medium: string(job.Medium), Transport: job.Transport, Tool: job.Tool, Hidden: hidden,
		Before: job.Before, Started: r.note.Started}
	if r.Drive != nil {
		e.Abilities = &r.facts.Abilities
	}
	var expect int64
	if r.climb(ctx) {
		r.zero(ctx)
		if !r.stop(ctx) {
			e.Check, expect, err = check(ctx, job.Disk, job.Want, r.seed, m)
			if err != nil && !r.stop(ctx) {
				r.step(wire.EraseStep{Method: "reading", Level: wire.LevelNone, Why: short(err.Error())})
			}
		}
	}
	e.After = job.Before
	if job.Health != nil && !r.stopped {
		e.After = job.Health(ctx)
	}
	e.Steps, e.Ended = r.note.Steps, time.Now()
	e.Result, e.Level, e.Exceptions = judge(evidence{medium: job.Medium, steps: e.Steps, check: e.Check, expect: expect,
		hidden: hidden, before: e.Before, after: e.After, stopped: r.stopped, password: r.note.Password, unwritten: r.note.Unwritten, blind: r.note.Blind})
	return e, nil
}

func (r *run) look(ctx context.Context) {
	var dead int
	r.note.Marks, dead = look(ctx, r.Disk, r.seed)
	r.note.Blind = len(r.note.Marks) == 0 && dead > 0
}

// stop tells, and remembers, that ctx has ended before all was done.
func (r *run) stop(ctx context.Context) bool {
	if ctx.Err() != nil {
		r.stopped = true
	}
	return r.stopped
}

// step notes one. The note lies in memory: not to be able to write it would only
// make a crash of the agent begin anew.
func (r *run) step(s wire.EraseStep) {
	r.note.Steps = append(r.note.Steps, s)
	r.note.Method, r.note.Accepted = "", false
	_ = r.note.save(r.State)
}

// unlock takes away our password, which a power cut or a crash of this program
// left on the disk. One that isn't locked yet would be after the next power-off.
func (r *run) unlock(ctx context.Context) {
	s := r.facts.ATASecurity
	if !r.note.Password && (s == nil || *s&(secEnabled|secLocked) == 0) {
		return
	}
	if _, err := r.release(); err == nil {
		r.note.Password = false
	}
	r.note.Steps = append(r.note.Steps, r.later...)
	r.later = nil
	r.facts = ask(r.Drive, r.Transport)
	if len(r.note.Marks) == 0 && !r.resumed {
		r.look(ctx)
	}
}

// release takes our password away, if the disk has it. What it did is noted after
// the step in hand.
func (r *run) release() (did bool, err error) {
	started := time.Now()
	did, err = release(r.Drive)
	if !did && err == nil {
		return did, err
	}
	s := wire.EraseStep{Method: "ata security disable password", Level: wire.LevelNone, Result: wire.Done,
		Command: "F2h, F6h", Code: "word 128 bit 1=0", Started: started, Ended: time.Now()}
	if err != nil {
		s.Result, s.Code, s.Why = wire.Failed, codeOf(err), short(err.Error())
	}
	r.later = append(r.later, s)
	return did, err
}

// settle waits for a sanitize that somebody began earlier, perhaps we before a
// power cut: until it has ended the drive takes no other command. One that this
// job began is awaited where it belongs.
func (r *run) settle(ctx context.Context) {
	poll := r.facts.poll(r.Drive)
	if poll == nil || r.note.Method != "" {
		return
	}
	if st, err := poll(); err != nil || !st.running {
		return
	}
	s := wire.EraseStep{Method: "waiting for a sanitize that was running", Level: wire.LevelNone, Started: time.Now()}
	r.m.begin(wire.PhaseErasing, s.Method, r.Disk.Size())
	st, why := r.await(ctx, command{poll: poll, limit: 2 * bySize(r.Disk.Size())})
	s.Code, s.Why, s.Ended = st.code, why, time.Now()
	r.step(s)
	if len(r.note.Marks) == 0 && !r.resumed {
		r.look(ctx)
	}
}

// poll asks for the state of a sanitize, if the drive knows any.
func (f *facts) poll(d drive.Drive) func() (state, error) {
	switch {
	case f.NVMeSanitize != nil && *f.NVMeSanitize&7 != 0:
		return func() (state, error) {
			l, err := sanitizeLog(d)
			if err != nil {
				return state{}, err
			}
			return l.state(), nil
		}
	case f.ATASanitize != nil && *f.ATASanitize&sanSupported != 0:
		return func() (state, error) { return sanitizeStatus(d) }
	case f.SCSISanitize != nil && *f.SCSISanitize:
		return func() (state, error) { return scsiStatus(d) }
	}
	return nil
}

// climb takes the rungs in their order until one has erased the disk.
func (r *run) climb(ctx context.Context) (erased bool) {
	ended := map[string]bool{} // by an earlier run
	for _, s := range r.note.Steps {
		ended[s.Method] = true
		switch {
		case s.Result == wire.Unknown:
			return false
		case s.Level != wire.LevelNone && s.Result == wire.Done:
			erased = true
		}
	}
	for _, rung := range Ladder(r.Medium, r.facts.Abilities) {
		s := wire.EraseStep{Method: rung.Method, Level: rung.Level, Bits: rung.Bits}
		switch {
		case ended[rung.Method]:
			continue
		case erased:
			s.Why = "not needed"
		case !rung.Take:
			s.Why = rung.Why
		case r.stop(ctx):
			s.Why = "stopped before"
		default:
			s = r.take(ctx, s)
		}
		r.step(s)
		for _, l := range r.later {
			r.step(l)
		}
		r.later = nil
		switch s.Result {
		case wire.Done:
			erased = true
		case wire.Unknown: // the drive may still be at it: nothing else is tried
			return false
		}
	}
	return erased
}

// take climbs one rung.
func (r *run) take(ctx context.Context, s wire.EraseStep) wire.EraseStep {
	again := r.resumed && r.note.Method == s.Method
	accepted := again && r.note.Accepted
	if !again {
		r.note.Method, r.note.Since, r.note.Accepted = s.Method, time.Now(), false
	}
	s.Started = r.note.Since
	if err := r.note.save(r.State); err != nil {
		s.Why = short(err.Error())
		return s
	}
	if s.Method == overwrite {
		s = r.overwrite(ctx, s)
	} else {
		s = r.give(ctx, s, again, accepted)
	}
	s.Ended = time.Now()
	if s.Result == wire.Done {
		s = r.compare(ctx, s)
	}
	if again {
		s.Why = join("the program on this PC was started again in the middle", s.Why)
	}
	return s
}

// give gives a command and waits for its end.
func (r *run) give(ctx context.Context, s wire.EraseStep, again, accepted bool) wire.EraseStep {
	c := r.facts.command(s.Method, r.Drive, r.Disk.Size())
	s.Command = c.text
	total := int64(0)
	if c.poll != nil {
		total = r.Disk.Size()
	}
	r.m.begin(wire.PhaseErasing, fmt.Sprintf("%s; it may take up to %v", s.Method, c.limit.Round(time.Minute)), total)
	running := false
	if again && c.poll != nil {
		st, err := c.poll()
		running = err == nil && (st.running || accepted && st.result != "")
	}
	if !running {
		security := s.Method == ataEnhanced || s.Method == ataNormal
		if security {
			r.note.Password = true
			if err := r.note.save(r.State); err != nil {
				r.note.Password, s.Command, s.Why = false, "", short(err.Error())
				return s
			}
		}
		code, err := c.give()
		if security {
			code, err = r.unprotect(code, err)
		}
		s.Code = code
		if err != nil {
			s.Code, s.Why = codeOf(err), short(err.Error())
			s.Result = wire.Unknown
			if answered(err) {
				s.Result = wire.Failed
				return s
			}
			if c.poll == nil {
				return s
			}
			if st, err := c.poll(); err != nil || !st.running {
				return s
			}
			s.Result, s.Why = "", ""
		}
	}
	if c.poll == nil {
		s.Result = wire.Done
		return s
	}
	r.note.Accepted = true
	_ = r.note.save(r.State)
	st, why := r.await(ctx, c)
	s.Code, s.Result, s.Why = st.code, st.result, why
	return s
}

// unprotect sees to it that a disk which was given a password has none any more,
// however its erasing ended. One that says it has erased itself must not have one
// (ACS-4 §7.44).
func (r *run) unprotect(code string, err error) (string, error) {
	did, left := r.release()
	r.note.Password = left != nil
	switch {
	case err != nil:
		return code, err
	case left != nil:
		return code, fmt.Errorf("nobody knows whether the disk still has its password: %v", left)
	case did:
		return code, refusal("the drive reported success, but still had its password")
	}
	return code + ", word 128 bit 1=0", nil
}

const (
	pollTime  = 2 * time.Second
	maxMisses = 30 // statuses in a row that couldn't be read
)

// await polls until the drive has ended. A state without a result is unknown.
func (r *run) await(ctx context.Context, c command) (st state, why string) {
	unknown := func(format string, a ...any) (state, string) {
		st.result = wire.Unknown
		return st, short(fmt.Sprintf(format, a...))
	}
	deadline := time.Now().Add(c.limit)
	for misses := 0; ; {
		now, err := c.poll()
		switch {
		case err == nil && now.running:
			st, misses = now, 0
			r.m.part(now.percent)
		case err == nil && now.result == wire.Done:
			return now, ""
		case err == nil && now.result == wire.Failed:
			return now, "the drive says that it failed"
		case err == nil: // never begun, it says now, or nothing that is understood
			st = now
			return unknown("the drive took the command and knows of none")
		default:
			if misses++; misses >= maxMisses || gone(err) {
				return unknown("its status can't be read: %v", err)
			}
		}
		if time.Now().After(deadline) {
			return unknown("it had not ended after %v", c.limit)
		}
		if r.pause(ctx, pollTime); r.stop(ctx) {
			return unknown("stopped; the drive itself goes on")
		}
	}
}

func (r *run) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// overwrite writes zeroes as the way to erase.
func (r *run) overwrite(ctx context.Context, s wire.EraseStep) wire.EraseStep {
	s.Command = fmt.Sprintf("zeroes written to all %d bytes, one pass", r.Disk.Size())
	return r.fill(ctx, s, false)
}

// zero makes the disk read as zeroes where the method doesn't.
func (r *run) zero(ctx context.Context) {
	for _, s := range r.note.Steps {
		if s.Result == wire.Done && (s.Method == zeroFill || leavesZeroes(s.Method)) || r.stop(ctx) {
			return
		}
	}
	r.step(r.fill(ctx, wire.EraseStep{Method: zeroFill, Level: wire.LevelNone, Started: time.Now(),
		Command: fmt.Sprintf("zeroes to all %d bytes, so that what is read next proves something", r.Disk.Size())}, true))
}

func (r *run) fill(ctx context.Context, s wire.EraseStep, ranges bool) wire.EraseStep {
	r.m.begin(wire.PhaseErasing, "writing zeroes", r.Disk.Size())
	n, err := fill(ctx, r.Disk, ranges, r.m)
	r.note.Unwritten, s.Ended, s.Result = n, time.Now(), wire.Done
	if n > 0 {
		s.Why = fmt.Sprintf("%d blocks of %d bytes couldn't be written", n, block)
	}
	if err != nil {
		s.Result, s.Why = wire.Failed, short(err.Error())
	}
	r.stop(ctx)
	s.Code = "none"
	if err == nil {
		s.Code = "written and flushed"
	}
	return s
}

// compare looks whether the disk has changed at all. A disk may need a moment
// before it can be read again.
func (r *run) compare(ctx context.Context, s wire.EraseStep) wire.EraseStep {
	if len(r.note.Marks) == 0 {
		s.Why = join(s.Why, "the disk had shown nothing before that could be compared")
		return s
	}
	for try := 0; ; try++ {
		same, compared := unchanged(ctx, r.Disk, r.note.Marks)
		switch {
		case same > 0:
			s.Result = wire.Failed
			s.Why = fmt.Sprintf("the drive reported success, but %d of %d blocks that were looked at before are unchanged", same, compared)
			return s
		case compared > 0:
			return s
		case try == 3 || r.stop(ctx):
			s.Result, s.Why = wire.Unknown, "the disk can't be read after it"
			return s
		}
		r.pause(ctx, 5*time.Second)
	}
}

func join(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	}
	return a + "; " + b
}
