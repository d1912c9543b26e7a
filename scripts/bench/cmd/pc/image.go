package main

import (
	"context"
	"errors"
	"os"
	"time"

	"refurb/agent/disk"
	"refurb/agent/exchange"
	"refurb/agent/imaging"
	"refurb/agent/wire"
	"refurb/images"
)

// image does with the disk what the agent's job does, without an appliance that
// keeps records of it.
func image(ctx context.Context, d *disk.Disk, m *images.Manifest, claimed string, cfg exchange.Config, r *report) error {
	var claims []byte
	if claimed != "" {
		var err error
		if claims, err = os.ReadFile(claimed); err != nil {
			return err
		}
	}
	var meter imaging.Meter
	var err error
	if cfg.Found, err = imaging.Found(ctx, d, m, claims, false, &meter); err != nil {
		return err
	}
	for _, f := range cfg.Found {
		if f {
			r.Resumed++
		}
	}
	cfg.First = imaging.First(m)
	x := exchange.New(cfg)
	sharing, unshare := context.WithCancel(context.WithoutCancel(ctx))
	defer unshare()
	left := make(chan struct{})
	go func() {
		defer close(left)
		x.Run(sharing) // Next says what went wrong
	}()
	out, _ := imaging.Write(ctx, d, imaging.Job{
		Manifest: m, Source: x, Found: cfg.Found,
		Started: func(context.Context) error { return nil },
		Verifying: func(context.Context) error {
			r.Written = time.Now().UnixNano()
			return nil
		},
	}, &meter)
	if out.Result != wire.Done {
		return errors.New(out.Cause)
	}
	r.Verified = time.Now().UnixNano()
	s := x.Stats()
	r.Fetched, r.Peers, r.Sent = s.Fetched, s.FromPeers, s.Sent
	say(r)
	x.Linger(ctx, lingers)
	unshare()
	<-left
	r.Sent = x.Stats().Sent
	say(r)
	return nil
}
