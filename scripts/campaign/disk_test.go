package campaign

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"refurb/agent/disk"
	"refurb/agent/wire"
	"refurb/images"
)

// medium is one disk of the PC: what it holds in truth, and a memory of its own
// that a power cut empties.
type medium struct {
	w    *world
	name string
	wire.Disk
	victim bool // the faults are for this one

	mu        sync.Mutex
	data      []byte   // as reads see it
	durable   []byte   // as of the last flush
	before    []byte   // what each byte was before it was last written
	pending   []extent // written since the last flush
	gone      atomic.Bool
	*firmware // nil: it takes no commands
	writes    int
	// echo makes the disk give back what was written to it although it keeps
	// something else: no program can find that out. Only tests of the oracle set it.
	echo []byte
}

type extent struct{ off, n int64 }

func (w *world) drive(name, path string, size int64, block int) *medium {
	d := &medium{w: w, name: name, data: make([]byte, size)}
	d.DiskID = wire.DiskID{Path: path, Serial: fmt.Sprintf("CAMPAIGN-%06X", crc32.ChecksumIEEE([]byte(name))&0xffffff), Model: "Campaign " + name, Bytes: size, LogicalBlock: block}
	d.Transport = wire.TransportSATA
	return d
}

// remember begins what only the victim needs: it costs three times its size.
func (d *medium) remember() {
	d.victim, d.durable, d.before = true, bytes.Clone(d.data), bytes.Clone(d.data)
}

// handle is a drive opened by one process.
type handle struct {
	*medium
	p  *process
	id wire.DiskID
}

// looker is a handle while it is being found out what the disk holds: these reads
// are many, and have faults of their own.
type looker struct{ *handle }

func (l looker) ReadAt(p []byte, off int64) (int, error) { return l.read("look", p, off) }

// open is disk.Open on the bench: whatever lies at the path, checked as there.
func (p *process) open(plan wire.DiskID, approved ...wire.Class) (*handle, error) {
	d := p.w.at(plan.Path)
	p.w.due("open")
	if now := p.w.at(plan.Path); now != d { // swapped in this moment
		d = now
	}
	if d == nil || d.gone.Load() {
		return nil, &disk.Refusal{Message: "the disk " + plan.Path + " is gone", Next: "look whether the disk is plugged in"}
	}
	h := &handle{medium: d, p: p, id: d.DiskID}
	h.id.Path = plan.Path
	return h, h.Check(plan, p.w.key(), approved...)
}

func (h *handle) Check(plan wire.DiskID, key ed25519.PublicKey, approved ...wire.Class) error {
	return disk.Check(looker{h}, disk.Facts{ID: h.id, Key: key}, plan, approved)
}

func (h *handle) ID() wire.DiskID { return h.id }
func (h *handle) Size() int64     { return h.Bytes }
func (h *handle) Block() int      { return h.LogicalBlock }
func (h *handle) Close() error    { return nil }

// step is asked before every operation: what goes wrong with it.
func (h *handle) step(op string, off, n int64) (faultKind, uint64, error) {
	if !h.Rotational || op != "read" {
		// Where the agent reads with a lock held, time must not pass.
		if op == "look" || !h.victim {
			time.Sleep(time.Millisecond)
		} else {
			time.Sleep(h.w.latency)
		}
	}
	var lie fault
	if h.victim && !h.p.dead.Load() {
		at := []string{op, "op"}
		if op != "look" {
			at = append(at, "change")
		}
		for _, f := range h.w.due(at...) {
			switch f.kind {
			case "stall":
				if op != "read" || !h.Rotational {
					time.Sleep(time.Duration(f.arg%600+1) * time.Second)
				}
			default:
				lie = f
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case off < 0 || n < 0 || off+n > h.Bytes:
		h.w.blame("wrong", "%s of %d bytes at %d of %s", op, n, off, h.name)
		return "", 0, unix.EINVAL
	case h.p.dead.Load(), h.gone.Load():
		return "", 0, unix.ENODEV
	}
	if h.tick(); h.firmware != nil && h.status == 2 && op != "command" {
		return "", 0, unix.EIO
	}
	if op == "write" || op == "zero" {
		h.writes++
		h.w.wrote(h)
	}
	switch lie.kind {
	case "error":
		return "", lie.salt, unix.EIO
	case "full":
		return "", lie.salt, unix.ENOSPC
	}
	return lie.kind, lie.salt, nil
}

// away is another place for n bytes at off.
func (h *handle) away(off, n int64, salt uint64) int64 {
	block := int64(h.LogicalBlock)
	slots := uint64((h.Bytes - n) / block)
	if slots == 0 {
		return off
	}
	return int64((uint64(off/block) + 1 + salt%slots) % (slots + 1) * uint64(block))
}

func (h *handle) ReadAt(p []byte, off int64) (int, error) { return h.read("read", p, off) }

func (h *handle) read(op string, p []byte, off int64) (int, error) {
	lie, salt, err := h.step(op, off, int64(len(p)))
	if err != nil {
		return 0, fmt.Errorf("read from %s at %d: %w", h.id.Path, off, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	from := h.data
	if h.echo != nil {
		from = h.echo
	}
	switch lie {
	case "astray":
		off = h.away(off, int64(len(p)), salt)
	case "stale":
		from = h.before
	case "short":
		n := copy(p[:len(p)/2], from[off:])
		return n, fmt.Errorf("read from %s at %d: %w", h.id.Path, off, unix.EIO)
	}
	copy(p, from[off:])
	if lie == "flip" {
		p[salt%uint64(len(p))] ^= 1 << (salt >> 32 % 8)
	}
	return len(p), nil
}

func (h *handle) WriteAt(p []byte, off int64) (int, error) {
	lie, salt, err := h.step("write", off, int64(len(p)))
	h.mu.Lock()
	defer h.mu.Unlock()
	if lie == "torn" || err != nil && !h.gone.Load() && !h.p.dead.Load() && salt%2 == 1 {
		h.keep("", salt, p[:len(p)/2/h.LogicalBlock*h.LogicalBlock], off) // a write that fails may still have done half
		err = unix.EIO
	}
	if err != nil {
		return 0, fmt.Errorf("write to %s at %d: %w", h.id.Path, off, err)
	}
	h.keep(lie, salt, p, off)
	return len(p), nil
}

func (h *handle) Zero(off, n int64) error {
	lie, salt, err := h.step("zero", off, n)
	if err != nil {
		return fmt.Errorf("zeroing of %s at %d: %w", h.id.Path, off, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keep(lie, salt, make([]byte, n), off)
	return nil
}

// keep is what becomes of bytes that the disk has taken.
func (h *handle) keep(lie faultKind, salt uint64, p []byte, off int64) {
	if lie == "astray" {
		off = h.away(off, int64(len(p)), salt)
	}
	if h.echo != nil {
		copy(h.echo[off:], p)
		if off > images.Head && !images.Zero(p) {
			return // the truth stays as it was
		}
	}
	if lie == "drop" || len(p) == 0 {
		return
	}
	if h.before != nil {
		copy(h.before[off:], h.data[off:off+int64(len(p))])
	}
	copy(h.data[off:], p)
	if lie == "flip" {
		h.data[off+int64(salt%uint64(len(p)))] ^= 1 << (salt >> 32 % 8)
	}
	h.pending = append(h.pending, extent{off, int64(len(p))})
}

func (h *handle) Sync() error {
	lie, _, err := h.step("sync", 0, 0)
	if err != nil {
		return fmt.Errorf("sync of %s: %w", h.id.Path, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if lie == "lost" {
		h.w.say("the flush was not done; %d writes may go with the power", len(h.pending))
		return nil
	}
	for _, e := range h.pending {
		if h.durable != nil {
			copy(h.durable[e.off:], h.data[e.off:e.off+e.n])
		}
	}
	h.pending = nil
	return nil
}

// powerCut drops what was not flushed: of every write all, nothing or a part.
func (d *medium) powerCut(draw func(n uint64) uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.durable == nil {
		return
	}
	const stretch = 64 << 10
	for _, e := range d.pending {
		mode := draw(3) // all is there, nothing, some of it
		for at := e.off; at < e.off+e.n; at += stretch {
			if to := min(at+stretch, e.off+e.n); mode == 0 || mode == 2 && draw(2) == 0 {
				copy(d.durable[at:to], d.data[at:to])
			}
		}
	}
	copy(d.data, d.durable)
	copy(d.before, d.durable)
	d.pending = nil
}
