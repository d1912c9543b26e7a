package netboot

import (
	"context"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"
)

// sockets of a running server.
type sockets struct {
	dhcp, proxy, tftp *net.UDPConn
	ra                *ipv6.PacketConn // nil when not wanted or not possible
	mdns              *ipv4.PacketConn // likewise
}

// Run serves DHCP, TFTP and, when asked for, router advertisements until ctx
// ends; it then returns ctx's error. An error before that names what is in the
// way and what to do. Another DHCP server beside a fixed Full mode is only warned
// of: Look first. The HTTP part is served by whoever Register was called for.
func (s *Server) Run(ctx context.Context) error {
	o, err := s.openSockets(ctx)
	if err != nil {
		return err
	}
	return s.serve(ctx, o)
}

// openSockets opens all or nothing.

func (s *Server) openSockets(ctx context.Context) (_ *sockets, err error) {
	ifi, err := checkInterface(s.cfg.Interface, s.cfg.IP)
	if err != nil {
		return nil, err
	}
	o := &sockets{}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	name := s.cfg.Interface
	// DHCP comes as broadcast, so these two can't listen at one address.
	if o.dhcp, err = listen(ctx, name, netip.Addr{}, dhcpPort); err != nil {
		return nil, err
	}
	if o.proxy, err = listen(ctx, name, netip.Addr{}, proxyPort); err != nil {
		return nil, err
	}
	if o.tftp, err = listen(ctx, name, s.cfg.IP, tftpPort); err != nil {
		return nil, err
	}
	if s.cfg.RouterAdvert && s.cfg.Mode != Proxy {
		if o.ra, err = s.listenRA(ctx, ifi); err != nil {
			s.log.Warn("no router advertisements: iPXE will wait some seconds for an IPv6 router", "err", err)
			o.ra, err = nil, nil
		}
	}
	if s.cfg.AgentsPort != 0 {
		if o.mdns, err = s.listenMDNS(ctx, ifi); err != nil {
			s.log.Warn("no multicast DNS: PCs that start from a stick find this appliance by DHCP alone", "err", err)
			o.mdns, err = nil, nil
		}
	}
	return o, nil
}

func (o *sockets) close() {
	for _, c := range []*net.UDPConn{o.dhcp, o.proxy, o.tftp} {
		if c != nil {
			c.Close()
		}
	}
	if o.ra != nil {
		o.ra.Close()
	}
	if o.mdns != nil {
		o.mdns.Close()
	}
}

func (s *Server) serve(ctx context.Context, o *sockets) error {
	s.log.Info("network boot is served", "interface", s.cfg.Interface, "address", s.cfg.IP, "dhcp", s.cfg.Mode)
	if err := s.complete(Agent); err != nil {
		s.log.Warn("PCs will not boot", "err", err)
	}
	g, run := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serveDHCP(run, o.dhcp, dhcpPort) })
	g.Go(func() error { return s.serveDHCP(run, o.proxy, proxyPort) })
	g.Go(func() error { return s.serveTFTP(run, o.tftp) })
	g.Go(func() error { return s.watch(run) })
	if o.ra != nil {
		g.Go(func() error {
			// PCs boot without it, only later.
			if err := s.serveRA(run, o.ra, s.cfg.Interface); run.Err() == nil {
				s.log.Warn("router advertisements ended", "err", err)
			}
			return nil
		})
	}
	if o.mdns != nil {
		g.Go(func() error {
			if err := s.serveMDNS(run, o.mdns); run.Err() == nil {
				s.log.Warn("multicast DNS ended: PCs that start from a stick find this appliance by DHCP alone", "err", err)
			}
			return nil
		})
	}
	err := g.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
