package trace

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

const (
	mac1 = "52:54:00:00:00:01"
	mac2 = "52:54:00:00:00:02"
	id1  = "4c4c4544-0042-3510-8052-b4c04f564331"
)

// play reads a start as one writes it down: a line for each sighting, "seconds
// what key=value…". mac and uuid hold from where they are given.
func play(t *testing.T, b *book, text string) {
	t.Helper()
	mac, uuid := mac1, ""
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		var at float64
		if _, err := fmt.Sscan(words[0], &at); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		g := Sighting{Time: noon.Add(time.Duration(at * float64(time.Second))), What: words[1], Arch: -1, MAC: mac, UUID: uuid}
		for _, w := range words[2:] {
			k, v, _ := strings.Cut(w, "=")
			v = strings.ReplaceAll(v, "_", " ")
			number := func() (n int) { _, _ = fmt.Sscan(v, &n); return n }
			switch k {
			case "mac":
				mac, g.MAC = v, v
			case "uuid":
				uuid, g.UUID = v, v
			case "nobody":
				g.MAC, g.UUID = "", ""
			case "ip":
				g.IP = v
			case "via":
				g.Via = v
			case "arch":
				g.Arch = number()
			case "server":
				g.Server = v
			case "problem":
				g.Problem, g.Err = v, "trouble with the "+v
			case "err":
				g.Err = v
			case "file":
				g.File = v
			case "size":
				g.Size = int64(number())
			case "bytes":
				g.Bytes = int64(number())
			case "began":
				var s float64
				_, _ = fmt.Sscan(v, &s)
				g.Began = noon.Add(time.Duration(s * float64(time.Second)))
			case "probe":
				g.Probe = true
			case "missing":
				g.Missing = true
			case "boots":
				g.Boots, g.Detail = v, v
			case "secs":
				g.Secs = number()
			case "port":
				g.Port = number()
			case "card":
				g.Card = v
			case "number":
				g.Number, g.Device = number(), "device"+v
			case "gap":
				g.Gaps = []Gap{{ID: v, Reason: "no driver in our boot files"}}
			case "carrier":
				g.Link.Carrier, g.Link.Card = time.Duration(number())*time.Second, "eth0"
			case "address":
				g.Link.Address, g.Link.Card = time.Duration(number())*time.Second, "eth0"
			default:
				t.Fatalf("%q: what is %q?", line, w)
			}
		}
		if g.What == "begin" && g.Began.IsZero() {
			g.Began = g.Time
		}
		if b.mode == "" {
			b.mode = "full"
		}
		b.add(g.cleaned())
	}
}

// Pieces of a start, each a few seconds after the one before it.
const (
	uefi = `
		0 discover via=pxe arch=7
		0 offer via=pxe file=shimx64.efi
		4 request via=pxe
		4 ack via=pxe ip=10.77.0.100 file=shimx64.efi
	`
	shim = uefi + `
		5 begin file=shimx64.efi
		5 tftp file=shimx64.efi probe began=5
		6 begin file=shimx64.efi
		7 tftp file=shimx64.efi bytes=900 size=900 began=6
	`
	shimRuns = shim + `
		8 tftp file=revocations_sku.efi missing
		8 tftp file=shim_certificate_0.efi missing
	`
	grub = shimRuns + `
		9 begin file=grubx64.efi
		10 tftp file=grubx64.efi bytes=2000 size=2000 began=9
	`
	config = grub + `
		11 tftp file=grub/x86_64-efi/command.lst missing
		12 begin file=grub/grub.cfg
		12 tftp file=grub/grub.cfg bytes=300 size=300 began=12
	`
	script = config + `
		13 script probe
		13 script boots=agent
	`
	kernel = script + `
		14 begin file=vmlinuz
		16 http file=vmlinuz bytes=12000 size=12000 began=14
	`
	initramfs = kernel + `
		16 begin file=initrd
		18 http file=initrd bytes=20000 size=20000 began=16
	`
	agentUp = initramfs + `
		30 discover
		30 offer
		30 request
		30 ack ip=10.77.0.100
	`
	arrived = agentUp + `
		33 hello ip=10.77.0.100 number=7
	`
	ipxeROM = `
		0 discover via=ipxe arch=0 card=pci_8086:153a
		0 offer via=ipxe
		1 request via=ipxe
		1 ack via=ipxe ip=10.77.0.100
	`
	ipxeInitramfs = ipxeROM + `
		2 script boots=agent
		3 begin file=vmlinuz
		4 http file=vmlinuz bytes=12000 size=12000 began=3
		4 begin file=initrd
		6 http file=initrd bytes=20000 size=20000 began=4
	`
)
