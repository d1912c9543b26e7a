package netboot

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/vishvananda/netns"

	"refurb/scripts/bench/storm"
)

// A room full of PCs is switched on at once. Nobody has to ask twice, everybody
// gets an address of its own, every byte is right, and nothing is left open.
func TestRoomFullOfPCs(t *testing.T) {
	const pcs = 48
	c, d := newCable(t), &desk{}
	files := fstest.MapFS{}
	for name, size := range map[string]int{"undionly.kpxe": 100_000, "shimx64.efi": 300_000, "grubx64.efi": 200_000, "vmlinuz": 1_200_000, "initrd": 1_300_000} {
		b := make([]byte, size)
		rand.NewChaCha8([32]byte{byte(size)}).Read(b)
		files[name] = &fstest.MapFile{Data: b}
	}
	cfg := c.config(d)
	cfg.Files, cfg.PoolTo = files, netip.MustParseAddr("10.77.0.200")
	s, stop := start(t, cfg)
	e := echo.New()
	e.Pre(CleanPath)
	s.Register(e)
	ln, err := net.Listen("tcp", net.JoinHostPort(ours.String(), "8080"))
	must(t, err)
	srv := &http.Server{Handler: e}
	go func() { _ = srv.Serve(s.Listener(ln)) }()
	t.Cleanup(func() { _ = srv.Close() })

	quiet := runtime.NumGoroutine()
	open := descriptors(t)
	room := storm.Room{
		Interface: c.pc, PCs: pcs, Patience: 2 * time.Minute, Inside: c.there,
		Chain: func(pc int) []storm.Step {
			mac := net.HardwareAddr{0x02, 0x52, 0x46, 0, 0, byte(pc)}.String()
			if pc%3 == 0 {
				return storm.BIOS(mac)
			}
			return storm.UEFI(mac)
		},
		Content: func(name string) []byte {
			if f := files[name]; f != nil {
				return f.Data
			}
			return nil
		},
	}
	done, err := room.Run(t.Context())
	must(t, err)
	at := map[netip.Addr]bool{}
	for i, pc := range done {
		if pc.Err != nil || pc.Repeats > 0 {
			t.Errorf("PC %d, %v: asked %d times again, %v", i, pc.Address, pc.Repeats, pc.Err)
		}
		if at[pc.Address] {
			t.Errorf("two PCs have %v", pc.Address)
		}
		at[pc.Address] = true
	}
	if n := dropped(t, 67) + dropped(t, 69); n > 0 {
		t.Errorf("%d requests were dropped for want of room", n)
	}
	for _, g := range d.sightings() {
		if g.Err != "" {
			t.Errorf("%+v", g)
			break
		}
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		g, f := runtime.NumGoroutine(), descriptors(t)
		if g < quiet+pcs/2 && f < open+pcs/2 { // the server's own come and go
			break
		}
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines and %d files, before it %d and %d:\n%s", g, f, quiet, open, stacks[:runtime.Stack(stacks, true)])
		}
	}
	stop()

	// What was acknowledged is in the file.
	again, err := openLeases(cfg)
	must(t, err)
	for _, pc := range done {
		if e := again.byPC[pcAt{pc.MAC.String(), cfg.Net}]; e == nil || e.Addr != pc.Address || e.State != bound {
			t.Errorf("after a restart %v has %+v, it was given %v", pc.MAC, e, pc.Address)
		}
	}
}

// More PCs ask at once than are worked on: they wait their turn, and none has to
// ask again.
func TestMorePCsThanAtOnce(t *testing.T) {
	c := newCable(t)
	cfg := c.config(&desk{})
	cfg.Net, cfg.PoolFrom, cfg.PoolTo = netip.MustParsePrefix("10.77.0.0/16"), netip.MustParseAddr("10.77.1.0"), netip.MustParseAddr("10.77.9.0")
	start(t, cfg)
	room := storm.Room{
		Interface: c.pc, PCs: 2 * maxAtOnce, Patience: time.Minute, Inside: c.there,
		Chain: func(int) []storm.Step { return storm.BIOS("")[:1] },
	}
	done, err := room.Run(t.Context())
	must(t, err)
	for i, pc := range done {
		if pc.Err != nil || pc.Repeats > 0 {
			t.Errorf("PC %d, %v: asked %d times again, %v", i, pc.Address, pc.Repeats, pc.Err)
			break
		}
	}
}

// there is inside for code that has no test to fail.
func (c *cable) there(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, as in inside
		if err := netns.Set(c.far); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(all)
}

// dropped counts the packets that the kernel had no room for, on a UDP port.
func dropped(t *testing.T, port int) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/net/udp")
	must(t, err)
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) < 13 || f[0] == "sl" {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		if p, err := strconv.ParseUint(hex, 16, 16); err == nil && int(p) == port {
			k, err := strconv.Atoi(f[12])
			must(t, err)
			n += k
		}
	}
	return n
}

// The file is written once for all who wait, not once for each.
func TestLeasesAreWrittenTogether(t *testing.T) {
	s := newShop(t, func(c *Config) { c.PoolTo = netip.MustParseAddr("10.77.0.200") })
	l := s.leases
	l.writing.Lock() // somebody is writing just now
	const pcs = 50
	done := make(chan error, pcs)
	for i := range pcs {
		l.mu.Lock()
		change := l.apply(Decision{Client: Client{MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(i)}.String()}, Act: Bind, Addr: add(s.cfg.PoolFrom, uint32(i))}, nil, time.Now())
		l.mu.Unlock()
		go func() { done <- l.commit(change) }()
	}
	l.writing.Unlock()
	must(t, <-done)
	first, err := openLeases(s.cfg)
	must(t, err)
	if len(first.byPC) != pcs {
		t.Errorf("the first one's return found %d leases in the file, want %d", len(first.byPC), pcs)
	}
	// Another writing would bring the file back.
	must(t, os.Remove(l.path))
	for range pcs - 1 {
		must(t, <-done)
	}
	if _, err := os.Stat(l.path); err == nil {
		t.Error("the file was written again, for nothing")
	}
}

// A boot file has to reach the connection as a file: only then the kernel sends
// it without copying.
func TestFilesGoStraightToTheSocket(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "vmlinuz", bytes.Repeat([]byte("kernel"), 10_000))
	s := newShop(t, func(c *Config) { c.Files = os.DirFS(dir) })
	e := echo.New()
	s.Register(e)
	w := &socket{ResponseRecorder: httptest.NewRecorder()}
	e.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/boot/vmlinuz", nil))
	if w.files != 1 || w.Body.Len() != 60_000 {
		t.Errorf("the socket was given %d files and %d bytes, want 1 and 60000", w.files, w.Body.Len())
	}
	if g, ok := s.desk.find("http"); !ok || g.Bytes != 60_000 || g.Err != "" {
		t.Errorf("sighting %+v", g)
	}
}

// socket counts the files that it is told to send.
type socket struct {
	*httptest.ResponseRecorder
	files int
}

func (s *socket) ReadFrom(r io.Reader) (int64, error) {
	if l, ok := r.(*io.LimitedReader); ok {
		if _, ok := l.R.(*os.File); ok {
			s.files++
		}
	}
	return io.Copy(s.ResponseRecorder, r)
}
