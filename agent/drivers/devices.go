package drivers

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"refurb/agent/wire"
)

// device is one that sysfs shows with a modalias.
type device struct {
	bus      string
	name     string // "0000:00:1f.2", "1-4:1.0"
	modalias string
	bound    bool // to a driver
}

// devices lists them by bus and name. Everything that a module can drive sits
// on a bus, but for the input layer, whose handlers match a class.
func (l *loader) devices() []device {
	var out []device
	buses, _ := os.ReadDir(filepath.Join(l.root, "sys/bus"))
	for _, b := range buses {
		out = l.devicesIn(out, b.Name(), filepath.Join("sys/bus", b.Name(), "devices"))
	}
	return l.devicesIn(out, "input", "sys/class/input")
}

func (l *loader) devicesIn(out []device, bus, dir string) []device {
	entries, _ := os.ReadDir(filepath.Join(l.root, dir))
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(l.root, dir, e.Name(), "modalias"))
		if err != nil {
			continue // most have none, and a device may go away meanwhile
		}
		if alias := strings.TrimSpace(string(b)); alias != "" {
			out = append(out, device{
				bus: bus, name: e.Name(), modalias: alias,
				bound: l.exists(dir, e.Name(), "driver"),
			})
		}
	}
	return out
}

// gaps names the hardware that matters here and has no driver, and drivers that
// asked for a firmware file in vain.
func (l *loader) gaps() []wire.Gap {
	var out []wire.Gap
	devices := l.devices()
	wired := l.hasNetwork()
	for _, d := range devices {
		id, what := d.matters(!wired)
		if d.bound || id == "" {
			continue
		}
		reason := "no driver in our boot files"
		if mods := l.match.match(d.modalias); len(mods) > 0 {
			reason = fmt.Sprintf("the driver %s did not take it", strings.Join(mods, ", "))
			for _, m := range mods {
				if why := l.failed[m]; why != "" {
					reason = fmt.Sprintf("the driver %s could not be loaded: %s", m, why)
				}
			}
		}
		out = append(out, wire.Gap{ID: id, What: what, Reason: reason})
	}
	out = append(out, l.firmwareGaps(devices)...)
	slices.SortStableFunc(out, func(a, b wire.Gap) int { return cmp.Compare(a.ID, b.ID) })
	return slices.Compact(out)
}

// hasNetwork is true when there is a network interface besides loopback.
func (l *loader) hasNetwork() bool {
	entries, _ := os.ReadDir(filepath.Join(l.root, "sys/class/net"))
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() != "lo" })
}

var (
	// Documentation/ABI/testing/sysfs-bus-pci and drivers/pci: vendor, device,
	// subsystem, base class, class, interface, all in upper-case hex.
	pciAlias = regexp.MustCompile(`^pci:v0000([0-9A-F]{4})d0000([0-9A-F]{4})sv[0-9A-F]+sd[0-9A-F]+bc([0-9A-F]{2})sc([0-9A-F]{2})i([0-9A-F]{2})$`)
	usbAlias = regexp.MustCompile(`^usb:v([0-9A-F]{4})p([0-9A-F]{4})d[0-9A-F]+dc[0-9A-F]{2}dsc[0-9A-F]{2}dp[0-9A-F]{2}ic([0-9A-F]{2})isc[0-9A-F]{2}ip[0-9A-F]{2}`)
)

// pciWords covers what a PC needs in order to be refurbished: by base class and
// class, PCI Code and ID Assignment Specification, section 1. Wireless
// controllers are left out on purpose; their drivers are not in the boot files.
var pciWords = map[string]string{
	"0100": "SCSI storage controller",
	"0101": "IDE storage controller",
	"0104": "RAID storage controller",
	"0105": "ATA storage controller",
	"0106": "SATA storage controller",
	"0107": "SAS storage controller",
	"0108": "NVMe storage controller",
	"0180": "storage controller",
	"0200": "wired network adapter",
	"0805": "SD card controller",
	"0c03": "USB controller",
}

// usbWords likewise, by interface class (usb.org, Defined Class Codes).
var usbWords = map[string]string{
	"02": "USB network adapter or modem",
	"03": "USB keyboard, mouse or other input device",
	"08": "USB storage device",
}

// matters gives a device's identity for a Gap, or "" when nobody here misses
// it. A USB device of its vendor's own class may be anything, mostly a
// fingerprint reader; it, and a wireless card, is named only when the PC has no
// network otherwise.
func (d device) matters(noNetwork bool) (id, what string) {
	if m := pciAlias.FindStringSubmatch(d.modalias); m != nil {
		id = strings.ToLower("pci " + m[1] + ":" + m[2])
		// Only the UHCI, OHCI, EHCI, xHCI and USB4 interfaces of 0c03 drive
		// ports; "device" and "unspecified" ones have no driver anywhere.
		if m[3] == "0C" && m[4] == "03" && (m[5] == "FE" || m[5] == "80") {
			return "", ""
		}
		if what = pciWords[strings.ToLower(m[3]+m[4])]; what != "" {
			return id, what
		}
		if m[3] == "02" && noNetwork { // a PC with Wi-Fi alone
			return id, "wireless or other network adapter"
		}
		return "", ""
	}
	if m := usbAlias.FindStringSubmatch(d.modalias); m != nil {
		id = strings.ToLower("usb " + m[1] + ":" + m[2])
		if what = usbWords[m[3]]; what != "" {
			return id, what
		}
		if m[3] == "FF" && noNetwork {
			return id, "USB device of its maker's own kind, perhaps a network adapter"
		}
	}
	return "", ""
}

// fwLine is what the kernel logs of a firmware file that isn't there: the first
// wording is its own, the second Debian's. In front stand driver and device.
var fwLine = regexp.MustCompile(`^(\S+) (\S+): (?:Direct firmware load for (\S+) failed with error -2|firmware: failed to load (\S+) \(-2\))`)

// firmwareGaps looks in the kernel's log for firmware files that drivers wanted.
func (l *loader) firmwareGaps(devices []device) []wire.Gap {
	var out []wire.Gap
	for _, msg := range kernelLog(filepath.Join(l.root, "dev/kmsg")) {
		m := fwLine.FindStringSubmatch(msg)
		if m == nil {
			continue
		}
		driver, name, file := m[1], m[2], m[3]+m[4]
		g := wire.Gap{ID: name, What: "driver " + driver, Reason: fmt.Sprintf("firmware file %s is not in our boot files", file)}
		for _, d := range devices {
			// A USB driver logs its interface or its device: "1-4:1.0", "1-4".
			if d.name != name && !strings.HasPrefix(d.name, name+":") {
				continue
			}
			if p := pciAlias.FindStringSubmatch(d.modalias); p != nil {
				g.ID = strings.ToLower("pci " + p[1] + ":" + p[2])
			} else if u := usbAlias.FindStringSubmatch(d.modalias); u != nil {
				g.ID = strings.ToLower("usb " + u[1] + ":" + u[2])
			}
			break
		}
		out = append(out, g)
	}
	return out
}

// kernelLog reads /dev/kmsg from its beginning to now: one record a read,
// "priority,sequence,time,flags;message\n KEY=value…" (Documentation/ABI/
// testing/dev-kmsg). It is read without the runtime's poller, which would wait
// for more at the end instead of stopping.
func kernelLog(path string) []string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var out []string
	buf := make([]byte, 8192) // the kernel's own limit for a record
	for range 1 << 16 {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EPIPE || err == unix.EINTR: // overtaken by the ring buffer
			continue
		case err != nil || n <= 0:
			return out
		}
		_, msg, ok := strings.Cut(string(buf[:n]), ";")
		if !ok {
			continue
		}
		msg, _, _ = strings.Cut(msg, "\n")
		out = append(out, msg)
	}
	return out
}
