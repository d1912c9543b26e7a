package netboot

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var update = flag.Bool("update", false, "write testdata/packets anew: the replies, and the requests that are built")

// exchange is a conversation in testdata/packets: where it comes from, what
// firmware sent and what it was answered.
type exchange struct {
	name     string
	comment  []string
	boots    string // the first file that it loads; "nothing" and why not
	flags    string
	requests []asking
}

// noARM is what refurb payload build leaves out.
var noARM = map[string]bool{"shimaa64.efi": true}

type asking struct {
	port          int
	packet, reply []byte // reply is nil when there is none
}

func (x exchange) config() Config {
	cfg := testConfig
	if strings.Contains(x.flags, "proxy") {
		cfg.Mode = Proxy
	}
	return cfg
}

// view has every boot file but those for ARM, as after refurb payload build.
func (x exchange) view() View {
	return View{Next: given, Grant: true, Plain: strings.Contains(x.flags, "plain"), Missing: noARM}
}

func (a asking) parse(t testing.TB) Packet {
	t.Helper()
	m, err := dhcpv4.FromBytes(a.packet)
	must(t, err)
	return Packet{DHCPv4: m, Port: a.port, Peer: netip.AddrPortFrom(given, 4011)}
}

func readExchanges(t testing.TB) (all []exchange) {
	t.Helper()
	files, err := filepath.Glob("testdata/packets/*.txt")
	must(t, err)
	for _, path := range files {
		all = append(all, readExchange(t, path))
	}
	return all
}

func readExchange(t testing.TB, path string) exchange {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	x := exchange{name: strings.TrimSuffix(filepath.Base(path), ".txt")}
	var at *[]byte
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		word, rest, _ := strings.Cut(sc.Text(), " ")
		switch word {
		case "#":
			x.comment = append(x.comment, sc.Text())
		case "boots":
			x.boots = rest
		case "flags":
			x.flags = rest
		case "request":
			port, err := strconv.Atoi(rest)
			must(t, err)
			x.requests = append(x.requests, asking{port: port})
			at = &x.requests[len(x.requests)-1].packet
		case "reply":
			at = &x.requests[len(x.requests)-1].reply
		default:
			h, err := hex.DecodeString(word)
			must(t, err)
			*at = append(*at, h...)
		}
	}
	must(t, sc.Err())
	return x
}

func (x exchange) String() string {
	var b strings.Builder
	lines := func(p []byte) {
		for len(p) > 0 {
			n := min(48, len(p))
			fmt.Fprintf(&b, "%x\n", p[:n])
			p = p[n:]
		}
	}
	for _, c := range x.comment {
		fmt.Fprintln(&b, c)
	}
	fmt.Fprintln(&b, "boots", x.boots)
	if x.flags != "" {
		fmt.Fprintln(&b, "flags", x.flags)
	}
	for _, r := range x.requests {
		fmt.Fprintln(&b, "request", r.port)
		lines(r.packet)
		if r.reply != nil {
			fmt.Fprintln(&b, "reply")
			lines(r.reply)
		}
	}
	return b.String()
}

func (x exchange) write(t testing.TB) {
	t.Helper()
	write(t, "testdata/packets", x.name+".txt", []byte(x.String()))
}

// The replies are, byte for byte, those that the firmware named in each file
// booted from, or, where the file says that it was built, those that it would
// have to.
func TestRepliesThatFirmwareBootedFrom(t *testing.T) {
	all := readExchanges(t)
	if len(all) < 25 {
		t.Fatalf("only %d exchanges", len(all))
	}
	for _, x := range all {
		t.Run(x.name, func(t *testing.T) {
			for i, r := range x.requests {
				reply, d := Decide(r.parse(t), x.config(), x.view())
				var got []byte
				if reply != nil {
					got = reply.ToBytes()
				}
				if *update {
					x.requests[i].reply = got
				} else if !bytes.Equal(got, r.reply) {
					t.Errorf("%s:\n got %x\nwant %x\n%v", d.What, got, r.reply, d)
				}
				if !strings.Contains(x.flags, "nouuid") && (d.Client.UUID == "" || !strings.HasSuffix(d.Client.UUID, strings.ReplaceAll(d.Client.MAC, ":", ""))) {
					t.Errorf("the UUID %q was not read right: it ends in the MAC %s", d.Client.UUID, d.Client.MAC)
				}
			}
			if *update {
				x.write(t)
			}
		})
	}
}

// built is a request as a firmware that isn't here makes it, by the rules of
// its source or of a standard.
type built struct {
	name, boots, flags string
	comment            []string
	kind               dhcpv4.MessageType
	options            []dhcpv4.Option
	ciaddr             netip.Addr
}

func (b built) packet(t testing.TB) []byte {
	t.Helper()
	hw := hardware(t, "52:54:00:36:f5:01")
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: hw,
		TransactionID: dhcpv4.TransactionID{0x36, 0xf5, 0x01, byte(len(b.name))}, Flags: 0x8000,
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		Options: dhcpv4.Options{},
	}
	if b.ciaddr.IsValid() {
		m.ClientIPAddr, m.Flags = b.ciaddr.AsSlice(), 0
	}
	m.UpdateOption(dhcpv4.OptMessageType(b.kind))
	for _, o := range b.options {
		m.UpdateOption(o)
	}
	return m.ToBytes()
}

// The options of firmware, in short.
func raw(code uint8, b ...byte) dhcpv4.Option {
	return dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), b)
}
func text(code uint8, s string) dhcpv4.Option { return raw(code, []byte(s)...) }

// guid is option 97 of the lab's PC with that MAC.
func guid() dhcpv4.Option {
	b, _ := hex.DecodeString("0000aba15e00000040800052540036f501") // a constant
	return raw(97, b...)
}

// asked for by PXE 2.1's clients, table 2-1's required ones, and by EDK2.
var (
	listPXE  = raw(55, 1, 2, 3, 5, 6, 11, 12, 13, 15, 16, 17, 18, 43, 54, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135)
	listEDK2 = raw(55, 1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59, 60, 66, 67, 97, 128, 129, 130, 131, 132, 133, 134, 135)
	listHTTP = raw(55, 1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59, 60, 0, 67, 97)
	listIPXE = raw(55, 1, 3, 6, 7, 12, 15, 17, 43, 60, 66, 67, 175, 203)
	undi21   = raw(94, 1, 2, 1)
	undi3    = raw(94, 1, 3, 0)
	ethernet = raw(57, 0x05, 0xc0) // 1472
)

const (
	script   = "http://10.77.0.1:8080/boot/ipxe/52-54-00-36-f5-01"
	fromEDK2 = "of EDK2 (NetworkPkg/UefiPxeBcDxe/PxeBcDhcp4.c, PxeBcBuildDhcp4Options)"
)

// builtRequests are the firmware that isn't here.
func builtRequests() []built {
	discover, inform, ask := dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeInform, dhcpv4.MessageTypeRequest
	edk2 := func(class string, arch byte, more ...dhcpv4.Option) []dhcpv4.Option {
		return append([]dhcpv4.Option{ethernet, listEDK2, guid(), undi3, raw(93, 0, arch), text(60, class)}, more...)
	}
	bios := func(more ...dhcpv4.Option) []dhcpv4.Option {
		return append([]dhcpv4.Option{raw(57, 0x04, 0xec), listPXE, guid(), undi21, raw(93, 0, 0), text(60, "PXEClient:Arch:00000:UNDI:002001")}, more...)
	}
	return []built{
		{name: "bios-pxe21", boots: "undionly.kpxe", kind: discover, options: bios(),
			comment: []string{"a BIOS ROM by PXE 2.1, table 2-1, with the maximum size of 1260 bytes of Intel's PXE kit,", "which Intel Boot Agent, Broadcom and Realtek build their ROMs from."}},
		{name: "bios-pxe21-4011", boots: "undionly.kpxe", kind: ask, ciaddr: given, flags: "proxy", options: bios(),
			comment: []string{"the same ROM, which asks port 4011 although its offer held a file (PXE 2.1 §2.2.3)."}},
		{name: "bios-broken-97", boots: "undionly.kpxe", flags: "nouuid", kind: discover,
			options: []dhcpv4.Option{listPXE, raw(97, 1, 2, 3, 4), undi21, raw(93, 0, 0), text(60, "PXEClient:Arch:00000:UNDI:002001")},
			comment: []string{"a ROM whose option 97 is no GUID; peers report such, and such without one."}},
		{name: "bios-no-93", boots: "undionly.kpxe", flags: "nouuid", kind: discover,
			options: []dhcpv4.Option{raw(57, 0x02, 0x40), raw(55, 1, 3, 43, 60), text(60, "PXEClient")},
			comment: []string{"a ROM from before RFC 4578: the bare class, no architecture, no GUID, asks for neither 66 nor 67."}},
		{name: "bios-class-nul", boots: "undionly.kpxe", kind: discover, options: bios(text(60, "PXEClient:Arch:00000:UNDI:002001\x00"), raw(57, 0x01, 0x2c)),
			comment: []string{"a NUL at the end of the class, and a maximum size of 300 bytes, below what RFC 2132 §9.10 allows."}},
		{name: "bios-gpxe", boots: "undionly.kpxe", kind: discover,
			options: []dhcpv4.Option{ethernet, raw(93, 0, 0), undi21, text(60, "PXEClient:Arch:00000:UNDI:002001"), text(77, "gPXE"), listIPXE,
				raw(175, 0xb1, 5, 1, 0x10, 0xec, 0x81, 0x39, 0x18, 1, 1, 0x13, 1, 1, 0x21, 1, 1, 0xeb, 3, 1, 0, 1), raw(61, 1, 0x52, 0x54, 0, 0x36, 0xf5, 1), guid()},
			comment: []string{"gPXE 1.0.1 (src/net/udp/dhcp.c of February 2009 to April 2010): it runs no script of iPXE's."}},
		{name: "bios-ipxe-2010", boots: script, kind: discover,
			options: []dhcpv4.Option{ethernet, raw(93, 0, 0), undi21, text(60, "PXEClient:Arch:00000:UNDI:002001"), text(77, "iPXE"), listIPXE, raw(61, 1, 0x52, 0x54, 0, 0x36, 0xf5, 1), guid()},
			comment: []string{"iPXE of 2010 (src/net/udp/dhcp.c), a vendor's build that lists no features in option 175."}},
		{name: "bios-ipxe-user-class", boots: script, kind: discover,
			options: []dhcpv4.Option{ethernet, raw(93, 0, 0), undi21, text(60, "PXEClient"), text(77, "\x04iPXE\x03lab"), listIPXE, guid()},
			comment: []string{"iPXE behind a user class with lengths, as RFC 3004 wants it, and the bare class."}},
		{name: "bios-ipxe-no-http", boots: "undionly.kpxe", kind: discover,
			options: []dhcpv4.Option{ethernet, raw(93, 0, 0), undi21, text(60, "PXEClient:Arch:00000:UNDI:002001"), text(77, "iPXE"), listIPXE,
				raw(175, 0xb1, 5, 1, 0x10, 0xec, 0x81, 0x39, 0x15, 1, 1, 0x21, 1, 1, 0xeb, 3, 1, 0, 0), guid()},
			comment: []string{"a small iPXE ROM whose features (src/include/ipxe/features.h) are TFTP and PXE only: no HTTP."}},
		{name: "uefi-x64-2008", boots: "shimx64.efi", kind: discover, options: edk2("PXEClient:Arch:00007:UNDI:003000", 7),
			comment: []string{"UEFI x64 by the source " + fromEDK2, "of November 2010, and of MdeModulePkg's driver before it: the same options to this day."}},
		{name: "uefi-x64-2010-4011", boots: "shimx64.efi", flags: "proxy", kind: ask, ciaddr: given,
			options: edk2("PXEClient:Arch:00007:UNDI:003000", 7, raw(57, 0x05, 0xb8)),
			comment: []string{"the request to port 4011 by the source " + fromEDK2}},
		{name: "uefi-x64-zero-guid", boots: "shimx64.efi", flags: "nouuid", kind: discover, options: edk2("PXEClient:Arch:00007:UNDI:003000", 7, raw(97, make([]byte, 17)...)),
			comment: []string{"a board without a GUID in SMBIOS, by the source " + fromEDK2}},
		{name: "uefi-x64-arch9", boots: "shimx64.efi", kind: discover, options: edk2("PXEClient:Arch:00009:UNDI:003010", 9),
			comment: []string{"UEFI x64 that goes by RFC 4578's number for it, 9."}},
		{name: "uefi-x64-several", boots: "shimx64.efi", kind: discover, options: edk2("PXEClient:Arch:00002:UNDI:003010", 0, raw(93, 0, 2, 0, 7, 0, 0)),
			comment: []string{"several architectures (RFC 4578 §2.1), the first of which nobody serves."}},
		{name: "uefi-x64-no-60", boots: "shimx64.efi", kind: discover, options: []dhcpv4.Option{ethernet, listEDK2, guid(), undi3, raw(93, 0, 7)},
			comment: []string{"an architecture and no class: option 60 taken out on the way, or forgotten."}},
		{name: "uefi-x64-lower-case", boots: "shimx64.efi", kind: discover, options: edk2("pxeclient:arch:00007:undi:003000", 7),
			comment: []string{"the class in lower case."}},
		{name: "uefi-x64-pxe-http-arch", boots: "shimx64.efi", kind: discover, options: edk2("PXEClient:Arch:00016:UNDI:003001", 16),
			comment: []string{"the class of PXE with the architecture of HTTP Boot: the class says how it loads files."}},
		{name: "uefi-x64-http-arch7", boots: "http://10.77.0.1:8080/boot/shimx64.efi", kind: discover, options: edk2("HTTPClient:Arch:00007:UNDI:003001", 7, listHTTP),
			comment: []string{"and the other way round."}},
		{name: "uefi-arm64-pxe", boots: "nothing no boot file for UEFI arm64", kind: discover, options: edk2("PXEClient:Arch:00011:UNDI:003000", 11),
			comment: []string{"UEFI arm64 by the source " + fromEDK2 + ";", "MdePkg/Include/Protocol/PxeBaseCode.h has the number."}},
		{name: "uefi-arm64-http", boots: "nothing no boot file for UEFI arm64", kind: discover, options: edk2("HTTPClient:Arch:00019:UNDI:003000", 19, listHTTP),
			comment: []string{"UEFI arm64 by the source of EDK2's HTTP Boot (NetworkPkg/HttpBootDxe/HttpBootDhcp4.c, HttpBootBuildDhcp4Options)."}},
		{name: "uefi-riscv64-pxe", boots: "nothing no boot file for this kind of firmware", kind: discover, options: edk2("PXEClient:Arch:00027:UNDI:003000", 27),
			comment: []string{"UEFI RISC-V by the source " + fromEDK2}},
		{name: "apple-bsdp", boots: "nothing an Apple computer", flags: "nouuid", kind: inform, ciaddr: given,
			options: []dhcpv4.Option{text(60, "AAPLBSDPC/i386/iMac12,2"), raw(55, 43, 60), raw(57, 0x05, 0xdc), raw(43, 1, 1, 1, 2, 2, 1, 1, 5, 2, 3, 0xe4)},
			comment: []string{"an Intel Mac with N held down: BSDP, a list of images asked for by INFORM.", "The sub-options of 43 are message type, version and reply port."}},
	}
}

// The files of built requests are what the rules give.
func TestBuiltRequests(t *testing.T) {
	for _, b := range builtRequests() {
		port := dhcpPort
		if strings.HasSuffix(b.name, "4011") {
			port = proxyPort
		}
		comment := []string{"# Built, not captured: " + b.comment[0]}
		for _, c := range b.comment[1:] {
			comment = append(comment, "# "+c)
		}
		want := exchange{name: "built-" + b.name, comment: comment, boots: b.boots, flags: b.flags, requests: []asking{{port: port, packet: b.packet(t)}}}
		path := filepath.Join("testdata/packets", want.name+".txt")
		if *update {
			if _, err := os.Stat(path); err == nil {
				want.requests[0].reply = readExchange(t, path).requests[0].reply
			}
			want.write(t)
			continue
		}
		got := readExchange(t, path)
		got.requests[0].reply = nil
		if got.String() != want.String() {
			t.Errorf("%s:\n%s\nwant\n%s(rewrite them: go test ./appliance/netboot -run Built -update)", want.name, got, want)
		}
	}
}
