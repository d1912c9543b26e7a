package netboot

import (
	"bytes"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// A boot file that doesn't fit into 128 bytes with its NUL stands in option 67
// alone, in pieces when that is too short as well (RFC 3396).
func TestLongBootFiles(t *testing.T) {
	q := request(t, dhcpv4.MessageTypeDiscover)
	for _, tt := range []struct {
		length         int
		twice          bool
		field, options bool
	}{
		{127, false, true, false},
		{127, true, true, true},
		{128, false, false, true},
		{255, false, false, true},
		{300, true, false, true},
	} {
		url := "http://boot.example/" + strings.Repeat("x", tt.length-20)
		r := answer(q.DHCPv4, testConfig, dhcpv4.MessageTypeOffer)
		setFile(r, url, tt.twice)
		wire := r.ToBytes()
		back, err := dhcpv4.FromBytes(wire)
		must(t, err)
		if field := back.BootFileName; (field == url) != tt.field || (field == "") == tt.field {
			t.Errorf("%d bytes: the field holds %q", tt.length, field)
		}
		if o := back.BootFileNameOption(); (o == url) != tt.options || (o == "") == tt.options {
			t.Errorf("%d bytes: option 67 holds %q", tt.length, o)
		}
		if name := wire[44:108]; !bytes.Equal(name, make([]byte, 64)) || wire[108+fileField-1] != 0 {
			t.Errorf("%d bytes: the fields run into one another: % x", tt.length, wire[44:240])
		}
	}
}

// What a client sends of itself doesn't make the reply longer than any client
// must take; the boot file always stays.
func TestRepliesFit(t *testing.T) {
	big := func(code dhcpv4.OptionCode, n int) dhcpv4.Modifier {
		return option(code, bytes.Repeat([]byte{7}, n)...)
	}
	class := dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient"))
	for _, tt := range []struct {
		name             string
		mods             []dhcpv4.Modifier
		keeps97, keeps61 bool
	}{
		{"usual", []dhcpv4.Modifier{class, big(dhcpv4.OptionClientMachineIdentifier, 17), big(dhcpv4.OptionClientIdentifier, 17)}, true, true},
		{"a long 97", []dhcpv4.Modifier{class, big(dhcpv4.OptionClientMachineIdentifier, 400), big(dhcpv4.OptionClientIdentifier, 17)}, false, true},
		{"a long 61", []dhcpv4.Modifier{class, big(dhcpv4.OptionClientMachineIdentifier, 17), big(dhcpv4.OptionClientIdentifier, 400)}, true, false},
		{"both long", []dhcpv4.Modifier{class, big(dhcpv4.OptionClientMachineIdentifier, 400), big(dhcpv4.OptionClientIdentifier, 255)}, false, true},
		{"no class, a long 61", []dhcpv4.Modifier{big(dhcpv4.OptionClientIdentifier, 400)}, false, false},
		{"300 bytes are enough, says it", []dhcpv4.Modifier{class, big(dhcpv4.OptionClientMachineIdentifier, 17), option(dhcpv4.OptionMaximumDHCPMessageSize, 1, 44)}, true, false},
		{"EDK2's bytes turned round", []dhcpv4.Modifier{class, big(dhcpv4.OptionClientMachineIdentifier, 17), option(dhcpv4.OptionMaximumDHCPMessageSize, 255, 0)}, true, false},
		{"asks for nothing", []dhcpv4.Modifier{class, big(dhcpv4.OptionClientMachineIdentifier, 17), option(dhcpv4.OptionParameterRequestList, 1)}, true, false},
	} {
		r, d := Decide(request(t, dhcpv4.MessageTypeDiscover, tt.mods...), testConfig, View{Next: given})
		n := len(r.ToBytes())
		if n > maxReply || r.Options.Has(dhcpv4.OptionClientMachineIdentifier) != tt.keeps97 || r.Options.Has(dhcpv4.OptionClientIdentifier) != tt.keeps61 {
			t.Errorf("%s: %d bytes: %v", tt.name, n, r.Options)
		}
		if classOf(request(t, dhcpv4.MessageTypeDiscover, tt.mods...).DHCPv4) != "" && (r.BootFileName != "undionly.kpxe" || d.File != "undionly.kpxe") {
			t.Errorf("%s: the boot file is %q", tt.name, r.BootFileName)
		}
	}
}

// Boot files that are built while the appliance runs are given out soon after,
// and what is missing is told.
func TestMissingBootFiles(t *testing.T) {
	files := fstest.MapFS{"undionly.kpxe": {Data: bootBytes}, "shimx64.efi": {}, "shimaa64.efi": {Data: bootBytes}}
	s, _ := web(t, func(c *Config) { c.Files = files })
	discover := func(arch byte) (file, err string) {
		class := dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient"))
		r, d := s.decide(t.Context(), request(t, dhcpv4.MessageTypeDiscover, class, option(dhcpv4.OptionClientSystemArchitectureType, 0, arch)))
		if r == nil {
			t.Fatalf("no reply: %+v", d)
		}
		return r.BootFileName, d.Err
	}
	for arch, want := range map[byte]string{0: "undionly.kpxe", 11: "shimaa64.efi", 7: "", 6: ""} {
		file, err := discover(arch)
		if file != want || strings.Contains(err, "payload build") != (want == "") {
			t.Errorf("architecture %d: %q, %s", arch, file, err)
		}
	}
	files["shimx64.efi"] = &fstest.MapFile{Data: bootBytes}
	delete(files, "undionly.kpxe")
	s.looked = s.looked.Add(-time.Minute)
	if file, err := discover(7); file != "shimx64.efi" || err != "" {
		t.Errorf("after the build: %q, %s", file, err)
	}
	if file, err := discover(0); file != "" || !strings.Contains(err, "BIOS: undionly.kpxe is not there") {
		t.Errorf("a file that went: %q, %s", file, err)
	}
}
