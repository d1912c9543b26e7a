package netboot

import (
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/dns/dnsmessage"
)

// An agent from a stick is told where the API is in both modes, and from no
// foreign network; firmware and other hosts get nothing new.
func TestAgentIsTold(t *testing.T) {
	at := func(ip string) dhcpv4.Modifier { return dhcpv4.WithClientIP(netip.MustParseAddr(ip).AsSlice()) }
	class := func(s string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptClassIdentifier(s)) }
	for _, mode := range []Mode{Full, Proxy} {
		cfg := Config{IP: ours, Net: ourNet, HTTPPort: 8080, AgentsPort: 8443, Mode: mode}
		r, d := Decide(request(t, dhcpv4.MessageTypeInform, class(agentClass), at("10.77.0.50")), cfg, View{})
		if r == nil {
			t.Fatalf("%v: not answered: %+v", mode, d)
		}
		const want = "\x01\x16https://10.77.0.1:8443"
		if got := string(r.Options.Get(dhcpv4.OptionVendorSpecificInformation)); got != want || r.ClassIdentifier() != agentClass || r.MessageType() != dhcpv4.MessageTypeAck {
			t.Errorf("%v: told %q by %v", mode, got, r)
		}
		if d.To.String() != "10.77.0.50:68" || !r.YourIPAddr.IsUnspecified() || r.IPAddressLeaseTime(0) != 0 {
			t.Errorf("%v: sent to %v with the address %v", mode, d.To, r.YourIPAddr)
		}
		for name, p := range map[string]Packet{
			"from another network": request(t, dhcpv4.MessageTypeInform, class(agentClass), at("192.0.2.1")),
			"from no address":      request(t, dhcpv4.MessageTypeInform, class(agentClass)),
		} {
			if r, d := Decide(p, cfg, View{}); r != nil || d.To.IsValid() {
				t.Errorf("%v, %s: answered to %v", mode, name, d.To)
			}
		}
		for name, p := range map[string]Packet{
			"another class": request(t, dhcpv4.MessageTypeInform, class("MSFT 5.0"), at("10.77.0.50")),
			"a discover":    request(t, dhcpv4.MessageTypeDiscover, class(agentClass)),
		} {
			if r, _ := Decide(p, cfg, View{Next: netip.MustParseAddr("10.77.0.100")}); r != nil && r.Options.Get(dhcpv4.OptionVendorSpecificInformation) != nil {
				t.Errorf("%v, %s: told, too", mode, name)
			}
		}
		cfg.AgentsPort = 0
		if r, _ := Decide(request(t, dhcpv4.MessageTypeInform, class(agentClass), at("10.77.0.50")), cfg, View{}); r != nil && r.Options.Get(dhcpv4.OptionVendorSpecificInformation) != nil {
			t.Errorf("%v: told of an API that there isn't", mode)
		}
	}
}

func mdnsQuery(t testing.TB, id uint16, questions ...dnsmessage.Question) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id}, Questions: questions}
	b, err := m.Pack()
	must(t, err)
	return b
}

func asks(name string, kind dnsmessage.Type, class dnsmessage.Class) dnsmessage.Question {
	return dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: class}
}

func TestAnswerMDNS(t *testing.T) {
	cfg := Config{IP: ours, Net: ourNet, AgentsPort: 8443}
	const in = dnsmessage.ClassINET
	legacy, proper := netip.MustParseAddrPort("10.77.0.50:40000"), netip.MustParseAddrPort("10.77.0.50:5353")
	reply := mdnsQuery(t, 0, asks(service, dnsmessage.TypePTR, in))
	reply[2] |= 0x80
	for _, c := range []struct {
		name     string
		query    []byte
		from     netip.AddrPort
		answered bool
		all      bool
	}{
		{"once, from a port of its own", mdnsQuery(t, 77, asks(service, dnsmessage.TypePTR, in)), legacy, true, false},
		{"a responder that browses", mdnsQuery(t, 0, asks(service, dnsmessage.TypePTR, in)), proper, true, true},
		{"it wants a unicast reply", mdnsQuery(t, 0, asks(service, dnsmessage.TypePTR, in|0x8000)), proper, true, false},
		{"capitals", mdnsQuery(t, 0, asks("_ReFurb._TCP.local.", dnsmessage.TypePTR, in)), proper, true, true},
		{"the instance", mdnsQuery(t, 0, asks(instance, dnsmessage.TypeSRV, in)), proper, true, true},
		{"the host", mdnsQuery(t, 0, asks(hostName, dnsmessage.TypeALL, in)), proper, true, true},
		{"behind another question", mdnsQuery(t, 0, asks("_ipp._tcp.local.", dnsmessage.TypePTR, in), asks(service, dnsmessage.TypePTR, in)), proper, true, true},
		{"another service", mdnsQuery(t, 0, asks("_ipp._tcp.local.", dnsmessage.TypePTR, in)), proper, false, false},
		{"another type", mdnsQuery(t, 0, asks(hostName, dnsmessage.TypeAAAA, in)), proper, false, false},
		{"a reply", reply, proper, false, false},
		{"from another network", mdnsQuery(t, 0, asks(service, dnsmessage.TypePTR, in)), netip.MustParseAddrPort("192.0.2.1:5353"), false, false},
		{"nonsense", []byte("nonsense"), proper, false, false},
		{"nothing", nil, proper, false, false},
	} {
		b, all := answerMDNS(c.query, c.from, cfg)
		if (b != nil) != c.answered || all != c.all {
			t.Errorf("%s: answered %v, to all %v", c.name, b != nil, all)
			continue
		}
		if b == nil {
			continue
		}
		var m dnsmessage.Message
		must(t, m.Unpack(b))
		old := c.from.Port() != 5353
		if !m.Response || len(m.Answers) != 4 || (m.ID == 77) != old || (len(m.Questions) == 1) != old {
			t.Errorf("%s: %+v", c.name, m)
			continue
		}
		srv, a := m.Answers[1].Body.(*dnsmessage.SRVResource), m.Answers[3].Body.(*dnsmessage.AResource)
		if srv.Port != 8443 || netip.AddrFrom4(a.A) != ours || (m.Answers[3].Header.Class&0x8000 == 0) != old {
			t.Errorf("%s: %+v", c.name, m.Answers)
		}
	}
}

// Whatever is sent, the answer is short and says what it should.
func FuzzAnswerMDNS(f *testing.F) {
	f.Add(mdnsQuery(f, 7, asks(service, dnsmessage.TypePTR, dnsmessage.ClassINET)))
	cfg := Config{IP: ours, Net: ourNet, AgentsPort: 8443}
	f.Fuzz(func(t *testing.T, b []byte) {
		reply, _ := answerMDNS(b, netip.MustParseAddrPort("10.77.0.50:40000"), cfg)
		if len(reply) > 1500 {
			t.Errorf("%d bytes for %d", len(reply), len(b))
		}
		var m dnsmessage.Message
		if reply != nil && m.Unpack(reply) != nil {
			t.Error("the reply can't be read")
		}
	})
}
