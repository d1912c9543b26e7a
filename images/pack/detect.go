package pack

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"slices"

	"refurb/images"
)

// headSize is how much of a disk's start detect wants. A GPT whose table lies
// further behind is refused; nothing makes one.
const headSize = 1 << 20

// layout is what the start of a disk image shows.
type layout struct {
	Block int
	Boots []string
	Grow  int
	Last  int   // number of the GPT's partition that ends last
	Need  int64 // bytes that its partition table wants at least
}

// Partition types (UEFI 2.10, 5.3.3; the Discoverable Partitions Specification),
// as they lie on the disk.
var (
	typeESP       = guid("c12a7328f81f11d2ba4b00a0c93ec93b")
	typeLinux     = guid("0fc63daf848347728e793d69d8477de4")
	typeRootAMD64 = guid("4f68bce3e8cd4db196e7fbcaf984b709")
)

// guid swaps the first three fields: GPT stores them little-endian.
func guid(s string) (g [16]byte) {
	if _, err := hex.Decode(g[:], []byte(s)); err != nil {
		panic(err)
	}
	slices.Reverse(g[:4])
	slices.Reverse(g[4:6])
	slices.Reverse(g[6:8])
	return g
}

// detect reads the partition table from the first bytes of a disk, up to
// headSize of them. The error is a *Refusal.
func detect(head []byte, force bool) (layout, error) {
	l := layout{Block: 512, Boots: []string{}}
	// Hybrid installers carry an MBR as well, so this comes first (ECMA-119, 8.1).
	if len(head) >= 32774 && string(head[32769:32774]) == "CD001" && !force {
		return l, &Refusal{"this is an installation medium (ISO 9660), not the disk of an installed system",
			"install from it in a virtual machine and import that machine's disk"}
	}
	mbr := len(head) >= 512 && head[510] == 0x55 && head[511] == 0xAA
	code := mbr && bootCode(head)
	if code {
		l.Boots = append(l.Boots, images.BootsBIOS)
	}
	table := false
	for _, block := range []int{512, 4096} {
		g, err := readGPT(head, block)
		if err != nil && !force {
			return l, err
		}
		if err == nil && g != nil {
			table, l.Block, l.Grow, l.Last, l.Need = true, block, g.grow, g.last, g.need
			if g.esp {
				l.Boots = append(l.Boots, images.BootsUEFI)
			}
			break
		}
	}
	if !table && mbr {
		var esp bool
		if table, esp, l.Need = readMBR(head); esp {
			l.Boots = append(l.Boots, images.BootsUEFI)
		}
	}
	if !table && !code && !force {
		return l, &Refusal{"this is not a disk image: it has neither a partition table nor boot code",
			"give the image of a whole disk, not of one partition or an archive; --force if you are sure"}
	}
	return l, nil
}

// bootCode of an MBR. mkfs.fat puts a program there that only says that the
// disk doesn't boot.
func bootCode(head []byte) bool {
	return !images.Zero(head[:440]) && !bytes.Contains(head[:510], []byte("This is not a bootable disk"))
}

type gptTable struct {
	esp        bool
	last, grow int
	need       int64
}

// readGPT returns nil, nil when there is none at this block size (UEFI 2.10,
// 5.3.2).
func readGPT(head []byte, block int) (*gptTable, error) {
	if len(head) < 2*block || string(head[block:block+8]) != "EFI PART" {
		return nil, nil
	}
	bad := func(format string, args ...any) (*gptTable, error) {
		return nil, &Refusal{"its partition table (GPT) is damaged: " + fmt.Sprintf(format, args...),
			"repair it (sgdisk --verify) or make the image again"}
	}
	h := bytes.Clone(head[block : 2*block])
	le := binary.LittleEndian
	size := le.Uint32(h[12:])
	if size < 92 || int(size) > block {
		return bad("its header claims %d bytes", size)
	}
	sum := le.Uint32(h[16:])
	clear(h[16:20])
	if crc32.ChecksumIEEE(h[:size]) != sum {
		return bad("its header's checksum is wrong")
	}
	last := uint64(images.MaxBytes / block)
	backup, at, n, entry := le.Uint64(h[32:]), le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if le.Uint64(h[24:]) != 1 || backup < 2 || backup >= last {
		return bad("its copies are at blocks %d and %d", le.Uint64(h[24:]), backup)
	}
	if entry < 128 || entry > 4096 || entry%128 != 0 || n == 0 || n > 4096 || at < 2 || at > headSize {
		return bad("%d entries of %d bytes at block %d", n, entry, at)
	}
	from, to := at*uint64(block), at*uint64(block)+uint64(n)*uint64(entry)
	if to > uint64(len(head)) {
		return bad("its entries lie behind the first MiB or the image's end")
	}
	entries := head[from:to]
	if crc32.ChecksumIEEE(entries) != le.Uint32(h[88:]) {
		return bad("its entries' checksum is wrong")
	}
	g := &gptTable{need: int64(backup+1) * int64(block)}
	var lastEnd uint64
	for i := range int(n) {
		e := entries[i*int(entry):]
		kind := [16]byte(e[:16])
		if kind == ([16]byte{}) {
			continue
		}
		first, end := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first > end || end >= last {
			return bad("partition %d lies at blocks %d to %d", i+1, first, end)
		}
		g.esp = g.esp || kind == typeESP
		g.need = max(g.need, int64(end+1)*int64(block))
		if end < lastEnd {
			continue
		}
		lastEnd, g.last, g.grow = end, i+1, 0
		if (kind == typeLinux || kind == typeRootAMD64) && i < 128 {
			g.grow = i + 1
		}
	}
	return g, nil
}

// readMBR says whether the sector holds a partition table that makes sense: a
// FAT or NTFS boot sector ends in the same two bytes.
func readMBR(head []byte) (table, esp bool, need int64) {
	for i := range 4 {
		e := head[446+16*i:][:16]
		if images.Zero(e) {
			continue
		}
		first, n := binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
		if e[0] != 0 && e[0] != 0x80 || e[4] == 0 || first == 0 || n == 0 {
			return false, false, 0
		}
		table = true
		if e[4] == 0xEE { // protects a GPT that isn't there (any more)
			return false, false, 0
		}
		esp = esp || e[4] == 0xEF
		need = max(need, (int64(first)+int64(n))*512)
	}
	return table, esp, need
}

// grow resolves the option: 0 takes what detect found, below 0 none, else that
// partition, which has to be the last one.
func (l layout) grow(option int) (int, error) {
	switch {
	case option < 0:
		return 0, nil
	case option == 0:
		return l.Grow, nil
	case option != l.Last || option > 128:
		return 0, &Refusal{fmt.Sprintf("partition %d can't grow: it is not the last of a GPT", option), "leave the choice to the import"}
	}
	return option, nil
}

// fits checks the size of the image, once it is known.
func (l layout) fits(size int64, force bool) error {
	switch {
	case size <= 0:
		return &Refusal{"the image is empty", "give the image of an installed disk"}
	case size > images.MaxBytes:
		return &Refusal{fmt.Sprintf("the image has %d bytes, more than %d", size, int64(images.MaxBytes)), ""}
	case size%int64(l.Block) != 0:
		up := (size + int64(l.Block) - 1) / int64(l.Block) * int64(l.Block)
		return &Refusal{fmt.Sprintf("the image has %d bytes, not a multiple of its disk's blocks of %d", size, l.Block),
			fmt.Sprintf("if it is whole, fill it up with zeroes: truncate -s %d FILE (unpacked)", up)}
	case size < l.Need && !force:
		return &Refusal{fmt.Sprintf("the image is cut short: its partition table wants %d bytes, it has %d", l.Need, size),
			"copy or download it again"}
	}
	return nil
}
