package papers

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// How facts are put into words. Papers are in English; a serial number is a
// serial number everywhere.

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
func day(t time.Time) string   { return t.UTC().Format("2006-01-02") }

func clockOr(t time.Time) string {
	if t.IsZero() {
		return "not yet, or not known"
	}
	return clock(t)
}

func span(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// digits groups a number by thousands, with spaces that don't break.
func digits(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u00a0" + s[i:]
	}
	return s
}

func count(n int64, unit string) string {
	if unit == "" {
		return digits(n)
	}
	return digits(n) + "\u00a0" + unit
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// bytesText is decimal, as on a disk's label.
func bytesText(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f\u00a0GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f\u00a0MB", float64(n)/1e6)
	}
	return count(n, "bytes")
}

func exactBytes(n int64) string {
	if n < 1e6 {
		return count(n, "bytes")
	}
	return bytesText(n) + " (" + count(n, "bytes") + ")"
}

// share is a part of a whole in percent, never rounded up to all of it.
func share(part, whole int64) string {
	switch {
	case whole <= 0 || part < 0:
		return ""
	case part >= whole:
		return ", all of it"
	}
	return fmt.Sprintf(", %.2f\u00a0%% of it", min(99.99, 100*float64(part)/float64(whole)))
}

// short joins a few things.
func short(s []string) string {
	if len(s) > 3 {
		s = append(s[:3:3], fmt.Sprintf("%d more", len(s)-3))
	}
	return strings.Join(s, "; ")
}

func stateText(s string) string { return strings.ReplaceAll(s, "_", " ") }
