// Package pack turns a disk image as others make it (raw or qcow2, also inside
// gzip, xz or zstd) into an image of the depot.
package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode"

	"golang.org/x/sys/unix"

	"refurb/images"
)

// A Refusal says why a file can't be imported, and what to do about it.
type Refusal struct{ Message, Next string }

func (r *Refusal) Error() string {
	if r.Next == "" {
		return r.Message
	}
	return r.Message + "; " + r.Next
}

// Source is an opened file with a disk image in it.
type Source struct {
	Path   string // absolute
	Format string // "raw" or "qcow2", with ".gz", ".xz" or ".zst" when it is compressed
	Bytes  int64  // of the raw disk; -1: not known before it is unpacked

	file  *os.File
	stamp string
	inner string // qcow2 or raw
	comp  *compression
	disk  disk // nil when compressed
}

// disk is an image that can be read anywhere.
type disk interface {
	io.ReaderAt
	size() int64
	// next is the first offset from off on that may hold something else than
	// zeroes; size when nothing follows.
	next(off int64) (int64, error)
}

// Open looks at a file's content, not at its name. What can't be imported is a
// *Refusal, as far as the file's start shows it; Import finds the rest.
func Open(path string) (*Source, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening an image: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening an image: %w", err)
	}
	s := &Source{Path: path, file: f, Bytes: -1}
	if err := s.open(); err != nil {
		f.Close()
		var r *Refusal
		if errors.As(err, &r) {
			return nil, &Refusal{path + ": " + r.Message, r.Next}
		}
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return s, nil
}

func (s *Source) Close() error { return s.file.Close() }

func (s *Source) open() error {
	fi, err := s.file.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return &Refusal{"this is not a regular file", "give a file with a disk image"}
	}
	if fi.Size() == 0 {
		return &Refusal{"the file is empty", "copy or download it again"}
	}
	s.stamp = stamp(s.Path, fi)
	start := make([]byte, 512)
	n, err := s.file.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		return err
	}
	start = start[:n]
	if s.comp = compressedBy(start); s.comp != nil {
		if s.comp.check != nil {
			if s.Bytes, err = s.comp.check(s.file, fi.Size()); err != nil {
				return s.damaged(err)
			}
		}
		r, err := s.unpack()
		if err != nil {
			return err
		}
		defer r.Close()
		start = make([]byte, 512)
		if n, err = fill(r, start); err != nil && err != io.EOF {
			return s.damaged(err)
		}
		if start = start[:n]; n == 0 {
			return &Refusal{"the file is empty inside its compression", "copy or download it again"}
		}
	} else {
		end := make([]byte, min(512, fi.Size()))
		if _, err := s.file.ReadAt(end, fi.Size()-int64(len(end))); err != nil && err != io.EOF {
			return err
		}
		if bytes.HasPrefix(end, []byte("conectix")) {
			return unsupported("VHD", "vpc")
		}
	}
	if s.inner, err = sniff(start); err != nil {
		return err
	}
	s.Format = s.inner
	if s.comp != nil {
		s.Format += s.comp.suffix
		if s.inner == "qcow2" {
			s.Bytes = -1 // of the file within, not of the disk
		}
		return nil
	}
	if s.disk, err = openDisk(s.file, s.inner, fi.Size()); err != nil {
		return err
	}
	s.Bytes = s.disk.size()
	return nil
}

// stamp tells a changed file from the same one.
func stamp(path string, fi os.FileInfo) string {
	st := fi.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%q %d %d.%09d %d %d", path, fi.Size(), st.Mtim.Sec, st.Mtim.Nsec, st.Dev, st.Ino)
}

// unchanged is asked when everything was read.
func (s *Source) unchanged() error {
	fi, err := os.Stat(s.Path)
	if err != nil {
		return fmt.Errorf("looking at the source again: %w", err)
	}
	if stamp(s.Path, fi) != s.stamp {
		return &Refusal{s.Path + ": the file changed while it was imported", "import it again when nothing writes to it"}
	}
	return nil
}

func (s *Source) damaged(err error) error {
	return &Refusal{fmt.Sprintf("the file is damaged or cut short (%s: %v)", s.comp.name, err), "copy or download it again"}
}

func openDisk(f *os.File, inner string, size int64) (disk, error) {
	if inner == "qcow2" {
		return openQcow2(f, size)
	}
	return rawDisk{f, size}, nil
}

// sniff names what a file's first bytes are.
func sniff(start []byte) (string, error) {
	for _, m := range []struct {
		at          int
		magic       string
		name, qemus string
	}{
		{0, "KDMV", "VMDK", "vmdk"},
		{0, "COWD", "VMDK", "vmdk"},
		{0, "# Disk DescriptorFile", "VMDK", "vmdk"},
		{0, "vhdxfile", "VHDX", "vhdx"},
		{0, "conectix", "VHD", "vpc"},
		{0x40, "\x7f\x10\xda\xbe", "VDI", "vdi"},
		{0, "QED\x00", "QED", "qed"},
		{0, "WithoutFreeSpace", "Parallels", "parallels"},
		{0, "WithouFreSpacExt", "Parallels", "parallels"},
	} {
		if len(start) >= m.at && bytes.HasPrefix(start[m.at:], []byte(m.magic)) {
			return "", unsupported(m.name, m.qemus)
		}
	}
	for _, m := range []struct{ magic, name string }{
		{"PK\x03\x04", "a zip archive"}, {"7z\xbc\xaf\x27\x1c", "a 7z archive"}, {"BZh", "compressed with bzip2"},
		{"Rar!\x1a\x07", "a RAR archive"}, {"\x04\x22\x4d\x18", "compressed with lz4"}, {"LZIP", "compressed with lzip"},
	} {
		if bytes.HasPrefix(start, []byte(m.magic)) {
			return "", &Refusal{"this is " + m.name + ", which is not supported", "unpack it first"}
		}
	}
	if len(start) >= 262 && string(start[257:262]) == "ustar" {
		return "", &Refusal{"this is a tar archive, not a disk image", "unpack it first"}
	}
	if compressedBy(start) != nil {
		return "", &Refusal{"this is compressed twice", "unpack it once"}
	}
	if bytes.HasPrefix(start, []byte("QFI\xfb")) {
		return "qcow2", nil
	}
	return "raw", nil
}

func unsupported(name, qemus string) error {
	return &Refusal{fmt.Sprintf("this is a %s image, which is not supported", name),
		fmt.Sprintf("convert it: qemu-img convert -f %s -O qcow2 FILE FILE.qcow2", qemus)}
}

// fill reads until b is full. Unlike io.ReadFull it keeps the reader's error:
// io.EOF is the end, io.ErrUnexpectedEOF only a decompressor's complaint.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = r.Read(b[n:])
		n += k
	}
	if n == len(b) && err == io.EOF {
		err = nil
	}
	return n, err
}

// name of the image when nobody gives one.
func (s *Source) name() string {
	n := filepath.Base(s.Path)
	for _, suffix := range []string{".gz", ".xz", ".zst", ".img", ".raw", ".bin", ".qcow2"} {
		if cut, ok := strings.CutSuffix(n, suffix); ok && cut != "" {
			n = cut
		}
	}
	n = strings.ToValidUTF8(n, "-")
	n = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '-'
	}, n)
	for images.CheckName(n, "") != nil && n != "" { // too long: cut whole characters
		r := []rune(n)
		n = string(r[:len(r)-1])
	}
	return n
}

type rawDisk struct {
	*os.File
	bytes int64
}

func (d rawDisk) size() int64 { return d.bytes }

func (d rawDisk) next(off int64) (int64, error) {
	at, err := unix.Seek(int(d.Fd()), off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return d.bytes, nil
	case err == unix.EINVAL: // a file system that doesn't know holes
		return off, nil
	case err != nil:
		return 0, os.NewSyscallError("lseek", err)
	}
	return at, nil
}

// qcow2Header holds the fields of the header that decide whether it is read at
// all (QEMU: docs/interop/qcow2.txt).
type qcow2Header struct {
	Magic, Version         uint32
	BackingOffset          uint64
	BackingSize, Bits      uint32
	Size                   uint64
	Crypt, L1              uint32
	L1Offset, Refcounts    uint64
	RefcountClusters, Snap uint32
	SnapOffset             uint64
	Incompatible           uint64 // from here on: version 3
}

func checkQcow2(start []byte, file int64) (*qcow2Header, error) {
	start = append(bytes.Clone(start), make([]byte, 128)...)
	var h qcow2Header
	if err := binary.Read(bytes.NewReader(start), binary.BigEndian, &h); err != nil {
		return nil, err
	}
	if h.Version == 2 {
		h.Incompatible = 0
	}
	const dirty, corrupt, external, compression, extended = 1, 2, 4, 8, 16
	convert := "make it one plain file: qemu-img convert -O qcow2 FILE NEW.qcow2"
	switch {
	case h.Version != 2 && h.Version != 3:
		return nil, &Refusal{fmt.Sprintf("this is qcow version %d, which is not supported", h.Version), convert}
	case h.BackingOffset != 0 || h.BackingSize != 0:
		return nil, &Refusal{"this qcow2 image needs a backing file", convert}
	case h.Crypt != 0:
		return nil, &Refusal{"this qcow2 image is encrypted", "decrypt it: qemu-img convert, with its secret"}
	case h.Incompatible&external != 0:
		return nil, &Refusal{"this qcow2 image keeps its data in another file", convert}
	case h.Incompatible&corrupt != 0:
		return nil, &Refusal{"this qcow2 image is marked as corrupt", "repair a copy of it: qemu-img check -r all FILE"}
	case h.Incompatible&^(dirty|compression|extended) != 0:
		return nil, &Refusal{fmt.Sprintf("this qcow2 image uses features (%#x) that are not supported", h.Incompatible), convert}
	case h.Bits < 9 || h.Bits > 21:
		return nil, &Refusal{fmt.Sprintf("this qcow2 image is damaged: clusters of 2^%d bytes", h.Bits), "make it again"}
	case h.Size == 0 || h.Size > images.MaxBytes || h.Size%512 != 0:
		return nil, &Refusal{fmt.Sprintf("this qcow2 image has a disk of %d bytes", h.Size), "give the image of an installed disk"}
	}
	// QEMU's own limit of the first table is 32 MiB.
	entries := uint64(1) << (2*h.Bits - 3) // bytes that one entry covers
	if h.Incompatible&extended != 0 {
		entries /= 2
	}
	if want := (h.Size + entries - 1) / entries; uint64(h.L1) < want || h.L1 > 4<<20 ||
		h.L1Offset == 0 || h.L1Offset > uint64(file) || uint64(h.L1)*8 > uint64(file)-h.L1Offset {
		return nil, &Refusal{"this qcow2 image is damaged or cut short: its first table lies outside of the file", "copy or download it again"}
	}
	return &h, nil
}

// stored is what a file takes on its disk: less than its size when it has
// holes.
func stored(fi os.FileInfo) (int64, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Blocks * 512, true
}
