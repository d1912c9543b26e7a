// Package screen is what a donated PC's own display shows: which PC it is, in
// which state, how far, and what a person does next. It speaks little language:
// a huge number, a colour, an icon, a bar, a few plain words.
//
// The same view goes to the framebuffer, or to the text console where there is
// none, and as one plain line per change to the serial console.
package screen

import (
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Kind of state, each with a colour and an icon of its own.
type Kind int

const (
	Working Kind = iota // blue, a ring that fills
	Waiting             // amber, a hand: a person is needed
	Done                // green, a check mark
	Failed              // red, a cross
)

func (k Kind) String() string {
	switch k {
	case Waiting:
		return "waiting"
	case Done:
		return "done"
	case Failed:
		return "failed"
	}
	return "working"
}

// View is everything that the screen shows at one moment. Texts may come from
// anywhere: what can't be printed is dropped and what is too long is cut.
type View struct {
	Number  int // the PC's number in the workshop; 0 while it has none
	Kind    Kind
	Title   string        // a few words: "Writing Debian 13"
	Detail  string        // a sentence or two
	Next    string        // what a person does now
	Percent float64       // 0 to 100; negative for no bar
	Rate    int64         // bytes per second; 0 for none
	ETA     time.Duration // time left; 0 for none
	Lines   []string      // small print at the bottom: addresses, serials, versions
}

const (
	maxWords = 600 // bytes of a text that anybody would read on a screen
	maxLines = 3
	maxShown = 99999 // the largest number
)

// tidy brings a view into bounds.
func (v View) tidy() View {
	if v.Kind < Working || v.Kind > Failed {
		v.Kind = Failed // a state that nobody knows is no good one
	}
	if v.Number > maxShown {
		v.Number = maxShown
	}
	v.Title, v.Detail, v.Next = words(v.Title), words(v.Detail), words(v.Next)
	switch {
	case math.IsNaN(v.Percent) || v.Percent < 0:
		v.Percent = -1
	case v.Percent > 100:
		v.Percent = 100
	}
	var lines []string
	for _, l := range v.Lines {
		if l = words(l); l != "" && len(lines) < maxLines {
			lines = append(lines, l)
		}
	}
	v.Lines = lines
	return v
}

// words keeps what can be printed, with single spaces.
func words(s string) string {
	if len(s) > maxWords {
		s = strings.ToValidUTF8(s[:maxWords], "") + "…"
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// same reports whether b shows nothing that a doesn't, but for the progress.
func (a View) same(b View) bool {
	if a.Number != b.Number || a.Kind != b.Kind || a.Title != b.Title || a.Detail != b.Detail || a.Next != b.Next ||
		(a.Percent < 0) != (b.Percent < 0) || len(a.Lines) != len(b.Lines) {
		return false
	}
	for i := range a.Lines {
		if a.Lines[i] != b.Lines[i] {
			return false
		}
	}
	return true
}

const (
	between = 250 * time.Millisecond // two paintings of different views
	// Painting takes 20 to 80 ms of a processor that is busy checking frames;
	// a bar that moves once a second is fine.
	betweenBars = time.Second
	closeTime   = 2 * time.Second
)

// display is where views are painted.
type display interface {
	show(View) error
	close()
}

// Screen shows the latest view. Its methods are safe for concurrent use; a nil
// Screen shows nothing.
type Screen struct {
	mu      sync.Mutex
	latest  *View // to be painted
	said    View  // the last view that became a line
	spoken  bool
	closing bool

	wake  chan struct{} // there is a latest view
	lines chan string   // for the serial console
	stop  chan struct{}
	done  sync.WaitGroup
}

// Open finds what this PC has to show things on. It never fails: a PC without any
// display or serial port gets a Screen that shows nothing, and the log says so.
//
// A process that ends without Close leaves the display in graphics mode, with the
// last view on it; Open and Close by whoever comes next give the text back.
func Open() *Screen { return open(devices("/")) }

func open(d outputs) *Screen {
	s := &Screen{wake: make(chan struct{}, 1), lines: make(chan string, 64), stop: make(chan struct{})}
	s.done.Go(func() { s.paint(d.display) })
	s.done.Go(func() { s.speak(d.serial) })
	return s
}

// Show puts a view on the screen soon. It doesn't wait for it, and of views that
// come faster than the screen can follow, the latest wins.
func (s *Screen) Show(v View) {
	if s == nil {
		return
	}
	v = v.tidy()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	s.latest = &v
	if !s.spoken || worthALine(s.said, v) {
		s.said, s.spoken = v, true
		select {
		case s.lines <- sentence(v):
		default: // a serial port that takes nothing
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close paints what is left to paint and gives the display back to the text
// console. It takes two seconds at most.
func (s *Screen) Close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	if !s.closing {
		s.closing = true
		close(s.stop)
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() { s.done.Wait(); close(ended) }()
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}

func (s *Screen) take() *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.latest
	s.latest = nil
	return v
}

// paint brings the latest view to the display, not too often.
func (s *Screen) paint(d display) {
	if d == nil {
		return
	}
	defer d.close()
	var shown View
	var at time.Time // when it was painted
	stopped := false
	for {
		if !stopped {
			select {
			case <-s.wake:
			case <-s.stop:
				stopped = true
			}
		}
		for !stopped && !at.IsZero() {
			s.mu.Lock()
			pause := between
			if s.latest == nil || shown.same(*s.latest) {
				pause = betweenBars
			}
			s.mu.Unlock()
			wait := time.Until(at.Add(pause))
			if wait <= 0 {
				break
			}
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-s.wake: // the newer view may be in more of a hurry
			case <-s.stop:
				stopped = true
			}
			timer.Stop()
		}
		if v := s.take(); v != nil {
			if err := d.show(*v); err != nil {
				slog.Warn("the screen can't be painted any more", "err", err)
				return
			}
			shown, at = *v, time.Now()
		}
		if stopped {
			return
		}
	}
}

// speak writes the lines to the serial consoles, also those said before the end.
func (s *Screen) speak(ports []port) {
	say := func(l string) {
		for _, p := range ports {
			p.say(l)
		}
	}
	for {
		select {
		case l := <-s.lines:
			say(l)
			continue
		case <-s.stop:
		}
		for {
			select {
			case l := <-s.lines:
				say(l)
				continue
			default:
			}
			for _, p := range ports {
				p.close()
			}
			return
		}
	}
}
