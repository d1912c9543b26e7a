package relay

import (
	"slices"
	"time"
)

// accusation is a complaint of damage. It is kept for a while when it is
// settled, for the sake of those who got the same frame from the accuser.
type accusation struct {
	by, about *member
	frame     int
	at        time.Time
	settled   bool
}

// patience is how long an accused PC has to say that it got the frame damaged
// itself.
const patience = 3 * time.Second

// complain takes in one trouble of m's. Only with a source that m has or had a
// moment ago: nobody can speak against a stranger.
func (im *image) complain(now time.Time, m *member, t Trouble) {
	if t.Source == "" {
		if t.Kind == Corrupt {
			im.accuses(m, "")
		}
		return
	}
	s := im.members[t.Source]
	if s == nil || s == m || !slices.Contains(m.up, s) && !now.Before(m.past[s.ID]) {
		return
	}
	switch t.Kind {
	case Corrupt:
		if len(im.pending) < MaxMembers {
			im.pending = append(im.pending, accusation{by: m, about: s, frame: t.Frame, at: now})
		}
	case Silent, Refused:
		if s.block == nil {
			return // out of the line already
		}
		first, again := s.blamed[m.ID]
		if again && now.Sub(first) < memory {
			// Twice, and it lived in between.
			if now.Sub(first) >= 500*time.Millisecond && s.heard.After(first) && slices.Contains(m.up, s) {
				im.part(now, m, s)
			}
		} else {
			s.blamed[m.ID] = now
		}
		im.swept = time.Time{} // judge at once
	}
}

// judge acts on complaints as soon as there are facts for it.
func (im *image) judge(now time.Time) {
	for _, s := range im.all() {
		for by, at := range s.blamed {
			if now.Sub(at) >= memory {
				delete(s.blamed, by)
			}
		}
		if len(s.blamed) == 0 || s.block == nil {
			continue
		}
		if now.Sub(s.heard) >= doubtful {
			im.lose(now, s)
		} else if len(s.blamed) >= 2 {
			im.strike(now, s)
		}
	}
	for i := range im.pending {
		if a := &im.pending[i]; !a.settled {
			a.settled = im.damage(now, *a)
		}
	}
	im.pending = slices.DeleteFunc(im.pending, func(a accusation) bool { return a.settled && now.Sub(a.at) >= 2*patience })
	for _, m := range im.all() {
		im.slowness(now, m)
	}
}

// lose takes s out of the line until it is heard of again, and those before it
// that share its fate, or the next in line would wait for them in turn.
func (im *image) lose(now time.Time, s *member) {
	for _, u := range s.up {
		if u.block != nil && now.Sub(u.heard) >= doubtful {
			defer im.lose(now, u)
		}
	}
	s.lost = true
	clear(s.blamed)
	im.remove(s)
}

// part sees to it that m never gets anything from s again. One of them moves
// behind, else they would share a source.
func (im *image) part(now time.Time, m, s *member) {
	if len(m.avoid) >= MaxFew {
		return
	}
	m.avoid[s.ID] = true
	delete(s.blamed, m.ID)
	im.stale = true
	if len(m.avoid) > 1 { // it gets along with nobody
		if m.movable(now) {
			im.move(now, m)
		}
	} else if s.movable(now) {
		im.move(now, s)
	}
}

// strike is for two PCs that got nothing from s, although it lives. The first
// time their cable may have been the same.
func (im *image) strike(now time.Time, s *member) {
	if !s.struck && s.movable(now) {
		s.struck = true
		clear(s.blamed)
		im.move(now, s)
	} else if s.struck {
		im.silence(s, "two PCs couldn't get anything from it: look at its cable")
	}
}

// silence makes s nobody's source.
func (im *image) silence(s *member, why string) {
	s.mute = why
	clear(s.blamed)
	if s.block != nil {
		im.place(s)
	}
}

// damage judges an accusation, and says whether it is settled.
func (im *image) damage(now time.Time, a accusation) bool {
	if im.members[a.about.ID] != a.about || im.members[a.by.ID] != a.by {
		return true // one of them left
	}
	for _, b := range im.pending {
		if b.by == a.about && b.frame == a.frame && b.at.Sub(a.at).Abs() <= patience {
			return true // it passed on what it got
		}
	}
	if !a.about.heard.After(a.at) && now.Sub(a.at) < patience {
		return false
	}
	im.accuses(a.by, a.about.ID)
	return true
}

// accuses keeps who accused whom. One that accuses two is the likelier culprit.
func (im *image) accuses(m *member, id string) {
	const own = "it calls what different PCs send it damaged: test its memory"
	if len(m.accused) < 2 {
		m.accused[id] = true
	}
	if len(m.accused) < 2 {
		if s := im.members[id]; s != nil && im.guilty[id] == "" {
			im.condemn(s, "it passes damaged data on: test its memory")
		}
		return
	}
	if im.guilty[m.ID] == own {
		return
	}
	im.condemn(m, own)
	for id := range m.accused {
		s := im.members[id]
		if s == nil || im.guilty[id] == "" || im.guilty[id] == own || im.accusedBy(id) {
			continue
		}
		delete(im.guilty, id)
		s.mute = ""
		if s.block != nil {
			im.place(s)
		}
	}
}

// accusedBy says whether somebody who is above suspicion accused id.
func (im *image) accusedBy(id string) bool {
	for _, o := range im.members {
		if o.accused[id] && im.guilty[o.ID] == "" {
			return true
		}
	}
	return false
}

func (im *image) condemn(s *member, why string) {
	if len(im.guilty) < MaxMembers {
		im.guilty[s.ID] = why // a PC that joins again is still the same PC
	}
	im.silence(s, why)
}

func (m *member) movable(now time.Time) bool {
	return m.block != nil && (m.moved.IsZero() || now.Sub(m.moved) >= memory)
}

// move puts m at the end of its lane.
func (im *image) move(now time.Time, m *member) {
	im.place(m)
	m.moved = now
}
