-- What decisions need beside grants: sums and rates, labels seen, approvals,
-- pinned tools, and the text of the policies that decided.

ALTER TABLE task ADD COLUMN named TEXT NOT NULL DEFAULT '[]';
UPDATE task SET named = grants;

-- The calls that a rate counts, for as long as it counts them.
CREATE TABLE rate_call (
	task TEXT NOT NULL,
	grant_key TEXT NOT NULL,
	at BIGINT NOT NULL,
	n BIGINT NOT NULL,
	PRIMARY KEY (task, grant_key, at, n)
); -- clustered

-- Labels of everything the tree under a root task has touched: only ever more.
CREATE TABLE seen (
	root TEXT NOT NULL,
	label TEXT NOT NULL,
	PRIMARY KEY (root, label)
); -- clustered

CREATE TABLE approval (
	id TEXT PRIMARY KEY,
	what TEXT NOT NULL,
	task TEXT NOT NULL,
	root_task TEXT NOT NULL,
	profile TEXT NOT NULL,
	root_kind TEXT NOT NULL,
	root_sub TEXT NOT NULL,
	root_json TEXT NOT NULL,
	purpose TEXT NOT NULL,
	purpose_by TEXT NOT NULL,
	purpose_verified BOOLEAN NOT NULL,
	decision TEXT NOT NULL,
	bundle TEXT NOT NULL,
	key TEXT NOT NULL,
	does TEXT NOT NULL,
	needs TEXT NOT NULL,
	needed BIGINT NOT NULL CHECK (needed > 0),
	votes BIGINT NOT NULL CHECK (votes <= needed),
	request BYTEA,
	policies TEXT NOT NULL,
	usable BIGINT NOT NULL,
	asked_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	approved_at BIGINT,
	usable_until BIGINT,
	denied_at BIGINT,
	denied_by TEXT NOT NULL,
	note TEXT NOT NULL,
	used_at BIGINT
);
CREATE INDEX approval_task ON approval (task, asked_at);
CREATE INDEX approval_key ON approval (task, key);
CREATE INDEX approval_waiting ON approval (expires_at) WHERE approved_at IS NULL AND denied_at IS NULL;
CREATE INDEX approval_request ON approval (expires_at) WHERE request IS NOT NULL;

CREATE TABLE approval_vote (
	approval TEXT NOT NULL,
	need TEXT NOT NULL,
	by_whom TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (approval, need)
); -- clustered

CREATE TABLE pin (
	target TEXT NOT NULL,
	tool TEXT NOT NULL,
	hash TEXT NOT NULL,
	definition TEXT NOT NULL,
	labels TEXT NOT NULL,
	types TEXT NOT NULL,
	by_whom TEXT NOT NULL,
	at BIGINT NOT NULL,
	changed TEXT NOT NULL,
	changed_definition TEXT NOT NULL,
	changed_at BIGINT,
	PRIMARY KEY (target, tool)
);

CREATE TABLE bundle (
	hash TEXT PRIMARY KEY,
	text BYTEA NOT NULL,
	at BIGINT NOT NULL
);

-- How far each reader of the log has come.
CREATE TABLE sink (
	name TEXT PRIMARY KEY,
	position BIGINT NOT NULL
);
