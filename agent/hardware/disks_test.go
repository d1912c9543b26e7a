package hardware

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"refurb/agent/wire"
)

func TestDisks(t *testing.T) {
	const sector = 512
	for name, c := range map[string]struct {
		pc   []files
		want []wire.Disk
	}{
		"nvme": {[]files{nvme()}, []wire.Disk{{
			DiskID: wire.DiskID{Path: "/dev/nvme0n1", Serial: "S4ENNX0R123456", WWN: "eui.0025385b71b0a1c2",
				Model: "SAMSUNG MZVLB512HBJQ-000L7", Bytes: 1000215216 * sector, LogicalBlock: 512},
			Firmware: "5M2QEXF7", Transport: wire.TransportNVMe, PhysicalBlock: 512,
		}}},
		"multipath nvme": {[]files{
			disk("nvme0n1", "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", files{"device/serial": "S1\n", "device/model": "M\n", "wwid": "eui.1\n"}),
			disk("nvme0c0n1", "devices/pci0000:00/0000:3d:00.0/nvme/nvme0/nvme0c0n1", files{"hidden": "1\n"}),
		}, []wire.Disk{{
			DiskID:    wire.DiskID{Path: "/dev/nvme0n1", Serial: "S1", WWN: "eui.1", Model: "M", Bytes: 1000215216 * sector, LogicalBlock: 512},
			Transport: wire.TransportNVMe, PhysicalBlock: 512,
		}}},
		"sata: the whole model from page 89h, not SCSI's 16 letters": {[]files{sata()}, []wire.Disk{{
			DiskID: wire.DiskID{Path: "/dev/sda", Serial: "95PFTXXXX", WWN: "naa.500003964f480ab3",
				Model: "TOSHIBA MQ01ABD100", Bytes: 1000215216 * sector, LogicalBlock: 512},
			Firmware: "AX1R4C", Transport: wire.TransportSATA, PhysicalBlock: 4096, Rotational: true,
		}}},
		"sas: serial from page 80h": {[]files{disk("sdc", sasPath, files{
			"device/vendor": "SEAGATE \n", "device/model": "ST300MM0006     \n", "device/rev": "0003\n",
			"device/vpd_pg80": vpd(0x80, []byte("S0K1ABCD            ")), "device/wwid": "naa.5000c500\n",
		})}, []wire.Disk{{
			DiskID: wire.DiskID{Path: "/dev/sdc", Serial: "S0K1ABCD", WWN: "naa.5000c500",
				Model: "SEAGATE ST300MM0006", Bytes: 1000215216 * sector, LogicalBlock: 512},
			Firmware: "0003", Transport: wire.TransportSCSI, PhysicalBlock: 512,
		}}},
		"usb stick: the stick's serial": {[]files{usbStick()}, []wire.Disk{{
			DiskID: wire.DiskID{Path: "/dev/sdb", Serial: "4C530001", Model: "SanDisk Ultra Fit",
				Bytes: 1000215216 * sector, LogicalBlock: 512},
			Firmware: "1.00", Transport: wire.TransportUSB, PhysicalBlock: 512, Removable: true,
		}}},
		"emmc without its boot areas": {[]files{emmc()}, []wire.Disk{{
			DiskID: wire.DiskID{Path: "/dev/mmcblk0", Serial: "0x1a2b3c4d", WWN: "cid.450100444634303332011a2b3c4d5600",
				Model: "DF4032", Bytes: 61071360 * sector, LogicalBlock: 512},
			Firmware: "0x0100000000000000", Transport: wire.TransportMMC, PhysicalBlock: 512,
		}}},
		"an SD card is removable": {[]files{disk("mmcblk1", strings.ReplaceAll(mmcPath, "mmcblk0", "mmcblk1"), files{
			"device/name": "SC64G\n", "device/serial": "0x1\n", "device/type": "SD\n",
		})}, []wire.Disk{{
			DiskID:    wire.DiskID{Path: "/dev/mmcblk1", Serial: "0x1", Model: "SC64G", Bytes: 1000215216 * sector, LogicalBlock: 512},
			Transport: wire.TransportMMC, PhysicalBlock: 512, Removable: true,
		}}},
		"virtio": {[]files{virtio()}, []wire.Disk{{
			DiskID:    wire.DiskID{Path: "/dev/vda", Serial: "refurb-disk-1", Bytes: 16777216 * sector, LogicalBlock: 512},
			Transport: wire.TransportVirtio, PhysicalBlock: 512,
		}}},
		"what is no disk": {[]files{
			disk("loop0", "devices/virtual/block/loop0", nil), disk("ram0", "devices/virtual/block/ram0", nil),
			disk("zram0", "devices/virtual/block/zram0", nil), disk("dm-0", "devices/virtual/block/dm-0", nil),
			disk("md127", "devices/virtual/block/md127", nil), disk("nbd3", "devices/virtual/block/nbd3", nil),
			disk("sr0", "devices/pci0000:00/ata2/block/sr0", nil), disk("fd0", "devices/platform/fd0", nil),
			disk("sdd", strings.ReplaceAll(usbPath, "sdb", "sdd"), files{"size": "0\n", "removable": "1\n"}),
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, problems := Disks(plant(t, c.pc...))
			if len(problems) != 0 {
				t.Errorf("problems: %q", problems)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestInUse(t *testing.T) {
	part := func(disk, device, name string, more files) files {
		f := files{"sys/" + device + "/" + name + "/partition": "1\n", "sys/" + device + "/" + name + "/dev": "8:1\n"}
		for k, v := range more {
			f["sys/"+device+"/"+name+"/"+k] = v
		}
		return f
	}
	mounts := func(s string) files { return files{"proc/self/mountinfo": s} }
	for name, c := range map[string]struct {
		extra files
		want  string
	}{
		"free":                       {nil, ""},
		"whole disk mounted":         {mounts("36 35 8:0 / /mnt rw - ext4 /dev/root rw\n"), "mounted"},
		"partition by number":        {mounts("36 35 8:1 / /mnt rw shared:1 master:2 - ext4 /dev/root rw\n"), "mounted"},
		"btrfs by name":              {mounts("36 35 0:55 / /mnt rw - btrfs /dev/sda1 rw\n"), "mounted"},
		"another disk's partition":   {mounts("36 35 8:17 / /mnt rw - ext4 /dev/sdb1 rw\n"), ""},
		"swap":                       {files{"proc/swaps": "Filename Type Size Used Priority\n/dev/sda1 partition 8 0 -2\n"}, "swap"},
		"disk held":                  {files{"sys/" + ataPath + "/holders/md127/": ""}, "held by md127"},
		"partition held":             {files{"sys/" + ataPath + "/sda1/holders/dm-0/": ""}, "held by dm-0"},
		"mount table longer than 1M": {mounts(strings.Repeat("1 1 0:2 / / rw - rootfs none rw\n", 40000)), "unknown: the mount table is too long"},
	} {
		t.Run(name, func(t *testing.T) {
			disks, _ := Disks(plant(t, sata(), part("sda", ataPath, "sda1", nil), c.extra))
			if len(disks) != 1 || disks[0].InUse != c.want {
				t.Errorf("got %+v, want in use %q", disks, c.want)
			}
		})
	}
	t.Run("no mount table", func(t *testing.T) {
		root := plant(t, sata())
		if err := os.Remove(filepath.Join(root, "proc/self/mountinfo")); err != nil {
			t.Fatal(err)
		}
		disks, problems := Disks(root)
		if len(disks) != 1 || disks[0].InUse == "" || len(problems) == 0 {
			t.Errorf("a disk is free though nobody knows: %+v %q", disks, problems)
		}
	})
}

func TestDiskIdentity(t *testing.T) {
	root := plant(t, nvme(), disk("sdz", strings.ReplaceAll(ataPath, "sda", "sdz"), files{"size": "0\n"}))
	id, err := DiskIdentity(root, "nvme0n1")
	if err != nil || id.Serial != "S4ENNX0R123456" || id.Bytes != 1000215216*512 {
		t.Errorf("got %+v, %v", id, err)
	}
	disks, _ := Disks(root)
	if !slices.ContainsFunc(disks, func(d wire.Disk) bool { return d.DiskID == id }) {
		t.Errorf("the list and the single look differ: %+v, %+v", disks, id)
	}
	for _, name := range []string{"", ".", "..", "sdq", "../block/nvme0n1", "sdz"} {
		if id, err := DiskIdentity(root, name); err == nil {
			t.Errorf("%q: got %+v and no error", name, id)
		}
	}
}

// Without any serial and with a node that is a plain file, a disk is listed all
// the same; with a node that is gone, the report says so.
func TestSerialNotReadable(t *testing.T) {
	bare := disk("sda", ataPath, files{"device/model": "X\n", "device/vpd_pg80": "\x00\x83\x00\x02ab"})
	disks, problems := Disks(plant(t, bare))
	if len(disks) != 1 || disks[0].Serial != "" || len(problems) != 0 {
		t.Errorf("plain file: %+v %q", disks, problems)
	}
	delete(bare, "dev/sda")
	disks, problems = Disks(plant(t, bare))
	if len(disks) != 1 || len(problems) != 1 || !strings.Contains(problems[0], "/dev/sda serial") {
		t.Errorf("no node: %+v %q", disks, problems)
	}
}

// A node that never opens (a pipe without a writer would block; a drive that
// hangs does the same) costs probeTime, not the report.
func TestHangingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		start := time.Now()
		_, err := within(probeTime, func() (answer, error) { <-release; return answer{serial: "late"}, nil })
		if err == nil || time.Since(start) != probeTime {
			t.Errorf("err %v after %v", err, time.Since(start))
		}
		close(release)
	})
}

func TestOpenedIdentity(t *testing.T) {
	plain, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := OpenedIdentity("/", plain); err == nil || !strings.Contains(err.Error(), "no block device") {
		t.Errorf("plain file: %v", err)
	}

	dev := loopDevice(t, 8<<20)
	f, err := os.OpenFile(dev, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, err := OpenedIdentity("/", f)
	if err != nil || id.Path != dev || id.Bytes != 8<<20 || id.LogicalBlock != 512 {
		t.Errorf("got %+v, %v", id, err)
	}

	// The same descriptor against a kernel that says something else.
	name := filepath.Base(dev)
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	number := "sys/dev/block/" + deviceNumber(st.Rdev)
	honest := disk(name, "devices/virtual/block/"+name, files{"size": "16384\n"})
	honest[number] = "-> ../../devices/virtual/block/" + name
	if id, err := OpenedIdentity(plant(t, honest), f); err != nil {
		t.Errorf("honest: %+v, %v", id, err)
	}
	for what, lie := range map[string]files{
		"another size":  {"size": "16392\n"},
		"another block": {"size": "16384\n", "queue/logical_block_size": "4096\n"},
		"a partition":   {"size": "16384\n", "partition": "1\n"},
	} {
		f2 := disk(name, "devices/virtual/block/"+name, lie)
		f2[number] = honest[number]
		if id, err := OpenedIdentity(plant(t, f2), f); err == nil {
			t.Errorf("%s: no error, %+v", what, id)
		}
	}
	gone := maps.Clone(honest)
	delete(gone, number)
	if _, err := OpenedIdentity(plant(t, gone), f); err == nil || !strings.Contains(err.Error(), "unplugged") {
		t.Errorf("unplugged: %v", err)
	}
}
