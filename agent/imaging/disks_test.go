package imaging

import (
	"bytes"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// memory is a disk that lives in RAM and may misbehave. Bytes that nobody wrote
// are filler, so what was left out shows.
type memory struct {
	block int
	// fault is asked before every operation, numbered from 1.
	fault func(n int, op string, off, length int64) trick

	mu      sync.Mutex
	data    []byte
	before  []byte // what each byte was before it was last written; nil: not kept
	durable []byte // as of the last sync; nil: not kept
	n       int
	writes  int
	reads   []int64  // where they began
	wrong   []string // what no disk should ever be asked for
	excused bool     // the head could not be cleared: the disk no longer obeyed
	refused error    // why writing is not allowed yet
	dead    bool     // it has no power
}

// trick is how an operation goes wrong.
type trick int

const (
	honest trick = iota
	drop         // says yes and does nothing
	flip         // changes one bit, on the disk or of what is read
	broken       // EIO
	full         // ENOSPC
	astray       // goes to another place
	stale        // a read gives what was there before
	dies         // the power is cut
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
	switch op {
	case "read":
		d.reads = append(d.reads, off)
	case "sync":
	default:
		d.writes++
		if d.refused != nil {
			d.wrong = append(d.wrong, op+": "+d.refused.Error())
		}
	}
	t := honest
	if d.fault != nil {
		t = d.fault(d.n, op, off, length)
	}
	if t == dies {
		d.dead = true
	}
	switch {
	case d.dead, t == broken:
		return broken, unix.EIO
	case t == full:
		return t, unix.ENOSPC
	}
	return t, nil
}

// away is another place for length bytes at off.
func (d *memory) away(off, length int64) int64 {
	room := (int64(len(d.data)) - length) / int64(d.block)
	if room == 0 {
		return off
	}
	return (off/int64(d.block) + 1 + int64(d.n*7919)%room) % (room + 1) * int64(d.block)
}

func (d *memory) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.step("read", off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	switch t {
	case astray:
		off = d.away(off, int64(len(p)))
	case stale:
		copy(p, d.before[off:])
		return len(p), nil
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
	if err != nil && !d.dead {
		copy(d.data[off:], p[:len(p)/2]) // a write that fails may still have done half
	}
	if err != nil {
		return 0, err
	}
	d.change(t, p, off)
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
	d.change(t, make([]byte, n), off)
	return nil
}

func (d *memory) change(t trick, p []byte, off int64) {
	if t == astray {
		off = d.away(off, int64(len(p)))
	}
	if t == drop || len(p) == 0 {
		return
	}
	if d.before != nil {
		copy(d.before[off:], d.data[off:off+int64(len(p))])
	}
	copy(d.data[off:], p)
	if t == flip {
		d.data[off+int64(len(p)/3)] ^= 4
	}
}

func (d *memory) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.step("sync", 0, 0)
	if err == nil && t != drop && d.durable != nil {
		copy(d.durable, d.data)
	}
	return err
}

// powerOn is the disk after a power cut: of each stretch that wasn't synced
// either the old content is there or the new one, as keep says.
func (d *memory) powerOn(keep func() bool) *memory {
	d.mu.Lock()
	defer d.mu.Unlock()
	again := newMemory(d.Size(), d.block)
	copy(again.data, d.durable)
	const stretch = 1 << 20
	for at := 0; at < len(d.data); at += stretch {
		if keep() {
			copy(again.data[at:], d.data[at:min(at+stretch, len(d.data))])
		}
	}
	return again
}

// smaller is a disk that has only the first real bytes of what it says. What
// lies behind them is at the start again, or nowhere and reads as zero.
type smaller struct {
	*memory
	real  int64
	wraps bool
}

func (s *smaller) ReadAt(p []byte, off int64) (int, error) {
	return s.fold(p, off, s.memory.ReadAt)
}

func (s *smaller) WriteAt(p []byte, off int64) (int, error) {
	return s.fold(p, off, s.memory.WriteAt)
}

func (s *smaller) Zero(off, n int64) error {
	_, err := s.WriteAt(make([]byte, n), off)
	return err
}

func (s *smaller) fold(p []byte, off int64, do func([]byte, int64) (int, error)) (int, error) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		if at >= s.real && !s.wraps {
			clear(p[done:])
			break
		}
		at %= s.real
		n := min(int64(len(p)-done), s.real-at)
		if _, err := do(p[done:done+int(n)], at); err != nil {
			return done, err
		}
		done += int(n)
	}
	return len(p), nil
}
