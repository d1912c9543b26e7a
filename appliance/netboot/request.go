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

// What a request says of its sender.

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
	switch archs := architectures(q); {
	case len(archs) > 0:
		c.Arch = archs[0]
		// RFC 4578 §2.1: a list, of which one that can be served will do.
		if i := slices.IndexFunc(archs, served); i > 0 {
			c.Arch = archs[i]
		}
	case class != "":
		c.Arch = 0 // a ROM older than RFC 4578 is a BIOS's
	}
	c.UUID = uuid(q.Options.Get(dhcpv4.OptionClientMachineIdentifier))
	c.Card = card(q.Options.Get(option175))
	return c
}

func served(arch uint16) bool {
	_, ok := firmwareOf(arch)
	return ok
}

const (
	pxeClass  = "PXEClient"
	httpClass = "HTTPClient"
)

// classOf is the class of a netbooting client (option 60's first part), or "".
// Who names an architecture and no class netboots too: nobody else has a use
// for option 93.
func classOf(q *dhcpv4.DHCPv4) string {
	c := string(q.Options.Get(dhcpv4.OptionClassIdentifier))
	switch {
	case prefixFold(c, httpClass):
		return httpClass
	case prefixFold(c, pxeClass), isIPXE(q), hasUserClass(q, "gPXE"):
		return pxeClass
	case strings.Trim(c, "\x00 ") != "":
		return ""
	}
	switch archs := option93(q); {
	case len(archs) == 0:
		return ""
	case slices.ContainsFunc(archs, overHTTP):
		return httpClass
	}
	return pxeClass
}

func prefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
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

// isApple: BSDP, Apple's own way to netboot, which is none of ours.
func isApple(q *dhcpv4.DHCPv4) bool {
	return prefixFold(string(q.Options.Get(dhcpv4.OptionClassIdentifier)), "AAPLBSDPC")
}

// isIPXE finds an iPXE that can do what our scripts ask of it. One that lists
// its features (in option 175, which older ones don't send) and has no HTTP, or
// on a BIOS no Linux, is a ROM like any other: undionly.kpxe can both, so that
// it isn't loaded twice. gPXE doesn't run scripts of iPXE.
func isIPXE(q *dhcpv4.DHCPv4) bool {
	if !hasUserClass(q, "iPXE") {
		return false
	}
	features := ipxeFeatures(q.Options.Get(option175))
	if len(features) == 0 {
		return true
	}
	archs := architectures(q)
	bios := len(archs) == 0 || archs[0] == 0
	return slices.Contains(features, featureHTTP) && (!bios || slices.Contains(features, featureBzImage))
}

// hasUserClass looks for the bare word: iPXE's option 77 is not length-prefixed
// as RFC 3004 wants it.
func hasUserClass(q *dhcpv4.DHCPv4, word string) bool {
	return bytes.Contains(q.Options.Get(dhcpv4.OptionUserClassInformation), []byte(word))
}

// option175 is iPXE's own, with options of its own in it.
const option175 = dhcpv4.GenericOptionCode(175)

// card reads option 175, in which 177 is the network card: a type, 1 for PCI,
// then vendor and device.
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

// Features of iPXE by its encapsulated options (its features.h).
const (
	featureFirst   = 0x10
	featureHTTP    = 0x13
	featureBzImage = 0x18
	featureLast    = 0x7f
)

func ipxeFeatures(b []byte) (f []byte) {
	o := dhcpv4.Options{}
	if o.FromBytes(b) != nil {
		return nil
	}
	for code, v := range o {
		if code >= featureFirst && code <= featureLast && len(v) > 0 && v[0] != 0 {
			f = append(f, code)
		}
	}
	return f
}

// architectures are those that a client names, in option 93 or else in
// option 60 ("PXEClient:Arch:00007:UNDI:003016").
func architectures(q *dhcpv4.DHCPv4) []uint16 {
	if archs := option93(q); len(archs) > 0 {
		return archs
	}
	_, s, ok := strings.Cut(string(q.Options.Get(dhcpv4.OptionClassIdentifier)), ":Arch:")
	if !ok {
		return nil
	}
	s, _, _ = strings.Cut(s, ":")
	n, err := strconv.ParseUint(strings.TrimRight(s, "\x00 "), 10, 16)
	if err != nil {
		return nil
	}
	return []uint16{uint16(n)}
}

// option93 is a list of 16-bit numbers (RFC 4578 §2.1). One byte is taken for
// a small number, a byte too many is left.
func option93(q *dhcpv4.DHCPv4) (archs []uint16) {
	b := q.Options.Get(dhcpv4.OptionClientSystemArchitectureType)
	if len(b) == 1 {
		return []uint16{uint16(b[0])}
	}
	for ; len(b) >= 2; b = b[2:] {
		archs = append(archs, binary.BigEndian.Uint16(b))
	}
	return archs
}

// overHTTP: the architectures of UEFI HTTP Boot (RFC 5970; IANA's registry).
func overHTTP(arch uint16) bool {
	switch iana.Arch(arch) {
	case iana.EFI_X86_HTTP, iana.EFI_X86_64_HTTP, iana.EFI_BC_HTTP, iana.EFI_ARM32_HTTP, iana.EFI_ARM64_HTTP:
		return true
	}
	return false
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
