package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
)

// lan is a switch and what is plugged into it. The switch lives in the bench's
// own network; every port leads to a namespace with one card, eth0.
type lan struct {
	appliance *port
	pcs       []*port
}

type port struct {
	name string // of the namespace
	link string // the switch's end
	ip   string
}

const applianceIP = "10.78.0.1"

func newLan(pcs int) (*lan, error) {
	l := &lan{appliance: &port{"appliance", "p0", applianceIP}}
	for i := range pcs {
		l.pcs = append(l.pcs, &port{fmt.Sprintf("pc%d", i+1), fmt.Sprintf("p%d", i+1), fmt.Sprintf("10.78.0.%d", 11+i)})
	}
	// No snooping: the switch floods multicast, as unmanaged ones do.
	if err := do("ip link set lo up",
		"ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
		"ip link set br0 up"); err != nil {
		return nil, err
	}
	for _, p := range l.ports() {
		in := "ip -n " + p.name + " "
		if err := do("ip netns add "+p.name,
			"ip link add "+p.link+" type veth peer name eth0 netns "+p.name,
			"ip link set "+p.link+" master br0 up",
			in+"link set lo up",
			in+"addr add "+p.ip+"/24 brd + dev eth0",
			in+"link set eth0 up",
			in+"route add 224.0.0.0/4 dev eth0"); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *lan) ports() []*port { return append([]*port{l.appliance}, l.pcs...) }

// shape gives a port its speed, both ways, with a queue of about 20 ms.
func (p *port) shape(mbit int) error {
	second := mbit * 1e6 / 8
	tbf := fmt.Sprintf("root tbf rate %dmbit burst %d limit %d", mbit, max(second/500, 32<<10), max(second/50, 64<<10))
	return do("tc qdisc replace dev "+p.link+" "+tbf,
		"tc -n "+p.name+" qdisc replace dev eth0 "+tbf)
}

// cut drops what the port sends and gets, without a word to either side.
func (p *port) cut(off bool) error {
	state := "up"
	if off {
		state = "down"
	}
	return do("ip link set " + p.link + " " + state)
}

// sent is what the machine behind the port has sent so far, in bytes.
func (p *port) sent() (int64, error) {
	out, err := exec.Command("ip", "-s", "-j", "link", "show", p.link).Output()
	var links []struct {
		Stats struct {
			Rx struct{ Bytes int64 }
		} `json:"stats64"`
	}
	if err == nil {
		err = json.Unmarshal(out, &links)
	}
	if err == nil && len(links) != 1 {
		err = fmt.Errorf("no link %s", p.link)
	}
	if err != nil {
		return 0, fmt.Errorf("reading the counters of %s: %w", p.link, err)
	}
	return links[0].Stats.Rx.Bytes, nil
}

// do runs simple commands, one after the other.
func do(lines ...string) error {
	for _, line := range lines {
		f := strings.Fields(line)
		if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
