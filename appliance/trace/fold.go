package trace

import (
	"slices"
	"strings"
	"time"
)

// Bounds. A start takes about 20 kB at most, the whole book about 10 MB.
const (
	maxLines   = 64               // of one start
	lookBack   = 8                // lines in which an equal one is looked for
	maxPerPC   = 6                // starts of one PC
	maxMACs    = 4                // cards of one PC
	silence    = 3 * time.Minute  // after which firmware that asks again is a new start
	longAgo    = 30 * time.Minute // after which an installed system that asks is one
	sameAddr   = 15 * time.Minute // how long an address speaks for the PC that had it
	turnTime   = 5 * time.Second  // within which two cards of one PC don't take turns
	maxHouse   = 32               // lines that belong to no PC
	maxSharing = 256              // UUIDs known to be shared
)

// class of a start, by how much it took to get there. Each has room of its own:
// made-up packets push out what was only heard, never a PC that has fetched
// files, and nobody without a boot token a PC that has said hello.
type class int

const (
	heard class = iota // sends packets
	spoke              // has fetched a whole file, so something really is at its address
	known              // its agent has said hello
	classes
)

var room = [classes]int{heard: 128, spoke: 128, known: 256}

func classOf(s *Start) class {
	c := heard
	for i := range s.Lines {
		switch l := &s.Lines[i]; {
		case l.What == Hello || l.What == FirstBoot:
			return known
		case (l.What == "tftp" || l.What == "http") && l.Bytes > 0 && l.Err == "":
			c = spoke
		}
	}
	return c
}

// book is all that is remembered. Its methods change it and do nothing else.
type book struct {
	mode   string
	starts []*entry            // oldest first
	newest map[string]*entry   // by MAC
	shared map[string]struct{} // UUIDs of more than one PC
	house  []Line              // of nobody in particular
	gone   []string            // ids of starts that were dropped, until somebody asks
}

// entry is a start while it may still change.
type entry struct {
	Start
	class  class
	spoken string // the MAC that spoke last
	turns  int    // how often its cards took turns at once
	copy   *Start // what was given out since the last change
	dirty  bool   // not written yet
	kept   bool   // it may have a file
	over   bool   // dropped
}

func newBook() *book {
	return &book{newest: map[string]*entry{}, shared: map[string]struct{}{}}
}

// add takes one cleaned sighting.
func (b *book) add(g Sighting) {
	e := b.find(&g)
	if e == nil {
		if g.MAC == "" || g.What == "malformed" || g.Problem == "other" {
			b.note(g)
			return
		}
		e = b.begin(g)
	}
	if g.Problem == "other" {
		b.note(g)
	}
	e.take(g)
	if c := classOf(&e.Start); c != e.class {
		e.class = c
		b.makeRoom(c)
	}
}

// find is the start that g belongs to; nil: a new one, or none.
func (b *book) find(g *Sighting) *entry {
	if !g.Began.IsZero() && g.What != "begin" {
		// A transfer may end long after its PC was started anew.
		if e := b.pending(g); e != nil {
			return e
		}
	}
	if g.MAC == "" {
		if e := b.at(g.IP, g.Time); e != nil {
			g.MAC = e.MACs[0]
			return e
		}
		return nil
	}
	e := b.newest[g.MAC]
	if e == nil {
		if e = b.otherCard(g); e == nil {
			return nil
		}
		e.MACs = append(e.MACs, g.MAC)
		b.newest[g.MAC] = e
		return e
	}
	if b.anew(e, g) {
		return nil
	}
	return e
}

func (b *book) pending(g *Sighting) *entry {
	for _, e := range slices.Backward(b.starts) {
		if e.open(g) >= 0 {
			return e
		}
	}
	return nil
}

// at is the newest start that has had an address lately.
func (b *book) at(ip string, t time.Time) *entry {
	if ip == "" {
		return nil
	}
	for _, e := range slices.Backward(b.starts) {
		if e.IP == ip && t.Sub(e.Last) < sameAddr {
			return e
		}
	}
	return nil
}

// anew reports whether g begins another start of the PC.
func (b *book) anew(e *entry, g *Sighting) bool {
	if len(e.MACs) > 1 && g.Via != "" && e.spoken != g.MAC && g.Time.Sub(e.Last) < turnTime {
		if e.turns++; e.turns >= 3 { // one PC tries its cards one after the other
			if len(b.shared) < maxSharing {
				b.shared[e.UUID] = struct{}{}
			}
			return true
		}
	}
	if g.What != "discover" {
		return false
	}
	quiet := g.Time.Sub(e.Last)
	f := read(&e.Start, g.Time)
	reached := f.reached()
	switch {
	case g.Via == "":
		return quiet > longAgo
	case f.plainOnly:
		return true // what was an installed system is firmware now
	case quiet > silence && f.hello == nil:
		return true
	case g.Via == "ipxe":
		return reached >= Script
	}
	return reached > Firmware
}

// otherCard is the start of the same PC from another network card: it has just
// given that one up.
func (b *book) otherCard(g *Sighting) *entry {
	if g.UUID == "" || g.Via == "" {
		return nil
	}
	if _, yes := b.shared[g.UUID]; yes {
		return nil
	}
	for _, e := range slices.Backward(b.starts) {
		if e.UUID != g.UUID || !e.Again.IsZero() {
			continue
		}
		quiet := g.Time.Sub(e.Last)
		if quiet < turnTime || quiet > silence || len(e.MACs) >= maxMACs || read(&e.Start, g.Time).reached() > Firmware {
			return nil
		}
		return e
	}
	return nil
}

func (b *book) begin(g Sighting) *entry {
	e := &entry{Start: Start{
		ID:   g.Time.UTC().Format("20060102T150405.000000") + "-" + strings.ReplaceAll(g.MAC, ":", ""),
		MACs: []string{g.MAC}, Arch: -1, Mode: b.mode, Began: g.Time, Last: g.Time,
	}}
	if old := b.newest[g.MAC]; old != nil {
		old.Again = g.Time
		old.changed()
		e.Number, e.Device = old.Number, old.Device
		b.newest[g.MAC] = e
		for _, mac := range old.MACs {
			if b.newest[mac] == old && mac != g.MAC && old.UUID != "" && old.UUID == g.UUID {
				b.newest[mac] = e
				e.MACs = append(e.MACs, mac)
			}
		}
	}
	b.newest[g.MAC] = e
	b.starts = append(b.starts, e)
	b.thin(g.MAC)
	b.makeRoom(heard)
	return e
}

// thin drops a start of a PC that starts again and again: one that went no
// further than others, the oldest of those.
func (b *book) thin(mac string) {
	n, victim := 0, -1
	for i, e := range b.starts[:len(b.starts)-1] {
		if !e.Has(mac) {
			continue
		}
		n++
		if victim < 0 || e.class < b.starts[victim].class {
			victim = i
		}
	}
	if n >= maxPerPC {
		b.drop(victim)
	}
}

// makeRoom drops who was silent for longest, of one class.
func (b *book) makeRoom(c class) {
	for {
		n, victim := 0, -1
		for i, e := range b.starts {
			if e.class != c {
				continue
			}
			n++
			if victim < 0 || e.Last.Before(b.starts[victim].Last) {
				victim = i
			}
		}
		if n <= room[c] {
			return
		}
		b.drop(victim)
	}
}

func (b *book) drop(i int) {
	e := b.starts[i]
	b.starts = slices.Delete(b.starts, i, i+1)
	for _, mac := range e.MACs {
		if b.newest[mac] == e {
			delete(b.newest, mac)
		}
	}
	if e.over = true; e.kept {
		b.gone = append(b.gone, e.ID)
	}
}

// note keeps what belongs to no PC.
func (b *book) note(g Sighting) {
	b.house = merge(b.house, g)
	if len(b.house) > maxHouse {
		b.house = slices.Delete(b.house, 0, 1)
	}
}

func (e *entry) changed() { e.copy, e.dirty = nil, true }

// take adds g to the start.
func (e *entry) take(g Sighting) {
	e.changed()
	if g.Time.After(e.Last) {
		e.Last = g.Time
	}
	if g.Via != "" {
		e.spoken = g.MAC
	}
	if e.UUID == "" {
		e.UUID = g.UUID
	}
	if g.Arch >= 0 && (e.Arch < 0 || g.Via == "http") {
		e.Arch = g.Arch
	}
	if g.Card != "" {
		e.Card = g.Card
	}
	if g.IP != "" && g.IP != "0.0.0.0" && g.What != "offer" && g.Problem != "taken" {
		e.IP = g.IP
	}
	if g.Number > 0 {
		e.Number, e.Device = g.Number, g.Device
	}
	if i := e.open(&g); i >= 0 {
		// The line of its beginning becomes that of its end.
		e.Lines = slices.Delete(e.Lines, i, i+1)
	}
	e.Lines = merge(e.Lines, g)
	if n := len(e.Lines); n > maxLines {
		// How it began and what came last say most.
		e.Lines = slices.Delete(e.Lines, maxLines/2, maxLines/2+n-maxLines)
		e.Dropped += n - maxLines
	}
}

// open finds the line of a transfer that g ends, or -1.
func (e *entry) open(g *Sighting) int {
	if g.Began.IsZero() || g.What == "begin" {
		return -1
	}
	return slices.IndexFunc(e.Lines, func(l Line) bool {
		return l.What == "begin" && l.Began.Equal(g.Began) && l.File == g.File && (l.MAC == g.MAC || l.IP == g.IP)
	})
}

// merge adds g, as one more of an equal line if there is one lately.
func merge(lines []Line, g Sighting) []Line {
	for i := len(lines) - 1; i >= max(0, len(lines)-lookBack); i-- {
		l := &lines[i]
		if l.What == "script" && g.What != "script" {
			break // what comes after its script is another part of the PC
		}
		if !equal(&l.Sighting, &g) {
			continue
		}
		l.Gap = max(l.Gap, g.Time.Sub(l.End()))
		l.Count, l.Last = l.N()+1, g.Time
		return lines
	}
	return append(lines, Line{Sighting: g})
}

func equal(a, b *Sighting) bool {
	return a.What == b.What && a.MAC == b.MAC && a.Via == b.Via && a.Detail == b.Detail && a.Err == b.Err && a.Problem == b.Problem &&
		a.Port == b.Port && a.Server == b.Server && a.File == b.File && a.Bytes == b.Bytes && a.Size == b.Size &&
		a.Probe == b.Probe && a.Missing == b.Missing && a.Boots == b.Boots && a.Number == b.Number && a.What != "begin" &&
		len(a.Gaps) == 0 && len(b.Gaps) == 0 && a.Link == b.Link
}
