// Command refurb-agent is started by u-root's init as its uinit. Started so, it
// only watches over a second one of itself, which does the work ("refurb-agent
// run"); at the end it restarts the PC.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"refurb/agent"
	"refurb/agent/screen"
	"refurb/agent/wire"
)

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "run":
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, os.Interrupt)
		defer stop()
		run(ctx)
	case filepath.Base(os.Args[0]) == "uinit" && os.Getppid() == 1:
		supervise()
	default: // the supervisor restarts the machine: it must never start by accident
		fmt.Fprintln(os.Stderr, "refurb-agent runs on a PC that was started from the network; there, \"refurb-agent run\" starts it by hand")
		os.Exit(2)
	}
}

// wantsShell is the exit status of a worker that was told to leave the PC to a
// person.
const wantsShell = 3

// readTime is how long a message that ends a boot stays on the screen.
const readTime = 3 * time.Minute

// run works until the PC may restart, or a message about why it can't work was
// on the screen for long enough.
func run(ctx context.Context) {
	s := screen.Open()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cfg, err := configure("/proc/cmdline", "/etc/refurb/agent.json")
	if err == nil {
		cfg.Show, cfg.Log, cfg.State = s.Show, log, "/run/refurb"
		_, err = agent.Run(ctx, cfg)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	if errors.Is(err, agent.ErrShell) {
		s.Close()
		os.Exit(wantsShell)
	}
	log.Error("the agent gave up", "err", err)
	v := screen.View{Kind: screen.Failed, Title: "Failed", Detail: err.Error(), Percent: -1,
		Next: "start this PC again from the network or from the stick"}
	if e, ok := errors.AsType[*wire.Error](err); ok {
		v.Detail, v.Next = e.Message, e.Next
	}
	v.Lines = []string{fmt.Sprintf("this PC restarts by itself in %v", readTime)}
	s.Show(v)
	select {
	case <-time.After(readTime):
	case <-ctx.Done():
	}
}
