package agent

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"refurb/agent/exchange"
	"refurb/agent/screen"
	"refurb/agent/wire"
	"refurb/images"
)

const (
	// besides is what the agent needs besides the frames that it holds: buffers
	// for the disk, the program itself.
	besides = 80 << 20
	// lingers is how long a PC that is done serves others at most, whatever the
	// appliance says.
	lingers = 90 * time.Second
)

// memory is how many bytes of frames a PC holds: a sixteenth of its RAM, which
// is enough for a slow disk to catch up and for PCs that come late.
func memory(ram int64) int64 { return min(max(ram/16, 32<<20), 512<<20) }

// exchange makes what gets this job's frames and passes them on to other PCs.
// found says by frame what is on the disk already; first are the frames that
// the disk needs before all others.
func (j *job) exchange(m *images.Manifest, first []int, found []bool) *exchange.Exchange {
	budget := memory(j.report.RAM.Bytes)
	debug.SetMemoryLimit(budget + besides)
	cfg := exchange.Config{
		Manifest: m, URL: j.plan.Image.FramesURL, Memory: budget, Streams: j.streams(), First: first, Found: found,
		Share: j.client.share, Job: j.plan.Job, Log: j.log,
	}
	if b := j.cfg.Bench; b != nil {
		cfg.Dial = b.Dial
	}
	if l := j.lease; l != nil {
		for _, n := range j.report.NICs {
			if n.Name == l.Interface {
				cfg.Mbit = n.Mbit
			}
		}
		var err error
		if cfg.Listener, err = exchange.Listen(context.Background(), net.JoinHostPort(l.Address.IP.String(), "0")); err != nil {
			j.log.Warn("other PCs can't be served", "err", err) // they have the appliance
		}
	}
	return exchange.New(cfg)
}

// linger serves others for a while after this PC is done.
func (j *job) linger(ctx context.Context, x *exchange.Exchange) {
	left, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			if x.Stats().Takers > 0 {
				// Nobody may take this PC away yet, and the workshop may still think otherwise of it.
				j.show(screen.View{Kind: screen.Working, Title: "Passing on", Detail: "other PCs get the image from this one", Next: "leave this PC on: it restarts by itself", Percent: 100})
			}
			select {
			case <-tick.C:
			case <-left:
				return
			}
		}
	}()
	x.Linger(ctx, lingers)
	close(left)
	<-over
}

// share is sent once; the next one makes up for a lost one.
func (c *client) share(ctx context.Context, s wire.Share) (o wire.Order, err error) {
	b, err := json.Marshal(s)
	if err != nil {
		return o, err
	}
	return o, c.call(ctx, http.MethodPost, wire.PathShare, b, &o)
}
