package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"refurb/appliance/workshop"
)

// Damage is one thing that is wrong with the records, or that was done to them
// from outside.
type Damage struct {
	Part   Part   `json:"part"`
	Device string `json:"device,omitempty"` // of a line or a head; empty: the house
	Seq    int64  `json:"seq,omitempty"`
	Name   string `json:"name,omitempty"` // of a table, a trigger or a document
	How    string `json:"how"`
	Seen   string `json:"seen,omitempty"` // SHA-256 of what stands there now
}

// Part of the records.
type Part string

const (
	PartFile     Part = "file"
	PartSchema   Part = "schema" // tables, triggers, indexes
	PartLine     Part = "line"
	PartHead     Part = "head"
	PartEvidence Part = "evidence" // a document that a line points to
)

func (d Damage) Error() string {
	name := "device " + d.Device
	if d.Device == "" {
		name = "the house"
	}
	what := ""
	switch d.Part {
	case PartLine:
		what = fmt.Sprintf("the history of %s is damaged: line %d %s", name, d.Seq, d.How)
	case PartHead:
		what = fmt.Sprintf("the history of %s is damaged: its %s", name, d.How)
	case PartEvidence:
		what = fmt.Sprintf("the evidence for line %d of %s is damaged: document %s %s", d.Seq, name, d.Name, d.How)
	case PartSchema:
		what = fmt.Sprintf("the file of records was changed from outside: %s %s", d.Name, d.How)
	case PartFile:
		what = "the file of records is damaged: " + d.How
	default:
		return d.How
	}
	return what + "; somebody or something changed the file of records: bring back a copy of it"
}

// Head is where the history of a device ("": of the house) ends.
type Head struct {
	Device string
	Seq    int64
	Hash   string
}

// Heads gives all heads as they are at one moment.
func (s *Store) Heads(ctx context.Context) ([]Head, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT device, seq, hash FROM chains ORDER BY device`)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var all []Head
	for rows.Next() {
		var h Head
		if err := rows.Scan(&h.Device, &h.Seq, &h.Hash); err != nil {
			return nil, explain(err)
		}
		all = append(all, h)
	}
	return all, explain(rows.Err())
}

// LineAt returns one line of a history; false if it isn't there.
func (s *Store) LineAt(ctx context.Context, device string, seq int64) (Line, bool, error) {
	l := Line{Seq: seq}
	err := s.read.QueryRowContext(ctx, `SELECT hash, line FROM events WHERE device = ? AND seq = ?`, device, seq).Scan(&l.Hash, &l.Line)
	if err == sql.ErrNoRows {
		return l, false, nil
	}
	return l, err == nil, explain(err)
}

// Inspect looks through the whole file: its pages, its tables and triggers,
// every line of every history, and every document that a line points to. It
// finds all that is wrong, the worst first, up to some hundreds.
func (s *Store) Inspect(ctx context.Context) ([]Damage, error) {
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, explain(err)
	}
	defer tx.Rollback()
	found, err := pages(ctx, tx)
	if err != nil || len(found) > 0 {
		return found, explain(err) // in a broken file, nothing else can be believed
	}
	schema, err := s.schema(ctx, tx)
	if err != nil {
		return nil, explain(err)
	}
	// A table that is gone would end what follows with an error.
	if slices.ContainsFunc(schema, func(d Damage) bool { return strings.HasPrefix(d.Name, "table ") }) {
		return schema, nil
	}
	points := map[string]Head{}
	lines, err := s.histories(ctx, tx, points)
	if err != nil {
		return nil, explain(err)
	}
	docs, err := evidence(ctx, tx, points)
	if err != nil {
		return nil, explain(err)
	}
	s.inspected.Store(true) // what is wrong is the caller's to decide about
	return slices.Concat(schema, lines, docs), nil
}

// pages asks SQLite to look at every page of the file.
func pages(ctx context.Context, tx *sql.Tx) ([]Damage, error) {
	rows, err := tx.QueryContext(ctx, `PRAGMA quick_check(10)`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []Damage
	for rows.Next() {
		var says string
		if err := rows.Scan(&says); err != nil {
			return nil, err
		}
		if says != "ok" {
			found = append(found, Damage{Part: PartFile, How: says})
		}
	}
	return found, rows.Err()
}

type object struct{ kind, name, sql string }

func objects(ctx context.Context, q interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}) ([]object, error) {
	rows, err := q.QueryContext(ctx, `SELECT type, name, coalesce(sql, '') FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY type DESC, name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []object
	for rows.Next() {
		var o object
		if err := rows.Scan(&o.kind, &o.name, &o.sql); err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, rows.Err()
}

// made is what the migrations make of an empty file.
var made = sync.OnceValues(func() ([]object, error) {
	db, err := sql.Open("sqlite3", ":memory:")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // each connection would have a memory of its own
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		b, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if _, err := db.Exec(string(b)); err != nil {
			return nil, err
		}
	}
	return objects(context.Background(), db)
})

// schema compares tables, triggers and indexes with those that this program makes.
func (s *Store) schema(ctx context.Context, tx *sql.Tx) ([]Damage, error) {
	want, err := made()
	if err != nil {
		return nil, err
	}
	have, err := objects(ctx, tx)
	if err != nil {
		return nil, err
	}
	var found []Damage
	for _, w := range want {
		i := slices.IndexFunc(have, func(h object) bool { return h.kind == w.kind && h.name == w.name })
		switch {
		case i < 0:
			found = append(found, Damage{Part: PartSchema, Name: w.kind + " " + w.name, How: "is missing"})
		case have[i].sql != w.sql:
			found = append(found, Damage{Part: PartSchema, Name: w.kind + " " + w.name, How: "is another one", Seen: sum([]byte(have[i].sql))})
		}
	}
	for _, h := range have {
		if !slices.ContainsFunc(want, func(w object) bool { return h.kind == w.kind && h.name == w.name }) {
			found = append(found, Damage{Part: PartSchema, Name: h.kind + " " + h.name, How: "is none of ours", Seen: sum([]byte(h.sql))})
		}
	}
	return found, nil
}

// Mend puts back triggers and indexes that are missing, and heads that were
// lost with their lines still there. Lines are never touched.
func (s *Store) Mend(ctx context.Context) error {
	want, err := made()
	if err != nil {
		return err
	}
	return s.tx(ctx, func(tx *sql.Tx) error {
		have, err := objects(ctx, tx)
		if err != nil {
			return err
		}
		for _, w := range want {
			if w.kind == "table" || slices.Contains(have, w) {
				continue
			}
			if slices.ContainsFunc(have, func(h object) bool { return h.kind == w.kind && h.name == w.name }) {
				if _, err := tx.ExecContext(ctx, "DROP "+w.kind+" "+w.name); err != nil {
					return err
				}
			}
			if _, err := tx.ExecContext(ctx, w.sql); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO chains (device, seq, hash)
			SELECT device, seq, hash FROM events AS e WHERE seq = (SELECT max(seq) FROM events WHERE device = e.device)
			AND device NOT IN (SELECT device FROM chains)`)
		return err
	})
}

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
