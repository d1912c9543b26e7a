package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"refurb/agent/drivers"
	"refurb/agent/link"
)

// rescueWait is how long the rescue shell waits for a network; it goes without.
const rescueWait = 25 * time.Second

// rescueEnv is all that a rescue shell finds in its environment.
var rescueEnv = []string{"PATH=/bbin:/bin:/usr/bin:/sbin:/usr/sbin", "HOME=/", "TERM=linux"}

// consoles are where a person may sit: the PC's own screen and its first serial
// port. /dev/console is only one of them, and on most PCs the wrong one.
var consoles = []string{"/dev/tty1", "/dev/ttyS0"}

// rescue leaves the PC to a person: drivers and a network, then a shell on each
// console. It ends when there is no console.
func rescue(args map[string]string) {
	var out []io.Writer
	var ttys []*os.File
	for _, name := range consoles {
		// A serial port that isn't there opens and then answers nothing.
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			continue
		}
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
			f.Close()
			continue
		}
		ttys, out = append(ttys, f), append(out, f)
	}
	if len(ttys) == 0 {
		fmt.Fprintln(os.Stderr, "refurb: no console for the rescue shell")
		return
	}
	say := io.MultiWriter(out...)
	fmt.Fprintln(say, "\r\nRefurb rescue shell: loading drivers, waiting for the network\r")
	text := banner(rescueNetwork(args))
	var all sync.WaitGroup
	for _, tty := range ttys {
		all.Go(func() { rescueOn(tty, text) })
	}
	all.Wait()
}

// rescueNetwork loads drivers and asks for an address, kept as long as this
// process runs. It says what came of it.
func rescueNetwork(args map[string]string) string {
	if _, err := drivers.Load(context.Background(), "/"); err != nil {
		fmt.Fprintln(os.Stderr, "refurb: drivers:", err)
	}
	mac := link.ParseMAC(args["refurb.mac"])
	ctx, cancel := context.WithTimeout(context.Background(), rescueWait)
	defer cancel()
	lease, err := link.Up(ctx, mac, slog.New(slog.DiscardHandler), func(string) {})
	if err != nil {
		return "there is none: no cable, or no answer"
	}
	go lease.Keep(context.Background())
	return fmt.Sprintf("%v on %s", lease.Address, lease.Interface)
}

func banner(network string) string {
	return strings.Join([]string{"",
		"============================================================",
		"RESCUE SHELL: you are root on this PC, with all its disks.",
		"Refurb itself does nothing now and writes nothing to a disk.",
		"Network: " + network,
		"To leave:  shutdown -r   (the next start is an ordinary one)",
		"============================================================", "",
	}, "\r\n")
}

// rescueOn runs one shell after another on a console: only shutdown ends it, so
// that noise on a serial port restarts no PC under somebody's hands.
func rescueOn(tty *os.File, text string) {
	for {
		fmt.Fprint(tty, text)
		shell := exec.Command("/bbin/gosh")
		shell.Stdin, shell.Stdout, shell.Stderr = tty, tty, tty
		shell.Env, shell.Dir = rescueEnv, "/"
		shell.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
		if err := shell.Run(); err != nil {
			fmt.Fprintf(tty, "refurb: the shell ended: %v\r\n", err)
		}
		time.Sleep(time.Second)
	}
}
