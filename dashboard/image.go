package dashboard

import (
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"
)

func (d *Dashboard) images(c echo.Context) error {
	list, err := d.cfg.Images.List(c.Request().Context())
	if err != nil {
		return fmt.Errorf("list of images: %w", err)
	}
	return d.render(c, http.StatusOK, "images", page{Title: "nav.images", Nav: "images", Body: cleanImages(list)})
}

func cleanImages(list []Image) []Image {
	out := make([]Image, len(list))
	for i, m := range list {
		m.Name, m.Version, m.Problem, m.Root = clean(m.Name, maxLine), clean(m.Version, maxLine), clean(m.Problem, maxNote), clean(m.Root, maxLine)
		out[i] = m
	}
	return out
}

// usable images can be given to a PC.
func usable(list []Image) (out []Image) {
	for _, m := range cleanImages(list) {
		if m.Problem == "" {
			out = append(out, m)
		}
	}
	return out
}
