package exchange

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"refurb/images"
)

// shelf holds compressed frames in bounded memory, from the first byte that
// arrives until they are on the disk and nobody who counts on them lacks them.
type shelf struct {
	m     *images.Manifest
	limit int64

	mu      sync.Mutex
	changed chan struct{} // closed at the next change; nil while nobody waits
	frames  []frame
	order   []int // frames that have a box, as they arrived
	used    int64 // bytes of all boxes
	ready   []int // whole, waiting for Next
	lacking int   // frames that are wanted and not yet good
	total   int   // frames that have bytes
	drops   int   // how often a frame became gone
	takers  map[*taker]bool
	first   []int
}

type state byte

const (
	lacking state = iota
	coming        // somebody brings it
	whole         // all bytes are here, unchecked
	good          // checked, in memory
	gone          // checked and on the disk, no longer in memory
)

type frame struct {
	state  state
	box    *box // also while lacking: the start of it, from a source that broke
	pinned bool // never dropped: late joiners need it before anything else
	stored bool
}

// box is the memory of one frame. Its first n bytes are there; who holds a
// reference may read them without a lock.
type box struct {
	data []byte
	n    int
	refs int
	from string // who brought it; mixed if several did
	bad  bool   // given up: it won't get any further
}

const mixed = "?"

func newShelf(m *images.Manifest, limit int64, first []int, found []bool) *shelf {
	s := &shelf{m: m, limit: limit, frames: make([]frame, len(m.Frames)), takers: map[*taker]bool{}, first: first}
	for i, f := range m.Frames {
		switch {
		case f.Length == 0:
			s.frames[i].state = gone
		case i < len(found) && found[i]:
			s.frames[i].state = gone
			s.total++
		default:
			s.total++
			s.lacking++
		}
	}
	for _, i := range first {
		s.frames[i].pinned = true
	}
	return s
}

// wait gives a channel that is closed at the next change. Call it with mu held.
func (s *shelf) wait() <-chan struct{} {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// announce wakes whoever waits. Call it with mu held.
func (s *shelf) announce() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// begin makes room for frame i, of which a source has the bytes from offset on.
// A nil box means that they are not wanted. While memory is full it waits; the
// error is errFirst, or why ctx ended.
func (s *shelf) begin(ctx context.Context, i int, offset int64, from string) (*box, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for start := time.Now(); ; {
		f := &s.frames[i]
		if f.state != lacking {
			return nil, nil
		}
		if f.box != nil && offset == 0 && f.box.n > 0 {
			s.discard(i) // whoever brings it now knows nothing of this start
		}
		if f.box != nil {
			if int64(f.box.n) != offset {
				return nil, nil
			}
			if f.box.n == 0 {
				f.box.from = from
			} else if f.box.from != from {
				f.box.from = mixed
			}
			f.state = coming
			return f.box, nil
		}
		if offset != 0 {
			return nil, nil
		}
		n := s.m.Frames[i].Length
		if f.pinned || s.room(n, time.Since(start) >= jam) { // without the first ones, nothing else is written
			f.box = &box{data: make([]byte, n), from: from}
			f.state = coming
			s.used += n
			s.order = append(s.order, i)
			s.announce()
			return f.box, nil
		}
		if s.stuck() {
			return nil, errFirst
		}
		changed := s.wait()
		s.mu.Unlock()
		select {
		case <-changed:
			s.mu.Lock()
		case <-time.After(jam):
			s.mu.Lock()
		case <-ctx.Done():
			s.mu.Lock()
			return nil, context.Cause(ctx)
		}
	}
}

// jam is how long memory may be full of frames that others lack. In two trees
// each of two PCs may wait for the other to make room: then both drop some, and
// their takers get those from elsewhere. A chain has no such circle.
const jam = 2 * time.Second

// errFirst says that memory is full and stays so until a first frame comes,
// which nobody brings just now.
var errFirst = errors.New("memory is full, and a first frame is lacking")

func (s *shelf) stuck() bool {
	return slices.ContainsFunc(s.first, func(i int) bool { return s.frames[i].state == lacking })
}

// room drops frames until n more bytes fit: first those that are on the disk,
// then, lest a source that only ever begins frames fills the memory, what is
// there of broken ones.
func (s *shelf) room(n int64, jammed bool) bool {
	if s.used+n <= s.limit {
		return true
	}
	for _, i := range s.order {
		f := &s.frames[i]
		if f.state == good && f.stored && !f.pinned && f.box.refs == 0 && !s.needed(i, jammed) {
			s.used -= int64(len(f.box.data))
			f.state, f.box = gone, nil
			s.drops++
			if s.used+n <= s.limit {
				break
			}
		}
	}
	for _, i := range s.order {
		if f := &s.frames[i]; s.used+n > s.limit && f.state == lacking && f.box != nil {
			s.forget(i)
		}
	}
	s.order = slices.DeleteFunc(s.order, func(i int) bool { return s.frames[i].box == nil })
	return s.used+n <= s.limit
}

// needed reports whether somebody who must not be let down lacks frame i.
func (s *shelf) needed(i int, jammed bool) bool {
	for t := range s.takers {
		if !t.patient && !t.dead && !(jammed && t.stripes > 1) && t.lacks(i) {
			return true
		}
	}
	return false
}

// grow says that n more bytes of b have arrived.
func (s *shelf) grow(b *box, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.n += n
	s.announce()
}

// end is the end of what a source brings of frame i: either it is whole, or
// what there is of it stays for the next source.
func (s *shelf) end(i int, b *box) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.frames[i]
	if f.box != b || f.state != coming {
		return
	}
	if b.n == len(b.data) {
		f.state = whole
		s.ready = append(s.ready, i)
	} else {
		f.state = lacking
	}
	s.announce()
}

var errFailed = errors.New("failed")

// next waits for a whole frame. io.EOF: every frame is good.
func (s *shelf) next(ctx context.Context, failed <-chan struct{}) (int, *box, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case ctx.Err() != nil:
			return 0, nil, context.Cause(ctx)
		case len(s.ready) > 0:
			i := s.ready[0]
			s.ready = s.ready[1:]
			return i, s.frames[i].box, nil
		case s.lacking == 0:
			return 0, nil, io.EOF
		}
		changed := s.wait()
		s.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
		case <-failed:
			err = errFailed
		}
		s.mu.Lock()
		if err != nil {
			return 0, nil, err
		}
	}
}

// checked is what decoding and hashing said of frame i, and gives who brought it.
func (s *shelf) checked(i int, ok bool) (from string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.frames[i]
	if f.state != whole {
		return mixed
	}
	from = f.box.from
	if ok {
		f.state = good
		s.lacking--
	} else {
		s.discard(i)
		for t := range s.takers {
			t.rejected(i)
		}
	}
	s.announce()
	return from
}

// spoil forgets the start of frame i: who brought of it says that it is bad.
func (s *shelf) spoil(i int, from string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := &s.frames[i]; f.state == lacking && f.box != nil && (f.box.from == from || f.box.from == mixed) {
		s.discard(i)
		s.announce()
	}
}

// discard forgets what there is of frame i.
func (s *shelf) discard(i int) {
	s.forget(i)
	s.order = slices.DeleteFunc(s.order, func(j int) bool { return j == i })
}

func (s *shelf) forget(i int) {
	f := &s.frames[i]
	f.box.bad = true
	for t := range s.takers {
		delete(t.partial, i) // its start is not to be joined to the end of another
	}
	s.used -= int64(len(f.box.data))
	f.state, f.box = lacking, nil
}

// written says that frame i is on the disk.
func (s *shelf) written(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := &s.frames[i]; f.state == good && !f.stored {
		f.stored = true
		s.announce()
	}
}

// partial gives the frames of one stripe of which the start is here.
func (s *shelf) partial(stripe, stripes int) map[int]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := map[int]int64{}
	for _, i := range s.order {
		if f := &s.frames[i]; i%stripes == stripe && f.state == lacking && f.box != nil {
			p[i] = int64(f.box.n)
		}
	}
	return p
}

// has is the bitmap of what needn't be sent to this PC.
func (s *shelf) has() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bitmapOf(len(s.frames), func(i int) bool { return s.frames[i].state > coming })
}

// tally counts frames and memory for the appliance. promised says whether a
// source will bring a frame.
func (s *shelf) tally(promised func(i int) bool) (have, missing, backlog int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var full int64
	for i := range s.frames {
		switch f := &s.frames[i]; {
		case f.state == whole, f.state == good && !f.stored:
			full += int64(len(f.box.data))
		case f.state == lacking && !promised(i), f.state == coming && f.box.from == "" && !promised(i):
			missing++
		}
	}
	return s.total - s.lacking, missing, int(full * 100 / s.limit)
}

// choose gives frames to fetch from the appliance by one request: lacking, not
// taken by somebody else, one behind the other in the file.
func (s *shelf) choose(taken func(i int) bool, firstOnly bool, maxFrames int, maxBytes int64) (list []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	free := func(i int) bool { return s.frames[i].state == lacking && !taken(i) }
	start := -1
	for _, i := range s.first {
		if free(i) {
			start, firstOnly = i, true
			break
		}
	}
	for i := 0; start < 0 && !firstOnly && i < len(s.frames); i++ {
		if free(i) {
			start = i
		}
	}
	if start < 0 {
		return nil
	}
	var size int64
	for i := start; i < len(s.frames) && len(list) < maxFrames; i++ {
		n := s.m.Frames[i].Length
		if n == 0 {
			continue
		}
		if !free(i) || len(list) > 0 && (size+n > maxBytes || firstOnly && !s.frames[i].pinned) {
			break
		}
		list = append(list, i)
		size += n
	}
	return list
}
