package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"refurb/agent/wire"
	"refurb/images"
)

// memory is a disk that lives in RAM and may misbehave. Bytes that nobody wrote
// are filler, so what was left out shows.
type memory struct {
	block int
	// fault is asked before every operation, numbered from 1.
	fault func(n int, op string, off, length int64) trick

	mu      sync.Mutex
	data    []byte
	n       int
	writes  int
	wrong   []string // what no disk should ever be asked for
	excused bool     // the head could not be cleared: the disk no longer obeyed
	refused error    // why writing is not allowed yet
}

// trick is how an operation goes wrong.
type trick int

const (
	honest trick = iota
	drop         // says yes and does nothing
	flip         // changes one bit, on the disk or of what is read
	broken       // EIO
	full         // ENOSPC
)

const filler = 0xa5

func newMemory(size int64, block int) *memory {
	return &memory{block: block, data: bytes.Repeat([]byte{filler}, int(size))}
}

func (d *memory) Size() int64 { return int64(len(d.data)) }
func (d *memory) Block() int  { return d.block }

func (d *memory) step(op string, off, length int64) (trick, error) {
	d.n++
	if off < 0 || off+length > int64(len(d.data)) || off%int64(d.block) != 0 || length%int64(d.block) != 0 {
		d.wrong = append(d.wrong, fmt.Sprintf("%s of %d bytes at %d", op, length, off))
		return honest, unix.EINVAL
	}
	if op != "read" {
		d.writes++
		if d.refused != nil {
			d.wrong = append(d.wrong, op+": "+d.refused.Error())
		}
	}
	if d.fault == nil {
		return honest, nil
	}
	switch t := d.fault(d.n, op, off, length); t {
	case broken:
		return t, unix.EIO
	case full:
		return t, unix.ENOSPC
	default:
		return t, nil
	}
}

func (d *memory) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.step("read", off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	copy(p, d.data[off:])
	if t == flip || t == drop {
		p[len(p)/3] ^= 4
	}
	return len(p), nil
}

func (d *memory) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.step("write", off, int64(len(p)))
	if err != nil {
		copy(d.data[off:], p[:len(p)/2]) // a write that fails may still have done half
		return 0, err
	}
	if t != drop {
		copy(d.data[off:], p)
	}
	if t == flip {
		d.data[off+int64(len(p)/3)] ^= 4
	}
	return len(p), nil
}

func (d *memory) Zero(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.step("zero", off, n)
	if t != honest && off == 0 {
		d.excused = true
	}
	if err != nil {
		return err
	}
	if t != drop {
		clear(d.data[off : off+n])
	}
	if t == flip {
		d.data[off+n/3] ^= 4
	}
	return nil
}

func (d *memory) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err := d.step("sync", 0, 0)
	return err
}

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
	p := paint(t, 3, 5<<20, 512)
	p.m.Slots = []images.Slot{{Name: "checkin", Offset: 9 << 19, Length: images.SlotSize}}
	url := p.serve(t, nil)
	job := p.job(url)
	job.Streams = 2
	job.Slots = map[string][]byte{"checkin": []byte("{}")}

	d := newMemory(12<<20, 512)
	out, _ := Write(t.Context(), d, job, new(Meter))
	mustDone(t, out, p.m.Bytes)
	judge(t, p, d, job, out, false)
	ops := d.n
	for _, kind := range []trick{drop, flip, broken, full} {
		for at := 1; at <= ops; at++ {
			d := newMemory(12<<20, 512)
			hit := ""
			d.fault = func(n int, op string, off, length int64) trick {
				if n != at {
					return honest
				}
				hit = fmt.Sprintf("%s of %d at %d", op, length, off)
				return kind
			}
			out, _ := Write(t.Context(), d, job, new(Meter))
			judge(t, p, d, job, out, false)
			if strings.HasPrefix(hit, "sync") && (kind == drop || kind == flip) {
				continue // nothing is lost by it here
			}
			if out.Result == wire.Done {
				t.Errorf("fault %v at operation %d (%s) went unnoticed", kind, at, hit)
			}
			if t.Failed() {
				t.Fatalf("fault %v at operation %d (%s): %+v", kind, at, hit, out)
			}
		}
	}
}

// Faults of every kind, drawn by a seed: on the network, on the disk, and a stop
// at any moment.
func TestRandomFaults(t *testing.T) {
	var pictures []*picture
	for i, size := range []int64{9 << 20, 5<<20 + 512*7, 4 << 20, 6 << 20} {
		p := paint(t, uint64(i), size, 512)
		p.m.Slots = []images.Slot{{Name: "checkin", Offset: size - 2<<20, Length: images.SlotSize}}
		pictures = append(pictures, p)
	}
	p4096 := paint(t, 9, 5<<20, 4096)
	p4096.m.Slots = []images.Slot{{Name: "checkin", Offset: 9<<19 + 512, Length: images.SlotSize}}
	pictures = append(pictures, p4096)
	var mu sync.Mutex
	results := map[string]int{}
	var runs sync.WaitGroup
	seeds := make(chan uint64)
	for range 8 { // they wait more than they compute
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
	for seed := range uint64(300) {
		seeds <- seed
	}
	close(seeds)
	runs.Wait()
	t.Log(results)
	if results["done"] < 30 || results["failed"] < 60 {
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

	// One disk in two misbehaves once or from some moment on; one run in five is
	// stopped at some operation.
	first, kind, forever := 1+r.IntN(40), trick(1+r.IntN(4)), r.IntN(3) == 0
	if r.IntN(2) == 0 {
		first = 1 << 30
	}
	stopAt := 1 << 30
	if r.IntN(5) == 0 {
		stopAt = 1 + r.IntN(30)
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

	trouble := r.IntN(3) // of the network: none, some, much
	seed := r.Uint64()
	var requests sync.Mutex
	net := rand.New(rand.NewPCG(seed, 5))
	url := p.serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			requests.Lock()
			kind := -1
			if net.IntN(10) < 3*trouble {
				kind = net.IntN(8)
			}
			cut := net.IntN(1 << 20)
			requests.Unlock()
			misbehave(h, w, req, kind, cut)
		})
	})
	job := p.job(url)
	job.Stall, job.Patience = 60*time.Millisecond, 600*time.Millisecond
	job.Streams = 1 + r.IntN(4)
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
		t.Logf("disk: trick %d from operation %d, forever %v; stop at %d; network %d; %+v", kind, first, forever, stopAt, trouble, out)
	}
	return string(out.Result)
}

// misbehave answers a request in one of eight wrong ways, or as it should be.
func misbehave(h http.Handler, w http.ResponseWriter, req *http.Request, kind, cut int) {
	switch kind {
	case 0: // nothing at all
		panic(http.ErrAbortHandler)
	case 1: // a short body, then the connection breaks
		h.ServeHTTP(&limited{ResponseWriter: w, left: cut}, req)
		panic(http.ErrAbortHandler)
	case 2: // wrong bytes
		h.ServeHTTP(&limited{ResponseWriter: w, left: 1 << 40, flip: true}, req)
	case 3: // silence in the middle
		h.ServeHTTP(&limited{ResponseWriter: w, left: cut, silent: req.Context()}, req)
	case 4:
		http.Error(w, "busy", http.StatusServiceUnavailable)
	case 5: // not what was asked for
		req.Header.Set("Range", "bytes=0-99")
		h.ServeHTTP(w, req)
	case 6: // ranges ignored
		req.Header.Del("Range")
		h.ServeHTTP(w, req)
	case 7:
		http.NotFound(w, req)
	default:
		h.ServeHTTP(w, req)
	}
}

// limited spoils a body.
type limited struct {
	http.ResponseWriter
	left   int
	flip   bool
	silent context.Context
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		n, _ := l.ResponseWriter.Write(p[:l.left])
		l.left = 0
		if f, ok := l.ResponseWriter.(http.Flusher); ok {
			f.Flush()
		}
		if l.silent != nil {
			select {
			case <-l.silent.Done():
			case <-time.After(5 * time.Second):
			}
		}
		return n, io.ErrShortWrite
	}
	l.left -= len(p)
	if l.flip {
		p = bytes.Clone(p)
		p[len(p)/2] ^= 1
	}
	return l.ResponseWriter.Write(p)
}
