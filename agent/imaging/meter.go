package imaging

import (
	"sync/atomic"

	"refurb/agent/wire"
)

// Meter counts while Write works; anybody may look at any time.
type Meter struct {
	phase                        atomic.Value // wire.Phase
	total, written, readBack     atomic.Int64 // raw bytes
	fetched, retries, mismatches atomic.Int64
}

// Progress says how far it is. Job and Rate are the caller's to fill.
func (m *Meter) Progress() wire.Progress {
	p := wire.Progress{Total: m.total.Load(), Fetched: m.fetched.Load(), Retries: int(m.retries.Load())}
	p.Phase, _ = m.phase.Load().(wire.Phase)
	switch p.Phase {
	case wire.PhaseVerifying:
		p.Done = m.readBack.Load()
	case wire.PhaseFinishing:
		p.Done = p.Total
	default:
		p.Done = m.written.Load()
	}
	return p
}
