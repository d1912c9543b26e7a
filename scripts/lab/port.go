package lab

import (
	"encoding/json"
	"fmt"
	"os/exec"
)

// The appliance sits on the switch itself, so what it sends leaves by the
// bridge's own device, and what PCs send to each other does not.

// SlowPort limits what the appliance sends, to all PCs together, as a slow
// switch port does. 0 gives it back its full speed.
func (l *Lab) SlowPort(mbit int) error {
	dev := []string{"-n", l.Name, "qdisc"}
	if mbit == 0 {
		return run("tc", append(dev, "del", "dev", Bridge, "root")...)
	}
	return run("tc", append(dev, "replace", "dev", Bridge, "root",
		"tbf", "rate", fmt.Sprintf("%dmbit", mbit), "burst", "128kb", "latency", "100ms")...)
}

// Sent is the number of bytes that the appliance has sent so far, headers
// included.
func (l *Lab) Sent() (int64, error) {
	sent, _, err := l.counters(Bridge)
	return sent.Bytes, err
}

// traffic is what went through a device in one direction.
type traffic struct{ Bytes, Packets int64 }

// counters of a device in the lab: what went out by it and what came in.
func (l *Lab) counters(device string) (sent, received traffic, err error) {
	out, err := exec.Command("ip", "-n", l.Name, "-j", "-s", "link", "show", "dev", device).Output()
	if err != nil {
		return sent, received, fmt.Errorf("counting what went through %s: %w", device, err)
	}
	var links []struct {
		Stats struct{ TX, RX *traffic } `json:"stats64"`
	}
	if err := json.Unmarshal(out, &links); err != nil {
		return sent, received, fmt.Errorf("counting what went through %s: %w", device, err)
	}
	if len(links) != 1 || links[0].Stats.TX == nil || links[0].Stats.RX == nil {
		return sent, received, fmt.Errorf("counting what went through %s: ip shows no counter", device)
	}
	return *links[0].Stats.TX, *links[0].Stats.RX, nil
}
