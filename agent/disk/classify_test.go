package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"refurb/agent/wire"
)

const size = 64 << 20

// made is a disk image by a real tool, run on a file.
func made(t *testing.T, bytes int64, command ...string) io.ReaderAt {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, bytes); err != nil {
		t.Fatal(err)
	}
	for i, c := range command {
		command[i] = strings.ReplaceAll(c, "FILE", file)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = strings.NewReader("secret")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", command, err, out)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// The tools are those of the system that this is built on (scripts/setup.sh).
// MD arrays and ZFS pools are made by the kernel, and no tool makes BitLocker or
// HFS+ on Debian: those are built bytes, below.
func TestClassifyRealTools(t *testing.T) {
	for _, c := range []struct {
		name    string
		bytes   int64
		command string
		class   wire.Class
		found   string
	}{
		{"ext2", size, "mkfs.ext2 -q FILE", wire.ClassData, "ext"},
		{"ext4", size, "mkfs.ext4 -q FILE", wire.ClassData, "ext"},
		{"ext4 in the second half of a disk", size, "mkfs.ext4 -q -E offset=33554432 FILE 32M", wire.ClassData, unknown},
		{"fat12", 4 << 20, "mkfs.vfat -F 12 FILE", wire.ClassData, "fat"},
		{"fat16", size, "mkfs.vfat -F 16 FILE", wire.ClassData, "fat"},
		{"fat32", size, "mkfs.vfat -F 32 FILE", wire.ClassData, "fat"},
		{"swap", size, "mkswap FILE", wire.ClassData, "swap"},
		{"ntfs", size, "mkntfs -F -Q -q FILE", wire.ClassData, "ntfs"},
		{"exfat", size, "mkfs.exfat FILE", wire.ClassData, "exfat"},
		{"btrfs", 128 << 20, "mkfs.btrfs -q FILE", wire.ClassData, "btrfs"},
		{"xfs", 320 << 20, "mkfs.xfs -q FILE", wire.ClassData, "xfs"},
		{"f2fs", size, "mkfs.f2fs -q FILE", wire.ClassData, "f2fs"},
		{"apfs", 1 << 30, "mkapfs FILE", wire.ClassData, "apfs"},
		{"luks1", size, "cryptsetup -q --type luks1 --pbkdf-force-iterations 1000 luksFormat FILE -", wire.ClassEncrypted, "luks"},
		{"luks2", size, "cryptsetup -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 luksFormat FILE -", wire.ClassEncrypted, "luks"},
		{"luks2, its first header overwritten", size, "sh -c 'cryptsetup -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 luksFormat FILE - && dd if=/dev/zero of=FILE bs=4096 count=1 conv=notrunc'", wire.ClassEncrypted, "luks"},
		{"lvm", size, "sh -c 'd=$(losetup --find --show FILE); trap \"losetup --detach $d\" EXIT; pvcreate -qq -y --config devices/use_devicesfile=0 $d'", wire.ClassData, "lvm"},
		{"gpt with a luks in a partition", size, "sh -c 'sgdisk -n 1:0:+1M -n 2:0:0 FILE && truncate -s 32M FILE.p && cryptsetup -q --type luks1 --pbkdf-force-iterations 1000 luksFormat FILE.p - && dd if=FILE.p of=FILE bs=1M seek=2 conv=notrunc'", wire.ClassEncrypted, "gpt luks mbr"},
		{"gpt", size, "sgdisk -n 1:0:0 FILE", wire.ClassStructured, "gpt mbr"},
		{"gpt of many partitions", size, "sgdisk -n 1:0:+1M -n 2:0:+1M -n 3:0:+1M -n 7:0:0 -c 1:secret FILE", wire.ClassStructured, "gpt mbr"},
		{"gpt without partitions", size, "sgdisk -o FILE", wire.ClassStructured, "gpt mbr"},
		{"gpt with an ext4 in a partition", size, "sh -c 'sgdisk -n 1:0:+40M -n 2:0:0 FILE && mkfs.ext4 -q -E offset=43000000 FILE 16M'", wire.ClassData, ""},
		{"gpt backup alone", size, "sh -c 'sgdisk -n 1:0:0 FILE && dd if=/dev/zero of=FILE bs=512 count=34 conv=notrunc'", wire.ClassStructured, "gpt"},
		{"gpt primary alone", size, "sh -c 'sgdisk -n 1:0:0 FILE && dd if=/dev/zero of=FILE bs=1M seek=63 count=1 conv=notrunc'", wire.ClassStructured, "gpt mbr"},
		{"gpt with a damaged array", size, "sh -c 'sgdisk -n 1:0:0 FILE && printf x | dd of=FILE bs=1 seek=1030 conv=notrunc'", wire.ClassData, "gpt mbr " + unknown},
		{"dos table", size, "sh -c 'printf \"label: dos\\n,20M,7\\n,,5\\n,10M,83\\n,,83\\n\" | sfdisk FILE'", wire.ClassStructured, "mbr"},
		{"dos table without partitions", size, "sh -c 'printf \"label: dos\\n\" | sfdisk FILE'", wire.ClassStructured, "mbr"},
		{"dos table with a fat in a logical partition", size, "sh -c 'printf \"label: dos\\n1 : size=20M, type=5\\n5 : size=10M, type=6\\n\" | sfdisk FILE && mkfs.vfat --offset 4096 FILE 4096'", wire.ClassData, "fat mbr"},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := strings.Fields(c.command)
			if script, ok := strings.CutPrefix(c.command, "sh -c "); ok {
				command = []string{"sh", "-e", "-c", strings.Trim(script, "'")}
			}
			class, found := Classify(made(t, c.bytes, command...), c.bytes, Facts{})
			if class != c.class || c.found != "" && strings.Join(found, " ") != c.found {
				t.Errorf("%s %v, want %s %s", class, found, c.class, c.found)
			}
		})
	}
}

// block is a disk that holds bytes at offsets, the rest zero.
type block struct {
	size  int64
	at    map[int64][]byte
	holes []int64 // offsets that can't be read
}

func (b *block) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for _, h := range b.holes {
		if h >= off && h < off+int64(len(p)) {
			return 0, errors.New("input/output error")
		}
	}
	if off >= b.size {
		return 0, io.EOF
	}
	for at, data := range b.at {
		from, to := max(at, off), min(at+int64(len(data)), off+int64(len(p)))
		if from < to {
			copy(p[from-off:to-off], data[from-at:])
		}
	}
	if n := b.size - off; n < int64(len(p)) {
		return int(n), io.EOF
	}
	return len(p), nil
}

func TestClassify(t *testing.T) {
	boot := func(at int, s string) []byte { // a boot sector as Windows writes it
		b := make([]byte, 512)
		copy(b, "\xeb\x52\x90")
		copy(b[at:], s)
		b[510], b[511] = 0x55, 0xaa
		return b
	}
	sb10 := int64((size/512 - 16) &^ 7 * 512)
	for _, c := range []struct {
		name  string
		at    map[int64][]byte
		class wire.Class
		found string
	}{
		{"blank", nil, wire.ClassBlank, ""},
		// Boot sectors: [MS-FSA], exFAT specification §3.1, BitLocker's FVE volume header.
		{"ntfs", map[int64][]byte{0: boot(3, "NTFS    ")}, wire.ClassData, "ntfs"},
		{"bitlocker", map[int64][]byte{0: boot(3, "-FVE-FS-")}, wire.ClassEncrypted, "bitlocker"},
		{"bitlocker to go", map[int64][]byte{0: boot(424, "\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01")}, wire.ClassEncrypted, "bitlocker"},
		{"exfat", map[int64][]byte{0: boot(3, "EXFAT   ")}, wire.ClassData, "exfat"},
		{"refs", map[int64][]byte{0: boot(3, "ReFS\x00\x00\x00\x00")}, wire.ClassData, "refs"},
		{"unknown boot sector", map[int64][]byte{0: boot(3, "OSTYPE 1")}, wire.ClassData, unknown},
		{"xfs", map[int64][]byte{0: []byte("XFSB\x00\x00\x10\x00")}, wire.ClassData, "xfs"},
		{"btrfs", map[int64][]byte{0x10040: []byte("_BHRfS_M")}, wire.ClassData, "btrfs"},
		{"swap, pages of 64 KiB", map[int64][]byte{65526: []byte("SWAPSPACE2")}, wire.ClassData, "swap"},
		{"hibernated", map[int64][]byte{4086: []byte("S1SUSPEND\x00")}, wire.ClassData, "swap"},
		{"luks1", map[int64][]byte{0: []byte("LUKS\xba\xbe\x00\x01")}, wire.ClassEncrypted, "luks"},
		{"luks2, second header only", map[int64][]byte{0x4000: []byte("SKUL\xba\xbe\x00\x02")}, wire.ClassEncrypted, "luks"},
		{"luks2, a large second header only", map[int64][]byte{0x400000: []byte("SKUL\xba\xbe\x00\x02")}, wire.ClassEncrypted, "luks"},
		{"lvm in sector 1", map[int64][]byte{512: []byte("LABELONE\x01\x00\x00\x00\x00\x00\x00\x00ABCDEFGHLVM2 001")}, wire.ClassData, "lvm"},
		{"md 1.1", map[int64][]byte{0: []byte("\xfc\x4e\x2b\xa9\x01\x00\x00\x00")}, wire.ClassData, "md"},
		{"md 1.2", map[int64][]byte{4096: []byte("\xfc\x4e\x2b\xa9\x01\x00\x00\x00")}, wire.ClassData, "md"},
		{"md 1.0", map[int64][]byte{sb10: []byte("\xfc\x4e\x2b\xa9\x01\x00\x00\x00")}, wire.ClassData, "md"},
		{"md 0.90", map[int64][]byte{size - 65536: []byte("\xfc\x4e\x2b\xa9\x00\x00\x00\x00")}, wire.ClassData, "md"},
		{"md 0.90, big endian", map[int64][]byte{size - 65536: []byte("\xa9\x2b\x4e\xfc\x00\x00\x00\x00")}, wire.ClassData, "md"},
		{"zfs, first label", map[int64][]byte{128<<10 + 5<<10: []byte("\x0c\xb1\xba\x00\x00\x00\x00\x00")}, wire.ClassData, "zfs"},
		{"zfs, last label", map[int64][]byte{size - 128<<10: []byte("\x00\x00\x00\x00\x00\xba\xb1\x0c")}, wire.ClassData, "zfs"},
		{"apfs", map[int64][]byte{32: []byte("NXSB")}, wire.ClassData, "apfs"},
		// nx_keylocker of Apple File System Reference (2020), p. 27: where the keys are, 3 blocks of them.
		{"apfs with keys", map[int64][]byte{32: []byte("NXSB"), 1296: []byte("\x00\x10\x00\x00\x00\x00\x00\x00\x03")}, wire.ClassEncrypted, "apfs encrypted apfs"},
		// Core Storage as libfvde describes it: version, block type, "CS".
		{"filevault 2", map[int64][]byte{8: []byte("\x01\x00\x10\x00"), 88: []byte("CS\x01\x00\x00\x00")}, wire.ClassEncrypted, "core storage"},
		{"hfs+", map[int64][]byte{1024: []byte("H+\x00\x04")}, wire.ClassData, "hfs"},
		{"hfs+, second header only", map[int64][]byte{size - 1024: []byte("H+\x00\x04")}, wire.ClassData, "hfs"},
		{"iso9660", map[int64][]byte{0x8001: []byte("CD001")}, wire.ClassData, "iso9660"},
		{"f2fs", map[int64][]byte{1024: []byte("\x10\x20\xf5\xf2")}, wire.ClassData, "f2fs"},
		{"bcache", map[int64][]byte{4120: []byte("\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81")}, wire.ClassData, "bcache"},
		{"ddf", map[int64][]byte{size - 512: []byte("\xde\x11\xde\x11")}, wire.ClassData, "ddf raid"},
		{"imsm", map[int64][]byte{size - 1024: []byte("Intel Raid ISM Cfg Sig. 1.1.00")}, wire.ClassData, "intel raid"},
		{"all ones", map[int64][]byte{0: bytes.Repeat([]byte{0xff}, size)}, wire.ClassData, unknown},
		{"first byte", map[int64][]byte{0: {1}}, wire.ClassData, unknown},
		{"last byte", map[int64][]byte{size - 1: {1}}, wire.ClassData, unknown},
		{"last byte of the first MiB", map[int64][]byte{1<<20 - 1: {1}}, wire.ClassData, unknown},
		{"in the middle", map[int64][]byte{20 << 20: bytes.Repeat([]byte{7}, 1<<20)}, wire.ClassData, unknown},
		{"boot code without a table", map[int64][]byte{0: boot(0, "\xfa\x31\xc0")}, wire.ClassData, unknown},
		{"no boot flag that exists", map[int64][]byte{0: func() []byte { b := boot(446, "\x55"); return b }()}, wire.ClassData, unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &block{size: size, at: c.at}
			class, found := Classify(d, size, Facts{})
			if class != c.class || strings.Join(found, " ") != c.found {
				t.Errorf("%s %v, want %s %s", class, found, c.class, c.found)
			}
			// One place that can't be read never makes a disk better, though what it
			// was exactly may not be seen any more.
			for _, hole := range []int64{0, 100 << 10, size / 2, size - 1} {
				d.holes = []int64{hole}
				if hole == size/2 {
					d.holes = nil
					for at := int64(1 << 20); at < size-1<<20; at += sample {
						d.holes = append(d.holes, at)
					}
				}
				class, _ := Classify(d, size, Facts{})
				if class != wire.ClassUnreadable && class != wire.ClassData && class != c.class || class == wire.ClassBlank {
					t.Errorf("with a hole at %d: %s", hole, class)
				}
			}
		})
	}
}

// Everything that a mark can name is found inside a partition as well, through
// a GPT with blocks of either size and through a logical partition.
// A disk that can't be read any more isn't tried hundreds of times: each read may
// take it minutes.
func TestClassifyDying(t *testing.T) {
	for _, good := range []int{0, 3} {
		reads := 0
		class, _ := Classify(readerFunc(func(b []byte, at int64) (int, error) {
			if reads++; reads <= good {
				return len(b), nil
			}
			return 0, io.ErrUnexpectedEOF
		}), 1<<30, Facts{})
		if class != wire.ClassUnreadable || reads > good+maxFailed {
			t.Errorf("%q after %d reads", class, reads)
		}
	}
}

type readerFunc func([]byte, int64) (int, error)

func (f readerFunc) ReadAt(b []byte, at int64) (int, error) { return f(b, at) }

func TestClassifyInsidePartitions(t *testing.T) {
	const first, length = int64(8 << 20), int64(24 << 20)
	tables := map[string]func() map[int64][]byte{
		"gpt 512":  func() map[int64][]byte { return gptOf(512, first, length) },
		"gpt 4096": func() map[int64][]byte { return gptOf(4096, first, length) },
		"logical": func() map[int64][]byte {
			entry := func(kind byte, from, n int64) []byte {
				b := make([]byte, 512)
				b[450] = kind
				le.PutUint32(b[454:], uint32(from/512))
				le.PutUint32(b[458:], uint32(n/512))
				b[510], b[511] = 0x55, 0xaa
				return b
			}
			return map[int64][]byte{0: entry(0x0f, 4<<20, 40<<20), 4 << 20: entry(7, first-4<<20, length)}
		},
	}
	for name, table := range tables {
		if class, found := Classify(&block{size: size, at: table()}, size, Facts{}); class != wire.ClassStructured {
			t.Fatalf("%s alone: %s %v", name, class, found)
		}
		for _, m := range marks {
			at := m.at
			if at < 0 {
				at += length
			}
			if at > length { // btrfs's second copy
				continue
			}
			disk := table()
			disk[first+at] = []byte(m.want)
			class, found := Classify(&block{size: size, at: disk}, size, Facts{})
			want := wire.ClassData
			if ciphers[m.name] {
				want = wire.ClassEncrypted
			}
			if class != want || !slices.Contains(found, m.name) {
				t.Errorf("%s in %s: %s %v", m.name, name, class, found)
			}
		}
	}
}

var le = binary.LittleEndian

// gptOf is a disk with a GPT of one partition.
func gptOf(block, first, length int64) map[int64][]byte {
	array := make([]byte, 128*128)
	array[0], array[16] = 1, 2
	le.PutUint64(array[32:], uint64(first/block))
	le.PutUint64(array[40:], uint64((first+length)/block-1))
	h := make([]byte, 92)
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 128)
	le.PutUint32(h[84:], 128)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(array))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	return map[int64][]byte{block: h, 2 * block: array}
}

func TestClassifySizes(t *testing.T) {
	for _, n := range []int64{-1, 0, 511} {
		if class, _ := Classify(&block{size: n}, n, Facts{}); class != wire.ClassUnreadable {
			t.Errorf("%d bytes: %s", n, class)
		}
	}
	for _, n := range []int64{512, 4096, 1 << 20, 1<<20 + 512, 3 << 20, 16 << 40} {
		if class, found := Classify(&block{size: n}, n, Facts{}); class != wire.ClassBlank {
			t.Errorf("%d bytes: %s %v", n, class, found)
		}
		if class, _ := Classify(&block{size: n - 512}, n, Facts{}); class != wire.ClassUnreadable {
			t.Errorf("%d bytes that end early: %s", n, class)
		}
	}
}

// FuzzClassify: whatever stands at a disk's head and tail, the answer comes, and
// it is blank only when all of it is zero.
func FuzzClassify(f *testing.F) {
	for _, b := range []int64{512, 4096} {
		d := &block{size: size, at: gptOf(b, 1<<20, 8<<20)}
		head := make([]byte, 40<<10)
		d.ReadAt(head, 0)
		f.Add(head, []byte{})
	}
	f.Add([]byte{}, []byte("\xde\x11\xde\x11"))
	f.Add(make([]byte, 512), make([]byte, 512))
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		head, tail = head[:min(len(head), 64<<10)], tail[:min(len(tail), 64<<10)]
		const size = 256 << 10
		d := &block{size: size, at: map[int64][]byte{0: head, size - int64(len(tail)): tail}}
		class, found := Classify(d, d.size, Facts{ID: thisDisk, Key: ourPublic})
		empty := strings.Trim(string(head)+string(tail), "\x00") == ""
		if (class == wire.ClassBlank) != empty || class == wire.ClassUnreadable || len(found) > 40 {
			t.Fatalf("%s %v, empty %v", class, found, empty)
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	d := &block{size: size, at: gptOf(512, 1<<20, 8<<20)}
	for b.Loop() {
		Classify(d, size, Facts{})
	}
}
