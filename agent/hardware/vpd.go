package hardware

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// answer is what a disk says of itself when it is asked.
type answer struct{ serial, model, firmware string }

func (a answer) or(b answer) answer {
	if a.serial == "" {
		a.serial = b.serial
	}
	if a.model == "" {
		a.model = b.model
	}
	if a.firmware == "" {
		a.firmware = b.firmware
	}
	return a
}

var errShort = errors.New("the answer is too short")

// parseVPD checks a page's head (SPC-5, 7.7): peripheral, page code, big-endian
// length, then that many bytes. A drive may say more than it sent.
func parseVPD(page []byte, code byte) ([]byte, error) {
	if len(page) < 4 {
		return nil, errShort
	}
	if page[1] != code {
		return nil, fmt.Errorf("page %02xh instead of %02xh", page[1], code)
	}
	n := int(binary.BigEndian.Uint16(page[2:4]))
	return page[4:min(4+n, len(page))], nil
}

// parseVPD80 is the unit's serial number.
func parseVPD80(page []byte) (string, error) {
	body, err := parseVPD(page, 0x80)
	if err != nil {
		return "", err
	}
	return clean(string(body)), nil
}

// parseVPD89 is SAT's "ATA information" page: 56 bytes of head, then the drive's
// 512 bytes of IDENTIFY DEVICE.
func parseVPD89(page []byte) (answer, error) {
	body, err := parseVPD(page, 0x89)
	if err != nil {
		return answer{}, err
	}
	if len(body) < 56+512 {
		return answer{}, errShort
	}
	return parseATA(body[56 : 56+512])
}

// parseATA reads IDENTIFY DEVICE (ACS-4, 7.13): serial in words 10 to 19,
// firmware in 23 to 26, model in 27 to 46, each word's characters swapped.
func parseATA(id []byte) (answer, error) {
	if len(id) < 512 {
		return answer{}, errShort
	}
	straight := make([]byte, 512)
	for i := 0; i < len(straight); i += 2 {
		straight[i], straight[i+1] = id[i+1], id[i]
	}
	return parseHDIO(straight)
}

// parseHDIO reads what HDIO_GET_IDENTITY gives: the same 512 bytes, but Linux
// (ata_get_identity in libata-scsi.c) has put the strings' characters in order.
func parseHDIO(id []byte) (answer, error) {
	if len(id) < 512 {
		return answer{}, errShort
	}
	words := func(from, to int) string { return clean(string(id[2*from : 2*to+2])) }
	return answer{serial: words(10, 19), firmware: words(23, 26), model: words(27, 46)}, nil
}

// parseNVMe reads Identify Controller (NVMe base 2.0, figure 275): serial,
// model, firmware from byte 4 on.
func parseNVMe(id []byte) (answer, error) {
	if len(id) < 72 {
		return answer{}, errShort
	}
	return answer{
		serial:   clean(string(id[4:24])),
		model:    clean(string(id[24:64])),
		firmware: clean(string(id[64:72])),
	}, nil
}
