package netboot

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

var testConfig = Config{
	Interface: "eth0", IP: ours, Net: ourNet, Lease: 3600e9, HTTPPort: 8080,
	PoolFrom: netip.MustParseAddr("10.77.0.100"), PoolTo: netip.MustParseAddr("10.77.0.120"),
}

var given = netip.MustParseAddr("10.77.0.100")

func request(t testing.TB, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) Packet {
	t.Helper()
	hw, err := net.ParseMAC(mac1)
	must(t, err)
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(kind)}, mods...)...)
	must(t, err)
	p := Packet{DHCPv4: m, Port: dhcpPort, Peer: netip.MustParseAddrPort("0.0.0.0:68")}
	if relay, ok := addr(m.GatewayIPAddr); ok {
		p.Peer = netip.AddrPortFrom(relay, dhcpPort)
	}
	return p
}

func option(code dhcpv4.OptionCode, value ...byte) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(code, value))
}

func TestBootFilePerFirmware(t *testing.T) {
	const base = "http://10.77.0.1:8080/boot/"
	arch := func(n byte) dhcpv4.Modifier { return option(dhcpv4.OptionClientSystemArchitectureType, 0, n) }
	class := func(s string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptClassIdentifier(s)) }
	ipxe := option(dhcpv4.OptionUserClassInformation, []byte("iPXE")...)
	tests := []struct {
		name string
		mods []dhcpv4.Modifier
		want string
		err  string
	}{
		{"BIOS", []dhcpv4.Modifier{class("PXEClient:Arch:00000:UNDI:002001"), arch(0)}, "undionly.kpxe", ""},
		{"BIOS older than option 93", []dhcpv4.Modifier{class("PXEClient")}, "undionly.kpxe", ""},
		{"architecture in option 60 only", []dhcpv4.Modifier{class("PXEClient:Arch:00007:UNDI:003016")}, "shimx64.efi", ""},
		{"two architectures, the first counts", []dhcpv4.Modifier{class("PXEClient"), option(dhcpv4.OptionClientSystemArchitectureType, 0, 7, 0, 0)}, "shimx64.efi", ""},
		{"UEFI x64", []dhcpv4.Modifier{class("PXEClient:Arch:00007:UNDI:003000"), arch(7)}, "shimx64.efi", ""},
		{"UEFI x64 by its other number", []dhcpv4.Modifier{class("PXEClient"), arch(9)}, "shimx64.efi", ""},
		{"UEFI IA32", []dhcpv4.Modifier{class("PXEClient"), arch(6)}, "grubia32.efi", ""},
		{"UEFI x64 HTTP", []dhcpv4.Modifier{class("HTTPClient:Arch:00016:UNDI:003001"), arch(16)}, base + "shimx64.efi", ""},
		{"UEFI IA32 HTTP", []dhcpv4.Modifier{class("HTTPClient"), arch(15)}, base + "grubia32.efi", ""},
		{"iPXE, BIOS", []dhcpv4.Modifier{class("PXEClient:Arch:00000:UNDI:002001"), arch(0), ipxe}, base + "ipxe/52-54-00-00-00-01", ""},
		{"iPXE, UEFI", []dhcpv4.Modifier{class("PXEClient"), arch(7), ipxe}, base + "ipxe/52-54-00-00-00-01", ""},
		{"iPXE without a class", []dhcpv4.Modifier{ipxe}, base + "ipxe/52-54-00-00-00-01", ""},
		{"iPXE as RFC 3004 has it", []dhcpv4.Modifier{class("PXEClient"), arch(0), option(dhcpv4.OptionUserClassInformation, []byte("\x04iPXE")...)}, base + "ipxe/52-54-00-00-00-01", ""},
		{"ARM64", []dhcpv4.Modifier{class("PXEClient"), arch(11)}, "", "no boot file for UEFI arm64: only PCs with x86"},
		{"ARM64 by HTTP", []dhcpv4.Modifier{class("HTTPClient"), arch(19)}, "", "no boot file for UEFI arm64"},
		{"32-bit ARM", []dhcpv4.Modifier{class("PXEClient"), arch(10)}, "", "no boot file for this kind of firmware (EFI ARM32"},
		{"Itanium", []dhcpv4.Modifier{class("PXEClient"), arch(2)}, "", "no boot file for this kind of firmware (EFI Itanium"},
		{"BIOS by HTTP", []dhcpv4.Modifier{class("HTTPClient"), arch(20)}, "", "no boot file"},
		{"an installed system", nil, "", ""},
		{"Windows", []dhcpv4.Modifier{class("MSFT 5.0")}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest} {
				mods := append([]dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(given.AsSlice()))}, tt.mods...)
				r, d := Decide(request(t, kind, mods...), testConfig, View{Next: given, Grant: true, Missing: noARM})
				if r == nil {
					t.Fatalf("%v: no reply: %+v", kind, d)
				}
				if r.BootFileName != tt.want || d.File != tt.want {
					t.Errorf("%v: file %q (told: %q), want %q", kind, r.BootFileName, d.File, tt.want)
				}
				if !strings.HasPrefix(d.Err, tt.err) || tt.err == "" && d.Err != "" {
					t.Errorf("%v: error %q, want %q", kind, d.Err, tt.err)
				}
				if r.Options.Has(dhcpv4.OptionVendorSpecificInformation) && tt.want == "" {
					t.Errorf("%v: option 43 is there; without a file it ends in PXE-E21", kind)
				}
				url := strings.HasPrefix(tt.want, "http") && strings.HasPrefix(r.ClassIdentifier(), "HTTP")
				if got := r.BootFileNameOption(); (got != "") != url {
					t.Errorf("%v: option 67 is %q", kind, got)
				}
			}
		})
	}
}

func TestDecideFull(t *testing.T) {
	other := netip.MustParseAddr("10.77.0.2")
	wants := func(s string) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(s)))
	}
	server := func(a netip.Addr) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(a.AsSlice()))
	}
	from := func(s string) dhcpv4.Modifier { return dhcpv4.WithClientIP(net.ParseIP(s)) }
	held := View{Held: given, Next: given, Grant: true}
	tests := []struct {
		name  string
		p     Packet
		v     View
		reply string
		act   Act
		to    string
		err   string
	}{
		{"discover", request(t, dhcpv4.MessageTypeDiscover), View{Next: given}, "offer", Offer, "255.255.255.255:68", ""},
		{"discover, pool full", request(t, dhcpv4.MessageTypeDiscover), View{}, "", Nothing, "", "address pool is full"},
		{"request, our offer", request(t, dhcpv4.MessageTypeRequest, wants("10.77.0.100"), server(ours)), held, "ack", Bind, "255.255.255.255:68", ""},
		{"request, another's offer", request(t, dhcpv4.MessageTypeRequest, wants("10.77.0.100"), server(other)), held, "", Release, "", ""},
		{"discover that names another server", request(t, dhcpv4.MessageTypeDiscover, server(other)), held, "", Nothing, "", ""},
		{"request after a restart of the PC", request(t, dhcpv4.MessageTypeRequest, wants("10.77.0.100")), held, "ack", Bind, "255.255.255.255:68", ""},
		{"request of another network's address", request(t, dhcpv4.MessageTypeRequest, wants("192.168.1.7")), View{}, "nak", Nothing, "255.255.255.255:68", ""},
		{"request of somebody else's address", request(t, dhcpv4.MessageTypeRequest, wants("10.77.0.100")), View{}, "nak", Nothing, "255.255.255.255:68", ""},
		{"request of nothing", request(t, dhcpv4.MessageTypeRequest), held, "", Nothing, "", ""},
		{"renewal", request(t, dhcpv4.MessageTypeRequest, from("10.77.0.100")), held, "ack", Bind, "10.77.0.100:68", ""},
		{"renewal of somebody else's address", request(t, dhcpv4.MessageTypeRequest, from("10.77.0.100")), View{}, "nak", Nothing, "255.255.255.255:68", ""},
		{"decline", request(t, dhcpv4.MessageTypeDecline, wants("10.77.0.100"), server(ours)), held, "", Quarantine, "", "10.77.0.100 is in use by something else on this network: it is set aside"},
		{"decline of what it was never given", request(t, dhcpv4.MessageTypeDecline, wants("10.77.0.105"), server(ours)), held, "", Nothing, "", ""},
		{"release", request(t, dhcpv4.MessageTypeRelease, from("10.77.0.100"), server(ours)), held, "", Release, "", ""},
		{"release of somebody else's address", request(t, dhcpv4.MessageTypeRelease, from("10.77.0.101"), server(ours)), held, "", Nothing, "", ""},
		{"inform", request(t, dhcpv4.MessageTypeInform, from("10.77.0.50")), View{}, "ack", Nothing, "10.77.0.50:68", ""},
		{"inform from elsewhere", request(t, dhcpv4.MessageTypeInform, from("192.168.1.7")), View{}, "", Nothing, "", ""},
		{"over a relay", request(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithGatewayIP(net.IPv4(10, 1, 1, 1))), held, "", Nothing, "", testConfig.notSetUp(netip.MustParseAddr("10.1.1.1"))},
		{"an offer", request(t, dhcpv4.MessageTypeOffer), held, "", Nothing, "", ""},
		{"from a group address", request(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(net.HardwareAddr{1, 0, 0, 0, 0, 1})), held, "", Nothing, "", "not from an Ethernet card"},
		{"from no address", request(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(make(net.HardwareAddr, 6))), held, "", Nothing, "", "not from an Ethernet card"},
		{"from InfiniBand", request(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithHWType(iana.HWTypeInfiniband)), held, "", Nothing, "", "not from an Ethernet card"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, d := Decide(tt.p, testConfig, tt.v)
			if (r != nil) != (tt.reply != "") || d.Reply != tt.reply || d.Act != tt.act || d.Err != tt.err {
				t.Fatalf("reply %v; decision %+v", r, d)
			}
			if r == nil {
				return
			}
			if d.To.String() != tt.to {
				t.Errorf("to %v, want %s", d.To, tt.to)
			}
			if got, _ := addr(r.ServerIdentifier()); got != ours {
				t.Errorf("option 54 is %v", got)
			}
			if got, ok := addr(r.YourIPAddr); ok != (d.Act != Nothing) || ok && got != given {
				t.Errorf("yiaddr %v", got)
			}
			if lease := r.IPAddressLeaseTime(0); (lease > 0) != (d.Act != Nothing) {
				t.Errorf("lease of %v", lease)
			}
		})
	}
	if _, d := Decide(tests[3].p, testConfig, held); d.Other != other {
		t.Errorf("the other server was not noticed: %+v", d)
	}
}

func TestDecideProxy(t *testing.T) {
	cfg := testConfig
	cfg.Mode = Proxy
	pxe := []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003000")),
		option(dhcpv4.OptionClientSystemArchitectureType, 0, 7),
	}
	arm := append(pxe[:1:1], option(dhcpv4.OptionClientSystemArchitectureType, 0, 11))
	at4011 := func(p Packet) Packet {
		p.Port, p.Peer = proxyPort, netip.MustParseAddrPort("10.77.0.150:4011")
		return p
	}
	tests := []struct {
		name   string
		p      Packet
		reply  string
		to     string
		silent bool
	}{
		{"discover", request(t, dhcpv4.MessageTypeDiscover, pxe...), "offer", "255.255.255.255:68", false},
		{"request", request(t, dhcpv4.MessageTypeRequest, pxe...), "", "", false},
		{"a phone", request(t, dhcpv4.MessageTypeDiscover), "", "", true},
		{"no file for it", request(t, dhcpv4.MessageTypeDiscover, arm...), "", "", false},
		{"4011", at4011(request(t, dhcpv4.MessageTypeRequest, pxe...)), "ack", "10.77.0.150:4011", false},
		{"4011, no netboot", at4011(request(t, dhcpv4.MessageTypeRequest)), "", "", true},
		{"4011, no file for it", at4011(request(t, dhcpv4.MessageTypeRequest, arm...)), "", "", false},
		{"4011, release", at4011(request(t, dhcpv4.MessageTypeRelease, pxe...)), "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, d := Decide(tt.p, cfg, View{Missing: noARM})
			if (r != nil) != (tt.reply != "") || d.Reply != tt.reply || d.Silent != tt.silent || d.Act != Nothing {
				t.Fatalf("reply %v; decision %+v", r, d)
			}
			if r == nil {
				return
			}
			if d.To.String() != tt.to || r.BootFileName != "shimx64.efi" || r.ClassIdentifier() != pxeClass {
				t.Errorf("to %v: file %q, class %q", d.To, r.BootFileName, r.ClassIdentifier())
			}
			// An address or a lease from us would be believed.
			if !r.YourIPAddr.IsUnspecified() || r.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || r.Options.Has(dhcpv4.OptionSubnetMask) || r.Options.Has(dhcpv4.OptionRouter) {
				t.Errorf("it hands out more than the boot file: %v", r)
			}
		})
	}
}
