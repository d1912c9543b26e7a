package pack

import (
	"os"
	"testing"

	"refurb/images"
)

// counting is a file that knows how much was read of it.
type counting struct {
	*os.File
	n int64
}

func (c *counting) ReadAt(b []byte, off int64) (int, error) {
	c.n += int64(len(b))
	return c.File.ReadAt(b, off)
}

// TestNextReadsLittle: looking for the next data must not walk through all of
// it. With extended entries every look at a cluster reads a whole table.
func TestNextReadsLittle(t *testing.T) {
	dir := t.TempDir()
	for _, options := range []string{"extended_l2=off", "extended_l2=on"} {
		path := dir + "/" + options
		run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata,"+options, path, "128M")
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		c := &counting{File: f}
		d, err := openQcow2(c, fi.Size())
		if err != nil {
			t.Fatal(err)
		}
		c.n = 0
		frames := int64(0)
		for off := int64(0); off < d.size(); off += images.FrameSize {
			if at, err := d.next(off); err != nil || at != off {
				t.Fatalf("%s: data at %d, %v; want %d", options, at, err, off)
			}
			frames++
		}
		if most := frames * 4 * 65536; c.n > most {
			t.Errorf("%s: read %d bytes to find %d frames, more than %d", options, c.n, frames, most)
		}
	}
}
