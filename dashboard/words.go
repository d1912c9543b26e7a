package dashboard

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"golang.org/x/text/language"
)

// A language is one file of locales: "pt.json" makes Portuguese appear in the
// menu. What it doesn't say is said in English. See locales/README.md.
//
//go:embed locales/*.json
var localeFiles embed.FS

// languages is what the pages can be shown in.
type languages struct {
	list    []*words // English first, then by tag
	matcher language.Matcher
}

// words says things in one language.
type words struct {
	Tag  string // "ar"
	Name string // in the language itself
	Dir  string // "ltr" or "rtl"
	loc  *i18n.Localizer
}

func loadLanguages(files fs.FS) (*languages, error) {
	bundle := i18n.NewBundle(language.English)
	bundle.RegisterUnmarshalFunc("json", json.Unmarshal)
	names, err := fs.Glob(files, "locales/*.json")
	if err != nil {
		return nil, err
	}
	var l languages
	for _, name := range names {
		if _, err := bundle.LoadMessageFileFS(files, name); err != nil {
			return nil, fmt.Errorf("locale %s: %w", name, err)
		}
		l.list = append(l.list, &words{Tag: strings.TrimSuffix(path.Base(name), ".json")})
	}
	slices.SortFunc(l.list, func(a, b *words) int {
		if a.Tag == "en" {
			return -1
		}
		if b.Tag == "en" {
			return 1
		}
		return strings.Compare(a.Tag, b.Tag)
	})
	if len(l.list) == 0 || l.list[0].Tag != "en" {
		return nil, fmt.Errorf("locales hold no en.json, which the others fall back to")
	}
	var tags []language.Tag
	for _, w := range l.list {
		tag, err := language.Parse(w.Tag)
		if err != nil {
			return nil, fmt.Errorf("locale %s.json: %w", w.Tag, err)
		}
		tags = append(tags, tag)
		w.loc = i18n.NewLocalizer(bundle, w.Tag, "en")
		w.Name, w.Dir = w.T("lang.name"), w.T("lang.dir")
		if w.Dir != "rtl" {
			w.Dir = "ltr"
		}
	}
	l.matcher = language.NewMatcher(tags)
	return &l, nil
}

// langCookie holds the language that was chosen by hand.
const langCookie = "refurb_lang"

// of the request: what was chosen, else what the browser asks for, else English.
func (l *languages) of(r *http.Request) *words {
	chosen := ""
	if c, err := r.Cookie(langCookie); err == nil && len(c.Value) <= 16 {
		chosen = c.Value
	}
	_, i := language.MatchStrings(l.matcher, chosen, clean(r.Header.Get("Accept-Language"), 200))
	return l.list[i]
}

func (l *languages) byTag(tag string) (*words, bool) {
	i := slices.IndexFunc(l.list, func(w *words) bool { return w.Tag == tag })
	if i < 0 {
		return nil, false
	}
	return l.list[i], true
}

// T says a message. What follows is pairs of a name and its value; a string
// value is wrapped in isolation marks, so that a serial in an Arabic sentence
// keeps its order. A list of strings is joined as the language does.
func (w *words) T(id string, pairs ...any) string {
	return w.say(&i18n.LocalizeConfig{MessageID: id, TemplateData: w.data(pairs)})
}

// N says a message about n things in the right plural; the message may use N.
func (w *words) N(id string, n int, pairs ...any) string {
	m := w.data(pairs)
	m["N"] = n
	return w.say(&i18n.LocalizeConfig{MessageID: id, PluralCount: n, TemplateData: m})
}

func (w *words) say(c *i18n.LocalizeConfig) string {
	// A message that is missing in this language comes with an error and the
	// English text.
	s, _ := w.loc.Localize(c)
	if s == "" {
		return c.MessageID
	}
	return s
}

func (w *words) data(pairs []any) map[string]any {
	m := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		v := pairs[i+1]
		switch s := v.(type) {
		case string:
			v = isolated(s)
		case []string:
			list := make([]string, len(s))
			for i := range s {
				list[i] = isolated(s[i])
			}
			v = strings.Join(list, w.T("list.comma"))
		}
		m[fmt.Sprint(pairs[i])] = v
	}
	return m
}

func isolated(s string) string { return "\u2068" + s + "\u2069" }

// number with at most one digit behind the point, in Latin digits everywhere.
func (w *words) number(f float64) string {
	s := strconv.FormatFloat(f, 'f', 1, 64)
	if f >= 100 || strings.HasSuffix(s, ".0") {
		s = strconv.FormatFloat(f, 'f', 0, 64)
	}
	return strings.Replace(s, ".", w.T("number.point"), 1)
}

// Size of a disk or file in decimal units, as it stands on labels.
func (w *words) Size(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	f, i := float64(n), 0
	for ; f >= 999.5 && i < len(units)-1; i++ {
		f /= 1000
	}
	if i < 2 {
		f = float64(int64(f + .5))
	}
	return w.measure(f, units[i])
}

// Memory in binary gigabytes, which shops call GB.
func (w *words) Memory(n int64) string {
	return w.measure(float64(n)/(1<<30), "GB")
}

// Rate in bytes per second.
func (w *words) Rate(n int64) string {
	return w.measure(float64(n)/1e6, "MBs")
}

// measure joins a number and its unit. Latin units keep their order in a text
// that runs the other way.
func (w *words) measure(f float64, unit string) string {
	s := w.number(f) + "\u00a0" + w.T("unit."+unit)
	if w.Dir == "rtl" {
		s = "\u2066" + s + "\u2069"
	}
	return s
}

// Left is how long something still takes, rounded so that it doesn't flicker.
func (w *words) Left(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return w.T("time.moment")
	case d < time.Minute:
		return w.N("time.seconds", int(d.Round(5*time.Second)/time.Second))
	case d < time.Hour:
		return w.N("time.minutes", int((d+30*time.Second)/time.Minute))
	}
	h := int(d / time.Hour)
	m := int(d % time.Hour / time.Minute)
	return w.N("time.hours", h) + " " + w.N("time.minutes", m)
}

// AllDone says when the last PC is done.
func (w *words) AllDone(d time.Duration) string {
	if d < 10*time.Second {
		return w.T("bench.soon")
	}
	return w.T("bench.left", "Left", w.Left(d))
}

// Moment is Clock with seconds.
func (w *words) Moment(t, now time.Time) string {
	if t.Local().Format(time.DateOnly) == now.Local().Format(time.DateOnly) {
		return t.Local().Format(time.TimeOnly)
	}
	return t.Local().Format(time.DateTime)
}

// Clock shows a moment: the time of day if it is today, else the date too. The
// form is ISO 8601's everywhere: no language confuses its days and months.
func (w *words) Clock(t, now time.Time) string {
	if t.IsZero() {
		return "–"
	}
	t, now = t.Local(), now.Local()
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}
