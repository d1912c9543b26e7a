package workshop_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/audit"
	"refurb/appliance/store"
	"refurb/appliance/workshop"
	"refurb/images"
)

const (
	root  = "aa11"
	other = "bb22"
	size  = int64(8e9)
)

// shelf is a catalogue of images.
type shelf struct {
	mu sync.Mutex
	m  map[string]*images.Manifest
}

func (s *shelf) Image(root string) (string, *images.Manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.m[root]; m != nil {
		return m.Name, m, nil
	}
	return "", nil, errors.New("no image " + root)
}

func (s *shelf) remove(root string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, root)
}

// tb is a test or one run of a property.
type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// house is a workshop with its records in a real file.
type house struct {
	*workshop.Registry
	t     tb
	path  string
	store *store.Store
	shelf *shelf
	clock *clock
}

// clock is the time of those tests that don't run in a bubble.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func open(t testing.TB) *house {
	h := in(t, t.TempDir())
	t.Cleanup(func() { h.store.Close() })
	return h
}

func in(t tb, dir string) *house {
	h := &house{
		t: t, path: filepath.Join(dir, "refurb.db"),
		shelf: &shelf{m: map[string]*images.Manifest{
			root:  {Name: "debian-desktop", Bytes: size, Block: 512},
			other: {Name: "tiny", Bytes: 1e9, Block: 512},
		}},
		clock: &clock{now: time.Date(2026, 3, 4, 9, 0, 0, 0, time.UTC)},
	}
	h.start()
	return h
}

func (h *house) start() {
	h.t.Helper()
	var err error
	if h.store, err = store.Open(h.path, audit.Seal); err != nil {
		h.t.Fatal(err)
	}
	if h.Registry, err = workshop.Open(context.Background(), h.config()); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) config() workshop.Config {
	c := workshop.Config{
		Store: h.store, Images: h.shelf, Payload: map[string]string{"payload": "sha256:1234", "vmlinuz": "linux-image 6.12 sha256 56"}, PinB64: "cGlu",
		Key: key, BaseURL: func() (string, string) { return "https://10.77.0.1:8443", "http://10.77.0.1:8080" },
	}
	if h.clock != nil {
		c.Now = h.clock.Now
	}
	return c
}

// crash starts the program anew on a copy of the files as they lie there now,
// with nothing closed or finished.
func (h *house) crash() {
	h.t.Helper()
	copied := filepath.Join(filepath.Dir(h.path), fmt.Sprintf("%d.db", time.Now().UnixNano()))
	for _, ext := range []string{"", "-wal"} {
		b, err := os.ReadFile(h.path + ext)
		if err != nil && !(ext != "" && os.IsNotExist(err)) {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(copied+ext, b, 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	h.store.Close()
	h.path = copied
	h.start()
}

// pc is a donated PC.
type pc struct {
	h     *house
	rep   wire.Report
	mac   string
	boots int
	token string
	plan  wire.Plan
	seq   int
}

func (h *house) pc(n int, change ...func(*wire.Report)) *pc {
	mac := fmt.Sprintf("00:21:cc:%02x:%02x:%02x", n>>16&255, n>>8&255, n&255)
	p := &pc{h: h, mac: mac, rep: wire.Report{
		Agent: "test", Kernel: "6.12",
		Identity: wire.Identity{
			Manufacturer: "LENOVO", Model: "20L5", UUID: fmt.Sprintf("4c4c4544-0042-3510-8052-b4c04f%06x", n), SystemSerial: fmt.Sprintf("PF0X%04d", n),
		},
		NICs: []wire.NIC{{Name: "enp0s31f6", MAC: mac, Permanent: mac, Bus: "pci"}},
		Disks: []wire.Disk{{
			DiskID:    wire.DiskID{Path: "/dev/nvme0n1", Serial: fmt.Sprintf("S4EVNF0M%06d", n), Model: "Samsung SSD", Bytes: 256e9, LogicalBlock: 512},
			Transport: wire.TransportNVMe, Class: wire.ClassBlank,
		}},
	}}
	for _, f := range change {
		f(&p.rep)
	}
	return p
}

func data(r *wire.Report)   { r.Disks[0].Class, r.Disks[0].Found = wire.ClassData, []string{"ntfs"} }
func noDisk(r *wire.Report) { r.Disks = nil }

// script fetches a boot script; the PC is then switched on.
func (p *pc) script() (local bool) {
	p.h.t.Helper()
	kind, token, err := p.h.Boot(context.Background(), workshop.Start{MAC: p.mac, UUID: p.rep.Identity.UUID})
	if err != nil {
		p.h.t.Fatal(err)
	}
	local = kind == workshop.StartDisk
	if kind != workshop.StartAgent && !local || local != (token == "") {
		p.h.t.Fatalf("local %v with token %q", local, token)
	}
	if !local {
		p.token = token
		p.boots++
		p.seq = 0
		p.rep.BootID = fmt.Sprintf("%s boot %d", p.mac, p.boots)
	}
	return local
}

// boot starts the PC into the agent and reports.
func (p *pc) boot() wire.Plan {
	p.h.t.Helper()
	if p.h.clock != nil {
		p.h.clock.pass(time.Minute)
	}
	if p.script() {
		p.h.t.Fatal("the PC was sent to its own disk")
	}
	return p.report()
}

func (p *pc) report() wire.Plan {
	p.h.t.Helper()
	var rep wire.Report // what the registry keeps must not be ours
	b, _ := json.Marshal(p.rep)
	if err := json.Unmarshal(b, &rep); err != nil {
		p.h.t.Fatal(err)
	}
	plan, err := p.h.Report(context.Background(), p.token, rep)
	if err != nil {
		p.h.t.Fatal(err)
	}
	p.plan = plan
	return plan
}

func (p *pc) poll() wire.Plan {
	p.h.t.Helper()
	plan, err := p.h.Plan(context.Background(), p.token, 0, 0)
	if err != nil {
		p.h.t.Fatal(err)
	}
	p.plan = plan
	return plan
}

func (p *pc) send(kind wire.EventKind, o *wire.Outcome) error {
	e := wire.Event{Job: p.plan.Job, Seq: p.seq + 1, Kind: kind, Outcome: o}
	if (kind == wire.EventImaging || kind == wire.EventErasing) && p.plan.Disk != nil {
		e.Disk = new(*p.plan.Disk)
	}
	err := p.h.Event(context.Background(), p.token, e)
	if err == nil {
		p.seq++
	}
	return err
}

func (p *pc) proof() *wire.Outcome {
	return &wire.Outcome{Result: wire.Done, Root: p.plan.Image.Root, Raw: size, ReadBack: size, Written: size, Disk: p.plan.Disk}
}

// order asks for the PC's first disk to be erased and takes the plan.
func (p *pc) order(wish workshop.EraseWish) {
	p.h.t.Helper()
	if wish.Check == "" {
		wish.Check = wire.CheckFull
	}
	if err := p.h.Erase(context.Background(), "lead1", p.device().ID, p.rep.Disks[0].Path, p.tail(), wish); err != nil {
		p.h.t.Fatal(err)
	}
	p.poll()
	p.wants(wire.ActionErase)
	p.seq = 0
}

// empty is the outcome of an erasing that went well.
func (p *pc) empty() *wire.Outcome {
	d := p.plan.Disk
	o := &wire.Outcome{Result: wire.Done, Disk: d, Erasure: &wire.Erasure{
		Result: wire.Erased, Level: wire.LevelPurge, Medium: "nvme", Transport: wire.TransportNVMe, Tool: "test",
		Steps: []wire.EraseStep{{Method: "nvme sanitize block", Level: wire.LevelPurge, Bits: "SANICAP=0x00000002", Command: "84h SANACT=2", Code: "SSTAT=1h", Result: wire.Done}},
		Check: wire.ReadCheck{Kind: p.plan.Erase.Check, Seed: p.plan.Erase.Seed, Expect: "zero", Bytes: d.Bytes},
	}}
	if p.plan.Erase.Check == wire.CheckSample {
		o.Erasure.Check.Bytes = d.Bytes / 100
	}
	return o
}

// erase goes all the way from an erase plan to erased.
func (p *pc) erase() {
	p.h.t.Helper()
	if err := p.send(wire.EventErasing, nil); err != nil {
		p.h.t.Fatal(err)
	}
	if err := p.send(wire.EventOutcome, p.empty()); err != nil {
		p.h.t.Fatal(err)
	}
	p.seq = 0
	p.rep.Disks[0].Class, p.rep.Disks[0].Found = wire.ClassBlank, nil
}

// image goes all the way from an image plan to verified.
func (p *pc) image() {
	p.h.t.Helper()
	for _, k := range []wire.EventKind{wire.EventImaging, wire.EventVerifying, wire.EventOutcome} {
		var o *wire.Outcome
		if k == wire.EventOutcome {
			o = p.proof()
		}
		if err := p.send(k, o); err != nil {
			p.h.t.Fatalf("%s: %v", k, err)
		}
	}
}

// device is what the registry knows of the PC.
func (p *pc) device() workshop.DeviceDetail {
	p.h.t.Helper()
	for _, v := range p.h.View().Devices {
		if v.Report.Identity.SystemSerial == p.rep.Identity.SystemSerial {
			d, ok := p.h.Device(v.ID)
			if !ok {
				p.h.t.Fatal("a device that is seen can't be found")
			}
			return d
		}
	}
	p.h.t.Fatal("the PC is not known")
	return workshop.DeviceDetail{}
}

func (p *pc) state(want workshop.JobState) *workshop.Job {
	p.h.t.Helper()
	j := p.device().Job
	if j == nil || j.State != want {
		p.h.t.Fatalf("the job is %+v, not %s", j, want)
	}
	return j
}

func (p *pc) wants(a wire.Action) {
	p.h.t.Helper()
	if p.plan.Action != a {
		p.h.t.Fatalf("the plan is %+v, not %s", p.plan, a)
	}
}

func (p *pc) tail() string {
	s := p.rep.Disks[0].Serial
	return s[len(s)-6:]
}

func (p *pc) approve() {
	p.h.t.Helper()
	if err := p.h.Approve(context.Background(), "lead1", p.device().Job.ID, p.rep.Disks[0].Path, p.tail()); err != nil {
		p.h.t.Fatal(err)
	}
}

func (h *house) lot(standing bool) workshop.Lot {
	h.t.Helper()
	l, err := h.OpenLot(context.Background(), "lead1", "ACME S.A.", root, standing)
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

// kinds lists the kinds of a history, with the states that jobs went to.
func (h *house) kinds(device string) (s []string) {
	h.t.Helper()
	events, err := h.store.Events(context.Background(), device)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range events {
		if e.Kind == "job" {
			s = append(s, e.To)
		} else {
			s = append(s, e.Kind)
		}
	}
	return s
}

func refused(t tb, err error, kind workshop.Kind) {
	t.Helper()
	var ref *workshop.Refusal
	if !errors.As(err, &ref) || ref.Kind != kind {
		t.Fatalf("%v is not a refusal of kind %d", err, kind)
	}
}

// verify checks that a device's history verifies outside.
func (h *house) verify(device string) {
	h.t.Helper()
	lines, err := h.store.Lines(context.Background(), device)
	if err != nil {
		h.t.Fatal(err)
	}
	var entries []audit.Entry
	for _, l := range lines {
		entries = append(entries, audit.Entry(l))
	}
	var b bytes.Buffer
	if err := audit.Export(&b, device, entries, audit.JSONLines, key, time.Now()); err != nil {
		h.t.Fatal(err)
	}
	if _, err := audit.VerifyFile(&b, nil); err != nil {
		h.t.Fatal(err)
	}
}
