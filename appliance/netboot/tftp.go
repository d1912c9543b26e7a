package netboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/pin/tftp/v3"
)

const (
	tftpStop     = 3 * time.Second // for transfers in flight when we end
	maxTransfers = 256             // at once; every firmware asks again
	maxOfOnePC   = 16              // of these; what a PC that was restarted left behind goes on for ten seconds
)

// serveTFTP hands out boot files until ctx ends.
func (s *Server) serveTFTP(ctx context.Context, conn *net.UDPConn) error {
	srv := tftp.NewServer(s.readTFTP, nil)
	// Clients wait up to 4 s before they ask again, so a lost packet is ours to
	// notice. The library would also sleep up to a second first, at random.
	srv.SetTimeout(time.Second)
	srv.SetRetries(9)
	srv.SetBackoff(func(int) time.Duration { return 0 })
	done := make(chan error, 1)
	go func() { done <- srv.Serve(conn) }()
	select {
	case err := <-done:
		return fmt.Errorf("TFTP ended: %w", errors.Join(err, ctx.Err()))
	case <-ctx.Done():
	}
	// Shutdown waits for every transfer, and a PC that was switched off keeps
	// its one for as long as the retries last.
	stopped := make(chan struct{})
	go func() {
		srv.Shutdown()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-time.After(tftpStop):
		s.log.Debug("TFTP: ended with transfers in flight")
	}
	return ctx.Err()
}

func (s *Server) readTFTP(name string, to io.ReaderFrom) error {
	g := Sighting{What: "tftp", Arch: NoArch}
	var peer netip.Addr
	if t, ok := to.(tftp.OutgoingTransfer); ok {
		from := t.RemoteAddr()
		peer = from.AddrPort().Addr().Unmap()
		g.IP, g.MAC = peer.String(), s.macOf(peer)
		if g.MAC != "" {
			c := s.client(g.MAC)
			g.UUID, g.Arch = c.UUID, c.Arch
		}
	}
	clean := cleanName(name)
	g.Detail = printable(clean)
	g.File = g.Detail
	// A request is one packet, from whom it says; the file would be open and the
	// socket with it until the retries end.
	if !s.transfer(peer, +1) {
		g.Err = "too many files are fetched at once"
		s.sight(g)
		return errors.New("busy, ask again")
	}
	defer s.transfer(peer, -1)
	f, size, err := s.open(clean)
	if err != nil {
		// shim and GRUB ask for files that are optional.
		g.Detail += ": not here"
		g.Missing = errors.Is(err, fs.ErrNotExist)
		if !errors.Is(err, fs.ErrNotExist) {
			g.Err = err.Error()
		}
		s.sight(g)
		return errors.New("file not found")
	}
	defer f.Close()
	if t, ok := to.(tftp.OutgoingTransfer); ok {
		t.SetSize(size)
	}
	g.Size = size
	g.Began = s.begin(g)
	g.Bytes, err = to.ReadFrom(f)
	switch {
	case err == nil:
		if clean == "undionly.kpxe" {
			s.setChained(g.MAC, true)
		}
	case g.Bytes == 0:
		// EDK2 and shim ask for the size first and break off (TFTP error 8).
		g.Detail += ": asked for its size"
		g.Probe = true
		err = nil
	default:
		g.Err = fmt.Sprintf("broken off after %d of %d bytes: %v", g.Bytes, size, err)
	}
	s.sight(g)
	return err
}

// transfer counts one that begins or has ended; it is false when one more would
// be too many.
func (s *Server) transfer(peer netip.Addr, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 && (s.transferring >= maxTransfers || s.transfers[peer] >= maxOfOnePC) {
		return false
	}
	s.transferring += n
	if s.transfers[peer] += n; s.transfers[peer] == 0 {
		delete(s.transfers, peer)
	}
	return true
}

// file is what boot files are read through.
type file interface {
	io.ReadSeeker
	io.Closer
}

// open finds a boot file by its cleaned name. There are no folders: a name is
// one of Config.Files or the generated grub/grub.cfg.
func (s *Server) open(name string) (file, int64, error) {
	if name == "grub/grub.cfg" {
		text := grubEntry(s.cfg.host())
		return closer{strings.NewReader(text)}, int64(len(text)), nil
	}
	if !flat(name) {
		return nil, 0, fs.ErrNotExist
	}
	f, err := s.cfg.Files.Open(name)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	rs, ok := f.(file)
	if err == nil && !ok {
		err = errors.New("the boot files can't be read from the middle")
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return rs, st.Size(), nil
}

type closer struct{ *strings.Reader }

func (closer) Close() error { return nil }

// cleanName brings a name as firmware writes it ("//shimx64.efi",
// "\\grubx64.efi", "/boot/shimx64.efi") into ours.
func cleanName(s string) string {
	if len(s) > 512 {
		return ""
	}
	s = path.Clean("/" + strings.ReplaceAll(s, `\`, "/"))
	s = strings.TrimPrefix(s, "/boot/")
	return strings.TrimPrefix(s, "/")
}

// flat: a plain file name, nothing that a path or a hidden file could be.
func flat(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '.' {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)) {
			return false
		}
	}
	return true
}

// printable keeps what a client sent out of logs and screens unless it is
// plain text.
func printable(s string) string {
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 127 || r == 0xfffd {
			return '?'
		}
		return r
	}, s)
}
