package esp

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Write is bytes for a place of the disk; both in whole blocks.
type Write struct {
	At int64
	B  []byte
}

// Put says what to write so that path holds content: groups of writes, each to
// be on the disk before the next begins. Wherever that is cut off, the volume
// can be used and path holds all of content or what it held before:
//
//  1. the content, and folders that are new, into free clusters
//  2. those clusters' entries in both tables
//  3. the one entry that makes them known
//  4. what the path held before becomes free
//
// Times are those of 1980: a PC's clock proves nothing. Nothing is written when
// path holds content already.
func (v *Volume) Put(path string, content []byte, block int) ([][]Write, error) {
	if !power(int64(block), 512, 4096) || v.at%int64(block) != 0 || len(content) == 0 {
		return nil, fmt.Errorf("%d bytes for a volume at %d of a disk with blocks of %d", len(content), v.at, block)
	}
	f, rest, err := v.walk(strings.Split(path, "/"))
	if err != nil {
		return nil, err
	}
	d := &draft{v: v, block: int64(block), pages: map[int64][]byte{}}
	old := -1
	var before []uint32 // clusters of what the path held
	if len(rest) == 1 {
		if old = f.find(rest[0]); old >= 0 {
			if same, err := v.Read(path, len(content)); err == nil && bytes.Equal(same, content) {
				return nil, nil
			}
			e := f.entry(old)
			if e[11]&attrDir != 0 {
				return nil, errDamaged
			}
			if c := first(e, v.bits); c != 0 {
				if before, err = v.chain(c, maxFAT); err != nil {
					return nil, err
				}
			}
		}
	}

	folders := len(rest) - 1
	need := folders + int((int64(len(content))+v.cluster-1)/v.cluster)
	names := make([][]byte, len(rest)) // the entries by which each part of rest is known
	for i, name := range rest {
		in := f
		if i > 0 {
			in = &folder{}
		}
		if names[i], err = in.name(name); err != nil {
			return nil, err
		}
	}
	slot := -1
	if old < 0 {
		if slot = f.room(len(names[0]) / entrySize); slot < 0 {
			if f.fixed {
				return nil, errors.New("the EFI system partition's root folder is full")
			}
			if int64(len(f.b))+v.cluster > maxDir {
				return nil, errors.New("a folder of the EFI system partition is full")
			}
			need++ // the folder grows
		}
	}
	free, err := v.free(need)
	if err != nil {
		return nil, err
	}

	// The content, then the folders from the innermost out: each knows where the
	// next one begins.
	file := free[folders:]
	if old < 0 && slot < 0 {
		file = file[:len(file)-1]
	}
	b := make([]byte, int64(len(file))*v.cluster)
	copy(b, content)
	for i, c := range file {
		d.put(v.clusterAt(c), b[int64(i)*v.cluster:][:v.cluster])
	}
	fill(names[folders], attrFile, file[0], uint32(len(content)))
	for i := folders - 1; i >= 0; i-- {
		b := make([]byte, v.cluster)
		parent := f.first
		if i > 0 {
			parent = free[i-1]
		}
		copy(b, ".          ")
		fill(b[:entrySize], attrDir, free[i], 0)
		copy(b[entrySize:], "..         ")
		fill(b[entrySize:2*entrySize], attrDir, parent, 0)
		copy(b[2*entrySize:], names[i+1])
		d.put(v.clusterAt(free[i]), b)
		fill(names[i], attrDir, free[i], 0)
	}
	grown := uint32(0)
	if old < 0 && slot < 0 {
		grown = free[len(free)-1]
		b := make([]byte, v.cluster)
		copy(b, names[0])
		d.put(v.clusterAt(grown), b)
	}
	d.stage()

	for _, c := range free[:folders] {
		d.link(c, v.end())
	}
	for i, c := range file {
		next := v.end()
		if i+1 < len(file) {
			next = file[i+1]
		}
		d.link(c, next)
	}
	switch {
	case grown != 0:
		d.link(grown, v.end())
		for i := f.end(); i < f.entries(); i++ { // what is left is too little, and must not end the folder
			d.put(f.pos(i), []byte{0xe5})
		}
	case old < 0:
		// Behind the last entry nothing is known to be clean.
		if next := slot + len(names[0])/entrySize; next > f.end() && next < f.entries() {
			d.put(f.pos(next), make([]byte, entrySize))
		}
	}
	d.taken(len(free), free[len(free)-1])
	d.stage()

	switch {
	case grown != 0:
		d.link(f.tail, grown)
	case old >= 0:
		e := bytes.Clone(f.entry(old))
		fill(e, attrFile, file[0], uint32(len(content)))
		d.put(f.pos(old), e)
	default:
		e := names[0]
		for i := 0; i < len(e); i += entrySize {
			d.put(f.pos(slot+i/entrySize), e[i:i+entrySize])
		}
	}
	d.stage()

	for _, c := range before {
		d.link(c, 0)
	}
	d.taken(-len(before), 0)
	d.stage()
	return d.stages, d.err
}

// fill completes the short entry at the end of e.
func fill(e []byte, attr byte, c, size uint32) {
	e = e[len(e)-entrySize:]
	e[11] = attr
	const day = 1<<5 | 1 // 1 January 1980
	le.PutUint16(e[16:], day)
	le.PutUint16(e[18:], day)
	le.PutUint16(e[24:], day)
	le.PutUint16(e[20:], uint16(c>>16))
	le.PutUint16(e[26:], uint16(c))
	le.PutUint32(e[28:], size)
}

// name makes the entries for a new name in f: the short one, and before it the
// long one if the name doesn't fit into 8.3.
func (f *folder) name(name string) ([]byte, error) {
	if name == "" || len(name) > len(longAt) || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > 'z' }) {
		return nil, fmt.Errorf("%q is no name for a file", name)
	}
	if short, ok := shortName(name); ok {
		e := make([]byte, entrySize)
		copy(e, short)
		if name == strings.ToLower(name) {
			e[12] = 0x18 // shown in small letters, as Windows and Linux do
		}
		return e, nil
	}
	stem, ext, _ := strings.Cut(strings.ToUpper(name), ".")
	e := make([]byte, 2*entrySize)
	short := e[entrySize:]
	for n := 1; ; n++ {
		if n > 9 {
			return nil, fmt.Errorf("the EFI system partition has too many names like %s", name)
		}
		copy(short, fmt.Sprintf("%-8s%-3s", fmt.Sprintf("%s~%d", stem[:min(len(stem), 6)], n), ext[:min(len(ext), 3)]))
		if !f.taken(short[:11]) {
			break
		}
	}
	e[0], e[11], e[13] = 0x41, attrLong, checksum(short)
	for i, at := range longAt {
		c := uint16(0xffff)
		if i < len(name) {
			c = uint16(name[i])
		} else if i == len(name) {
			c = 0
		}
		le.PutUint16(e[at:], c)
	}
	return e, nil
}

func (f *folder) taken(short []byte) bool {
	for i := range f.entries() {
		if e := f.entry(i); e[0] == 0 {
			return false
		} else if bytes.Equal(e[:11], short) {
			return true
		}
	}
	return false
}

// room finds n free entries in a row, -1 when there are none.
func (f *folder) room(n int) int {
	run := 0
	for i := range f.entries() {
		switch e := f.entry(i); {
		case e[0] == 0:
			if i-run+n <= f.entries() {
				return i - run
			}
			return -1
		case e[0] == 0xe5:
			if run++; run == n {
				return i - n + 1
			}
		default:
			run = 0
		}
	}
	return -1
}

// end is the number of the first entry that was never used.
func (f *folder) end() int {
	for i := range f.entries() {
		if f.entry(i)[0] == 0 {
			return i
		}
	}
	return f.entries()
}

// free finds n free clusters.
func (v *Volume) free(n int) (list []uint32, err error) {
	for c := uint32(2); c <= v.last && v.fatPos(c) < maxFAT; c++ {
		used, err := v.next(c)
		if err != nil {
			return nil, err
		}
		if used == 0 {
			if list = append(list, c); len(list) == n {
				return list, nil
			}
		}
	}
	return nil, fmt.Errorf("the EFI system partition has no room for %d clusters of %d bytes", n, v.cluster)
}

// draft collects changes by block.
type draft struct {
	v      *Volume
	block  int64
	pages  map[int64][]byte // by number of the block on the disk: as it will be
	dirty  map[int64]bool   // changed in this stage
	stages [][]Write
	err    error
}

// change lets f change the n bytes at pos of the volume.
func (d *draft) change(pos, n int64, f func(b []byte)) {
	from := (d.v.at + pos) / d.block
	to := (d.v.at + pos + n + d.block - 1) / d.block
	b := make([]byte, 0, (to-from)*d.block)
	for p := from; p < to; p++ {
		page := d.pages[p]
		if page == nil {
			page = make([]byte, d.block)
			if _, err := d.v.r.ReadAt(page, p*d.block); err != nil {
				if d.err == nil {
					d.err = err
				}
			}
		}
		b = append(b, page...)
	}
	was := bytes.Clone(b)
	f(b[d.v.at+pos-from*d.block:][:n])
	if d.dirty == nil {
		d.dirty = map[int64]bool{}
	}
	for p := from; p < to; p++ {
		i := (p - from) * d.block
		d.pages[p] = b[i : i+d.block : i+d.block]
		if !bytes.Equal(b[i:i+d.block], was[i:i+d.block]) {
			d.dirty[p] = true
		}
	}
}

func (d *draft) put(pos int64, content []byte) {
	d.change(pos, int64(len(content)), func(b []byte) { copy(b, content) })
}

// link sets the entry of cluster c in all tables.
func (d *draft) link(c, to uint32) {
	n := int64(4)
	if d.v.bits < 32 {
		n = 2
	}
	for i := range d.v.fats {
		d.change(d.v.fatAt+i*d.v.fatBytes+d.v.fatPos(c), n, func(b []byte) { fatSet(b, d.v.bits, c, to) })
	}
}

// taken corrects what FAT32 remembers of its free clusters. It is a hint.
func (d *draft) taken(n int, last uint32) {
	if d.v.infoAt == 0 || n == 0 {
		return
	}
	d.change(d.v.infoAt, 512, func(b []byte) {
		if le.Uint32(b) != 0x41615252 || le.Uint32(b[484:]) != 0x61417272 {
			return
		}
		if count := int64(le.Uint32(b[488:])) - int64(n); count >= 0 && count < int64(d.v.last) {
			le.PutUint32(b[488:], uint32(count))
		}
		if last != 0 {
			le.PutUint32(b[492:], last)
		}
	})
}

// stage ends a group of writes.
func (d *draft) stage() {
	if len(d.dirty) == 0 {
		return
	}
	var group []Write
	for _, p := range slices.Sorted(maps.Keys(d.dirty)) {
		if n := len(group); n > 0 && group[n-1].At+int64(len(group[n-1].B)) == p*d.block {
			group[n-1].B = append(group[n-1].B, d.pages[p]...)
		} else {
			group = append(group, Write{p * d.block, bytes.Clone(d.pages[p])})
		}
	}
	d.stages, d.dirty = append(d.stages, group), nil
}
