package hardware

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/wire"
)

const cpuinfo = `processor	: 0
vendor_id	: GenuineIntel
model name	: Intel(R) Core(TM) i5-7300U CPU @ 2.60GHz
physical id	: 0
core id		: 0
flags		: FLAGS

processor	: 1
vendor_id	: GenuineIntel
model name	: Intel(R) Core(TM) i5-7300U CPU @ 2.60GHz
physical id	: 0
core id		: 0
flags		: FLAGS

processor	: 2
physical id	: 0
core id		: 1
flags		: FLAGS
`

const (
	secureBoot = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	setupMode  = "sys/firmware/efi/efivars/SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c"
)

func laptop() files {
	flags := strings.Join(append(append(append([]string{}, levels[0]...), levels[1]...), levels[2]...), " ")
	card := "sys/devices/pci0000:00/0000:00:1f.6/"
	return files{
		"proc/sys/kernel/random/boot_id":             "6f0c9f5e-0f3e-4c1f-9d86-0f8c4f6d0001\n",
		"proc/sys/kernel/osrelease":                  "6.12.48+deb13-amd64\n",
		"proc/cpuinfo":                               strings.ReplaceAll(cpuinfo, "FLAGS", flags),
		"proc/meminfo":                               "MemTotal:        7890123 kB\nMemFree: 1 kB\n",
		"sys/firmware/dmi/tables/smbios_entry_point": string(entry3(3, 2)),
		"sys/firmware/dmi/tables/DMI":                string(thinkpad()),
		"sys/firmware/efi/fw_platform_size":          "64\n",
		secureBoot:                                   "\x06\x00\x00\x00\x01",
		setupMode:                                    "\x06\x00\x00\x00\x00",
		"sys/class/net/enp0s31f6":                    "-> ../../devices/pci0000:00/0000:00:1f.6/net/enp0s31f6",
		card + "net/enp0s31f6/address":               "54:e1:ad:00:0a:01\n",
		card + "net/enp0s31f6/addr_assign_type":      "0\n",
		card + "net/enp0s31f6/type":                  "1\n",
		card + "net/enp0s31f6/carrier":               "1\n",
		card + "net/enp0s31f6/speed":                 "1000\n",
		card + "net/enp0s31f6/device":                "-> ../..",
		card + "driver":                              "-> ../../../bus/pci/drivers/e1000e",
		card + "subsystem":                           "-> ../../../bus/pci",
		"sys/class/net/lo/address":                   "00:00:00:00:00:00\n",
		"sys/bus/pci/":                               "",
	}
}

func TestCollect(t *testing.T) {
	r := Collect(t.Context(), plant(t, laptop(), nvme(), usbStick(), pciDevice("0000:3d:00.0", "0x010802", "144d", "a808", "nvme")))
	if len(r.Problems) != 0 {
		t.Errorf("problems: %q", r.Problems)
	}
	yes, no := true, false
	if want := (wire.Firmware{Mode: wire.ModeUEFI64, Vendor: "LENOVO", Version: "N1QET88W (1.63 )", Date: "04/22/2020",
		SecureBoot: &yes, SetupMode: &no}); !reflect.DeepEqual(r.Firmware, want) {
		t.Errorf("firmware %+v", r.Firmware)
	}
	if want := (wire.CPU{Model: "Intel(R) Core(TM) i5-7300U CPU @ 2.60GHz", Vendor: "GenuineIntel", Cores: 2, Threads: 3, Level: 3}); r.CPU != want {
		t.Errorf("processor %+v", r.CPU)
	}
	if r.RAM.Bytes != 7890123<<10 || r.RAM.Slots != 2 || len(r.RAM.Modules) != 1 {
		t.Errorf("memory %+v", r.RAM)
	}
	if want := []wire.NIC{{Name: "enp0s31f6", MAC: "54:e1:ad:00:0a:01", Permanent: "54:e1:ad:00:0a:01", Driver: "e1000e",
		Bus: "pci", Mbit: 1000, Link: true}}; !reflect.DeepEqual(r.NICs, want) {
		t.Errorf("network %+v", r.NICs)
	}
	if len(r.Disks) != 2 || r.Disks[0].Path != "/dev/nvme0n1" || r.Disks[1].Transport != wire.TransportUSB {
		t.Errorf("disks %+v", r.Disks)
	}
	if r.HiddenStorage != nil || r.BootID != "6f0c9f5e-0f3e-4c1f-9d86-0f8c4f6d0001" || r.Kernel != "6.12.48+deb13-amd64" ||
		r.Identity.Model != "20HES2RC00" || time.Since(r.Clock) > time.Minute {
		t.Errorf("report %+v", r)
	}
}

// A PC that tells nothing still gets a report, with a sentence for each gap, and
// lists that are empty rather than null.
func TestCollectNothing(t *testing.T) {
	r := Collect(t.Context(), t.TempDir())
	if r.Firmware.Mode != wire.ModeBIOS || len(r.Problems) < 5 {
		t.Errorf("%+v", r)
	}
	b, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(b), `"disks":[]`) || !strings.Contains(string(b), `"nics":[]`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestCollectPartsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), collectTime)
		defer cancel()
		r := collect(ctx, "/nowhere", []part{
			{"one", func(tree) (func(*wire.Report), []string) { panic("index out of range") }},
			{"two", func(tree) (func(*wire.Report), []string) {
				<-release
				return func(r *wire.Report) { r.Kernel = "late" }, nil
			}},
			{"three", func(tree) (func(*wire.Report), []string) {
				return func(r *wire.Report) { r.BootID = "here" }, nil
			}},
		})
		close(release)
		synctest.Wait()
		if r.BootID != "here" || r.Kernel != "" || len(r.Problems) != 2 ||
			!strings.Contains(r.Problems[0], "one: reading it went wrong") || !strings.Contains(r.Problems[1], "two: no answer") {
			t.Errorf("%+v", r)
		}
	})
}

// What a report holds at most fits the wire's bound by far.
func TestCollectBounds(t *testing.T) {
	long := strings.Repeat("ж", 5000)
	sets := []files{laptop()}
	for i := range maxDisks + 20 {
		name := "sd" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		sets = append(sets, disk(name, strings.ReplaceAll(ataPath, "sda", name), files{
			"device/model": long, "device/rev": long, "device/wwid": long, "device/vpd_pg80": vpd(0x80, []byte(long)), "size": "0\n"}))
	}
	for i := range maxHidden + 20 {
		sets = append(sets, pciDevice("0000:"+string(rune('a'+i/26))+string(rune('a'+i%26))+":00.0", "0x010400", long, long, ""))
	}
	r := Collect(t.Context(), plant(t, sets...))
	b, err := json.Marshal(r)
	if err != nil || len(b) > wire.MaxReport/2 || len(r.Disks) != maxDisks || len(r.HiddenStorage) != maxHidden {
		t.Errorf("%d bytes, %d disks, %d hidden, %v", len(b), len(r.Disks), len(r.HiddenStorage), err)
	}
	if n := len(r.Problems); n != maxProblems+1 {
		t.Errorf("%d problems", n)
	}
	for _, p := range append(r.Problems, r.HiddenStorage...) {
		fit(t, p)
	}
}

func TestFirmware(t *testing.T) {
	yes, no := true, false
	for name, c := range map[string]struct {
		pc       files
		want     wire.Firmware
		problems int
	}{
		"bios":                  {files{}, wire.Firmware{Mode: wire.ModeBIOS}, 0},
		"32 bit":                {files{"sys/firmware/efi/fw_platform_size": "32\n", secureBoot: "\x06\x00\x00\x00\x00", setupMode: "\x06\x00\x00\x00\x01"}, wire.Firmware{Mode: wire.ModeUEFI32, SecureBoot: &no, SetupMode: &yes}, 0},
		"no Secure Boot at all": {files{"sys/firmware/efi/fw_platform_size": "64\n", "sys/firmware/efi/efivars/Boot0000-8be4df61-93ca-11d2-aa0d-00e098032b8c": "x"}, wire.Firmware{Mode: wire.ModeUEFI64}, 0},
		"efivarfs not mounted":  {files{"sys/firmware/efi/fw_platform_size": "64\n", "sys/firmware/efi/efivars/": ""}, wire.Firmware{Mode: wire.ModeUEFI64}, 2},
		"nonsense":              {files{"sys/firmware/efi/fw_platform_size": "16\n", secureBoot: "\x06\x00\x00\x00\x07", setupMode: "\x01"}, wire.Firmware{Mode: wire.ModeUEFI64}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			got, problems := readFirmware(tree(plant(t, c.pc)))
			if !reflect.DeepEqual(got, c.want) || len(problems) != c.problems {
				t.Errorf("got %+v, %q", got, problems)
			}
		})
	}
}

func TestLevel(t *testing.T) {
	flags := map[string]bool{}
	for want := range len(levels) + 1 {
		if got := level(flags); got != want {
			t.Errorf("level %d, want %d", got, want)
		}
		if want < len(levels) {
			for _, f := range levels[want] {
				flags[f] = true
			}
		}
	}
	if c := parseCPU("processor : 0\nflags : fpu\n"); c.Cores != 1 || c.Threads != 1 || c.Level != 0 {
		t.Errorf("%+v", c)
	}
}

func TestHiddenStorage(t *testing.T) {
	for name, c := range map[string]struct {
		pc   files
		want []string
	}{
		"AHCI and NVMe with drivers": {merge(pciDevice("0000:00:17.0", "0x010601", "8086", "9d03", "ahci"), pciDevice("0000:3d:00.0", "0x010802", "144d", "a808", "nvme")), nil},
		"no storage":                 {pciDevice("0000:00:02.0", "0x030000", "8086", "5916", ""), nil},
		"VMD with its driver": {pciDevice("0000:00:0e.0", "0x010400", "8086", "9a0b", "vmd"),
			[]string{"Intel VMD (8086:9a0b at 0000:00:0e.0, vmd): switch VMD off in the firmware's setup"}},
		"VMD of another class, no driver": {pciDevice("0000:00:0e.0", "0x088000", "8086", "467f", ""),
			[]string{"Intel VMD (8086:467f at 0000:00:0e.0, no driver): switch VMD off in the firmware's setup"}},
		"Intel in RAID mode": {pciDevice("0000:00:17.0", "0x010400", "8086", "282a", "ahci"),
			[]string{"RAID controller (8086:282a at 0000:00:17.0, ahci): switch the storage mode to AHCI in the firmware's setup"}},
		"no driver": {merge(pciDevice("0000:00:17.0", "0x010601", "8086", "9d03", ""), pciDevice("0000:01:00.0", "0x080501", "1217", "8620", "")),
			[]string{"SATA controller without a driver (8086:9d03 at 0000:00:17.0, no driver)", "SD or eMMC controller without a driver (1217:8620 at 0000:01:00.0, no driver)"}},
		"remapped NVMe": {merge(pciDevice("0000:00:17.0", "0x010601", "8086", "a102", "ahci"), files{"sys/bus/pci/devices/0000:00:17.0/remapped_nvme": "1\n"}),
			[]string{"1 NVMe drive(s) behind the SATA controller (8086:a102 at 0000:00:17.0, ahci): switch the storage mode to AHCI in the firmware's setup"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, problems := hiddenStorage(tree(plant(t, c.pc)))
			if !reflect.DeepEqual(got, c.want) || problems != nil {
				t.Errorf("got %q, %q", got, problems)
			}
		})
	}
	if _, problems := hiddenStorage(tree(t.TempDir())); len(problems) != 1 {
		t.Errorf("no PCI bus: %q", problems)
	}
	all := storageControllers(tree(plant(t, merge(
		pciDevice("0000:00:17.0", "0x010601", "8086", "9d03", "ahci"), pciDevice("0000:01:00.0", "0x080501", "1217", "8620", ""),
		pciDevice("0000:3d:00.0", "0x010802", "144d", "a808", "nvme"), pciDevice("0000:00:02.0", "0x030000", "8086", "5916", "i915")))))
	if want := []string{"SATA controller (8086:9d03 at 0000:00:17.0, ahci)", "SD or eMMC controller (1217:8620 at 0000:01:00.0, no driver)",
		"NVMe controller (144d:a808 at 0000:3d:00.0, nvme)"}; !reflect.DeepEqual(all, want) {
		t.Errorf("controllers: %q", all)
	}
}

func merge(sets ...files) files {
	all := files{}
	for _, s := range sets {
		for k, v := range s {
			all[k] = v
		}
	}
	return all
}

func TestMAC(t *testing.T) {
	for in, want := range map[string]string{
		"54:E1:AD:00:0A:01": "54:e1:ad:00:0a:01", "2:42:0:a:b:c": "", "00:00:00:00:00:00": "",
		"ff:ff:ff:ff:ff:ff": "", "": "", "1:2:3": "", "zz:00:00:00:00:00": "", "01:00:5e:00:00:01": "",
	} {
		if got := mac(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestNICs(t *testing.T) {
	card := func(name, bus string, attrs files) files {
		f := files{"sys/class/net/" + name + "/device/subsystem": "-> ../../../../bus/" + bus, "sys/class/net/" + name + "/type": "1\n"}
		for k, v := range attrs {
			f["sys/class/net/"+name+"/"+k] = v
		}
		return f
	}
	got, problems := readNICs(tree(plant(t,
		card("eth0", "usb", files{"address": "02:00:00:00:00:01\n", "addr_assign_type": "1\n", "speed": "-1\n", "carrier": "0\n"}),
		card("eth1", "virtio", files{"address": "52:54:00:00:00:01\n", "addr_assign_type": "3\n", "speed": "4294967295\n"}),
		card("ib0", "pci", files{"address": "80:00:00:48\n", "type": "32\n"}),
		files{"sys/class/net/br0/address": "52:54:00:00:00:02\n"},
	)))
	want := []wire.NIC{{Name: "eth0", MAC: "02:00:00:00:00:01", Bus: "usb"}, {Name: "eth1", MAC: "52:54:00:00:00:01", Bus: "virtio"}}
	if !reflect.DeepEqual(got, want) || problems != nil {
		t.Errorf("got %+v, %q", got, problems)
	}
}
