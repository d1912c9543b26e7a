// Package storm is a room full of PCs that are switched on at the same moment,
// as a boot server sees them: every one asks for an address as its firmware
// does, fetches its boot loader by TFTP in blocks of the size that this firmware
// uses, and kernel and initramfs over HTTP. Nothing is run; every byte is
// compared with what it has to be.
//
// All PCs share one network card. Each has a MAC for DHCP and an address of its
// own for the rest.
package storm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Room is the PCs and what they do.
type Room struct {
	Interface string
	PCs       int
	Chain     func(pc int) []Step // what each does, in this order
	// Content is what a file has to hold, by its name; nil for any bytes.
	Content func(name string) []byte
	// Inside runs f in the PCs' network namespace; nil when the process is there.
	Inside func(f func() error) error
	// Patience is how long the whole may take.
	Patience time.Duration
}

// Step is one thing that a PC does: exactly one field is set.
type Step struct {
	DHCP *Firmware
	TFTP *Transfer
	HTTP string // path on the server
}

// PC is what became of one of them.
type PC struct {
	MAC     net.HardwareAddr
	Address netip.Addr
	Server  netip.Addr
	File    string        // boot file of the last handshake
	DHCP    time.Duration // since the start: address
	Loader  time.Duration // likewise: the last file by TFTP
	Done    time.Duration // likewise: all of it
	Bytes   int64         // of files
	Repeats int           // packets that had to be sent again, for want of an answer
	Err     error

	mask net.IPMask
}

// Run switches all PCs on and returns when the last one is through or has
// failed. The error is about the room; each PC has its own.
func (r Room) Run(ctx context.Context) ([]PC, error) {
	ctx, cancel := context.WithTimeout(ctx, r.Patience)
	defer cancel()
	if r.Inside == nil {
		r.Inside = func(f func() error) error { return f() }
	}
	var link netlink.Link
	var wire *wire
	if err := r.Inside(func() (err error) {
		if link, err = netlink.LinkByName(r.Interface); err == nil {
			wire, err = listen(r.Interface)
		}
		return err
	}); err != nil {
		return nil, fmt.Errorf("the PCs' network card: %w", err)
	}
	defer wire.close()
	pcs := make([]PC, r.PCs)
	start := time.Now()
	var all sync.WaitGroup
	for i := range pcs {
		p := &machine{PC: &pcs[i], room: r, wire: wire, link: link, start: start}
		p.MAC = net.HardwareAddr{0x02, 0x52, 0x46, byte(i >> 16), byte(i >> 8), byte(i)}
		all.Go(func() { p.Err = p.run(ctx, r.Chain(i)) })
	}
	all.Wait()
	return pcs, r.Inside(func() (err error) {
		for _, p := range pcs {
			if !p.Address.IsValid() {
				continue
			}
			// The kernel takes all others of the network along with the oldest.
			if e := netlink.AddrDel(link, &netlink.Addr{IPNet: &net.IPNet{IP: p.Address.AsSlice(), Mask: p.mask}}); !errors.Is(e, unix.EADDRNOTAVAIL) {
				err = errors.Join(err, e)
			}
		}
		return err
	})
}

// machine is a PC at work.
type machine struct {
	*PC
	room  Room
	wire  *wire
	link  netlink.Link
	start time.Time
	web   *web
}

func (p *machine) run(ctx context.Context, chain []Step) error {
	for _, s := range chain {
		switch {
		case s.DHCP != nil:
			if err := p.handshake(ctx, *s.DHCP); err != nil {
				return fmt.Errorf("DHCP: %w", err)
			}
			if p.DHCP == 0 {
				p.DHCP = time.Since(p.start)
			}
		case s.TFTP != nil:
			n, err := p.fetch(ctx, *s.TFTP)
			p.Bytes += n
			if err != nil {
				return fmt.Errorf("TFTP %s: %w", s.TFTP.Name, err)
			}
			p.Loader = time.Since(p.start)
		default:
			if p.web == nil {
				p.web = newWeb(p.Address, p.room.Inside)
				defer p.web.close()
			}
			n, err := p.get(ctx, s.HTTP)
			p.Bytes += n
			if err != nil {
				return fmt.Errorf("HTTP %s: %w", s.HTTP, err)
			}
		}
	}
	p.Done = time.Since(p.start)
	return nil
}

// take puts the address that the PC was given onto the card.
func (p *machine) take(a, server netip.Addr, mask net.IPMask) error {
	p.Server = server
	if p.Address == a {
		return nil
	}
	if p.Address.IsValid() {
		return fmt.Errorf("the PC had %v and is given %v", p.Address, a)
	}
	if err := p.room.Inside(func() error {
		return netlink.AddrAdd(p.link, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: mask}})
	}); err != nil {
		return fmt.Errorf("address %v, which another PC may have: %w", a, err)
	}
	p.Address, p.mask = a, mask
	return nil
}

// BIOS is a PC whose ROM loads undionly.kpxe, which is iPXE and asks again.
func BIOS(mac string) []Step {
	return []Step{
		{DHCP: &Firmware{Class: "PXEClient:Arch:00000:UNDI:002001", Arch: 0}},
		{TFTP: &Transfer{Name: "undionly.kpxe", Block: 1456, Size: true}},
		{DHCP: &Firmware{Class: "PXEClient:Arch:00000:UNDI:003016", Arch: 0, User: "iPXE"}},
		{HTTP: "/boot/ipxe/" + mac},
		{HTTP: "/boot/vmlinuz"},
		{HTTP: "/boot/initrd"},
	}
}

// UEFI is a PC with EDK2's network stack: it asks for the shim's size first, and
// the shim and GRUB for files that are mostly not there.
func UEFI(mac string) []Step {
	const grub = 1024
	return []Step{
		{DHCP: &Firmware{Class: "PXEClient:Arch:00007:UNDI:003001", Arch: 7}},
		{TFTP: &Transfer{Name: "shimx64.efi", Block: 1468, Window: 4, OnlySize: true}},
		{TFTP: &Transfer{Name: "shimx64.efi", Block: 1468, Window: 4, Size: true}},
		{TFTP: &Transfer{Name: "revocations_sku.efi", Block: 512, Window: 4, Optional: true}},
		{TFTP: &Transfer{Name: "grubx64.efi", Block: 512, Window: 4}},
		{TFTP: &Transfer{Name: "grub/x86_64-efi/command.lst", Block: grub, Size: true, Optional: true}},
		{TFTP: &Transfer{Name: "grub/grub.cfg", Block: grub, Size: true}},
		{HTTP: "/boot/grub/" + mac},
		{HTTP: "/boot/vmlinuz"},
		{HTTP: "/boot/initrd"},
	}
}

// Loaders leaves the steps over HTTP out, for servers that have none.
func Loaders(chain []Step) []Step {
	var out []Step
	for _, s := range chain {
		if s.HTTP == "" {
			out = append(out, s)
		}
	}
	return out
}
