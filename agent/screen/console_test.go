package screen

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// A text screen is never scrolled and no line wraps.
func TestText(t *testing.T) {
	for _, size := range [][2]int{{80, 25}, {128, 48}, {40, 12}, {20, 8}, {0, 0}, {500, 300}} {
		for i, v := range append(append([]View{}, samples...), odd...) {
			cols, rows := min(max(size[0], 20), 300), min(max(size[1], 8), 120)
			s := Text(v, size[0], size[1])
			plain := escapes.ReplaceAllString(s, "")
			if strings.ContainsRune(plain, '\x1b') || !utf8.ValidString(s) {
				t.Errorf("%v/%d: something got through: %q", size, i, plain)
			}
			lines := strings.Split(plain, "\r\n")
			if len(lines) > rows {
				t.Errorf("%v/%d: %d lines", size, i, len(lines))
			}
			for _, l := range lines {
				if n := utf8.RuneCountInString(l); n > cols {
					t.Errorf("%v/%d: a line of %d: %q", size, i, n, l)
				}
			}
		}
	}
	s := Text(samples[1], 80, 25)
	for _, want := range []string{"(!) There is data on this disk", "> Ask a lead to look at PC 7", "\x1b[0;30;43m"} {
		if !strings.Contains(s, want) {
			t.Errorf("%q is missing in %q", want, s)
		}
	}
}

// The number's cells, read back from the screen, are the digits.
func TestTextNumber(t *testing.T) {
	s := Text(View{Number: 40, Percent: -1}, 80, 25)
	inverse := ansi[Working].inverse
	rows := 0
	for l := range strings.SplitSeq(s, "\r\n") {
		if strings.Contains(l, inverse) {
			rows++
		}
	}
	if rows != 10 {
		t.Errorf("the number is %d lines tall", rows)
	}
}

func TestWrapText(t *testing.T) {
	for _, c := range []struct {
		in    string
		width int
		lines int
		want  string
	}{
		{"a bb ccc", 5, 9, "a bb|ccc"}, {"abcdefgh", 3, 9, "abc|def|gh"}, {"x abcdefgh", 3, 9, "x|abc|def|gh"},
		{"a b c d", 1, 9, "a|b|c|d"}, {"one two three", 5, 2, "one|tw..."}, {"", 5, 2, ""},
	} {
		if got := strings.Join(wrapText(c.in, c.width, c.lines), "|"); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

// pty is a terminal pair: what is written to the path comes out of the file.
func pty(t *testing.T) (*os.File, string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var failed error
	raw.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed == nil {
			n, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
		if failed == nil {
			failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 100})
		}
	})
	if failed != nil {
		t.Fatal(failed)
	}
	return master, fmt.Sprintf("/dev/pts/%d", n)
}

// A PC with a text console and a serial console, both played by terminals.
func TestDevicesText(t *testing.T) {
	screen, screenPath := pty(t)
	serial, serialPath := pty(t)
	root := t.TempDir()
	for name, target := range map[string]string{"dev/tty0": screenPath, "dev/ttyS1": serialPath} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, p); err != nil {
			t.Fatal(err)
		}
	}
	active := filepath.Join(root, "sys/class/tty/console/active")
	if err := os.MkdirAll(filepath.Dir(active), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(active, []byte("tty0 ttyS1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := open(devices(root))
	s.Show(samples[1])
	read := func(f *os.File, until string) string {
		var b strings.Builder
		buf := make([]byte, 4096)
		f.SetReadDeadline(time.Now().Add(10 * time.Second))
		for !strings.Contains(b.String(), until) {
			n, err := f.Read(buf)
			b.Write(buf[:n])
			if err != nil {
				t.Fatalf("%v after %q", err, b.String())
			}
		}
		return b.String()
	}
	if got := read(serial, "\n"); !strings.HasPrefix(got, `refurb: pc=7 state=waiting title="There is data on this disk"`) {
		t.Errorf("serial: %q", got)
	}
	if got := read(screen, "refurb 1.0"); !strings.HasPrefix(strings.ReplaceAll(got, "\r\r\n", "\r\n"), Text(samples[1], 100, 30)[:200]) {
		t.Errorf("screen: %q", got)
	}
	s.Close()
	if got := read(screen, "\x1b[?25h"); !strings.Contains(got, "\x1b[2J") {
		t.Errorf("close: %q", got)
	}
}

// A terminal that nobody reads holds up neither Show nor, for long, Close.
func TestStuckConsole(t *testing.T) {
	_, path := pty(t)
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := open(outputs{display: openConsole(path), serial: []port{{f}}})
	start := time.Now()
	for i := range 300 {
		s.Show(View{Number: i + 1, Title: strings.Repeat("long ", 50), Percent: -1})
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("Show held up for %v", d)
	}
	start = time.Now()
	s.Close()
	if d := time.Since(start); d > closeTime+time.Second {
		t.Errorf("Close took %v", d)
	}
}

// Without any device there is a Screen all the same.
func TestDevicesNone(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	// A framebuffer that is none: a plain file knows no layout.
	if err := os.WriteFile(filepath.Join(root, "dev/fb0"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	o := devices(root)
	if o.display != nil || o.serial != nil {
		t.Errorf("%+v", o)
	}
	s := open(o)
	s.Show(samples[0])
	s.Close()
}
