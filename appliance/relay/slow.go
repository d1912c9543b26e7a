package relay

import (
	"slices"
	"time"
)

// Slowness is relative. When every disk of a batch is as slow as the next,
// nobody holds anybody up; so a member is moved only for one of these:
//
//   - its memory is full of frames that wait for its disk, and the disk of one
//     who has to wait for it surely follows faster: it did so within a minute,
//     without its memory filling up. Or nobody had the chance to show it, but
//     all neighbours have room: then the first, and after it only one that is
//     slower still, is moved on suspicion.
//   - its source has frames for it, it has room, and yet it receives far less
//     than that source once did: a slow hop. Its source is moved first. When it
//     is as slow behind another, it is moved itself. So it is behind the head,
//     which nobody else can replace; but when a third gets little from the same
//     head, the head is the slow one, and the others come back. Not while
//     somebody behind it has its memory full, or lacks what it has: then it is
//     held back and not slow.
//   - it is the head, holds the appliance, and gets a quarter of what its link
//     carries for thin, although it and those behind it have room. Nobody has
//     shown that the appliance gives more, so it is moved on suspicion, at most
//     MaxTried in a row. When none after them gets clearly more, the appliance or
//     what leads to it is the slow one: they come back, and nobody is moved so
//     until a head gets half of what its link carries.
//   - it receives nothing for stuck, although somebody has frames for it.
const (
	window = 1900 * time.Millisecond // at least so long, or it is no fact: three statuses
	proof  = time.Minute             // so long counts what a disk has shown
	stuck  = 10 * time.Second        // the same, for one that gets nothing at all
	// parched is how long one that gets nothing at all waits for its turn at the
	// appliance, at most.
	parched = 30 * time.Second
	full    = 50   // percent of memory
	room    = 25   // percent of memory: it could take more
	factor  = 1.25 // faster than that is faster
	behind  = 8    // frames between a hop's ends, more than are under way
	ring    = 12   // samples
	poor    = 4    // a head's link carries so many times what it gets
	thin    = 4 * time.Second
)

type sample struct {
	at      time.Time
	have    int
	missing int
	backlog int
	rate    int64
}

// sample keeps what m said now, at most twice a second.
func (m *member) sample(now time.Time) {
	m.peak = max(m.peak, m.Rate)
	if m.taken > 0 && now.Sub(m.ago(0).at) < 500*time.Millisecond {
		return
	}
	s := sample{now, m.Have, m.Missing, m.Backlog, m.Rate}
	for i := range min(m.taken, ring) {
		// What came in between and didn't fill its memory went to its disk.
		if o := m.ago(i); now.Sub(o.at) >= window && s.backlog <= o.backlog+2 {
			if f := float64(s.have-o.have) / now.Sub(o.at).Seconds(); f >= m.follows || now.Sub(m.shown) > proof {
				m.follows, m.shown = f, now
			}
		}
	}
	m.samples[m.taken%ring] = s
	m.taken++
}

// ago is the i-th last sample.
func (m *member) ago(i int) sample { return m.samples[(m.taken-1-i)%ring] }

// holds notes that those before m have to wait for it, as its memory is full.
func (m *member) holds(now time.Time) {
	for steps := 0; !m.patient && len(m.up) > 0 && steps < MaxMembers; steps++ {
		for _, u := range m.up {
			u.held = now
		}
		m = m.up[0]
	}
}

// over gives the frames per second and the mean rate over the last window, and
// whether ok holds for each sample of it. None, when there is no window since
// its sources changed.
func (m *member) over(now time.Time, ok func(sample) bool) (pace, rate float64, all bool) {
	for i := range min(m.taken, ring) {
		s := m.ago(i)
		if s.at.Before(m.since) || !ok(s) {
			return 0, 0, false
		}
		rate += float64(s.rate)
		if d := m.ago(0).at.Sub(s.at); d >= window {
			return float64(m.ago(0).have-s.have) / d.Seconds(), rate / float64(i+1), true
		}
	}
	return 0, 0, false
}

// slowness moves m or its source when the facts above hold.
func (im *image) slowness(now time.Time, m *member) {
	if m.block == nil || m.lacks() == 0 || now.Sub(m.heard) >= doubtful {
		return
	}
	switch {
	case im.slowDisk(now, m):
		im.behindAll(now, m, "its disk can't follow the others'")
	case im.starved(now, m):
	case im.slowHop(now, m):
	case len(m.up) == 0:
		im.slowHead(now, m)
	}
}

func (im *image) slowDisk(now time.Time, m *member) bool {
	if !m.movable(now) || m.lane == laneSlow && len(m.down) == 0 {
		return false
	}
	pace, _, all := m.over(now, func(s sample) bool { return s.backlog > full })
	if !all || len(m.down) == 0 && (len(m.up) == 0 || m.patient) {
		return false // nobody is held up
	}
	for _, o := range im.members {
		// Who is of a faster class doesn't wait for m.
		held := o.lane <= m.lane && (o.lane > laneSlow || m.lane == laneSlow)
		if held && o != m && o.block != nil && o.Backlog <= full && now.Sub(o.shown) <= proof && o.follows > pace*factor {
			return true
		}
	}
	for _, o := range slices.Concat(m.up, m.down) {
		if o.lacks() > 0 && o.Backlog > room {
			return false
		}
	}
	if im.probed == 0 || pace*factor < im.probed {
		im.probed = max(pace, 0.01)
		return true
	}
	return false
}

// starved acts when m gets nothing at all for a long time.
func (im *image) starved(now time.Time, m *member) bool {
	if now.Sub(m.progress) < stuck || m.Backlog > full {
		return false
	}
	if m.depot && m.needs(now) {
		// The appliance has everything, so it is this PC that can't take it.
		if m.movable(now) {
			im.behindAll(now, m, "it gets nothing from the appliance")
		}
		return true
	}
	for _, u := range m.up {
		if len(m.avoid) < MaxFew && m.waits(now) > 0 && (u.lacks() == 0 || u.Have-m.Have-m.Missing > 0) && !m.avoid[u.ID] {
			im.part(now, m, u)
			m.progress = now
			return true
		}
	}
	return false
}

func (im *image) slowHop(now time.Time, m *member) bool {
	if m.patient || len(m.up) == 0 || len(m.up[0].down) > len(m.up) {
		return false // it shares its source
	}
	u := m.up[0]
	gap := func(s sample) int { return u.haveAt(s.at) - s.have - s.missing }
	first, last := 0, 0
	n := 0
	_, rate, all := m.over(now, func(s sample) bool {
		first = gap(s)
		if n == 0 {
			last = first
		}
		n++
		return s.backlog <= room && first >= behind && s.at.After(m.held)
	})
	if !all || last < first || rate*2*factor > float64(max(u.peak, m.peak)) {
		return false
	}
	for _, d := range m.down {
		// Behind a slow hop they have all there is. This one may keep what they
		// lack, and have no room for more.
		if !d.patient && d.lacks() > 0 && m.Have-d.Have-d.Missing >= behind {
			return false
		}
	}
	switch {
	case !m.hopped && len(u.up) > 0:
		if u.movable(now) {
			m.hopped = true
			m.past[u.ID] = now
			im.move(now, u)
		}
	case !m.movable(now):
	case !m.hopped && (len(u.slowed) > 1 || len(u.slowed) == 1 && u.block.size() == 2):
		if u.movable(now) {
			im.behindAll(now, u, "what it sends comes slowly: look at its cable")
			im.acquit(now, u.slowed)
			u.slowed = nil
		}
	default:
		if !m.hopped {
			u.slowed = append(u.slowed, m)
		}
		im.behindAll(now, m, slowLink)
	}
	return true
}

func (im *image) slowHead(now time.Time, m *member) {
	if !m.depot || m.Mbit <= 0 || m.lane <= laneMute {
		return
	}
	_, rate, all := m.over(now, func(s sample) bool { return s.backlog <= room && s.rate > 0 && s.at.After(m.held) })
	carries := float64(m.Mbit) * 1e6 / 8
	switch {
	case !all:
		m.thin = time.Time{}
	case rate*poor >= carries:
		m.thin = time.Time{}
		if len(im.tried) > 0 || rate*2 >= carries {
			im.tries = 0
		}
		if as := slices.DeleteFunc(im.tried, func(t *member) bool { return t.got*2*factor < rate }); len(as) > 0 { // as slow as this one
			im.acquit(now, as)
			im.tries = MaxTried
		}
		im.tried = nil
	case m.thin.IsZero():
		m.thin = now
	case now.Sub(m.thin) < thin || !m.movable(now):
	case im.tries < MaxTried && m.block.size() > 1:
		im.tries++
		im.tried = append(im.tried, m)
		m.got, m.thin = rate, time.Time{}
		im.behindAll(now, m, slowLink)
	case len(im.tried) > 0:
		im.acquit(now, im.tried)
		im.tried, im.tries = nil, MaxTried
	}
}

const slowLink = "its network is slower than the others'"

// acquit takes those back who were moved for getting little, when that was not
// their doing.
func (im *image) acquit(now time.Time, slowed []*member) {
	for _, m := range slowed {
		if im.members[m.ID] == m && m.slow == slowLink {
			m.slow = ""
			if m.block != nil {
				im.move(now, m)
			}
		}
	}
}

// haveAt is what m had at a time, between two of its samples.
func (m *member) haveAt(t time.Time) int {
	for i := range min(m.taken, ring) {
		s := m.ago(i)
		if s.at.After(t) {
			continue
		}
		if i == 0 {
			return s.have
		}
		n := m.ago(i - 1)
		return s.have + int(float64(n.have-s.have)*float64(t.Sub(s.at))/float64(n.at.Sub(s.at)))
	}
	return 0
}

// behindAll moves m to the end of the line.
func (im *image) behindAll(now time.Time, m *member, why string) {
	m.slow = why
	im.move(now, m)
}
