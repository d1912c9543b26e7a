package netboot

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/pin/tftp/v3"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var behind = Network{
	Net:      netip.MustParsePrefix("10.88.0.0/24"),
	PoolFrom: netip.MustParseAddr("10.88.0.100"), PoolTo: netip.MustParseAddr("10.88.0.101"),
}

func over(relay string) dhcpv4.Modifier { return dhcpv4.WithGatewayIP(net.ParseIP(relay)) }

func TestOverARelay(t *testing.T) {
	n := behind
	n.Via = netip.MustParseAddr("10.77.0.254")
	s := newShop(t, func(c *Config) { c.Networks = []Network{n} })
	discover := func(mac string, mods ...dhcpv4.Modifier) (*dhcpv4.DHCPv4, Decision) {
		p := request(t, dhcpv4.MessageTypeDiscover, mods...)
		p.ClientHWAddr = hardware(t, mac)
		return s.decide(t.Context(), p)
	}
	info := []byte{1, 4, 'p', 'o', 'r', 't', 2, 2, 0xff, 0}
	r, d := discover(mac1, over("10.88.0.1"), option(dhcpv4.OptionRelayAgentInformation, info...))
	if r == nil {
		t.Fatalf("%+v", d)
	}
	want(t, "address", r.YourIPAddr.String(), "10.88.0.100")
	want(t, "router", fmt.Sprint(r.Router()), "[10.88.0.1]")
	want(t, "goes to", d.To.String(), "10.88.0.1:67")
	want(t, "giaddr", r.GatewayIPAddr.String(), "10.88.0.1")
	want(t, "hops", fmt.Sprint(r.HopCount), "0")
	if got := r.Options.Get(dhcpv4.OptionRelayAgentInformation); !bytes.Equal(got, info) {
		t.Errorf("option 82 came back as %x", got)
	}
	if raw := r.ToBytes(); !bytes.Contains(raw, append(append([]byte{82, byte(len(info))}, info...), 255)) {
		t.Errorf("option 82 is not the last: %x", raw)
	}
	// A network of its own: the pool here is another one, and a PC that moves has
	// an address on each.
	_, d = discover(mac1)
	want(t, "at home", d.Addr.String()+" to "+d.To.String(), "10.77.0.100 to 255.255.255.255:68")
	// Chosen by the relay's word: two networks on one of its cards.
	link := append([]byte{5, 4}, net.IPv4(10, 88, 0, 1).To4()...)
	_, d = discover(mac2, over("10.77.0.254"), option(dhcpv4.OptionRelayAgentInformation, link...))
	want(t, "link selection", d.Addr.String()+" to "+d.To.String(), "10.88.0.101 to 10.77.0.254:67")
	_, d = discover(mac3, over("10.77.0.254"), option(dhcpv4.OptionSubnetSelection, 10, 88, 0, 1))
	want(t, "subnet selection, and the pool is full", d.Err, poolFull)
	// A PC can't choose for itself.
	_, d = discover(mac3, option(dhcpv4.OptionSubnetSelection, 10, 88, 0, 1))
	want(t, "subnet selection without a relay", d.Addr.String(), "10.77.0.101")

	what, _ := s.ask(mac1, dhcpv4.MessageTypeRequest, "10.88.0.100", over("10.88.0.1"))
	want(t, "request", what, "ack")
	p := request(t, dhcpv4.MessageTypeRequest, over("10.88.0.1"), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 77, 0, 100))))
	r, d = s.decide(t.Context(), p)
	if r == nil || d.Reply != "nak" || !r.IsBroadcast() || d.To.String() != "10.88.0.1:67" {
		t.Errorf("an address of another network: %v %+v", r, d)
	}
	// Renewals come without the relay, and are answered without it.
	p = request(t, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(net.IPv4(10, 88, 0, 100)))
	p.Peer = netip.MustParseAddrPort("10.88.0.100:68")
	r, d = s.decide(t.Context(), p)
	if r == nil || d.Reply != "ack" || d.To.String() != "10.88.0.100:68" || fmt.Sprint(r.Router()) != "[10.88.0.1]" {
		t.Errorf("renewal: %v %+v", r, d)
	}

	for _, tt := range []struct {
		name string
		mods []dhcpv4.Modifier
		want string
	}{
		{"unknown", []dhcpv4.Modifier{over("10.99.0.1")}, "--network 10.99.0.0/24"},
		{"hops", []dhcpv4.Modifier{over("10.88.0.1"), func(m *dhcpv4.DHCPv4) { m.HopCount = 17 }}, "in a circle"},
		{"ourselves", []dhcpv4.Modifier{over("10.77.0.1")}, "can't be one"},
		{"everybody", []dhcpv4.Modifier{over("255.255.255.255")}, "can't be one"},
		{"loopback", []dhcpv4.Modifier{over("127.0.0.1")}, "can't be one"},
	} {
		if r, d := discover(mac1, tt.mods...); r != nil || !strings.Contains(d.Err, tt.want) {
			t.Errorf("%s: %v %+v", tt.name, r, d)
		}
	}

	// In proxy mode the PC gets its boot file the same way.
	cfg := s.cfg
	cfg.Mode = Proxy
	r, d = Decide(request(t, dhcpv4.MessageTypeDiscover, append(asPXE, over("10.88.0.1"))...), cfg, View{})
	if r == nil || !r.YourIPAddr.IsUnspecified() || d.To.String() != "10.88.0.1:67" || r.GatewayIPAddr.String() != "10.88.0.1" {
		t.Errorf("proxy: %v %+v", r, d)
	}
}

// Nobody can have replies sent to whom they like: only to relays of the networks
// that are set up, whatever else the request says of where it comes from.
func TestRepliesGoToOurRelaysOnly(t *testing.T) {
	cfg := testConfig
	via := behind
	via.Via = netip.MustParseAddr("10.77.0.254")
	link := option(dhcpv4.OptionRelayAgentInformation, 5, 4, 10, 88, 0, 1)
	for _, tt := range []struct {
		relay string
		said  string // empty: it is answered
	}{
		{"10.88.0.1", ""},
		{"10.77.0.254", ""},
		{"10.77.0.200", "--network NETWORK,via=10.77.0.200"}, // a host at home
		{"192.0.2.7", "--network 192.0.2.0/24"},
		{"10.88.0.0", "is not set up here"}, // everybody there
		{"10.88.0.255", "is not set up here"},
	} {
		for _, mode := range []Mode{Full, Proxy} {
			for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform} {
				cfg.Mode, cfg.Networks = mode, []Network{via}
				p := request(t, kind, append(asPXE, over(tt.relay), link, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(behind.PoolFrom.AsSlice())))...)
				r, d := Decide(p, cfg, View{Next: behind.PoolFrom, Grant: true})
				switch {
				case tt.said == "":
					if d.Err != "" || r != nil && d.To != netip.AddrPortFrom(netip.MustParseAddr(tt.relay), dhcpPort) {
						t.Errorf("%v over %s, %v: %v %+v", kind, tt.relay, mode, r, d)
					}
				case r != nil || d.Problem != ProblemRelay || !strings.Contains(d.Err, tt.said) || d.Silent:
					t.Errorf("%v over %s, %v: %v %+v", kind, tt.relay, mode, r, d)
				}
			}
		}
	}
	// Another's phones behind another's relay are nothing to tell of.
	if r, d := Decide(request(t, dhcpv4.MessageTypeDiscover, over("192.0.2.7")), cfg, View{}); r != nil || !d.Silent {
		t.Errorf("a phone in proxy mode: %v %+v", r, d)
	}
}

// The relay's own address is in the pool: it is not a PC's.
func TestRelayInThePool(t *testing.T) {
	n := behind
	n.PoolFrom = netip.MustParseAddr("10.88.0.99")
	s := newShop(t, func(c *Config) { c.Networks = []Network{n} })
	_, a := s.ask(mac1, dhcpv4.MessageTypeDiscover, "", over("10.88.0.99"))
	want(t, "first", a, "10.88.0.100")
}

// Anybody can write a relay into a packet.
func TestMadeUpRelays(t *testing.T) {
	via := netip.MustParseAddr("10.77.0.254")
	n := behind
	n.Via = via
	s := newShop(t, func(c *Config) { c.Networks = []Network{n} })
	known := func(on netip.Prefix) string {
		s.leases.mu.Lock()
		defer s.leases.mu.Unlock()
		return fmt.Sprint(s.leases.relays[on])
	}
	from := func(peer, relay string) {
		p := request(t, dhcpv4.MessageTypeDiscover, over(relay))
		p.Peer = netip.AddrPortFrom(netip.MustParseAddr(peer), dhcpPort)
		s.decide(t.Context(), p)
	}
	none := fmt.Sprint(netip.Addr{})
	from("10.77.0.200", "10.77.0.200")
	want(t, "at home", known(s.cfg.Net), none)
	want(t, "a PC at home gets", s.boot(mac1), "10.77.0.100")
	from("10.77.0.66", "10.88.0.66")
	want(t, "from a stranger", known(behind.Net), none)
	from("0.0.0.0", "10.88.0.66")
	want(t, "from nowhere", known(behind.Net), none)
	what, a := s.ask(mac2, dhcpv4.MessageTypeDiscover, "", over("10.88.0.1"))
	want(t, "a PC there", what+a, "offer10.88.0.101")
	from("10.88.0.101", "10.88.0.101")
	want(t, "after a PC's own word", known(behind.Net), "10.88.0.1")
	from("10.77.0.254", "10.88.0.2")
	want(t, "over the router that leads there", known(behind.Net), "10.88.0.2")
}

// An address that a PC once had is the relay's now.
func TestARelaysAddressIsNeverReused(t *testing.T) {
	s := newShop(t, func(c *Config) { c.Networks = []Network{behind} })
	on, now := behind.Net, time.Now()
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	for i, a := range []netip.Addr{behind.PoolFrom, behind.PoolTo} {
		s.leases.put(&entry{Addr: a, MAC: []string{mac1, mac2}[i], State: released, Until: now.Add(time.Duration(i-5) * time.Hour)})
	}
	s.leases.relay(on, behind.PoolFrom, behind.PoolFrom, now)
	for _, mac := range []string{mac1, mac3} {
		want(t, mac, s.leases.view(mac, netip.Addr{}, on, now).Next.String(), behind.PoolTo.String())
	}
}

func TestNetworksAreChecked(t *testing.T) {
	for _, tt := range []struct {
		n    Network
		want string
	}{
		{Network{Net: netip.MustParsePrefix("10.77.0.128/25"), PoolFrom: netip.MustParseAddr("10.77.0.130"), PoolTo: netip.MustParseAddr("10.77.0.140")}, "overlap"},
		{Network{Net: behind.Net, PoolFrom: ours, PoolTo: ours}, "inside 10.88.0.0/24"},
		{Network{Net: netip.MustParsePrefix("fd00::/64")}, "only IPv4"},
	} {
		cfg := testConfig
		cfg.Files, cfg.Desk, cfg.LeaseFile, cfg.Networks = fstest.MapFS{}, &desk{}, t.TempDir()+"/l", []Network{tt.n}
		if err := cfg.check(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want it to say %q", err, tt.want)
		}
	}
}

// A PC behind ISC's relay, with a router between it and us: it gets its address,
// renews it, and fetches its boot file.
func TestRealRelay(t *testing.T) {
	c, d := newCable(t), &desk{}
	c.inside(func() error {
		for _, args := range []string{"link add br0 type bridge stp_state 0 forward_delay 0", "addr add 10.88.0.1/24 dev br0", "link set br0 up", "link set lo up"} {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w: %s", args, err, out)
			}
		}
		if out, err := exec.Command("sysctl", "-qw", "net.ipv4.ip_forward=1").CombinedOutput(); err != nil {
			return fmt.Errorf("sysctl: %w: %s", err, out)
		}
		return nil
	})
	c.address("10.77.0.254/24")
	srv, err := netlink.LinkByName(c.srv)
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: srv.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(10, 88, 0, 0), Mask: net.CIDRMask(24, 32)}, Gw: net.IPv4(10, 77, 0, 254)}))
	pc := c.plug()

	cfg := c.config(d)
	cfg.Networks = []Network{behind}
	cfg.Networks[0].Via = netip.MustParseAddr("10.77.0.254")
	start(t, cfg)
	var out bytes.Buffer
	relay := exec.Command("dhcrelay", "-4", "-d", "--no-pid", "-a", "-id", "br0", "-iu", c.pc, "10.77.0.1")
	relay.Stdout, relay.Stderr = &out, &out
	c.inside(relay.Start)
	t.Cleanup(func() {
		_ = relay.Process.Signal(unix.SIGTERM)
		_ = relay.Wait()
		if t.Failed() {
			t.Logf("dhcrelay: %s", out.String())
		}
	})
	l, err := pc.patient(mac1).Request(t.Context(), append(asPXE, dhcpv4.WithBroadcast(true))...)
	must(t, err)
	want(t, "address", l.ACK.YourIPAddr.String(), "10.88.0.100")
	want(t, "router", fmt.Sprint(l.ACK.Router()), "[10.88.0.1]")
	want(t, "boot file", l.ACK.BootFileName, "undionly.kpxe")
	if g, ok := d.find("offer"); !ok || !strings.Contains(g.Detail, "over the relay 10.88.0.1") {
		t.Errorf("%+v", g)
	}

	pc.address("10.88.0.100/24")
	pc.inside(func() error {
		out, err := exec.Command("ip", "route", "add", "default", "via", "10.88.0.1").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	renew, err := dhcpv4.NewRenewFromAck(l.ACK)
	must(t, err)
	conn := pc.unicast("10.88.0.100:68", renew)
	buf := make([]byte, 1500)
	must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	n, err := conn.Read(buf)
	must(t, err)
	ack, err := dhcpv4.FromBytes(buf[:n])
	must(t, err)
	want(t, "renewed", ack.MessageType().String()+" "+ack.YourIPAddr.String(), "ACK 10.88.0.100")
	pc.inside(func() error {
		client, err := tftp.NewClient("10.77.0.1:69")
		if err != nil {
			return err
		}
		f, err := client.Receive("undionly.kpxe", "octet")
		if err != nil {
			return err
		}
		var got bytes.Buffer
		if _, err := f.WriteTo(&got); err != nil {
			return err
		}
		want(t, "by TFTP", got.String(), "a boot file")
		return nil
	})
}
