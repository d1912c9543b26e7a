package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// cord is a card, wk0, in a namespace of its own; the other end, rt0, lies in
// another one, where a router may be.
type cord struct {
	*testing.T
	here, there netns.NsHandle
	folder      string
}

// in runs f in a namespace, on a thread that ends with it.
func (w *cord) in(ns netns.NsHandle, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func newCord(t *testing.T) *cord {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs network namespaces: run as root")
	}
	return layCord(t, newSpace(t))
}

// inOwnNetwork runs the test in a network namespace of a process of its own, which
// ends with it. Called first thing, for it starts the test over there.
func inOwnNetwork(t *testing.T, play func(*testing.T)) {
	t.Helper()
	const inside = "REFURB_OWN_NETWORK"
	if os.Getenv(inside) == t.Name() {
		play(t)
		return
	}
	runtime.LockOSThread() // the kernel kills the child when this thread ends
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v (this test needs root)\n%s", err, out)
	}
}

// newSpace is a network namespace that lasts as long as the test.
func newSpace(t *testing.T) (ns netns.NsHandle) {
	t.Helper()
	made := make(chan error)
	go func() {
		runtime.LockOSThread()
		var err error
		ns, err = netns.New()
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func layCord(t *testing.T, here netns.NsHandle) *cord {
	t.Helper()
	w := &cord{T: t, here: here, there: newSpace(t)}
	w.must(w.in(w.here, func() error {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wk0"}, PeerName: "rt0"}); err != nil {
			return err
		}
		l, err := netlink.LinkByName("rt0")
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(l, int(w.there))
	}))
	w.must(w.in(w.there, func() error {
		l, err := netlink.LinkByName("rt0")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}))
	return w
}

func (w *cord) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// ip runs iproute2 at the appliance's end.
func (w *cord) ip(args string) {
	w.Helper()
	w.must(w.in(w.here, func() error { return ip(args) }))
}

func ip(args string) error {
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}

// router starts dnsmasq at the other end, in 192.168.7.0/24.
func (w *cord) router() (stop func()) {
	w.Helper()
	w.must(w.in(w.there, func() error {
		if err := ip("addr add 192.168.7.1/24 dev rt0"); err != nil {
			return err
		}
		cmd := exec.Command("dnsmasq", "--no-daemon", "--port=0", "--conf-file=/dev/null", "--user=root", "--interface=rt0", "--bind-interfaces",
			"--dhcp-authoritative", "--no-ping", "--dhcp-range=192.168.7.50,192.168.7.59,2m", "--dhcp-leasefile="+filepath.Join(w.TempDir(), "leases"), "--pid-file=")
		if err := cmd.Start(); err != nil {
			return err
		}
		stop = sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		w.Cleanup(stop)
		return nil
	}))
	return stop
}

type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *logged) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), s)
}

func (w *cord) join(cfg Config) (p *place, log *logged, err error) {
	log = &logged{}
	a := &Appliance{Config: cfg, log: slog.New(slog.NewTextHandler(log, nil))}
	a.Config.Interface, a.Config.Data = "wk0", w.data()
	err = w.in(w.here, func() (err error) { p, err = a.join(w.Context()); return err })
	return p, log, err
}

// data is one folder for all runs of a test.
func (w *cord) data() string {
	if w.folder == "" {
		w.folder = w.TempDir()
	}
	return w.folder
}

func (w *cord) addresses() string {
	w.Helper()
	var s string
	w.must(w.in(w.here, func() error {
		l, err := netlink.LinkByName("wk0")
		if err != nil {
			return err
		}
		all, err := netlink.AddrList(l, netlink.FAMILY_V4)
		for _, a := range all {
			s += a.IPNet.String() + " "
		}
		return err
	}))
	return strings.TrimSpace(s)
}

func TestAloneTheAppliancesNetworkIsItsOwn(t *testing.T) {
	w := newCord(t)
	p, log, err := w.join(DefaultConfig())
	w.must(err)
	if got := w.addresses(); got != ownNetwork || !p.asked || p.lent || len(p.found) > 0 {
		t.Errorf("%s %+v", got, p)
	}

	// Another program takes it away, and it is put back.
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.in(w.here, func() error { return p.keep(ctx) }) }()
	w.ip("addr flush dev wk0")
	for end := time.Now().Add(20 * time.Second); w.addresses() != ownNetwork; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the address stays away")
		}
	}
	if !log.has("another program has taken the address away") {
		t.Error("nobody is told")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w.must(w.in(w.here, func() error { p.leave(); return nil }))
	if got := w.addresses(); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

func TestBesideARouterAnAddressIsTakenFromIt(t *testing.T) {
	w := newCord(t)
	w.router()
	p, _, err := w.join(DefaultConfig())
	w.must(err)
	if !strings.HasPrefix(p.addr.String(), "192.168.7.5") || p.addr.Bits() != 24 || !p.lent || w.addresses() != p.addr.String() {
		t.Fatalf("%v %s", p.addr, w.addresses())
	}
	if len(p.found) != 1 || p.found[0].Addr.String() != "192.168.7.1" {
		t.Errorf("found %+v", p.found)
	}
	before := p.lease
	w.must(w.in(w.here, func() error { return p.renew(t.Context()) }))
	if p.lease == before {
		t.Error("it was not renewed")
	}
	w.must(w.in(w.here, func() error { p.leave(); return nil }))
	if got := w.addresses(); got != "" {
		t.Errorf("left behind: %s", got)
	}

	// What an appliance that was killed left on the card is of no use here.
	w.ip("addr add " + ownNetwork + " dev wk0")
	p, _, err = w.join(DefaultConfig())
	w.must(err)
	if !p.lent {
		t.Errorf("%v", p.addr)
	}
	w.must(w.in(w.here, func() error { p.leave(); return nil }))

	full := DefaultConfig()
	full.DHCP = "full"
	if _, _, err := w.join(full); err == nil || !strings.Contains(err.Error(), "another DHCP server, 192.168.7.1") {
		t.Errorf("full, fixed: %v", err)
	}
	fixed := DefaultConfig()
	fixed.Address = "192.168.7.9/24"
	p, _, err = w.join(fixed)
	w.must(err)
	if p.addr.String() != fixed.Address || p.lent {
		t.Errorf("a configured address: %+v", p)
	}
}

// A run that borrowed an address is killed: the next one doesn't take it for its own.
func TestABorrowedAddressOutlivesAKill(t *testing.T) {
	w := newCord(t)
	stop := w.router()
	p, _, err := w.join(DefaultConfig())
	w.must(err)
	borrowed := p.addr
	lifetime := func() (s int) {
		w.must(w.in(w.here, func() error {
			l, err := netlink.LinkByName("wk0")
			if err != nil {
				return err
			}
			all, err := netlink.AddrList(l, netlink.FAMILY_V4)
			if err == nil && len(all) == 1 && all[0].Flags&unix.IFA_F_PERMANENT == 0 {
				s = all[0].ValidLft
			}
			return err
		}))
		return s
	}
	if s := lifetime(); s < 60 || s > 120 {
		t.Errorf("the address stays for %d s, its lease for 120", s)
	}
	// Killed: nothing is taken away.
	p, _, err = w.join(DefaultConfig())
	w.must(err)
	if p.addr != borrowed || !p.lent || p.lease == nil || p.renewal().IsZero() {
		t.Errorf("the next run: %+v", p)
	}
	w.must(w.in(w.here, func() error { return ip("addr change " + borrowed.String() + " dev wk0 valid_lft 20 preferred_lft 20") }))
	w.must(w.in(w.here, func() error { return p.renew(t.Context()) }))
	if s := lifetime(); s < 60 {
		t.Errorf("renewed, the address stays for %d s", s)
	}
	// Killed again, and the router is gone: its network is not ours to serve.
	stop()
	p, _, err = w.join(DefaultConfig())
	w.must(err)
	if p.addr.String() != ownNetwork || w.addresses() != ownNetwork {
		t.Errorf("without the router: %v, %s", p.addr, w.addresses())
	}
}

func TestAnAddressIsPutBackLessAndLessOften(t *testing.T) {
	var s stubborn
	now, n := time.Date(2026, 1, 2, 8, 0, 0, 0, time.UTC), 0
	if !s.due(now) {
		t.Error("not at once")
	}
	for range 3600 {
		now = now.Add(time.Second)
		if s.due(now) {
			n++
		}
		if s.over(now) {
			t.Fatal("over while it goes on")
		}
	}
	if n < 60 || n > 70 {
		t.Errorf("put back %d times in an hour", n)
	}
	if now = s.last.Add(3 * time.Minute); !s.over(now) {
		t.Error("never over")
	}
}

// A card that is given another address while we rest on the first.
func TestAnotherAddressEndsIt(t *testing.T) {
	w := newCord(t)
	w.ip("addr add 10.5.0.2/24 dev wk0")
	p, log, err := w.join(DefaultConfig())
	w.must(err)
	if p.addr.String() != "10.5.0.2/24" || p.ours {
		t.Fatalf("%+v", p)
	}
	p.grace = time.Second
	ended := make(chan error, 1)
	go func() { ended <- w.in(w.here, func() error { return p.keep(t.Context()) }) }()
	w.ip("addr flush dev wk0")
	for end := time.Now().Add(20 * time.Second); !log.has("has lost its address"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody notices")
		}
	}
	w.ip("addr add 10.6.0.2/24 dev wk0")
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "10.5.0.2/24 and now has 10.6.0.2/24") {
			t.Errorf("it says: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it goes on")
	}
}

func TestTheWayToANetworkBehindARelay(t *testing.T) {
	w := newCord(t)
	cfg := DefaultConfig()
	cfg.Address = ownNetwork
	cfg.Networks = []Network{{Network: "10.88.0.0/24", Via: "10.77.0.254"}, {Network: "10.89.0.0/24"}}
	p, log, err := w.join(cfg)
	w.must(err)
	n, err := cfg.network(p.addr, p.lent)
	w.must(err)
	w.must(w.in(w.here, func() error { return p.routes(cfg.Networks, n.further) }))
	ways := func() string {
		var out []byte
		w.must(w.in(w.here, func() (err error) { out, err = exec.Command("ip", "route").Output(); return err }))
		return string(out)
	}
	if !strings.Contains(ways(), "10.88.0.0/24 via 10.77.0.254 dev wk0") {
		t.Error(ways())
	}
	if !log.has("ip route add 10.89.0.0/24 via ROUTER dev wk0") {
		t.Error("nobody is told of the way that is missing")
	}
	w.must(w.in(w.here, func() error { p.leave(); return nil }))
	if strings.Contains(ways(), "10.88") {
		t.Errorf("left behind: %s", ways())
	}
	// An operator's own way is left alone.
	w.ip("addr add " + ownNetwork + " dev wk0")
	w.ip("route add 10.88.0.0/24 via 10.77.0.253 dev wk0")
	p.ways = nil
	w.must(w.in(w.here, func() error { return p.routes(cfg.Networks, n.further) }))
	if got := ways(); !strings.Contains(got, "via 10.77.0.253") || strings.Contains(got, "10.77.0.254") || !log.has("it is left as it is") {
		t.Error(got)
	}
	p.lease, p.ours = nil, false
	w.must(w.in(w.here, func() error { p.leave(); return nil }))
	if !strings.Contains(ways(), "10.88.0.0/24 via 10.77.0.253") {
		t.Errorf("the operator's way is gone: %s", ways())
	}
	cfg.Networks[0].Via = "10.99.0.1"
	if err := w.in(w.here, func() error { return p.routes(cfg.Networks, n.further) }); err == nil || !strings.Contains(err.Error(), "inside 10.77.0.0/24") {
		t.Error(err)
	}
}
