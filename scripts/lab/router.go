package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// RouterIP is the address of the first router on the lab's switch; each further
// one has the next.
const RouterIP = "10.77.0.2"

// Router is a home router on the lab's switch: a machine of its own that gives
// out addresses of the lab's network and knows nothing of booting. It may be
// switched on and off at any time.
type Router struct {
	IP string

	lab    *Lab
	n      int    // from 0; the routers' pools don't overlap
	name   string // of its network namespace
	leases string
	args   []string
	cmd    *exec.Cmd
	file   *os.File
	log    *tail // since it was switched on last
}

// Router puts a router on the switch and switches it on. args are more of
// dnsmasq's; RouterIPv6 are those of a home that has IPv6.
func (l *Lab) Router(ctx context.Context, args ...string) (*Router, error) {
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		return nil, errors.New("dnsmasq is not installed: run `make setup`")
	}
	l.mu.Lock()
	n := len(l.routers)
	r := &Router{lab: l, n: n, IP: fmt.Sprintf("10.77.0.%d", 2+n), name: fmt.Sprintf("%s-router%d", l.Name, n),
		leases: l.path(fmt.Sprintf("router%d.leases", n)), args: args}
	l.routers = append(l.routers, r)
	l.mu.Unlock()
	var err error
	if r.file, err = os.Create(l.path(fmt.Sprintf("router%d.log", n))); err != nil {
		return nil, err
	}
	if err := run("ip", "netns", "add", r.name); err != nil {
		return nil, err
	}
	port := fmt.Sprintf("router%d", n)
	for _, args := range []string{
		"-n " + l.Name + " link add " + port + " type veth peer name lan netns " + r.name,
		"-n " + l.Name + " link set " + port + " master " + Bridge + " up",
		"-n " + r.name + " addr add " + r.IP + "/24 dev lan",
		"-n " + r.name + " addr add " + fmt.Sprintf("fd77::%d/64", 2+n) + " dev lan nodad",
		"-n " + r.name + " link set lan up",
	} {
		if err := run("ip", strings.Fields(args)...); err != nil {
			return nil, err
		}
	}
	return r, r.Start(ctx)
}

// RouterIPv6 makes a router announce an IPv6 prefix, as homes with IPv6 have it:
// iPXE asks for one and otherwise waits for seconds.
func RouterIPv6() []string {
	return []string{"--enable-ra", "--dhcp-range=fd77::,ra-only,64,1h"}
}

// Start switches the router on and waits until it answers; it remembers its
// leases.
func (r *Router) Start(ctx context.Context) (err error) {
	if r.cmd != nil {
		return nil
	}
	r.log = &tail{file: r.file}
	pool := fmt.Sprintf("10.77.0.%d,10.77.0.%d,1h", 150+20*r.n, 169+20*r.n)
	r.cmd, err = r.lab.startIn(r.name, r.log, "dnsmasq", append([]string{"--keep-in-foreground", "--log-facility=-", "--log-dhcp",
		"--conf-file=/dev/null", "--user=root", "--pid-file=", "--port=0", "--interface=lan", "--bind-interfaces", "--no-ping",
		"--dhcp-authoritative", "--dhcp-range=" + pool, "--dhcp-leasefile=" + r.leases}, r.args...)...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for !strings.Contains(r.Log(), "IP range") {
		if !alive(r.cmd) {
			return fmt.Errorf("the router ended; it said:\n%s", r.Log())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the router did not get ready: %w; it said:\n%s", ctx.Err(), r.Log())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// Stop switches the router off.
func (r *Router) Stop() {
	if r.cmd != nil {
		r.lab.Stop(r.cmd)
		r.cmd = nil
	}
}

// Log is the last part of what the router said, each packet included.
func (r *Router) Log() string { return r.log.End() }
