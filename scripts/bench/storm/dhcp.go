package storm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Firmware says of a DHCP client what servers tell it by.
type Firmware struct {
	Class string // option 60
	Arch  uint16 // option 93
	User  string // option 77; "iPXE" of iPXE
}

// wire sends and hears the DHCP of all PCs, under the MAC of each.
type wire struct {
	conn *packet.Conn
	mu   sync.Mutex
	wait map[dhcpv4.TransactionID]chan *dhcpv4.DHCPv4
}

const (
	etherIP    = 0x0800
	headers    = 14 + 20 + 8 // Ethernet, IPv4, UDP
	clientPort = 68
	serverPort = 67
)

func listen(card string) (*wire, error) {
	ifi, err := net.InterfaceByName(card)
	if err != nil {
		return nil, err
	}
	// UDP to port 68 only: what the PCs fetch would be copied to this socket too.
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 17, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 36, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: clientPort, SkipTrue: 1},
		bpf.RetConstant{Val: 4096},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(ifi, packet.Raw, etherIP, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("the PCs' wire: %w", err)
	}
	// Room for the answers to all of them.
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	}); err != nil || set != nil {
		return nil, errors.Join(err, set, conn.Close())
	}
	w := &wire{conn: conn, wait: map[dhcpv4.TransactionID]chan *dhcpv4.DHCPv4{}}
	go w.read()
	return w, nil
}

func (w *wire) close() { w.conn.Close() }

func (w *wire) read() {
	buf := make([]byte, 4096)
	for {
		n, _, err := w.conn.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		if n < headers {
			continue
		}
		m, err := dhcpv4.FromBytes(buf[headers:n])
		if err != nil || m.OpCode != dhcpv4.OpcodeBootReply {
			continue
		}
		w.mu.Lock()
		ch := w.wait[m.TransactionID]
		w.mu.Unlock()
		if ch == nil {
			continue
		}
		select {
		case ch <- m:
		default: // it has as many answers as it can use
		}
	}
}

// frame is a DHCP packet as a PC without an address sends it.
func frame(mac net.HardwareAddr, m *dhcpv4.DHCPv4) []byte {
	body := m.ToBytes()
	f := make([]byte, headers, headers+len(body))
	copy(f, []byte{255, 255, 255, 255, 255, 255})
	copy(f[6:], mac)
	binary.BigEndian.PutUint16(f[12:], etherIP)
	ip := f[14:34]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(body)))
	copy(ip[16:], []byte{255, 255, 255, 255})
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum&0xffff+sum>>16))
	udp := f[34:42] // without a checksum, which IPv4 allows
	binary.BigEndian.PutUint16(udp, clientPort)
	binary.BigEndian.PutUint16(udp[2:], serverPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(body)))
	return append(f, body...)
}

// firstWait is how long PXE firmware waits for an answer; it doubles with each
// try (PXE 2.1 §2.2.1).
const (
	firstWait = 4 * time.Second
	tries     = 4
)

var errSilence = errors.New("no answer")

// exchange sends m until a message of kind want answers it.
func (p *machine) exchange(ctx context.Context, m *dhcpv4.DHCPv4, want dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	ch := make(chan *dhcpv4.DHCPv4, 4)
	p.wire.mu.Lock()
	p.wire.wait[m.TransactionID] = ch
	p.wire.mu.Unlock()
	defer func() {
		p.wire.mu.Lock()
		delete(p.wire.wait, m.TransactionID)
		p.wire.mu.Unlock()
	}()
	f := frame(p.MAC, m)
	for try := range tries {
		if try > 0 {
			p.Repeats++
		}
		if _, err := p.wire.conn.WriteTo(f, &packet.Addr{HardwareAddr: net.HardwareAddr(f[:6])}); err != nil {
			return nil, err
		}
		deadline := time.After(firstWait << try)
	hear:
		for {
			select {
			case r := <-ch:
				switch r.MessageType() {
				case want:
					return r, nil
				case dhcpv4.MessageTypeNak:
					return nil, fmt.Errorf("refused: %s", r.Message())
				}
			case <-deadline:
				break hear
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	return nil, errSilence
}

// handshake is DISCOVER, OFFER, REQUEST, ACK.
func (p *machine) handshake(ctx context.Context, fw Firmware) error {
	arch := binary.BigEndian.AppendUint16(nil, fw.Arch)
	uuid := append([]byte{0, 0x5e, 0xa1, 0xab, 0, 0, 0, 0x40, 0, 0x80, 0}, p.MAC...)
	also := []dhcpv4.Modifier{
		dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(fw.Class)),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, arch)),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientNetworkInterfaceIdentifier, []byte{1, 3, 16})),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, uuid)),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1472)),
	}
	if fw.User != "" {
		also = append(also, dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte(fw.User))))
	}
	ask, err := dhcpv4.NewDiscovery(p.MAC, also...)
	if err != nil {
		return err
	}
	offer, err := p.exchange(ctx, ask, dhcpv4.MessageTypeOffer)
	if err != nil {
		return fmt.Errorf("DISCOVER: %w", err)
	}
	take, err := dhcpv4.NewRequestFromOffer(offer, also...)
	if err != nil {
		return err
	}
	ack, err := p.exchange(ctx, take, dhcpv4.MessageTypeAck)
	if err != nil {
		return fmt.Errorf("REQUEST: %w", err)
	}
	a, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	next, ok2 := netip.AddrFromSlice(ack.ServerIPAddr.To4())
	if !ok || !ok2 || !a.IsGlobalUnicast() || !next.IsGlobalUnicast() {
		return fmt.Errorf("it gives the address %v and the server %v", ack.YourIPAddr, ack.ServerIPAddr)
	}
	p.File = ack.BootFileName
	if file := ack.Options.Get(dhcpv4.OptionBootfileName); file != nil {
		p.File = string(file)
	}
	return p.take(a, next, ack.SubnetMask())
}
