package depot

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/labstack/echo/v4"
)

// Register adds GET and HEAD of /images/<root>/manifest and
// /images/<root>/frames: ranges, If-Range and a strong ETag (RFC 9110, 13 and
// 14). It answers 404 for an unknown image and 500, with the reason, for one
// that must not be served.
func (d *Depot) Register(e *echo.Echo) {
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		e.Add(method, "/images/:root/"+manifestFile, d.serve(manifestFile))
		e.Add(method, "/images/:root/"+framesFile, d.serve(framesFile))
	}
}

func (d *Depot) serve(name string) echo.HandlerFunc {
	return func(c echo.Context) error {
		root := c.Param("root")
		l, err := d.load(root)
		switch {
		case errors.Is(err, ErrUnknown):
			return c.String(http.StatusNotFound, "no such image\n")
		case err != nil:
			return c.String(http.StatusInternalServerError, err.Error()+"\n")
		}
		f, err := os.Open(filepath.Join(d.dir, root, name))
		if err != nil {
			return c.String(http.StatusNotFound, "no such image\n")
		}
		defer f.Close()
		h := c.Response().Header()
		h.Set(echo.HeaderContentType, echo.MIMEOctetStream)
		// The same root can be packed anew, so a cache has to ask; the tag covers
		// the lengths and offsets of all frames.
		h.Set(echo.HeaderCacheControl, "no-cache")
		h.Set("ETag", l.etag)
		http.ServeContent(fromFile{c.Response()}, c.Request(), "", l.stamp.ModTime(), f)
		return nil
	}
}

// fromFile gives echo's response the ReadFrom of the one below, so that the
// kernel copies from file to socket.
type fromFile struct{ *echo.Response }

func (w fromFile) ReadFrom(r io.Reader) (int64, error) {
	if !w.Committed {
		w.WriteHeader(http.StatusOK)
	}
	n, err := io.Copy(w.Response.Writer, r)
	w.Size += n
	return n, err
}
