package main

import (
	"context"
	"os"
	"time"

	"refurb/scripts/lab"
)

type labCmd struct {
	Demo labDemoCmd `cmd:"" help:"A virtual batch: PCs that netboot from a real appliance, are imaged and start from their drive."`
}

type labDemoCmd struct {
	Dir       string        `help:"Folder for everything the demo makes." default:"build/demo" type:"path"`
	Cache     string        `help:"Folder for downloads, kept between runs." default:"build/cache" type:"path"`
	PCs       int           `name:"pcs" help:"How many PCs: BIOS, UEFI and Secure Boot in turn." default:"3"`
	Image     string        `help:"Which recipe to put on them: tiny or debian-desktop." default:"tiny"`
	Once      bool          `help:"End when every PC has started from its own drive; fail if one doesn't."`
	Dashboard string        `help:"Where the dashboard is shown on this machine." default:"127.0.0.1:8000"`
	Patience  time.Duration `help:"How long to wait with --once." default:"40m"`
}

func (c *labDemoCmd) Run(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return lab.Demo{
		Dir: c.Dir, Cache: c.Cache, Refurb: self, PCs: c.PCs, Image: c.Image, Once: c.Once,
		Dashboard: c.Dashboard, Patience: c.Patience, Out: os.Stdout,
	}.Run(ctx)
}
