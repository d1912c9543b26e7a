// Package campaign runs the real agent against the real appliance, thousands of
// times, on disks, networks and power that fail and lie, and holds what they say
// against what is true. See docs/adr/0011.
package campaign

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/wire"
)

var (
	runs = flag.Int("runs", selection, "how many runs")
	from = flag.Uint64("from", 1, "the first one's seed")
	one  = flag.Uint64("seed", 0, "one run alone, with its story; -count repeats it")
)

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp(memory(), "campaign")
	if err == nil {
		err = stock(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "campaign:", err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// memory is a folder where a flush to the disk costs nothing.
func memory() string {
	if _, err := os.Stat("/dev/shm"); err == nil {
		return "/dev/shm"
	}
	return ""
}

// tally is what all runs together came to.
type tally struct {
	mu       sync.Mutex
	runs     int
	spared   int // in which nothing went wrong
	hit      map[string]int
	crimes   map[string]int
	outcomes map[wire.Result]int
	proved   int
	missed   int
	births   int
	resumed  int
}

func (c *tally) add(w *world) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs++
	if len(w.script.hit) == 0 {
		c.spared++
	}
	for k := range w.script.hit {
		c.hit[k]++
	}
	for k, v := range w.judge.guilty {
		c.crimes[k] += len(v)
	}
	for k, n := range w.judge.outcomes {
		c.outcomes[k] += n
	}
	c.proved += len(w.judge.wrongAt)
	c.missed += w.judge.missed
	c.resumed += w.judge.resumed
	c.births += int(w.judge.births.Load())
}

func TestCampaign(t *testing.T) {
	c := &tally{hit: map[string]int{}, crimes: map[string]int{}, outcomes: map[wire.Result]int{}}
	if *one != 0 {
		w := play(t, *one, c)
		t.Log("\n" + w.story())
		return
	}
	start := time.Now()
	seeds := make(chan uint64)
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for seed := range seeds {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					if w := play(t, seed, c); t.Failed() {
						t.Logf("seed %d: replay with `go test ./scripts/campaign -run TestCampaign -seed %d -v`\n%s", seed, seed, w.story())
					}
				})
			}
		})
	}
	for seed := range uint64(*runs) {
		seeds <- *from + seed
	}
	close(seeds)
	workers.Wait()
	for _, k := range slices.Sorted(maps.Keys(c.hit)) {
		fmt.Printf("fault %-24s %d\n", strings.ReplaceAll(k, " ", "_"), c.hit[k])
	}
	fmt.Printf("outcomes %v, proved %d, birth records %d, frames resumed %d, erasures that samples let pass %d, without a fault %d, %.0f s\n", c.outcomes, c.proved, c.births, c.resumed, c.missed, c.spared, time.Since(start).Seconds())
	for _, p := range places {
		for _, kind := range strings.Fields(p.kinds) {
			if *runs >= 2000 && c.hit[p.name+" "+kind] == 0 {
				t.Errorf("no run had %s %s", p.name, kind)
			}
		}
	}
	fmt.Printf("faults_run %d\nfalse_success %d\nwrong_disk_writes %d\nlost_events %d\n", c.runs-c.spared, c.crimes["false"], c.crimes["wrong"], c.crimes["lost"])
	if c.runs != *runs || len(c.crimes) > 0 {
		t.Error("the campaign has failed")
	}
	if c.proved*4 < c.runs || c.outcomes[wire.Failed]*10 < c.runs {
		t.Errorf("%d of %d runs were proved, %d outcomes were failures: the faults are too many or too few to say anything", c.proved, c.runs, c.outcomes[wire.Failed])
	}
}

// play is one run, in a time of its own. A run that hangs names itself.
func play(t *testing.T, seed uint64, c *tally) (w *world) {
	dir, err := os.MkdirTemp(filepath.Dir(shelf.images), "run")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	watchdog := time.AfterFunc(5*time.Minute, func() { panic(fmt.Sprintf("seed %d hangs", seed)) })
	defer watchdog.Stop()
	synctest.Test(t, func(t *testing.T) {
		w = newWorld(seed, dir)
		w.run()
	})
	c.add(w)
	for _, crime := range crimes {
		for _, what := range w.judge.guilty[crime] {
			t.Errorf("%s: %s", crime, what)
		}
	}
	if len(w.script.faults) == 0 && len(w.judge.finished) == 0 {
		t.Error("nothing went wrong, and yet the PC was not finished")
	}
	return w
}

// story is what happened, in its order.
func (w *world) story() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %s of %d bytes, %d on the disk, moving head %v, standing %v\n", w.seed, w.m.Name, w.m.Bytes, w.all[0].Bytes, w.all[0].Rotational, w.standing)
	for _, f := range w.script.faults {
		fmt.Fprintf(&b, "  planned: %v\n", f)
	}
	w.script.mu.Lock()
	defer w.script.mu.Unlock()
	for _, s := range w.script.trace {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}
