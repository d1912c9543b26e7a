package netboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The network with real DHCP servers on it: dnsmasq, in namespaces of their own,
// on one switch with the server and a PC.

// newRoom is a cable whose far end is a switch. The server's card is its near
// end.
func newRoom(t *testing.T) *cable {
	t.Helper()
	c := newCable(t)
	c.inside(func() error {
		// Without forward_delay 0 a port is silent for half a minute.
		if out, err := exec.Command("ip", "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		b, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		pc, err := netlink.LinkByName(c.pc)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(pc, b), netlink.LinkSetUp(b))
	})
	return c
}

// plug puts a host on the switch: a namespace of its own with a card.
func (c *cable) plug() *cable {
	c.Helper()
	cables++
	h := &cable{T: c.T, pc: fmt.Sprintf("eth%d", cables)}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var err error
		h.far, err = netns.New()
		made <- err
	}()
	must(c.T, <-made)
	c.Cleanup(func() { h.far.Close() })
	port := "p" + h.pc
	c.inside(func() error {
		b, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: b.Attrs().Index}, PeerName: h.pc}); err != nil {
			return err
		}
		l, err := netlink.LinkByName(h.pc)
		if err != nil {
			return err
		}
		p, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetNsFd(l, int(h.far)), netlink.LinkSetUp(p))
	})
	h.inside(func() error {
		l, err := netlink.LinkByName(h.pc)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(l), linked(h.pc))
	})
	return h
}

// linked waits until the kernel sends what it is given.
func linked(name string) error {
	for range 500 {
		if l, err := netlink.LinkByName(name); err == nil && l.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("the cable has no link")
}

// router runs a real DHCP server there until stop is called.
func (c *cable) router(own, from, to string, args ...string) (stop func(), said func() string) {
	c.Helper()
	c.address(own)
	end, said := dnsmasq(c.T, c.inside, append([]string{"--interface=" + c.pc, "--bind-interfaces", "--dhcp-range=" + from + "," + to + ",1h"}, args...)...)
	stop = sync.OnceFunc(func() {
		end()
		c.noAddress(own)
	})
	c.Cleanup(stop)
	return stop, said
}

// dnsmasq runs where inside leads.
func dnsmasq(t *testing.T, inside func(func() error), args ...string) (stop func(), said func() string) {
	t.Helper()
	var mu sync.Mutex
	var out bytes.Buffer
	w := writer(func(p []byte) (int, error) { mu.Lock(); defer mu.Unlock(); return out.Write(p) })
	said = func() string { mu.Lock(); defer mu.Unlock(); return out.String() }
	cmd := exec.Command("dnsmasq", append([]string{"--no-daemon", "--port=0", "--conf-file=/dev/null", "--log-dhcp", "--user=root",
		"--dhcp-authoritative", "--dhcp-leasefile=" + filepath.Join(t.TempDir(), "leases"), "--pid-file="}, args...)...)
	cmd.Stdout, cmd.Stderr = w, w
	inside(cmd.Start)
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	wait(t, func() bool {
		if strings.Contains(said(), "failed") {
			t.Fatalf("dnsmasq: %s", said())
		}
		return strings.Contains(said(), "DHCP, IP range")
	})
	return stop, said
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func auto(cfg Config) Config {
	cfg.Mode, cfg.Asked = Auto, true
	return cfg
}

var asPXE = []dhcpv4.Modifier{
	dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001")),
	dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 0})),
}

// A router is plugged in while we give the addresses, then a second one; the
// first is found by Look as well.
func TestRouterAppears(t *testing.T) {
	c := newRoom(t)
	s, _ := start(t, auto(c.config(&desk{})))
	wait(t, func() bool { return s.Status().Mode == Full })
	pc := c.plug()
	l, err := pc.patient(mac1).Request(t.Context())
	must(t, err)
	want(t, "before, a PC gets", l.ACK.YourIPAddr.String(), "10.77.0.100")

	r := c.plug()
	stop, said := r.router("192.168.7.1/24", "192.168.7.50", "192.168.7.60")
	began := time.Now()
	waitLong(t, func() bool { return s.Status().Mode == Proxy })
	t.Logf("stepped back %v after the router's DHCP server was up", time.Since(began).Round(time.Millisecond))
	st := s.Status()
	if len(st.Others) != 1 || st.Others[0].Addr.String() != "192.168.7.1" || !st.Others[0].Answers || !st.Apart() {
		t.Errorf("%+v", st)
	}
	// A phone gets one offer, the router's; so does a PC, and from us the boot file.
	phone, err := pc.patient(mac2).DiscoverOffer(t.Context())
	must(t, err)
	if a, _ := addr(phone.ServerIdentifier()); a.String() != "192.168.7.1" {
		t.Errorf("a phone was offered an address by %v", a)
	}
	if l, err := pc.patient(mac2).Request(t.Context()); err != nil || !strings.HasPrefix(l.ACK.YourIPAddr.String(), "192.168.7.") {
		t.Errorf("the router's lease: %v %v\n%s", l, err, said())
	}
	// An address of ours that a PC still has is neither acknowledged nor refused.
	for _, mods := range [][]dhcpv4.Modifier{nil, asPXE} {
		q, err := dhcpv4.NewRequestFromOffer(l.Offer, append(mods, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(l.ACK.YourIPAddr)))...)
		must(t, err)
		q.Options.Del(dhcpv4.OptionServerIdentifier)
		p := Packet{DHCPv4: q, Port: dhcpPort, Peer: netip.MustParseAddrPort("0.0.0.0:68")}
		if r, d := s.decide(t.Context(), p); r != nil {
			t.Errorf("answered %v %+v", r, d)
		}
	}

	second := c.plug()
	second.router("192.168.7.2/24", "192.168.7.80", "192.168.7.90")
	waitLong(t, func() bool { return len(s.Status().Givers()) == 2 })
	if text := s.Status().Text(); !strings.Contains(text, "192.168.7.1 and 192.168.7.2") {
		t.Error(text)
	}
	stop()
	if st := s.Status(); st.Mode != Proxy {
		t.Errorf("one router is off, and: %+v", st)
	}
	others, sure, err := Look(t.Context(), c.srv)
	if err != nil || !sure || len(others) != 1 || others[0].Addr.String() != "192.168.7.2" {
		t.Errorf("Look: %v %v %v", others, sure, err)
	}
}

// The router's words to a PC are enough, without any question of ours: it doesn't
// answer us at all.
func TestRouterThatIgnoresUs(t *testing.T) {
	c := newRoom(t)
	srv, err := netlink.LinkByName(c.srv)
	must(t, err)
	s, _ := start(t, auto(c.config(&desk{})))
	wait(t, func() bool { return s.Status().Mode == Full })
	r := c.plug()
	r.router("192.168.7.1/24", "192.168.7.50", "192.168.7.60", "--dhcp-host="+srv.Attrs().HardwareAddr.String()+",ignore")
	began := time.Now()
	_, err = c.plug().patient(mac3).DiscoverOffer(t.Context(), dhcpv4.WithBroadcast(true))
	must(t, err)
	waitLong(t, func() bool { return s.Status().Mode == Proxy })
	t.Logf("stepped back %v after a PC asked", time.Since(began).Round(time.Millisecond))
	if o := s.Status().Others; len(o) != 1 || o[0].Answers || o[0].MAC == "" {
		t.Errorf("%+v", o)
	}
}

// On an interface that lies on top of a card, as a VLAN's does, and with another
// network on the card itself. A kernel without VLANs gets a MACVLAN, which goes
// the same way through the sockets.
func TestInterfaceOnACard(t *testing.T) {
	c := newRoom(t)
	on := func(card string) (name string, err error) {
		parent, err := netlink.LinkByName(card)
		if err != nil {
			return "", err
		}
		at := netlink.LinkAttrs{Name: fmt.Sprintf("v%d.10", parent.Attrs().Index), ParentIndex: parent.Attrs().Index}
		var v netlink.Link = &netlink.Vlan{LinkAttrs: at, VlanId: 10}
		if err = netlink.LinkAdd(v); errors.Is(err, unix.EOPNOTSUPP) {
			t.Log("this kernel has no VLANs: tested on a MACVLAN")
			v = &netlink.Macvlan{LinkAttrs: at, Mode: netlink.MACVLAN_MODE_BRIDGE}
			err = netlink.LinkAdd(v)
		}
		return at.Name, errors.Join(err, netlink.LinkSetUp(v), linked(at.Name))
	}
	name, err := on(c.srv)
	must(t, err)
	v, err := netlink.LinkByName(name)
	must(t, err)
	a, err := netlink.ParseAddr("10.78.0.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(v, a))
	cfg := c.config(&desk{})
	cfg.Mode, cfg.Interface, cfg.IP, cfg.Net = Auto, name, netip.MustParseAddr("10.78.0.1"), netip.MustParsePrefix("10.78.0.0/24")
	cfg.PoolFrom, cfg.PoolTo = netip.MustParseAddr("10.78.0.100"), netip.MustParseAddr("10.78.0.101")
	s, _ := start(t, cfg)
	waitLong(t, func() bool { return s.Status().Mode == Full })

	pc := c.plug()
	pc.inside(func() (err error) {
		pc.pc, err = on(pc.pc)
		return err
	})
	l, err := pc.patient(mac1).Request(t.Context())
	must(t, err)
	want(t, "a PC gets", l.ACK.YourIPAddr.String(), "10.78.0.100")
	pc.router("10.78.0.2/24", "10.78.0.200", "10.78.0.210")
	waitLong(t, func() bool { return s.Status().Mode == Proxy })
	if st := s.Status(); len(st.Others) != 1 || st.Others[0].Addr.String() != "10.78.0.2" || st.Apart() {
		t.Errorf("%+v", st)
	}
}

// far is a server of ours at the PC's end of the cable, until stop is called.
func (c *cable) farServer(change func(*Config)) (s *Server, stop func()) {
	c.Helper()
	c.address("10.77.0.2/24")
	cfg := c.config(&desk{})
	cfg.Interface, cfg.IP = c.pc, netip.MustParseAddr("10.77.0.2")
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	must(c.T, err)
	s.taken = func(context.Context, netip.Addr, string) bool { return false }
	ctx, cancel := context.WithCancel(c.Context())
	var conn *net.UDPConn
	c.inside(func() error {
		conn, err = listen(ctx, c.pc, netip.Addr{}, dhcpPort)
		return err
	})
	done := make(chan error)
	go func() { done <- s.serveDHCP(ctx, conn, dhcpPort) }()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		c.noAddress("10.77.0.2/24")
	})
	c.Cleanup(stop)
	return s, stop
}

func TestLook(t *testing.T) {
	c := newCable(t)
	if others, sure, err := Look(t.Context(), c.srv); err != nil || !sure || len(others) > 0 {
		t.Errorf("on an empty network: %v %v %v", others, sure, err)
	}
	// The other one is ours as well, at the far end of the cable.
	far, _ := c.farServer(nil)
	others, sure, err := Look(t.Context(), c.srv)
	must(t, err)
	if !sure || len(others) != 1 || others[0].Addr != far.cfg.IP || !others[0].Answers || others[0].Boots || !others[0].Gives.IsValid() {
		t.Errorf("found %+v %v", others, sure)
	}
	// Without a link nothing can be said.
	l, err := netlink.LinkByName(c.srv)
	must(t, err)
	c.inside(func() error {
		pc, err := netlink.LinkByName(c.pc)
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(pc)
	})
	wait(t, func() bool { up, err := linkUp(l.Attrs().Name); return err == nil && !up })
	if others, sure, err := Look(t.Context(), c.srv); err != nil || sure || len(others) > 0 {
		t.Errorf("without a link: %v %v %v", others, sure, err)
	}
}

// With full fixed, nothing changes but what is said.
func TestFixedFullWarns(t *testing.T) {
	c := newCable(t)
	s, _ := start(t, c.config(&desk{}))
	c.farServer(nil)
	waitLong(t, func() bool { return s.Status().Why == Clash })
	st := s.Status()
	if st.Mode != Full || !st.Needs() || !strings.Contains(st.Text(), "another DHCP server, 10.77.0.2") {
		t.Errorf("%+v: %s", st, st.Text())
	}
}

// A PC that takes the other's offer gives it away too.
func TestRequestThatNamesAnother(t *testing.T) {
	c := newCable(t)
	cfg := c.config(&desk{})
	cfg.Mode, cfg.Asked = Auto, true
	s, _ := start(t, cfg)
	wait(t, func() bool { return s.Status().Mode == Full })
	c.address("10.77.0.2/24")
	choose, err := dhcpv4.NewDiscovery(hardware(t, mac1), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 77, 0, 3))))
	must(t, err)
	c.unicast("10.77.0.2:68", choose)
	wait(t, func() bool { return s.Status().Mode == Proxy })
	if st := s.Status(); len(st.Others) != 1 || st.Others[0].Addr.String() != "10.77.0.3" || st.Why != Beside {
		t.Errorf("%+v", st)
	}
	if o, err := c.client(mac2).DiscoverOffer(t.Context()); err == nil {
		t.Errorf("still offers: %v", o)
	}
}

// Two of ours on one network: never two that give addresses, and not none for
// long either.
func TestTwoAppliances(t *testing.T) {
	c := newCable(t)
	cfg := c.config(&desk{})
	cfg.Mode, cfg.Asked = Auto, true
	s, _ := start(t, cfg)
	wait(t, func() bool { return s.Status().Mode == Full })
	var far *Server
	far, _ = c.farServer(func(cfg *Config) { cfg.Mode, cfg.Asked = Auto, true })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go c.inside(func() error { defer close(done); _ = far.watch(ctx); return nil })
	defer func() { cancel(); <-done }()
	waitLong(t, func() bool { return s.Status().Mode == Proxy || far.Status().Mode == Proxy })
	// Which one goes on depends on who was heard first.
	knows := func(a, b *Server) bool {
		st := a.Status()
		return b.Status().Mode == Full && st.Why == Beside && len(st.Others) == 1 && st.Others[0].Appliance && st.Others[0].Addr == b.cfg.IP
	}
	waitLong(t, func() bool { return knows(s, far) || knows(far, s) })
}
