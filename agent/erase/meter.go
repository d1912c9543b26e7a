package erase

import (
	"sync"

	"refurb/agent/wire"
)

// Meter tells how far an erasure is; anybody may look at any time.
type Meter struct {
	mu    sync.Mutex
	p     wire.Progress
	doing string
}

func (m *Meter) begin(phase wire.Phase, doing string, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p, m.doing = wire.Progress{Phase: phase, Total: total}, doing
}

func (m *Meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Done += n
}

// part is a drive's own word on how far it is.
func (m *Meter) part(percent float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Done = int64(min(max(percent, 0), 100) / 100 * float64(m.p.Total))
}

// Progress says how far it is; its phase is empty before it begins. Job and Rate
// are the caller's to fill. Total is 0 while nobody can say how far the drive is.
func (m *Meter) Progress() wire.Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.p
}

// Doing is what is done now, in a few words.
func (m *Meter) Doing() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.doing
}
