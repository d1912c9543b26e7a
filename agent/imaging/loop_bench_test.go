package imaging

import (
	"os"
	"path/filepath"
	"testing"

	"refurb/agent/disk"
	"refurb/agent/hardware"
	"refurb/agent/wire"
)

// The whole way onto the block device REFURB_BENCH_DISK, which is overwritten.
// Throttled by its control group, it shows how close to the disk's own speed
// writing and reading back are.
func BenchmarkDisk(b *testing.B) {
	path := os.Getenv("REFURB_BENCH_DISK")
	if path == "" {
		b.Skip("REFURB_BENCH_DISK names no disk")
	}
	p := paintFull(b, 7, 512<<20)
	b.SetBytes(p.m.Bytes)
	for b.Loop() {
		id, err := hardware.DiskIdentity("/", filepath.Base(path))
		if err != nil {
			b.Fatal(err)
		}
		d, err := disk.Open(id, nil, wire.ClassBlank, wire.ClassData, wire.ClassStructured)
		if err != nil {
			b.Fatal(err)
		}
		job := p.job(b)
		job.flushBytes = 64 << 20
		out, _ := Write(b.Context(), d, job, new(Meter))
		if d.Close(); out.Result != wire.Done {
			b.Fatal(out)
		}
		b.ReportMetric(float64(p.m.Bytes)/1e6/out.WriteTime.Seconds(), "written_MB/s")
		b.ReportMetric(float64(p.m.Bytes)/1e6/(out.WriteTime+out.ReadTime).Seconds(), "verified_MB/s")
	}
}
