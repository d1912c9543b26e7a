package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is one that the bench started in a port's namespace. It may say
// "ready", waits for a line on its standard input, and is finished when it
// prints its report or ends well.
type process struct {
	name     string
	cmd      *exec.Cmd
	stdin    *os.File
	ready    chan struct{}
	finished chan struct{} // closed with at, said or err set
	ended    chan struct{} // closed when the kernel has counted it

	at   time.Time
	said report
	err  error
}

// report is the line that a process of ours prints when it is through; peers
// that go on serving print only Verified.
type report struct {
	Written  int64  `json:"written"`  // Unix ns
	Verified int64  `json:"verified"` // Unix ns
	Cause    string `json:"cause,omitempty"`
	Fetched  int64  `json:"fetched"` // compressed bytes
	Peers    int64  `json:"from_peers"`
	Sent     int64  `json:"sent"`
	Resumed  int    `json:"resumed"`
	RSS      int64  `json:"rss"` // bytes, at most, so far
}

// launch starts a shell line in port's namespace, its disks slowed down.
func (b *bench) launch(p *port, name, line string) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("sh", "-c", `echo $$ >"$0" && exec ip netns exec "$1" bash -o pipefail -c "$2"`, b.throttle.procs(), p.name, line)
	cmd.Stdin, cmd.Stderr = r, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	q := &process{name: name, cmd: cmd, stdin: w,
		ready: make(chan struct{}), finished: make(chan struct{}), ended: make(chan struct{})}
	go q.listen(out, log.Name())
	return q, nil
}

func (q *process) listen(out io.Reader, log string) {
	lines := bufio.NewScanner(out)
	told := false
	for lines.Scan() {
		switch line := lines.Text(); {
		case line == "ready":
			close(q.ready)
		case strings.HasPrefix(line, "{") && !told:
			told, q.at = true, time.Now()
			if q.err = json.Unmarshal([]byte(line), &q.said); q.err == nil && q.said.Cause != "" {
				q.err = errors.New(q.said.Cause)
			}
			if q.said.Verified != 0 {
				q.at = time.Unix(0, q.said.Verified)
			}
			close(q.finished)
		case strings.HasPrefix(line, "{"): // a last word, after serving others
			var last report
			if json.Unmarshal([]byte(line), &last) == nil {
				q.said.RSS, q.said.Sent = last.RSS, last.Sent
			}
		}
	}
	err := q.cmd.Wait()
	if !told {
		q.at = time.Now()
		if err != nil {
			b, _ := os.ReadFile(log)
			q.err = fmt.Errorf("%s: %w: %s", q.name, err, strings.TrimSpace(string(b[max(0, len(b)-500):])))
		}
		close(q.finished)
	}
	q.stdin.Close()
	close(q.ended)
}

func (q *process) awaitReady(ctx context.Context) error {
	select {
	case <-q.ready:
		return nil
	case <-q.ended:
		if q.err != nil {
			return q.err
		}
		return fmt.Errorf("%s ended before it began", q.name)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (q *process) start() error {
	_, err := q.stdin.WriteString("go\n")
	return err
}

// stop ends a process that still serves others, and all that it started.
func (q *process) stop() {
	q.signal(syscall.SIGTERM)
	select {
	case <-q.ended:
	case <-time.After(5 * time.Second):
		q.kill()
	}
}

func (q *process) kill() {
	q.signal(syscall.SIGKILL)
	<-q.ended
}

func (q *process) signal(s syscall.Signal) { _ = syscall.Kill(-q.cmd.Process.Pid, s) }

// cpu is what the process and its children used, once it has ended.
func (q *process) cpu() time.Duration {
	return q.cmd.ProcessState.UserTime() + q.cmd.ProcessState.SystemTime()
}
