package erase

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"refurb/agent/disk"
	"refurb/agent/wire"
	"refurb/images"
)

// Disk is an opened disk, past the page cache: *disk.Disk, and in tests one that
// fails and lies.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Zero(off, n int64) error
	Sync() error
	Size() int64
	Block() int
}

const (
	block = 4 << 10 // in which mismatches and errors are counted
	chunk = 4 << 20 // of one read or write
	edge  = 1 << 20 // read whole at both ends

	sections = 1000 // in each of which two samples are taken

	maxUnwritten  = 64
	maxUnread     = 256
	maxMismatches = 4096 // after which reading on tells nothing new

	// stallTime is longer than the kernel tries to read or write once.
	stallTime = 10 * time.Minute
)

type span struct{ at, n int64 }

// Samples are the places that are read of an erased disk when not all of it is:
// the first MiB, two places in each of 1000 sections of equal length that follow,
// each a twentieth of its section, and what is left at the end, a MiB at least:
// about a tenth of the disk (NIST SP 800-88 rev. 1 §4.7.3). Anybody who has the
// seed can compute them again:
//
//	L = (size - 2 MiB) / 1000, down to a multiple of 4096
//	n = L / 20, up to a multiple of 4096
//	of section s the halves k = 0, 1 begin at 1 MiB + s*L + k*H, where
//	H = L / 2, down to a multiple of 4096
//	the sample begins v mod ((H - n) / 4096 + 1) blocks of 4096 bytes later,
//	v being the first 8 bytes, big-endian, of
//	SHA-256(seed, the big-endian uint32 2*s + k)
//
// A disk under 1 GiB is read whole: Samples gives nil.
func samples(seed []byte, size int64) []span {
	if size < 1<<30 {
		return nil
	}
	length := (size - 2*edge) / sections / block * block
	n := (length/20 + block - 1) / block * block
	half := length / 2 / block * block
	spans := []span{{0, edge}}
	for i := range int64(2 * sections) {
		v := draw(seed, "", uint32(i)) % uint64((half-n)/block+1)
		spans = append(spans, span{edge + i/2*length + i%2*half + int64(v)*block, n})
	}
	end := edge + sections*length // the sections leave up to 4 MiB over
	return append(spans, span{end, size - end})
}

func draw(seed []byte, purpose string, i uint32) uint64 {
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(append(append([]byte(nil), seed...), purpose...), i))
	return binary.BigEndian.Uint64(sum[:])
}

// check reads the disk, or the samples of it, and counts what isn't zero. expect
// is how many bytes there are to read.
func check(ctx context.Context, d Disk, want wire.Erase, seed []byte, m *Meter) (c wire.ReadCheck, expect int64, err error) {
	c = wire.ReadCheck{Kind: wire.CheckFull, Expect: "zero"}
	spans := []span{{0, d.Size()}}
	if want.Check == wire.CheckSample {
		if s := samples(seed, d.Size()); s != nil {
			c.Kind, c.Seed, spans = wire.CheckSample, want.Seed, s
		}
	}
	for _, s := range spans {
		expect += s.n
	}
	m.begin(wire.PhaseChecking, "reading the disk", expect)
	for _, s := range spans {
		for at := s.at; at < s.at+s.n; at += chunk {
			if ctx.Err() != nil {
				return c, expect, context.Cause(ctx)
			}
			n := min(chunk, s.at+s.n-at)
			if err := readSome(ctx, d, at, n, &c); err != nil {
				return c, expect, err
			}
			m.add(n)
			if c.Mismatches >= maxMismatches {
				return c, expect, nil
			}
		}
	}
	return c, expect, nil
}

func readSome(ctx context.Context, d Disk, at, n int64, c *wire.ReadCheck) error {
	b, err := read(d, at, n)
	if err == nil {
		count(b, c)
		return nil
	}
	// Which blocks?
	for off := at; off < at+n; off += block {
		if ctx.Err() != nil { // each may take a dying disk minutes
			return context.Cause(ctx)
		}
		b, err := read(d, off, min(block, at+n-off))
		if err == nil {
			count(b, c)
			continue
		}
		c.Errors++
		if c.Errors >= maxUnread || gone(err) {
			return fmt.Errorf("reading the erased disk: %w", err)
		}
	}
	return nil
}

func count(b []byte, c *wire.ReadCheck) {
	c.Bytes += int64(len(b))
	if images.Zero(b) {
		return
	}
	for len(b) > 0 {
		n := min(block, len(b))
		if !images.Zero(b[:n]) {
			c.Mismatches++
		}
		b = b[n:]
	}
}

// read gives n bytes in memory of their own: a read that got stuck may still
// write into what it was given.
func read(d Disk, at, n int64) ([]byte, error) {
	return aside(stallTime, func() ([]byte, error) {
		b := disk.Buffer(int(n))
		got, err := d.ReadAt(b, at)
		if err == nil && got < len(b) {
			err = io.ErrUnexpectedEOF
		}
		return b, err
	})
}

// gone says that there is no use in trying other blocks.
func gone(err error) bool {
	for _, g := range []error{errStuck, unix.ENODEV, unix.ENXIO, unix.ENOMEDIUM} {
		if errors.Is(err, g) {
			return true
		}
	}
	return false
}

// fill writes zeroes over the whole disk and syncs. ranges lets the drive zero by
// itself, which on flash may only forget what was there: so not as an erasure.
// Single blocks that can't be written are counted and left out.
func fill(ctx context.Context, d Disk, ranges bool, m *Meter) (unwritten int64, err error) {
	zeroes := disk.Buffer(chunk)
	put := func(at, n int64) error {
		_, err := aside(stallTime, func() (int, error) {
			if ranges {
				return 0, d.Zero(at, n)
			}
			got, err := d.WriteAt(zeroes[:n], at)
			if err == nil && int64(got) < n {
				err = io.ErrShortWrite
			}
			return got, err
		})
		return err
	}
	size := d.Size()
	for at := int64(0); at < size; at += chunk {
		if ctx.Err() != nil {
			return unwritten, context.Cause(ctx)
		}
		n := min(chunk, size-at)
		if err := put(at, n); err != nil {
			for off := at; off < at+n; off += block {
				if ctx.Err() != nil {
					return unwritten, context.Cause(ctx)
				}
				if err := put(off, min(block, at+n-off)); err != nil {
					unwritten++
					if unwritten > maxUnwritten || gone(err) {
						return unwritten, fmt.Errorf("writing zeroes: %w", err)
					}
				}
			}
		}
		m.add(n)
	}
	if 2*unwritten*block >= size {
		return unwritten, errors.New("writing zeroes: most of the disk can't be written")
	}
	_, err = aside(stallTime, func() (int, error) { return 0, d.Sync() })
	return unwritten, err
}

// A mark is a block that was looked at before anything was erased. What it held
// is not kept, only its hash, and that only in the PC's memory.
type mark struct {
	At  int64
	Sum string
}

const (
	maxMarks  = 256
	tryMarks  = 1024
	deadReads = 8 // after which a disk that can't be read isn't read on
)

// look takes marks: of the ends of the disk and of places drawn by the seed. A
// block of equal bytes, such as zeroes, would look the same on an erased disk and
// is none.
func look(ctx context.Context, d Disk, seed []byte) (marks []mark, dead int) {
	size := d.Size()
	take := func(at, n int64) {
		if dead >= deadReads || ctx.Err() != nil {
			return
		}
		b, err := read(d, at, n)
		again, err2 := b, err
		if err == nil { // what reads differently each time is no mark
			again, err2 = read(d, at, n)
		}
		if err2 != nil || !bytes.Equal(b, again) {
			if dead++; gone(err2) {
				dead = deadReads
			}
			return
		}
		for off := 0; off+block <= len(b); off += block {
			if one := b[off : off+block]; !uniform(one) {
				marks = append(marks, mark{at + int64(off), digest(one)})
			}
		}
	}
	if size < 2*edge {
		take(0, size/block*block)
		return marks, dead
	}
	take(0, edge/4)
	take((size-edge/4)/block*block, min(edge/4, size-(size-edge/4)/block*block)/block*block)
	for i := uint32(0); i < tryMarks && len(marks) < maxMarks; i++ {
		take(int64(draw(seed, "mark", i)%uint64(size/block))*block, block)
	}
	return marks, dead
}

func uniform(b []byte) bool {
	for _, c := range b {
		if c != b[0] {
			return false
		}
	}
	return true
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// unchanged looks at the marks again.
func unchanged(ctx context.Context, d Disk, marks []mark) (same, compared int) {
	dead := 0
	for _, k := range marks {
		if dead >= deadReads || ctx.Err() != nil {
			break
		}
		b, err := read(d, k.At, block)
		if err != nil {
			if dead++; gone(err) {
				break
			}
			continue
		}
		compared++
		if digest(b) == k.Sum {
			same++
		}
	}
	return same, compared
}
