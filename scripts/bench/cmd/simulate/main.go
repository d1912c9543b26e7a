// Command simulate plays batches of 1 to 1,000 PCs in virtual time and prints
// how much longer the last one takes than one PC alone, as lines of "name value
// unit". With -tsv it writes the table that simulator.gp draws.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"refurb/appliance/relay"
	"refurb/scripts/bench/batch"
)

var sizes = []int{1, 2, 4, 8, 16, 32, 64, 128, 200, 500, 1000}

func main() {
	tsv := flag.String("tsv", "", "file for the table")
	most := flag.Int("n", 1000, "PCs in the largest batch")
	seeds := flag.Int("seeds", 3, "draws of each batch; what is printed is their median")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *tsv, *most, *seeds); err != nil {
		fmt.Fprintln(os.Stderr, "simulate:", err)
		os.Exit(1)
	}
}

// engine is a way to bring an image to many PCs.
type engine struct {
	name  string
	set   func(*batch.Scenario)
	seeds int // at most
}

var engines = []engine{
	{"relay", func(*batch.Scenario) {}, 99},
	{"chain", func(s *batch.Scenario) { s.Relay = relay.Config{ChainMax: relay.MaxMembers} }, 1},
	{"unicast", func(s *batch.Scenario) { s.Unicast = true }, 1},
}

func run(ctx context.Context, tsv string, most, seeds int) error {
	if seeds < 1 {
		return errors.New("-seeds must be 1 or more: nothing would be drawn")
	}
	one := map[int]time.Duration{} // by seed
	rows := "n"
	for _, e := range engines {
		rows += "\t" + e.name + "_x_one"
	}
	rows += "\trelay_min\trelay_max\trelay_appliance_x_image\n"
	for _, n := range sizes {
		if n > most {
			break
		}
		row := fmt.Sprint(n)
		var relayed []float64
		var sent float64
		for _, e := range engines {
			var x []float64
			for seed := range min(seeds, e.seeds) {
				if err := ctx.Err(); err != nil {
					return err
				}
				s := batch.Scenario{Seed: uint64(seed), PCs: batch.Group(n, batch.PC{})}
				e.set(&s)
				r, err := batch.Run(s)
				if err != nil {
					return err
				}
				if r.Unfinished() > 0 {
					return fmt.Errorf("%s, %d PCs, seed %d: %d never ended", e.name, n, seed, r.Unfinished())
				}
				if n == 1 && e.name == "relay" {
					one[seed] = r.Last
				}
				x = append(x, float64(r.Last)/float64(one[seed]))
				sent = max(sent, float64(r.Appliance)/float64(r.Image))
			}
			slices.Sort(x)
			row += fmt.Sprintf("\t%.4f", x[len(x)/2])
			if e.name == "relay" {
				relayed = append(x, sent)
				fmt.Printf("sim%d_x_one %.3f ratio\nsim%d_appliance_tx_x_image %.3f ratio\n", n, x[len(x)/2], n, sent)
			}
		}
		last := len(relayed) - 1
		rows += row + fmt.Sprintf("\t%.4f\t%.4f\t%.4f\n", relayed[0], relayed[last-1], relayed[last])
	}
	if err := faults(ctx); err != nil {
		return err
	}
	if tsv == "" {
		return nil
	}
	return os.WriteFile(tsv, []byte(rows), 0o644)
}

// faults prints what one PC's bad day costs the 15 others, at 1 Gbit/s and, for
// an image that takes ten times as long, at 100 Mbit/s. Of the places in the
// line where it may stand, the worst counts.
func faults(ctx context.Context) error {
	for _, f := range []struct {
		name string
		set  func(p *batch.PC, whole time.Duration)
	}{
		{"power_cut", func(p *batch.PC, whole time.Duration) { p.PowerAt = whole / 3 }},
		{"disk_10x_slower", func(p *batch.PC, _ time.Duration) { p.Disk = 45 * float64(p.Mbit) / 1000 }},
		{"late", func(p *batch.PC, whole time.Duration) { p.Join = whole / 2 }},
		{"bad_cable", func(p *batch.PC, _ time.Duration) { p.Actual = float64(p.Mbit) / 10 }},
	} {
		for _, mbit := range []int{1000, 100} {
			clean := batch.Scenario{Seed: 1, Uplink: float64(mbit), PCs: batch.Group(16, batch.PC{Mbit: mbit, Disk: 0.45 * float64(mbit)})}
			c, err := batch.Run(clean)
			if err != nil {
				return err
			}
			var worst, lost time.Duration
			for at := range clean.PCs {
				if err := ctx.Err(); err != nil {
					return err
				}
				s := clean
				s.PCs = slices.Clone(s.PCs)
				f.set(&s.PCs[at], c.Last)
				r, err := batch.Run(s)
				if err != nil {
					return err
				}
				others := slices.Delete(slices.Clone(r.PCs), at, at+1)
				slices.SortFunc(others, func(a, b batch.Finish) int { return cmp.Compare(a.Took, b.Took) })
				if others[0].Took < 0 {
					return fmt.Errorf("%s at %d: %s never ended", f.name, at, others[0].ID)
				}
				worst = max(worst, others[len(others)/2].Took)
				lost = max(lost, others[len(others)-1].Took-c.Last)
			}
			fmt.Printf("sim16_%s_%dmbit_median_x_clean %.3f ratio\n", f.name, mbit, float64(worst)/float64(c.Last))
			fmt.Printf("sim16_%s_%dmbit_last_loses %.1f s\n", f.name, mbit, max(lost, 0).Seconds())
		}
	}
	return nil
}
