//go:build e2e

package netboot

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"refurb/scripts/lab"
)

var (
	buildDir = flag.String("dir", "../../build", "folder that the programs were built to")
	bootDir  = flag.String("boot", "", "folder of the boot files; else those that the end-to-end tests built")
	_        = flag.Bool("full", false, "accepted; these tests are always full")
	keepLogs = flag.String("keep", "", "keep serial logs and captures in this folder")
)

// bench is a lab with our server in it.
type bench struct {
	*testing.T
	ctx context.Context
	lab *lab.Lab
	dir string
	cfg vmServer
	srv *exec.Cmd

	mu    sync.Mutex
	seen  []Sighting
	asked []Client
	log   bytes.Buffer
}

func newBench(t *testing.T, change func(*vmServer)) *bench {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("", "refurb-nb-")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(filepath.Join(dir, "lab"))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, ctx: ctx, lab: l, dir: dir}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("closing the lab: %v", err)
		}
		if *keepLogs != "" {
			to := filepath.Join(*keepLogs, strings.ReplaceAll(t.Name(), "/", "-"))
			_ = exec.Command("cp", "-r", filepath.Join(dir, "lab"), to).Run()
			b.mu.Lock()
			_ = os.WriteFile(filepath.Join(to, "server.log"), b.log.Bytes(), 0o644)
			b.mu.Unlock()
		}
		if t.Failed() {
			b.mu.Lock()
			t.Logf("the server said:\n%s", b.log.String())
			b.mu.Unlock()
		}
		os.RemoveAll(dir)
	})
	b.cfg = vmServer{
		Interface: lab.Bridge, IP: lab.IP, Net: "10.77.0.0/24", From: "10.77.0.100", To: "10.77.0.120",
		Files: bootFiles(t, dir), Leases: filepath.Join(dir, "leases.json"), Plain: true, Advert: true,
		Answer: Answer{Args: []string{"refurb.url=https://10.77.0.1:8443", "refurb.token=abc-DEF_123"}},
	}
	if change != nil {
		change(&b.cfg)
	}
	b.serve()
	return b
}

// bootFiles lays out what the server gives: the real boot files, our initrd.
func bootFiles(t *testing.T, dir string) string {
	from := *bootDir
	if from == "" {
		from = filepath.Join(*buildDir, "e2e", "data", "payload", "boot")
	}
	to := filepath.Join(dir, "files")
	if out, err := exec.Command("cp", "-rL", from, to).CombinedOutput(); err != nil {
		t.Fatalf("boot files: %v: %s (build them: make e2e-full)", err, out)
	}
	init := filepath.Join(dir, "init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", init, "./testdata/stubinit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("stub: %v: %s", err, out)
	}
	bin, err := os.ReadFile(init)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := cpio.Newc.Writer(&buf)
	for _, r := range []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", string(bin), 0o755),
	} {
		if err := w.WriteRecord(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	write(t, to, "initrd", buf.Bytes())
	return to
}

// serve starts the server in the lab's namespace.
func (b *bench) serve() {
	b.Helper()
	js, err := json.Marshal(b.cfg)
	if err != nil {
		b.Fatal(err)
	}
	r, w := io.Pipe()
	go b.read(r)
	b.srv, err = b.lab.Start(w, "env", roleVar+"="+roleServer, vmServerVar+"="+string(js), "/proc/"+fmt.Sprint(os.Getpid())+"/exe")
	if err != nil {
		b.Fatal(err)
	}
	for {
		b.mu.Lock()
		up := strings.Contains(b.log.String(), "network boot is served")
		b.mu.Unlock()
		if up {
			return
		}
		select {
		case <-b.ctx.Done():
			b.Fatal("the server did not start")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (b *bench) read(r io.Reader) {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		line := sc.Bytes()
		b.mu.Lock()
		fmt.Fprintf(&b.log, "%s\n", line)
		var s Sighting
		var c Client
		if json.Unmarshal(line, &s) == nil && s.What != "" {
			b.seen = append(b.seen, s)
		} else if json.Unmarshal(line, &c) == nil && c.MAC != "" {
			b.asked = append(b.asked, c)
		}
		b.mu.Unlock()
	}
}

// saw says whether a sighting of a kind has a detail that matches.
func (b *bench) saw(what, detail string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	re := regexp.MustCompile(detail)
	for _, s := range b.seen {
		if s.What == what && re.MatchString(s.Detail) && s.Err == "" {
			return true
		}
	}
	return false
}

func (b *bench) boot(cfg lab.Config, want string) *lab.PC {
	b.Helper()
	pc, err := b.lab.PC(cfg)
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if err := pc.PowerOn(); err != nil {
		b.Fatal(err)
	}
	if _, err := pc.Expect(b.ctx, regexp.MustCompile(want)); err != nil {
		b.Fatal(err)
	}
	b.Logf("%s: %q after %.1f s", cfg.Firmware, want, time.Since(start).Seconds())
	return pc
}

var noPXE = []string{"-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=no", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no"}

func TestFirmwareBootsTheAgent(t *testing.T) {
	tests := []struct {
		name  string
		pc    lab.Config
		arch  uint16
		http  bool
		trail []string // "what detail", in any order
	}{
		{"BIOS", lab.Config{Firmware: lab.BIOS}, 0, false,
			[]string{"tftp ^undionly.kpxe$", "script ^agent$", "http GET vmlinuz", "http GET initrd"}},
		{"UEFI", lab.Config{Firmware: lab.UEFI}, 7, false,
			[]string{"tftp ^shimx64.efi$", "tftp ^grubx64.efi$", "tftp ^grub/grub.cfg$", "script ^agent$", "http GET vmlinuz", "http GET initrd"}},
		{"SecureBoot", lab.Config{Firmware: lab.SecureBoot}, 7, false,
			[]string{"tftp ^shimx64.efi$", "tftp ^grubx64.efi$", "tftp ^grub/grub.cfg$", "script ^agent$", "http GET vmlinuz", "http GET initrd"}},
		{"UEFI HTTP", lab.Config{Firmware: lab.UEFI, Args: noPXE}, 16, true,
			[]string{"http GET shimx64.efi", "http GET grubx64.efi", "http GET grub/grub.cfg", "script ^agent$", "http GET vmlinuz", "http GET initrd"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			pc := b.boot(tt.pc, `STUB-INIT .*refurb.token=abc-DEF_123`)
			for _, want := range tt.trail {
				what, detail, _ := strings.Cut(want, " ")
				if !b.saw(what, detail) {
					t.Errorf("no sighting %q of %q", what, detail)
				}
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.asked) != 1 {
				t.Fatalf("the desk was asked %d times, want once: %+v", len(b.asked), b.asked)
			}
			c := b.asked[0]
			if c.MAC != pc.MAC || c.UUID != pc.UUID() || c.Arch != tt.arch || c.HTTPBoot != tt.http || !c.IP.IsValid() {
				t.Errorf("the desk was told %+v; the PC is %s %s", c, pc.MAC, pc.UUID())
			}
		})
	}
}
