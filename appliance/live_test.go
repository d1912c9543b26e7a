package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"refurb/appliance/netboot"
	"refurb/appliance/trace"
)

// What stops PCs is provoked with real packets through the real boot service,
// and the trace names it. The test plays all of it in a network namespace of a
// process of its own, which ends with it.
func TestTraceOfRealPackets(t *testing.T) {
	inOwnNetwork(t, live)
}

const (
	liveServer = "10.77.0.1"
	livePC     = "10.77.0.100"
)

// street is the appliance's boot service and, at the other end of a cable, a PC.
type street struct {
	*testing.T
	far  netns.NsHandle
	log  *trace.Log
	mac  string
	mu   sync.Mutex
	boot func() (netboot.Answer, error)
}

func (s *street) Boot(context.Context, netboot.Client) (netboot.Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boot()
}

func (s *street) Sighting(g netboot.Sighting) { s.log.Add(traced(g)) }

func live(t *testing.T) {
	s := &street{T: t}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	ok(err)
	ok(netlink.LinkSetUp(lo))
	made := make(chan error)
	go func() { // a namespace lives as long as a descriptor of it
		runtime.LockOSThread()
		var err error
		s.far, err = netns.New()
		made <- err
	}()
	ok(<-made)
	ok(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "srv"}, PeerName: "pc", PeerNamespace: netlink.NsFd(s.far)}))
	srv, err := netlink.LinkByName("srv")
	ok(err)
	addr, err := netlink.ParseAddr(liveServer + "/24")
	ok(err)
	ok(netlink.AddrAdd(srv, addr))
	ok(netlink.LinkSetUp(srv))
	s.inside(func() error {
		pc, err := netlink.LinkByName("pc")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(pc)
	})
	s.eventually("the cable's link", func() bool {
		l, err := netlink.LinkByName("srv")
		return err == nil && l.Attrs().OperState == netlink.OperUp
	})
	for _, c := range []struct {
		name  string
		play  func(s *street)
		after time.Duration
		want  string
		says  string
	}{
		{"takes no offer", func(s *street) {
			for range 3 {
				s.discover(pxe64)
			}
		}, 20 * time.Second, "offer-ignored", "3 times"},
		{"takes another server's offer", func(s *street) {
			s.discover(pxe64)
			s.send(dhcpv4.MessageTypeRequest, pxe64, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 77, 0, 9))))
		}, 20 * time.Second, "other-server", "10.77.0.9"},
		{"has an address and fetches nothing", func(s *street) { s.lease(pxe64) }, 30 * time.Second, "file-not-asked", "TFTP"},
		{"refuses shim", func(s *street) { s.lease(pxe64); s.tftp("shimx64.efi", -1) }, 30 * time.Second, "shim-refused", "3rd Party"},
		{"loses shim on the way", func(s *street) { s.lease(pxe64); s.tftp("shimx64.efi", 20) }, 30 * time.Second, "tftp-broken", "shimx64.efi"},
		{"is sent elsewhere by its router", func(s *street) { s.lease(pxe64); s.tftp("pxelinux.0", 0) }, 30 * time.Second, "foreign-file-full", "pxelinux.0"},
		{"loses its initramfs on the way", func(s *street) {
			s.lease(pxe64)
			s.tftp("shimx64.efi", -1)
			s.get("/boot/grub/"+strings.ReplaceAll(s.mac, ":", "-"), -1)
			s.get("/boot/vmlinuz", -1)
			s.get("/boot/initrd", 1<<20)
		}, 30 * time.Second, "http-broken", "initrd"},
		{"never says hello", func(s *street) {
			s.lease(ipxe)
			s.get("/boot/ipxe/"+strings.ReplaceAll(s.mac, ":", "-"), -1)
			s.get("/boot/vmlinuz", -1)
			s.get("/boot/initrd", -1)
		}, 3 * time.Minute, "no-hello-card", "pci 8086:153a"},
		{"is refused", func(s *street) {
			s.answers(netboot.Answer{}, errors.New("Too many PCs ask at once"))
			s.lease(ipxe)
			s.get("/boot/ipxe/"+strings.ReplaceAll(s.mac, ":", "-"), -1)
		}, time.Second, "script-refused", "Too many PCs"},
		{"has nothing on its disk", func(s *street) {
			s.answers(netboot.Answer{Kind: netboot.Disk}, nil)
			s.lease(ipxe)
			s.get("/boot/ipxe/"+strings.ReplaceAll(s.mac, ":", "-"), -1)
			s.discover(ipxe)
		}, time.Second, "disk-loop", "nothing on that disk"},
		{"is of another kind", func(s *street) {
			s.send(dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{class("PXEClient:Arch:00027:UNDI:003000"), arch(27)})
		}, time.Second, "architecture", "no boot file"},
		{"declines its address", func(s *street) {
			s.lease(pxe64)
			s.send(dhcpv4.MessageTypeDecline, pxe64, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(livePC))))
		}, time.Second, "address-taken", livePC},
		{"wants an address of elsewhere", func(s *street) {
			for range 2 {
				s.send(dhcpv4.MessageTypeRequest, pxe64, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(192, 168, 1, 50))))
			}
		}, time.Second, "nak-loop", "2 times"},
		{"is a phone", func(s *street) { s.discover(nil) }, time.Hour, "not-netboot", "isn’t starting"},
		{"finds no address left", func(s *street) {
			mac := s.mac
			for _, s.mac = range []string{"52:54:00:00:01:01", "52:54:00:00:01:02"} {
				s.lease(pxe64)
			}
			s.mac = mac
			s.send(dhcpv4.MessageTypeDiscover, pxe64)
		}, time.Second, "pool-full", "larger pool"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &street{T: t, far: s.far, mac: "52:54:00:00:00:07"}
			s.answers(netboot.Answer{Kind: netboot.Agent, Args: []string{"x=y"}}, nil)
			s.open()
			c.play(s)
			s.eventually("the trace to say "+c.want, func() bool {
				for _, st := range s.log.Starts() {
					if !st.Has(s.mac) {
						continue
					}
					for _, f := range trace.Diagnose(st, time.Now().Add(c.after)) {
						if f.ID == c.want && strings.Contains(f.Cause()+f.Next(), c.says) {
							return true
						}
					}
				}
				return false
			})
		})
	}
}

// open runs a boot service of its own until the test ends.
func (s *street) open() {
	s.Helper()
	var err error
	if s.log, err = trace.Open(filepath.Join(s.TempDir(), "trace"), nil); err != nil {
		s.Fatal(err)
	}
	s.log.SetMode("full")
	s.address(netlink.AddrDel)
	big := make([]byte, 8<<20)
	boot, err := netboot.New(netboot.Config{
		Interface: "srv", IP: netip.MustParseAddr(liveServer), Net: netip.MustParsePrefix(liveServer + "/24").Masked(), Mode: netboot.Full,
		PoolFrom: netip.MustParseAddr(livePC), PoolTo: netip.MustParseAddr("10.77.0.101"), HTTPPort: 8080,
		Files: fstest.MapFS{"shimx64.efi": {Data: big[:100_000]}, "undionly.kpxe": {Data: big[:1000]}, "grubia32.efi": {Data: big[:1000]},
			"vmlinuz": {Data: big[:1<<20]}, "initrd": {Data: big}},
		LeaseFile: filepath.Join(s.TempDir(), "leases.json"), Desk: s,
	})
	if err != nil {
		s.Fatal(err)
	}
	e := newEcho()
	e.Pre(netboot.CleanPath)
	boot.Register(e)
	ln, err := net.Listen("tcp", liveServer+":8080")
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	web := &http.Server{Handler: e, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 2)
	go func() { ended <- web.Serve(boot.Listener(ln)) }()
	go func() { ended <- boot.Run(ctx) }()
	s.Cleanup(func() {
		cancel()
		_ = web.Close()
		for range 2 {
			if err := <-ended; !errors.Is(err, context.Canceled) && !errors.Is(err, http.ErrServerClosed) {
				s.Errorf("the boot service: %v", err)
			}
		}
	})
	s.eventually("the boot service", func() bool {
		open, err := os.ReadFile("/proc/thread-self/net/udp")
		return err == nil && strings.Contains(string(open), ":0045 ") // TFTP
	})
}

func (s *street) answers(a netboot.Answer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boot = func() (netboot.Answer, error) { return a, err }
}

func (s *street) eventually(what string, ok func() bool) {
	s.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().Before(end) {
			continue
		}
		if s.log != nil {
			for _, st := range s.log.Starts() {
				s.Log(st.MACs, st.Firmware(), trace.Diagnose(st, time.Now()))
				for i := range st.Lines {
					s.Log("  ", st.Lines[i].Text())
				}
			}
		}
		s.Fatalf("waited in vain for %s", what)
	}
}

// inside runs f in the PC's namespace.
func (s *street) inside(f func() error) {
	s.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(s.far); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		s.Fatal(err)
	}
}

func class(c string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptClassIdentifier(c)) }

func arch(n byte) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, n}))
}

var (
	pxe64 = []dhcpv4.Modifier{class("PXEClient:Arch:00007:UNDI:003016"), arch(7)}
	ipxe  = []dhcpv4.Modifier{class("PXEClient:Arch:00000:UNDI:002001"), arch(0),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE"))),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), []byte{177, 5, 1, 0x80, 0x86, 0x15, 0x3a}))}
)

// client is the PC's firmware on the wire.
func (s *street) client() *nclient4.Client {
	s.Helper()
	hw, err := net.ParseMAC(s.mac)
	if err != nil {
		s.Fatal(err)
	}
	var c *nclient4.Client
	s.inside(func() (err error) {
		c, err = nclient4.New("pc", nclient4.WithHWAddr(hw), nclient4.WithTimeout(3*time.Second), nclient4.WithRetry(1))
		return err
	})
	return c
}

func (s *street) discover(as []dhcpv4.Modifier) {
	s.Helper()
	c := s.client()
	defer c.Close()
	if _, err := c.DiscoverOffer(s.Context(), as...); err != nil {
		s.Fatal(err)
	}
}

func (s *street) lease(as []dhcpv4.Modifier) {
	s.Helper()
	c := s.client()
	defer c.Close()
	if _, err := c.Request(s.Context(), as...); err != nil {
		s.Fatal(err)
	}
	s.address(netlink.AddrAdd)
}

// address gives the PC its address or takes it away.
func (s *street) address(f func(netlink.Link, *netlink.Addr) error) {
	s.Helper()
	s.inside(func() error {
		pc, err := netlink.LinkByName("pc")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(livePC + "/24")
		if err != nil {
			return err
		}
		if err := f(pc, a); !errors.Is(err, syscall.EEXIST) && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return err
		}
		return nil
	})
}

// send sends one packet and waits for no answer.
func (s *street) send(kind dhcpv4.MessageType, as []dhcpv4.Modifier, more ...dhcpv4.Modifier) {
	s.Helper()
	hw, err := net.ParseMAC(s.mac)
	if err != nil {
		s.Fatal(err)
	}
	m, err := dhcpv4.New(append(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(kind), dhcpv4.WithBroadcast(true)}, as...), more...)...)
	if err != nil {
		s.Fatal(err)
	}
	c := s.client()
	defer c.Close()
	ctx, cancel := context.WithTimeout(s.Context(), 300*time.Millisecond)
	defer cancel()
	_, _ = c.SendAndRead(ctx, &net.UDPAddr{IP: net.IPv4bcast, Port: 67}, m, nil)
}

// tftp fetches a file and stops after so many blocks with an error, as a PC does
// that has had enough; -1: never.
func (s *street) tftp(name string, blocks int) {
	s.Helper()
	s.inside(func() error {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(livePC)})
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, err := c.WriteTo([]byte("\x00\x01"+name+"\x00octet\x00"), &net.UDPAddr{IP: net.ParseIP(liveServer), Port: 69}); err != nil {
			return err
		}
		buf := make([]byte, 1500)
		for i := 1; ; i++ {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return err
			}
			if n < 4 || buf[1] == 5 {
				return nil // it isn't there
			}
			reply := []byte{0, 4, buf[2], buf[3]}
			if i == blocks {
				reply = []byte("\x00\x05\x00\x00no more\x00")
			}
			if _, err := c.WriteTo(reply, from); err != nil || i == blocks || n < 4+512 {
				return err
			}
		}
	})
}

// get fetches a file by HTTP and hangs up after so many bytes; -1: never.
func (s *street) get(path string, most int64) {
	s.Helper()
	s.inside(func() error {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(livePC)}}).Dial("tcp4", liveServer+":8080")
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.0\r\n\r\n", path); err != nil {
			return err
		}
		if most >= 0 {
			_, err = io.CopyN(io.Discard, c, most)
			return errors.Join(err, c.(*net.TCPConn).SetLinger(0))
		}
		_, err = io.Copy(io.Discard, c)
		return err
	})
}
