package netboot

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	macOwn    = "52:54:00:aa:00:01"
	macRouter = "52:54:00:bb:00:01"
	macPeer   = "52:54:00:aa:00:02"
)

var (
	router  = netip.MustParseAddr("192.168.1.1")
	router2 = netip.MustParseAddr("192.168.1.2")
	apart   = heard{addr: router, mac: macRouter, gives: netip.MustParseAddr("192.168.1.50"), answer: true}
	within  = heard{addr: netip.MustParseAddr("10.77.0.254"), mac: macRouter, gives: netip.MustParseAddr("10.77.0.200"), answer: true}
)

// sky is an outlook in a time of its own; it asks as watch does.
type sky struct {
	*outlook
	now    time.Time
	answer []heard
}

func newSky(want Mode, change func(*outlook)) *sky {
	now := time.Date(2026, 1, 2, 8, 0, 0, 0, time.UTC)
	s := &sky{outlook: newOutlook(want, netip.PrefixFrom(ours, 24), false, now), now: now}
	s.mac = macOwn
	if change != nil {
		change(s.outlook)
	}
	s.linked(now, true)
	s.settle(now)
	return s
}

// pass lets time go by, with questions at their pace and their answers.
func (s *sky) pass(d time.Duration) *sky {
	for end := s.now.Add(d); s.now.Before(end); {
		if s.link {
			s.probed()
			for _, h := range s.answer {
				s.hear(s.now, h)
			}
		}
		s.settle(s.now)
		s.now = s.now.Add(min(s.pace(), end.Sub(s.now)))
		s.settle(s.now)
	}
	return s
}

func (s *sky) say(h heard) *sky     { s.hear(s.now, h); s.settle(s.now); return s }
func (s *sky) cable(up bool) *sky   { s.linked(s.now, up); s.settle(s.now); return s }
func (s *sky) with(h ...heard) *sky { s.answer = h; return s }
func (s *sky) is(t *testing.T, when string, mode Mode, why Why) *sky {
	t.Helper()
	if s.mode != mode || s.why != why {
		t.Errorf("%s: %v, %s %s; want %v, %s", when, s.mode, s.why, s.stay, mode, why)
	}
	return s
}

func TestModeOverTime(t *testing.T) {
	for _, tt := range []struct {
		name string
		want Mode
		run  func(t *testing.T, s *sky)
	}{
		{"alone", Auto, func(t *testing.T, s *sky) {
			s.is(t, "at start", Proxy, Looking)
			s.pass(lookTime-time.Second).is(t, "while a slow server may still answer", Proxy, Looking)
			s.pass(time.Second).is(t, "then", Full, Alone)
			s.pass(24*time.Hour).is(t, "a day later", Full, Alone)
		}},
		{"beside a router", Auto, func(t *testing.T, s *sky) {
			s.with(apart).pass(time.Second).is(t, "at once", Proxy, Beside)
			s.pass(24*time.Hour).is(t, "a day later", Proxy, Beside)
		}},
		{"a router comes later", Auto, func(t *testing.T, s *sky) {
			s.pass(time.Hour).is(t, "before", Full, Alone)
			s.say(apart).is(t, "at once", Proxy, Beside)
			if !s.status().Apart() || !s.status().Needs() {
				t.Errorf("PCs don't reach us from there: %+v", s.status())
			}
		}},
		{"a stray router goes away", Auto, func(t *testing.T, s *sky) {
			s.with(apart).pass(time.Hour).with()
			s.pass(silentTime+30*time.Second).is(t, "it starts again, perhaps", Proxy, Silent)
			s.pass(8*time.Minute).is(t, "it is slow, perhaps", Proxy, Silent)
			s.pass(2*time.Minute).is(t, "it is gone", Full, Alone)
			s.say(apart).is(t, "it is back", Proxy, Beside)
		}},
		{"a router starts again", Auto, func(t *testing.T, s *sky) {
			s.with(apart).pass(time.Hour).with().pass(5*time.Minute).is(t, "in between", Proxy, Silent)
			s.with(apart).pass(5*time.Second).is(t, "after", Proxy, Beside)
		}},
		{"one that gave addresses of our network goes", Auto, func(t *testing.T, s *sky) {
			s.with(within).pass(time.Hour).with().pass(48*time.Hour).is(t, "its leases still run", Proxy, Kept)
			want(t, "stays", string(s.stay), string(Shared))
		}},
		{"one that never answers us goes", Auto, func(t *testing.T, s *sky) {
			h := apart
			h.answer = false
			s.pass(time.Minute).say(h).is(t, "heard on the wire", Proxy, Beside)
			s.pass(48*time.Hour).is(t, "its silence says nothing", Proxy, Kept)
			want(t, "stays", string(s.stay), string(Mute))
		}},
		{"a PC speaks of one that nobody heard", Auto, func(t *testing.T, s *sky) {
			s.pass(time.Minute).say(heard{addr: router}).is(t, "at once", Proxy, Beside)
			s.pass(30*time.Second).is(t, "for a while", Proxy, Beside)
			s.pass(wordTime).is(t, "a word is no proof for ever", Full, Alone)
		}},
		{"a PC speaks of one, and it is heard", Auto, func(t *testing.T, s *sky) {
			s.pass(time.Minute).say(heard{addr: router}).say(apart).pass(2*wordTime).is(t, "a server is heard", Proxy, Silent)
		}},
		{"made-up boot servers beside a router that never answers", Auto, func(t *testing.T, s *sky) {
			mute := apart
			mute.answer = false
			s.pass(time.Minute).say(mute).pass(5 * time.Minute)
			for i := range 3 * maxOthers {
				s.say(heard{addr: netip.AddrFrom4([4]byte{10, 9, 9, byte(i)}), mac: macPeer, boots: true})
				s.say(heard{addr: netip.AddrFrom4([4]byte{10, 9, 8, byte(i)})})
			}
			s.is(t, "then", Proxy, Beside).pass(time.Hour).is(t, "for ever", Proxy, Kept)
			if len(s.entries) > maxOthers {
				t.Errorf("%d servers are remembered", len(s.entries))
			}
		}},
		{"a question in the router's name", Auto, func(t *testing.T, s *sky) {
			s.with(apart).pass(time.Minute).with()
			s.peer(s.now, router, macRouter, Proxy)
			s.settle(s.now)
			s.is(t, "forged", Proxy, Beside).pass(10*time.Second).is(t, "a little later", Proxy, Beside)
		}},
		{"a PC speaks of us", Auto, func(t *testing.T, s *sky) {
			s.pass(time.Minute).say(heard{addr: ours}).is(t, "nothing new", Full, Alone)
		}},
		{"we hear ourselves", Auto, func(t *testing.T, s *sky) {
			s.pass(time.Minute).say(heard{addr: ours, mac: macOwn, gives: given}).is(t, "a loop in the cables", Full, Alone)
		}},
		{"another machine with our address", Auto, func(t *testing.T, s *sky) {
			s.pass(time.Minute).say(heard{addr: ours, mac: macPeer, gives: given}).is(t, "gives addresses", Proxy, Beside)
			if !s.status().Twin() || !s.status().Needs() {
				t.Error("nobody is told")
			}
		}},
		{"boot files of others are no addresses", Auto, func(t *testing.T, s *sky) {
			s.pass(time.Minute).say(heard{addr: router, mac: macRouter, boots: true}).is(t, "go on", Full, Alone)
			if st := s.status(); !st.Needs() || !strings.Contains(st.Text(), "192.168.1.1 gives out boot files too") {
				t.Error(st.Text())
			}
			s.pass(goneTime + time.Minute)
			if len(s.entries) > 0 {
				t.Errorf("it is gone: %+v", s.entries)
			}
		}},
		{"two routers, one goes", Auto, func(t *testing.T, s *sky) {
			two := heard{addr: router2, mac: macPeer, gives: netip.MustParseAddr("192.168.1.90"), answer: true}
			s.with(apart, two).pass(time.Hour).is(t, "both", Proxy, Beside)
			if g := s.status().Givers(); len(g) != 2 || !s.status().Needs() {
				t.Errorf("%+v", g)
			}
			s.with(two).pass(time.Hour).is(t, "one", Proxy, Beside)
		}},
		{"no cable", Auto, func(t *testing.T, s *sky) {
			s.with(apart).pass(time.Minute).cable(false).with()
			s.pass(24*time.Hour).is(t, "a pulled cable is no silence", Proxy, Beside)
			s.cable(true).pass(goneTime/2).is(t, "it counts from here", Proxy, Silent)
		}},
		{"pulled and plugged in elsewhere", Auto, func(t *testing.T, s *sky) {
			s.pass(time.Minute).cable(false).is(t, "pulled", Proxy, NoLink)
			s.cable(true).is(t, "plugged in", Proxy, Looking)
			s.pass(relookTime+time.Second).is(t, "nobody there", Full, Alone)
			s.cable(false).cable(true).with(apart).pass(600*time.Millisecond).is(t, "a router there", Proxy, Beside)
		}},
		{"our address is lent", Auto, func(t *testing.T, s *sky) {
			s.lent = true
			s.with(within).pass(time.Hour).with().pass(48*time.Hour).is(t, "never ours to give", Proxy, Kept)
			want(t, "stays", string(s.stay), string(Lent))
		}},
		{"fixed full", Full, func(t *testing.T, s *sky) {
			s.is(t, "at start", Full, Alone).cable(false).is(t, "no cable", Full, Alone)
			s.cable(true).say(apart).is(t, "another", Full, Clash)
			s.pass(goneTime+time.Minute).is(t, "gone", Full, Alone)
		}},
		{"fixed proxy", Proxy, func(t *testing.T, s *sky) {
			s.is(t, "at start", Proxy, Looking).pass(time.Minute).is(t, "nobody", Proxy, Nobody)
			s.with(apart).pass(time.Minute).is(t, "the router", Proxy, Beside)
			s.with().pass(5*time.Minute).is(t, "it is off", Proxy, Silent)
			s.pass(goneTime).is(t, "for long", Proxy, Nobody)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, newSky(tt.want, nil)) })
	}
}

// Two appliances that have stepped back before each other: one of them goes on.
func TestTwoThatStepBack(t *testing.T) {
	other := netip.MustParseAddr("10.77.0.2")
	low, high := newSky(Auto, nil), newSky(Auto, func(o *outlook) { o.own, o.mac = netip.PrefixFrom(other, 24), macPeer })
	low.pass(time.Minute)
	high.pass(time.Minute)
	low.say(heard{addr: other, mac: macPeer, gives: given, answer: true}).is(t, "low", Proxy, Beside)
	high.say(heard{addr: ours, mac: macOwn, gives: given, answer: true}).is(t, "high", Proxy, Beside)
	low.peer(low.now, other, macPeer, Full) // what drew these offers
	high.peer(high.now, ours, macOwn, Full)
	both := 0
	for range 120 {
		for _, s := range []*sky{low, high} {
			a, b := low, high
			if s == high {
				a, b = high, low
			}
			// a's question reaches b; it answers when it gives addresses.
			a.probed()
			b.peer(b.now, a.own.Addr(), a.mac, a.mode)
			if b.mode == Full {
				a.hear(a.now, heard{addr: b.own.Addr(), mac: b.mac, gives: given, answer: true})
			}
			a.settle(a.now)
			b.settle(b.now)
			a.now = a.now.Add(500 * time.Millisecond)
		}
		if low.mode == Full && high.mode == Full {
			both++
		}
	}
	if both > 0 {
		t.Errorf("both gave addresses, %d times", both)
	}
	low.is(t, "the lower one", Full, Alone)
	high.is(t, "the other", Proxy, Beside)
}

func TestOthersAreBounded(t *testing.T) {
	s := newSky(Auto, nil)
	for i := range 1000 {
		s.now = s.now.Add(time.Millisecond)
		s.say(heard{addr: netip.MustParseAddr(fmt.Sprintf("10.1.%d.%d", i/250, 1+i%250)), mac: macRouter, gives: given})
	}
	if len(s.entries) != maxOthers {
		t.Errorf("%d servers are remembered", len(s.entries))
	}
	if s.say(apart); len(s.entries) != maxOthers || !strings.Contains(s.status().Text(), "192.168.1.1") {
		t.Error("the newest is not among them")
	}
}

// What PCs get changes with the mode, packet by packet, and what was offered
// before is not acknowledged after.
func TestModeChangesWhileServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, func(c *Config) {
			c.Mode, c.Asked, c.Files = Auto, true, fstest.MapFS{"undionly.kpxe": {Data: []byte("x")}}
		})
		_, a := s.ask(mac1, dhcpv4.MessageTypeDiscover, "")
		want(t, "offered", a, "10.77.0.100")
		s.learn(func(o *outlook, now time.Time) { o.hear(now, apart) })
		for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest} {
			for _, wanted := range []string{"10.77.0.100", "192.168.1.50"} {
				what, _ := s.ask(mac1, kind, wanted)
				want(t, kind.String()+" after another was heard", what, "")
			}
		}
		what, a := s.ask(mac1, dhcpv4.MessageTypeDiscover, "", dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient")))
		want(t, "a PC that netboots", what+a, "offer")
	})
}

// A router keeps one lease per client identifier: our questions have one.
func TestQuestionsHaveOneIdentifier(t *testing.T) {
	ids := map[string]bool{}
	for _, mode := range []Mode{Full, Proxy} {
		for _, own := range []netip.Addr{ours, router, netip.IPv4Unspecified()} {
			c := &written{}
			e := &ears{conn: c, mac: hardware(t, macOwn)}
			must(t, e.ask(mode, own))
			m, err := dhcpv4.FromBytes(c.b)
			must(t, err)
			ids[string(m.Options.Get(dhcpv4.OptionClientIdentifier))] = true
			how, from, ok := question(m)
			if !ok || how != mode || from.IsValid() == own.IsUnspecified() || from.IsValid() && from != own {
				t.Errorf("%v %v is read as %v %v %v", mode, own, how, from, ok)
			}
		}
	}
	if len(ids) != 1 {
		t.Errorf("%v", ids)
	}
}

type written struct {
	net.PacketConn
	b []byte
}

func (w *written) WriteTo(b []byte, _ net.Addr) (int, error) { w.b = b; return len(b), nil }

// Another server that is heard while an address is being tried stops the offer.
func TestNoOfferAfterAnotherSpoke(t *testing.T) {
	s := newShop(t, func(c *Config) { c.Mode, c.Asked = Auto, true })
	s.used = nil
	s.Server.taken = func(_ context.Context, _ netip.Addr, _ string) bool {
		s.learn(func(o *outlook, now time.Time) { o.hear(now, apart) })
		return false
	}
	what, a := s.ask(mac1, dhcpv4.MessageTypeDiscover, "")
	want(t, "the offer", what+a, "")
}

// Nor does one that is heard while a lease is being written get our ACK beside its own.
func TestNoAckAfterAnotherSpoke(t *testing.T) {
	s := newShop(t, func(c *Config) { c.Mode, c.Asked = Auto, true })
	_, a := s.ask(mac1, dhcpv4.MessageTypeDiscover, "")
	s.leases.writing.Lock() // the disk is slow
	answered := make(chan string, 1)
	go func() {
		what, _ := s.ask(mac1, dhcpv4.MessageTypeRequest, a)
		answered <- what
	}()
	wait(t, func() bool { s.leases.mu.Lock(); defer s.leases.mu.Unlock(); return s.leases.change > 0 })
	s.learn(func(o *outlook, now time.Time) { o.hear(now, apart) })
	s.leases.writing.Unlock()
	want(t, "the ACK", <-answered, "")
}
