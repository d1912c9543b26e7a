package papers

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"refurb/appliance/audit"
	"refurb/appliance/workshop"
)

// Source is where facts come from.
type Source interface {
	// Chain returns the history of a device, or of the house for "".
	Chain(ctx context.Context, device string) ([]audit.Entry, error)
	// Document returns what a line of it points to; nil: it isn't there.
	Document(ctx context.Context, hash string) ([]byte, error)
	// LotDevices lists the devices of a lot by their number.
	LotDevices(ctx context.Context, lot string) ([]string, error)
	// JobDevice returns the device that a job belongs to; empty: there is none.
	JobDevice(ctx context.Context, job string) (string, error)
	// Names tells who stands behind the ids of actors today. Names are printed
	// beside the signed document and are no part of it.
	Names(ctx context.Context) (map[string]string, error)
}

// Paper is one that a device or a lot has.
type Paper struct {
	Kind   Kind
	ID     string
	Time   time.Time // of the newest line that it rests on
	SHA256 string    // of its JSON file
	Result string    // "none", a wire.ErasureResult, an Installed, or empty
	// Refused says why there is none yet, or can't be; nil: there is one.
	Refused *workshop.Refusal
}

// Office makes papers.
type Office struct {
	src Source
	key ed25519.PrivateKey
	now func() time.Time

	mu      sync.Mutex
	kept    map[string]kept // by device
	house   string          // head of its history when rotated was read from it
	rotated []rotation
}

// kept is the list of a device's papers as long as its history stays the same.
type kept struct {
	head string
	list []Paper
}

const maxKept = 1000

// New makes an office that signs with key.
func New(src Source, key ed25519.PrivateKey) *Office {
	return &Office{src: src, key: key, now: time.Now, kept: map[string]kept{}}
}

func notFound(what string) error { return &workshop.Refusal{Kind: workshop.NotFound, Message: what} }

// made is a paper, or why there is none.
type made struct {
	kind Kind
	id   string
	content
	basis Basis
	file  []byte
	no    *workshop.Refusal
}

// of makes all papers of a device, in the order of its history.
func of(f facts, key ed25519.PrivateKey) ([]made, error) {
	var all []made
	add := func(k Kind, id string, c content, b Basis, err error) error {
		m := made{kind: k, id: id, content: c, basis: b}
		switch {
		case errors.As(err, &m.no):
			m.content = nil
		case err != nil:
			return err
		default:
			if m.file, err = sign(k, id, c, key); err != nil {
				return err
			}
		}
		all = append(all, m)
		return nil
	}
	if p, err := noStorage(f); p != nil {
		if err := add(NoStorage, f.device, p, p.Basis, err); err != nil {
			return nil, err
		}
	} else if err := add(NoStorage, f.device, nil, Basis{}, err); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, l := range f.lines {
		if l.Job == "" || seen[l.Job] {
			continue
		}
		seen[l.Job] = true
		job := f.job(l.Job)
		if erases(job) {
			p, err := erasure(f, l.Job)
			if err := add(Erasure, l.Job, p, basisIf(p), err); err != nil {
				return nil, err
			}
		}
		if images(job) {
			p, err := imaging(f, l.Job, publicKey(key))
			if err := add(Imaging, l.Job, p, basisIf(p), err); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

func resultOf(c content) string {
	switch c := c.(type) {
	case *NoStoragePaper:
		return "none"
	case *ErasurePaper:
		return string(c.Result)
	case *ImagingPaper:
		return string(c.Result)
	}
	return ""
}

func basisIf[P *ErasurePaper | *ImagingPaper](p P) Basis {
	switch v := any(p).(type) {
	case *ErasurePaper:
		if v != nil {
			return v.Basis
		}
	case *ImagingPaper:
		if v != nil {
			return v.Basis
		}
	}
	return Basis{}
}

func publicKey(key ed25519.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
}

// facts checks a device's whole history and every document that it points to.
func (o *Office) facts(ctx context.Context, device string) (facts, error) {
	entries, err := o.src.Chain(ctx, device)
	if err != nil {
		return facts{}, err
	}
	return o.check(ctx, device, entries)
}

// maxMerged bounds how many records may lie in one.
const maxMerged = 16

func (o *Office) check(ctx context.Context, device string, entries []audit.Entry) (facts, error) {
	f, err := o.checkOne(ctx, device, entries)
	if err != nil || device == "" {
		return f, err
	}
	return f, o.join(ctx, &f, map[string]bool{device: true})
}

// join adds the histories of the records that were merged into a device's.
func (o *Office) join(ctx context.Context, f *facts, seen map[string]bool) error {
	events := make([]workshop.Event, len(f.lines))
	for i, l := range f.lines {
		events[i] = l.Event
	}
	for _, id := range absorbed(events) {
		if seen[id] {
			continue
		}
		if len(seen) > maxMerged {
			return &workshop.Refusal{Kind: workshop.Conflict, Message: fmt.Sprintf("More than %d records were merged into this one: no paper is made that leaves some out", maxMerged),
				Next: "Take those out again that are other PCs"}
		}
		seen[id] = true
		entries, err := o.src.Chain(ctx, id)
		if err != nil {
			return err
		}
		a, err := o.checkOne(ctx, id, entries)
		if err != nil {
			return err
		}
		if err := o.join(ctx, &a, seen); err != nil {
			return err
		}
		f.also = append(f.also, a)
		maps.Copy(f.docs, a.docs)
	}
	return nil
}

func (o *Office) checkOne(ctx context.Context, device string, entries []audit.Entry) (facts, error) {
	if len(entries) == 0 {
		return facts{}, notFound("There is no such history")
	}
	events, err := audit.Events(device, entries)
	if err != nil {
		return facts{}, fmt.Errorf("no paper is made from a damaged history: %w", err)
	}
	f := facts{device: device, docs: map[string][]byte{}}
	if device != "" {
		var broken *audit.Trouble
		if f.keys, err = o.rotations(ctx); errors.As(err, &broken) {
			f.keyless = true // damage to the house leaves the devices their papers
		} else if err != nil {
			return facts{}, err
		}
	}
	for i, e := range events {
		f.lines = append(f.lines, line{e, entries[i].Seq, entries[i].Hash})
		if e.Evidence == "" || f.docs[e.Evidence] != nil {
			continue
		}
		b, err := o.src.Document(ctx, e.Evidence)
		if err != nil {
			return facts{}, err
		}
		if b != nil && hashOf(b) != e.Evidence {
			return facts{}, fmt.Errorf("no paper is made from changed evidence: the document %s of line %d of device %s was changed", e.Evidence, entries[i].Seq, device)
		}
		f.docs[e.Evidence] = b
	}
	return f, nil
}

// rotations reads from the history of the house when its key was changed.
func (o *Office) rotations(ctx context.Context) ([]rotation, error) {
	entries, err := o.src.Chain(ctx, "")
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	head := entries[len(entries)-1].Hash
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.house == head {
		return o.rotated, nil
	}
	events, err := audit.Events("", entries)
	if err != nil {
		return nil, err
	}
	o.house, o.rotated = head, nil
	for _, e := range events {
		if e.Kind == "key_rotated" {
			o.rotated = append(o.rotated, rotation{e.Time, workshop.Text(e.Params["old"])})
		}
	}
	return o.rotated, nil
}

// List lists a device's papers in the order of its history, those that are
// refused with the reason.
func (o *Office) List(ctx context.Context, device string) ([]Paper, error) {
	entries, err := o.src.Chain(ctx, device)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	head := entries[len(entries)-1].Hash
	o.mu.Lock()
	k := o.kept[device]
	o.mu.Unlock()
	if k.head == head {
		return k.list, nil
	}
	f, err := o.check(ctx, device, entries)
	if err != nil {
		return nil, err
	}
	all, err := of(f, o.key)
	if err != nil {
		return nil, err
	}
	var list []Paper
	for _, m := range all {
		p := Paper{Kind: m.kind, ID: m.id, Time: m.basis.Time, Refused: m.no}
		if m.no == nil {
			p.SHA256, p.Result = hashOf(m.file), resultOf(m.content)
		}
		list = append(list, p)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.kept) >= maxKept {
		clear(o.kept)
	}
	o.kept[device] = kept{head, list}
	return list, nil
}

// Write writes one paper. id is the device's for NoStorage, the lot's for Donor
// and the job's for the others.
func (o *Office) Write(ctx context.Context, w io.Writer, k Kind, id string, format Format) error {
	file, err := o.file(ctx, k, id)
	if err != nil {
		return err
	}
	return o.print(ctx, w, [][]byte{file}, format)
}

func (o *Office) file(ctx context.Context, k Kind, id string) ([]byte, error) {
	device := id
	switch k {
	case Donor:
		p, _, err := o.donor(ctx, id)
		if err != nil {
			return nil, err
		}
		return sign(Donor, id, p, o.key)
	case Erasure, Imaging:
		var err error
		if device, err = o.src.JobDevice(ctx, id); err != nil {
			return nil, err
		}
	case NoStorage:
	default:
		return nil, notFound("There is no such kind of paper")
	}
	if device == "" { // that would be the house
		return nil, notFound("There is no such paper")
	}
	f, err := o.facts(ctx, device)
	if err != nil {
		return nil, err
	}
	all, err := of(f, o.key)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if m.kind == k && m.id == id {
			if m.no != nil {
				return nil, m.no
			}
			return m.file, nil
		}
	}
	return nil, notFound("There is no such paper")
}

// donor makes the report of a lot, and returns what it was made from.
func (o *Office) donor(ctx context.Context, lot string) (*DonorPaper, []facts, error) {
	house, err := o.facts(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	ids, err := o.src.LotDevices(ctx, lot)
	if err != nil {
		return nil, nil, err
	}
	var devices []facts
	for _, id := range ids {
		f, err := o.facts(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		if in := f.lot(); in != "" && in != lot {
			return nil, nil, fmt.Errorf("the records say that device %s came with lot %s, its history says %s: bring back a copy of the records", id, lot, in)
		}
		if _, ok := f.merged(); !ok { // the record that it leads to has its line
			devices = append(devices, f)
		}
	}
	p, err := donorReport(house, lot, devices, o.key)
	return p, devices, err
}

// WriteLot writes one page with the donor's report and every paper of the lot's
// devices, each on a sheet of its own.
func (o *Office) WriteLot(ctx context.Context, w io.Writer, lot string) error {
	p, devices, err := o.donor(ctx, lot)
	if err != nil {
		return err
	}
	report, err := sign(Donor, lot, p, o.key)
	if err != nil {
		return err
	}
	files := [][]byte{report}
	for _, f := range devices {
		for _, a := range f.all() {
			all, err := of(a, o.key)
			if err != nil {
				return err
			}
			for _, m := range all {
				if m.no == nil {
					files = append(files, m.file)
				}
			}
		}
	}
	return o.print(ctx, w, files, HTML)
}

func (o *Office) print(ctx context.Context, w io.Writer, files [][]byte, format Format) error {
	switch format {
	case JSON:
		_, err := w.Write(files[0])
		return err
	case HTML:
		names, err := o.src.Names(ctx)
		if err != nil {
			return err
		}
		return render(w, files, beside{Printed: o.now().UTC().Truncate(time.Second), Names: names})
	}
	return notFound(fmt.Sprintf("There is no format %q", format))
}
