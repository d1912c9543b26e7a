package pack

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"refurb/images"
)

// maxWindow is the memory that a compressed source may ask for: xz -9 wants
// 64 MiB, zstd --long 128.
const maxWindow = 256 << 20

type compression struct {
	name, suffix string
	magic        string
	reader       func(io.Reader) (io.ReadCloser, error)
	// check looks at the whole file before anything is unpacked and gives the
	// unpacked size, or -1. It may be nil.
	check func(r io.ReaderAt, size int64) (int64, error)
}

var compressions = []*compression{
	{"gzip", ".gz", "\x1f\x8b\x08", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }, nil},
	{"xz", ".xz", xzMagic, func(r io.Reader) (io.ReadCloser, error) {
		z, err := xz.NewReader(r)
		return io.NopCloser(z), err
	}, checkXZ},
	{"zstd", ".zst", "\x28\xb5\x2f\xfd", func(r io.Reader) (io.ReadCloser, error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}, nil},
}

func compressedBy(start []byte) *compression {
	for _, c := range compressions {
		if bytes.HasPrefix(start, []byte(c.magic)) {
			return c
		}
	}
	return nil
}

// unpack reads the source from its start.
func (s *Source) unpack() (io.ReadCloser, error) {
	fi, err := s.file.Stat()
	if err != nil {
		return nil, err
	}
	r, err := s.comp.reader(bufio.NewReaderSize(io.NewSectionReader(s.file, 0, fi.Size()), 1<<20))
	if err != nil {
		return nil, s.damaged(err)
	}
	return r, nil
}

const xzMagic = "\xfd7zXZ\x00"

var errXZ = errors.New("its index doesn't fit the file")

// checkXZ walks the streams of an xz file backwards by their footers and
// indexes (The .xz File Format 1.2.0, 2 to 4) and gives the unpacked size. The
// xz reader takes a file that ends between two blocks for a shorter one, and
// allocates any dictionary that a block asks for; both are caught here, before
// a long import begins.
func checkXZ(r io.ReaderAt, end int64) (total int64, err error) {
	for end > 0 {
		var foot [12]byte
		for { // stream padding: zeroes, by four
			if end < 32 {
				return 0, errXZ
			}
			if _, err := r.ReadAt(foot[:], end-12); err != nil {
				return 0, err
			}
			if binary.LittleEndian.Uint32(foot[8:]) != 0 {
				break
			}
			end -= 4
		}
		size := (int64(binary.LittleEndian.Uint32(foot[4:])) + 1) * 4
		if string(foot[10:]) != "YZ" || crc32.ChecksumIEEE(foot[4:10]) != binary.LittleEndian.Uint32(foot[:]) || size > end-24 {
			return 0, errXZ
		}
		blocks, n, err := checkXZIndex(r, end-12-size, size)
		if err != nil {
			return 0, err
		}
		if end = end - 12 - size - blocks - 12; end < 0 {
			return 0, errXZ
		}
		var head [6]byte
		if _, err := r.ReadAt(head[:], end); err != nil {
			return 0, err
		}
		if total += n; total < 0 || string(head[:]) != xzMagic {
			return 0, errXZ
		}
	}
	return total, nil
}

// checkXZIndex reads the index at at, and the header of every block before it.
func checkXZIndex(r io.ReaderAt, at, size int64) (blocks, total int64, err error) {
	sum := crc32.NewIEEE()
	index := bufio.NewReader(io.TeeReader(io.NewSectionReader(r, at, size-4), sum))
	if b, err := index.ReadByte(); err != nil || b != 0 {
		return 0, 0, errXZ
	}
	count, err := binary.ReadUvarint(index)
	if err != nil || count > uint64(size) {
		return 0, 0, errXZ
	}
	sizes := make([]int64, 0, min(count, 1<<16))
	for range count {
		packed, err1 := binary.ReadUvarint(index)
		raw, err2 := binary.ReadUvarint(index)
		if err1 != nil || err2 != nil || packed == 0 || packed > uint64(at) || raw > 1<<62 {
			return 0, 0, errXZ
		}
		packed = (packed + 3) &^ 3
		blocks, total = blocks+int64(packed), total+int64(raw)
		if blocks > at-12 || total < 0 {
			return 0, 0, errXZ
		}
		sizes = append(sizes, int64(packed))
	}
	var want [4]byte
	if _, err := io.Copy(io.Discard, index); err != nil {
		return 0, 0, err
	}
	if _, err := r.ReadAt(want[:], at+size-4); err != nil || sum.Sum32() != binary.LittleEndian.Uint32(want[:]) {
		return 0, 0, errXZ
	}
	at -= blocks
	for _, n := range sizes {
		if err := checkXZBlock(r, at); err != nil {
			return 0, 0, err
		}
		at += n
	}
	return blocks, total, nil
}

// checkXZBlock reads a block's header: size, flags, two optional sizes, then
// the filters, of which the xz reader knows LZMA2 alone.
func checkXZBlock(r io.ReaderAt, at int64) error {
	var size [1]byte
	if _, err := r.ReadAt(size[:], at); err != nil {
		return err
	}
	b := make([]byte, (int(size[0])+1)*4)
	if _, err := r.ReadAt(b, at); err != nil {
		return err
	}
	h := bytes.NewReader(b[2:])
	for _, flag := range []byte{0x40, 0x80} {
		if b[1]&flag != 0 {
			if _, err := binary.ReadUvarint(h); err != nil {
				return errXZ
			}
		}
	}
	id, err1 := binary.ReadUvarint(h)
	props, err2 := binary.ReadUvarint(h)
	dict, err3 := h.ReadByte()
	if err1 != nil || err2 != nil || err3 != nil {
		return errXZ
	}
	if b[1]&3 != 0 || id != 0x21 || props != 1 {
		return errors.New("it uses a filter besides LZMA2: compress it again, with xz alone")
	}
	if bits := uint(dict)/2 + 11; bits > 40 || int64(2+dict&1)<<bits > maxWindow {
		return fmt.Errorf("it needs more than %d MiB of memory: compress it again, without a larger dictionary", maxWindow>>20)
	}
	return nil
}

// spool unpacks a compressed qcow2 image into a sparse file, because its
// clusters lie anywhere. What an earlier try finished is used again. room is
// asked before every MiB or so.
func (s *Source) spool(to string, room func(done int64) error) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	part := to + ".part"
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := s.unpack()
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, 1<<20)
	const hole = 64 << 10
	at := int64(0)
	for end := false; !end; {
		n, err := fill(r, buf)
		if end = err == io.EOF; err != nil && !end {
			return s.damaged(err)
		}
		if at+int64(n) > images.MaxBytes {
			return &Refusal{"the file is too big once it is unpacked", ""}
		}
		if err := room(at); err != nil {
			return err
		}
		for b := range slices.Chunk(buf[:n], hole) {
			if !images.Zero(b) {
				if _, err := f.WriteAt(b, at); err != nil {
					return err
				}
			}
			at += int64(len(b))
		}
	}
	if err := errors.Join(f.Truncate(at), f.Sync()); err != nil {
		return err
	}
	return os.Rename(part, to)
}
