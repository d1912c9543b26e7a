package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"time"

	"refurb/appliance/workshop"
)

// Commit stores a change in one transaction and returns when it would survive a
// power cut.
func (s *Store) Commit(ctx context.Context, c workshop.Change) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		for _, v := range c.Lots {
			if err := put(ctx, tx, v, `INSERT INTO lots (id, opened, doc) VALUES (?, ?, ?)
				ON CONFLICT (id) DO UPDATE SET doc = excluded.doc`, v.ID, stamp(v.Opened)); err != nil {
				return fmt.Errorf("lot %s: %w", v.ID, err)
			}
		}
		for _, v := range c.Devices {
			if err := put(ctx, tx, v, `INSERT INTO devices (id, number, state, lot, doc) VALUES (?, ?, ?, ?, ?)
				ON CONFLICT (id) DO UPDATE SET state = excluded.state, lot = excluded.lot, doc = excluded.doc`,
				v.ID, v.Number, string(v.State), v.Lot); err != nil {
				return fmt.Errorf("device %s: %w", v.ID, err)
			}
		}
		for _, v := range c.Jobs {
			if err := put(ctx, tx, v, `INSERT INTO jobs (id, device, state, created, doc) VALUES (?, ?, ?, ?, ?)
				ON CONFLICT (id) DO UPDATE SET state = excluded.state, doc = excluded.doc`,
				v.ID, v.Device, string(v.State), stamp(v.Created)); err != nil {
				return fmt.Errorf("job %s: %w", v.ID, err)
			}
		}
		for _, v := range c.Boots {
			if _, err := tx.ExecContext(ctx, `INSERT INTO boots (token_hash, mac, device, boot_id, issued) VALUES (?, ?, ?, ?, ?)
				ON CONFLICT (token_hash) DO UPDATE SET device = excluded.device, boot_id = excluded.boot_id`,
				v.TokenHash, v.MAC, v.Device, v.BootID, stamp(v.Issued)); err != nil {
				return fmt.Errorf("a start: %w", err)
			}
		}
		for _, h := range c.Forget {
			if _, err := tx.ExecContext(ctx, `DELETE FROM boots WHERE token_hash = ?`, h); err != nil {
				return fmt.Errorf("a start: %w", err)
			}
		}
		for _, v := range c.Documents {
			if _, err := tx.ExecContext(ctx, `INSERT INTO documents (hash, json) VALUES (?, ?) ON CONFLICT (hash) DO NOTHING`, v.Hash, v.JSON); err != nil {
				return fmt.Errorf("a document: %w", err)
			}
		}
		for _, v := range c.Claims {
			if _, err := tx.ExecContext(ctx, `INSERT INTO claims (serial, wwn, model, bytes, image, frames, at) VALUES (?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (serial, wwn, model, bytes, image) DO UPDATE SET frames = excluded.frames, at = excluded.at`,
				v.Serial, v.WWN, v.Model, v.Bytes, v.Image, v.Frames, stamp(v.At)); err != nil {
				return fmt.Errorf("claims: %w", err)
			}
		}
		for _, k := range c.Unclaim {
			if _, err := tx.ExecContext(ctx, `DELETE FROM claims WHERE serial = ? AND wwn = ? AND model = ? AND bytes = ? AND image = ?`,
				k.Serial, k.WWN, k.Model, k.Bytes, k.Image); err != nil {
				return fmt.Errorf("claims: %w", err)
			}
		}
		if err := putStays(ctx, tx, c.Stays); err != nil {
			return err
		}
		if err := dropStays(ctx, tx, c.Unstay); err != nil {
			return err
		}
		return s.append(ctx, tx, c.Events)
	})
}

// put stores v as the last argument, as JSON.
func put(ctx context.Context, tx *sql.Tx, v any, query string, args ...any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, query, append(args, string(b))...)
	return err
}

// stamp sorts as text.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }

// append writes events behind their chains' heads, which it reads inside the
// transaction: another process may have written meanwhile.
func (s *Store) append(ctx context.Context, tx *sql.Tx, events []workshop.Event) error {
	for _, e := range events {
		var seq int64
		var prev string
		err := tx.QueryRowContext(ctx, `SELECT seq, hash FROM chains WHERE device = ?`, e.Device).Scan(&seq, &prev)
		if err != nil && err != sql.ErrNoRows {
			return fmt.Errorf("the history: %w", err)
		}
		if e.HeadOf != "" {
			if e, err = withHead(ctx, tx, e); err != nil {
				return err
			}
		}
		line, hash, err := s.seal(seq, prev, e)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO events (device, seq, job, kind, prev_hash, hash, line) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			e.Device, seq+1, e.Job, e.Kind, prev, hash, line); err != nil {
			return fmt.Errorf("the history: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO chains (device, seq, hash) VALUES (?, ?, ?)
			ON CONFLICT (device) DO UPDATE SET seq = excluded.seq, hash = excluded.hash`, e.Device, seq+1, hash); err != nil {
			return fmt.Errorf("the history: %w", err)
		}
	}
	return nil
}

// withHead writes where another history ends now into an event.
func withHead(ctx context.Context, tx *sql.Tx, e workshop.Event) (workshop.Event, error) {
	var seq int64
	var hash string
	if err := tx.QueryRowContext(ctx, `SELECT seq, hash FROM chains WHERE device = ?`, e.HeadOf).Scan(&seq, &hash); err != nil {
		return e, fmt.Errorf("the end of the history of device %s: %w", e.HeadOf, err)
	}
	e.Params = maps.Clone(e.Params)
	if e.Params == nil {
		e.Params = map[string]string{}
	}
	e.Params["head"], e.Params["head_seq"] = hash, strconv.FormatInt(seq, 10)
	return e, nil
}

// Load returns the state. It checks every history to its head first, unless
// Inspect has done so since the file was opened.
func (s *Store) Load(ctx context.Context) (workshop.State, error) {
	var st workshop.State
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return st, explain(err)
	}
	defer tx.Rollback()
	if !s.inspected.Load() {
		found, err := s.histories(ctx, tx, nil)
		if err != nil {
			return st, explain(err)
		}
		if len(found) > 0 {
			return st, found[0]
		}
		s.inspected.Store(true)
	}
	if st.Devices, err = docs[workshop.Device](ctx, tx, `SELECT doc FROM devices ORDER BY number`); err != nil {
		return st, fmt.Errorf("devices: %w", explain(err))
	}
	if st.Lots, err = docs[workshop.Lot](ctx, tx, `SELECT doc FROM lots ORDER BY opened`); err != nil {
		return st, fmt.Errorf("lots: %w", explain(err))
	}
	if st.Jobs, err = docs[workshop.Job](ctx, tx, `SELECT doc FROM jobs ORDER BY rowid`); err != nil {
		return st, fmt.Errorf("jobs: %w", explain(err))
	}
	rows, err := tx.QueryContext(ctx, `SELECT token_hash, mac, device, boot_id, issued FROM boots ORDER BY issued`)
	if err != nil {
		return st, explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		var b workshop.Boot
		var issued string
		if err := rows.Scan(&b.TokenHash, &b.MAC, &b.Device, &b.BootID, &issued); err != nil {
			return st, explain(err)
		}
		if b.Issued, err = time.Parse(time.RFC3339Nano, issued); err != nil {
			return st, fmt.Errorf("a start: %w", err)
		}
		st.Boots = append(st.Boots, b)
	}
	if err := rows.Err(); err != nil {
		return st, explain(err)
	}
	if st.Stays, err = docs[workshop.Stay](ctx, tx, `SELECT doc FROM stays ORDER BY disk, n`); err != nil {
		return st, fmt.Errorf("where disks were: %w", explain(err))
	}
	st.Claims, err = claims(ctx, tx)
	return st, explain(err)
}

func claims(ctx context.Context, tx *sql.Tx) ([]workshop.Claim, error) {
	rows, err := tx.QueryContext(ctx, `SELECT serial, wwn, model, bytes, image, frames, at FROM claims ORDER BY at`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []workshop.Claim
	for rows.Next() {
		var c workshop.Claim
		var at string
		if err := rows.Scan(&c.Serial, &c.WWN, &c.Model, &c.Bytes, &c.Image, &c.Frames, &at); err != nil {
			return nil, err
		}
		if c.At, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return nil, fmt.Errorf("claims: %w", err)
		}
		all = append(all, c)
	}
	return all, rows.Err()
}

func docs[T any](ctx context.Context, tx *sql.Tx, query string) ([]T, error) {
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		var b []byte
		var v T
		if err := rows.Scan(&b); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(b, &v); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// Line is one line of a history as it was sealed.
type Line struct {
	Seq  int64 // 1, 2, 3…
	Hash string
	Line []byte
}

// Lines returns the history of a device, or of the house for "", oldest first.
func (s *Store) Lines(ctx context.Context, device string) ([]Line, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT seq, hash, line FROM events WHERE device = ? ORDER BY seq`, device)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var all []Line
	for rows.Next() {
		var l Line
		if err := rows.Scan(&l.Seq, &l.Hash, &l.Line); err != nil {
			return nil, explain(err)
		}
		all = append(all, l)
	}
	return all, explain(rows.Err())
}

// Events returns the same as events.
func (s *Store) Events(ctx context.Context, device string) ([]workshop.Event, error) {
	lines, err := s.Lines(ctx, device)
	if err != nil {
		return nil, err
	}
	events := make([]workshop.Event, len(lines))
	for i, l := range lines {
		if err := json.Unmarshal(l.Line, &events[i]); err != nil {
			return nil, Damage{Part: PartLine, Device: device, Seq: l.Seq, How: "can't be read"}
		}
	}
	return events, nil
}

// Document returns the report or outcome with this SHA-256, or nil if there is none.
func (s *Store) Document(ctx context.Context, hash string) ([]byte, error) {
	var b []byte
	err := s.read.QueryRowContext(ctx, `SELECT json FROM documents WHERE hash = ?`, hash).Scan(&b)
	if err == sql.ErrNoRows {
		return nil, nil
	}
	return b, explain(err)
}
