package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/ipv4"
)

const (
	maxPacket = 4096 // bytes of a request that are read
	maxAtOnce = 128  // requests worked on; more wait
	maxProbes = 4    // addresses tried for one DISCOVER
)

// serveDHCP reads requests until ctx ends.
func (s *Server) serveDHCP(ctx context.Context, conn *net.UDPConn, port int) error {
	out := ipv4.NewPacketConn(conn)
	slots := make(chan struct{}, maxAtOnce)
	defer func() { // wait for the last answers
		for range maxAtOnce {
			slots <- struct{}{}
		}
	}()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf := make([]byte, maxPacket)
	for {
		n, peer, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("DHCP on port %d: %w", port, err)
			}
			// The interface may go away and come back.
			s.log.Warn("DHCP: read", "port", port, "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			s.sight(Sighting{What: "malformed", IP: peer.Addr().String(), Arch: NoArch, Err: fmt.Sprintf("no DHCP packet: %v", err)})
			continue
		}
		slots <- struct{}{} // meanwhile the kernel keeps what comes
		at := time.Now()
		go func() {
			defer func() { <-slots }()
			reply, d := s.decide(ctx, Packet{DHCPv4: m, Port: port, Peer: peer})
			s.noticed(d)
			s.send(out, reply, d, port, at)
		}()
	}
}

// decide runs Decide over the leases as they are, and sets an address that
// somebody else turns out to use aside.
func (s *Server) decide(ctx context.Context, p Packet) (*dhcpv4.DHCPv4, Decision) {
	c := identify(p.DHCPv4)
	for try := 1; ; try++ {
		reply, d, fresh := s.transact(p, c)
		inUse := d.Act == Offer && fresh && s.cfg.Net.Contains(d.Addr) && s.taken(ctx, d.Addr, c.MAC)
		if (d.Act == Offer || d.Act == Bind) && s.mode() != Full {
			continue // we stepped back meanwhile: never after another has spoken
		}
		if !inUse {
			if c.MAC != "" && !d.Silent && d.What != "malformed" {
				if d.What == "discover" {
					s.forget(s.client(c.MAC).IP, d.Addr)
					c.Asked = time.Now()
				}
				s.remember(c)
			}
			return reply, d
		}
		q := Decision{Client: c, Act: Quarantine, Addr: d.Addr}
		s.leases.mu.Lock()
		change := s.leases.apply(q, nil, time.Now())
		s.leases.mu.Unlock()
		err := s.leases.commit(change)
		msg := fmt.Sprintf("%v is in use by something else on this network: it is set aside", d.Addr)
		if err != nil {
			msg += "; " + err.Error()
		}
		s.sight(Sighting{What: d.What, MAC: c.MAC, UUID: c.UUID, Arch: c.Arch, Via: d.Via, IP: d.Addr.String(), Err: msg, Problem: ProblemTaken})
		if try == maxProbes {
			d.Problem = ProblemTaken
			d.Err = "every address tried is in use by something else on this network: look for a second DHCP server"
			d.Reply, d.Act, d.Addr = "", Nothing, netip.Addr{}
			return nil, d
		}
	}
}

// transact sees, decides and applies in one step, and returns when what was
// applied is in the file. fresh says that the address
// was not this client's before.
func (s *Server) transact(p Packet, c Client) (reply *dhcpv4.DHCPv4, d Decision, fresh bool) {
	plain, missing := s.plain(c), s.missing()
	cfg := s.now()
	if cfg.Mode == Proxy {
		reply, d = Decide(p, cfg, View{Plain: plain, Missing: missing})
		return reply, d, false
	}
	wanted, _ := wantedAddr(p.DHCPv4)
	site, relay, _ := cfg.site(p)
	now := time.Now()
	s.leases.mu.Lock()
	relay = s.leases.relay(site.Net, relay, p.Peer.Addr(), now)
	v := s.leases.view(c.MAC, wanted, site.Net, now)
	v.Relay, v.Plain, v.Missing = relay, plain, missing
	reply, d = Decide(p, cfg, v)
	change := s.leases.apply(d, p.Options.Get(dhcpv4.OptionClientIdentifier), now)
	s.leases.mu.Unlock()
	if err := s.leases.commit(change); err != nil && d.Err == "" {
		d.Err = err.Error()
	}
	return reply, d, v.Held != d.Addr
}

// plain says whether a PC's iPXE is to be taken for a vendor's ROM.
func (s *Server) plain(c Client) bool {
	if !s.cfg.TestPlainROM || !c.IPXE || c.Arch != 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.chained[c.MAC]
}

func (s *Server) setChained(mac string, yes bool) {
	if !s.cfg.TestPlainROM || mac == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if yes {
		s.chained[mac] = true
	} else {
		delete(s.chained, mac)
	}
}

func (s *Server) send(out *ipv4.PacketConn, reply *dhcpv4.DHCPv4, d Decision, port int, at time.Time) {
	sight := s.sight
	if d.Silent {
		sight = func(Sighting) {}
	}
	c := d.Client
	in := Sighting{Time: at, MAC: c.MAC, UUID: c.UUID, What: d.What, Arch: c.Arch, Detail: describe(c), Via: d.Via, Secs: d.Secs, Port: port, Card: c.Card}
	if d.Other.IsValid() {
		in.Server = d.Other.String()
	}
	if c.IP.IsValid() {
		in.IP = c.IP.String()
	} else if d.Act == Quarantine {
		in.IP = d.Addr.String() // what it declines
	}
	if reply == nil {
		in.Detail, in.Err, in.Problem = join(in.Detail, d.Detail), d.Err, d.Problem
		sight(in)
		return
	}
	sight(in)
	o := Sighting{MAC: c.MAC, UUID: c.UUID, What: d.Reply, Arch: c.Arch, Via: d.Via, Port: port, Detail: d.Detail, File: d.File, Err: d.Err, Problem: d.Problem}
	if d.Addr.IsValid() {
		o.IP = d.Addr.String()
	}
	b := reply.ToBytes()
	// The source is set: a card with several addresses would choose one itself.
	n, err := out.WriteTo(b, &ipv4.ControlMessage{Src: s.cfg.IP.AsSlice()}, net.UDPAddrFromAddrPort(d.To))
	o.Bytes = int64(n)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		o.Problem = ProblemSend
		o.Err = join(o.Err, fmt.Sprintf("not sent: %v (is the cable in the appliance's network card?)", err))
	}
	sight(o)
}

func describe(c Client) string {
	switch {
	case c.IPXE:
		return "iPXE"
	case c.HTTPBoot:
		return "UEFI HTTP Boot"
	case c.Arch == NoArch:
		return ""
	}
	if f, ok := firmwareOf(c.Arch); ok {
		return f.name + " PXE"
	}
	return fmt.Sprintf("PXE, architecture %d", c.Arch)
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
