package netboot

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// shop is a server without a network, whose packets are put in by hand.
type shop struct {
	*testing.T
	*Server
	desk *desk
	log  bytes.Buffer
	used map[netip.Addr]bool // addresses that somebody else answers for
}

func newShop(t *testing.T, change func(*Config)) *shop {
	t.Helper()
	s := &shop{T: t, desk: &desk{}, used: map[netip.Addr]bool{}}
	cfg := testConfig
	cfg.PoolTo = netip.MustParseAddr("10.77.0.101")
	cfg.Files, cfg.Desk = fstest.MapFS{}, s.desk
	cfg.LeaseFile = filepath.Join(t.TempDir(), "records", "leases.json")
	cfg.Log = slog.New(slog.NewTextHandler(&s.log, nil))
	if change != nil {
		change(&cfg)
	}
	s.start(cfg)
	return s
}

func (s *shop) start(cfg Config) {
	s.Helper()
	var err error
	s.Server, err = New(cfg)
	must(s, err)
	s.Server.taken = func(_ context.Context, a netip.Addr, _ string) bool { return s.used[a] }
}

// ask puts a packet in and gives the kind of reply and the address in it.
func (s *shop) ask(mac string, kind dhcpv4.MessageType, wanted string, mods ...dhcpv4.Modifier) (string, string) {
	s.Helper()
	p := request(s, kind, mods...)
	p.ClientHWAddr = hardware(s, mac)
	if wanted != "" {
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(netip.MustParseAddr(wanted).AsSlice()))
	}
	r, d := s.decide(s.Context(), p)
	if r == nil {
		return d.Err, ""
	}
	if a, ok := addr(r.YourIPAddr); ok {
		return d.Reply, a.String()
	}
	return d.Reply, ""
}

// boot is a whole handshake.
func (s *shop) boot(mac string) string {
	s.Helper()
	what, a := s.ask(mac, dhcpv4.MessageTypeDiscover, "")
	if what != "offer" {
		return what
	}
	what, b := s.ask(mac, dhcpv4.MessageTypeRequest, a, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(s.cfg.IP.AsSlice())))
	if what != "ack" || a != b {
		s.Errorf("%s was offered %s and then got %s %s", mac, a, what, b)
	}
	return b
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

const poolFull = "address pool is full"

func TestLeasesOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, nil)
		want(t, "first PC", s.boot(mac1), "10.77.0.100")
		want(t, "second PC", s.boot(mac2), "10.77.0.101")
		want(t, "third PC", s.boot(mac3), poolFull)
		time.Sleep(59 * time.Minute)
		want(t, "third PC, before a lease ended", s.boot(mac3), poolFull)
		want(t, "first PC again", s.boot(mac1), "10.77.0.100")
		time.Sleep(2 * time.Minute)
		// The second one's lease has ended, the first one's was renewed.
		want(t, "third PC", s.boot(mac3), "10.77.0.101")
		want(t, "second PC, too late", s.boot(mac2), poolFull)
		what, _ := s.ask(mac2, dhcpv4.MessageTypeRequest, "10.77.0.101")
		want(t, "second PC's old address", what, "nak")
		time.Sleep(3 * time.Hour)
		want(t, "first PC, after all leases ended", s.boot(mac1), "10.77.0.100")
		want(t, "third PC, likewise", s.boot(mac3), "10.77.0.101")
	})
}

func TestOffersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, nil)
		for i, mac := range []string{mac1, mac2} {
			_, a := s.ask(mac, dhcpv4.MessageTypeDiscover, "")
			want(t, "offer", a, fmt.Sprintf("10.77.0.%d", 100+i))
		}
		want(t, "while both are offered", s.boot(mac3), poolFull)
		time.Sleep(offerTime + time.Second)
		want(t, "later: the oldest", s.boot(mac3), "10.77.0.100")
		what, _ := s.ask(mac1, dhcpv4.MessageTypeRequest, "10.77.0.100", dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ours.AsSlice())))
		want(t, "the first one's late REQUEST", what, "nak")
		what, a := s.ask(mac2, dhcpv4.MessageTypeRequest, "10.77.0.101", dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ours.AsSlice())))
		want(t, "the second one's late REQUEST, still free", what+" "+a, "ack 10.77.0.101")
	})
}

func TestAddressesInUseByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, nil)
		s.used[given] = true
		want(t, "with one address in use", s.boot(mac1), "10.77.0.101")
		want(t, "with nothing left", s.boot(mac2), poolFull)
		s.ask(mac1, dhcpv4.MessageTypeDecline, "10.77.0.101")
		want(t, "after DECLINE", s.boot(mac1), poolFull)
		delete(s.used, given)
		time.Sleep(quarantine + time.Second)
		want(t, "after the quarantine", s.boot(mac1), "10.77.0.100")
		// A lease that is held is not asked for again: the PC itself would answer.
		s.used[given] = true
		want(t, "the same PC", s.boot(mac1), "10.77.0.100")
		// Nobody can take addresses away that it was not given.
		s.ask(mac3, dhcpv4.MessageTypeDecline, "10.77.0.100")
		s.ask(mac3, dhcpv4.MessageTypeRelease, "", dhcpv4.WithClientIP(given.AsSlice()))
		want(t, "the same PC", s.boot(mac1), "10.77.0.100")
	})
}

func TestReleaseAndOtherServer(t *testing.T) {
	s := newShop(t, nil)
	s.boot(mac1)
	s.ask(mac2, dhcpv4.MessageTypeDiscover, "")
	want(t, "full", s.boot(mac3), poolFull)
	s.ask(mac2, dhcpv4.MessageTypeRequest, "10.77.0.55", dhcpv4.WithOption(dhcpv4.OptServerIdentifier(netip.MustParseAddr("10.77.0.2").AsSlice())))
	want(t, "what another server's client left", s.boot(mac3), "10.77.0.101")
	s.ask(mac1, dhcpv4.MessageTypeRelease, "", dhcpv4.WithClientIP(given.AsSlice()))
	want(t, "what was released", s.boot(mac2), "10.77.0.100")
}

func TestLeasesOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, func(c *Config) { c.PoolTo = netip.MustParseAddr("10.77.0.110") })
		// The second PC first, so that order alone can't explain the result.
		want(t, "second", s.boot(mac2), "10.77.0.100")
		want(t, "first", s.boot(mac1), "10.77.0.101")
		s.ask(mac3, dhcpv4.MessageTypeDiscover, "") // an offer is not kept
		cfg := s.cfg
		s.start(cfg)
		want(t, "third", s.boot(mac3), "10.77.0.102")
		want(t, "first again", s.boot(mac1), "10.77.0.101")
		what, a := s.ask(mac2, dhcpv4.MessageTypeRequest, "10.77.0.100")
		want(t, "second, without asking for an offer", what+" "+a, "ack 10.77.0.100")

		// The pool moved, and the appliance took an address that was a PC's.
		cfg.PoolFrom, cfg.IP = netip.MustParseAddr("10.77.0.101"), netip.MustParseAddr("10.77.0.101")
		s.start(cfg)
		want(t, "second, out of the pool", s.boot(mac2), "10.77.0.103")
		want(t, "first, whose address is the appliance's", s.boot(mac1), "10.77.0.104")

		left, err := filepath.Glob(filepath.Join(filepath.Dir(cfg.LeaseFile), ".leases-*"))
		must(t, err)
		if len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func TestLeaseFileThatCantBeRead(t *testing.T) {
	good := `{"addr":"10.77.0.101","mac":"52:54:00:00:00:01","state":"bound","until":"2999-01-01T00:00:00Z"}`
	for _, tt := range []struct {
		name, text string
		broken     bool
		mac1       string // what the first PC gets
	}{
		{"good", `{"version":1,"leases":[` + good + `]}`, false, "10.77.0.101"},
		{"cut off", `{"version":1,"leases":[` + good, true, "10.77.0.100"},
		{"empty", "", true, "10.77.0.100"},
		{"zeroes", strings.Repeat("\x00", 4096), true, "10.77.0.100"},
		{"of a later version", `{"version":2,"leases":[]}`, true, "10.77.0.100"},
		{"with an address twice", `{"version":1,"leases":[` + good + `,` + strings.Replace(good, "00:01", "00:02", 1) + `]}`, false, "10.77.0.101"},
		{"with a PC twice", `{"version":1,"leases":[` + good + `,` + strings.Replace(good, "0.101", "0.100", 1) + `]}`, false, "10.77.0.101"},
		{"with nonsense for a MAC", `{"version":1,"leases":[` + strings.Replace(good, "52:54", "$(id)", 1) + `]}`, false, "10.77.0.100"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var path string
			s := newShop(t, func(c *Config) {
				path = c.LeaseFile
				must(t, os.MkdirAll(filepath.Dir(path), 0o755))
				must(t, os.WriteFile(path, []byte(tt.text), 0o644))
			})
			want(t, "first PC", s.boot(mac1), tt.mac1)
			aside, err := os.ReadFile(path + ".broken")
			if (err == nil) != tt.broken || err == nil && string(aside) != tt.text {
				t.Errorf("moved aside: %v", err)
			}
			if strings.Contains(s.log.String(), "level=WARN") != tt.broken {
				t.Errorf("the log: %s", &s.log)
			}
			now := time.Now()
			for _, e := range s.leases.byAddr {
				if e.Until.After(now.Add(2 * time.Hour)) {
					t.Errorf("%v is locked up until %v", e.Addr, e.Until)
				}
			}
		})
	}
}

// A lease that can't be written is told of, and the PC boots.
func TestLeaseFileThatCantBeWritten(t *testing.T) {
	s := newShop(t, nil)
	dir := filepath.Dir(s.cfg.LeaseFile)
	must(t, os.RemoveAll(dir))
	must(t, os.WriteFile(dir, nil, 0o644)) // a file where the folder was: root is not stopped by permissions
	_, d := s.decide(t.Context(), request(t, dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(given.AsSlice()))))
	if d.Reply != "ack" || !strings.Contains(d.Err, "lease file was not written") {
		t.Errorf("%+v", d)
	}
}

// Whatever PCs do in whatever order, no two hold one address at one time.
func TestNoTwoHoldOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pcs, seed = 12, 7
		rng := rand.New(rand.NewPCG(seed, seed))
		s := newShop(t, func(c *Config) { c.PoolTo = netip.MustParseAddr("10.77.0.107") })
		type hold struct {
			mac   int
			until time.Time
		}
		held := map[string]hold{}
		for step := range 4000 {
			n := rng.IntN(pcs)
			mac := fmt.Sprintf("52:54:00:00:01:%02x", n)
			pick := fmt.Sprintf("10.77.0.%d", 98+rng.IntN(12))
			var what, a string
			switch rng.IntN(8) {
			case 0:
				s.ask(mac, dhcpv4.MessageTypeRelease, "", dhcpv4.WithClientIP(netip.MustParseAddr(pick).AsSlice()))
				if held[pick].mac == n {
					delete(held, pick)
				}
			case 1:
				what, a = s.ask(mac, dhcpv4.MessageTypeRequest, pick)
			case 2:
				time.Sleep(time.Duration(rng.IntN(40)) * time.Minute)
			case 3:
				s.start(s.cfg)
			default:
				what, a = "ack", s.boot(mac)
			}
			if what != "ack" || a == poolFull {
				continue
			}
			if h, ok := held[a]; ok && h.mac != n && time.Now().Before(h.until) {
				t.Fatalf("step %d: %s went to PC %d and is PC %d's", step, a, n, h.mac)
			}
			for k, h := range held {
				if h.mac == n {
					delete(held, k)
				}
			}
			held[a] = hold{n, time.Now().Add(s.cfg.Lease)}
			if got := netip.MustParseAddr(a); got.Less(s.cfg.PoolFrom) || s.cfg.PoolTo.Less(got) {
				t.Fatalf("step %d: %v is not in the pool", step, got)
			}
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no interface", func(c *Config) { c.Interface = "" }, "no interface"},
		{"address outside", func(c *Config) { c.IP = netip.MustParseAddr("10.78.0.1") }, "outside its network"},
		{"IPv6", func(c *Config) { c.IP = netip.MustParseAddr("fd00::1") }, "IPv4"},
		{"pool outside", func(c *Config) { c.PoolTo = netip.MustParseAddr("10.78.0.1") }, "both ends"},
		{"pool backwards", func(c *Config) { c.PoolTo = netip.MustParseAddr("10.77.0.99") }, "the lower one first"},
		{"pool of the appliance alone", func(c *Config) { c.PoolFrom, c.PoolTo = c.IP, c.IP }, "no address to give"},
		{"a lease of seconds", func(c *Config) { c.Lease = time.Second }, "lease of 1s"},
		{"no lease file", func(c *Config) { c.LeaseFile = "" }, "lease file"},
		{"port", func(c *Config) { c.HTTPPort = 70000 }, "port"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig
			cfg.Files, cfg.Desk, cfg.LeaseFile = fstest.MapFS{}, &desk{}, filepath.Join(t.TempDir(), "l")
			tt.change(&cfg)
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want it to say %q", err, tt.want)
			}
		})
	}
}
