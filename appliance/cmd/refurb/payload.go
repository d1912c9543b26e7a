package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"text/tabwriter"

	"refurb/appliance"
	"refurb/appliance/payload"
)

type payloadCmd struct {
	Build payloadBuildCmd `cmd:"" help:"Fetch and build the boot files; quick when nothing changed."`
	Show  payloadShowCmd  `cmd:"" help:"Which file of which package is served."`
	USB   payloadUSBCmd   `cmd:"" name:"usb" help:"Write the image of a USB stick for PCs that can't start from the network."`
}

type payloadBuildCmd struct {
	dataFlag
	Cache   string `help:"Folder for downloads, kept between runs; without it DATA/cache." type:"path"`
	Mirror  string `help:"Debian's mirror, ending in /debian; without it the machine's own." env:"DEBIAN_MIRROR"`
	Refresh bool   `help:"Take the newest packages, even when older ones are here."`
	Agent   string `hidden:"" type:"path"`
	Base    string `hidden:"" type:"path"`
}

func (c *payloadBuildCmd) Run(ctx context.Context, log *slog.Logger) error {
	keys, err := appliance.LoadKeys(c.Data)
	if err != nil {
		return err
	}
	p, err := payload.Build(ctx, payload.Options{
		Dir: filepath.Join(c.Data, "payload"), Cache: or(c.Cache, filepath.Join(c.Data, "cache")), Mirror: c.Mirror, Refresh: c.Refresh,
		Agent: or(c.Agent, companion("refurb-agent")), Base: or(c.Base, companion("base.cpio")),
		Pin: keys.Pin, Key: keys.Signing.Public().(ed25519.PublicKey), Version: version, Log: log,
	})
	if err != nil {
		return err
	}
	fmt.Println("boot files:", p.Describe())
	return nil
}

type payloadShowCmd struct{ dataFlag }

func (c *payloadShowCmd) Run() error {
	p, err := payload.Open(filepath.Join(c.Data, "payload"))
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FILE\tSIZE\tPACKAGE\tVERSION\tSHA-256\t")
	for _, f := range p.Files {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.Name, size(f.Bytes), f.Package, f.Version, f.SHA256)
	}
	extra, refused, err := p.Extra()
	for _, f := range extra {
		fmt.Fprintf(w, "%s\t%s\t%s\t\t%s\n", f.Name, size(f.Bytes), f.Package, f.SHA256)
	}
	if err := errors.Join(err, w.Flush()); err != nil {
		return err
	}
	for _, why := range refused {
		fmt.Println("not served, extra file", why)
	}
	return nil
}
