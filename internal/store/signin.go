package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/mayfly-id/mayfly"
)

// SignIn keeps a sign-in, found again by the hash of what the browser holds.
func (tx *Tx) SignIn(s *mayfly.SignIn, secretHash string) {
	at := int64(0)
	if !s.At.IsZero() {
		at = micros(s.At)
	}
	tx.add(insertSignIn, "", s.ID, secretHash, s.Human.ID, tx.json(s.Human), at, micros(s.OpenedAt), micros(s.SeenAt), micros(s.EndsAt))
}

// SignOut ends a sign-in and guards, as "sign-in", that it was there.
func (tx *Tx) SignOut(id string) { tx.add(deleteSignIn, "sign-in", id) }

// SeeSignIn notes that a sign-in was used.
func (b *Books) SeeSignIn(id string, now time.Time) { b.tx.add(seeSignIn, "", micros(now), id) }

// PurgeSignIns drops those that were over at now.
func (b *Books) PurgeSignIns(now time.Time) {
	b.tx.add(purgeSignIns, "", micros(now), micros(now.Add(-mayfly.SignInIdle)))
}

// SignIn finds a sign-in by the hash of what the browser holds, or NotFound.
func (db *DB) SignIn(ctx context.Context, secretHash string) (*mayfly.SignIn, error) {
	rows, err := collect(ctx, db, func(rows *sql.Rows) (*mayfly.SignIn, error) {
		var s mayfly.SignIn
		var subject string
		var at, opened, seen, ends int64
		if err := rows.Scan(&s.ID, &subject, &at, &opened, &seen, &ends); err != nil {
			return nil, err
		}
		if at != 0 {
			s.At = fromMicros(at)
		}
		s.OpenedAt, s.SeenAt, s.EndsAt = fromMicros(opened), fromMicros(seen), fromMicros(ends)
		return &s, decode(subject, &s.Human)
	}, readSignIn, secretHash)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, mayfly.Errorf(mayfly.NotFound, "there is no such sign-in")
	}
	return rows[0], nil
}
