package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Other DHCP servers: how they are asked for and heard. What follows from it is
// mode.go's.

// ears hear what DHCP servers say to clients on one interface, whoever the
// clients are, and ask them. They don't hear what this machine says itself.
type ears struct {
	conn net.PacketConn
	from *sender
	mac  net.HardwareAddr
	xid  dhcpv4.TransactionID
}

// sender remembers whose frame was read last; nclient4's connection, which takes
// the headers of IP and UDP off, doesn't tell.
type sender struct {
	*packet.Conn
	mac net.HardwareAddr
}

func (s *sender) ReadFrom(b []byte) (int, net.Addr, error) {
	n, a, err := s.Conn.ReadFrom(b)
	if p, ok := a.(*packet.Addr); ok && err == nil {
		s.mac = p.HardwareAddr
	}
	return n, a, err
}

// toClients lets UDP for port 68 through and nothing else: whole disks go by on
// the same card.
var toClients = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 6},
	bpf.LoadAbsolute{Off: 6, Size: 2}, // a later fragment has no ports
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
	bpf.LoadMemShift{Off: 0},
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 68, SkipTrue: 1},
	bpf.RetConstant{Val: maxPacket},
	bpf.RetConstant{Val: 0},
}

func openEars(ifname string) (*ears, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, err
	}
	filter, err := bpf.Assemble(toClients)
	if err != nil {
		return nil, err
	}
	raw, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: filter})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("listening for other DHCP servers on %s: %w (run as root, or with the capability NET_RAW)", ifname, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listening for other DHCP servers on %s: %w", ifname, err)
	}
	xid, err := dhcpv4.GenerateTransactionID()
	if err != nil {
		raw.Close()
		return nil, err
	}
	from := &sender{Conn: raw}
	return &ears{conn: nclient4.NewBroadcastUDPConn(from, &net.UDPAddr{Port: 68}), from: from, mac: ifi.HardwareAddr, xid: xid}, nil
}

// hear waits for the next sign of another server.
func (e *ears) hear() (heard, error) {
	buf := make([]byte, maxPacket)
	for {
		n, src, err := e.conn.ReadFrom(buf)
		if err != nil {
			return heard{}, err
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			continue // not a server's, or a broken one's: it gives nothing
		}
		if h, ok := signOf(m, src, e.from.mac); ok {
			h.answer = m.TransactionID == e.xid
			return h, nil
		}
	}
}

// signOf reads a packet as a sign of another server. Only who gives an address
// with a lease, or refuses one, is an authority.
func signOf(m *dhcpv4.DHCPv4, src net.Addr, mac net.HardwareAddr) (heard, bool) {
	if m.OpCode != dhcpv4.OpcodeBootReply {
		return heard{}, false
	}
	h := heard{mac: mac.String()}
	var ok bool
	if h.addr, ok = addr(m.ServerIdentifier()); !ok {
		if u, is := src.(*net.UDPAddr); is {
			h.addr, ok = addr(u.IP)
		}
	}
	h.gives, _ = addr(m.YourIPAddr)
	switch m.MessageType() {
	case dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck:
		h.boots = !h.gives.IsValid()
	case dhcpv4.MessageTypeNak:
	default:
		return heard{}, false
	}
	return h, ok
}

// probeID is the client identifier of our questions. It is the same for ever, so
// that a server keeps no more than one address for it. probeHow, one of the
// options that are free for local use, tells another appliance how this one
// serves, and from where.
const probeID = "\x00refurb/1"

var probeHow = dhcpv4.GenericOptionCode(224)

// ask sends one DISCOVER, as a PC would; nobody follows the offers up.
func (e *ears) ask(mode Mode, own netip.Addr) error {
	m, err := dhcpv4.NewDiscovery(e.mac, dhcpv4.WithTransactionID(e.xid), dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientIdentifier, []byte(probeID))),
		dhcpv4.WithOption(dhcpv4.OptGeneric(probeHow, []byte(mode.String()+" "+own.String()))))
	if err != nil {
		return err
	}
	_, err = e.conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpPort})
	return err
}

// question reads a request as another appliance's probe. own is invalid while
// that one has no address.
func question(q *dhcpv4.DHCPv4) (mode Mode, own netip.Addr, ok bool) {
	if string(q.Options.Get(dhcpv4.OptionClientIdentifier)) != probeID || q.MessageType() != dhcpv4.MessageTypeDiscover {
		return 0, own, false
	}
	how, from, _ := strings.Cut(string(q.Options.Get(probeHow)), " ")
	if how != Full.String() {
		mode = Proxy
	}
	if a, err := netip.ParseAddr(from); err == nil && a.Is4() && !a.IsUnspecified() {
		own = a
	}
	return mode, own, true
}

// Look asks the network of an interface for DHCP servers, as a PC would, and
// gives those that answer; it waits for a slow one, but not long once there is
// one that gives addresses. sure is false when there was no link to ask over.
func Look(ctx context.Context, ifname string) (others []Other, sure bool, err error) {
	e, err := openEars(ifname)
	if err != nil {
		return nil, false, err
	}
	return e.look(ctx, ifname)
}

// look is Look with ears, which it closes.
func (e *ears) look(ctx context.Context, ifname string) (others []Other, sure bool, err error) {
	defer e.conn.Close()
	listening, stop := context.WithCancel(ctx)
	defer stop()
	o := newOutlook(Auto, netip.Prefix{}, false, time.Now())
	o.mac = e.mac.String()
	signs := e.listen(listening)
	end := time.After(lookTime)
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		// A card that was only now switched on takes seconds to find its link.
		ifi, err := net.InterfaceByName(ifname)
		if err != nil {
			return nil, false, err
		}
		if ifi.Flags&net.FlagRunning != 0 {
			o.linked(time.Now(), true)
			if err := e.ask(Proxy, netip.IPv4Unspecified()); err != nil {
				return nil, false, fmt.Errorf("asking for DHCP servers on %s: %w", ifname, err)
			}
			o.probed()
		}
		for asked := false; !asked; {
			select {
			case h, ok := <-signs:
				if !ok {
					return nil, false, fmt.Errorf("listening for DHCP servers on %s ended: is the card gone?", ifname)
				}
				o.hear(time.Now(), h)
				if o.giver() { // a second one may be slower
					o.hold = min(o.hold, time.Since(o.from)+time.Second)
				}
			case <-again.C:
				asked = true
			case <-end:
				if !o.link {
					return o.entries, false, nil
				}
			case <-ctx.Done():
				return nil, false, context.Cause(ctx)
			}
		}
		if o.link && time.Since(o.from) >= o.hold {
			return o.entries, true, nil
		}
	}
}

// listen hears on a goroutine until the connection ends, or ctx does.
func (e *ears) listen(ctx context.Context) <-chan heard {
	signs := make(chan heard, 16)
	go func() {
		defer close(signs)
		for {
			h, err := e.hear()
			if err != nil {
				return
			}
			select {
			case signs <- h:
			case <-ctx.Done():
				return
			}
		}
	}()
	return signs
}
