package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The worker is killed twice and comes back twice. It all happens in a process
// namespace, where init is a shell and a restart ends the namespace alone.
func TestSupervisorBringsTheWorkerBack(t *testing.T) {
	uinit := filepath.Join(t.TempDir(), "uinit")
	if out, err := exec.Command("go", "build", "-o", uinit, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", uinit+" & wait")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	killed := map[int]bool{}
	lines := bufio.NewScanner(out)
	for crashes := 0; crashes < 2 && lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.Contains(line, "the agent gave up"): // the worker runs, and has no appliance here
			pid := worker(t, uinit, killed)
			killed[pid] = true
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		case strings.Contains(line, fmt.Sprintf("the agent crashed (signal: killed), attempt %d of", crashes+1)):
			crashes++
		}
	}
	if len(killed) != 2 || ctx.Err() != nil {
		t.Fatalf("%d workers were killed, %v", len(killed), lines.Err())
	}
}

// worker finds the supervisor's child by its program.
func worker(t *testing.T, program string, but map[int]bool) int {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		exe, _ := os.Readlink(d + "/exe")
		args, _ := os.ReadFile(d + "/cmdline")
		var pid int
		fmt.Sscan(filepath.Base(d), &pid)
		if exe == program && strings.HasSuffix(string(args), "\x00run\x00") && !but[pid] {
			return pid
		}
	}
	t.Fatal("there is no worker")
	return 0
}

// Started by hand it does nothing: the supervisor would restart the machine.
func TestNotByHand(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "refurb-agent")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command(bin).CombinedOutput()
	if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 2 || !strings.Contains(string(out), "by hand") {
		t.Fatalf("%v: %s", err, out)
	}
}
