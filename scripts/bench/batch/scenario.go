// Package batch simulates a batch of PCs in virtual time: the scheduler is the
// appliance's own code, the PCs and the network are models of what
// agent/exchange and a workshop's switches do. The same scenario with the same
// seed gives the same result, to the nanosecond.
//
// What is modelled: full-duplex links that send 64 KiB at a time in turn to
// everybody who waits, switches that pass on at once, links between switches,
// memory that is full, disks that lag behind, reports once a second and what the
// scheduler answers, PCs that lose power without a word and PCs that spoil what
// they pass on. What is not: lost packets, TCP's slow start, CPUs.
package batch

import (
	"fmt"
	"time"

	"refurb/appliance/relay"
)

// Scenario is one batch. Zero values mean what the comments say.
type Scenario struct {
	Seed    uint64
	PCs     []PC
	Frames  int           // of each image; 0: 575
	Bytes   int64         // mean compressed size of a frame; 0: 1.3 MB
	Spread  float64       // sizes are drawn from mean × (1 ± Spread)
	Raw     int64         // bytes of a frame on the disk; 0: 4 MiB
	Uplink  float64       // Mbit/s of the appliance's link; 0: 1000
	Trunk   float64       // Mbit/s of the link from each further switch to the first one; 0: 1000
	Latency time.Duration // of one hop; 0: 0.3 ms
	Gap     float64       // share of a frame's time in which its sender stands still before it; 0: 2 %, negative: none
	Jitter  float64       // a link's rate is drawn for each frame from 1 ± Jitter; 0: 5 %, negative: none
	Unicast bool          // no relay: everybody takes everything from the appliance
	Relay   relay.Config
	Soonest time.Duration // until a PC reports again after news, doubled up to 0.5 s; 0: as agent/exchange does
	Limit   time.Duration // when to give up; 0: a virtual day
}

// PC is one member of the batch.
type PC struct {
	Image   int           // PCs of one number share
	Join    time.Duration // when its job starts
	Mbit    int           // of its link, both ways; 0: 1000
	Actual  float64       // Mbit/s that the link really gives; 0: Mbit
	Disk    float64       // MB/s written; 0: 450
	Memory  int64         // bytes of compressed frames; 0: 64 MiB
	Switch  int           // it hangs on; the appliance is on switch 0
	PowerAt time.Duration // when its power is cut; 0: never
	Spoils  float64       // chance for each frame that it passes on wrong bytes
}

// Result is what came of a scenario.
type Result struct {
	PCs        []Finish
	Appliance  int64         // bytes that the appliance sent
	Duplicates int64         // bytes that arrived and were of no use
	Image      int64         // compressed bytes of image 0
	Last       time.Duration // when the last PC that ended was done
	Events     int           // of the simulation
	Orders     int           // that told a PC something new
	View       []relay.Member
}

// Finish is how one PC fared.
type Finish struct {
	ID        string
	Took      time.Duration // from its start until the last frame was checked and written; negative: never
	Frames    int           // written
	FromPeers int64         // bytes
	Sent      int64         // bytes passed on
	Cut       bool          // its power was cut
}

// Group gives n equal PCs.
func Group(n int, p PC) []PC {
	out := make([]PC, n)
	for i := range out {
		out[i] = p
	}
	return out
}

func (s *Scenario) defaults() error {
	set := func(v *float64, d float64) {
		if *v == 0 {
			*v = d
		}
		*v = max(*v, 0)
	}
	if s.Frames == 0 {
		s.Frames = 575
	}
	if s.Bytes == 0 {
		s.Bytes = 1_300_000
	}
	if s.Raw == 0 {
		s.Raw = 4 << 20
	}
	if s.Latency == 0 {
		s.Latency = 300 * time.Microsecond
	}
	if s.Soonest == 0 {
		s.Soonest = newsAfter
	}
	if s.Limit == 0 {
		s.Limit = 24 * time.Hour
	}
	set(&s.Uplink, 1000)
	set(&s.Trunk, 1000)
	set(&s.Gap, 0.02)
	set(&s.Jitter, 0.05)
	s.PCs = append([]PC(nil), s.PCs...)
	for i := range s.PCs {
		p := &s.PCs[i]
		if p.Mbit == 0 {
			p.Mbit = 1000
		}
		set(&p.Actual, float64(p.Mbit))
		set(&p.Disk, 450)
		if p.Memory == 0 {
			p.Memory = 64 << 20
		}
	}
	if s.Jitter >= 1 || s.Spread >= 1 || s.Spread < 0 {
		return fmt.Errorf("jitter %g and spread %g must lie below 1: a link needs some rate, a frame some bytes", s.Jitter, s.Spread)
	}
	return nil
}

// Unfinished counts those who never had all frames although they had power.
func (r *Result) Unfinished() int {
	n := 0
	for _, p := range r.PCs {
		if p.Took < 0 && !p.Cut {
			n++
		}
	}
	return n
}
