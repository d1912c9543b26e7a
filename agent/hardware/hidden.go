package hardware

import (
	"fmt"
	"strings"
)

const maxHidden = 32

// PCI classes (PCI Code and ID Assignment 1.11, D.2 and D.9).
const (
	classMassStorage = 0x01
	classRAID        = 0x0104
	classSDHost      = 0x0805
)

var storageKinds = map[int64]string{
	0x0100: "SCSI controller", 0x0101: "IDE controller", 0x0104: "RAID controller", 0x0105: "ATA controller",
	0x0106: "SATA controller", 0x0107: "SAS controller", 0x0108: "NVMe controller", 0x0109: "UFS controller",
	0x0805: "SD or eMMC controller",
}

// vmd are Intel's Volume Management Devices that don't say class RAID: a drive
// behind one shows only while the vmd driver runs.
var vmd = map[string]bool{
	"8086:201d": true, "8086:28c0": true, "8086:467f": true, "8086:4c3d": true, "8086:7d0b": true,
	"8086:9a0b": true, "8086:a77f": true, "8086:ad0b": true, "8086:b06f": true, "8086:b60b": true,
}

// hiddenStorage names the controllers behind which a disk may sit that Disks
// can't show. While there is one, "no disk" means that nobody knows.
func hiddenStorage(t tree) ([]string, []string) {
	const dir = "sys/bus/pci/devices"
	if !t.exists("sys/bus/pci") {
		return nil, []string{"storage controllers: this kernel shows no PCI bus"}
	}
	var list []string
	add := func(s string) {
		if len(list) < maxHidden {
			list = append(list, clean(s))
		}
	}
	for _, slot := range t.names(dir) {
		class, ok := t.number(dir, slot, "class")
		if !ok {
			continue
		}
		class >>= 8 // without the programming interface
		id := pciID(t.text(dir, slot, "vendor")) + ":" + pciID(t.text(dir, slot, "device"))
		driver := t.link(dir, slot, "driver")
		by := driver
		if by == "" {
			by = "no driver"
		}
		where := fmt.Sprintf("%s at %s, %s", id, slot, by)
		switch {
		case vmd[id] || driver == "vmd":
			add("Intel VMD (" + where + "): switch VMD off in the firmware's setup")
		case class == classRAID:
			add("RAID controller (" + where + "): switch the storage mode to AHCI in the firmware's setup")
		case driver == "" && (class>>8 == classMassStorage || class == classSDHost):
			kind := storageKinds[class]
			if kind == "" {
				kind = "storage controller"
			}
			add(kind + " without a driver (" + where + ")")
		}
		// Intel's RST in its "Optane" mode hides NVMe drives behind the SATA
		// controller; the ahci driver counts them and can't reach them.
		if n, ok := t.number(dir, slot, "remapped_nvme"); ok && n > 0 {
			add(fmt.Sprintf("%d NVMe drive(s) behind the SATA controller (%s): switch the storage mode to AHCI in the firmware's setup", n, where))
		}
	}
	return list, nil
}

// storageControllers names every storage controller on the PCI bus, whatever
// state it is in.
func storageControllers(t tree) (list []string) {
	const dir = "sys/bus/pci/devices"
	for _, slot := range t.names(dir) {
		class, ok := t.number(dir, slot, "class")
		if class >>= 8; !ok || class>>8 != classMassStorage && class != classSDHost || len(list) == maxHidden {
			continue
		}
		kind := storageKinds[class]
		if kind == "" {
			kind = "storage controller"
		}
		by := t.link(dir, slot, "driver")
		if by == "" {
			by = "no driver"
		}
		id := pciID(t.text(dir, slot, "vendor")) + ":" + pciID(t.text(dir, slot, "device"))
		list = append(list, clean(fmt.Sprintf("%s (%s at %s, %s)", kind, id, slot, by)))
	}
	return list
}

func pciID(s string) string { return strings.TrimPrefix(s, "0x") }
