package relay

import (
	"math"
	"slices"
	"time"
)

// lane is a class of link speed in Mbit/s, or one of the two behind them all.
type lane int

const (
	laneMute lane = 1 // can't serve, so nobody may stand behind it
	laneSlow lane = 0
)

// fresh is how many frames a wave's head may have received before those who
// come are late: about what a PC's memory still holds for them.
const fresh = 16

// block is the members of one lane, in order. There are trees only behind a
// chain. A later generation of the same lane stands behind the earlier.
type block struct {
	lane  lane
	gen   int
	chain []*member
	tree  []*member // in pairs a0 b0 a1 b1 …; the last may be alone
}

func (b *block) size() int { return len(b.chain) + len(b.tree) }

func class(mbit int) lane {
	if mbit <= 0 {
		return 1000
	}
	for _, c := range []lane{10000, 2500, 1000, 100} {
		if lane(mbit) >= c {
			return c
		}
	}
	return 10
}

// place puts m at its place in the line, out of which it is taken before.
func (im *image) place(m *member) {
	im.remove(m)
	m.lane = im.laneOf(m)
	b := im.open(m.lane)
	switch {
	case len(b.tree) > 0 || len(b.chain) >= im.cfg.ChainMax && m.lane > laneMute:
		b.tree = append(b.tree, m)
	default:
		i := len(b.chain)
		for m.slow == "" && i > 0 && b.chain[i-1].finds() > m.finds() && (i > 1 || !started(b.chain[0])) {
			i--
		}
		b.chain = slices.Insert(b.chain, i, m)
	}
	m.block = b
	im.stale = true
}

func (im *image) laneOf(m *member) lane {
	switch {
	case m.slow != "":
		return laneSlow
	case m.mute != "":
		return laneMute
	}
	c := class(m.Mbit)
	if len(im.blocks) > 0 {
		// The head of a wave that runs is not robbed by a faster PC that comes
		// late, unless the wave is so slow that it is hardly noticed.
		b := im.blocks[0]
		if b.lane > laneMute && b.lane < c && c < 4*b.lane && started(b.chain[0]) {
			return b.lane
		}
	}
	return c
}

func started(head *member) bool { return head.Have-head.found > fresh }

// finds says in eighths of the image how much m had when it came.
func (m *member) finds() int { return 8 * m.found / max(m.Frames, 1) }

// open gives the lane's last block, made when there is none.
func (im *image) open(l lane) *block {
	i := 0
	for i < len(im.blocks) && im.blocks[i].lane >= l {
		i++
	}
	if i > 0 && im.blocks[i-1].lane == l {
		return im.blocks[i-1]
	}
	b := &block{lane: l}
	im.blocks = slices.Insert(im.blocks, i, b)
	return b
}

// remove takes m out of the line. The others keep their places, but for the one
// that takes its place in a tree.
func (im *image) remove(m *member) {
	b := m.block
	if b == nil {
		return
	}
	m.block = nil
	im.stale = true
	if i := slices.Index(b.chain, m); i >= 0 {
		b.chain = slices.Delete(b.chain, i, i+1)
	} else {
		b.vacate(slices.Index(b.tree, m))
	}
	if len(b.chain) == 0 && len(b.tree) > 0 {
		// The trees need a head, and a root has what the others have.
		b.chain = append(b.chain, b.tree[0])
		b.vacate(0)
	}
	if len(b.tree) == 1 && len(b.chain) < im.cfg.ChainMax {
		b.chain, b.tree = append(b.chain, b.tree[0]), nil
	}
	if b.size() == 0 {
		im.blocks = slices.DeleteFunc(im.blocks, func(o *block) bool { return o == b })
	}
}

func (b *block) vacate(i int) {
	last := len(b.tree) - 1
	b.tree[i] = b.tree[last]
	b.tree[last] = nil
	b.tree = b.tree[:last]
}

// each gives every member that stands in the line, in order.
func (im *image) each(yield func(*member) bool) {
	for _, b := range im.blocks {
		for _, part := range [][]*member{b.chain, b.tree} {
			for _, m := range part {
				if !yield(m) {
					return
				}
			}
		}
	}
}

func (im *image) line() []*member { return slices.Collect(im.each) }

// assign computes everybody's sources from the line.
func (im *image) assign(now time.Time) {
	im.stale = false
	for _, m := range im.members {
		m.was, m.up, m.down, m.patient = m.up, nil, m.down[:0], false
	}
	var tail []*member // the sources of whoever comes next
	var last lane
	for i, b := range im.blocks {
		for _, m := range b.chain {
			m.up = tail
			m.patient = b.lane <= laneMute || i > 0 && m == b.chain[0] && b.lane < last
			if m.serves() {
				tail = []*member{m}
			}
		}
		tail = b.trees(tail)
		last = b.lane
	}
	for m := range im.each {
		m.up = m.reachable()
		for i, u := range m.up {
			if i == 0 || u != m.up[0] {
				u.down = append(u.down, m)
			}
		}
	}
	for _, m := range im.members {
		if slices.Equal(m.was, m.up) {
			m.was = nil
			continue
		}
		m.since, m.progress, m.told = now, now, math.MaxInt64
		for _, u := range m.was {
			m.past[u.ID] = now.Add(memory)
		}
		for id, until := range m.past {
			if now.After(until) {
				delete(m.past, id)
			}
		}
		m.was = nil
	}
}

// trees gives the members of the trees their sources and returns those for
// whoever comes behind the trees.
func (b *block) trees(root []*member) []*member {
	n := len(b.tree)
	if n == 0 || len(root) == 0 {
		return root
	}
	pairs := n / 2
	at := func(slot, tree int) *member { // who feeds a slot of a tree
		if slot == 0 {
			return root[tree%len(root)]
		}
		return b.tree[2*((slot-1)/2)+tree]
	}
	for i, m := range b.tree[:2*pairs] {
		own, other := i%2, 1-i%2
		m.up = make([]*member, 2)
		m.up[own] = at(i/2, own)
		m.up[other] = at(leaf(i/2, pairs), other)
	}
	if n%2 == 0 {
		return []*member{at(2*pairs, 0), at(2*pairs, 1)} // these have half their upload left
	}
	alone := b.tree[n-1]
	if pairs == 0 {
		alone.up = root
	} else {
		alone.up = []*member{at(2*pairs, 0), at(2*pairs, 1)}
	}
	return []*member{alone}
}

// leaf is the slot of the q-th leaf in a heap whose slots 0 to n-1 are interior
// and whose slots n to 2n-1 are leaves. One more interior slot n takes the place
// of a leaf, which becomes its child 2n; the new leaf becomes its child 2n+1. So
// the slot is 2q+1, doubled until it is one of the leaves'.
func leaf(q, n int) int {
	s := 2*q + 1
	for s < n {
		s *= 2
	}
	return s
}

// reachable is m's sources, each replaced by its own source of the same stripe
// as long as m can't get along with it. None, when a stripe has none.
func (m *member) reachable() []*member {
	if len(m.avoid) == 0 {
		return m.up
	}
	up := slices.Clone(m.up)
	for stripe, u := range up {
		for u != nil && m.avoid[u.ID] {
			if len(u.up) == 0 {
				return nil
			}
			u = u.up[stripe%len(u.up)]
		}
		up[stripe] = u
	}
	return up
}
