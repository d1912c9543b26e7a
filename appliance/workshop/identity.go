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
	disks                        []string // keys of what is in it; they move, and only tip the scales
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
	// Boards of several makers share these.
	"03000200-0400-0500-0006-000700080009": true,
	"12345678-1234-5678-90ab-cddeefaabbcc": true,
	"fefefefe-fefe-fefe-fefe-fefefefefefe": true,
}

// sharedMACs are addresses that drivers and cheap chips fall back to.
var sharedMACs = map[string]bool{
	"00:00:00:00:00:00": true, "ff:ff:ff:ff:ff:ff": true, "00:11:22:33:44:55": true,
	"02:00:00:00:00:00": true, "88:88:88:88:87:88": true, "00:e0:4c:00:00:00": true,
	"00:e0:4c:68:00:01": true, "00:e0:4c:53:44:58": true, // the second: all of one cheap USB chip
}

// punctuation says nothing of whether a value is a filler.
var punctuation = strings.NewReplacer("-", "", " ", "", ".", "", ":", "")

// filler reports whether a value identifies nothing.
func filler(s string) bool {
	s = strings.ToLower(strings.Join(strings.Fields(s), " "))
	bare := punctuation.Replace(s)
	return len(bare) < 4 || fillers[s] || strings.Count(bare, bare[:1]) == len(bare)
}

// cleanMAC returns a MAC in lower case with colons, or nothing if it can't
// identify an interface.
func cleanMAC(s string) string {
	s = strings.ToLower(strings.ReplaceAll(strings.TrimSpace(s), "-", ":"))
	if len(s) != 17 || sharedMACs[s] || strings.HasPrefix(s, "00:00:00:00:00:") || s == strings.Repeat(s[:2]+":", 5)+s[:2] {
		return "" // what a driver takes where it finds none, and what was never filled in
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

// maxCards that identify a PC: agents list no more.
const maxCards = 32

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
		if mac == "" {
			if mac = cleanMAC(n.MAC); mac != "" && nibble(mac[1])&2 != 0 {
				mac = ""
			}
		}
		if mac != "" && !slices.Contains(macs, mac) {
			macs = append(macs, mac)
		}
	}
	slices.Sort(macs)
	return macs[:min(len(macs), maxCards)]
}

// plainUUID is a UUID in the one of its two byte orders that sorts first: before
// SMBIOS 2.6 it was not said which one holds, and firmware disagrees with itself
// between PXE's option 97 and its tables, and from one update to the next. Empty:
// it identifies nothing.
func plainUUID(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	swapped := swapUUID(s)
	switch {
	case filler(s) || swapped != "" && filler(swapped):
		return ""
	case swapped != "" && cleanMAC(nodeOf(s)) == "" && strings.Trim(s[:24], "0-") == "":
		return "" // nothing but a network address that is everybody's
	case swapped != "" && swapped < s:
		return swapped
	}
	return s
}

// nodeOf is the end of a UUID as a network address: firmware without a UUID of its
// own makes one of that.
func nodeOf(s string) string {
	if len(s) != 36 {
		return ""
	}
	n := s[24:]
	return n[:2] + ":" + n[2:4] + ":" + n[4:6] + ":" + n[6:8] + ":" + n[8:10] + ":" + n[10:]
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
	var disks []string
	for _, d := range rep.Disks {
		if key := followed(rep, &d); key != "" && !slices.Contains(disks, key) {
			disks = append(disks, key)
		}
	}
	return identity{
		uuid:    plainUUID(use("smbios_uuid", id.UUID)),
		system:  serial("system_serial", id.SystemSerial),
		board:   serial("board_serial", id.BoardSerial),
		chassis: serial("chassis_serial", id.ChassisSerial),
		macs:    macs,
		disks:   disks,
	}
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
// against. What is not known on either side says nothing, nor does a key that
// people found on two PCs.
func weigh(a, b identity, void map[string]bool) (same, other int) {
	count := func(kind, x, y string, weight int) {
		switch {
		case x == "" || y == "":
		case x != y:
			other += weight
		case !void[kind+x]:
			same += weight
		}
	}
	count("uuid ", a.uuid, b.uuid, 4)
	count("system ", a.system, b.system, 3)
	count("board ", a.board, b.board, 3)
	count("chassis ", a.chassis, b.chassis, 1)
	if len(a.macs) > 0 && len(b.macs) > 0 {
		switch {
		case common(a.macs, b.macs, func(m string) bool { return !void["mac "+m] }):
			same += 4
		case !common(a.macs, b.macs, nil):
			other += 4
		}
	}
	return same, other
}

// common reports whether two lists share something that counts.
func common(a, b []string, counts func(string) bool) bool {
	return slices.ContainsFunc(a, func(x string) bool { return slices.Contains(b, x) && (counts == nil || counts(x)) })
}

// enough agreement for one PC; a chassis serial alone is not.
const enough = 3

// candidate is a record that shares something with a PC that reports itself. A
// record that another one was merged into has several identities.
type candidate struct {
	identity
	of string // the record that it leads to
}

// match finds the record of a PC that reports itself among those that share
// something with it; "" if there is none, or if it is in doubt, and then why and
// which record it may belong to. void are keys that are known to be on several PCs.
//
// Splitting one PC into two records can be mended; merging two PCs into one would
// put a proof of erasure on the wrong machine. So doubt makes a new one.
func match(rep identity, known []candidate, void map[string]bool) (found string, doubt Doubt) {
	best, tie, near := 0, "", ""
	for _, k := range known {
		same, other := weigh(rep, k.identity, void)
		disk := common(rep.disks, k.disks, nil)
		// Boards that give nothing of their own are told apart by what is in them,
		// and by that alone only where people have said that they are several.
		if other == 0 && disk && same < enough && slices.ContainsFunc(k.keys(), func(key string) bool { return void[key] && slices.Contains(rep.keys(), key) }) {
			same += enough
		}
		bare := same == 4 && other == 0 && rep.uuid == k.uuid && rep.uuid != "" && !void["uuid "+rep.uuid]
		score := 2 * (same - other)
		if disk {
			score++
		}
		switch {
		case same < enough:
		case same <= other, bare && !disk && len(rep.disks) > 0 && len(k.disks) > 0:
			if near == "" || k.of < near {
				near = k.of
			}
		case found == "" || score > best:
			found, best, tie = k.of, score, ""
		case score == best && k.of != found:
			tie = k.of
		}
	}
	switch {
	case found != "" && tie != "":
		return "", Doubt{Kind: DoubtEqual, Device: min(found, tie), Shares: "everything that identifies it"}
	case found != "":
		return found, Doubt{}
	case near != "":
		var s []string
		for _, k := range known {
			if k.of == near {
				s = append(s, shared(rep, k.identity)...)
			}
		}
		slices.Sort(s)
		return "", Doubt{Kind: DoubtPartly, Device: near, Shares: strings.Join(slices.Compact(s), ", ")}
	}
	return "", Doubt{}
}

// shared names what two identities have in common.
func shared(a, b identity) (s []string) {
	for _, f := range []struct{ name, x, y string }{
		{"the SMBIOS UUID", a.uuid, b.uuid}, {"the system serial", a.system, b.system},
		{"the board serial", a.board, b.board}, {"the chassis serial", a.chassis, b.chassis},
	} {
		if f.x != "" && f.x == f.y {
			s = append(s, f.name)
		}
	}
	if common(a.macs, b.macs, nil) {
		s = append(s, "a network address")
	}
	return s
}
