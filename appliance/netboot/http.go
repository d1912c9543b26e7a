package netboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
)

// deskTime is how long a PC waits for the desk; iPXE and GRUB give up after
// some ten seconds.
const deskTime = 8 * time.Second

// Register adds the boot files and scripts, all for GET and HEAD:
//
//	/boot/FILE         a file of Config.Files, with ranges
//	/boot/ipxe/MAC     the iPXE script for a PC
//	/boot/grub/MAC     the GRUB configuration for a PC
//	/grub/grub.cfg     the configuration that leads there
//
// Files of firmware that looks for them at the server's root are there too.
// CleanPath must run before the router.
func (s *Server) Register(e *echo.Echo) {
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		e.Add(method, "/boot/:file", func(c echo.Context) error { return s.serveFile(c, c.Param("file")) })
		e.Add(method, "/boot/ipxe/:mac", s.serveIPXE)
		e.Add(method, "/boot/grub/:mac", s.serveGRUB)
		for _, at := range []string{"/grub/grub.cfg", "/boot/grub/grub.cfg"} {
			e.Add(method, at, func(c echo.Context) error { return s.serveFile(c, "grub/grub.cfg") })
		}
		e.Add(method, "/grub/*", func(c echo.Context) error { return s.serveFile(c, "grub/"+c.Param("*")) })
		for _, name := range rootFiles {
			e.Add(method, "/"+name, func(c echo.Context) error { return s.serveFile(c, name) })
		}
	}
}

// rootFiles are what shim asks for beside itself when it was loaded from the
// root of the server.
var rootFiles = []string{"shimx64.efi", "grubx64.efi", "grubia32.efi"}

// CleanPath makes "//grubx64.efi", as shim writes it, "/grubx64.efi". A
// redirect, which the router would answer with, ends shim's boot. Use it with
// echo's Pre.
func CleanPath(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		u := c.Request().URL
		if clean := path.Clean("/" + u.Path); clean != u.Path && (strings.Contains(u.Path, "//") || strings.Contains(u.Path, "/.")) {
			u.Path, u.RawPath = clean, ""
		}
		return next(c)
	}
}

func (s *Server) serveFile(c echo.Context, name string) error {
	g := s.sighting(c, "http")
	g.Detail = c.Request().Method + " " + printable(name)
	g.File, g.Probe = printable(cleanName(name)), c.Request().Method == http.MethodHead
	f, size, err := s.open(cleanName(name))
	if err != nil {
		g.Missing = errors.Is(err, fs.ErrNotExist)
		g.Detail += ": not here"
		if !errors.Is(err, fs.ErrNotExist) {
			g.Err = err.Error()
		}
		s.sight(g)
		return notFound(c)
	}
	defer f.Close()
	g.Size = size
	if !g.Probe {
		g.Began = s.begin(g)
	}
	h := c.Response().Header()
	h.Set("Content-Type", "application/octet-stream")
	if strings.HasSuffix(name, ".efi") {
		h.Set("Content-Type", "application/efi") // what UEFI HTTP Boot looks for (UEFI 2.10 §24.7.3)
	}
	http.ServeContent(fromFile{c.Response()}, c.Request(), "", time.Time{}, f)
	g.Bytes = c.Response().Size
	if r := c.Request(); r.Method == http.MethodGet && c.Response().Status == http.StatusOK && g.Bytes < size {
		g.Err = fmt.Sprintf("broken off after %d of %d bytes", g.Bytes, size)
	}
	s.sight(g)
	return nil
}

// fromFile gives echo's response the ReadFrom of the one below, so that the
// kernel sends a boot file from its cache without copying it through us.
type fromFile struct{ *echo.Response }

func (w fromFile) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.Writer, r)
	w.Size += n
	return n, err
}

// notFound has a body on purpose: shim 16 asks for optional files, and an
// empty 404 leaves it waiting for one for ever. GRUB 2.12 over its own TCP gets
// no answer at all: it takes the body of a 404 (and of a 503) for the file, and
// a kernel with that for its initramfs panics. Only a connection that ends
// makes its command fail.
func notFound(c echo.Context) error {
	if strings.HasPrefix(c.Request().UserAgent(), "GRUB") {
		panic(http.ErrAbortHandler)
	}
	return c.String(http.StatusNotFound, "not here\n")
}

// needs are the files that a kind of boot fetches after its script.
var needs = map[Kind][]string{
	Agent: {"vmlinuz", "initrd"}, Shell: {"vmlinuz", "initrd"},
	Memory: {"memtest64.bin", "memtest64.efi", "memtest32.efi"},
}

// complete says what a PC would look for in vain: GRUB can't be told so later.
func (s *Server) complete(k Kind) error {
	for _, name := range needs[k] {
		f, size, err := s.open(name)
		if err == nil {
			f.Close()
		}
		if err != nil || size == 0 {
			return fmt.Errorf("the boot file %s is missing: run sudo build/refurb payload build on the server", name)
		}
	}
	return nil
}

func (s *Server) serveIPXE(c echo.Context) error {
	return s.script(c, true, func(a Answer) (string, error) { return ipxeScript(s.cfg.base(), a) }, ipxeRefusal)
}

func (s *Server) serveGRUB(c echo.Context) error {
	return s.script(c, false, func(a Answer) (string, error) { return grubConfig(s.cfg.host(), a) }, grubRefusal)
}

// script asks the desk, on GET only, and writes what the PC shall run. A
// refusal is a script too, so that the PC's screen shows it.
func (s *Server) script(c echo.Context, ipxe bool, write func(Answer) (string, error), refuse func(string) string) error {
	g := s.sighting(c, "script")
	mac := parseMAC(c.Param("mac"))
	if mac == "" {
		// GRUB doesn't always say its MAC; the address it asks from does.
		mac = g.MAC
	}
	if mac == "" {
		g.Detail, g.Err = printable(c.Param("mac")), "a script was asked for by a PC that can't be told from others"
		s.sight(g)
		return notFound(c)
	}
	h := c.Response().Header()
	h.Set("Content-Type", "text/plain; charset=us-ascii")
	h.Set("Cache-Control", "no-store")
	if c.Request().Method == http.MethodHead {
		if !ipxe {
			h.Set("Content-Length", strconv.Itoa(maxScript))
		}
		g.MAC, g.Detail, g.Probe = mac, "asked for its size", true
		s.sight(g)
		return c.NoContent(http.StatusOK)
	}
	client := s.client(mac)
	client.IPXE = ipxe
	client.IP, _ = netip.ParseAddr(g.IP)
	g.MAC, g.UUID, g.Arch = mac, client.UUID, client.Arch
	s.remember(client)
	s.setChained(mac, false)

	ctx, cancel := context.WithTimeout(c.Request().Context(), deskTime)
	defer cancel()
	answer, err := s.cfg.Desk.Boot(ctx, client)
	var text string
	if err == nil {
		g.Detail, g.Boots = string(answer.Kind), answer.Kind
		if answer.Kind == Disk {
			g.Detail = "own disk"
		}
		err = s.complete(answer.Kind)
	}
	if err == nil {
		text, err = write(answer)
	}
	if err != nil {
		g.Detail, g.Boots, g.Err = "refused", "", err.Error()
		text = refuse(err.Error())
	}
	h.Set("Content-Length", strconv.Itoa(len(text)))
	err = c.String(http.StatusOK, text)
	g.Bytes = c.Response().Size
	s.sight(g)
	return err
}

// begin tells that a transfer has begun: how it ended may come late, or never
// when the PC is switched off.
func (s *Server) begin(g Sighting) time.Time {
	g.Time = time.Now()
	g.What, g.Began = "begin", g.Time
	s.sight(g)
	return g.Began
}

// sighting begins what is told of one HTTP request.
func (s *Server) sighting(c echo.Context, what string) Sighting {
	g := Sighting{What: what, Arch: NoArch}
	peer, err := netip.ParseAddrPort(c.Request().RemoteAddr)
	if err != nil {
		return g
	}
	a := peer.Addr().Unmap()
	g.IP, g.MAC = a.String(), s.macOf(a)
	if g.MAC != "" {
		k := s.client(g.MAC)
		g.UUID, g.Arch = k.UUID, k.Arch
	}
	return g
}
