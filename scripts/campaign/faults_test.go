package campaign

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// faultKind is how something goes wrong.
type faultKind string

// fault is one thing that goes wrong in a run: when the place has been passed at
// times.
type fault struct {
	place string
	kind  faultKind
	at    int
	more  int // and as often again
	arg   int // how long, how far
	salt  uint64
}

func (f fault) String() string {
	s := fmt.Sprintf("%s %s, time %d", f.place, f.kind, f.at)
	if f.more > 0 {
		s += fmt.Sprintf(" and %d more", f.more)
	}
	return s
}

// places are where faults happen, how often a run without any passes there about,
// and what may happen. Kinds that are named twice are drawn twice as often.
var places = []struct {
	name   string
	passes int
	weight int
	kinds  string
}{
	// The disk. "look" is finding out what it holds, "op" any call to it.
	{"look", 900, 2, "flip error astray stall"},
	{"read", 16, 5, "flip stale astray error short stall"},
	{"write", 8, 6, "drop flip astray error full torn stall"},
	{"zero", 3, 3, "drop error astray stall"},
	{"sync", 7, 4, "lost lost error stall"},
	{"command", 8, 5, "error late refuse lie part stall power crash kill"},
	{"op", 1000, 2, "vanish crash power kill swap cancel"},
	{"change", 30, 8, "vanish crash power kill swap cancel unplug"},
	{"open", 1, 3, "swap vanish power crash kill"},
	// The calls to the appliance, by their path.
	{"report", 1, 2, "before after half 500 503 slow twice kill-before kill-after power"},
	{"plan", 2, 2, "before after half 500 503 slow twice kill-before kill-after power garbage"},
	{"event", 3, 8, "before after half 500 503 slow twice kill-before kill-after power cancel"},
	{"progress", 3, 2, "before after half 500 slow kill-before kill-after"},
	{"share", 6, 3, "before after half 500 503 slow kill-before kill-after garbage"},
	{"file", 3, 4, "500 404 cut flip slow whole other kill-before"},
	// The records, the network, the hour.
	{"commit", 9, 6, "full kill-before kill-after"},
	{"dial", 4, 3, "refused hole reset silence flip"},
	{"clock", 1, 4, "kill power crash unplug cancel vanish"},
}

// lies are what a disk does without saying so. Two of them may cover each other:
// what is dropped, and then read from another place that happens to hold it. No
// program can find that out, so those of a run are either of writing or of
// reading.
var writeLies = map[string]bool{"write drop": true, "write flip": true, "write astray": true, "zero drop": true, "zero astray": true, "sync lost": true,
	"command lie": true, "command part": true}
var readLies = map[string]bool{"read flip": true, "read stale": true, "read astray": true, "look flip": true, "look astray": true}

// draw makes the faults of a run.
func draw(r *rand.Rand) (all []fault) {
	total := 0
	for _, p := range places {
		total += p.weight
	}
	n := []int{0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 4, 5}[r.IntN(16)]
	wrote, read := false, false
	for len(all) < n {
		k := r.IntN(total)
		i := 0
		for k >= places[i].weight {
			k -= places[i].weight
			i++
		}
		p := places[i]
		kinds := strings.Fields(p.kinds)
		f := fault{place: p.name, kind: faultKind(kinds[r.IntN(len(kinds))]), at: 1 + r.IntN(p.passes+p.passes/4), salt: r.Uint64()}
		f.arg = r.IntN(1 << (1 + r.IntN(23)))
		what := f.place + " " + string(f.kind)
		if writeLies[what] && read || readLies[what] && wrote {
			continue
		}
		wrote, read = wrote || writeLies[what], read || readLies[what]
		switch f.kind {
		case "vanish", "crash", "power", "kill", "swap", "cancel", "unplug", "kill-before", "kill-after", "garbage":
		default:
			if r.IntN(8) == 0 {
				f.more = 1 + r.IntN(40)
			}
		}
		all = append(all, f)
		// What was lost or spoilt is to be noticed by whoever takes the job up again.
		if writeLies[what] && r.IntN(2) == 0 {
			end := fault{place: "change", kind: []faultKind{"power", "power", "crash", "kill"}[r.IntN(4)], salt: r.Uint64()}
			end.at = 1 + r.IntN(30)
			all = append(all, end)
		}
	}
	return all
}

// script counts how often each place was passed, and notes what went wrong.
type script struct {
	mu     sync.Mutex
	faults []fault
	passed map[string]int
	start  time.Time
	trace  []string
	hit    map[string]int
}

// due passes places and gives the faults that happen there now. What befalls the
// whole PC or the appliance is done at once.
func (w *world) due(at ...string) (now []fault) {
	w.script.mu.Lock()
	for _, place := range at {
		w.script.passed[place]++
		for _, f := range w.script.faults {
			if n := w.script.passed[place]; f.place == place && f.at <= n && n <= f.at+f.more {
				now = append(now, f)
				w.script.hit[f.place+" "+string(f.kind)]++
			}
		}
	}
	w.script.mu.Unlock()
	for _, f := range now {
		w.say("%v", f)
	}
	return slices.DeleteFunc(now, w.befall)
}

// befall does what isn't about one call alone. It reports whether that was it.
func (w *world) befall(f fault) bool {
	switch f.kind {
	case "power":
		w.pc.end("power", f.salt)
	case "crash":
		w.pc.end("crash", f.salt)
	case "kill":
		w.house.kill(f.salt)
	case "vanish":
		w.pc.pull(f.salt)
	case "swap":
		w.pc.swap()
	case "cancel":
		w.house.cancel()
	case "unplug":
		d := []time.Duration{5 * time.Second, 40 * time.Second, 3 * time.Minute, 15 * time.Minute}[f.salt%4]
		w.say("the cable is out for %v", d)
		w.net.unplug(d)
	default:
		return false
	}
	return true
}

// lied reports whether the disk has lied about a write.
func (w *world) lied() bool {
	w.script.mu.Lock()
	defer w.script.mu.Unlock()
	for what := range w.script.hit {
		if writeLies[what] {
			return true
		}
	}
	return false
}

func (w *world) say(format string, a ...any) {
	w.script.mu.Lock()
	defer w.script.mu.Unlock()
	w.script.trace = append(w.script.trace, fmt.Sprintf("%10.3fs ", time.Since(w.script.start).Seconds())+fmt.Sprintf(format, a...))
}
