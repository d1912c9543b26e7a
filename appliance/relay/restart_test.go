package relay

import "testing"

// The appliance is started again in the middle, and knows nobody: the PCs go on
// with what they have, and nobody is taken for slow.
func TestModelApplianceRestarts(t *testing.T) {
	for _, c := range []struct {
		name string
		join func(i int) int
		most float64 // images that the appliance sends
	}{
		{"all at once", func(int) int { return 0 }, 1.05},
		{"a trickle", func(i int) int { return 20 * i }, 2.1},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(5) {
				w := newModel(t, seed, 600, Config{})
				w.add(24, func(i int, p *vpc) { p.joins, p.memory = c.join(i), 24+w.rnd.IntN(100) })
				for step := range 300 {
					w.step(step)
				}
				w.r = New(Config{Key: func() string { return "key" }})
				sent := w.sent
				steps := 0
				for step := 300; step < 4000 && steps == 0; step++ {
					w.step(step)
					steps = step
					for _, p := range w.pcs {
						if p.done == 0 {
							steps = 0
						}
					}
				}
				images := float64(w.sent) / 600
				t.Logf("seed %d: %d steps, %.2f images, %d before", seed, steps, images, sent)
				if steps == 0 || len(w.slow) > 0 || images > c.most {
					t.Errorf("seed %d: %d steps, %.2f images, slow: %v", seed, steps, images, w.slow)
				}
			}
		})
	}
}
