package netboot

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

const (
	foreignEvery = 5 * time.Minute
	foreignQuiet = 10 * time.Minute // between two warnings of one server
)

// FindServer asks the network of an interface for a DHCP server, as a PC would,
// and gives the first one's address. No answer within four seconds is an
// invalid address and no error. The machine's own server is not found: its
// socket doesn't hear what its own card sends.
func FindServer(ctx context.Context, iface string) (netip.Addr, error) {
	// dnsmasq pings an address for 3 s before it offers it.
	c, err := nclient4.New(iface, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(2))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("looking for DHCP servers on %s: %w", iface, err)
	}
	defer c.Close()
	offer, err := c.DiscoverOffer(ctx, dhcpv4.WithBroadcast(true))
	switch {
	case errors.Is(err, nclient4.ErrNoResponse):
		return netip.Addr{}, nil
	case err != nil:
		return netip.Addr{}, fmt.Errorf("looking for DHCP servers on %s: %w", iface, err)
	}
	other, ok := addr(offer.ServerIdentifier())
	if !ok {
		other, _ = addr(offer.ServerIPAddr)
	}
	return other, nil
}

// watchForeign looks for another DHCP server now and then; somebody may plug a
// router in. PCs that choose it are noticed too, by their requests.
func (s *Server) watchForeign(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(foreignEvery):
		}
		other, err := FindServer(ctx, s.cfg.Interface)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			s.log.Warn("another DHCP server would not be noticed", "err", err)
		case other != s.cfg.IP:
			s.foreignSeen(other)
		}
	}
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
	s.sight(Sighting{What: "offer", IP: other.String(), Arch: NoArch, Server: other.String(), Problem: ProblemOther,
		Err: fmt.Sprintf("another DHCP server, %v, answers on this network and PCs may not boot: unplug it, or set dhcp = \"proxy\"", other)})
}
