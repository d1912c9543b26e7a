package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

const quarter = 4 // unicast to 16 PCs takes 16 times as long: it gets an image a quarter as long

// plan lists what is measured.
func plan(o options, b *bench, small *picture, tools peers) []*test {
	disk := conditions{mbit: o.fast, write: o.write * 1e6, read: o.read * 1e6}
	link := conditions{mbit: o.mbit, write: o.write * 1e6, read: o.read * 1e6}
	few := min(o.runs, 3)
	most := o.pcs[len(o.pcs)-1]
	var tests []*test
	add := func(name string, e engine, pcs, runs int, at conditions) *test {
		t := &test{name: name, engine: e, pcs: pcs, runs: runs, at: at, image: b.picture}
		tests = append(tests, t)
		return t
	}
	for _, at := range []struct {
		name string
		conditions
	}{{"disk", disk}, {"link", link}} {
		add("limit-wire-"+at.name, wire1, 1, few, at.conditions)
	}
	add("limit-write", write1, 1, few, disk)
	add("limit-read", read1, 1, few, disk)
	add("limit-cpu", bare1, 1, few, disk)
	add("one", refurb, 1, o.runs, disk)
	for _, n := range o.pcs {
		add(fmt.Sprint("batch", n), refurb, n, o.runs, link)
	}
	faulty := add("faults", refurb, most, o.runs, link)
	if most >= 4 {
		faulty.play, faulty.spare = faults(most)
	} else {
		tests = tests[:len(tests)-1]
	}
	again := add("resume", refurb, 1, few, conditions{mbit: 4 * o.mbit, write: disk.write, read: disk.read})
	again.play = resume
	for _, n := range o.pcs {
		if tools["udp-sender"] {
			runs := 1
			if n == most {
				runs = few
			}
			add(fmt.Sprint("udpcast", n), byName("udpcast"), n, runs, link)
		}
		if tools["aria2c"] && n > 1 {
			add(fmt.Sprint("aria2-bittorrent", n), byName("aria2-bittorrent"), n, 1, link)
		}
		if n == most && n > 1 {
			t := add(fmt.Sprint("refurb-unicast", n), unicast, n, 1, link)
			t.image = small
		}
	}
	for _, e := range others {
		switch {
		case !tools.has(e.tool) || e.file:
		default:
			add("one-"+e.name, e, 1, 1, disk)
		}
	}
	return tests
}

// The lab's own limits, with the plainest tools: one HTTP download to nowhere,
// one dd to the disk and one from it, and what a processor has to do for one
// image at the least.
var (
	wire1  = engine{name: "wire", file: true, line: timed(func(b *bench, i int) string { return "curl -sf -o " + b.got(i) + " " + server + "/files/frames" })}
	write1 = engine{name: "write", blind: true, line: timed(func(b *bench, i int) string {
		return fmt.Sprintf("dd if=/dev/zero of=%s bs=4M count=%d oflag=direct conv=fsync", b.drives[i].path, len(b.picture.m.Frames))
	})}
	bare1 = engine{name: "bare", blind: true, line: func(b *bench, p *picture, i int) string {
		return timed(func(b *bench, _ int) string { return b.pc + " -manifest " + p.manifest + " -bare " + p.frames })(b, p, i)
	}}
	read1 = engine{name: "read", blind: true, line: timed(func(b *bench, i int) string {
		return fmt.Sprintf("dd if=%s of=/dev/null bs=4M iflag=direct", b.drives[i].path)
	})}
)

func timed(line func(b *bench, i int) string) func(*bench, *picture, int) string {
	return func(b *bench, _ *picture, i int) string {
		return "read go; s=$(date +%s%N); " + line(b, i) + ` && echo "{\"written\":$s,\"verified\":$(date +%s%N)}"`
	}
}

// faults: one PC's power goes, with its sockets open, one PC's disk is ten times
// slower, one joins late. Nobody waits for these three.
func faults(n int) (func(context.Context, *live) error, map[int]bool) {
	dead, slow, late := n/3, 2*n/3, n-1
	return func(ctx context.Context, l *live) error {
		c := l.t.at
		if err := l.b.throttle.set(l.b.drives[slow].dev, c.write/10, c.read/10); err != nil {
			return err
		}
		defer l.b.throttle.set(l.b.drives[slow].dev, c.write, c.read)
		if err := l.start(l.pcs[:late]...); err != nil {
			return err
		}
		third := time.Duration(float64(l.t.image.m.Compressed()*8) / float64(c.mbit*1e6) / 3 * float64(time.Second))
		if err := sleep(ctx, third); err != nil {
			return err
		}
		if err := l.b.lan.pcs[dead].cut(true); err != nil {
			return err
		}
		l.pcs[dead].signal(syscall.SIGSTOP)
		defer l.b.lan.pcs[dead].cut(false)
		defer l.pcs[dead].kill()
		if err := l.start(l.pcs[late]); err != nil {
			return err
		}
		for i, p := range l.pcs {
			if i == dead || i == slow || i == late {
				continue
			}
			select {
			case <-p.finished:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	}, map[int]bool{dead: true, slow: true, late: true}
}

// resume kills the agent when it has half of the frames, looks at its disk, and
// starts it again with what it had claimed.
func resume(ctx context.Context, l *live) error {
	m := l.t.image.m
	p := l.pcs[0]
	if err := p.start(); err != nil {
		return err
	}
	for {
		h, err := heard(l.socket, "pc1")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err == nil && h.Share.Frames > 0 && 2*h.Share.Have >= h.Share.Frames {
			break
		}
		select {
		case <-p.finished:
			return errors.New("it was through before it said that it had half")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	p.kill()
	h, err := heard(l.socket, "pc1")
	if err != nil {
		return err
	}
	var full []int
	for i, f := range m.Frames {
		if f.Length > 0 {
			full = append(full, i)
		}
	}
	on, err := l.b.drives[0].good(m, full)
	if err != nil {
		return err
	}
	var lacking, unclaimed int64
	for k, i := range full {
		if !on[k] {
			lacking += m.Frames[i].Length
		}
		if i/8 >= len(h.Claims) || h.Claims[i/8]>>(i%8)&1 == 0 {
			unclaimed += m.Frames[i].Length
		}
	}
	claims := l.b.claims()
	if err := os.WriteFile(claims, h.Claims, 0o644); err != nil {
		return err
	}
	again, err := l.b.launch(l.b.lan.pcs[0], "pc1-again", l.t.engine.line(l.b, l.t.image, 0)+" -claims "+claims)
	if err != nil {
		return err
	}
	l.pcs[0] = again
	if err := again.awaitReady(ctx); err != nil {
		return err
	}
	if err := again.start(); err != nil {
		return err
	}
	select {
	case <-again.finished:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.extra["refetch"] = float64(again.said.Fetched) / float64(lacking)
	l.extra["unclaimed"] = float64(again.said.Fetched) / float64(unclaimed)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
