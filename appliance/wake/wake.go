// Package wake switches PCs on over the network (Wake-on-LAN). A card that is
// armed listens, while its PC is off, for its own address sixteen times in a row,
// wherever in a frame that stands.
package wake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

const (
	port      = 9      // discard: nothing answers there
	etherType = 0x0842 // Wake-on-LAN; some cards look at nothing else
	times     = 3      // a card that is off talks slowly, and a frame may be lost
	gap       = 100 * time.Millisecond
)

// Packet is the magic packet for a card: six bytes of ones, then its address
// sixteen times.
func Packet(mac net.HardwareAddr) ([]byte, error) {
	if len(mac) != 6 {
		return nil, fmt.Errorf("%v is no address of an Ethernet card", mac)
	}
	b := make([]byte, 0, 6+16*6)
	for range 6 {
		b = append(b, 0xff)
	}
	for range 16 {
		b = append(b, mac...)
	}
	return b, nil
}

// Send wakes the PCs with these cards on the network of an interface whose own
// address is from: by UDP to everybody and as plain Ethernet frames. One of the
// two has to go out; nobody answers.
func Send(ctx context.Context, ifname string, from netip.Addr, macs []string) error {
	var packets [][]byte
	for _, s := range macs {
		mac, err := net.ParseMAC(s)
		if err != nil {
			return fmt.Errorf("wake: %w", err)
		}
		b, err := Packet(mac)
		if err != nil {
			return fmt.Errorf("wake: %w", err)
		}
		packets = append(packets, b)
	}
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return fmt.Errorf("wake: network card %s: %w", ifname, err)
	}
	plain, errPlain := overUDP(ctx, ifi, from)
	if errPlain == nil {
		defer plain.Close()
	}
	raw, errRaw := packet.Listen(ifi, packet.Raw, etherType, nil)
	if errRaw == nil {
		defer raw.Close()
	}
	everybody := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for i := range times {
		if i > 0 {
			select {
			case <-time.After(gap):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for _, b := range packets {
			if errPlain == nil {
				_, errPlain = plain.WriteTo(b, &net.UDPAddr{IP: net.IPv4bcast, Port: port})
			}
			if errRaw == nil {
				_, errRaw = raw.WriteTo(frame(ifi.HardwareAddr, b), &packet.Addr{HardwareAddr: everybody})
			}
		}
	}
	if errPlain != nil && errRaw != nil {
		return fmt.Errorf("wake on %s: %w", ifname, errors.Join(errPlain, errRaw))
	}
	return nil
}

// frame is a magic packet as an Ethernet frame to everybody: a switch may have
// forgotten where a PC is that has been silent.
func frame(from net.HardwareAddr, b []byte) []byte {
	f := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	if len(from) != 6 {
		from = make(net.HardwareAddr, 6)
	}
	f = append(f, from...)
	f = append(f, etherType>>8, etherType&0xff)
	return append(f, b...)
}

// overUDP opens a socket that may send to everybody on that interface only.
func overUDP(ctx context.Context, ifi *net.Interface, from netip.Addr) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) {
			set = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.BindToDevice(int(fd), ifi.Name))
		})
		return errors.Join(err, set)
	}}
	return lc.ListenPacket(ctx, "udp4", net.JoinHostPort(from.String(), "0"))
}
