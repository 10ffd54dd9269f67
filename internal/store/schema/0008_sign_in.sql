-- Humans who are signed in to the console. What their browser holds is known by its
-- hash alone.

CREATE TABLE sign_in (
	id TEXT PRIMARY KEY,
	secret TEXT NOT NULL UNIQUE,
	human TEXT NOT NULL,
	subject TEXT NOT NULL,
	at BIGINT NOT NULL,
	opened_at BIGINT NOT NULL,
	seen_at BIGINT NOT NULL,
	ends_at BIGINT NOT NULL
);
CREATE INDEX sign_in_human ON sign_in (human);
