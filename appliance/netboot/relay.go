package netboot

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Networks behind relay agents (RFC 1542, RFC 2131 §4.1). A router passes on what
// PCs there broadcast, and puts its own address on their network into giaddr; the
// answer goes to it.

// Network is one that addresses are given out on.
type Network struct {
	Net      netip.Prefix
	PoolFrom netip.Addr
	PoolTo   netip.Addr
	Router   netip.Addr // given to PCs; not valid: the relay, of a network behind one
	DNS      []netip.Addr
	Via      netip.Addr // the router on our own network that leads there; not valid: not known
}

const maxHops = 16 // RFC 1542 §4.1.1

// home is the network that the appliance is on.
func (c *Config) home() Network {
	return Network{Net: c.Net, PoolFrom: c.PoolFrom, PoolTo: c.PoolTo, Router: c.Router, DNS: c.DNS}
}

func (n *Network) check() error {
	switch {
	case !n.Net.Addr().Is4():
		return fmt.Errorf("network %v: only IPv4 is served", n.Net)
	case !n.PoolFrom.Is4() || !n.PoolTo.Is4() || n.PoolTo.Less(n.PoolFrom) || !n.Net.Contains(n.PoolFrom) || !n.Net.Contains(n.PoolTo):
		return fmt.Errorf("pool %v to %v: both ends must lie inside %v, the lower one first", n.PoolFrom, n.PoolTo, n.Net)
	}
	return nil
}

// site finds the network that a request comes from. One that came over a relay
// lies where the relay says: in option 82's link selection (RFC 3527), in option
// 118 (RFC 3011), or in giaddr. One that came directly is from home, unless a PC
// with an address of a network behind a relay renews it, as it does without the
// relay.
func (c *Config) site(p Packet) (n Network, relay netip.Addr, ok bool) {
	relay, relayed := addr(p.GatewayIPAddr)
	at := relay
	if !relayed {
		at, relay = c.IP, netip.Addr{}
		if current, ok := addr(p.ClientIPAddr); ok && p.Peer.Addr() == current {
			at = current
			if _, ok := c.network(at); !ok {
				at = c.IP
			}
		}
	} else if a, ok := netip.AddrFromSlice(p.Options.Get(dhcpv4.OptionSubnetSelection)); ok && a.Is4() {
		at = a
	}
	if info := p.RelayAgentInfo(); relayed && info != nil {
		if a, ok := netip.AddrFromSlice(info.Get(dhcpv4.LinkSelectionSubOption)); ok && a.Is4() {
			at = a
		}
	}
	n, ok = c.network(at)
	return n, relay, ok
}

func (c *Config) network(a netip.Addr) (Network, bool) {
	if c.Net.Contains(a) {
		return c.home(), true
	}
	for _, n := range c.Networks {
		if n.Net.Contains(a) {
			return n, true
		}
	}
	return Network{}, false
}

// at is the configuration as it is for requests from n.
func (c Config) at(n Network) Config {
	c.Net, c.PoolFrom, c.PoolTo, c.Router, c.DNS = n.Net, n.PoolFrom, n.PoolTo, n.Router, n.DNS
	return c
}

// answers says whether replies may go to a relay. Anybody can write one into a
// packet, and no standard says from which of its addresses a relay sends, so what
// counts is where the reply goes: into a network that is set up, or to the router
// that leads to one. Else we could be made to send to any address.
func (c *Config) answers(relay netip.Addr) bool {
	return slices.ContainsFunc(c.Networks, func(n Network) bool {
		return relay == n.Via || n.Net.Contains(relay) && relay != n.Net.Masked().Addr() && relay != last(n.Net)
	})
}

// relayable says what is wrong with a relay's address and count, if anything.
func relayable(p Packet, relay netip.Addr, own netip.Addr) string {
	switch {
	case p.HopCount > maxHops:
		return fmt.Sprintf("went through %d relays: do they pass it round in a circle?", p.HopCount)
	case relay.IsValid() && (!relay.IsGlobalUnicast() || relay == own):
		return fmt.Sprintf("names the relay %v, which can't be one", relay)
	}
	return ""
}

// notSetUp is said of a relay that we don't answer.
func (c *Config) notSetUp(relay netip.Addr) string {
	if c.Net.Contains(relay) {
		return fmt.Sprintf("came over the relay %v of this network, where none is needed, and gets no answer: if it leads to another network, start the appliance with --network NETWORK,via=%v, else switch that relay off", relay, relay)
	}
	guess, _ := relay.Prefix(24)
	return fmt.Sprintf("came over the relay %v from a network that is not set up here, and gets no answer: start the appliance with --network %v (that network, with its real size), or have the relay pass on to another server", relay, guess)
}

// carry makes r a reply that finds its way back: option 82 as it came (RFC 3046
// §2.2), and to the relay where there is one.
func carry(r *dhcpv4.DHCPv4, d *Decision, p Packet, relay netip.Addr) {
	if info := p.Options.Get(dhcpv4.OptionRelayAgentInformation); info != nil {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, info))
	}
	if !relay.IsValid() || p.Port != dhcpPort {
		return
	}
	r.GatewayIPAddr = net.IP(relay.AsSlice())
	d.To = netip.AddrPortFrom(relay, dhcpPort)
	if r.MessageType() == dhcpv4.MessageTypeNak {
		r.SetBroadcast() // RFC 2131 §4.3.2: the relay can't reach it at an address that isn't its own
	}
}
