package erase

import (
	"strings"

	"refurb/agent/wire"
)

// drives are the kinds that tests go through.
var drives = map[string]func() *sim{
	"nvme, block": func() *sim { s := newSim(wire.TransportNVMe); s.sanicap, s.oacs = 2, 2; return s },
	"nvme, crypto and management": func() *sim {
		s := newSim(wire.TransportNVMe)
		s.sanicap, s.oacs, s.fna = 1, 2|8, 4
		return s
	},
	"nvme, format only": func() *sim { s := newSim(wire.TransportNVMe); s.oacs, s.fna = 2, 4; return s },
	"nvme, nothing":     func() *sim { return newSim(wire.TransportNVMe) },
	"ssd, sanitize":     func() *sim { return ssd(sanSupported|sanBlock|sanCrypto, 0) },
	"ssd, security":     func() *sim { return ssd(0, secSupported|secEnhanced) },
	"ssd, frozen":       func() *sim { return ssd(0, secSupported|secFrozen) },
	"hdd, sanitize":     func() *sim { return hdd(sanSupported|sanOverwrite, 0) },
	"hdd, security":     func() *sim { return hdd(0, secSupported|secEnhanced) },
	"hdd, nothing":      func() *sim { return hdd(0, 0) },
	"sas ssd": func() *sim {
		s := newSim(wire.TransportSCSI)
		s.actions = 1<<sanitizeBlock | 1<<sanitizeCrypto
		return s
	},
	"sas hdd": func() *sim { s := newSim(wire.TransportSCSI); s.actions = 1 << sanitizeOverwrite; return s },
	"virtual": func() *sim { return newSim(wire.TransportVirtio) },
}

func ssd(w59, w128 uint16) *sim {
	s := newSim(wire.TransportSATA)
	s.words = map[int]uint16{59: w59, 82: hasSecurity, 83: 0x4000, 89: 1, 90: 1, 128: w128}
	return s
}

func hdd(w59, w128 uint16) *sim {
	s := ssd(w59, w128)
	s.words[82] |= hasHPA
	s.words[83] |= 1<<10 | 1<<11
	s.native, s.dco = s.Size()/512, s.Size()/512
	return s
}

func mediumOf(name string, s *sim) Medium {
	return MediumOf(s.transport, strings.Contains(name, "hdd"))
}
