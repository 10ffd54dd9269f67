package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/mayfly-id/mayfly"
)

// InsertLease writes l as pending, before its target is asked.
func (tx *Tx) InsertLease(l *mayfly.Lease) {
	tx.add(insertLease, "", string(l.ID), string(l.Task), tx.json(l.Root), l.Decision, l.Kind, l.Target, l.Role,
		micros(l.OpenedAt), micros(l.ExpiresAt))
}

// ActivateLease says that the credential may be handed out and guards, as
// "lease", that the lease is pending.
func (tx *Tx) ActivateLease(id mayfly.LeaseID, principal string, expires, at time.Time) {
	tx.add(activateLease, "lease", principal, micros(expires), micros(at), string(id))
}

// EndLease says that the credential is to be returned, at once, and guards, as
// "lease", that nobody said so before.
func (tx *Tx) EndLease(id mayfly.LeaseID, reason mayfly.LeaseEnd, at time.Time) {
	tx.add(endLease, "lease", micros(at), string(reason), string(id))
}

// ReturnLease says that the target showed the credential to be gone and guards,
// as "lease", that it was to be returned and nobody said so before.
func (tx *Tx) ReturnLease(id mayfly.LeaseID, at time.Time) {
	tx.add(returnLease, "lease", micros(at), string(id))
}

// AlarmLease notes that an alarm was raised about a lease and guards, as "lease",
// that none was before and it is not returned.
func (tx *Tx) AlarmLease(id mayfly.LeaseID, at time.Time) {
	tx.add(alarmLease, "lease", micros(at), string(id))
}

// FindLease takes ReturnLease back, because the target has the credential after
// all, and guards, as "lease", that it was said.
func (tx *Tx) FindLease(id mayfly.LeaseID, at time.Time) {
	tx.add(findLease, "lease", micros(at), string(id))
}

// TryLease takes the next try to return a lease, and guards, as "lease", that
// nobody else took it: tries is how many there were. If it comes to nothing, the
// one after is due at next.
func (b *Books) TryLease(id mayfly.LeaseID, tries int64, next time.Time) {
	b.tx.add(tryLease, "lease", micros(next), string(id), tries)
}

// HurryLeases makes the next try of every lease that is to be returned due at
// now. Not a guard.
func (b *Books) HurryLeases(now time.Time) { b.tx.add(hurryLeases, "", micros(now)) }

// FailLease notes why the last of so many tries failed, and when the next is due.
// Not a guard.
func (b *Books) FailLease(id mayfly.LeaseID, tries int64, problem string, next time.Time) {
	b.tx.add(failLease, "", problem, micros(next), string(id), tries)
}

// Lease reads one. The error is NotFound if there is none.
func (db *DB) Lease(ctx context.Context, id mayfly.LeaseID) (*mayfly.Lease, error) {
	return one(collect(ctx, db, scanLease, readLease, string(id)))
}

// LeaseOf reads the newest that a target knows by the name principal. The error
// is NotFound if there is none.
func (db *DB) LeaseOf(ctx context.Context, principal string) (*mayfly.Lease, error) {
	return one(collect(ctx, db, scanLease, readLeaseOf, principal))
}

func one(leases []*mayfly.Lease, err error) (*mayfly.Lease, error) {
	switch {
	case err != nil:
		return nil, err
	case len(leases) == 0:
		return nil, mayfly.Errorf(mayfly.NotFound, "there is no such lease")
	}
	return leases[0], nil
}

// LeasesOf reads a task's, oldest first.
func (db *DB) LeasesOf(ctx context.Context, task mayfly.TaskID) ([]*mayfly.Lease, error) {
	return collect(ctx, db, scanLease, readLeasesOf, string(task))
}

// LeasesToEnd reads those that nobody ended yet though their task is closed, or
// they have expired at now; of those that are pending only the ones whose call has
// ended: it was not answered with the credential. While the call is open the
// credential is being made, and there would be nothing to take back yet.
func (db *DB) LeasesToEnd(ctx context.Context, now time.Time, limit int) ([]*mayfly.Lease, error) {
	return collect(ctx, db, scanLease, readLeasesToEnd, micros(now), int64(limit))
}

// LeasesDue reads those to return whose next try is due at now, the longest due
// first.
func (db *DB) LeasesDue(ctx context.Context, now time.Time, limit int) ([]*mayfly.Lease, error) {
	return collect(ctx, db, scanLease, readLeasesDue, micros(now), int64(limit))
}

func scanLease(rows *sql.Rows) (*mayfly.Lease, error) {
	var l mayfly.Lease
	var root string
	var opened, expires int64
	var active, ended, returned, next, alarmed sql.NullInt64
	err := rows.Scan(&l.ID, &l.Task, &root, &l.Decision, &l.Kind, &l.Target, &l.Role, &opened, &expires, &l.Principal,
		&active, &ended, &l.Reason, &returned, &l.Tries, &next, &l.Problem, &alarmed)
	if err != nil {
		return nil, err
	}
	if err := decode(root, &l.Root); err != nil {
		return nil, fmt.Errorf("lease %s: %w", l.ID, err)
	}
	l.OpenedAt, l.ExpiresAt = fromMicros(opened), fromMicros(expires)
	l.ActiveAt, l.EndedAt, l.ReturnedAt, l.NextTry, l.AlarmedAt = maybe(active), maybe(ended), maybe(returned), maybe(next), maybe(alarmed)
	return &l, nil
}
