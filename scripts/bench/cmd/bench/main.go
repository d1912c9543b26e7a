// Command bench measures the data plane on one machine: a switch, an appliance
// and up to 16 PCs, each a process with a shaped port and a disk of its own,
// against the limits of that lab and against other programs in the same one.
//
// It prints lines "name value unit", and with # what they stand on. A figure
// that the machine couldn't give is refused: "name - refused: why".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

func init() { runtime.LockOSThread() } // see enterHouse

func main() {
	ctx := context.Background()
	if len(os.Args) > 1 && os.Args[1] == "appliance" {
		exit(appliance(ctx, os.Args[2:]))
	}
	o, err := parse(os.Args[1:])
	if err != nil {
		os.Exit(2)
	}
	if os.Getenv(inside) == "" {
		os.Exit(enterHouse())
	}
	exit(measure(ctx, o))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type options struct {
	out, pc         string
	profile         string
	runs            int
	pcs             []int
	full, zero      int
	seed            uint64
	mbit, fast      int // of the ports, batches and single PC
	write, read     int64
	memory, streams int
	only            string
	anyway          bool
}

func parse(args []string) (o options, err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.out, "out", "build/bench", "folder for results")
	fs.StringVar(&o.pc, "pc", "build/bench/pc", "the program that is a PC")
	fs.IntVar(&o.runs, "runs", 5, "runs of each test")
	sizes := fs.String("pcs", "1,4,8,16", "sizes of batches")
	fs.IntVar(&o.full, "frames", 160, "frames with content")
	fs.IntVar(&o.zero, "zero", 8, "frames of zeroes")
	fs.Uint64Var(&o.seed, "seed", 1, "of the image's content")
	fs.IntVar(&o.mbit, "mbit", 20, "speed of ports in batches")
	fs.IntVar(&o.fast, "fast", 400, "speed of the port of one PC alone against its limit")
	fs.Int64Var(&o.write, "write", 150, "MB/s that a disk writes")
	fs.Int64Var(&o.read, "read", 160, "MB/s that a disk reads")
	fs.IntVar(&o.memory, "memory", 128, "MiB of frames that a PC holds: the budget of one with 2 GiB")
	fs.IntVar(&o.streams, "streams", 1, "connections of one PC to the appliance; the agent has one")
	fs.StringVar(&o.only, "only", "", "only tests whose names contain one of these, comma-separated")
	fs.StringVar(&o.profile, "profile", "", "folder for profiles of the PCs' processor time: for work on the agent, they cost some")
	fs.BoolVar(&o.anyway, "anyway", false, "print figures although the machine was busy: for work on the bench itself")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	for s := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 64 {
			fmt.Fprintf(os.Stderr, "bench: -pcs %q: want numbers up to 64\n", *sizes)
			return o, errors.New("flags")
		}
		o.pcs = append(o.pcs, n)
	}
	slices.Sort(o.pcs)
	if o.runs < 1 || o.full < 8 || o.zero < 0 || o.mbit < 1 || o.fast < 1 || o.write < 1 || o.read < 1 {
		fmt.Fprintln(os.Stderr, "bench: -runs, -mbit, -fast, -write and -read are at least 1, -frames at least 8")
		return o, errors.New("flags")
	}
	return o, nil
}

// measure sets the lab up, runs all tests in rounds and prints the figures.
func measure(ctx context.Context, o options) error {
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return err
		}
	}
	for _, path := range []*string{&o.out, &o.pc, &o.profile} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	most := o.pcs[len(o.pcs)-1]
	if err := room(int64(most) * (int64(o.full+o.zero)*4 + int64(o.memory)/2)); err != nil {
		return err
	}
	dir := filepath.Join(o.out, "memory")
	if err := furnish(dir); err != nil {
		return err
	}
	b := &bench{dir: dir, pc: o.pc, profile: o.profile, memory: o.memory, streams: o.streams, throttle: openThrottle(os.Getenv(inside)), rand: rand.New(rand.NewPCG(o.seed, 1))}
	var err error
	if b.lan, err = newLan(most); err != nil {
		return err
	}
	tools := findPeers()
	start := time.Now()
	b.picture, err = compose(ctx, dir, o.seed, o.full, o.zero, tools)
	if err != nil {
		return err
	}
	small, err := compose(ctx, dir, o.seed+1, max(8, o.full/quarter), o.zero/quarter, nil)
	if err != nil {
		return err
	}
	for i := range most {
		d, err := newDrive(dir, i+1, b.picture.m.Bytes)
		if err != nil {
			return err
		}
		b.drives = append(b.drives, d)
	}
	if err := b.seedTorrent(); err != nil {
		return err
	}
	describe(os.Stdout, o, b, tools, time.Since(start))
	tests := plan(o, b, small, tools)
	all := map[string][]result{}
	for round := range o.runs {
		for _, t := range tests {
			if round >= t.runs || !wanted(o.only, t.name) {
				continue
			}
			r := b.run(ctx, t)
			all[t.name] = append(all[t.name], r)
			remark(os.Stderr, t, round, r)
		}
	}
	return tell(os.Stdout, o, b, tests, all)
}

func wanted(only, name string) bool {
	if only == "" {
		return true
	}
	for s := range strings.SplitSeq(only, ",") {
		if strings.Contains(name, s) {
			return true
		}
	}
	return false
}

// seedTorrent writes the torrent, and the script by which aria2 says that it
// has all.
func (b *bench) seedTorrent() error {
	t, err := torrent(b.picture.frames, "frames", server+"/announce")
	if err != nil {
		return err
	}
	b.torrent, b.hook = filepath.Join(b.dir, "frames.torrent"), filepath.Join(b.dir, "hook")
	return errors.Join(os.WriteFile(b.torrent, t, 0o644),
		os.WriteFile(b.hook, []byte("#!/bin/sh\necho \"{\\\"verified\\\":$(date +%s%N)}\"\n"), 0o755))
}

// room refuses a lab that would not fit into memory, in MiB.
func room(need int64) error {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			if have := kib >> 10; have < need+2048 {
				return fmt.Errorf("the PCs' disks and memory need %d MiB and 2 GiB for the rest, %d are free: choose fewer PCs (-pcs 1,4,8) or frames (-frames 100)", need, have)
			}
			return nil
		}
	}
	return nil
}
