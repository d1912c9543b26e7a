package netboot

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/mdlayher/packet"
)

const (
	etherARP  = 0x0806
	probeTime = 300 * time.Millisecond // for the answer of a host in the same room
	probeGap  = 100 * time.Millisecond
)

// probe asks the network whether somebody other than mac uses an address
// (RFC 5227 §2.1.1). When it can't ask, nobody does: the PC's boot goes first,
// and DECLINE still catches the clash.
func (s *Server) probe(ctx context.Context, a netip.Addr, mac string) bool {
	ifi, err := net.InterfaceByName(s.cfg.Interface)
	if err != nil || len(ifi.HardwareAddr) != 6 {
		return false
	}
	conn, err := packet.Listen(ifi, packet.Raw, etherARP, nil)
	if err != nil {
		s.log.Debug("ARP probe", "err", err)
		return false
	}
	defer conn.Close()
	end := time.Now().Add(probeTime)
	frame := arpProbe(ifi.HardwareAddr, a)
	buf := make([]byte, 128)
	for send := time.Now(); time.Now().Before(end) && ctx.Err() == nil; {
		if !time.Now().Before(send) {
			if _, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])}); err != nil {
				s.log.Debug("ARP probe", "err", err)
				return false
			}
			send = send.Add(probeGap)
		}
		until := send
		if end.Before(until) {
			until = end
		}
		if err := conn.SetReadDeadline(until); err != nil {
			return false
		}
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			continue // mostly the deadline; the loop ends in any case
		}
		if who, ok := arpSender(buf[:n], a); ok && who.String() != mac && who.String() != ifi.HardwareAddr.String() {
			return true
		}
	}
	return false
}

// arpProbe is the Ethernet frame that asks for a's owner, from nobody.
func arpProbe(from net.HardwareAddr, a netip.Addr) []byte {
	f := make([]byte, 42)
	copy(f, []byte{255, 255, 255, 255, 255, 255})
	copy(f[6:], from)
	binary.BigEndian.PutUint16(f[12:], etherARP)
	copy(f[14:], []byte{0, 1, 8, 0, 6, 4, 0, 1}) // Ethernet, IPv4, request
	copy(f[22:], from)
	ip := a.As4()
	copy(f[38:], ip[:])
	return f
}

// arpSender is the card that says in an ARP frame that it has the address a.
func arpSender(f []byte, a netip.Addr) (net.HardwareAddr, bool) {
	if len(f) < 42 || binary.BigEndian.Uint16(f[12:]) != etherARP || string(f[14:20]) != "\x00\x01\x08\x00\x06\x04" {
		return nil, false
	}
	if netip.AddrFrom4([4]byte(f[28:32])) != a {
		return nil, false
	}
	return net.HardwareAddr(f[22:28]), true
}

// neighbour is the MAC that the kernel knows for an address, or "".
func neighbour(a netip.Addr) string {
	f, err := os.Open("/proc/thread-self/net/arp")
	if err != nil {
		return ""
	}
	defer f.Close()
	want := a.Unmap().String()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		// IP address, HW type, Flags, HW address, Mask, Device
		if c := strings.Fields(sc.Text()); len(c) >= 4 && c[0] == want {
			return parseMAC(c[3])
		}
	}
	return ""
}

// parseMAC reads a MAC with colons or dashes between its bytes into the form
// "52:54:00:12:34:56", or gives "".
func parseMAC(s string) string {
	if len(s) != 17 {
		return ""
	}
	a, err := net.ParseMAC(s)
	if err != nil || !usable(a) {
		return ""
	}
	return a.String()
}
