// Package store keeps the workshop's records in one SQLite file. All SQL of the
// program is here. One connection writes, others read.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/mattn/go-sqlite3"

	"refurb/appliance/workshop"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Sealer makes the line of an event that stands behind line seq (0: none) with
// hash prev, and the line's own hash. The same event in the same place must
// give the same bytes: the store checks its history by sealing it again.
type Sealer func(seq int64, prev string, e workshop.Event) (line []byte, hash string, err error)

// ErrFull says that the appliance's own disk is full. Nothing was stored. It is
// a syscall.ENOSPC, for who doesn't know this package.
var ErrFull error = full{}

type full struct{}

func (full) Error() string {
	return "the disk of the appliance is full: nothing was stored; make room and try again"
}
func (full) Unwrap() error { return syscall.ENOSPC }

// Store is an open file of records.
type Store struct {
	write, read *sql.DB
	dsn         string // without options
	seal        Sealer
	hashing     chan struct{} // one place per password that is being checked
	inspected   atomic.Bool   // the histories held when they were looked at
}

// Open opens the file at path, makes it if there is none, and brings its tables
// up to date. A file of a newer program is refused.
func Open(path string, seal Sealer) (*Store, error) {
	// The file holds password hashes, so nobody else may read it; SQLite gives
	// its journals the same mode.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the records: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("opening the records: %w", err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	name := (&url.URL{Scheme: "file", Path: abs}).String()
	s := &Store{dsn: name, seal: seal, hashing: make(chan struct{}, 2)}
	// In the DSN, a pragma holds for every connection of the pool. Deleted names
	// are zeroed in the file, not left to whoever reads its free pages.
	if s.write, err = sql.Open("sqlite3", name+"?_busy_timeout=5000&_journal_mode=WAL&_foreign_keys=on&_txlock=immediate&_synchronous=FULL&_secure_delete=on"); err != nil {
		return nil, err
	}
	s.write.SetMaxOpenConns(1)
	if err := s.migrate(context.Background()); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the records in %s: %w", path, explain(err)), s.write.Close())
	}
	if s.read, err = sql.Open("sqlite3", name+"?_busy_timeout=5000&_query_only=on"); err != nil {
		return nil, errors.Join(err, s.write.Close())
	}
	s.read.SetMaxOpenConns(4)
	return s, nil
}

// Close closes the file.
func (s *Store) Close() error { return errors.Join(s.read.Close(), s.write.Close()) }

func (s *Store) migrate(ctx context.Context) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	var have int
	if err := s.write.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	if have > len(names) {
		return fmt.Errorf("they are of version %d and this program knows %d: it is too old for them, install the newer one again", have, len(names))
	}
	for i, name := range names[have:] {
		b, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		err = s.tx(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, string(b)); err != nil {
				return err
			}
			if fill := backfill[name]; fill != nil {
				if err := fill(ctx, tx); err != nil {
					return err
				}
			}
			_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", have+i+1))
			return err
		})
		if err != nil {
			return fmt.Errorf("step %s: %w", filepath.Base(name), err)
		}
	}
	return nil
}

// tx runs f in a transaction of the writer: all of it or nothing.
func (s *Store) tx(ctx context.Context, f func(tx *sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return explain(err)
	}
	if err := f(tx); err != nil {
		return errors.Join(explain(err), undo(tx))
	}
	return explain(tx.Commit())
}

// undo ends a transaction that failed. SQLite has undone some by itself.
func undo(tx *sql.Tx) error {
	err := tx.Rollback()
	if err == nil || errors.Is(err, sql.ErrTxDone) || strings.Contains(err.Error(), "no transaction is active") {
		return nil
	}
	return fmt.Errorf("and undoing it: %w", err)
}

// explain turns SQLite's words into what a person can do.
func explain(err error) error {
	var e sqlite3.Error
	switch {
	case !errors.As(err, &e):
	case e.Code == sqlite3.ErrFull, e.SystemErrno == syscall.ENOSPC: // the second: no room for the index of the journal
		return fmt.Errorf("%w (%v)", ErrFull, err)
	case e.Code == sqlite3.ErrNotADB, e.Code == sqlite3.ErrCorrupt:
		return fmt.Errorf("the file of records is damaged: bring back a copy of it: %w", err)
	case e.Code == sqlite3.ErrReadonly:
		return fmt.Errorf("the file of records can't be written: look at its owner and its file system: %w", err)
	}
	return err
}
