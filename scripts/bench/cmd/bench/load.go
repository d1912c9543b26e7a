package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// clock is what the machine's processors have done since it started, in ticks.
type clock struct{ busy, all int64 }

// readClock counts time that the hypervisor gave to others as busy.
func readClock() (c clock, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return c, err
	}
	line, _, _ := bytes.Cut(b, []byte{'\n'})
	f := bytes.Fields(line)
	if len(f) < 9 {
		return c, fmt.Errorf("/proc/stat starts with %.80q", line)
	}
	for i, s := range f[1:9] { // user nice system idle iowait irq softirq steal
		n, err := strconv.ParseInt(string(s), 10, 64)
		if err != nil {
			return c, fmt.Errorf("/proc/stat: %w", err)
		}
		c.all += n
		if i != 3 && i != 4 {
			c.busy += n
		}
	}
	return c, nil
}

// since is the share of all cores that was busy from then to c.
func (c clock) since(then clock) float64 {
	if c.all == then.all {
		return 0
	}
	return float64(c.busy-then.busy) / float64(c.all-then.all)
}

const (
	tooBusy  = 0.85 // above, the cores are what is measured
	strange  = 0.15 // busy before a run began: somebody else is at work
	patience = 10   // seconds to wait for strangers
)

// calm waits for a second in which next to nothing runs, up to patience, and
// returns how busy the last one was.
func calm() (float64, error) {
	var share float64
	for range patience {
		then, err := readClock()
		if err != nil {
			return 0, err
		}
		time.Sleep(time.Second)
		now, err := readClock()
		if err != nil {
			return 0, err
		}
		if share = now.since(then); share <= strange {
			break
		}
	}
	return share, nil
}
