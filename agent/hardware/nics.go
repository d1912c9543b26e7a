package hardware

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/safchain/ethtool"
	"golang.org/x/sys/unix"

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
		said, err := within(probeTime, func() (string, error) { return ethtool.PermAddr(name) })
		if m := mac(said); err == nil && m != "" {
			return m
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
	said, err := within(probeTime, func() (bool, error) {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return false, err
		}
		defer e.Close()
		w, err := e.GetWakeOnLan(name)
		return w.Supported&ethtool.WAKE_MAGIC != 0, err
	})
	return wakeAnswer(said, err)
}

// wakeAnswer: a driver that has no such call has no such feature.
func wakeAnswer(can bool, err error) *bool {
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return new(can && err == nil)
}

// mac brings an Ethernet address to lower case with colons and two digits each
// (the ethtool library leaves leading zeros out). Addresses that are no card's,
// all zeros or for groups, give "".
func mac(s string) string {
	parts := strings.Split(s, ":")
	if len(parts) != 6 {
		return ""
	}
	for i, p := range parts {
		if len(p) == 1 {
			parts[i] = "0" + p
		}
	}
	hw, err := net.ParseMAC(strings.Join(parts, ":"))
	if err != nil || hw[0]&1 != 0 || hw.String() == "00:00:00:00:00:00" {
		return ""
	}
	return hw.String()
}
