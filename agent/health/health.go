// Package health asks a disk how it is and lets it test itself.
//
// ATA drives: SMART attributes by the table of vendors' units in anatol/smart.go,
// the drive's own verdict (SMART RETURN STATUS), device statistics and the
// self-test log (ACS-4, 7.48 and 9.5; ACS-3 for what ACS-4 made obsolete).
// NVMe: logs 02h and 06h (NVM Express Base 2.0, 5.16.1.3 and 5.16.1.7). SCSI: log
// pages (SPC-5, 7.3; SBC-4, 6.4). eMMC: what the kernel keeps of EXT_CSD
// (JESD84-B51, 7.4.34 and 7.4.35).
//
// A disk's answers are anybody's bytes. What can't be is left out and said so in
// Health.Error; nothing here decides whether a disk is good.
package health

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

const (
	// readTime is how long a disk may take to say how it is. A dying one can sit
	// in the kernel for minutes.
	readTime = 30 * time.Second
	// commandTime is what one command may take. One that takes longer makes the
	// kernel reset the drive, so it is generous.
	commandTime = 15 * time.Second
)

// Read asks the disk how it is, within half a minute. It always answers: with
// nothing but an error if need be.
func Read(ctx context.Context, d wire.Disk) *wire.Health {
	done := make(chan *wire.Health, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil { // a mistake in reading costs one disk's health, and says so
				done <- &wire.Health{Error: text(fmt.Sprintf("reading it went wrong: %v", v))}
			}
		}()
		done <- read("/", d)
	}()
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	select {
	case h := <-done:
		return h
	case <-ctx.Done():
		return &wire.Health{Error: fmt.Sprintf("no answer within %v", readTime)}
	}
}

func read(root string, d wire.Disk) *wire.Health {
	var n notes
	h := &wire.Health{}
	switch d.Transport {
	case wire.TransportMMC:
		readMMC(filepath.Join(root, "sys/block", filepath.Base(d.Path), "device"), h, &n)
	case wire.TransportSATA, wire.TransportNVMe, wire.TransportSCSI:
		f, err := drive.Open(d.Path)
		if err != nil {
			n.add("%v", err)
			break
		}
		defer f.Close()
		switch d.Transport {
		case wire.TransportNVMe:
			readNVMe(f, h, &n)
		case wire.TransportSCSI:
			readSCSI(f, h, &n)
		default:
			readATA(f, d, h, &n)
		}
	default:
		n.add("a disk of this kind (%s) says nothing of its health", d.Transport)
	}
	h.Error = n.String()
	return h
}

// notes are what was not answered, or can't be.
type notes []string

func (n *notes) add(format string, a ...any) {
	if len(*n) < 8 {
		*n = append(*n, fmt.Sprintf(format, a...))
	}
}

func (n notes) String() string { return text(strings.Join(n, "; ")) }

// count takes a number that a disk gave, unless it is more than it can be.
func (n *notes) count(what string, v, most uint64) *int64 {
	if v > most {
		n.add("its %s can't be %d", what, v)
		return nil
	}
	return new(int64(v))
}

const (
	mostHours   = 30 * 365 * 24
	mostCycles  = 10_000_000
	mostSectors = 1 << 40
)

// celsius leaves 0 out: that is what disks without a thermometer say.
func (n *notes) celsius(v int64) *int64 {
	switch {
	case v == 0:
		return nil
	case v < -20 || v > 120:
		n.add("its temperature can't be %d °C", v)
		return nil
	}
	return &v
}

// readMMC takes the wear in steps of ten percent and the state of the reserved
// blocks from sysfs. Older chips don't say.
func readMMC(dir string, h *wire.Health, n *notes) {
	h.Source = "emmc ext_csd"
	known := false
	if b, err := os.ReadFile(filepath.Join(dir, "life_time")); err == nil {
		for _, f := range strings.Fields(string(b)) { // of two types of memory
			// 1: 0 to 10 % used… 0Ah: 90 to 100 %, 0Bh: more
			if v, err := strconv.ParseUint(strings.TrimPrefix(f, "0x"), 16, 8); err == nil && v >= 1 && v <= 0x0b {
				used := int64(v-1) * 10
				if v == 0x0b {
					used = 101
				}
				if h.PercentUsed == nil || *h.PercentUsed < used {
					h.PercentUsed = &used
				}
				known = true
			}
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "pre_eol_info")); err == nil {
		switch strings.TrimSpace(string(b)) {
		case "0x01", "0x02": // 2: 80 % of the reserved blocks are used up
			h.Passed, known = new(true), true
		case "0x03": // urgent
			h.Passed, known = new(false), true
		}
	}
	if !known {
		n.add("this chip says nothing of its wear")
	}
}

// text makes one printable line of at most wire.MaxText bytes.
func text(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > wire.MaxText {
		s = strings.ToValidUTF8(s[:wire.MaxText-3], "") + "…"
	}
	return s
}
