package appliance

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNetworksBehindRelays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "refurb.toml")
	text := "[[networks]]\nnetwork = \"10.88.0.0/24\"\nvia = \"10.77.0.254\"\n[[networks]]\nnetwork = \"10.89.0.0/24\"\npool = \"10.89.0.10-10.89.0.20\"\nrouter = \"10.89.0.2\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.DNS = []string{"9.9.9.9"}
	if err := ReadConfig(&cfg, file); err != nil {
		t.Fatal(err)
	}
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	n, err := cfg.network(netip.MustParsePrefix("10.77.0.1/24"), false)
	if err != nil || len(n.further) != 2 {
		t.Fatalf("%+v %v", n, err)
	}
	if a, b := n.further[0], n.further[1]; a.PoolFrom.String() != "10.88.0.128" || a.DNS[0].String() != "9.9.9.9" || b.PoolTo.String() != "10.89.0.20" || b.Router.String() != "10.89.0.2" {
		t.Errorf("%+v", n.further)
	}
	flag, err := ParseNetwork("10.88.0.0/24,via=10.77.0.254,pool=10.88.0.5-10.88.0.9,dns=1.1.1.1")
	if err != nil || flag.Via != "10.77.0.254" || flag.Pool != "10.88.0.5-10.88.0.9" || len(flag.DNS) != 1 {
		t.Errorf("%+v %v", flag, err)
	}
	for s, want := range map[string]string{
		"10.88.0.1/24":                              "behind a relay",
		"10.88.0.0/24,gateway=1":                    "none of pool=",
		"10.88.0.0/24,router=10.77.0.1":             "inside 10.88.0.0/24",
		"10.88.0.0/24,pool=10.77.0.5-10.77.0.9":     "inside 10.88.0.0/24",
		"10.88.0.0/30":                              "too small",
		"10.88.0.0/24,via=somewhere":                "via",
		"fd00::/64":                                 "behind a relay",
		"10.88.0.0/24,dns=::1":                      "no IPv4",
		strings.Repeat("9", 300) + ",via=10.77.0.1": "behind a relay",
	} {
		if _, err := ParseNetwork(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want it to say %q", s, err, want)
		}
	}
	cfg.Networks[0].Network = "10.77.0.0/25"
	if _, err := cfg.network(netip.MustParsePrefix("10.77.0.1/24"), false); err == nil || !strings.Contains(err.Error(), "overlaps") {
		t.Errorf("our own network: %v", err)
	}
	for _, dhcp := range []string{"auto", "full", "proxy"} {
		if cfg.DHCP = dhcp; cfg.Check() != nil {
			t.Errorf("dhcp = %q is refused", dhcp)
		}
	}
	cfg.DHCP = "maybe"
	if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), `"auto"`) {
		t.Error(err)
	}
}
