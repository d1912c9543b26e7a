//go:build e2e

// Package e2e runs the product as a workshop does: the real appliance, real
// firmware in virtual PCs, real disks, a person at the dashboard. It needs root
// and what `make build` makes.
package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/agent/esp"
	"refurb/agent/finish"
	"refurb/agent/wire"
	"refurb/appliance"
	"refurb/appliance/workshop"
	"refurb/images"
	"refurb/images/depot"
	"refurb/scripts/lab"
)

var (
	buildDir = flag.String("dir", "", "folder with the built programs")
	full     = flag.Bool("full", false, "the slower matrix too")
)

// built is what all tests share and none changes: programs, boot files, images.
var built struct {
	refurb, data string
	picture      // tiny
}

// picture is an image as it has to arrive on a disk.
type picture struct {
	root     string
	manifest *images.Manifest
	raw      []byte
}

func TestMain(m *testing.M) {
	flag.Parse()
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	code := m.Run()
	results.print(os.Stdout)
	os.Exit(code)
}

func prepare() error {
	if *buildDir == "" {
		return errors.New("say where the programs are: -args -dir build (or run `make test`)")
	}
	built.refurb = filepath.Join(*buildDir, "refurb")
	built.data = filepath.Join(*buildDir, "e2e", "data")
	cache := filepath.Join(*buildDir, "cache")
	if err := os.MkdirAll(built.data, 0o755); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"payload", "build", "--data", built.data, "--cache", cache},
		{"image", "build", "tiny", "--data", built.data, "--cache", cache},
	} {
		if out, err := exec.Command(built.refurb, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("refurb %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	var err error
	built.picture, err = find(built.data, "tiny")
	return err
}

// find gives the image of that name in a depot.
func find(data, name string) (p picture, err error) {
	keys, err := appliance.LoadKeys(data)
	if err != nil {
		return p, err
	}
	d, err := depot.Open(filepath.Join(data, "images"), keys.Signing)
	if err != nil {
		return p, err
	}
	list, err := d.List()
	if err != nil {
		return p, err
	}
	i := slices.IndexFunc(list, func(e depot.Entry) bool { return e.Err == nil && e.Manifest.Name == name })
	if i < 0 {
		return p, fmt.Errorf("the image %q is not in the depot", name)
	}
	p = picture{root: list[i].Root, manifest: list[i].Manifest}
	p.raw, err = decode(filepath.Join(data, "images", p.root, "frames"), p.manifest)
	return p, err
}

// decode gives the raw bytes of an image.
func decode(frames string, m *images.Manifest) ([]byte, error) {
	b, err := os.ReadFile(frames)
	if err != nil {
		return nil, err
	}
	dec, err := images.NewDecoder()
	if err != nil {
		return nil, err
	}
	raw := make([]byte, 0, m.Bytes)
	buf := make([]byte, images.FrameSize)
	for i, f := range m.Frames {
		if f.Length == 0 {
			raw = append(raw, make([]byte, m.RawLength(i))...)
			continue
		}
		out, err := dec.Decode(m, i, b[f.Offset:f.Offset+f.Length], buf)
		if err != nil {
			return nil, err
		}
		raw = append(raw, out...)
	}
	return raw, nil
}

// shop is one workshop of one test.
type shop struct {
	*testing.T
	lab    *lab.Lab
	app    *lab.Appliance
	router *lab.Router // nil: none
	ctx    context.Context
	data   string
	why    string // the first thing that went wrong
}

func (s *shop) Error(args ...any) { s.Helper(); s.wrong(fmt.Sprint(args...)); s.T.Error(args...) }
func (s *shop) Errorf(f string, args ...any) {
	s.Helper()
	s.wrong(fmt.Sprintf(f, args...))
	s.T.Errorf(f, args...)
}
func (s *shop) Fatal(args ...any) { s.Helper(); s.wrong(fmt.Sprint(args...)); s.T.Fatal(args...) }
func (s *shop) Fatalf(f string, args ...any) {
	s.Helper()
	s.wrong(fmt.Sprintf(f, args...))
	s.T.Fatalf(f, args...)
}

func (s *shop) wrong(what string) {
	if s.why == "" {
		s.why = what
	}
}

// limit is for one test, on a machine that has much else to do. Some cards of the
// whole matrix lose packets then, and their firmware takes minutes for a file.
func limit() time.Duration {
	if *full {
		return 25 * time.Minute
	}
	return 15 * time.Minute
}

// open starts a workshop with the appliance running and somebody logged in.
func open(t *testing.T, args ...string) *shop {
	return openBeside(t, func(*shop) {}, args...)
}

// openBeside does so after something else was put on the switch.
func openBeside(t *testing.T, before func(*shop), args ...string) *shop {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), limit())
	t.Cleanup(cancel)
	// Not t.TempDir: a unix socket's path has to be short, and a failed test
	// keeps its logs.
	dir, err := os.MkdirTemp("", "refurb-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(filepath.Join(dir, "lab"))
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{T: t, lab: l, ctx: ctx, data: filepath.Join(dir, "data")}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("closing the lab: %v", err)
		}
		if !t.Failed() {
			os.RemoveAll(dir)
			return
		}
		if s.app != nil {
			log := s.app.Log()
			t.Logf("logs are in %s; the appliance said last:\n%s", dir, log[max(0, len(log)-3000):])
		}
	})
	must(t, os.MkdirAll(s.data, 0o700))
	for _, d := range []string{"keys", "payload", "images"} {
		must(t, exec.Command("cp", "-a", "--reflink=auto", filepath.Join(built.data, d), s.data).Run())
	}
	before(s)
	s.app, err = l.Appliance(ctx, built.refurb, s.data, append([]string{"--test-plain-rom"}, args...)...)
	must(t, err)
	must(t, s.app.SetUp(ctx, "lead", "a long enough password"))
	return s
}

// lot opens a lot with the tiny image.
func (s *shop) lot(standing bool) {
	s.Helper()
	must(s, s.app.OpenLot(s.ctx, "Test donor", built.root, standing))
}

// pc puts a PC on the bench; without disks it gets a blank one of 256 MiB.
func (s *shop) pc(cfg lab.Config) *lab.PC {
	s.Helper()
	if cfg.Disks == nil {
		cfg.Disks = []lab.Disk{{Bus: "virtio", Bytes: 256 << 20}}
	}
	pc, err := s.lab.PC(cfg)
	must(s, err)
	return pc
}

// start powers the PC on.
func (s *shop) start(pc *lab.PC) {
	s.Helper()
	must(s, pc.PowerOn())
}

// device is what the dashboard knows of the PC.
func (s *shop) device(pc *lab.PC) (workshop.DeviceView, bool) {
	s.Helper()
	var v workshop.View
	if err := s.app.Devices(s.ctx, &v); err != nil {
		return workshop.DeviceView{}, false // the appliance may be down on purpose
	}
	for _, d := range v.Devices {
		// The address of a USB card says nothing about the PC that it is plugged into.
		if slices.Contains(d.MACs, pc.MAC) || d.Report.Identity.UUID == pc.UUID() {
			return d, true
		}
	}
	return workshop.DeviceView{}, false
}

// until waits for the PC's newest job to satisfy ok and gives what it was then.
// It fails at once when a job ends that wasn't expected to, or QEMU itself.
func (s *shop) until(pc *lab.PC, what string, ok func(workshop.DeviceView) bool) workshop.DeviceView {
	s.Helper()
	dev, good := s.await(pc, ok)
	if !good {
		s.lost(pc, what, dev)
	}
	return dev
}

// await is until for who can go on without it: it gives what was last known.
func (s *shop) await(pc *lab.PC, ok func(workshop.DeviceView) bool) (last workshop.DeviceView, good bool) {
	s.Helper()
	for {
		crashed := !pc.On() && pc.Crash() != ""
		dev, seen := s.device(pc)
		if seen && dev.Job != nil {
			last = dev
			if ok(dev) {
				return dev, true
			}
		}
		if crashed || last.Job != nil && last.Job.State == workshop.JobFailed {
			return last, false
		}
		select {
		case <-s.ctx.Done():
			return last, false
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// lost ends the test, with all that is known of the PC.
func (s *shop) lost(pc *lab.PC, what string, last workshop.DeviceView) {
	s.Helper()
	shot := s.lab.Dir + "/" + pc.Name + ".png"
	_ = pc.Screendump(shot)
	state, reason := "never seen", ""
	if last.Job != nil {
		state, reason = string(last.Job.State), last.Job.Reason
	}
	s.Fatalf("%s: waited for %s; its job is %s (%s); screen: %s; QEMU: %q; serial port:\n%s", pc.Name, what, state, reason, shot, pc.Crash(), pc.Tail(2500))
}

func is(states ...workshop.JobState) func(workshop.DeviceView) bool {
	return func(d workshop.DeviceView) bool { return slices.Contains(states, d.Job.State) }
}

// same fails unless the disk holds the tiny image.
func (s *shop) same(disk string) {
	s.Helper()
	s.holds(disk, built.picture)
}

// holds fails unless the disk holds the image, wherever the image says so: not
// in the partition tables, which fit the larger disk, nor in slots.
func (s *shop) holds(disk string, p picture) {
	s.Helper()
	f, err := os.Open(disk)
	must(s, err)
	defer f.Close()
	raw := s.born(f, p)
	buf := make([]byte, images.FrameSize)
	for at := 0; at < len(raw); at += len(buf) {
		want := bytes.Clone(raw[at:min(len(raw), at+len(buf))])
		got := buf[:len(want)]
		_, err := f.ReadAt(got, int64(at))
		must(s, err)
		blank := func(from, to int64) {
			from, to = max(from-int64(at), 0), min(to-int64(at), int64(len(want)))
			for i := from; i < to; i++ {
				want[i], got[i] = 0, 0
			}
		}
		blank(440, 34*512)                             // MBR entries, GPT
		blank(int64(len(raw))-33*512, int64(len(raw))) // the image's own backup GPT
		for _, slot := range p.manifest.Slots {
			blank(slot.Offset, slot.Offset+int64(slot.Length))
		}
		if !bytes.Equal(want, got) {
			i := 0
			for want[i] == got[i] {
				i++
			}
			s.Fatalf("%s differs from the image at byte %d: %s instead of %s", disk, at+i,
				hex.EncodeToString(got[i:min(i+16, len(got))]), hex.EncodeToString(want[i:min(i+16, len(want))]))
		}
	}
	if out, err := exec.Command("sgdisk", "--verify", disk).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("No problems found")) {
		s.Fatalf("sgdisk finds fault with %s: %v\n%s", disk, err, out)
	}
}

// born is the image with the birth record that the disk has: it fails unless the
// appliance signed it for this image.
func (s *shop) born(disk io.ReaderAt, p picture) []byte {
	s.Helper()
	raw := bytes.Clone(p.raw)
	table, err := finish.Fit(raw[:images.Head], p.manifest.Block, int64(len(raw)), int64(len(raw)), 0, [16]byte{})
	must(s, err)
	block := int64(p.manifest.Block)
	at, size := int64(table.ESP.First)*block, int64(table.ESP.Last-table.ESP.First+1)*block
	v, err := esp.Open(disk, at, size)
	must(s, err)
	record, err := v.Read(wire.BirthPath, wire.MaxBirth)
	must(s, err)
	keys, err := appliance.LoadKeys(s.data)
	must(s, err)
	birth, err := wire.ParseBirth(record, keys.Signing.Public().(ed25519.PublicKey))
	must(s, err)
	if birth.Root != p.root || birth.Disk.Serial == "" {
		s.Errorf("the disk's birth record says %+v", birth)
	}
	v, err = esp.Open(bytes.NewReader(raw), at, size)
	must(s, err)
	groups, err := v.Put(wire.BirthPath, record, p.manifest.Block)
	must(s, err)
	for _, g := range groups {
		for _, w := range g {
			copy(raw[w.At:], w.B)
		}
	}
	return raw
}

// unbootable fails unless the disk's first MiB is zero and no partition table
// stands in its last one, where a disk that is being written holds marks.
func (s *shop) unbootable(disk string) {
	s.Helper()
	f, err := os.Open(disk)
	must(s, err)
	defer f.Close()
	st, err := f.Stat()
	must(s, err)
	b := make([]byte, 1<<20)
	_, err = f.ReadAt(b, 0)
	must(s, err)
	if len(bytes.Trim(b, "\x00")) != 0 {
		s.Fatalf("%s: the first MiB isn't zero: this disk might start", disk)
	}
	_, err = f.ReadAt(b, st.Size()-int64(len(b)))
	must(s, err)
	if bytes.Contains(b, []byte("EFI PART")) {
		s.Fatalf("%s: the last MiB holds a partition table: this disk might start", disk)
	}
}

// digest of a whole file, to see that nobody wrote to it.
func (s *shop) digest(path string) string {
	s.Helper()
	f, err := os.Open(path)
	must(s, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	must(s, err)
	return hex.EncodeToString(h.Sum(nil))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
