package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"refurb/appliance/audit"
	"refurb/appliance/netboot"
	"refurb/appliance/payload"
	"refurb/appliance/store"
	"refurb/appliance/trace"
	"refurb/appliance/wake"
	"refurb/appliance/workshop"
	"refurb/images"
	"refurb/images/depot"
)

// Appliance is the server, its parts opened but not yet listening.
type Appliance struct {
	Config   Config
	Keys     *Keys
	Records  *Records
	Store    *store.Store // of the records
	Depot    *depot.Depot
	Registry *workshop.Registry
	Trace    *trace.Log // of every PC's start

	log   *slog.Logger
	lock  *os.File // of the data folder
	files *payload.Payload
	place *place  // known once Run has taken it
	net   network // likewise
	boot  atomic.Pointer[netboot.Server]
}

// Open opens the data folder: keys, records, images, boot files.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (_ *Appliance, err error) {
	a := &Appliance{Config: cfg, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if a.Keys, err = LoadKeys(cfg.Data); err != nil {
		return nil, err
	}
	if a.lock, err = lockData(cfg.Data); err != nil {
		return nil, err
	}
	if a.files, err = payload.Open(filepath.Join(cfg.Data, "payload")); err != nil {
		return nil, err
	}
	if a.Depot, err = depot.Open(filepath.Join(cfg.Data, "images"), a.Keys.Signing); err != nil {
		return nil, err
	}
	if a.Trace, err = trace.Open(TraceFolder(cfg.Data), log); err != nil {
		return nil, err
	}
	if a.Records, err = OpenRecords(cfg.Data, a.Keys); err != nil {
		return nil, err
	}
	a.Store = a.Records.Store
	began := time.Now()
	if err := a.Records.Check(ctx); err != nil {
		return nil, err
	}
	log.Info("the records hold", "looked_at_in", time.Since(began).Round(time.Millisecond))
	a.Registry, err = workshop.Open(ctx, workshop.Config{
		Store: a.Store, Images: catalogue{a.Depot}, BaseURL: a.urls,
		LostAfter: cfg.LostAfter, Streams: cfg.Streams, Payload: a.files.Served(), Key: a.Keys.Signing, PinB64: a.Keys.Pin, Log: log, Wake: a.wake,
	})
	return a, err
}

// TraceFolder is where the starts of PCs are kept in a data folder.
func TraceFolder(data string) string { return filepath.Join(data, "trace") }

// OpenStore opens the records of a data folder.
func OpenStore(data string) (*store.Store, error) {
	return store.Open(filepath.Join(data, "refurb.db"), audit.Seal)
}

// Close closes the records; everything else has ended with Run.
func (a *Appliance) Close() (err error) {
	if a.Store != nil {
		err = a.Store.Close()
	}
	if a.lock != nil {
		err = errors.Join(err, a.lock.Close())
	}
	return err
}

// lockData keeps a second appliance out: each would decide without knowing what
// the other did. The tools beside it need no lock.
func lockData(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err {
	case nil:
		return f, nil
	case unix.EWOULDBLOCK:
		f.Close()
		return nil, fmt.Errorf("another appliance works with the data folder %s: end it first, or give this one its own with --data", dir)
	default:
		f.Close()
		return nil, fmt.Errorf("locking the data folder %s: %w", dir, err)
	}
}

// urls are where PCs find the appliance.
func (a *Appliance) urls() (agents, plain string) {
	ip := a.net.addr.Addr()
	return fmt.Sprintf("https://%s:%d", ip, a.Config.Agents), fmt.Sprintf("http://%s:%d", ip, a.Config.HTTP)
}

// Network is how the workshop's network is served; ok is false before it is.
func (a *Appliance) Network() (s netboot.Status, ok bool) {
	b := a.boot.Load()
	if b == nil {
		return s, false
	}
	return b.Status(), true
}

// Run serves until ctx ends or a part fails; then every part ends. With ErrMoves
// it wants to be opened and run again. page is the dashboard, or nil.
func (a *Appliance) Run(ctx context.Context, page http.Handler) error {
	cfg := a.Config
	at, err := a.join(ctx)
	if err != nil {
		return err
	}
	defer at.leave()
	a.place = at
	addr := at.addr
	if a.net, err = cfg.network(addr, at.lent); err != nil {
		return err
	}
	if err := at.routes(cfg.Networks, a.net.further); err != nil {
		return err
	}
	boot, err := netboot.New(netboot.Config{
		Interface: cfg.Interface, IP: addr.Addr(), Net: addr.Masked(),
		Mode: modes[cfg.DHCP], Found: at.found, Asked: at.asked, Lent: at.lent,
		PoolFrom: a.net.from, PoolTo: a.net.to, Lease: 2 * time.Hour, Router: a.net.router, DNS: a.net.dns, Networks: a.net.further,
		HTTPPort: cfg.HTTP, AgentsPort: cfg.Agents, Files: a.files.FS(),
		LeaseFile:    filepath.Join(cfg.Data, "leases.json"),
		RouterAdvert: true, Changed: func(st netboot.Status) { a.Trace.SetMode(st.Mode.String()) },
		Log: a.log, Desk: a.desk(),
		TestPlainROM: cfg.TestPlainROM,
	})
	if err != nil {
		return err
	}

	a.boot.Store(boot)

	plain := newEcho()
	plain.Pre(netboot.CleanPath)
	boot.Register(plain)
	a.Depot.Register(plain)
	agents := newEcho()
	sharing := NewSharing(a.Registry, a.net.addr.Masked, cfg.Peers, a.log)
	RegisterAgentAPI(agents, a.Registry, sharing, a.Trace.Add, a.log)

	// All ports are taken before any part starts, so that a taken one is a plain
	// error and not half an appliance.
	ip := addr.Addr().String()
	lnPlain, err := listen("the server of boot files and images", net.JoinHostPort(ip, fmt.Sprint(cfg.HTTP)))
	if err != nil {
		return err
	}
	defer lnPlain.Close()
	lnAgents, err := listen("the agents' API", net.JoinHostPort(ip, fmt.Sprint(cfg.Agents)))
	if err != nil {
		return err
	}
	defer lnAgents.Close()
	lnAgents = tls.NewListener(bounded(lnAgents, 4096, 32), &tls.Config{Certificates: []tls.Certificate{a.Keys.TLS}, MinVersion: tls.VersionTLS13})

	parts := map[string]func(context.Context) error{
		"network boot": boot.Run,
		"address":      at.keep,
		"move":         a.follow,
		"registry":     a.Registry.Run,
		"sharing":      sharing.Run,
		"boot trace":   a.Trace.Run,
		"checkpoints":  func(ctx context.Context) error { return a.Records.Daily(ctx, a.log) },
		"boot files":   func(ctx context.Context) error { return serveHTTP(ctx, boot.Listener(lnPlain), plain) },
		"agents' API":  func(ctx context.Context) error { return serveHTTP(ctx, lnAgents, agents) },
	}
	if page != nil {
		ln, err := listen("the dashboard", cfg.Dashboard)
		if err != nil {
			return err
		}
		defer ln.Close()
		parts["dashboard"] = func(ctx context.Context) error { return serveHTTP(ctx, bounded(ln, 2048, 256), page) }
		at := ln.Addr().(*net.TCPAddr)
		if at.IP.IsUnspecified() { // on every card; this one is surely right
			at = &net.TCPAddr{IP: addr.Addr().AsSlice(), Port: at.Port}
		}
		a.log.Info("dashboard", "address", "http://"+at.String())
	}
	a.log.Info("ready", "interface", cfg.Interface, "address", addr, "dhcp", cfg.DHCP, "boot_files", a.files.Describe())

	g, ctx := errgroup.WithContext(ctx)
	for name, run := range parts {
		g.Go(func() error {
			err := run(ctx)
			if err == nil && ctx.Err() == nil {
				err = errors.New("ended by itself")
			}
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

func newEcho() *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	return e
}

// bodies gives every request's body d to arrive, read or not: the server waits
// for what a handler leaves over before it takes the next request. A request
// without one may last, as a long poll or a stream of events does.
func bodies(d time.Duration, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// Where there is no connection to set it on, in a test, there is none.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(d))
		}
		h.ServeHTTP(w, r)
	})
}

// serveHTTP serves h until ctx ends, then gives open requests a moment.
func serveHTTP(ctx context.Context, ln net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler:           bodies(bodyTimeout, h),
		ReadHeaderTimeout: 20 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		// Long polls and event streams end with the server.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ln) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := s.Shutdown(grace); err != nil {
		_ = s.Close()
	}
	return ctx.Err()
}

// wake switches PCs on, on the workshop's network.
func (a *Appliance) wake(ctx context.Context, macs []string) error {
	if !a.net.addr.IsValid() {
		return errors.New("the appliance has not joined the workshop's network yet")
	}
	return wake.Send(ctx, a.Config.Interface, a.net.addr.Addr(), macs)
}

// desk answers the boot chain's questions from the registry.
type desk struct {
	*Appliance
	said *seldom
}

func (a *Appliance) desk() desk { return desk{a, newSeldom(a.log)} }

func (d desk) Boot(ctx context.Context, c netboot.Client) (netboot.Answer, error) {
	kind, token, err := d.Registry.Boot(ctx, workshop.Start{MAC: c.MAC, UUID: c.UUID, Since: c.Asked, IPXE: c.IPXE})
	if err != nil {
		return netboot.Answer{}, err
	}
	switch kind {
	case workshop.StartDisk:
		return netboot.Answer{Kind: netboot.Disk}, nil
	case workshop.StartMemory:
		return netboot.Answer{Kind: netboot.Memory}, nil
	case workshop.StartShell: // nothing secret: it is on the screen of whoever asks
		return netboot.Answer{Kind: netboot.Shell, Args: []string{"refurb.rescue=shell", "refurb.mac=" + c.MAC}}, nil
	}
	url, _ := d.urls()
	return netboot.Answer{Kind: netboot.Agent, Args: []string{"refurb.url=" + url, "refurb.token=" + token, "refurb.mac=" + c.MAC}}, nil
}

// catalogue is the depot as the registry needs it.
type catalogue struct{ *depot.Depot }

func (c catalogue) Image(root string) (string, *images.Manifest, error) {
	_, m, err := c.Manifest(root)
	if err != nil {
		return "", nil, err
	}
	return m.Name, m, nil
}
