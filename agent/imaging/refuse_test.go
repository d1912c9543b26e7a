package imaging

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/images"
)

// What can't work is refused before the first write, with a cause and a step.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name        string
		change      func(p *picture, d *memory, j *Job)
		cause, next string
	}{
		{"disk too small", func(p *picture, d *memory, j *Job) { d.data = d.data[:4<<20] }, "too small", "larger disk"},
		{"one block too small", func(p *picture, d *memory, j *Job) { d.data = d.data[:5<<20-512] }, "too small", "larger disk"},
		{"blocks of 4096", func(p *picture, d *memory, j *Job) { d.block = 4096 }, "blocks of 4096 bytes, the image is made for 512", "image made for such disks"},
		{"slot too short", func(p *picture, d *memory, j *Job) {
			p.m.Slots = []images.Slot{{Name: "checkin", Offset: 2 << 20, Length: 512}}
			j.Slots = map[string][]byte{"checkin": make([]byte, 513)}
		}, "slot", "coordinator"},
		{"damaged table", func(p *picture, d *memory, j *Job) { p.raw[1024+40]++; p.pack(t, 512) }, "entries' checksum", "made again"},
		{"nothing that could grow", func(p *picture, d *memory, j *Job) { p.m.Grow = 3 }, "partition 3", "made again"},
		{"something behind what grows", func(p *picture, d *memory, j *Job) { p.m.Grow = 1 }, "partition 2 lies behind", "made again"},
		{"frame 0 is damaged on the appliance", func(p *picture, d *memory, j *Job) { p.frames[99]++ }, "image on the appliance is damaged: frame 0", "import it again"},
		{"may not start", func(p *picture, d *memory, j *Job) {
			j.Started = func(context.Context) error { return &wire.Error{Message: "not approved", Next: "approve it"} }
		}, "not approved", "approve it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := paint(t, 1, 5<<20, 512)
			d := newMemory(12<<20, 512)
			j := p.job(t)
			c.change(p, d, &j)
			j.Manifest = p.m
			out, table := Write(t.Context(), d, j, new(Meter))
			if out.Result != wire.Failed || table != nil || !strings.Contains(out.Cause, c.cause) || !strings.Contains(out.Next, c.next) {
				t.Errorf("%+v", out)
			}
			if d.writes > 0 || len(d.wrong) > 0 {
				t.Errorf("%d writes, %v", d.writes, d.wrong)
			}
		})
	}
}

// A later frame that is wrong on the appliance is fetched three times again,
// then blamed on the appliance.
func TestDamagedFrame(t *testing.T) {
	p := paint(t, 0, 17<<20, 512)
	last := p.m.Frames[len(p.m.Frames)-1]
	p.frames[last.Offset+last.Length/2] ^= 1
	d := newMemory(32<<20, 512)
	m := new(Meter)
	out, _ := Write(t.Context(), d, p.job(t), m)
	if out.Result != wire.Failed || !strings.Contains(out.Cause, "the image on the appliance is damaged: frame 4") || out.Retries != 4 {
		t.Fatalf("%+v", out)
	}
	judge(t, p, d, Job{}, out, false)
}

// A stop at any operation of the disk ends as failed with the reason.
func TestStopAnywhere(t *testing.T) {
	p := paint(t, 3, 5<<20, 512)
	run := func(stopAt int) (*memory, wire.Outcome) {
		ctx, stop := context.WithCancelCause(t.Context())
		defer stop(nil)
		d := newMemory(12<<20, 512)
		d.fault = func(n int, op string, off, length int64) trick {
			if n == stopAt {
				stop(errors.New("stopped by Ana"))
			}
			return honest
		}
		out, _ := Write(ctx, d, p.job(t), new(Meter))
		judge(t, p, d, Job{}, out, stopAt > 0)
		return d, out
	}
	d, _ := run(0)
	for at := 1; at <= d.n; at++ {
		if _, out := run(at); out.Result != wire.Failed || !strings.Contains(out.Cause, "stopped by Ana") {
			t.Fatalf("stop at operation %d: %+v", at, out)
		}
	}
	for _, phase := range []string{"started", "verifying"} {
		ctx, stop := context.WithCancelCause(t.Context())
		j := p.job(t)
		hook := func(ctx context.Context) error { stop(errors.New("stopped by Ana")); return nil }
		if phase == "started" {
			j.Started = hook
		} else {
			j.Verifying = hook
		}
		d := newMemory(12<<20, 512)
		out, _ := Write(ctx, d, j, new(Meter))
		judge(t, p, d, j, out, true)
		if out.Result != wire.Failed || phase == "started" && d.writes > 0 {
			t.Fatalf("stop when %s: %d writes, %+v", phase, d.writes, out)
		}
	}
}

// The stop comes while the head goes in, and then the disk doesn't obey: whoever
// reads the outcome has to know that this PC may start.
func TestStopAndNotUnsealed(t *testing.T) {
	p := paint(t, 3, 5<<20, 512)
	ctx, stop := context.WithCancelCause(t.Context())
	d := newMemory(12<<20, 512)
	sealed := false
	d.fault = func(n int, op string, off, length int64) trick {
		if op == "write" && off == 0 {
			sealed = true
			stop(&wire.Error{Message: "stopped by Ana", Next: "ask again"})
		}
		if sealed && op == "zero" {
			return broken
		}
		return honest
	}
	out, _ := Write(ctx, d, p.job(t), new(Meter))
	if out.Result != wire.Failed || !strings.Contains(out.Cause, "stopped by Ana") || !strings.Contains(out.Cause, "unbootable") || !strings.Contains(out.Next, "take the disk out") {
		t.Fatalf("%+v", out)
	}
}

// The head went in and the disk fails: the advice is not just to try another one.
func TestFailedAndNotUnsealed(t *testing.T) {
	p := paint(t, 3, 5<<20, 512)
	d := newMemory(12<<20, 512)
	sealed := false
	d.fault = func(n int, op string, off, length int64) trick {
		sealed = sealed || op == "write" && off == 0
		if sealed && op != "write" {
			return broken
		}
		return honest
	}
	out, _ := Write(t.Context(), d, p.job(t), new(Meter))
	if out.Result != wire.Failed || !strings.Contains(out.Cause, "the disk failed") || !strings.Contains(out.Next, "take the disk out") {
		t.Fatalf("%+v", out)
	}
}

// Slots may share a block of 4096 bytes; filling one must not undo another.
func TestSlotsInOneBlock(t *testing.T) {
	p := paint(t, 9, 5<<20, 4096)
	for i := range int64(3) {
		p.m.Slots = append(p.m.Slots, images.Slot{Name: "checkin", Offset: 9<<19 + 512 + i*2048, Length: 2048})
	}
	d := newMemory(12<<20, 4096)
	job := p.job(t)
	job.Slots = map[string][]byte{"checkin": []byte("{}")}
	out, _ := Write(t.Context(), d, job, new(Meter))
	judge(t, p, d, job, out, false)
	for _, s := range p.m.Slots {
		if got := d.data[s.Offset:][:s.Length]; !bytes.HasPrefix(got, []byte("{}  ")) || got[s.Length-1] != '\n' {
			t.Errorf("slot at %d is not filled: %.20q", s.Offset, got)
		}
	}
}

// A disk that is smaller than it says (a fake one, or one that is dying).
func TestShrinkingDisk(t *testing.T) {
	p := paint(t, 2, 9<<20, 512)
	for _, real := range []int64{2 << 20, 6 << 20, 10 << 20} {
		d := newMemory(12<<20, 512)
		d.fault = func(n int, op string, off, length int64) trick {
			if n > 3 && off+length > real && op != "sync" {
				return full
			}
			return honest
		}
		out, _ := Write(t.Context(), d, p.job(t), new(Meter))
		judge(t, p, d, Job{}, out, false)
		if out.Result != wire.Failed || !strings.Contains(out.Cause, "no space left") || !strings.Contains(out.Next, "another disk") {
			t.Fatalf("%+v", out)
		}
	}
}

// An image without a partition table, smaller than the head or as large as can
// be without a last MiB of its own.
func TestOddImages(t *testing.T) {
	for _, size := range []int64{512, images.Head, images.Head + 512, 2<<20 - 512, images.FrameSize, images.FrameSize + 512} {
		for _, room := range []int64{0, 512, 1 << 20, 5 << 20} {
			if size+room < images.Head {
				continue
			}
			p := &picture{raw: bytes.Repeat([]byte("x"), int(size))}
			p.pack(t, 512)
			d := newMemory(size+room, 512)
			j := p.job(t)
			out, _ := Write(t.Context(), d, j, new(Meter))
			mustDone(t, out, size)
			if !bytes.Equal(d.data[:size], p.raw) || len(d.wrong) > 0 {
				t.Fatalf("%d bytes on a disk of %d: wrong, %v", size, size+room, d.wrong)
			}
		}
	}
}

func TestProgressIsExact(t *testing.T) {
	p := paint(t, 5, 5<<20, 512)
	m := new(Meter)
	j := p.job(t)
	var at []wire.Progress
	j.Started = func(context.Context) error { at = append(at, m.Progress()); return nil }
	j.Verifying = j.Started
	Write(t.Context(), newMemory(12<<20, 512), j, m)
	at = append(at, m.Progress())
	if at[0].Phase != wire.PhaseImaging || at[0].Done != 0 || at[0].Total != 5<<20 ||
		at[1].Phase != wire.PhaseVerifying || at[2].Phase != wire.PhaseFinishing || at[2].Done != 5<<20 || at[2].Fetched != p.m.Compressed() {
		t.Fatalf("%+v", at)
	}
}
