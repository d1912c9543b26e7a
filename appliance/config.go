// Package appliance is the server in the workshop: it answers the network boot
// of donated PCs, tells their agents what to do and keeps the records.
package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"refurb/appliance/netboot"
)

// Config of the appliance. A file in TOML holds it under the same names as the
// command line's flags; a flag wins over the file.
type Config struct {
	Interface string        `toml:"interface"`  // the workshop's network: "enp3s0"
	Address   string        `toml:"address"`    // IPv4 with prefix; empty: what the interface has, else one from the network's DHCP server, else 10.77.0.1/24 is set on it
	DHCP      string        `toml:"dhcp"`       // "auto", or fixed: "full" or "proxy"
	Pool      string        `toml:"pool"`       // "10.77.0.100-10.77.0.250"; empty: the upper half of the network
	Router    string        `toml:"router"`     // given to PCs, full mode only; empty: none
	DNS       []string      `toml:"dns"`        // likewise
	Networks  []Network     `toml:"networks"`   // further ones, behind relay agents
	Data      string        `toml:"data"`       // folder of records, keys, images and boot files
	HTTP      int           `toml:"http"`       // port of boot files and images
	Agents    int           `toml:"agents"`     // port of the agents' API, TLS
	Dashboard string        `toml:"dashboard"`  // address of the dashboard
	LostAfter time.Duration `toml:"lost_after"` // silence after which a PC counts as lost
	Streams   int           `toml:"streams"`    // connections of one PC to the appliance; 0: one
	Peers     bool          `toml:"peers"`      // PCs pass images on to each other

	// TestPlainROM treats QEMU's BIOS ROM, which is iPXE, as a vendor's. Tests only.
	TestPlainROM bool `toml:"-"`
}

// Network is one behind a relay agent, whose PCs are served too. What isn't known
// of it is left empty.
type Network struct {
	Network string   `toml:"network"` // "10.88.0.0/24"
	Pool    string   `toml:"pool"`    // empty: its upper half
	Router  string   `toml:"router"`  // given to PCs; empty: the relay
	DNS     []string `toml:"dns"`     // likewise; empty: what holds for the workshop's own
	Via     string   `toml:"via"`     // the router on our network that leads there; empty: the machine knows the way
}

// ParseNetwork reads a network as the command line has it: its prefix, and after
// commas pool=, router=, dns= (repeated) and via=.
func ParseNetwork(s string) (n Network, err error) {
	parts := strings.Split(s, ",")
	n.Network = strings.TrimSpace(parts[0])
	for _, p := range parts[1:] {
		key, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		switch key {
		case "pool":
			n.Pool = value
		case "router":
			n.Router = value
		case "dns":
			n.DNS = append(n.DNS, value)
		case "via":
			n.Via = value
		default:
			return n, fmt.Errorf("network %q: %q is none of pool=FROM-TO, router=ADDRESS, dns=ADDRESS, via=ADDRESS", s, p)
		}
	}
	_, err = n.site(nil)
	return n, err
}

// site reads n for the boot service; dns is for where it says nothing.
func (n Network) site(dns []netip.Addr) (site netboot.Network, err error) {
	site.Net, err = netip.ParsePrefix(n.Network)
	if err != nil || !site.Net.Addr().Is4() || site.Net != site.Net.Masked() {
		return site, fmt.Errorf("network = %q: want the network behind a relay, such as 10.88.0.0/24", n.Network)
	}
	if site.PoolFrom, site.PoolTo, err = pool(n.Pool, site.Net); err != nil {
		return site, err
	}
	if n.Router != "" {
		if site.Router, err = netip.ParseAddr(n.Router); err != nil || !site.Net.Contains(site.Router) {
			return site, fmt.Errorf("router = %q: want an address inside %v", n.Router, site.Net)
		}
	}
	if n.Via != "" {
		if via, err := netip.ParseAddr(n.Via); err != nil || !via.Is4() {
			return site, fmt.Errorf("via = %q: want the router's address on the workshop's own network", n.Via)
		}
	}
	for _, d := range n.DNS {
		a, err := netip.ParseAddr(d)
		if err != nil || !a.Is4() {
			return site, fmt.Errorf("dns: %q is no IPv4 address", d)
		}
		site.DNS = append(site.DNS, a)
	}
	if n.DNS == nil {
		site.DNS = dns
	}
	return site, nil
}

// DefaultConfig is what holds where neither file nor flag says anything.
func DefaultConfig() Config {
	return Config{
		DHCP:      "auto",
		Data:      "/var/lib/refurb",
		HTTP:      8080,
		Agents:    8443,
		Dashboard: ":8000",
		LostAfter: time.Minute,
		Peers:     true,
	}
}

// ReadConfig lays the file over c. A key that it doesn't know is an error: a
// typing slip must not quietly leave a default in force.
func ReadConfig(c *Config, path string) error {
	md, err := toml.DecodeFile(path, c)
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return fmt.Errorf("%s, line %d: %s", path, pe.Position.Line, pe.Message)
		}
		return fmt.Errorf("configuration: %w", err)
	}
	for _, k := range md.Undecoded() {
		known := "interface, address, dhcp, pool, router, dns, networks, data, http, agents, dashboard, lost_after, streams, peers"
		return fmt.Errorf("%s: unknown key %q (known: %s)", path, k, known)
	}
	return nil
}

// Check finds what is wrong with c before anything is opened.
func (c *Config) Check() error {
	if _, ok := modes[c.DHCP]; !ok {
		return fmt.Errorf("dhcp = %q: say \"auto\" (as the network is), or fix it: \"full\" (no other DHCP server on this network) or \"proxy\" (beside a router)", c.DHCP)
	}
	for name, port := range map[string]int{"http": c.HTTP, "agents": c.Agents} {
		if port < 1 || port > 65535 {
			return fmt.Errorf("%s = %d: a port is a number from 1 to 65535", name, port)
		}
	}
	if c.HTTP == c.Agents {
		return fmt.Errorf("http and agents both want port %d: give them two", c.HTTP)
	}
	if c.LostAfter < 10*time.Second {
		return fmt.Errorf("lost_after = %v: at least 10s, or a busy PC counts as lost", c.LostAfter)
	}
	if c.Streams < 0 || c.Streams > 16 {
		return fmt.Errorf("streams = %d: 0 (one) to 16", c.Streams)
	}
	for _, d := range c.DNS {
		if a, err := netip.ParseAddr(d); err != nil || !a.Is4() {
			return fmt.Errorf("dns: %q is no IPv4 address", d)
		}
	}
	for _, n := range c.Networks {
		if _, err := n.site(nil); err != nil {
			return err
		}
	}
	return nil
}

var modes = map[string]netboot.Mode{"auto": netboot.Auto, "full": netboot.Full, "proxy": netboot.Proxy}

// network is what the appliance gives out, on the network that addr lies in.
type network struct {
	addr     netip.Prefix // the appliance's own
	lent     bool         // by another DHCP server
	from, to netip.Addr   // the pool, unless proxy is fixed or addr is lent
	router   netip.Addr   // none: not valid
	dns      []netip.Addr
	further  []netboot.Network
}

func (c *Config) network(addr netip.Prefix, lent bool) (network, error) {
	n := network{addr: addr, lent: lent}
	var err error
	if c.Router != "" {
		if n.router, err = netip.ParseAddr(c.Router); err != nil || !addr.Contains(n.router) {
			return n, fmt.Errorf("router = %q: want an address inside %v", c.Router, addr.Masked())
		}
	}
	for _, d := range c.DNS {
		n.dns = append(n.dns, netip.MustParseAddr(d)) // Check has parsed them
	}
	for _, further := range c.Networks {
		site, err := further.site(n.dns)
		if err != nil {
			return n, err
		}
		if site.Net.Overlaps(addr.Masked()) {
			return n, fmt.Errorf("network = %q overlaps the appliance's own network %v, which needs no relay", further.Network, addr.Masked())
		}
		n.further = append(n.further, site)
	}
	if c.DHCP != "proxy" && !lent {
		n.from, n.to, err = pool(c.Pool, addr)
	}
	return n, err
}

// pool reads "FROM-TO" or takes the upper half of the network, without its
// broadcast address and the appliance itself.
func pool(s string, addr netip.Prefix) (from, to netip.Addr, err error) {
	if !addr.Addr().Is4() || addr.Bits() > 29 {
		return from, to, fmt.Errorf("the network %v is too small to hand out addresses: give an IPv4 network of /29 or larger", addr.Masked())
	}
	if s == "" {
		base := addr.Masked().Addr().As4()
		first := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3])
		size := uint32(1) << (32 - addr.Bits())
		return ip4(first + size/2), ip4(first + size - 2), nil
	}
	a, b, ok := strings.Cut(s, "-")
	from, e1 := netip.ParseAddr(strings.TrimSpace(a))
	to, e2 := netip.ParseAddr(strings.TrimSpace(b))
	if !ok || e1 != nil || e2 != nil {
		return from, to, fmt.Errorf("pool = %q: want FROM-TO, such as 10.77.0.100-10.77.0.250", s)
	}
	if !addr.Contains(from) || !addr.Contains(to) || to.Less(from) {
		return from, to, fmt.Errorf("pool = %q: both ends must lie inside %v, the lower one first", s, addr.Masked())
	}
	return from, to, nil
}

func ip4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// makeData makes the data folder and those in it, closed to other users.
func makeData(dir string) error {
	for _, d := range []string{"", "keys", "images", "payload", "cache"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			if errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("data folder: %w (another one is given with --data)", err)
			}
			return fmt.Errorf("data folder: %w", err)
		}
	}
	return nil
}
