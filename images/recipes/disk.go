package recipes

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"refurb/images"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat12"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/partition/gpt"
)

const (
	sector  = 512
	mib     = 1 << 20
	biosAt  = 1 * mib // partition 1, for GRUB's core on BIOS: 1 MiB
	espAt   = 2 * mib // partition 2, the EFI system partition
	backup  = 1 * mib // left at the end for the second partition table
	slotDir = "/EFI/refurb"
)

// loaders start a system: GRUB on BIOS, shim and GRUB on UEFI, GRUB alone on
// UEFI of 32 bits, for which nobody signs a shim.
type loaders struct{ boot, core, shim, grub, grub32 []byte }

// Debian's signed boot loaders, below the root of their packages: shim, the GRUB
// that it trusts, and MokManager, which shim starts when a key is to be enrolled.
const (
	shimFile = "usr/lib/shim/shimx64.efi.signed"
	grubFile = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
	mokFile  = "usr/lib/shim/mmx64.efi.signed"

	grub32Package = "grub-efi-ia32-unsigned"
	grub32File    = "usr/lib/grub/i386-efi/monolithic/grubia32.efi"
)

// slotFile is the place in the EFI system partition that the agent fills.
const slotFile = slotDir + "/checkin"

// part is one partition; ids are fixed, since the agent gives every PC its own.
type part struct {
	name  string
	kind  gpt.Type
	id    string
	start int64 // bytes
	bytes int64
}

const linuxRootX64 = gpt.Type("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709")

// partition gives the file its size and writes both partition tables.
func partition(f *os.File, size int64, id string, parts []part) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	t := &gpt.Table{LogicalSectorSize: sector, PhysicalSectorSize: sector, GUID: id, ProtectiveMBR: true}
	end := int64(0)
	for i, p := range parts {
		if p.start < end || p.start%mib != 0 || p.bytes%sector != 0 || p.start+p.bytes > size-backup {
			return fmt.Errorf("partition %d (%s) does not fit: %d bytes from %d on a disk of %d", i+1, p.name, p.bytes, p.start, size)
		}
		end = p.start + p.bytes
		t.Partitions = append(t.Partitions, &gpt.Partition{
			Index: i + 1, Start: uint64(p.start / sector), End: uint64(end/sector) - 1,
			Type: p.kind, Name: p.name, GUID: p.id,
		})
	}
	return t.Write(f, size)
}

// content is one file of the EFI system partition.
type content struct {
	path string
	data []byte
}

// esp is an EFI system partition that is being filled.
type esp struct {
	fs    *fat32.FileSystem
	f     *os.File
	start int64
}

func makeESP(f *os.File, start, size int64, label string) (*esp, error) {
	fs, err := fat32.Create(file.New(f, false), size, start, sector, label, true)
	if err != nil {
		return nil, fmt.Errorf("EFI system partition: %w", err)
	}
	return &esp{fs, f, start}, nil
}

// write puts the files in, making their folders.
func (e *esp) write(files ...content) error {
	for _, c := range files {
		if _, err := e.put(c); err != nil {
			return fmt.Errorf("EFI system partition: %s: %w", c.path, err)
		}
	}
	return nil
}

// reserve makes the file of the check-in slot and returns its offset on the
// disk. The agent writes to the disk, not to the file system, so the file has
// to lie in one piece.
func (e *esp) reserve() (offset int64, err error) {
	ranges, err := e.put(content{slotFile, slotContent("checkin")})
	if err != nil {
		return 0, fmt.Errorf("check-in slot: %w", err)
	}
	if len(ranges) != 1 || ranges[0].Length < images.SlotSize {
		return 0, fmt.Errorf("check-in slot: %s lies in %d pieces", slotFile, len(ranges))
	}
	offset = e.start + int64(ranges[0].Offset)
	if offset%sector != 0 {
		return 0, fmt.Errorf("check-in slot: offset %d is not a multiple of %d", offset, sector)
	}
	return offset, nil
}

func (e *esp) put(c content) (ranges []fat12.DiskRange, err error) {
	if dir := path.Dir(c.path); dir != "/" {
		if err := e.fs.Mkdir(dir); err != nil {
			return nil, err
		}
	}
	f, err := e.fs.OpenFile(c.path, os.O_CREATE|os.O_RDWR)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if n, err := f.Write(c.data); err != nil || n != len(c.data) {
		return nil, errors.Join(io.ErrShortWrite, err)
	}
	placed, ok := f.(interface {
		GetDiskRanges() ([]fat12.DiskRange, error)
	})
	if !ok {
		return nil, errors.New("the FAT library does not say where a file lies")
	}
	return placed.GetDiskRanges()
}

// close mends the ".." of the folders below the root: it has to be 0, as the
// root's number is on FAT12 (Microsoft's FAT specification 1.03, section 6.5);
// the library writes the root's real cluster, and fsck complains.
func (e *esp) close() error {
	const (
		entry    = 32
		attrDir  = 0x10
		rootAt   = 2 // the first cluster
		attrAt   = 11
		highAt   = 20
		lowAt    = 26
		dotsName = "..         "
	)
	cluster := int64(e.fs.BytesPerCluster())
	at := func(n int64) int64 { return e.start + int64(e.fs.DataStart()) + (n-rootAt)*cluster }
	root := make([]byte, cluster)
	if _, err := e.f.ReadAt(root, at(rootAt)); err != nil {
		return err
	}
	for i := 0; i+entry <= len(root) && root[i] != 0; i += entry {
		if root[i+attrAt] != attrDir {
			continue
		}
		child := int64(binary.LittleEndian.Uint16(root[i+highAt:]))<<16 | int64(binary.LittleEndian.Uint16(root[i+lowAt:]))
		dots := make([]byte, entry)
		if _, err := e.f.ReadAt(dots, at(child)+entry); err != nil {
			return err
		}
		if string(dots[:len(dotsName)]) != dotsName {
			return fmt.Errorf("EFI system partition: cluster %d is no folder", child)
		}
		clear(dots[highAt : highAt+2])
		clear(dots[lowAt : lowAt+2])
		if _, err := e.f.WriteAt(dots, at(child)+entry); err != nil {
			return err
		}
	}
	return nil
}

func slotContent(name string) []byte {
	b := bytes.Repeat([]byte{' '}, images.SlotSize)
	copy(b, images.SlotMark+name+"\n")
	b[len(b)-1] = '\n'
	return b
}

// checkSlot reads the whole disk as an import will: the check-in slot has to be
// found there once, at the offset that the system on it was told.
func checkSlot(ctx context.Context, r io.ReaderAt, size, want int64) error {
	mark := []byte(images.SlotMark + "checkin\n")
	buf := make([]byte, 4*mib)
	var found []int64
	for at := int64(0); at < size; at += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if err != nil && err != io.EOF {
			return err
		}
		for i := 0; ; i++ { // a mark at a sector's start never straddles two reads
			j := bytes.Index(buf[i:n], mark)
			if j < 0 {
				break
			}
			if i += j; i%sector == 0 {
				found = append(found, at+int64(i))
			}
		}
	}
	if len(found) != 1 || found[0] != want {
		return fmt.Errorf("check-in slot: wanted once, at %d; found at %v", want, found)
	}
	return nil
}
