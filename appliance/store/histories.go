package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"refurb/appliance/workshop"
)

// maxFound bounds what is told of one file: a thousand bad lines say no more.
const maxFound = 500

// sealed is a line with its surroundings, to be sealed again.
type sealed struct {
	device    string
	seq       int64
	job, kind string
	before    string // prev_hash as the column has it
	hash      string
	line      []byte
	prev      string // hash of the line that stands before it
	gap       bool   // none does
	damage    []Damage
	evidence  string
}

// histories seals every line of every history again in its place, on all
// processors, and compares the last ones with the heads. It goes on after
// damage, each line beside its neighbour, so that all of it is known. points, if
// not nil, gets the first line that points to each document.
func (s *Store) histories(ctx context.Context, tx *sql.Tx, points map[string]Head) ([]Damage, error) {
	var found []Damage
	add := func(d Damage) {
		if len(found) < maxFound {
			found = append(found, d)
		}
	}
	ends := map[string]Head{}
	rows, err := tx.QueryContext(ctx, `SELECT device, seq, job, kind, prev_hash, hash, line FROM events ORDER BY device, seq`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	const batch = 256
	todo := make(chan []sealed, 2*runtime.GOMAXPROCS(0))
	done := make(chan []sealed)
	g, inner := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(todo)
		var last Head
		part := make([]sealed, 0, batch)
		for rows.Next() {
			var l sealed
			if err := rows.Scan(&l.device, &l.seq, &l.job, &l.kind, &l.before, &l.hash, &l.line); err != nil {
				return err
			}
			if l.device != last.Device {
				last = Head{Device: l.device}
			}
			l.prev, l.gap = last.Hash, l.seq != last.Seq+1
			if l.gap {
				l.damage = []Damage{{Part: PartLine, Device: l.device, Seq: last.Seq + 1, How: "is missing"}}
			}
			last.Seq, last.Hash = l.seq, l.hash
			if part = append(part, l); len(part) == batch {
				select {
				case todo <- part:
				case <-inner.Done():
					return inner.Err()
				}
				part = make([]sealed, 0, batch)
			}
		}
		if len(part) > 0 {
			select {
			case todo <- part:
			case <-inner.Done():
				return inner.Err()
			}
		}
		return rows.Err()
	})
	workers := new(errgroup.Group)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() error {
			for part := range todo {
				for i := range part {
					s.again(&part[i])
				}
				select {
				case done <- part:
				case <-inner.Done():
					return inner.Err()
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(done)
		return workers.Wait()
	})
	for part := range done {
		for _, l := range part {
			for _, d := range l.damage {
				add(d)
			}
			if end := ends[l.device]; l.seq > end.Seq {
				ends[l.device] = Head{l.device, l.seq, l.hash}
			}
			if first, ok := points[l.evidence]; points != nil && l.evidence != "" && (!ok || l.device < first.Device || l.device == first.Device && l.seq < first.Seq) {
				points[l.evidence] = Head{Device: l.device, Seq: l.seq}
			}
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	// Batches came as they were done.
	slices.SortStableFunc(found, func(a, b Damage) int {
		return compare(a.Device, b.Device, a.Seq, b.Seq)
	})
	heads, err := headDamage(ctx, tx, ends)
	return append(found, heads...), err
}

func compare(a, b string, m, n int64) int {
	switch {
	case a < b || a == b && m < n:
		return -1
	case a == b && m == n:
		return 0
	}
	return 1
}

// again seals one line again. The columns beside it are copies, and are
// compared too.
func (s *Store) again(l *sealed) {
	var own struct {
		Prev     string `json:"prev_hash"`
		Evidence string `json:"evidence_sha256"`
	}
	bad := func(how string) {
		seen := sum([]byte(l.before + "\n" + l.hash + "\n" + l.job + "\n" + l.kind + "\n" + string(l.line)))
		l.damage = append(l.damage, Damage{Part: PartLine, Device: l.device, Seq: l.seq, How: how, Seen: seen})
	}
	var e workshop.Event
	if json.Unmarshal(l.line, &e) != nil {
		bad("can't be read")
		return
	}
	l.evidence = e.Evidence
	if l.gap { // of what stood before it, only the line itself knows
		if json.Unmarshal(l.line, &own) != nil {
			return
		}
		l.prev, l.before = own.Prev, own.Prev
	}
	line, hash, err := s.seal(l.seq-1, l.prev, e)
	if err != nil || e.Device != l.device || e.Job != l.job || e.Kind != l.kind || hash != l.hash || l.before != l.prev || string(line) != string(l.line) {
		bad("was changed")
	}
}

// headDamage compares where histories end with where they should.
func headDamage(ctx context.Context, tx *sql.Tx, ends map[string]Head) ([]Damage, error) {
	var found []Damage
	add := func(d Damage) {
		if len(found) < maxFound {
			found = append(found, d)
		}
	}
	rows, err := tx.QueryContext(ctx, `SELECT device, seq, hash FROM chains ORDER BY device`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	known := map[string]bool{}
	for rows.Next() {
		var h Head
		if err := rows.Scan(&h.Device, &h.Seq, &h.Hash); err != nil {
			return nil, err
		}
		known[h.Device] = true
		switch last := ends[h.Device]; {
		case h.Seq > last.Seq && last.Seq == 0:
			add(Damage{Part: PartLine, Device: h.Device, Seq: 1, How: "is missing", Seen: h.Hash})
		case h.Seq > last.Seq:
			add(Damage{Part: PartLine, Device: h.Device, Seq: last.Seq + 1, How: "is missing at the end", Seen: h.Hash})
		case h.Seq != last.Seq || h.Hash != last.Hash:
			add(Damage{Part: PartLine, Device: h.Device, Seq: last.Seq, How: "doesn't fit the head of the chain", Seen: h.Hash})
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for device := range ends {
		if !known[device] {
			add(Damage{Part: PartHead, Device: device, Seq: ends[device].Seq, How: fmt.Sprintf("%d lines have no head", ends[device].Seq)})
		}
	}
	// A device never exists without the line that says it was created.
	bare, err := tx.QueryContext(ctx, `SELECT id FROM devices WHERE id NOT IN (SELECT device FROM chains) ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer bare.Close()
	for bare.Next() {
		d := Damage{Part: PartLine, Seq: 1, How: "is missing"}
		if err := bare.Scan(&d.Device); err != nil {
			return nil, err
		}
		if _, ok := ends[d.Device]; !ok {
			add(d)
		}
	}
	slices.SortStableFunc(found, func(a, b Damage) int { return compare(a.Device, b.Device, a.Seq, b.Seq) })
	return found, bare.Err()
}

// evidence compares every document that a line points to with its hash.
func evidence(ctx context.Context, tx *sql.Tx, points map[string]Head) ([]Damage, error) {
	rows, err := tx.QueryContext(ctx, `SELECT hash, json FROM documents`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []Damage
	for rows.Next() {
		var hash string
		var doc sql.RawBytes
		if err := rows.Scan(&hash, &doc); err != nil {
			return nil, err
		}
		at, ok := points[hash]
		if !ok {
			continue
		}
		delete(points, hash)
		if is := sum(doc); is != hash {
			found = append(found, Damage{Part: PartEvidence, Device: at.Device, Seq: at.Seq, Name: hash, How: "was changed", Seen: is})
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for hash, at := range points {
		found = append(found, Damage{Part: PartEvidence, Device: at.Device, Seq: at.Seq, Name: hash, How: "is missing"})
	}
	slices.SortFunc(found, func(a, b Damage) int { return compare(a.Device+a.Name, b.Device+b.Name, a.Seq, b.Seq) })
	return found[:min(len(found), maxFound)], nil
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
