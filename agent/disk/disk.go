package disk

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"refurb/agent/hardware"
	"refurb/agent/wire"
)

// A Refusal says why a disk is not written to, and what a volunteer does next.
type Refusal struct{ Message, Next string }

func (r *Refusal) Error() string { return r.Message + " (" + r.Next + ")" }

func refuse(next, format string, a ...any) error {
	return &Refusal{Message: fmt.Sprintf(format, a...), Next: next}
}

const again = "start this PC again from the network, so that it reports anew"

// Disk is a whole disk, opened for this program alone and past the page cache.
// Its methods may be called from several goroutines. Errors of reading and
// writing name the disk.
type Disk struct {
	f         *os.File
	id        wire.DiskID
	zeroRange bool // the disk zeroes ranges by itself
}

// Open opens the disk that a plan names and checks, on the opened descriptor,
// that it is the one: a whole, writable block device with the plan's size,
// block size, serial, WWN and model, which holds content of a class that was
// approved. A *Refusal names what is different. A disk that shows no serial
// must be one without a serial in the plan too: the plan and the disk have to
// be equal, an empty field is no wildcard. key is the appliance's, to tell what
// is ours.
func Open(plan wire.DiskID, key ed25519.PublicKey, approved ...wire.Class) (*Disk, error) {
	d, err := open(plan.Path)
	if err != nil {
		return nil, err
	}
	if err := d.Check(plan, key, approved...); err != nil {
		d.f.Close()
		return nil, err
	}
	return d, nil
}

// Check reads again, from the descriptor, who the disk is and what it holds, and
// compares as Open did: minutes may have passed since.
func (d *Disk) Check(plan wire.DiskID, key ed25519.PublicKey, approved ...wire.Class) error {
	id, err := d.identify()
	if err != nil {
		return err
	}
	return Check(d, Facts{ID: id, Key: key, Lock: lock(d.f)}, plan, approved)
}

func open(path string) (*Disk, error) {
	if !strings.HasPrefix(path, "/dev/") || filepath.Clean(path) != path {
		return nil, refuse("tell the coordinator: the plan is broken", "%.80q is no disk", path)
	}
	// O_EXCL on a block device fails when anybody else holds it: a mount, a
	// RAID, a partition in use.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_EXCL|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, refuse(again, "the disk %s is in use", path)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENOMEDIUM):
		return nil, refuse("look whether the disk is plugged in, then "+again, "the disk %s is gone", path)
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, refuse("try another disk", "the disk %s is write-protected", path)
	case err != nil:
		return nil, refuse("try another disk", "the disk %s can't be opened: %v", path, err)
	}
	d := &Disk{f: os.NewFile(uintptr(fd), path)}
	if d.id, err = d.identify(); err == nil {
		err = d.learn()
	}
	if err != nil {
		d.f.Close()
		return nil, err
	}
	return d, nil
}

// identify asks the descriptor who the disk is, whatever the path said.
func (d *Disk) identify() (wire.DiskID, error) {
	id, err := hardware.OpenedIdentity("/", d.f)
	if err != nil {
		return id, refuse(again, "%v", err)
	}
	id.Path = d.f.Name()
	if ro, err := unix.IoctlGetInt(d.fd(), unix.BLKROGET); err != nil || ro != 0 {
		return id, refuse("try another disk", "the disk %s is write-protected", id.Path)
	}
	return id, nil
}

// learn finds out what the disk can do.
func (d *Disk) learn() error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd(), &st); err != nil {
		return fmt.Errorf("looking at %s: %w", d.f.Name(), err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/queue/write_zeroes_max_bytes", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	d.zeroRange = err == nil && n > 0
	return nil
}

// Check says why the opened disk r, of which facts are known, is not the one that
// a plan names, or holds what was not approved. It is a part of Open.
func Check(r io.ReaderAt, facts Facts, plan wire.DiskID, approved []wire.Class) error {
	id := facts.ID
	var diff []string
	differ := func(what, was, is string) {
		if was != is {
			diff = append(diff, fmt.Sprintf("its %s is %s, not %s", what, orNone(is), orNone(was)))
		}
	}
	differ("serial number", plan.Serial, id.Serial)
	differ("WWN", plan.WWN, id.WWN)
	differ("model", plan.Model, id.Model)
	differ("size", strconv.FormatInt(plan.Bytes, 10), strconv.FormatInt(id.Bytes, 10))
	differ("block size", strconv.Itoa(plan.LogicalBlock), strconv.Itoa(id.LogicalBlock))
	if len(diff) > 0 {
		return refuse(again, "%s is not the disk that was approved: %s", plan.Path, strings.Join(diff, ", "))
	}
	if id.LogicalBlock < 512 || id.LogicalBlock > align || align%id.LogicalBlock != 0 {
		return refuse("try another disk", "%s has blocks of %d bytes", plan.Path, id.LogicalBlock)
	}
	if _, ok := StickID(r); ok {
		return refuse("put the PC's own disk in; if this is it, and a stick's image came onto it by mistake, overwrite its first MiB elsewhere",
			"%s is a stick that PCs are started from", plan.Path)
	}
	if class, found := Classify(r, id.Bytes, facts); !slices.Contains(approved, class) {
		return refuse("a coordinator must look at this disk and approve it again",
			"%s was approved as %v, but holds %q now%s", plan.Path, approved, class, list(found))
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return strconv.Quote(s)
}

func list(found []string) string {
	if len(found) == 0 {
		return ""
	}
	return ": " + strings.Join(found, ", ")
}

// ID is what the opened descriptor says of the disk.
func (d *Disk) ID() wire.DiskID { return d.id }
func (d *Disk) Size() int64     { return d.id.Bytes }
func (d *Disk) Block() int      { return d.id.LogicalBlock }
func (d *Disk) Close() error    { return d.f.Close() }
func (d *Disk) fd() int         { return int(d.f.Fd()) }

// align suits every block size up to 4096 and the page size, which is what
// O_DIRECT asks of memory, offset and length.
const align = 4096

// Buffer gives n bytes that start where O_DIRECT wants them to. The garbage
// collector doesn't move them.
func Buffer(n int) []byte {
	b := make([]byte, n+align)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (align - 1)
	return b[skip : skip+n : skip+n]
}

func (d *Disk) aligned(p []byte, off int64) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%uintptr(d.id.LogicalBlock) == 0 &&
		off%int64(d.id.LogicalBlock) == 0 && len(p)%d.id.LogicalBlock == 0
}

// ReadAt reads past the page cache. Reads that aren't aligned take a detour
// through a buffer.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.id.Bytes {
		return 0, fmt.Errorf("read of %d bytes at %d: %s ends at %d", len(p), off, d.id.Path, d.id.Bytes)
	}
	if d.id.LogicalBlock == 0 {
		return 0, fmt.Errorf("read from %s: no block size", d.id.Path)
	}
	if d.aligned(p, off) {
		return d.readAt(p, off)
	}
	block := int64(d.id.LogicalBlock)
	from, to := off/block*block, (off+int64(len(p))+block-1)/block*block
	b := Buffer(int(to - from))
	if _, err := d.readAt(b, from); err != nil {
		return 0, err
	}
	return copy(p, b[off-from:]), nil
}

func (d *Disk) readAt(p []byte, off int64) (int, error) {
	n, err := d.f.ReadAt(p, off)
	if err != nil {
		return n, fmt.Errorf("read from %s at %d: %w", d.id.Path, off, cause(err))
	}
	return n, nil
}

// WriteAt writes past the page cache. Memory, offset and length must be
// multiples of the logical block.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.id.Bytes {
		return 0, fmt.Errorf("write of %d bytes at %d: %s ends at %d", len(p), off, d.id.Path, d.id.Bytes)
	}
	if !d.aligned(p, off) {
		return 0, fmt.Errorf("write of %d bytes at %d: not in blocks of %d", len(p), off, d.id.LogicalBlock)
	}
	n, err := d.f.WriteAt(p, off)
	if err != nil {
		return n, fmt.Errorf("write to %s at %d: %w", d.id.Path, off, cause(err))
	}
	return n, nil
}

// cause leaves out the path that os adds; the callers name the disk.
func cause(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}

const zeroChunk = 4 << 20

var zeroes = sync.OnceValue(func() []byte { return Buffer(zeroChunk) })

// Zero makes n bytes at off read as zero. A disk that zeroes ranges by itself
// does so; others get zeroes written. Discarding guarantees nothing about what
// is read afterwards, so it is never used.
func (d *Disk) Zero(off, n int64) error {
	if off < 0 || n < 0 || off+n > d.id.Bytes || off%int64(d.id.LogicalBlock) != 0 || n%int64(d.id.LogicalBlock) != 0 {
		return fmt.Errorf("zeroing of %d bytes at %d of %s: outside the disk or not in blocks", n, off, d.id.Path)
	}
	if n == 0 {
		return nil
	}
	if d.zeroRange {
		r := [2]uint64{uint64(off), uint64(n)}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd()), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&r))); errno == 0 {
			return nil
		}
		// Some disks announce it and then refuse; writing says what is wrong.
	}
	for n > 0 {
		k := min(n, zeroChunk)
		if _, err := d.WriteAt(zeroes()[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// Sync waits until the disk says that everything is on it, then drops what the
// kernel keeps of it in memory.
func (d *Disk) Sync() error {
	if err := d.f.Sync(); err != nil {
		return fmt.Errorf("sync of %s: %w", d.id.Path, cause(err))
	}
	_ = unix.IoctlSetInt(d.fd(), unix.BLKFLSBUF, 0) // reads go past the cache anyhow
	return nil
}

func ioctl64(fd int, req uint) (uint64, error) {
	var b [8]byte
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(&b))); errno != 0 {
		return 0, errno
	}
	return binary.NativeEndian.Uint64(b[:]), nil
}

// inspectTime is how long a disk may take to be classified before it counts as
// unreadable: a dying one can hold a read in the kernel for minutes.
const inspectTime = 90 * time.Second

// Inspect classifies the disk at id.Path without writing and without claiming it.
func Inspect(ctx context.Context, id wire.DiskID, key ed25519.PublicKey) (wire.Class, []string) {
	type answer struct {
		class wire.Class
		found []string
	}
	done := make(chan answer, 1)
	go func() {
		class, found := inspect(id, key)
		done <- answer{class, found}
	}()
	ctx, cancel := context.WithTimeout(ctx, inspectTime)
	defer cancel()
	select {
	case a := <-done:
		return a.class, a.found
	case <-ctx.Done():
		return wire.ClassUnreadable, nil
	}
}

func inspect(id wire.DiskID, key ed25519.PublicKey) (wire.Class, []string) {
	f, err := os.Open(id.Path)
	if err != nil {
		return wire.ClassUnreadable, nil
	}
	defer f.Close()
	size, err := ioctl64(int(f.Fd()), unix.BLKGETSIZE64)
	if err != nil {
		return wire.ClassUnreadable, nil
	}
	return Classify(f, int64(size), Facts{ID: id, Key: key, Lock: lock(f)})
}
