package campaign

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat12"

	"refurb/agent/wire"
	"refurb/appliance"
	"refurb/images"
	"refurb/images/depot"
	"refurb/images/pack"
)

// picture is an image as it has to arrive on a disk.
type picture struct {
	root string
	raw  []byte
	m    *images.Manifest
}

// shelf is what all runs share and none changes.
var shelf struct {
	images   string // the depot's folder
	keys     *appliance.Keys
	pictures []*picture
}

const (
	espAt   = 1 << 20
	espSize = 1 << 20
)

// stock makes the images: small ones, with frames of zeroes, slots, a partition
// that grows, and one for blocks of 4096 bytes.
func stock(dir string) (err error) {
	shelf.images = filepath.Join(dir, "images")
	if shelf.keys, err = appliance.LoadKeys(dir); err != nil {
		return err
	}
	d, err := depot.Open(shelf.images, shelf.keys.Signing)
	if err != nil {
		return err
	}
	for i, c := range []struct {
		bytes int64
		block int
	}{{9 << 20, 512}, {17 << 20, 512}, {6<<20 + 512*7, 512}, {9 << 20, 4096}} {
		name := fmt.Sprintf("picture-%d", i)
		raw, err := paint(filepath.Join(dir, name), uint64(i), c.bytes, c.block)
		if err != nil {
			return err
		}
		src, err := pack.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		root, err := pack.Import(context.Background(), src, pack.Options{Name: name}, d)
		if err := closing(err, src); err != nil {
			return err
		}
		_, m, err := d.Manifest(root.String())
		if err != nil {
			return err
		}
		if len(m.Slots) == 0 || m.Block != c.block || m.Grow != 2 {
			return fmt.Errorf("%s: %d slots, blocks of %d, partition %d grows", name, len(m.Slots), m.Block, m.Grow)
		}
		shelf.pictures = append(shelf.pictures, &picture{root.String(), raw, m})
	}
	return nil
}

func closing(err error, c io.Closer) error {
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	return err
}

// paint writes the raw disk: a table, a FAT with the check-in slot, and a system
// of which some stretches are random, some text and some nothing.
func paint(name string, seed uint64, size int64, block int) ([]byte, error) {
	r := rand.New(rand.NewPCG(seed, 1))
	raw := make([]byte, size)
	for i := int64(2 << 20); i < size; i += 1 << 20 {
		part := raw[i:min(i+1<<20, size)]
		switch {
		case i/images.FrameSize == 2 && size > 3*images.FrameSize || i/images.FrameSize == 1 && size < 3*images.FrameSize && seed != 2:
			// a frame of zeroes
		case r.IntN(3) == 0:
			for j := range part[:min(len(part), 32<<10)] {
				part[j] = byte(r.Uint32())
			}
		default:
			for j := range part {
				part[j] = "refurbished "[j%12] + byte(i>>20)
			}
		}
	}
	copy(raw[3<<20+4096:], images.SlotMark+"checkin\n") // a stale copy of the slot's file
	copy(raw, "a boot program")
	gpt(raw, block)
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// The library knows sectors of 512 bytes, and so do most disks: one of 4096
	// has a partition that holds nothing.
	if block == 512 {
		v, err := fat12.Create(file.New(f, false), espSize, espAt, 512, "ESP", true)
		if err != nil {
			return nil, err
		}
		slot := bytes.Repeat([]byte{' '}, images.SlotSize)
		copy(slot, images.SlotMark+"checkin\n")
		for at, b := range map[string][]byte{"/EFI/refurb/checkin": slot, "/EFI/BOOT/BOOTX64.EFI": bytes.Repeat([]byte("loader "), 999)} {
			if err := v.Mkdir(path.Dir(at)); err != nil {
				return nil, err
			}
			w, err := v.OpenFile(at, os.O_CREATE|os.O_RDWR)
			if err != nil {
				return nil, err
			}
			if _, err := w.Write(b); err != nil {
				return nil, err
			}
			if err := w.Close(); err != nil {
				return nil, err
			}
		}
	}
	return os.ReadFile(name)
}

// gpt puts a table with two partitions over raw (UEFI 2.10 §5.3).
func gpt(raw []byte, block int) {
	le := binary.LittleEndian
	last := uint64(len(raw)/block) - 1
	array := make([]byte, 128*128)
	arrayBlocks := uint64(len(array) / block)
	usable := last - arrayBlocks - 1
	entry := func(i int, kind string, first, last uint64) {
		e := array[i*128:]
		copy(e, kind)
		e[16] = byte(i + 1)
		le.PutUint64(e[32:], first)
		le.PutUint64(e[40:], last)
	}
	entry(0, "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b", espAt/uint64(block), (espAt+espSize)/uint64(block)-1)
	entry(1, "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4", 2<<20/uint64(block), usable)
	header := func(self, other, at uint64) []byte {
		h := make([]byte, block)
		copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
		for i, n := range []uint64{self, other, 2 + arrayBlocks, usable} {
			le.PutUint64(h[24+8*i:], n)
		}
		le.PutUint64(h[72:], at)
		le.PutUint32(h[80:], 128)
		le.PutUint32(h[84:], 128)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(array))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	copy(raw[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00")
	le.PutUint32(raw[458:], uint32(last))
	raw[510], raw[511] = 0x55, 0xaa
	copy(raw[block:], header(1, last, 2))
	copy(raw[2*block:], array)
	tail := raw[(last-arrayBlocks)*uint64(block):]
	copy(tail, array)
	copy(tail[len(array):], header(last, 1, last-arrayBlocks))
}

func picked(root string) *picture {
	i := slices.IndexFunc(shelf.pictures, func(p *picture) bool { return p.root == root })
	if i < 0 {
		return nil
	}
	return shelf.pictures[i]
}

// espDiffers compares the files of the EFI system partition with the image's, by
// a reader that isn't ours. birth is nil where the agent says that there is none.
func (p *picture) espDiffers(got, checkin, birth []byte) string {
	want, err := espFiles(p.raw)
	if err != nil {
		return "the image's own files: " + err.Error()
	}
	want["EFI/refurb/checkin"] = checkin
	have, err := espFiles(got)
	if err != nil {
		return err.Error()
	}
	if birth != nil {
		want[wire.BirthPath] = birth
	}
	if !maps.EqualFunc(want, have, bytes.Equal) {
		return fmt.Sprintf("files %v, not %v", slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(want)))
	}
	return ""
}

// espFiles reads all files of the EFI system partition of a raw disk.
func espFiles(disk []byte) (map[string][]byte, error) {
	v, err := fat12.Read(file.New(&flat{Reader: bytes.NewReader(disk)}, true), espSize, espAt, 512)
	if err != nil {
		return nil, err
	}
	all := map[string][]byte{}
	var walk func(dir string) error
	walk = func(dir string) error {
		list, err := v.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range list {
			at := path.Join(dir, e.Name())
			switch {
			case e.Name() == "." || e.Name() == "..":
			case e.IsDir():
				err = walk(at)
			default:
				all[at], err = v.ReadFile(at)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
		}
		return nil
	}
	return all, walk(".")
}

// flat is a disk in memory as the library wants it.
type flat struct{ *bytes.Reader }

func (f *flat) Stat() (fs.FileInfo, error) { return f, nil }
func (f *flat) Close() error               { return nil }
func (f *flat) Name() string               { return "disk" }
func (f *flat) Mode() fs.FileMode          { return 0o400 }
func (f *flat) ModTime() time.Time         { return time.Time{} }
func (f *flat) IsDir() bool                { return false }
func (f *flat) Sys() any                   { return nil }
