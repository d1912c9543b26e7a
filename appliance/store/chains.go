package store

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"
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

var aside = regexp.MustCompile(`(--[^\n]*|\s)+`)

// plain is a statement without comments and line ends: a better comment in a
// migration must not look like an intruder.
func plain(sql string) string { return strings.TrimSpace(aside.ReplaceAllString(sql, " ")) }

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
		case plain(have[i].sql) != plain(w.sql):
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

// Mend puts back triggers and indexes that are missing, and lets every history
// end at the last line that is left of it, so that the next line stands behind
// that one. Lines are never touched.
func (s *Store) Mend(ctx context.Context) error {
	want, err := made()
	if err != nil {
		return err
	}
	return s.tx(ctx, func(tx *sql.Tx) error {
		// The triggers that keep heads as they are come back below.
		if _, err := tx.ExecContext(ctx, `DROP TRIGGER IF EXISTS chains_grow; DROP TRIGGER IF EXISTS chains_stay;
			DELETE FROM chains;
			INSERT INTO chains (device, seq, hash) SELECT e.device, e.seq, e.hash FROM events AS e
			JOIN (SELECT device, max(seq) AS seq FROM events GROUP BY device) USING (device, seq)`); err != nil {
			return err
		}
		// A line can't be put behind one whose hash is none.
		var device string
		switch err := tx.QueryRowContext(ctx, `SELECT device FROM chains WHERE length(hash) <> 64 OR hash GLOB '*[^0-9a-f]*' OR seq < 1`).Scan(&device); {
		case err == nil:
			return fmt.Errorf("the last line of the history of “%s” is broken in a way that nothing can be added to it: bring back a copy of the records", device)
		case err != sql.ErrNoRows:
			return err
		}
		have, err := objects(ctx, tx)
		if err != nil {
			return err
		}
		for _, w := range want {
			if w.kind == "table" || slices.ContainsFunc(have, func(h object) bool { return h.name == w.name && plain(h.sql) == plain(w.sql) }) {
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
		return nil
	})
}
