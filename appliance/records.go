package appliance

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"refurb/appliance/audit"
	"refurb/appliance/store"
	"refurb/appliance/workshop"
)

// Records are all that a house has written down: the store, and the checkpoints
// that say what it held when.
type Records struct {
	*store.Store
	Checkpoints audit.Folder

	data string
	key  ed25519.PrivateKey
	mu   sync.Mutex // with begin: one checkpoint at a time
}

// kinds of lines in the house's own history.
const (
	kindCheckpoint = "checkpoint"
	kindAccepted   = "damage_accepted"
	kindRotated    = "key_rotated"
)

// partCheckpoint is damage that only a checkpoint shows.
const partCheckpoint store.Part = "checkpoint"

// OpenRecords opens the records of a data folder, and doesn't look at them yet.
func OpenRecords(data string, keys *Keys) (*Records, error) {
	s, err := OpenStore(data)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, restoreHint)
	}
	return &Records{
		Store: s, data: data, key: keys.Signing,
		Checkpoints: audit.Folder{Dir: filepath.Join(data, "checkpoints"), Keys: keys.Public()},
	}, nil
}

const restoreHint = "Bring back the newest copy with `refurb restore FILE`; daily ones lie in the folder backups of the data folder"

// Damaged says what is wrong with records that are not to be worked with.
type Damaged struct{ Found []store.Damage }

func (d *Damaged) Error() string {
	var b strings.Builder
	b.WriteString("the records are not what they were:")
	for i, f := range d.Found {
		if i == 8 {
			fmt.Fprintf(&b, "\n  and %d more: see `refurb audit doctor`", len(d.Found)-i)
			break
		}
		fmt.Fprintf(&b, "\n  - %s", f.Error())
	}
	b.WriteString("\n" + restoreHint + ".")
	if d.final() {
		return b.String()
	}
	b.WriteString("\nIf there is no better copy, go on with what is left: `refurb audit accept-damage --reason \"what happened\"` writes into the history of the house what is wrong.")
	return b.String()
}

// final says that there is no going on with these records.
func (d *Damaged) final() bool {
	return slices.ContainsFunc(d.Found, func(f store.Damage) bool {
		return f.Part == store.PartFile || f.Part == store.PartSchema && strings.HasPrefix(f.Name, "table ")
	})
}

// Examine looks at everything: the file, the histories, the evidence, and
// whether each history goes on from what the newest checkpoint saw. What people
// have accepted is left out.
func (r *Records) Examine(ctx context.Context) ([]store.Damage, error) {
	found, err := r.Inspect(ctx)
	if err != nil || (&Damaged{found}).final() {
		return found, err
	}
	house, err := r.house(ctx)
	if err != nil {
		return nil, err
	}
	more, err := r.compare(ctx, house)
	if err != nil {
		return nil, err
	}
	found = append(found, more...)
	known, err := r.accepted(ctx, house)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(d store.Damage) bool { return known[d] }), nil
}

// house reads the house's own history, as far as it can be read.
func (r *Records) house(ctx context.Context) ([]workshop.Event, error) {
	lines, err := r.Lines(ctx, "")
	if err != nil {
		return nil, err
	}
	var events []workshop.Event
	for _, l := range lines {
		var e workshop.Event
		if json.Unmarshal(l.Line, &e) == nil {
			events = append(events, e)
		}
	}
	return events, nil
}

// compare holds the histories beside the newest checkpoint.
func (r *Records) compare(ctx context.Context, house []workshop.Event) ([]store.Damage, error) {
	all, err := r.Checkpoints.All()
	var bad *audit.Trouble
	folder := func(text string) []store.Damage {
		return []store.Damage{{Part: partCheckpoint, Name: "folder", How: "the folder checkpoints was changed: " + text}}
	}
	if errors.As(err, &bad) {
		return folder(bad.Error()), nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range house {
		if e.Kind != kindCheckpoint {
			continue
		}
		n, err := strconv.ParseInt(e.Params["number"], 10, 64)
		if err != nil || len(all) > 0 && n < all[0].Number {
			continue // older than a damage that was accepted
		}
		if !slices.ContainsFunc(all, func(k audit.Kept) bool { return k.Number == n && k.Hash == e.Params["sha256"] }) {
			return folder(fmt.Sprintf("checkpoint %d of %s is not there", n, e.Time.Format(time.DateOnly))), nil
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	last := all[len(all)-1]
	pub := r.key.Public().(ed25519.PublicKey)
	if _, _, err := audit.OpenCheckpoint(last.Note, pub); err != nil && !pub.Equal(last.NextKey) {
		return folder(fmt.Sprintf("checkpoint %d is signed by a former key of this house", last.Number)), nil
	}
	then, err := r.Checkpoints.Heads(all, last.Number)
	if errors.As(err, &bad) {
		return folder(bad.Error()), nil
	}
	if err != nil {
		return nil, err
	}
	return r.goesOn(ctx, last, then)
}

// goesOn says which histories don't go on from the heads of a checkpoint.
func (r *Records) goesOn(ctx context.Context, c audit.Kept, then []audit.Head) ([]store.Damage, error) {
	heads, err := r.Heads(ctx)
	if err != nil {
		return nil, err
	}
	now := map[string]audit.Head{}
	for _, h := range heads {
		now[h.Device] = audit.Head(h)
	}
	var found []store.Damage
	for _, h := range then {
		n := now[h.Device]
		if n == h {
			continue
		}
		l, ok, err := r.LineAt(ctx, h.Device, h.Seq)
		if err != nil {
			return nil, err
		}
		name, when := "device "+h.Device, fmt.Sprintf("checkpoint %d of %s", c.Number, c.Time.Format("2006-01-02 15:04"))
		if h.Device == "" {
			name = "the house"
		}
		d := store.Damage{Part: partCheckpoint, Device: h.Device, Seq: h.Seq, Seen: n.Hash}
		switch {
		case n.Seq == 0:
			d.How = fmt.Sprintf("the history of %s is gone: %s saw %d lines of it", name, when, h.Seq)
		case n.Seq < h.Seq:
			d.How = fmt.Sprintf("the history of %s ends at line %d, and %s saw %d: this is an older copy of the records, or lines were cut off", name, n.Seq, when, h.Seq)
		case !ok:
			d.How = fmt.Sprintf("line %d of %s is missing, which %s saw", h.Seq, name, when)
		case l.Hash != h.Hash:
			d.How = fmt.Sprintf("the history of %s up to line %d is another one than %s saw", name, h.Seq, when)
		default:
			continue
		}
		found = append(found, d)
	}
	return found, nil
}

// accepted is the damage that people have written down.
func (r *Records) accepted(ctx context.Context, house []workshop.Event) (map[store.Damage]bool, error) {
	known := map[store.Damage]bool{}
	for _, e := range house {
		if e.Kind != kindAccepted {
			continue
		}
		doc, err := r.Document(ctx, e.Evidence)
		if err != nil {
			return nil, err
		}
		var list []store.Damage
		if hashOf(doc) != e.Evidence || json.Unmarshal(doc, &list) != nil {
			continue // then nothing was accepted
		}
		for _, d := range list {
			known[d] = true
		}
	}
	return known, nil
}

func hashOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// Check is Examine for whoever can't work with damaged records.
func (r *Records) Check(ctx context.Context) error {
	found, err := r.Examine(ctx)
	if err == nil && len(found) > 0 {
		err = &Damaged{found}
	}
	return err
}

// Load is the store's, for commands beside the appliance: they too work with
// records that hold, and with damage that people have accepted.
func (r *Records) Load(ctx context.Context) (workshop.State, error) {
	if err := r.Check(ctx); err != nil {
		return workshop.State{}, err
	}
	return r.Store.Load(ctx)
}

// begin keeps others from making a checkpoint, in this process and in commands
// beside it.
func (r *Records) begin() (end func(), err error) {
	r.mu.Lock()
	if err := os.MkdirAll(r.Checkpoints.Dir, 0o700); err != nil {
		r.mu.Unlock()
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	f, err := os.Open(r.Checkpoints.Dir)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		r.mu.Unlock()
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	return func() { f.Close(); r.mu.Unlock() }, nil
}

// Checkpoint looks at everything and signs where all histories stand. If none
// has changed since the newest checkpoint, that one is given, and false.
func (r *Records) Checkpoint(ctx context.Context, actor string) (audit.Kept, bool, error) {
	end, err := r.begin()
	if err != nil {
		return audit.Kept{}, false, err
	}
	defer end()
	if err := r.Check(ctx); err != nil {
		return audit.Kept{}, false, fmt.Errorf("no checkpoint was made: %w", err)
	}
	all, err := r.Checkpoints.All()
	if err != nil {
		return audit.Kept{}, false, err
	}
	heads, err := r.heads(ctx)
	if err != nil {
		return audit.Kept{}, false, err
	}
	if len(heads) == 0 {
		return audit.Kept{}, false, nil // nothing has happened yet
	}
	if len(all) > 0 {
		last := all[len(all)-1]
		same, err := r.unchanged(ctx, all, last, heads)
		if err != nil || same && last.NextKey == nil { // a new key signs where it begins
			return last, false, err
		}
	}
	k, err := r.add(ctx, all, heads, actor, audit.Next{Time: time.Now()})
	return k, err == nil, err
}

func (r *Records) heads(ctx context.Context) ([]audit.Head, error) {
	now, err := r.Heads(ctx)
	if err != nil {
		return nil, err
	}
	heads := make([]audit.Head, len(now))
	for i, h := range now {
		heads[i] = audit.Head(h)
	}
	return heads, nil
}

// unchanged says that nothing was written since the last checkpoint but the line
// that tells of it.
func (r *Records) unchanged(ctx context.Context, all []audit.Kept, last audit.Kept, heads []audit.Head) (bool, error) {
	then, err := r.Checkpoints.Heads(all, last.Number)
	if err != nil {
		return false, err
	}
	lines := int64(0)
	var house audit.Head
	for _, h := range heads {
		if lines += h.Seq; h.Device == "" {
			house = h
		}
	}
	if lines == last.Lines {
		return slices.Equal(then, heads), nil
	}
	l, ok, err := r.LineAt(ctx, "", house.Seq)
	var e workshop.Event
	if err != nil || !ok || json.Unmarshal(l.Line, &e) != nil {
		return false, err
	}
	return lines == last.Lines+1 && e.Kind == kindCheckpoint, nil
}

// add signs a checkpoint and writes into the house's history that there is one,
// so that it is missed when it is taken away.
func (r *Records) add(ctx context.Context, all []audit.Kept, heads []audit.Head, actor string, n audit.Next) (audit.Kept, error) {
	k, err := r.Checkpoints.Add(all, heads, r.key, n)
	if err != nil {
		return k, err
	}
	return k, r.Commit(context.WithoutCancel(ctx), workshop.Change{Events: []workshop.Event{{
		Time: time.Now().UTC(), Kind: kindCheckpoint, Actor: workshop.Text(actor), Result: "ok",
		Params: map[string]string{
			"number": strconv.FormatInt(k.Number, 10), "sha256": k.Hash, "root": k.Root.String(),
			"chains": strconv.FormatInt(k.Chains, 10), "lines": strconv.FormatInt(k.Lines, 10),
		},
	}}})
}

// Proof is that of the newest checkpoint for a device, or nil.
func (r *Records) Proof(device string, number int64) (*audit.Proof, error) {
	p, err := r.Checkpoints.Prove(device, number)
	if err != nil || p == nil {
		return nil, err
	}
	// Between the two halves of a rotation the newest one is the old key's, and
	// an export is checked with one key.
	if _, _, err := audit.OpenCheckpoint([]byte(p.Note), r.key.Public().(ed25519.PublicKey)); err != nil && number == 0 {
		return nil, nil
	}
	return p, nil
}

// AcceptDamage lets the house go on with what is left of its records. What is
// wrong is written into its history with the reason, and the checkpoint that
// follows says in public that histories are broken.
func (r *Records) AcceptDamage(ctx context.Context, actor, reason string) ([]store.Damage, audit.Kept, error) {
	end, err := r.begin()
	if err != nil {
		return nil, audit.Kept{}, err
	}
	defer end()
	found, err := r.Examine(ctx)
	if err != nil {
		return nil, audit.Kept{}, err
	}
	switch reason = workshop.Text(reason); {
	case len(found) == 0:
		return nil, audit.Kept{}, errors.New("nothing is wrong with the records: there is nothing to accept")
	case (&Damaged{found}).final():
		return found, audit.Kept{}, fmt.Errorf("this can't be accepted, for the file itself is broken: %w", &Damaged{found})
	case reason == "":
		return found, audit.Kept{}, errors.New("say what happened with --reason: it stands in the history of the house for good")
	}
	if err := r.Mend(ctx); err != nil {
		return found, audit.Kept{}, err
	}
	again, err := r.Examine(ctx)
	if err != nil {
		return found, audit.Kept{}, err
	}
	for _, d := range again {
		if !slices.Contains(found, d) {
			found = append(found, d)
		}
	}
	doc, err := json.Marshal(found)
	if err != nil {
		return found, audit.Kept{}, err
	}
	if err := r.Commit(ctx, workshop.Change{
		Events: []workshop.Event{{
			Time: time.Now().UTC(), Kind: kindAccepted, Actor: workshop.Text(actor), Result: "unknown", Reason: reason,
			Params: map[string]string{"findings": strconv.Itoa(len(found)), "first": workshop.Text(found[0].Error())}, Evidence: hashOf(doc),
		}},
		Documents: []workshop.Document{{Hash: hashOf(doc), JSON: doc}},
	}); err != nil {
		return found, audit.Kept{}, err
	}
	k, err := r.afterDamage(ctx, actor, found)
	return found, k, err
}

// AcceptDamage does so in a data folder in which no appliance is running.
func AcceptDamage(ctx context.Context, data, actor, reason string) (found []store.Damage, k audit.Kept, err error) {
	lock, err := lockData(data)
	if err != nil {
		return nil, k, err
	}
	defer lock.Close()
	keys, err := LoadKeys(data)
	if err != nil {
		return nil, k, err
	}
	r, err := OpenRecords(data, keys)
	if err != nil {
		return nil, k, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return r.AcceptDamage(ctx, actor, reason)
}

// afterDamage makes the checkpoint from which the histories go on.
func (r *Records) afterDamage(ctx context.Context, actor string, found []store.Damage) (audit.Kept, error) {
	n := audit.Next{Time: time.Now()}
	broken := map[string]bool{}
	folder := false
	for _, d := range found {
		if d.Part != store.PartSchema {
			broken[d.Device] = true
		}
		folder = folder || d.Part == partCheckpoint && d.Name == "folder"
	}
	n.Broken = int64(len(broken))
	var all []audit.Kept
	var err error
	if folder {
		if n.Number, n.Origin, err = r.Checkpoints.SetAside(n.Time); err != nil {
			return audit.Kept{}, err
		}
		house, err := r.house(ctx)
		if err != nil {
			return audit.Kept{}, err
		}
		for _, e := range house {
			if v, err := strconv.ParseInt(e.Params["number"], 10, 64); err == nil && e.Kind == kindCheckpoint {
				n.Number = max(n.Number, v+1)
			}
			if e.Kind != kindRotated || n.Origin != "" {
				continue
			}
			if first, err := audit.ParseKey(e.Params["old"]); err == nil {
				n.Origin = audit.Origin(first)
			}
		}
	} else if all, err = r.Checkpoints.All(); err != nil {
		return audit.Kept{}, err
	}
	heads, err := r.heads(ctx)
	if err != nil {
		return audit.Kept{}, err
	}
	return r.add(ctx, all, heads, actor, n)
}
