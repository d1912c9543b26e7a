package workshop

import (
	"cmp"
	"context"
	"slices"
)

// Bounds of what is kept of where disks were: whoever has a network cable can report
// disks that don't exist, and real ones in turn from two PCs. A disk that a job had
// the leave to change keeps its stays, up to the first bound: whether a PC may be
// given away rests on them.
const (
	maxStays       = 16      // of one disk
	maxStaysWithin = 64      // in one record, of disks that no job has changed: the newest
	maxAllStays    = 100_000 // of all disks
	spareStays     = 1000    // so many more go at once, so that the next report needn't look for more
)

// StayKey names one stay of a disk.
type StayKey struct {
	Disk string
	N    int
}

func (s *Stay) key() StayKey { return StayKey{s.Disk, s.N} }

func (r *Registry) applyStays(c Change) {
	for _, s := range c.Stays {
		r.dropStay(s.key())
		all := r.stays[s.Disk]
		i, _ := slices.BinarySearchFunc(all, s.N, byN)
		r.stays[s.Disk] = slices.Insert(all, i, &s)
		r.within[s.Device] = append(r.within[s.Device], &s)
		r.allStays++
		r.touchDisk(s.Disk)
	}
	for _, k := range c.Unstay {
		r.dropStay(k)
	}
}

// touchDisk shows anew every device that a disk was in: whether one may be given away
// depends on where its disk is now, and on what was done to it there.
func (r *Registry) touchDisk(disk string) {
	for _, s := range r.stays[disk] {
		r.touch(s.Device, true)
	}
}

func byN(s *Stay, n int) int { return cmp.Compare(s.N, n) }

// dropStay takes a stay out of memory, if it is there.
func (r *Registry) dropStay(k StayKey) {
	all := r.stays[k.Disk]
	i, ok := slices.BinarySearchFunc(all, k.N, byN)
	if !ok {
		return
	}
	old := all[i]
	if r.stays[k.Disk] = slices.Delete(all, i, i+1); len(all) == 1 {
		delete(r.stays, k.Disk)
	}
	in := r.within[old.Device]
	if r.within[old.Device] = slices.DeleteFunc(in, func(s *Stay) bool { return s == old }); len(in) == 1 {
		delete(r.within, old.Device)
	}
	r.allStays--
}

// tidy forgets so much of where disks were that the rest is within the bounds, as
// far as one record had to do with it. It is a decision of its own, after the one
// that a report is.
func (r *Registry) tidy(d *draft, device string) error {
	gone := map[StayKey]bool{}
	looked := map[string]bool{}
	for _, s := range r.within[device] {
		if looked[s.Disk] {
			continue
		}
		looked[s.Disk] = true
		d.stays = append(d.stays, r.fold(s.Disk, gone)...)
	}
	oldest := func(all []*Stay, n int) {
		if n <= 0 {
			return
		}
		slices.SortFunc(all, func(a, b *Stay) int {
			return cmp.Or(a.Last.Compare(b.Last), cmp.Compare(a.Disk, b.Disk), cmp.Compare(a.N, b.N))
		})
		for _, s := range all[:min(n, len(all))] {
			gone[s.key()] = true
		}
	}
	idle := func(all []*Stay) []*Stay {
		return slices.DeleteFunc(slices.Clone(all), func(s *Stay) bool { return gone[s.key()] || r.wrote[s.Disk] != nil })
	}
	here := idle(r.within[device])
	oldest(here, len(here)-maxStaysWithin)
	if r.allStays-len(gone) > maxAllStays {
		var all []*Stay
		for _, in := range r.within {
			all = append(all, idle(in)...)
		}
		oldest(all, r.allStays-len(gone)-maxAllStays+spareStays)
	}
	for k := range gone {
		d.unstay = append(d.unstay, k)
	}
	return nil
}

// fold brings the stays of a disk down to the bound, and notes which are gone. Where
// a disk goes to and fro, two stays in one device become one, so that what was done
// to it there keeps its place; of a device that did nothing to it, the oldest goes.
// The newest stay is never touched: it says where the disk is, and since when.
func (r *Registry) fold(disk string, gone map[StayKey]bool) (changed []Stay) {
	all := slices.Clone(r.stays[disk])
	for len(all) > maxStays {
		past := all[:len(all)-1]
		at, into := -1, -1
		for i, s := range past {
			same := func(x *Stay) bool { return r.root(x.Device) == r.root(s.Device) }
			if later := slices.IndexFunc(past[i+1:], same); later >= 0 {
				at, into = i, i+1+later
				break
			}
			if !r.wroteIn(s.Device, disk) {
				at = i
				break
			}
		}
		if at < 0 {
			break // each device had a hand in it
		}
		if into >= 0 {
			s := *all[into]
			s.Since = all[at].Since
			all[into] = &s
			changed = append(changed, s)
		}
		gone[all[at].key()] = true
		all = slices.Delete(all, at, at+1)
	}
	return changed
}

// wroteIn reports whether a job of a device had the leave to change a disk.
func (r *Registry) wroteIn(device, disk string) bool {
	return r.wrote[disk] != nil && slices.ContainsFunc(r.jobsOf(device), func(j *Job) bool {
		return j.wrote() && DiskKey(j.Approval.Disk) == disk
	})
}

// tidyAll brings records within the bounds that an earlier version has left.
func (r *Registry) tidyAll(ctx context.Context) error {
	for id := range r.devices {
		if err := r.decide(ctx, func(d *draft) error { return r.tidy(d, id) }); err != nil {
			return err
		}
	}
	return nil
}
