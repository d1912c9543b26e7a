package imaging

import (
	"encoding/binary"

	"refurb/images"
)

const tail = 1 << 20 // bytes at the disk's end that go in late, like the head

// layout says which bytes of an image are withheld until all others were read
// back: those in the disk's first and in its last MiB.
type layout struct {
	m       *images.Manifest
	size    int64 // of the disk
	headEnd int64 // where the image's withheld head ends
	endAt   int64 // where its withheld end begins; m.Bytes when it doesn't reach so far
	tailAt  int64 // where the disk's last MiB begins
}

func lay(m *images.Manifest, size int64) layout {
	l := layout{m: m, size: size, headEnd: min(images.Head, m.Bytes)}
	l.tailAt = max(l.size-tail, images.Head)
	l.endAt = max(l.headEnd, min(l.tailAt, m.Bytes))
	return l
}

// span is where frame i lies.
func (l *layout) span(i int) (from, to int64) {
	from = int64(i) * images.FrameSize
	return from, from + int64(l.m.RawLength(i))
}

// open is the part of frames first to last-1 that isn't withheld; to <= from
// when there is none.
func (l *layout) open(first, last int) (from, to int64) {
	from, _ = l.span(first)
	_, to = l.span(last - 1)
	return max(from, l.headEnd), min(to, l.endAt)
}

// late says that a part of frame i is withheld.
func (l *layout) late(i int) bool {
	from, to := l.span(i)
	return from < l.headEnd || to > l.endAt
}

// A mark is one block that says where it lies and for which image: no two
// places of a disk hold the same. An earlier attempt left the same marks.
func (l *layout) mark(b []byte, at int64) {
	text := append([]byte("refurb: this disk is not finished yet\n"), l.m.Root[:]...)
	text = binary.BigEndian.AppendUint64(text, uint64(l.size))
	text = binary.BigEndian.AppendUint64(text, uint64(at))
	sum := images.Sum(text)
	for len(b) > 0 {
		b = b[copy(b, sum[:]):]
	}
}

// marks fills b, which lies at at, with one mark a block.
func (l *layout) marks(b []byte, at int64) {
	block := l.m.Block
	for i := 0; i < len(b); i += block {
		l.mark(b[i:i+block], at+int64(i))
	}
}

// landmarks are the places of the marks outside of the last MiB: the powers of
// two from a frame's size on that lie in the image. A disk that is a power of
// two in truth puts one of them over another or over its head.
func (l *layout) landmarks() (at []int64) {
	for p := int64(images.FrameSize); p+int64(l.m.Block) <= l.endAt; p *= 2 {
		at = append(at, p)
	}
	return at
}

// overlay copies what src, which lies at srcAt, has in common with dst at dstAt.
func overlay(dst []byte, dstAt int64, src []byte, srcAt int64) {
	from, to := max(dstAt, srcAt), min(dstAt+int64(len(dst)), srcAt+int64(len(src)))
	if from < to {
		copy(dst[from-dstAt:to-dstAt], src[from-srcAt:])
	}
}
