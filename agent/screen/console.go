package screen

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// outputs are what a PC has to show things on.
type outputs struct {
	display display // nil where there is none
	serial  []port
}

// devices opens the framebuffer, or the text console where there is none, and the
// serial consoles that the kernel writes to; with none of those, the first serial
// port. root is "/" on a PC.
func devices(root string) outputs {
	at := func(name string) string { return filepath.Join(root, name) }
	var o outputs
	fb, err := openFramebuffer(at("dev/fb0"), at("dev/tty0"))
	if err == nil {
		o.display = fb
	} else if c := openConsole(at("dev/tty0"), at("dev/tty1")); c != nil {
		o.display = c
	}
	names := []string{"ttyS0"}
	if active, err := os.ReadFile(at("sys/class/tty/console/active")); err == nil {
		if serial := serialConsoles(string(active)); len(serial) > 0 {
			names = serial
		}
	}
	for _, n := range names {
		// A port without a listener may never drain: never wait for it.
		if f, err := os.OpenFile(at("dev/"+n), os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			o.serial = append(o.serial, port{f})
		}
	}
	if o.display == nil && len(o.serial) == 0 {
		slog.Warn("this PC has no screen and no serial console; nothing is shown", "framebuffer", err)
	}
	return o
}

var screenConsole = regexp.MustCompile(`^tty\d*$`)

// serialConsoles picks from the kernel's list of active consoles those that are
// no screen.
func serialConsoles(active string) []string {
	var list []string
	for _, n := range strings.Fields(active) {
		if !screenConsole.MatchString(n) && n == filepath.Base(n) && n != "console" {
			list = append(list, n)
		}
	}
	return list
}

// port is a serial console.
type port struct{ file *os.File }

const patience = 2 * time.Second // for a port or console that doesn't drain

func (p port) say(line string) {
	p.file.SetWriteDeadline(time.Now().Add(patience)) // fails on a plain file, which never waits
	io.WriteString(p.file, line+"\n")                 // a port that is gone is no reason to stop
}

func (p port) close() { p.file.Close() }

// sentence is a view as one line of plain ASCII, made to be searched:
//
//	refurb: pc=12 state=working title="Writing Debian 13" percent=40 rate=112000000 left=130s
//
// percent, rate (bytes per second), left, detail, next are there when they are
// known. Texts are quoted as in Go.
func sentence(v View) string {
	var b strings.Builder
	fmt.Fprintf(&b, "refurb: pc=%d state=%s title=%s", v.Number, v.Kind, strconv.QuoteToASCII(v.Title))
	if v.Percent >= 0 {
		fmt.Fprintf(&b, " percent=%d", int(v.Percent))
	}
	if v.Rate > 0 {
		fmt.Fprintf(&b, " rate=%d", v.Rate)
	}
	if v.ETA > 0 {
		fmt.Fprintf(&b, " left=%ds", int(v.ETA.Seconds()))
	}
	if v.Detail != "" {
		b.WriteString(" detail=" + strconv.QuoteToASCII(v.Detail))
	}
	if v.Next != "" {
		b.WriteString(" next=" + strconv.QuoteToASCII(v.Next))
	}
	return b.String()
}

// worthALine reports whether a view says more than the last line did. Progress
// does every ten percent; a detail may change with it, so it counts only where no
// progress is shown.
func worthALine(said, v View) bool {
	if said.Number != v.Number || said.Kind != v.Kind || said.Title != v.Title || said.Next != v.Next {
		return true
	}
	if v.Percent < 0 {
		return said.Percent >= 0 || said.Detail != v.Detail
	}
	return int(math.Floor(said.Percent/10)) != int(math.Floor(v.Percent/10))
}

// console is a text screen that understands ANSI, as Linux's own does.
type console struct {
	file       *os.File
	cols, rows int
	last       string
}

func openConsole(paths ...string) *console {
	for _, p := range paths {
		f, err := os.OpenFile(p, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		c := &console{file: f, cols: 80, rows: 25}
		if ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && ws.Col > 0 && ws.Row > 0 {
			c.cols, c.rows = int(ws.Col), int(ws.Row)
		}
		// Whoever was here before may have left it in graphics mode.
		unix.IoctlSetInt(int(f.Fd()), kdSetMode, kdText)
		return c
	}
	return nil
}

func (c *console) show(v View) error {
	s := Text(v, c.cols, c.rows)
	if s == c.last {
		return nil
	}
	c.last = s
	c.file.SetWriteDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c.file, s); err != nil && !os.IsTimeout(err) {
		return err
	}
	return nil
}

func (c *console) close() {
	c.file.SetWriteDeadline(time.Now().Add(patience))
	io.WriteString(c.file, "\x1b[0m\x1b[2J\x1b[H\x1b[?25h")
	c.file.Close()
}

// colours of the text screen: ground and ink of a state, and the two swapped.
var ansi = map[Kind]struct{ plain, inverse string }{
	Working: {"\x1b[0;1;37;44m", "\x1b[0;30;47m"},
	Waiting: {"\x1b[0;30;43m", "\x1b[0;1;33;40m"},
	Done:    {"\x1b[0;1;37;42m", "\x1b[0;30;47m"},
	Failed:  {"\x1b[0;1;37;41m", "\x1b[0;30;47m"},
}

// digits of three by five.
var digits = map[rune][5]string{
	'0': {"###", "# #", "# #", "# #", "###"},
	'1': {" # ", "## ", " # ", " # ", "###"},
	'2': {"###", "  #", "###", "#  ", "###"},
	'3': {"###", "  #", "###", "  #", "###"},
	'4': {"# #", "# #", "###", "  #", "  #"},
	'5': {"###", "#  ", "###", "  #", "###"},
	'6': {"###", "#  ", "###", "# #", "###"},
	'7': {"###", "  #", "  #", "  #", "  #"},
	'8': {"###", "# #", "###", "# #", "###"},
	'9': {"###", "# #", "###", "  #", "###"},
}

var marks = map[Kind]string{Working: "...", Waiting: "(!)", Done: "[OK]", Failed: "[X]"}

// Text draws a view on a text screen, over whatever is there, in ANSI's colours.
// Only the big digits and the bar are drawn, with spaces of the
// other colour, so that no font lacks a character.
func Text(v View, cols, rows int) string {
	v = v.tidy()
	cols, rows = min(max(cols, 20), 300), min(max(rows, 8), 120)
	c := ansi[v.Kind]
	t := textScreen{cols: cols, rows: rows - 1} // the last line would scroll the screen
	t.b.WriteString("\x1b[?25l" + c.plain + "\x1b[H")
	big := 2
	if rows < 24 || cols < 60 {
		big = 1
	}
	t.skip(rows / 24)
	number := ""
	if v.Number > 0 {
		number = strconv.Itoa(v.Number)
	}
	if big > 1 && len(number)*8*big > cols {
		big = 1
	}
	if len(number)*8*big > cols {
		t.words("PC "+number, 1)
		number = ""
	}
	for i := range 5 * big {
		if number == "" { // the lines stay free until there is one
			t.skip(1)
			continue
		}
		var row strings.Builder
		for _, r := range number {
			for _, cell := range digits[r][i/big] + " " {
				row.WriteString(strings.Repeat(map[bool]string{true: "#", false: " "}[cell == '#'], 2*big))
			}
		}
		t.blocks(strings.TrimRight(row.String(), " "), len(number)*8*big-2*big, c.plain, c.inverse)
	}
	t.skip(1)
	t.words(marks[v.Kind]+" "+v.Title, 2)
	if v.Detail != "" && rows >= 24 {
		t.skip(1)
	}
	t.words(v.Detail, 4)
	if v.Percent >= 0 {
		t.skip(1)
		width := cols - 4
		done := int(math.Round(v.Percent / 100 * float64(width)))
		t.line("  "+c.inverse+strings.Repeat(" ", done)+c.plain+strings.Repeat(".", width-done), 0)
		t.words(strings.TrimSpace(fmt.Sprintf("%d %%   %s", int(v.Percent), figures(v))), 1)
	}
	if v.Next != "" {
		t.skip(1)
		for _, l := range wrapText(v.Next, cols-8, 3) {
			t.line("  "+c.inverse+" > "+l+" "+c.plain, 0)
		}
	}
	t.skip(1)
	for _, l := range v.Lines {
		t.words(l, 1)
	}
	return t.b.String() + "\x1b[J"
}

// textScreen counts the lines, so that none scrolls the screen.
type textScreen struct {
	b          strings.Builder
	cols, rows int
	used       int
}

func (t *textScreen) line(s string, indent int) {
	if t.used >= t.rows {
		return
	}
	t.used++
	t.b.WriteString(strings.Repeat(" ", indent) + s + "\x1b[K\r\n")
}

func (t *textScreen) skip(n int) {
	for range n {
		t.line("", 0)
	}
}

func (t *textScreen) words(s string, most int) {
	for _, l := range wrapText(s, t.cols-4, most) {
		t.line(l, 2)
	}
}

// blocks draws a row of the number: "#" are spaces of the ink's colour.
func (t *textScreen) blocks(row string, width int, plain, inverse string) {
	var b strings.Builder
	for len(row) > 0 {
		n := len(row) - len(strings.TrimLeft(row, row[:1]))
		colour := plain
		if row[0] == '#' {
			colour = inverse
		}
		b.WriteString(colour + strings.Repeat(" ", n))
		row = row[n:]
	}
	t.line(b.String()+plain, max((t.cols-width)/2, 0))
}

// wrapText cuts into at most lines lines of at most width letters.
func wrapText(s string, width, lines int) []string {
	var list []string
	l := ""
	for _, w := range strings.Fields(s) {
		for utf8.RuneCountInString(w) > width {
			r := []rune(w)
			if l != "" {
				list, l = append(list, l), ""
			}
			list, w = append(list, string(r[:width])), string(r[width:])
		}
		switch {
		case l == "":
			l = w
		case utf8.RuneCountInString(l)+1+utf8.RuneCountInString(w) <= width:
			l += " " + w
		default:
			list, l = append(list, l), w
		}
	}
	if l != "" {
		list = append(list, l)
	}
	if len(list) > lines {
		list = list[:lines]
		last := []rune(list[lines-1])
		list[lines-1] = string(last[:min(len(last), width-3)]) + "..."
	}
	return list
}
