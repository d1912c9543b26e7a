package link

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// workshop is a network of its own: the PC's cards in the thread's namespace,
// each with a cable to a card on the other side, where a DHCP server listens.
type workshop struct {
	t      *testing.T
	other  netns.NsHandle
	mu     sync.Mutex
	asked  []string // message types and the cards that asked
	silent bool
	lease  time.Duration
	last   byte // of the address that is given
}

// enter moves the test into a fresh namespace, for good: its thread ends with it.
func enter(t *testing.T) *workshop {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread must not be used again
	w := &workshop{t: t, lease: time.Hour, last: 50}
	var err error
	if w.other, err = netns.New(); err != nil {
		t.Fatal(err)
	}
	pc, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.other.Close(); pc.Close() })
	return w
}

// cable makes a card and what it is plugged into.
func (w *workshop) cable(name string, mac string, plugged bool) {
	w.t.Helper()
	hw, _ := net.ParseMAC(mac)
	must(w.t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: hw},
		PeerName: "to-" + name, PeerNamespace: netlink.NsFd(w.other)}))
	if plugged {
		w.plug(name)
	}
}

func (w *workshop) plug(name string) {
	h, err := netlink.NewHandleAt(w.other)
	must(w.t, err)
	defer h.Close()
	l, err := h.LinkByName("to-" + name)
	must(w.t, err)
	must(w.t, h.LinkSetUp(l))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve answers DHCP behind a card, from 10.77.0.1.
func (w *workshop) serve(name string) {
	w.t.Helper()
	pc, err := netns.Get()
	must(w.t, err)
	defer pc.Close()
	must(w.t, netns.Set(w.other))
	defer netns.Set(pc)
	l, err := netlink.LinkByName("to-" + name)
	must(w.t, err)
	addr, _ := netlink.ParseAddr("10.77.0.1/24")
	must(w.t, netlink.AddrAdd(l, addr))
	s, err := server4.NewServer("to-"+name, &net.UDPAddr{IP: net.IPv4zero, Port: 67}, w.answer)
	must(w.t, err)
	go s.Serve()
	w.t.Cleanup(func() { s.Close() })
}

func (w *workshop) answer(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, fmt.Sprint(m.MessageType(), " ", m.ClientHWAddr))
	if w.silent {
		return
	}
	kind := dhcpv4.MessageTypeOffer
	if m.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	reply, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(net.IPv4(10, 77, 0, w.last)), dhcpv4.WithServerIP(net.IPv4(10, 77, 0, 1)),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(net.IPv4(10, 77, 0, 1)),
		dhcpv4.WithLeaseTime(uint32(w.lease/time.Second)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 77, 0, 1))))
	if err != nil {
		w.t.Error(err)
		return
	}
	conn.WriteTo(reply.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
}

func addresses(t *testing.T, name string) (list []string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	must(t, err)
	for _, a := range addrs {
		list = append(list, a.IPNet.String())
	}
	return list
}

// inside runs a test on a thread and in a network of its own.
func inside(t *testing.T, f func(t *testing.T, w *workshop)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(t, enter(t))
	}()
	<-done
}

// A card that comes while drivers load is switched on at once, and the time that
// its cable took is told from then; what drivers took is no wait for an address.
func TestRaise(t *testing.T) {
	inside(t, func(t *testing.T, w *workshop) {
		var ports Ports
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		done := make(chan struct{})
		pc, err := netns.Get()
		must(t, err)
		defer pc.Close()
		go func() {
			defer close(done)
			runtime.LockOSThread() // and its end with the thread: it is in another network
			if err := netns.Set(pc); err != nil {
				t.Error(err)
				return
			}
			ports.Raise(ctx)
		}()
		w.cable("pc0", "02:00:00:00:00:01", false)
		w.serve("pc0")
		up := func() bool {
			l, err := netlink.LinkByName("pc0")
			return err == nil && l.Attrs().Flags&net.FlagUp != 0
		}
		for range 200 {
			if up() {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if !up() {
			t.Error("nobody switched the card on")
			return
		}
		time.Sleep(poll)
		w.plug("pc0")
		time.Sleep(3 * poll) // drivers
		stop()
		<-done
		lease, err := ports.Up(t.Context(), nil, slog.New(slog.DiscardHandler), func(string) {})
		if err != nil {
			t.Error(err)
			return
		}
		if lease.Carrier < poll/2 || lease.Waited <= 0 || time.Since(ports.cable[lease.index]) < lease.Waited+poll {
			t.Errorf("cable after %v, address after %v more", lease.Carrier, lease.Waited)
		}
	})
}

func TestUp(t *testing.T) {
	inside(t, func(t *testing.T, w *workshop) {
		w.cable("pc0", "02:00:00:00:00:01", false)
		w.cable("pc1", "02:00:00:00:00:02", false)
		w.serve("pc1")
		var said []string
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		lease, err := Up(ctx, nil, slog.New(slog.DiscardHandler), func(what string) {
			if said = append(said, what); len(said) == 3 {
				w.plug("pc1") // while it waits
			}
		})
		if err != nil {
			t.Error(err)
			return
		}
		if lease.Interface != "pc1" || lease.Address.String() != "10.77.0.50/24" || lease.Router.String() != "10.77.0.1" {
			t.Errorf("%+v", lease)
		}
		if lease.Carrier < poll || lease.Carrier > 20*time.Second || lease.Waited <= 0 || lease.Waited > 20*time.Second {
			t.Errorf("it says that the cable came after %v, and the address %v later", lease.Carrier, lease.Waited)
		}
		if !slices.Contains(said, NoCable) || !slices.Contains(said, "asking for an address on pc1") {
			t.Errorf("said %v", said)
		}
		if got := addresses(t, "pc1"); !slices.Equal(got, []string{"10.77.0.50/24"}) {
			t.Error(got)
		}
		// The server gives another address when asked again: the old one goes.
		w.mu.Lock()
		w.last = 60
		w.mu.Unlock()
		if err := lease.renew(ctx, false); err != nil {
			t.Error(err)
		}
		if got := addresses(t, "pc1"); !slices.Equal(got, []string{"10.77.0.60/24"}) {
			t.Error(got)
		}
		// It falls silent: the address stays.
		w.mu.Lock()
		w.silent = true
		w.mu.Unlock()
		quick, stop := context.WithTimeout(ctx, 300*time.Millisecond)
		defer stop()
		if err := lease.renew(quick, true); err == nil {
			t.Error("renewed by nobody")
		}
		if got := addresses(t, "pc1"); !slices.Equal(got, []string{"10.77.0.60/24"}) {
			t.Error(got)
		}
	})
}

// Two cards have a cable; the PC booted from the one that the kernel lists last.
func TestUpPrefersTheCardThatBooted(t *testing.T) {
	inside(t, func(t *testing.T, w *workshop) {
		w.cable("pc0", "02:00:00:00:00:01", true)
		w.cable("pc1", "02:00:00:00:00:02", true)
		w.serve("pc1")
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		lease, err := Up(ctx, ParseMAC("01-02-00-00-00-00-02"), slog.New(slog.DiscardHandler), func(string) {})
		if err != nil || lease.Interface != "pc1" {
			t.Errorf("%+v, %v", lease, err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, a := range w.asked {
			if a[len(a)-2:] != "02" {
				t.Errorf("another card asked: %v", w.asked)
			}
		}
	})
}

func TestReady(t *testing.T) {
	card := func(name, mac string, cable bool) netlink.Link {
		hw, _ := net.ParseMAC(mac)
		a := netlink.LinkAttrs{Name: name, HardwareAddr: hw}
		if cable {
			a.RawFlags = 1 << 16 // IFF_LOWER_UP
		}
		return &netlink.Device{LinkAttrs: a}
	}
	cards := []netlink.Link{card("a", "02:00:00:00:00:01", true), card("b", "02:00:00:00:00:02", true), card("c", "02:00:00:00:00:03", false)}
	for _, c := range []struct {
		mac  string
		only bool
		want string
	}{
		{"", true, "ab"},
		{"02:00:00:00:00:02", true, "b"},
		{"02:00:00:00:00:02", false, "ba"},
		{"02:00:00:00:00:03", true, ""},    // it booted from this one: the cable comes back
		{"02:00:00:00:00:03", false, "ab"}, // or was moved
		{"02:00:00:00:00:09", true, "ab"},  // a dongle that was taken away
	} {
		got := ""
		for _, l := range ready(cards, ParseMAC(c.mac), c.only) {
			got += l.Attrs().Name
		}
		if got != c.want {
			t.Errorf("%s %v: %s, want %s", c.mac, c.only, got, c.want)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct{ lease, t1, renew, length uint32 }{
		{3600, 0, 1800, 3600},
		{3600, 900, 900, 3600},
		{3600, 3600, 1800, 3600}, // a T1 that makes no sense
		{10, 0, 30, 60},          // nor does such a lease
		{0xffffffff, 0, 0, 0},
	} {
		m, err := dhcpv4.New(dhcpv4.WithLeaseTime(c.lease))
		must(t, err)
		if c.t1 > 0 {
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionRenewTimeValue, []byte{byte(c.t1 >> 24), byte(c.t1 >> 16), byte(c.t1 >> 8), byte(c.t1)}))
		}
		renew, length := times(m)
		if renew != time.Duration(c.renew)*time.Second || length != time.Duration(c.length)*time.Second {
			t.Errorf("%+v: %v %v", c, renew, length)
		}
	}
}

func TestParseMAC(t *testing.T) {
	for s, want := range map[string]string{
		"02:00:00:00:00:01": "02:00:00:00:00:01", "01-02-00-00-00-00-01": "02:00:00:00:00:01",
		"02-00-00-00-00-01": "02:00:00:00:00:01", "": "", "01-02": "", "00:00:00:00:fe:80:00:00": "", "x": "",
	} {
		if got := ParseMAC(s).String(); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}
