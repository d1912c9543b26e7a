package imaging

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/images"
)

// A disk that is smaller than it says never makes a job done, wherever its real
// end lies, unless the missing part is none that the image needs.
func TestSmallerThanItSays(t *testing.T) {
	p := paint(t, 2, 13<<20, 512)
	for _, size := range []int64{13 << 20, 14<<20 + 512*77, 18 << 20} {
		reals := []int64{2 << 20, 4 << 20, 8 << 20, 16 << 20}
		r := rand.New(rand.NewPCG(uint64(size), 1))
		for range 8 {
			reals = append(reals, 1<<20+512*r.Int64N((size-1<<20)/512))
		}
		reals = append(reals, p.m.Bytes-512, p.m.Bytes-1<<20, p.m.Bytes, size-512)
		for k, real := range reals {
			for _, wraps := range []bool{true, false} {
				if real >= size || k%every > 0 {
					continue
				}
				rotational := k%3 == 0
				d := &smaller{newMemory(size, 512), real, wraps}
				job := p.job(t)
				job.flushBytes, job.Rotational = 1, rotational
				out, _ := Write(t.Context(), d, job, new(Meter))
				what := fmt.Sprintf("%d bytes that say they are %d, wraps %v, rotational %v: %+v", real, size, wraps, rotational, out)
				if out.Result == wire.Done {
					got := make([]byte, size)
					d.ReadAt(got, 0)
					if at := p.wrong(got, nil); real < p.m.Bytes || at >= 0 {
						t.Fatalf("done, byte %d is wrong: %s", at, what)
					}
					gptOf(t, got, 512)
					continue
				}
				if real < p.m.Bytes && !strings.Contains(out.Cause, "isn't as large as it says") && !strings.Contains(out.Cause, "not what was written") {
					t.Fatalf("no good reason: %s", what)
				}
				// A power of two shows at once, before any frame is written.
				if wraps && real&(real-1) == 0 && real < p.m.Bytes && (!strings.Contains(out.Cause, "isn't as large as it says") || d.writes > 10) {
					t.Fatalf("%d writes: %s", d.writes, what)
				}
			}
		}
	}
}

// The first frames are overwritten through a second address, after some of them
// were read early, or with nothing read early at all.
func TestOverwrittenAfterReading(t *testing.T) {
	// 14.5 MiB that say they are 24: no two of the first marks are in one place, so
	// only the head and the marks at the end can tell.
	p := paintFull(t, 6, 24<<20)
	for _, rotational := range []bool{false, true} {
		d := &smaller{newMemory(24<<20, 512), 29 << 19, true}
		job := p.job(t)
		job.flushBytes, job.Rotational = 1, rotational
		m := new(Meter)
		if !rotational {
			// Frames 1 and 2: frame 4 goes over the first of them.
			waitFor(t, job, func() bool { return m.readBack.Load() >= 2*images.FrameSize })
		}
		out, _ := Write(t.Context(), d, job, m)
		// What is read after that may already have been overwritten, too.
		seen := strings.Contains(out.Cause, "isn't as large as it says") || !rotational && strings.Contains(out.Cause, "not what was written")
		if out.Result != wire.Failed || !seen {
			t.Fatalf("%+v", out)
		}
		if !rotational && out.ReadBack < 2*images.FrameSize {
			t.Fatalf("only %d bytes were read early: this test shows nothing", out.ReadBack)
		}
	}
}

// waitFor hands each frame out when all those before are flushed, each by itself, and
// holds the last two back until ok, or until the job has ended.
func waitFor(t *testing.T, job Job, ok func() bool) {
	s := job.Source.(*shelf)
	last := len(s.todo) - 1
	l := lay(job.Manifest, 1<<40)
	flushed := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, f := range job.Manifest.Frames {
			if f.Length > 0 && !l.late(i) && !slices.Contains(s.todo, i) && !claimed(s.claims, i) {
				return false
			}
		}
		return true
	}
	s.next = func(ctx context.Context, n int) error {
		for end := time.Now().Add(time.Minute); ctx.Err() == nil && (!flushed() || n == last && !ok()); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Error("nothing was read back while frames were still to come")
				break
			}
		}
		return ctx.Err()
	}
}

// What was written and flushed is read back while the rest comes; the proof is
// complete all the same, and progress never goes back within a phase.
func TestReadsEarly(t *testing.T) {
	p := paintFull(t, 6, 25<<20)
	d := newMemory(32<<20, 512)
	job := p.job(t)
	job.flushBytes = 1
	m := new(Meter)
	waitFor(t, job, func() bool { return m.readBack.Load() >= 2*images.FrameSize })
	verifying := int64(-1)
	job.Verifying = func(context.Context) error {
		verifying = m.Progress().Done
		if m.written.Load() != p.m.Bytes-images.Head {
			t.Errorf("verifying begins with %d bytes written", m.written.Load())
		}
		return nil
	}
	out, _ := Write(t.Context(), d, job, m)
	judge(t, p, d, job, out, false)
	mustDone(t, out, p.m.Bytes)
	if verifying < 2*images.FrameSize || verifying > p.m.Bytes {
		t.Errorf("when verifying began, %d bytes were read back", verifying)
	}
}

// A frame that was read early and is lost later is caught by the sample, which
// takes all when they are few.
func TestSampleCatches(t *testing.T) {
	p := paintFull(t, 6, 25<<20)
	d := newMemory(32<<20, 512)
	job := p.job(t)
	job.flushBytes = 1
	m := new(Meter)
	waitFor(t, job, func() bool { return m.readBack.Load() >= 2*images.FrameSize })
	job.Verifying = func(context.Context) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		for i := 1; i < 6; i++ { // all that may have been read
			d.data[i*images.FrameSize+12345] ^= 1
		}
		return nil
	}
	out, _ := Write(t.Context(), d, job, m)
	judge(t, p, d, job, out, false)
	if out.Result != wire.Failed || out.Mismatches < 5 {
		t.Fatalf("%+v", out)
	}
}

func TestSample(t *testing.T) {
	list := make([]int, 1000)
	for i := range list {
		list[i] = i
	}
	a, b := sample(list, 32), sample(list, 32)
	if len(a) != 32 || slices.Equal(a, b) || len(sample(list[:5], 32)) != 5 || sample(nil, 32) != nil && len(sample(nil, 32)) != 0 {
		t.Errorf("%v %v", a, b)
	}
	slices.Sort(a)
	if len(slices.Compact(a)) != 32 {
		t.Error("one is there twice")
	}
}

// The image's last frame is short, and its memory is used again for others.
func TestShortFrameFirst(t *testing.T) {
	p := paintFull(t, 6, 53<<20)
	d := newMemory(56<<20, 512)
	job := p.job(t)
	job.flushBytes = 1
	slices.Reverse(job.Source.(*shelf).todo)
	out, _ := Write(t.Context(), d, job, new(Meter))
	judge(t, p, d, job, out, false)
	mustDone(t, out, p.m.Bytes)
	if out.Retries > 0 {
		t.Errorf("%d frames were fetched again", out.Retries)
	}
}

// A disk with a head that moves is written in its order, as far as frames come
// so, and read in its order after that.
func TestRotational(t *testing.T) {
	p := paintFull(t, 6, 25<<20)
	d := newMemory(32<<20, 512)
	job := p.job(t)
	job.flushBytes, job.Rotational = 1, true
	before := 0
	job.Verifying = func(context.Context) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		before = len(d.reads)
		return nil
	}
	d.fault = func(n int, op string, off, length int64) trick {
		if op == "read" && length == images.FrameSize && before == 0 {
			t.Errorf("read at %d while frames were written", off)
		}
		return honest
	}
	out, _ := Write(t.Context(), d, job, new(Meter))
	judge(t, p, d, job, out, false)
	mustDone(t, out, p.m.Bytes)
	frames := slices.DeleteFunc(slices.Clone(d.reads[before:]), func(at int64) bool { return at%images.FrameSize != 0 })
	frames = frames[1:] // the check of the head
	frames = frames[:len(frames)-1]
	if len(frames) != len(p.m.Frames) || !slices.IsSorted(frames) {
		t.Errorf("read at %v", frames)
	}
}

// Two marks never look the same, and none is zero.
func TestMarksDiffer(t *testing.T) {
	p := paint(t, 1, 5<<20, 512)
	l := lay(p.m, 64<<20)
	b := make([]byte, 2<<20)
	l.marks(b, 62<<20)
	seen := map[string]bool{string(make([]byte, 512)): true}
	for at := 0; at < len(b); at += 512 {
		if s := string(b[at : at+512]); seen[s] {
			t.Fatalf("the mark at %d is there twice", at)
		} else {
			seen[s] = true
		}
	}
	one := bytes.Clone(b[:512])
	other := lay(p.m, 65<<20)
	if other.mark(b[:512], 62<<20); bytes.Equal(one, b[:512]) {
		t.Error("disks of two sizes have the same mark")
	}
}
