// Package disk knows whole disks: what they hold, which one is which, and how
// to write and read them past the page cache. It never mounts anything and
// reads no names.
package disk

import (
	"bytes"
	"hash/crc32"
	"io"
	"maps"
	"slices"

	"refurb/agent/wire"
	"refurb/images"
)

const (
	edge    = 1 << 20 // read whole at both ends of the disk and of each partition
	samples = 256     // blocks read in between, evenly spread
	sample  = 4 << 10 // bytes of one
	unknown = "unknown data"
)

// Classify says what a disk of size bytes holds, by signatures and by samples,
// and which signatures made it say so. It is blank only if everything could be
// read and every byte of it was zero: the first and last MiB and 256 blocks of
// 4 KiB in between. Structured is a partition table (GPT or MBR) with nothing
// but zeroes in the same places of the disk and of each partition. All else,
// all-ones included, is data; a disk that can't be read and showed no data is
// unreadable.
func Classify(r io.ReaderAt, size int64) (wire.Class, []string) {
	if size < 512 {
		return wire.ClassUnreadable, nil
	}
	failed := false
	read := func(off int64, n int) []byte {
		if off < 0 || n < 0 || off+int64(n) > size {
			return nil
		}
		b := make([]byte, n)
		if got, _ := r.ReadAt(b, off); got < n {
			failed = true
			return nil
		}
		return b
	}

	found := map[string]bool{}
	structure, parts := tables(size, read, found)
	dirty := false
	look := func(at int64, b []byte) {
		if !dirty && !images.Zero(b) && !zeroBut(at, b, structure) {
			dirty = true
		}
	}
	// Overlapping or absurd partitions cost reads, not correctness.
	parts = slices.DeleteFunc(parts, func(p span) bool { return p.from < 512 || p.from >= size || p.to <= p.from })
	slices.SortFunc(parts, func(a, b span) int { return int(min(max(a.from-b.from, -1), 1)) })
	parts = slices.Compact(parts)
	for _, region := range append([]span{{0, size}}, parts[:min(len(parts), maxPartitions)]...) {
		region.to = min(region.to, size)
		n := region.to - region.from
		probe := func(at int64, length int64) {
			length = min(length, n-at)
			if at < 0 || length <= 0 {
				return
			}
			b := read(region.from+at, int(length))
			probeWindow(window{at, b}, n, found)
			look(region.from+at, b)
		}
		probe(0, edge)
		probe(max(0, n-edge), edge)
		for _, m := range marks {
			if m.at >= edge {
				probe(m.at&^(sample-1), sample)
			}
		}
	}
	for i := range int64(samples) {
		at := (size - sample) / (samples - 1) * i &^ (sample - 1)
		if at < 0 {
			break
		}
		look(at, read(at, sample))
	}

	names := slices.Sorted(maps.Keys(found))
	table := found["gpt"] || found["mbr"]
	known := slices.ContainsFunc(names, func(n string) bool { return n != "gpt" && n != "mbr" })
	switch {
	case dirty && !known:
		return wire.ClassData, append(names, unknown)
	case known:
		return wire.ClassData, names
	case failed:
		return wire.ClassUnreadable, names
	case table:
		return wire.ClassStructured, names
	}
	return wire.ClassBlank, nil
}

// zeroBut tells whether b, read at offset at, is zero outside the given ranges.
func zeroBut(at int64, b []byte, but []span) bool {
	b = bytes.Clone(b)
	for _, s := range but {
		from, to := max(s.from-at, 0), min(s.to-at, int64(len(b)))
		if from < to {
			clear(b[from:to])
		}
	}
	return images.Zero(b)
}

func crc(b []byte) uint32 { return crc32.ChecksumIEEE(b) }
