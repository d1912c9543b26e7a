package imaging

import (
	"sync/atomic"

	"refurb/agent/wire"
)

// Meter counts while Found and Write work; anybody may look at any time.
type Meter struct {
	phase                    atomic.Value // wire.Phase
	source                   atomic.Pointer[Source]
	total, written, readBack atomic.Int64 // raw bytes
	mismatches               atomic.Int64
}

func (m *Meter) begin(total int64, s Source) {
	m.total.Store(total)
	m.phase.Store(wire.PhaseImaging)
	if s != nil {
		m.source.Store(&s)
	}
}

// Waits is what the image's source waits for, one sentence for a volunteer;
// empty: it doesn't.
func (m *Meter) Waits() string {
	if s := m.source.Load(); s != nil {
		return (*s).Stats().Why
	}
	return ""
}

// Progress says how far it is: what is written, then what was read back, of
// which much may have been while others were written. Job and Rate are the
// caller's to fill.
func (m *Meter) Progress() wire.Progress {
	p := wire.Progress{Total: m.total.Load()}
	if s := m.source.Load(); s != nil {
		stats := (*s).Stats()
		p.Fetched, p.Retries = stats.Fetched, stats.Retries
	}
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
