package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"refurb/agent/exchange"
)

// shelf is a source that has the whole image and may come to a bad end.
type shelf struct {
	t testing.TB
	p *picture

	spoil func(n, i int) bool                    // whether the nth frame, counted from 1, comes damaged
	next  func(ctx context.Context, n int) error // is asked before the nth frame comes

	mu      sync.Mutex
	changed *sync.Cond
	todo    []int
	out     map[int][]byte // handed out, not checked yet
	good    map[int]bool
	stored  map[int]bool
	handed  int
	bad     map[int]int
	claims  []byte
}

// source gives p's frames but for those that were found.
func (p *picture) source(t testing.TB, found []bool) *shelf {
	s := &shelf{t: t, p: p, out: map[int][]byte{}, good: map[int]bool{}, stored: map[int]bool{}, bad: map[int]int{}}
	s.changed = sync.NewCond(&s.mu)
	for i, f := range p.m.Frames {
		if f.Length > 0 && (found == nil || !found[i]) {
			s.todo = append(s.todo, i)
		}
	}
	return s
}

func (s *shelf) Next(ctx context.Context) (exchange.Frame, error) {
	defer context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.todo) == 0 && len(s.out) > 0 && ctx.Err() == nil {
		s.changed.Wait()
	}
	if ctx.Err() != nil {
		return exchange.Frame{}, ctx.Err()
	}
	if len(s.todo) == 0 {
		return exchange.Frame{}, io.EOF
	}
	s.handed++
	if next, n := s.next, s.handed; next != nil {
		s.mu.Unlock()
		err := next(ctx, n)
		s.mu.Lock()
		if err != nil {
			return exchange.Frame{}, err
		}
	}
	i := s.todo[0]
	s.todo = s.todo[1:]
	f := s.p.m.Frames[i]
	if f.Offset+f.Length > int64(len(s.p.frames)) {
		return exchange.Frame{}, errors.New("the image's frames end too early")
	}
	b := bytes.Clone(s.p.frames[f.Offset:][:f.Length])
	if s.spoil != nil && s.spoil(s.handed, i) {
		b[len(b)/2] ^= 1
	}
	s.out[i] = b
	return exchange.Frame{Index: i, Data: b}, nil
}

func (s *shelf) Checked(f exchange.Frame, good bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.out[f.Index]
	if !ok || len(b) > 0 && &b[0] != &f.Data[0] {
		s.t.Errorf("frame %d was checked, but not handed out", f.Index)
		return
	}
	delete(s.out, f.Index)
	clear(b) // whoever still looks at it is wrong
	if good {
		s.good[f.Index] = true
	} else {
		s.todo = append(s.todo, f.Index)
		if s.bad[f.Index]++; s.bad[f.Index] > 3 {
			s.next = func(context.Context, int) error {
				return &exchange.Failure{Cause: fmt.Errorf("the image on the appliance is damaged: frame %d", f.Index), Next: "import it again"}
			}
		}
	}
	s.changed.Broadcast()
}

func (s *shelf) Stored(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.good[i] || s.stored[i] {
		s.t.Errorf("frame %d was stored: good %v, stored before %v", i, s.good[i], s.stored[i])
	}
	s.stored[i] = true
}

// Claim checks that nothing is claimed that the image doesn't have.
func (s *shelf) Claim(bitmap []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := (len(s.p.m.Frames) + 7) / 8; len(bitmap) != want {
		s.t.Errorf("claims of %d bytes, want %d", len(bitmap), want)
	}
	s.claims = bitmap
}

func (s *shelf) Stats() exchange.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := exchange.Stats{}
	for i := range s.good {
		st.Fetched += s.p.m.Frames[i].Length
	}
	for _, n := range s.bad {
		st.Retries += n
	}
	return st
}

// bitmap claims frames.
func bitmap(n int, frames ...int) []byte {
	b := make([]byte, (n+7)/8)
	for _, i := range frames {
		b[i/8] |= 1 << (i % 8)
	}
	return b
}

func claimed(b []byte, i int) bool { return i/8 < len(b) && b[i/8]>>(i%8)&1 == 1 }
