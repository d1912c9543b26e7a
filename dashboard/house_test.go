package dashboard

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/audit"
	"refurb/appliance/store"
	"refurb/appliance/trace"
	"refurb/appliance/workshop"
	"refurb/images"
)

const (
	testCode     = "K7QX-93PD"
	testPassword = "three plain words"
	gb           = int64(1e9)
)

// house is a whole workshop but for its network: real records, real registry,
// real pages behind a real server.
type house struct {
	t     *testing.T
	store *store.Store
	reg   *workshop.Registry
	dash  *Dashboard
	srv   *httptest.Server
	shelf *shelf
	trace *trace.Log
	key   ed25519.PrivateKey
	net   atomic.Pointer[Network] // nil: nothing is known yet
}

// staff makes the store's people the dashboard's.
type staff struct{ store.Users }

func person(u store.User, err error) (User, error) {
	if errors.Is(err, store.ErrNoUser) {
		return User{}, ErrNoUser
	}
	if err != nil {
		return User{}, err
	}
	role, err := ParseRole(u.Role)
	return User{u.ID, u.Name, role, u.Disabled, u.Created, u.Stamp}, err
}

func (s staff) ByID(ctx context.Context, id string) (User, error) {
	return person(s.Users.ByID(ctx, id))
}
func (s staff) Check(ctx context.Context, name, password string) (User, error) {
	return person(s.Users.Check(ctx, name, password))
}
func (s staff) Create(ctx context.Context, actor, name, password string, r Role) (User, error) {
	u, err := s.Users.Create(ctx, actor, name, password, r.String())
	if errors.Is(err, store.ErrNameTaken) {
		return User{}, ErrNameTaken
	}
	return person(u, err)
}
func (s staff) SetRole(ctx context.Context, actor, id string, r Role) error {
	return gone(s.Users.SetRole(ctx, actor, id, r.String()))
}
func (s staff) SetDisabled(ctx context.Context, actor, id string, off bool) error {
	return gone(s.Users.SetDisabled(ctx, actor, id, off))
}
func (s staff) SetPassword(ctx context.Context, actor, id, password string) error {
	return gone(s.Users.SetPassword(ctx, actor, id, password))
}
func (s staff) Remove(ctx context.Context, actor, id string) error {
	return gone(s.Users.Remove(ctx, actor, id))
}
func (s staff) List(ctx context.Context) (all []User, err error) {
	list, err := s.Users.List(ctx)
	for _, u := range list {
		v, err := person(u, nil)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, err
}
func gone(err error) error {
	switch {
	case errors.Is(err, store.ErrNoUser):
		return ErrNoUser
	case errors.Is(err, store.ErrLastAdmin):
		return ErrLastAdmin
	}
	return err
}

// shelf is a catalogue of images that hold nothing.
type shelf struct{ list []Image }

func (s *shelf) List(context.Context) ([]Image, error) { return s.list, nil }
func (s *shelf) Image(root string) (string, *images.Manifest, error) {
	for _, m := range s.list {
		if m.Root == root && m.Problem == "" {
			return m.Name, &images.Manifest{Name: m.Name, Bytes: m.Bytes, Block: 512}, nil
		}
	}
	return "", nil, errors.New("no such image")
}

// book is the history, from the store through the audit package.
type book struct {
	*store.Store
	key ed25519.PrivateKey
}

func (b book) Export(ctx context.Context, w io.Writer, device, format string) error {
	lines, err := b.Lines(ctx, device)
	if err != nil {
		return err
	}
	entries := make([]audit.Entry, len(lines))
	for i, l := range lines {
		entries[i] = audit.Entry(l)
	}
	return audit.Export(w, device, entries, audit.Format(format), b.key, time.Now())
}

func newHouse(t *testing.T) *house {
	t.Helper()
	log := slog.New(slog.NewTextHandler(testLog{t}, nil))
	st, err := store.Open(filepath.Join(t.TempDir(), "refurb.db"), audit.Seal)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	s := &shelf{list: []Image{
		{Root: strings.Repeat("a1", 32), Name: "Debian desktop", Version: "13.2", Bytes: 12 * gb, Stored: 3870 * gb / 1000, Created: time.Date(2026, 11, 18, 10, 0, 0, 0, time.UTC)},
		{Root: strings.Repeat("b2", 32), Name: "Tiny", Version: "1", Bytes: gb / 4, Stored: gb / 50, Created: time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC)},
		{Root: strings.Repeat("c3", 32), Name: "Office PC", Version: "2026-10", Bytes: 64 * gb, Stored: 21 * gb, Created: time.Date(2026, 10, 9, 10, 0, 0, 0, time.UTC), Problem: "frame 211 doesn't match its hash: import the image again"},
	}}
	seen, err := trace.Open(filepath.Join(t.TempDir(), "trace"), log)
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, store: st, shelf: s, trace: seen, key: key}
	h.open()
	return h
}

// open starts the program over the records that are there. No PC has spoken to
// it yet.
func (h *house) open() {
	h.t.Helper()
	log := slog.New(slog.NewTextHandler(testLog{h.t}, nil))
	var err error
	h.reg, err = workshop.Open(h.t.Context(), workshop.Config{
		Store: h.store, Images: h.shelf, LostAfter: time.Minute, Log: log, Payload: map[string]string{"payload": "test"},
		BaseURL: func() (string, string) { return "https://10.77.0.1:8443", "http://10.77.0.1:8080" },
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.dash, err = New(Config{Registry: h.reg, Users: staff{h.store.Users()}, Images: h.shelf, History: book{h.store, h.key}, Trace: h.trace, Sessions: h.store.Sessions(), Code: testCode, Log: log,
		Network: func() (Network, bool) {
			if n := h.net.Load(); n != nil {
				return *n, true
			}
			return Network{}, false
		}})
	if err != nil {
		h.t.Fatal(err)
	}
	h.srv = httptest.NewServer(h.dash)
	h.t.Cleanup(h.srv.Close)
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// user makes somebody and returns their id.
func (h *house) user(name string, r Role) User {
	h.t.Helper()
	u, err := h.dash.cfg.Users.Create(h.t.Context(), "setup", name, testPassword, r)
	if err != nil {
		h.t.Fatal(err)
	}
	return u
}

// pc plays the agent of one donated PC.
type pc struct {
	h     *house
	token string
	plan  wire.Plan
	rep   wire.Report
	seq   int
}

func yes() *bool { v := true; return &v }

// someReport is that of an ordinary office PC; n makes it another one.
func someReport(n int, maker, model string, disks ...wire.Disk) wire.Report {
	return wire.Report{
		BootID: fmt.Sprintf("boot-%d-%d", n, time.Now().UnixNano()), Agent: "1.0", Kernel: "6.12.57",
		Identity: wire.Identity{
			UUID: fmt.Sprintf("4c4c4544-0038-4a10-8051-%012x", n), Manufacturer: maker, Model: model, SKU: "0A2C",
			SystemSerial: fmt.Sprintf("5CG%07dX", 4182300+n), BoardSerial: "To be filled by O.E.M.", ChassisType: "Desktop",
			Placeholders: []string{"board_serial"},
		},
		Firmware: wire.Firmware{Mode: wire.ModeUEFI64, Vendor: "HP", Version: "N01 Ver. 02.57", Date: "2022-03-08", SecureBoot: yes()},
		CPU:      wire.CPU{Model: "Intel(R) Core(TM) i5-6500T CPU @ 2.50GHz", Vendor: "GenuineIntel", Cores: 4, Threads: 4, Level: 3},
		RAM: wire.RAM{Bytes: 8192 << 20, Slots: 2, Modules: []wire.RAMModule{
			{Slot: "DIMM1", Bytes: 8192 << 20, Type: "DDR4", Form: "SODIMM", MTs: 2133, Manufacturer: "Samsung", Part: "M471A1G43DB0-CPB"},
		}},
		Disks: disks,
		NICs:  []wire.NIC{{Name: "eno1", MAC: macOf(n), Permanent: macOf(n), Driver: "e1000e", Bus: "pci", Mbit: 1000, Link: true}},
	}
}

func macOf(n int) string { return fmt.Sprintf("3c:52:82:6f:%02x:%02x", n>>8, n&255) }

func blankDisk(serial string) wire.Disk {
	return wire.Disk{DiskID: wire.DiskID{Path: "/dev/sda", Serial: serial, Model: "KINGSTON SA400S37240G", Bytes: 240 * gb, LogicalBlock: 512}, Transport: wire.TransportSATA, Class: wire.ClassBlank}
}

func dataDisk(serial string) wire.Disk {
	return wire.Disk{DiskID: wire.DiskID{Path: "/dev/nvme0n1", Serial: serial, Model: "SAMSUNG MZVLB512HBJQ-000L7", Bytes: 512 * gb, LogicalBlock: 512}, Transport: wire.TransportNVMe, Class: wire.ClassData, Found: []string{"gpt", "ntfs", "bitlocker"}}
}

// start boots a PC over the network and reports.
func (h *house) start(rep wire.Report) *pc {
	h.t.Helper()
	_, token, err := h.reg.Boot(h.t.Context(), workshop.Start{MAC: rep.NICs[0].MAC, UUID: rep.Identity.UUID})
	if err != nil {
		h.t.Fatal(err)
	}
	p := &pc{h: h, token: token, rep: rep}
	if p.plan, err = h.reg.Report(h.t.Context(), token, rep); err != nil {
		h.t.Fatal(err)
	}
	return p
}

func (p *pc) device() workshop.DeviceView {
	p.h.t.Helper()
	for _, v := range p.h.reg.View().Devices {
		if v.Number == p.plan.Number {
			return v
		}
	}
	p.h.t.Fatalf("there is no device %d", p.plan.Number)
	return workshop.DeviceView{}
}

func (p *pc) replan() *pc {
	p.h.t.Helper()
	plan, err := p.h.reg.Plan(p.h.t.Context(), p.token, 0, 0)
	if err != nil {
		p.h.t.Fatal(err)
	}
	p.plan = plan
	return p
}

func (p *pc) event(e wire.Event) *pc {
	p.h.t.Helper()
	p.replan()
	p.seq++
	e.Job, e.Seq, e.Clock = p.device().Job.ID, p.seq, time.Now()
	if err := p.h.reg.Event(p.h.t.Context(), p.token, e); err != nil {
		p.h.t.Fatalf("event %s of PC %d: %v", e.Kind, p.plan.Number, err)
	}
	return p
}

func (p *pc) image() *pc {
	p.h.t.Helper()
	p.replan()
	if p.plan.Disk == nil {
		p.h.t.Fatalf("PC %d is not told to write: %+v", p.plan.Number, p.plan)
	}
	return p.event(wire.Event{Kind: wire.EventImaging, Disk: p.plan.Disk})
}

func (p *pc) progress(phase wire.Phase, done, total, rate int64) *pc {
	p.h.t.Helper()
	if _, err := p.h.reg.Progress(p.h.t.Context(), p.token, wire.Progress{Job: p.device().Job.ID, Phase: phase, Done: done, Total: total, Rate: rate}); err != nil {
		p.h.t.Fatal(err)
	}
	return p
}

func (p *pc) verify() *pc { return p.event(wire.Event{Kind: wire.EventVerifying}) }

func (p *pc) done() *pc {
	p.h.t.Helper()
	j := p.device().Job
	return p.event(wire.Event{Kind: wire.EventOutcome, Outcome: &wire.Outcome{
		Result: wire.Done, Root: j.Image, Raw: j.Bytes, Written: j.Bytes, ReadBack: j.Bytes, Fetched: j.Bytes / 3,
		WriteTime: 142 * time.Second, ReadTime: 61 * time.Second, Finish: []string{"partition 3 grown to 239 GB", "boot entry 0007 first"},
	}})
}

// erase begins to erase as the plan says.
func (p *pc) erase() *pc {
	p.h.t.Helper()
	p.replan()
	if p.plan.Erase == nil {
		p.h.t.Fatalf("PC %d is not told to erase: %+v", p.plan.Number, p.plan)
	}
	return p.event(wire.Event{Kind: wire.EventErasing, Disk: p.plan.Disk})
}

// erasure is what an agent tells of a disk that is erased.
func (p *pc) erasure() *wire.Outcome {
	bytes := p.plan.Disk.Bytes
	if p.plan.Erase.Check == wire.CheckSample {
		bytes /= 20
	}
	caps := uint32(0b11)
	return &wire.Outcome{Result: wire.Done, Disk: p.plan.Disk, Erasure: &wire.Erasure{
		Result: wire.Erased, Level: wire.LevelPurge, Medium: "nvme", Transport: wire.TransportNVMe, Abilities: &wire.Abilities{NVMeSanitize: &caps}, Tool: "1.0",
		Started: time.Now().Add(-9 * time.Minute), Ended: time.Now(),
		Steps: []wire.EraseStep{
			{Method: "nvme sanitize crypto", Level: wire.LevelPurge, Bits: "SANICAP=0x00000003", Command: "84h SANACT=4 AUSE=0", Code: "SSTAT=3h", Result: wire.Failed, Why: "the disk ended it with an error"},
			{Method: "nvme sanitize block", Level: wire.LevelPurge, Bits: "SANICAP=0x00000003", Command: "84h SANACT=2 AUSE=0", Code: "SSTAT=1h", Result: wire.Done},
			{Method: "overwrite", Level: wire.LevelClear, Why: "a stronger step was done"},
		},
		Check: wire.ReadCheck{Kind: p.plan.Erase.Check, Seed: p.plan.Erase.Seed, Expect: "zero", Bytes: bytes},
	}}
}

// ended sends an outcome.
func (p *pc) ended(o *wire.Outcome) *pc {
	return p.event(wire.Event{Kind: wire.EventOutcome, Outcome: o})
}

// looksAgain reports once more in the same start, as an agent does after an erasure.
func (p *pc) looksAgain(disks ...wire.Disk) *pc {
	p.h.t.Helper()
	p.rep.Disks, p.seq = disks, 0
	var err error
	if p.plan, err = p.h.reg.Report(p.h.t.Context(), p.token, p.rep); err != nil {
		p.h.t.Fatal(err)
	}
	return p
}

func (p *pc) fail(cause, next string) *pc {
	return p.event(wire.Event{Kind: wire.EventOutcome, Outcome: &wire.Outcome{Result: wire.Failed, Cause: cause, Next: next}})
}

func (p *pc) firstBoot() *pc {
	p.h.t.Helper()
	err := p.h.reg.Checkin(p.h.t.Context(), p.plan.Image.Checkin.Token, wire.FirstBoot{System: "Debian GNU/Linux 13 (trixie)", Kernel: "6.12.57", Root: "/dev/sda3", MAC: p.rep.NICs[0].MAC, UUID: p.rep.Identity.UUID, Mode: wire.ModeUEFI64})
	if err != nil {
		p.h.t.Fatal(err)
	}
	return p
}

// browser is one person's, without scripts.
type browser struct {
	h *house
	*http.Client
}

func (h *house) browser() *browser {
	jar, _ := cookiejar.New(nil)
	return &browser{h, &http.Client{Jar: jar, Timeout: 20 * time.Second}}
}

// as is a browser in which somebody has logged in.
func (h *house) as(name string) *browser {
	h.t.Helper()
	b := h.browser()
	if status, body := b.post("/login", "name", name, "password", testPassword); status != http.StatusOK {
		h.t.Fatalf("login as %s: %d\n%s", name, status, text(body))
	}
	return b
}

func (b *browser) do(method, path string, form url.Values, header ...string) (int, string) {
	b.h.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(b.h.t.Context(), method, b.h.srv.URL+path, body)
	if err != nil {
		b.h.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := b.Client.Do(r)
	if err != nil {
		b.h.t.Fatal(err)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		b.h.t.Fatal(err)
	}
	return res.StatusCode, string(all)
}

func (b *browser) get(path string, header ...string) (int, string) {
	b.h.t.Helper()
	return b.do(http.MethodGet, path, nil, header...)
}

func (b *browser) post(path string, pairs ...string) (int, string) {
	b.h.t.Helper()
	form := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	return b.do(http.MethodPost, path, form)
}

// wants fails unless a page holds all of these.
func wants(t *testing.T, body string, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if !strings.Contains(body, s) {
			t.Errorf("the page doesn't say %q:\n%s", s, text(body))
		}
	}
}

// text of a page without its frame, for messages.
func text(body string) string {
	_, after, ok := strings.Cut(body, "<main")
	if ok {
		body = after
	}
	return body[:min(len(body), 3000)]
}

func decode(t *testing.T, body string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
}
