package exchange

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/images"
)

// heard notes what a stream says and checks that it stays in its bounds.
type heard struct {
	t      testing.TB
	m      *images.Manifest
	frames []int
	buf    []byte
	n      int
	total  int
}

func (h *heard) frame(i int, offset int64) error {
	if i < 0 || i >= len(h.m.Frames) || offset < 0 || offset >= h.m.Frames[i].Length {
		h.t.Fatalf("frame %d from %d", i, offset)
	}
	h.frames = append(h.frames, i)
	h.buf, h.n = nil, 0
	if i%2 == 0 { // odd ones aren't wanted
		h.buf = make([]byte, h.m.Frames[i].Length-offset)
	}
	return nil
}

func (h *heard) room() []byte { return h.buf[h.n:] }

func (h *heard) arrived(n int) {
	h.n += n
	h.total += n
	if h.buf != nil && h.n > len(h.buf) {
		h.t.Fatal("more bytes than there is room for")
	}
}
func (h *heard) abort()            {}
func (h *heard) verdict(int, bool) {}
func (h *heard) never([]byte)      {}
func (h *heard) alive(int)         {}

func small() *images.Manifest {
	m := &images.Manifest{Bytes: 10 * images.FrameSize}
	for i := range 10 {
		m.Frames = append(m.Frames, images.Frame{Length: int64(i) * 100})
	}
	return m
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestReceive(t *testing.T) {
	data := func(n int) []byte { return append(record(recData, n), make([]byte, n)...) }
	for _, c := range []struct {
		name   string
		stream []byte
		err    bool
		frames []int
	}{
		{"empty", record(recEnd), false, nil},
		{"no end", nil, true, nil},
		{"two frames", join(record(recFrame, 2, 0), data(150), record(recAlive, 3), data(50), record(recGood, 2), record(recFrame, 3, 299), data(1), record(recEnd)), false, []int{2, 3}},
		{"one breaks off", join(record(recFrame, 2, 0), data(150), record(recAbort), record(recFrame, 4, 0), data(400), record(recEnd)), false, []int{2, 4}},
		{"a frame in a frame", join(record(recFrame, 2, 0), data(150), record(recFrame, 4, 0)), true, []int{2}},
		{"frames without bytes", join(bytes.Repeat(join(record(recFrame, 2, 0), record(recAbort)), maxEmpty), record(recFrame, 2, 0), data(200), record(recEnd)), true, slices.Repeat([]int{2}, maxEmpty)},
		{"some frames without bytes", join(bytes.Repeat(join(record(recFrame, 2, 0), record(recAbort)), maxEmpty-1), record(recFrame, 2, 0), data(200), record(recEnd)), false, slices.Repeat([]int{2}, maxEmpty)},
		{"too many bytes", join(record(recFrame, 2, 100), data(101)), true, []int{2}},
		{"bytes of no frame", data(1), true, nil},
		{"nothing as data", join(record(recFrame, 2, 0), data(0)), true, []int{2}},
		{"a frame of zeroes", record(recFrame, 0, 0), true, nil},
		{"no such frame", record(recFrame, 10, 0), true, nil},
		{"an offset at the end", record(recFrame, 2, 200), true, nil},
		{"a huge number", []byte{recFrame, 255, 255, 255, 255, 0, 0, 0, 0}, true, nil},
		{"a huge piece", join(record(recFrame, 9, 0), record(recData, maxPiece+1)), true, []int{9}},
		{"a verdict on nothing", record(recBad, 11), true, nil},
		{"a long bitmap", record(recNever, 3), true, nil},
		{"a short bitmap", join(record(recNever, 2), []byte{1}), true, nil},
		{"the end too early", join(record(recFrame, 2, 0), record(recEnd)), true, []int{2}},
		{"unknown", []byte("?"), true, nil},
		{"cut off", record(recFrame, 2, 0)[:6], true, nil},
	} {
		h := &heard{t: t, m: small()}
		err := receive(bufio.NewReader(bytes.NewReader(c.stream)), h.m, h)
		if (err != nil) != c.err || !slices.Equal(h.frames, c.frames) {
			t.Errorf("%s: %v, frames %v", c.name, err, h.frames)
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(join(record(recFrame, 2, 0), record(recData, 200), make([]byte, 200), record(recGood, 2), record(recNever, 2), []byte{1, 2}, record(recEnd)))
	f.Add(join(record(recFrame, 3, 5), record(recAbort), record(recAlive, 7), record(recBad, 3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		h := &heard{t: t, m: small()}
		if err := receive(bufio.NewReader(bytes.NewReader(b)), h.m, h); err == nil && len(b) == 0 {
			t.Error("nothing was a proper end")
		}
		if h.total > len(b) {
			t.Errorf("%d bytes came of %d", h.total, len(b))
		}
	})
}

// What a hostile PC sends costs time, never data: whatever it does, the frames
// that Next hands out are whole and the source is complained of.
func TestHostileSource(t *testing.T) {
	p := paint(t, 8, false)
	length := int(p.m.Frames[0].Length)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	for name, say := range map[string]func(w io.Writer){
		"nothing": func(io.Writer) { <-stop },
		"rubbish": func(w io.Writer) { io.WriteString(w, "rubbish") },
		"wrong bytes": func(w io.Writer) {
			for i, f := range p.m.Frames {
				if f.Length > 0 {
					w.Write(join(record(recFrame, i, 0), record(recData, int(f.Length)), make([]byte, f.Length), record(recGood, i)))
				}
			}
			<-stop
		},
		"wrong bytes that it disowns": func(w io.Writer) {
			for n := 0; ; n++ {
				i := []int{0, 1, 3, 4, 5}[n%5]
				f := p.m.Frames[i]
				if _, err := w.Write(join(record(recFrame, i, 0), record(recData, int(f.Length)), make([]byte, f.Length), record(recBad, i))); err != nil {
					return
				}
			}
		},
		"beginnings of frames": func(w io.Writer) {
			for {
				for i, f := range p.m.Frames {
					if f.Length > 0 {
						if _, err := w.Write(join(record(recFrame, i, 0), record(recData, 10), make([]byte, 10), record(recAbort))); err != nil {
							return
						}
					}
				}
			}
		},
		"a frame that ends in the middle": func(w io.Writer) {
			w.Write(join(record(recFrame, 0, 0), record(recData, length/2), p.frames[:length/2]))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHall(t, p)
			c := h.join("a", nil)
			bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				defer conn.Close()
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
				say(conn)
			}))
			t.Cleanup(bad.CloseClientConnections)
			h.order("a", wire.Order{Sources: []wire.Source{{ID: "bad", URL: bad.URL, Key: "k"}}})
			go func() {
				for t.Context().Err() == nil {
					_, trouble := h.said("a")
					if len(trouble) > 0 || name == "beginnings of frames" {
						h.order("a", wire.Order{Depot: true})
						return
					}
					time.Sleep(5 * time.Millisecond)
				}
			}()
			h.all(c)
			if _, trouble := h.said("a"); len(trouble) == 0 && name != "beginnings of frames" {
				t.Error("no complaint")
			}
		})
	}
}

// The connections of strangers are bounded in number and in time.
func TestStrangers(t *testing.T) {
	p := paint(t, 4, false)
	h := newHall(t, p)
	a := h.join("a", nil)
	h.order("a", wire.Order{Depot: true})
	var held []net.Conn
	for range 3 * maxConns {
		c, err := net.Dial("tcp", a.url[len("http://"):])
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "POST /v1/peer HTTP/1.1\r\n")
		held = append(held, c)
	}
	b := h.join("b", nil)
	h.order("b", wire.Order{Sources: []wire.Source{a.source()}})
	h.all(a, b)
	for _, c := range held {
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a stranger's connection is held")
		}
		c.Close()
	}
}
