package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"refurb/images"
)

// drive is a PC's disk: a loop device on a file in memory, past the page cache.
type drive struct {
	path string // /dev/loop7
	file *os.File
	hold *os.File // while this is open the device stays; it goes when we do
	dev  string   // 7:7
}

func newDrive(dir string, n int, size int64) (*drive, error) {
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("disk%d", n)))
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	out, err := exec.Command("losetup", "--find", "--show", "--direct-io=on", f.Name()).CombinedOutput()
	path := strings.TrimSpace(string(out))
	if err != nil {
		return nil, fmt.Errorf("no loop device: %w: %s", err, path)
	}
	hold, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	// Detached now means: as soon as the last one closes it.
	if err := do("losetup -d " + path); err != nil {
		return nil, err
	}
	dev, err := os.ReadFile("/sys/block/" + filepath.Base(path) + "/dev")
	return &drive{path, f, hold, strings.TrimSpace(string(dev))}, err
}

const stain = 4096

// spoil puts junk into every frame, so that nothing of an earlier run passes
// for this one's. The pages stay, unless all is to go: giving a file new ones
// costs the time that is to be measured.
func (d *drive) spoil(m *images.Manifest, r *rand.Rand, all bool) error {
	if all {
		if err := unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, m.Bytes); err != nil {
			return err
		}
	}
	junk := make([]byte, stain)
	for i := range m.Frames {
		for j := 0; j < stain; j += 8 {
			copy(junk[j:], fmt.Appendf(nil, "%08x", r.Uint32()))
		}
		at := int64(i)*images.FrameSize + int64(r.IntN(m.RawLength(i)/stain))*stain
		if _, err := d.file.WriteAt(junk, at); err != nil {
			return err
		}
	}
	// What the kernel kept of the device for those who write through its cache.
	return unix.IoctlSetInt(int(d.hold.Fd()), unix.BLKFLSBUF, 0)
}

// good says for each of these frames whether the disk holds it.
func (d *drive) good(m *images.Manifest, frames []int) ([]bool, error) {
	raw := make([]byte, images.FrameSize)
	all := make([]bool, len(frames))
	for k, i := range frames {
		b := raw[:m.RawLength(i)]
		if _, err := d.file.ReadAt(b, int64(i)*images.FrameSize); err != nil {
			return nil, err
		}
		all[k] = m.Check(i, b) == nil
	}
	return all, nil
}

// look checks a sample of frames, the first and the last among them; those of
// zeroes only when asked.
func (d *drive) look(m *images.Manifest, r *rand.Rand, sample int, zeroes bool) error {
	frames := []int{0, len(m.Frames) - 1}
	for range sample {
		frames = append(frames, r.IntN(len(m.Frames)))
	}
	if !zeroes {
		frames = slices.DeleteFunc(frames, func(i int) bool { return m.Frames[i].Length == 0 })
	}
	good, err := d.good(m, frames)
	if err != nil {
		return err
	}
	if i := slices.Index(good, false); i >= 0 {
		return fmt.Errorf("%s doesn't hold frame %d", d.path, frames[i])
	}
	return nil
}
