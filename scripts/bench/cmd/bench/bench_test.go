package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/images"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{3, 3, 3, 1}},
		{[]float64{5, 1, 3}, spread{3, 1, 5, 3}},
		{[]float64{4, 1, 3, 2}, spread{2.5, 1, 4, 4}},
	} {
		if got := over(c.in); got != c.want {
			t.Errorf("over(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

// A figure stands on at least half of its runs, and says why when it doesn't.
func TestRefusals(t *testing.T) {
	good, busy, alien, broken := result{busy: .5}, result{busy: .9}, result{alien: .5}, result{err: errors.New("no\ndisk")}
	for _, c := range []struct {
		runs []result
		n    int
		why  string
	}{
		{nil, 0, notRun},
		{[]result{good, good, busy}, 2, ""},
		{[]result{good, busy}, 1, ""},
		{[]result{good, busy, alien}, 0, "before the run"},
		{[]result{busy}, 0, "90 % busy"},
		{[]result{broken}, 0, "no, disk"},
	} {
		got, why := usable(c.runs, false)
		if len(got) != c.n || !strings.Contains(why, c.why) || (why == "") != (c.why == "") {
			t.Errorf("%v: %d runs, %q; want %d, %q", c.runs, len(got), why, c.n, c.why)
		}
	}
	if got, _ := usable([]result{busy, broken}, true); len(got) != 1 {
		t.Errorf("in spite of load: %d runs, want the one that ended well", len(got))
	}
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	run := func(d time.Duration) result {
		return result{pcs: []figures{{written: d / 2, verified: d}, {written: d, verified: d / 4}}}
	}
	tell := &teller{w: &out, all: map[string][]result{"a": {run(2 * time.Second), run(4 * time.Second)}, "b": {{busy: 1}}}}
	s, why := tell.of("a", last)
	tell.say("a", "s", s, why)
	s, why = tell.of("b", last)
	tell.say("b", "s", s, why)
	tell.say("c", "x", spread{mid: 1}.by(0))
	want := "a 3.000 s\na_min 2.000 s\na_max 4.000 s\nb - refused: b: load: the cores were 100 % busy, so they are what was measured\nc - refused: nothing to divide by\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestClock(t *testing.T) {
	if got := (clock{busy: 150, all: 400}).since(clock{busy: 100, all: 200}); got != .25 {
		t.Errorf("share %v, want 0.25", got)
	}
	if got := (clock{1, 2}).since(clock{1, 2}); got != 0 {
		t.Errorf("no time: %v", got)
	}
}

// The image is the same for one seed, has as many frames as asked, and packs
// about as tightly as the lab counts on.
func TestPaint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raw")
	var before []byte
	for range 2 {
		if err := paint(path, 7, 10, 5); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if before != nil && !bytes.Equal(raw, before) {
			t.Error("two images of one seed differ")
		}
		before = raw
	}
	enc, err := images.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for b := range slices.Chunk(before, images.FrameSize) {
		if p, _ := enc.Encode(b, nil); len(p) > 0 {
			sizes = append(sizes, len(p))
		}
	}
	if len(before) != 15*images.FrameSize || len(sizes) != 10 {
		t.Fatalf("%d bytes, %d frames with content; want 15 frames, 10 with content", len(before), len(sizes))
	}
	if m := slices.Max(sizes[1:]); m < 300e3 || m > 500e3 {
		t.Errorf("a frame packs to %d bytes; want about 400,000", m)
	}
}

func TestTorrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, pieceSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := torrent(path, "f", "http://t/")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"d8:announce9:http://t/4:infod6:lengthi262145e4:name1:f12:piece lengthi262144e6:pieces40:", "ee"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q lacks %q", b, want)
		}
	}
}
