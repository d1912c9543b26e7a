//go:build e2e

package recipes_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/payload"
	"refurb/images"
	"refurb/images/recipes"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

var (
	buildDir = flag.String("dir", "", "folder with the built programs")
	full     = flag.Bool("full", false, "build and start the desktop too")
)

const ovmf = "/usr/share/OVMF/OVMF_"

// firmwares are QEMU's arguments; VARS stands for the PC's own copy of the
// firmware's settings.
var firmwares = map[string]struct {
	args []string
	vars string
	mode string
}{
	wire.ModeBIOS: {[]string{"-machine", "q35"}, "", wire.ModeBIOS},
	wire.ModeUEFI64: {[]string{"-machine", "q35,smm=off",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + ovmf + "CODE_4M.fd"}, ovmf + "VARS_4M.fd", wire.ModeUEFI64},
	"secure boot": {[]string{"-machine", "q35,smm=on",
		"-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + ovmf + "CODE_4M.secboot.fd"}, ovmf + "VARS_4M.ms.fd", wire.ModeUEFI64},
	wire.ModeUEFI32: {[]string{"-machine", "q35,smm=on",
		"-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + "/usr/share/OVMF/OVMF32_CODE_4M.secboot.fd"}, "/usr/share/OVMF/OVMF32_VARS_4M.fd", wire.ModeUEFI32},
}

// start runs a PC from disk until it switches itself off or ctx ends.
func start(t *testing.T, ctx context.Context, firmware, disk string, more ...string) (serial string, err error) {
	t.Helper()
	dir := t.TempDir()
	f := firmwares[firmware]
	args := append([]string{"-nodefaults", "-no-reboot", "-accel", "tcg", "-cpu", "max", "-uuid", "2c9f1d64-0f4b-4a55-8c39-1b1d9a9b7c11", "-display", "none", "-vga", "std",
		"-serial", "file:" + filepath.Join(dir, "serial"),
		"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:f1:57:b0",
		"-drive", "if=none,id=d0,format=raw,cache=unsafe,file=" + disk, "-device", "virtio-blk-pci,drive=d0"}, more...)
	args = append(args, f.args...)
	if f.vars != "" {
		b, err := os.ReadFile(f.vars)
		if err != nil {
			t.Fatal(err)
		}
		vars := filepath.Join(dir, "vars")
		if err := os.WriteFile(vars, b, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-drive", "if=pflash,unit=1,format=raw,file="+vars)
	}
	out, err := exec.CommandContext(ctx, "qemu-system-x86_64", args...).CombinedOutput()
	b, _ := os.ReadFile(filepath.Join(dir, "serial"))
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return string(b), err
}

// options builds the boot files that the recipes want.
func options(t *testing.T, out string) recipes.Options {
	t.Helper()
	if *buildDir == "" {
		t.Fatal("say where the built programs are: -dir build")
	}
	cache := filepath.Join(*buildDir, "cache")
	p, err := payload.Build(t.Context(), payload.Options{
		Dir: t.TempDir(), Cache: cache,
		Agent: filepath.Join(*buildDir, "refurb-agent"), Base: filepath.Join(*buildDir, "base.cpio"),
		Pin: base64.StdEncoding.EncodeToString(make([]byte, sha256.Size)), Key: make(ed25519.PublicKey, ed25519.PublicKeySize),
	})
	if err != nil {
		t.Fatal(err)
	}
	packages, err := payload.OpenPackages(cache, "")
	if err != nil {
		t.Fatal(err)
	}
	return recipes.Options{Out: out, Boot: filepath.Join(p.Dir, "boot"), TinyInit: filepath.Join(*buildDir, "tinyos"),
		Fetch: packages.Fetch, Mirror: packages.Mirror(), Cache: filepath.Join(cache, "recipes")}
}

// fill writes a check-in for srv into the disk's slot, as the agent does.
func fill(t *testing.T, disk string, srv *httptest.Server) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := int64(-1)
	buf := make([]byte, 512)
	for o := int64(0); o < 256<<20; o += 512 {
		if _, err := f.ReadAt(buf, o); err != nil {
			break
		}
		if bytes.HasPrefix(buf, []byte(images.SlotMark+"checkin\n")) {
			at = o
			break
		}
	}
	if at < 0 {
		t.Fatal("no slot")
	}
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(srv.Certificate().RawSubjectPublicKeyInfo)
	// 10.0.2.2 is this machine, as QEMU's user network shows it.
	j, err := json.Marshal(wire.Checkin{URL: "https://10.0.2.2:" + u.Port() + wire.PathCheckin,
		Pin: base64.StdEncoding.EncodeToString(sum[:]), Token: "token-of-one-job"})
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.Repeat([]byte{' '}, images.SlotSize)
	b[copy(b, j)] = ' '
	b[len(b)-1] = '\n'
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// workshop takes check-ins.
func workshop(t *testing.T) (*httptest.Server, <-chan wire.FirstBoot) {
	t.Helper()
	got := make(chan wire.FirstBoot, 10)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var f wire.FirstBoot
		if err := json.NewDecoder(r.Body).Decode(&f); err != nil || r.Header.Get("Authorization") != "Bearer token-of-one-job" || r.URL.Path != wire.PathCheckin {
			t.Errorf("%s %s: %v, %v", r.Method, r.URL, r.Header, err)
		}
		got <- f
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(srv.Close)
	return srv, got
}

func TestTinyStarts(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "tiny.img")
	if err := recipes.Build(t.Context(), "tiny", options(t, disk)); err != nil {
		t.Fatal(err)
	}
	pc := func(t *testing.T, firmware string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		serial, err := start(t, ctx, firmware, disk, "-m", "512")
		if err != nil || !strings.Contains(serial, "REFURB TINY SYSTEM started from its own drive") {
			t.Errorf("%v; its serial line:\n%s", err, serial)
		}
		return serial
	}
	t.Run("as built", func(t *testing.T) {
		if s := pc(t, wire.ModeBIOS); !strings.Contains(s, "REFURB-TINY checkin=none") {
			t.Error(s)
		}
	})
	srv, got := workshop(t)
	fill(t, disk, srv)
	for firmware, f := range firmwares {
		t.Run(firmware, func(t *testing.T) {
			if s := pc(t, firmware); !strings.Contains(s, "REFURB-TINY checkin=ok") {
				t.Fatal(s)
			}
			if first := <-got; first.Mode != f.mode || first.MAC != "52:54:00:f1:57:b0" || first.Root != "/dev/vda" || first.UUID != "2c9f1d64-0f4b-4a55-8c39-1b1d9a9b7c11" {
				t.Errorf("%+v", first)
			}
		})
	}
	srv.Close()
	t.Run("nobody answers", func(t *testing.T) {
		if s := pc(t, wire.ModeBIOS); !strings.Contains(s, "REFURB-TINY checkin=failed") {
			t.Error(s)
		}
	})
}

// TestDesktopStarts puts the desktop onto a larger disk, as the agent does,
// waits for its check-in and switches it off as a person would. Nobody answers
// the questions of the first start.
func TestDesktopStarts(t *testing.T) {
	if !*full {
		t.Log("only with -full")
		return
	}
	disk := filepath.Join(t.TempDir(), "desktop.img")
	if err := recipes.Build(t.Context(), "debian-desktop", options(t, disk)); err != nil {
		t.Fatal(err)
	}
	root := enlarge(t, disk, 12<<30)
	srv, got := workshop(t)
	fill(t, disk, srv)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	qmp := filepath.Join(t.TempDir(), "qmp")
	end := make(chan string, 1)
	go func() {
		serial, err := start(t, ctx, wire.ModeUEFI64, disk, "-m", "2048", "-smp", "2", "-qmp", "unix:"+qmp+",server=on,wait=off")
		end <- fmt.Sprintf("%v\n%s", err, serial)
	}()
	select {
	case first := <-got:
		if first.Mode != wire.ModeUEFI64 || !strings.HasPrefix(first.System, "Debian GNU/Linux 13") || first.Root != "/dev/vda3" || first.MAC != "52:54:00:f1:57:b0" {
			t.Errorf("%+v", first)
		}
		powerButton(t, qmp)
		<-end
	case s := <-end:
		t.Fatalf("it never checked in: %s", s)
	}
	if ctx.Err() != nil {
		t.Error("the power button did not switch it off")
	}
	// Superblock, ext4 kernel documentation: blocks at 4 (those above 2^32 elsewhere), of 4 KiB.
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sb := make([]byte, 64)
	if _, err := f.ReadAt(sb, root.GetStart()+1024); err != nil {
		t.Fatal(err)
	}
	if n := int64(binary.LittleEndian.Uint32(sb[4:])) * 4096; n < root.GetSize()-(16<<20) {
		t.Errorf("the root file system has %d bytes of a partition of %d", n, root.GetSize())
	}
}

// enlarge moves the partition table to the end of a larger disk and the end of
// the last partition with it.
func enlarge(t *testing.T, disk string, size int64) *gpt.Partition {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := gpt.Read(f, 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	table.Resize(uint64(size))
	last := table.Partitions[len(table.Partitions)-1]
	last.Expand(table.LastDataSector() - last.End)
	if err := table.Write(f, size); err != nil {
		t.Fatal(err)
	}
	return last
}

// powerButton presses it, by QEMU's machine protocol.
func powerButton(t *testing.T, socket string) {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(`{"execute":"qmp_capabilities"}` + "\n" + `{"execute":"system_powerdown"}` + "\n")); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(c); s.Scan(); { // until the PC is off: a closed line could lose the order
		if strings.Contains(s.Text(), `"SHUTDOWN"`) {
			return
		}
	}
}
