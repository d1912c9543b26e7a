package batch

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

func run(t *testing.T, s Scenario) Result {
	t.Helper()
	r, err := Run(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.PCs {
		if p.Took < 0 && !p.Cut {
			t.Errorf("%s never got all frames: it has %d", p.ID, p.Frames)
		}
	}
	return r
}

// ratio is the time of the last PC, one PC alone being 1.
func ratio(t *testing.T, s Scenario) float64 {
	t.Helper()
	alone := s
	alone.PCs = s.PCs[:1]
	return float64(run(t, s).Last) / float64(run(t, alone).Last)
}

// median of what the chosen PCs took.
func median(r Result, pick func(i int) bool) time.Duration {
	var d []time.Duration
	for i, p := range r.PCs {
		if pick(i) && p.Took >= 0 {
			d = append(d, p.Took)
		}
	}
	slices.Sort(d)
	return d[len(d)/2]
}

func but(n ...int) func(int) bool { return func(i int) bool { return !slices.Contains(n, i) } }

func slower(t *testing.T, what string, got, clean time.Duration, most float64) {
	t.Helper()
	x := float64(got) / float64(clean)
	t.Logf("%s: %v against %v, × %.3f", what, got, clean, x)
	if x > most {
		t.Errorf("%s: %v against %v, × %.3f; at most %.3f", what, got, clean, x, most)
	}
}

func TestABatchTakesHardlyLongerThanOne(t *testing.T) {
	for _, c := range []struct {
		n    int
		most float64
	}{{2, 1.01}, {8, 1.02}, {16, 1.03}, {65, 1.04}, {200, 1.05}} {
		s := Scenario{Seed: 1, PCs: Group(c.n, PC{})}
		x := ratio(t, s)
		if x > c.most {
			t.Errorf("%d PCs took %.3f times as long as one; at most %.3f", c.n, x, c.most)
		}
	}
}

func TestTheApplianceSendsEachFrameOnce(t *testing.T) {
	for _, n := range []int{1, 16, 100} {
		r := run(t, Scenario{Seed: 2, Frames: 200, Spread: 0.4, PCs: Group(n, PC{})})
		if x := float64(r.Appliance) / float64(r.Image); x > 1.01 {
			t.Errorf("%d PCs: the appliance sent the image %.3f times", n, x)
		}
	}
}

func TestSameSeedSameResult(t *testing.T) {
	s := Scenario{Seed: 3, Frames: 100, Spread: 0.3, PCs: Group(40, PC{})}
	s.PCs[7].PowerAt = 700 * time.Millisecond
	s.PCs[9].Disk = 40
	a, b := run(t, s), run(t, s)
	a.View, b.View = nil, nil // keys are drawn by the relay
	if !reflect.DeepEqual(a, b) {
		t.Error("two runs of the same scenario differ")
	}
}

func TestUnicastTakesAsOftenTheTime(t *testing.T) {
	x := ratio(t, Scenario{Seed: 4, Frames: 60, Unicast: true, PCs: Group(8, PC{})})
	if x < 7.5 || x > 8.1 {
		t.Errorf("8 PCs without a relay took %.2f times as long as one", x)
	}
}

// misfortune plays 16 PCs at 100 Mbit/s, for whom the image takes a minute, and
// one of them has a bad day. The others' median may suffer by 5 %.
func misfortune(t *testing.T, what string, places []int, bad func(p *PC)) {
	t.Helper()
	s := Scenario{Seed: 5, Uplink: 100, PCs: Group(16, PC{Mbit: 100, Disk: 45})}
	clean := run(t, s)
	pcs := s.PCs
	for _, at := range places {
		s.PCs = slices.Clone(pcs)
		bad(&s.PCs[at])
		r := run(t, s)
		slower(t, fmt.Sprintf("the others when PC %d %s", at, what), median(r, but(at)), median(clean, but(at)), 1.05)
	}
}

// Whoever stands before the dead one loses nothing, whoever stands behind it
// what it takes to notice: some seconds, which hurt the less the longer the
// image takes.
func TestPowerCut(t *testing.T) {
	misfortune(t, "loses power", []int{0, 1, 8}, func(p *PC) { p.PowerAt = 20 * time.Second })
}

func TestSlowDisk(t *testing.T) {
	misfortune(t, "has a disk 10 times slower", []int{0, 7}, func(p *PC) { p.Disk = 4.5 })
}

// Those before a PC with a full memory have to wait for it until it is moved.
// That doesn't make them slow.
func TestWhoWaitsForASlowDiskIsNotSlow(t *testing.T) {
	for _, at := range []int{5, 9, 12} {
		s := Scenario{Seed: 1, PCs: Group(16, PC{})}
		s.PCs[at].Disk = 45
		r := run(t, s)
		for _, m := range r.View {
			if (m.Slow != "") != (m.ID == r.PCs[at].ID) {
				t.Errorf("%s is moved to the end, %q; it is %s that is slow", m.ID, m.Slow, r.PCs[at].ID)
			}
		}
		for i, p := range r.PCs {
			if i != at && p.Took > 12*time.Second {
				t.Errorf("%s took %v because of %s", p.ID, p.Took, r.PCs[at].ID)
			}
		}
	}
}

func TestLateJoiner(t *testing.T) {
	misfortune(t, "comes late", []int{3}, func(p *PC) { p.Join = 30 * time.Second })
	// A late one takes about as long as any, from when it came.
	s := Scenario{Seed: 6, PCs: Group(16, PC{})}
	s.PCs[3].Join = 3 * time.Second
	r := run(t, s)
	slower(t, "the late one", r.PCs[3].Took, median(r, but(3)), 1.1)
}

func TestSlowLinksBesideFastOnes(t *testing.T) {
	s := Scenario{Seed: 7, Frames: 300, PCs: Group(24, PC{})}
	clean := run(t, s)
	for i := range s.PCs {
		if i%3 == 0 {
			s.PCs[i].Mbit = 100
		}
	}
	r := run(t, s)
	fast := func(i int) bool { return i%3 != 0 }
	slower(t, "1 Gbit PCs beside 100 Mbit ones", median(r, fast), median(clean, fast), 1.05)
	slower(t, "100 Mbit PCs", median(r, func(i int) bool { return i%3 == 0 }), 10*median(clean, fast), 1.1)
}

func TestTwoImagesShareTheUplink(t *testing.T) {
	s := Scenario{Seed: 9, Frames: 200, PCs: Group(20, PC{})}
	for i := range s.PCs {
		s.PCs[i].Image = i % 2
	}
	r := run(t, s)
	a := median(r, func(i int) bool { return i%2 == 0 })
	b := median(r, func(i int) bool { return i%2 == 1 })
	slower(t, "two images", max(a, b), min(a, b), 1.05)
	one := run(t, Scenario{Seed: 9, Frames: 200, PCs: Group(1, PC{})})
	slower(t, "two images against one PC twice", r.Last, 2*one.Last, 1.1)
}

func TestTwoSwitches(t *testing.T) {
	s := Scenario{Seed: 10, Frames: 200, PCs: Group(16, PC{})}
	one := run(t, Scenario{Seed: 10, Frames: 200, PCs: Group(1, PC{})})
	for i := range s.PCs {
		s.PCs[i].Switch = i / 8
		s.PCs[i].Join = time.Duration(i) * 10 * time.Millisecond
	}
	r := run(t, s)
	slower(t, "switch after switch", r.Last, one.Last, 1.1)
	// The relay doesn't know the switches: when those of two switches report in
	// turn, the line crosses the link between them once each PC.
	for i := range s.PCs {
		s.PCs[i].Switch = i % 2
	}
	r = run(t, s)
	slower(t, "in turn on two switches", r.Last, one.Last, 8)
}

func TestCulpritIsNamed(t *testing.T) {
	s := Scenario{Seed: 11, Frames: 200, PCs: Group(12, PC{})}
	s.PCs[4].Spoils = 0.05
	r := run(t, s)
	for _, m := range r.View {
		if (m.Suspected != "") != (m.ID == r.PCs[4].ID) {
			t.Errorf("%s is suspected: %q; it was %s", m.ID, m.Suspected, r.PCs[4].ID)
		}
	}
}

// Whatever fails, everybody who has power ends with every frame.
func TestNobodyStarves(t *testing.T) {
	for seed := range uint64(16) {
		rnd := rand.New(rand.NewPCG(seed, 99))
		s := Scenario{Seed: seed, Frames: 120, Spread: 0.5, PCs: Group(2+rnd.IntN(50), PC{}), Limit: 10 * time.Minute}
		for i := range s.PCs {
			p := &s.PCs[i]
			p.Mbit = []int{1000, 1000, 1000, 1000, 100, 2500, 0}[rnd.IntN(7)]
			p.Image = rnd.IntN(2)
			p.Memory = int64(8+rnd.IntN(60)) << 20
			if rnd.IntN(2) == 0 {
				p.Join = time.Duration(rnd.Int64N(int64(4 * time.Second)))
			}
			switch rnd.IntN(12) {
			case 0:
				p.PowerAt = p.Join + 1 + time.Duration(rnd.Int64N(int64(3*time.Second)))
			case 1:
				p.Disk = 20 + 50*rnd.Float64()
			case 2:
				p.Actual = 50
			case 3:
				p.Spoils = 0.02
			}
		}
		s.PCs[0].PowerAt, s.PCs[0].Image = 0, 0
		r, err := Run(s)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range r.PCs {
			if p.Took < 0 && !p.Cut {
				t.Errorf("seed %d: %s of %d never got all frames: it has %d; %+v", seed, p.ID, len(r.PCs), p.Frames, s.PCs[i])
			}
		}
	}
}
