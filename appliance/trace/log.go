package trace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Log keeps the starts of late, in memory and in a folder.
type Log struct {
	dir string
	log *slog.Logger

	mu      sync.Mutex
	book    *book
	house   bool // its lines have changed since they were written
	watched map[chan struct{}]struct{}
}

// Open reads what an earlier run has left in dir.
func Open(dir string, log *slog.Logger) (*Log, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("boot trace: %w", err)
	}
	l := &Log{dir: dir, log: log, book: newBook(), watched: map[chan struct{}]struct{}{}}
	old, err := Read(dir)
	if err != nil {
		return nil, fmt.Errorf("boot trace: %w", err)
	}
	for _, bad := range old.Unreadable {
		log.Warn("a boot trace can't be read and is dropped", "file", bad)
		l.book.gone = append(l.book.gone, bad)
	}
	l.book.house = old.House
	now := time.Now()
	for _, s := range slices.Backward(old.Starts) {
		l.book.restore(s, now)
	}
	return l, nil
}

// restore takes a start from an earlier run. One from a clock that was ahead must
// not outlast all that come now.
func (b *book) restore(s *Start, now time.Time) {
	e := &entry{Start: *s, class: classOf(s), kept: true}
	if e.Last.After(now) {
		e.Last, e.dirty = now, true
	}
	for i := range e.Lines {
		if l := &e.Lines[i]; l.What == "begin" {
			l.What, l.Err, e.dirty = "http", "the appliance was stopped meanwhile", true
		}
	}
	for _, mac := range e.MACs {
		if old := b.newest[mac]; old != nil && old.Again.IsZero() {
			old.Again, old.dirty = e.Began, true
		}
		b.newest[mac] = e
	}
	b.starts = append(b.starts, e)
	b.makeRoom(e.class)
}

// SetMode says who gives the addresses from now on.
func (l *Log) SetMode(mode string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.book.mode = mode
}

// Add takes one sighting. It doesn't block.
func (l *Log) Add(g Sighting) {
	if g.Time.IsZero() {
		g.Time = time.Now()
	}
	g = g.cleaned()
	l.mu.Lock()
	defer l.mu.Unlock()
	house := len(l.book.house)
	l.book.add(g)
	l.house = l.house || len(l.book.house) != house || g.MAC == "" || g.Problem == "other"
	for c := range l.watched {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Starts are all that are kept, the one that spoke last first.
func (l *Log) Starts() []*Start {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*Start, 0, len(l.book.starts))
	for _, e := range l.book.starts {
		out = append(out, e.given())
	}
	sortStarts(out)
	return out
}

// House are lines that belong to no PC: other DHCP servers, broken packets.
func (l *Log) House() []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.book.house)
}

// Mode is what SetMode said last.
func (l *Log) Mode() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.book.mode
}

// given is a copy that never changes, the same one until the start does.
func (e *entry) given() *Start {
	if e.copy == nil {
		s := e.Start
		s.MACs, s.Lines = slices.Clone(s.MACs), slices.Clone(s.Lines)
		e.copy = &s
	}
	return e.copy
}

func sortStarts(s []*Start) {
	slices.SortStableFunc(s, func(a, b *Start) int { return cmp.Or(b.Last.Compare(a.Last), b.Began.Compare(a.Began)) })
}

// Changes tells that something has changed, until ctx ends. What changes while
// nobody listens is told once.
func (l *Log) Changes(ctx context.Context) <-chan struct{} {
	c := make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watched[c] = struct{}{}
	context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watched, c)
	})
	return c
}

const (
	writeEvery = time.Second
	writeMost  = 64 // starts in one go: a flood of packets must not keep the disk busy
)

// Run writes what has changed until ctx ends. A disk that is full costs the
// trace, never the start of a PC.
func (l *Log) Run(ctx context.Context) error {
	failed := false
	for {
		err := l.write(writeMost)
		if err != nil && !failed {
			l.log.Warn("the boot trace could not be written; it goes on in memory", "err", err)
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			if err := l.write(maxFiles); err != nil && !failed {
				l.log.Warn("the end of the boot trace could not be written", "err", err)
			}
			return ctx.Err()
		case <-time.After(writeEvery):
		}
	}
}

// write brings the folder up to date, most starts of it.
func (l *Log) write(most int) error {
	l.mu.Lock()
	var changed []*Start
	var entries []*entry
	for _, e := range l.book.starts {
		if e.dirty && len(changed) < most {
			changed, entries = append(changed, e.given()), append(entries, e)
			e.dirty = false
		}
	}
	gone := l.book.gone
	l.book.gone = nil
	var house []Line
	if l.house {
		house, l.house = slices.Clone(l.book.house), false
	}
	l.mu.Unlock()

	// What fails is tried again the next time.
	var errs error
	var stay []string
	for _, id := range gone {
		if err := remove(l.dir, id); err != nil {
			stay, errs = append(stay, id), errors.Join(errs, err)
		}
	}
	for ; len(changed) > 0; changed, entries = changed[1:], entries[1:] {
		if !l.keep(entries[0]) {
			continue
		}
		if err := put(l.dir, changed[0].ID, changed[0]); err != nil {
			errs = errors.Join(errs, err)
			break // the others will fare no better
		}
	}
	if house != nil {
		if err := put(l.dir, houseName, house); err != nil {
			errs = errors.Join(errs, err)
		} else {
			house = nil
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		e.dirty = true
	}
	l.house = l.house || house != nil
	l.book.gone = append(stay, l.book.gone...)
	return errs
}

// keep notes that a start is about to have a file; false: it was dropped meanwhile.
func (l *Log) keep(e *entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.kept = true
	return !e.over
}
