// Package disk knows whole disks: what they hold, which one is which, and how
// to write and read them past the page cache. It never mounts anything and
// reads no names: of a file system it reads its signature, and on an EFI system
// partition the appliance's own record.
package disk

import (
	"bytes"
	"crypto/ed25519"
	"hash/crc32"
	"io"
	"maps"
	"slices"

	"refurb/agent/esp"
	"refurb/agent/wire"
	"refurb/images"
)

const (
	edge    = 1 << 20 // read whole at both ends of the disk and of each partition
	samples = 256     // blocks read in between, evenly spread
	sample  = 4 << 10 // bytes of one
	unknown = "unknown data"

	// maxFailed is how many reads may fail before a disk isn't read on: each may
	// take a dying one minutes, and it is nothing that may be written unasked by
	// the first.
	maxFailed = 8
)

// Facts are what is known of a disk besides its bytes.
type Facts struct {
	ID   wire.DiskID       // who it is: a birth record counts only for this very disk
	Key  ed25519.PublicKey // of the appliance whose birth records count
	Lock string            // by what the disk is locked, "" by nothing that is known
}

// Classify says what a disk of size bytes holds, by signatures and by samples,
// and which signatures made it say so. Of several classes the first in this
// list is given:
//
//   - locked: the disk itself wants a password; it isn't read.
//   - encrypted: LUKS, BitLocker, encrypted APFS or FileVault, anywhere.
//   - ours: a birth record that this appliance signed for this very disk, and
//     everything that is looked at could be read.
//   - data: a known signature, or bytes that aren't zero and belong to no
//     partition table.
//   - unreadable: something couldn't be read, and the rest showed no data.
//   - structured: a partition table (GPT or MBR) with nothing but zeroes in the
//     same places of the disk and of each partition.
//   - blank: every byte that was looked at was zero: the first and last MiB and
//     256 blocks of 4 KiB in between.
//
// So what must not be written without a person's word is never taken for what
// may. A record doesn't make a disk ours that has been encrypted since.
func Classify(r io.ReaderAt, size int64, facts Facts) (wire.Class, []string) {
	if facts.Lock != "" {
		return wire.ClassLocked, []string{facts.Lock}
	}
	if size < 512 {
		return wire.ClassUnreadable, nil
	}
	failures := 0
	read := func(off int64, n int) []byte {
		if off < 0 || n < 0 || off+int64(n) > size || failures >= maxFailed {
			return nil
		}
		b := make([]byte, n)
		if got, _ := r.ReadAt(b, off); got < n {
			failures++
			return nil
		}
		return b
	}

	found := map[string]bool{}
	structure, parts, esps := tables(size, read, found)
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

	if _, ok := stickIn(read(0, stickHead)); ok {
		found[StickMark] = true
	}
	failed := failures > 0
	ours := !failed && slices.ContainsFunc(esps[:min(len(esps), maxESPs)], func(p span) bool { return bornHere(r, p, facts) })

	names := slices.Sorted(maps.Keys(found))
	table := found["gpt"] || found["mbr"]
	known := slices.ContainsFunc(names, func(n string) bool { return n != "gpt" && n != "mbr" })
	switch {
	case slices.ContainsFunc(names, func(n string) bool { return ciphers[n] }):
		return wire.ClassEncrypted, names
	case ours:
		return wire.ClassOurs, append(names, "birth record")
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

const maxESPs = 4

// bornHere says whether an EFI system partition holds a birth record for the
// disk.
func bornHere(r io.ReaderAt, p span, facts Facts) bool {
	if len(facts.Key) == 0 {
		return false
	}
	v, err := esp.Open(r, p.from, p.to-p.from)
	if err != nil {
		return false
	}
	doc, err := v.Read(wire.BirthPath, wire.MaxBirth)
	if err != nil {
		return false
	}
	birth, err := wire.ParseBirth(doc, facts.Key)
	return err == nil && birth.For(facts.ID)
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
