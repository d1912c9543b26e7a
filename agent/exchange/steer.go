package exchange

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"refurb/agent/wire"
)

const (
	reports  = 500 * time.Millisecond // between two words to the appliance
	starved  = 200 * time.Millisecond // while nobody brings anything
	soonest  = 120 * time.Millisecond // when something has happened
	news     = 50 * time.Millisecond  // after an order that is new, as it may make more; then doubled
	callTime = 10 * time.Second       // for its answer
	alone    = 10 * time.Second       // refused for so long: the appliance arranges nothing
	maxKept  = 16                     // troubles that are kept until they could be told
	rateOver = 3 * reports            // time over which the rate is taken, however often words are sent
)

// follows tells the appliance what this PC has and does what it says, until ctx
// ends.
func (x *Exchange) follows(ctx context.Context) {
	defer func() {
		for _, s := range x.following() {
			s.stop()
		}
	}()
	var (
		port  int
		rates rate
		told  []byte // claims
		since = time.Now()
		start = since
		came  int64
		pause = reports
	)
	if x.cfg.Listener != nil {
		if a, ok := x.cfg.Listener.Addr().(*net.TCPAddr); ok {
			port = a.Port
		}
	}
	for {
		share := x.share(port)
		share.Rate = rates.over(time.Now(), x.fetched.Load())
		if string(share.Claims) == string(told) {
			share.Claims = nil
		}
		call, cancel := context.WithTimeout(ctx, callTime)
		order, err := x.cfg.Share(call, share)
		cancel()
		if ctx.Err() != nil {
			return
		}
		last := pause
		pause = reports
		refused := &wire.Error{}
		switch {
		case err == nil:
			if share.Claims != nil {
				told = share.Claims
			}
			pause = min(2*last, reports)
			if order.Serial != share.Serial && last == reports { // one that changes all the time makes no hurry
				pause = news
			}
			x.obey(ctx, order)
			if share.Done && !order.Stay {
				x.goodbye.Do(func() { close(x.leave) })
			}
		case errors.As(err, &refused) && share.Serial == 0 && time.Since(start) > alone:
			// An appliance that has no order for this PC leaves it to itself.
			x.obey(ctx, wire.Order{Serial: 0, Depot: true})
			x.keep(share.Trouble)
		default:
			x.log.Debug("no order", "err", err)
			x.keep(share.Trouble)
		}
		// Nothing comes, nothing is left to write and nobody says what it waits
		// for: some time that is the end.
		if now := x.fetched.Load(); now != came || share.Backlog > 0 || share.Have == share.Frames || err == nil && order.Why != "" {
			came, since = now, time.Now()
		} else if silent := time.Since(since); silent > x.cfg.Patience {
			x.fail(fail(lookAtCable, "no byte of the image came for %v", silent.Round(time.Second)))
			return
		}
		// Its answer is the only way to a new source.
		wait := pause
		if err == nil && !order.Depot && share.Have+share.Missing == share.Frames && share.Missing > 0 {
			wait = min(wait, starved)
		}
		select {
		case <-time.After(wait):
		case <-x.poked:
			select {
			case <-time.After(soonest):
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// poke has the appliance told soon.
func (x *Exchange) poke() {
	select {
	case x.poked <- struct{}{}:
	default:
	}
}

// complain has the appliance told of a trouble at once.
func (x *Exchange) complain(t wire.Trouble) {
	x.keep([]wire.Trouble{t})
	x.poke()
}

func (x *Exchange) keep(t []wire.Trouble) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.trouble = append(x.trouble, t...)
	x.trouble = x.trouble[max(0, len(x.trouble)-maxKept):]
}

// share is what this PC has now.
func (x *Exchange) share(port int) wire.Share {
	x.mu.Lock()
	defer x.mu.Unlock()
	have, missing, backlog := x.shelf.tally(x.promised)
	s := wire.Share{
		Job: x.cfg.Job, Serial: x.order.Serial, Port: port, Mbit: x.cfg.Mbit,
		Frames: x.shelf.total, Have: have, Missing: missing, Backlog: backlog,
		Done: x.done, Trouble: x.trouble, Claims: x.claims,
	}
	x.trouble = nil
	return s
}

// obey does what an order says. What stays the same goes on; what is new begins
// when the old has ended, so that it takes up what the old has left half done.
func (x *Exchange) obey(ctx context.Context, o wire.Order) {
	// From itself it would wait for ever.
	o.Sources = slices.DeleteFunc(slices.Clone(o.Sources), func(s wire.Source) bool { return s.Key == o.Key })
	o.Sources = o.Sources[:min(len(o.Sources), maxStripes)]
	x.mu.Lock()
	was := x.order
	x.order.Why, x.order.Stay, x.order.Serial = o.Why, o.Stay, o.Serial
	// An appliance that was started again counts its orders from one, so it is
	// the content that is compared.
	same := x.told && slices.Equal(o.Sources, was.Sources) && o.Depot == was.Depot && o.Key == was.Key
	x.switching, x.told = !same, true
	x.mu.Unlock()
	if same {
		return
	}
	x.log.Info("order", "sources", len(o.Sources), "depot", o.Depot, "stay", o.Stay, "why", o.Why)
	sources := make([]*source, len(o.Sources))
	for _, s := range x.following() {
		if i := s.stripe; s.stripes == len(o.Sources) && s.wire == o.Sources[i] {
			sources[i] = s
		} else {
			s.stop()
		}
	}
	for i, w := range o.Sources {
		if sources[i] == nil {
			sources[i] = x.follow(ctx, w, i, len(o.Sources))
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.order, x.sources, x.switching = o, sources, false
	switch {
	case !o.Depot && x.withdraw != nil:
		x.withdraw()
		x.withdraw = nil
	case o.Depot && x.withdraw == nil:
		x.leaveToFetch, x.withdraw = context.WithCancel(ctx)
	}
}

func (x *Exchange) following() []*source {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sources
}

// rate is the speed over the last while.
type rate []sample

type sample struct {
	at    time.Time
	bytes int64
}

func (r *rate) over(now time.Time, bytes int64) int64 {
	*r = append(*r, sample{now, bytes})
	for len(*r) > 2 && now.Sub((*r)[1].at) >= rateOver {
		*r = (*r)[1:]
	}
	since := now.Sub((*r)[0].at).Seconds()
	if since <= 0 {
		return 0
	}
	return int64(float64(bytes-(*r)[0].bytes) / since)
}
