package main

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"refurb/agent/disk"
	"refurb/agent/exchange"
	"refurb/images"
)

// image is a plain stand-in for agent/imaging: write, then read back.
func image(ctx context.Context, dev *disk.Disk, m *images.Manifest, c config, cfg exchange.Config, r *report) error {
	x := exchange.New(cfg)
	run, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- x.Run(run) }()
	g, gctx := errgroup.WithContext(ctx)
	for range 2 {
		g.Go(func() error {
			dec, err := images.NewDecoder()
			if err != nil {
				return err
			}
			defer dec.Close()
			buf := disk.Buffer(images.FrameSize)
			for {
				f, err := x.Next(gctx)
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				raw, err := dec.Decode(m, f.Index, f.Data, buf)
				x.Checked(f, err == nil)
				if err != nil {
					continue
				}
				if _, err := dev.WriteAt(raw, int64(f.Index)*images.FrameSize); err != nil {
					return err
				}
				x.Stored(f.Index)
			}
		})
	}
	g.Go(func() error {
		for i, f := range m.Frames {
			if f.Length == 0 {
				if err := dev.Zero(int64(i)*images.FrameSize, int64(m.RawLength(i))); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := dev.Sync(); err != nil {
		return err
	}
	r.Written = time.Now().UnixNano()
	buf := disk.Buffer(images.FrameSize)
	for i := range m.Frames {
		raw := buf[:m.RawLength(i)]
		if _, err := dev.ReadAt(raw, int64(i)*images.FrameSize); err != nil {
			return err
		}
		if err := m.Check(i, raw); err != nil {
			return err
		}
	}
	r.Verified = time.Now().UnixNano()
	s := x.Stats()
	r.Fetched, r.Peers, r.Sent = s.Fetched, s.FromPeers, s.Sent
	say(r)
	x.Linger(ctx, lingers)
	r.Sent = x.Stats().Sent
	say(r)
	stop()
	return <-failed
}
