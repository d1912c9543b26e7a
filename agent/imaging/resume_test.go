package imaging

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/images"
)

// begin writes p to a new disk, on which the power is cut at operation at (0:
// never), and gives what the appliance was told.
func begin(t *testing.T, p *picture, size int64, at int, r *rand.Rand) (d *memory, claims []byte, out wire.Outcome) {
	t.Helper()
	d = newMemory(size, p.m.Block)
	d.durable = bytes.Clone(d.data)
	d.fault = func(n int, _ string, _, _ int64) trick {
		if n == at {
			return dies
		}
		return honest
	}
	job := p.job(t)
	job.flushBytes = 1 + r.Int64N(8<<20)
	job.Rotational = r.IntN(2) == 0
	out, _ = Write(t.Context(), d, job, new(Meter))
	return d, job.Source.(*shelf).claims, out
}

// again resumes on d and gives how many frames were fetched.
func again(t *testing.T, p *picture, d *memory, claims []byte, rotational bool) (wire.Outcome, []bool, int) {
	t.Helper()
	m := new(Meter)
	found, err := Found(t.Context(), d, p.m, claims, rotational, m)
	if err != nil {
		t.Fatal(err)
	}
	if d.writes > 0 {
		t.Fatal("looking for frames writes")
	}
	job := p.job(t)
	job.Found, job.Rotational, job.flushBytes = found, rotational, 1
	s := p.source(t, found)
	job.Source = s
	job.Slots = map[string][]byte{"checkin": []byte("{}")}
	out, _ := Write(t.Context(), d, job, m)
	judge(t, p, d, job, out, false)
	return out, found, s.handed
}

// The power is cut at each operation of a run, and what was not flushed is half
// there. Everything that was claimed is found, and nothing of it fetched again.
func TestPowerCut(t *testing.T) {
	p := paintFull(t, 3, 17<<20)
	p.m.Slots = []images.Slot{{Name: "checkin", Offset: 9 << 19, Length: images.SlotSize}}
	r := rand.New(rand.NewPCG(4, 4))
	whole, _, out := begin(t, p, 20<<20, 0, r)
	if mustDone(t, out, p.m.Bytes); t.Failed() {
		return
	}
	resumed := 0
	for at := 1; at <= whole.n+3; at += every {
		d, claims, out := begin(t, p, 20<<20, at, r)
		if out.Result == wire.Done {
			continue // it took fewer operations this time
		}
		d = d.powerOn(func() bool { return r.IntN(2) == 0 })
		sealing := out.Phase == wire.PhaseFinishing
		out, found, fetched := again(t, p, d, claims, r.IntN(2) == 0)
		if out.Result != wire.Done {
			t.Fatalf("cut at %d: %+v", at, out)
		}
		lacking, n := 0, 0
		for i, f := range p.m.Frames {
			is := found != nil && found[i]
			if is {
				n++
			}
			if !is && claimed(claims, i) && !sealing {
				t.Fatalf("cut at %d: frame %d: claimed %v, found %v", at, i, claimed(claims, i), is)
			}
			if f.Length > 0 && !is {
				lacking++
			}
		}
		if fetched != lacking || out.Resumed != n {
			t.Fatalf("cut at %d: %d frames were fetched, %d lacking; %+v", at, fetched, lacking, out)
		}
		if n > 0 {
			resumed++
		}
	}
	if resumed*every < 5 {
		t.Errorf("only %d runs were resumed", resumed)
	}
}

// unfinished is a disk on which everything is written but the ends.
func unfinished(t *testing.T, p *picture, size int64) (*memory, []byte) {
	t.Helper()
	d := newMemory(size, p.m.Block)
	job := p.job(t)
	job.flushBytes = 1
	verifying := false
	job.Verifying = func(context.Context) error { verifying = true; return fmt.Errorf("stopped") }
	Write(t.Context(), d, job, new(Meter))
	if !verifying {
		t.Fatal("not written")
	}
	return &memory{block: d.block, data: d.data}, job.Source.(*shelf).claims
}

// Claims are what somebody says. A false one costs time and no more, and so does
// a claim of what has changed since.
func TestClaims(t *testing.T) {
	p := paintFull(t, 6, 25<<20)
	p.m.Slots = []images.Slot{{Name: "checkin", Offset: 9 << 19, Length: images.SlotSize}}
	n := len(p.m.Frames)
	all := bytes.Repeat([]byte{0xff}, (n+7)/8)
	for k, c := range []struct {
		name   string
		claims func(true []byte) []byte
		change func(d *memory)
		want   []int // frames that are found; nil: none
	}{
		{"true", func(c []byte) []byte { return c }, nil, []int{1, 2, 3, 4, 5, 6}},
		{"all and behind the end", func([]byte) []byte { return all }, nil, []int{1, 2, 3, 4, 5, 6}},
		{"none", func([]byte) []byte { return nil }, nil, nil},
		{"too short", func(c []byte) []byte { return c[:len(c)-1] }, nil, nil},
		{"too long", func(c []byte) []byte { return append(c, 0xff) }, nil, nil},
		{"one, and those behind it are looked for", func(c []byte) []byte { return bitmap(n, 4) }, nil, []int{4, 5, 6}},
		{"only the head", func(c []byte) []byte { return bitmap(n, 0) }, nil, nil},
		{"changed since", func(c []byte) []byte { return c }, func(d *memory) {
			d.data[2*images.FrameSize+1]++
			d.data[6*images.FrameSize-1]++
		}, []int{1, 3, 4, 6}},
		{"another image since", func(c []byte) []byte { return c }, func(d *memory) { d.data[len(d.data)-512]++ }, nil},
		{"an empty disk", func([]byte) []byte { return all }, func(d *memory) { d.data = newMemory(32<<20, 512).data }, nil},
		{"unreadable", func(c []byte) []byte { return c }, func(d *memory) {
			d.fault = func(n int, op string, off, _ int64) trick {
				if op == "read" && off == 3*images.FrameSize && d.writes == 0 {
					return broken
				}
				return honest
			}
		}, []int{1, 2, 4, 5, 6}},
		{"all unreadable", func(c []byte) []byte { return c }, func(d *memory) {
			d.fault = func(n int, op string, off, _ int64) trick {
				if d.writes == 0 {
					return broken
				}
				return honest
			}
		}, nil},
	} {
		for _, rotational := range []bool{false, true} {
			if every > 1 && (k%3 > 0 || rotational) {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				d, claims := unfinished(t, p, 32<<20)
				claims = c.claims(claims)
				if c.change != nil {
					c.change(d)
				}
				out, found, _ := again(t, p, d, claims, rotational)
				mustDone(t, out, p.m.Bytes)
				got := []int(nil)
				for i, ok := range found {
					if ok {
						got = append(got, i)
					}
				}
				if fmt.Sprint(got) != fmt.Sprint(c.want) || out.Resumed != len(c.want) {
					t.Errorf("found %v, want %v; %+v", got, c.want, out)
				}
			})
		}
	}
}

// The claims of another image, of another disk, or of one that has shrunk.
func TestClaimsElsewhere(t *testing.T) {
	p, q := paintFull(t, 6, 25<<20), paintFull(t, 8, 25<<20)
	d, claims := unfinished(t, p, 32<<20)
	for name, c := range map[string]struct {
		d *memory
		p *picture
	}{
		"another image": {d, q},
		"larger disk":   {&memory{block: 512, data: append(bytes.Clone(d.data), make([]byte, 4<<20)...)}, p},
		"too small":     {&memory{block: 512, data: d.data[:24<<20]}, p},
		"other blocks":  {&memory{block: 4096, data: d.data}, p},
	} {
		if found, err := Found(t.Context(), c.d, c.p.m, claims, false, new(Meter)); found != nil || err != nil {
			t.Errorf("%s: %v %v", name, found, err)
		}
	}
	if out, _ := Write(t.Context(), d, Job{Manifest: p.m, Source: p.source(t, nil), Found: make([]bool, 3)}, new(Meter)); !strings.Contains(out.Cause, "3 frames were looked for") {
		t.Errorf("%+v", out)
	}
}

// A disk that says yes when frames are looked for and has lost them, or its
// marks, when it is written.
func TestFoundAndLost(t *testing.T) {
	p := paintFull(t, 6, 25<<20)
	for _, at := range []int64{5*images.FrameSize + 99, 32<<20 - 1000} {
		d, claims := unfinished(t, p, 32<<20)
		found, err := Found(t.Context(), d, p.m, claims, false, new(Meter))
		if err != nil || found == nil {
			t.Fatal(found, err)
		}
		d.data[at]++
		job := p.job(t)
		job.Found, job.Source = found, p.source(t, found)
		out, _ := Write(t.Context(), d, job, new(Meter))
		judge(t, p, d, job, out, false)
		if out.Result != wire.Failed || out.Mismatches == 0 {
			t.Errorf("byte %d: %+v", at, out)
		}
	}
}
