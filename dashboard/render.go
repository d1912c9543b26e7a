package dashboard

import (
	"crypto/sha256"
	"encoding/hex"
	"html/template"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"time"
)

// page is what every template gets.
type page struct {
	Title string // message id of the heading
	Head  string // the heading itself, where it is no message
	Nav   string // which entry of the menu is lit
	Live  bool   // the page follows a stream
	Body  any

	// Filled in by render.
	Langs []*words
	Path  string
	User  *User
	Lead  bool
	Admin bool
	Flash *flash
}

// flash is what the last step has to say, shown once.
type flash struct {
	Tone Tone
	Text string
	Next string
}

// pages holds the templates, once for every language.
type pages struct {
	byLang map[string]*template.Template
}

func loadPages(langs *languages) (*pages, error) {
	version, err := staticVersion()
	if err != nil {
		return nil, err
	}
	sprite, err := templateFiles.ReadFile("templates/icons.svg")
	if err != nil {
		return nil, err
	}
	_, missing := fs.Stat(staticFiles, "static/vendor/htmx.min.js")
	funcs := template.FuncMap{
		"icon": func(name string) template.HTML {
			class := "i"
			if name == "back" || name == "next" || name == "door" {
				class = "i flip" // these point somewhere
			}
			return template.HTML(`<svg class="` + class + `" aria-hidden="true"><use href="#i-` + template.HTMLEscapeString(name) + `"/></svg>`)
		},
		"sprite":   func() template.HTML { return template.HTML(sprite) },
		"asset":    func(name string) string { return "/static/" + name + "?v=" + version },
		"vendored": func() bool { return missing == nil },
	}
	var base *template.Template
	p := &pages{byLang: map[string]*template.Template{}}
	for i, w := range langs.list {
		if i == 0 {
			if base, err = template.New("").Funcs(funcs).Funcs(wordFuncs(w)).ParseFS(templateFiles, "templates/*.html"); err != nil {
				return nil, err
			}
		}
		t, err := base.Clone()
		if err != nil {
			return nil, err
		}
		p.byLang[w.Tag] = t.Funcs(wordFuncs(w))
	}
	return p, nil
}

// wordFuncs are the template functions that speak a language.
func wordFuncs(w *words) template.FuncMap {
	return template.FuncMap{
		"lang":    func() *words { return w },
		"t":       w.T,
		"n":       w.N,
		"say":     w.Say,
		"typed":   func(id string) template.HTML { return w.Say(Say{ID: id}) },
		"english": func(s string) template.HTML { return w.Say(Say{Text: s}) },
		"size":    w.Size,
		"memory":  w.Memory,
		"rate":    w.Rate,
		"left":    w.Left,
		"alldone": w.AllDone,
		"fact": func(name string) string {
			if strings.HasPrefix(name, "fact.") {
				return w.T(name)
			}
			return name // a slot's or an interface's own name
		},
		"day":    func(t time.Time) string { return t.Local().Format(time.DateOnly) },
		"moment": func(t time.Time) string { return w.Moment(t, time.Now()) },
		"clock":  func(t time.Time) string { return w.Clock(t, time.Now()) },
	}
}

// Say a sentence of a view model. Text that came in English says so, for its
// direction and for who reads it aloud.
func (w *words) Say(s Say) template.HTML {
	if s.ID != "" {
		head := template.HTML(commands.ReplaceAllStringFunc(template.HTMLEscapeString(w.plain(Say{ID: s.ID, Pairs: s.Pairs, Count: s.Count})), command))
		if s.Text == "" {
			return head
		}
		return template.HTML(strings.TrimSuffix(string(head), ".")) + ": " + w.Say(Say{Text: s.Text})
	}
	if w.Tag == "en" {
		return template.HTML(template.HTMLEscapeString(s.Text))
	}
	return template.HTML(`<span lang="en" dir="ltr">` + template.HTMLEscapeString(s.Text) + `</span>`)
}

// commands are what people type, in messages that are escaped already.
var commands = regexp.MustCompile(`sudo build/refurb payload (?:build(?: --refresh)?|usb)|dhcp = &#34;\w+&#34;`)

// command sets one apart: it runs from left to right in every language, and no
// line ends within a setting or an option.
func command(text string) string {
	const open, whole = `<bdi class="code" dir="ltr">`, `<span class="nowrap">`
	if line, ok := strings.CutSuffix(text, "--refresh"); ok {
		return open + line + whole + "--refresh</span></bdi>"
	}
	if strings.HasPrefix(text, "dhcp") {
		return open + whole + text + "</span></bdi>"
	}
	return open + text + "</bdi>"
}

// plain is Say as text, where no markup can stand.
func (w *words) plain(s Say) string {
	if s.Count > 0 {
		return w.N(s.ID, s.Count, s.Pairs...)
	}
	if s.ID != "" && s.Text != "" {
		return strings.TrimSuffix(w.T(s.ID, s.Pairs...), ".") + ": " + s.Text
	}
	if s.ID != "" {
		return w.T(s.ID, s.Pairs...)
	}
	return s.Text
}

func (p *pages) write(out io.Writer, w *words, name string, data any) error {
	return p.byLang[w.Tag].ExecuteTemplate(out, name, data)
}

// staticVersion stands in the address of every static file, so that browsers
// may keep them for good and still see a new program's.
func staticVersion() (string, error) {
	h := sha256.New()
	err := fs.WalkDir(staticFiles, "static", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := staticFiles.ReadFile(path)
		h.Write([]byte(path))
		h.Write(b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:12], err
}

// contentType of a static file by its name: the machine's own table of types
// must not decide what a browser runs.
func contentType(name string) string {
	switch {
	case strings.HasSuffix(name, ".css"):
		return "text/css; charset=utf-8"
	case strings.HasSuffix(name, ".js"):
		return "text/javascript; charset=utf-8"
	case strings.HasSuffix(name, ".svg"):
		return "image/svg+xml"
	case strings.HasSuffix(name, ".woff2"):
		return "font/woff2"
	}
	return "text/plain; charset=utf-8"
}
