package erase

import (
	"slices"
	"strings"
	"testing"

	"refurb/agent/wire"
)

func TestJudge(t *testing.T) {
	purge := wire.EraseStep{Method: nvmeBlock, Level: wire.LevelPurge, Command: "84h", Result: wire.Done}
	wrote := wire.EraseStep{Method: overwrite, Level: wire.LevelClear, Command: "zeroes", Result: wire.Done}
	filled := wire.EraseStep{Method: zeroFill, Level: wire.LevelNone, Command: "zeroes", Result: wire.Done}
	with := func(s wire.EraseStep, r wire.Result) wire.EraseStep { s.Result = r; return s }
	read := wire.ReadCheck{Kind: wire.CheckFull, Expect: "zero", Bytes: 1 << 30}
	n := int64(3)
	ill := &wire.Health{Reallocated: &n}
	pending := &wire.Health{Pending: &n}

	for _, c := range []struct {
		name   string
		e      evidence
		result wire.ErasureResult
		level  wire.Level
		except string
	}{
		{"purged", evidence{medium: MediumNVMe, steps: []wire.EraseStep{purge, filled}, check: read}, wire.Erased, wire.LevelPurge, ""},
		{"overwritten disk", evidence{medium: MediumHDD, steps: []wire.EraseStep{wrote}, check: read}, wire.Erased, wire.LevelClear, ""},
		{"overwritten flash", evidence{medium: MediumSSD, steps: []wire.EraseStep{wrote}, check: read}, wire.ErasedExceptions, wire.LevelClear, "flash"},
		{"overwritten eMMC", evidence{medium: MediumEMMC, steps: []wire.EraseStep{wrote}, check: read}, wire.ErasedExceptions, wire.LevelClear, "flash"},
		{"overwritten something", evidence{medium: MediumUnknown, steps: []wire.EraseStep{wrote}, check: read}, wire.ErasedExceptions, wire.LevelClear, "nobody knows"},
		{"purge failed, overwritten", evidence{medium: MediumVirtual, steps: []wire.EraseStep{with(purge, wire.Failed), wrote}, check: read}, wire.Erased, wire.LevelClear, ""},
		{"nothing", evidence{check: read}, wire.NotErased, wire.LevelNone, ""},
		{"only passed over", evidence{steps: []wire.EraseStep{{Method: nvmeBlock, Level: wire.LevelPurge, Why: "the disk can't"}}, check: read}, wire.NotErased, wire.LevelNone, ""},
		{"only zeroes after nothing", evidence{steps: []wire.EraseStep{filled}, check: read}, wire.NotErased, wire.LevelNone, ""},
		{"all failed", evidence{steps: []wire.EraseStep{with(purge, wire.Failed), with(wrote, wire.Failed)}, check: read}, wire.NotErased, wire.LevelNone, ""},
		{"unknown", evidence{steps: []wire.EraseStep{with(purge, wire.Unknown)}, check: read}, wire.ErasureUnknown, wire.LevelNone, ""},
		{"unknown before", evidence{medium: MediumHDD, steps: []wire.EraseStep{with(purge, wire.Unknown), wrote}, check: read}, wire.ErasureUnknown, wire.LevelClear, ""},
		{"a step without a result", evidence{steps: []wire.EraseStep{with(purge, "")}, check: read}, wire.ErasureUnknown, wire.LevelNone, ""},
		{"stopped", evidence{steps: []wire.EraseStep{purge, filled}, check: read, stopped: true}, wire.ErasureUnknown, wire.LevelPurge, ""},
		{"stopped before", evidence{steps: nil, stopped: true}, wire.NotErased, wire.LevelNone, ""},
		{"not read", evidence{steps: []wire.EraseStep{purge}}, wire.ErasureUnknown, wire.LevelPurge, ""},
		{"half read", evidence{steps: []wire.EraseStep{purge}, check: wire.ReadCheck{Kind: wire.CheckFull, Expect: "zero", Bytes: 1 << 29}}, wire.ErasureUnknown, wire.LevelPurge, ""},
		{"nothing expected", evidence{steps: []wire.EraseStep{purge}, check: wire.ReadCheck{Kind: wire.CheckFull, Bytes: 1 << 30}}, wire.ErasureUnknown, wire.LevelPurge, ""},
		{"one block is left", evidence{steps: []wire.EraseStep{purge}, check: wire.ReadCheck{Kind: wire.CheckFull, Expect: "zero", Bytes: 1 << 30, Mismatches: 1}}, wire.NotErased, wire.LevelPurge, ""},
		{"left, and half read", evidence{steps: []wire.EraseStep{purge}, check: wire.ReadCheck{Kind: wire.CheckFull, Expect: "zero", Bytes: 1 << 20, Mismatches: 1}}, wire.NotErased, wire.LevelPurge, ""},
		{"some can't be read", evidence{steps: []wire.EraseStep{purge}, check: wire.ReadCheck{Kind: wire.CheckFull, Expect: "zero", Bytes: 1<<30 - 2*block, Errors: 2}}, wire.ErasedExceptions, wire.LevelPurge, "2 blocks"},
		{"much can't be read", evidence{steps: []wire.EraseStep{purge}, check: wire.ReadCheck{Kind: wire.CheckFull, Expect: "zero", Bytes: 1<<30 - 3000*block, Errors: 3000}}, wire.ErasureUnknown, wire.LevelPurge, ""},
		{"some can't, and the rest was left", evidence{steps: []wire.EraseStep{purge}, check: wire.ReadCheck{Kind: wire.CheckFull, Expect: "zero", Bytes: 1 << 29, Errors: 2}}, wire.ErasureUnknown, wire.LevelPurge, ""},
		{"some can't be written", evidence{medium: MediumHDD, steps: []wire.EraseStep{wrote}, check: read, unwritten: 1}, wire.ErasedExceptions, wire.LevelClear, "1 blocks"},
		{"hidden", evidence{medium: MediumHDD, steps: []wire.EraseStep{wrote}, check: read, hidden: &wire.HiddenArea{Visible: 100, Native: 150}}, wire.ErasedExceptions, wire.LevelClear, "50 bytes hidden"},
		{"hidden by DCO", evidence{medium: MediumHDD, steps: []wire.EraseStep{{Method: ataEnhanced, Level: wire.LevelPurge, Command: "F4h", Result: wire.Done}}, check: read, hidden: &wire.HiddenArea{Visible: 100, Native: 100, Real: 170}}, wire.ErasedExceptions, wire.LevelPurge, "70 bytes hidden"},
		{"hidden and sanitized", evidence{medium: MediumHDD, steps: []wire.EraseStep{{Method: ataOverwrite, Level: wire.LevelPurge, Command: "B4h", Result: wire.Done}}, check: read, hidden: &wire.HiddenArea{Visible: 100, Native: 150}}, wire.Erased, wire.LevelPurge, ""},
		{"nothing hidden", evidence{medium: MediumHDD, steps: []wire.EraseStep{wrote}, check: read, hidden: &wire.HiddenArea{Visible: 100, Native: 100}}, wire.Erased, wire.LevelClear, ""},
		{"hidden size not read", evidence{medium: MediumHDD, steps: []wire.EraseStep{wrote}, check: read, hidden: &wire.HiddenArea{Visible: 100, Real: 100, Note: "the native size couldn't be read"}}, wire.ErasedExceptions, wire.LevelClear, "nobody knows whether"},
		{"overlay not read", evidence{medium: MediumHDD, steps: []wire.EraseStep{wrote}, check: read, hidden: &wire.HiddenArea{Visible: 100, Note: "the overlay couldn't be read"}}, wire.Erased, wire.LevelClear, ""},
		{"zeroes not flushed", evidence{medium: MediumNVMe, steps: []wire.EraseStep{purge, with(filled, wire.Failed)}, check: read}, wire.ErasedExceptions, wire.LevelPurge, "not known to be on the medium"},
		{"reallocated before", evidence{medium: MediumHDD, steps: []wire.EraseStep{wrote}, check: read, before: ill}, wire.ErasedExceptions, wire.LevelClear, "3 reallocated"},
		{"reallocated after", evidence{medium: MediumHDD, steps: []wire.EraseStep{wrote}, check: read, before: &wire.Health{}, after: ill}, wire.ErasedExceptions, wire.LevelClear, "3 reallocated"},
		{"pending", evidence{medium: MediumHDD, steps: []wire.EraseStep{wrote}, check: read, after: pending}, wire.ErasedExceptions, wire.LevelClear, "3 sectors wait"},
		{"reallocated, enhanced", evidence{medium: MediumHDD, steps: []wire.EraseStep{{Method: ataEnhanced, Level: wire.LevelPurge, Command: "F4h", Result: wire.Done}}, check: read, before: ill}, wire.Erased, wire.LevelPurge, ""},
		{"never seen before", evidence{medium: MediumNVMe, steps: []wire.EraseStep{purge}, check: read, blind: true}, wire.ErasedExceptions, wire.LevelPurge, "its own word"},
		{"our password is left", evidence{medium: MediumHDD, steps: []wire.EraseStep{wrote}, check: read, password: true}, wire.ErasedExceptions, wire.LevelClear, Password},
		{"our password is left, unknown", evidence{medium: MediumHDD, steps: []wire.EraseStep{with(purge, wire.Unknown)}, password: true}, wire.ErasureUnknown, wire.LevelNone, Password},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.e.expect = 1 << 30
			result, level, except := judge(c.e)
			if result != c.result || level != c.level || !strings.Contains(strings.Join(except, "; "), c.except) ||
				(result == wire.ErasedExceptions) != (len(except) > 0) && result != wire.ErasureUnknown {
				t.Errorf("%s, %s, %q", result, level, except)
			}
		})
	}
}

func TestLadder(t *testing.T) {
	u16 := func(v uint16) *uint16 { return &v }
	ata := func(w59, w82, w128 uint16) wire.Abilities {
		return wire.Abilities{ATASanitize: &w59, ATACommands: &w82, ATASecurity: &w128}
	}
	nvme := func(sanicap uint32, oacs uint16, fna uint8, n int) wire.Abilities {
		return wire.Abilities{NVMeSanitize: &sanicap, NVMeOACS: &oacs, NVMeFormat: &fna, NVMeNamespaces: &n}
	}
	scsi := func(actions uint8) wire.Abilities {
		return wire.Abilities{SCSISanitize: new(actions != 0), SCSIActions: &actions}
	}
	all := uint16(sanSupported | sanBlock | sanCrypto | sanOverwrite)
	for _, c := range []struct {
		name string
		m    Medium
		a    wire.Abilities
		take []string
		over map[string]string
	}{
		{"nvme, all", MediumNVMe, nvme(7, 2, 4, 1), []string{nvmeBlock, nvmeCrypto, nvmeOverwrite, nvmeFormatUser, nvmeFormatCrypto, overwrite}, nil},
		{"nvme, no crypto", MediumNVMe, nvme(2, 2, 0, 1), []string{nvmeBlock, nvmeFormatUser, overwrite}, map[string]string{nvmeFormatCrypto: "can't", nvmeCrypto: "can't"}},
		{"nvme, two namespaces", MediumNVMe, nvme(7, 2, 4, 2), []string{overwrite}, map[string]string{nvmeBlock: "holds 2", nvmeFormatUser: "holds 2"}},
		{"nvme, no namespace", MediumNVMe, nvme(7, 2, 4, 0), []string{overwrite}, map[string]string{nvmeBlock: "holds 0"}},
		{"nvme, silent", MediumNVMe, wire.Abilities{}, []string{overwrite}, map[string]string{nvmeBlock: "didn't say", nvmeFormatUser: "didn't say"}},
		{"nvme, half silent", MediumNVMe, wire.Abilities{NVMeSanitize: new(uint32(7)), NVMeOACS: u16(2), NVMeFormat: new(uint8(4))}, []string{overwrite}, map[string]string{nvmeBlock: "other disks", nvmeFormatUser: "other disks"}},
		{"ssd, all", MediumSSD, ata(all, hasSecurity, secSupported|secEnhanced), []string{ataBlock, ataCrypto, ataEnhanced, ataNormal, overwrite}, map[string]string{ataOverwrite: "wears"}},
		{"hdd, all", MediumHDD, ata(all, hasSecurity, secSupported|secEnhanced), []string{ataOverwrite, ataBlock, ataCrypto, ataEnhanced, ataNormal, overwrite}, nil},
		{"ssd, bits without the feature set", MediumSSD, ata(sanBlock|sanCrypto, 0, secSupported|secEnhanced), []string{overwrite}, map[string]string{ataBlock: "can't", ataNormal: "can't"}},
		{"ssd, frozen", MediumSSD, ata(all, hasSecurity, secSupported|secEnhanced|secFrozen), []string{ataBlock, ataCrypto, overwrite}, map[string]string{ataEnhanced: "frozen", ataNormal: "frozen"}},
		{"ssd, locked", MediumSSD, ata(all, hasSecurity, secSupported|secEnabled|secLocked), nil, map[string]string{ataBlock: "locked", ataNormal: "locked", overwrite: "locked"}},
		{"ssd, locked and frozen", MediumSSD, ata(all, hasSecurity, secSupported|secEnabled|secLocked|secFrozen), nil, map[string]string{ataNormal: "locked"}},
		{"ssd, expired", MediumSSD, ata(0, hasSecurity, secSupported|secExpired), []string{overwrite}, map[string]string{ataNormal: "too many"}},
		{"ssd, not enhanced", MediumSSD, ata(0, hasSecurity, secSupported), []string{ataNormal, overwrite}, map[string]string{ataEnhanced: "can't"}},
		{"sas ssd", MediumSSD, scsi(0xe), []string{scsiBlock, scsiCrypto, overwrite}, map[string]string{scsiOverwrite: "wears"}},
		{"sas hdd", MediumHDD, scsi(0xe), []string{scsiOverwrite, scsiBlock, scsiCrypto, overwrite}, nil},
		{"sas hdd, nothing", MediumHDD, scsi(0), []string{overwrite}, map[string]string{scsiOverwrite: "can't"}},
		{"emmc", MediumEMMC, wire.Abilities{}, []string{overwrite}, map[string]string{"emmc sanitize": "can't give it"}},
		{"virtual", MediumVirtual, wire.Abilities{}, []string{overwrite}, nil},
		{"unknown", MediumUnknown, wire.Abilities{}, []string{overwrite}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var take []string
			for _, r := range Ladder(c.m, c.a) {
				if r.Take {
					take = append(take, r.Method)
				}
				if r.Why == "" || r.Level == wire.LevelNone || !strings.Contains(r.Why, c.over[r.Method]) || c.over[r.Method] != "" && r.Take {
					t.Errorf("%+v", r)
				}
			}
			if !slices.Equal(take, c.take) {
				t.Errorf("takes %q", take)
			}
		})
	}
	for m, level := range map[Medium]wire.Level{MediumHDD: wire.LevelPurge, MediumSSD: wire.LevelClear} {
		for _, r := range Ladder(m, ata(0, hasSecurity, secSupported|secEnhanced)) {
			if r.Method == ataEnhanced && r.Level != level {
				t.Errorf("%s: %+v", m, r)
			}
		}
	}
}

func TestMediumOf(t *testing.T) {
	for _, c := range []struct {
		transport  string
		rotational bool
		want       Medium
	}{
		{wire.TransportNVMe, false, MediumNVMe}, {wire.TransportSATA, true, MediumHDD}, {wire.TransportSATA, false, MediumSSD},
		{wire.TransportSCSI, true, MediumHDD}, {wire.TransportMMC, false, MediumEMMC}, {wire.TransportVirtio, true, MediumVirtual},
		{wire.TransportUSB, false, MediumUnknown}, {wire.TransportUSB, true, MediumHDD}, {wire.TransportOther, true, MediumUnknown}, {"", false, MediumUnknown},
	} {
		if got := MediumOf(c.transport, c.rotational); got != c.want {
			t.Errorf("%s, rotational %v: %s", c.transport, c.rotational, got)
		}
	}
}

func TestSecurityTime(t *testing.T) {
	for word, want := range map[uint16]string{0: "12h0m0s", 1: "34m0s", 60: "4h30m0s", 0xff: "24h0m0s", 0x8000 | 300: "20h30m0s", 0xffff: "24h0m0s", 0x8000 | 5000: "48h0m0s"} {
		if got := securityTime(&word); got.String() != want {
			t.Errorf("word %04x: %v", word, got)
		}
	}
}
