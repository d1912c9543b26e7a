package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const inside = "REFURB_BENCH_INSIDE"

// enterHouse runs this program again in a house of its own: a network, mounts
// and process numbers that nobody else sees, and that the kernel takes away
// with its last process, however that ends. What it gives is the exit code.
func enterHouse() int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: it makes network namespaces and loop devices: run it as root (sudo)")
		return 1
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	group, err := newThrottle()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	defer group.remove()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+group.dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true,
	}
	// Pdeathsig looks at the thread, so the one that starts the child stays: this
	// goroutine is main's, locked in init.
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: no namespaces:", err)
		return 1
	}
	go func() {
		<-stop
		_ = cmd.Process.Kill() // the first process of its house: all others go with it
	}()
	err = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code
	}
	fmt.Fprintln(os.Stderr, "bench: stopped:", err)
	return 1
}

// furnish mounts what the house needs. dir becomes a tmpfs.
func furnish(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	for _, m := range []struct {
		what, where, kind string
		flags             uintptr
		data              string
	}{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", 0, ""},
		{"netns", "/run/netns", "tmpfs", 0, ""},
		{"bench", dir, "tmpfs", 0, "huge=always,size=90%"},
	} {
		err := unix.Mount(m.what, m.where, m.kind, m.flags, m.data)
		if errors.Is(err, unix.EINVAL) && strings.HasPrefix(m.data, "huge") { // a kernel without huge pages
			err = unix.Mount(m.what, m.where, m.kind, m.flags, "size=90%")
		}
		if err != nil {
			return fmt.Errorf("mounting %s: %w", m.where, err)
		}
	}
	return nil
}

// throttle is a group of processes whose speed on single disks is limited.
type throttle struct {
	dir string
	v2  bool
}

const (
	blkio   = "/sys/fs/cgroup/blkio"
	unified = "/sys/fs/cgroup"
)

// newThrottle makes the group, after removing those of benches that were killed.
func newThrottle() (*throttle, error) {
	root := blkio
	if _, err := os.Stat(filepath.Join(blkio, "cgroup.procs")); err != nil {
		root = unified
		if err := os.WriteFile(filepath.Join(unified, "cgroup.subtree_control"), []byte("+io +memory"), 0); err != nil {
			return nil, fmt.Errorf("the kernel can't slow disks down here (cgroups, controller io): %w", err)
		}
	}
	old, _ := filepath.Glob(filepath.Join(root, "refurb-bench-*"))
	for _, dir := range old {
		_ = os.Remove(dir) // fails while somebody lives in it
	}
	t := openThrottle(filepath.Join(root, fmt.Sprintf("refurb-bench-%d", os.Getpid())))
	return t, os.Mkdir(t.dir, 0o755)
}

func openThrottle(dir string) *throttle {
	return &throttle{dir, !strings.HasPrefix(dir, blkio+"/")}
}

func (t *throttle) remove() { _ = os.Remove(t.dir) }

// set limits disk dev, as "7:0", to so many bytes per second.
func (t *throttle) set(dev string, write, read int64) error {
	if t.v2 {
		return os.WriteFile(filepath.Join(t.dir, "io.max"), fmt.Appendf(nil, "%s wbps=%d rbps=%d", dev, write, read), 0)
	}
	return errors.Join(
		os.WriteFile(filepath.Join(t.dir, "blkio.throttle.write_bps_device"), fmt.Appendf(nil, "%s %d", dev, write), 0),
		os.WriteFile(filepath.Join(t.dir, "blkio.throttle.read_bps_device"), fmt.Appendf(nil, "%s %d", dev, read), 0))
}

func (t *throttle) procs() string { return filepath.Join(t.dir, "cgroup.procs") }
