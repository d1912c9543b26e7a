package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"refurb/agent/exchange"
	"refurb/agent/wire"
	"refurb/images"
)

// judge checks what must hold however a run went.
func judge(t *testing.T, p *picture, d *memory, job Job, out wire.Outcome, cancelled bool) {
	t.Helper()
	if len(d.wrong) > 0 {
		t.Errorf("the disk was asked for what must not be: %v", d.wrong)
	}
	switch out.Result {
	case wire.Done:
		if cancelled {
			t.Error("done, although cancelled before")
		}
		mustDone(t, out, p.m.Bytes)
		if at := p.wrong(d.data, job.Slots); at >= 0 {
			t.Errorf("done, but byte %d is wrong", at)
		}
		tailAt := max(p.m.Bytes, d.Size()-tail)
		if rest := d.data[p.m.Bytes:tailAt]; !bytes.Equal(rest, bytes.Repeat([]byte{filler}, len(rest))) {
			t.Error("bytes outside the image were written")
		}
		if rest := d.data[tailAt:max(tailAt, d.Size()-int64(d.block)-128*128)]; !images.Zero(rest) {
			t.Error("marks are left in the last MiB")
		}
		if got := gptOf(t, d.data, d.block); got != d.Size()/int64(d.block)-1 {
			t.Errorf("the table ends at block %d", got)
		}
	case wire.Failed:
		if out.Cause == "" || out.Next == "" || strings.Contains(out.Cause, "\n") {
			t.Errorf("failed with cause %q, next %q", out.Cause, out.Next)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.writes > 0 && !d.excused && !images.Zero(d.data[:images.Head]) {
			t.Errorf("failed (%s), but the head is not zero", out.Cause)
		}
	default:
		t.Errorf("result %q", out.Result)
	}
}

// gptOf checks both tables by their own checksums and gives the backup's place.
func gptOf(t *testing.T, disk []byte, block int) int64 {
	t.Helper()
	primary := disk[block : 2*block]
	last := int64(le.Uint64(primary[32:]))
	backup := disk[last*int64(block):][:block]
	for _, h := range [][]byte{primary, backup} {
		sum := bytes.Clone(h[:92])
		clear(sum[16:20])
		array := disk[le.Uint64(h[72:])*uint64(block):][:128*128]
		if !bytes.HasPrefix(h, []byte("EFI PART")) || crc(sum) != le.Uint32(h[16:]) || crc(array) != le.Uint32(h[88:]) {
			t.Error("a table's checksum is wrong")
		}
	}
	return last
}

// Every kind of fault, once at each operation of a run.
func TestEveryDiskFault(t *testing.T) {
	p := paint(t, 3, 13<<20, 512)
	p.m.Slots = []images.Slot{{Name: "checkin", Offset: 9 << 19, Length: images.SlotSize}}
	run := func(t *testing.T, fault func(n int, op string, off, length int64) trick) (*memory, wire.Outcome) {
		job := p.job(t)
		job.flushBytes = 1
		job.Slots = map[string][]byte{"checkin": []byte("{}")}
		d := newMemory(18<<20, 512)
		d.before = bytes.Clone(d.data)
		d.fault = fault
		out, _ := Write(t.Context(), d, job, new(Meter))
		judge(t, p, d, job, out, false)
		return d, out
	}
	d, out := run(t, nil)
	mustDone(t, out, p.m.Bytes)
	for _, kind := range []trick{drop, flip, broken, full, astray, stale} {
		for at := 1 + int(kind)%every; at <= d.n; at += every {
			op, hit := "", ""
			_, out := run(t, func(n int, o string, off, length int64) trick {
				if n != at {
					return honest
				}
				op, hit = o, fmt.Sprintf("%s of %d at %d", o, length, off)
				return kind
			})
			harmless := hit == "" || op == "sync" && kind != broken && kind != full ||
				kind == stale || kind == astray && op == "read" // caught unless it is the same by chance
			if out.Result == wire.Done && !harmless {
				t.Errorf("fault %v at operation %d (%s) went unnoticed", kind, at, hit)
			}
			if t.Failed() {
				t.Fatalf("fault %v at operation %d (%s): %+v", kind, at, hit, out)
			}
		}
	}
}

// Faults of every kind, drawn by a seed: of the source, of the disk, and a stop
// at any moment.
func TestRandomFaults(t *testing.T) {
	var pictures []*picture
	for i, size := range []int64{13 << 20, 5<<20 + 512*7, 4 << 20, 18 << 20} {
		p := paint(t, uint64(i), size, 512)
		p.m.Slots = []images.Slot{{Name: "checkin", Offset: size - 2<<20, Length: images.SlotSize}}
		pictures = append(pictures, p)
	}
	p4096 := paint(t, 9, 9<<20, 4096)
	p4096.m.Slots = []images.Slot{{Name: "checkin", Offset: 9<<19 + 512, Length: images.SlotSize}}
	pictures = append(pictures, p4096)
	var mu sync.Mutex
	results := map[string]int{}
	var runs sync.WaitGroup
	seeds := make(chan uint64)
	for range 3 {
		runs.Go(func() {
			for seed := range seeds {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					r := rand.New(rand.NewPCG(seed, 99))
					result := randomRun(t, r, pictures[r.IntN(len(pictures))])
					mu.Lock()
					defer mu.Unlock()
					results[result]++
				})
			}
		})
	}
	for seed := uint64(0); seed < 300; seed += every {
		seeds <- seed
	}
	close(seeds)
	runs.Wait()
	t.Log(results)
	if results["done"]*every < 20 || results["failed"]*every < 50 {
		t.Errorf("%v: the faults are too many or too few to say anything", results)
	}
}

func randomRun(t *testing.T, r *rand.Rand, p *picture) string {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	size := p.m.Bytes + int64(r.IntN(8))*int64(p.m.Block)*100
	if r.IntN(2) == 0 {
		size += 5 << 20
	}
	d := newMemory(size, p.m.Block)
	d.before = bytes.Clone(d.data)

	// One disk in two misbehaves once or from some moment on; one run in five is
	// stopped at some operation.
	first, kind, forever := 1+r.IntN(50), trick(1+r.IntN(6)), r.IntN(3) == 0
	if r.IntN(2) == 0 {
		first = 1 << 30
	}
	stopAt := 1 << 30
	if r.IntN(5) == 0 {
		stopAt = 1 + r.IntN(40)
	}
	early := false // stopped while the job could still be stopped
	d.fault = func(n int, op string, off, length int64) trick {
		if n == stopAt {
			early = true
			cancel(errors.New("stopped by a test"))
		}
		if n == first || forever && n > first {
			return kind
		}
		return honest
	}
	d.refused = errors.New("before the job was allowed to begin")

	job := p.job(t)
	s := job.Source.(*shelf)
	trouble := r.IntN(3) // of the source: none, some, much
	net := rand.New(rand.NewPCG(r.Uint64(), 5))
	s.spoil = func(int, int) bool { return net.IntN(10) < 2*trouble }
	if trouble == 2 {
		end := 1 + r.IntN(10)
		s.next = func(_ context.Context, n int) error {
			if n >= end {
				return &exchange.Failure{Cause: errors.New("nothing comes"), Next: "look at the cable"}
			}
			return nil
		}
	}
	if r.IntN(2) == 0 { // as from a PC that has been at it for a while
		net.Shuffle(len(s.todo), func(i, j int) { s.todo[i], s.todo[j] = s.todo[j], s.todo[i] })
	}
	job.Rotational = r.IntN(3) == 0
	job.flushBytes = int64(r.IntN(6 << 20))
	job.Slots = map[string][]byte{"checkin": []byte(`{"url":"x"}`)}
	job.Started = func(context.Context) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.refused = nil
		return nil
	}
	out, _ := Write(ctx, d, job, new(Meter))
	judge(t, p, d, job, out, early)
	if t.Failed() {
		t.Logf("disk: trick %d from operation %d, forever %v; stop at %d; source %d; %+v", kind, first, forever, stopAt, trouble, out)
	}
	return string(out.Result)
}
