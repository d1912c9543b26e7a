-- Names of people stand here and nowhere else: the history knows ids only.
CREATE TABLE users (
	id       TEXT    NOT NULL PRIMARY KEY,
	name     TEXT    NOT NULL,
	folded   TEXT    NOT NULL UNIQUE, -- the name in lower case: what is typed at the login
	role     TEXT    NOT NULL,
	password TEXT    NOT NULL,        -- argon2id in PHC form
	stamp    TEXT    NOT NULL,        -- changes with the password and when the user is switched off
	created  TEXT    NOT NULL,
	disabled INTEGER NOT NULL
);
CREATE TABLE sessions (
	token_hash TEXT    NOT NULL PRIMARY KEY,
	data       BLOB    NOT NULL,
	expiry     INTEGER NOT NULL -- Unix, in milliseconds
);
CREATE INDEX sessions_by_expiry ON sessions (expiry);
