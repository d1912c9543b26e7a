package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/vishvananda/netns"

	"refurb/appliance/netboot"
	"refurb/scripts/bench/storm"
)

// A room is two namespaces and a cable: the server's and, behind a card of their
// own, the PCs'.
const (
	serverCard, pcCard = "srv0", "pc0"
	serverIP, pcIP     = "10.77.0.1", "10.77.0.2"
)

type room struct {
	server, pcs string // namespaces
	dir         string // leases, loaders
	cmd         *exec.Cmd
}

func newRoom(mbit int) (r *room, err error) {
	r = &room{server: fmt.Sprintf("refurb-boot-%d-s", os.Getpid()), pcs: fmt.Sprintf("refurb-boot-%d-p", os.Getpid())}
	if r.dir, err = os.MkdirTemp("", "refurb-boot-"); err != nil {
		return nil, err
	}
	lines := []string{
		"ip netns add " + r.server, "ip netns add " + r.pcs,
		"ip -n " + r.server + " link add " + serverCard + " type veth peer name " + pcCard + " netns " + r.pcs,
		"ip -n " + r.server + " link set lo up",
		"ip -n " + r.server + " addr add " + serverIP + "/16 dev " + serverCard,
		"ip -n " + r.server + " link set " + serverCard + " up",
		"ip -n " + r.pcs + " link set " + pcCard + " up",
		"ip -n " + r.pcs + " addr add " + pcIP + "/16 dev " + pcCard,
		"ip -n " + r.pcs + " addr add " + relayIP + "/16 dev " + pcCard,
		"ip -n " + r.server + " route add " + relayNet + " via " + pcIP,
	}
	if mbit > 0 {
		// What a card's driver holds back: 64 KiB in one go, 10 ms behind it.
		second := mbit * 1e6 / 8
		lines = append(lines, fmt.Sprintf("tc -n %s qdisc replace dev %s root tbf rate %dmbit burst %d limit %d", r.server, serverCard, mbit, max(second/500, 64<<10), max(second/100, 128<<10)))
	}
	if err := do(lines...); err != nil {
		r.close()
		return nil, err
	}
	time.Sleep(300 * time.Millisecond) // until the kernel has noticed the link
	return r, nil
}

func (r *room) close() {
	r.stop()
	if b, err := os.ReadFile(filepath.Join(r.dir, "server.log")); err == nil && os.Getenv("BENCH_DEBUG") != "" {
		fmt.Fprintf(os.Stderr, "%.3000s\n", b)
	}
	_ = do("ip netns del " + r.server)
	_ = do("ip netns del " + r.pcs)
	_ = os.RemoveAll(r.dir)
}

// serve starts a program in the server's namespace and waits until it listens.
func (r *room) serve(name string, args ...string) error {
	r.stop()
	log, err := os.Create(filepath.Join(r.dir, "server.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	r.cmd = exec.Command("ip", append([]string{"netns", "exec", r.server, name}, args...)...)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		return err
	}
	for range 400 { // the appliance looks for other servers first
		time.Sleep(50 * time.Millisecond)
		out, _ := exec.Command("ip", "netns", "exec", r.server, "cat", "/proc/net/udp").Output()
		if strings.Contains(string(out), ":0045 ") { // TFTP comes last
			return nil
		}
	}
	said, _ := os.ReadFile(log.Name())
	return fmt.Errorf("%s does not listen: %s", name, said)
}

func (r *room) stop() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	t := time.AfterFunc(5*time.Second, func() { _ = r.cmd.Process.Kill() })
	_ = r.cmd.Wait()
	t.Stop()
	r.cmd = nil
}

// seconds is the server's processor time so far.
func (r *room) seconds() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	var user, sys float64
	f := strings.Fields(rest)
	_, _ = fmt.Sscan(f[11]+" "+f[12], &user, &sys)
	return (user + sys) / 100
}

func (r *room) ours(o options) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return r.serve(self, "server", filepath.Join(o.data, "payload", "boot"), filepath.Join(r.dir, "leases.json"))
}

// appliance is ours as it is run, with the network behind the relay.
func (r *room) appliance(o options) error {
	data := filepath.Join(r.dir, "data")
	from, err := filepath.Abs(o.data)
	if err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(data, 0o700), // boot files are of use with the keys that they were made with only
		os.Symlink(filepath.Join(from, "payload"), filepath.Join(data, "payload")), os.Symlink(filepath.Join(from, "keys"), filepath.Join(data, "keys"))); err != nil {
		return err
	}
	return r.serve(filepath.Join(o.dir, "refurb"), "serve", "--interface", serverCard, "--address", serverIP+"/16", "--dhcp", "full",
		"--network", relayNet+",via="+pcIP+",pool="+relayFrom+"-"+relayTo, "--data", data, "--dashboard", serverIP+":8000")
}

// dnsmasq is set up as its own documentation says for PXE, without the check of
// an address by ping, which would cost it 3 seconds for each PC.
func (r *room) dnsmasq(o options) error {
	dir := filepath.Join(r.dir, "tftp")
	if err := os.MkdirAll(filepath.Join(dir, "grub"), 0o755); err != nil {
		return err
	}
	for _, f := range []string{"undionly.kpxe", "shimx64.efi", "grubx64.efi"} {
		b, err := os.ReadFile(bootFile(o, f))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, f), b, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "grub", "grub.cfg"), make([]byte, 800), 0o644),
		os.Chmod(r.dir, 0o755)); err != nil {
		return err
	}
	return r.serve("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--user=root", "--port=0", "--interface="+serverCard, "--bind-interfaces",
		"--dhcp-range=10.77.1.0,10.77.250.254,255.255.0.0,2h", "--dhcp-range="+relayFrom+","+relayTo+",255.255.0.0,2h", "--dhcp-lease-max=60000", "--dhcp-authoritative", "--no-ping",
		"--dhcp-leasefile="+filepath.Join(r.dir, "dnsmasq.leases"), "--enable-tftp", "--tftp-root="+dir, "--tftp-max=256",
		"--dhcp-match=set:uefi,option:client-arch,7", "--dhcp-boot=tag:uefi,shimx64.efi", "--dhcp-boot=tag:!uefi,undionly.kpxe")
}

// server is our side of a room: the real boot server with a desk that answers
// everybody.
func server(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("server FILES LEASES")
	}
	s, err := netboot.New(netboot.Config{
		Interface: serverCard, IP: netip.MustParseAddr(serverIP), Net: netip.MustParsePrefix("10.77.0.0/16"),
		PoolFrom: netip.MustParseAddr("10.77.1.0"), PoolTo: netip.MustParseAddr("10.77.250.254"), Lease: 2 * time.Hour,
		HTTPPort: 8080, Files: os.DirFS(args[0]), LeaseFile: args[1], Desk: desk{}, Log: slog.Default(),
	})
	if err != nil {
		return err
	}
	e := echo.New()
	e.Pre(netboot.CleanPath)
	s.Register(e)
	ln, err := net.Listen("tcp", net.JoinHostPort(serverIP, "8080"))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: e, ReadHeaderTimeout: 20 * time.Second}
	go func() { _ = srv.Serve(s.Listener(ln)) }()
	defer srv.Close()
	if err := s.Run(ctx); ctx.Err() == nil {
		return err
	}
	return nil
}

type desk struct{}

func (desk) Boot(context.Context, netboot.Client) (netboot.Answer, error) {
	return netboot.Answer{Args: []string{"refurb.url=https://10.77.0.1:8443"}}, nil
}
func (desk) Sighting(netboot.Sighting) {}

// inside runs f on a thread in the PCs' namespace.
func (r *room) inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		h, err := netns.GetFromName(r.pcs)
		if err == nil {
			err = netns.Set(h)
			_ = h.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// run lets the PCs in, and counts what went wrong.
func (r *room) run(ctx context.Context, w storm.Room) (pcs []storm.PC, repeats, failed int, err error) {
	w.Interface, w.Inside = pcCard, r.inside
	if w.Patience == 0 {
		w.Patience = 5 * time.Minute
	}
	pcs, err = w.Run(ctx)
	for _, p := range pcs {
		repeats += p.Repeats
		if p.Err != nil {
			if failed++; failed == 1 {
				fmt.Printf("# a PC failed: %v\n", p.Err)
			}
		}
	}
	return pcs, repeats, failed, err
}

func mac(n int) string {
	return net.HardwareAddr{0x02, 0x52, 0x46, byte(n >> 16), byte(n >> 8), byte(n)}.String()
}

func last(pcs []storm.PC, of func(storm.PC) time.Duration) float64 {
	var most time.Duration
	for _, p := range pcs {
		most = max(most, of(p))
	}
	return most.Seconds()
}

func through(p storm.PC) time.Duration { return p.Done }
func loader(p storm.PC) time.Duration  { return p.Loader }
func leased(p storm.PC) time.Duration  { return p.DHCP }

// do runs simple commands, one after the other.
func do(lines ...string) error {
	for _, line := range lines {
		f := strings.Fields(line)
		if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
