-- Outside credentials on loan. A row is there before the target is asked, and
-- is over only once the target showed that the credential is gone.

CREATE TABLE lease (
	id TEXT PRIMARY KEY,
	task TEXT NOT NULL,
	root_json TEXT NOT NULL,
	decision TEXT NOT NULL,
	kind TEXT NOT NULL,
	target TEXT NOT NULL,
	role TEXT NOT NULL,
	opened_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	principal TEXT NOT NULL,
	active_at BIGINT,
	ended_at BIGINT,
	reason TEXT NOT NULL,
	returned_at BIGINT CHECK (returned_at IS NULL OR ended_at IS NOT NULL),
	tries BIGINT NOT NULL,
	next_try BIGINT,
	problem TEXT NOT NULL,
	alarmed_at BIGINT
);
CREATE INDEX lease_task ON lease (task);
CREATE INDEX lease_principal ON lease (principal) WHERE principal <> '';
CREATE INDEX lease_open ON lease (expires_at) WHERE ended_at IS NULL;
CREATE INDEX lease_due ON lease (next_try) WHERE ended_at IS NOT NULL AND returned_at IS NULL;
