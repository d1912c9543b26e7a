package health

import (
	"context"
	"errors"
	"fmt"
	"time"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

// tester is how one kind of drive tests itself.
type tester interface {
	able() error                   // nil: it can
	start() (time.Duration, error) // how long the drive thinks it takes; 0: it doesn't say
	look() (latest, error)
	abort() error
}

// latest is what a drive says of its self-tests.
type latest struct {
	running bool
	now     wire.SelfTest  // the newest one as the drive remembers it; no state: only the log tells
	logged  *wire.SelfTest // the newest one in the log
	log     string         // as read, to see whether it has changed
}

// after is how a test ended that began when the log was before; seen tells
// whether it was seen running.
func (l latest) after(before string, seen bool) (wire.SelfTest, bool) {
	changed := l.log != before
	switch {
	case !seen && !changed: // nothing was done
	case l.now.State != "":
		return l.now, true
	case changed && l.logged != nil:
		return *l.logged, true
	}
	return wire.SelfTest{}, false
}

func testerOf(d drive.Drive, transport string) tester {
	switch transport {
	case wire.TransportNVMe:
		return nvmeTest{d}
	case wire.TransportSATA:
		return ataTest{d}
	case wire.TransportSCSI:
		return scsiTest{d}
	}
	return nil
}

const (
	lookBeside = 10 * time.Second // between two looks while the disk is at work
	lookIdle   = 2 * time.Second
	// How long a disk that has nothing else to do may take, whatever it says.
	leastWait = 2 * time.Minute
	mostWait  = 4 * time.Minute
	maxMisses = 3 // looks in a row that may fail
)

// SelfTest runs the drive's short self-test and returns when it has ended. The
// disk may be at work meanwhile: drives put the test off for that. When idle is
// closed, that work is over, and the test gets the time that the drive itself
// says it takes, but two minutes at least and four at most. It is called off when ctx ends
// or when stalled, asked every ten seconds until then, says that the disk does
// no work any more.
//
// Passed means that the drive ran it and found nothing. A test that is called
// off, or of which the drive shows no trace, is never passed.
func SelfTest(ctx context.Context, d drive.Drive, transport string, idle <-chan struct{}, stalled func() bool) (result wire.SelfTest) {
	defer func() {
		if v := recover(); v != nil { // the job beside it goes on
			result = wire.SelfTest{State: wire.TestUnknown, Text: text(fmt.Sprintf("reading it went wrong: %v", v))}
		}
	}()
	t := testerOf(d, transport)
	if t == nil {
		return wire.SelfTest{State: wire.TestUnsupported, Text: "a disk of this kind has no self-test"}
	}
	begun := time.Now()
	r := run{tester: t}
	if r.begin() {
		r.follow(ctx, idle, stalled)
	}
	r.test.Started, r.test.Ended = begun, time.Now()
	return r.test
}

// run is one self-test.
type run struct {
	tester
	test   wire.SelfTest // how it ended
	before string        // the log, before it began
	ran    bool          // it was seen running
	wait   time.Duration // for a disk that is idle
}

func (r *run) end(state, format string, a ...any) {
	r.test = wire.SelfTest{State: state, Text: text(fmt.Sprintf(format, a...))}
}

// begin starts the test, unless one is running: that of an agent that crashed in
// this boot.
func (r *run) begin() bool {
	if err := r.able(); err != nil {
		r.refused(err)
		return false
	}
	now, err := r.look()
	if err != nil {
		r.refused(err)
		return false
	}
	r.before, r.ran = now.log, now.running
	if !now.running {
		if r.wait, err = r.start(); err != nil {
			r.refused(err)
			return false
		}
	}
	r.wait = min(max(r.wait, leastWait), mostWait)
	return true
}

func (r *run) refused(err error) {
	if errors.Is(err, errNoSelfTest) || drive.Refused(err) {
		r.end(wire.TestUnsupported, "%v", err)
		return
	}
	r.end(wire.TestUnknown, "it could not be started: %v", err)
}

// callOff stops the test; that the drive obeys is not waited for.
func (r *run) callOff(state, format string, a ...any) {
	r.end(state, format, a...)
	if err := r.abort(); err != nil {
		r.test.Text = text(r.test.Text + "; the disk refused to stop it: " + err.Error())
	}
}

func (r *run) follow(ctx context.Context, idle <-chan struct{}, stalled func() bool) {
	tick := time.NewTicker(lookBeside)
	defer tick.Stop()
	var late <-chan time.Time
	misses := 0
	for {
		select {
		case <-ctx.Done():
			r.callOff(wire.TestAborted, "the job ended before it")
			return
		case <-late:
			r.callOff(wire.TestUnknown, "it was still running %v after the job", r.wait)
			return
		case <-idle:
			idle, stalled = nil, func() bool { return false }
			tick.Reset(lookIdle)
			timer := time.NewTimer(r.wait)
			defer timer.Stop()
			late = timer.C
		case <-tick.C:
		}
		now, err := r.look()
		switch {
		case err != nil:
			if misses++; misses == maxMisses {
				r.end(wire.TestUnknown, "the disk doesn't say how it went: %v", err)
				return
			}
			continue
		case !now.running:
			var traced bool
			if r.test, traced = now.after(r.before, r.ran); !traced {
				r.end(wire.TestUnknown, "the disk took the command, but shows no trace of a test")
			}
			return
		case stalled():
			r.callOff(wire.TestAborted, "called off: the disk stood still beside it")
			return
		}
		misses, r.ran = 0, true
	}
}
