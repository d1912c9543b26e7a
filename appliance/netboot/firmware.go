package netboot

import (
	"fmt"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// What each kind of firmware is to be given: a table of boot files, a table of
// options, and what fills a reply from them. Where each line comes from stands
// in docs/boot.md, "The reply".

// firmware is one kind, by the numbers that it gives as its architecture.
type firmware struct {
	name  string
	archs []iana.Arch
	file  string
	extra bool // the file is none of the payload's: an operator may add it
}

// Architectures 7 and 9 changed places between RFC 4578 and IANA's registry;
// firmware for x64 says 7, some says 9, and none is for EFI byte code.
var firmwares = []firmware{
	{"BIOS", []iana.Arch{iana.INTEL_X86PC}, "undionly.kpxe", false},
	{"UEFI x64", []iana.Arch{iana.EFI_X86_64, iana.EFI_BC, iana.EFI_X86_64_HTTP, iana.EFI_BC_HTTP}, "shimx64.efi", false},
	{"UEFI IA32", []iana.Arch{iana.EFI_IA32, iana.EFI_X86_HTTP}, "grubia32.efi", false},
	{"UEFI arm64", []iana.Arch{iana.EFI_ARM64, iana.EFI_ARM64_HTTP}, "shimaa64.efi", true},
}

func firmwareOf(arch uint16) (firmware, bool) {
	for _, f := range firmwares {
		if slices.Contains(f.archs, iana.Arch(arch)) {
			return f, true
		}
	}
	return firmware{}, false
}

// part is what a reply plays in a boot.
type part int

const (
	leased part = iota // OFFER and ACK of ours, with the address
	beside             // OFFER without an address, beside another server's
	asked              // ACK on port 4011
)

// recipe lists the options that lead to the boot file: 60 the class, 43 PXE
// discovery control, 67 the boot file once more.
type recipe []dhcpv4.OptionCode

var (
	o43 dhcpv4.OptionCode = dhcpv4.OptionVendorSpecificInformation
	o60 dhcpv4.OptionCode = dhcpv4.OptionClassIdentifier
	o67 dhcpv4.OptionCode = dhcpv4.OptionBootfileName
)

// The recipes, by part.
var (
	// A BIOS ROM takes no offer without option 60 for one that can boot it, and
	// with 60 alone it asks port 4011 (PXE 2.1 §2.2). With 43 it loads the file.
	recipeBIOS = [...]recipe{leased: {o60, o43}, beside: {o60, o43}, asked: {o60, o43}}

	// iPXE is content with siaddr and the file, once it has seen option 60: with
	// it, it doesn't wait for another server's offer.
	recipeIPXE = recipeBIOS

	// EDK2 is of three ages, which their packets don't tell. Before May 2013
	// option 43 with a file and no menu means "start from the disk"; until April
	// 2017 an offer with option 43 and without an address is dropped. What all of
	// them boot from: a lease that names a file and nothing of PXE; an offer of
	// the class alone, after which they ask port 4011; and there, the class and
	// the file.
	recipeUEFI = [...]recipe{leased: {}, beside: {o60}, asked: {o60}}

	// RFC 5970; UEFI 2.10 §24.7.3. No option 43: it is PXE's.
	recipeHTTP = [...]recipe{leased: {o60, o67}, beside: {o60, o67}, asked: {o60, o67}}
)

func recipeFor(c Client, plain bool, p part) recipe {
	switch {
	case c.IPXE && !plain:
		return recipeIPXE[p]
	case c.HTTPBoot:
		return recipeHTTP[p]
	case c.Arch == uint16(iana.INTEL_X86PC):
		return recipeBIOS[p]
	}
	return recipeUEFI[p]
}

// discoveryControl is option 43 with PXE_DISCOVERY_CONTROL = 8: take the boot
// file of this packet, no menu, no search for a boot server (PXE 2.1, table
// 2-1). A packet with it and without a boot file ends in PXE-E21, so the two go
// together.
var discoveryControl = []byte{6, 1, 8, 255}

// boot adds what a netbooting client needs; an installed system or a phone, of
// no class, gets nothing.
func boot(r, q *dhcpv4.DHCPv4, cfg Config, v View, p part, class string, d *Decision) {
	if class == "" {
		return
	}
	file, problem, err := bootFile(d.Client, cfg, v)
	if err != "" {
		d.Err, d.Problem = err, problem
		return
	}
	d.File = file
	d.Detail = strings.TrimSpace(d.Detail + " " + file)
	r.ServerIPAddr = cfg.IP.AsSlice()
	options := recipeFor(d.Client, v.Plain, p)
	if slices.Contains(options, o60) {
		r.UpdateOption(dhcpv4.OptClassIdentifier(class))
	}
	if slices.Contains(options, o43) {
		r.UpdateOption(dhcpv4.OptGeneric(o43, discoveryControl))
	}
	setFile(r, file, slices.Contains(options, o67))
	if id := q.Options.Get(dhcpv4.OptionClientMachineIdentifier); id != nil {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id)) // RFC 4578 §2.3
	}
	fit(r)
}

// fileField is the size of the field `file`, with a NUL at its end.
const fileField = 128

// setFile names the boot file in the field of old, in option 67 when wanted,
// and there alone when it is too long for the field.
func setFile(r *dhcpv4.DHCPv4, file string, twice bool) {
	if len(file) < fileField {
		r.BootFileName = file
	} else {
		twice = true
	}
	if twice {
		r.UpdateOption(dhcpv4.OptBootFileName(file))
	}
}

// maxReply is what every client must take (RFC 2131 §2: 576 bytes, with the
// headers of IP and UDP). What they say in option 57 isn't worth more: some
// give 300, and EDK2 turned the bytes round.
const maxReply = 576 - 20 - 8

// fit leaves out what a client sent of itself when it is out of all measure.
func fit(r *dhcpv4.DHCPv4) {
	for _, o := range []dhcpv4.OptionCode{dhcpv4.OptionClientMachineIdentifier, dhcpv4.OptionClientIdentifier} {
		if len(r.ToBytes()) <= maxReply {
			return
		}
		r.Options.Del(o)
	}
}

// bootFile is the first thing that a client loads. iPXE comes before the
// architecture, since it says PXEClient and an architecture too, and must not
// be sent iPXE again.
func bootFile(c Client, cfg Config, v View) (file, problem, err string) {
	if c.IPXE && !v.Plain {
		return cfg.base() + "/boot/ipxe/" + strings.ReplaceAll(c.MAC, ":", "-"), "", ""
	}
	f, ok := firmwareOf(c.Arch)
	switch {
	case !ok, c.HTTPBoot && c.Arch == uint16(iana.INTEL_X86PC):
		return "", ProblemArch, fmt.Sprintf("no boot file for this kind of firmware (%v): only PCs with BIOS, 64-bit UEFI or 32-bit UEFI can be booted", iana.Arch(c.Arch))
	case v.Missing[f.file] && f.extra:
		return "", ProblemArch, fmt.Sprintf("no boot file for %s: only PCs with x86 processors get the agent; to start others, put %s and what it loads into the folder payload/extra", f.name, f.file)
	case v.Missing[f.file]:
		return "", ProblemFile, fmt.Sprintf("no boot file for %s: %s is not there; run sudo build/refurb payload build on the server", f.name, f.file)
	case c.HTTPBoot:
		return cfg.base() + "/boot/" + f.file, "", ""
	}
	return f.file, "", ""
}
