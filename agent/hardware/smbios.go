package hardware

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/u-root/u-root/pkg/smbios"

	"refurb/agent/wire"
)

const maxModules = 64

// firmwareTables is what SMBIOS (DSP0134) says, as far as it could be read.
type firmwareTables struct {
	identity wire.Identity
	vendor   string
	version  string
	date     string
	slots    int
	modules  []wire.RAMModule
}

func readSMBIOS(t tree) (firmwareTables, []string) {
	entry, err := t.bytes("sys/firmware/dmi/tables/smbios_entry_point")
	if err != nil {
		return firmwareTables{}, []string{problem("SMBIOS", err)}
	}
	table, err := t.bytes("sys/firmware/dmi/tables/DMI")
	if err != nil {
		return firmwareTables{}, []string{problem("SMBIOS", err)}
	}
	f, err := parseSMBIOS(entry, table)
	if err != nil {
		return f, []string{problem("SMBIOS", err)}
	}
	return f, nil
}

// UUID is the PC's own, as its firmware says it; "" when it says none.
func UUID(root string) string {
	f, _ := readSMBIOS(tree(root)) // what went wrong, the report says
	return f.identity.UUID
}

// parseSMBIOS takes the table structure by structure, so that a broken one costs
// itself and what follows, not the PC's identity, which stands in front. What was
// read comes back also with an error.
func parseSMBIOS(entry, table []byte) (firmwareTables, error) {
	info := smbios.Info{}
	var errs []error
	var err error
	if info.Entry32, info.Entry64, err = smbios.ParseEntry(entry); err != nil {
		errs = append(errs, fmt.Errorf("entry point: %w", err))
	}
	for len(table) > 0 {
		s, rest, err := smbios.ParseTable(table)
		if s == nil {
			errs = append(errs, fmt.Errorf("structure %d: %w", len(info.Tables)+1, err))
			break
		}
		if s.Type == smbios.TableTypeEndOfTable {
			break
		}
		info.Tables = append(info.Tables, s)
		table = rest
	}
	var f firmwareTables
	f.identity = identity(&info)
	for _, s := range info.GetTablesByType(smbios.TableTypeBIOSInfo) {
		f.vendor, f.version, f.date = text(s, 0x04), text(s, 0x05), text(s, 0x08)
		break
	}
	f.slots, f.modules = memory(&info)
	return f, errors.Join(errs...)
}

// text is a structure's string by the offset of its number; "" when there is
// none. The library words a missing one as "Not Specified", which some firmware
// writes as a real value.
func text(s *smbios.Table, offset int) string {
	if n, err := s.GetByteAt(offset); err != nil || n == 0 {
		return ""
	}
	v, err := s.GetStringAt(offset)
	if err != nil {
		return ""
	}
	return clean(v)
}

// identity is structures 1, 2 and 3: the first of each, but the mainboard among
// several boards.
func identity(info *smbios.Info) wire.Identity {
	var id wire.Identity
	if all := info.GetTablesByType(smbios.TableTypeSystemInfo); len(all) > 0 {
		s := all[0]
		id.Manufacturer, id.Model, id.ModelVersion = text(s, 0x04), text(s, 0x05), text(s, 0x06)
		id.SystemSerial = text(s, 0x07)
		id.SKU, id.Family = text(s, 0x19), text(s, 0x1A)
		if b, err := s.GetBytesAt(0x08, 16); err == nil {
			id.UUID = uuid(b, info.MajorVersion(), info.MinorVersion())
		}
	}
	boards := info.GetTablesByType(smbios.TableTypeBaseboardInfo)
	for i, s := range boards {
		kind, err := s.GetByteAt(0x0D)
		if i == 0 || err == nil && smbios.BoardType(kind) == smbios.BoardTypeMotherboardIncludesProcessorMemoryAndIO {
			id.BoardSerial = text(s, 0x07)
		}
	}
	if all := info.GetTablesByType(smbios.TableTypeChassisInfo); len(all) > 0 {
		s := all[0]
		id.ChassisSerial = text(s, 0x07)
		if kind, err := s.GetByteAt(0x05); err == nil {
			id.ChassisType = clean(smbios.ChassisType(kind & 0x7F).String()) // bit 7: it has a lock
		}
	}
	id.Placeholders = placeholders(id)
	return id
}

// uuid words the 16 bytes as the firmware means them: since SMBIOS 2.6 the first
// three fields are little-endian (7.2.1), before that the order was the wire's.
func uuid(b []byte, major, minor uint8) string {
	var d [16]byte
	copy(d[:], b)
	if major > 2 || major == 2 && minor >= 6 {
		binary.BigEndian.PutUint32(d[0:], binary.LittleEndian.Uint32(b[0:]))
		binary.BigEndian.PutUint16(d[4:], binary.LittleEndian.Uint16(b[4:]))
		binary.BigEndian.PutUint16(d[6:], binary.LittleEndian.Uint16(b[6:]))
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", d[0:4], d[4:6], d[6:8], d[8:10], d[10:16])
}

// fillers are values that vendors leave in place of a real one, in lower case.
// A filler never identifies a PC: a whole batch of boards carries the same.
var fillers = map[string]bool{
	"to be filled by o.e.m.": true, "to be filled by o.e.m": true, "to be filled by oem": true, "tobefilledbyo.e.m.": true,
	"default string": true, "default": true, "o.e.m.": true, "oem": true, "oem string": true,
	"none": true, "n/a": true, "na": true, "not specified": true, "not applicable": true, "not available": true,
	"not present": true, "unknown": true, "undefined": true, "invalid": true, "empty": true, "null": true, "no dimm": true,
	"system serial number": true, "system manufacturer": true, "system product name": true, "system version": true,
	"system name": true, "system sku": true, "system family": true, "sku": true, "family": true, "type1family": true,
	"serial number": true, "serial": true, "product name": true, "manufacturer": true, "version": true, "model": true,
	"base board serial number": true, "baseboard serial number": true, "base board": true, "board serial number": true,
	"mb-1234567890": true, "bss-0123456789": true, "chassis serial number": true, "chassis manufacturer": true,
	"chassis serial": true, "chassis version": true, "asset-1234567890": true, "asset tag": true,
	"0123456789": true, "1234567890": true, "123456789": true, "12345678": true, "123456": true, "1234567": true,
	"empty string": true, "type2 - board serial number": true, "sernum0": true, "eval": true, "xxx": true,
}

// fillerUUIDs are UUIDs that a vendor put in more than one PC.
var fillerUUIDs = map[string]bool{
	"03000200-0400-0500-0006-000700080009": true, // AMI's sample value: MSI, Gigabyte, ASRock and many mini PCs
	"03020100-0504-0706-0809-0a0b0c0d0e0f": true, // the bytes 0 to 15
	"00020003-0004-0005-0006-000700080009": true, // AMI's again, in the other byte order
	"12345678-1234-5678-90ab-cddeefaabbcc": true, // Insyde's sample
	"fefefefe-fefe-fefe-fefe-fefefefefefe": true,
}

// filler reports whether a value only fills a field: a known phrase, nothing but
// punctuation, or one character at least repeats times ("00000000", "FFFF").
func filler(v string, repeats int) bool {
	v = strings.ToLower(strings.TrimSpace(v))
	if v == "" {
		return false // not known, which is something else
	}
	const marks = " -.:_/\\*#?<>[]()"
	if fillers[v] || fillers[strings.Trim(v, marks)] {
		return true
	}
	bare := strings.Map(func(r rune) rune {
		if strings.ContainsRune(marks, r) {
			return -1
		}
		return r
	}, v)
	if bare == "" {
		return true
	}
	first, size := utf8.DecodeRuneInString(bare)
	return len(bare) >= repeats*size && strings.Trim(bare, string(first)) == ""
}

// placeholders lists the JSON names of the fields whose value is a filler.
func placeholders(id wire.Identity) []string {
	// A version may well be "1.1" or a family "X"; a serial of one character isn't one.
	const word, serial = 4, 1
	var list []string
	for _, f := range []struct {
		name, value string
		repeats     int
	}{
		{"smbios_uuid", id.UUID, serial},
		{"manufacturer", id.Manufacturer, word},
		{"model", id.Model, word},
		{"version", id.ModelVersion, word},
		{"sku", id.SKU, word},
		{"family", id.Family, word},
		{"system_serial", id.SystemSerial, serial},
		{"board_serial", id.BoardSerial, serial},
		{"chassis_serial", id.ChassisSerial, serial},
	} {
		if filler(f.value, f.repeats) || f.name == "smbios_uuid" && fillerUUIDs[f.value] {
			list = append(list, f.name)
		}
	}
	return list
}

const structMemoryArray = 16 // DSP0134 7.17; the library has no name for it

// memory is structures 16 and 17: how many slots the system memory has, and what
// sits in them. Flash and video memory have arrays of their own and don't count.
func memory(info *smbios.Info) (slots int, modules []wire.RAMModule) {
	const useSystem = 3
	system := map[uint16]bool{}
	arrays := info.GetTablesByType(structMemoryArray)
	for _, s := range arrays {
		if use, err := s.GetByteAt(0x05); err != nil || use != useSystem {
			continue
		}
		system[s.Handle] = true
		if n, err := s.GetWordAt(0x0D); err == nil && n <= 1024 {
			slots += int(n)
		}
	}
	for _, s := range info.GetTablesByType(smbios.TableTypeMemoryDevice) {
		if array, err := s.GetWordAt(0x04); len(arrays) > 0 && (err != nil || !system[array]) {
			continue
		}
		m, ok := module(s)
		if !ok {
			continue
		}
		if len(modules) == maxModules {
			break
		}
		modules = append(modules, m)
	}
	return slots, modules
}

// module reads one memory device (DSP0134 7.18); ok is false for an empty slot.
func module(s *smbios.Table) (m wire.RAMModule, ok bool) {
	const mib = 1 << 20
	size, err := s.GetWordAt(0x0C)
	switch {
	case err != nil || size == 0:
		return m, false
	case size == 0xFFFF: // in place, size unknown
	case size == 0x7FFF:
		if ext, err := s.GetDWordAt(0x1C); err == nil {
			m.Bytes = int64(ext&0x7FFFFFFF) * mib
		}
	case size&0x8000 != 0:
		m.Bytes = int64(size&0x7FFF) << 10
	default:
		m.Bytes = int64(size) * mib
	}
	m.Slot = text(s, 0x10)
	if v, err := s.GetByteAt(0x12); err == nil {
		m.Type = known(smbios.MemoryDeviceType(v).String())
		if v == 0x23 { // newer than the library's list
			m.Type = "LPDDR5"
		}
	}
	if v, err := s.GetByteAt(0x0E); err == nil {
		m.Form = known(smbios.MemoryDeviceFormFactor(v).String())
	}
	// The speed it runs at, if the firmware says so, else the one it could.
	if m.MTs = speed(s, 0x20, 0x58); m.MTs == 0 {
		m.MTs = speed(s, 0x15, 0x54)
	}
	m.Manufacturer, m.Serial, m.Part = known(text(s, 0x17)), known(text(s, 0x18)), known(text(s, 0x1A))
	return m, true
}

// speed is a word in MT/s; FFFFh refers to a longer field, 0 is unknown.
func speed(s *smbios.Table, word, extended int) int {
	v, err := s.GetWordAt(word)
	if err != nil {
		return 0
	}
	if v != 0xFFFF {
		return int(v)
	}
	ext, err := s.GetDWordAt(extended)
	if err != nil {
		return 0
	}
	return int(ext & 0x7FFFFFFF)
}

// known drops fillers and the library's words for values outside the standard.
func known(v string) string {
	if v = clean(v); filler(v, 4) || strings.HasPrefix(v, "<") || strings.HasPrefix(v, "0x") || v == "Other" {
		return ""
	}
	return v
}
