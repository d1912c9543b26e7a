package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/pin/tftp/v3"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"

	"refurb/appliance/netboot"
	"refurb/appliance/workshop"
)

func TestWhenToMove(t *testing.T) {
	own := netip.MustParsePrefix(ownNetwork)
	router := netboot.Other{Addr: netip.MustParseAddr("192.168.7.1"), MAC: "52:54:00:00:00:01", Gives: netip.MustParseAddr("192.168.7.50"), Answers: true}
	with := func(change func(*netboot.Other)) netboot.Status {
		o := router
		change(&o)
		return netboot.Status{Mode: netboot.Proxy, Why: netboot.Beside, Own: own, Others: []netboot.Other{o}}
	}
	same := func(*netboot.Other) {}
	ours, borrowed := place{chosen: true}, place{chosen: true, lent: true}
	for _, tt := range []struct {
		name string
		p    place
		st   netboot.Status
		want bool
	}{
		{"a router of another network", ours, with(same), true},
		{"of ours", ours, with(func(o *netboot.Other) { o.Gives = netip.MustParseAddr("10.77.0.50") }), false},
		{"that doesn't answer us", ours, with(func(o *netboot.Other) { o.Answers = false }), false},
		{"another appliance", ours, with(func(o *netboot.Other) { o.Appliance = true }), false},
		{"an address of a person's choice", place{}, with(same), false},
		{"another program's, lent", place{lent: true}, netboot.Status{Mode: netboot.Proxy, Why: netboot.Kept, Stay: netboot.Lent}, false},
		{"beside a router all the time", borrowed, netboot.Status{Mode: netboot.Proxy, Why: netboot.Beside, Own: netip.MustParsePrefix("192.168.7.50/24"), Others: []netboot.Other{router}}, false},
		{"it is silent", borrowed, netboot.Status{Mode: netboot.Proxy, Why: netboot.Silent}, false},
		{"it is gone", borrowed, netboot.Status{Mode: netboot.Proxy, Why: netboot.Kept, Stay: netboot.Lent}, true},
		{"alone", ours, netboot.Status{Mode: netboot.Full, Why: netboot.Alone, Own: own}, false},
	} {
		if got := tt.p.moves(tt.st); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// A router of another network is plugged in while the appliance gives addresses
// and a PC is at work. Once that PC is gone, PCs start with the router's addresses.
func TestARouterComesLater(t *testing.T) {
	inOwnNetwork(t, comesLater)
}

func comesLater(t *testing.T) {
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close() })
	w := layCord(t, here)
	w.ip("link set lo up")
	h := newHouse(t)
	log := &logged{}
	cfg := DefaultConfig()
	cfg.Interface, cfg.Data = "wk0", w.data()
	reg, err := workshop.Open(t.Context(), workshop.Config{Store: h.db, Images: oneImage{}, LostAfter: 6 * time.Second, BaseURL: func() (string, string) { return "", "" }})
	w.must(err)

	// What Run does of it.
	var newest atomic.Pointer[Appliance]
	run := func(ctx context.Context) error {
		a := &Appliance{Config: cfg, Registry: reg, log: slog.New(slog.NewTextHandler(log, nil))}
		at, err := a.join(ctx)
		if err != nil {
			return err
		}
		defer at.leave()
		at.patience, a.place = time.Second, at
		n, err := cfg.network(at.addr, at.lent)
		if err != nil {
			return err
		}
		boot, err := netboot.New(netboot.Config{
			Interface: "wk0", IP: at.addr.Addr(), Net: at.addr.Masked(), Mode: netboot.Auto, Found: at.found, Asked: at.asked, Lent: at.lent,
			PoolFrom: n.from, PoolTo: n.to, HTTPPort: 8080, Files: fstest.MapFS{"undionly.kpxe": {Data: []byte("a boot file")}},
			LeaseFile: filepath.Join(w.data(), "leases.json"), Desk: nobody{}, Log: a.log,
		})
		if err != nil {
			return err
		}
		a.boot.Store(boot)
		newest.Store(a)
		g, ctx := errgroup.WithContext(ctx)
		for _, part := range []func(context.Context) error{boot.Run, at.keep, a.follow} {
			g.Go(func() error { return part(ctx) })
		}
		return g.Wait()
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		for {
			if err := run(ctx); !errors.Is(err, ErrMoves) {
				ended <- err
				return
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if got := w.addresses(); got != "" {
			t.Errorf("left behind: %s", got)
		}
		if t.Failed() {
			t.Log(log.b.String())
		}
	})
	status := func() (st netboot.Status) {
		if a := newest.Load(); a != nil {
			st, _ = a.Network()
		}
		return st
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited in vain for %s: %s", what, w.addresses())
			}
		}
	}
	until("full mode", func() bool { return status().Why == netboot.Alone })
	_, token, err := reg.Boot(t.Context(), workshop.Start{MAC: "00:21:cc:00:00:01"})
	w.must(err)

	w.router()
	until("the router to be noticed", func() bool { return newest.Load().Moves() })
	_, err = reg.Report(t.Context(), token, report(1))
	w.must(err)
	for range 40 {
		time.Sleep(100 * time.Millisecond)
		if got := w.addresses(); got != ownNetwork {
			t.Fatalf("the PC at work lost %s: %s", ownNetwork, got)
		}
	}
	until("an address of the router's", func() bool {
		st := status()
		return st.Why == netboot.Beside && !st.Apart() && !st.Needs() && strings.HasPrefix(st.Own.String(), "192.168.7.5")
	})
	if got, own := w.addresses(), status().Own.String(); got != own {
		t.Errorf("the card has %s, it says %s", got, own)
	}

	// A PC finds the boot file there.
	var offer *dhcpv4.DHCPv4
	w.must(w.in(w.there, func() error {
		c, err := nclient4.New("rt0", nclient4.WithTimeout(3*time.Second), nclient4.WithRetry(3))
		if err != nil {
			return err
		}
		defer c.Close()
		offer, err = c.DiscoverOffer(t.Context(), class("PXEClient:Arch:00000:UNDI:002001"), arch(0))
		return err
	}))
	if got := offer.ServerIPAddr.String() + "/24"; offer.BootFileName != "undionly.kpxe" || got != status().Own.String() {
		t.Errorf("it is offered %q at %s, want it at %v", offer.BootFileName, got, status().Own)
	}
	var file bytes.Buffer
	w.must(w.in(w.there, func() error {
		c, err := tftp.NewClient(fmt.Sprintf("%v:69", offer.ServerIPAddr))
		if err != nil {
			return err
		}
		r, err := c.Receive(offer.BootFileName, "octet")
		if err != nil {
			return err
		}
		_, err = r.WriteTo(&file)
		return err
	}))
	if file.String() != "a boot file" {
		t.Errorf("it fetches %q", file.String())
	}
}
