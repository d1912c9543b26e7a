package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
)

// Backup writes a whole copy of the records, as they are at one moment, to a new
// file at path. The appliance may go on writing meanwhile. When it returns, the
// copy survives a power cut.
func (s *Store) Backup(ctx context.Context, path string) error {
	// SQLite would take an empty file for its own, with whatever mode it has.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("copying the records: %w", err)
	}
	// A reader's snapshot: it neither waits for the writer nor holds it up. Our
	// own readers are barred from everything that writes, even elsewhere.
	db, err := sql.Open("sqlite3", s.dsn+"?_busy_timeout=5000")
	if err == nil {
		_, err = db.ExecContext(ctx, `VACUUM INTO ?`, path)
		err = errors.Join(err, db.Close())
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("copying the records: %w", explain(err)), os.Remove(path))
	}
	return nil
}
