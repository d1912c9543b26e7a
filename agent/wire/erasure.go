package wire

import "time"

// Abilities are a disk's own words on how it can erase itself, as read. A nil
// field was not answered.
type Abilities struct {
	// SANICAP of NVMe Identify Controller (NVM Express Base 2.0, figure 275):
	// bit 0 crypto, 1 block, 2 overwrite.
	NVMeSanitize *uint32 `json:"nvme_sanicap,omitempty"`
	// FNA of Identify Controller: bit 1 format erases all namespaces, 2 crypto.
	NVMeFormat *uint8  `json:"nvme_fna,omitempty"`
	NVMeOACS   *uint16 `json:"nvme_oacs,omitempty"` // bit 1 Format NVM
	// Words 59, 82, 89, 90 and 128 of ATA IDENTIFY DEVICE (ACS-4 §7.13).
	ATASanitize  *uint16 `json:"ata_word59,omitempty"` // bits 12 to 15
	ATACommands  *uint16 `json:"ata_word82,omitempty"` // bit 1 security feature set
	ATAMinutes   *uint16 `json:"ata_word89,omitempty"` // time of SECURITY ERASE UNIT
	ATAEnhanced  *uint16 `json:"ata_word90,omitempty"`
	ATASecurity  *uint16 `json:"ata_word128,omitempty"`           // bit 0 supported, 1 enabled, 2 locked, 3 frozen, 4 count expired, 5 enhanced erase
	SCSISanitize *bool   `json:"scsi_sanitize,omitempty"`         // REPORT SUPPORTED OPERATION CODES knows 48h
	SCSIActions  *uint8  `json:"scsi_sanitize_actions,omitempty"` // bit 1 overwrite, 2 block, 3 crypto: by their service action
	// How many namespaces the NVMe subsystem has: a sanitize erases all of them.
	NVMeNamespaces *int   `json:"nvme_namespaces,omitempty"`
	Error          string `json:"error,omitempty"` // why something was not answered
}

// Erase says how Plan.Disk is to be erased and checked. The means are the
// agent's choice: the strongest that the disk has.
type Erase struct {
	Check CheckKind `json:"check"`
	Seed  string    `json:"seed"` // hex, 32 bytes: where samples are taken, so that others can take the same
}

// CheckKind is how much of an erased disk is read.
type CheckKind string

const (
	CheckFull   CheckKind = "full"
	CheckSample CheckKind = "sample"
)

// ErasureResult is what a certificate says. None is the zero value.
type ErasureResult string

const (
	Erased           ErasureResult = "erased"
	ErasedExceptions ErasureResult = "erased_with_exceptions"
	NotErased        ErasureResult = "not_erased"
	ErasureUnknown   ErasureResult = "unknown"
)

// Level is what a method amounts to in the terms of NIST SP 800-88.
type Level string

const (
	LevelNone  Level = "none"
	LevelClear Level = "clear"
	LevelPurge Level = "purge"
)

// Erasure is all that is known of how one medium was erased: what a certificate
// prints (NIST SP 800-88 rev. 1 §4.8).
type Erasure struct {
	Result     ErasureResult `json:"result"`
	Level      Level         `json:"level"`  // of the strongest step that was done
	Medium     string        `json:"medium"` // hdd, ssd, nvme, emmc, virtual, unknown
	Transport  string        `json:"transport"`
	Abilities  *Abilities    `json:"abilities,omitempty"`
	Steps      []EraseStep   `json:"steps"` // in their order; those passed over too
	Hidden     *HiddenArea   `json:"hidden,omitempty"`
	Check      ReadCheck     `json:"check"`
	Exceptions []string      `json:"exceptions,omitempty"`
	Before     *Health       `json:"health_before,omitempty"`
	After      *Health       `json:"health_after,omitempty"`
	Tool       string        `json:"tool"` // the agent's version
	Started    time.Time     `json:"started"`
	Ended      time.Time     `json:"ended"`
}

// EraseStep is one rung of the ladder: what was tried, or why not.
type EraseStep struct {
	Method  string    `json:"method"`            // "nvme sanitize block"
	Level   Level     `json:"level"`             // that it amounts to when done
	Bits    string    `json:"bits,omitempty"`    // "SANICAP=0x00000003"
	Command string    `json:"command,omitempty"` // "84h SANACT=2 AUSE=0"; empty: not given
	Code    string    `json:"code,omitempty"`    // how the device ended it: "SSTAT=1h"
	Result  Result    `json:"result,omitempty"`  // empty: not given
	Why     string    `json:"why,omitempty"`     // it was passed over or failed
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
}

// HiddenArea is what a disk holds back from the system (HPA, DCO), in bytes.
type HiddenArea struct {
	Visible int64  `json:"visible"`
	Native  int64  `json:"native,omitempty"` // 0: not known
	Real    int64  `json:"real,omitempty"`   // without DCO; 0: not known
	Note    string `json:"note,omitempty"`
}

// ReadCheck is the reading of an erased disk.
type ReadCheck struct {
	Kind       CheckKind `json:"kind,omitempty"` // empty: nothing was read
	Seed       string    `json:"seed,omitempty"`
	Expect     string    `json:"expect,omitempty"` // "zero"
	Bytes      int64     `json:"bytes"`            // read
	Mismatches int64     `json:"mismatches"`       // blocks that weren't as expected
	Errors     int64     `json:"errors"`           // blocks that couldn't be read
}
