// Package hardware reads what a donated PC is: who it is, what it is made of,
// and which disks it has.
//
// It reads sysfs, procfs and the SMBIOS table, and asks a drive itself only where
// the kernel keeps less than the drive says. Nothing here opens a file system or
// looks at a disk's content. Every string comes out printable and bounded by
// wire.MaxText; every list is bounded. What can't be read becomes a sentence in
// Report.Problems, and the rest of the report is made all the same.
package hardware

import (
	"context"
	"fmt"
	"time"

	"refurb/agent/wire"
)

const (
	// collectTime bounds the whole look at a PC; a drive alone has probeTime.
	collectTime = 30 * time.Second
	maxProblems = 64
)

// part reads one group of the report; store puts the result in place. They are
// two steps so that a part that comes too late never touches a report that was
// given away.
type part struct {
	name string
	read func(tree) (store func(*wire.Report), problems []string)
}

var parts = []part{
	{"kernel", func(t tree) (func(*wire.Report), []string) {
		boot, kernel := t.text("proc/sys/kernel/random/boot_id"), t.text("proc/sys/kernel/osrelease")
		return func(r *wire.Report) { r.BootID, r.Kernel = boot, kernel }, nil
	}},
	{"firmware", func(t tree) (func(*wire.Report), []string) {
		fw, problems := readFirmware(t)
		s, more := readSMBIOS(t)
		fw.Vendor, fw.Version, fw.Date = s.vendor, s.version, s.date
		return func(r *wire.Report) {
			r.Firmware, r.Identity = fw, s.identity
			r.RAM.Slots, r.RAM.Modules = s.slots, s.modules
		}, append(problems, more...)
	}},
	{"processor", func(t tree) (func(*wire.Report), []string) {
		cpu, problems := readCPU(t)
		return func(r *wire.Report) { r.CPU = cpu }, problems
	}},
	{"memory", func(t tree) (func(*wire.Report), []string) {
		n, problems := readMemory(t)
		return func(r *wire.Report) { r.RAM.Bytes = n }, problems
	}},
	{"network", func(t tree) (func(*wire.Report), []string) {
		nics, problems := readNICs(t)
		return func(r *wire.Report) { r.NICs = append(r.NICs, nics...) }, problems
	}},
	{"storage controllers", func(t tree) (func(*wire.Report), []string) {
		list, problems := hiddenStorage(t)
		all := storageControllers(t)
		return func(r *wire.Report) { r.HiddenStorage, r.Controllers = list, all }, problems
	}},
	{"disks", func(t tree) (func(*wire.Report), []string) {
		disks, problems := Disks(string(t))
		return func(r *wire.Report) { r.Disks = append(r.Disks, disks...) }, problems
	}},
}

// Collect reads everything under root, "/" on a PC. It never fails whole and
// returns within half a minute or when ctx ends; what could not be read by then
// is named in Problems. Agent, Gaps and the disks' Class are the caller's.
func Collect(ctx context.Context, root string) wire.Report {
	ctx, cancel := context.WithTimeout(ctx, collectTime)
	defer cancel()
	return collect(ctx, tree(root), parts)
}

func collect(ctx context.Context, t tree, parts []part) wire.Report {
	r := wire.Report{
		Clock:    time.Now(),
		Firmware: wire.Firmware{Mode: wire.ModeBIOS},
		Disks:    []wire.Disk{},
		NICs:     []wire.NIC{},
	}
	type result struct {
		store    func(*wire.Report)
		problems []string
	}
	results := make([]chan result, len(parts))
	for i, p := range parts {
		ch := make(chan result, 1)
		results[i] = ch
		go func() {
			defer func() {
				// A PC's tables are anybody's bytes: a mistake in reading them costs
				// one part of one report, and says so.
				if v := recover(); v != nil {
					ch <- result{problems: []string{clean(fmt.Sprintf("%s: reading it went wrong: %v", p.name, v))}}
				}
			}()
			store, problems := p.read(t)
			ch <- result{store, problems}
		}()
	}
	for i, p := range parts {
		select {
		case got := <-results[i]:
			if got.store != nil {
				got.store(&r)
			}
			r.Problems = append(r.Problems, got.problems...)
		case <-ctx.Done():
			select { // it may be there all the same
			case got := <-results[i]:
				if got.store != nil {
					got.store(&r)
				}
				r.Problems = append(r.Problems, got.problems...)
			default:
				r.Problems = append(r.Problems, p.name+": no answer in time; look at the PC or its disk")
			}
		}
	}
	if len(r.Problems) > maxProblems {
		r.Problems = append(r.Problems[:maxProblems:maxProblems], "and more problems than are listed")
	}
	return r
}
