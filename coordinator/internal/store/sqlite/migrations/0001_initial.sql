-- Instants are text in UTC with nanoseconds, so that they sort as text.
-- Columns named *_json hold JSON.

CREATE TABLE pools (
	name       TEXT PRIMARY KEY,
	version    INTEGER NOT NULL,
	state_json TEXT NOT NULL
) STRICT;

-- What led each pool to each of its versions.
CREATE TABLE events (
	pool         TEXT NOT NULL REFERENCES pools (name),
	version      INTEGER NOT NULL,
	at           TEXT NOT NULL,
	event_json   TEXT NOT NULL,
	effects_json TEXT NOT NULL,
	PRIMARY KEY (pool, version)
) STRICT;
CREATE INDEX events_by_age ON events (at);

-- Each rollout as of its last change.
CREATE TABLE rollouts (
	seq          INTEGER PRIMARY KEY,
	id           TEXT NOT NULL UNIQUE,
	app          TEXT NOT NULL,
	created      TEXT NOT NULL,
	finished     TEXT,
	changed_json TEXT NOT NULL
) STRICT;
CREATE INDEX rollouts_by_app ON rollouts (app, created);

-- AUTOINCREMENT: readers ask for what came after a number, so none is given twice.
CREATE TABLE timeline (
	number     INTEGER PRIMARY KEY AUTOINCREMENT,
	rollout    TEXT NOT NULL,
	at         TEXT NOT NULL,
	noted_json TEXT NOT NULL
) STRICT;
CREATE INDEX timeline_by_rollout ON timeline (rollout, number);

CREATE TABLE releases (
	seq         INTEGER PRIMARY KEY,
	app         TEXT NOT NULL,
	id          TEXT NOT NULL,
	sha         TEXT NOT NULL,
	subject     TEXT NOT NULL,
	committed   TEXT,
	recipe_json TEXT NOT NULL,
	recorded    TEXT,
	UNIQUE (app, id)
) STRICT;

CREATE TABLE deliveries (
	seq           INTEGER PRIMARY KEY,
	id            TEXT NOT NULL UNIQUE,
	event         TEXT NOT NULL,
	repository    TEXT NOT NULL,
	ref           TEXT NOT NULL,
	after         TEXT NOT NULL,
	sender        TEXT NOT NULL,
	received      TEXT,
	apps_json     TEXT NOT NULL,
	decision      TEXT NOT NULL,
	reason        TEXT NOT NULL,
	rollouts_json TEXT NOT NULL
) STRICT;
CREATE INDEX deliveries_by_age ON deliveries (received);
CREATE INDEX deliveries_pending ON deliveries (received) WHERE decision = 'accepted';

CREATE TABLE logs (
	position INTEGER PRIMARY KEY AUTOINCREMENT,
	rollout  TEXT NOT NULL,
	node     TEXT NOT NULL,
	app      TEXT NOT NULL,
	step     TEXT NOT NULL,
	number   INTEGER NOT NULL,
	at       TEXT,
	arrived  TEXT NOT NULL,
	data     BLOB NOT NULL,
	UNIQUE (rollout, node, app, step, number)
) STRICT;
CREATE INDEX logs_by_rollout ON logs (rollout, position);

-- Written by each Ping, so that a full or read-only disk is noticed.
CREATE TABLE pings (
	id INTEGER PRIMARY KEY CHECK (id = 1),
	at TEXT NOT NULL
) STRICT;
