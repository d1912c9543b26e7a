package netboot

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// capture is a file of packets in the format of libpcap.
type capture []byte

func newCapture() capture {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = binary.LittleEndian.AppendUint16(b, 2) // version 2.4
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)              // UTC; accuracy
	b = binary.LittleEndian.AppendUint32(b, 65535) // bytes kept of a packet
	return binary.LittleEndian.AppendUint32(b, 1)  // Ethernet
}

// add wraps payload in UDP, IPv4 and Ethernet.
func (c *capture) add(src, dst netip.AddrPort, payload []byte) {
	udp := binary.BigEndian.AppendUint16(nil, src.Port())
	udp = binary.BigEndian.AppendUint16(udp, dst.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	pseudo := append(append(append([]byte{}, src.Addr().AsSlice()...), dst.Addr().AsSlice()...), 0, 17)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], checksum(append(pseudo, udp...)))

	ip := []byte{0x45, 0}
	ip = binary.BigEndian.AppendUint16(ip, uint16(20+len(udp)))
	ip = append(ip, 0, 1, 0x40, 0, 64, 17, 0, 0)
	ip = append(append(ip, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))

	frame := []byte{255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 0, 0, 2, 8, 0}
	frame = append(append(frame, ip...), udp...)
	b := binary.LittleEndian.AppendUint64(*c, 0) // when
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	*c = append(b, frame...)
}

// checksum is RFC 1071's.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Wireshark reads every reply to every request, in every mode, as it is meant,
// and finds nothing wrong with it.
func TestWiresharkReadsTheReplies(t *testing.T) {
	type meant struct {
		name        string
		boots, guid string
		reply       *dhcpv4.DHCPv4
		odd         bool // its option 97 is no GUID: we say what it said
	}
	var all []meant
	pcap := newCapture()
	for _, x := range readExchanges(t) {
		q := x.requests[0].parse(t).DHCPv4
		guid := q.Options.Get(dhcpv4.OptionClientMachineIdentifier)
		note := func(at string, r *dhcpv4.DHCPv4) {
			m := meant{name: x.name + ", " + at, boots: x.boots, guid: wiresharkGUID(guid), reply: r, odd: guid != nil && len(guid) != 17}
			if strings.Contains(x.flags, "plain") {
				m.boots = "http://10.77.0.1:8080/boot/ipxe/" + strings.ReplaceAll(r.ClientHWAddr.String(), ":", "-")
			}
			if strings.HasPrefix(x.boots, "nothing") {
				m.boots, m.guid = "", ""
			}
			all = append(all, m)
		}
		for _, mode := range []Mode{Full, Proxy} {
			h, replies := hears(t, q, mode, routers["a plain router"])
			for i, r := range replies {
				note(fmt.Sprintf("%v, reply %d", mode, i), r)
				pcap.add(netip.AddrPortFrom(ours, dhcpPort), broadcast, r.ToBytes())
			}
			if r := h.ask(); r != nil {
				note(fmt.Sprintf("%v, port 4011", mode), r)
				pcap.add(netip.AddrPortFrom(ours, proxyPort), netip.AddrPortFrom(given, proxyPort), r.ToBytes())
			}
		}
	}
	if len(all) < 100 {
		t.Fatalf("only %d replies", len(all))
	}
	dir := t.TempDir()
	write(t, dir, "replies.pcap", pcap)
	fields := []string{
		"dhcp.type", "dhcp.ip.your", "dhcp.ip.server", "dhcp.file", "dhcp.option.dhcp_server_id", "dhcp.option.vendor_class_id",
		"dhcp.option.vendor.pxeclient.discovery_control", "dhcp.option.bootfile_name", "dhcp.client_id.uuid", "dhcp.option.type",
		"_ws.malformed", "_ws.expert.severity", "_ws.expert.message",
	}
	args := []string{"-n", "-r", filepath.Join(dir, "replies.pcap"), "-d", "udp.port==4011,dhcp", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-T", "fields", "-E", "separator=/t"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	cmd := exec.Command("tshark", args...)
	cmd.Env = append(cmd.Environ(), "HOME="+dir) // no settings of whoever runs this
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v (scripts/setup.sh installs it)", err)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(all) {
		t.Fatalf("tshark sees %d packets of %d", len(lines), len(all))
	}
	for i, m := range all {
		v := strings.Split(lines[i], "\t")
		if len(v) != len(fields) {
			t.Fatalf("%s: %q", m.name, lines[i])
		}
		control, server := "", "0.0.0.0"
		if m.reply.Options.Has(o43) {
			control = "0x08"
		}
		if m.boots != "" {
			server = ours.String()
		}
		want := []string{"2", m.reply.YourIPAddr.String(), server, m.boots, ours.String(),
			m.reply.ClassIdentifier(), control, m.reply.BootFileNameOption(), m.guid}
		for k, w := range want {
			if v[k] != w && !(m.odd && fields[k] == "dhcp.client_id.uuid") {
				t.Errorf("%s: %s is %q, meant was %q", m.name, fields[k], v[k], w)
			}
		}
		if !strings.HasSuffix(v[9], ",255") && !strings.HasSuffix(v[9], ",0") {
			t.Errorf("%s: options %s: no end", m.name, v[9])
		}
		for _, s := range strings.Split(v[11], ",") {
			if n, _ := strconv.Atoi(s); (v[10] != "" || n > 0x400000) && !m.odd { // a note is less than a warning
				t.Errorf("%s: malformed %q, %s: %s", m.name, v[10], v[11], v[12])
			}
		}
	}
}

// wiresharkGUID is option 97 as Wireshark shows it.
func wiresharkGUID(b []byte) string {
	if len(b) != 17 {
		return ""
	}
	u := b[1:]
	return fmt.Sprintf("%x-%x-%x-%x-%x", []byte{u[3], u[2], u[1], u[0]}, []byte{u[5], u[4]}, []byte{u[7], u[6]}, u[8:10], u[10:])
}
