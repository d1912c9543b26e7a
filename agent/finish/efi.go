package finish

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"refurb/agent/esp"

	"github.com/google/uuid"
	"github.com/u-root/u-root/pkg/efivarfs"
	"golang.org/x/sys/unix"
)

// Description of our boot entry, as the firmware's menu shows it. An entry with
// this name is ours and is used again.
const Description = "Refurb"

// global is EFI_GLOBAL_VARIABLE (UEFI 2.10 §3.3).
var global = uuid.MustParse("8be4df61-93ca-11d2-aa0d-00e098032b8c")

const (
	firmwareDir = "/sys/firmware/efi"
	attributes  = efivarfs.AttributeNonVolatile | efivarfs.AttributeBootserviceAccess | efivarfs.AttributeRuntimeAccess
	maxVariable = 32 << 10 // bytes of one that is looked at
)

// Firmware opens the variables of the PC's firmware and gives the name of the
// file that it starts from a disk without being told. nil and no error on a
// BIOS.
func Firmware() (efivarfs.EFIVar, string, error) {
	if _, err := os.Stat(firmwareDir); errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	file := `\EFI\BOOT\BOOTX64.EFI`
	if b, err := os.ReadFile(firmwareDir + "/fw_platform_size"); err == nil && string(bytes.TrimSpace(b)) == "32" {
		file = `\EFI\BOOT\BOOTIA32.EFI`
	}
	if vars, err := efivarfs.New(); err == nil {
		return vars, file, nil
	}
	if err := unix.Mount("efivarfs", efivarfs.DefaultVarFS, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, "", fmt.Errorf("the firmware's variables can't be reached: %w", err)
	}
	vars, err := efivarfs.New()
	if err != nil {
		return nil, "", fmt.Errorf("the firmware's variables can't be reached: %w", err)
	}
	return vars, file, nil
}

// Startable says whether the EFI system partition of a disk has the file that
// firmware starts: not every image has one for UEFI of 32 bits. When that can't
// be read it says yes, since then nothing is known against it.
func Startable(disk string, block int64, at Partition, file string) bool {
	f, err := os.Open(disk)
	if err != nil {
		return true
	}
	defer f.Close()
	v, err := esp.Open(f, int64(at.First)*block, int64(at.Last-at.First+1)*block)
	if err != nil {
		return true
	}
	has, err := v.Has(strings.ReplaceAll(strings.TrimPrefix(file, `\`), `\`, "/"))
	return has || err != nil
}

// BootEntry makes the firmware start file from the partition first; what was in
// its order before, the network included, stays behind. It re-reads what it
// wrote, and says what it did. A PC whose firmware refuses still starts: the
// file has the name that firmware looks for by itself.
func BootEntry(vars efivarfs.EFIVar, at Partition, file string) (string, error) {
	option := loadOption(Description, at, file)
	number, old, err := findEntry(vars)
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("Boot%04X", number)
	if !bytes.Equal(old, option) {
		if err := setVariable(vars, name, option); err != nil {
			return "", err
		}
	}
	_, before, err := vars.Get(efivarfs.VariableDescriptor{Name: "BootOrder", GUID: global})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading BootOrder: %w", err)
	}
	order := putFirst(before, number)
	if !bytes.Equal(before, order) {
		if err := setVariable(vars, "BootOrder", order); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("boot entry %04X first", number), nil
}

// Next makes the firmware start our entry once, at its next start, whatever comes
// first in its order.
func Next(vars efivarfs.EFIVar) (string, error) {
	number, old, err := findEntry(vars)
	if err == nil && old == nil {
		err = errors.New("the firmware has no entry of ours")
	}
	if err != nil {
		return "", err
	}
	if err := setVariable(vars, "BootNext", le.AppendUint16(nil, number)); err != nil {
		return "", err
	}
	return fmt.Sprintf("boot entry %04X next", number), nil
}

// putFirst moves number to the front of a BootOrder, which is a list of 16 bit
// numbers; an odd last byte is dropped.
func putFirst(order []byte, number uint16) []byte {
	out := le.AppendUint16(nil, number)
	for i := 0; i+1 < len(order) && i < maxVariable; i += 2 {
		if n := le.Uint16(order[i:]); n != number {
			out = le.AppendUint16(out, n)
		}
	}
	return out
}

var bootName = regexp.MustCompile(`^Boot([0-9A-F]{4})$`)

// findEntry gives the number of our entry and what it holds, or the lowest free
// number and nil.
func findEntry(vars efivarfs.EFIVar) (uint16, []byte, error) {
	list, err := vars.List()
	if err != nil {
		return 0, nil, fmt.Errorf("listing the firmware's variables: %w", err)
	}
	var taken []int
	for _, d := range list {
		m := bootName.FindStringSubmatch(d.Name)
		if m == nil || d.GUID != global {
			continue
		}
		n, _ := strconv.ParseUint(m[1], 16, 16)
		taken = append(taken, int(n))
		if _, b, err := vars.Get(d); err == nil && description(b) == Description {
			return uint16(n), b, nil
		}
	}
	for n := range 0x10000 {
		if !slices.Contains(taken, n) {
			return uint16(n), nil, nil
		}
	}
	return 0, nil, errors.New("the firmware has no free boot entry")
}

// setVariable writes and re-reads: firmware that is full or locked sometimes
// says yes and keeps the old value.
func setVariable(vars efivarfs.EFIVar, name string, data []byte) error {
	d := efivarfs.VariableDescriptor{Name: name, GUID: global}
	if err := vars.Set(d, attributes, data); err != nil {
		return fmt.Errorf("the firmware refused %s: %w", name, err)
	}
	_, got, err := vars.Get(d)
	if err != nil {
		return fmt.Errorf("re-reading %s: %w", name, err)
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("the firmware did not keep %s", name)
	}
	return nil
}

// loadOption is an EFI_LOAD_OPTION (UEFI 2.10 §3.1.3): attributes, length of
// the device path, description, device path.
func loadOption(description string, at Partition, file string) []byte {
	path := devicePath(at, file)
	b := le.AppendUint32(nil, 1) // LOAD_OPTION_ACTIVE
	b = le.AppendUint16(b, uint16(len(path)))
	b = append(b, ucs2(description)...)
	return append(b, path...)
}

// description of an EFI_LOAD_OPTION, "" when it is none.
func description(b []byte) string {
	if len(b) < 6 || len(b) > maxVariable {
		return ""
	}
	var u []uint16
	for b = b[6:]; len(b) >= 2; b = b[2:] {
		c := le.Uint16(b)
		if c == 0 {
			return string(utf16.Decode(u))
		}
		u = append(u, c)
	}
	return ""
}

// devicePath is the short form that the firmware completes by itself: hard
// drive (UEFI 2.10 §10.3.5.1), file (§10.3.5.4), end (§10.3.1). A partition is
// found by its GUID, so the entry survives another SATA port.
func devicePath(at Partition, file string) []byte {
	b := []byte{4, 1, 42, 0}
	b = le.AppendUint32(b, uint32(at.Number))
	b = le.AppendUint64(b, at.First)
	b = le.AppendUint64(b, at.Last-at.First+1)
	b = append(b, at.GUID[:]...)
	b = append(b, 2, 2) // GPT, signature is a GUID
	name := ucs2(file)
	b = append(b, 4, 4)
	b = le.AppendUint16(b, uint16(4+len(name)))
	b = append(b, name...)
	return append(b, 0x7f, 0xff, 4, 0)
}

func ucs2(s string) (b []byte) {
	for _, c := range append(utf16.Encode([]rune(s)), 0) {
		b = le.AppendUint16(b, c)
	}
	return b
}
