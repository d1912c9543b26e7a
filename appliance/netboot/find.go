package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// An agent that came from a stick has no boot script to tell it where the
// appliance is. It asks, once it has an address, and gets the agents' URL: by
// DHCPINFORM with a class of its own (RFC 2131 §3.4, RFC 2132 §8.4), the same in
// both modes and beside any other DHCP server, and by multicast DNS. What it is
// told it believes only from a server with the key that it carries.

const (
	agentClass = "RefurbAgent" // option 60; agent/link says it, too
	agentURL   = 1             // code in option 43: the agents' URL
	service    = "_refurb._tcp.local."
	instance   = "appliance." + service
	hostName   = "refurb.local."
)

func (c *Config) agents() string {
	return fmt.Sprintf("https://%v", netip.AddrPortFrom(c.IP, uint16(c.AgentsPort)))
}

// tellAgent answers an agent's INFORM.
func tellAgent(p Packet, cfg Config, d Decision) (*dhcpv4.DHCPv4, Decision) {
	current, ok := addr(p.ClientIPAddr)
	if !ok || !cfg.Net.Contains(current) {
		d.Detail = "asks from no address of this network"
		return nil, d
	}
	r := answer(p.DHCPv4, cfg, dhcpv4.MessageTypeAck)
	r.ClientIPAddr = p.ClientIPAddr
	r.UpdateOption(dhcpv4.OptClassIdentifier(agentClass))
	url := cfg.agents()
	r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, append([]byte{agentURL, byte(len(url))}, url...)))
	d.Reply, d.To, d.Detail = "ack", netip.AddrPortFrom(current, 68), "started from a stick, told "+url
	return r, d
}

const (
	mdnsPort  = 5353
	mdnsTTL   = 120 // seconds (RFC 6762 §10)
	legacyTTL = 10  // for who asks from another port and may not be listening any more (§6.7)
	maxAsked  = 16  // questions of one packet that are read
)

var mdnsGroup = netip.AddrFrom4([4]byte{224, 0, 0, 251})

// answerMDNS gives the reply to a multicast DNS query, and whether it goes to
// everybody. It is nil when the query isn't about us.
func answerMDNS(query []byte, from netip.AddrPort, cfg Config) (reply []byte, all bool) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response || h.OpCode != 0 || !cfg.Net.Contains(from.Addr()) {
		return nil, false
	}
	legacy := from.Port() != mdnsPort
	all = !legacy
	var asked []dnsmessage.Question
	for range maxAsked {
		q, err := p.Question()
		if err != nil {
			break // the last one, or not a packet we understand
		}
		unicast := q.Class&0x8000 != 0
		q.Class &^= 0x8000
		if q.Class != dnsmessage.ClassINET && q.Class != dnsmessage.ClassANY || !ourName(q) {
			continue
		}
		asked = append(asked, q)
		if unicast {
			all = false
		}
	}
	if len(asked) == 0 {
		return nil, false
	}
	ttl := uint32(mdnsTTL)
	out := dnsmessage.Header{Response: true, Authoritative: true}
	if legacy {
		ttl, out.ID = legacyTTL, h.ID
	}
	b := dnsmessage.NewBuilder(nil, out)
	b.EnableCompression()
	head := func(name string, unique bool) dnsmessage.ResourceHeader {
		class := dnsmessage.ClassINET
		if unique && !legacy {
			class |= 0x8000 // cache-flush (§10.2), which §6.7 forbids in legacy answers
		}
		return dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: class, TTL: ttl}
	}
	err = b.StartQuestions()
	if legacy {
		for _, q := range asked {
			err = errors.Join(err, b.Question(q))
		}
	}
	err = errors.Join(err, b.StartAnswers(),
		b.PTRResource(head(service, false), dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(instance)}),
		b.SRVResource(head(instance, true), dnsmessage.SRVResource{Port: uint16(cfg.AgentsPort), Target: dnsmessage.MustNewName(hostName)}),
		b.TXTResource(head(instance, true), dnsmessage.TXTResource{TXT: []string{"url=" + cfg.agents()}}),
		b.AResource(head(hostName, true), dnsmessage.AResource{A: cfg.IP.As4()}))
	if err != nil {
		return nil, false
	}
	reply, err = b.Finish()
	if err != nil {
		return nil, false
	}
	return reply, all
}

func ourName(q dnsmessage.Question) bool {
	kinds := map[string][]dnsmessage.Type{
		service:  {dnsmessage.TypePTR},
		instance: {dnsmessage.TypeSRV, dnsmessage.TypeTXT},
		hostName: {dnsmessage.TypeA},
	}
	for _, t := range append(kinds[strings.ToLower(q.Name.String())], dnsmessage.TypeALL) {
		if q.Type == t && kinds[strings.ToLower(q.Name.String())] != nil {
			return true
		}
	}
	return false
}

// listenMDNS hears multicast queries of one network card, beside a responder
// that this machine may have.
func (s *Server) listenMDNS(ctx context.Context, ifi *net.Interface) (*ipv4.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var reuse error
		if err := c.Control(func(fd uintptr) {
			reuse = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}); err != nil {
			return err
		}
		return errors.Join(reuse, onInterface(c, ifi.Name))
	}}
	raw, err := lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(mdnsGroup, mdnsPort).String())
	if err != nil {
		return nil, err
	}
	conn := ipv4.NewPacketConn(raw)
	if err := errors.Join(
		conn.JoinGroup(ifi, &net.UDPAddr{IP: mdnsGroup.AsSlice()}),
		conn.SetMulticastInterface(ifi),
		conn.SetMulticastTTL(255), // RFC 6762 §11
		conn.SetTTL(255),
		conn.SetMulticastLoopback(false),
	); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// serveMDNS answers until ctx ends.
func (s *Server) serveMDNS(ctx context.Context, conn *ipv4.PacketConn) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	most := rate.NewLimiter(50, 50)
	buf := make([]byte, 1500)
	src := &ipv4.ControlMessage{Src: s.cfg.IP.AsSlice()}
	for {
		n, _, peer, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("multicast DNS: %w", err)
		}
		u, ok := peer.(*net.UDPAddr)
		if !ok {
			continue
		}
		from := netip.AddrPortFrom(u.AddrPort().Addr().Unmap(), u.AddrPort().Port())
		reply, all := answerMDNS(buf[:n], from, s.cfg)
		if reply == nil || !most.Allow() {
			continue
		}
		to := net.UDPAddrFromAddrPort(from)
		if all {
			to = &net.UDPAddr{IP: mdnsGroup.AsSlice(), Port: mdnsPort}
		}
		g := Sighting{Time: time.Now(), What: "mdns", IP: from.Addr().String(), MAC: s.macOf(from.Addr()), Arch: NoArch, Detail: "asks for the appliance, told " + s.cfg.agents()}
		if _, err := conn.WriteTo(reply, src, to); err != nil {
			g.Err = "not answered: " + err.Error()
		}
		s.sight(g)
	}
}
