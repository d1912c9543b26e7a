package trace

import (
	"strings"
	"time"
)

// facts is what a start's lines say, in the order that rules ask for.
type facts struct {
	s   *Start
	now time.Time

	discovers, offers, requests, naks int // of firmware and iPXE
	discover, offer, request, ack     time.Time
	firstDiscover, firstOffer         time.Time
	fileOffered                       bool
	server                            string    // another DHCP server that the PC chose
	chose                             time.Time // when
	asked4011                         bool
	secs                              int           // that the first DISCOVER said
	gap                               time.Duration // the longest between two DISCOVERs
	ipxe                              time.Time     // when iPXE first asked
	ipxeAck                           time.Time

	loader, grub, config, kernel, initramfs transfer
	whichLoader                             string
	mok                                     bool // shim looked for its key manager: it refuses what comes next
	foreign                                 string
	script                                  time.Time
	boots                                   string
	scriptErr                               string
	hello, firstBoot                        *Line
	refused                                 *Line
	plain                                   time.Time // an agent or an installed system asks for an address
	plainAck                                time.Time
	plainOnly                               bool // nothing else was ever asked for
	problems                                map[string]*Line
}

// transfer is what is known of one file.
type transfer struct {
	file   string
	begun  time.Time // zero: never
	ended  time.Time // whole; zero: not
	broken *Line
	open   *Line // under way
	tries  int
}

func (t transfer) whole() bool { return !t.ended.IsZero() }

func (t *transfer) add(l *Line) {
	switch {
	case l.Probe || l.Missing:
		return
	case l.What == "begin":
		t.open = l
	case l.Err != "":
		t.broken = l
	default:
		t.ended = l.End()
		t.open = nil
	}
	t.file = l.File
	t.tries += l.N()
	if t.begun.IsZero() {
		t.begun = l.Time
		if !l.Began.IsZero() {
			t.begun = l.Began
		}
	}
}

// kindOf says which part of the chain a file is.
func kindOf(file string) string {
	switch {
	case strings.HasSuffix(file, "grub.cfg"):
		return "config"
	case strings.Contains(file, "vmlinuz"):
		return "kernel"
	case strings.Contains(file, "initrd"):
		return "initramfs"
	case strings.Contains(file, "shim") && strings.HasSuffix(file, ".efi") && !strings.HasPrefix(file, "shim_certificate"):
		return "shim"
	case strings.Contains(file, "grub") && strings.HasSuffix(file, ".efi"):
		return "grub"
	case strings.HasSuffix(file, ".kpxe"), strings.HasSuffix(file, ".pxe"), strings.Contains(file, "ipxe") && strings.HasSuffix(file, ".efi"), strings.Contains(file, "snponly"):
		return "ipxe"
	}
	return ""
}

// optional are files that loaders and firmware ask for and do without.
func optional(file string) bool {
	for _, p := range []string{"revocations", "shim_certificate", "grub/", "autoexec.ipxe", "fbx64.efi", "fbia32.efi"} {
		if strings.HasPrefix(file, p) {
			return true
		}
	}
	return mokManager(file) || strings.HasSuffix(file, ".lst") || strings.HasSuffix(file, ".mod") || strings.HasSuffix(file, "grub.cfg") || file == ""
}

// mokManager: what shim runs when it won't run what it was to start: mmx64.efi.
func mokManager(file string) bool {
	return strings.HasPrefix(file, "mm") && strings.HasSuffix(file, ".efi")
}

func read(s *Start, now time.Time) *facts {
	f := &facts{s: s, now: now, plainOnly: true, problems: map[string]*Line{}}
	for i := range s.Lines {
		l := &s.Lines[i]
		if l.Problem != "" && f.problems[l.Problem] == nil {
			f.problems[l.Problem] = l
		}
		if l.Via != "" {
			f.plainOnly = false
		}
		switch l.What {
		case "discover", "offer", "request", "ack", "nak", "decline", "inform":
			f.dhcp(l)
		case "begin", "tftp", "http":
			f.plainOnly = false
			f.file(l)
		case "script":
			f.plainOnly = false
			if !l.Probe {
				f.script, f.boots, f.scriptErr = l.End(), l.Boots, l.Err
			}
		case Stick:
			f.plainOnly = false
		case Hello:
			f.hello, f.plainOnly = l, false
		case Refused:
			f.refused, f.plainOnly = l, false
		case FirstBoot:
			f.firstBoot = l
		}
	}
	return f
}

func (f *facts) dhcp(l *Line) {
	if l.Via == "" {
		switch l.What {
		case "discover", "request":
			f.plain = l.End()
		case "ack":
			f.plainAck = l.End()
		}
		return
	}
	switch l.What {
	case "discover":
		if f.discovers == 0 {
			f.firstDiscover, f.secs = l.Time, l.Secs
		}
		f.discovers += l.N()
		f.discover = l.End()
		f.gap = max(f.gap, l.Gap)
		if l.Via == "ipxe" && f.ipxe.IsZero() {
			f.ipxe = l.Time
		}
	case "offer":
		if f.offers == 0 {
			f.firstOffer = l.Time
		}
		f.offers += l.N()
		f.offer = l.End()
		f.fileOffered = f.fileOffered || l.File != ""
	case "request":
		f.requests += l.N()
		if l.Server != "" {
			f.server, f.chose = l.Server, l.End()
		} else {
			f.request = l.End()
		}
		f.asked4011 = f.asked4011 || l.Port == 4011
	case "ack":
		f.ack = l.End()
		if l.Via == "ipxe" {
			f.ipxeAck = l.End()
		}
	case "decline":
		f.ack, f.ipxeAck = time.Time{}, time.Time{} // it can't use that address
	case "nak":
		f.naks += l.N()
	}
}

func (f *facts) file(l *Line) {
	f.mok = f.mok || mokManager(l.File)
	if l.Missing {
		if f.foreign == "" && !f.loader.whole() && !optional(l.File) {
			f.foreign = l.File
		}
		return
	}
	switch kind := kindOf(l.File); kind {
	case "shim", "ipxe":
		f.loader.add(l)
		f.whichLoader = kind
	case "grub":
		if f.whichLoader == "shim" {
			f.grub.add(l)
		} else {
			f.loader.add(l)
			f.whichLoader = kind
		}
	case "config":
		f.config.add(l)
	case "kernel":
		f.kernel.add(l)
	case "initramfs":
		f.initramfs.add(l)
	}
}

// reached is the furthest stage that there is a trace of.
func (f *facts) reached() Stage {
	switch {
	case f.hello != nil || f.refused != nil:
		return Agent
	case !f.initramfs.begun.IsZero():
		return Initramfs
	case !f.kernel.begun.IsZero():
		return Kernel
	case f.boots == bootsDisk:
		return Disk
	case !f.script.IsZero():
		return Script
	case !f.loader.begun.IsZero() || !f.ipxe.IsZero() || !f.grub.begun.IsZero() || !f.config.begun.IsZero():
		return Loader
	}
	return Firmware
}

// over: nothing has come since t for d, or ever will, since the PC began anew.
func (f *facts) over(t time.Time, d time.Duration) bool {
	if t.IsZero() {
		return false
	}
	return !f.s.Again.IsZero() || f.now.Sub(t) >= d
}

// Netbooting reports whether the start is one from the network at all: a phone
// or an installed system asks for an address and for nothing else.
func Netbooting(s *Start) bool { return !read(s, s.Last).plainOnly }

// Chain is a start's stages with where it stands. findings are Diagnose's.
func Chain(s *Start, findings []Finding) []Step {
	f := read(s, s.Last)
	at := map[Stage]time.Time{
		Firmware: f.firstDiscover, Loader: first(f.loader.begun, f.ipxe, f.grub.begun, f.config.begun), Script: f.script,
		Kernel: f.kernel.begun, Initramfs: f.initramfs.begun,
	}
	if f.hello != nil {
		at[Agent] = f.hello.Time
	}
	stages := []Stage{Firmware, Loader, Script, Kernel, Initramfs, Agent}
	reached := f.reached()
	if f.boots == bootsDisk && reached == Disk {
		stages = []Stage{Firmware, Loader, Script, Disk}
		at[Disk] = f.script
	}
	done := reached == Agent && f.hello != nil || reached == Disk && (f.firstBoot != nil || f.plain.After(f.script))
	var steps []Step
	for _, st := range stages {
		step := Step{Stage: st, At: at[st]}
		switch {
		case st < reached || st == reached && done:
			step.Standing = Past
		case st == reached && len(findings) > 0 && findings[0].Severity == Failure:
			step.Standing = Stuck
		case st == reached:
			step.Standing = Here
		}
		steps = append(steps, step)
	}
	return steps
}

func first(times ...time.Time) time.Time {
	var t time.Time
	for _, u := range times {
		if !u.IsZero() && (t.IsZero() || u.Before(t)) {
			t = u
		}
	}
	return t
}
