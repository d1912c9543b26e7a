package relay

import (
	"slices"
	"time"
)

// settle computes everything that follows from the facts.
func (im *image) settle(now time.Time) {
	if len(im.members) == 0 || !im.stale && !im.due {
		return
	}
	im.due = false
	if im.stale {
		im.assign(now)
	}
	for im.retire(now) {
		im.assign(now)
	}
	if hold := im.holders(now); im.regroup(now, hold) {
		im.assign(now)
		im.grant(now, im.holders(now))
	} else {
		im.grant(now, hold)
	}
}

// current says whether m's status was made with its present sources.
func (m *member) current(now time.Time) bool {
	return m.Serial >= m.told || now.Sub(m.since) >= 3*time.Second
}

// waits is the number of frames that m still gets from its sources.
func (m *member) waits(now time.Time) int {
	if !m.current(now) {
		return m.lacks()
	}
	return m.lacks() - m.Missing
}

// needs says whether only the appliance can help m.
func (m *member) needs(now time.Time) bool {
	return m.lacks() > 0 && (len(m.up) == 0 || m.waits(now) <= 0)
}

// want is what of a status decides about the depot.
type want struct{ done, all, little, missed, needs, current bool }

func (m *member) want(now time.Time) want {
	return want{m.Done, m.lacks() == 0, m.lacks() <= few, m.Missing > few, m.needs(now), m.current(now)}
}

// holders picks who may fetch from the appliance, in the order of the line.
func (im *image) holders(now time.Time) (hold []*member) {
	little, more := true, false
	for m := range im.each {
		if !m.needs(now) {
			continue
		}
		little = little && m.lacks() <= few
		switch {
		case len(hold) == 0:
			more = m.crawls || m.lane == laneSlow
		case more && len(hold) < MaxDepot:
			more = false
		case !little || len(hold) >= MaxFew:
			return hold
		}
		hold = append(hold, m)
	}
	if len(hold) == 0 {
		hold = im.idle(now)
	}
	return hold
}

// idle picks who fetches while nobody has to: of those that missed something
// the one that lacks most, which the others of its block will get it from.
func (im *image) idle(now time.Time) []*member {
	var most *member
	for m := range im.each {
		switch {
		case most != nil && m.block != most.block:
			return []*member{most}
		case m.depot && m.Missing > 0:
			return []*member{m}
		case m.Missing > few && m.current(now) && (most == nil || m.lacks() > most.lacks()):
			most = m
		}
	}
	if most == nil {
		return nil
	}
	return []*member{most}
}

func (im *image) grant(now time.Time, hold []*member) {
	dry := im.dry(now)
	for _, m := range im.members {
		had := m.depot
		m.depot, m.waiting = slices.Contains(hold, m), false
		if m.depot && !had {
			m.progress = now // what it waited for its turn is not held against it
		}
		// Until it has given the depot back: a second one that comes and goes
		// would help nobody.
		m.crawls = m.depot && (m.crawls || dry || now.Sub(m.since) > memory/2 && m.Rate*4 < im.best)
	}
	for m := range im.each {
		m.waiting = m.lacks() > 0 && !m.depot && (m.needs(now) || slices.ContainsFunc(m.up, func(u *member) bool { return u.waiting }))
	}
}

// dry says whether somebody has waited for the appliance for long and got nothing
// from anybody. Whoever holds it may say what it likes: it doesn't hold it alone
// any longer. Those who came late don't get here: while the head of a wave gets
// frames, so do they.
func (im *image) dry(now time.Time) bool {
	for m := range im.each {
		if !m.depot && m.needs(now) && m.Backlog <= full && now.Sub(m.progress) >= parched && now.Sub(m.heard) < doubtful {
			return true
		}
	}
	return false
}

// regroup lets those who miss frames stand in line anew when the appliance's
// turn comes to one that isn't the first: who lacks most first, since that is
// roughly what all of them lack.
func (im *image) regroup(now time.Time, hold []*member) bool {
	if len(hold) == 0 || hold[0].depot || hold[0].lane <= laneMute || hold[0].lacks() <= few {
		return false
	}
	old := hold[0].block
	in := map[*member]bool{}
	var late []*member
	for _, m := range slices.Concat(old.chain, old.tree) {
		behind := slices.ContainsFunc(m.up, func(u *member) bool { return in[u] })
		if m.lacks() > 0 && (m == hold[0] || len(in) > 0 && (m.Missing > 0 || behind)) && m.movable(now) {
			in[m] = true
			late = append(late, m)
		}
	}
	most := func(a, b *member) int { return b.lacks() - a.lacks() }
	if len(late) < 2 || len(old.tree) == 0 && slices.IsSortedFunc(late, most) {
		return false
	}
	slices.SortStableFunc(late, most)
	if hold[0] == old.chain[0] && late[0].lacks() < hold[0].lacks()+hold[0].Frames/8 {
		return false // the head of them all went, and the next is as good
	}
	// A block of its own, so that nobody stands behind somebody who misses less.
	b := &block{lane: old.lane, gen: old.gen + 1}
	im.blocks = slices.Insert(im.blocks, slices.Index(im.blocks, old)+1, b)
	for _, m := range late {
		im.remove(m)
		if len(b.chain) < im.cfg.ChainMax {
			b.chain = append(b.chain, m)
		} else {
			b.tree = append(b.tree, m)
		}
		m.block, m.moved = b, now
	}
	return true
}

// stays says whether others still profit from m.
func (im *image) stays(m *member, now time.Time) bool {
	for _, d := range m.down {
		if !m.Done && d.lacks() > 0 || m.Done && d.waits(now) > 0 && now.Sub(m.doneAt) < im.cfg.Linger {
			return true
		}
	}
	return false
}

// retire takes those out of the line who are done and of no use to anybody. The
// last go first, so that nobody is moved to a place that is left at once.
func (im *image) retire(now time.Time) bool {
	for _, m := range slices.Backward(im.line()) {
		if m.Done && !im.stays(m, now) {
			m.retired = true
			im.remove(m)
		}
	}
	return im.stale
}

func (im *image) why(m *member, now time.Time) string {
	switch {
	case m.lacks() == 0 || m.depot:
		return ""
	case m.needs(now):
		return "It waits for its turn at the appliance: the PCs before it in the line come first."
	case m.slow != "":
		return "It stands at the end of the line, where nobody waits for it: " + m.slow + "."
	case m.Missing > 0:
		return "It came late: what it missed comes when the PCs before it have all they need."
	case m.waiting:
		return "The PCs before it wait for their turn at the appliance."
	}
	return ""
}
