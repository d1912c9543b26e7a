package images

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// mix is raw data as an installed system holds it: programs, libraries and
// texts, each from the start of a block on, the rest of its last block zero,
// and one part in eight that is compressed already. The files are those of the
// Go installation, because every machine that runs this has them.
func mix(b *testing.B, frames int) [][]byte {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	var files []string
	err = filepath.WalkDir(strings.TrimSpace(string(out)), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	noise := rand.NewChaCha8([32]byte{1})
	const block, most = 4096, 2 << 20 // a large file must not be all there is
	var all [][]byte
	var raw []byte
	for _, f := range files {
		c, err := os.ReadFile(f)
		if err != nil {
			b.Fatal(err)
		}
		raw = append(raw, c[:min(len(c), most)]...)
		raw = append(raw, make([]byte, (block-len(raw)%block)%block)...)
		for len(raw) >= FrameSize*7/8 {
			frame := make([]byte, FrameSize)
			n := copy(frame, raw[:FrameSize*7/8])
			_, _ = noise.Read(frame[n:])
			raw = raw[n:]
			if all = append(all, frame); len(all) == frames {
				return all
			}
		}
	}
	b.Skipf("the Go installation has only %d frames of files", len(all))
	return nil
}

// BenchmarkLevel is what Level was chosen by: speed on one core and size.
func BenchmarkLevel(b *testing.B) {
	frames := mix(b, 12)
	for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression, zstd.SpeedBestCompression} {
		b.Run(level.String(), func(b *testing.B) {
			e, err := newEncoder(level)
			if err != nil {
				b.Fatal(err)
			}
			packed := make([]byte, 0, MaxFrame)
			b.SetBytes(int64(len(frames)) * FrameSize)
			size, began := 0, cpu(b)
			for b.Loop() {
				size = 0
				for _, raw := range frames {
					packed, _ = e.Encode(raw, packed[:0])
					size += len(packed)
				}
			}
			b.ReportMetric(float64(len(frames)*FrameSize)/float64(size), "ratio")
			b.ReportMetric(float64(b.N*len(frames)*FrameSize)/1e6/(cpu(b)-began).Seconds(), "MB/cpu_s")
		})
	}
}

// cpu is what this process has used: unlike the clock it hardly minds what else
// the machine does.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
