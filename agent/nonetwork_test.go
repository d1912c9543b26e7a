package agent

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/drivers"
	"refurb/agent/link"
	"refurb/agent/screen"
	"refurb/agent/wire"
)

func TestWaitingForTheNetwork(t *testing.T) {
	driver := wire.Gap{ID: "pci 14e4:1692", What: "wired network adapter", Reason: "no driver in our boot files"}
	firmware := wire.Gap{ID: "pci 14e4:163b", What: "driver bnx2", Reason: "firmware file bnx2/x.fw is not in our boot files"}
	disk := wire.Gap{ID: "pci 8086:2822", What: "RAID storage controller", Reason: "no driver in our boot files"}
	for _, tt := range []struct {
		name       string
		what       string
		waited     time.Duration
		gaps       []wire.Gap
		kind       screen.Kind
		says, next string
		lines      int
	}{
		{"no card at all", link.NoCard, 0, nil, screen.Waiting, link.NoCard, "USB network card", 0},
		{"a card without a driver", link.NoCard, 0, []wire.Gap{disk, firmware, driver}, screen.Waiting, "pci 14e4:1692, wired network adapter: no driver", "USB network card", 1},
		{"a card without firmware", link.NoCard, 0, []wire.Gap{firmware, disk}, screen.Waiting, "bnx2/x.fw", "USB network card", 0},
		{"a cable, soon", link.NoCable, time.Second, nil, screen.Working, link.NoCable, "", 0},
		{"no cable", link.NoCable, time.Minute, []wire.Gap{driver}, screen.Waiting, link.NoCable, "another cable", 0},
		{"an address, soon", "asking for an address on eth0", time.Second, nil, screen.Working, "eth0", "", 0},
		{"no address", "asking for an address on eth0", time.Minute, nil, screen.Waiting, "eth0", "PortFast", 0},
	} {
		v := waitingView(tt.what, tt.waited, tt.gaps)
		if v.Kind != tt.kind || !strings.Contains(v.Detail, tt.says) || !strings.Contains(v.Next, tt.next) || (tt.next == "") != (v.Next == "") || len(v.Lines) != tt.lines {
			t.Errorf("%s: %+v", tt.name, v)
		}
	}
}

// A card that is plugged in while the PC waits gets its driver, and nobody looks
// for drivers all the time.
func TestLateCardGetsItsDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loads := 0
		var last screen.View
		n := noNetwork{show: func(v screen.View) { last = v }, load: func(context.Context) (drivers.Result, error) {
			loads++
			return drivers.Result{Gaps: []wire.Gap{{ID: "usb 0bda:8157", What: "USB network adapter or modem", Reason: "no driver in our boot files"}}}, nil
		}}
		for range 20 {
			n.says(t.Context(), link.NoCard)
			time.Sleep(500 * time.Millisecond)
		}
		if loads < 3 || loads > 5 || !strings.Contains(last.Detail, "usb 0bda:8157") {
			t.Errorf("looked for drivers %d times in 10 s; the screen says %q", loads, last.Detail)
		}
		for range 5 {
			n.says(t.Context(), link.NoCable)
			time.Sleep(500 * time.Millisecond)
		}
		if loads > 5 {
			t.Error("drivers are looked for while only the cable is missing")
		}
	})
}
