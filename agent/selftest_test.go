package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/wire"
)

func TestStandstill(t *testing.T) {
	stat := filepath.Join(t.TempDir(), "stat")
	write := func(reads, writes, waiting, discards, flushes int) {
		s := fmt.Sprintf("%8d 7 7 7 %8d 7 7 7 %8d 7 7 %8d 7 7 7 %8d 7\n", reads, writes, waiting, discards, flushes)
		if err := os.WriteFile(stat, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	still := standstill(stat)
	for i, c := range []struct {
		reads, writes, waiting, discards, flushes int
		want                                      bool
	}{
		{10, 10, 3, 0, 0, false}, // nothing to compare it with
		{10, 11, 3, 0, 0, false},
		{10, 11, 3, 0, 0, false}, // once
		{10, 11, 2, 0, 0, true},  // twice
		{10, 11, 2, 0, 1, false}, // a flush has ended
		{10, 11, 2, 0, 1, false},
		{11, 11, 2, 0, 1, false},
		{11, 11, 0, 0, 1, false}, // it has nothing to do
		{11, 11, 0, 0, 1, false},
		{11, 11, 2, 0, 1, false},
		{11, 11, 2, 1, 1, false},
		{11, 11, 2, 1, 1, false},
		{11, 11, 2, 1, 1, true},
	} {
		write(c.reads, c.writes, c.waiting, c.discards, c.flushes)
		if got := still(); got != c.want {
			t.Errorf("look %d: %v", i, got)
		}
	}
	_ = os.Remove(stat)
	if still() {
		t.Error("a disk that isn't there stands still")
	}
}

// The job waits for the test at its end, and only a test that found something
// counts against the disk.
func TestJobWaitsForSelfTest(t *testing.T) {
	for _, c := range []struct {
		name   string
		result wire.SelfTest
		takes  time.Duration // 0: it sits in the kernel for ever
		stop   time.Duration // when the workshop stops the job
		err    string
		waits  time.Duration
		state  string
	}{
		{name: "passed", result: wire.SelfTest{State: wire.TestPassed}, takes: time.Minute, waits: time.Minute, state: wire.TestPassed},
		{name: "failed", result: wire.SelfTest{State: wire.TestFailed, Text: "reading failed"}, takes: time.Second, err: "self-test failed: reading failed", waits: time.Second, state: wire.TestFailed},
		{name: "unknown", result: wire.SelfTest{State: wire.TestUnknown}, takes: time.Second, waits: time.Second, state: wire.TestUnknown},
		{name: "unsupported", result: wire.SelfTest{State: wire.TestUnsupported}, takes: time.Nanosecond, waits: time.Nanosecond, state: wire.TestUnsupported},
		{name: "the drive sits in the kernel", waits: testTime, state: wire.TestUnknown},
		{name: "the job is stopped", result: wire.SelfTest{State: wire.TestAborted}, takes: time.Hour, stop: time.Second, err: "stopped by the workshop", waits: time.Second, state: wire.TestAborted},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				job, stop := context.WithCancelCause(t.Context())
				defer stop(nil)
				running, quit := context.WithCancel(t.Context())
				defer quit()
				rested := make(chan struct{})
				s := &selfTest{quit: quit, idle: func() { close(rested) }, done: make(chan struct{}), waits: new(atomic.Int64)}
				if c.takes > 0 {
					go func() {
						select {
						case <-time.After(c.takes):
						case <-running.Done():
						}
						s.result = c.result
						close(s.done)
					}()
				}
				if c.stop > 0 {
					time.AfterFunc(c.stop, func() { stop(errors.New("stopped by the workshop")) })
				}
				begun := time.Now()
				var told atomic.Int64 // to the screen
				time.AfterFunc(c.waits/2, func() { told.Store(s.waits.Load()) })
				err := s.good(job)
				if c.waits >= time.Second && told.Load() != begun.Add(testTime).Unix() {
					t.Errorf("it waits until %v, not %v", time.Unix(told.Load(), 0), begun.Add(testTime))
				}
				if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v, want %q", err, c.err)
				}
				if took := time.Since(begun); took != c.waits || s.waits.Load() != 0 {
					t.Errorf("waited %v; still waits until %v", took, s.waits.Load())
				}
				select {
				case <-rested:
				default:
					t.Error("the test was not told that the disk is free")
				}
				if got := s.end(); got.State != c.state {
					t.Errorf("%+v, want %s", got, c.state)
				}
			})
		})
	}
	var none *selfTest
	if none.good(t.Context()) != nil || none.end() != nil {
		t.Error("no drive, and yet a verdict")
	}
}
