package netboot

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Packet is one parsed request and how it came in.
type Packet struct {
	*dhcpv4.DHCPv4
	Port int            // ours, that it was sent to: 67 or 4011
	Peer netip.AddrPort // who sent it
}

// View is what the table of leases says to one packet.
type View struct {
	Held  netip.Addr // bound or offered to this client now
	Next  netip.Addr // what it may be offered; invalid: the pool is full
	Grant bool       // the address that it asks for may be acknowledged
	Relay netip.Addr // of the request's network, when it comes without: the router that PCs there know
	Plain bool       // take its iPXE for a vendor's ROM (Config.TestPlainROM)

	Missing map[string]bool // boot files that aren't there
}

// Act is what a Decision does to the table of leases.
type Act int

const (
	Nothing    Act = iota
	Offer          // keep Addr aside for this client
	Bind           // Addr is this client's until the lease ends
	Release        // Addr is free again
	Quarantine     // Addr is in use by somebody else
)

// Decision is what a packet led to, beside the reply.
type Decision struct {
	Client  Client
	What    string // the request's kind, as in Sighting
	Reply   string // the reply's kind, likewise; empty: none
	Act     Act
	Addr    netip.Addr     // what Act is about
	To      netip.AddrPort // where the reply goes
	File    string         // boot file or URL in the reply
	Detail  string
	Err     string
	Problem string     // the kind of Err, as in Sighting
	Via     string     // who asks, as in Sighting
	Secs    int        // how long it has been asking, as it says
	Other   netip.Addr // another DHCP server that this packet speaks of
	Silent  bool       // none of our business: not even worth a Sighting
	Peer    *Peer      // another appliance asks
	Relay   netip.Addr // that it came over
}

// Peer is another appliance, as its question shows it.
type Peer struct {
	Addr netip.Addr // invalid: it has none yet
	Mode Mode
}

const (
	dhcpPort  = 67
	proxyPort = 4011
	tftpPort  = 69
)

var broadcast = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 68)

// Decide says what to answer to p. The reply is nil when nothing is to be sent.
// It changes nothing and asks nobody: v and cfg hold all it needs.
func Decide(p Packet, cfg Config, v View) (*dhcpv4.DHCPv4, Decision) {
	d := Decision{Client: identify(p.DHCPv4), What: kind(p.MessageType()), Via: via(p.DHCPv4), Secs: secs(p.NumSeconds)}
	switch {
	case p.OpCode != dhcpv4.OpcodeBootRequest:
		d.Silent = true // another server's reply
		return nil, d
	case p.HWType != iana.HWTypeEthernet || !usable(p.ClientHWAddr):
		d.What, d.Err = "malformed", "not from an Ethernet card"
		return nil, d
	case d.What == "":
		d.What, d.Detail = "malformed", "no DHCP request: "+p.MessageType().String()
		return nil, d
	}
	site, relay, known := cfg.site(p)
	if why := relayable(p, relay, cfg.IP); why != "" {
		d.What, d.Err = "malformed", why
		return nil, d
	}
	d.Relay = relay
	if relay.IsValid() && !cfg.answers(relay) || cfg.Mode != Proxy && !known {
		d.Err, d.Problem = cfg.notSetUp(relay), ProblemRelay
		d.Silent = cfg.Mode == Proxy && classOf(p.DHCPv4) == ""
		return nil, d
	}
	if known {
		if site.Net != cfg.Net && !site.Router.IsValid() {
			site.Router = v.Relay
			if relay.IsValid() {
				site.Router = relay
			}
		}
		cfg = cfg.at(site)
	}
	r, d := answerTo(p, cfg, v, d)
	if r != nil {
		carry(r, &d, p, relay)
	}
	if relay.IsValid() {
		d.Detail = join(d.Detail, fmt.Sprintf("over the relay %v", relay))
	}
	return r, d
}

// answerTo is Decide for a request whose network is known: cfg is as it is there.
func answerTo(p Packet, cfg Config, v View, d Decision) (*dhcpv4.DHCPv4, Decision) {
	if mode, own, ok := question(p.DHCPv4); ok {
		return toPeer(p, cfg, v, Peer{own, mode}, d)
	}
	if isApple(p.DHCPv4) {
		d.Err = "an Apple computer looks for Apple's NetBoot, which is not served: start it from a memory stick"
		return nil, d
	}
	if cfg.AgentsPort != 0 && p.ClassIdentifier() == agentClass && p.MessageType() == dhcpv4.MessageTypeInform && p.Port == dhcpPort {
		return tellAgent(p, cfg, d)
	}
	class := classOf(p.DHCPv4)
	if p.Port == proxyPort {
		return proxy4011(p, cfg, v, class, d)
	}
	if cfg.Mode == Proxy {
		return proxy67(p, cfg, v, class, d)
	}
	return full(p, cfg, v, class, d)
}

func full(p Packet, cfg Config, v View, class string, d Decision) (*dhcpv4.DHCPv4, Decision) {
	server, chosen := addr(p.ServerIdentifier())
	if chosen && server != cfg.IP {
		d.Other, d.Detail = server, fmt.Sprintf("meant for the server %v", server)
		if p.MessageType() == dhcpv4.MessageTypeRequest {
			d.Act, d.Addr = Release, v.Held
		}
		return nil, d
	}
	current, renewing := addr(p.ClientIPAddr)
	wanted, asked := wantedAddr(p.DHCPv4)
	switch p.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if !v.Next.IsValid() {
			d.Err, d.Problem = "address pool is full", ProblemPool
			return nil, d
		}
		d.Reply, d.Act, d.Addr, d.To = "offer", Offer, v.Next, broadcast
		r := answer(p.DHCPv4, cfg, dhcpv4.MessageTypeOffer)
		r.YourIPAddr = v.Next.AsSlice()
		lease(r, cfg)
		boot(r, p.DHCPv4, cfg, v, leased, class, &d)
		return r, d

	case dhcpv4.MessageTypeRequest:
		if !asked {
			d.Detail = "asks for no address"
			return nil, d
		}
		if !v.Grant {
			d.Reply, d.To = "nak", broadcast
			d.Detail = fmt.Sprintf("%v is not for this PC", wanted)
			r := answer(p.DHCPv4, cfg, dhcpv4.MessageTypeNak)
			r.ServerIPAddr = net.IPv4zero
			r.UpdateOption(dhcpv4.OptMessage("not your address on this network"))
			return r, d
		}
		d.Reply, d.Act, d.Addr, d.To = "ack", Bind, wanted, broadcast
		r := answer(p.DHCPv4, cfg, dhcpv4.MessageTypeAck)
		if renewing && current == wanted {
			// RFC 2131 §4.1; a client that renews listens at its address only.
			d.To = netip.AddrPortFrom(current, 68)
			r.ClientIPAddr = p.ClientIPAddr
		}
		r.YourIPAddr = wanted.AsSlice()
		lease(r, cfg)
		boot(r, p.DHCPv4, cfg, v, leased, class, &d)
		return r, d

	case dhcpv4.MessageTypeDecline:
		if asked && wanted == v.Held {
			d.Act, d.Addr, d.Problem = Quarantine, wanted, ProblemTaken
			d.Err = fmt.Sprintf("%v is in use by something else on this network: it is set aside", wanted)
		}
		return nil, d

	case dhcpv4.MessageTypeRelease:
		if renewing && current == v.Held {
			d.Act, d.Addr = Release, current
		}
		return nil, d

	case dhcpv4.MessageTypeInform:
		if !renewing || !cfg.Net.Contains(current) {
			d.Detail = "asks from no address of this network"
			return nil, d
		}
		d.Reply, d.To = "ack", netip.AddrPortFrom(current, 68)
		r := answer(p.DHCPv4, cfg, dhcpv4.MessageTypeAck)
		r.ClientIPAddr = p.ClientIPAddr
		network(r, cfg)
		boot(r, p.DHCPv4, cfg, v, leased, class, &d)
		return r, d
	}
	return nil, d
}

// toPeer answers another appliance's question: with an address, as it asks who
// gives them. It won't take it up, so none is kept aside.
func toPeer(p Packet, cfg Config, v View, who Peer, d Decision) (*dhcpv4.DHCPv4, Decision) {
	d.Silent, d.Peer = true, &who
	if cfg.Mode == Proxy || p.Port != dhcpPort {
		return nil, d
	}
	a := v.Next
	if !a.IsValid() {
		a = cfg.PoolFrom
	}
	r := answer(p.DHCPv4, cfg, dhcpv4.MessageTypeOffer)
	r.YourIPAddr = a.AsSlice()
	lease(r, cfg)
	d.To = broadcast
	return r, d
}

// proxy67 adds the boot file beside the network's own server: OFFER only; no
// firmware seen wants an ACK from us on port 67.
func proxy67(p Packet, cfg Config, v View, class string, d Decision) (*dhcpv4.DHCPv4, Decision) {
	if server, chosen := addr(p.ServerIdentifier()); chosen && server != cfg.IP && p.MessageType() == dhcpv4.MessageTypeRequest {
		d.Other = server
	}
	if class == "" {
		d.Silent = true
		return nil, d
	}
	if p.MessageType() != dhcpv4.MessageTypeDiscover {
		d.Detail = "left to the network's own server"
		if server, ok := addr(p.ServerIdentifier()); ok && server != cfg.IP {
			d.Other = server
		}
		return nil, d
	}
	r := answer(p.DHCPv4, cfg, dhcpv4.MessageTypeOffer)
	boot(r, p.DHCPv4, cfg, v, beside, class, &d)
	if d.File == "" {
		return nil, d // an OFFER without a file would only mislead it
	}
	d.Reply, d.To = "offer", broadcast
	return r, d
}

// proxy4011 is the boot server's side of PXE 2.1 §2.2.3: firmware that has its
// address and asks us, alone, for the file. EDK2 sends from port 4011, others
// from 68.
func proxy4011(p Packet, cfg Config, v View, class string, d Decision) (*dhcpv4.DHCPv4, Decision) {
	if class == "" || !p.Peer.IsValid() || p.Peer.Addr().IsUnspecified() {
		d.Silent = true
		return nil, d
	}
	if t := p.MessageType(); t != dhcpv4.MessageTypeRequest && t != dhcpv4.MessageTypeInform && t != dhcpv4.MessageTypeDiscover {
		d.Detail = "not to be answered on port 4011"
		return nil, d
	}
	r := answer(p.DHCPv4, cfg, dhcpv4.MessageTypeAck)
	r.ClientIPAddr = p.ClientIPAddr
	boot(r, p.DHCPv4, cfg, v, asked, class, &d)
	if d.File == "" {
		return nil, d
	}
	d.Reply, d.To = "ack", p.Peer
	return r, d
}

// answer is what all replies share.
func answer(q *dhcpv4.DHCPv4, cfg Config, t dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	r := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        q.HWType,
		TransactionID: q.TransactionID,
		Flags:         q.Flags,
		ClientHWAddr:  q.ClientHWAddr,
		ClientIPAddr:  net.IPv4zero,
		YourIPAddr:    net.IPv4zero,
		ServerIPAddr:  net.IPv4zero,
		GatewayIPAddr: net.IPv4zero,
		Options:       dhcpv4.Options{},
	}
	r.UpdateOption(dhcpv4.OptMessageType(t))
	r.UpdateOption(dhcpv4.OptServerIdentifier(cfg.IP.AsSlice()))
	if id := q.Options.Get(dhcpv4.OptionClientIdentifier); id != nil && len(id) < 256 {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientIdentifier, id)) // RFC 6842
	}
	return r
}

func lease(r *dhcpv4.DHCPv4, cfg Config) {
	r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(cfg.Lease))
	network(r, cfg)
}

func network(r *dhcpv4.DHCPv4, cfg Config) {
	r.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(cfg.Net.Bits(), 32)))
	if cfg.Router.Is4() {
		r.UpdateOption(dhcpv4.OptRouter(cfg.Router.AsSlice()))
	}
	var dns []net.IP
	for _, a := range cfg.DNS {
		dns = append(dns, a.AsSlice())
	}
	if len(dns) > 0 {
		r.UpdateOption(dhcpv4.OptDNS(dns...))
	}
}

// usable: an Ethernet address of one card.
func usable(a net.HardwareAddr) bool {
	return len(a) == 6 && a[0]&1 == 0 && !bytes.Equal(a, make([]byte, 6))
}

// wantedAddr is the address that a request names: option 50, else its own.
func wantedAddr(q *dhcpv4.DHCPv4) (netip.Addr, bool) {
	if a, ok := addr(q.RequestedIPAddress()); ok {
		return a, true
	}
	return addr(q.ClientIPAddr)
}

func addr(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip.To4())
	return a, ok && !a.IsUnspecified()
}

// secs is what a client says of its waiting. Some send the low byte first.
func secs(n uint16) int {
	if n >= 256 && n%256 == 0 {
		n /= 256
	}
	return int(n)
}

func kind(t dhcpv4.MessageType) string {
	switch t {
	case dhcpv4.MessageTypeDiscover:
		return "discover"
	case dhcpv4.MessageTypeRequest:
		return "request"
	case dhcpv4.MessageTypeDecline:
		return "decline"
	case dhcpv4.MessageTypeRelease:
		return "release"
	case dhcpv4.MessageTypeInform:
		return "inform"
	}
	return ""
}
