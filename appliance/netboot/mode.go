package netboot

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Mode says who hands out addresses.
type Mode int

const (
	Full  Mode = iota // we do; there must be no other DHCP server
	Proxy             // the network's own server does; we only add the boot file (PXE 2.1, proxyDHCP)
	Auto              // of a Config only: Full while nobody else gives addresses, else Proxy
)

func (m Mode) String() string {
	switch m {
	case Proxy:
		return "proxy"
	case Auto:
		return "auto"
	}
	return "full"
}

const (
	lookTime   = 4500 * time.Millisecond // at start; dnsmasq pings an address for 3 s before it offers it
	relookTime = 2 * time.Second         // after the cable was out
	giveWay    = 10 * time.Second        // how much longer the second of two appliances looks
	silentTime = time.Minute             // a server that isn't heard for this long is worth a word
	goneTime   = 10 * time.Minute        // a router has started again long before
	wordTime   = time.Minute             // for so long a PC's word counts, of a server that nobody heard
	minProbes  = 2                       // asked in vain before the network counts as ours
	maxOthers  = 16                      // remembered; packets can name as many as they like
)

// Why a mode is in force; the words for it are whoever shows it's.
type Why string

const (
	Looking Why = "looking" // nothing is known yet: the network is being asked
	NoLink  Why = "nolink"  // no cable
	Alone   Why = "alone"   // nobody else gives addresses
	Beside  Why = "beside"  // somebody else does
	Silent  Why = "silent"  // somebody else did, and hasn't been heard for a while
	Kept    Why = "kept"    // for long, and handing out addresses would not be safe: Stay says why
	Clash   Why = "clash"   // Full is fixed, and somebody else gives addresses too
	Nobody  Why = "nobody"  // Proxy is fixed, and nobody gives addresses
)

// Stay is why we don't hand out addresses though no other server is heard.
type Stay string

const (
	Lent   Stay = "lent"   // our own address came from it, and so would our PCs'
	Shared Stay = "shared" // it has given out addresses of our network; their leases still run
	Mute   Stay = "mute"   // it never answered us, so that its silence means nothing
)

// Other is another server of DHCP on the network.
type Other struct {
	Addr      netip.Addr // it calls itself so
	MAC       string     // its card, or that of a relay; empty: only a PC spoke of it
	Gives     netip.Addr // an address that it gave; invalid: none was seen
	Boots     bool       // it gives boot files and no addresses
	Appliance bool       // it is one of ours
	Answers   bool       // it answers when we ask
	First     time.Time
	Last      time.Time // heard

	full bool // an appliance that has said that it gives addresses
}

// Status is the mode in force and what it rests on.
type Status struct {
	Mode   Mode
	Fixed  bool // the configuration says so
	Why    Why
	Stay   Stay      // of Kept
	Since  time.Time // this mode
	Own    netip.Prefix
	Others []Other // by address
}

// Givers are the others that hand out addresses.
func (s Status) Givers() []Other {
	return slices.DeleteFunc(slices.Clone(s.Others), func(o Other) bool { return o.Boots })
}

// Apart says that PCs get addresses of a network that we aren't in.
func (s Status) Apart() bool {
	seen := false
	for _, o := range s.Givers() {
		if s.Own.Contains(o.Gives) {
			return false
		}
		seen = seen || o.Gives.IsValid()
	}
	return seen && s.Mode == Proxy
}

// Twin says that another machine has our address.
func (s Status) Twin() bool {
	return slices.ContainsFunc(s.Others, func(o Other) bool { return o.Addr == s.Own.Addr() })
}

// Needs says whether a person should look after the network.
func (s Status) Needs() bool {
	switch s.Why {
	case NoLink, Silent, Kept, Clash, Nobody:
		return true
	}
	return s.Apart() || s.Twin() || len(s.Givers()) > 1 || len(s.Others) > len(s.Givers())
}

// Text says it for the log, with what to do.
func (s Status) Text() string {
	names := func(all []Other) string {
		var n []string
		for _, o := range all {
			n = append(n, o.Addr.String())
		}
		return strings.Join(n, " and ")
	}
	givers := s.Givers()
	who := names(givers)
	var t string
	switch s.Why {
	case Looking:
		t = "looking for another DHCP server before any address is given out"
	case NoLink:
		t = "the network card has no link: is the cable plugged in?"
	case Alone:
		t = "no other DHCP server answers: this appliance gives the addresses"
	case Beside:
		t = who + " gives the addresses here: this appliance only adds the boot files"
	case Silent:
		t = who + " gave the addresses here and has not been heard for a minute: is it switched off? PCs get no address until it is back"
	case Kept:
		t = who + " gave the addresses here and is silent; this appliance goes on without giving any, because "
		switch s.Stay {
		case Lent:
			t += "its own address came from there"
		case Shared:
			t += "addresses that were given there may still be in use"
		default:
			t += "that server never answers it, and may be there after all"
		}
		t += ". Switch it on again, or, if it is gone for good, restart this appliance"
	case Clash:
		t = "another DHCP server, " + who + ", answers on this network and PCs may not boot: unplug it, or set dhcp = \"auto\""
	case Nobody:
		t = "dhcp is set to proxy, and no DHCP server answers: PCs get no address. Switch the router on, or set dhcp = \"auto\""
	}
	if s.Apart() {
		t += fmt.Sprintf("; it gives addresses outside of %v, from where PCs don't reach %v: unplug it, or restart this appliance without a fixed address so that it takes one from there", s.Own.Masked(), s.Own.Addr())
	}
	if len(givers) > 1 && s.Why != Clash {
		t += "; two servers that give addresses disturb each other: unplug one"
	}
	if s.Twin() {
		t += fmt.Sprintf("; another machine uses the address %v of this appliance: give one of them another", s.Own.Addr())
	}
	for _, o := range s.Others {
		if o.Boots {
			t += fmt.Sprintf("; %v gives out boot files too, and PCs take whichever answers first: switch one off", o.Addr)
		}
	}
	return t
}

// outlook works out the mode from what was heard and asked. It has no clock and
// no network: time is told to it, and everything that happens.
type outlook struct {
	want Mode
	own  netip.Prefix
	mac  string // ours
	lent bool   // our address came from another server

	link    bool
	from    time.Time // since when the link is up and we look
	hold    time.Duration
	probes  int // sent since a giver was last heard
	mode    Mode
	why     Why
	stay    Stay
	since   time.Time
	entries []Other
}

func newOutlook(want Mode, own netip.Prefix, lent bool, now time.Time) *outlook {
	o := &outlook{want: want, own: own, lent: lent, from: now, hold: lookTime, since: now, why: Looking, mode: Proxy}
	if want != Auto {
		o.mode = want
	}
	return o
}

// heard is one sign of another server.
type heard struct {
	addr   netip.Addr // the server
	mac    string     // who sent it; empty: a PC spoke of it
	gives  netip.Addr // the address in it; invalid: none
	boots  bool       // it gives boot files only
	answer bool       // to our own question
}

func (o *outlook) hear(now time.Time, h heard) {
	if !h.addr.IsValid() || h.mac != "" && h.mac == o.mac || h.mac == "" && h.addr == o.own.Addr() {
		return
	}
	e := o.entry(h.addr, now, Other{MAC: h.mac, Boots: h.boots}.weight())
	if e == nil {
		return
	}
	e.Last = now
	e.Answers = e.Answers || h.answer
	if h.mac != "" {
		e.MAC = h.mac
	}
	if h.boots {
		return
	}
	// Whoever has given an address is taken for a giver until it says otherwise.
	e.Boots = false
	if h.gives.IsValid() {
		e.Gives = h.gives
	}
	o.probes = 0
}

// weight is how much depends on our knowing of it: least on one that gives boot
// files only, then on one that only a PC spoke of.
func (o Other) weight() int {
	switch {
	case o.Boots:
		return 0
	case o.MAC == "":
		return 1
	}
	return 2
}

// entry finds or makes what is known of a server. When there are too many, the
// lightest makes room, of those the one that was heard longest ago; nil: each of
// them outweighs the newcomer.
func (o *outlook) entry(a netip.Addr, now time.Time, weight int) *Other {
	i, ok := slices.BinarySearchFunc(o.entries, a, func(e Other, a netip.Addr) int { return e.Addr.Compare(a) })
	if ok {
		return &o.entries[i]
	}
	if len(o.entries) == maxOthers {
		oldest := 0
		for j := range o.entries {
			e, old := &o.entries[j], &o.entries[oldest]
			if e.weight() < old.weight() || e.weight() == old.weight() && e.Last.Before(old.Last) {
				oldest = j
			}
		}
		if o.entries[oldest].weight() > weight {
			return nil
		}
		o.entries = slices.Delete(o.entries, oldest, oldest+1)
		return o.entry(a, now, weight)
	}
	o.entries = slices.Insert(o.entries, i, Other{Addr: a, First: now, Boots: true})
	return &o.entries[i]
}

// peer is another appliance's question: it is there, and says how it serves. Two
// that have both stepped back before the other are both free again; the one with
// the lower address looks for a shorter time. Only who has said before that it
// gives addresses can say that it doesn't any more: a router never did, so that
// nobody can take it away with one packet in its name.
func (o *outlook) peer(now time.Time, addr netip.Addr, mac string, mode Mode) {
	if !addr.IsValid() || mac == "" || mac == o.mac {
		return
	}
	e := o.entry(addr, now, 0)
	if e == nil {
		return
	}
	e.Last, e.Appliance = now, true
	if e.MAC != "" && e.MAC != mac {
		return // not the one that gave the address
	}
	e.MAC = mac
	if mode == Full {
		e.full = true
		return
	}
	if e.Boots || !e.full {
		return
	}
	e.Boots, e.full = true, false
	if !o.giver() {
		o.look(now, relookTime)
		if o.own.Addr().Compare(addr) > 0 || o.own.Addr() == addr && o.mac > mac {
			o.hold += giveWay
		}
	}
}

func (o *outlook) giver() bool {
	return slices.ContainsFunc(o.entries, func(e Other) bool { return !e.Boots })
}

func (o *outlook) look(now time.Time, hold time.Duration) {
	o.from, o.hold, o.probes = now, hold, 0
}

// linked says that the cable went in or out.
func (o *outlook) linked(now time.Time, up bool) {
	if up && !o.link {
		hold := relookTime
		if o.why == Looking {
			hold = lookTime
		}
		o.look(now, hold)
	}
	o.link = up
}

// probed says that the network was asked.
func (o *outlook) probed() {
	if o.link {
		o.probes++
	}
}

// settle works out the mode as of now and says whether anything is new.
func (o *outlook) settle(now time.Time) bool {
	mode, why, stay := o.decide(now)
	fresh := why != o.why || stay != o.stay
	if mode != o.mode {
		o.since = now
		fresh = true
	}
	o.mode, o.why, o.stay = mode, why, stay
	return fresh
}

func (o *outlook) decide(now time.Time) (Mode, Why, Stay) {
	// A giver that has gone is kept while a decision rests on it.
	o.entries = slices.DeleteFunc(o.entries, func(e Other) bool {
		if e.MAC == "" && o.probes >= minProbes && o.quiet(now, e.Last) >= wordTime {
			return true // it was asked all the while, and is nowhere
		}
		return o.quiet(now, e.Last) >= goneTime && (e.Boots || o.want != Auto && o.probes >= minProbes)
	})
	giver := o.giver()
	switch {
	case o.want == Full && giver:
		return Full, Clash, ""
	case o.want == Full:
		return Full, Alone, ""
	case !giver && !o.link:
		return Proxy, NoLink, ""
	case !giver && (now.Sub(o.from) < o.hold || o.probes < minProbes):
		return Proxy, Looking, ""
	case !giver && o.want == Proxy:
		return Proxy, Nobody, ""
	case !giver && o.lent:
		return Proxy, Kept, Lent
	case !giver:
		return Full, Alone, ""
	}
	var last time.Time
	stay := Stay("")
	for _, e := range o.entries {
		if e.Boots {
			continue
		}
		if e.Last.After(last) {
			last = e.Last
		}
		switch {
		case e.MAC != "" && !e.Answers:
			stay = Mute
		case o.own.Contains(e.Gives) && stay == "":
			stay = Shared
		}
	}
	if o.lent {
		stay = Lent
	}
	switch quiet := o.quiet(now, last); {
	case quiet < silentTime || o.probes < minProbes:
		return Proxy, Beside, ""
	case quiet < goneTime || o.want == Proxy:
		return Proxy, Silent, ""
	case stay != "":
		return Proxy, Kept, stay
	}
	// All others have gone, none of them was of our network, and each of them used
	// to answer us: the network is ours again.
	o.entries = slices.DeleteFunc(o.entries, func(e Other) bool { return !e.Boots })
	return Full, Alone, ""
}

// quiet is for how long nothing was heard that could have been: a pulled cable is
// no silence.
func (o *outlook) quiet(now, last time.Time) time.Duration {
	if !o.link {
		return 0
	}
	if o.from.After(last) {
		last = o.from
	}
	return now.Sub(last)
}

// pace is the time until the network is asked again.
func (o *outlook) pace() time.Duration {
	switch o.why {
	case Looking:
		return 500 * time.Millisecond
	case Beside:
		return 5 * time.Second // for a second one, and so that its end is noticed
	}
	return 3 * time.Second
}

func (o *outlook) status() Status {
	return Status{Mode: o.mode, Fixed: o.want != Auto, Why: o.why, Stay: o.stay, Since: o.since, Own: o.own, Others: slices.Clone(o.entries)}
}
