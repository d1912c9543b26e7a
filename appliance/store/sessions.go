package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"time"
)

// Sessions keeps the dashboard's sessions: an scs.Store and scs.CtxStore. Only
// the hash of a session's token is kept, so the file opens nobody's session.
type Sessions struct{ s *Store }

// Sessions returns the table of sessions.
func (s *Store) Sessions() Sessions { return Sessions{s} }

// maxSessions bounds what strangers at the login page can leave behind.
const maxSessions = 10_000

func sessionKey(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}

// FindCtx returns a session that has not expired.
func (t Sessions) FindCtx(ctx context.Context, token string) ([]byte, bool, error) {
	var b []byte
	err := t.s.read.QueryRowContext(ctx, `SELECT data FROM sessions WHERE token_hash = ? AND expiry > ?`, sessionKey(token), time.Now().UnixMilli()).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	return b, err == nil, explain(err)
}

// CommitCtx stores a session and forgets those that have expired, or the oldest
// if there are too many.
func (t Sessions) CommitCtx(ctx context.Context, token string, b []byte, expiry time.Time) error {
	return t.s.tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE expiry <= ?`, time.Now().UnixMilli()); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO sessions (token_hash, data, expiry) VALUES (?, ?, ?)
			ON CONFLICT (token_hash) DO UPDATE SET data = excluded.data, expiry = excluded.expiry`, sessionKey(token), b, expiry.UnixMilli()); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE token_hash IN (SELECT token_hash FROM sessions ORDER BY expiry DESC LIMIT -1 OFFSET ?)`, maxSessions)
		return err
	})
}

// DeleteCtx ends a session.
func (t Sessions) DeleteCtx(ctx context.Context, token string) error {
	return t.s.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE token_hash = ?`, sessionKey(token))
		return err
	})
}

// Find, Commit and Delete are for callers without a context.
func (t Sessions) Find(token string) ([]byte, bool, error) {
	return t.FindCtx(context.Background(), token)
}

func (t Sessions) Commit(token string, b []byte, expiry time.Time) error {
	return t.CommitCtx(context.Background(), token, b, expiry)
}

func (t Sessions) Delete(token string) error { return t.DeleteCtx(context.Background(), token) }
