//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"refurb/scripts/lab"
)

// results is the matrix as it came out; the last thing that a run prints.
var results table

type table struct {
	mu    sync.Mutex
	cells map[row]map[string]result // columns as in cell.columns
}

type result struct{ state, why string } // "ok", "failed", "impossible"

// columns that a PC counts for.
func (c cell) columns() (list []string) {
	if c.nic != "" {
		list = append(list, "nic "+c.nic)
	}
	if c.disk != "" {
		list = append(list, "disk "+c.disk)
	}
	return list
}

func (t *table) set(c cell, state, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cells == nil {
		t.cells = map[row]map[string]result{}
	}
	if t.cells[c.row] == nil {
		t.cells[c.row] = map[string]result{}
	}
	why, _, _ = strings.Cut(strings.TrimSpace(why), "\n")
	for _, column := range c.columns() {
		t.cells[c.row][column] = result{state, why[:min(len(why), 300)]}
	}
}

// print writes the matrix, its reasons below it.
func (t *table) print(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.cells) == 0 {
		return
	}
	var reasons []result
	number := func(r result) string {
		i := slices.Index(reasons, r)
		if i < 0 {
			i = len(reasons)
			reasons = append(reasons, r)
		}
		return fmt.Sprintf("%s %d", r.state, i+1)
	}
	fmt.Fprint(w, `
The boot matrix. Each PC netbooted, was imaged and read back, and then started its own disk, again by way of
the network. A USB stick or an SD card as the only disk: ok means refused, and not a byte written. "stick":
no network boot by this card, but all the rest, started from a stick.
`)
	for _, kind := range []struct {
		name, title string
		columns     []string
	}{
		{"nic", "network card", names()},
		{"disk", "disk", slices.Concat(disks, refused, []string{"emmc"})},
	} {
		fmt.Fprintf(w, "\n%-32s", kind.title)
		for _, c := range kind.columns {
			fmt.Fprintf(w, " %-13s", c)
		}
		fmt.Fprintln(w)
		for _, proxy := range []bool{false, true} {
			for _, fw := range lab.Firmwares {
				r := row{fw, proxy}
				if t.cells[r] == nil {
					continue
				}
				fmt.Fprintf(w, "%-32s", r)
				for _, c := range kind.columns {
					text := "-"
					if got, ok := t.cells[r][kind.name+" "+c]; ok {
						text = got.state
						if got.why != "" {
							text = number(got)
						}
					}
					fmt.Fprintf(w, " %-13s", text)
				}
				fmt.Fprintln(w)
			}
		}
	}
	for i, r := range reasons {
		fmt.Fprintf(w, "\n%d  %s: %s", i+1, r.state, r.why)
	}
	fmt.Fprint(w, "\n\nThere is no row for Secure Boot on 32-bit UEFI: nobody signs a shim for it.\n\n")
}

func names() (list []string) {
	for _, n := range nics {
		list = append(list, n.name)
	}
	return list
}
