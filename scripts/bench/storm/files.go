package storm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"
)

// Transfer is one file by TFTP, as a firmware asks for it.
type Transfer struct {
	Name     string
	Block    int  // RFC 2348; 512 is asked for as well
	Window   int  // RFC 7440; 0: not asked for
	Size     bool // RFC 2349
	OnlySize bool // break off when the size is known
	Optional bool // it need not be there
}

// TFTP's kinds of packets (RFC 1350, RFC 2347).
const (
	opRead, opData, opAck, opError, opOptions = 1, 3, 4, 5, 6
)

// tftpWait is EDK2's; iPXE asks again after a quarter of a second first.
const tftpWait = 4 * time.Second

// fetch gets one file and compares it.
func (p *machine) fetch(ctx context.Context, t Transfer) (got int64, err error) {
	var conn *net.UDPConn
	if err := p.room.Inside(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: p.Address.AsSlice()})
		return err
	}); err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	var want []byte
	if p.room.Content != nil {
		want = p.room.Content(path.Base(t.Name))
	}
	to := netip.AddrPortFrom(p.Server, 69)
	last := t.request() // what is sent again when nothing comes
	if _, err := conn.WriteToUDPAddrPort(last, to); err != nil {
		return 0, err
	}
	block, window := 512, 1
	var have uint16 // blocks, modulo
	var unacked int
	buf := make([]byte, 65536)
	for quiet := 0; ; {
		if err := conn.SetReadDeadline(time.Now().Add(tftpWait)); err != nil {
			return got, err
		}
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if isTimeout(err) {
			if quiet++; quiet == tries {
				return got, errSilence
			}
			p.Repeats++
			if _, err := conn.WriteToUDPAddrPort(last, to); err != nil {
				return got, err
			}
			continue
		}
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return got, err
		}
		if from.Addr().Unmap() != p.Server || n < 4 {
			continue
		}
		if to.Port() == 69 {
			to = netip.AddrPortFrom(p.Server, from.Port()) // the server's socket for this transfer
		} else if from.Port() != to.Port() {
			continue // an answer to a repeated request
		}
		quiet = 0
		switch binary.BigEndian.Uint16(buf) {
		case opError:
			if t.Optional {
				return got, nil
			}
			return got, fmt.Errorf("refused: %q", buf[4:n])
		case opOptions:
			if block, window, err = options(buf[2:n], t); err != nil {
				return got, err
			}
			if t.OnlySize {
				_, err := conn.WriteToUDPAddrPort([]byte{0, opError, 0, 8, 0}, to)
				return got, err
			}
			last = []byte{0, opAck, 0, 0}
			if _, err := conn.WriteToUDPAddrPort(last, to); err != nil {
				return got, err
			}
		case opData:
			number, data := binary.BigEndian.Uint16(buf[2:]), buf[4:n]
			end := len(data) < block
			if number == have+1 {
				have++
				if want != nil && !bytes.HasPrefix(want[min(got, int64(len(want))):], data) {
					return got, fmt.Errorf("wrong bytes in block %d", number)
				}
				got += int64(len(data))
				unacked++
			} else if unacked == 0 && !end {
				continue // a repeated block, acknowledged already
			}
			if unacked < window && !end {
				continue
			}
			unacked = 0
			last = []byte{0, opAck, byte(have >> 8), byte(have)}
			if _, err := conn.WriteToUDPAddrPort(last, to); err != nil {
				return got, err
			}
			if end && number == have {
				if want != nil && got != int64(len(want)) {
					return got, fmt.Errorf("it has %d bytes, want %d", got, len(want))
				}
				return got, nil
			}
		}
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func (t Transfer) request() []byte {
	b := []byte{0, opRead}
	add := func(s ...string) {
		for _, s := range s {
			b = append(append(b, s...), 0)
		}
	}
	add(t.Name, "octet")
	if t.Size || t.OnlySize {
		add("tsize", "0")
	}
	add("blksize", strconv.Itoa(t.Block))
	if t.Window > 1 {
		add("windowsize", strconv.Itoa(t.Window))
	}
	return b
}

// options reads what the server grants of what was asked for.
func options(b []byte, t Transfer) (block, window int, err error) {
	block, window = 512, 1
	f := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	for i := 0; i+1 < len(f); i += 2 {
		n, err := strconv.Atoi(f[i+1])
		if err != nil {
			return 0, 0, fmt.Errorf("option %q is %q", f[i], f[i+1])
		}
		switch strings.ToLower(f[i]) {
		case "blksize":
			block = n
		case "windowsize":
			window = n
		}
	}
	if block < 8 || block > t.Block || window < 1 || window > max(t.Window, 1) {
		return 0, 0, fmt.Errorf("it grants blocks of %d and a window of %d, %d and %d were asked for", block, window, t.Block, t.Window)
	}
	return block, window, nil
}

// web is a PC's HTTP, from its own address.
type web struct {
	http.Client
	buf []byte
}

func newWeb(from netip.Addr, inside func(func() error) error) *web {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: 20 * time.Second}
	dial := func(ctx context.Context, network, to string) (conn net.Conn, err error) {
		err = inside(func() (err error) {
			conn, err = d.DialContext(ctx, network, to)
			return err
		})
		return conn, err
	}
	return &web{buf: make([]byte, 256<<10), Client: http.Client{Transport: &http.Transport{
		DialContext: dial, DisableCompression: true, MaxIdleConnsPerHost: 1}}}
}

func (w *web) close() { w.CloseIdleConnections() }

const webPort = "8080"

// get fetches one file over HTTP and compares it; of a script it only wants that
// there is one.
func (p *machine) get(ctx context.Context, at string) (got int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(p.Server.String(), webPort)+at, nil)
	if err != nil {
		return 0, err
	}
	resp, err := p.web.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, errors.New(resp.Status)
	}
	var want []byte
	if p.room.Content != nil {
		want = p.room.Content(path.Base(at))
	}
	for {
		n, err := resp.Body.Read(p.web.buf)
		if want != nil && !bytes.HasPrefix(want[min(got, int64(len(want))):], p.web.buf[:n]) {
			return got, fmt.Errorf("wrong bytes after %d", got)
		}
		got += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return got, err
		}
	}
	if want != nil && got != int64(len(want)) || got == 0 {
		return got, fmt.Errorf("it has %d bytes, want %d", got, len(want))
	}
	return got, nil
}
