package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"refurb/agent/screen"
)

const (
	maxCrashes = 6
	calm       = 10 * time.Minute // a run this long forgives the crashes before it
)

// supervise runs the worker until it ends well, then restarts the PC. It never
// returns: when uinit ends, init has no more to do and the kernel panics.
func supervise() {
	// init made this process the console's session leader. Away with that: a
	// console that hangs up would take every process along.
	signal.Ignore(unix.SIGHUP)
	_ = unix.IoctlSetInt(0, unix.TIOCNOTTY, 0)

	if line, err := os.ReadFile("/proc/cmdline"); err == nil {
		if args := parseArgs(string(line)); has(args, "refurb.rescue") {
			rescue(args)
			reboot()
		}
	}
	for crashes := 0; crashes < maxCrashes; {
		start := time.Now()
		cmd := exec.Command("/proc/self/exe", "run")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		err := cmd.Run()
		if err == nil {
			reboot()
		}
		if e, ok := errors.AsType[*exec.ExitError](err); ok && e.ExitCode() == wantsShell {
			line, _ := os.ReadFile("/proc/cmdline")
			rescue(parseArgs(string(line)))
			reboot()
		}
		if time.Since(start) > calm {
			crashes = 0
		}
		crashes++
		wait := time.Second << crashes
		fmt.Fprintf(os.Stderr, "refurb: the agent crashed (%v), attempt %d of %d, again in %v\n", err, crashes, maxCrashes, wait)
		s := screen.Open()
		s.Show(screen.View{Kind: screen.Waiting, Title: "One moment", Percent: -1,
			Detail: "the program on this PC crashed and is started again", Lines: []string{err.Error()}})
		time.Sleep(wait)
		s.Close()
	}
	screen.Open().Show(screen.View{Kind: screen.Failed, Title: "Failed", Percent: -1,
		Detail: "the program on this PC crashes again and again",
		Next:   "tell the coordinator; photograph this screen"})
	time.Sleep(readTime)
	reboot()
}

func reboot() {
	for {
		unix.Sync()
		err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		fmt.Fprintln(os.Stderr, "refurb: this PC doesn't restart, switch it off and on:", err)
		time.Sleep(time.Minute)
	}
}
