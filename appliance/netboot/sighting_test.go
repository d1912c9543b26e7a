package netboot

import (
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// What firmware says of itself beside what it is answered.
func TestWhoAsksAndForHowLong(t *testing.T) {
	for _, tt := range []struct {
		file      string
		via, card string
		secs      []int // of each request
	}{
		{"bios-rom", "ipxe", "pci 1af4:1000", []int{4, 11}},
		{"bios-undionly", "ipxe", "pci 1af4:1000", []int{4, 11}},
		{"uefi-x64-pxe", "pxe", "", []int{0, 0}},
		{"uefi-x64-http", "http", "", []int{0, 0}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			for i, r := range readExchange(t, "testdata/packets/"+tt.file+".txt").requests {
				m, err := dhcpv4.FromBytes(r.packet)
				must(t, err)
				_, d := Decide(Packet{DHCPv4: m, Port: r.port}, testConfig, View{Next: given, Grant: true})
				if d.Via != tt.via || d.Client.Card != tt.card || i < len(tt.secs) && d.Secs != tt.secs[i] {
					t.Errorf("request %d: via %q, card %q, %d s", i, d.Via, d.Client.Card, d.Secs)
				}
			}
		})
	}
	if got := secs(0x1c00); got != 28 {
		t.Errorf("28 s with the low byte first were read as %d", got)
	}
	if _, d := Decide(request(t, dhcpv4.MessageTypeDiscover), testConfig, View{Next: given}); d.Via != "" {
		t.Errorf("an installed system asks as %q", d.Via)
	}
	for _, b := range [][]byte{{177}, {177, 200, 1}, {177, 5, 2, 1, 2, 3, 4}, {177, 4, 1, 1, 2, 3}} {
		if got := card(b); got != "" {
			t.Errorf("the card %q was read from % x", got, b)
		}
	}
}

// The kinds of trouble that a diagnosis tells apart.
func TestProblems(t *testing.T) {
	pxe := dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient"))
	other := netip.MustParseAddr("10.77.0.9")
	theirs := dhcpv4.WithOption(dhcpv4.OptServerIdentifier(other.AsSlice()))
	wanted := dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(given.AsSlice()))
	proxy := testConfig
	proxy.Mode = Proxy
	for _, tt := range []struct {
		name    string
		p       Packet
		cfg     Config
		v       View
		problem string
		other   netip.Addr
	}{
		{"pool", request(t, dhcpv4.MessageTypeDiscover, pxe), testConfig, View{}, ProblemPool, netip.Addr{}},
		{"architecture", request(t, dhcpv4.MessageTypeDiscover, pxe, option(dhcpv4.OptionClientSystemArchitectureType, 0, 11)), testConfig, View{Next: given, Missing: noARM}, ProblemArch, netip.Addr{}},
		{"no boot file", request(t, dhcpv4.MessageTypeDiscover, pxe), testConfig, View{Next: given, Missing: map[string]bool{"undionly.kpxe": true}}, ProblemFile, netip.Addr{}},
		{"declined", request(t, dhcpv4.MessageTypeDecline, wanted), testConfig, View{Held: given}, ProblemTaken, netip.Addr{}},
		{"another server", request(t, dhcpv4.MessageTypeRequest, pxe, theirs, wanted), testConfig, View{}, "", other},
		{"another server, proxy", request(t, dhcpv4.MessageTypeRequest, pxe, theirs, wanted), proxy, View{}, "", other},
		{"all is well", request(t, dhcpv4.MessageTypeDiscover, pxe), testConfig, View{Next: given}, "", netip.Addr{}},
	} {
		if _, d := Decide(tt.p, tt.cfg, tt.v); d.Problem != tt.problem || d.Other != tt.other || (d.Err == "") != (tt.problem == "") {
			t.Errorf("%s: %q, %v, %s", tt.name, d.Problem, d.Other, d.Err)
		}
	}
}
