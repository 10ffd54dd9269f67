-- What each record of the log mentions, by a keyed hash of it: a search index that
-- can be made anew from the log.

CREATE TABLE mention (
	key BIGINT NOT NULL,
	at BIGINT NOT NULL,
	position BIGINT NOT NULL,
	PRIMARY KEY (key, at, position)
); -- clustered
