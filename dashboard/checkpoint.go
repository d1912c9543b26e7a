package dashboard

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/boombuler/barcode/qr"
	"github.com/labstack/echo/v4"
)

// Checkpoint is a signed note on where all histories of the house stand.
type Checkpoint struct {
	Name   string // of its address
	Number int64
	Chains int64
	Lines  int64
	Broken int64 // histories that were damaged before it
	Time   time.Time
	Note   string // what is published, to the byte
	SHA256 string
	Root   string
	Origin string
	Key    string // that signed it
}

// ErrDamaged says that the records are damaged, so that nothing can be signed.
var ErrDamaged = errors.New("the records are damaged")

// Checkpoints keeps them.
type Checkpoints interface {
	List(ctx context.Context) ([]Checkpoint, error) // newest first
	// Make signs one now; false: nothing has changed since the newest one, which
	// is returned. Before anything was written down there is none: its Name is empty.
	Make(ctx context.Context, actor string) (Checkpoint, bool, error)
}

// CheckpointsPage lists them.
type CheckpointsPage struct {
	Lead bool
	List []Checkpoint
}

func (d *Dashboard) checkpoints(c echo.Context) error {
	if d.cfg.Checkpoints == nil {
		return echo.ErrNotFound
	}
	list, err := d.cfg.Checkpoints.List(c.Request().Context())
	if err != nil {
		return fmt.Errorf("list of checkpoints: %w", err)
	}
	return d.render(c, http.StatusOK, "checkpoints", page{Title: "checkpoint.title", Nav: "checkpoints", Body: CheckpointsPage{can(c, Lead), list}})
}

// CheckpointPage is one, to be printed and kept.
type CheckpointPage struct {
	Checkpoint
	QR template.HTML
}

func (d *Dashboard) findCheckpoint(c echo.Context) (Checkpoint, error) {
	if d.cfg.Checkpoints == nil {
		return Checkpoint{}, echo.ErrNotFound
	}
	list, err := d.cfg.Checkpoints.List(c.Request().Context())
	if err != nil {
		return Checkpoint{}, fmt.Errorf("list of checkpoints: %w", err)
	}
	for _, k := range list {
		if k.Name == c.Param("name") {
			return k, nil
		}
	}
	return Checkpoint{}, echo.ErrNotFound
}

func (d *Dashboard) checkpoint(c echo.Context) error {
	k, err := d.findCheckpoint(c)
	if err != nil {
		return err
	}
	body := CheckpointPage{Checkpoint: k}
	if body.QR, err = drawQR(k.Note); err != nil {
		return err
	}
	w := d.langs.of(c.Request())
	return d.render(c, http.StatusOK, "checkpoint", page{Head: w.T("checkpoint.number", "N", k.Number), Nav: "checkpoints", Body: body})
}

// checkpointNote gives the note as a file, to be published or verified.
func (d *Dashboard) checkpointNote(c echo.Context) error {
	k, err := d.findCheckpoint(c)
	if err != nil {
		return err
	}
	c.Response().Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", "refurb-"+plainName(k.Name)+".note"))
	return c.Blob(http.StatusOK, "text/plain; charset=utf-8", []byte(k.Note))
}

func (d *Dashboard) makeCheckpoint(c echo.Context) error {
	if d.cfg.Checkpoints == nil {
		return echo.ErrNotFound
	}
	k, fresh, err := d.cfg.Checkpoints.Make(c.Request().Context(), actor(c))
	to, ok := "/checkpoints/"+k.Name, "checkpoint.made"
	switch {
	case errors.Is(err, ErrDamaged):
		d.cfg.Log.Error("checkpoint", "err", err)
		err = &refused{http.StatusConflict, "checkpoint.damaged", "checkpoint.damaged.next"}
	case err == nil && k.Name == "":
		err = &refused{http.StatusConflict, "checkpoint.nothing", "checkpoint.nothing.next"}
	case !fresh:
		ok = "checkpoint.same"
	}
	if err != nil {
		to = "/checkpoints"
	}
	return d.done(c, err, to, ok)
}

// drawQR draws a text as a QR code, one path of dark squares with the light
// margin that readers ask for.
func drawQR(text string) (template.HTML, error) {
	code, err := qr.Encode(text, qr.L, qr.Unicode)
	if err != nil {
		return "", fmt.Errorf("drawing a QR code: %w", err)
	}
	const margin = 4
	n := code.Bounds().Dx()
	var path strings.Builder
	for y := range n {
		for x := 0; x < n; x++ {
			run := 0
			for ; x+run < n; run++ {
				if r, _, _, _ := code.At(x+run, y).RGBA(); r != 0 {
					break
				}
			}
			if run > 0 {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", x+margin, y+margin, run, run)
			}
			x += run
		}
	}
	return template.HTML(fmt.Sprintf(`<svg class="qr" viewBox="0 0 %d %[1]d" role="img" aria-label="QR" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h%[1]dv%[1]dH0z"/><path fill="#000" d="%s"/></svg>`,
		n+2*margin, path.String())), nil
}
