package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/dns/dnsmessage"

	"refurb/agent/link"
	"refurb/appliance/netboot"
)

// lan is a switch in a namespace of its own, where the appliance is, with a cable
// to a PC's and to a router's. It is made and entered by the calling thread,
// which must end with the test.
type lan struct {
	*testing.T
	pc, router netns.NsHandle
}

func newLAN(t *testing.T) *lan {
	runtime.LockOSThread() // never unlocked
	l := &lan{T: t}
	far := func() netns.NsHandle {
		n, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	l.pc, l.router = far(), far()
	_ = far() // and stay there
	l.ip("link add br0 type bridge stp_state 0 forward_delay 0")
	l.ip("addr add 10.77.0.1/24 dev br0")
	l.ip("link set br0 up")
	for name, ns := range map[string]netns.NsHandle{"pc0": l.pc, "wan0": l.router} {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "to-" + name}, PeerName: name, PeerNamespace: netlink.NsFd(ns)}); err != nil {
			t.Fatal(err)
		}
		l.ip("link set to-" + name + " master br0 up")
	}
	return l
}

func (l *lan) ip(args string) {
	l.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		l.Fatalf("ip %s: %v %s", args, err, out)
	}
}

// in runs f on this thread, in another namespace.
func (l *lan) in(ns netns.NsHandle, f func()) {
	l.Helper()
	home, err := netns.Get()
	if err != nil {
		l.Fatal(err)
	}
	defer home.Close()
	if err := netns.Set(ns); err != nil {
		l.Fatal(err)
	}
	f()
	if err := netns.Set(home); err != nil {
		l.Fatal(err)
	}
}

// serve runs the boot service.
func (l *lan) serve(mode netboot.Mode) {
	l.Helper()
	s, err := netboot.New(netboot.Config{
		Interface: "br0", IP: netip.MustParseAddr("10.77.0.1"), Net: netip.MustParsePrefix("10.77.0.0/24"), Mode: mode,
		PoolFrom: netip.MustParseAddr("10.77.0.100"), PoolTo: netip.MustParseAddr("10.77.0.120"), HTTPPort: 8080, AgentsPort: 8443,
		Files: fstest.MapFS{}, LeaseFile: filepath.Join(l.TempDir(), "leases.json"), Desk: nobody{},
	})
	if err != nil {
		l.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	here, err := netns.Get()
	if err != nil {
		l.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := netns.Set(here); err != nil {
			done <- err
			return
		}
		done <- s.Run(ctx)
	}()
	l.Cleanup(func() {
		stop()
		if err := <-done; err != context.Canceled {
			l.Errorf("the boot service ended with %v", err)
		}
		here.Close()
	})
}

// nobody is a desk that boots nothing.
type nobody struct{}

func (nobody) Boot(context.Context, netboot.Client) (netboot.Answer, error) {
	return netboot.Answer{Kind: netboot.Disk}, nil
}
func (nobody) Sighting(netboot.Sighting) {}

// dnsmasq is the network's own DHCP server, at 10.77.0.254.
func (l *lan) dnsmasq(args ...string) {
	l.Helper()
	l.in(l.router, func() {
		l.ip("addr add 10.77.0.254/24 dev wan0")
		l.ip("link set wan0 up")
		cmd := exec.Command("dnsmasq", append([]string{"--no-daemon", "--conf-file=/dev/null", "--port=0", "--no-ping", "--interface=wan0", "--bind-interfaces",
			"--dhcp-range=10.77.0.50,10.77.0.60", "--dhcp-leasefile=" + filepath.Join(l.TempDir(), "leases")}, args...)...)
		if err := cmd.Start(); err != nil {
			l.Fatalf("dnsmasq: %v (run `make setup`)", err)
		}
		l.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	})
}

// liar answers every question by multicast DNS with hundreds of appliances.
func (l *lan) liar() {
	l.Helper()
	l.in(l.router, func() {
		wan, err := net.InterfaceByName("wan0")
		if err != nil {
			l.Fatal(err)
		}
		conn, err := net.ListenMulticastUDP("udp4", wan, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
		if err != nil {
			l.Fatal(err)
		}
		l.Cleanup(func() { conn.Close() })
		go func() {
			buf := make([]byte, 1500)
			for {
				_, from, err := conn.ReadFromUDP(buf)
				if err != nil {
					return
				}
				for i := range 400 {
					m := dnsmessage.Message{Header: dnsmessage.Header{Response: true}, Answers: []dnsmessage.Resource{{
						Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("x._refurb._tcp.local."), Class: dnsmessage.ClassINET},
						Body:   &dnsmessage.SRVResource{Port: uint16(20000 + i), Target: dnsmessage.MustNewName("x.local.")},
					}}}
					b, err := m.Pack()
					if err != nil {
						return
					}
					_, _ = conn.WriteToUDP(b, from)
				}
			}
		}()
	})
}

const asPC = "REFURB_TEST_AS_PC"

// find is what a PC from a stick finds. It is a process of its own, because its
// threads all have to be in the PC's namespace.
func (l *lan) find() (found []link.Found) {
	l.Helper()
	l.in(l.pc, func() {
		ctx, cancel := context.WithTimeout(l.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestAsPC$")
		cmd.Env, cmd.Stderr = append(os.Environ(), asPC+"=1"), os.Stderr
		out, err := cmd.Output()
		if err != nil {
			l.Fatalf("as a PC: %v\n%s", err, out)
		}
		for line := range strings.Lines(string(out)) {
			var f link.Found
			if json.Unmarshal([]byte(line), &f) == nil {
				found = append(found, f)
			}
		}
	})
	return found
}

// TestAsPC is the other process.
func TestAsPC(t *testing.T) {
	if os.Getenv(asPC) == "" {
		return // this test is a part of others
	}
	lease, err := link.Up(t.Context(), nil, slog.Default(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	err = lease.Find(ctx, func(f link.Found) {
		b, _ := json.Marshal(f)
		fmt.Println(string(b))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A PC from a stick finds the appliance whoever gives it its address.
func TestFoundFromAStick(t *testing.T) {
	const told = "https://10.99.0.1:8443"
	ours := []string{"DHCP https://10.77.0.1:8443", "mDNS https://10.77.0.1:8443"}
	for _, c := range []struct {
		name string
		set  func(*lan)
		want []string
	}{
		{"full", func(l *lan) { l.serve(netboot.Full) }, ours},
		{"proxy beside a router", func(l *lan) { l.dnsmasq(); l.serve(netboot.Proxy) }, ours},
		{"a router that was told", func(l *lan) { l.dnsmasq("--dhcp-option=vendor:" + link.Class + ",1," + told) }, []string{"DHCP " + told}},
		{"a router that was told wrong", func(l *lan) {
			l.dnsmasq("--dhcp-option=vendor:"+link.Class+",1,"+told, "--dhcp-option=vendor:"+link.Class+",2,more")
			l.serve(netboot.Proxy)
		}, []string{ours[0], "DHCP " + told, ours[1]}},
		{"nobody", func(l *lan) { l.dnsmasq() }, nil},
		{"a liar", func(l *lan) { l.dnsmasq(); l.liar(); l.serve(netboot.Proxy) }, ours[:1]},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			done := make(chan struct{})
			go func() { // Fatal ends this goroutine, and its thread with it
				defer close(done)
				l := newLAN(t)
				c.set(l)
				var got []string
				for _, f := range l.find() {
					got = append(got, f.By+" "+f.URL)
				}
				slices.Sort(got)
				if c.name == "a liar" { // it is heard, and shuts nobody out
					if len(got) < 10 || len(got) > 2*32 {
						t.Errorf("found %d", len(got))
					}
					got = slices.DeleteFunc(got, func(s string) bool { return !slices.Contains(c.want, s) })
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("found %v, want %v", got, c.want)
				}
			}()
			<-done
		})
	}
}
