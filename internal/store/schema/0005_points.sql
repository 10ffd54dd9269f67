-- How far each process follows the epoch, and since when: what has been closed
-- by an epoch up to it, the process denies.

ALTER TABLE process ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE process ADD COLUMN epoch_at BIGINT NOT NULL DEFAULT 0;
CREATE INDEX epoch_change_subject ON epoch_change (subject);
