package drivers

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"refurb/agent/wire"
)

// pc is a fixture tree of sysfs, and the kernel that takes modules.
type pc struct {
	t      *testing.T
	root   string
	taken  []string
	refuse map[string]error
	after  map[string]func() // what a module makes appear
	events int
}

func newPC(t *testing.T) *pc {
	p := &pc{t: t, root: t.TempDir(), refuse: map[string]error{}, after: map[string]func(){}}
	b, err := json.Marshal(fixture())
	if err != nil {
		t.Fatal(err)
	}
	p.write(IndexPath, string(b))
	p.write("sys/class/net/lo/address", "00:00:00:00:00:00")
	p.event()
	return p
}

func (p *pc) write(name, text string) {
	p.t.Helper()
	name = filepath.Join(p.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pc) event() {
	p.events++
	p.write("sys/kernel/uevent_seqnum", strings.Repeat("1", p.events)+"\n")
}

func (p *pc) device(bus, name, modalias string) {
	p.write(filepath.Join("sys/bus", bus, "devices", name, "modalias"), modalias+"\n")
}

func (p *pc) bind(bus, name, driver string) {
	p.write(filepath.Join("sys/bus", bus, "devices", name, "driver", driver), "")
}

func (p *pc) insert(file string) error {
	if rel, err := filepath.Rel(filepath.Join(p.root, ModulesPath), file); err != nil || rel != filepath.Base(file) {
		p.t.Errorf("asked for %s, outside of the modules' folder", file)
	}
	name := Name(file)
	if err := p.refuse[name]; err != nil {
		return err
	}
	p.taken = append(p.taken, name)
	if f := p.after[name]; f != nil {
		f()
	}
	return nil
}

func (p *pc) load(ctx context.Context) (Result, error) {
	p.t.Helper()
	l, err := open(p.root)
	if err != nil {
		p.t.Fatal(err)
	}
	l.insert = p.insert
	return l.load(ctx)
}

const (
	nicE1000E = "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00"
	nicR8169  = "pci:v000010ECd00008168sv00001043sd00008505bc02sc00i00"
	sata      = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"
	xhci      = "pci:v00001B36d0000000Dsv00001AF4sd00001100bc0Csc03i30"
	keyboard  = "usb:v046DpC31Cd6400dc00dsc00dp00ic03isc01ip01in00"
)

func TestLoadOrderAndRounds(t *testing.T) {
	p := newPC(t)
	p.device("pci", "0000:02:00.0", nicR8169) // the last one, and yet the first to have its driver
	p.device("pci", "0000:00:1f.2", sata)
	p.device("acpi", "PNP0C0A:00", "acpi:PNP0C0A:")
	// The touchpad's bus comes with another driver.
	p.after["ahci"] = func() { p.device("i2c", "i2c-DLL07E6:01", "acpi:DLL07E6:PNP0C50:") }
	res, err := p.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := "scsi_mod sd_mod libphy realtek mdio_devres r8169 libata ahci i2c_hid"
	if got := strings.Join(p.taken, " "); got != want {
		t.Errorf("kernel was given %q, want %q", got, want)
	}
	if !slices.Equal(res.Loaded, p.taken) {
		t.Errorf("result names %v, kernel was given %v", res.Loaded, p.taken)
	}
	if res.Kernel != "6.12.0-test" || len(res.Failed) != 0 {
		t.Errorf("result %+v", res)
	}
}

func TestLoadLeavesWhatIsThere(t *testing.T) {
	p := newPC(t)
	p.device("pci", "0000:00:19.0", nicE1000E)
	p.device("pci", "0000:00:1f.2", sata)
	p.write("sys/module/scsi_mod/initstate", "live")
	p.write("sys/module/e1000e/initstate", "live")
	p.refuse["ahci"] = unix.EEXIST   // loaded by somebody meanwhile
	p.refuse["libata"] = unix.ENODEV // found nothing, and that is fine
	res, err := p.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(res.Loaded, " "); got != "sd_mod" {
		t.Errorf("loaded %q, want only sd_mod", got)
	}
	if len(res.Failed) != 0 {
		t.Errorf("failures %v, want none", res.Failed)
	}
}

func TestEfivarfsOnlyWithEFI(t *testing.T) {
	for _, efi := range []bool{false, true} {
		p := newPC(t)
		if efi {
			p.write("sys/firmware/efi/fw_platform_size", "64")
		}
		if _, err := p.load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(p.taken, "efivarfs"); got != efi {
			t.Errorf("UEFI %v: efivarfs loaded: %v", efi, got)
		}
	}
}

func TestFailures(t *testing.T) {
	p := newPC(t)
	p.device("pci", "0000:00:19.0", nicE1000E)
	p.device("pci", "0000:00:1f.2", sata)
	p.refuse["libata"] = unix.EKEYREJECTED
	res, err := p.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(p.taken, "ahci") {
		t.Error("ahci was given to the kernel without libata")
	}
	if !slices.Contains(p.taken, "e1000e") {
		t.Error("one failure kept another device's driver out")
	}
	if len(res.Failed) != 2 || res.Failed[0].Module != "libata" || res.Failed[1].Module != "ahci" {
		t.Fatalf("failures %v, want libata and ahci", res.Failed)
	}
	if why := res.Failed[1].Reason; !strings.Contains(why, "libata") || !strings.Contains(why, "signature") {
		t.Errorf("reason %q does not lead to the cause", why)
	}
	p.bind("pci", "0000:00:19.0", "e1000e")
	want := wire.Gap{ID: "pci 8086:2922", What: "SATA storage controller"}
	res, err = p.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Gaps) != 1 || res.Gaps[0].ID != want.ID || res.Gaps[0].What != want.What || !strings.Contains(res.Gaps[0].Reason, "ahci could not be loaded") {
		t.Errorf("gaps %+v, want one of %+v", res.Gaps, want)
	}
}

func TestExplain(t *testing.T) {
	for err, want := range map[error]string{
		unix.EKEYREJECTED: "signature",
		unix.ENOEXEC:      "another kernel",
		unix.ENOENT:       "not in our boot files",
		unix.EPERM:        "takes no modules",
		unix.EIO:          "input/output error",
	} {
		if got := explain(&os.PathError{Op: "x", Path: "y", Err: err}); !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %q in it", err, got, want)
		}
	}
}

func TestGaps(t *testing.T) {
	const vendorUSB = "usb:v0BDAp8157d3000dc00dsc00dp00icFFiscFFip00in00"
	for _, tc := range []struct {
		name  string
		build func(*pc)
		want  []wire.Gap
	}{
		{"nothing is missing", func(p *pc) {
			p.device("pci", "0000:00:19.0", nicE1000E)
			p.bind("pci", "0000:00:19.0", "e1000e")
		}, nil},
		{"a network adapter without a driver, and sound that nobody misses", func(p *pc) {
			p.device("pci", "0000:03:00.0", "pci:v000010ECd00008126sv00001043sd00008505bc02sc00i00")
			p.device("pci", "0000:00:1b.0", "pci:v00008086d0000293Esv00001AF4sd00001100bc04sc03i00")
		}, []wire.Gap{{ID: "pci 10ec:8126", What: "wired network adapter", Reason: "no driver in our boot files"}}},
		{"nothing but Wi-Fi", func(p *pc) {
			p.device("pci", "0000:04:00.0", "pci:v00008086d00002723sv00008086sd00000084bc02sc80i00")
		}, []wire.Gap{{ID: "pci 8086:2723", What: "wireless or other network adapter", Reason: "no driver in our boot files"}}},
		{"Wi-Fi beside a card that works", func(p *pc) {
			p.device("pci", "0000:04:00.0", "pci:v00008086d00002723sv00008086sd00000084bc02sc80i00")
			p.write("sys/class/net/eth0/address", "52:54:00:12:34:56")
		}, nil},
		{"the driver is there but lets the device be", func(p *pc) {
			p.device("pci", "0000:00:1f.2", sata)
		}, []wire.Gap{{ID: "pci 8086:2922", What: "SATA storage controller", Reason: "the driver ahci did not take it"}}},
		{"two of a kind are one gap", func(p *pc) {
			p.device("pci", "0000:03:00.0", "pci:v00001000d00000012sv00000000sd00000000bc01sc00i00")
			p.device("pci", "0000:03:00.1", "pci:v00001000d00000012sv00000000sd00000000bc01sc00i00")
		}, []wire.Gap{{ID: "pci 1000:0012", What: "SCSI storage controller", Reason: "no driver in our boot files"}}},
		{"an unknown USB device on a PC without a network", func(p *pc) {
			p.device("usb", "1-4:1.0", vendorUSB)
		}, []wire.Gap{{ID: "usb 0bda:8157", What: "USB device of its maker's own kind, perhaps a network adapter", Reason: "no driver in our boot files"}}},
		{"the same on a PC that has one", func(p *pc) {
			p.device("usb", "1-4:1.0", vendorUSB)
			p.write("sys/class/net/eth0/address", "52:54:00:12:34:56")
		}, nil},
		{"a USB controller's peripheral side", func(p *pc) {
			p.device("pci", "0000:00:14.1", "pci:v00008086d000054EEsv00000000sd00000000bc0Csc03iFE")
		}, nil},
		{"firmware, in the kernel's words", func(p *pc) {
			p.device("pci", "0000:03:00.0", nicR8169)
			p.bind("pci", "0000:03:00.0", "r8169")
			p.write("dev/kmsg", "4,812,5140900,-;r8169 0000:03:00.0: Direct firmware load for rtl_nic/rtl8168h-2.fw failed with error -2\n SUBSYSTEM=pci\n DEVICE=+pci:0000:03:00.0\n")
		}, []wire.Gap{{ID: "pci 10ec:8168", What: "driver r8169", Reason: "firmware file rtl_nic/rtl8168h-2.fw is not in our boot files"}}},
		{"firmware, in Debian's words, of a USB device", func(p *pc) {
			p.device("usb", "1-4:1.0", vendorUSB)
			p.bind("usb", "1-4:1.0", "r8152")
			p.write("dev/kmsg", "3,812,5140900,-;r8152 1-4: firmware: failed to load rtl_nic/rtl8153a-4.fw (-2)\n")
		}, []wire.Gap{{ID: "usb 0bda:8157", What: "driver r8152", Reason: "firmware file rtl_nic/rtl8153a-4.fw is not in our boot files"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPC(t)
			tc.build(p)
			res, err := p.load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(res.Gaps, tc.want) {
				t.Errorf("gaps %+v\nwant %+v", res.Gaps, tc.want)
			}
		})
	}
}

// A keyboard shows up half a second after its controller's driver came, and
// another one behind a hub after that.
func TestLateUSB(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPC(t)
		p.device("pci", "0000:00:14.0", xhci)
		p.after["xhci_pci"] = func() {
			go func() {
				time.Sleep(500 * time.Millisecond)
				p.device("usb", "1-1", "usb:v05E3p0608d8537dc09dsc00dp01ic09isc00ip00in00")
				p.event()
				time.Sleep(500 * time.Millisecond)
				p.device("usb", "1-1.2:1.0", keyboard)
				p.event()
			}()
		}
		begin := time.Now()
		res, err := p.load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(res.Loaded, " "); got != "scsi_mod sd_mod xhci_hcd xhci_pci usbhid" {
			t.Errorf("loaded %q", got)
		}
		if d := time.Since(begin); d > usbLimit {
			t.Errorf("took %v", d)
		}
	})
}

// A USB device that never stops coming and going must not hold up the rest.
func TestRestlessUSBIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPC(t)
		p.device("pci", "0000:00:14.0", xhci)
		ctx, cancel := context.WithCancel(t.Context())
		p.after["xhci_pci"] = func() {
			go func() {
				for ctx.Err() == nil {
					time.Sleep(300 * time.Millisecond)
					p.event()
				}
			}()
		}
		begin := time.Now()
		if _, err := p.load(ctx); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d > usbLimit+time.Second {
			t.Errorf("took %v, limit %v", d, usbLimit)
		}
		cancel()
		time.Sleep(time.Second) // lets the device's goroutine end
	})
}

func TestNoWaitWithoutUSB(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPC(t)
		p.device("pci", "0000:00:1f.2", sata)
		begin := time.Now()
		if _, err := p.load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("slept %v", d)
		}
	})
}

func TestCancelledIsNotDone(t *testing.T) {
	p := newPC(t)
	p.device("pci", "0000:00:19.0", nicR8169)
	ctx, cancel := context.WithCancel(t.Context())
	p.after["libphy"] = cancel
	_, err := p.load(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want cancelled", err)
	}
	if slices.Contains(p.taken, "r8169") {
		t.Error("went on after it was cancelled")
	}
}

func TestOpenErrorsSayWhatToDo(t *testing.T) {
	if _, err := Load(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "refurb payload build") {
		t.Errorf("error %v", err)
	}
	p := newPC(t)
	p.write(IndexPath, "{")
	if _, err := Load(t.Context(), p.root); err == nil {
		t.Error("a damaged index was taken")
	}
}
