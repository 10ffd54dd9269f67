-- One text for both engines. For SQLite three words are replaced (BIGINT,
-- BYTEA, BOOLEAN) and STRICT is added to each table; for PostgreSQL text gets
-- the byte-wise collation that SQLite has. A time is microseconds UTC; a NULL
-- time has not come.

CREATE TABLE meta (
	key TEXT PRIMARY KEY,
	value BYTEA NOT NULL
);

-- Locked by whoever writes on PostgreSQL; never read.
CREATE TABLE writer (
	one BIGINT PRIMARY KEY CHECK (one = 1)
);

CREATE TABLE process (
	proc BIGINT PRIMARY KEY,
	node TEXT NOT NULL,
	started_at BIGINT NOT NULL,
	seen_at BIGINT NOT NULL
);

CREATE TABLE event (
	proc BIGINT NOT NULL,
	seq BIGINT NOT NULL,
	id TEXT NOT NULL UNIQUE,
	time BIGINT NOT NULL,
	kind TEXT NOT NULL,
	task TEXT NOT NULL,
	decision TEXT NOT NULL,
	person TEXT NOT NULL,
	leaf BYTEA NOT NULL,
	body BYTEA NOT NULL,
	mac BYTEA NOT NULL,
	PRIMARY KEY (proc, seq)
);
CREATE INDEX event_task ON event (task, time, proc, seq) WHERE task <> '';
CREATE INDEX event_decision ON event (decision) WHERE decision <> '';

CREATE TABLE person (
	id TEXT PRIMARY KEY,
	lookup TEXT UNIQUE,
	key BYTEA,
	made_at BIGINT NOT NULL
);

CREATE TABLE task (
	id TEXT PRIMARY KEY,
	profile TEXT NOT NULL,
	bundle TEXT NOT NULL,
	purpose TEXT NOT NULL,
	purpose_by TEXT NOT NULL,
	purpose_verified BOOLEAN NOT NULL,
	root_kind TEXT NOT NULL,
	root_sub TEXT NOT NULL,
	root_source TEXT NOT NULL,
	root_json TEXT NOT NULL,
	person TEXT NOT NULL,
	parent TEXT NOT NULL,
	root_task TEXT NOT NULL,
	ancestors TEXT NOT NULL,
	depth BIGINT NOT NULL,
	grants TEXT NOT NULL,
	agent_json TEXT NOT NULL,
	agent_source TEXT NOT NULL,
	agent_client TEXT NOT NULL,
	key_jkt TEXT NOT NULL,
	dlg TEXT NOT NULL,
	ticket TEXT NOT NULL,
	opened_at BIGINT NOT NULL,
	deadline BIGINT NOT NULL,
	idle_for BIGINT NOT NULL,
	idle_until BIGINT NOT NULL CHECK (idle_until <= deadline),
	budget BIGINT NOT NULL,
	calls BIGINT NOT NULL CHECK (calls >= 0),
	children BIGINT NOT NULL CHECK (children >= 0),
	version BIGINT NOT NULL,
	closed_at BIGINT,
	reason TEXT NOT NULL,
	closed_by TEXT NOT NULL,
	retired_at BIGINT CHECK (retired_at IS NULL OR closed_at IS NOT NULL)
);
CREATE INDEX task_parent ON task (parent) WHERE parent <> '';
CREATE INDEX task_idle ON task (idle_until) WHERE closed_at IS NULL;
CREATE INDEX task_root ON task (root_sub) WHERE closed_at IS NULL;
CREATE INDEX task_retiring ON task (closed_at) WHERE closed_at IS NOT NULL AND retired_at IS NULL;

CREATE TABLE spend (
	task TEXT NOT NULL,
	grant_key TEXT NOT NULL,
	calls BIGINT NOT NULL CHECK (calls >= 0),
	PRIMARY KEY (task, grant_key)
); -- clustered

CREATE TABLE once (
	key TEXT PRIMARY KEY,
	expires_at BIGINT NOT NULL
); -- clustered
CREATE INDEX once_expires ON once (expires_at);

CREATE TABLE delegation (
	id TEXT PRIMARY KEY,
	secret_hash BYTEA NOT NULL UNIQUE,
	profile TEXT NOT NULL,
	purpose TEXT NOT NULL,
	purpose_by TEXT NOT NULL,
	purpose_verified BOOLEAN NOT NULL,
	grants TEXT NOT NULL,
	root_kind TEXT NOT NULL,
	root_sub TEXT NOT NULL,
	root_source TEXT NOT NULL,
	root_json TEXT NOT NULL,
	parent TEXT NOT NULL,
	expires_at BIGINT NOT NULL,
	task_ttl BIGINT NOT NULL,
	uses BIGINT NOT NULL,
	used BIGINT NOT NULL CHECK (used <= uses),
	made_at BIGINT NOT NULL,
	dlg TEXT NOT NULL,
	voided_at BIGINT
);
CREATE INDEX delegation_parent ON delegation (parent) WHERE parent <> '';

CREATE TABLE signing_key (
	id TEXT PRIMARY KEY,
	use TEXT NOT NULL,
	alg TEXT NOT NULL,
	private BYTEA NOT NULL,
	made_at BIGINT NOT NULL,
	signs_from BIGINT NOT NULL,
	signs_until BIGINT NOT NULL,
	accept_until BIGINT NOT NULL,
	compromised_at BIGINT
);

CREATE TABLE revocation (
	id TEXT PRIMARY KEY,
	kind TEXT NOT NULL,
	value TEXT NOT NULL,
	matches TEXT NOT NULL,
	by_whom TEXT NOT NULL,
	at BIGINT NOT NULL,
	lifted_at BIGINT
);
CREATE INDEX revocation_standing ON revocation (matches) WHERE lifted_at IS NULL;

CREATE TABLE revoked_token (
	jti TEXT PRIMARY KEY,
	task TEXT NOT NULL,
	at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL
); -- clustered

CREATE TABLE epoch (
	one BIGINT PRIMARY KEY CHECK (one = 1),
	n BIGINT NOT NULL
);
INSERT INTO epoch (one, n) VALUES (1, 0);

CREATE TABLE epoch_change (
	n BIGINT PRIMARY KEY,
	kind TEXT NOT NULL,
	subject TEXT NOT NULL,
	at BIGINT NOT NULL
);

CREATE TABLE open_call (
	decision TEXT PRIMARY KEY,
	task TEXT NOT NULL,
	proc BIGINT NOT NULL,
	at BIGINT NOT NULL
); -- clustered

CREATE TABLE log_span (
	start BIGINT PRIMARY KEY,
	proc BIGINT NOT NULL,
	seq BIGINT NOT NULL,
	n BIGINT NOT NULL CHECK (n > 0),
	UNIQUE (proc, seq)
);

CREATE TABLE log_tile (
	level BIGINT NOT NULL,
	idx BIGINT NOT NULL,
	data BYTEA NOT NULL,
	PRIMARY KEY (level, idx)
);

CREATE TABLE log_head (
	one BIGINT PRIMARY KEY CHECK (one = 1),
	size BIGINT NOT NULL,
	note BYTEA,
	at BIGINT NOT NULL
);
INSERT INTO log_head (one, size, note, at) VALUES (1, 0, NULL, 0);
