package netboot

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// How firmware chooses among what it hears, told anew in a few lines from each
// one's source or standard: no firmware of those ages can be run here. Every
// reply goes through all that it may meet.

// hearing is what one PC hears on one network.
type hearing struct {
	offers []*dhcpv4.DHCPv4      // in order
	ack    *dhcpv4.DHCPv4        // of the server that leased it the address
	ask    func() *dhcpv4.DHCPv4 // asks us on port 4011
}

// choice is what a firmware loads.
type choice struct {
	file string
	from netip.Addr
}

// fileOf is the boot file: option 67 before the field, as in all of EDK2.
func fileOf(m *dhcpv4.DHCPv4) string {
	if f := m.Options.Get(dhcpv4.OptionBootfileName); f != nil {
		return strings.TrimRight(string(f), "\x00")
	}
	return m.BootFileName
}

// serverOf is where it lies: siaddr, else option 54.
func serverOf(m *dhcpv4.DHCPv4) netip.Addr {
	if a, ok := addr(m.ServerIPAddr); ok {
		return a
	}
	a, _ := addr(m.ServerIdentifier())
	return a
}

func from(m *dhcpv4.DHCPv4) (choice, error) {
	c := choice{fileOf(m), serverOf(m)}
	if c.file == "" || !c.from.IsValid() {
		return c, errors.New("no boot file, or no server")
	}
	return c, nil
}

func isProxy(m *dhcpv4.DHCPv4) bool {
	_, ok := addr(m.YourIPAddr)
	return !ok
}

func hasClass(m *dhcpv4.DHCPv4, class string) bool {
	return bytes.HasPrefix(m.Options.Get(dhcpv4.OptionClassIdentifier), []byte(class))
}

// pxeOptions are the sub-options of 43, which only count beside PXEClient.
func pxeOptions(m *dhcpv4.DHCPv4) dhcpv4.Options {
	o := dhcpv4.Options{}
	if v := m.Options.Get(dhcpv4.OptionVendorSpecificInformation); v != nil && hasClass(m, pxeClass) {
		_ = o.FromBytes(v) // an option without an end is no error to firmware either
	}
	return o
}

// discovers: a packet with anything that PXE's boot server discovery goes by
// (sub-options 6 to 10), "PXE 1.0" to EDK2.
func discovers(m *dhcpv4.DHCPv4) bool {
	o := pxeOptions(m)
	for code := uint8(6); code <= 10; code++ {
		if o.Has(dhcpv4.GenericOptionCode(code)) {
			return true
		}
	}
	return false
}

func skipsMenu(m *dhcpv4.DHCPv4) bool {
	v := pxeOptions(m)[6]
	return len(v) == 1 && v[0]&8 != 0
}

// edk2 is one age of UEFI's PXE client.
type edk2 struct {
	name         string
	skips        bool // knows bit 3 of the discovery control (30a95d4d39, May 2013)
	dropsProxy   bool // drops every PXE 1.0 offer without an address (until 8cdd559be6, April 2017)
	leaseNoMenus bool // looks for a menu only in offers without an address (until 9063c328df, August 2012)
}

// All six: MdeModulePkg's driver (2008 to 2018, IPv4 only) and NetworkPkg's,
// from their histories.
var edk2Ages = []edk2{
	{name: "MdeModulePkg until May 2013"},
	{name: "MdeModulePkg until December 2018", skips: true},
	{name: "NetworkPkg until August 2012", dropsProxy: true, leaseNoMenus: true},
	{name: "NetworkPkg until May 2013", dropsProxy: true},
	{name: "NetworkPkg until April 2017", dropsProxy: true, skips: true},
	{name: "NetworkPkg since", skips: true},
}

// boots follows PxeBcSelectDhcp4Offer, PxeBcHandleDhcp4Offer and
// PxeBcDiscoverBootFile (NetworkPkg/UefiPxeBcDxe).
func (e edk2) boots(h hearing) (choice, error) {
	var leases, plain, binl, proxies10, proxiesBinl []*dhcpv4.DHCPv4
	sawProxy := false
	for _, o := range h.offers {
		switch {
		case isProxy(o) && discovers(o):
			sawProxy = true
			if !e.dropsProxy {
				proxies10 = append(proxies10, o)
			}
		case isProxy(o) && hasClass(o, pxeClass):
			sawProxy = true
			proxiesBinl = append(proxiesBinl, o)
		case isProxy(o):
			sawProxy = true // DHCP alone, without an address: not kept
		case discovers(o):
			leases = append(leases, o)
		case hasClass(o, pxeClass):
			binl = append(binl, o)
		default:
			plain = append(plain, o)
		}
	}
	// chosen is what the boot file is read from; nil: the ACK.
	var chosen *dhcpv4.DHCPv4
	ask := func() error {
		chosen = h.ask()
		if chosen == nil {
			return errors.New("PXE-E16: port 4011 doesn't answer")
		}
		if fileOf(chosen) == "" && !discovers(chosen) {
			return errors.New("port 4011 names no file")
		}
		return nil
	}
	var err error
	switch named := slices.IndexFunc(plain, func(m *dhcpv4.DHCPv4) bool { return fileOf(m) != "" }); {
	case len(leases) > 0:
	case len(plain) > 0 && len(proxies10) > 0:
		chosen = proxies10[0]
	case len(binl) > 0:
		err = ask()
	case len(plain) > 0 && len(proxiesBinl) > 0:
		err = ask()
	case named < 0:
		err = errors.New("PXE-E16: no offer to boot from")
	case sawProxy:
		err = errors.New("another's offer without an address is in the way")
	}
	if err != nil {
		return choice{}, err
	}
	menu := true
	if chosen == nil {
		chosen, menu = h.ack, !e.leaseNoMenus
	}
	// A packet with discovery, no menu in it and no bit 3: local boot.
	if menu && discovers(chosen) && !(e.skips && skipsMenu(chosen) && fileOf(chosen) != "") {
		return choice{}, errors.New("no menu: it starts from the disk")
	}
	return from(chosen)
}

// shim reads the server from the ACK when that names a file, else from the
// offer or answer without an address (shim's netboot.c, parseDhcp4).
func shim(h hearing, loaded choice) error {
	if h.ack.BootFileName == "" {
		return nil // EDK2 gives shim the packet that it chose
	}
	if c, err := from(h.ack); err != nil || c.from != loaded.from {
		return fmt.Errorf("shim would go on at %v: %w", c.from, err)
	}
	return nil
}

// biosROM is PXE 2.1, §2.2 and table 2-1: only offers of the class count; with
// bit 3 of the discovery control the file in it is loaded, without a file it is
// PXE-E21 (seen); without option 43 the server is asked on port 4011.
func biosROM(h hearing) (choice, error) {
	for _, o := range h.offers {
		switch {
		case !hasClass(o, pxeClass):
		case skipsMenu(o) && fileOf(o) == "":
			return choice{}, errors.New("PXE-E21")
		case skipsMenu(o) && isProxy(o):
			return from(o)
		case skipsMenu(o):
			return from(h.ack)
		default:
			if m := h.ask(); m != nil {
				return from(m)
			}
			return choice{}, errors.New("PXE-E55: port 4011 doesn't answer")
		}
	}
	return choice{}, errors.New("PXE-E53: no offer of the class PXEClient")
}

// ipxe is iPXE's src/net/udp/dhcp.c: any packet of the class is its proxy
// offer; one with siaddr and a file is used as it is, another asks port 4011.
func ipxe(h hearing) (choice, error) {
	for _, o := range h.offers {
		switch {
		case !hasClass(o, pxeClass):
		case o.BootFileName != "" && !o.ServerIPAddr.IsUnspecified():
			return from(o)
		default:
			if m := h.ask(); m != nil {
				return from(m)
			}
		}
	}
	return from(h.ack)
}

// httpBoot is EDK2's NetworkPkg/HttpBootDxe/HttpBootDhcp4.c with a URL that
// names an address: a lease of the class, else a plain lease and an offer of
// the class without an address. An offer of another kind without an address, and
// one of the class without a file, is not kept.
func httpBoot(h hearing) (choice, error) {
	var plain bool
	var proxy *dhcpv4.DHCPv4
	for _, o := range h.offers {
		ours := hasClass(o, httpClass) && strings.HasPrefix(fileOf(o), "http://")
		switch {
		case ours && !isProxy(o):
			return from(h.ack)
		case ours && proxy == nil:
			proxy = o
		case !isProxy(o):
			plain = true
		}
	}
	if !plain || proxy == nil {
		return choice{}, errors.New("no offer of the class HTTPClient")
	}
	return from(proxy)
}

// routers are what stands in the network besides.
var routers = map[string]func(*dhcpv4.DHCPv4){
	"a plain router": func(*dhcpv4.DHCPv4) {},
	"a router that names itself as next server": func(m *dhcpv4.DHCPv4) {
		m.ServerIPAddr = []byte{10, 77, 0, 2}
	},
}

// hears lets a PC that sends this request hear all there is in a mode.
func hears(t *testing.T, q *dhcpv4.DHCPv4, mode Mode, router func(*dhcpv4.DHCPv4)) (h hearing, replies []*dhcpv4.DHCPv4) {
	t.Helper()
	cfg := testConfig
	cfg.Mode = mode
	view := View{Next: given, Grant: true, Missing: noARM}
	keep := func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		if m == nil {
			return nil
		}
		back, err := dhcpv4.FromBytes(m.ToBytes())
		must(t, err)
		replies = append(replies, back)
		return back
	}
	send := func(kind dhcpv4.MessageType, port int, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		p, err := dhcpv4.FromBytes(q.ToBytes())
		must(t, err)
		p.UpdateOption(dhcpv4.OptMessageType(kind))
		for _, mod := range mods {
			mod(p)
		}
		m, _ := Decide(Packet{DHCPv4: p, Port: port, Peer: netip.AddrPortFrom(given, 4011)}, cfg, view)
		return keep(m)
	}
	if mode == Proxy {
		lease := func(kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
			m := answer(q, Config{IP: netip.MustParseAddr("10.77.0.2")}, kind)
			m.YourIPAddr = given.AsSlice()
			router(m)
			return m
		}
		h.offers, h.ack = append(h.offers, lease(dhcpv4.MessageTypeOffer)), lease(dhcpv4.MessageTypeAck)
	}
	if o := send(dhcpv4.MessageTypeDiscover, dhcpPort); o != nil {
		h.offers = append(h.offers, o)
	}
	wants := []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(given.AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(serverThat(mode).AsSlice())),
	}
	if a := send(dhcpv4.MessageTypeRequest, dhcpPort, wants...); a != nil {
		h.ack = a
	}
	h.ask = func() *dhcpv4.DHCPv4 {
		return send(dhcpv4.MessageTypeRequest, proxyPort, dhcpv4.WithClientIP(given.AsSlice()))
	}
	return h, replies
}

// serverThat leases the address.
func serverThat(mode Mode) netip.Addr {
	if mode == Proxy {
		return netip.MustParseAddr("10.77.0.2")
	}
	return ours
}

// oracles are the firmware that a request may come from.
func oracles(q *dhcpv4.DHCPv4, c Client) map[string]func(hearing) (choice, error) {
	all := map[string]func(hearing) (choice, error){}
	switch {
	case c.IPXE:
		all["iPXE"] = ipxe
	case hasUserClass(q, "PXE"): // gPXE, or an iPXE without HTTP
		all["iPXE"], all["BIOS"] = ipxe, biosROM
	case c.HTTPBoot:
		all["EDK2's HTTP Boot"] = httpBoot
	case c.Arch == 0:
		all["BIOS"] = biosROM
	default:
		for _, e := range edk2Ages {
			all["EDK2, "+e.name] = func(h hearing) (choice, error) {
				loaded, err := e.boots(h)
				if err == nil && strings.HasPrefix(loaded.file, "shim") {
					err = shim(h, loaded)
				}
				return loaded, err
			}
		}
	}
	return all
}

// Every request, in every mode, leads every firmware that it may come from to
// the one file, on us.
func TestEveryFirmwareChoosesUs(t *testing.T) {
	for _, x := range readExchanges(t) {
		if strings.Contains(x.flags, "plain") {
			continue // our own iPXE, taken for a ROM
		}
		q := x.requests[0].parse(t).DHCPv4
		c := identify(q)
		for _, mode := range []Mode{Full, Proxy} {
			for router, change := range routers {
				h, _ := hears(t, q, mode, change)
				for firmware, oracle := range oracles(q, c) {
					got, err := oracle(h)
					want := choice{x.boots, ours}
					if why, no := strings.CutPrefix(x.boots, "nothing "); no {
						if err == nil || got.from == ours && got.file != "" {
							t.Errorf("%s, %v: %s loads %v, which %s", x.name, mode, firmware, got, why)
						}
						continue
					}
					if err != nil || got != want {
						t.Errorf("%s, %v, %s: %s loads %v (%v), want %v", x.name, mode, router, firmware, got, err, want)
					}
				}
			}
		}
	}
}

// The oracles themselves: what was seen to fail, and what the field tells of,
// fails in them too.
func TestOracles(t *testing.T) {
	q := readExchange(t, "testdata/packets/built-uefi-x64-2008.txt").requests[0].parse(t).DHCPv4
	offer := func(address bool, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
		m := answer(q, testConfig, dhcpv4.MessageTypeOffer)
		m.ServerIPAddr = ours.AsSlice()
		m.BootFileName = "x.efi"
		if address {
			m.YourIPAddr = given.AsSlice()
		}
		for _, o := range options {
			m.UpdateOption(o)
		}
		return m
	}
	class, control := dhcpv4.OptClassIdentifier(pxeClass), dhcpv4.OptGeneric(o43, discoveryControl)
	router := answer(q, Config{IP: netip.MustParseAddr("10.77.0.2")}, dhcpv4.MessageTypeOffer)
	router.YourIPAddr = given.AsSlice()
	noFile := offer(false, class, control)
	noFile.BootFileName = ""
	silent := func() *dhcpv4.DHCPv4 { return nil }
	beside := func(m *dhcpv4.DHCPv4) hearing {
		return hearing{offers: []*dhcpv4.DHCPv4{router, m}, ack: router, ask: silent}
	}
	alone := func(m *dhcpv4.DHCPv4) hearing { return hearing{offers: []*dhcpv4.DHCPv4{m}, ack: m, ask: silent} }
	ages := func(yes ...bool) (m map[string]bool) {
		m = map[string]bool{}
		for i, e := range edk2Ages {
			m[e.name] = yes[i]
		}
		return m
	}
	for _, tt := range []struct {
		name string
		h    hearing
		want map[string]bool
	}{
		// edk2#6944: only newer ones boot from it; MdeModulePkg's menus came earlier.
		{"discovery control beside a router", beside(offer(false, class, control)), ages(false, true, false, false, false, true)},
		{"discovery control with a lease", alone(offer(true, class, control)), ages(false, true, true, false, true, true)},
		{"the class alone and nobody on port 4011", alone(offer(true, class)), ages(false, false, false, false, false, false)},
		{"the class alone beside a router, nobody on port 4011", beside(offer(false, class)), ages(false, false, false, false, false, false)},
		{"a lease with a file", alone(offer(true)), ages(true, true, true, true, true, true)},
		{"discovery control without a file", beside(noFile), ages(false, false, false, false, false, false)},
		{"nothing but an address", alone(router), ages(false, false, false, false, false, false)},
	} {
		for _, e := range edk2Ages {
			if _, err := e.boots(tt.h); (err == nil) != tt.want[e.name] {
				t.Errorf("%s: EDK2, %s: %v", tt.name, e.name, err)
			}
		}
	}
	for name, h := range map[string]hearing{
		"BIOS, no class":                  alone(offer(true)),
		"BIOS, no option 43, nobody asks": beside(offer(false, class)),
		"BIOS, no file":                   beside(noFile),
	} {
		if got, err := biosROM(h); err == nil {
			t.Errorf("%s: loads %v", name, got)
		}
	}
	if got, err := httpBoot(beside(offer(false, class))); err == nil {
		t.Errorf("HTTP Boot, PXE's class: loads %v", got)
	}
}
