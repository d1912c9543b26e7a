// Package netboot answers the network boot of PCs: DHCP or proxyDHCP, TFTP and
// the boot files and scripts over HTTP. It asks a Desk what a PC shall boot and
// tells it what it saw; it knows nothing else of the workshop.
//
// The way of a PC, by firmware:
//
//	BIOS            TFTP undionly.kpxe (iPXE) → HTTP script → kernel, initramfs
//	BIOS with iPXE  HTTP script → kernel, initramfs
//	UEFI x64        TFTP shimx64.efi → grubx64.efi → grub.cfg → HTTP config → kernel, initramfs
//	UEFI x64 HTTP   the same by HTTP from the start
//	UEFI IA32       grubia32.efi, unsigned: there is no signed shim for it
//
// Every UEFI x64 PC gets the signed chain, because DHCP can't see whether
// Secure Boot is on. What goes into each packet is Decide, a pure function.
package netboot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// NoArch is the Arch of a packet or client that named no architecture.
const NoArch uint16 = 0xffff

// Config of a Server. Interface, IP, Net, HTTPPort, Files and Desk are needed
// always, the pool and LeaseFile unless Mode is Proxy or IP is Lent.
type Config struct {
	Interface string
	IP        netip.Addr    // the appliance's own address on Interface
	Net       netip.Prefix  // the network it lies in
	Mode      Mode          // Auto: as the network is, also while the server runs
	Found     []Other       // what Look found before
	Asked     bool          // and that it could ask
	Lent      bool          // IP was given by another server: addresses of Net are never ours to give
	PoolFrom  netip.Addr    // first and last address handed out; at most 65,536 are used
	PoolTo    netip.Addr    //
	Lease     time.Duration // of an address; an hour when zero
	Router    netip.Addr    // given to PCs when valid
	DNS       []netip.Addr  // given to PCs when not empty
	Networks  []Network     // further ones, behind relays; given addresses while in Full mode
	HTTPPort  int           // where Register's routes are reached from outside
	Files     fs.FS         // boot files by flat name: vmlinuz, initrd, shimx64.efi, grubx64.efi, undionly.kpxe, grubia32.efi…
	LeaseFile string        // JSON; written before an address is acknowledged

	// AgentsPort is the agents' API's; agents that come from a stick are told of it.
	// 0: they aren't.
	AgentsPort int

	// RouterAdvert answers IPv6 router solicitations with an empty
	// advertisement, so that iPXE doesn't wait for a router that isn't there.
	// Only while in Full mode: in another's network it is not ours to speak.
	RouterAdvert bool

	// Changed is told of every change of the mode, and of what it rests on, the
	// first one included; nil: nobody is. It must not block.
	Changed func(Status)

	Log  *slog.Logger
	Desk Desk

	// TestPlainROM treats a BIOS ROM that is iPXE, as QEMU's is, like a
	// vendor's: it gets undionly.kpxe first, and the script once that runs.
	// Tests only.
	TestPlainROM bool
}

// Client is a PC as the boot chain knows it.
type Client struct {
	MAC      string     // "52:54:00:12:34:56"
	UUID     string     // of SMBIOS, lower case; empty when unknown
	Arch     uint16     // option 93 (RFC 4578, RFC 5970); NoArch when unknown
	IP       netip.Addr // where it speaks from; invalid when it has no address yet
	IPXE     bool       // it is iPXE that asks
	Asked    time.Time  // when it last asked for an address; zero: never seen to
	HTTPBoot bool       // UEFI HTTP Boot
	Card     string     // the network card that it starts from, "pci 8086:153a"; empty unless it says so, as iPXE does
}

// Kind of thing that a PC can boot.
type Kind string

const (
	Agent  Kind = "agent"
	Disk   Kind = "disk"   // its own
	Shell  Kind = "shell"  // the agent's kernel and initramfs with a shell for a person
	Memory Kind = "memory" // the memory test
)

// Answer is what a PC shall boot.
type Answer struct {
	Kind Kind
	Args []string // kernel arguments for Agent and Shell; [A-Za-z0-9] and "._:/=,+@%~-" only
}

// Desk is the workshop, as the boot chain needs it.
type Desk interface {
	// Boot says what the PC shall boot. It is called once for every script
	// fetched by GET, never for HEAD; one start may fetch it several times, and
	// Client.Asked tells starts apart. An error is shown on the PC's screen.
	Boot(ctx context.Context, c Client) (Answer, error)
	// Sighting is told of every packet and file; they are not logged otherwise.
	// It must not block.
	Sighting(s Sighting)
}

// Sighting is one packet or file of a PC's boot.
type Sighting struct {
	Time   time.Time
	MAC    string // empty when a file was fetched from an address that we don't know
	UUID   string
	IP     string
	What   string // "discover", "offer", "request", "ack", "nak", "decline", "release", "inform", "malformed", "begin", "tftp", "http", "script", "mdns"
	Detail string
	Arch   uint16 // NoArch when unknown
	Bytes  int64  // sent
	Err    string // what went wrong, in words for people; empty when nothing did

	// What a diagnosis needs beside the words.
	Problem string    // the kind of Err, for some; see Problem…
	Via     string    // DHCP: who asks, "pxe", "http" or "ipxe"; empty: not a PC that starts from the network
	Secs    int       // DHCP: for how many seconds it has been asking, as it says itself
	Port    int       // DHCP: ours that it came to
	Server  string    // DHCP: another server that the packet is meant for
	Card    string    // Client.Card
	File    string    // what is fetched, asked for in vain, or named in our reply
	Size    int64     // of File; 0: not known
	Began   time.Time // of a transfer: the same in its "begin" and in its end
	Probe   bool      // only File's size was wanted
	Missing bool      // there is no such File
	Boots   Kind      // a script; empty when it was refused
}

// Kinds of Sighting.Err.
const (
	ProblemPool  = "pool"  // no address left
	ProblemTaken = "taken" // an address is in use by somebody else
	ProblemArch  = "arch"  // nothing here boots this architecture
	ProblemFile  = "file"  // its first boot file isn't there
	ProblemSend  = "send"  // the reply could not be sent
	ProblemRelay = "relay" // came over a relay from a network that isn't set up
	ProblemOther = "other" // another DHCP server answers on this network
)

// Server is one workshop network's boot service.
type Server struct {
	cfg    Config
	log    *slog.Logger
	leases *leases // nil when it never gives addresses
	taken  func(ctx context.Context, a netip.Addr, mac string) bool

	transferring int                // by TFTP
	transfers    map[netip.Addr]int // of each PC

	mu      sync.Mutex
	clients map[string]Client                 // by MAC: what their packets said, for the script that follows
	conns   map[netip.Addr]map[*conn]struct{} // of Listener, by the PC's address
	chained map[string]bool                   // TestPlainROM: MACs whose undionly.kpxe runs
	lacks   map[string]bool                   // boot files that weren't there
	looked  time.Time                         // when that was

	outlookMu sync.Mutex
	outlook   *outlook
}

// maxClients bounds what is remembered of PCs; the oldest knowledge is only
// lost when more PCs than a pool holds come along.
const maxClients = maxPool

// New checks cfg and reads the leases. Nothing is opened on the network before
// Run.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Lease == 0 {
		cfg.Lease = time.Hour
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("network boot: %w", err)
	}
	s := &Server{
		cfg:     cfg,
		log:     cfg.Log,
		clients: map[string]Client{},
		conns:   map[netip.Addr]map[*conn]struct{}{},
		chained: map[string]bool{},

		transfers: map[netip.Addr]int{},
	}
	s.taken = s.probe
	now := time.Now()
	s.outlook = newOutlook(cfg.Mode, netip.PrefixFrom(cfg.IP, cfg.Net.Bits()), cfg.Lent, now)
	s.outlook.entries = slices.Clone(cfg.Found)
	if cfg.Asked { // no need to look once more
		s.outlook.link, s.outlook.from, s.outlook.probes = true, now.Add(-lookTime), minProbes
		s.outlook.settle(now)
	}
	if cfg.Mode != Proxy && !cfg.Lent {
		var err error
		if s.leases, err = openLeases(cfg); err != nil {
			return nil, fmt.Errorf("network boot: %w", err)
		}
	}
	return s, nil
}

func (c *Config) check() error {
	switch {
	case c.Interface == "":
		return errors.New("no interface given: name the network card that leads to the workshop")
	case !c.IP.Is4() || !c.Net.Addr().Is4():
		return fmt.Errorf("address %v in %v: give the appliance an IPv4 address and its network", c.IP, c.Net)
	case !c.Net.Contains(c.IP):
		return fmt.Errorf("the appliance's address %v lies outside its network %v", c.IP, c.Net)
	case c.Lent && c.Mode == Full:
		return fmt.Errorf("the address %v was given by another DHCP server: addresses of its network are not ours to give out", c.IP)
	case c.HTTPPort < 1 || c.HTTPPort > 65535:
		return fmt.Errorf("HTTP port %d: a port is a number from 1 to 65535", c.HTTPPort)
	case c.AgentsPort < 0 || c.AgentsPort > 65535:
		return fmt.Errorf("agents' port %d: a port is a number from 1 to 65535", c.AgentsPort)
	case c.Files == nil || c.Desk == nil:
		return errors.New("no boot files or no desk given")
	case c.Mode != Full && c.Mode != Proxy && c.Mode != Auto:
		return fmt.Errorf("unknown mode %d", c.Mode)
	case c.Mode == Proxy || c.Lent:
		return nil
	case c.LeaseFile == "":
		return errors.New("no lease file given: addresses must survive a restart")
	case c.Lease < time.Minute || c.Lease > 365*24*time.Hour:
		return fmt.Errorf("lease of %v: give a minute to a year", c.Lease)
	}
	for i, n := range append([]Network{c.home()}, c.Networks...) {
		if err := n.check(); err != nil {
			return err
		}
		for _, m := range append([]Network{c.home()}, c.Networks...)[:i] {
			if m.Net.Overlaps(n.Net) {
				return fmt.Errorf("the networks %v and %v overlap: a PC could not be told which one it is on", m.Net, n.Net)
			}
		}
	}
	return nil
}

// base is the URL that boot files and scripts lie under, without a slash at
// its end.
func (c *Config) base() string {
	return "http://" + c.host()
}

func (c *Config) host() string {
	return c.IP.String() + ":" + strconv.Itoa(c.HTTPPort)
}

// remember keeps what a packet said of its sender.
func (s *Server) remember(c Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.clients[c.MAC]; ok {
		// An installed system's or GRUB's packet knows less than the firmware's.
		if c.UUID == "" {
			c.UUID = old.UUID
		}
		if c.Arch == NoArch {
			c.Arch = old.Arch
		}
		if !c.IP.IsValid() {
			c.IP = old.IP
		}
		if c.Card == "" {
			c.Card = old.Card
		}
		if c.Asked.IsZero() {
			c.Asked = old.Asked
		}
	} else if len(s.clients) >= maxClients {
		for k := range s.clients {
			delete(s.clients, k)
			break
		}
	}
	s.clients[c.MAC] = c
}

// missing are the first boot files that aren't there. They may be built while
// PCs ask, so it looks again, not for every packet.
func (s *Server) missing() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.looked) > 5*time.Second {
		s.lacks, s.looked = map[string]bool{}, time.Now()
		for _, f := range firmwares {
			r, size, err := s.open(f.file)
			if err == nil {
				r.Close()
			}
			if err != nil || size == 0 {
				s.lacks[f.file] = true
			}
		}
	}
	return s.lacks
}

// client is what is known of a MAC.
func (s *Server) client(mac string) Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.clients[mac]; ok {
		return c
	}
	return Client{MAC: mac, Arch: NoArch}
}

// macOf finds the MAC that an address belongs to, or "".
func (s *Server) macOf(a netip.Addr) string {
	// Another server may have given our old leases' addresses to other PCs.
	if s.leases != nil && s.mode() == Full {
		if mac := s.leases.holder(a); mac != "" {
			return mac
		}
	}
	return neighbour(a)
}

func (s *Server) sight(g Sighting) {
	if g.Time.IsZero() {
		g.Time = time.Now()
	}
	s.cfg.Desk.Sighting(g)
}
