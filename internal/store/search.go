package store

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Place is where the search index has a record: by its time, and among those of
// one time by its position in the log.
type Place struct {
	At       time.Time
	Position int64
}

// Mention notes that the record at a place mentions keys. What is noted already
// stays as it is.
func (b *Books) Mention(at Place, keys []int64) {
	for group := range slices.Chunk(keys, mentionSlots) {
		args := make([]any, 0, mentionSlots+2)
		args = append(args, micros(at.At), at.Position)
		for i := range mentionSlots {
			args = append(args, group[min(i, len(group)-1)]) // the last fills what is left
		}
		b.tx.add(insertMentions, "", args...)
	}
}

// MentionsMost is how many keys Mentions takes at once.
const MentionsMost = int(readMentions9-readMentions1) + 1

// Mentions reads the places before one, and not before from, that mention all of
// keys: the newest first, limit at most. It looks at every place of the first key.
func (db *DB) Mentions(ctx context.Context, keys []int64, before, from Place, limit int) ([]Place, error) {
	if len(keys) == 0 || len(keys) > MentionsMost {
		return nil, mayfly.Errorf(mayfly.Internal, "store: %d keys", len(keys))
	}
	args := []any{keys[0], micros(before.At), before.Position, micros(from.At), from.Position}
	for _, k := range keys[1:] {
		args = append(args, k)
	}
	return collect(ctx, db, func(rows *sql.Rows) (p Place, err error) {
		var at int64
		err = rows.Scan(&at, &p.Position)
		p.At = fromMicros(at)
		return p, err
	}, readMentions1+statement(len(keys)-1), append(args, int64(limit))...)
}

// MentionFloor is the n-th place, counted back from before, that mentions key, and
// from where there are fewer.
func (db *DB) MentionFloor(ctx context.Context, key int64, before, from Place, n int) (Place, error) {
	var at, position int64
	err := db.readRow(ctx, mentionFloor, []any{key, micros(before.At), before.Position, micros(from.At), from.Position, int64(n - 1)}, &at, &position)
	if errors.Is(err, sql.ErrNoRows) {
		return from, nil
	}
	return Place{fromMicros(at), position}, err
}

// EventAt reads the record at a position of the log, or NotFound.
func (db *DB) EventAt(ctx context.Context, position int64) (*EventRow, error) {
	rows, err := collect(ctx, db, scanEvent, readEventAt, position)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, mayfly.Errorf(mayfly.NotFound, "there is no record at this position")
	}
	return &rows[0], nil
}
