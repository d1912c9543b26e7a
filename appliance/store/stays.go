package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

func putStays(ctx context.Context, tx *sql.Tx, stays []workshop.Stay) error {
	for _, v := range stays {
		if err := put(ctx, tx, v, `INSERT INTO stays (disk, n, device, doc) VALUES (?, ?, ?, ?)
			ON CONFLICT (disk, n) DO UPDATE SET device = excluded.device, doc = excluded.doc`, v.Disk, v.N, v.Device); err != nil {
			return fmt.Errorf("where a disk is: %w", err)
		}
	}
	return nil
}

func dropStays(ctx context.Context, tx *sql.Tx, keys []workshop.StayKey) error {
	for _, k := range keys {
		if _, err := tx.ExecContext(ctx, `DELETE FROM stays WHERE disk = ? AND n = ?`, k.Disk, k.N); err != nil {
			return fmt.Errorf("where a disk was: %w", err)
		}
	}
	return nil
}

// backfill is what a step has to do beyond its SQL.
var backfill = map[string]func(context.Context, *sql.Tx) error{"migrations/0004_stays.sql": retell}

// retell follows all disks through the reports that were ever made, in their order,
// as the registry does with each new one. What is too much of it the registry forgets
// when it loads.
func retell(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, `SELECT line FROM events WHERE kind = 'report' ORDER BY rowid`)
	if err != nil {
		return err
	}
	defer rows.Close()
	last := map[string]*workshop.Stay{}
	inside := map[string]map[string]bool{}
	told := map[workshop.StayKey]workshop.Stay{}
	for rows.Next() {
		var line, doc []byte
		if err := rows.Scan(&line); err != nil {
			return err
		}
		var e workshop.Event
		var rep wire.Report
		if json.Unmarshal(line, &e) != nil || e.Evidence == "" {
			continue // the histories are looked at elsewhere
		}
		err := tx.QueryRowContext(ctx, `SELECT json FROM documents WHERE hash = ?`, e.Evidence).Scan(&doc)
		if err == sql.ErrNoRows || err == nil && json.Unmarshal(doc, &rep) != nil {
			continue
		}
		if err != nil {
			return err
		}
		workshop.Clean(&rep)
		here := inside[e.Device]
		if here == nil {
			here = map[string]bool{}
			inside[e.Device] = here
		}
		var keys []string
		for key := range here {
			keys = append(keys, key)
		}
		for _, s := range workshop.Follow(e.Time, e.Device, &rep, func(key string) *workshop.Stay { return last[key] }, keys) {
			if s.Gone.IsZero() {
				here[s.Disk] = true
			} else {
				delete(inside[s.Device], s.Disk)
			}
			if l := last[s.Disk]; l == nil || l.N <= s.N {
				last[s.Disk] = &s
			}
			told[workshop.StayKey{Disk: s.Disk, N: s.N}] = s
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return putStays(ctx, tx, slices.Collect(maps.Values(told)))
}
