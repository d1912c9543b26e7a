package hardware

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"refurb/agent/link"
	"refurb/agent/wire"
)

const (
	maxNICs       = 32
	arphrdEther   = 1       // linux/if_arp.h; Wi-Fi counts as Ethernet here
	addrPermanent = 0       // NET_ADDR_PERM of linux/netdevice.h: the address is the one burnt in
	maxMbit       = 1000000 // faster is a driver's way to say that it doesn't know
)

// readNICs lists the network cards that have a device behind them.
func readNICs(t tree) ([]wire.NIC, []string) {
	const dir = "sys/class/net"
	var nics []wire.NIC
	for _, name := range t.names(dir) {
		if !t.exists(dir, name, "device") {
			continue // lo, bridges, tunnels
		}
		if kind, ok := t.number(dir, name, "type"); ok && kind != arphrdEther {
			continue
		}
		if len(nics) == maxNICs {
			return nics, []string{fmt.Sprintf("network: more than %d cards, the rest is not listed", maxNICs)}
		}
		n := wire.NIC{
			Name:   clean(name),
			MAC:    mac(t.text(dir, name, "address")),
			Driver: t.link(dir, name, "device/driver"),
			Bus:    t.link(dir, name, "device/subsystem"),
			Link:   flag(t, dir, name, "carrier"), // unreadable while the card is down
		}
		n.Permanent = permanent(t, filepath.Join(dir, name), name)
		n.Wake = wakes(t, name)
		if v, ok := t.number(dir, name, "speed"); ok && v > 0 && v <= maxMbit {
			n.Mbit = int(v)
		}
		nics = append(nics, n)
	}
	return nics, nil
}

// permanent is the address burnt into the card. The driver is asked only on the
// PC itself: names in another tree are not this kernel's.
func permanent(t tree, dir, name string) string {
	if t == "/" {
		card, err := within(probeTime, func() (netlink.Link, error) { return netlink.LinkByName(name) })
		if err == nil {
			if m := mac(card.Attrs().PermHWAddr.String()); m != "" {
				return m
			}
		}
	}
	if kind, ok := t.number(dir, "addr_assign_type"); ok && kind == addrPermanent {
		return mac(t.text(dir, "address"))
	}
	return ""
}

// wakes says whether a magic packet may switch the PC on by a card, as far as the
// driver knows: what the mainboard does with it is known to nobody. nil: it can't
// be asked.
func wakes(t tree, name string) *bool {
	if t != "/" {
		return nil
	}
	said, err := within(probeTime, func() (bool, error) { return link.Wakes(name) })
	return wakeAnswer(said, err)
}

// wakeAnswer: a driver that has no such call has no such feature.
func wakeAnswer(can bool, err error) *bool {
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return new(can && err == nil)
}

// mac brings an Ethernet address to lower case with colons. Addresses that are no
// card's, all zeros or for groups, give "".
func mac(s string) string {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 || hw.String() == "00:00:00:00:00:00" {
		return ""
	}
	return hw.String()
}
