package depot

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
)

func server(t testing.TB, d *Depot) *httptest.Server {
	e := echo.New()
	d.Register(e)
	s := httptest.NewServer(e)
	t.Cleanup(s.Close)
	return s
}

func get(t testing.TB, d *Depot, method, path string, header map[string]string) *http.Response {
	t.Helper()
	return fetch(t, server(t, d), method, path, header)
}

func fetch(t testing.TB, s *httptest.Server, method, path string, header map[string]string) *http.Response {
	t.Helper()
	req, err := http.NewRequest(method, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	res.Body = io.NopCloser(bytes.NewReader(b))
	return res
}

func TestServe(t *testing.T) {
	d := open(t)
	root, frames := add(t, d, "a", "x", 1)
	manifest, m, err := d.Manifest(root)
	if err != nil {
		t.Fatal(err)
	}
	s := server(t, d)
	base := "/images/" + root
	etag := fetch(t, s, "HEAD", base+"/frames", nil).Header.Get("ETag")
	if !strings.HasPrefix(etag, `"`) {
		t.Errorf("etag %s is not strong", etag)
	}
	f := m.Frames[2]
	span := fmt.Sprintf("bytes=%d-%d", f.Offset, f.Offset+f.Length-1)
	for _, c := range []struct {
		method, path string
		header       map[string]string
		code         int
		body         []byte
		length       int64
	}{
		{"GET", base + "/manifest", nil, 200, manifest, int64(len(manifest))},
		{"HEAD", base + "/manifest", nil, 200, nil, int64(len(manifest))},
		{"GET", base + "/frames", nil, 200, frames, int64(len(frames))},
		{"HEAD", base + "/frames", nil, 200, nil, int64(len(frames))},
		{"GET", base + "/frames", map[string]string{"Range": span}, 206, frames[f.Offset:][:f.Length], f.Length},
		{"GET", base + "/frames", map[string]string{"Range": span, "If-Range": etag}, 206, frames[f.Offset:][:f.Length], f.Length},
		{"GET", base + "/frames", map[string]string{"Range": span, "If-Range": `"old"`}, 200, frames, int64(len(frames))},
		{"GET", base + "/frames", map[string]string{"Range": "bytes=-5"}, 206, frames[len(frames)-5:], 5},
		{"HEAD", base + "/frames", map[string]string{"Range": "bytes=0-9"}, 206, nil, 10},
		{"GET", base + "/frames", map[string]string{"Range": "bytes=99999999-"}, 416, nil, -2},
		{"GET", base + "/frames", map[string]string{"If-None-Match": etag}, 304, nil, -2},
		{"GET", base + "/other", nil, 404, nil, -2},
		{"POST", base + "/frames", nil, 405, nil, -2},
		{"GET", "/images/" + strings.Repeat("0", 64) + "/frames", nil, 404, nil, -2},
		{"GET", "/images/..%2f" + root + "/frames", nil, 404, nil, -2},
		{"GET", "/images/%2e%2e/frames", nil, 404, nil, -2},
	} {
		res := fetch(t, s, c.method, c.path, c.header)
		got, _ := io.ReadAll(res.Body)
		if res.StatusCode != c.code || c.length != -2 && res.ContentLength != c.length || c.body != nil && !bytes.Equal(got, c.body) {
			t.Errorf("%s %s %v: %d, length %d, %d bytes; want %d, %d", c.method, c.path, c.header, res.StatusCode, res.ContentLength, len(got), c.code, c.length)
		}
		if c.code < 300 && res.Header.Get("Accept-Ranges") != "bytes" {
			t.Errorf("%s %s: no Accept-Ranges", c.method, c.path)
		}
	}
	if err := d.Remove(root); err != nil {
		t.Fatal(err)
	}
	if res := fetch(t, s, "GET", base+"/frames", nil); res.StatusCode != 404 {
		t.Errorf("removed, but served: %d", res.StatusCode)
	}
}

// Logging middleware reads status and size from echo's response, though the
// bytes take a shorter way.
func TestServeCounts(t *testing.T) {
	d := open(t)
	root, frames := add(t, d, "a", "x", 1)
	e := echo.New()
	var code int
	var size int64
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			err := next(c)
			code, size = c.Response().Status, c.Response().Size
			return err
		}
	})
	d.Register(e)
	s := httptest.NewServer(e)
	fetch(t, s, "GET", "/images/"+root+"/frames", nil)
	s.Close()
	if code != 200 || size != int64(len(frames)) {
		t.Errorf("echo saw %d, %d bytes of %d", code, size, len(frames))
	}
}

func BenchmarkServeFrames(b *testing.B) {
	d := open(b)
	root, frames := add(b, d, "a", "x", 1)
	s := server(b, d)
	b.SetBytes(4 << 20)
	for b.Loop() {
		req, _ := http.NewRequest("GET", s.URL+"/images/"+root+"/frames", nil)
		req.Header.Set("Range", fmt.Sprintf("bytes=0-%d", min(4<<20, len(frames))-1))
		res, err := s.Client().Do(req)
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
}

func TestServesWhatIsOnDiskNow(t *testing.T) {
	d := open(t)
	root, _ := add(t, d, "a", "one", 1)
	s := server(t, d)
	first := fetch(t, s, "GET", "/images/"+root+"/manifest", nil).Header.Get("ETag")
	// Another process imports the same content under another name.
	other, err := Open(d.dir, key)
	if err != nil {
		t.Fatal(err)
	}
	add(t, other, "b", "two", 1)
	res := fetch(t, s, "GET", "/images/"+root+"/manifest", nil)
	got, _ := io.ReadAll(res.Body)
	want, _ := os.ReadFile(filepath.Join(d.dir, root, manifestFile))
	if !bytes.Equal(got, want) || res.Header.Get("ETag") == first {
		t.Error("the old manifest is still served")
	}
}
