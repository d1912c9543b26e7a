package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"refurb/images"
)

// bench is the lab: a switch, an appliance's port, PCs with disks.
type bench struct {
	dir      string // in memory
	pc       string // the program that is a PC
	profile  string // folder for its profiles; empty: none
	memory   int    // MiB of frames that a PC may hold
	streams  int    // connections of a PC to the appliance
	lan      *lan
	drives   []*drive
	throttle *throttle
	rand     *rand.Rand
	picture  *picture // what the peers bring
	torrent  string
	hook     string

	now conditions
}

// conditions are the speeds of ports and disks.
type conditions struct {
	mbit        int
	write, read int64 // bytes per second
}

func (b *bench) files() string       { return filepath.Join(b.dir, "files") }
func (b *bench) folder(i int) string { return filepath.Join(b.dir, fmt.Sprint("pc", i+1)) }
func (b *bench) claims() string      { return filepath.Join(b.dir, "claims") }
func (b *bench) got(i int) string    { return filepath.Join(b.folder(i), "frames") }

// set brings ports and disks to a speed.
func (b *bench) set(c conditions) error {
	if b.now == c {
		return nil
	}
	for _, p := range b.lan.ports() {
		if err := p.shape(c.mbit); err != nil {
			return err
		}
	}
	for _, d := range b.drives {
		if err := b.throttle.set(d.dev, c.write, c.read); err != nil {
			return fmt.Errorf("slowing %s down: %w", d.path, err)
		}
	}
	b.now = c
	return nil
}

// test is something that is measured a few times.
type test struct {
	name   string // engine and number of PCs
	engine engine
	pcs    int
	runs   int
	at     conditions
	image  *picture
	// play changes what happens: it gets the PCs that wait for their start, and
	// starts them. nil: all at once.
	play func(ctx context.Context, l *live) error
	// spare are PCs that nobody waits for and whose disks aren't looked at.
	spare map[int]bool
	limit time.Duration // 0: 10 min
}

// live is a run under way.
type live struct {
	b      *bench
	t      *test
	pcs    []*process
	began  time.Time
	socket string             // the appliance's
	extra  map[string]float64 // what a play measured
}

// result is one run.
type result struct {
	pcs   []figures // by PC; those of spare PCs are zero
	sent  int64     // bytes that the appliance sent
	busy  float64
	alien float64 // how busy the machine was before
	cpu   time.Duration
	err   error
	extra map[string]float64 // what a play measured
}

type figures struct {
	written, verified time.Duration // since all began; of a peer: both when it was through
	cpu               time.Duration
	rss               int64
	said              report
}

// run does a test once.
func (b *bench) run(ctx context.Context, t *test) (res result) {
	limit := t.limit
	if limit == 0 {
		limit = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s took longer than %v", t.name, limit))
	defer cancel()
	res.err = func() error {
		if err := b.set(t.at); err != nil {
			return err
		}
		for i := range t.pcs {
			if t.engine.file {
				if err := errors.Join(os.RemoveAll(b.folder(i)), os.MkdirAll(b.folder(i), 0o755)); err != nil {
					return err
				}
			} else if err := b.drives[i].spoil(t.image.m, b.rand, t.engine.fresh); err != nil {
				return err
			}
		}
		var err error
		if res.alien, err = calm(); err != nil {
			return err
		}
		l := &live{b: b, t: t, socket: filepath.Join(b.dir, "control"), extra: map[string]float64{}}
		defer func() {
			for _, p := range l.pcs {
				p.kill()
			}
		}()
		_ = os.Remove(l.socket)
		self, err := os.Executable()
		if err != nil {
			return err
		}
		house, err := b.launch(b.lan.appliance, "appliance", fmt.Sprintf("exec %s appliance -dir %s -control %s", self, b.dir, l.socket))
		if err != nil {
			return err
		}
		defer house.kill()
		if err := house.awaitReady(ctx); err != nil {
			return err
		}
		if t.engine.serve != nil {
			p, err := b.launch(b.lan.appliance, "sender", t.engine.serve(b, t.pcs))
			if err != nil {
				return err
			}
			defer p.kill()
			time.Sleep(time.Second) // it says nothing
		}
		for i := range t.pcs {
			p, err := b.launch(b.lan.pcs[i], fmt.Sprint("pc", i+1), t.engine.line(b, t.image, i))
			if err != nil {
				return err
			}
			l.pcs = append(l.pcs, p)
		}
		for _, p := range l.pcs {
			if t.engine.ours {
				if err := p.awaitReady(ctx); err != nil {
					return err
				}
			}
		}
		time.Sleep(300 * time.Millisecond) // all shells stand at their read
		return l.measure(ctx, &res)
	}()
	return res
}

// measure starts the PCs, waits for them and takes the figures.
func (l *live) measure(ctx context.Context, res *result) error {
	sent, err := l.b.lan.appliance.sent()
	if err != nil {
		return err
	}
	then, err := readClock()
	if err != nil {
		return err
	}
	l.began = time.Now()
	play := l.t.play
	if play == nil {
		play = func(_ context.Context, l *live) error { return l.start(l.pcs...) }
	}
	if err := play(ctx, l); err != nil {
		return err
	}
	for i, p := range l.pcs {
		if l.t.spare[i] {
			continue
		}
		select {
		case <-p.finished:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if p.err != nil {
			return fmt.Errorf("PC %d: %w", i+1, p.err)
		}
	}
	now, err := readClock()
	if err != nil {
		return err
	}
	res.busy, res.extra = now.since(then), l.extra
	after, err := l.b.lan.appliance.sent()
	if err != nil {
		return err
	}
	res.sent = after - sent
	res.pcs = make([]figures, len(l.pcs))
	for i, p := range l.pcs {
		if l.t.spare[i] {
			p.kill()
			continue
		}
		p.stop()
		f := figures{verified: p.at.Sub(l.began), cpu: p.cpu(), rss: p.said.RSS, said: p.said}
		f.written = f.verified
		if p.said.Written != 0 {
			f.written = time.Unix(0, p.said.Written).Sub(l.began)
		}
		res.pcs[i] = f
		res.cpu += f.cpu
		if err := l.proof(i); err != nil {
			return fmt.Errorf("PC %d: %w", i+1, err)
		}
	}
	return nil
}

func (l *live) start(pcs ...*process) error {
	for _, p := range pcs {
		if err := p.start(); err != nil {
			return err
		}
	}
	return nil
}

// proof looks whether the PC has what it says.
func (l *live) proof(i int) error {
	switch {
	case l.t.engine.blind:
		return nil
	case !l.t.engine.file:
		return l.b.drives[i].look(l.t.image.m, l.b.rand, 8, !l.t.engine.holes)
	}
	a, err := sum(l.b.got(i))
	if err != nil {
		return err
	}
	if b, err := sum(l.t.image.frames); err != nil || a != b {
		return errors.Join(err, errors.New("the file it has is another one"))
	}
	return nil
}

func sum(path string) (h images.Hash, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return images.Sum(b), err
}
