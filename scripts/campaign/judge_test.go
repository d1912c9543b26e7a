package campaign

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	_ "github.com/mattn/go-sqlite3"

	"refurb/agent/wire"
	"refurb/appliance/audit"
	"refurb/appliance/store"
	"refurb/appliance/workshop"
	"refurb/images"
)

// judge stands outside of agent and appliance. It sees what the disks hold in
// truth, what was answered, and in the end the file of records.
type judge struct {
	w *world

	mu        sync.Mutex
	approved  map[string]bool       // serials of disks that somebody approved
	acked     []wire.Event          // that were answered with 2xx
	stored    []workshop.Event      // of decisions that were stored
	cancelled map[string]bool       // jobs whose cancelling was confirmed to a person
	plans     map[string]*wire.Plan // the last one that told to write, by token
	wrongAt   map[string]string     // job → how its disk differed when it became verified, "" not at all
	written   map[string]bool       // tokens of boots in which the disk was written
	finished  map[string]bool       // tokens of boots whose screen said so
	guilty    map[string][]string   // what must never happen, by kind
	resumed   int                   // frames that were found on the disk from an earlier attempt
	births    atomic.Int64
	missed    int // erasures of which only samples were read, and that left something
	outcomes  map[wire.Result]int
}

func newJudge(w *world) *judge {
	return &judge{w: w, approved: map[string]bool{}, cancelled: map[string]bool{}, plans: map[string]*wire.Plan{},
		wrongAt: map[string]string{}, written: map[string]bool{}, finished: map[string]bool{}, guilty: map[string][]string{}, outcomes: map[wire.Result]int{}}
}

// What must never happen. "harness" is a mistake of the campaign.
var crimes = []string{"false", "wrong", "lost", "harness"}

func (w *world) blame(crime, format string, a ...any) {
	w.say("!!! "+format, a...)
	w.judge.mu.Lock()
	defer w.judge.mu.Unlock()
	w.judge.guilty[crime] = append(w.judge.guilty[crime], fmt.Sprintf(format, a...))
}

// wrote is told of every write before it is done.
func (w *world) wrote(h *handle) {
	j := w.judge
	j.mu.Lock()
	ok := j.approved[h.Serial]
	j.written[h.p.token] = true
	j.mu.Unlock()
	if !ok {
		w.blame("wrong", "a write to %s (%s), which nobody has approved", h.name, h.Serial)
	}
}

// deciding sees a decision just before it is stored.
func (j *judge) deciding(c workshop.Change) {
	for _, job := range c.Jobs {
		j.mu.Lock()
		if job.Approval != nil {
			j.approved[job.Approval.Disk.Serial] = true
		}
		_, seen := j.wrongAt[job.ID]
		j.mu.Unlock()
		if seen {
			continue
		}
		switch job.State {
		case workshop.Verified:
			diff := j.imaged(job)
			j.mu.Lock()
			j.wrongAt[job.ID] = diff
			j.mu.Unlock()
		case workshop.Erased:
			diff := j.erased(job)
			j.mu.Lock()
			if diff != "" && job.Erase.Check == wire.CheckSample && j.w.lied() {
				j.missed, diff = j.missed+1, "" // the samples can't see everything, and the papers say so
			}
			j.wrongAt[job.ID] = diff
			j.mu.Unlock()
		}
	}
}

// decided sees a decision that the store has taken.
func (j *judge) decided(c workshop.Change) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stored = append(j.stored, c.Events...)
	for _, e := range c.Events {
		j.w.say("%s: %s %s→%s %s", e.Actor, e.Kind, e.From, e.To, e.Reason)
	}
}

func (j *judge) event(e wire.Event, code int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.Outcome != nil {
		j.outcomes[e.Outcome.Result]++
		j.resumed += e.Outcome.Resumed
	}
	if code/100 == 2 {
		j.acked = append(j.acked, e)
	}
}

func (j *judge) plan(token string, p wire.Plan) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if p.Action == wire.ActionImage || p.Action == wire.ActionErase {
		j.plans[token] = &p
	}
}

// imaged says how the disk of a job that is about to be verified differs from
// what it ought to hold; "": not at all.
func (j *judge) imaged(job workshop.Job) string {
	d := j.w.bySerial(job.Approval.Disk.Serial)
	p := picked(job.Image)
	if d == nil || p == nil {
		return "no such disk or image"
	}
	j.mu.Lock()
	var plan *wire.Plan
	for _, x := range j.plans {
		if x.Job == job.ID {
			plan = x
		}
	}
	j.mu.Unlock()
	if plan == nil || plan.Image == nil {
		return "the PC was never told to write it"
	}
	checkin, err := json.Marshal(plan.Image.Checkin)
	if err != nil {
		return err.Error()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	birth := plan.Image.Birth
	if o := job.Outcome; o == nil || o.Birth == "" {
		birth = nil
	} else if sum := sha256.Sum256(birth); o.Birth != hex.EncodeToString(sum[:]) {
		return "the outcome names another birth record"
	} else {
		j.births.Add(1)
	}
	return p.differs(d.data, checkin, birth)
}

func (j *judge) erased(job workshop.Job) string {
	d := j.w.bySerial(job.Approval.Disk.Serial)
	if d == nil {
		return "no such disk"
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !images.Zero(d.data) {
		return fmt.Sprintf("byte %d is left", slices.IndexFunc(d.data, func(b byte) bool { return b != 0 }))
	}
	return ""
}

// differs compares a finished disk with the image: byte by byte outside the two
// partition tables, the slots and the birth record, and these by what they mean.
func (p *picture) differs(disk, checkin, birth []byte) string {
	want, block := bytes.Clone(p.raw), p.m.Block
	slot := bytes.Repeat([]byte{' '}, images.SlotSize)
	copy(slot, checkin)
	slot[len(slot)-1] = '\n'
	for _, s := range p.m.Slots {
		copy(want[s.Offset:], slot)
	}
	if block == 512 {
		if why := p.espDiffers(disk, slot, birth); why != "" {
			return "its EFI system partition: " + why
		}
	}
	if why := p.table(disk); why != "" {
		return "its partition table: " + why
	}
	tail := len(disk) - 1<<20
	end := len(disk) - block - 128*128
	got := bytes.Clone(disk[:len(want)])
	for _, b := range [][]byte{want, got} {
		clear(b[:2*block+128*128])
		if end < len(b) {
			clear(b[end:])
		}
		if block == 512 { // looked at as files
			clear(b[espAt : espAt+espSize])
		}
	}
	if !bytes.Equal(want, got) {
		i := 0
		for want[i] == got[i] {
			i++
		}
		return fmt.Sprintf("byte %d (frame %d)", i, i/images.FrameSize)
	}
	if from := max(tail, len(want)); from < end && !images.Zero(disk[from:end]) {
		return "marks are left in the last MiB"
	}
	return ""
}

// table checks both partition tables against the image's.
func (p *picture) table(disk []byte) string {
	le, block := binary.LittleEndian, p.m.Block
	last := uint64(len(disk)/block) - 1
	arrayBlocks := uint64(128 * 128 / block)
	usable := last - arrayBlocks - 1
	head, tail := disk[block:][:block], disk[last*uint64(block):][:block]
	array, copied := disk[2*block:][:128*128], disk[(last-arrayBlocks)*uint64(block):][:128*128]
	for i, h := range [][]byte{head, tail} {
		sum := bytes.Clone(h[:92])
		clear(sum[16:20])
		self, other, at := uint64(1), last, uint64(2)
		if i == 1 {
			self, other, at = last, 1, last-arrayBlocks
		}
		switch {
		case string(h[:8]) != "EFI PART", crc32.ChecksumIEEE(sum) != le.Uint32(h[16:]), crc32.ChecksumIEEE(array) != le.Uint32(h[88:]):
			return "a signature or a sum"
		case le.Uint64(h[24:]) != self, le.Uint64(h[32:]) != other, le.Uint64(h[72:]) != at, le.Uint64(h[48:]) != usable:
			return "it lies elsewhere"
		case !images.Zero(h[92:]):
			return "something behind a header"
		case !bytes.Equal(h[56:72], head[56:72]):
			return "two disk GUIDs"
		}
	}
	if !bytes.Equal(array, copied) {
		return "the copy is another one"
	}
	want := bytes.Clone(p.raw[2*block:][:128*128])
	mib := uint64(1<<20) / uint64(block)
	if e := want[128*(p.m.Grow-1):]; p.m.Grow > 0 {
		le.PutUint64(e[40:], max(le.Uint64(e[40:]), (usable+1)/mib*mib-1))
	}
	if !bytes.Equal(array, want) {
		return "its entries"
	}
	mbr := bytes.Clone(p.raw[:512])
	copy(mbr[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00")
	le.PutUint32(mbr[458:], uint32(last))
	if !bytes.Equal(disk[:512], mbr) || block > 512 && !images.Zero(disk[512:block]) {
		return "the protective MBR"
	}
	return ""
}

// verdict opens the file of records as a stranger would and holds it against
// what was seen.
func (j *judge) verdict(ctx context.Context, file string) {
	lines := j.chains(file)
	db, err := store.Open(file, audit.Seal)
	if err != nil {
		j.w.blame("lost", "the records can't be opened again: %v", err)
		return
	}
	defer db.Close()
	state, err := db.Load(ctx)
	if err != nil {
		j.w.blame("lost", "the records can't be read again: %v", err)
		return
	}
	has := func(f func(workshop.Event) bool) bool { return slices.ContainsFunc(lines, f) }
	became := func(job string, to ...workshop.JobState) bool {
		return has(func(e workshop.Event) bool {
			return e.Kind == "job" && e.Job == job && slices.Contains(to, workshop.JobState(e.To))
		})
	}
	proved := map[string]bool{}
	for _, e := range lines {
		if e.Kind == "job" && (e.To == string(workshop.Verified) || e.To == string(workshop.Erased)) {
			if proved[e.Job] {
				j.w.blame("false", "job %s was proved twice", e.Job)
			}
			proved[e.Job] = true
		}
	}
	for _, job := range state.Jobs {
		if good := job.State.Proved() || job.State == workshop.Erased; good != proved[job.ID] {
			j.w.blame("lost", "job %s is %s, and its history says proved: %v", job.ID, job.State, proved[job.ID])
		}
	}
	boots := map[string]workshop.Boot{}
	for _, b := range state.Boots {
		boots[b.TokenHash] = b
	}
	for job := range proved {
		diff, seen := j.wrongAt[job]
		switch {
		case !seen:
			j.w.blame("false", "job %s was proved, and nobody saw how", job)
		case diff != "":
			j.w.blame("false", "job %s was proved, but the disk is wrong: %s", job, diff)
		case j.cancelled[job]:
			j.w.blame("false", "job %s was proved after it was cancelled", job)
		}
	}
	for job := range j.cancelled {
		if !became(job, workshop.Cancelled) {
			j.w.blame("lost", "job %s was cancelled, and the records don't know it", job)
		}
	}
	for _, e := range j.acked {
		ok := false
		switch e.Kind {
		case wire.EventImaging:
			ok = became(e.Job, workshop.Imaging)
		case wire.EventErasing:
			ok = became(e.Job, workshop.Erasing)
		case wire.EventVerifying:
			ok = became(e.Job, workshop.Verifying)
		case wire.EventOutcome:
			ok = has(func(l workshop.Event) bool {
				return l.Job == e.Job && l.Actor == "agent" && (l.Kind == "late_outcome" || l.Kind == "job") && l.Params["result"] == string(e.Outcome.Result)
			})
		}
		if !ok {
			j.w.blame("lost", "%s of job %s was acknowledged, and the records don't know it", e.Kind, e.Job)
		}
	}
	rest := slices.Clone(lines)
	for _, e := range j.stored {
		i := slices.IndexFunc(rest, func(l workshop.Event) bool { return same(e, l) })
		if i < 0 {
			j.w.blame("lost", "a decision was stored, and the records don't know it: %s %s→%s of job %s", e.Kind, e.From, e.To, e.Job)
			continue
		}
		rest = slices.Delete(rest, i, i+1)
	}
	jobs := func(token string) (of []workshop.Job) {
		sum := sha256.Sum256([]byte(token))
		b := boots[hex.EncodeToString(sum[:])]
		for _, job := range state.Jobs {
			if b.BootID != "" && job.Boot == b.BootID {
				of = append(of, job)
			}
		}
		return of
	}
	for token := range j.written {
		if !slices.ContainsFunc(jobs(token), func(job workshop.Job) bool { return became(job.ID, workshop.Imaging, workshop.Erasing) }) {
			j.w.blame("lost", "a disk was written, and the records don't know of it")
		}
	}
	for token := range j.finished {
		if !slices.ContainsFunc(jobs(token), func(job workshop.Job) bool { return proved[job.ID] }) {
			j.w.blame("lost", "a PC said that it is finished, and the records don't know it")
		}
	}
}

func same(a, b workshop.Event) bool {
	return a.Device == b.Device && a.Job == b.Job && a.Kind == b.Kind && a.From == b.From && a.To == b.To && a.Time.Equal(b.Time)
}

// chains reads the lines with nothing of ours and checks that each carries the
// hash of the one before it.
func (j *judge) chains(file string) (events []workshop.Event) {
	db, err := sql.Open("sqlite3", "file:"+file)
	if err != nil {
		j.w.blame("harness", "%v", err)
		return nil
	}
	defer db.Close()
	rows, err := db.Query(`SELECT device, seq, hash, line FROM events ORDER BY device, seq`)
	if err != nil {
		j.w.blame("lost", "the records can't be read: %v", err)
		return nil
	}
	defer rows.Close()
	prev, device, n := "", "\x00", int64(0)
	for rows.Next() {
		var at, hash string
		var seq int64
		var line []byte
		if err := rows.Scan(&at, &seq, &hash, &line); err != nil {
			j.w.blame("lost", "a line can't be read: %v", err)
			return events
		}
		if at != device {
			device, prev, n = at, strings.Repeat("0", 64), 0
		}
		n++
		before, _ := hex.DecodeString(prev)
		if sum := sha256.Sum256(append(before, line...)); hex.EncodeToString(sum[:]) != hash || seq != n {
			j.w.blame("lost", "line %d of %q breaks the chain", seq, at)
		}
		prev = hash
		var e workshop.Event
		if err := json.Unmarshal(line, &e); err != nil {
			j.w.blame("lost", "line %d of %q is no event: %v", seq, at, err)
		}
		events = append(events, e)
	}
	if err := rows.Err(); err != nil {
		j.w.blame("lost", "the records can't be read: %v", err)
	}
	return events
}
