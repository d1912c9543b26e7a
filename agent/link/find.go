package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// How a PC that came from a stick asks for the appliance; appliance/netboot
// answers, or a router that was told to (option 43 for this class).
const (
	Class    = "RefurbAgent" // DHCP option 60
	classURL = 1             // code in option 43: the agents' URL
	service  = "_refurb._tcp.local."

	mdnsGroup = "224.0.0.251"
	mdnsPort  = 5353
	maxFound  = 32 // addresses of one search by one way; a flood on it leaves the other alone
)

// Found is what somebody on the network gave out as the appliance's address.
// Nothing about it is believed.
type Found struct {
	URL string // https://10.77.0.1:8443
	By  string // "DHCP" or "mDNS"
}

// Find asks the network for the appliance, by DHCP and by multicast DNS at once,
// until ctx ends. tell gets each answer once, from one goroutine at a time; two ways
// may give the same address.
func (l *Lease) Find(ctx context.Context, tell func(Found)) error {
	var mu sync.Mutex
	seen, by := map[Found]bool{}, map[string]int{}
	found := func(u, way string) {
		mu.Lock()
		defer mu.Unlock()
		f := Found{cleanURL(u), way}
		if f.URL == "" || seen[f] || by[way] >= maxFound || ctx.Err() != nil {
			return
		}
		seen[f] = true
		by[way]++
		tell(f)
	}
	var ways sync.WaitGroup
	var byDHCP, byDNS error
	ways.Go(func() { byDHCP = l.inform(ctx, func(u string) { found(u, "DHCP") }) })
	ways.Go(func() { byDNS = l.multicast(ctx, func(u string) { found(u, "mDNS") }) })
	ways.Wait()
	if byDHCP != nil && byDNS != nil { // one way will do
		return fmt.Errorf("the network can't be asked: %w; %w", byDHCP, byDNS)
	}
	return nil
}

// cleanURL is the form of an appliance's address, or "" if s is none: https, an
// IPv4 address by number, a port.
func cleanURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || len(s) > 128 || u.Scheme != "https" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return ""
	}
	a, err := netip.ParseAddrPort(u.Host)
	if err != nil || a.Port() == 0 || !a.Addr().Is4() || !a.Addr().IsGlobalUnicast() && !a.Addr().IsLoopback() {
		return ""
	}
	return "https://" + a.String()
}

// inform asks by DHCPINFORM: the address is there already, so no server's lease
// is in question, and any number of them may answer.
func (l *Lease) inform(ctx context.Context, found func(string)) error {
	c, err := nclient4.New(l.Interface, nclient4.WithTimeout(time.Second), nclient4.WithRetry(8))
	if err != nil {
		return err
	}
	defer c.Close()
	ask, err := dhcpv4.NewInform(c.InterfaceAddr(), l.Address.IP,
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(Class)),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionVendorSpecificInformation))
	if err != nil {
		return err
	}
	_, err = c.SendAndRead(ctx, c.RemoteAddr(), ask, func(p *dhcpv4.DHCPv4) bool {
		if p.MessageType() == dhcpv4.MessageTypeAck {
			found(vendorURL(p.Options.Get(dhcpv4.OptionVendorSpecificInformation)))
		}
		return false // somebody else may know better
	})
	if ctx.Err() != nil || err == nil || err == nclient4.ErrNoResponse {
		return nil
	}
	return err
}

// vendorURL reads option 43: code, length, value (RFC 2132 §8.4).
func vendorURL(b []byte) string {
	for len(b) >= 2 && b[0] != 255 {
		if b[0] == 0 { // padding has no length
			b = b[1:]
			continue
		}
		n := int(b[1])
		if len(b) < 2+n {
			break
		}
		if b[0] == classURL {
			return string(b[2 : 2+n])
		}
		b = b[2+n:]
	}
	return ""
}

// multicast asks by DNS-SD (RFC 6763) as one that doesn't listen on the port of
// multicast DNS: answers come to this socket alone (RFC 6762 §6.7).
func (l *Lease) multicast(ctx context.Context, found func(string)) error {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: l.Address.IP})
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		// There may be no route to multicast addresses, or another card that has one.
		set = errors.Join(
			unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(l.index)}),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255))
	})
	if err := errors.Join(err, set); err != nil {
		return fmt.Errorf("multicast: %w", err)
	}
	query, err := query()
	if err != nil {
		return err
	}
	go func() { // a packet gets lost now and then
		for wait := time.Second; ; wait *= 2 {
			_, _ = conn.WriteTo(query, &net.UDPAddr{IP: net.ParseIP(mdnsGroup), Port: mdnsPort})
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
	}()
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, u := range answers(buf[:n], from.Addr().Unmap()) {
			found(u)
		}
	}
}

func query() ([]byte, error) {
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName(service), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}}}
	return m.Pack()
}

// answers reads the services out of a reply: port from SRV, address from A or,
// where there is none, from who sent it.
func answers(b []byte, from netip.Addr) (urls []string) {
	var p dnsmessage.Parser
	if h, err := p.Start(b); err != nil || !h.Response || p.SkipAllQuestions() != nil {
		return nil
	}
	all, err := p.AllAnswers()
	if err != nil {
		return nil
	}
	if p.SkipAllAuthorities() == nil {
		more, _ := p.AllAdditionals() // what was read before the error counts
		all = append(all, more...)
	}
	hosts := map[string]netip.Addr{}
	for _, r := range all {
		if a, ok := r.Body.(*dnsmessage.AResource); ok {
			hosts[strings.ToLower(r.Header.Name.String())] = netip.AddrFrom4(a.A)
		}
	}
	for _, r := range all {
		srv, ok := r.Body.(*dnsmessage.SRVResource)
		if !ok || !strings.HasSuffix(strings.ToLower(r.Header.Name.String()), "."+service) {
			continue
		}
		at, ok := hosts[strings.ToLower(srv.Target.String())]
		if !ok {
			at = from
		}
		urls = append(urls, "https://"+netip.AddrPortFrom(at, srv.Port).String())
	}
	return urls
}
