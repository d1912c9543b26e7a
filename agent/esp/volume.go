// Package esp reads and writes one small file on an EFI system partition
// without mounting it.
//
// The partition is a FAT file system (Microsoft, FAT32 File System
// Specification 1.03, 2000; UEFI 2.10 §13.3) that may be anybody's: every walk
// through it is bounded, and nothing but the wanted path is looked at. It is
// not done by go-diskfs, because a file must arrive in an order that survives a
// power cut, in whole blocks and past the page cache, and because that library
// trusts what it reads.
package esp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	maxDir    = 256 << 10 // bytes of one directory that are looked at
	maxFAT    = 16 << 20  // bytes of the table that are searched for free clusters
	entrySize = 32
	cacheSize = 16 << 10
)

// ErrNotFound means that there is no such file.
var ErrNotFound = errors.New("there is no such file on the EFI system partition")

var le = binary.LittleEndian

// Volume is a FAT12, FAT16 or FAT32 file system. Offsets count from its start.
type Volume struct {
	r  io.ReaderAt
	at int64 // where it begins on the disk

	bits     int
	sector   int64
	cluster  int64 // bytes of one
	fats     int64
	fatAt    int64
	fatBytes int64 // of one table
	rootAt   int64 // FAT12 and FAT16: the root directory has a place of its own
	rootSize int64
	root     uint32 // FAT32: its first cluster
	dataAt   int64
	last     uint32 // the highest cluster's number
	infoAt   int64  // FAT32: the sector with the number of free clusters; 0: none

	cacheAt int64
	cache   []byte // a piece of the first table
}

// Open reads the boot sector of the volume of size bytes that begins at at.
func Open(r io.ReaderAt, at, size int64) (*Volume, error) {
	b := make([]byte, 512)
	if at < 0 || size < 512 {
		return nil, errors.New("the EFI system partition has no size")
	}
	if _, err := r.ReadAt(b, at); err != nil {
		return nil, err
	}
	v := &Volume{r: r, at: at, sector: int64(le.Uint16(b[11:])), fats: int64(b[16])}
	v.cluster = v.sector * int64(b[13])
	if b[510] != 0x55 || b[511] != 0xaa || !power(v.sector, 512, 4096) || !power(int64(b[13]), 1, 128) || v.fats < 1 || v.fats > 2 {
		return nil, errors.New("the EFI system partition holds no FAT file system")
	}
	sectors, table := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(b[32:]))
	}
	if table == 0 {
		v.bits, table = 32, int64(le.Uint32(b[36:]))
		v.root = le.Uint32(b[44:])
		if n := le.Uint16(b[48:]); n != 0xffff {
			v.infoAt = int64(n) * v.sector
		}
		if flags := le.Uint16(b[40:]); flags&0x80 != 0 && flags&0xf != 0 {
			return nil, errors.New("the EFI system partition's file system keeps only one of its tables: format it again")
		}
	}
	v.fatAt, v.fatBytes = int64(le.Uint16(b[14:]))*v.sector, table*v.sector
	v.rootAt = v.fatAt + v.fats*v.fatBytes
	v.rootSize = (int64(le.Uint16(b[17:]))*entrySize + v.sector - 1) / v.sector * v.sector
	v.dataAt = v.rootAt + v.rootSize
	clusters := (sectors*v.sector - v.dataAt) / v.cluster
	if v.bits == 0 {
		if v.bits = 16; clusters < 4085 {
			v.bits = 12
		}
	}
	switch {
	case v.fatAt == 0 || sectors*v.sector > size || clusters < 1 || clusters >= 0x0ffffff5,
		v.bits == 16 && clusters >= 65525, v.bits == 32 && v.rootSize != 0, v.bits != 32 && v.rootSize == 0,
		v.fatBytes*8 < (clusters+2)*int64(v.bits), v.infoAt >= v.fatAt:
		return nil, errors.New("the EFI system partition's FAT file system makes no sense")
	}
	v.last = uint32(clusters) + 1
	return v, nil
}

func power(n, least, most int64) bool { return n >= least && n <= most && n&(n-1) == 0 }

// fatPos is where the entry of cluster c lies in a table.
func (v *Volume) fatPos(c uint32) int64 { return int64(c) * int64(v.bits) / 8 }

// next is the table's entry of cluster c.
func (v *Volume) next(c uint32) (uint32, error) {
	pos, n := v.fatPos(c), int64(4)
	if v.bits < 32 {
		n = 2
	}
	if pos < v.cacheAt || pos+n > v.cacheAt+int64(len(v.cache)) {
		from := pos &^ (cacheSize - 1)
		// A 12-bit entry may lie across the end of a piece.
		b := make([]byte, min(cacheSize+4, v.fatBytes-from))
		if _, err := v.r.ReadAt(b, v.at+v.fatAt+from); err != nil {
			return 0, err
		}
		v.cacheAt, v.cache = from, b
		if pos+n > from+int64(len(b)) {
			return 0, io.ErrUnexpectedEOF
		}
	}
	return fatGet(v.cache[pos-v.cacheAt:], v.bits, c), nil
}

func fatGet(b []byte, bits int, c uint32) uint32 {
	switch bits {
	case 12:
		x := uint32(le.Uint16(b))
		if c%2 == 1 {
			return x >> 4
		}
		return x & 0xfff
	case 16:
		return uint32(le.Uint16(b))
	}
	return le.Uint32(b) & 0x0fffffff
}

func fatSet(b []byte, bits int, c, to uint32) {
	switch bits {
	case 12:
		x := le.Uint16(b)
		if c%2 == 1 {
			x = x&0x000f | uint16(to)<<4
		} else {
			x = x&0xf000 | uint16(to)&0xfff
		}
		le.PutUint16(b, x)
	case 16:
		le.PutUint16(b, uint16(to))
	default:
		le.PutUint32(b, le.Uint32(b)&0xf0000000|to&0x0fffffff)
	}
}

func (v *Volume) valid(c uint32) bool { return c >= 2 && c <= v.last }

// end is the mark of a chain's last cluster.
func (v *Volume) end() uint32 { return uint32(1<<min(v.bits, 28) - 1) }

func (v *Volume) isEnd(n uint32) bool { return n >= v.end()&^7 }

func (v *Volume) clusterAt(c uint32) int64 { return v.dataAt + int64(c-2)*v.cluster }

// chain lists the clusters of a file or directory that begins at c, at most
// limit bytes of it. A longer one is an error: so is a loop.
func (v *Volume) chain(c uint32, limit int64) ([]uint32, error) {
	var list []uint32
	for {
		if !v.valid(c) {
			return nil, errDamaged
		}
		if list = append(list, c); int64(len(list)-1)*v.cluster >= limit {
			return nil, fmt.Errorf("a file or folder of the EFI system partition is larger than %d bytes", limit)
		}
		n, err := v.next(c)
		if err != nil {
			return nil, err
		}
		if v.isEnd(n) {
			return list, nil
		}
		c = n
	}
}

var errDamaged = errors.New("the EFI system partition's FAT file system is damaged")

// folder is one directory: its bytes and where each cluster of them lies.
type folder struct {
	first   uint32 // its first cluster; 0: the root
	fixed   bool   // it can't grow
	b       []byte
	clustAt []int64 // by stretch of step bytes
	step    int64
	tail    uint32 // its last cluster
}

// pos is the place of the entry i on the volume.
func (f *folder) pos(i int) int64 {
	at := int64(i) * entrySize
	return f.clustAt[at/f.step] + at%f.step
}

func (f *folder) entry(i int) []byte { return f.b[i*entrySize:][:entrySize] }
func (f *folder) entries() int       { return len(f.b) / entrySize }

// folder reads the directory that begins at cluster c; 0 is the root.
func (v *Volume) folder(c uint32) (*folder, error) {
	f := &folder{first: c, step: v.cluster}
	if c == 0 && v.bits != 32 {
		f.fixed, f.step, f.clustAt = true, v.rootSize, []int64{v.rootAt}
		if f.step > maxDir {
			return nil, fmt.Errorf("the EFI system partition's root folder is larger than %d bytes", maxDir)
		}
	} else {
		if c == 0 {
			c = v.root
		}
		list, err := v.chain(c, maxDir)
		if err != nil {
			return nil, err
		}
		f.tail = list[len(list)-1]
		for _, c := range list {
			f.clustAt = append(f.clustAt, v.clusterAt(c))
		}
	}
	f.b = make([]byte, f.step*int64(len(f.clustAt)))
	for i, at := range f.clustAt {
		if _, err := v.r.ReadAt(f.b[int64(i)*f.step:][:f.step], v.at+at); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// find gives the number of name's entry, -1 when there is none.
func (f *folder) find(name string) int {
	alias, exact := shortName(name)
	for i := range f.entries() {
		e := f.entry(i)
		switch {
		case e[0] == 0:
			return -1
		case e[0] == 0xe5, e[11]&0x3f == attrLong, e[11]&attrLabel != 0:
		case i > 0 && sameLong(f.entry(i-1), name, e), exact && string(e[:11]) == alias:
			return i
		}
	}
	return -1
}

const (
	attrLabel = 0x08
	attrDir   = 0x10
	attrFile  = 0x20
	attrLong  = 0x0f
)

func first(e []byte, bits int) uint32 {
	c := uint32(le.Uint16(e[26:]))
	if bits == 32 {
		c |= uint32(le.Uint16(e[20:])) << 16
	}
	return c
}

// shortName is name in 8.3 form, and whether that is all of it.
func shortName(name string) (string, bool) {
	stem, ext, _ := strings.Cut(strings.ToUpper(name), ".")
	if len(stem) > 8 || len(ext) > 3 {
		return "", false
	}
	return fmt.Sprintf("%-8s%-3s", stem, ext), true
}

// checksum binds a long name to its short entry.
func checksum(short []byte) (sum byte) {
	for _, c := range short[:11] {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

// longAt are the places of a long entry's 13 characters.
var longAt = [13]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}

// sameLong says whether e is the one long entry of short and says name.
func sameLong(e []byte, name string, short []byte) bool {
	if e[0] != 0x41 || e[11]&0x3f != attrLong || e[13] != checksum(short) {
		return false
	}
	for i, at := range longAt {
		c := le.Uint16(e[at:])
		switch {
		case i < len(name):
			if c > 0x7f || lower(byte(c)) != lower(name[i]) {
				return false
			}
		case i == len(name) && c != 0, i > len(name) && c != 0xffff:
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// walk follows the path's folders as far as they are there.
func (v *Volume) walk(path []string) (f *folder, rest []string, err error) {
	if f, err = v.folder(0); err != nil {
		return nil, nil, err
	}
	for len(path) > 1 {
		i := f.find(path[0])
		if i < 0 {
			return f, path, nil
		}
		e := f.entry(i)
		c := first(e, v.bits)
		if e[11]&attrDir == 0 || !v.valid(c) {
			return nil, nil, errDamaged
		}
		if f, err = v.folder(c); err != nil {
			return nil, nil, err
		}
		path = path[1:]
	}
	return f, path, nil
}

// Has says whether there is a file at path, as in Read.
func (v *Volume) Has(path string) (bool, error) {
	f, rest, err := v.walk(strings.Split(path, "/"))
	if err != nil || len(rest) > 1 {
		return false, err
	}
	i := f.find(rest[0])
	return i >= 0 && f.entry(i)[11]&attrDir == 0, nil
}

// Read gives the file at path ("EFI/BOOT/X.EFI"), whose names have at most 13
// characters; ErrNotFound when there is none. A file of more than limit bytes
// is an error.
func (v *Volume) Read(path string, limit int) ([]byte, error) {
	f, rest, err := v.walk(strings.Split(path, "/"))
	if err != nil {
		return nil, err
	}
	if len(rest) > 1 {
		return nil, ErrNotFound
	}
	i := f.find(rest[0])
	if i < 0 {
		return nil, ErrNotFound
	}
	e := f.entry(i)
	size := le.Uint32(e[28:])
	switch {
	case e[11]&attrDir != 0:
		return nil, errDamaged
	case uint64(size) > uint64(limit):
		return nil, fmt.Errorf("the file has %d bytes, more than %d", size, limit)
	case size == 0:
		return nil, nil
	}
	b := make([]byte, 0, size)
	for c := first(e, v.bits); ; {
		if !v.valid(c) {
			return nil, errDamaged
		}
		n := min(v.cluster, int64(size)-int64(len(b)))
		if _, err := v.r.ReadAt(b[len(b):len(b)+int(n)], v.at+v.clusterAt(c)); err != nil {
			return nil, err
		}
		if b = b[:len(b)+int(n)]; len(b) == int(size) {
			return b, nil
		}
		if c, err = v.next(c); err != nil {
			return nil, err
		}
	}
}
