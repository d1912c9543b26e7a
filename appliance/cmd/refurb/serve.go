package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"refurb/appliance"
)

// serveCmd takes the configuration's keys as flags. A flag that isn't given is
// the zero value and leaves file or default in force.
type serveCmd struct {
	Config    string        `help:"Configuration file (TOML); flags win over it." type:"existingfile"`
	Interface string        `help:"Network card that leads to the workshop."`
	Address   string        `help:"IPv4 address with prefix; without it the card's own, else one from the network's DHCP server, else 10.77.0.1/24."`
	DHCP      string        `name:"dhcp" help:"auto (as the network is, the default), or fixed: full (no other DHCP server on this network) or proxy (beside a router)."`
	Pool      string        `help:"Addresses to hand out, FROM-TO; without it the upper half of the network."`
	Router    string        `help:"Router that PCs are told of, full mode only."`
	DNS       []string      `name:"dns" help:"Name servers that PCs are told of, full mode only."`
	Network   []string      `sep:"none" placeholder:"NET[,via=ROUTER]" help:"A further network, whose PCs ask through a relay agent (DHCP helper) of a router: 10.88.0.0/24, and after commas pool=FROM-TO, router=, dns=, via=. May be repeated."`
	Data      string        `help:"Folder of records, keys, images and boot files (default /var/lib/refurb)." env:"REFURB_DATA" type:"path"`
	HTTP      int           `name:"http" help:"Port of boot files and images (default 8080)."`
	Agents    int           `help:"Port of the agents' API (default 8443)."`
	Dashboard string        `help:"Address of the dashboard (default :8000)."`
	LostAfter time.Duration `help:"Silence after which a PC counts as lost (default 1m)."`
	Streams   int           `help:"Connections of one PC to the appliance (default: one, which fills a link)."`
	Peers     *bool         `negatable:"" help:"PCs pass images on to each other (the default; --no-peers: all of it comes from the appliance)."`

	TestPlainROM bool `hidden:"" name:"test-plain-rom"`
}

func (c *serveCmd) settle() (appliance.Config, error) {
	cfg := appliance.DefaultConfig()
	if c.Config != "" {
		if err := appliance.ReadConfig(&cfg, c.Config); err != nil {
			return cfg, err
		}
	}
	for _, f := range []struct{ to, from *string }{
		{&cfg.Interface, &c.Interface}, {&cfg.Address, &c.Address}, {&cfg.DHCP, &c.DHCP}, {&cfg.Pool, &c.Pool},
		{&cfg.Router, &c.Router}, {&cfg.Data, &c.Data}, {&cfg.Dashboard, &c.Dashboard},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	for _, f := range []struct{ to, from *int }{{&cfg.HTTP, &c.HTTP}, {&cfg.Agents, &c.Agents}, {&cfg.Streams, &c.Streams}} {
		if *f.from != 0 {
			*f.to = *f.from
		}
	}
	if c.DNS != nil {
		cfg.DNS = c.DNS
	}
	if c.Network != nil {
		cfg.Networks = nil
		for _, s := range c.Network {
			n, err := appliance.ParseNetwork(s)
			if err != nil {
				return cfg, err
			}
			cfg.Networks = append(cfg.Networks, n)
		}
	}
	if c.LostAfter != 0 {
		cfg.LostAfter = c.LostAfter
	}
	if c.Peers != nil {
		cfg.Peers = *c.Peers
	}
	cfg.TestPlainROM = c.TestPlainROM
	return cfg, cfg.Check()
}

func (c *serveCmd) Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := c.settle()
	if err != nil {
		return err
	}
	for {
		if err := serve(ctx, cfg, log); !errors.Is(err, appliance.ErrMoves) {
			return err
		}
		log.Info("starts again, for another address")
	}
}

// serve ends all that it has begun.
func serve(ctx context.Context, cfg appliance.Config, log *slog.Logger) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// Before there is a code for the first visit, which nobody could use.
	if _, err := appliance.FindCard(cfg.Interface); err != nil {
		return err
	}
	a, err := appliance.Open(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer a.Close()
	page, err := newDashboard(ctx, a, log)
	if err != nil {
		return err
	}
	err = a.Run(ctx, page)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		log.Info("stopped")
		return nil // that is how a server is meant to end
	}
	return err
}
