package pack

import (
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/lima-vm/go-qcow2reader/image"
	"github.com/lima-vm/go-qcow2reader/image/qcow2"
	"github.com/lima-vm/go-qcow2reader/log"
)

type qcow2Disk struct{ img *qcow2.Qcow2 }

func openQcow2(r io.ReaderAt, size int64) (disk, error) {
	start := make([]byte, 512)
	n, err := r.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	h, err := checkQcow2(start[:n], size)
	if err != nil {
		return nil, err
	}
	registerDecompressors()
	// No opener for backing files: the check above refused them, and a name in
	// the header must never open a file of the server.
	img, err := qcow2.Open(io.NewSectionReader(r, 0, size), nil)
	if err == nil {
		err = img.Readable()
	}
	if err != nil {
		return nil, &Refusal{fmt.Sprintf("this qcow2 image can't be read (%v)", err), "check it: qemu-img check FILE"}
	}
	if img.Size() != int64(h.Size) {
		return nil, fmt.Errorf("qcow2: %d bytes, then %d", h.Size, img.Size())
	}
	return qcow2Disk{img}, nil
}

func (d qcow2Disk) size() int64 { return d.img.Size() }

func (d qcow2Disk) ReadAt(b []byte, off int64) (int, error) {
	n, err := d.img.ReadAt(b, off)
	if n == len(b) {
		return n, nil
	}
	return n, &Refusal{fmt.Sprintf("this qcow2 image is damaged or cut short (at %d: %v)", off+int64(n), err), "copy or download it again"}
}

// next asks for one cluster before it asks for a run of them: the reader looks
// at every cluster of a run, and of a run of data only the start matters.
func (d qcow2Disk) next(off int64) (int64, error) {
	for off < d.size() {
		e, err := d.img.Extent(off, 1)
		if err == nil && !data(e) {
			e, err = d.img.Extent(off, min(d.size()-off, 1<<30))
		}
		if err != nil {
			return 0, &Refusal{fmt.Sprintf("this qcow2 image is damaged or cut short (at %d: %v)", off, err), "copy or download it again"}
		}
		if e.Length <= 0 || data(e) {
			return off, nil
		}
		off += e.Length
	}
	return d.size(), nil
}

func data(e image.Extent) bool { return e.Allocated && !e.Zero }

// registerDecompressors gives the qcow2 reader decompressors that are reused
// from cluster to cluster, and zstd, which it lacks. Its own for deflate
// reports the end of a small cluster together with the last bytes, which it
// then takes for an error.
var registerDecompressors = sync.OnceFunc(func() {
	log.SetWarnFunc(nil) // what matters is refused, not warned of
	var flates, zstds sync.Pool
	qcow2.SetDecompressor(qcow2.CompressionTypeZlib, func(r io.Reader) (io.ReadCloser, error) {
		z, _ := flates.Get().(io.Reader)
		if z == nil {
			z = flate.NewReader(r)
		} else if err := z.(flate.Resetter).Reset(r, nil); err != nil {
			return nil, err
		}
		return cluster{z, func() { flates.Put(z) }}, nil
	})
	qcow2.SetDecompressor(qcow2.CompressionTypeZstd, func(r io.Reader) (io.ReadCloser, error) {
		z, _ := zstds.Get().(*zstd.Decoder)
		if z == nil {
			var err error
			if z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20)); err != nil {
				return nil, err
			}
		}
		if err := z.Reset(r); err != nil {
			return nil, err
		}
		return cluster{z, func() { zstds.Put(z) }}, nil
	})
})

// cluster fills the caller's buffer with one Read, so that the qcow2 reader
// doesn't unpack a cluster twice.
type cluster struct {
	r    io.Reader
	done func()
}

func (c cluster) Read(b []byte) (int, error) {
	n, err := fill(c.r, b)
	if n == len(b) {
		return n, nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (c cluster) Close() error { c.done(); return nil }
