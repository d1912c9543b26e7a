package netboot

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestHowToFreeAPort(t *testing.T) {
	for name, want := range map[string]string{
		"dnsmasq":         "`except-interface=eth1`",
		"systemd-network": "`DHCPServer=no`",
		"refurb":          "systemctl status refurb",
		"in.tftpd":        "tftpd-hpa",
		"kea-dhcp4":       "take eth1 out",
		"python3":         "keep it off eth1",
	} {
		if got := taken([]holder{{"42", name, ""}}, 67, "eth1"); !strings.Contains(got, want) || !strings.Contains(got, "(process 42)") {
			t.Errorf("%s: %s", name, got)
		}
	}
	for args, want := range map[string]string{
		"/usr/sbin/dnsmasq --conf-file=/var/lib/libvirt/dnsmasq/default.conf": "virsh",
		"dnsmasq --conf-dir=/etc/NetworkManager/dnsmasq-shared.d":             "nmcli",
	} {
		if got := taken([]holder{{"42", "dnsmasq", args}}, 67, "eth1"); !strings.Contains(got, want) {
			t.Errorf("%s: %s", args, got)
		}
	}
	if got := taken(nil, 69, "eth1"); !strings.Contains(got, "ss -lunp sport = :69") {
		t.Error(got)
	}
}

// dnsmasq on this machine: on another card it is no conflict when it keeps to
// that one; else it is named, with what to do.
func TestPortTakenByDnsmasq(t *testing.T) {
	c, other := newCable(t), newCable(t)
	l, err := netlink.LinkByName(other.srv)
	must(t, err)
	a, err := netlink.ParseAddr("10.78.0.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(l, a))
	here := func(f func() error) { must(t, f()) }
	args := []string{"--interface=" + other.srv, "--dhcp-range=10.78.0.100,10.78.0.110,1h"}
	stop, _ := dnsmasq(t, here, append(args, "--bind-interfaces")...)
	_, end := start(t, c.config(&desk{}))
	end()
	stop()

	stop, _ = dnsmasq(t, here, args...)
	s, err := New(c.config(&desk{}))
	must(t, err)
	err = s.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "dnsmasq (process ") || !strings.Contains(err.Error(), "except-interface="+c.srv) {
		t.Errorf("it says: %v", err)
	}
	stop()
}
