package netboot

import (
	"context"
	"fmt"
	"net"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
)

// ends runs f and fails when a goroutine that it started, or one of these
// started, doesn't end with it.
func ends(t *testing.T, f func(ctx context.Context)) {
	t.Helper()
	pprof.Do(t.Context(), pprof.Labels("of", t.Name()), f)
	label := fmt.Sprintf("# labels: {%q:%q}", "of", t.Name())
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var all strings.Builder
		must(t, pprof.Lookup("goroutine").WriteTo(&all, 1))
		i := strings.Index(all.String(), label)
		if i < 0 {
			return
		}
		if time.Now().After(end) {
			left, _, _ := strings.Cut(all.String()[i:], "\n\n")
			t.Fatalf("left behind:\n%s", left)
		}
	}
}

// babel is a network on which a server says more than anybody reads.
type babel struct {
	net.PacketConn
	offer           []byte
	closing, closed atomic.Bool
}

func (b *babel) ReadFrom(p []byte) (int, net.Addr, error) {
	switch {
	case b.closed.Load():
		return 0, nil, net.ErrClosed
	case !b.closing.Load():
		time.Sleep(10 * time.Millisecond)
	}
	return copy(p, b.offer), &net.UDPAddr{IP: router.AsSlice()}, nil
}

func (b *babel) WriteTo(p []byte, _ net.Addr) (int, error) { return len(p), nil }

// Close takes its time: whoever reads has read all that it can hold.
func (b *babel) Close() error {
	b.closing.Store(true)
	time.Sleep(100 * time.Millisecond)
	b.closed.Store(true)
	return nil
}

func TestLookEnds(t *testing.T) {
	offer := answer(request(t, dhcpv4.MessageTypeDiscover).DHCPv4, Config{IP: router}, dhcpv4.MessageTypeOffer)
	offer.YourIPAddr = given.AsSlice()
	ends(t, func(ctx context.Context) {
		e := &ears{conn: &babel{offer: offer.ToBytes()}, from: &sender{mac: hardware(t, macRouter)}, mac: hardware(t, macOwn)}
		others, sure, err := e.look(ctx, "lo")
		if err != nil || !sure || len(others) != 1 || others[0].Addr != router {
			t.Errorf("%v %v %v", others, sure, err)
		}
	})
}

// More is new about the links than anybody looks at before the end.
func TestLinkEventsEnd(t *testing.T) {
	c := newCable(t)
	card, err := netlink.LinkByName(c.srv)
	must(t, err)
	ends(t, func(ctx context.Context) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		news, err := linkEvents(ctx)
		must(t, err)
		for i := range 40 { // the kernel keeps few more
			must(t, netlink.LinkSetMTU(card, 1400+i%2))
		}
		time.Sleep(100 * time.Millisecond)
		if len(news) == 0 {
			t.Error("nothing is told")
		}
	})
}
