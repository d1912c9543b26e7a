package depot

import (
	"errors"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"time"

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

// patience is how long a reader may take nothing. A PC whose disk is busy stops
// reading for a while and goes on; one that is gone without a word, or only
// wants to hold a file open here, is let go.
const patience = 2 * time.Minute

// stretch is what a reader has to take within patience.
const stretch = 1 << 20

// fromFile gives echo's response the ReadFrom of the one below, so that the
// kernel copies from file to socket.
type fromFile struct{ *echo.Response }

func (w fromFile) ReadFrom(r io.Reader) (n int64, err error) {
	if !w.Committed {
		w.WriteHeader(http.StatusOK)
	}
	// One limit around the file is what the kernel's copy knows, not two.
	all, ok := r.(*io.LimitedReader)
	if !ok {
		all = &io.LimitedReader{R: r, N: math.MaxInt64}
	}
	ctl := http.NewResponseController(w.Response.Writer)
	for all.N > 0 && err == nil {
		// The server lifts it when the response is over.
		if err := ctl.SetWriteDeadline(time.Now().Add(patience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return n, err
		}
		want := min(all.N, stretch)
		var m int64
		m, err = io.Copy(w.Response.Writer, &io.LimitedReader{R: all.R, N: want})
		n += m
		all.N -= m
		if m < want {
			break // its end
		}
	}
	w.Size += n
	return n, err
}
