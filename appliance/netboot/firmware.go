package netboot

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// What each kind of firmware says of itself and is to be given.

// discoveryControl is option 43 with PXE_DISCOVERY_CONTROL = 8: take the boot
// file of this packet, no menu, no search for a boot server (PXE 2.1, table
// 2-1). With it OVMF and iPXE never go to port 4011. A packet with it and
// without a boot file ends in PXE-E21, so the two go together.
var discoveryControl = []byte{6, 1, 8, 255}

// boot adds what a netbooting client needs; an installed system or a phone, of
// no class, gets nothing.
func boot(r, q *dhcpv4.DHCPv4, cfg Config, v View, class string, d *Decision) {
	if class == "" {
		return
	}
	file, err := bootFile(d.Client, cfg, v.Plain)
	if err != "" {
		d.Err, d.Problem = err, ProblemArch
		return
	}
	d.File = file
	d.Detail = strings.TrimSpace(d.Detail + " " + file)
	r.ServerIPAddr = cfg.IP.AsSlice()
	r.BootFileName = file // 128 bytes with its NUL; the longest of ours has 66
	r.UpdateOption(dhcpv4.OptClassIdentifier(class))
	if id := q.Options.Get(dhcpv4.OptionClientMachineIdentifier); id != nil {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id)) // RFC 4578 §2.3
	}
	if class == httpClass {
		r.UpdateOption(dhcpv4.OptBootFileName(file)) // RFC 5970; UEFI 2.10 §24.7.3
	}
	r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, discoveryControl))
}

// bootFile is the first thing that a client loads. iPXE comes before the
// architecture, since it says PXEClient and an architecture too, and must not
// be sent iPXE again.
func bootFile(c Client, cfg Config, plain bool) (file, err string) {
	if c.IPXE && !plain {
		return cfg.base() + "/boot/ipxe/" + strings.ReplaceAll(c.MAC, ":", "-"), ""
	}
	switch iana.Arch(c.Arch) {
	case iana.INTEL_X86PC:
		if !c.HTTPBoot {
			return "undionly.kpxe", ""
		}
	case iana.EFI_X86_64, iana.EFI_BC, iana.EFI_X86_64_HTTP:
		file = "shimx64.efi"
	case iana.EFI_IA32, iana.EFI_X86_HTTP:
		file = "grubia32.efi"
	}
	switch {
	case file == "":
		return "", fmt.Sprintf("no boot file for this kind of firmware (%v): only PCs with BIOS, 64-bit UEFI or 32-bit UEFI can be booted", iana.Arch(c.Arch))
	case c.HTTPBoot:
		return cfg.base() + "/boot/" + file, ""
	}
	return file, ""
}

const (
	pxeClass  = "PXEClient"
	httpClass = "HTTPClient"
)

// classOf is the class of a netbooting client (option 60's first part), or "".
func classOf(q *dhcpv4.DHCPv4) string {
	switch c := q.ClassIdentifier(); {
	case strings.HasPrefix(c, httpClass):
		return httpClass
	case strings.HasPrefix(c, pxeClass), isIPXE(q):
		return pxeClass
	}
	return ""
}

// via says which part of a PC's start asks, or "".
func via(q *dhcpv4.DHCPv4) string {
	switch class := classOf(q); {
	case isIPXE(q):
		return "ipxe"
	case class == httpClass:
		return "http"
	case class == pxeClass:
		return "pxe"
	}
	return ""
}

// isIPXE looks for the bare word: iPXE's option 77 is not length-prefixed as
// RFC 3004 wants it.
func isIPXE(q *dhcpv4.DHCPv4) bool {
	return bytes.Contains(q.Options.Get(dhcpv4.OptionUserClassInformation), []byte("iPXE"))
}

func identify(q *dhcpv4.DHCPv4) Client {
	c := Client{Arch: NoArch, IPXE: isIPXE(q)}
	if len(q.ClientHWAddr) == 6 {
		c.MAC = q.ClientHWAddr.String()
	}
	if ip, ok := addr(q.ClientIPAddr); ok {
		c.IP = ip
	}
	class := classOf(q)
	c.HTTPBoot = class == httpClass
	if b := q.Options.Get(dhcpv4.OptionClientSystemArchitectureType); len(b) >= 2 {
		c.Arch = binary.BigEndian.Uint16(b)
	} else if class != "" {
		c.Arch = 0 // a ROM older than RFC 4578 is a BIOS's
		if _, s, ok := strings.Cut(q.ClassIdentifier(), ":Arch:"); ok {
			s, _, _ = strings.Cut(s, ":")
			if n, err := strconv.ParseUint(s, 10, 16); err == nil {
				c.Arch = uint16(n)
			}
		}
	}
	c.UUID = uuid(q.Options.Get(dhcpv4.OptionClientMachineIdentifier))
	c.Card = card(q.Options.Get(dhcpv4.GenericOptionCode(175)))
	return c
}

// card reads iPXE's own option 175, in which 177 is the network card: a type,
// 1 for PCI, then vendor and device.
func card(b []byte) string {
	o := dhcpv4.Options{}
	if len(b) == 0 || o.FromBytes(b) != nil {
		return ""
	}
	if v := o[177]; len(v) == 5 && v[0] == 1 {
		return fmt.Sprintf("pci %02x%02x:%02x%02x", v[1], v[2], v[3], v[4])
	}
	return ""
}

// uuid reads option 97 (RFC 4578 §2.3). EDK2 and iPXE both send SMBIOS's bytes,
// whose first three fields are little-endian (SMBIOS 3.6 §7.2.1).
func uuid(b []byte) string {
	if len(b) != 17 || b[0] != 0 {
		return ""
	}
	u := [16]byte(b[1:])
	if u == [16]byte{} || u == [16]byte(bytes.Repeat([]byte{255}, 16)) {
		return "" // SMBIOS: not set
	}
	slices.Reverse(u[0:4])
	slices.Reverse(u[4:6])
	slices.Reverse(u[6:8])
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
