package erase

import (
	"fmt"
	"strings"

	"refurb/agent/wire"
)

// Medium is what a disk is made of, as far as its kind tells.
type Medium string

const (
	MediumHDD     Medium = "hdd"
	MediumSSD     Medium = "ssd"
	MediumNVMe    Medium = "nvme"
	MediumEMMC    Medium = "emmc"
	MediumVirtual Medium = "virtual"
	MediumUnknown Medium = "unknown"
)

// MediumOf tells the medium of a disk as it was reported.
func MediumOf(transport string, rotational bool) Medium {
	switch transport {
	case wire.TransportNVMe:
		return MediumNVMe
	case wire.TransportMMC:
		return MediumEMMC
	case wire.TransportVirtio:
		return MediumVirtual
	case wire.TransportSATA, wire.TransportSCSI:
		if rotational {
			return MediumHDD
		}
		return MediumSSD
	case wire.TransportUSB:
		if rotational {
			return MediumHDD
		}
	}
	return MediumUnknown
}

// keepsBack says that the medium has cells or sectors which no write reaches:
// flash writes each block somewhere else.
func (m Medium) keepsBack() bool { return m != MediumHDD && m != MediumVirtual }

// Methods, as a certificate names them.
const (
	nvmeBlock        = "nvme sanitize block"
	nvmeCrypto       = "nvme sanitize crypto"
	nvmeOverwrite    = "nvme sanitize overwrite"
	nvmeFormatUser   = "nvme format, user data erase"
	nvmeFormatCrypto = "nvme format, cryptographic erase"
	ataBlock         = "ata sanitize block"
	ataCrypto        = "ata sanitize crypto"
	ataOverwrite     = "ata sanitize overwrite"
	ataEnhanced      = "ata security erase, enhanced"
	ataNormal        = "ata security erase"
	scsiBlock        = "scsi sanitize block"
	scsiCrypto       = "scsi sanitize crypto"
	scsiOverwrite    = "scsi sanitize overwrite"
	overwrite        = "overwrite"
	zeroFill         = "zero fill"
)

// Rung is one way to erase a disk.
type Rung struct {
	Method string
	Level  wire.Level
	Bits   string // what the disk said, that made it so
	Take   bool
	Why    string // it is taken or passed over
}

// Ladder orders all ways that fit the disk, the best first.
//
// What the drive does inside comes before what is done through its interface,
// because only the drive reaches the cells and sectors that it holds back. Block
// erase comes before crypto erase: it clears the cells, where crypto erase only
// rests on the maker's word that everything was encrypted and that the one key is
// gone. On spinning disks overwriting by the drive comes first for the same
// reason. Enhanced security erase reaches reallocated sectors, the normal one
// doesn't. An NVMe format comes with SES 1 or 2, never with 0, which erases
// nothing. Discarding (TRIM) promises nothing and is not on the ladder.
//
// The levels are those of NIST SP 800-88 rev. 1, appendix A, and where IEEE 2883
// is stricter, its: NVMe format and security erase of an SSD are Clear.
func Ladder(m Medium, a wire.Abilities) []Rung {
	var rungs []Rung
	add := func(r ...Rung) { rungs = append(rungs, r...) }
	switch {
	case m == MediumNVMe:
		add(nvmeRungs(a)...)
	case a.ATASecurity != nil || a.ATASanitize != nil:
		add(ataRungs(m, a)...)
	case a.SCSISanitize != nil:
		add(scsiRungs(m, a)...)
	case m == MediumEMMC:
		add(Rung{Method: "emmc sanitize", Level: wire.LevelPurge, Why: "this program can't give it"})
	}
	last := Rung{Method: overwrite, Level: wire.LevelClear, Take: true, Why: "every disk can be written"}
	switch {
	case a.ATASecurity != nil && *a.ATASecurity&secLocked != 0:
		last.Take, last.Why = false, locked
	case m.keepsBack():
		last.Why = "every disk can be written; what the medium holds back is not reached"
	}
	return append(rungs, last)
}

func nvmeRungs(a wire.Abilities) []Rung {
	sanitize := func(method string, bit uint) Rung {
		r := Rung{Method: method, Level: wire.LevelPurge}
		switch {
		case a.NVMeSanitize == nil:
			r.Why = "the disk didn't say whether it can"
			return r
		case *a.NVMeSanitize&(1<<bit) == 0:
			r.Why = "the disk can't"
		default:
			r.Why, r.Take = others(a.NVMeNamespaces)
		}
		r.Bits = fmt.Sprintf("SANICAP=0x%08x", *a.NVMeSanitize)
		return r
	}
	format := func(method string, crypto bool) Rung {
		r := Rung{Method: method, Level: wire.LevelClear}
		if a.NVMeOACS == nil || a.NVMeFormat == nil {
			r.Why = "the disk didn't say whether it can"
			return r
		}
		r.Bits = fmt.Sprintf("OACS=0x%04x FNA=0x%02x", *a.NVMeOACS, *a.NVMeFormat)
		if *a.NVMeOACS&2 == 0 || crypto && *a.NVMeFormat&4 == 0 {
			r.Why = "the disk can't"
		} else {
			r.Why, r.Take = others(a.NVMeNamespaces)
		}
		return r
	}
	return []Rung{
		sanitize(nvmeBlock, 1), sanitize(nvmeCrypto, 0), sanitize(nvmeOverwrite, 2),
		format(nvmeFormatUser, false), format(nvmeFormatCrypto, true),
	}
}

// others keeps from erasing what nobody approved: a sanitize, and a format of
// many drives, takes every namespace, and each is a disk of its own.
func others(namespaces *int) (string, bool) {
	switch {
	case namespaces == nil:
		return "the drive didn't say whether other disks (namespaces) are in it, which would be erased, too", false
	case *namespaces != 1:
		return fmt.Sprintf("the drive holds %d disks (namespaces), and all would be erased", *namespaces), false
	}
	return "the disk can", true
}

// Bits of ATA IDENTIFY DEVICE (ACS-4 §7.13.6): words 59, 82 and 128.
const (
	sanSupported = 1 << 12
	sanCrypto    = 1 << 13
	sanOverwrite = 1 << 14
	sanBlock     = 1 << 15

	hasSecurity = 1 << 1
	hasHPA      = 1 << 10

	secSupported = 1 << 0
	secEnabled   = 1 << 1
	secLocked    = 1 << 2
	secFrozen    = 1 << 3
	secExpired   = 1 << 4
	secEnhanced  = 1 << 5
)

const locked = "the disk is locked with a password that isn't known here"

func ataRungs(m Medium, a wire.Abilities) []Rung {
	sanitize := func(method string, bit uint16) Rung {
		r := Rung{Method: method, Level: wire.LevelPurge}
		if a.ATASanitize == nil {
			r.Why = "the disk didn't say whether it can"
			return r
		}
		w := *a.ATASanitize
		r.Bits = fmt.Sprintf("word 59=0x%04x", w)
		switch {
		case w&sanSupported == 0 || w&bit == 0:
			r.Why = "the disk can't"
		case a.ATASecurity != nil && *a.ATASecurity&secLocked != 0:
			r.Why = locked
		default:
			r.Take, r.Why = true, "the disk can"
		}
		return r
	}
	rungs := []Rung{sanitize(ataBlock, sanBlock), sanitize(ataCrypto, sanCrypto)}
	over := sanitize(ataOverwrite, sanOverwrite)
	if m == MediumHDD {
		rungs = []Rung{over, rungs[0], rungs[1]}
	} else if over.Take {
		over.Take, over.Why = false, "on flash it reaches no more than writing does, and wears it"
		rungs = append(rungs, over)
	}
	return append(rungs, securityRung(m, a, ataEnhanced), securityRung(m, a, ataNormal))
}

func securityRung(m Medium, a wire.Abilities, method string) Rung {
	r := Rung{Method: method, Level: wire.LevelClear}
	if method == ataEnhanced && m == MediumHDD {
		r.Level = wire.LevelPurge
	}
	if a.ATASecurity == nil || a.ATACommands == nil {
		r.Why = "the disk didn't say whether it can"
		return r
	}
	s := *a.ATASecurity
	r.Bits = fmt.Sprintf("word 82=0x%04x word 128=0x%04x", *a.ATACommands, s)
	switch {
	case *a.ATACommands&hasSecurity == 0 || s&secSupported == 0:
		r.Why = "the disk can't"
	case method == ataEnhanced && s&secEnhanced == 0:
		r.Why = "the disk can't"
	case s&secLocked != 0:
		r.Why = locked
	case s&secFrozen != 0:
		r.Why = "frozen: the PC's firmware forbade it at power-on; another PC, or pulling and plugging the disk's power while the PC is on, may help"
	case s&secExpired != 0:
		r.Why = "too many wrong passwords: switch the PC off and on"
	default:
		r.Take, r.Why = true, "the disk can"
	}
	return r
}

func scsiRungs(m Medium, a wire.Abilities) []Rung {
	sanitize := func(method string, action uint) Rung {
		r := Rung{Method: method, Level: wire.LevelPurge, Why: "the disk can't"}
		if a.SCSIActions == nil {
			r.Why = "the disk didn't say whether it can"
			return r
		}
		r.Bits = fmt.Sprintf("48h service actions=0x%02x", *a.SCSIActions)
		if *a.SCSISanitize && *a.SCSIActions&(1<<action) != 0 {
			r.Take, r.Why = true, "the disk can"
		}
		return r
	}
	block, crypto, over := sanitize(scsiBlock, sanitizeBlock), sanitize(scsiCrypto, sanitizeCrypto), sanitize(scsiOverwrite, sanitizeOverwrite)
	if m == MediumHDD {
		return []Rung{over, block, crypto}
	}
	if over.Take {
		over.Take, over.Why = false, "on flash it reaches no more than writing does, and wears it"
	}
	return []Rung{block, crypto, over}
}

// purges by the drive itself reach what is hidden from the system.
func reachesHidden(method string) bool { return strings.Contains(method, "sanitize") }

// leavesZeroes says that a disk reads as zeroes after the method, by its
// standard. After all others zeroes are written, so that the disk reads as
// blank and reading it proves something.
func leavesZeroes(method string) bool {
	return method == overwrite || method == ataOverwrite || method == scsiOverwrite
}
