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

// FindServer asks the network of an interface for a DHCP server, as a PC would,
// and gives the first one's address. No answer within about three seconds is an
// invalid address and no error.
func FindServer(ctx context.Context, iface string) (netip.Addr, error) {
	c, err := nclient4.New(iface, nclient4.WithTimeout(1500*time.Millisecond), nclient4.WithRetry(2))
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
	if ip, ok := netip.AddrFromSlice(offer.ServerIdentifier().To4()); ok {
		return ip, nil
	}
	ip, _ := netip.AddrFromSlice(offer.ServerIPAddr.To4())
	return ip, nil
}
