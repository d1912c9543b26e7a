package depot

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"
)

// one is a listener with one connection.
type one struct {
	conn chan net.Conn
	done chan struct{}
}

func (l *one) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *one) Close() error   { close(l.done); return nil }
func (l *one) Addr() net.Addr { return &net.TCPAddr{} }

// Who pauses gets the rest; who takes nothing for long is let go, and holds no
// file open any more.
func TestReadersThatPause(t *testing.T) {
	d := open(t)
	root, frames := add(t, d, "a", "x", 1)
	for _, c := range []struct {
		name  string
		pause time.Duration
		whole bool
	}{{"a busy disk", patience - time.Second, true}, {"gone", patience + time.Second, false}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := echo.New()
				d.Register(e)
				s := &http.Server{Handler: e}
				l := &one{make(chan net.Conn, 1), make(chan struct{})}
				server, client := net.Pipe()
				l.conn <- server
				go s.Serve(l)
				defer client.Close()
				defer s.Close()
				ask := func() *http.Response {
					req, _ := http.NewRequest("GET", "http://depot/images/"+root+"/frames", nil)
					go req.Write(client)
					res, err := http.ReadResponse(bufio.NewReader(client), req)
					if err != nil {
						t.Fatal(err)
					}
					return res
				}
				res := ask()
				var got []byte
				var err error
				for len(got) < len(frames) && err == nil {
					time.Sleep(c.pause)
					part := make([]byte, min(3<<20, len(frames)-len(got)))
					var n int
					n, err = io.ReadFull(res.Body, part)
					got = append(got, part[:n]...)
				}
				if whole := bytes.Equal(got, frames); whole != c.whole || (err == nil) != c.whole {
					t.Fatalf("%d of %d bytes, %v", len(got), len(frames), err)
				}
				if c.whole { // the same connection, long after
					time.Sleep(3 * patience)
					if res := ask(); res.StatusCode != 200 {
						t.Fatal(res.Status)
					}
				}
			})
		})
	}
}
