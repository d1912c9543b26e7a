// Command refurb is the appliance and every tool around it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"refurb/appliance"
)

var version = "dev" // set by the build

// cli is the whole command line.
type cli struct {
	Serve   serveCmd   `cmd:"" help:"Run the appliance on a workshop's network."`
	Image   imageCmd   `cmd:"" help:"Import, build, list, verify and remove disk images."`
	Payload payloadCmd `cmd:"" help:"Build and show the boot files that PCs are given."`
	Audit   auditCmd   `cmd:"" help:"Export and verify audit logs, make checkpoints, find damage."`
	Papers  papersCmd  `cmd:"" help:"Write all certificates and records of a device or a lot into a folder."`
	Trace   traceCmd   `cmd:"" help:"How PCs have started: where a start stopped, why, and what to do."`
	Backup  backupCmd  `cmd:"" help:"Copy the records while the appliance works."`
	Restore restoreCmd `cmd:"" help:"Bring back the records of a backup; the appliance must be stopped."`
	Key     keyCmd     `cmd:"" help:"Change the signing key."`
	User    userCmd    `cmd:"" help:"List and add the dashboard's users, reset a password."`
	Lab     labCmd     `cmd:"" help:"A workshop of virtual PCs on this machine."`
	Version versionCmd `cmd:"" help:"Print the version."`

	Debug bool `help:"Log every detail."`
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println("refurb", version)
	return nil
}

// dataFlag is shared by all commands that touch the data folder.
type dataFlag struct {
	Data string `help:"Folder of records, keys, images and boot files." default:"/var/lib/refurb" env:"REFURB_DATA" type:"path"`
}

// AfterRun gives what a command of root has made to the service's user.
func (d dataFlag) AfterRun() error { return appliance.HandOver(d.Data) }

// damaged is the exit code for records that people have to look after first: the
// service isn't started again and again with them.
const damaged = 3

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	var c cli
	if len(args) > 0 && args[0] == "help" {
		args = append(args[1:], "--help")
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	p, err := kong.New(&c, kong.Name("refurb"),
		kong.Description("A network-boot refurbishing appliance: donated PCs boot from it, are imaged, read back and recorded."),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		panic(err) // the table above is wrong
	}
	k, err := p.Parse(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "refurb: %v %s\n", err, asTyped("(see `refurb help`)", os.Args[0]))
		return 2
	}
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	switch err := k.Run(log); {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "refurb: interrupted")
		return 130
	default:
		fmt.Fprintf(os.Stderr, "refurb: %s%s\n", asTyped(err.Error(), os.Args[0]), rights(err, os.Geteuid()))
		if errors.As(err, new(*appliance.Damaged)) {
			return damaged
		}
		return 1
	}
}

// asTyped names further commands as this one was called: beside the service there
// is no refurb that a shell would find.
func asTyped(text, self string) string {
	if !strings.Contains(self, "/") || filepath.IsAbs(self) {
		return text
	}
	return strings.ReplaceAll(text, "`refurb ", "`"+self+" ")
}

// rights says what helps against an error that comes from somebody's rights.
func rights(err error, uid int) string {
	if uid == 0 || !errors.Is(err, fs.ErrPermission) {
		return ""
	}
	return "\nThis takes root's rights: give the same command with sudo before it."
}
