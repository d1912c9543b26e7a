package workshop

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"refurb/agent/wire"
)

// Bounds of what is kept of how a PC has shown itself.
const (
	maxFaces  = 8
	maxTurned = 2 // of PCs that were turned away, besides: anybody can make them up
	maxDoubts = 4
	maxInFace = 8 // cards, disks

	// maxShared is how many records may share a key. One that more share tells none of
	// them from the others, and a stranger can make up as many as it has patience for.
	maxShared = 64
)

// who finds the record of a PC among all that share something with it.
func (r *Registry) who(me identity) (id string, doubt Doubt) {
	var ids []string
	void := map[string]bool{}
	for _, k := range me.keys() {
		void[k] = r.void(k)
		if !r.crowded(k) {
			ids = append(ids, r.found[k]...)
		}
	}
	slices.Sort(ids)
	var known []candidate
	for _, id := range slices.Compact(ids) {
		v := r.devices[id]
		k := candidate{identityOf(&v.Report, v.MACs), r.root(id)}
		for _, f := range v.Faces { // what was in it before counts as long as it isn't elsewhere
			for _, disk := range f.Disks {
				if all := r.stays[DiskKey(disk)]; len(all) > 0 && r.root(all[len(all)-1].Device) == k.of {
					k.disks = append(k.disks, all[0].Disk)
				}
			}
		}
		known = append(known, k)
	}
	return match(me, known, void)
}

// identifies reports whether a PC that shows itself so would be found again.
func (r *Registry) identifies(me identity) bool {
	void := map[string]bool{}
	for _, k := range me.keys() {
		void[k] = r.crowded(k)
	}
	same, _ := weigh(me, me, void)
	return same >= enough
}

// crowded reports whether more records share a key than it can tell apart.
func (r *Registry) crowded(key string) bool { return len(r.found[key]) > maxShared }

// void reports whether a key identifies nobody: people have said that the devices
// with it are several PCs, or there are too many of them.
func (r *Registry) void(key string) bool {
	if r.crowded(key) {
		return true
	}
	roots := map[string]bool{}
	for _, id := range r.found[key] {
		roots[r.root(id)] = true
	}
	for root := range roots {
		for _, v := range r.group(root) {
			for _, id := range v.Apart {
				if other := r.root(id); other != root && roots[other] {
					return true
				}
			}
		}
	}
	return false
}

// apart reports whether people have said that two records are not one PC.
func (r *Registry) apart(a, b string) bool {
	return slices.ContainsFunc(r.group(a), func(v *Device) bool {
		return slices.ContainsFunc(v.Apart, func(id string) bool { return r.root(id) == b })
	})
}

// faceOf is how a report shows a PC.
func faceOf(rep *wire.Report, now time.Time) Face {
	f := Face{Identity: rep.Identity, NICs: slices.Clone(bounded(rep.NICs)), First: now, Last: now}
	f.Identity.Placeholders = slices.Clone(rep.Identity.Placeholders)
	id := identityOf(rep, permanentMACs(rep))
	for i := range rep.Disks {
		if d := &rep.Disks[i]; followed(rep, d) != "" && len(f.Disks) < maxInFace {
			f.Disks = append(f.Disks, d.DiskID)
		}
	}
	slices.Sort(id.disks)
	keys := id.keys()
	slices.Sort(keys)
	f.ID = hashToken(strings.Join(keys, "\n") + "\n\n" + strings.Join(id.disks, "\n"))[:16]
	return f
}

func bounded[T any](s []T) []T { return s[:min(len(s), maxInFace)] }

// report is what a face says, as a report with nothing else in it.
func (f *Face) report() wire.Report {
	return wire.Report{Identity: f.Identity, NICs: slices.Clone(f.NICs)}
}

// addFace notes one way in which a record's PC has shown itself. The oldest of its
// kind makes room: what was turned away pushes out nothing that was let in.
func (v *Device) addFace(f Face) {
	faces := slices.Clone(v.Faces)
	if i := slices.IndexFunc(faces, func(x Face) bool { return x.ID == f.ID }); i >= 0 {
		f.First, f.Turned = faces[i].First, faces[i].Turned && f.Turned
		faces = slices.Delete(faces, i, i+1)
	}
	faces = append(faces, f)
	room := map[bool]int{false: maxFaces, true: maxTurned}
	for i, x := range slices.Backward(faces) {
		if room[x.Turned]--; room[x.Turned] < 0 {
			faces = slices.Delete(faces, i, i+1)
		}
	}
	v.Faces = faces
}

// shows notes how a PC shows itself, with that record of its group which it fits
// best: should the records be split again, each has its own.
func (r *Registry) shows(d *draft, dev *Device, rep *wire.Report) {
	holder := dev
	if len(dev.Absorbed) > 0 {
		me, best := identityOf(rep, permanentMACs(rep)), 0
		for _, v := range r.group(dev.ID) {
			same, other := weigh(me, identityOf(&v.Report, v.MACs), nil)
			if same >= enough && same-other > best {
				holder, best = v, same-other
			}
		}
		holder = d.device(holder.ID)
	}
	if len(holder.Faces) == 0 && holder.Report.BootID != "" {
		holder.addFace(faceOf(&holder.Report, holder.Seen)) // of before faces were kept
	}
	holder.addFace(faceOf(rep, d.now))
}

// addDoubt notes one, once.
func (v *Device) addDoubt(d Doubt) bool {
	if slices.ContainsFunc(v.Doubts, func(x Doubt) bool { return x.Kind == d.Kind && x.Device == d.Device }) || len(v.Doubts) >= maxDoubts {
		return false
	}
	v.Doubts = append(slices.Clone(v.Doubts), d)
	return true
}

// twins notes that another PC gives the identity of one that is on.
func (r *Registry) twins(d *draft, v *Device, b *Boot, rep *wire.Report) {
	f := faceOf(rep, d.now)
	f.Turned = true
	fresh := !slices.ContainsFunc(v.Faces, func(x Face) bool { return x.ID == f.ID })
	doubt := Doubt{Kind: DoubtTwins, At: d.now}
	if slices.ContainsFunc(v.Doubts, func(x Doubt) bool { return x.Kind == DoubtTwins }) && !fresh {
		return
	}
	dev := d.device(v.ID)
	if fresh {
		dev.addFace(f)
	}
	if dev.addDoubt(doubt) {
		r.cfg.Log.Warn("two PCs give the same identity", "device", v.Number, "mac", b.MAC)
		d.event(Event{Device: v.ID, Kind: "identity_doubt", Actor: "appliance", Reason: doubt.Text(), Params: map[string]string{"doubt": string(DoubtTwins), "mac": b.MAC, "serial": rep.Identity.SystemSerial, "uuid": rep.Identity.UUID}})
	}
}

// detailTies adds to a device's page what it has to do with others.
func (r *Registry) detailTies(d *DeviceDetail, v *Device) {
	for _, m := range r.group(v.ID) {
		if m != v {
			d.Records = append(d.Records, Record{ID: m.ID, Number: m.Number, Direct: m.Into == v.ID})
		}
		d.Shown = append(d.Shown, m.Faces...)
		for _, x := range m.Doubts {
			o := OpenDoubt{Doubt: x}
			if x.Device != "" {
				root := r.root(x.Device)
				if root == v.ID || r.devices[root] == nil || r.apart(v.ID, root) {
					continue // decided meanwhile
				}
				o.Device, o.Number = root, r.devices[root].Number
			}
			d.Doubts = append(d.Doubts, o)
		}
	}
	slices.SortStableFunc(d.Shown, func(a, b Face) int { return b.Last.Compare(a.Last) })
	slices.SortFunc(d.Records, func(a, b Record) int { return cmp.Compare(a.Number, b.Number) })
	d.Followed = r.disksOf(v.ID)
}
