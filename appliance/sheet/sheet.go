// Package sheet writes CSV that a spreadsheet shows as text.
//
// A serial number of a donated PC may read "=cmd|…": a spreadsheet takes a cell
// that begins so for a formula and runs it (CWE-1236; OWASP, "CSV Injection").
// Which cell a text lands in is the spreadsheet's choice: one that splits at
// semicolons or tabs, or that has lost count of the quotes, begins new cells in
// the middle of ours. So every place where a cell could begin is made safe.
package sheet

import (
	"encoding/csv"
	"io"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// formula are the signs with which spreadsheets begin a formula, and the minus
// of typographers; between are those that may end one cell and begin the next.
const (
	formula = "=+-@−"
	between = `,;|:"`
)

// Write writes rows, each cell made safe by Cell. A byte order mark comes
// first, without which Excel takes the file for another encoding than UTF-8.
func Write(w io.Writer, rows [][]string) error {
	if _, err := io.WriteString(w, "\uFEFF"); err != nil {
		return err
	}
	out := csv.NewWriter(w)
	line := []string{}
	for _, row := range rows {
		line = line[:0]
		for _, s := range row {
			line = append(line, Cell(s))
		}
		if err := out.Write(line); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// Cell puts an apostrophe before every sign that could begin a formula, makes
// one line of the text, and leaves all other text as it is.
func Cell(s string) string {
	s = strings.TrimSpace(strings.Map(plain, strings.ToValidUTF8(s, "\uFFFD")))
	var b strings.Builder
	start := true // a cell may begin here
	for _, r := range s {
		bad := false
		// Full-width, small and raised forms are folded into the plain sign.
		for _, r := range norm.NFKC.String(string(r)) {
			switch {
			case strings.ContainsRune(between, r):
				start = true
			case blank(r):
			default:
				bad = bad || start && strings.ContainsRune(formula, r)
				start = false
			}
		}
		if bad {
			b.WriteByte('\'')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// plain makes a space of line ends, tabs and other control characters.
func plain(r rune) rune {
	if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
		return ' '
	}
	return r
}

// blank is what a spreadsheet may pass over at the beginning of a cell.
func blank(r rune) bool { return unicode.IsSpace(r) || unicode.In(r, unicode.Cf, unicode.Mn) }
