package dashboard

import (
	"slices"
	"strconv"

	"refurb/agent/wire"
)

// Fact is one line of what is in a device.
type Fact struct {
	Name   string // message id
	Value  string
	Say    string // message id of the value, where it is ours
	Code   bool   // a serial or an address: kept in its own direction
	Filler bool   // the maker never filled it in
	Bytes  int64
	Mem    int64
	N      int // a count, with Say as its plural message
}

type FactGroup struct {
	Title string
	Icon  string
	Facts []Fact
}

// factsOf lists what a report says, leaving out what it doesn't know.
func factsOf(rep wire.Report, macs []string) []FactGroup {
	id, fw := rep.Identity, rep.Firmware
	var groups []FactGroup
	add := func(title, icon string, facts ...Fact) {
		facts = slices.DeleteFunc(facts, func(f Fact) bool {
			return f.Value == "" && f.Say == "" && f.Bytes == 0 && f.Mem == 0
		})
		if len(facts) > 0 {
			groups = append(groups, FactGroup{title, icon, facts})
		}
	}
	named := func(msg, field, value string, code bool) Fact {
		return Fact{Name: msg, Value: clean(value, maxLine), Code: code, Filler: slices.Contains(id.Placeholders, field)}
	}
	add("fact.identity", "pc",
		named("fact.maker", "manufacturer", id.Manufacturer, false),
		named("fact.model", "model", id.Model, false),
		named("fact.version", "version", id.ModelVersion, false),
		named("fact.family", "family", id.Family, false),
		named("fact.sku", "sku", id.SKU, true),
		Fact{Name: "fact.chassis", Value: clean(id.ChassisType, maxLine)},
		named("fact.serial", "system_serial", id.SystemSerial, true),
		named("fact.board", "board_serial", id.BoardSerial, true),
		named("fact.case", "chassis_serial", id.ChassisSerial, true),
		named("fact.uuid", "smbios_uuid", id.UUID, true),
	)
	mode := ""
	switch fw.Mode {
	case wire.ModeBIOS:
		mode = "BIOS"
	case wire.ModeUEFI32:
		mode = "UEFI, 32 bit"
	case wire.ModeUEFI64:
		mode = "UEFI, 64 bit"
	}
	firmware := []Fact{{Name: "fact.mode", Value: mode}}
	if fw.SecureBoot != nil {
		say := "fact.off"
		if *fw.SecureBoot {
			say = "fact.on"
		}
		firmware = append(firmware, Fact{Name: "fact.secureboot", Say: say})
	}
	if fw.SetupMode != nil && *fw.SetupMode {
		firmware = append(firmware, Fact{Name: "fact.setupmode", Say: "fact.on"})
	}
	add("fact.firmware", "shield", append(firmware,
		Fact{Name: "fact.vendor", Value: clean(fw.Vendor, maxLine)},
		Fact{Name: "fact.version", Value: clean(fw.Version, maxLine)},
		Fact{Name: "fact.date", Value: clean(fw.Date, maxLine)},
	)...)
	cpu := []Fact{{Name: "fact.model", Value: clean(rep.CPU.Model, maxLine)}}
	if rep.CPU.Cores > 0 {
		v := strconv.Itoa(rep.CPU.Cores)
		if rep.CPU.Threads > 0 {
			v += " / " + strconv.Itoa(rep.CPU.Threads)
		}
		cpu = append(cpu, Fact{Name: "fact.cores", Value: v})
	}
	if rep.CPU.Level > 0 {
		cpu = append(cpu, Fact{Name: "fact.level", Value: "x86-64-v" + strconv.Itoa(rep.CPU.Level)})
	}
	add("fact.cpu", "chip", cpu...)
	ram := []Fact{{Name: "fact.total", Mem: rep.RAM.Bytes}}
	if rep.RAM.Slots > 0 {
		ram = append(ram, Fact{Name: "fact.slots", Value: strconv.Itoa(len(rep.RAM.Modules)) + " / " + strconv.Itoa(rep.RAM.Slots)})
	}
	for _, m := range bounded(rep.RAM.Modules, 64) {
		text := clean(m.Type, 16)
		if m.MTs > 0 {
			text += " " + strconv.Itoa(m.MTs) + " MT/s"
		}
		for _, s := range []string{m.Manufacturer, m.Part} {
			if s = clean(s, 40); s != "" {
				text += " · " + s
			}
		}
		ram = append(ram, Fact{Name: clean(m.Slot, 24), Mem: m.Bytes, Value: text})
	}
	add("fact.ram", "ram", ram...)
	var nics []Fact
	for _, n := range bounded(rep.NICs, 32) {
		mac := n.Permanent
		if mac == "" {
			mac = n.MAC
		}
		nics = append(nics, Fact{Name: clean(n.Name, 24), Value: clean(mac, 40), Code: true})
		text := clean(n.Driver, 24)
		if n.Bus == "usb" {
			text += " · USB"
		}
		if n.Link && n.Mbit > 0 {
			text += " · " + strconv.Itoa(n.Mbit) + " Mbit/s"
		}
		nics = append(nics, Fact{Name: "", Value: text, Filler: false})
	}
	if len(nics) == 0 {
		for _, m := range bounded(macs, 8) {
			nics = append(nics, Fact{Name: "MAC", Value: clean(m, 40), Code: true})
		}
	}
	add("fact.nics", "nic", nics...)
	return groups
}
