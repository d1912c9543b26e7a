package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/ipv6"
)

var (
	ours   = netip.MustParseAddr("10.77.0.1")
	ourNet = netip.MustParsePrefix("10.77.0.0/24")
)

// cable is a wire between the server's card, in the test's own namespace, and
// a PC's in another one.
type cable struct {
	*testing.T
	far     netns.NsHandle
	srv, pc string
}

var cables int

func newCable(t *testing.T) *cable {
	t.Helper()
	cables++
	c := &cable{T: t, srv: fmt.Sprintf("srv%d", cables), pc: fmt.Sprintf("pc%d", cables)}
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: c.srv}, PeerName: c.pc}))
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(c.srv); err == nil {
			must(t, netlink.LinkDel(l))
		}
		c.far.Close()
	})
	// A namespace lives as long as a thread or a descriptor of it.
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var err error
		c.far, err = netns.New()
		made <- err
	}()
	must(t, <-made)
	pc, err := netlink.LinkByName(c.pc)
	must(t, err)
	must(t, netlink.LinkSetNsFd(pc, int(c.far)))
	srv, err := netlink.LinkByName(c.srv)
	must(t, err)
	addr, err := netlink.ParseAddr("10.77.0.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(srv, addr))
	must(t, netlink.LinkSetUp(srv))
	c.inside(func() error {
		pc, err := netlink.LinkByName(c.pc)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(pc)
	})
	// Until the kernel has noticed the link, it drops what is sent.
	up := func(name string) bool {
		l, err := netlink.LinkByName(name)
		return err == nil && l.Attrs().OperState == netlink.OperUp
	}
	wait(t, func() bool { return up(c.srv) })
	c.inside(func() error {
		for range 500 {
			if up(c.pc) {
				return nil
			}
			time.Sleep(10 * time.Millisecond)
		}
		return errors.New("the cable has no link")
	})
	return c
}

// inside runs f in the PC's namespace.
func (c *cable) inside(f func() error) {
	c.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, as above
		if err := netns.Set(c.far); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	must(c.T, <-done)
}

// address gives the PC's card an address, noAddress takes it away.
func (c *cable) address(s string)   { c.Helper(); c.change(s, netlink.AddrAdd) }
func (c *cable) noAddress(s string) { c.Helper(); c.change(s, netlink.AddrDel) }

func (c *cable) change(s string, f func(netlink.Link, *netlink.Addr) error) {
	c.Helper()
	c.inside(func() error {
		l, err := netlink.LinkByName(c.pc)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		return f(l, a)
	})
}

// client is a DHCP client at the PC's end, with a MAC of its own, that asks once.
func (c *cable) client(mac string) *nclient4.Client { c.Helper(); return c.asking(mac, 1) }

// patient is one that asks again, as PCs do: switches and servers need a while.
func (c *cable) patient(mac string) *nclient4.Client { c.Helper(); return c.asking(mac, 4) }

func (c *cable) asking(mac string, times int) *nclient4.Client {
	c.Helper()
	hw, err := net.ParseMAC(mac)
	must(c.T, err)
	var cl *nclient4.Client
	c.inside(func() error {
		var err error
		cl, err = nclient4.New(c.pc, nclient4.WithHWAddr(hw), nclient4.WithTimeout(3*time.Second), nclient4.WithRetry(times))
		return err
	})
	c.Cleanup(func() { cl.Close() })
	return cl
}

func (c *cable) config(d *desk) Config {
	return Config{
		Interface: c.srv, IP: ours, Net: ourNet,
		PoolFrom: netip.MustParseAddr("10.77.0.100"), PoolTo: netip.MustParseAddr("10.77.0.101"),
		HTTPPort: 8080, Files: fstest.MapFS{"undionly.kpxe": {Data: []byte("a boot file")}},
		LeaseFile: filepath.Join(c.TempDir(), "leases.json"),
		Desk:      d,
	}
}

// start runs a server until stop is called or the test ends.
func start(t *testing.T, cfg Config) (s *Server, stop func()) {
	t.Helper()
	s, err := New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	o, err := s.openSockets(ctx)
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, o) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run did not end with its context")
		}
	}
	t.Cleanup(stop)
	return s, stop
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	mac1 = "52:54:00:00:00:01"
	mac2 = "52:54:00:00:00:02"
	mac3 = "52:54:00:00:00:03"
)

func TestHandshakeExhaustionRestart(t *testing.T) {
	c, d := newCable(t), &desk{}
	cfg := c.config(d)
	cfg.Router, cfg.DNS = netip.MustParseAddr("10.77.0.254"), []netip.Addr{netip.MustParseAddr("9.9.9.9")}
	_, stop := start(t, cfg)
	ctx := t.Context()

	first, err := c.client(mac1).Request(ctx)
	must(t, err)
	if got := first.ACK.YourIPAddr.String(); got != "10.77.0.100" {
		t.Errorf("the first PC got %s", got)
	}
	if f, c := first.ACK.BootFileName, first.ACK.ClassIdentifier(); f != "" || c != "" {
		t.Errorf("a client that doesn't netboot got the boot file %q, class %q", f, c)
	}
	if r, dns := first.ACK.Router(), first.ACK.DNS(); len(r) != 1 || r[0].String() != "10.77.0.254" || len(dns) != 1 || dns[0].String() != "9.9.9.9" {
		t.Errorf("router %v, DNS %v", r, dns)
	}
	second, err := c.client(mac2).Request(ctx)
	must(t, err)
	if second.ACK.YourIPAddr.Equal(first.ACK.YourIPAddr) {
		t.Errorf("two PCs got %v", second.ACK.YourIPAddr)
	}

	if l, err := c.client(mac3).Request(ctx); err == nil {
		t.Errorf("a third PC got %v from a pool of two", l.ACK.YourIPAddr)
	}
	var full bool
	for _, s := range d.sightings() {
		full = full || s.MAC == mac3 && s.What == "discover" && s.Err == "address pool is full"
	}
	if !full {
		t.Error("nobody was told that the pool is full")
	}

	stop()
	_, stop = start(t, cfg)
	defer stop()
	again, err := c.client(mac1).Request(ctx)
	must(t, err)
	if !again.ACK.YourIPAddr.Equal(first.ACK.YourIPAddr) {
		t.Errorf("after a restart %v, before it %v", again.ACK.YourIPAddr, first.ACK.YourIPAddr)
	}
	if l, err := c.client(mac3).Request(ctx); err == nil {
		t.Errorf("the restart forgot a lease: a third PC got %v", l.ACK.YourIPAddr)
	}
	// RELEASE is unicast: the PC speaks from its address.
	release, err := dhcpv4.NewReleaseFromACK(second.ACK)
	must(t, err)
	c.address("10.77.0.101/24")
	c.unicast("10.77.0.101:68", release)
	wait(t, func() bool { _, ok := d.find("release"); return ok })
	c.noAddress("10.77.0.101/24")
	third, err := c.client(mac3).Request(ctx)
	must(t, err)
	if !third.ACK.YourIPAddr.Equal(second.ACK.YourIPAddr) {
		t.Errorf("after a release: %v, want %v", third.ACK.YourIPAddr, second.ACK.YourIPAddr)
	}
}

// unicast sends a packet to the server's port 67 as a configured host does.
func (c *cable) unicast(from string, p *dhcpv4.DHCPv4) (conn *net.UDPConn) {
	c.Helper()
	c.inside(func() error {
		var err error
		conn, err = net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(ours, dhcpPort)))
		if err == nil {
			_, err = conn.Write(p.ToBytes())
		}
		return err
	})
	c.Cleanup(func() { conn.Close() })
	return conn
}

func wait(t *testing.T, ok func() bool)     { t.Helper(); waitFor(t, 5*time.Second, ok) }
func waitLong(t *testing.T, ok func() bool) { t.Helper(); waitFor(t, 40*time.Second, ok) }

func waitFor(t *testing.T, most time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(most); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}

// A host that renews listens at its own address only (RFC 2131 §4.4.5).
func TestRenewalIsAnsweredAtTheAddress(t *testing.T) {
	c, d := newCable(t), &desk{}
	start(t, c.config(d))
	l, err := c.client(mac1).Request(t.Context())
	must(t, err)
	c.address("10.77.0.100/24")
	renew, err := dhcpv4.NewRenewFromAck(l.ACK)
	must(t, err)
	conn := c.unicast("10.77.0.100:68", renew)
	must(t, conn.SetReadDeadline(time.Now().Add(3*time.Second)))
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	must(t, err)
	ack, err := dhcpv4.FromBytes(buf[:n])
	must(t, err)
	if ack.MessageType() != dhcpv4.MessageTypeAck || !ack.YourIPAddr.Equal(l.ACK.YourIPAddr) {
		t.Errorf("renewal got %v", ack)
	}
}

func TestAddressInUseIsNotOffered(t *testing.T) {
	c, d := newCable(t), &desk{}
	c.address("10.77.0.100/24")
	start(t, c.config(d))
	began := time.Now()
	l, err := c.client(mac1).Request(t.Context())
	must(t, err)
	if got := l.ACK.YourIPAddr.String(); got != "10.77.0.101" {
		t.Errorf("got %s, want the one that nobody uses", got)
	}
	if took := time.Since(began); took < probeTime {
		t.Errorf("the free address was given after %v, without asking for %v", took, probeTime)
	}
	var told bool
	for _, s := range d.sightings() {
		told = told || strings.Contains(s.Err, "10.77.0.100 is in use")
	}
	if !told {
		t.Error("nobody was told of the address in use")
	}
}

func TestBootFileOverTheWire(t *testing.T) {
	c, d := newCable(t), &desk{}
	start(t, c.config(d))
	l, err := c.client(mac1).Request(t.Context(),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001")),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 0})))
	must(t, err)
	if l.ACK.BootFileName != "undionly.kpxe" || !l.ACK.ServerIPAddr.Equal(net.IP(ours.AsSlice())) {
		t.Errorf("boot file %q from %v", l.ACK.BootFileName, l.ACK.ServerIPAddr)
	}
}

func TestSecondServerOnThePort(t *testing.T) {
	c := newCable(t)
	cfg := c.config(&desk{})
	_, stop := start(t, cfg)
	cfg.LeaseFile += "2"
	s, err := New(cfg)
	must(t, err)
	err = s.Run(t.Context())
	if err == nil {
		t.Fatal("two servers on one port")
	}
	for _, want := range []string{"UDP port 67 is taken", fmt.Sprintf("(process %d)", os.Getpid()), "stop it"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q doesn't say %q", err, want)
		}
	}
	stop()

	// One for virtual machines, on another card, is no conflict.
	other := newCable(t)
	conn, err := listen(t.Context(), other.srv, netip.Addr{}, dhcpPort)
	must(t, err)
	defer conn.Close()
	start(t, cfg)
}

func TestInterfaceTrouble(t *testing.T) {
	c := newCable(t)
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"missing", func(cfg *Config) { cfg.Interface = "nosuch0" }, `no network card "nosuch0"`},
		{"without the address", func(cfg *Config) { cfg.IP = netip.MustParseAddr("10.77.0.9") }, "ip addr add 10.77.0.9/24"},
		{"down", func(cfg *Config) {
			l, err := netlink.LinkByName(c.srv)
			must(t, err)
			must(t, netlink.LinkSetDown(l))
		}, "ip link set " + c.srv + " up"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := c.config(&desk{})
			tt.change(&cfg)
			s, err := New(cfg)
			must(t, err)
			if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want it to say %q", err, tt.want)
			}
		})
	}
}

func TestProxyOverTheWire(t *testing.T) {
	c, d := newCable(t), &desk{}
	cfg := c.config(d)
	cfg.Mode, cfg.LeaseFile = Proxy, ""
	start(t, cfg)
	pxe := []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001")),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 0})),
	}
	offer, err := c.client(mac1).DiscoverOffer(t.Context(), pxe...)
	must(t, err)
	if !offer.YourIPAddr.IsUnspecified() || offer.BootFileName != "undionly.kpxe" {
		t.Errorf("offer: address %v, file %q", offer.YourIPAddr, offer.BootFileName)
	}
	if o, err := c.client(mac2).DiscoverOffer(t.Context()); err == nil {
		t.Errorf("a phone was offered %v", o)
	}
	for _, s := range d.sightings() {
		if s.MAC == mac2 {
			t.Errorf("another's phone is none of our business: %+v", s)
		}
	}

	// With its address from the other server, it asks port 4011 from there.
	c.address("10.77.0.150/24")
	ask, err := dhcpv4.NewDiscovery(hardware(t, mac1), append(pxe, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(net.IPv4(10, 77, 0, 150)))...)
	must(t, err)
	var conn *net.UDPConn
	c.inside(func() (err error) {
		conn, err = net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 77, 0, 150), Port: 4011}, &net.UDPAddr{IP: ours.AsSlice(), Port: proxyPort})
		return err
	})
	defer conn.Close()
	_, err = conn.Write(ask.ToBytes())
	must(t, err)
	must(t, conn.SetReadDeadline(time.Now().Add(3*time.Second)))
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	must(t, err)
	ack, err := dhcpv4.FromBytes(buf[:n])
	must(t, err)
	if ack.MessageType() != dhcpv4.MessageTypeAck || ack.BootFileName != "undionly.kpxe" || ack.TransactionID != ask.TransactionID {
		t.Errorf("port 4011 says %v", ack)
	}
}

func TestGarbageIsSurvived(t *testing.T) {
	c, d := newCable(t), &desk{}
	start(t, c.config(d))
	c.address("10.77.0.50/24")
	for _, b := range [][]byte{nil, {1}, make([]byte, 240), make([]byte, 4096)} {
		c.inside(func() error {
			conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: ours.AsSlice(), Port: dhcpPort})
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write(b)
			return err
		})
	}
	_, err := c.client(mac1).Request(t.Context())
	must(t, err)
	if g, ok := d.find("malformed"); !ok || g.IP != "10.77.0.50" || g.Err == "" {
		t.Errorf("sighting %+v", g)
	}
}

func TestRouterAdvertisement(t *testing.T) {
	c := newCable(t)
	cfg := c.config(&desk{})
	cfg.RouterAdvert = true
	start(t, cfg)
	var conn *ipv6.PacketConn
	c.inside(func() error {
		ifi, err := net.InterfaceByName(c.pc)
		if err != nil {
			return err
		}
		raw, err := net.ListenPacket("ip6:ipv6-icmp", "::")
		if err != nil {
			return err
		}
		conn = ipv6.NewPacketConn(raw)
		var only ipv6.ICMPFilter
		only.SetAll(true)
		only.Accept(ipv6.ICMPTypeRouterAdvertisement)
		return errors.Join(conn.SetICMPFilter(&only), conn.SetMulticastInterface(ifi), conn.SetMulticastHopLimit(255), conn.SetControlMessage(ipv6.FlagHopLimit, true))
	})
	defer conn.Close()
	all := &net.IPAddr{IP: net.IPv6linklocalallrouters, Zone: c.pc}
	buf := make([]byte, 1500)
	for end := time.Now().Add(10 * time.Second); ; {
		// Refused until the kernel has checked the card's own address.
		_, _ = conn.WriteTo([]byte{byte(ipv6.ICMPTypeRouterSolicitation), 0, 0, 0, 0, 0, 0, 0}, nil, all)
		must(t, conn.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
		n, cm, _, err := conn.ReadFrom(buf)
		if err == nil {
			// Lifetime 0 and no option: no router, no prefix.
			if n != 16 || cm.HopLimit != 255 || buf[0] != 134 || strings.Trim(string(buf[4:16]), "\x00") != "" {
				t.Errorf("advertisement % x, hop limit %d", buf[:n], cm.HopLimit)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatal("no advertisement in 10 s")
		}
	}
}
