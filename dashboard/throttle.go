package dashboard

import (
	"sync"
	"time"
)

// throttle slows down whoever guesses passwords. Each key holds a number of
// tries that come back one at a time; a try is taken before the password is
// looked at, so that guesses in parallel gain nothing, and given back when it
// was right.
type throttle struct {
	mu    sync.Mutex
	tries map[string]tries
}

type tries struct {
	left float64
	at   time.Time
}

// budget is how many tries a key has and how fast one comes back.
type budget struct {
	burst float64
	back  time.Duration
}

var (
	perName    = budget{burst: 5, back: 30 * time.Second}
	perAddress = budget{burst: 20, back: 10 * time.Second}
	perCode    = budget{burst: 5, back: 30 * time.Second}
)

// maxKeys bounds the memory that strangers can fill. Above it full keys go
// first; if none is full, the try is refused.
const maxKeys = 10_000

// take uses one try of key, or says how long to wait for the next.
func (t *throttle) take(key string, b budget) (wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	v, ok := t.tries[key]
	if !ok {
		if t.tries == nil {
			t.tries = map[string]tries{}
		}
		if len(t.tries) >= maxKeys {
			t.prune(now)
		}
		if len(t.tries) >= maxKeys {
			return b.back
		}
		v = tries{left: b.burst, at: now}
	}
	v.left = min(b.burst, v.left+float64(now.Sub(v.at))/float64(b.back))
	v.at = now
	if v.left < 1 {
		t.tries[key] = v
		return time.Duration((1 - v.left) * float64(b.back)).Round(time.Second)
	}
	v.left--
	t.tries[key] = v
	return 0
}

// give returns a try that was none.
func (t *throttle) give(key string, b budget) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.tries[key]; ok {
		v.left = min(b.burst, v.left+1)
		t.tries[key] = v
	}
}

// prune forgets keys that had time to fill up again under any budget.
func (t *throttle) prune(now time.Time) {
	const longest = 5 * time.Minute
	for k, v := range t.tries {
		if now.Sub(v.at) > longest {
			delete(t.tries, k)
		}
	}
}
