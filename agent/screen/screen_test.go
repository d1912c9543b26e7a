package screen

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// film is a display that keeps what it was shown, and when.
type film struct {
	mu     sync.Mutex
	views  []View
	times  []time.Duration
	start  time.Time
	slow   time.Duration
	err    error
	closed bool
}

func (f *film) show(v View) error {
	time.Sleep(f.slow)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.views, f.times = append(f.views, v), append(f.times, time.Since(f.start))
	return f.err
}

func (f *film) close() { f.mu.Lock(); f.closed = true; f.mu.Unlock() }

func (f *film) seen() []View { f.mu.Lock(); defer f.mu.Unlock(); return append([]View{}, f.views...) }

func TestLatestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &film{start: time.Now()}
		s := open(outputs{display: f})
		s.Show(View{Title: "a", Percent: -1})
		synctest.Wait()
		for i := range 100 { // ten seconds of progress, ten times a second
			s.Show(View{Title: "b", Percent: float64(i)})
			time.Sleep(100 * time.Millisecond)
		}
		n := len(f.seen())
		if n < 10 || n > 13 {
			t.Errorf("%d paintings in ten seconds", n)
		}
		for i := 1; i < len(f.times); i++ {
			if d := f.times[i] - f.times[i-1]; d < between {
				t.Errorf("paintings %v apart", d)
			}
		}
		// A new state doesn't wait for the bar's second.
		s.Show(View{Title: "b", Percent: 99})
		time.Sleep(10 * time.Millisecond)
		before := time.Since(f.start)
		s.Show(View{Kind: Failed, Title: "c", Percent: -1})
		time.Sleep(between)
		if got := f.seen(); got[len(got)-1].Title != "c" || f.times[len(got)-1]-before > between {
			t.Errorf("the new state came at %v, wanted at %v", f.times[len(got)-1], before)
		}
		// What is shown last is painted, also when Close comes at once.
		s.Show(View{Kind: Done, Title: "last", Percent: -1})
		s.Close()
		got := f.seen()
		if got[len(got)-1].Title != "last" || !f.closed {
			t.Errorf("closed %v after %+v", f.closed, got[len(got)-1])
		}
		s.Show(View{Title: "too late"})
		s.Close()
	})
}

func TestSlowDisplayHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(outputs{display: &film{slow: time.Hour}})
		start := time.Now()
		for range 200 {
			s.Show(View{Title: "x", Percent: -1, Kind: Kind(time.Now().Nanosecond() % 4)})
		}
		if time.Since(start) != 0 {
			t.Errorf("Show waited %v", time.Since(start))
		}
		s.Close()
		if time.Since(start) != closeTime {
			t.Errorf("Close took %v", time.Since(start))
		}
		time.Sleep(3 * time.Hour) // the display ends at last
	})
}

func TestBrokenDisplayIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &film{err: errors.New("input/output error")}
		s := open(outputs{display: f})
		s.Show(View{Title: "x"})
		synctest.Wait()
		s.Show(View{Title: "y"})
		synctest.Wait()
		if len(f.seen()) != 1 || !f.closed {
			t.Errorf("%+v", f)
		}
		s.Close()
	})
}

func TestConcurrentShow(t *testing.T) {
	s := open(outputs{display: &film{start: time.Now()}})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				s.Show(View{Number: i, Percent: float64(j)})
			}
		})
	}
	wg.Wait()
	s.Close()
	var none *Screen
	none.Show(View{})
	none.Close()
	open(outputs{}).Close()
}

func TestSerialLines(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := open(outputs{serial: []port{{w}}})
	s.Show(View{Percent: -1, Title: "Looking at this PC"})
	for i := range 101 {
		s.Show(View{Number: 12, Title: "Writing Debian 13", Percent: float64(i), Rate: 112e6, ETA: 130 * time.Second, Detail: fmt.Sprint(i)})
	}
	s.Show(View{Number: 12, Kind: Waiting, Title: "Data on this disk", Detail: "ntfs\x1b[2J\n\"é", Next: "Ask a lead", Percent: -1})
	s.Show(View{Number: 12, Kind: Waiting, Title: "Data on this disk", Detail: "ntfs\x1b[2J\n\"é", Next: "Ask a lead", Percent: -1})
	s.Show(View{Number: 12, Kind: Waiting, Title: "Data on this disk", Detail: "gpt", Next: "Ask a lead", Percent: -1})
	s.Show(View{Number: 12, Kind: Done, Title: "Ready", Percent: -1})
	s.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(string(b)), "\n")
	want := []string{`refurb: pc=0 state=working title="Looking at this PC"`}
	for i := 0; i <= 100; i += 10 {
		want = append(want, fmt.Sprintf(`refurb: pc=12 state=working title="Writing Debian 13" percent=%d rate=112000000 left=130s detail="%d"`, i, i))
	}
	want = append(want,
		`refurb: pc=12 state=waiting title="Data on this disk" detail="ntfs[2J \"\u00e9" next="Ask a lead"`,
		`refurb: pc=12 state=waiting title="Data on this disk" detail="gpt" next="Ask a lead"`,
		`refurb: pc=12 state=done title="Ready"`)
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestSerialConsoles(t *testing.T) {
	for active, want := range map[string]string{
		"tty0\n": "", "tty0 ttyS0\n": "ttyS0", "ttyS1 hvc0 tty1": "ttyS1 hvc0", "": "", "../../etc/passwd ttyAMA0 console": "ttyAMA0",
	} {
		if got := strings.Join(serialConsoles(active), " "); got != want {
			t.Errorf("%q: %q, want %q", active, got, want)
		}
	}
}
