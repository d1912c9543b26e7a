// Package link brings the PC's network up: one cable, one address by DHCP.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	poll      = 500 * time.Millisecond
	answer    = 4 * time.Second  // per DHCP packet; slow servers probe an address before they offer it
	preferred = 60 * time.Second // how long only the card that booted is tried: a switch with STP takes up to 50 s
)

// Lease is an address on an interface, kept until Keep's ctx ends.
type Lease struct {
	Interface string
	Address   *net.IPNet
	Router    net.IP        // nil without one
	Carrier   time.Duration // from switching the card on until it had a cable
	Waited    time.Duration // from then to the address

	index int
	dhcp  *nclient4.Lease
	log   *slog.Logger
}

// What Up waits for, as it tells; else it asks for an address.
const (
	NoCard  = "no network card was found"
	NoCable = "waiting for the network cable"
)

// Ports are the sockets of the PC's network cards. The zero value is ready.
type Ports struct {
	mu        sync.Mutex
	on, cable map[int]time.Time // by card: when it was switched on, when it had its cable
}

// Raise switches cards on as they appear, until ctx ends. At both ends of a cable
// it takes seconds to agree on a speed, which may as well pass while drivers load.
func (p *Ports) Raise(ctx context.Context) {
	for {
		_, _ = p.cards() // Up tells what goes wrong
		select {
		case <-time.After(poll / 5):
		case <-ctx.Done():
			return
		}
	}
}

// Up is Ports.Up with cards that nobody has looked at.
func Up(ctx context.Context, mac net.HardwareAddr, log *slog.Logger, say func(what string)) (*Lease, error) {
	return new(Ports).Up(ctx, mac, log, say)
}

// Up waits for a cable and an address, as long as ctx lasts. mac is the card
// that the PC booted from; with nil every card is tried. say is told what it
// waits for.
func (p *Ports) Up(ctx context.Context, mac net.HardwareAddr, log *slog.Logger, say func(what string)) (*Lease, error) {
	start := time.Now()
	for {
		cards, err := p.cards()
		if err != nil {
			return nil, err
		}
		ready := ready(cards, mac, time.Since(start) < preferred)
		switch {
		case len(cards) == 0:
			say(NoCard)
		case len(ready) == 0:
			say(NoCable)
		}
		for _, l := range ready {
			say("asking for an address on " + l.Attrs().Name)
			lease, err := ask(ctx, l)
			if err == nil {
				lease.log = log
				lease.Carrier, lease.Waited = p.times(lease.index, start)
				return lease, nil
			}
			if ctx.Err() != nil {
				break
			}
			log.Warn("no address yet", "interface", l.Attrs().Name, "err", err)
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// cards lists the cards and notes the first time that each was seen on, and with a
// cable.
func (p *Ports) cards() ([]netlink.Link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all, err := cards()
	if p.on == nil {
		p.on, p.cable = map[int]time.Time{}, map[int]time.Time{}
	}
	now := time.Now()
	for _, l := range all {
		i := l.Attrs().Index
		if p.on[i].IsZero() {
			p.on[i] = now
		}
		if p.cable[i].IsZero() && l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			p.cable[i] = now
		}
	}
	return all, err
}

// times of a card: from switching it on until it had a cable, and from then, or
// from when an address was first wanted, until now.
func (p *Ports) times(index int, wanted time.Time) (carrier, waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	cable := p.cable[index]
	if wanted.Before(cable) {
		wanted = cable
	}
	return cable.Sub(p.on[index]), time.Since(wanted)
}

// cards lists wired network cards and switches them on, which is what makes
// them look for a cable. veth is what a container has for a card.
func cards() ([]netlink.Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing network cards: %w", err)
	}
	var wired []netlink.Link
	for _, l := range all {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || len(a.HardwareAddr) != 6 || l.Type() != "device" && l.Type() != "veth" {
			continue
		}
		if _, err := os.Stat("/sys/class/net/" + a.Name + "/phy80211"); err == nil {
			continue
		}
		if a.Flags&net.FlagUp == 0 {
			if err := netlink.LinkSetUp(l); err != nil {
				continue // a card whose driver fails is as good as none
			}
		}
		wired = append(wired, l)
	}
	return wired, nil
}

// ready gives the cards with a cable, the one that booted first. While only is
// set no other one is given, if that one is there at all.
func ready(cards []netlink.Link, mac net.HardwareAddr, only bool) []netlink.Link {
	booted := func(l netlink.Link) bool { return slices.Equal(l.Attrs().HardwareAddr, mac) }
	only = only && slices.ContainsFunc(cards, booted)
	var first, rest []netlink.Link
	for _, l := range cards {
		switch {
		case l.Attrs().RawFlags&unix.IFF_LOWER_UP == 0:
		case booted(l):
			first = append(first, l)
		case !only:
			rest = append(rest, l)
		}
	}
	return append(first, rest...)
}

func ask(ctx context.Context, l netlink.Link) (*Lease, error) {
	c, err := nclient4.New(l.Attrs().Name, nclient4.WithTimeout(answer), nclient4.WithRetry(2))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	got, err := c.Request(ctx)
	if err != nil {
		return nil, err
	}
	lease := &Lease{Interface: l.Attrs().Name, index: l.Attrs().Index}
	return lease, lease.take(got)
}

// take puts what the server gave onto the interface.
func (l *Lease) take(got *nclient4.Lease) error {
	ack := got.ACK
	mask := ack.SubnetMask()
	if ones, bits := mask.Size(); mask == nil || bits != 32 || ones == 0 {
		return errors.New("the DHCP server gave no netmask")
	}
	ip := ack.YourIPAddr.To4()
	if ip == nil || !ip.IsGlobalUnicast() {
		return fmt.Errorf("the DHCP server gave the address %v", ack.YourIPAddr)
	}
	address := &net.IPNet{IP: ip, Mask: mask}
	link, err := netlink.LinkByIndex(l.index)
	if err != nil {
		return err
	}
	// The old one goes first: the kernel takes all younger addresses of a network
	// along with its oldest.
	if l.Address != nil && !l.Address.IP.Equal(ip) {
		_ = netlink.AddrDel(link, &netlink.Addr{IPNet: l.Address})
	}
	// No lifetime on the address: a PC in the middle of its image is better off
	// with an address that ran out than with none.
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: address}); err != nil {
		return fmt.Errorf("setting address %v: %w", address, err)
	}
	l.Address, l.dhcp, l.Router = address, got, nil
	if r := ack.Router(); len(r) > 0 && address.Contains(r[0]) {
		l.Router = r[0]
		// The appliance is a neighbour; a route only serves workshops with two
		// networks.
		_ = netlink.RouteReplace(&netlink.Route{LinkIndex: l.index, Gw: r[0]})
	}
	return nil
}

// Keep renews the lease until ctx ends. Nothing that goes wrong with it ends
// it: the address stays, and it goes on asking.
func (l *Lease) Keep(ctx context.Context) {
	for {
		renew, length := times(l.dhcp.ACK)
		if length <= 0 {
			return // for ever
		}
		wait := renew - time.Since(l.dhcp.CreationTime)
		if wait <= 0 { // late: RFC 2131 4.4.5 says half of what is left, not below a minute
			wait = max(time.Minute, (length-time.Since(l.dhcp.CreationTime))/2)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		if err := l.renew(ctx, time.Since(l.dhcp.CreationTime) > length*7/8); err != nil && ctx.Err() == nil {
			l.log.Warn("the address was not renewed", "interface", l.Interface, "err", err)
		}
	}
}

// renew asks the server that gave the address, or any server when there is
// little time left.
func (l *Lease) renew(ctx context.Context, anybody bool) error {
	c, err := nclient4.New(l.Interface, nclient4.WithTimeout(answer), nclient4.WithRetry(2))
	if err != nil {
		return err
	}
	defer c.Close()
	got, err := c.Renew(ctx, l.dhcp)
	if err != nil && anybody {
		got, err = c.Request(ctx, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(l.Address.IP)))
	}
	if err != nil {
		return err
	}
	return l.take(got)
}

// times gives T1 and the length of a lease; length 0 means for ever.
func times(ack *dhcpv4.DHCPv4) (renew, length time.Duration) {
	length = ack.IPAddressLeaseTime(time.Hour)
	if length >= 0xffffffff*time.Second {
		return 0, 0
	}
	length = max(length, time.Minute)
	renew = ack.IPAddressRenewalTime(length / 2)
	if renew <= 0 || renew > length*7/8 {
		renew = length / 2
	}
	return renew, length
}

// ParseMAC reads a card's address from the kernel's command line: plain, or as
// pxelinux's BOOTIF=01-aa-bb-cc-dd-ee-ff. nil when it is none.
func ParseMAC(s string) net.HardwareAddr {
	s = strings.ReplaceAll(s, "-", ":")
	if len(s) == 20 && strings.HasPrefix(s, "01:") {
		s = s[3:]
	}
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return nil
	}
	return mac
}
