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
	"net/netip"
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
		Answer: Answer{Kind: Agent, Args: []string{"refurb.url=https://10.77.0.1:8443", "refurb.token=abc-DEF_123"}},
	}
	if change != nil {
		change(&b.cfg)
	}
	b.serve()
	if *keepLogs != "" {
		if _, err := l.Start(io.Discard, "dumpcap", "-q", "-i", lab.Bridge, "-f", "udp port 67 or udp port 68 or udp port 4011 or arp or tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0", "-w", filepath.Join(dir, "lab", "dhcp.pcapng")); err != nil {
			t.Log(err)
		}
	}
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

const agentUp = `STUB-INIT .*refurb.token=abc-DEF_123`

var serial = []string{"-machine", "graphics=off"} // a BIOS shows its screen on the serial port then

func TestFirmwareBootsTheAgent(t *testing.T) {
	grub := []string{"script ^agent$", "http GET vmlinuz", "http GET initrd"}
	tests := []struct {
		name   string
		pc     lab.Config
		change func(*vmServer)
		want   Client
		trail  []string // "what detail", in any order
	}{
		{"BIOS", lab.Config{Firmware: lab.BIOS}, nil, Client{Arch: 0, IPXE: true},
			append(grub, "tftp ^undionly.kpxe$")},
		{"BIOS whose ROM is iPXE", lab.Config{Firmware: lab.BIOS}, func(v *vmServer) { v.Plain = false }, Client{Arch: 0, IPXE: true}, grub},
		{"BIOS e1000e", lab.Config{Firmware: lab.BIOS, NIC: "e1000e"}, nil, Client{Arch: 0, IPXE: true},
			append(grub, "tftp ^undionly.kpxe$")},
		{"UEFI", lab.Config{Firmware: lab.UEFI}, nil, Client{Arch: 7},
			append(grub, "tftp ^shimx64.efi$", "tftp ^grubx64.efi$", "tftp ^grub/grub.cfg$")},
		{"UEFI Secure Boot", lab.Config{Firmware: lab.SecureBoot}, nil, Client{Arch: 7},
			append(grub, "tftp ^shimx64.efi$", "tftp ^grubx64.efi$", "tftp ^grub/grub.cfg$")},
		{"UEFI HTTP Boot", lab.Config{Firmware: lab.HTTPBoot}, nil, Client{Arch: 16, HTTPBoot: true},
			append(grub, "http GET shimx64.efi", "http GET grubx64.efi", "http GET grub/grub.cfg")},
		{"UEFI HTTP Boot, Secure Boot", lab.Config{Firmware: lab.HTTPBootSecure}, nil, Client{Arch: 16, HTTPBoot: true},
			append(grub, "http GET shimx64.efi", "http GET grubx64.efi", "http GET grub/grub.cfg")},
		{"UEFI IA32", lab.Config{Firmware: lab.IA32}, nil, Client{Arch: 6},
			append(grub, "tftp ^grubia32.efi$", "tftp ^grub/grub.cfg$")},
		{"UEFI IA32 HTTP Boot", lab.Config{Firmware: lab.IA32HTTPBoot}, nil, Client{Arch: 15, HTTPBoot: true},
			append(grub, "http GET grubia32.efi", "http GET grub/grub.cfg")},
		{"UEFI whose ROM is iPXE", lab.Config{Firmware: lab.UEFI, ROM: true}, nil, Client{Arch: 7, IPXE: true}, grub},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, tt.change)
			pc := b.boot(tt.pc, agentUp)
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
			got := b.asked[0]
			tt.want.MAC, tt.want.UUID, tt.want.IP, tt.want.Asked, tt.want.Card = pc.MAC, pc.UUID(), got.IP, got.Asked, got.Card
			if got != tt.want || !got.IP.IsValid() || got.Asked.IsZero() || got.IPXE && got.Card == "" {
				t.Errorf("the desk was told %+v, want %+v", got, tt.want)
			}
		})
	}
}

// A router next door hands out the addresses, with nothing about booting.
func TestFirmwareBesideARouter(t *testing.T) {
	for _, tt := range []struct {
		name string
		pc   lab.Config
	}{
		{"BIOS", lab.Config{Firmware: lab.BIOS}},
		{"UEFI", lab.Config{Firmware: lab.UEFI}},
		{"UEFI Secure Boot", lab.Config{Firmware: lab.SecureBoot}},
		{"UEFI HTTP Boot", lab.Config{Firmware: lab.HTTPBoot}},
		{"UEFI IA32", lab.Config{Firmware: lab.IA32}},
		{"UEFI whose ROM is iPXE", lab.Config{Firmware: lab.UEFI, ROM: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, func(v *vmServer) { v.Proxy = true })
			if _, err := b.lab.Router(b.ctx); err != nil {
				t.Fatal(err)
			}
			pc := b.boot(tt.pc, agentUp)
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.asked) != 1 || b.asked[0].MAC != pc.MAC || b.asked[0].UUID != pc.UUID() || b.asked[0].IP.Compare(netip.MustParseAddr("10.77.0.150")) < 0 {
				t.Errorf("the desk was asked %+v; the PC is %s %s", b.asked, pc.MAC, pc.UUID())
			}
		})
	}
}

func TestFirmwareStartsItsOwnDisk(t *testing.T) {
	const up = "LOCAL-DISK-BOOT"
	for _, tt := range []struct {
		name string
		pc   lab.Config
		disk func(*bench) string
		want string
	}{
		{"BIOS", lab.Config{Firmware: lab.BIOS}, (*bench).biosDisk, up},
		{"UEFI", lab.Config{Firmware: lab.UEFI}, func(b *bench) string { return b.uefiDisk("/EFI/BOOT", "BOOTX64.EFI") }, up},
		{"UEFI Secure Boot", lab.Config{Firmware: lab.SecureBoot}, func(b *bench) string { return b.uefiDisk("/EFI/BOOT", "BOOTX64.EFI") }, up},
		{"UEFI without the fallback name", lab.Config{Firmware: lab.UEFI}, func(b *bench) string { return b.uefiDisk("/EFI/debian", "shimx64.efi") }, up},
		{"UEFI, blank", lab.Config{Firmware: lab.UEFI}, (*bench).blankDisk, "nothing on it starts"},
		{"BIOS, blank", lab.Config{Firmware: lab.BIOS, Args: serial}, (*bench).blankDisk, "nothing on it starts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, func(v *vmServer) { v.Answer = Answer{Kind: Disk} })
			tt.pc.Disks = []lab.Disk{{Path: tt.disk(b)}}
			b.boot(tt.pc, tt.want)
			if !b.saw("script", "^own disk$") {
				t.Error("no sighting of the script")
			}
		})
	}
}

// biosDisk holds a boot sector that writes a word to the serial port.
func (b *bench) biosDisk() string {
	sector := make([]byte, 1<<20)
	copy(sector, "\x31\xc0\x8e\xd8\xbe\x15\x7c\xba\xf8\x03\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4\xeb\xfd\r\nLOCAL-DISK-BOOT\r\n\x00")
	sector[510], sector[511] = 0x55, 0xaa
	write(b, b.dir, "disk", sector)
	return filepath.Join(b.dir, "disk")
}

func (b *bench) blankDisk() string {
	write(b, b.dir, "disk", make([]byte, 1<<20))
	return filepath.Join(b.dir, "disk")
}

// uefiDisk is one FAT file system with the signed shim and GRUB.
func (b *bench) uefiDisk(folder, shim string) string {
	b.Helper()
	disk := filepath.Join(b.dir, "disk")
	write(b, b.dir, "grub.cfg", []byte("echo LOCAL-DISK-BOOT\nsleep 100\n"))
	script := `set -e
truncate -s 64M "$DISK"; mkfs.vfat -F 32 "$DISK" >/dev/null
mmd -i "$DISK" ::/EFI "::$FOLDER" ::/grub
mcopy -i "$DISK" "$FILES/shimx64.efi" "::$FOLDER/$SHIM"
mcopy -i "$DISK" "$FILES/grubx64.efi" "::$FOLDER/grubx64.efi"
mcopy -i "$DISK" "$DIR/grub.cfg" ::/grub/grub.cfg
mcopy -i "$DISK" "$DIR/grub.cfg" "::$FOLDER/grub.cfg"`
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), "DISK="+disk, "FILES="+b.cfg.Files, "DIR="+b.dir, "FOLDER="+folder, "SHIM="+shim)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("disk: %v: %s", err, out)
	}
	return disk
}

func TestFirmwareTriesAgain(t *testing.T) {
	// "cut" is a connection that ends in the middle, "drop" one that ends
	// without an answer. GRUB's own HTTP takes any answer's body for the file,
	// which is why the server drops where it would say 404 (missing).
	bios := map[string][]string{"/boot/vmlinuz": {"503"}, "/boot/initrd": {"cut"}}
	pxe := map[string][]string{"/boot/vmlinuz": {"cut", "404"}, "/boot/initrd": {"drop", "drop"}}
	http := map[string][]string{"/boot/vmlinuz": {"cut", "404"}, "/boot/initrd": {"404", "503"}}
	never := func(fault string) map[string][]string { return map[string][]string{"/boot/initrd": {fault, "…"}} }
	cut := map[string][]string{"/boot/initrd": {"cut"}}
	const inVain = "could not fetch its files"
	for _, tt := range []struct {
		name   string
		pc     lab.Config
		faults map[string][]string
		want   string
	}{
		{"BIOS", lab.Config{Firmware: lab.BIOS}, bios, agentUp},
		{"UEFI", lab.Config{Firmware: lab.UEFI}, pxe, agentUp},
		{"UEFI HTTP Boot", lab.Config{Firmware: lab.HTTPBoot}, http, agentUp},
		{"BIOS in vain", lab.Config{Firmware: lab.BIOS, Args: serial}, never("404"), inVain},
		{"UEFI in vain", lab.Config{Firmware: lab.UEFI}, never("drop"), inVain},
		{"UEFI HTTP Boot in vain", lab.Config{Firmware: lab.HTTPBoot}, never("404"), inVain},
		// GRUB reads the initramfs when the kernel has been started already:
		// what breaks there is mended by starting the PC again.
		{"UEFI cut off", lab.Config{Firmware: lab.UEFI}, cut, agentUp},
		{"UEFI HTTP Boot cut off", lab.Config{Firmware: lab.HTTPBoot}, cut, agentUp},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, func(v *vmServer) { v.Faults = tt.faults })
			pc := b.boot(tt.pc, tt.want)
			if !strings.HasSuffix(tt.name, "cut off") && bytes.Contains(pc.Log(), []byte("Kernel panic")) {
				t.Error("a kernel was started without its initramfs")
			}
		})
	}
}

func TestFirmwareShowsARefusal(t *testing.T) {
	for _, cfg := range []lab.Config{{Firmware: lab.BIOS, Args: serial}, {Firmware: lab.UEFI}} {
		t.Run(string(cfg.Firmware), func(t *testing.T) {
			b := newBench(t, func(v *vmServer) { v.Refuse = `the records can't be written: "disk full" $HOME` })
			b.boot(cfg, "the records can't be written: disk full HOME|the records cant be written: disk full HOME")
		})
	}
}

// GRUB's HTTP fails now and then when a PC boots again within seconds.
func TestFirmwareBootsAgainAtOnce(t *testing.T) {
	b := newBench(t, nil)
	pc := b.boot(lab.Config{Firmware: lab.UEFI}, agentUp)
	for range 3 {
		if err := pc.WaitOff(b.ctx); err != nil {
			t.Fatal(err)
		}
		n := len(regexp.MustCompile(agentUp).FindAll(pc.Log(), -1))
		if err := pc.PowerOn(); err != nil {
			t.Fatal(err)
		}
		if _, err := pc.Expect(b.ctx, regexp.MustCompile(fmt.Sprintf("(?s)(%s.*){%d}", agentUp, n+1))); err != nil {
			t.Fatal(err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.asked {
		if c.IP != b.asked[0].IP {
			t.Errorf("the PC's address changed: %v", b.asked)
		}
	}
}
