package campaign

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"refurb/agent/wire"
	"refurb/appliance"
	"refurb/appliance/audit"
	"refurb/appliance/store"
	"refurb/appliance/trace"
	"refurb/appliance/workshop"
	"refurb/images"
	"refurb/images/depot"
)

const (
	agentsAt = "10.77.0.1:8443"
	plainAt  = "10.77.0.1:8080"
	donor    = "ACME"
	lead     = "lead"
)

// house is the appliance over its lives: killed at any point, and started again
// from the file that was there at that moment.
type house struct {
	w   *world
	dir string

	mu    sync.Mutex
	lives int
	up    *life // nil: it is off
	all   sync.WaitGroup
}

// life is one run of the appliance's program.
type life struct {
	h    *house
	file string
	*store.Store
	reg    *workshop.Registry
	api    *echo.Echo
	cancel context.CancelFunc

	mu   sync.Mutex // while a decision is being stored
	dead bool
}

var errKilled = errors.New("the appliance was killed")

type catalogue struct{ *depot.Depot }

func (c catalogue) Image(root string) (string, *images.Manifest, error) {
	_, m, err := c.Manifest(root)
	if err != nil {
		return "", nil, err
	}
	return m.Name, m, nil
}

func (h *house) path() string { return filepath.Join(h.dir, fmt.Sprintf("records-%d.db", h.lives)) }

// start runs the appliance on the records as they were left.
func (h *house) start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	log := slog.New(slog.DiscardHandler)
	l := &life{h: h, file: h.path(), api: echo.New()}
	var err error
	if l.Store, err = store.Open(l.file, audit.Seal); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	d, err := depot.Open(shelf.images, shelf.keys.Signing)
	if err == nil {
		l.reg, err = workshop.Open(ctx, workshop.Config{
			Store: l, Images: catalogue{d}, BaseURL: func() (string, string) { return "https://" + agentsAt, "http://" + plainAt },
			PinB64: shelf.keys.Pin, Key: shelf.keys.Signing,
		})
	}
	if err != nil {
		cancel()
		return errors.Join(err, l.Close())
	}
	sharing := appliance.NewSharing(l.reg, func() netip.Prefix { return netip.MustParsePrefix("10.77.0.0/24") }, true, log)
	appliance.RegisterAgentAPI(l.api, l.reg, sharing, func(trace.Sighting) {}, log)
	plain := echo.New()
	d.Register(plain)

	quiet := slog.NewLogLogger(slog.DiscardHandler, 0)
	agents := tls.NewListener(h.w.net.listen(agentsAt), &tls.Config{Certificates: []tls.Certificate{shelf.keys.TLS}, MinVersion: tls.VersionTLS13})
	servers := []*http.Server{
		{Handler: http.HandlerFunc(l.serve), ReadHeaderTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: quiet},
		{Handler: h.w.files(plain), ReadHeaderTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: quiet},
	}
	h.all.Go(func() { _ = servers[0].Serve(agents) })
	files := h.w.net.listen(plainAt)
	h.all.Go(func() { _ = servers[1].Serve(files) })
	h.all.Go(func() { _ = l.reg.Run(ctx) })
	h.all.Go(func() { _ = sharing.Run(ctx) })
	h.all.Go(func() {
		<-ctx.Done()
		for _, s := range servers {
			_ = s.Close()
		}
		time.Sleep(time.Minute) // for handlers that nobody waits for
		_ = l.Close()
	})
	h.up = l
	return nil
}

// life gives the appliance if it is on.
func (h *house) life() *life {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up
}

// kill ends the program where it stands. What the file of records and its
// journal held is what the next start finds.
func (h *house) kill(salt uint64) {
	if l := h.life(); l != nil {
		l.mu.Lock()
		l.die(salt)
		l.mu.Unlock()
	}
}

// die is called with l.mu held: no decision is half stored by this program, and
// what SQLite has half done is in its journal.
func (l *life) die(salt uint64) {
	if l.dead {
		return
	}
	l.dead = true
	h := l.h
	away := []time.Duration{500 * time.Millisecond, 10 * time.Second, 90 * time.Second, 20 * time.Minute}[salt%4]
	h.w.say("the appliance is killed, and away for %v", away)
	h.mu.Lock()
	h.up = nil
	h.lives++
	next := h.path()
	h.mu.Unlock()
	for _, end := range []string{"", "-wal"} {
		b, err := os.ReadFile(l.file + end)
		if err == nil {
			err = os.WriteFile(next+end, b, 0o600)
		}
		if err != nil && !(end != "" && errors.Is(err, os.ErrNotExist)) {
			h.w.blame("harness", "copying the records: %v", err)
		}
	}
	h.w.net.forget(agentsAt, plainAt)
	h.w.net.reset(func(c *conn) bool { return c.addr == agentsAt || c.addr == plainAt })
	l.cancel()
	h.w.later(away, func() {
		if err := h.start(); err != nil {
			h.w.blame("lost", "the appliance doesn't start again: %v", err)
		}
		h.w.say("the appliance is back")
	})
}

// Commit stands before the store: what is stored is noted, and some of it fails.
func (l *life) Commit(ctx context.Context, c workshop.Change) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return errKilled
	}
	after := func() {}
	for _, f := range l.h.w.due("commit") {
		switch f.kind {
		case "full":
			return store.ErrFull
		case "kill-before":
			l.die(f.salt)
		case "kill-after":
			after = func() { l.die(f.salt) }
		}
	}
	if l.dead {
		return errKilled
	}
	l.h.w.judge.deciding(c)
	if f := l.h.w.broken.commit; f != nil {
		c = f(c)
	}
	if err := l.Store.Commit(ctx, c); err != nil {
		return err
	}
	l.h.w.judge.decided(c)
	if after(); l.dead {
		return errKilled
	}
	return nil
}

// serve is the agents' API behind a server that drops requests and replies.
func (l *life) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, wire.MaxReport+1))
	if err != nil {
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	again := func() *httptest.ResponseRecorder {
		rec, req := httptest.NewRecorder(), r.Clone(r.Context())
		req.Body = io.NopCloser(bytes.NewReader(body))
		l.api.ServeHTTP(rec, req)
		l.heard(r, path, body, rec)
		return rec
	}
	times, reply := 1, func(rec *httptest.ResponseRecorder) { pass(w, rec, rec.Body.Bytes()) }
	for _, f := range l.h.w.due(path) {
		switch f.kind {
		case "before":
			panic(http.ErrAbortHandler)
		case "after":
			reply = func(*httptest.ResponseRecorder) { panic(http.ErrAbortHandler) }
		case "half":
			reply = func(rec *httptest.ResponseRecorder) {
				w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()+1))
				pass(w, rec, rec.Body.Bytes()[:rec.Body.Len()/2])
				panic(http.ErrAbortHandler)
			}
		case "garbage":
			reply = func(rec *httptest.ResponseRecorder) { pass(w, rec, []byte("<html>not what was asked for")) }
		case "500", "503":
			code := map[faultKind]int{"500": 500, "503": 503}[f.kind]
			w.WriteHeader(code)
			return
		case "slow":
			time.Sleep(time.Duration(f.arg%90+1) * time.Second)
		case "twice":
			times = 2
		case "kill-before":
			l.h.kill(f.salt)
			panic(http.ErrAbortHandler)
		case "kill-after":
			reply = func(*httptest.ResponseRecorder) { l.h.kill(f.salt); panic(http.ErrAbortHandler) }
		}
	}
	var rec *httptest.ResponseRecorder
	for range times {
		rec = again()
	}
	reply(rec)
}

func pass(w http.ResponseWriter, rec *httptest.ResponseRecorder, body []byte) {
	for k, v := range rec.Header() {
		if w.Header()[k] == nil {
			w.Header()[k] = v
		}
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(body)
}

// heard notes what the appliance has answered: whether or not the answer gets
// through, it must stand by it.
func (l *life) heard(r *http.Request, path string, body []byte, rec *httptest.ResponseRecorder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return // an answer that was never given
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	j := l.h.w.judge
	if e := (wire.Event{}); path == "event" && json.Unmarshal(body, &e) == nil {
		j.event(e, rec.Code)
	}
	if p := (wire.Plan{}); (path == "report" || path == "plan") && rec.Code == http.StatusOK && json.Unmarshal(rec.Body.Bytes(), &p) == nil {
		j.plan(token, p)
	}
}

// files serves manifests and frames, some of them badly.
func (w *world) files(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		for _, f := range w.due("file") {
			switch f.kind {
			case "500", "404":
				code := map[faultKind]int{"500": 500, "404": 404}[f.kind]
				rw.WriteHeader(code)
				return
			case "slow":
				time.Sleep(time.Duration(f.arg%90+1) * time.Second)
			case "whole": // though a part was asked for
				r.Header.Del("Range")
			case "other":
				r.Header.Set("Range", "bytes=1-4096")
			case "kill-before":
				w.house.kill(f.salt)
				panic(http.ErrAbortHandler)
			case "cut", "flip":
				rw = &spoiled{rw, f.kind, f.arg}
			}
		}
		if w.pace > 0 {
			rw = paced{rw, w.pace}
		}
		h.ServeHTTP(rw, r)
	})
}

// paced is a slow network.
type paced struct {
	http.ResponseWriter
	pace time.Duration
}

func (p paced) Write(b []byte) (int, error) {
	time.Sleep(p.pace)
	return p.ResponseWriter.Write(b)
}

// spoiled is a reply of which a byte comes wrong, or that ends there.
type spoiled struct {
	http.ResponseWriter
	kind  faultKind
	after int
}

func (s *spoiled) Write(p []byte) (int, error) {
	if s.after < 0 || s.after >= len(p) {
		s.after -= len(p)
		return s.ResponseWriter.Write(p)
	}
	if s.kind == "cut" {
		_, _ = s.ResponseWriter.Write(p[:s.after])
		panic(http.ErrAbortHandler)
	}
	p = bytes.Clone(p)
	p[s.after] ^= 1
	s.after = -1
	return s.ResponseWriter.Write(p)
}

// boot is what a PC gets from the boot script: nothing, if it starts from its own
// disk.
func (h *house) boot(mac string) (local bool, token string) {
	for range 2000 {
		if l := h.life(); l != nil {
			if kind, token, err := l.reg.Boot(context.Background(), workshop.Start{MAC: mac}); err == nil {
				return kind == workshop.StartDisk, token
			}
		}
		time.Sleep(5 * time.Second)
	}
	return true, ""
}

func (w *world) key() ed25519.PublicKey { return shelf.keys.Signing.Public().(ed25519.PublicKey) }
