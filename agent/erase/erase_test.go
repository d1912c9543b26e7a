package erase

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/wire"
	"refurb/images"
)

var testSeed = strings.Repeat("5e", 32)

// erasure runs s through Run, in a bubble where hours take no time.
func erasure(t *testing.T, name string, s *sim, meddle func(*Job)) (e wire.Erasure, err error) {
	dir := filepath.Join(os.TempDir(), "refurb-erase-"+strconv.Itoa(os.Getpid()))
	synctest.Test(t, func(t *testing.T) {
		e, err = inBubble(t.Context(), dir, name, s, meddle)
	})
	os.RemoveAll(dir)
	return e, err
}

func inBubble(ctx context.Context, dir, name string, s *sim, meddle func(*Job)) (wire.Erasure, error) {
	s.freed = make(chan struct{})
	job := Job{Disk: s, Drive: s, Medium: mediumOf(name, s), Transport: s.transport, State: dir, Tool: "test",
		Want:  wire.Erase{Check: wire.CheckFull, Seed: testSeed},
		Begin: func(context.Context) error { return nil }}
	if s.transport == wire.TransportVirtio {
		job.Drive = nil
	}
	if meddle != nil {
		meddle(&job)
	}
	e, err := Run(ctx, job, &Meter{})
	close(s.freed)
	synctest.Wait()
	return e, err
}

func done(e wire.Erasure) (methods []string) {
	for _, s := range e.Steps {
		if s.Result == wire.Done {
			methods = append(methods, s.Method)
		}
	}
	return methods
}

// Every kind of drive is erased by the best that it has.
func TestKinds(t *testing.T) {
	for name, want := range map[string]struct {
		result wire.ErasureResult
		level  wire.Level
		done   []string
		except string
	}{
		"nvme, block":                 {wire.Erased, wire.LevelPurge, []string{nvmeBlock, zeroFill}, ""},
		"nvme, crypto and management": {wire.Erased, wire.LevelPurge, []string{nvmeCrypto, zeroFill}, ""},
		"nvme, format only":           {wire.Erased, wire.LevelClear, []string{nvmeFormatUser, zeroFill}, ""},
		"nvme, nothing":               {wire.ErasedExceptions, wire.LevelClear, []string{overwrite}, "flash holds cells back"},
		"ssd, sanitize":               {wire.Erased, wire.LevelPurge, []string{ataBlock, zeroFill}, ""},
		"ssd, security":               {wire.Erased, wire.LevelClear, []string{ataEnhanced, zeroFill}, ""},
		"ssd, frozen":                 {wire.ErasedExceptions, wire.LevelClear, []string{overwrite}, "flash holds cells back"},
		"hdd, sanitize":               {wire.Erased, wire.LevelPurge, []string{ataOverwrite}, ""},
		"hdd, security":               {wire.Erased, wire.LevelPurge, []string{ataEnhanced, zeroFill}, ""},
		"hdd, nothing":                {wire.Erased, wire.LevelClear, []string{overwrite}, ""},
		"sas ssd":                     {wire.Erased, wire.LevelPurge, []string{scsiBlock, zeroFill}, ""},
		"sas hdd":                     {wire.Erased, wire.LevelPurge, []string{scsiOverwrite}, ""},
		"virtual":                     {wire.Erased, wire.LevelClear, []string{overwrite}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := drives[name]()
			e, err := erasure(t, name, s, nil)
			if err != nil || e.Result != want.result || e.Level != want.level || !slices.Equal(done(e), want.done) ||
				!strings.Contains(strings.Join(e.Exceptions, "; "), want.except) || (want.except == "") != (len(e.Exceptions) == 0) {
				t.Fatalf("%+v, %v", e, err)
			}
			if e.Check.Bytes != s.Size() || e.Check.Mismatches+e.Check.Errors != 0 || !images.Zero(s.media) {
				t.Fatalf("the disk: %+v", e.Check)
			}
			for _, step := range e.Steps {
				if step.Result == wire.Done && (step.Command == "" || step.Code == "" || step.Started.IsZero() || step.Ended.IsZero()) ||
					step.Result == "" && step.Why == "" {
					t.Errorf("a step leaves something out: %+v", step)
				}
			}
			if s.enabled || s.locked {
				t.Error("the disk has a password")
			}
			if e.Tool != "test" || e.Medium == "" || e.Ended.Before(e.Started) {
				t.Errorf("%+v", e)
			}
		})
	}
	if len(drives) != 13 {
		t.Error("a kind is missing here")
	}
}

// A format never comes with SES 0, which erases nothing and succeeds.
func TestFormatAlwaysErases(t *testing.T) {
	s := drives["nvme, format only"]()
	s.fake = true
	e, _ := erasure(t, "nvme", s, nil)
	if !slices.Equal(s.formatSES, []uint32{1, 2}) {
		t.Fatalf("formats with SES %v", s.formatSES)
	}
	if e.Level != wire.LevelClear || e.Result != wire.ErasedExceptions || !slices.Equal(done(e), []string{overwrite}) {
		t.Fatalf("%+v", e)
	}
	for _, step := range e.Steps[3:5] {
		if step.Result != wire.Failed || !strings.Contains(step.Why, "unchanged") || step.Code != "SC=00h" {
			t.Errorf("%+v", step)
		}
	}
}

// Drives that report success and erase nothing.
func TestLiars(t *testing.T) {
	for name, make := range drives {
		t.Run(name, func(t *testing.T) {
			s := make()
			s.fake = true
			e, err := erasure(t, name, s, nil)
			if err != nil {
				t.Fatal(err)
			}
			if d := done(e); !slices.Equal(d, []string{overwrite}) || e.Level != wire.LevelClear {
				t.Fatalf("done %v, %+v", d, e)
			}
			if !images.Zero(s.media) {
				t.Fatal("not even written")
			}
		})
	}
	t.Run("writes too", func(t *testing.T) {
		s := drives["ssd, sanitize"]()
		s.fake = true
		dropping := func(j *Job) { j.Disk = dropper{s} }
		if e, err := erasure(t, "ssd", s, dropping); err != nil || e.Result != wire.NotErased || e.Level != wire.LevelNone {
			t.Fatalf("%+v, %v", e, err)
		}
	})
}

// dropper acknowledges writes and forgets them.
type dropper struct{ *sim }

func (dropper) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (dropper) Zero(_, _ int64) error                  { return nil }

func TestFallback(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    func(*sim)
		result wire.ErasureResult
		level  wire.Level
		why    map[string]string // what steps say
	}{
		{"nvme, block", func(s *sim) { s.willFail, s.oacs = true, 2 }, wire.NotErased, wire.LevelNone,
			map[string]string{nvmeBlock: "the drive says that it failed", nvmeFormatUser: "status 1D", overwrite: "can't be written"}},
		{"nvme, format only", func(s *sim) { s.namespaces = 2 }, wire.ErasedExceptions, wire.LevelClear,
			map[string]string{nvmeBlock: "the disk can't", nvmeFormatUser: "holds 2 disks"}},
		{"nvme, block", func(s *sim) { s.namespaces = 3 }, wire.ErasedExceptions, wire.LevelClear,
			map[string]string{nvmeBlock: "holds 3 disks", nvmeFormatUser: "holds 3 disks"}},
		{"ssd, frozen", func(s *sim) {}, wire.ErasedExceptions, wire.LevelClear,
			map[string]string{ataNormal: "frozen", ataBlock: "the disk can't"}},
		{"ssd, security", func(s *sim) { s.words[128] |= secExpired }, wire.ErasedExceptions, wire.LevelClear,
			map[string]string{ataNormal: "too many wrong passwords"}},
		{"hdd, security", func(s *sim) { s.willFail = true }, wire.Erased, wire.LevelClear,
			map[string]string{ataEnhanced: "status 51", ataNormal: "status 51", "ata security disable password": ""}},
		{"hdd, security", func(s *sim) { s.words[128] &^= secEnhanced }, wire.Erased, wire.LevelClear,
			map[string]string{ataEnhanced: "the disk can't", ataNormal: ""}},
		{"hdd, security", func(s *sim) { s.enabled, s.locked, s.password = true, true, "somebody's" }, wire.NotErased, wire.LevelNone,
			map[string]string{ataEnhanced: "locked", overwrite: "locked", "ata security disable password": "unlocking"}},
		{"hdd, security", func(s *sim) { s.enabled, s.locked, s.password = true, true, Password }, wire.Erased, wire.LevelPurge,
			map[string]string{"ata security disable password": "", ataEnhanced: ""}},
		{"sas ssd", func(s *sim) { s.willFail = true }, wire.NotErased, wire.LevelNone,
			map[string]string{scsiBlock: "failed", scsiCrypto: "failed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := drives[c.name]()
			c.set(s)
			e, err := erasure(t, c.name, s, nil)
			if err != nil || e.Result != c.result || e.Level != c.level {
				t.Fatalf("%+v, %v", e, err)
			}
			for method, why := range c.why {
				i := slices.IndexFunc(e.Steps, func(s wire.EraseStep) bool { return s.Method == method })
				if i < 0 || !strings.Contains(e.Steps[i].Why, why) {
					t.Errorf("%s should say %q: %+v", method, why, e.Steps)
				}
			}
			if s.password == Password && (s.enabled || s.locked) {
				t.Error("the disk has our password")
			}
		})
	}
}

// What is hidden is reported, and an exception where the method doesn't reach it.
func TestHidden(t *testing.T) {
	s := drives["hdd, nothing"]()
	s.native += 100
	s.dco = s.native + 50
	e, _ := erasure(t, "hdd", s, nil)
	if h := e.Hidden; h == nil || h.Native != s.Size()+100*512 || h.Real != h.Native+50*512 || h.Visible != s.Size() {
		t.Fatalf("%+v", h)
	}
	if e.Result != wire.ErasedExceptions || len(e.Exceptions) != 1 || !strings.Contains(e.Exceptions[0], fmt.Sprint(150*512)) {
		t.Fatalf("%+v", e)
	}
	s = drives["hdd, sanitize"]()
	s.native += 100
	if e, _ := erasure(t, "hdd", s, nil); e.Result != wire.Erased || e.Hidden.Native == 0 {
		t.Fatalf("%+v", e)
	}
}

// A command whose end nobody knows, and a status that can't be read, are unknown,
// and nothing else is tried while the drive may still be at it.
func TestUnknown(t *testing.T) {
	for _, name := range []string{"nvme, block", "ssd, sanitize", "sas ssd"} {
		s := drives[name]()
		s.polls = 1 << 30
		e, err := erasure(t, name, s, nil)
		if last := e.Steps[len(e.Steps)-1]; err != nil || e.Result != wire.ErasureUnknown || !strings.Contains(last.Why, "had not ended") || len(done(e)) > 0 {
			t.Fatalf("%s: %+v, %v", name, e, err)
		}
		s = drives[name]()
		s.faultAt = func(int) fault { // the status can't be read any more
			if s.sanitizing > 0 {
				return broken
			}
			return none
		}
		e, err = erasure(t, name, s, nil)
		if last := e.Steps[len(e.Steps)-1]; err != nil || e.Result != wire.ErasureUnknown || !strings.Contains(last.Why, "can't be read") {
			t.Fatalf("%s: %+v, %v", name, e, err)
		}
	}
}

// Stopped at any moment, a disk is never called erased.
func TestStopped(t *testing.T) {
	for name, make := range drives {
		clean := make()
		if _, err := erasure(t, name, clean, nil); err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= clean.calls; n++ {
			s := make()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				s.faultAt = func(call int) fault {
					if call == n {
						cancel(errors.New("stopped by Ana"))
					}
					return none
				}
				e, err := inBubble(ctx, t.TempDir(), name, s, nil)
				if err != nil {
					if err.Error() != "stopped by Ana" || len(e.Steps) > 0 {
						t.Errorf("%s, stopped at call %d: %v", name, n, err)
					}
					return
				}
				// At the very last call there is nothing left to stop.
				if e.Result == wire.Erased && n < clean.calls {
					t.Errorf("%s, stopped at call %d of %d: %+v", name, n, clean.calls, e)
				}
				if s.enabled {
					t.Errorf("%s, stopped at call %d: the disk has a password", name, n)
				}
			})
		}
	}
}

// honest fails when an erasure claims more than what is true of the disk.
func honest(t *testing.T, what string, s *sim, e wire.Erasure) {
	t.Helper()
	dirty := 0
	for at := 0; at < len(s.media); at += block {
		if !images.Zero(s.media[at:min(at+block, len(s.media))]) {
			dirty++
		}
	}
	switch e.Result {
	case wire.Erased:
		if dirty > 0 || len(e.Exceptions) > 0 {
			t.Errorf("%s: called erased with %d dirty blocks: %+v", what, dirty, e)
		}
		if e.Level == wire.LevelPurge && !images.Zero(s.spare) {
			t.Errorf("%s: called purged, but the spare cells hold data: %+v", what, e)
		}
	case wire.ErasedExceptions:
		if int64(dirty) > e.Check.Errors || len(e.Exceptions) == 0 {
			t.Errorf("%s: called erased with exceptions with %d dirty blocks: %+v", what, dirty, e)
		}
	case wire.NotErased, wire.ErasureUnknown:
	default:
		t.Errorf("%s: result %q", what, e.Result)
	}
	if s.enabled && s.password == Password && !s.gone && !strings.Contains(strings.Join(e.Exceptions, ""), Password) {
		t.Errorf("%s: the disk keeps our password and nobody is told: %+v", what, e)
	}
}

// Each call of each kind of drive fails in each way, one at a time.
func TestFaultAtEachCall(t *testing.T) {
	runs := 0
	for name, make := range drives {
		for _, fake := range []bool{false, true} {
			clean := make()
			clean.fake = fake
			if _, err := erasure(t, name, clean, nil); err != nil {
				t.Fatal(err)
			}
			for _, f := range faults {
				for n := 1; n <= clean.calls; n++ {
					if fake && f != lie && n%4 != 0 {
						continue // a drive that lies anyhow is asked a part of it
					}
					s := make()
					s.fake = fake
					s.faultAt = func(call int) fault {
						if call == n {
							return f
						}
						return none
					}
					e, err := erasure(t, name, s, nil)
					runs++
					if err == nil {
						honest(t, fmt.Sprintf("%s (fake %v), %v at call %d", name, fake, f, n), s, e)
					}
				}
			}
		}
	}
	t.Logf("%d runs", runs)
}

// Many calls fail, and the agent crashes and comes back. Reads may fail, but not
// tell wrong bytes: against a drive that erases nothing and shows zeroes nothing
// helps.
func TestManyFaults(t *testing.T) {
	names := slices.Sorted(func(yield func(string) bool) {
		for n := range drives {
			if !yield(n) {
				return
			}
		}
	})
	kinds := []fault{broken, late, refuse, stall}
	count := map[wire.ErasureResult]int{}
	for seed := range uint64(700) {
		r := rand.New(rand.NewPCG(seed, 7))
		name := names[r.IntN(len(names))]
		s := drives[name]()
		s.fake = r.IntN(3) == 0
		s.willFail = r.IntN(5) == 0
		rare := 2 + r.IntN(60)
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			var e wire.Erasure
			var err error
			for range 1 + r.IntN(3) {
				ctx, crash := context.WithCancel(t.Context())
				until := s.calls + r.IntN(80)
				s.faultAt = func(call int) fault {
					if call == until {
						crash()
					}
					if r.IntN(rare) == 0 {
						return kinds[r.IntN(len(kinds))]
					}
					return none
				}
				e, err = inBubble(ctx, dir, name, s, nil)
				crash()
			}
			if err == nil {
				count[e.Result]++
				honest(t, fmt.Sprintf("%s, seed %d", name, seed), s, e)
			}
		})
		if t.Failed() {
			return
		}
	}
	if len(count) != 4 {
		t.Errorf("results %v: too few kinds to mean something", count)
	}
	t.Log(count)
}

// An agent that crashes in the middle of a sanitize takes it up again and gives
// no second command.
func TestTakenUpAgain(t *testing.T) {
	for _, name := range []string{"nvme, block", "ssd, sanitize", "sas hdd"} {
		synctest.Test(t, func(t *testing.T) {
			s := drives[name]()
			s.polls = 20
			dir := t.TempDir()
			ctx, crash := context.WithTimeout(t.Context(), 9*time.Second)
			defer crash()
			e, err := inBubble(ctx, dir, name, s, nil)
			if err != nil || e.Result != wire.ErasureUnknown {
				t.Fatalf("%s: %+v, %v", name, e, err)
			}
			// A crash, unlike a stop, leaves no step behind.
			n, ok := load(dir, testSeed)
			if !ok {
				t.Fatal("no note")
			}
			last := n.Steps[len(n.Steps)-1]
			n.Steps, n.Method, n.Accepted = n.Steps[:len(n.Steps)-1], last.Method, true
			if err := n.save(dir); err != nil {
				t.Fatal(err)
			}
			given := len(s.everCommand)
			e, err = inBubble(t.Context(), dir, name, s, nil)
			if err != nil || e.Result != wire.Erased || e.Level != wire.LevelPurge {
				t.Fatalf("%s: %+v, %v", name, e, err)
			}
			for _, c := range s.everCommand[given:] {
				if c == "84h" || c == "48h" {
					t.Errorf("%s: given again", name)
				}
			}
			i := slices.IndexFunc(e.Steps, func(s wire.EraseStep) bool { return s.Method == last.Method })
			if !strings.Contains(e.Steps[i].Why, "started again") {
				t.Errorf("%+v", e.Steps[i])
			}
			// The note of one job is none for the next.
			if _, ok := load(dir, strings.Repeat("ab", 32)); ok {
				t.Error("another job's note")
			}
		})
	}
}

// A sanitize that runs already, as after a power cut, is waited for.
func TestRunningBefore(t *testing.T) {
	s := drives["nvme, block"]()
	s.sanitize(s.ones)
	s.sanitizing = 10
	e, err := erasure(t, "nvme", s, nil)
	if err != nil || e.Result != wire.Erased || !strings.Contains(e.Steps[0].Method, "waiting") {
		t.Fatalf("%+v, %v", e, err)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		why    string
		meddle func(*Job)
	}{
		{"the approval has expired", func(j *Job) { j.Begin = func(context.Context) error { return errors.New("the approval has expired") } }},
		{"seed", func(j *Job) { j.Want.Seed = "5e" }},
		{"which nobody knows", func(j *Job) { j.Want.Check = "" }},
		{"noting", func(j *Job) { j.State = filepath.Join("/proc/nothing/there") }},
	} {
		for name, make := range drives {
			s := make()
			was := bytes.Clone(s.media)
			e, err := erasure(t, name, s, c.meddle)
			if err == nil || !strings.Contains(err.Error(), c.why) || e.Result != "" || !bytes.Equal(was, s.media) {
				t.Fatalf("%s: %+v, %v", name, e, err)
			}
			for _, cmd := range s.everCommand {
				if slices.Contains([]string{"84h", "80h", "48h", "B4h", "F1h", "F3h", "F4h"}, cmd) {
					t.Fatalf("%s was given to %s", cmd, name)
				}
			}
		}
	}
}
