// Package lab is a workshop on one machine: a network namespace with a switch,
// QEMU PCs with real firmware, their disks, serial logs, screens and power
// switches. The demo, the end-to-end tests and the benchmarks use it.
//
// It wants root, iproute2 and QEMU. No packet leaves the namespace. Everything
// ends with Close; what a killed lab left behind is removed by the next one.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

// Address of the appliance inside the lab.
const (
	Bridge  = "br0"
	IP      = "10.77.0.1"
	Address = IP + "/24"
)

const prefix = "refurb-lab-"

var labs atomic.Int32

// Lab is one workshop. Its methods may be used from several goroutines.
type Lab struct {
	Name string // of the network namespace
	Dir  string // disks, logs and sockets; kept after Close

	mu      sync.Mutex
	pcs     []*PC
	routers []*Router
	procs   []*exec.Cmd
	closers []io.Closer
	seq     int
}

// New makes the namespace and the switch in it, after sweeping up what earlier
// labs left when they were killed.
func New(dir string) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab makes network namespaces: run it as root (sudo)")
	}
	for _, tool := range []string{"ip", "qemu-system-x86_64"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is not installed: run `make setup`", tool)
		}
	}
	Sweep()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// Several labs may run in one process; the name says whose it is.
	l := &Lab{Dir: dir, Name: fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), labs.Add(1))}
	if err := run("ip", "netns", "add", l.Name); err != nil {
		return nil, err
	}
	for _, args := range []string{
		"link set lo up",
		"link add " + Bridge + " type bridge stp_state 0 forward_delay 0",
		"addr add " + Address + " dev " + Bridge,
		"link set " + Bridge + " up",
	} {
		if err := run("ip", append([]string{"-n", l.Name}, strings.Fields(args)...)...); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// Close ends every PC and process of the lab and removes its namespace.
func (l *Lab) Close() error {
	l.mu.Lock()
	pcs, procs, closers, routers := l.pcs, l.procs, l.closers, l.routers
	l.pcs, l.procs, l.closers, l.routers = nil, nil, nil, nil
	l.mu.Unlock()
	for _, pc := range pcs {
		pc.PowerOff()
	}
	for _, c := range closers {
		c.Close()
	}
	for i := len(procs) - 1; i >= 0; i-- {
		stop(procs[i], 10*time.Second)
	}
	err := run("ip", "netns", "del", l.Name)
	for _, r := range routers {
		err = errors.Join(err, run("ip", "netns", "del", r.name))
	}
	return err
}

// Sweep removes the namespaces of labs whose process is gone. Their processes
// are gone already: each is tied to its parent's life.
func Sweep() {
	entries, err := os.ReadDir("/run/netns")
	if err != nil {
		return
	}
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), prefix)
		pid, _, _ := strings.Cut(rest, "-")
		n, err := strconv.Atoi(pid)
		if !ours || err != nil || syscall.Kill(n, 0) == nil {
			continue
		}
		_ = run("ip", "netns", "del", e.Name())
	}
}

// Start runs a program inside the namespace, its output going to out. The
// program gets SIGTERM at Close and dies with the lab's process.
func (l *Lab) Start(out io.Writer, name string, args ...string) (*exec.Cmd, error) {
	return l.startIn(l.Name, out, name, args...)
}

func (l *Lab) startIn(netns string, out io.Writer, name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command("ip", append([]string{"netns", "exec", netns, name}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := start(cmd); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.procs = append(l.procs, cmd)
	l.mu.Unlock()
	return cmd, nil
}

// Stop ends one program of Start, by SIGTERM first.
func (l *Lab) Stop(cmd *exec.Cmd) { stop(cmd, 10*time.Second); l.forget(cmd) }

// Kill ends one program of Start as a power cut would.
func (l *Lab) Kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	l.forget(cmd)
}

func (l *Lab) forget(cmd *exec.Cmd) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range l.procs {
		if c == cmd {
			l.procs = append(l.procs[:i], l.procs[i+1:]...)
			return
		}
	}
}

// Dial connects from inside the namespace.
func (l *Lab) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var conn net.Conn
	err := l.Inside(func() (err error) {
		// An address by number, so that no resolver thread outside is asked.
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Inside runs f on a thread of its own in the namespace. The thread isn't
// given back to the runtime when it can't return to where it came from.
func (l *Lab) Inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		there, err := netns.GetFromName(l.Name)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer there.Close()
		if err := netns.Set(there); err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Forward makes a server inside the namespace reachable from outside, at a
// loopback address.
func (l *Lab) Forward(outside, inside string) (net.Addr, error) {
	ln, err := net.Listen("tcp", outside)
	if err != nil {
		return nil, fmt.Errorf("the dashboard can't be shown at %s: %w (choose another address)", outside, err)
	}
	l.mu.Lock()
	l.closers = append(l.closers, ln)
	l.mu.Unlock()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go l.pipe(c, inside)
		}
	}()
	return ln.Addr(), nil
}

func (l *Lab) pipe(c net.Conn, inside string) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := l.Dial(ctx, "tcp", inside)
	if err != nil {
		return
	}
	defer s.Close()
	go func() {
		_, _ = io.Copy(s, c)
		s.Close()
	}()
	_, _ = io.Copy(c, s)
}

func (l *Lab) path(name string) string { return filepath.Join(l.Dir, name) }

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// spawner starts every child from one thread that lives as long as the
// process: the kernel sends Pdeathsig when the starting *thread* ends.
var spawner = sync.OnceValue(func() chan<- func() {
	ch := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range ch {
			f()
		}
	}()
	return ch
})

func start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	done := make(chan error)
	spawner() <- func() { done <- cmd.Start() }
	return <-done
}

func stop(cmd *exec.Cmd, patience time.Duration) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	t := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer t.Stop()
	_ = cmd.Wait()
}
