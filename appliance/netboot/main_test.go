package netboot

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/vishvananda/netlink"
)

// The tests open DHCP ports and send packets, so the whole test process runs
// in a network namespace of its own, which ends with it. In another role the
// same binary is a server that the firmware tests start in theirs.
const (
	roleVar    = "REFURB_NETBOOT_TEST"
	roleInside = "inside"
	roleServer = "server"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case roleInside:
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "loopback:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	case roleServer:
		os.Exit(serveForVM())
	}
	// The kernel kills the child when this thread ends.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVar+"="+roleInside)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need a network namespace (run as root):", err)
		os.Exit(1)
	}
	// `go test -timeout` asks for the stacks by SIGQUIT.
	sigs := make(chan os.Signal, 4)
	signal.Notify(sigs, syscall.SIGQUIT, syscall.SIGTERM, os.Interrupt)
	go func() {
		for s := range sigs {
			_ = cmd.Process.Signal(s)
		}
	}()
	_ = cmd.Wait()
	os.Exit(cmd.ProcessState.ExitCode())
}

// desk is a workshop that gives one answer to all and keeps what it sees.
type desk struct {
	mu     sync.Mutex
	answer Answer
	err    error
	asked  []Client
	seen   []Sighting
	tell   func(any) // each as it comes, may be nil
}

func (d *desk) Boot(_ context.Context, c Client) (Answer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, c)
	if d.tell != nil {
		d.tell(c)
	}
	a := d.answer
	if a.Kind == "" && d.err == nil {
		a.Kind = Agent
	}
	return a, d.err
}

func (d *desk) Sighting(s Sighting) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen = append(d.seen, s)
	if d.tell != nil {
		d.tell(s)
	}
}

func (d *desk) sightings() []Sighting {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Sighting(nil), d.seen...)
}

// find is the first sighting of a kind.
func (d *desk) find(what string) (Sighting, bool) {
	for _, s := range d.sightings() {
		if s.What == what {
			return s, true
		}
	}
	return Sighting{}, false
}

// vmServer is what the server of a firmware test is told, as JSON in its
// environment.
type vmServer struct {
	Interface, IP, Net, From, To, Files, Leases string
	Proxy, Plain, Advert                        bool
	Answer                                      Answer
	Refuse                                      string
	Faults                                      map[string][]string // by path: what befalls the first requests, "404", "503", "drop" or "cut"; the last one for ever with "…" after it
}

const vmServerVar = "REFURB_NETBOOT_SERVER"

// serveForVM is the server of the firmware tests. It writes a line of JSON for
// every sighting and every question to the desk.
func serveForVM() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var v vmServer
	if err := json.Unmarshal([]byte(os.Getenv(vmServerVar)), &v); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	enc := json.NewEncoder(os.Stdout)
	d := &desk{answer: v.Answer, tell: func(x any) { _ = enc.Encode(x) }}
	if v.Refuse != "" {
		d.err = fmt.Errorf("%s", v.Refuse)
	}
	cfg := Config{
		Interface: v.Interface, IP: netip.MustParseAddr(v.IP), Net: netip.MustParsePrefix(v.Net),
		HTTPPort: 8080, Files: os.DirFS(v.Files), LeaseFile: v.Leases, RouterAdvert: v.Advert, TestPlainROM: v.Plain,
		Desk: d, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if v.Proxy {
		cfg.Mode = Proxy
	} else {
		cfg.PoolFrom, cfg.PoolTo = netip.MustParseAddr(v.From), netip.MustParseAddr(v.To)
	}
	s, err := New(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	e := echo.New()
	e.Pre(CleanPath)
	e.Use(faults(v.Faults))
	s.Register(e)
	ln, err := net.Listen("tcp", net.JoinHostPort(v.IP, "8080"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	srv := &http.Server{Handler: e, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(s.Listener(ln)) }()
	if err := s.Run(ctx); ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = srv.Close()
	return 0
}

// faults lets requests fail as they are told to.
func faults(by map[string][]string) echo.MiddlewareFunc {
	var mu sync.Mutex
	next := func(method, path string) string {
		mu.Lock()
		defer mu.Unlock()
		f := by[path]
		if len(f) == 0 || method == http.MethodHead && (f[0] == "cut" || f[0] == "drop") {
			return ""
		}
		if len(f) != 2 || f[1] != "…" {
			by[path] = f[1:]
		}
		return f[0]
	}
	return func(h echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			switch next(c.Request().Method, c.Request().URL.Path) {
			case "404":
				return c.String(http.StatusNotFound, "not here\n")
			case "503":
				return c.String(http.StatusServiceUnavailable, "not now\n")
			case "drop":
				conn, _, err := c.Response().Hijack()
				if err != nil {
					return err
				}
				return conn.Close()
			case "cut":
				conn, _, err := c.Response().Hijack()
				if err != nil {
					return err
				}
				defer conn.Close()
				_, err = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n%s", strings.Repeat("x", 300000))
				return err
			}
			return h(c)
		}
	}
}

func write(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func hardware(t testing.TB, mac string) net.HardwareAddr {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	must(t, err)
	return hw
}
