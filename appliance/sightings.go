package appliance

import (
	"log/slog"
	"slices"
	"strings"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/netboot"
	"refurb/appliance/trace"
)

// Sighting keeps what the boot chain saw.
func (d desk) Sighting(s netboot.Sighting) {
	level := slog.LevelDebug
	if s.Err != "" {
		level = slog.LevelWarn
	}
	d.said.say(level, "boot", "what", s.What, "mac", s.MAC, "ip", s.IP, "detail", s.Detail, "err", s.Err)
	d.Trace.Add(traced(s))
}

// traced is a sighting in the trace's own form: it knows nobody.
func traced(s netboot.Sighting) trace.Sighting {
	arch := int(s.Arch)
	if s.Arch == netboot.NoArch {
		arch = -1
	}
	return trace.Sighting{
		Time: s.Time, MAC: s.MAC, UUID: s.UUID, IP: s.IP, What: s.What, Via: s.Via, Arch: arch, Detail: s.Detail, Err: s.Err,
		Problem: s.Problem, Secs: s.Secs, Port: s.Port, Server: s.Server, Card: s.Card,
		File: s.File, Size: s.Size, Bytes: s.Bytes, Began: s.Began, Probe: s.Probe, Missing: s.Missing, Boots: string(s.Boots),
	}
}

// hello is an agent's report as the end of its PC's start.
func hello(mac, ip string, device string, number int, rep *wire.Report) trace.Sighting {
	s := trace.Sighting{
		Time: time.Now(), What: trace.Hello, Arch: -1, MAC: mac, IP: ip, UUID: rep.Identity.UUID, Device: device, Number: number,
		Detail: strings.TrimSpace(rep.Identity.Manufacturer + " " + rep.Identity.Model),
	}
	for _, g := range rep.Gaps {
		// "wired network adapter", "USB network adapter or modem"; a driver's
		// missing firmware names no class, so the driver's card counts.
		if strings.Contains(g.What, "network") || networkDriver(g.What, rep.NICs) {
			s.Gaps = append(s.Gaps, trace.Gap{ID: g.ID, What: g.What, Reason: g.Reason})
		}
	}
	if n := rep.Network; n != nil {
		s.Link = trace.LinkTimes{Card: n.Card, Carrier: time.Duration(n.CarrierMS) * time.Millisecond, Address: time.Duration(n.AddressMS) * time.Millisecond}
	}
	return s
}

func networkDriver(what string, nics []wire.NIC) bool {
	name, ok := strings.CutPrefix(what, "driver ")
	return ok && slices.ContainsFunc(nics, func(n wire.NIC) bool { return n.Driver == name })
}
