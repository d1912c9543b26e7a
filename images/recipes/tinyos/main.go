// Tinyos is the whole user space of the recipe "tiny": as /init it shows that
// the PC started from its own drive, checks in with the appliance if its slot
// was filled, and switches the PC off.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"refurb/agent/drivers"
	"refurb/agent/link"
	"refurb/agent/wire"

	"golang.org/x/sys/unix"
)

const banner = `
  ==================================================
   REFURB TINY SYSTEM started from its own drive
  ==================================================
`

// Bounds of all between the banner and switching off, and of the network
// therein: nobody may be left with a PC that hangs.
const (
	bound    = 3 * time.Minute
	netBound = time.Minute
)

func main() {
	mount()
	out := consoles()
	defer off(out) // a panic too: init must not end
	fmt.Fprint(out, banner)
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	result, err := run(ctx, out)
	if err != nil {
		fmt.Fprintf(out, "  %v\n", err)
	}
	fmt.Fprintf(out, "\nREFURB-TINY checkin=%s\n", result)
}

// run returns "ok", "none" (nobody wants a check-in) or "failed".
func run(ctx context.Context, out io.Writer) (string, error) {
	if _, err := drivers.Load(ctx, "/"); err != nil {
		fmt.Fprintf(out, "  drivers: %v\n", err) // what is built in may be enough
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "failed", err
	}
	offset, err := slotOffset(string(line))
	if err != nil {
		return "failed", err
	}
	disk, checkin, err := findSlot(ctx, "/sys/block", "/dev", offset)
	switch {
	case errors.Is(err, errUnfilled):
		return "none", nil
	case err != nil:
		return "failed", err
	}
	fmt.Fprintf(out, "  drive %s; checking in at %s\n", disk, checkin.URL)
	up, cancel := context.WithTimeoutCause(ctx, netBound, fmt.Errorf("no network within %s: is the cable plugged in?", netBound))
	defer cancel()
	said := ""
	say := func(what string) {
		if what != said {
			fmt.Fprintf(out, "  %s\n", what)
		}
		said = what
	}
	lease, err := link.Up(up, nil, slog.New(slog.DiscardHandler), say)
	if err != nil {
		return "failed", err
	}
	mac, _ := os.ReadFile("/sys/class/net/" + lease.Interface + "/address")
	first := wire.FirstBoot{System: "Refurb tiny system", Kernel: release(), Root: disk, MAC: strings.TrimSpace(string(mac)), UUID: uuid(), Mode: mode()}
	if err := post(ctx, checkin, first, 2*time.Second); err != nil {
		return "failed", err
	}
	return "ok", nil
}

func mount() {
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		os.MkdirAll(m.at, 0o755)
		// Failing is told by what is missing later: there is no console to tell it on now.
		unix.Mount(m.kind, m.at, m.kind, unix.MS_NOSUID|unix.MS_NOEXEC, "")
	}
}

// consoles writes to every console of the kernel, so that a screen and a serial
// line show the same.
func consoles() io.Writer {
	list, _ := os.ReadFile("/proc/consoles")
	var all []io.Writer
	for line := range strings.Lines(string(list)) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if c, err := os.OpenFile("/dev/"+f[0], os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		return os.Stderr
	}
	return everyone(all)
}

// everyone goes on when one of them fails, unlike io.MultiWriter.
type everyone []io.Writer

func (e everyone) Write(b []byte) (int, error) {
	for _, w := range e {
		w.Write(b)
	}
	return len(b), nil
}

func off(out io.Writer) {
	if p := recover(); p != nil {
		fmt.Fprintf(out, "\n  %v\nREFURB-TINY checkin=failed\n", p)
	}
	fmt.Fprint(out, "  This PC switches itself off.\n")
	unix.Sync()
	time.Sleep(2 * time.Second) // the serial line drains, and a person sees it
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Fprintf(out, "  It could not be switched off (%v): do it by hand.\n", err)
	select {}
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func uuid() string {
	b, _ := os.ReadFile("/sys/class/dmi/id/product_uuid")
	return strings.ToLower(strings.TrimSpace(string(b)))
}

func mode() string {
	b, err := os.ReadFile("/sys/firmware/efi/fw_platform_size")
	switch strings.TrimSpace(string(b)) {
	case "64":
		return wire.ModeUEFI64
	case "32":
		return wire.ModeUEFI32
	}
	if err != nil {
		return wire.ModeBIOS
	}
	return ""
}
