package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/net/ipv6"
)

// advert is a router advertisement that says there is no router: lifetime 0,
// no prefix (RFC 4861 §4.2, §6.2.3). iPXE 2019 waits 16 s for one, iPXE 2025
// 4 s, at each of its starts. The kernel fills the checksum in.
var advert = [16]byte{0: 134}

const advertGap = 100 * time.Millisecond // between two; RFC 4861 §6.2.6 wants 3 s, but PCs then wait

// listenRA opens the socket for solicitations.
func (s *Server) listenRA(ctx context.Context, ifi *net.Interface) (*ipv6.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return onInterface(c, ifi.Name) }}
	raw, err := lc.ListenPacket(ctx, "ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, err
	}
	conn := ipv6.NewPacketConn(raw)
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	if err := errors.Join(
		conn.SetICMPFilter(&only),
		conn.JoinGroup(ifi, &net.IPAddr{IP: net.IPv6linklocalallrouters}),
		conn.SetMulticastInterface(ifi),
		conn.SetMulticastHopLimit(255), // receivers drop anything less: it would have crossed a router
		conn.SetControlMessage(ipv6.FlagHopLimit, true),
	); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// serveRA answers until ctx ends.
func (s *Server) serveRA(ctx context.Context, conn *ipv6.PacketConn, ifname string) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	all := &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: ifname}
	buf := make([]byte, 1500)
	var sent time.Time
	for {
		n, cm, _, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("router solicitations: %w", err)
		}
		if n < 8 || cm == nil || cm.HopLimit != 255 || s.mode() != Full || time.Since(sent) < advertGap {
			continue
		}
		if _, err := conn.WriteTo(advert[:], nil, all); err != nil {
			s.log.Debug("router advertisement", "err", err)
			continue
		}
		sent = time.Now()
	}
}
