// Command boot measures how PCs get from their first packet to the agent's hello:
// what they fetch, how long that takes with each firmware, and what happens when
// a room full of them is switched on at once. Beside us, dnsmasq does what it can
// of the same.
//
// It prints lines "name value unit", and with # what they stand on. Medians have
// their least and greatest behind them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

type options struct {
	dir, data string // build, and the data folder with the boot files
	runs      int
	only      string
	mbit, pcs int
}

// The kernel ends a server when the thread that started it ends, so main keeps
// its own.
func init() { runtime.LockOSThread() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "server" {
		exit(server(ctx, os.Args[2:]))
	}
	var o options
	flag.StringVar(&o.dir, "dir", "build", "folder with the built programs")
	flag.StringVar(&o.data, "data", "", "data folder with the boot files; DIR/bench/data when empty")
	flag.IntVar(&o.runs, "runs", 5, "runs of each")
	flag.StringVar(&o.only, "only", "", "of bytes, dhcp, storm, hello: only those whose names contain this")
	flag.IntVar(&o.mbit, "mbit", 1000, "speed of the appliance's cable in the storm")
	flag.IntVar(&o.pcs, "pcs", 64, "PCs in the storm")
	flag.Parse()
	if o.data == "" {
		o.data = filepath.Join(o.dir, "bench", "data")
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

func measure(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("it makes network namespaces: run it as root (sudo)")
	}
	if err := payload(ctx, o); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func(context.Context, options) error
	}{{"bytes", boots}, {"dhcp", rates}, {"storm", storms}, {"hello", hellos}} {
		if !strings.Contains(part.name, o.only) {
			continue
		}
		if err := part.run(ctx, o); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fmt.Printf("# %s failed: %v\n", part.name, err)
		}
	}
	return nil
}

// figure prints a median with its spread.
func figure(name string, values []float64, unit string) {
	if len(values) == 0 {
		return
	}
	slices.Sort(values)
	n := len(values)
	fmt.Printf("%s %.4g %s\n", name, median(values), unit)
	if n > 1 {
		fmt.Printf("# %s: %.4g to %.4g in %d runs\n", name, values[0], values[n-1], n)
	}
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}
