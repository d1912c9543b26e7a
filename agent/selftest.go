package agent

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"refurb/agent/drive"
	"refurb/agent/health"
	"refurb/agent/wire"
)

// selfTest is the disk's own short test, beside a job that images it. Its verdict
// is wanted before the disk becomes one that starts.
type selfTest struct {
	quit   context.CancelFunc
	idle   func() // the disk has nothing else to do any more
	done   chan struct{}
	result wire.SelfTest // once done is closed
	waits  *atomic.Int64 // the Unix time until which the job, which has nothing else to do, waits; 0: it doesn't
}

// testTime is how long a job waits at most, however the disk behaves.
const testTime = 5 * time.Minute

// selfTest starts the test. It is nil where there is no drive to ask.
func (j *job) selfTest(ctx context.Context, d Disk) *selfTest {
	able, ok := d.(interface{ Drive() drive.Drive })
	if !ok {
		return nil
	}
	transport := wire.TransportOther
	for _, seen := range j.report.Disks {
		if seen.Path == d.ID().Path {
			transport = seen.Transport
		}
	}
	idle := make(chan struct{})
	t := &selfTest{done: make(chan struct{}), idle: sync.OnceFunc(func() { close(idle) }), waits: &j.testing}
	ctx, t.quit = context.WithCancel(ctx)
	go func() {
		defer close(t.done)
		t.result = health.SelfTest(ctx, able.Drive(), transport, idle, standstill(filepath.Join("/sys/block", filepath.Base(d.ID().Path), "stat")))
		j.log.Info("self-test", "disk", d.ID().Path, "state", t.result.State, "text", t.result.Text)
	}()
	return t
}

// good waits for the test, as everything else is done. Only a test that found
// something is an error.
func (t *selfTest) good(ctx context.Context) error {
	if t == nil {
		return nil
	}
	t.idle()
	t.waits.Store(time.Now().Add(testTime).Unix())
	defer t.waits.Store(0)
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	select {
	case <-t.done:
	case <-ctx.Done():
		if cause := context.Cause(ctx); cause != context.DeadlineExceeded {
			return cause
		}
		return nil // a drive that sits in the kernel: end says so
	}
	if t.result.State == wire.TestFailed {
		return &wire.Error{Message: "the disk's own self-test failed: " + t.result.Text, Next: "put another disk in"}
	}
	return nil
}

// end calls the test off if it still runs, and says how it went.
func (t *selfTest) end() *wire.SelfTest {
	if t == nil {
		return nil
	}
	t.quit()
	select {
	case <-t.done:
		return &t.result
	case <-time.After(20 * time.Second):
		return &wire.SelfTest{State: wire.TestUnknown, Text: "the disk doesn't say how it went"}
	}
}

// standstill gives a function that tells, when it is asked every few seconds,
// whether the disk has had something to do and got nothing done since it was
// asked before, twice running. stat is what the kernel counts of the disk:
// requests that were finished in fields 1, 5, 12 and 16, those that wait in 9
// (Documentation/block/stat.rst).
func standstill(stat string) func() bool {
	var finished, waiting int64
	still := 0
	return func() bool {
		b, err := os.ReadFile(stat)
		if err != nil {
			return false
		}
		var now, left int64
		for i, f := range strings.Fields(string(b)) {
			n, _ := strconv.ParseInt(f, 10, 64)
			switch i + 1 {
			case 1, 5, 12, 16:
				now += n
			case 9:
				left = n
			}
		}
		if still++; left == 0 || waiting == 0 || now != finished {
			still = 0
		}
		finished, waiting = now, left
		return still >= 2
	}
}
