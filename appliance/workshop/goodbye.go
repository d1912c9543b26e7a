package workshop

import (
	"slices"
	"time"

	"refurb/agent/wire"
)

// goodbye is what is known of a PC whose agent was just told to start it from its own
// disk, where its next start would get the agent again: one that looksAgain, or one
// whose start can't be told from one of another board, for its maker has filled in a
// UUID and no serial number, and it starts from a USB card. Without this it would get
// the agent, be sent away, and get the agent again for ever.
//
// The agent has said all there is to say, and its PC comes back within a minute or
// two. One that is known has one start of its own then. Of the others, one start is
// taken for that PC's: of the same card with the same UUID, soon, while nothing speaks
// for a second such board. It is spent by that start, and void once anybody reports
// with the card or the UUID. Whoever comes later gets the agent, which says more. It
// is kept in memory only: after a restart of the appliance the PC goes round once more.
type goodbye struct {
	mac, uuid string // the UUID in plain form
	at        time.Time
	spent     *Given // by a start of a PC that looksAgain
}

// homeFor is how long a PC may take from its agent's last word to its next script.
const homeFor = 5 * time.Minute

func (g goodbye) holds(now time.Time) bool {
	age := now.Sub(g.at)
	return age >= 0 && age < homeFor
}

// sentHome notes that the agent of a start was told to start its PC from its own disk.
func (r *Registry) sentHome(b *Boot) {
	now := r.cfg.Now()
	for id, g := range r.goodbyes {
		if !g.holds(now) {
			delete(r.goodbyes, id)
		}
	}
	v := r.devices[r.root(b.Device)]
	uuid := identityOf(&v.Report, nil).uuid
	switch mac := cleanMAC(b.MAC); {
	case r.boots[b.TokenHash] == nil || v.Report.BootID != b.BootID: // of earlier times
	case r.recognise(mac, v.Report.Identity.UUID) != nil: // it is known anyway
		if r.worthALook(v) {
			r.goodbyes[v.ID] = goodbye{mac: mac, uuid: uuid, at: now}
		}
	case mac == "" || uuid == "" || !hasCard(&v.Report, mac): // no two words to know it by
	case slices.ContainsFunc(v.Doubts, func(x Doubt) bool { return x.Kind == DoubtTwins }):
	case r.unheard(b):
	default:
		r.goodbyes[v.ID] = goodbye{mac: mac, uuid: uuid, at: now}
	}
}

// unheard reports whether the agent was started by this card for somebody who has
// never reported: that may be the other board. A boot loader may ask for the script
// of one start several times.
func (r *Registry) unheard(b *Boot) bool {
	return slices.ContainsFunc(r.byMAC[b.MAC], func(h string) bool {
		x := r.boots[h]
		before := b.Issued.Sub(x.Issued)
		return x.Device == "" && (before <= 0 || before >= oneStart)
	})
}

// home spends a goodbye on the start that comes after it, unless somebody wants
// something else of the PC.
func (r *Registry) home(s Start, now time.Time) bool {
	mac, uuid := cleanMAC(s.MAC), plainUUID(s.UUID)
	for id, g := range r.goodbyes {
		if g.mac != mac || g.uuid != uuid || nodeOf(s.UUID) == mac {
			continue
		}
		v := r.only("uuid " + uuid) // a split or a merge may have come between
		if !g.holds(now) || v == nil || v.ID != id || v.Again || v.Wait || v.Rescue != "" {
			return false
		}
		if j := r.newest(id); j == nil || j.State.Live() {
			return false
		}
		delete(r.goodbyes, id)
		return true
	}
	return false
}

// sentOn spends a goodbye on the start of a PC that is known. The same start may ask
// several times.
func (r *Registry) sentOn(id string, s Start, now time.Time) bool {
	g, ok := r.goodbyes[id]
	switch {
	case !ok:
		return false
	case g.spent == nil && g.holds(now):
		g.spent = &Given{MAC: s.MAC, IPXE: s.IPXE, At: now}
		r.goodbyes[id] = g
		return true
	case g.spent != nil && g.spent.holds(s, now):
		return true
	}
	delete(r.goodbyes, id)
	return false
}

// backAgain voids the goodbyes of whoever has this card or this UUID: a PC that
// reports is not on its way home, or it is another one.
func (r *Registry) backAgain(b *Boot, rep *wire.Report) {
	uuid := plainUUID(rep.Identity.UUID)
	for id, g := range r.goodbyes {
		if g.mac == cleanMAC(b.MAC) || uuid != "" && g.uuid == uuid || hasCard(rep, g.mac) {
			delete(r.goodbyes, id)
		}
	}
}
