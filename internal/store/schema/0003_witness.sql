-- The newest checkpoint that witnesses have cosigned, and since when nothing
-- newer has been while something newer waits: NULL while all is well.

CREATE TABLE log_anchor (
	one BIGINT PRIMARY KEY CHECK (one = 1),
	size BIGINT NOT NULL,
	note BYTEA,
	at BIGINT NOT NULL,
	unanchored_at BIGINT
);
INSERT INTO log_anchor (one, size, note, at, unanchored_at) VALUES (1, 0, NULL, 0, NULL);
