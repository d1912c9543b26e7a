package hardware

import (
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// files is a fixture: path to content; a content that begins with "-> " makes a
// symbolic link, and a path that ends in "/" a folder.
type files map[string]string

func plant(t *testing.T, sets ...files) string {
	t.Helper()
	root := t.TempDir()
	all := files{"proc/self/mountinfo": "1 1 0:2 / / rw - rootfs none rw\n"}
	for _, s := range sets {
		maps.Copy(all, s)
	}
	for name, content := range all {
		p := filepath.Join(root, name)
		dir := filepath.Dir(p)
		if strings.HasSuffix(name, "/") {
			dir = p
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, p)
		} else if dir != p {
			err = os.WriteFile(p, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// disk plants one disk at its place in sysfs, with the link that /sys/block has.
func disk(name, device string, attrs files) files {
	f := files{
		"sys/block/" + name: "-> ../" + device,
		"dev/" + name:       "",
	}
	for k, v := range (files{"size": "1000215216", "ro": "0", "removable": "0", "dev": "8:0",
		"queue/logical_block_size": "512", "queue/physical_block_size": "512", "queue/rotational": "0"}) {
		f["sys/"+device+"/"+k] = v + "\n"
	}
	for k, v := range attrs {
		f["sys/"+device+"/"+k] = v
	}
	return f
}

// The PCs below are laid out as Linux 6.x lays them out.
const (
	nvmePath = "devices/pci0000:00/0000:00:1d.0/0000:3d:00.0/nvme/nvme0/nvme0n1"
	ataPath  = "devices/pci0000:00/0000:00:17.0/ata3/host2/target2:0:0/2:0:0:0/block/sda"
	usbPath  = "devices/pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/host6/target6:0:0/6:0:0:0/block/sdb"
	mmcPath  = "devices/pci0000:00/0000:00:1c.0/mmc_host/mmc0/mmc0:0001/block/mmcblk0"
	vdaPath  = "devices/pci0000:00/0000:00:04.0/virtio1/block/vda"
	sasPath  = "devices/pci0000:00/0000:03:00.0/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block/sdc"
)

// In these trees the block device's "device" link is played by a folder.
func nvme() files {
	return disk("nvme0n1", nvmePath, files{
		"wwid": "eui.0025385b71b0a1c2\n", "dev": "259:0\n",
		"device/model":        "SAMSUNG MZVLB512HBJQ-000L7              \n",
		"device/serial":       "S4ENNX0R123456      \n",
		"device/firmware_rev": "5M2QEXF7\n",
	})
}

func sata() files {
	return disk("sda", ataPath, files{
		"queue/rotational": "1\n", "queue/physical_block_size": "4096\n",
		"device/vendor": "ATA     \n", "device/model": "TOSHIBA MQ01ABD1\n", "device/rev": "AX1R\n",
		"device/wwid":     "naa.500003964f480ab3\n",
		"device/vpd_pg80": vpd(0x80, []byte("        95PFTXXXX")),
		"device/vpd_pg89": vpd(0x89, append(make([]byte, 56), identify("TOSHIBA MQ01ABD100", "95PFTXXXX", "AX1R4C")...)),
	})
}

func usbStick() files {
	f := disk("sdb", usbPath, files{
		"removable": "1\n", "dev": "8:16\n",
		"device/vendor": "SanDisk \n", "device/model": "Ultra Fit       \n", "device/rev": "1.00\n",
	})
	usb := "sys/devices/pci0000:00/0000:00:14.0/usb2/2-3/"
	f[usb+"idVendor"], f[usb+"serial"] = "0781\n", "4C530001\n"
	return f
}

func emmc() files {
	f := disk("mmcblk0", mmcPath, files{
		"dev": "179:0\n", "size": "61071360\n",
		"device/name": "DF4032\n", "device/serial": "0x1a2b3c4d\n", "device/type": "MMC\n",
		"device/cid": "450100444634303332011a2b3c4d5600\n", "device/fwrev": "0x0100000000000000\n",
	})
	for _, area := range []string{"mmcblk0boot0", "mmcblk0boot1", "mmcblk0rpmb", "mmcblk0gp0"} {
		maps.Copy(f, disk(area, mmcPath+"/"+area, files{"size": "8192\n"}))
	}
	return f
}

func virtio() files {
	return disk("vda", vdaPath, files{"serial": "refurb-disk-1", "dev": "254:0\n", "size": "16777216\n"})
}

func vpd(code byte, body []byte) string {
	return string(binary.BigEndian.AppendUint16([]byte{0, code}, uint16(len(body)))) + string(body)
}

// identify is IDENTIFY DEVICE data with the fields that are read.
func identify(model, serial, firmware string) []byte {
	id := make([]byte, 512)
	put := func(word, words int, s string, right bool) {
		if right {
			s = strings.Repeat(" ", 2*words-len(s)) + s
		}
		s += strings.Repeat(" ", 2*words-len(s))
		for i := 0; i < 2*words; i += 2 {
			id[2*word+i], id[2*word+i+1] = s[i+1], s[i]
		}
	}
	put(10, 10, serial, true)
	put(23, 4, firmware, false)
	put(27, 20, model, false)
	return id
}

func pciDevice(slot, class, vendor, device, driver string) files {
	dir := "sys/bus/pci/devices/" + slot + "/"
	f := files{dir + "class": class + "\n", dir + "vendor": "0x" + vendor + "\n", dir + "device": "0x" + device + "\n"}
	if driver != "" {
		f[dir+"driver"] = "-> ../../../drivers/" + driver
	}
	return f
}
