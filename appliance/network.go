package appliance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"refurb/appliance/netboot"
)

// ownNetwork is set on an interface that has no IPv4 address, and where nobody
// else gives any: a switch with nothing but donated PCs on it.
const ownNetwork = "10.77.0.1/24"

// place is the appliance's place on the workshop's network.
type place struct {
	addr  netip.Prefix
	found []netboot.Other // other DHCP servers
	asked bool            // for them, over a link
	lent  bool            // addr is from one of them
	ours  bool            // we have set it, and take it away

	chosen   bool          // addr is neither a person's choice nor another program's
	patience time.Duration // before it is given up for another

	ways  []*netlink.Route // that we have set
	name  string
	lease *nclient4.Lease
	note  string // the file that names what was borrowed, for the next run
	grace time.Duration
	log   *slog.Logger
}

// join finds out who else is on the workshop's network, and gives the appliance
// an address there.
func (a *Appliance) join(ctx context.Context) (*place, error) {
	cfg := a.Config
	p := &place{name: cfg.Interface, log: a.log, grace: addressGrace, patience: moveAfter, note: filepath.Join(cfg.Data, "borrowed")}
	link, err := switchOn(cfg.Interface)
	if err != nil {
		return nil, err
	}
	if p.found, p.asked, err = netboot.Look(ctx, cfg.Interface); ctx.Err() != nil {
		return nil, context.Cause(ctx)
	} else if err != nil {
		a.log.Warn("could not look for another DHCP server", "err", err)
	}
	givers := netboot.Status{Others: p.found}.Givers()
	if cfg.DHCP == "full" && len(givers) > 0 {
		return nil, fmt.Errorf("another DHCP server, %v, answers on %s: two would fight over every PC; leave --dhcp at auto beside it, or unplug it", givers[0].Addr, cfg.Interface)
	}
	return p, p.settle(ctx, link, cfg.Address, cfg.DHCP != "full" && len(givers) > 0)
}

// settle finds the address: want, else what the interface has, else one from the
// network's own server, else ownNetwork.
func (p *place) settle(ctx context.Context, link netlink.Link, want string, giver bool) error {
	if err := p.returnLeft(link); err != nil {
		return err
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("interface %s: %w", p.name, err)
	}
	if want == "" {
		for _, a := range have {
			own, err := prefix(a.IPNet)
			// Our own, left by an appliance that was killed, is of no use beside a router.
			if err != nil || giver && own.String() == ownNetwork {
				continue
			}
			p.addr = own
			p.lent = a.Flags&unix.IFA_F_PERMANENT == 0
			p.chosen = own.String() == ownNetwork && !p.lent
			return nil
		}
		p.chosen = true
		if giver {
			return p.borrow(ctx, link)
		}
		want = ownNetwork
	}
	p.addr, err = netip.ParsePrefix(want)
	if err != nil || !p.addr.Addr().Is4() {
		return fmt.Errorf("address = %q: want an IPv4 address with its prefix, such as %s", want, ownNetwork)
	}
	for _, a := range have {
		if own, err := prefix(a.IPNet); err == nil && own == p.addr {
			return nil
		}
	}
	return p.set(link)
}

// shortest is for how long a borrowed address stays at least; by then its renewal
// was tried again.
const shortest = 2 * time.Minute

// set gives the card its address: what is borrowed for as long as its lease runs,
// so that nothing takes it for its own when we are gone.
func (p *place) set(link netlink.Link) error {
	a := ipNet(p.addr)
	if p.lease != nil {
		if length := p.lease.ACK.IPAddressLeaseTime(time.Hour); length < forEver {
			a.ValidLft = int(max(time.Until(p.lease.CreationTime.Add(length)), shortest) / time.Second)
			a.PreferedLft = a.ValidLft
		}
	}
	if err := netlink.AddrReplace(link, a); err != nil {
		return fmt.Errorf("address %v can't be set on %s: %w", p.addr, p.name, err)
	}
	p.ours = true
	return nil
}

// borrow takes an address from the network's own DHCP server, so that the PCs
// which get theirs from it reach us.
func (p *place) borrow(ctx context.Context, link netlink.Link) error {
	c, err := nclient4.New(p.name, nclient4.WithTimeout(4*time.Second), nclient4.WithRetry(2))
	if err != nil {
		return fmt.Errorf("asking for an address on %s: %w", p.name, err)
	}
	defer c.Close()
	if p.lease, err = c.Request(ctx, dhcpv4.WithBroadcast(true)); err != nil {
		return fmt.Errorf("another DHCP server answers on %s, but gives this appliance no address: %w (give it one of that network with --address)", p.name, err)
	}
	if p.addr, err = leased(p.lease.ACK); err != nil {
		return fmt.Errorf("asking for an address on %s: %w (give the appliance one of that network with --address)", p.name, err)
	}
	p.lent = true
	p.log.Info("the network's own DHCP server has given this appliance an address", "address", p.addr, "server", p.lease.ACK.ServerIdentifier())
	if err := os.WriteFile(p.note, []byte(p.borrowed()), 0o600); err != nil {
		return fmt.Errorf("what was borrowed can't be noted: %w", err)
	}
	return p.set(link)
}

// borrowed is what the note says: it holds until the machine starts anew, for
// then the address is gone from the card.
func (p *place) borrowed() string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return p.name + " " + p.addr.String() + " " + strings.TrimSpace(string(boot)) + "\n"
}

// returnLeft takes away an address that a run which was killed had borrowed. It
// isn't ours, and nobody renews it: if there is a server, it is asked again.
func (p *place) returnLeft(link netlink.Link) error {
	note, err := os.ReadFile(p.note)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("what was borrowed: %w", err)
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("interface %s: %w", p.name, err)
	}
	for _, a := range have {
		own, err := prefix(a.IPNet)
		if err != nil || (&place{name: p.name, addr: own}).borrowed() != string(note) {
			continue
		}
		if err := netlink.AddrDel(link, ipNet(own)); err != nil {
			return fmt.Errorf("the address %v, left on %s by a run that was killed, can't be taken away: %w", own, p.name, err)
		}
		p.log.Info("an address that was borrowed by a run which was killed is taken away", "address", own)
	}
	return os.Remove(p.note)
}

func leased(ack *dhcpv4.DHCPv4) (netip.Prefix, error) {
	mask := ack.SubnetMask()
	ones, bits := mask.Size()
	ip, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || !ip.IsGlobalUnicast() || bits != 32 || ones == 0 {
		return netip.Prefix{}, fmt.Errorf("the DHCP server gave the address %v, netmask %v", ack.YourIPAddr, mask)
	}
	return netip.PrefixFrom(ip, ones), nil
}

// leave takes away what was set, and gives back what was lent.
func (p *place) leave() {
	for _, r := range p.ways {
		_ = netlink.RouteDel(r)
	}
	link, err := netlink.LinkByName(p.name)
	if err != nil || !p.ours {
		return
	}
	if p.lease != nil {
		if c, err := nclient4.New(p.name); err == nil {
			_ = c.Release(p.lease) // it runs out by itself, too
			c.Close()
		}
	}
	if netlink.AddrDel(link, ipNet(p.addr)) == nil && p.lease != nil {
		_ = os.Remove(p.note)
	}
}

const (
	addressEvery = time.Second
	addressGrace = 15 * time.Second // a pulled cable takes a NetworkManager's address along for as long
	forEver      = 0xffffffff * time.Second
)

// stubborn is how often an address is put back against a program that takes it
// away again and again: at once, then less and less often.
type stubborn struct {
	last time.Time
	wait time.Duration
}

func (s *stubborn) due(now time.Time) bool {
	if now.Sub(s.last) < s.wait {
		return false
	}
	s.last, s.wait = now, min(max(2*s.wait, addressEvery), time.Minute)
	return true
}

// over: it has stayed for so long that the other has given up.
func (s *stubborn) over(now time.Time) bool {
	return s.wait > 0 && now.Sub(s.last) > 2*time.Minute
}

// keep watches over the address until ctx ends: it renews what is lent, and puts
// back what is ours when another program has taken it away. When the card was
// given another address instead of the one that everything here rests on, it ends
// with an error, for a new start to take that up.
func (p *place) keep(ctx context.Context) error {
	renew := p.renewal()
	missing := time.Time{}
	var fight stubborn
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(addressEvery):
		}
		if !renew.IsZero() && time.Now().After(renew) {
			if err := p.renew(ctx); err != nil {
				return err
			}
			renew = p.renewal()
		}
		link, err := netlink.LinkByName(p.name)
		if err != nil {
			continue // netboot says so
		}
		have, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			continue
		}
		there := false
		var others []string
		for _, a := range have {
			own, err := prefix(a.IPNet)
			there = there || err == nil && own.Addr() == p.addr.Addr()
			others = append(others, own.String())
		}
		switch {
		case there && !missing.IsZero():
			p.log.Info("the address is back", "interface", p.name, "address", p.addr)
			missing = time.Time{}
		case there:
			if fight.over(time.Now()) {
				p.log.Info("the address is left alone again", "interface", p.name, "address", p.addr)
				fight = stubborn{}
			}
		case p.ours:
			first := fight.wait == 0
			if !fight.due(time.Now()) {
				continue
			}
			if err := p.set(link); err != nil {
				return err
			}
			if !first {
				continue // it was said
			}
			p.log.Warn("another program has taken the address away; it is put back. Tell NetworkManager or systemd-networkd to leave this card alone", "interface", p.name, "address", p.addr)
		case missing.IsZero():
			missing = time.Now()
			p.log.Warn("the network card has lost its address: is the cable plugged in?", "interface", p.name, "address", p.addr)
		case len(others) > 0 && time.Since(missing) > p.grace:
			return fmt.Errorf("%s had the address %v and now has %s: start again, or fix it with --address", p.name, p.addr, strings.Join(others, ", "))
		}
	}
}

// renewal is when the lease is to be renewed; zero: never.
func (p *place) renewal() time.Time {
	if p.lease == nil {
		return time.Time{}
	}
	length := p.lease.ACK.IPAddressLeaseTime(time.Hour)
	if length >= forEver {
		return time.Time{}
	}
	next := p.lease.CreationTime.Add(max(length, time.Minute) / 2)
	if soon := time.Now().Add(30 * time.Second); next.Before(soon) {
		next = soon // a renewal that failed
	}
	return next
}

// renew asks the server that lent the address, then any. A server that is away is
// no error: the address stays, for the PCs' sake, and is asked for again.
func (p *place) renew(ctx context.Context) error {
	if err := p.renewed(ctx); err != nil {
		return err
	}
	link, err := netlink.LinkByName(p.name)
	if err != nil {
		return nil // netboot says so
	}
	return p.set(link)
}

func (p *place) renewed(ctx context.Context) error {
	c, err := nclient4.New(p.name, nclient4.WithTimeout(4*time.Second), nclient4.WithRetry(2))
	if err != nil {
		p.log.Warn("the address was not renewed", "interface", p.name, "err", err)
		return nil
	}
	defer c.Close()
	got, err := c.Renew(ctx, p.lease)
	if err != nil && ctx.Err() == nil {
		got, err = c.Request(ctx, dhcpv4.WithBroadcast(true), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(p.addr.Addr().AsSlice())))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		p.log.Warn("the address was not renewed", "interface", p.name, "address", p.addr, "err", err)
		return nil
	}
	if now, err := leased(got.ACK); err != nil || now.Addr() != p.addr.Addr() {
		return fmt.Errorf("the DHCP server %v takes the address %v back and gives %v: start again, or reserve the first one for this appliance there", got.ACK.ServerIdentifier(), p.addr, got.ACK.YourIPAddr)
	}
	p.lease = got
	return nil
}

// routes makes the networks behind relays reachable: without the way there, what
// PCs fetch would go out by the machine's other card. It notes in sites by which
// router that is.
func (p *place) routes(configured []Network, sites []netboot.Network) error {
	link, err := netlink.LinkByName(p.name)
	if err != nil {
		return err
	}
	for i, n := range configured {
		to := &net.IPNet{IP: sites[i].Net.Addr().AsSlice(), Mask: net.CIDRMask(sites[i].Net.Bits(), 32)}
		if n.Via != "" {
			via, err := netip.ParseAddr(n.Via)
			if err != nil || !p.addr.Contains(via) {
				return fmt.Errorf("network %s: via = %q: want the router's address inside %v", n.Network, n.Via, p.addr.Masked())
			}
			sites[i].Via = via
			r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Gw: via.AsSlice()}
			there, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: to}, netlink.RT_FILTER_DST)
			if err == nil && len(there) > 0 {
				if there[0].LinkIndex != r.LinkIndex || !there[0].Gw.Equal(r.Gw) {
					p.log.Warn("there is another way to a network behind a relay already; it is left as it is", "network", n.Network, "via", there[0].Gw, "wanted", via)
				}
				continue
			}
			if err := netlink.RouteAdd(r); err != nil {
				return fmt.Errorf("the way to the network %s can't be set: %w", n.Network, err)
			}
			p.ways = append(p.ways, r)
			continue
		}
		ways, err := netlink.RouteGet(sites[i].PoolFrom.AsSlice())
		if err != nil || len(ways) == 0 || ways[0].LinkIndex != link.Attrs().Index {
			p.log.Warn("PCs of a network behind a relay will get addresses but no files, for the way there doesn't lead through the workshop's card: add via= (the router's address on this network) to its --network, or `ip route add "+n.Network+" via ROUTER dev "+p.name+"`", "network", n.Network)
			continue
		}
		if via, ok := netip.AddrFromSlice(ways[0].Gw.To4()); ok {
			sites[i].Via = via
		}
	}
	return nil
}

// FindCard says which cards there are if there is none of that name.
func FindCard(name string) (netlink.Link, error) {
	if name == "" {
		return nil, fmt.Errorf("no network interface given: say --interface, one of %s", interfaces())
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("there is no network interface %q: choose one of %s", name, interfaces())
	}
	if link.Attrs().Flags&net.FlagLoopback != 0 {
		return nil, fmt.Errorf("no PC can be plugged into %q, this machine's way to itself: choose one of %s", name, interfaces())
	}
	return link, nil
}

func switchOn(name string) (netlink.Link, error) {
	link, err := FindCard(name)
	if err != nil {
		return nil, err
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("interface %s is down and can't be set up: %w", name, err)
		}
	}
	return link, nil
}

func ipNet(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}}
}

func prefix(n *net.IPNet) (netip.Prefix, error) {
	ip, ok := netip.AddrFromSlice(n.IP.To4())
	if !ok {
		return netip.Prefix{}, errors.New("the interface has no IPv4 address")
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(ip, ones), nil
}

func interfaces() string {
	links, err := net.Interfaces()
	if err != nil {
		return "(none can be listed: " + err.Error() + ")"
	}
	var names []string
	for _, l := range links {
		if l.Flags&net.FlagLoopback == 0 {
			names = append(names, l.Name)
		}
	}
	if len(names) == 0 {
		return "(this machine has none)"
	}
	return strings.Join(names, ", ")
}

// listen opens a TCP port, and says in words what to do when it is taken.
func listen(what, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s can't listen on %s: %w (stop what uses that port, or choose another)", what, addr, err)
	}
	return ln, nil
}
