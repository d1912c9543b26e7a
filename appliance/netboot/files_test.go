package netboot

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/labstack/echo/v4"
	"github.com/pin/tftp/v3"
)

var bootBytes = bytes.Repeat([]byte("0123456789abcdef"), 1000)

// web is a shop whose HTTP side is up. Its clients all come from loopback,
// which the table of leases says is mac1.
func web(t *testing.T, change func(*Config)) (*shop, string) {
	t.Helper()
	s := newShop(t, func(c *Config) {
		c.Files = fstest.MapFS{
			"vmlinuz": {Data: bootBytes}, "initrd": {Data: bootBytes}, "shimx64.efi": {Data: bootBytes}, "grubx64.efi": {Data: bootBytes},
			"undionly.kpxe": {Data: bootBytes}, "secret/key": {Data: bootBytes},
		}
		if change != nil {
			change(c)
		}
	})
	s.leases.put(&entry{Addr: netip.MustParseAddr("127.0.0.1"), MAC: mac1, State: bound, Until: time.Now().Add(time.Hour)})
	e := echo.New()
	e.Pre(CleanPath)
	s.Register(e)
	srv := httptest.NewServer(e)
	t.Cleanup(srv.Close)
	return s, srv.URL
}

func fetch(t *testing.T, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	must(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	// A redirect is what ends shim's boot.
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := c.Do(req)
	must(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return res, string(b)
}

func TestFilesByHTTP(t *testing.T) {
	s, url := web(t, nil)
	for _, tt := range []struct {
		method, path, ranges string
		status               int
		body                 string
	}{
		{"GET", "/boot/vmlinuz", "", 200, string(bootBytes)},
		{"HEAD", "/boot/vmlinuz", "", 200, ""},
		{"GET", "/boot/vmlinuz", "bytes=16-31", 206, "0123456789abcdef"},
		{"GET", "/boot/vmlinuz", "bytes=99999-", 416, "invalid range: failed to overlap\n"},
		{"GET", "//grubx64.efi", "", 200, string(bootBytes)},
		{"GET", "/boot//grubx64.efi", "", 200, string(bootBytes)},
		{"HEAD", "//shimx64.efi", "", 200, ""},
		{"GET", "/grub/grub.cfg", "", 200, grubEntry("10.77.0.1:8080")},
		{"GET", "/boot/grub/grub.cfg", "", 200, grubEntry("10.77.0.1:8080")},
		// An empty 404 leaves shim waiting for ever.
		{"GET", "/boot/revocations_sku.efi", "", 404, "not here\n"},
		{"GET", "/grub/x86_64-efi/command.lst", "", 404, "not here\n"},
		{"GET", "/boot/secret", "", 404, "not here\n"},
		{"GET", "/boot/secret%2fkey", "", 404, "not here\n"},
		{"GET", "/boot/..%2f..%2fetc%2fpasswd", "", 404, "{\"message\":\"Not Found\"}\n"},
		{"GET", "/boot/%2e%2e%5c..%5cvmlinuz%00", "", 404, "not here\n"},
	} {
		t.Run(tt.method+" "+tt.path+" "+tt.ranges, func(t *testing.T) {
			var header []string
			if tt.ranges != "" {
				header = []string{"Range", tt.ranges}
			}
			res, body := fetch(t, tt.method, url+tt.path, header...)
			if res.StatusCode != tt.status || body != tt.body {
				t.Errorf("%d with %d bytes, want %d with %d", res.StatusCode, len(body), tt.status, len(tt.body))
			}
			if n := int64(len(bootBytes)); tt.method == "HEAD" && res.ContentLength != n {
				t.Errorf("HEAD says %d bytes, want %d", res.ContentLength, n)
			}
		})
	}
	begin, first := s.desk.sightings()[0], s.desk.sightings()[1]
	if begin.What != "begin" || begin.File != "vmlinuz" || begin.Size != int64(len(bootBytes)) || !begin.Began.Equal(first.Began) || first.Began.IsZero() {
		t.Errorf("the first sighting is %+v", begin)
	}
	if first.What != "http" || first.MAC != mac1 || first.Bytes != int64(len(bootBytes)) || first.Detail != "GET vmlinuz" || first.File != "vmlinuz" || first.Err != "" {
		t.Errorf("the second sighting is %+v", first)
	}
}

// What a PC has ended, or a restarted PC left behind, is reset and not kept;
// what it asked for came whole.
func TestListenerForgetsOldConnections(t *testing.T) {
	s := newShop(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bootBytes) }))
	srv.Listener.Close()
	srv.Listener = s.Listener(l)
	srv.Start()
	defer srv.Close()
	for name, end := range map[string]func(*net.TCPConn){
		"ended": func(c *net.TCPConn) { must(t, c.CloseWrite()) },
		"restarted": func(*net.TCPConn) {
			s.remember(Client{MAC: mac1, IP: netip.MustParseAddr("127.0.0.1")})
			s.ask(mac2, dhcpv4.MessageTypeDiscover, "")
			if len(s.conns) != 1 {
				t.Error("another PC's start ended the connection")
			}
			s.ask(mac1, dhcpv4.MessageTypeDiscover, "")
		},
	} {
		c, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
		_, err = c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		must(t, err)
		in := bufio.NewReader(c)
		res, err := http.ReadResponse(in, nil)
		must(t, err)
		if b, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(b, bootBytes) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		end(c.(*net.TCPConn))
		if _, err := in.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: after the end: %v, want a reset", name, err)
		}
		wait(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.conns) == 0 })
	}
}

// One PC can't use up the server's connections.
func TestConnectionsOfOnePCAreBounded(t *testing.T) {
	s := newShop(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	bounded := s.Listener(l)
	accepted := make(chan net.Conn, 2*maxConns)
	go func() {
		for {
			c, err := bounded.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	var first net.Conn
	for range maxConns {
		c, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer c.Close()
		if k := <-accepted; first == nil {
			first = k
		} else {
			defer k.Close()
		}
	}
	more, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	defer more.Close()
	must(t, more.SetDeadline(time.Now().Add(10*time.Second)))
	if _, err := more.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one too many: %v, want it closed", err)
	}
	must(t, first.Close())
	again, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	defer again.Close()
	(<-accepted).Close()
}

// GRUB's HTTP takes an error's body for the file.
func TestGRUBGetsNoErrorPage(t *testing.T) {
	_, url := web(t, nil)
	req, err := http.NewRequestWithContext(t.Context(), "GET", url+"/boot/initrd2", nil)
	must(t, err)
	req.Header.Set("User-Agent", "GRUB 2.12-9")
	if res, err := http.DefaultClient.Do(req); err == nil {
		res.Body.Close()
		t.Errorf("answered %s", res.Status)
	}
}

func TestNoScriptWithoutItsFiles(t *testing.T) {
	s, url := web(t, func(c *Config) { c.Files = fstest.MapFS{"vmlinuz": {Data: bootBytes}} })
	for _, path := range []string{"/boot/grub/" + mac1, "/boot/ipxe/" + mac1} {
		if _, text := fetch(t, "GET", url+path); strings.Contains(text, "/boot/vmlinuz") || !strings.Contains(text, "the boot file initrd is missing") {
			t.Errorf("%s: %s", path, text)
		}
	}
	s.desk.answer = Answer{Kind: Disk}
	if _, text := fetch(t, "GET", url+"/boot/ipxe/"+mac1); !strings.Contains(text, "sanboot") {
		t.Errorf("its own disk needs no files: %s", text)
	}
}

func TestScriptsByHTTP(t *testing.T) {
	s, url := web(t, nil)
	s.desk.answer = Answer{Kind: Agent, Args: []string{"refurb.token=t"}}
	s.remember(Client{MAC: mac2, UUID: "5ea1ab00-0000-4000-8000-525400000002", Arch: 16, HTTPBoot: true})

	for _, path := range []string{"/boot/grub/" + mac2, "/boot/ipxe/" + mac2} {
		res, _ := fetch(t, "HEAD", url+path)
		if res.StatusCode != 200 {
			t.Errorf("HEAD %s: %d", path, res.StatusCode)
		}
	}
	if len(s.desk.asked) != 0 {
		t.Fatalf("HEAD asked the desk: %+v", s.desk.asked)
	}
	head, _ := fetch(t, "HEAD", url+"/boot/grub/"+mac2)
	res, text := fetch(t, "GET", url+"/boot/grub/"+mac2)
	if res.StatusCode != 200 || !strings.Contains(text, "refurb.token=t") || head.ContentLength != int64(len(text)) || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d, HEAD said %d bytes, GET gave %d", res.StatusCode, head.ContentLength, len(text))
	}
	_, text = fetch(t, "GET", url+"/boot/ipxe/"+strings.ToUpper(strings.ReplaceAll(mac2, ":", "-")))
	if !strings.HasPrefix(text, "#!ipxe\n") || !strings.Contains(text, "refurb.token=t") {
		t.Errorf("iPXE's script: %s", text)
	}
	_, _ = fetch(t, "GET", url+"/boot/grub/unknown") // GRUB that knows no MAC of its own
	loop := netip.MustParseAddr("127.0.0.1")
	wantAsked := []Client{
		{MAC: mac2, UUID: "5ea1ab00-0000-4000-8000-525400000002", Arch: 16, HTTPBoot: true, IP: loop},
		{MAC: mac2, UUID: "5ea1ab00-0000-4000-8000-525400000002", Arch: 16, HTTPBoot: true, IP: loop, IPXE: true},
		{MAC: mac1, Arch: NoArch, IP: loop},
	}
	if len(s.desk.asked) != len(wantAsked) {
		t.Fatalf("asked %+v", s.desk.asked)
	}
	for i, w := range wantAsked {
		if s.desk.asked[i] != w {
			t.Errorf("question %d: %+v, want %+v", i, s.desk.asked[i], w)
		}
	}

	s.desk.err = os.ErrPermission
	for _, path := range []string{"/boot/grub/" + mac2, "/boot/ipxe/" + mac2} {
		res, text := fetch(t, "GET", url+path)
		if res.StatusCode != 200 || !strings.Contains(text, "permission denied") || strings.Contains(text, "vmlinuz") {
			t.Errorf("a refusal at %s: %d %s", path, res.StatusCode, text)
		}
	}
	s.leases.drop(s.leases.byAddr[netip.MustParseAddr("127.0.0.1")])
	if res, _ := fetch(t, "GET", url+"/boot/grub/unknown"); res.StatusCode != 404 {
		t.Errorf("a PC that can't be told from others got %d", res.StatusCode)
	}
}

// tftpd runs the TFTP side on loopback.
func tftpd(t *testing.T) (s *shop, addr string, stop func() time.Duration) {
	t.Helper()
	s, _ = web(t, nil)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.serveTFTP(ctx, conn) }()
	stop = func() time.Duration {
		began := time.Now()
		cancel()
		<-done
		return time.Since(began)
	}
	return s, conn.LocalAddr().String(), stop
}

func TestFilesByTFTP(t *testing.T) {
	s, addr, stop := tftpd(t)
	defer stop()
	for _, tt := range []struct {
		name, want string
	}{
		{"undionly.kpxe", string(bootBytes)},
		{"/boot/undionly.kpxe", string(bootBytes)},
		{"//shimx64.efi", string(bootBytes)},
		{`\grubx64.efi`, string(bootBytes)},
		{"/grub/grub.cfg", grubEntry("10.77.0.1:8080")},
		{"grub/grub.cfg", grubEntry("10.77.0.1:8080")},
		{"revocations_sku.efi", ""},
		{"/grub/x86_64-efi/command.lst", ""},
		{"../../etc/passwd", ""},
		{"secret/key", ""},
		{"", ""},
	} {
		for _, size := range []int{512, 1024, 1468} {
			c, err := tftp.NewClient(addr)
			must(t, err)
			c.SetBlockSize(size)
			var got bytes.Buffer
			from, err := c.Receive(tt.name, "octet")
			if err == nil {
				_, err = from.WriteTo(&got)
			}
			if (err != nil) != (tt.want == "") || got.String() != tt.want {
				t.Errorf("%q in blocks of %d: %d bytes, %v", tt.name, size, got.Len(), err)
			}
		}
	}
	for _, g := range s.desk.sightings() {
		if g.Err != "" || g.MAC != mac1 {
			t.Errorf("sighting %+v", g)
		}
	}
}

// rrq is a read request with options (RFC 1350, RFC 2347).
func rrq(name string, options ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, 1)
	for _, s := range append([]string{name, "octet"}, options...) {
		b = append(append(b, s...), 0)
	}
	return b
}

// EDK2 and shim ask for a file's size and break off with error 8.
func TestTFTPSizeProbeIsNoError(t *testing.T) {
	s, addr, stop := tftpd(t)
	defer stop()
	to, err := net.ResolveUDPAddr("udp4", addr)
	must(t, err)
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer c.Close()
	_, err = c.WriteTo(rrq("shimx64.efi", "tsize", "0", "blksize", "1468", "windowsize", "4"), to)
	must(t, err)
	must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 1500)
	n, from, err := c.ReadFrom(buf)
	must(t, err)
	if oack := string(buf[:n]); !strings.HasPrefix(oack, "\x00\x06") || !strings.Contains(oack, "tsize\x00"+strconv.Itoa(len(bootBytes))) || strings.Contains(oack, "windowsize") {
		t.Errorf("OACK %q", oack)
	}
	_, err = c.WriteTo([]byte("\x00\x05\x00\x08User aborted the transfer\x00"), from)
	must(t, err)
	wait(t, func() bool { _, ok := s.desk.find("tftp"); return ok })
	if g, _ := s.desk.find("tftp"); g.Err != "" || g.Detail != "shimx64.efi: asked for its size" {
		t.Errorf("sighting %+v", g)
	}
}

// A PC that is switched off in the middle doesn't keep the appliance from
// ending.
func TestTFTPEndsWithATransferInFlight(t *testing.T) {
	_, addr, stop := tftpd(t)
	c, err := net.Dial("udp4", addr)
	must(t, err)
	defer c.Close()
	_, err = c.Write(rrq("vmlinuz"))
	must(t, err)
	time.Sleep(100 * time.Millisecond)
	if took := stop(); took > tftpStop+time.Second {
		t.Errorf("it took %v", took)
	}
}

// Requests that nobody stands behind hold no more files open than maxTransfers.
func TestTransfersAreBounded(t *testing.T) {
	s, _ := web(t, nil)
	begun, end := make(chan bool), make(chan bool)
	done := make(chan error)
	for i := range maxTransfers {
		pc := sink{byte(1 + i/maxOfOnePC)}
		if i%maxOfOnePC == 0 && i > 0 {
			if err := s.readTFTP("vmlinuz", sink{byte(i / maxOfOnePC)}); err == nil {
				t.Fatal("one PC got more than its share")
			}
		}
		go func() { done <- s.readTFTP("vmlinuz", slowSink{sink: pc, begun: begun, end: end}) }()
		<-begun
	}
	if err := s.readTFTP("vmlinuz", sink{200}); err == nil {
		t.Error("one more was served")
	}
	close(end)
	for range maxTransfers {
		must(t, <-done)
	}
	must(t, s.readTFTP("vmlinuz", sink{1}))
	if len(s.transfers) > 0 || s.transferring != 0 {
		t.Errorf("%d transfers are left, of %d PCs", s.transferring, len(s.transfers))
	}
}

// slowSink takes everything, at last.
type slowSink struct {
	sink
	begun, end chan bool
}

func (s slowSink) ReadFrom(r io.Reader) (int64, error) {
	s.begun <- true
	<-s.end
	return s.sink.ReadFrom(r)
}

// The rule "undionly first, then the script" of TestPlainROM.
func TestPlainROMIsLedThroughUndionly(t *testing.T) {
	s, url := web(t, func(c *Config) { c.TestPlainROM = true })
	c := Client{MAC: mac1, IPXE: true}
	if !s.plain(c) {
		t.Error("the ROM is not taken for a plain one")
	}
	if err := s.readTFTP("undionly.kpxe", sink{}); err != nil {
		t.Error(err)
	}
	if s.plain(c) {
		t.Error("undionly is taken for the ROM")
	}
	fetch(t, "HEAD", url+"/boot/ipxe/"+mac1)
	if s.plain(c) {
		t.Error("HEAD ended the boot")
	}
	fetch(t, "GET", url+"/boot/ipxe/"+mac1)
	if !s.plain(c) {
		t.Error("the next boot's ROM is not taken for a plain one")
	}
	if s.plain(Client{MAC: mac1, IPXE: true, Arch: 7}) {
		t.Error("UEFI's iPXE is taken for a BIOS ROM")
	}
}

// sink is a transfer to loopback that takes everything.
type sink struct{ host byte }

func (sink) ReadFrom(r io.Reader) (int64, error) { return io.Copy(io.Discard, r) }
func (sink) SetSize(int64)                       {}
func (s sink) RemoteAddr() net.UDPAddr {
	return net.UDPAddr{IP: net.IPv4(127, 0, 0, max(s.host, 1)), Port: 2000}
}

// spy notes the names that are opened.
type spy struct{ opened []string }

func (s *spy) Open(name string) (fs.File, error) {
	s.opened = append(s.opened, name)
	return nil, fs.ErrNotExist
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"shimx64.efi", "//grubx64.efi", `\EFI\BOOT\x.efi`, "../../etc/passwd", "/boot/../boot/../secret", "boot/boot/x", "a\x00b", ".hidden", "%2e%2e/", strings.Repeat("a/", 400)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		files := &spy{}
		s := &Server{cfg: Config{Files: files}}
		_, _, _ = s.open(cleanName(name))
		for _, n := range files.opened {
			if !fs.ValidPath(n) || filepath.Base(n) != n || strings.HasPrefix(n, ".") || len(n) > 64 {
				t.Errorf("%q opened %q", name, n)
			}
		}
		if p := printable(name); strings.ContainsAny(p, "\n\r\x1b\x00") {
			t.Errorf("%q is shown as %q", name, p)
		}
	})
}
