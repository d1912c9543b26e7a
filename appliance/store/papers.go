package store

import (
	"context"
	"database/sql"
	"encoding/json"

	"refurb/appliance/workshop"
)

// Device returns what is known of a device; one without an id: there is none.
func (s *Store) Device(ctx context.Context, id string) (d workshop.Device, err error) {
	var doc []byte
	err = s.read.QueryRowContext(ctx, `SELECT doc FROM devices WHERE id = ?`, id).Scan(&doc)
	if err == sql.ErrNoRows {
		return d, nil
	}
	if err != nil {
		return d, explain(err)
	}
	return d, json.Unmarshal(doc, &d)
}

// JobDevice returns the device that a job belongs to; empty: there is no such job.
func (s *Store) JobDevice(ctx context.Context, job string) (device string, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT device FROM jobs WHERE id = ?`, job).Scan(&device)
	if err == sql.ErrNoRows {
		return "", nil
	}
	return device, explain(err)
}

// LotDevices lists the devices of a lot by their number.
func (s *Store) LotDevices(ctx context.Context, lot string) (ids []string, err error) {
	rows, err := s.read.QueryContext(ctx, `SELECT id FROM devices WHERE lot = ? ORDER BY number`, lot)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, explain(err)
		}
		ids = append(ids, id)
	}
	return ids, explain(rows.Err())
}
