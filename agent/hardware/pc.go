package hardware

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"refurb/agent/wire"
)

// readFirmware tells how the PC was started and whether Secure Boot is on.
// SMBIOS adds the vendor.
func readFirmware(t tree) (wire.Firmware, []string) {
	const efi = "sys/firmware/efi"
	if !t.exists(efi) {
		return wire.Firmware{Mode: wire.ModeBIOS}, nil
	}
	f := wire.Firmware{Mode: wire.ModeUEFI64}
	var problems []string
	switch n, ok := t.number(efi, "fw_platform_size"); {
	case ok && n == 32:
		f.Mode = wire.ModeUEFI32
	case !ok || n != 64:
		problems = append(problems, "firmware: the kernel doesn't say whether UEFI is 32 or 64 bit; taken as 64")
	}
	err := mountVariables(t)
	if err != nil {
		return f, append(problems, problem("Secure Boot", err))
	}
	if f.SecureBoot, err = efiFlag(t, "SecureBoot"); err != nil {
		problems = append(problems, problem("Secure Boot", err))
	}
	if f.SetupMode, err = efiFlag(t, "SetupMode"); err != nil {
		problems = append(problems, problem("Secure Boot setup mode", err))
	}
	return f, problems
}

const efiVars = "sys/firmware/efi/efivars"

// mountVariables makes the firmware's variables readable on the PC itself. init
// tries to, before the kernel has the module for it.
func mountVariables(t tree) error {
	if t != "/" || len(t.names(efiVars)) > 0 {
		return nil
	}
	err := unix.Mount("efivarfs", t.path(efiVars), "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && err != unix.EBUSY {
		return fmt.Errorf("mount the firmware's variables: %w", err)
	}
	return nil
}

// efiFlag reads a one-byte variable of UEFI's global GUID (UEFI 2.10, 3.3):
// efivarfs gives four bytes of attributes first. A firmware without the variable
// knows no Secure Boot: nil and no error.
func efiFlag(t tree, name string) (*bool, error) {
	b, err := t.bytes(efiVars, name+"-8be4df61-93ca-11d2-aa0d-00e098032b8c")
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(t.names(efiVars)) == 0:
		return nil, errors.New("the firmware's variables are not there")
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case len(b) != 5 || b[4] > 1:
		return nil, fmt.Errorf("the firmware's variable holds %d bytes that make no sense", len(b))
	}
	on := b[4] == 1
	return &on, nil
}

// levels are the processor flags that each x86-64 level adds, by the names of
// /proc/cpuinfo (x86-64 psABI 1.0, table 3.1).
var levels = [][]string{
	{"lm", "cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"},
	{"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"},
	{"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
	{"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}

// level is the highest x86-64 level whose flags are all there, 0 for none.
func level(flags map[string]bool) int {
	for i, need := range levels {
		for _, f := range need {
			if !flags[f] {
				return i
			}
		}
	}
	return len(levels)
}

func readCPU(t tree) (wire.CPU, []string) {
	b, err := t.bytes("proc/cpuinfo")
	if err != nil {
		return wire.CPU{}, []string{problem("processor", err)}
	}
	return parseCPU(string(b)), nil
}

func parseCPU(text string) wire.CPU {
	var c wire.CPU
	cores := map[string]bool{}
	socket := ""
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch key {
		case "processor":
			c.Threads++
		case "model name":
			if c.Model == "" {
				c.Model = clean(value)
			}
		case "vendor_id":
			if c.Vendor == "" {
				c.Vendor = clean(value)
			}
		case "physical id":
			socket = value
		case "core id":
			cores[socket+"/"+value] = true
		case "flags":
			if c.Level == 0 {
				flags := map[string]bool{}
				for _, f := range strings.Fields(value) {
					flags[f] = true
				}
				c.Level = level(flags)
			}
		}
	}
	c.Cores = len(cores)
	if c.Cores == 0 {
		c.Cores = c.Threads // a single-core kernel tells no core ids
	}
	return c
}

// readMemory is the memory that the kernel has to give; the firmware and the
// graphics took theirs already.
func readMemory(t tree) (int64, []string) {
	b, err := t.bytes("proc/meminfo")
	if err != nil {
		return 0, []string{problem("memory", err)}
	}
	for line := range strings.Lines(string(b)) {
		value, ok := strings.CutPrefix(line, "MemTotal:")
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		if err == nil && n > 0 && n < 1<<50 {
			return n << 10, nil
		}
	}
	return 0, []string{"memory: the kernel's figure makes no sense"}
}
