package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"refurb/agent/hardware"
	"refurb/agent/screen"
	"refurb/agent/wire"
	"refurb/images"
)

// appliance plays the server: the real protocol over real TLS, one image, one
// PC. Fields are set before it starts; what it heard is behind mu.
type appliance struct {
	t        *testing.T
	plan     wire.Plan
	files    string // where manifest and frames are served
	pin      [32]byte
	url      string
	key      ed25519.PublicKey
	private  ed25519.PrivateKey
	manifest *images.Manifest
	raw      []byte

	// meddle may answer a request instead of the appliance.
	meddle func(w http.ResponseWriter, r *http.Request, body []byte) bool

	disbelieve bool // an outcome of success is stored, but changes nothing

	mu       sync.Mutex
	reports  []wire.Report
	events   []wire.Event
	progress []wire.Progress
	changed  chan struct{} // closed when plan is another one
}

func start(t *testing.T, meddle func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool) *appliance {
	t.Helper()
	a := &appliance{t: t, changed: make(chan struct{})}
	a.paint()
	if meddle != nil {
		a.meddle = meddle(a)
	}
	// The certificate is long out of date and made for nobody: only its key counts.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.pin = sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	s := httptest.NewUnstartedServer(http.HandlerFunc(a.serve))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	a.url = s.URL
	plain := httptest.NewServer(http.FileServer(http.Dir(a.files)))
	t.Cleanup(plain.Close)
	a.plan = wire.Plan{Serial: 1, Number: 42, Action: wire.ActionImage, Job: "j1", Content: wire.ClassBlank,
		Image: &wire.Image{Name: "test", Root: a.manifest.Root.String(), Streams: 3,
			ManifestURL: plain.URL + "/manifest", FramesURL: plain.URL + "/frames",
			Checkin: wire.Checkin{URL: "https://10.77.0.1:8443/v1/checkin", Pin: "p", Token: "check-in"}}}
	return a
}

// paint makes a small image without a partition table, with a slot.
func (a *appliance) paint() {
	a.files = a.t.TempDir()
	a.raw = make([]byte, 10<<20)
	io.ReadFull(rand.Reader, a.raw[:6<<20])
	copy(a.raw[446:512], make([]byte, 66))
	slot := images.Slot{Name: "checkin", Offset: 2 << 20, Length: images.SlotSize}
	a.manifest = &images.Manifest{Name: "test", Created: time.Unix(1e9, 0), Bytes: int64(len(a.raw)), Block: 512, Slots: []images.Slot{slot}}
	enc, err := images.NewEncoder()
	if err != nil {
		a.t.Fatal(err)
	}
	var frames []byte
	for i := range images.Count(a.manifest.Bytes) {
		at := int64(len(frames))
		var h images.Hash
		frames, h = enc.Encode(a.raw[i*images.FrameSize:][:a.manifest.RawLength(int(i))], frames)
		f := images.Frame{Length: int64(len(frames)) - at, Hash: h}
		if f.Length > 0 {
			f.Offset = at
		}
		a.manifest.Frames = append(a.manifest.Frames, f)
	}
	pub, priv, _ := ed25519.GenerateKey(nil)
	a.key, a.private = pub, priv
	b, err := images.Sign(a.manifest, priv)
	if err != nil {
		a.t.Fatal(err)
	}
	for name, b := range map[string][]byte{"manifest": b, "frames": frames} {
		if err := os.WriteFile(filepath.Join(a.files, name), b, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *appliance) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	auth := "Bearer token"
	if r.URL.Path == wire.PathBoot {
		auth = ""
	}
	if r.Header.Get("Authorization") != auth || r.Header.Get("Refurb-Wire") != strconv.Itoa(wire.Version) {
		a.t.Errorf("%s came with %q and version %q", r.URL, r.Header.Get("Authorization"), r.Header.Get("Refurb-Wire"))
	}
	if a.meddle != nil && a.meddle(w, r, body) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch r.URL.Path {
	case wire.PathReport:
		a.reports = append(a.reports, decode[wire.Report](a.t, body))
		json.NewEncoder(w).Encode(a.plan)
	case wire.PathPlan:
		if r.FormValue("have") == fmt.Sprint(a.plan.Serial) {
			c := a.changed
			a.mu.Unlock()
			select {
			case <-c:
			case <-r.Context().Done():
			case <-time.After(2 * time.Second):
			}
			a.mu.Lock()
		}
		json.NewEncoder(w).Encode(a.plan)
	case wire.PathProgress:
		a.progress = append(a.progress, decode[wire.Progress](a.t, body))
		json.NewEncoder(w).Encode(wire.ProgressReply{})
	case wire.PathShare:
		json.NewEncoder(w).Encode(wire.Order{Serial: 1, Depot: true, Key: "k"})
	case wire.PathEvent:
		e := decode[wire.Event](a.t, body)
		a.events = append(a.events, e)
		if e.Outcome != nil && e.Outcome.Result == wire.Done {
			a.plan.Serial++
			a.plan.Action = wire.ActionLocal
			if a.disbelieve {
				a.plan.Action, a.plan.Reason = wire.ActionFail, "cancelled by Ana"
			}
			close(a.changed)
			a.changed = make(chan struct{})
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func decode[T any](t *testing.T, b []byte) (v T) {
	if err := json.Unmarshal(b, &v); err != nil {
		t.Errorf("%s: %v", b, err)
	}
	return v
}

func (a *appliance) setPlan(f func(p *wire.Plan)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.plan.Serial++
	f(&a.plan)
	close(a.changed)
	a.changed = make(chan struct{})
}

func refuse(w http.ResponseWriter, code int, e wire.Error) bool {
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(e)
	return true
}

// pc is one run of the agent against an appliance.
type pc struct {
	cfg  Config
	file string // behind its disk
	id   wire.DiskID

	mu    sync.Mutex
	views []screen.View
}

func newPC(t *testing.T, a *appliance) *pc {
	t.Helper()
	p := &pc{}
	p.file = filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(p.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p.file, 24<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", p.file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	path := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", path).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	if p.id, err = hardware.DiskIdentity("/", filepath.Base(path)); err != nil {
		t.Fatal(err)
	}
	a.plan.Disk = &p.id
	p.cfg = Config{URL: a.url, Token: "token", Pin: a.pin, Key: a.key, Version: "test", State: t.TempDir(),
		Log: slog.New(slog.DiscardHandler),
		Show: func(v screen.View) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.views = append(p.views, v)
		}}
	return p
}

// run goes from the report to the end. Drivers, network and hardware are the
// business of other tests.
func (p *pc) run(ctx context.Context) (wire.Outcome, error) {
	a := newAgent(p.cfg)
	a.farewell = 0
	return a.work(ctx, wire.Report{BootID: "b1", RAM: wire.RAM{Bytes: 1 << 30}})
}

func (p *pc) showed(f func(v screen.View) bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.views, f)
}

func (a *appliance) kinds() (k []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		k = append(k, fmt.Sprint(e.Seq, e.Kind))
	}
	return k
}

func (a *appliance) outcome() *wire.Outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.events); n > 0 && a.events[n-1].Kind == wire.EventOutcome {
		return a.events[n-1].Outcome
	}
	return nil
}
