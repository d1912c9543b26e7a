package netboot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// checkInterface finds what is wrong with the workshop's network card before
// it shows as a silent socket.
func checkInterface(name string, ip netip.Addr) (*net.Interface, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		var names []string
		all, _ := net.Interfaces() // the first error says enough
		for _, i := range all {
			if i.Flags&net.FlagLoopback == 0 {
				names = append(names, i.Name)
			}
		}
		return nil, fmt.Errorf("there is no network card %q: this machine has %s. Name the one that leads to the workshop", name, list(names))
	}
	if ifi.Flags&net.FlagUp == 0 {
		return nil, fmt.Errorf("the network card %s is switched off: `ip link set %s up`, then start again", name, name)
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", name, err)
	}
	var have []string
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if p.Addr() == ip {
			return ifi, nil
		}
		if p.Addr().Is4() {
			have = append(have, p.String())
		}
	}
	return nil, fmt.Errorf("the network card %s doesn't have the address %v, it has %s: set it with `ip addr add %v/24 dev %s`, or correct the configuration", name, ip, list(have), ip, name)
}

func list(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

// listen opens a UDP port on one interface only, so that a DHCP server for
// virtual machines on another one is no conflict. It asks for no address
// reuse: two DHCP servers on one port would each see the PCs and neither
// would know.
func listen(ctx context.Context, ifname string, ip netip.Addr, port int) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return onInterface(c, ifname)
	}}
	host := ""
	if ip.IsValid() {
		host = ip.String()
	}
	conn, err := lc.ListenPacket(ctx, "udp4", net.JoinHostPort(host, strconv.Itoa(port)))
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("UDP port %d is taken on this machine by %s", port, taken(holders(port), port, ifname))
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("UDP port %d may not be opened: run as root, or with the capabilities NET_BIND_SERVICE and NET_RAW: %w", port, err)
	case err != nil:
		return nil, fmt.Errorf("UDP port %d on %s: %w", port, ifname, err)
	}
	udp := conn.(*net.UDPConn)
	// The kernel gives less where its own limit is lower; a smaller buffer only
	// means that more PCs have to ask again.
	_ = udp.SetReadBuffer(receiveBuffer)
	return udp, nil
}

// receiveBuffer holds what a room full of PCs says while we look elsewhere. The
// kernel counts over 2 KiB for a DHCP packet, so the usual 208 KiB are some
// hundred PCs.
const receiveBuffer = 4 << 20

func onInterface(c syscall.RawConn, ifname string) error {
	var bind error
	if err := c.Control(func(fd uintptr) {
		bind = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, ifname)
	}); err != nil {
		return err
	}
	return bind
}

// holder is a program that has a port open.
type holder struct {
	pid  string
	name string // at most 15 letters, as the kernel keeps it
	args string
}

// holders finds the programs that have a UDP port open, as far as /proc tells.
func holders(port int) []holder {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue // no IPv6, or no /proc
		}
		for inode := range udpInodes(b, port) {
			inodes[inode] = true
		}
	}
	var found []holder
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well-formed
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil {
			continue // ended meanwhile, or not ours to see
		}
		inode, ok := strings.CutPrefix(to, "socket:[")
		if !ok || !inodes[strings.TrimSuffix(inode, "]")] {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		if slices.ContainsFunc(found, func(h holder) bool { return h.pid == pid }) {
			continue
		}
		comm, _ := os.ReadFile("/proc/" + pid + "/comm") // the number says enough without
		args, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		found = append(found, holder{pid, string(bytes.TrimSpace(comm)), string(bytes.ReplaceAll(args, []byte{0}, []byte{' '}))})
	}
	return found
}

// taken says who has a port, and how to get it for one interface.
func taken(by []holder, port int, ifname string) string {
	if len(by) == 0 {
		return fmt.Sprintf("another program: `sudo ss -lunp sport = :%d` names it; stop it, or keep it off %s", port, ifname)
	}
	var names []string
	for _, h := range by {
		names = append(names, fmt.Sprintf("%s (process %s)", printable(h.name), h.pid))
	}
	return strings.Join(names, ", ") + ": " + freeing(by[0], port, ifname)
}

func freeing(h holder, port int, ifname string) string {
	switch {
	case h.name == "dnsmasq" && strings.Contains(h.args, "libvirt"):
		return fmt.Sprintf("it serves libvirt's virtual machines: `virsh net-list` shows the network, and `virsh net-destroy NAME` ends it, unless it can be moved off %s with `virsh net-edit NAME`", ifname)
	case h.name == "dnsmasq" && strings.Contains(h.args, "NetworkManager"):
		return fmt.Sprintf("it shares a connection for NetworkManager: set %s to another method than \"shared\", or `nmcli device set %s managed no`", ifname, ifname)
	case h.name == "dnsmasq":
		return fmt.Sprintf("put the lines `bind-interfaces` and `except-interface=%s` into /etc/dnsmasq.conf and restart it", ifname)
	case strings.HasPrefix(h.name, "systemd-network"):
		return fmt.Sprintf("set `DHCPServer=no` in the .network file of %s (`networkctl status %s` names it) and `networkctl reload`", ifname, ifname)
	case h.name == "refurb":
		return "an appliance is running already, perhaps as a service (`systemctl status refurb`): end one of the two"
	case h.name == "in.tftpd":
		return "`sudo systemctl disable --now tftpd-hpa`, or give it another address than the appliance's"
	case h.name == "dhcpd" || strings.HasPrefix(h.name, "kea-dhcp4"):
		return fmt.Sprintf("take %s out of its list of interfaces and restart it, or stop it", ifname)
	}
	return fmt.Sprintf("stop it, or keep it off %s", ifname)
}

// udpInodes reads a table in the form of /proc/net/udp.
func udpInodes(table []byte, port int) map[string]bool {
	found := map[string]bool{}
	sc := bufio.NewScanner(bytes.NewReader(table))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 10 {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); err == nil && int(n) == port {
			found[f[9]] = true
		}
	}
	return found
}
