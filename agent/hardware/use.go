package hardware

import (
	"fmt"
	"path/filepath"
	"strings"
)

// inUse knows which block devices the running system holds.
type inUse struct {
	mounted map[string]bool // by "8:1" and by "/dev/sda1"
	swap    map[string]bool // by "/dev/sda2"
	broken  string          // why nothing can be said; then every disk counts as used
}

// readUse reads the mount table and the swap areas. When the mount table can't
// be read, every disk counts as used: a disk must never be free by ignorance.
func readUse(t tree) (inUse, error) {
	u := inUse{mounted: map[string]bool{}, swap: map[string]bool{}}
	table, err := t.bytes("proc/self/mountinfo")
	if err != nil {
		u.broken = "unknown: the mount table can't be read"
		return u, err
	}
	if len(table) == maxFile {
		u.broken = "unknown: the mount table is too long"
		return u, fmt.Errorf("the mount table is longer than %d bytes", maxFile)
	}
	for line := range strings.Lines(string(table)) {
		// proc(5): 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
		// A btrfs has a device number of its own, so its source counts as well.
		left, right, ok := strings.Cut(line, " - ")
		if !ok {
			continue
		}
		if f := strings.Fields(left); len(f) > 2 {
			u.mounted[f[2]] = true
		}
		if f := strings.Fields(right); len(f) > 1 && strings.HasPrefix(f[1], "/dev/") {
			u.mounted[f[1]] = true
		}
	}
	swaps, err := t.bytes("proc/swaps")
	if err != nil {
		return u, nil // a kernel without swap
	}
	for line := range strings.Lines(string(swaps)) {
		if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(f[0], "/dev/") {
			u.swap[f[0]] = true
		}
	}
	return u, nil
}

// of says by whom a disk or one of its partitions is held, "" by nobody.
func (u inUse) of(t tree, disk string) string {
	if u.broken != "" {
		return u.broken
	}
	dir := filepath.Join("sys/block", disk)
	parts := []string{dir}
	for _, n := range t.names(dir) {
		if t.exists(dir, n, "partition") {
			parts = append(parts, filepath.Join(dir, n))
		}
	}
	for _, p := range parts {
		node := "/dev/" + filepath.Base(p)
		switch {
		case u.mounted[t.text(p, "dev")], u.mounted[node]:
			return "mounted"
		case u.swap[node]:
			return "swap"
		}
		if h := t.names(p, "holders"); len(h) > 0 {
			return clean("held by " + h[0])
		}
	}
	return ""
}
