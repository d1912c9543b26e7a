package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// describe says what was measured on what, so that nobody takes the figures for
// those of a workshop.
func describe(w io.Writer, o options, b *bench, tools peers, took time.Duration) {
	m := b.picture.m
	fmt.Fprintf(w, "# %s, %s, %d cores, Linux %s; set up in %.0f s\n", time.Now().UTC().Format(time.DateOnly), processor(), runtime.NumCPU(), kernel(), took.Seconds())
	fmt.Fprintf(w, "# scaled down: ports of %d Mbit/s (one PC against its disk: %d), disks of %d/%d MB/s (write/read), image %.1f MB in %d frames and %d of zeroes, %.0f MB raw\n",
		o.mbit, o.fast, o.write, o.read, float64(m.Compressed())/1e6, o.full, o.zero, float64(m.Bytes)/1e6)
	fmt.Fprintf(w, "# every PC is a process of its own with a port, a disk and %d MiB for frames; all of them and the appliance share this machine's cores\n", o.memory)
	for _, e := range others {
		if !tools.has(e.tool) {
			fmt.Fprintf(w, "# %s: not measured, %s is not installed\n", e.name, e.tool)
		}
	}
}

func processor() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range bytes.Lines(b) {
		if k, v, ok := bytes.Cut(line, []byte(":")); ok && string(bytes.TrimSpace(k)) == "model name" {
			return string(bytes.TrimSpace(v))
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}

// remark tells whoever waits how a run went.
func remark(w io.Writer, t *test, round int, r result) {
	if r.err != nil {
		fmt.Fprintf(w, "%-24s run %d: %v\n", t.name, round+1, r.err)
		return
	}
	fmt.Fprintf(w, "%-24s run %d: %6.2f s (median PC %6.2f), cores %2.0f %% busy, %2.0f %% before, appliance sent %.1f MB\n",
		t.name, round+1, last(r), median(r), 100*r.busy, 100*r.alien, float64(r.sent)/1e6)
}

// writeRuns keeps every run, one PC a line.
func writeRuns(dir string, tests []*test, all map[string][]result) error {
	var b strings.Builder
	fmt.Fprintln(&b, "test\trun\tpc\twritten_s\tverified_s\tcpu_s\trss_mib\tfetched\tfrom_peers\tsent\tbusy\tbusy_before\tappliance_sent\terror")
	for _, t := range tests {
		for n, r := range all[t.name] {
			if r.err != nil {
				fmt.Fprintf(&b, "%s\t%d\t\t\t\t\t\t\t\t\t\t\t\t%s\n", t.name, n+1, strings.Join(strings.Fields(r.err.Error()), " "))
				continue
			}
			for i, p := range r.pcs {
				fmt.Fprintf(&b, "%s\t%d\t%d\t%.3f\t%.3f\t%.3f\t%.1f\t%d\t%d\t%d\t%.3f\t%.3f\t%d\t\n", t.name, n+1, i+1,
					p.written.Seconds(), p.verified.Seconds(), p.cpu.Seconds(), float64(p.rss)/(1<<20), p.said.Fetched, p.said.Peers, p.said.Sent, r.busy, r.alien, r.sent)
			}
		}
	}
	return os.WriteFile(filepath.Join(dir, "runs.tsv"), []byte(b.String()), 0o644)
}
