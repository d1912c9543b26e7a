package dashboard

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text bounds. What PCs say of themselves is hostile, and a stored string may be
// older than the bound its writer holds today.
const (
	maxLine = 120 // runes of a name, model or serial
	maxNote = 400 // runes of a sentence
)

// clean makes s safe to show on one line: at most max runes, no control
// characters, and none of the marks that turn the text around them (U+202A to
// U+202E, U+2066 to U+2069), with which a serial could be made to read as
// another. Escaping is html/template's business.
func clean(s string, max int) string {
	if max*utf8.UTFMax < len(s) {
		s = s[:max*utf8.UTFMax]
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	var b strings.Builder
	n := 0
	for _, r := range s {
		switch {
		case unicode.IsSpace(r):
			r = ' '
		case r == '\u200C' || r == '\u200D': // joiners: Persian needs them
		case unicode.IsControl(r), unicode.In(r, unicode.Cf, unicode.Co):
			r = '\uFFFD'
		}
		if n++; n > max {
			b.WriteRune('…')
			break
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}
