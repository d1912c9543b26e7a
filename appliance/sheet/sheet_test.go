package sheet

import (
	"bytes"
	"encoding/csv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

func TestCell(t *testing.T) {
	for in, want := range map[string]string{
		"":                               "",
		"plain":                          "plain",
		"HP EliteDesk 800 G2 - 35W":      "HP EliteDesk 800 G2 - 35W",
		"a@b=c+d-e":                      "a@b=c+d-e",
		"=1+1":                           "'=1+1",
		"+49 123":                        "'+49 123",
		"-5":                             "'-5",
		"@SUM(1)":                        "'@SUM(1)",
		"  =1":                           "'=1",
		"\t=1":                           "'=1",
		"\r=1":                           "'=1",
		"\u00a0=1":                       "'=1",
		"\ufeff=1":                       "\ufeff'=1",
		"\u200b\u202e=1":                 "\u200b\u202e'=1",
		"x\n=1":                          "x =1",
		"x\t=1":                          "x =1",
		"x;=1":                           "x;'=1",
		"x, =1":                          "x, '=1",
		"x|+1":                           "x|'+1",
		`x","=1`:                         `x","'=1`,
		`"=1`:                            `"'=1`,
		`;;@x`:                           `;;'@x`,
		"＝1+1":                           "'＝1+1",
		"＋1":                             "'＋1",
		"－1":                             "'－1",
		"＠x":                             "'＠x",
		"−1":                             "'−1",
		"⩵1":                             "'⩵1",
		"x，＝1":                           "x，'＝1",
		"¨=1":                            "¨'=1",
		"'=1":                            "'=1",
		"=cmd|' /C calc'!A0":             "'=cmd|' /C calc'!A0",
		"S4\xff":                         "S4\uFFFD",
		"2026-11-23T10:00:00Z":           "2026-11-23T10:00:00Z",
		"3c:52:82:6f:00:01":              "3c:52:82:6f:00:01",
		`{"cause":"-1 GB","disk":"sda"}`: `{"cause":"'-1 GB","disk":"sda"}`,
	} {
		if got := Cell(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// What a file says is told by whoever opens it. These are the ways in which
// spreadsheets do: LibreOffice asks for the separators and whether to join or
// trim, Excel takes the one of the country, and both fold and skip characters
// before they look for a formula.
func begins(cell string) bool {
	cell = norm.NFKC.String(cell)
	cell = strings.TrimLeftFunc(cell, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Mn) || r == '"'
	})
	r, _ := utf8.DecodeRuneInString(cell)
	return strings.ContainsRune("=+-@−", r)
}

func formulas(file string) (found []string) {
	file = strings.TrimPrefix(file, "\uFEFF")
	folded := norm.NFKC.String(file)
	look := func(cells []string) {
		for _, c := range cells {
			if begins(c) {
				found = append(found, c)
			}
		}
	}
	for _, sep := range []rune{',', ';', '\t', '|', ':'} {
		r := csv.NewReader(strings.NewReader(file))
		r.Comma, r.LazyQuotes, r.FieldsPerRecord, r.TrimLeadingSpace = sep, true, -1, true
		rows, _ := r.ReadAll()
		for _, cells := range rows {
			look(cells)
		}
		// And one that knows no quotes.
		for line := range strings.Lines(file) {
			look(strings.Split(line, string(sep)))
		}
		for line := range strings.Lines(folded) {
			look(strings.Split(line, string(sep)))
		}
	}
	look(strings.FieldsFunc(file, func(r rune) bool { return strings.ContainsRune(",;\t|:\"\r\n", r) }))
	return found
}

var evil = []string{
	"=1+1", "\t=1", "a;=1", "a\";\"=1", "\"=1", ",=1", "a\r\n=1", "＝1", "−1", "\u200b@x", "a|\t+1", "\u2028=1", "=HYPERLINK(\"http://x\",\"-y\")", "\x00=1", "a:-1", "\u0301=1",
}

func TestNoSpreadsheetFindsAFormula(t *testing.T) {
	// The rules find what they must, else they prove nothing.
	for _, s := range evil {
		var raw bytes.Buffer
		w := csv.NewWriter(&raw)
		if err := w.Write([]string{"x", s}); err != nil {
			t.Fatal(err)
		}
		w.Flush()
		if len(formulas(raw.String())) == 0 {
			t.Errorf("%q is no attack by these rules", s)
		}
	}
	var b bytes.Buffer
	if err := Write(&b, [][]string{evil, {"ok"}, evil}); err != nil {
		t.Fatal(err)
	}
	for _, c := range formulas(b.String()) {
		t.Errorf("a formula: %q", c)
	}
}

func FuzzWrite(f *testing.F) {
	for _, s := range evil {
		f.Add(s, "x")
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		var b bytes.Buffer
		if err := Write(&b, [][]string{{one, two}, {two, one}}); err != nil {
			t.Fatal(err)
		}
		for _, c := range formulas(b.String()) {
			t.Errorf("%q, %q: a formula %q", one, two, c)
		}
		rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(b.String(), "\uFEFF"))).ReadAll()
		if err != nil || len(rows) != 2 {
			t.Errorf("%q, %q: %d rows, %v", one, two, len(rows), err)
		}
	})
}
