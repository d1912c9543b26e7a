package workshop

import (
	"slices"
	"strings"

	"refurb/agent/wire"
)

// identity is what tells one PC from another, cleaned of fillers. Empty means
// not known.
type identity struct {
	uuid, system, board, chassis string // serials carry the maker before them
	macs                         []string
}

// fillers are values that makers leave where a serial number belongs, lower
// case. The agent flags more; these count as flagged wherever they stand.
var fillers = map[string]bool{
	"to be filled by o.e.m.": true, "to be filled by oem": true, "default string": true,
	"system serial number": true, "base board serial number": true, "chassis serial number": true,
	"serial number": true, "not specified": true, "not applicable": true, "not available": true,
	"none": true, "n/a": true, "na": true, "unknown": true, "oem": true, "o.e.m.": true,
	"invalid": true, "empty": true, "0123456789": true, "123456789": true, "1234567890": true,
	"1234567": true, "12345678": true, "00000000-0000-0000-0000-000000000000": true,
	"ffffffff-ffff-ffff-ffff-ffffffffffff": true,
	// Boards of several makers share these two.
	"03000200-0400-0500-0006-000700080009": true,
	"00020003-0004-0005-0006-000700080009": true,
	"12345678-1234-5678-90ab-cddeefaabbcc": true,
	"fefefefe-fefe-fefe-fefe-fefefefefefe": true,
}

// sharedMACs are addresses that drivers and cheap chips fall back to.
var sharedMACs = map[string]bool{
	"00:00:00:00:00:00": true, "ff:ff:ff:ff:ff:ff": true, "00:11:22:33:44:55": true,
	"02:00:00:00:00:00": true, "88:88:88:88:87:88": true, "00:e0:4c:00:00:00": true,
	"00:e0:4c:68:00:01": true, "00:00:00:00:00:01": true,
}

// filler reports whether a value identifies nothing.
func filler(s string) bool {
	s = strings.ToLower(strings.Join(strings.Fields(s), " "))
	bare := strings.NewReplacer("-", "", " ", "", ".", "", ":", "").Replace(s)
	return len(bare) < 4 || fillers[s] || strings.Count(bare, bare[:1]) == len(bare)
}

// cleanMAC returns a MAC in lower case with colons, or nothing if it can't
// identify an interface.
func cleanMAC(s string) string {
	s = strings.ToLower(strings.ReplaceAll(strings.TrimSpace(s), "-", ":"))
	if len(s) != 17 || sharedMACs[s] {
		return ""
	}
	for i, c := range []byte(s) {
		hex := c >= '0' && c <= '9' || c >= 'a' && c <= 'f'
		if (i%3 == 2) != (c == ':') || (i%3 != 2) && !hex {
			return ""
		}
	}
	if nibble(s[1])&1 != 0 { // a group address belongs to nobody
		return ""
	}
	return s
}

func nibble(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// permanentMACs are those that are soldered or plugged into the PC. A USB dongle
// goes from PC to PC and never counts. An address in use stands in for a
// permanent one that the driver can't give, unless it was made up (the locally
// administered bit).
func permanentMACs(rep *wire.Report) []string {
	var macs []string
	for _, n := range rep.NICs {
		if strings.EqualFold(n.Bus, "usb") {
			continue
		}
		mac := cleanMAC(n.Permanent)
		if n.Permanent == "" {
			if mac = cleanMAC(n.MAC); mac != "" && nibble(mac[1])&2 != 0 {
				mac = ""
			}
		}
		if mac != "" && !slices.Contains(macs, mac) {
			macs = append(macs, mac)
		}
	}
	slices.Sort(macs)
	return macs
}

func identityOf(rep *wire.Report, macs []string) identity {
	id := &rep.Identity
	use := func(field, value string) string {
		if filler(value) || slices.Contains(id.Placeholders, field) {
			return ""
		}
		return strings.ToLower(strings.TrimSpace(value))
	}
	serial := func(field, value string) string {
		if value = use(field, value); value != "" {
			// Two makers may well count from the same number.
			value = strings.ToLower(strings.TrimSpace(id.Manufacturer)) + "\x00" + value
		}
		return value
	}
	return identity{
		uuid:    use("smbios_uuid", id.UUID),
		system:  serial("system_serial", id.SystemSerial),
		board:   serial("board_serial", id.BoardSerial),
		chassis: serial("chassis_serial", id.ChassisSerial),
		macs:    macs,
	}
}

// known reports whether anything identifies this PC.
func (a identity) known() bool {
	return a.uuid != "" || a.system != "" || a.board != "" || a.chassis != "" || len(a.macs) > 0
}

// keys under which a device is found again.
func (a identity) keys() []string {
	var keys []string
	for kind, v := range map[string]string{"uuid ": a.uuid, "system ": a.system, "board ": a.board, "chassis ": a.chassis} {
		if v != "" {
			keys = append(keys, kind+v)
		}
	}
	for _, m := range a.macs {
		keys = append(keys, "mac "+m)
	}
	return keys
}

// weigh says how much speaks for two identities being one PC and how much
// against. What is not known on either side says nothing.
func weigh(a, b identity) (same, other int) {
	count := func(x, y string, weight int) {
		switch {
		case x == "" || y == "":
		case x == y:
			same += weight
		default:
			other += weight
		}
	}
	count(a.uuid, b.uuid, 4)
	count(a.system, b.system, 3)
	count(a.board, b.board, 3)
	count(a.chassis, b.chassis, 1)
	if len(a.macs) > 0 && len(b.macs) > 0 {
		if slices.ContainsFunc(a.macs, func(m string) bool { return slices.Contains(b.macs, m) }) {
			same += 4
		} else {
			other += 4
		}
	}
	return same, other
}

// enough agreement for one PC; a chassis serial alone is not.
const enough = 3

// match finds the device that reports itself among those that share something
// with it: the index of the one, or -1 and why two records seem to be mixed up.
// Splitting one PC into two records can be mended; merging two PCs into one
// would put a proof of erasure on the wrong machine. So doubt makes a new one.
func match(rep identity, known []identity) (index int, conflict string) {
	index = -1
	best, tie, doubt := 0, false, -1
	for i, k := range known {
		same, other := weigh(rep, k)
		switch {
		case same < enough:
		case same <= other:
			doubt = i
		case index >= 0 && same-other == best:
			tie = true
		case index < 0 || same-other > best:
			index, best, tie = i, same-other, false
		}
	}
	switch {
	case index >= 0 && tie:
		return -1, "two devices fit equally well"
	case index >= 0:
		return index, ""
	case doubt >= 0:
		return -1, "it shares " + shared(rep, known[doubt]) + " with another device and differs in the rest"
	}
	return -1, ""
}

// shared names what two identities have in common.
func shared(a, b identity) string {
	var s []string
	for _, f := range []struct{ name, x, y string }{
		{"the SMBIOS UUID", a.uuid, b.uuid}, {"the system serial", a.system, b.system},
		{"the board serial", a.board, b.board}, {"the chassis serial", a.chassis, b.chassis},
	} {
		if f.x != "" && f.x == f.y {
			s = append(s, f.name)
		}
	}
	if slices.ContainsFunc(a.macs, func(m string) bool { return slices.Contains(b.macs, m) }) {
		s = append(s, "a network address")
	}
	return strings.Join(s, ", ")
}
