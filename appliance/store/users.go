package store

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"refurb/appliance/workshop"
)

// User is a person who may log in. The history knows the ID only, so a person
// can be forgotten and the history stays whole.
type User struct {
	ID       string
	Name     string
	Role     string
	Disabled bool
	Created  time.Time
	Stamp    string // changes with the password and when the user is switched off: sessions with another one have ended
}

var (
	// ErrNoUser says that there is no such user, or that the password is wrong.
	ErrNoUser = errors.New("no such user and password")
	// ErrNameTaken refuses a second user of the same name.
	ErrNameTaken = errors.New("that name is taken")
	// ErrLastAdmin refuses to leave the house without anybody who may add people.
	ErrLastAdmin = errors.New("that is the last administrator who may log in")
)

// admin is the only role that this package knows by name: one user who has it
// must always be able to log in.
const admin = "admin"

// argon2id with the parameters of RFC 9106's second choice, with less memory: a
// small appliance checks two passwords at once beside its work.
const (
	argonTime    = 3
	argonMemory  = 32 << 10 // KiB
	argonThreads = 1
	argonSalt    = 16
	argonKey     = 32

	minPassword = 10  // characters
	maxPassword = 256 // bytes
	maxUsers    = 1000
)

// Users is the table of people.
type Users struct{ s *Store }

// Users returns the table of people.
func (s *Store) Users() Users { return Users{s} }

// Count returns how many users there are, switched off ones included.
func (u Users) Count(ctx context.Context) (n int, err error) {
	err = u.s.read.QueryRowContext(ctx, `SELECT count(*) FROM users`).Scan(&n)
	return n, explain(err)
}

const userColumns = `SELECT id, name, role, disabled, created, stamp FROM users `

type scanner interface{ Scan(...any) error }

func scanUser(r scanner, more ...any) (v User, err error) {
	var created string
	err = r.Scan(append([]any{&v.ID, &v.Name, &v.Role, &v.Disabled, &created, &v.Stamp}, more...)...)
	if errors.Is(err, sql.ErrNoRows) {
		return v, ErrNoUser
	}
	if err != nil {
		return v, explain(err)
	}
	v.Created, err = time.Parse(time.RFC3339Nano, created)
	return v, err
}

// List returns all users by name.
func (u Users) List(ctx context.Context) ([]User, error) {
	rows, err := u.s.read.QueryContext(ctx, userColumns+`ORDER BY folded`)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var all []User
	for rows.Next() {
		v, err := scanUser(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, explain(rows.Err())
}

// ByID returns a user, or ErrNoUser.
func (u Users) ByID(ctx context.Context, id string) (User, error) {
	return scanUser(u.s.read.QueryRowContext(ctx, userColumns+`WHERE id = ?`, id))
}

// Check returns the user whose name and password these are, or ErrNoUser; for a
// name that doesn't exist it works as long. A user who is switched off is
// returned as such.
func (u Users) Check(ctx context.Context, name, password string) (User, error) {
	kept := nobody
	v, err := scanUser(u.s.read.QueryRowContext(ctx,
		`SELECT id, name, role, disabled, created, stamp, password FROM users WHERE folded = ?`, fold(name)), &kept)
	if err != nil && !errors.Is(err, ErrNoUser) {
		return User{}, err
	}
	ok, herr := u.s.matches(ctx, kept, password)
	if herr != nil {
		return User{}, herr
	}
	if err != nil || !ok {
		return User{}, ErrNoUser
	}
	return v, nil
}

// Create adds a user and says so in the history of the house, without the name.
func (u Users) Create(ctx context.Context, actor, name, password, role string) (User, error) {
	name = workshop.Text(name)
	if name == "" || utf8.RuneCountInString(name) > 64 {
		return User{}, fmt.Errorf("a name has 1 to 64 characters")
	}
	kept, err := u.s.password(ctx, password)
	if err != nil {
		return User{}, err
	}
	v := User{ID: rand.Text(), Name: name, Role: role, Created: time.Now().UTC(), Stamp: rand.Text()}
	err = u.s.tx(ctx, func(tx *sql.Tx) error {
		var taken, all int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE folded = ?), count(*) FROM users`, fold(name)).Scan(&taken, &all); err != nil {
			return err
		}
		if taken > 0 {
			return ErrNameTaken
		}
		if all >= maxUsers {
			return fmt.Errorf("there are %d users already", all)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO users (id, name, folded, role, password, stamp, created, disabled) VALUES (?, ?, ?, ?, ?, ?, ?, 0)`,
			v.ID, v.Name, fold(name), role, kept, v.Stamp, stamp(v.Created)); err != nil {
			return err
		}
		return u.s.append(ctx, tx, []workshop.Event{userEvent(actor, "user_created", v.ID, role)})
	})
	if err != nil {
		return User{}, err
	}
	return v, nil
}

// SetRole gives a user another role, unless that leaves nobody as admin.
func (u Users) SetRole(ctx context.Context, actor, id, role string) error {
	return u.change(ctx, userEvent(actor, "user_role", id, role), id, `UPDATE users SET role = ? WHERE id = ?`, role, id)
}

// SetDisabled switches a user off or on again; off ends all sessions. The last
// admin can't be switched off.
func (u Users) SetDisabled(ctx context.Context, actor, id string, off bool) error {
	kind := "user_enabled"
	if off {
		kind = "user_disabled"
	}
	return u.change(ctx, userEvent(actor, kind, id, ""), id, `UPDATE users SET disabled = ?, stamp = ? WHERE id = ?`, off, rand.Text(), id)
}

// SetPassword changes a password and ends all sessions of the user.
func (u Users) SetPassword(ctx context.Context, actor, id, password string) error {
	kept, err := u.s.password(ctx, password)
	if err != nil {
		return err
	}
	return u.change(ctx, userEvent(actor, "user_password", id, ""), id, `UPDATE users SET password = ?, stamp = ? WHERE id = ?`, kept, rand.Text(), id)
}

// Remove forgets a person: their name is gone from the file, and the history,
// which knows their id only, stays whole. The last admin can't be removed.
func (u Users) Remove(ctx context.Context, actor, id string) error {
	if err := u.change(ctx, userEvent(actor, "user_removed", id, ""), id, `DELETE FROM users WHERE id = ?`, id); err != nil {
		return err
	}
	// What was deleted is zeroed in the pages (secure_delete); older pages with
	// the name in them wait in the journal until it is emptied. That can't be
	// done while somebody reads; then the next time it can.
	var busy, frames, done int
	err := u.s.write.QueryRowContext(context.WithoutCancel(ctx), `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &frames, &done)
	if err != nil {
		return fmt.Errorf("the user is removed, but the name may still stand in the journal: %w", explain(err))
	}
	return nil
}

// change changes one user and writes it down. The house is looked at within the
// transaction, so that two admins can't switch each other off at once.
func (u Users) change(ctx context.Context, e workshop.Event, id, query string, args ...any) error {
	return u.s.tx(ctx, func(tx *sql.Tx) error {
		before, err := admins(ctx, tx)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, query, args...)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(ErrNoUser, err)
		}
		after, err := admins(ctx, tx)
		if err != nil {
			return err
		}
		if after == 0 && before > 0 {
			return ErrLastAdmin
		}
		return u.s.append(ctx, tx, []workshop.Event{e})
	})
}

// admins counts those who may log in.
func admins(ctx context.Context, tx *sql.Tx) (n int, err error) {
	err = tx.QueryRowContext(ctx, `SELECT count(*) FROM users WHERE role = ? AND disabled = 0`, admin).Scan(&n)
	return n, err
}

func userEvent(actor, kind, id, role string) workshop.Event {
	p := map[string]string{"user": id}
	if role != "" {
		p["role"] = workshop.Text(role)
	}
	return workshop.Event{Time: time.Now().UTC(), Kind: kind, Actor: workshop.Text(actor), Params: p}
}

func fold(name string) string { return strings.ToLower(workshop.Text(name)) }

// nobody is the hash that a name without a user is checked against.
var nobody = encode(make([]byte, argonSalt), make([]byte, argonKey))

func encode(salt, key []byte) string {
	b := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads, b.EncodeToString(salt), b.EncodeToString(key))
}

// turn waits for one of the places for hashing, so that a flood of logins can't
// take all memory.
func (s *Store) turn(ctx context.Context) (done func(), err error) {
	select {
	case s.hashing <- struct{}{}:
		return func() { <-s.hashing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Store) password(ctx context.Context, password string) (string, error) {
	if utf8.RuneCountInString(password) < minPassword || len(password) > maxPassword {
		return "", fmt.Errorf("a password has at least %d characters and at most %d bytes", minPassword, maxPassword)
	}
	done, err := s.turn(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	salt := make([]byte, argonSalt)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	return encode(salt, argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, argonKey)), nil
}

func (s *Store) matches(ctx context.Context, kept, password string) (bool, error) {
	if len(password) > maxPassword {
		return false, nil
	}
	var version int
	var memory, passes uint32
	var threads uint8
	parts := strings.Split(kept, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, errors.New("a password is kept in a form that this program doesn't know: set it again")
	}
	if _, err := fmt.Sscanf(parts[2]+" "+parts[3], "v=%d m=%d,t=%d,p=%d", &version, &memory, &passes, &threads); err != nil || version != argon2.Version ||
		memory > 1<<20 || passes < 1 || passes > 64 || threads < 1 {
		return false, errors.New("a password is kept in a form that this program doesn't know: set it again")
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	key, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err := errors.Join(err1, err2); err != nil || len(key) == 0 {
		return false, errors.New("a password is kept in a form that this program doesn't know: set it again")
	}
	done, err := s.turn(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	got := argon2.IDKey([]byte(password), salt, passes, memory, threads, uint32(len(key)))
	return subtle.ConstantTimeCompare(got, key) == 1, nil
}
