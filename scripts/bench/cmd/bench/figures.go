package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// spread is the median of some values and what they lie between.
type spread struct {
	mid, min, max float64
	n             int
}

func over(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return spread{}
	}
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (v[len(v)/2-1] + mid) / 2
	}
	return spread{mid, v[0], v[len(v)-1], len(v)}
}

func (s spread) by(x float64) spread { return spread{s.mid / x, s.min / x, s.max / x, s.n} }

const notRun = "not run"

// usable are the runs that measured what they should; why says what was wrong
// with the others when they are the greater part.
func usable(runs []result, anyway bool) (good []result, why string) {
	for _, r := range runs {
		switch {
		case r.err != nil:
			why = r.err.Error()
		case anyway:
			good = append(good, r)
		case r.alien > strange:
			why = fmt.Sprintf("the machine was %.0f %% busy before the run", 100*r.alien)
		case r.busy > tooBusy:
			why = fmt.Sprintf("load: the cores were %.0f %% busy, so they are what was measured", 100*r.busy)
		default:
			good = append(good, r)
		}
	}
	if len(runs) == 0 {
		why = notRun
	}
	if len(good) == 0 || 2*len(good) < len(runs) {
		return nil, strings.ReplaceAll(why, "\n", ", ")
	}
	return good, ""
}

// Of one run: when the last PC, or the median one, was through.
func last(r result) float64 {
	var t time.Duration
	for _, p := range r.pcs {
		t = max(t, p.verified)
	}
	return t.Seconds()
}

func lastWritten(r result) float64 {
	var t time.Duration
	for _, p := range r.pcs {
		t = max(t, p.written)
	}
	return t.Seconds()
}

func median(r result) float64 {
	var all []float64
	for _, p := range r.pcs {
		if p.verified > 0 {
			all = append(all, p.verified.Seconds())
		}
	}
	return over(all).mid
}

// ownTime is the time that a timed command took by itself.
func ownTime(r result) float64 {
	return time.Duration(r.pcs[0].said.Verified - r.pcs[0].said.Written).Seconds()
}

func each(runs []result, f func(result) float64) spread {
	var v []float64
	for _, r := range runs {
		v = append(v, f(r))
	}
	return over(v)
}

// teller prints figures, or why there are none.
type teller struct {
	w      io.Writer
	all    map[string][]result
	anyway bool // figures in spite of load
	quiet  bool // nothing is said of tests that were left out
}

// of gives what f says of a test's runs; ok is false, and why told, when they
// are no use.
func (t *teller) of(test string, f func(result) float64) (s spread, why string) {
	runs, why := usable(t.all[test], t.anyway)
	if why != "" {
		return s, test + ": " + why
	}
	return each(runs, f), ""
}

func (t *teller) say(name, unit string, s spread, why ...string) {
	for _, w := range why {
		if t.quiet && strings.HasSuffix(w, notRun) {
			return
		}
		if w != "" {
			fmt.Fprintf(t.w, "%s - refused: %s\n", name, w)
			return
		}
	}
	if math.IsNaN(s.mid) || math.IsInf(s.mid, 0) {
		fmt.Fprintf(t.w, "%s - refused: nothing to divide by\n", name)
		return
	}
	fmt.Fprintf(t.w, "%s %.3f %s\n", name, s.mid, unit)
	if s.n > 1 {
		fmt.Fprintf(t.w, "%s_min %.3f %s\n%s_max %.3f %s\n", name, s.min, unit, name, s.max, unit)
	}
}

// tell prints all figures and writes the tables that the plots are drawn from.
func tell(w io.Writer, o options, b *bench, tests []*test, all map[string][]result) error {
	t := &teller{w, all, o.anyway, o.only != ""}
	m := b.picture.m
	wireFast, why1 := t.of("limit-wire-disk", ownTime)
	wireSlow, why2 := t.of("limit-wire-link", ownTime)
	write, why3 := t.of("limit-write", ownTime)
	read, why4 := t.of("limit-read", ownTime)
	fmt.Fprintln(w, "# the lab's limits: the compressed file over HTTP, the whole raw disk by dd")
	t.say("limit_wire_fast", "MB/s", rate(m.Compressed(), wireFast), why1)
	t.say("limit_wire_batch", "MB/s", rate(m.Compressed(), wireSlow), why2)
	t.say("limit_write", "MB/s", rate(m.Bytes, write), why3)
	t.say("limit_read", "MB/s", rate(m.Bytes, read), why4)

	one, why := t.of("one", lastWritten)
	t.say("one_written_x_limit", "x", one.by(max(wireFast.mid, write.mid)), why, why1, why3)
	one, why = t.of("one", last)
	t.say("one_verified_x_limit", "x", one.by(max(wireFast.mid, write.mid+read.mid)), why, why1, why3, why4)
	one, why = t.of("batch1", lastWritten)
	t.say("one_link_written_x_limit", "x", one.by(max(wireSlow.mid, write.mid)), why, why2, why3)
	alone, whyAlone := t.of("batch1", last)
	t.say("one_link_verified_x_limit", "x", alone.by(max(wireSlow.mid, write.mid+read.mid)), whyAlone, why2, why3, why4)
	most := o.pcs[len(o.pcs)-1]
	for _, n := range o.pcs {
		if n == 1 {
			continue
		}
		name := fmt.Sprintf("batch%d_x_one", n)
		s, why := t.of(fmt.Sprint("batch", n), last)
		t.say(name, "x", s.by(alone.mid), whyAlone, why)
	}
	big := fmt.Sprint("batch", most)
	ours, why := t.of(big, last)
	cast, whyCast := t.of(fmt.Sprint("udpcast", most), last)
	t.say(big+"_vs_udpcast", "x", ours.by(cast.mid), why, whyCast)
	s, why := t.of(big, func(r result) float64 { return float64(r.sent) / float64(m.Compressed()) })
	t.say("appliance_tx_x_image", "x", s, why)
	clean, whyClean := t.of(big, median)
	s, why = t.of("faults", median)
	t.say("faults_median_x_clean", "x", s.by(clean.mid), why, whyClean)
	cpu := func(r result) float64 {
		return r.cpu.Seconds() / (float64(m.Bytes) / (1 << 30) * float64(len(r.pcs)))
	}
	bare, whyBare := t.of("limit-cpu", cpu)
	t.say("limit_cpu_s_per_gib", "s/GiB", bare, whyBare)
	s, why = t.of(big, cpu)
	t.say("agent_cpu_s_per_gib", "s/GiB", s, why)
	t.say("agent_cpu_x_limit", "x", s.by(bare.mid), why, whyBare)
	s, why = t.of(big, func(r result) float64 {
		var rss int64
		for _, p := range r.pcs {
			rss = max(rss, p.rss)
		}
		return float64(rss) / (1 << 20)
	})
	t.say("agent_rss_mib", "MiB", s, why)
	s, why = t.of("resume", func(r result) float64 { return r.extra["refetch"] })
	t.say("resume_refetch", "x", s, why)
	s, why = t.of("resume", func(r result) float64 { return r.extra["unclaimed"] })
	t.say("resume_refetch_unclaimed", "x", s, why)
	t.say("import_image", "MB/s", over([]float64{float64(b.picture.content) / 1e6 / b.picture.importTime.Seconds()}))
	t.loads(tests)
	t.peers(b, tests)
	return errors.Join(writeRuns(o.out, tests, all), t.table(o.out, b, tests, alone.mid))
}

// loads says what the figures stand on.
func (t *teller) loads(tests []*test) {
	fmt.Fprintln(t.w, "# what they stand on:")
	if t.anyway {
		fmt.Fprintln(t.w, "#   taken in spite of load: these are no results")
	}
	for _, test := range tests {
		runs := t.all[test.name]
		if len(runs) == 0 {
			continue
		}
		good, _ := usable(runs, t.anyway)
		busy := each(good, func(r result) float64 { return 100 * r.busy })
		fmt.Fprintf(t.w, "#   %-22s %d of %d runs, cores %.0f to %.0f %% busy\n", test.name, len(good), len(runs), busy.min, busy.max)
	}
}

func rate(bytes int64, s spread) spread {
	mb := float64(bytes) / 1e6
	return spread{mb / s.mid, mb / s.max, mb / s.min, s.n}
}

// peers prints the others' times beside ours in the same conditions.
func (t *teller) peers(b *bench, tests []*test) {
	fmt.Fprintln(t.w, "# others in the same lab; x is against ours under the same conditions")
	said := map[string]bool{}
	for _, test := range tests {
		if test.engine.lacks == "" && test.engine.name != unicast.name {
			continue
		}
		if t.quiet && len(t.all[test.name]) == 0 {
			continue
		}
		if !said[test.engine.name] && test.engine.lacks != "" {
			said[test.engine.name] = true
			fmt.Fprintf(t.w, "# %s: %s\n", test.engine.name, test.engine.lacks)
		}
		base := fmt.Sprint("batch", test.pcs)
		if strings.HasPrefix(test.name, "one-") {
			base = "one"
		}
		name := strings.NewReplacer("-", "_").Replace(test.name)
		s, why := t.of(test.name, last)
		if k := shortness(b, test); k != 1 && why == "" {
			s = s.by(k)
			fmt.Fprintf(t.w, "# %s: with an image of %.2f of the others' length, its time divided by that\n", test.name, k)
		}
		t.say(name, "s", s, why)
		ours, whyOurs := t.of(base, last)
		t.say(name+"_x_ours", "x", s.by(ours.mid), why, whyOurs)
	}
}

// table writes what the plot is drawn from: a block for each engine, a line for
// each size of batch, times as × one PC of ours alone.
func (t *teller) table(dir string, b *bench, tests []*test, alone float64) error {
	blocks := map[string]string{}
	var order []string
	for _, test := range tests {
		e := test.engine.name
		if test.play != nil || test.engine.blind || strings.HasPrefix(test.name, "one") || strings.HasPrefix(test.name, "limit") {
			continue
		}
		s, why := t.of(test.name, last)
		if why != "" {
			continue
		}
		s = s.by(shortness(b, test))
		if blocks[e] == "" {
			order = append(order, e)
		}
		x := s.by(alone)
		blocks[e] += fmt.Sprintf("%s\t%d\t%.4f\t%.4f\t%.4f\t%d\t%.2f\n", e, test.pcs, x.mid, x.min, x.max, s.n, s.mid)
	}
	var out strings.Builder
	fmt.Fprint(&out, "# engine\tpcs\tx_one\tx_min\tx_max\truns\tseconds\n")
	for _, e := range order {
		fmt.Fprintf(&out, "\n\n# %s\n%s", e, blocks[e])
	}
	return os.WriteFile(filepath.Join(dir, "results.tsv"), []byte(out.String()), 0o644)
}

// shortness is by how much a test's image is shorter than the others'.
func shortness(b *bench, t *test) float64 {
	return float64(t.image.m.Compressed()) / float64(b.picture.m.Compressed())
}
