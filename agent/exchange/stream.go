package exchange

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"refurb/images"
)

// What a PC sends another is a stream of records: one byte that says which, and
// what belongs to it. Numbers are big-endian.
//
//	f  uint32 frame, uint32 offset   its bytes follow from the offset on
//	d  uint32 length, bytes          more of that frame, at most maxPiece
//	x                                no more of that frame: the sender lost it
//	g  uint32 frame                  sent before, and matched its hash
//	b  uint32 frame                  sent before, and didn't match; it may come again
//	n  uint32 length, bitmap         frames of the asked stripe that will not come
//	l  uint32 frames                 a sign of life: how many the sender has
//	e                                the end: all that it has was sent
//
// A frame is complete by its length in the manifest.
const (
	recFrame  = 'f'
	recData   = 'd'
	recAbort  = 'x'
	recGood   = 'g'
	recBad    = 'b'
	recNever  = 'n'
	recAlive  = 'l'
	recEnd    = 'e'
	maxPiece  = 256 << 10
	maxEmpty  = 64
	bytesRead = 64 << 10 // taken from the connection at once
)

// A receiver gets what a stream says. An error ends the reading.
type receiver interface {
	frame(i int, offset int64) error
	room() []byte  // where the next bytes of the frame go; empty: nobody wants them
	arrived(n int) // so many of them are there
	abort()        // the frame is not going on
	verdict(i int, good bool)
	never(bitmap []byte)
	alive(have int)
}

// receive reads records until the stream ends properly, which is nil, or not.
// It accepts only what fits the manifest.
func receive(r *bufio.Reader, m *images.Manifest, to receiver) error {
	current, left := -1, int64(0)
	empty := 0 // frames in a row of which nothing came: each costs memory here and nothing there
	for {
		kind, err := r.ReadByte()
		if err != nil {
			return err
		}
		switch kind {
		case recFrame:
			i, err := number(r)
			if err != nil {
				return err
			}
			offset, err := number(r)
			switch {
			case err != nil:
				return err
			case left > 0:
				return fmt.Errorf("frame %d begins before frame %d has ended", i, current)
			case i >= len(m.Frames) || int64(offset) >= m.Frames[i].Length:
				return fmt.Errorf("there is no frame %d with a byte %d", i, offset)
			}
			if empty++; empty > maxEmpty {
				return fmt.Errorf("%d frames were begun, and no byte came of them", maxEmpty)
			}
			current, left = i, m.Frames[i].Length-int64(offset)
			if err := to.frame(i, int64(offset)); err != nil {
				return err
			}
		case recData:
			n, err := number(r)
			switch {
			case err != nil:
				return err
			case int64(n) > left || n > maxPiece || n == 0:
				return fmt.Errorf("%d bytes where %d are left of frame %d", n, left, current)
			}
			if err := pass(r, n, to); err != nil {
				return err
			}
			left -= int64(n)
			empty = 0
		case recAbort:
			left = 0
			to.abort()
		case recGood, recBad:
			i, err := number(r)
			if err != nil {
				return err
			}
			if i >= len(m.Frames) {
				return fmt.Errorf("a verdict on frame %d: there is none", i)
			}
			to.verdict(i, kind == recGood)
		case recNever:
			n, err := number(r)
			if err != nil {
				return err
			}
			if n != (len(m.Frames)+7)/8 {
				return fmt.Errorf("a bitmap of %d bytes for %d frames", n, len(m.Frames))
			}
			bitmap := make([]byte, n)
			if _, err := io.ReadFull(r, bitmap); err != nil {
				return err
			}
			to.never(bitmap)
		case recAlive:
			n, err := number(r)
			if err != nil {
				return err
			}
			to.alive(n)
		case recEnd:
			if left > 0 {
				return fmt.Errorf("the end comes before that of frame %d", current)
			}
			return nil
		default:
			return fmt.Errorf("record %q is unknown", kind)
		}
	}
}

// pass hands n bytes on as they arrive.
func pass(r *bufio.Reader, n int, to receiver) error {
	for n > 0 {
		b := to.room()
		if len(b) == 0 {
			k, err := r.Discard(min(n, bytesRead))
			if err != nil {
				return err
			}
			to.arrived(0)
			n -= k
			continue
		}
		k, err := r.Read(b[:min(n, len(b), bytesRead)])
		to.arrived(k)
		n -= k
		if err != nil {
			return err
		}
	}
	return nil
}

func number(r *bufio.Reader) (int, error) {
	var b [4]byte
	_, err := io.ReadFull(r, b[:])
	n := binary.BigEndian.Uint32(b[:])
	if n > 1<<31-1 {
		return 0, fmt.Errorf("a number of %d", n)
	}
	return int(n), err
}

func record(kind byte, numbers ...int) []byte {
	b := []byte{kind}
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	return b
}

// A bitmap has bit i%8 of byte i/8 for frame i.
func bitmapOf(n int, has func(i int) bool) []byte {
	b := make([]byte, (n+7)/8)
	for i := range n {
		if has(i) {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

func bit(b []byte, i int) bool { return i/8 < len(b) && b[i/8]>>(i%8)&1 == 1 }
