package hardware

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"refurb/agent/wire"
)

const (
	maxDisks   = 64
	sectorSize = 512 // the unit of sysfs "size", whatever the disk's own block is
	// probeTime is how long one disk may take to say who it is. A dying one can
	// sit in the kernel for minutes.
	probeTime = 5 * time.Second
)

// notDisks are block devices that are no disk of their own: memory, optical and
// floppy drives, stacks over other disks, network exports, and the boot and
// RPMB areas of an eMMC, which hold firmware.
var notDisks = regexp.MustCompile(`^(loop|ram|zram|dm-|md|sr|fd|nbd|rbd|drbd|bcache|zd|mtdblock|nvme\d+c\d+n\d+$|mmcblk\d+(boot\d+|rpmb|gp\d+)$)`)

// Disks lists the disks that the kernel shows, in the kernel's order of names,
// and what could not be read. Class and Found stay empty: they belong to whoever
// reads the disk.
func Disks(root string) ([]wire.Disk, []string) {
	t := tree(root)
	var disks []wire.Disk
	var problems []string
	use, err := readUse(t)
	if err != nil {
		problems = append(problems, problem("disks in use", err))
	}
	var names []string
	for _, name := range t.names("sys/block") {
		if notDisks.MatchString(name) {
			continue
		}
		// The paths behind a multipath NVMe namespace are listed too.
		if n, ok := t.number("sys/block", name, "hidden"); ok && n != 0 {
			continue
		}
		if len(names) == maxDisks {
			problems = append(problems, fmt.Sprintf("disks: more than %d, the rest is not listed", maxDisks))
			break
		}
		names = append(names, name)
	}
	// All at once: several dying disks take no longer than one.
	type looked struct {
		disk     wire.Disk
		problems []string
	}
	found := make([]looked, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() { found[i].disk, found[i].problems = readDisk(t, name, use) })
	}
	all.Wait()
	for _, f := range found {
		if f.disk.Bytes == 0 && f.disk.Removable {
			continue // a card reader's empty slot
		}
		disks = append(disks, f.disk)
		problems = append(problems, f.problems...)
	}
	return disks, problems
}

// DiskIdentity reads who a disk is, now, from sysfs and, where sysfs has no
// serial, from the device itself. name is the kernel's: "sda", "nvme0n1". A disk
// without a serial is no error: the field is empty. An error means that the disk
// isn't there or has no size.
func DiskIdentity(root, name string) (wire.DiskID, error) {
	t := tree(root)
	if name == "" || name != filepath.Base(name) || !t.exists("sys/block", name) {
		return wire.DiskID{}, fmt.Errorf("there is no disk %q; look whether its cable is in place", clean(name))
	}
	f := readFacts(t, name)
	if f.id.Bytes <= 0 {
		return f.id, fmt.Errorf("disk %s reports no size; it is broken or locked, try another one", f.id.Path)
	}
	return f.id, nil
}

// facts are what one disk says of itself.
type facts struct {
	id        wire.DiskID
	firmware  string
	transport string
	card      bool // an SD card, which sits in a slot that people reach
	problem   string
}

func readFacts(t tree, name string) facts {
	dir := filepath.Join("sys/block", name)
	f := facts{transport: transport(name, t.real(dir))}
	f.id.Path = "/dev/" + strings.ReplaceAll(clean(name), "!", "/")
	if n, ok := t.number(dir, "size"); ok && n > 0 && n < 1<<54 {
		f.id.Bytes = n * sectorSize
	}
	if n, ok := t.number(dir, "queue/logical_block_size"); ok && n > 0 && n <= maxFile {
		f.id.LogicalBlock = int(n)
	}
	f.id.Model = t.text(dir, "device/model")

	var self answer // what the disk itself said, where that is more than sysfs keeps
	switch f.transport {
	case wire.TransportNVMe:
		f.id.Serial = t.text(dir, "device/serial")
		f.id.WWN = t.text(dir, "wwid")
		f.firmware = t.text(dir, "device/firmware_rev")
	case wire.TransportVirtio:
		f.id.Serial = t.text(dir, "serial")
	case wire.TransportMMC:
		f.id.Model = t.text(dir, "device/name")
		f.id.Serial = t.text(dir, "device/serial")
		if cid := t.text(dir, "device/cid"); cid != "" {
			f.id.WWN = "cid." + cid
		}
		f.firmware = t.text(dir, "device/fwrev")
		f.card = t.text(dir, "device/type") == "SD"
	default:
		// libata shortens model and firmware to SCSI's 16 and 4 characters;
		// page 89h carries the drive's whole IDENTIFY data.
		if page, err := t.bytes(dir, "device/vpd_pg89"); err == nil {
			self, _ = parseVPD89(page)
		}
		if self.serial == "" {
			if page, err := t.bytes(dir, "device/vpd_pg80"); err == nil {
				self.serial, _ = parseVPD80(page)
			}
		}
		f.id.WWN = t.text(dir, "device/wwid")
		f.firmware = t.text(dir, "device/rev")
		if v := t.text(dir, "device/vendor"); v != "" && v != "ATA" {
			f.id.Model = strings.TrimSpace(v + " " + f.id.Model)
		}
	}
	if f.id.Serial == "" && self.serial == "" {
		got, err := askDevice(t.path(f.id.Path), f.transport)
		if err != nil {
			f.problem = problem(f.id.Path+" serial", err)
		}
		self = got.or(self)
	}
	if f.id.Serial == "" && self.serial == "" && f.transport == wire.TransportUSB {
		self.serial = usbSerial(t, dir)
	}
	f.take(self)
	return f
}

// take lets the disk's own words win over what sysfs keeps of them.
func (f *facts) take(a answer) {
	if a.serial != "" {
		f.id.Serial = a.serial
	}
	if a.model != "" {
		f.id.Model = a.model
	}
	if a.firmware != "" {
		f.firmware = a.firmware
	}
}

func readDisk(t tree, name string, use inUse) (wire.Disk, []string) {
	dir := filepath.Join("sys/block", name)
	f := readFacts(t, name)
	d := wire.Disk{DiskID: f.id, Firmware: f.firmware, Transport: f.transport}
	var problems []string
	if f.problem != "" {
		problems = append(problems, f.problem)
	}
	if d.Bytes == 0 {
		problems = append(problems, d.Path+": the disk reports no size")
	}
	if n, ok := t.number(dir, "queue/physical_block_size"); ok && n > 0 && n <= maxFile {
		d.PhysicalBlock = int(n)
	}
	d.Rotational = flag(t, dir, "queue/rotational")
	d.Removable = flag(t, dir, "removable") || f.card
	d.ReadOnly = flag(t, dir, "ro")
	d.InUse = use.of(t, name)
	return d, problems
}

func flag(t tree, elem ...string) bool {
	n, ok := t.number(elem...)
	return ok && n != 0
}

var ataPort = regexp.MustCompile(`/ata\d+/`)

// transport tells by the device's place in sysfs how a disk is attached. USB
// comes first: a SATA drive in a USB case is a USB disk.
func transport(name, devicePath string) string {
	switch {
	case strings.Contains(devicePath, "/usb"):
		return wire.TransportUSB
	case strings.HasPrefix(name, "nvme"): // multipath ones live under /devices/virtual
		return wire.TransportNVMe
	case strings.HasPrefix(name, "mmcblk"):
		return wire.TransportMMC
	case strings.HasPrefix(name, "vd"):
		return wire.TransportVirtio
	case ataPort.MatchString(devicePath):
		return wire.TransportSATA
	case strings.HasPrefix(name, "sd"):
		return wire.TransportSCSI
	}
	return wire.TransportOther
}

// usbSerial is the serial of the USB device above a disk: the stick's own, or
// that of the case around a drive which says nothing itself.
func usbSerial(t tree, dir string) string {
	for p := t.real(dir); strings.Contains(p, "/usb"); p = filepath.Dir(p) {
		if t.exists(p, "idVendor") {
			return t.text(p, "serial")
		}
	}
	return ""
}
