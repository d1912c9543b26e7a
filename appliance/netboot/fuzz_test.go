package netboot

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Whatever comes, Decide says something sound or nothing. What once broke it
// stays in testdata/fuzz.
func FuzzDecide(f *testing.F) {
	for _, x := range readExchanges(f) {
		for _, r := range x.requests {
			f.Add(r.packet, false, false, uint8(0))
			f.Add(r.packet, true, false, uint8(1))
			f.Add(r.packet, true, true, uint8(2))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, proxy, at4011 bool, more uint8) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		cfg, port := testConfig, dhcpPort
		if proxy {
			cfg.Mode = Proxy
		}
		if at4011 {
			port = proxyPort
		}
		wanted, _ := wantedAddr(m)
		v := View{Held: given, Next: given, Grant: wanted == given, Plain: more&1 != 0}
		if more&2 != 0 {
			v.Missing = noARM
		}
		r, d := Decide(Packet{DHCPv4: m, Port: port, Peer: netip.MustParseAddrPort("10.77.0.150:68")}, cfg, v)
		if r == nil {
			if d.Reply != "" {
				t.Fatalf("a reply is told of and not there: %+v", d)
			}
			return
		}
		out := r.ToBytes()
		back, err := dhcpv4.FromBytes(out)
		if err != nil || back.TransactionID != m.TransactionID || back.OpCode != dhcpv4.OpcodeBootReply || !bytes.Equal(back.ClientHWAddr, m.ClientHWAddr) {
			t.Fatalf("the reply can't be read: %v %v", err, back)
		}
		if len(out) > maxReply {
			t.Fatalf("a reply of %d bytes", len(out))
		}
		if m.OpCode != dhcpv4.OpcodeBootRequest {
			t.Fatal("a reply to a reply")
		}
		if got, ok := addr(back.YourIPAddr); ok && (proxy || at4011 || got != given) {
			t.Fatalf("hands out %v", got)
		}
		if isProxy(back) && back.Options.Has(dhcpv4.OptionIPAddressLeaseTime) {
			t.Fatal("a lease of no address")
		}
		if d.To.Addr() != broadcast.Addr() && !ourNet.Contains(d.To.Addr()) {
			t.Fatalf("a reply to %v, outside the network", d.To)
		}
		checkFile(t, m, back, d, v)
	})
}

// checkFile: what is said of booting goes together.
func checkFile(t *testing.T, m, r *dhcpv4.DHCPv4, d Decision, v View) {
	file := fileOf(r)
	if file != d.File || r.Options.Has(o67) && r.BootFileName != "" && r.BootFileName != r.BootFileNameOption() {
		t.Fatalf("told of %q, and the reply names %q and %q", d.File, r.BootFileName, r.BootFileNameOption())
	}
	class := classOf(m)
	if file == "" {
		if r.Options.Has(o43) || r.Options.Has(o60) {
			t.Fatal("options of PXE and no boot file")
		}
		return
	}
	switch {
	case class == "":
		t.Fatal("a boot file for who doesn't netboot")
	case d.Err != "":
		t.Fatalf("a boot file and the trouble %q", d.Err)
	case r.Options.Has(o60) && r.ClassIdentifier() != class:
		t.Fatalf("the class is %q, was %q", r.ClassIdentifier(), class)
	case r.Options.Has(o43) && !hasClass(r, pxeClass):
		t.Fatal("option 43 without the class that it belongs to")
	case serverOf(r) != ours:
		t.Fatalf("it would be looked for at %v", serverOf(r))
	case d.Client.HTTPBoot && !strings.HasPrefix(file, "http://"):
		t.Fatalf("HTTP Boot gets %q", file)
	case v.Missing[file]:
		t.Fatalf("the file %s isn't there", file)
	}
	if !hasUserClass(m, "iPXE") || v.Plain {
		return
	}
	// iPXE never gets iPXE again, but one that can't fetch a script.
	features := ipxeFeatures(m.Options.Get(option175))
	able := len(features) == 0 || slices.Contains(features, featureHTTP) && slices.Contains(features, featureBzImage)
	if able && !strings.Contains(file, "/boot/ipxe/") {
		t.Fatalf("iPXE gets %q", file)
	}
}
