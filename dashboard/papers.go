package dashboard

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"refurb/appliance/workshop"
)

// Paper is a certificate, a record or a report.
type Paper struct {
	Kind    string
	ID      string // of the device, the job or the lot
	Time    time.Time
	Result  string
	Refused *workshop.Refusal // why there is none; nil: there is one
}

// Papers makes papers. A *workshop.Refusal says why there is none.
type Papers interface {
	List(ctx context.Context, device string) ([]Paper, error)
	Write(ctx context.Context, w io.Writer, kind, id, format string) error
	WriteLot(ctx context.Context, w io.Writer, lot string) error
}

// paperLink leads to a paper.
type paperLink struct {
	Kind, ID   string
	Title      string // message id: what it is, and what it says
	Tone       Tone
	Time       time.Time
	HTML, JSON string // addresses
}

// paperLooks are what a paper is called by what it says. One that isn't here is
// shown as one of which nothing is known.
var paperLooks = map[string]struct {
	title string
	tone  Tone
}{
	"no-storage none":                {"paper.nostorage", toneDone},
	"erasure erased":                 {"paper.erased", toneDone},
	"erasure erased_with_exceptions": {"paper.exceptions", toneHold},
	"erasure not_erased":             {"paper.noterased", toneFail},
	"erasure unknown":                {"paper.erasure", toneFail},
	"imaging verified":               {"paper.imaged", toneDone},
	"imaging not_finished":           {"paper.notimaged", toneFail},
	"imaging unknown":                {"paper.imaging", toneFail},
}

// papersOf lists the papers of a device, the newest first.
func (d *Dashboard) papersOf(ctx context.Context, device string) ([]paperLink, error) {
	if d.cfg.Papers == nil {
		return nil, nil
	}
	list, err := d.cfg.Papers.List(ctx, device)
	if err != nil {
		return nil, fmt.Errorf("papers of a device: %w", err)
	}
	var links []paperLink
	for _, p := range list {
		look, ok := paperLooks[p.Kind+" "+p.Result]
		if !ok {
			look.title, look.tone = "paper.other", toneIdle
		}
		if p.Refused != nil {
			continue
		}
		at := "/papers/" + url.PathEscape(p.Kind) + "/" + url.PathEscape(p.ID)
		links = append([]paperLink{{Kind: p.Kind, ID: p.ID, Title: look.title, Tone: look.tone, Time: p.Time, HTML: at, JSON: at + "/json"}}, links...)
	}
	return links, nil
}

// paperPolicy lets a paper bring its own style; scripts stay shut out.
const paperPolicy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (d *Dashboard) paper(c echo.Context) error     { return d.sendPaper(c, "html") }
func (d *Dashboard) paperJSON(c echo.Context) error { return d.sendPaper(c, "json") }

func (d *Dashboard) lotPapers(c echo.Context) error {
	if d.cfg.Papers == nil {
		return echo.ErrNotFound
	}
	return sendWhole(c, "papers-"+c.Param("id"), "html", func(w io.Writer) error {
		return d.cfg.Papers.WriteLot(c.Request().Context(), w, c.Param("id"))
	})
}

func (d *Dashboard) sendPaper(c echo.Context, format string) error {
	if d.cfg.Papers == nil {
		return echo.ErrNotFound
	}
	kind, id := c.Param("kind"), c.Param("id")
	return sendWhole(c, kind+"-"+id, format, func(w io.Writer) error {
		return d.cfg.Papers.Write(c.Request().Context(), w, kind, id, format)
	})
}

// sendWhole makes a paper before a byte of it goes out: one that can't be made
// must not look like one.
func sendWhole(c echo.Context, name, format string, write func(io.Writer) error) error {
	var b strings.Builder
	if err := write(&b); err != nil {
		return err
	}
	h, where, kind := c.Response().Header(), "attachment", "application/json; charset=utf-8"
	if format == "html" {
		where, kind = "inline", "text/html; charset=utf-8"
		h.Set("Content-Security-Policy", paperPolicy)
	}
	h.Set("Content-Disposition", fmt.Sprintf("%s; filename=%q", where, plainName(name)+"."+format))
	return c.Blob(http.StatusOK, kind, []byte(b.String()))
}

// plainName makes a file's name of letters, digits and dashes.
func plainName(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, s[:min(len(s), 80)])
}
