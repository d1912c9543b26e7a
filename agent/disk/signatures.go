package disk

import (
	"bytes"
	"encoding/binary"
	"slices"

	"refurb/images"
)

// A mark is a byte pattern that gives a format away. Its offset counts from the
// start of the region (a whole disk or one partition), or from its end when
// negative.
type mark struct {
	name string
	at   int64
	want string
}

// marks are the formats with a pattern at a fixed place. Sources: the kernel's
// headers of each file system (magic numbers), Microsoft's exFAT and BitLocker
// descriptions, LUKS1 and LUKS2 on-disk formats, Apple File System Reference
// (2020), TN1150 for HFS+, SNIA DDF 2.0 §4.2 (anchor in the last block), mdadm's
// super-intel.c for Intel's metadata (last sector but one), and libfvde's
// description of Core Storage, which FileVault 2 is made on.
var marks = []mark{
	{"ntfs", 3, "NTFS    "},
	{"bitlocker", 3, "-FVE-FS-"},
	// BitLocker To Go keeps a FAT boot sector and puts its identifier there.
	{"bitlocker", 424, "\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01"},
	{"exfat", 3, "EXFAT   "},
	{"refs", 3, "ReFS\x00\x00\x00\x00"},
	{"fat", 54, "FAT12   "},
	{"fat", 54, "FAT16   "},
	{"fat", 54, "FAT     "},
	{"fat", 82, "FAT32   "},
	{"ext", 0x438, "\x53\xef"},
	{"xfs", 0, "XFSB"},
	{"btrfs", 0x10040, "_BHRfS_M"},
	{"btrfs", 0x4000040, "_BHRfS_M"},
	{"swap", 4096 - 10, "SWAPSPACE2"},
	{"swap", 4096 - 10, "SWAP-SPACE"},
	{"swap", 4096 - 10, "S1SUSPEND\x00"},
	{"swap", 65536 - 10, "SWAPSPACE2"},
	{"luks", 0, "LUKS\xba\xbe"},
	{"luks", 0x4000, "SKUL\xba\xbe"}, // LUKS2's second header, by header size
	{"luks", 0x8000, "SKUL\xba\xbe"},
	{"luks", 0x10000, "SKUL\xba\xbe"},
	{"luks", 0x20000, "SKUL\xba\xbe"},
	{"luks", 0x40000, "SKUL\xba\xbe"},
	{"luks", 0x80000, "SKUL\xba\xbe"},
	{"luks", 0x100000, "SKUL\xba\xbe"},
	{"luks", 0x200000, "SKUL\xba\xbe"},
	{"luks", 0x400000, "SKUL\xba\xbe"},
	{"lvm", 0, "LABELONE"}, // the label may sit in any of four sectors
	{"lvm", 512, "LABELONE"},
	{"lvm", 1024, "LABELONE"},
	{"lvm", 1536, "LABELONE"},
	{"md", 0, "\xfc\x4e\x2b\xa9"},    // metadata 1.1
	{"md", 4096, "\xfc\x4e\x2b\xa9"}, // metadata 1.2
	{"apfs", 32, "NXSB"},
	{"hfs", 1024, "H+"},
	{"hfs", 1024, "HX"},
	{"hfs", 1024, "BD"},
	{"hfs", -1024, "H+"},
	{"hfs", -1024, "HX"},
	{"iso9660", 0x8001, "CD001"},
	{"udf", 0x8001, "BEA01"},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"bcachefs", 4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
	{"jfs", 0x8000, "JFS1"},
	{"squashfs", 0, "hsqs"},
	{"storage spaces", 0, "SPACEDB "},
	{"ddf raid", -512, "\xde\x11\xde\x11"},
	{"ddf raid", -512, "\x11\xde\x11\xde"},
	{"ddf raid", -4096, "\xde\x11\xde\x11"},
	{"intel raid", -1024, "Intel Raid ISM Cfg Sig. "},
	{"intel raid", -8192, "Intel Raid ISM Cfg Sig. "},
}

// ciphers are the names of formats that hide what they hold.
var ciphers = map[string]bool{"luks": true, "bitlocker": true, "encrypted apfs": true, "core storage": true}

// window is a piece of a region that was read: b lies at offset at of it.
type window struct {
	at int64
	b  []byte
}

func (w window) has(at int64, want string) bool {
	i := at - w.at
	return i >= 0 && i+int64(len(want)) <= int64(len(w.b)) && string(w.b[i:i+int64(len(want))]) == want
}

// probeWindow names every format whose mark lies in w, a part of a region of
// size bytes.
func probeWindow(w window, size int64, found map[string]bool) {
	for _, m := range marks {
		at := m.at
		if at < 0 {
			at += size
		}
		if w.has(at, m.want) {
			found[m.name] = true
		}
	}
	// MD 0.90 sits in the last 64 KiB that are aligned to 64 KiB, MD 1.0 at
	// least 8 KiB before the end, aligned to 4 KiB (md_p.h; super1.c). 0.90 is
	// in the byte order of the machine that made it.
	old := size&^(64<<10-1) - 64<<10
	if w.has(old, "\xfc\x4e\x2b\xa9") || w.has(old, "\xa9\x2b\x4e\xfc") {
		found["md"] = true
	}
	if w.has((size/512-16)&^7*512, "\xfc\x4e\x2b\xa9") {
		found["md"] = true
	}
	// A container of APFS whose superblock names a keybag has encrypted volumes
	// (nx_magic at 32, nx_keylocker's number of blocks at 1304).
	if w.has(32, "NXSB") && w.at == 0 && len(w.b) >= 1312 && !images.Zero(w.b[1304:1312]) {
		found["encrypted apfs"] = true
	}
	// Core Storage: version 1, block type 16, and the signature behind them.
	if w.has(88, "CS") && w.has(8, "\x01\x00\x10\x00") {
		found["core storage"] = true
	}
	probeZFS(w, size, found)
}

// probeZFS looks for uberblocks in the four vdev labels: two at the start, two
// at the end of what fits into whole 256 KiB; the second 128 KiB of each label
// hold uberblocks at multiples of 1 KiB (ZFS On-Disk Specification §1.2).
func probeZFS(w window, size int64, found map[string]bool) {
	const label = 256 << 10
	whole := size &^ (label - 1)
	for _, start := range []int64{0, label, whole - 2*label, whole - label} {
		for at := start + label/2; at < start+label; at += 1 << 10 {
			if w.has(at, "\x0c\xb1\xba\x00\x00\x00\x00\x00") || w.has(at, "\x00\x00\x00\x00\x00\xba\xb1\x0c") {
				found["zfs"] = true
				return
			}
		}
	}
}

// span is a range of bytes [from, to) on a disk.
type span struct{ from, to int64 }

const maxPartitions = 256

// espType is C12A7328-F81F-11D2-BA4B-00A0C93EC93B as it stands on disk.
const espType = "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b"

// tables finds GPT and MBR partition tables. structure gets the byte ranges
// that the tables themselves fill, parts the partitions, and esps those of a
// GPT that are EFI system partitions. read fetches exact bytes of the disk; what
// it can't read is simply not a table here, the caller notices read errors
// elsewhere.
func tables(size int64, read func(off int64, n int) []byte, found map[string]bool) (structure, parts, esps []span) {
	for _, block := range []int64{512, 4096} {
		for _, lba := range []int64{1, size/block - 1} {
			if lba < 1 {
				continue
			}
			h := read(lba*block, 512)
			if !bytes.HasPrefix(h, []byte("EFI PART")) {
				continue
			}
			found["gpt"] = true
			s, p, e := gptRanges(h, lba, block, size, read)
			structure, parts = append(structure, s...), append(parts, p...)
			for _, p := range e { // the backup table names them again
				if !slices.Contains(esps, p) {
					esps = append(esps, p)
				}
			}
		}
	}
	sector := read(0, 512)
	if entries, ok := mbrEntries(sector); ok {
		found["mbr"] = true
		structure = append(structure, span{0, 512})
		for _, e := range entries {
			switch e.kind {
			case 0, 0xee: // empty, protective
			case 0x05, 0x0f, 0x85:
				s, p := logicalPartitions(e, size, read)
				structure, parts = append(structure, s...), append(parts, p...)
			default:
				parts = append(parts, span{e.from, e.from + e.bytes})
			}
		}
	}
	return structure, parts, esps
}

// gptRanges reads one GPT (UEFI 2.10 §5.3). Only a header and an array whose
// checksums hold count as structure: damaged ones may be anything.
func gptRanges(h []byte, lba, block, size int64, read func(int64, int) []byte) (structure, parts, esps []span) {
	le := binary.LittleEndian
	n := int64(le.Uint32(h[12:]))
	if n < 92 || n > 512 {
		return nil, nil, nil
	}
	sum := le.Uint32(h[16:])
	check := bytes.Clone(h[:n])
	le.PutUint32(check[16:], 0)
	entryLBA, count, each := le.Uint64(h[72:]), int64(le.Uint32(h[80:])), int64(le.Uint32(h[84:]))
	if crc(check) != sum || int64(le.Uint64(h[24:])) != lba || each < 128 || each > 4096 || count > 1024 ||
		entryLBA > uint64(size/block) {
		return nil, nil, nil
	}
	at := int64(entryLBA) * block
	array := read(at, int(count*each))
	if int64(len(array)) != count*each || crc(array) != le.Uint32(h[88:]) {
		return nil, nil, nil
	}
	structure = append(structure, span{lba * block, lba*block + n}, span{at, at + count*each})
	for i := int64(0); i < count && len(parts) < maxPartitions; i++ {
		e := array[i*each:]
		if images.Zero(e[:16]) {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first > last || last >= uint64(size/block) {
			continue
		}
		p := span{int64(first) * block, int64(last+1) * block}
		parts = append(parts, p)
		if string(e[:16]) == espType {
			esps = append(esps, p)
		}
	}
	return structure, parts, esps
}

type mbrEntry struct {
	kind        byte
	from, bytes int64
}

// mbrEntries tells whether a sector is an MBR rather than a boot sector of a
// file system or something unknown that happens to end in 55 AA.
func mbrEntries(b []byte) ([]mbrEntry, bool) {
	if len(b) < 512 || b[510] != 0x55 || b[511] != 0xaa {
		return nil, false
	}
	var entries []mbrEntry
	for i := range 4 {
		e := b[446+16*i : 462+16*i]
		if e[0] != 0 && e[0] != 0x80 {
			return nil, false
		}
		first, n := binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
		if e[4] != 0 && n != 0 {
			entries = append(entries, mbrEntry{e[4], int64(first) * 512, int64(n) * 512})
		}
	}
	// A table without partitions is one only if there is no code in front of
	// it: file systems keep their parameters there.
	if len(entries) == 0 && !images.Zero(b[:440]) {
		return nil, false
	}
	return entries, true
}

// logicalPartitions walks the chain inside an extended partition.
func logicalPartitions(ext mbrEntry, size int64, read func(int64, int) []byte) (structure, parts []span) {
	at := ext.from
	for range 64 {
		if at <= 0 || at+512 > size {
			break
		}
		entries, ok := mbrEntries(read(at, 512))
		if !ok {
			break
		}
		structure = append(structure, span{at, at + 512})
		next := int64(0)
		for _, e := range entries {
			if e.kind == 0x05 || e.kind == 0x0f || e.kind == 0x85 {
				next = ext.from + e.from // counts from the extended partition
			} else {
				parts = append(parts, span{at + e.from, at + e.from + e.bytes})
			}
		}
		if next <= at {
			break
		}
		at = next
	}
	return structure, parts
}
