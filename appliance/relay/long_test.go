package relay

import "testing"

// A large image, slow disks and power cuts: those who wait do so for longer than
// any patience here, which must not be held against them.
func TestModelLongWaits(t *testing.T) {
	blamed, pcs := 0, 0
	for seed := range uint64(40) {
		w := newModel(t, seed, 1200, Config{})
		rnd := w.rnd
		well := map[string]bool{}
		w.add(3+rnd.IntN(14), func(i int, p *vpc) {
			p.joins = rnd.IntN(3) * rnd.IntN(900)
			p.memory = 24 + rnd.IntN(40)
			switch rnd.IntN(8) {
			case 0:
				p.cut = p.joins + 1 + rnd.IntN(1500)
			case 1:
				p.disk = 1 + rnd.IntN(8)
			default:
				well[p.id] = true
			}
		})
		steps := w.run(20000)
		pcs += len(w.pcs)
		for _, id := range w.slow {
			if well[id] {
				t.Logf("seed %d, %d steps: %s is called slow", seed, steps, id)
				blamed++
			}
		}
	}
	if blamed > 1 {
		t.Errorf("%d of %d PCs are called slow and are not", blamed, pcs)
	}
}
