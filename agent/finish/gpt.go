// Package finish makes a written disk the PC's own: the partition table fitted
// to the disk, and the firmware's boot entry.
//
// The partition table is done here and not by go-diskfs, because the head of a
// disk must be made in memory and go in last, after everything else was read
// back: that library writes table, backup and protective MBR in its own order,
// and rounds a growing partition in its own way.
package finish

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Partition of a GPT. First and Last are logical blocks, both inside.
type Partition struct {
	Number      int
	First, Last uint64
	Type, GUID  [16]byte // as on disk
}

// Table is a partition table that fits a disk.
type Table struct {
	Head   []byte     // the disk's first bytes, as many as came from the image
	Backup []byte     // belongs at the disk's end; nil without a GPT
	ESP    *Partition // the EFI system partition, if there is one
	Notes  []string   // what was changed, for the record
}

// espType is C12A7328-F81F-11D2-BA4B-00A0C93EC93B as it stands on disk.
var espType = [16]byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}

const maxArray = 256 << 10 // bytes of partition entries; 16 KiB is usual

// gpt is a parsed header and its entries (UEFI 2.10 §5.3.2, §5.3.3).
type gpt struct {
	header  []byte // one block
	array   []byte
	block   uint64
	each    int
	arrayAt uint64 // LBA of the array
	parts   []Partition
}

var le = binary.LittleEndian

// parse reads the primary GPT out of a disk's first bytes. The disk has blocks
// logical blocks as far as the table may know.
func parse(head []byte, block int, blocks uint64) (*gpt, error) {
	if block != 512 && block != 4096 || len(head) < 3*block {
		return nil, fmt.Errorf("no partition table in %d bytes with blocks of %d", len(head), block)
	}
	g := &gpt{header: head[block : 2*block], block: uint64(block)}
	h := g.header
	n := le.Uint32(h[12:])
	switch {
	case !bytes.HasPrefix(h, []byte("EFI PART")):
		return nil, fmt.Errorf("no GPT header")
	case le.Uint32(h[8:]) != 0x10000:
		return nil, fmt.Errorf("GPT revision %#x", le.Uint32(h[8:]))
	case n < 92 || n > uint32(block):
		return nil, fmt.Errorf("a GPT header of %d bytes", n)
	case headerSum(h) != le.Uint32(h[16:]):
		return nil, fmt.Errorf("the GPT header's checksum is wrong")
	case le.Uint64(h[24:]) != 1:
		return nil, fmt.Errorf("the GPT header says it lies in block %d, not 1", le.Uint64(h[24:]))
	}
	count, each := uint64(le.Uint32(h[80:])), uint64(le.Uint32(h[84:]))
	g.arrayAt = le.Uint64(h[72:])
	if each < 128 || each > 4096 || each%128 != 0 || count == 0 || count*each > maxArray {
		return nil, fmt.Errorf("%d partition entries of %d bytes", count, each)
	}
	if g.arrayAt < 2 || g.arrayAt > uint64(len(head))/g.block || g.arrayAt*g.block+count*each > uint64(len(head)) {
		return nil, fmt.Errorf("the partition entries lie in block %d, outside the image's first MiB", g.arrayAt)
	}
	g.each = int(each)
	g.array = head[g.arrayAt*g.block:][:count*each]
	if crc32.ChecksumIEEE(g.array) != le.Uint32(h[88:]) {
		return nil, fmt.Errorf("the partition entries' checksum is wrong")
	}
	first, last := le.Uint64(h[40:]), le.Uint64(h[48:])
	if first < g.arrayAt+g.arrayBlocks() || last < first || last >= blocks {
		return nil, fmt.Errorf("usable blocks %d to %d, on a disk of %d", first, last, blocks)
	}
	for i := range int(count) {
		e := g.entry(i + 1)
		p := Partition{Number: i + 1, First: le.Uint64(e[32:]), Last: le.Uint64(e[40:]), Type: [16]byte(e), GUID: [16]byte(e[16:])}
		if p.Type == ([16]byte{}) {
			continue
		}
		if p.First < first || p.Last < p.First || p.Last > last {
			return nil, fmt.Errorf("partition %d from %d to %d lies outside %d to %d", p.Number, p.First, p.Last, first, last)
		}
		for _, q := range g.parts {
			if p.First <= q.Last && q.First <= p.Last {
				return nil, fmt.Errorf("partitions %d and %d overlap", q.Number, p.Number)
			}
		}
		g.parts = append(g.parts, p)
	}
	return g, nil
}

func (g *gpt) entry(number int) []byte { return g.array[(number-1)*g.each:][:g.each] }
func (g *gpt) arrayBlocks() uint64     { return (uint64(len(g.array)) + g.block - 1) / g.block }

func headerSum(h []byte) uint32 {
	h = bytes.Clone(h[:le.Uint32(h[12:])])
	le.PutUint32(h[16:], 0)
	return crc32.ChecksumIEEE(h)
}

// Fit takes the first bytes of an image with blocks of block bytes and gives
// the table for a disk of size bytes: the GPT's end moved to the disk's end,
// partition number grow (0: none) enlarged up to it, a backup table, the
// protective MBR enlarged, and guid as the disk's GUID. An image without a GPT
// stays as it is. Errors are about the image; nothing is changed in head.
func Fit(head []byte, block int, imageSize, size int64, grow int, guid [16]byte) (*Table, error) {
	if size < imageSize || block <= 0 || size%int64(block) != 0 {
		return nil, fmt.Errorf("an image of %d bytes doesn't fit a disk of %d with blocks of %d", imageSize, size, block)
	}
	t := &Table{Head: bytes.Clone(head)}
	protective := protectiveEntry(head)
	if protective < 0 && (len(head) < block+8 || !bytes.HasPrefix(head[block:], []byte("EFI PART"))) {
		if grow != 0 {
			return nil, fmt.Errorf("partition %d is to grow, but the image has no GPT", grow)
		}
		return t, nil
	}
	if protective < 0 {
		return nil, fmt.Errorf("the image has a GPT but no protective MBR")
	}
	g, err := parse(t.Head, block, uint64(imageSize/int64(block)))
	if err != nil {
		return nil, err
	}
	if block == 4096 && size>>12 < 16 || size/int64(block) < 3+2*int64(g.arrayBlocks()) {
		return nil, fmt.Errorf("a disk of %d bytes is too small for a GPT", size)
	}
	last := uint64(size/int64(block)) - 1
	usable := last - g.arrayBlocks() - 1
	for i := range g.parts {
		p := &g.parts[i]
		if p.Last > usable {
			return nil, fmt.Errorf("partition %d ends at block %d, but a disk of %d bytes has room up to %d", p.Number, p.Last, size, usable)
		}
		if p.Type == espType && t.ESP == nil {
			t.ESP = p
		}
	}
	if grow != 0 {
		note, err := g.grow(grow, usable)
		if err != nil {
			return nil, err
		}
		if note != "" {
			t.Notes = append(t.Notes, note)
		}
	}

	h := g.header
	le.PutUint64(h[32:], last) // the other header
	le.PutUint64(h[48:], usable)
	copy(h[56:72], guid[:])
	le.PutUint32(h[88:], crc32.ChecksumIEEE(g.array))
	le.PutUint32(h[16:], headerSum(h))

	t.Backup = make([]byte, (g.arrayBlocks()+1)*g.block)
	copy(t.Backup, g.array)
	b := t.Backup[g.arrayBlocks()*g.block:]
	copy(b, h)
	le.PutUint64(b[24:], last)
	le.PutUint64(b[32:], 1)
	le.PutUint64(b[72:], last-g.arrayBlocks())
	le.PutUint32(b[16:], headerSum(b))

	// UEFI 2.10 §5.2.3: one entry from block 1 over the whole disk, or all ones
	// when that doesn't fit. Its boot flag stays: old BIOSes may want it.
	e := t.Head[protective:]
	copy(e[1:4], "\x00\x02\x00")
	copy(e[5:8], "\xff\xff\xff")
	le.PutUint32(e[8:], 1)
	le.PutUint32(e[12:], uint32(min(last, 0xffffffff)))
	return t, nil
}

// grow enlarges a partition up to the last whole MiB that is usable.
func (g *gpt) grow(number int, usable uint64) (string, error) {
	var it *Partition
	for i := range g.parts {
		if g.parts[i].Number == number {
			it = &g.parts[i]
		}
	}
	if it == nil {
		return "", fmt.Errorf("partition %d is to grow, but the image has none of that number", number)
	}
	for _, p := range g.parts {
		if p.First > it.Last {
			return "", fmt.Errorf("partition %d is to grow, but partition %d lies behind it", number, p.Number)
		}
	}
	mib := (1 << 20) / g.block
	end := (usable + 1) / mib * mib // first block behind it
	if end <= it.Last+1 {
		return "", nil
	}
	it.Last = end - 1
	le.PutUint64(g.entry(number)[40:], it.Last)
	return fmt.Sprintf("partition %d grown to %.1f GB", number, float64((it.Last-it.First+1)*g.block)/1e9), nil
}

// protectiveEntry is the offset of the MBR entry of type EE, -1 without one.
func protectiveEntry(head []byte) int {
	if len(head) < 512 || head[510] != 0x55 || head[511] != 0xaa {
		return -1
	}
	for at := 446; at < 510; at += 16 {
		if head[at+4] == 0xee {
			return at
		}
	}
	return -1
}
