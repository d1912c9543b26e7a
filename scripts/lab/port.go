package lab

import (
	"encoding/json"
	"errors"
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
	out, err := exec.Command("ip", "-n", l.Name, "-j", "-s", "link", "show", "dev", Bridge).Output()
	if err != nil {
		return 0, fmt.Errorf("counting what the appliance sent: %w", err)
	}
	var links []struct {
		Stats struct {
			TX struct{ Bytes *int64 }
		} `json:"stats64"`
	}
	if err := json.Unmarshal(out, &links); err != nil {
		return 0, fmt.Errorf("counting what the appliance sent: %w", err)
	}
	if len(links) != 1 || links[0].Stats.TX.Bytes == nil {
		return 0, errors.New("counting what the appliance sent: ip shows no counter")
	}
	return *links[0].Stats.TX.Bytes, nil
}
