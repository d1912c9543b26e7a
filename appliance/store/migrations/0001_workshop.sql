-- Columns hold what is looked for or must be unique; doc holds the rest as JSON.
CREATE TABLE devices (
	id     TEXT    NOT NULL PRIMARY KEY,
	number INTEGER NOT NULL UNIQUE,
	state  TEXT    NOT NULL,
	lot    TEXT    NOT NULL,
	doc    TEXT    NOT NULL
);
CREATE TABLE lots (
	id     TEXT NOT NULL PRIMARY KEY,
	opened TEXT NOT NULL,
	doc    TEXT NOT NULL
);
CREATE TABLE jobs (
	id      TEXT NOT NULL PRIMARY KEY,
	device  TEXT NOT NULL REFERENCES devices (id),
	state   TEXT NOT NULL,
	created TEXT NOT NULL,
	doc     TEXT NOT NULL
);
CREATE INDEX jobs_by_device ON jobs (device);
CREATE TABLE boots (
	token_hash TEXT NOT NULL PRIMARY KEY,
	mac        TEXT NOT NULL,
	device     TEXT NOT NULL,
	boot_id    TEXT NOT NULL,
	issued     TEXT NOT NULL
);

-- The history: device '' is the house itself (lots, users).
CREATE TABLE events (
	device    TEXT    NOT NULL,
	seq       INTEGER NOT NULL,
	job       TEXT    NOT NULL,
	kind      TEXT    NOT NULL,
	prev_hash TEXT    NOT NULL,
	hash      TEXT    NOT NULL,
	line      BLOB    NOT NULL,
	PRIMARY KEY (device, seq)
);
CREATE TRIGGER events_keep BEFORE UPDATE ON events BEGIN
	SELECT RAISE (ABORT, 'the history is append-only');
END;
CREATE TRIGGER events_stay BEFORE DELETE ON events BEGIN
	SELECT RAISE (ABORT, 'the history is append-only');
END;

-- Where each history ends, so that lines missing at the end are seen.
CREATE TABLE chains (
	device TEXT    NOT NULL PRIMARY KEY,
	seq    INTEGER NOT NULL,
	hash   TEXT    NOT NULL
);
CREATE TRIGGER chains_grow BEFORE UPDATE ON chains WHEN NEW.seq <> OLD.seq + 1 OR NEW.device <> OLD.device BEGIN
	SELECT RAISE (ABORT, 'a history grows line by line');
END;
CREATE TRIGGER chains_stay BEFORE DELETE ON chains BEGIN
	SELECT RAISE (ABORT, 'the history is append-only');
END;

-- Reports and outcomes that lines of the history point to, by SHA-256.
CREATE TABLE documents (
	hash TEXT NOT NULL PRIMARY KEY,
	json BLOB NOT NULL
);
CREATE TRIGGER documents_keep BEFORE UPDATE ON documents BEGIN
	SELECT RAISE (ABORT, 'evidence is append-only');
END;
CREATE TRIGGER documents_stay BEFORE DELETE ON documents BEGIN
	SELECT RAISE (ABORT, 'evidence is append-only');
END;
