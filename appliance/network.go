package appliance

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
)

// ownNetwork is set on an interface that has no IPv4 address: a switch with
// nothing but donated PCs on it has nobody else to give one.
const ownNetwork = "10.77.0.1/24"

// joinNetwork finds the appliance's address on its interface, setting want (or
// ownNetwork) when it isn't there. undo takes away what was set.
func joinNetwork(name, want string) (addr netip.Prefix, undo func(), err error) {
	undo = func() {}
	if name == "" {
		return addr, undo, fmt.Errorf("no network interface given: say --interface, one of %s", interfaces())
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return addr, undo, fmt.Errorf("there is no network interface %q: choose one of %s", name, interfaces())
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return addr, undo, fmt.Errorf("interface %s is down and can't be set up: %w (run as root?)", name, err)
		}
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return addr, undo, fmt.Errorf("interface %s: %w", name, err)
	}
	if want == "" && len(have) > 0 {
		addr, err := prefix(have[0].IPNet)
		return addr, undo, err
	}
	if want == "" {
		want = ownNetwork
	}
	addr, err = netip.ParsePrefix(want)
	if err != nil || !addr.Addr().Is4() {
		return addr, undo, fmt.Errorf("address = %q: want an IPv4 address with its prefix, such as %s", want, ownNetwork)
	}
	for _, a := range have {
		if p, err := prefix(a.IPNet); err == nil && p == addr {
			return addr, undo, nil
		}
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), 32)}}
	if err := netlink.AddrAdd(link, a); err != nil {
		return addr, undo, fmt.Errorf("address %v can't be set on %s: %w (run as root?)", addr, name, err)
	}
	return addr, func() { _ = netlink.AddrDel(link, a) }, nil
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
