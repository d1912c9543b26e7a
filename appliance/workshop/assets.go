package workshop

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strings"
	"time"

	"refurb/agent/wire"
)

// Stay is a time that a disk was in one device, as reports showed it. Disks are
// things of their own: they are taken out, put elsewhere and come back.
type Stay struct {
	Disk   string      `json:"disk"` // its key
	N      int         `json:"n"`    // 1, 2, 3… of this disk
	Device string      `json:"device"`
	ID     wire.DiskID `json:"id"`
	Class  wire.Class  `json:"class"`         // as last seen here
	Since  time.Time   `json:"since"`         // of the first report that showed it here
	Last   time.Time   `json:"last"`          // of the last one
	Gone   time.Time   `json:"gone,omitzero"` // of the first one that showed it no more, or elsewhere; zero: it is here
	// Twin: another disk answers by the same numbers, so that where it is seen
	// says nothing of where it isn't.
	Twin bool `json:"twin,omitempty"`
}

// DiskKey is what a disk is known by wherever it is: its serial number, WWN (of an
// NVMe namespace, its EUI) and model. Not its size: an erasure may uncover what was
// hidden. Empty: it can't be followed.
func DiskKey(d wire.DiskID) string {
	serial, wwn := strings.ToLower(strings.TrimSpace(d.Serial)), strings.ToLower(strings.TrimSpace(d.WWN))
	if filler(serial) {
		serial = ""
	}
	bare := wwn
	for _, prefix := range []string{"eui.", "naa.", "t10.", "uuid.", "0x"} {
		bare = strings.TrimPrefix(bare, prefix)
	}
	if filler(bare) {
		wwn = ""
	}
	if serial == "" && wwn == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(serial + "\x00" + wwn + "\x00" + strings.ToLower(strings.TrimSpace(d.Model))))
	return hex.EncodeToString(sum[:16])
}

// followed is the key of a disk that a report shows, or nothing if it isn't
// followed: what is plugged in from outside, and what has a twin beside it.
func followed(rep *wire.Report, d *wire.Disk) string {
	if d.Transport == wire.TransportUSB || d.Removable || mmcBoot.MatchString(path.Base(d.Path)) || twin(rep, d.DiskID) != "" {
		return ""
	}
	return DiskKey(d.DiskID)
}

// Follow says what a report changes in where disks are. last is the newest stay of
// a disk, nil if there is none; here are the disks that are in the device until now.
func Follow(now time.Time, device string, rep *wire.Report, last func(key string) *Stay, here []string) (changed []Stay) {
	seen := map[string]bool{}
	for i := range rep.Disks {
		d := &rep.Disks[i]
		key := followed(rep, d)
		if key == "" || seen[key] {
			continue
		}
		seen[key] = true
		s := last(key)
		if s != nil && s.Device == device && s.Gone.IsZero() {
			v := *s
			v.ID, v.Class, v.Last = d.DiskID, d.Class, now
			changed = append(changed, v)
			continue
		}
		v := Stay{Disk: key, N: 1, Device: device, ID: d.DiskID, Class: d.Class, Since: now, Last: now}
		if s != nil {
			v.N, v.Twin = s.N+1, s.Twin
			if s.Gone.IsZero() {
				old := *s
				old.Gone = now
				changed = append(changed, old)
			}
		}
		changed = append(changed, v)
	}
	if len(rep.HiddenStorage) > 0 {
		return changed // what isn't seen may be there
	}
	for _, key := range here {
		if s := last(key); !seen[key] && s != nil && s.Device == device && s.Gone.IsZero() {
			v := *s
			v.Gone = now
			changed = append(changed, v)
		}
	}
	return changed
}

// saw notes where a report shows disks.
func (r *Registry) saw(d *draft, dev *Device, rep *wire.Report) {
	last := func(key string) *Stay {
		all := r.stays[key]
		if len(all) == 0 {
			return nil
		}
		s := *all[len(all)-1]
		if r.root(s.Device) == dev.ID {
			s.Device = dev.ID // it was seen under the number of a record that was merged
		}
		return &s
	}
	var here []string
	for _, v := range r.group(dev.ID) {
		for _, s := range r.within[v.ID] {
			if s.Gone.IsZero() {
				here = append(here, s.Disk)
			}
		}
	}
	d.stays = append(d.stays, Follow(d.now, dev.ID, rep, last, here)...)
}

// both notes that a disk was worked on to the end in one PC while another one
// reported it: two disks answer by the same numbers.
func (r *Registry) both(d *draft, j *Job) {
	if j.Approval == nil {
		return
	}
	all := r.stays[DiskKey(j.Approval.Disk)]
	if len(all) == 0 {
		return
	}
	if s := *all[len(all)-1]; r.root(s.Device) != r.root(j.Device) && s.Since.After(j.Created) && !s.Twin {
		s.Twin = true
		d.stays = append(d.stays, s)
	}
}

// applyWrote keeps the newest job that had the leave to change a disk.
func (r *Registry) applyWrote(j *Job) {
	if !j.wrote() || j.Approval.ByPath {
		return
	}
	key := DiskKey(j.Approval.Disk)
	if old := r.wrote[key]; key != "" && (old == nil || r.order[old.ID] <= r.order[j.ID]) {
		r.wrote[key] = j
		r.touchDisk(key)
	}
}

// away is what other devices say of a disk.
type away struct {
	in    int  // the number of the device where it was seen since; 0: none
	wrote *Job // the newest job that changed it, if that was in another device
}

// awayOf gathers it for a disk that a device has last shown.
func (r *Registry) awayOf(dev *Device, d *wire.Disk) (a away) {
	all := r.stays[followed(&dev.Report, d)]
	if len(all) == 0 {
		return a
	}
	s := all[len(all)-1]
	if s.Twin {
		return a
	}
	if root := r.root(s.Device); root != dev.ID {
		a.in = r.devices[root].Number
	}
	if j := r.wrote[s.Disk]; j != nil && r.root(j.Device) != dev.ID {
		a.wrote = j
	}
	return a
}

// DiskStory is a disk and where it was.
type DiskStory struct {
	Key   string      `json:"key"`
	Disk  wire.DiskID `json:"disk"` // as last seen
	Class wire.Class  `json:"class"`
	Twin  bool        `json:"twin,omitempty"`
	Stays []StayView  `json:"stays"` // newest first
}

// StayView is one time that it was in a device.
type StayView struct {
	Device string    `json:"device"`
	Number int       `json:"number"`
	Since  time.Time `json:"since"`
	Last   time.Time `json:"last"`
	Gone   time.Time `json:"gone,omitzero"`
	Jobs   []Job     `json:"jobs,omitempty"` // that had the leave to change it, newest first
}

func (r *Registry) story(key string) DiskStory {
	all := r.stays[key]
	newest := all[len(all)-1]
	d := DiskStory{Key: key, Disk: newest.ID, Class: newest.Class, Twin: newest.Twin}
	for i, s := range slices.Backward(all) {
		root := r.root(s.Device)
		v := StayView{Device: root, Number: r.devices[root].Number, Since: s.Since, Last: s.Last, Gone: s.Gone}
		for _, j := range slices.Backward(r.jobsOf(root)) {
			// A job is told at the last stay that had begun when it was made.
			if !j.wrote() || DiskKey(j.Approval.Disk) != key || j.Created.Before(s.Since) {
				continue
			}
			if later := slices.ContainsFunc(all[i+1:], func(l *Stay) bool { return r.root(l.Device) == root && !j.Created.Before(l.Since) }); !later {
				v.Jobs = append(v.Jobs, *j)
			}
		}
		d.Stays = append(d.Stays, v)
	}
	return d
}

// Disk returns one disk by its key.
func (r *Registry) Disk(key string) (DiskStory, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.stays[key]) == 0 {
		return DiskStory{}, false
	}
	return r.story(key), true
}

// Disks returns all disks that are followed, those seen last first.
func (r *Registry) Disks() []DiskStory {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]DiskStory, 0, len(r.stays))
	for key := range r.stays {
		all = append(all, r.story(key))
	}
	slices.SortFunc(all, func(a, b DiskStory) int {
		return cmp.Or(b.Stays[0].Last.Compare(a.Stays[0].Last), cmp.Compare(a.Key, b.Key))
	})
	return all
}

// disksOf are the disks that are or were in a device.
func (r *Registry) disksOf(root string) (all []DiskStory) {
	seen := map[string]bool{}
	for _, v := range r.group(root) {
		for _, s := range r.within[v.ID] {
			if !seen[s.Disk] {
				seen[s.Disk] = true
				all = append(all, r.story(s.Disk))
			}
		}
	}
	slices.SortFunc(all, func(a, b DiskStory) int {
		return cmp.Or(cmp.Compare(a.Disk.Path, b.Disk.Path), cmp.Compare(a.Key, b.Key))
	})
	return all
}
