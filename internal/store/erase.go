package store

import (
	"context"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Erase destroys the key of the person with this pseudonym, so that nobody can read
// what records say of them, nor tell whose pseudonym it was, and puts the
// pseudonym in the place of human in every row about them. It guards, as "erased",
// that they were not erased before, and as "live", that no task of theirs is live
// or still to be retired. Their tickets are void, and what waits for approval is
// denied, and they are signed out. A revocation of them that stands goes on
// standing, by name.
func (tx *Tx) Erase(pseudonym, human string, now time.Time) {
	root := tx.json(mayfly.Subject{Kind: mayfly.Human, ID: pseudonym})
	tx.add(noLiveTask, "live", pseudonym)
	tx.add(erasePerson, "erased", pseudonym)
	tx.add(eraseTasks, "", pseudonym, root, human)
	tx.add(eraseLeases, "", root, pseudonym)
	tx.add(eraseDelegations, "", pseudonym, root, micros(now), human)
	tx.add(eraseApprovals, "", pseudonym, root, micros(now), human)
	tx.add(eraseLifted, "", pseudonym, human)
	tx.add(eraseSignIns, "", human)
}

// Forget drops what this process remembers of an erased person.
func (db *DB) Forget(pseudonym string) { db.persons.forget(pseudonym) }

// Scrub removes from the disk what rows held before they were changed, as far as
// the engine can: the write-ahead log on SQLite, old row versions on PostgreSQL.
func (db *DB) Scrub(ctx context.Context) error {
	if db.readOnly {
		return nil
	}
	return db.engine.scrub(ctx)
}
