// Package trace keeps what was seen of every PC's start, from its first packet
// to its agent's hello, and says in plain words where a start stopped and what
// to do about it. It is told of Sightings and knows nobody: not the boot chain
// that sees them nor the pages that show them.
//
// What is kept is bounded, whoever sends packets on the workshop's network, and
// so is what one sender can push out of it (log.go). How sightings become starts
// is fold.go; Diagnose, a pure function of one start and the time, is
// diagnose.go.
package trace

import (
	"slices"
	"strings"
	"time"
	"unicode"
)

// Sighting is one packet, file or message of a PC. All text in it is hostile
// until Log.Add has cleaned it.
type Sighting struct {
	Time   time.Time `json:"time"`
	MAC    string    `json:"mac,omitempty"`
	UUID   string    `json:"-"`
	IP     string    `json:"ip,omitempty"`
	What   string    `json:"what"` // the boot chain's kinds ("discover" … "script"), or one of ours below
	Via    string    `json:"via,omitempty"`
	Arch   int       `json:"-"` // DHCP option 93; -1: not known
	Detail string    `json:"detail,omitempty"`
	Err    string    `json:"err,omitempty"`

	Problem string    `json:"problem,omitempty"` // the kind of Err: "pool", "taken", "arch", "file", "send", "other"
	Secs    int       `json:"secs,omitempty"`    // how long the PC says it has been asking
	Port    int       `json:"port,omitempty"`
	Server  string    `json:"server,omitempty"` // another DHCP server
	Card    string    `json:"-"`                // "pci 8086:153a"
	File    string    `json:"file,omitempty"`
	Size    int64     `json:"size,omitempty"`
	Bytes   int64     `json:"bytes,omitempty"`
	Began   time.Time `json:"began,omitzero"` // of a transfer, in its "begin" and in its end
	Probe   bool      `json:"probe,omitempty"`
	Missing bool      `json:"missing,omitempty"`
	Boots   string    `json:"boots,omitempty"` // a script: "agent", "disk"…; empty when refused

	// What an agent says.
	Number int       `json:"number,omitempty"`
	Device string    `json:"-"`
	Gaps   []Gap     `json:"gaps,omitempty"` // network cards that had no driver or no firmware
	Link   LinkTimes `json:"link,omitzero"`
}

// Gap is a network card that the boot files could not serve.
type Gap struct {
	ID     string `json:"id"` // "pci 10ec:8125"
	What   string `json:"what,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// LinkTimes is how long an agent waited for its network.
type LinkTimes struct {
	Card    string        `json:"card,omitempty"`
	Carrier time.Duration `json:"carrier,omitempty"` // from switching the card on to a cable
	Address time.Duration `json:"address,omitempty"` // from the cable to an address
}

// Kinds of Sighting that the boot chain doesn't have.
const (
	Stick     = "stick"     // an agent that came from a stick asked what to do
	Hello     = "hello"     // an agent's first report was taken
	Refused   = "refused"   // an agent was turned away
	FirstBoot = "firstboot" // the installed system has started from the PC's own disk
)

// What a script starts; anything else is not known here.
const (
	bootsAgent = "agent"
	bootsDisk  = "disk"
	bootsShell = "shell"
)

// Line is one or more equal sightings.
type Line struct {
	Sighting
	Last  time.Time     `json:"last,omitzero"` // of the last one, when there are several
	Count int           `json:"count,omitempty"`
	Gap   time.Duration `json:"gap,omitempty"` // the longest time between two of them
}

// N is how many sightings it stands for.
func (l *Line) N() int { return max(1, l.Count) }

// End is when the last of them was.
func (l *Line) End() time.Time {
	if l.Last.IsZero() {
		return l.Time
	}
	return l.Last
}

// Start is one start of one PC. What Log gives out is never changed later.
type Start struct {
	ID      string    `json:"id"`
	MACs    []string  `json:"macs"` // the first one asked first
	UUID    string    `json:"uuid,omitempty"`
	IP      string    `json:"ip,omitempty"`
	Arch    int       `json:"arch"` // -1: not known
	Card    string    `json:"card,omitempty"`
	Mode    string    `json:"mode,omitempty"` // who gave addresses then: "full", "proxy"; empty: not known
	Number  int       `json:"number,omitempty"`
	Device  string    `json:"device,omitempty"`
	Began   time.Time `json:"began"`
	Last    time.Time `json:"last"`
	Again   time.Time `json:"again,omitzero"` // when the PC began anew; zero: this is its newest start
	Lines   []Line    `json:"lines"`
	Dropped int       `json:"dropped,omitempty"` // lines that found no room, from the middle
}

// Has reports whether mac is one of the PC's.
func (s *Start) Has(mac string) bool { return slices.Contains(s.MACs, mac) }

// Firmware names what kind of firmware the PC has; empty when it didn't say.
func (s *Start) Firmware() string {
	switch s.Arch {
	case 0:
		return "BIOS"
	case 6, 15:
		return "UEFI IA32"
	case 7, 9, 16:
		return "UEFI x64"
	case 11, 18, 19:
		return "UEFI ARM"
	}
	return ""
}

// Stage is a stop on a PC's way.
type Stage int

const (
	Firmware  Stage = iota // asks for an address and a boot file
	Loader                 // shim and GRUB, or iPXE
	Script                 // what this PC shall start
	Kernel                 //
	Initramfs              //
	Agent                  // has said hello
	Disk                   // starts from its own disk, as the script said
)

var stageNames = [...]string{"firmware", "loader", "script", "kernel", "initramfs", "hello", "disk"}

func (s Stage) String() string { return stageNames[s] }

// Standing of one stage of a start.
type Standing int

const (
	Ahead Standing = iota
	Here           // the PC is at it
	Past
	Stuck // it stopped here
)

func (s Standing) String() string { return [...]string{"ahead", "here", "past", "stuck"}[s] }

// Step is a stage with its standing.
type Step struct {
	Stage    Stage
	Standing Standing
	At       time.Time // when it was reached; zero when it wasn't
}

const maxText = 160 // bytes of any text that is kept

// clean bounds what came from the network and keeps what can be printed.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	s = strings.ToValidUTF8(s, "?")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// cleaned is g with all its text in bounds.
func (g Sighting) cleaned() Sighting {
	for _, s := range []*string{&g.MAC, &g.UUID, &g.IP, &g.What, &g.Via, &g.Detail, &g.Err, &g.Problem, &g.Server, &g.Card, &g.File, &g.Boots, &g.Device, &g.Link.Card} {
		*s = clean(*s)
	}
	g.Gaps = slices.Clone(g.Gaps[:min(len(g.Gaps), 8)])
	for i := range g.Gaps {
		p := &g.Gaps[i]
		p.ID, p.What, p.Reason = clean(p.ID), clean(p.What), clean(p.Reason)
	}
	if !isMAC(g.MAC) {
		g.MAC = ""
	}
	if len(g.UUID) != 36 || unusable(g.UUID) {
		g.UUID = ""
	}
	return g
}

// isMAC: "52:54:00:12:34:56". It becomes part of a file's name.
func isMAC(s string) bool {
	if len(s) != 17 {
		return false
	}
	for i, c := range []byte(s) {
		hex := c >= '0' && c <= '9' || c >= 'a' && c <= 'f'
		if (i%3 == 2) != (c == ':') || i%3 != 2 && !hex {
			return false
		}
	}
	return true
}

// unusable are UUIDs that makers leave in whole series.
func unusable(uuid string) bool {
	bare := strings.ReplaceAll(uuid, "-", "")
	return strings.Count(bare, bare[:1]) == len(bare) ||
		slices.Contains([]string{
			"03000200-0400-0500-0006-000700080009", "00020003-0004-0005-0006-000700080009",
			"12345678-1234-5678-90ab-cddeefaabbcc", "fefefefe-fefe-fefe-fefe-fefefefefefe",
		}, uuid)
}
