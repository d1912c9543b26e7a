package papers

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// line is one of a chain that was checked.
type line struct {
	workshop.Event
	seq  int64
	hash string
}

// facts are all that papers of one device are made from.
type facts struct {
	device string
	lines  []line            // the whole chain, checked
	docs   map[string][]byte // what lines point to, by hash, checked
	keys   []rotation        // by time
	// keyless: the history of the house is damaged, and nobody knows when its key
	// was changed.
	keyless bool
	// also are the histories of records that were merged into this one and still
	// are; their documents are among docs.
	also []facts
}

// merged reports whether this record only leads to another one, and to which number.
func (f facts) merged() (number string, ok bool) {
	for _, l := range f.lines {
		switch l.Kind {
		case "merged_into":
			number, ok = workshop.Text(l.Params["number"]), true
		case "split_from":
			number, ok = "", false
		}
	}
	return number, ok
}

// absorbed lists the records that are merged into this one.
func absorbed(events []workshop.Event) (ids []string) {
	for _, e := range events {
		switch id := e.Params["device"]; e.Kind {
		case "merged_from":
			ids = append(ids, id)
		case "split_off":
			ids = slices.DeleteFunc(ids, func(x string) bool { return x == id })
		}
	}
	return ids
}

// mixed reports whether the history has held two PCs, so that nobody can tell
// which of them a report was of.
func (f facts) mixed() bool {
	since := map[string]bool{} // record → something was reported since it was merged
	for i, l := range f.lines {
		switch l.Kind {
		case "merged_from":
			since[l.Params["device"]] = false
		case "report":
			for id := range since {
				since[id] = true
			}
		case "split_off":
			if told, merged := since[l.Params["device"]]; told || !merged {
				return true
			}
			delete(since, l.Params["device"])
		case "split_from":
			if i == 0 {
				return true
			}
		}
	}
	return false
}

// all are this history and those of the records that were merged into it.
func (f facts) all() []facts {
	all := []facts{f}
	for _, a := range f.also {
		all = append(all, a.all()...)
	}
	return all
}

// rotation is a change of the appliance's key.
type rotation struct {
	at  time.Time
	old string
}

// keyAt is the key that the appliance signed images with at a time; now is
// today's. Empty: not known.
func (f facts) keyAt(t time.Time, now string) string {
	if f.keyless {
		return ""
	}
	for _, r := range f.keys {
		if t.Before(r.at) {
			return r.old
		}
	}
	return now
}

// Step is one line of the chain that a paper rests on. Its hash finds it in the
// audit log.
type Step struct {
	Seq    int64     `json:"seq"`
	Hash   string    `json:"hash"`
	Time   time.Time `json:"time"` // the appliance's clock
	Event  string    `json:"event"`
	From   string    `json:"from,omitempty"`
	To     string    `json:"to,omitempty"`
	Actor  string    `json:"actor"`
	Result string    `json:"result,omitempty"`
	Reason string    `json:"reason,omitempty"`
	// Evidence is SHA-256 of the report or outcome that the line points to.
	Evidence string `json:"evidence_sha256,omitempty"`
}

func stepOf(l line) Step {
	return Step{
		Seq: l.seq, Hash: l.hash, Time: l.Time, Event: workshop.Text(l.Kind), From: workshop.Text(l.From), To: workshop.Text(l.To),
		Actor: workshop.Text(l.Actor), Result: workshop.Text(l.Result), Reason: workshop.Text(l.Reason), Evidence: l.Evidence,
	}
}

// Device is what names a PC, as its report gave it.
type Device struct {
	ID           string   `json:"id"`
	Number       int      `json:"number"`
	Lot          string   `json:"lot,omitempty"`
	Manufacturer string   `json:"manufacturer,omitempty"`
	Model        string   `json:"model,omitempty"`
	Version      string   `json:"version,omitempty"`
	Chassis      string   `json:"chassis,omitempty"`
	Serial       string   `json:"serial,omitempty"`
	Board        string   `json:"board_serial,omitempty"`
	Case         string   `json:"chassis_serial,omitempty"`
	UUID         string   `json:"uuid,omitempty"`
	MACs         []string `json:"macs,omitempty"` // burnt in
	// Fillers are fields that the maker never filled in; they name nothing.
	Fillers []string `json:"placeholders,omitempty"`
}

func (f facts) about(rep wire.Report) Device {
	id := rep.Identity
	d := Device{
		ID: f.device, Manufacturer: id.Manufacturer, Model: id.Model, Version: id.ModelVersion, Chassis: id.ChassisType,
		Serial: id.SystemSerial, Board: id.BoardSerial, Case: id.ChassisSerial, UUID: id.UUID, Fillers: id.Placeholders,
	}
	for _, n := range rep.NICs {
		if n.Permanent != "" && n.Bus != "usb" && !slices.Contains(d.MACs, n.Permanent) {
			d.MACs = append(d.MACs, n.Permanent)
		}
	}
	d.Number, d.Lot = f.number(), f.lot()
	return d
}

// number is the device's in its workshop; 0 if the history doesn't say.
func (f facts) number() int {
	for _, l := range f.lines {
		if l.Kind == "device_created" || l.Kind == "split_from" && l.seq == 1 {
			n, _ := strconv.Atoi(l.Params["number"])
			return n
		}
	}
	return 0
}

// lot is the one the device came in, or joined first.
func (f facts) lot() string {
	for _, l := range f.lines {
		if id := l.Params["lot"]; id != "" && (l.Kind == "device_created" || l.Kind == "lot_joined" || l.Kind == "split_from" && l.seq == 1) {
			return workshop.Text(id)
		}
	}
	return ""
}

// reports are the lines of a PC's own words on itself, in their order.
func (f facts) reports() []line {
	return slices.DeleteFunc(slices.Clone(f.lines), func(l line) bool { return l.Kind != "report" || l.Evidence == "" })
}

// allReports are those of the whole group: the first one shows what the PC came
// with.
func (f facts) allReports() []line {
	var chains [][]line
	for _, a := range f.all() {
		chains = append(chains, a.reports())
	}
	return interleave(chains, func(l line) time.Time { return l.Time })
}

// interleave makes one row of several chains. Within a chain its own order counts,
// whatever the clock said; the clock only chooses between the next of each.
func interleave[T any](chains [][]T, at func(T) time.Time) (row []T) {
	chains = slices.Clone(chains)
	for {
		next := -1
		for i, c := range chains {
			if len(c) > 0 && (next < 0 || at(c[0]).Before(at(chains[next][0]))) {
				next = i
			}
		}
		if next < 0 {
			return row
		}
		row = append(row, chains[next][0])
		chains[next] = chains[next][1:]
	}
}

// setBack reports whether the clock went backwards in this history: then its times
// say nothing of what came first in another one.
func (f facts) setBack() bool {
	return !slices.IsSortedFunc(f.lines, func(a, b line) int { return a.Time.Compare(b.Time) })
}

// job are the lines of one job.
func (f facts) job(id string) []line {
	return slices.DeleteFunc(slices.Clone(f.lines), func(l line) bool { return l.Job != id })
}

// document reads what a line points to.
func document[T any](f facts, l line) (T, error) {
	var v T
	b := f.docs[l.Evidence]
	if b == nil {
		return v, &workshop.Refusal{Kind: workshop.Conflict,
			Message: fmt.Sprintf("The document that line %d of the history points to is missing", l.seq), Next: "Bring back a copy of the records"}
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("the document that line %d of the history points to can't be read: %w", l.seq, err)
	}
	workshop.Clean(&v) // it was when it came; a paper doesn't rely on that
	return v, nil
}

// reportBefore is the newest report up to a line; the first one if all are later.
func (f facts) reportBefore(seq int64) (wire.Report, error) {
	all := f.reports()
	if len(all) == 0 {
		return wire.Report{}, nil
	}
	at := all[0]
	for _, l := range all {
		if l.seq <= seq {
			at = l
		}
	}
	return document[wire.Report](f, at)
}

// diskIn finds a disk in a report by all that doesn't change with its plug; of
// twins, the one in the same plug.
func diskIn(rep wire.Report, id wire.DiskID) (found *wire.Disk) {
	for i, d := range rep.Disks {
		if d.Serial != id.Serial || d.Bytes != id.Bytes || d.Serial == "" && d.Path != id.Path {
			continue
		}
		if found == nil || d.Path == id.Path {
			found = &rep.Disks[i]
		}
	}
	return found
}

// mayHold reports whether a class may be somebody's data. What can't be named is.
func mayHold(c wire.Class) bool { return c != wire.ClassBlank && c != wire.ClassOurs }

// Basis is the newest line that a paper rests on: whoever has the audit log finds
// it there.
type Basis struct {
	Chain string    `json:"chain"` // the device's id; empty: the house
	Seq   int64     `json:"seq"`
	Hash  string    `json:"hash"`
	Time  time.Time `json:"time"`
}

func basisOf(device string, l line) Basis {
	return Basis{Chain: device, Seq: l.seq, Hash: l.hash, Time: l.Time}
}

// Order is who let a disk be written or erased, and how.
type Order struct {
	By    string    `json:"by"` // a random id, or "lot:<id>" for a lot's standing approval
	At    time.Time `json:"at"`
	Typed string    `json:"typed,omitempty"` // of the disk's serial number
	Boot  string    `json:"boot,omitempty"`
}

// orderOf reads the last line that approved a job.
func orderOf(job []line) (o Order, at *line) {
	for i, l := range job {
		if l.Kind == "job" && l.To == string(workshop.Approved) {
			at = &job[i]
			o = Order{By: workshop.Text(l.Actor), At: l.Time, Typed: workshop.Text(l.Params["typed"]), Boot: workshop.Text(l.Params["boot"])}
		}
	}
	return o, at
}

// diskOf reads the disk that a line names.
func diskOf(p map[string]string) wire.DiskID {
	id := wire.DiskID{
		Path: workshop.Text(p["disk"]), Serial: workshop.Text(p["serial"]), WWN: workshop.Text(p["wwn"]), Model: workshop.Text(p["model"]),
	}
	id.Bytes, _ = strconv.ParseInt(p["bytes"], 10, 64)
	id.LogicalBlock, _ = strconv.Atoi(p["logical_block"])
	return id
}
