package netboot

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

const (
	foreignWait  = 4 * time.Second // dnsmasq pings an address for 3 s before it offers it
	foreignEvery = 5 * time.Minute
	foreignQuiet = 10 * time.Minute // between two warnings of one server
)

// watchForeign looks for another DHCP server, as a PC would. Two of them break
// the boot of PCs and, in a house's network, more than that: one found at the
// start ends us, before anybody depends on our leases.
func (s *Server) watchForeign(ctx context.Context) error {
	for first := true; ; first = false {
		other, err := findServer(ctx, s.cfg.Interface)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			s.log.Warn("could not look for another DHCP server on this network", "err", err)
		case other.IsValid() && other != s.cfg.IP && first:
			return fmt.Errorf("another DHCP server, %v, answers on %s: set dhcp = \"proxy\" to work beside it, or unplug it and start again", other, s.cfg.Interface)
		case other.IsValid():
			s.foreignSeen(other)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(foreignEvery):
		}
	}
}

// findServer sends one DISCOVER and gives the server that answers, if any. Our
// own sockets don't hear what our own card sends.
func findServer(ctx context.Context, ifname string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, foreignWait)
	defer cancel()
	c, err := nclient4.New(ifname, nclient4.WithTimeout(foreignWait/2), nclient4.WithRetry(2))
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	offer, err := c.DiscoverOffer(ctx, dhcpv4.WithBroadcast(true))
	if err != nil {
		return netip.Addr{}, nil // silence, as it should be
	}
	other, ok := addr(offer.ServerIdentifier())
	if !ok {
		other, _ = addr(net.IP(offer.ServerIPAddr))
	}
	return other, nil
}

// foreignSeen warns, now and then, of another server on a network that we were
// told is ours.
func (s *Server) foreignSeen(other netip.Addr) {
	if !other.IsValid() || s.cfg.Mode != Full {
		return
	}
	s.mu.Lock()
	lately := time.Since(s.foreign[other]) < foreignQuiet
	if len(s.foreign) > 256 { // made-up ones
		clear(s.foreign)
	}
	if !lately {
		s.foreign[other] = time.Now()
	}
	s.mu.Unlock()
	if lately {
		return
	}
	s.sight(Sighting{What: "offer", IP: other.String(), Arch: NoArch,
		Err: fmt.Sprintf("another DHCP server, %v, answers on this network and PCs may not boot: unplug it, or set dhcp = \"proxy\"", other)})
}
