//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"refurb/scripts/lab"
)

// A wrong start is refused with the cause and the next step, and changes
// nothing.
func TestRefusedStarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := lab.New(filepath.Join(dir, "lab"))
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	config := filepath.Join(dir, "refurb.toml")
	must(t, os.WriteFile(config, []byte("interface = \"br0\"\nstreems = 4\n"), 0o644))
	broken := filepath.Join(dir, "broken.toml")
	must(t, os.WriteFile(broken, []byte("interface = \"br0\"\ndhcp = full\n"), 0o644))
	serve := []string{"serve", "--data", built.data}
	br0 := append(serve, "--interface", "br0")
	for _, c := range []struct {
		name string
		args []string
		want string // a regular expression
	}{
		{"no interface", serve, `--interface.*br0`},
		{"missing interface", append(serve, "--interface", "eth7"), `no network interface "eth7".*br0`},
		{"the loopback", append(serve, "--interface", "lo"), `no PC.*br0`},
		{"unknown flag", append(serve, "--interfaec", "br0"), `unknown flag --interfaec`},
		{"unknown key", append(serve, "--config", config), `streems.*known:`},
		{"broken file", append(serve, "--config", broken), `line 2`},
		{"bad mode", append(br0, "--dhcp", "maybe"), `"full".*"proxy"`},
		{"bad pool", append(br0, "--pool", "10.99.0.1-10.99.0.9"), `inside 10\.77\.0\.0/24`},
		{"bad port", append(br0, "--http", "70000"), `1 to 65535`},
		{"no boot files", []string{"serve", "--interface", "br0", "--data", filepath.Join(dir, "empty")}, `payload build`},
		{"unknown command", []string{"wipe"}, `refurb help`},
		{"unknown image", []string{"image", "verify", strings.Repeat("ab", 32), "--data", built.data}, `no such image`},
		{"missing file", []string{"image", "import", filepath.Join(dir, "nothing.img"), "--data", built.data}, `nothing\.img`},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := inLab(l, 15*time.Second, c.args...)
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("it did not end with an error: %v\n%s", err, out)
			}
			if !regexp.MustCompile(c.want).Match(out) {
				t.Errorf("it says\n%s\nwant something like %s", out, c.want)
			}
			if bytes.Contains(out, []byte("panic")) || bytes.Contains(out, []byte("goroutine")) {
				t.Errorf("it crashed:\n%s", out)
			}
		})
	}
	t.Run("port 67 taken", func(t *testing.T) {
		var buf output
		other, err := l.Start(&buf, "dnsmasq", "--no-daemon", "--port=0", "--interface=br0", "--bind-dynamic",
			"--dhcp-range=10.77.0.50,10.77.0.60", "--conf-file=/dev/null", "--dhcp-leasefile="+filepath.Join(dir, "leases"))
		must(t, err)
		defer l.Stop(other)
		deadline := time.Now().Add(10 * time.Second)
		for !strings.Contains(buf.String(), "started") && time.Now().Before(deadline) {
			time.Sleep(100 * time.Millisecond)
		}
		out, err := inLab(l, 20*time.Second, br0...)
		if err == nil || !regexp.MustCompile(`(?i)port 67|another DHCP server`).Match(out) {
			t.Errorf("beside another DHCP server it says: %v\n%s", err, out)
		}
	})
	t.Run("port taken", func(t *testing.T) {
		ln, err := listenIn(l, lab.IP+":8080")
		must(t, err)
		defer ln.Close()
		out, err := inLab(l, 20*time.Second, br0...)
		if err == nil || !regexp.MustCompile(`8080.*(stop|choose)`).Match(out) {
			t.Errorf("with port 8080 taken it says: %v\n%s", err, out)
		}
	})
	t.Run("full server disk", func(t *testing.T) {
		small := filepath.Join(dir, "small")
		must(t, os.Mkdir(small, 0o755))
		must(t, exec.Command("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small).Run())
		defer exec.Command("umount", small).Run()
		raw := filepath.Join(dir, "big.img")
		must(t, os.WriteFile(raw, built.raw, 0o644))
		out, err := inLab(l, time.Minute, "image", "import", raw, "--data", small)
		if err == nil || !regexp.MustCompile(`(?i)disk is full|not enough room|no space`).Match(out) {
			t.Errorf("with a full disk it says: %v\n%s", err, out)
		}
		out, err = inLab(l, time.Minute, "image", "list", "--data", small)
		if err != nil || bytes.Contains(out, []byte("big")) {
			t.Errorf("a half import is listed: %v\n%s", err, out)
		}
	})
}

// inLab runs the program in the lab's network.
func inLab(l *lab.Lab, limit time.Duration, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", l.Name, built.refurb}, args...)...).CombinedOutput()
}

func listenIn(l *lab.Lab, addr string) (ln net.Listener, err error) {
	err = l.Inside(func() error {
		ln, err = net.Listen("tcp", addr)
		return err
	})
	return ln, err
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
