package drivers

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// fixture is an index of real modules, their aliases shortened.
func fixture() *Index {
	return &Index{
		Kernel: "6.12.0-test",
		Always: []string{"sd_mod", "efivarfs"},
		Modules: map[string]Module{
			"e1000e":      {File: "e1000e.ko.xz", Aliases: []string{"pci:v00008086d000010D3sv*sd*bc*sc*i*"}},
			"r8169":       {File: "r8169.ko.xz", Aliases: []string{"pci:v000010ECd00008168sv*sd*bc*sc*i*"}, Depends: []string{"libphy", "mdio_devres"}, Before: []string{"realtek"}},
			"realtek":     {File: "realtek.ko.xz", Depends: []string{"libphy"}},
			"libphy":      {File: "libphy.ko.xz"},
			"mdio_devres": {File: "mdio_devres.ko.xz", Depends: []string{"libphy"}},
			"ahci":        {File: "ahci.ko.xz", Aliases: []string{"pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv*sd*bc*sc*i*"}, Depends: []string{"libata"}},
			"ata_generic": {File: "ata_generic.ko.xz", Aliases: []string{"pci:v*d*sv*sd*bc01sc01i*"}, Depends: []string{"libata"}},
			"ata_piix":    {File: "ata_piix.ko.xz", Aliases: []string{"pci:v00008086d00007010sv*sd*bc*sc*i*"}, Depends: []string{"libata"}},
			"libata":      {File: "libata.ko.xz", Depends: []string{"scsi_mod"}},
			"scsi_mod":    {File: "scsi_mod.ko.xz"},
			"sd_mod":      {File: "sd_mod.ko.xz", Aliases: []string{"scsi:t-0x00*"}, Depends: []string{"scsi_mod"}},
			"efivarfs":    {File: "efivarfs.ko.xz"},
			"xhci_hcd":    {File: "xhci_hcd.ko.xz"},
			"xhci_pci":    {File: "xhci_pci.ko.xz", Aliases: []string{"pci:v*d*sv*sd*bc0Csc03i30*"}, Depends: []string{"xhci_hcd"}},
			"usbhid":      {File: "usbhid.ko.xz", Aliases: []string{"usb:v*p*d*dc*dsc*dp*ic03isc*ip*in*"}},
			"i2c_hid":     {File: "i2c-hid.ko.xz", Aliases: []string{"acpi*:PNP0C50:*"}},
			"ranges":      {File: "ranges.ko.xz", Aliases: []string{"usb:v0BDAp81[0-9A-F]3d01[0-4]*dc*dsc*dp*ic*isc*ip*in*", "usb:v[*broken", "*"}},
			// As uhci_hcd and ehci_pci say of each other.
			"loop_a": {File: "loop_a.ko.xz", Before: []string{"loop_b"}},
			"loop_b": {File: "loop_b.ko.xz", Depends: []string{"loop_a"}, After: []string{"loop_a"}},
		},
	}
}

func TestMatch(t *testing.T) {
	m := newMatcher(fixture())
	for _, tc := range []struct{ modalias, want string }{
		{"pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00", "e1000e"},
		{"pci:v00008086d000010D4sv00008086sd00000000bc02sc00i00", ""},
		// A chip's own alias before the class's.
		{"pci:v00008086d00007010sv00001AF4sd00001100bc01sc01i80", "ata_piix ata_generic"},
		{"pci:v00001B21d00000612sv00001B21sd00001060bc01sc06i01", "ahci"},
		// Two aliases of one module name it once.
		{"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", "ahci"},
		{"acpi:DLL07E6:PNP0C50:", "i2c_hid"},
		{"acpi:PNP0C50:", "i2c_hid"},
		{"scsi:t-0x00", "sd_mod"},
		{"scsi:t-0x05", ""},
		{"usb:v046DpC52Bd1211dc00dsc00dp00ic03isc01ip01in00", "usbhid"},
		{"usb:v0BDAp8153d0131dc00dsc00dp00icFFiscFFip00in00", "ranges"},
		{"usb:v0BDAp8153d0151dc00dsc00dp00icFFiscFFip00in00", ""},
		{"", ""},
		{"pci", ""},
		{"cpu:type:x86,ven0000fam0006mod0055:feature:,0000,0001", ""},
	} {
		if got := strings.Join(m.match(tc.modalias), " "); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.modalias, got, tc.want)
		}
	}
}

func TestOrder(t *testing.T) {
	x := fixture()
	for _, tc := range []struct{ name, want string }{
		{"e1000e", "e1000e"},
		{"r8169", "libphy realtek mdio_devres r8169"},
		{"sd_mod", "scsi_mod sd_mod"},
		{"loop_a", "loop_b loop_a"}, // a circle ends; what goes first doesn't matter
		{"loop_b", "loop_a loop_b"},
		{"i8042", ""}, // built in
	} {
		if got := strings.Join(x.Order(tc.name), " "); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	if got, want := strings.Join(x.Closure("sd_mod", "ahci", "nothing"), " "), "ahci libata scsi_mod sd_mod"; got != want {
		t.Errorf("closure %q, want %q", got, want)
	}
}

func TestName(t *testing.T) {
	for in, want := range map[string]string{
		"i2c-hid-acpi.ko.xz":                           "i2c_hid_acpi",
		"kernel/drivers/net/ethernet/realtek/r8169.ko": "r8169",
		"8139cp": "8139cp",
		"a.b-c":  "a.b_c",
	} {
		if got := Name(in); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestParseIndexRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"no JSON":         `{`,
		"a path":          `{"modules":{"x":{"file":"../../bin/x.ko"}}}`,
		"no file":         `{"modules":{"x":{}}}`,
		"a name's dashes": `{"modules":{"x-y":{"file":"x-y.ko"}}}`,
		"too long":        `{"kernel":"` + strings.Repeat("x", MaxIndex) + `"}`,
	} {
		if _, err := ParseIndex([]byte(in)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzIndex: whatever index and modalias come, order ends, lists nothing twice
// and puts a module after what it depends on, unless that goes in a circle.
func FuzzIndex(f *testing.F) {
	b, _ := json.Marshal(fixture())
	f.Add(b, "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00")
	f.Add([]byte(`{"modules":{"a":{"file":"a.ko","aliases":["usb:[","usb:\\","?"],"depends":["a","b"]}}}`), "usb:[")
	f.Fuzz(func(t *testing.T, b []byte, modalias string) {
		x, err := ParseIndex(b)
		if err != nil {
			return
		}
		for _, name := range newMatcher(x).match(modalias) {
			order := x.Order(name)
			if !slices.Contains(order, name) {
				t.Errorf("order of %s is %v: without itself", name, order)
			}
			sorted := slices.Sorted(slices.Values(order))
			if len(slices.Compact(sorted)) != len(order) {
				t.Errorf("order of %s is %v: something twice", name, order)
			}
		}
	})
}
