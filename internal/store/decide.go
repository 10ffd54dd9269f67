package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/mayfly-id/mayfly"
)

// What decisions need beside grants: sums and rates, labels seen, approvals,
// pinned tools, and the text of the policies that decided.

// maxSum bounds sums, so that adding one up never leaves 64 bits.
const maxSum = 1 << 61

// SumKey is where [DB.Counters] has what an argument adds up to for a grant. No
// grant's key has a space.
func SumKey(grantKey, argument string) string { return grantKey + " sum " + argument }

// SpendSum adds amount to what an argument adds up to for a grant of a task and
// guards, as "budget:<task>:<grant>", that it stays at max or below. Both are in
// ten-thousandths.
func (tx *Tx) SpendSum(task mayfly.TaskID, grantKey, argument string, amount, max int64) {
	guard := "budget:" + string(task) + ":" + grantKey
	max = min(max, maxSum)
	if amount < 0 || amount > max { // the first would insert its row unasked
		tx.add(never, guard)
		return
	}
	tx.add(spendSum, guard, string(task), SumKey(grantKey, argument), amount, max)
}

// GiveBackSum takes one SpendSum back, unless the task is closed. Not a guard.
func (tx *Tx) GiveBackSum(task mayfly.TaskID, grantKey, argument string, amount int64) {
	tx.add(giveBackSum, "", amount, string(task), SumKey(grantKey, argument))
}

// SpendRate counts one call at now and guards, as "budget:<task>:<grant>", that
// fewer than calls were counted in the span per that ends now, or later by a
// clock that is ahead. The span slides: there is none of that length with more
// calls in it, as long as clocks differ by no more than per.
func (tx *Tx) SpendRate(task mayfly.TaskID, grantKey string, calls int64, per time.Duration, now time.Time) {
	tx.add(spendRate, "budget:"+string(task)+":"+grantKey, string(task), grantKey, micros(now), micros(now.Add(-per)), calls)
	// Changes are not committed in the order of their times: one that is a little
	// late must still find what its own span counts.
	tx.add(dropRate, "", string(task), grantKey, micros(now.Add(-2*per)))
}

// SeenIs guards, as "seen", that the tree under root has seen n labels. Labels
// are only ever added, so the number says whether they are those that were read.
func (tx *Tx) SeenIs(root mayfly.TaskID, n int) { tx.add(seenIs, "seen", string(root), int64(n)) }

// ExtendSeen adds to what the tree under root has seen. Not a guard.
func (tx *Tx) ExtendSeen(root mayfly.TaskID, labels []string) {
	for _, l := range labels {
		tx.add(extendSeen, "", string(root), l)
	}
}

const sealRequest = "approval request"

// InsertApproval writes a as waiting, its request sealed, and guards, as
// "approval", that no other with its key waits or can be used.
func (tx *Tx) InsertApproval(a *mayfly.Approval) {
	tx.aboutPerson()
	tx.add(approvalTwin, "approval", string(a.Task), a.Key, micros(a.AskedAt))
	tx.add(insertApproval, "",
		a.ID, a.What, string(a.Task), string(a.RootTask), a.Profile, string(a.Root.Kind), a.Root.ID, tx.json(a.Root),
		a.Purpose.Text, a.Purpose.By, a.Purpose.Verified, a.Decision, a.Bundle, a.Key, a.Grant, tx.json(a.Needs), int64(len(a.Needs)),
		tx.db.Seal(sealRequest, a.ID, []byte(a.Request)), tx.json(a.Policy), a.Usable.Microseconds(), micros(a.AskedAt), micros(a.ExpiresAt))
}

// ApprovalRoom guards, as "approval limit", that fewer than maxWaiting requests
// of a task wait at now, and fewer than maxHour were made in the hour before.
func (tx *Tx) ApprovalRoom(task mayfly.TaskID, maxWaiting, maxHour int64, now time.Time) {
	tx.add(approvalRoom, "approval limit", string(task), micros(now), maxWaiting, micros(now.Add(-time.Hour)), maxHour)
}

// VoteApproval adds yeses to an approval and guards, as "approval", that it
// waits at now, that nobody spoke for these needs before, and that they are the
// last it lacks just if complete says so. With complete it can be used until
// usableUntil.
func (tx *Tx) VoteApproval(id string, votes []mayfly.Vote, complete bool, usableUntil, now time.Time) {
	n := int64(len(votes))
	if n == 0 {
		tx.add(never, "approval")
		return
	}
	if complete {
		tx.add(completeApproval, "approval", n, micros(now), micros(usableUntil), id)
	} else {
		tx.add(voteApproval, "approval", n, id, micros(now))
	}
	for _, v := range votes {
		tx.add(insertVote, "approval", id, v.Need, v.By, micros(v.At))
	}
}

// DenyApproval ends an approval and guards, as "approval", that it waits at now,
// or was given and can still be used. What was asked for is dropped.
func (tx *Tx) DenyApproval(id, by, note string, now time.Time) {
	tx.add(denyApproval, "approval", micros(now), by, note, id)
}

// UseApproval uses an approval up and guards, as "approval", that it was given,
// was not used, and can be used at now.
func (tx *Tx) UseApproval(id string, now time.Time) {
	tx.add(useApproval, "approval", micros(now), id)
}

// GiveBackApproval makes a used approval usable again, unless its task is closed.
// Not a guard.
func (tx *Tx) GiveBackApproval(id string) { tx.add(giveBackApproval, "", id) }

// DropRequests forgets what was asked for by approvals that ended before before.
func (b *Books) DropRequests(before time.Time) { b.tx.add(dropRequests, "", micros(before)) }

// InsertPin pins a tool and guards, as "pin", that it was not pinned before.
func (tx *Tx) InsertPin(p *mayfly.Pin) {
	tx.add(insertPin, "pin", p.Target, p.Tool, p.Hash, p.Definition, tx.json(p.Labels), tx.json(p.Types), p.By, micros(p.At))
}

// NotePinChange notes that a tool is defined as p.Changed and guards, as "pin",
// that it is pinned to p.Hash, and that this was not noted before.
func (tx *Tx) NotePinChange(p *mayfly.Pin) {
	tx.add(notePinChange, "pin", p.Changed, p.ChangedDefinition, micros(p.ChangedAt), p.Target, p.Tool, p.Hash)
}

// ClearPinChange forgets a noted change and guards, as "pin", that the tool is
// pinned to hash and that there is one.
func (tx *Tx) ClearPinChange(target, tool, hash string) {
	tx.add(clearPinChange, "pin", target, tool, hash)
}

// AcceptPin pins a tool to what it has changed to and guards, as "pin", that this
// is hash.
func (tx *Tx) AcceptPin(target, tool, hash, definition string, labels []string, types map[string]mayfly.FactType, by string, at time.Time) {
	tx.add(acceptPin, "pin", hash, definition, tx.json(labels), tx.json(types), by, micros(at), target, tool)
}

// KeepBundle keeps what must be known of a configuration for as long as its
// decisions are, unless it is there. Not a guard.
func (tx *Tx) KeepBundle(hash string, text []byte, at time.Time) {
	tx.add(keepBundle, "", hash, text, micros(at))
}

// MoveSink says that a reader of the log has come to a position and guards, as
// "sink", that it was at from; -1 is the start.
func (b *Books) MoveSink(name string, from, to int64) { b.tx.add(moveSink, "sink", name, to, from) }

// Counters reads what was counted against each grant of a task: calls by
// Grant.Key, and sums, in ten-thousandths, by [SumKey].
func (db *DB) Counters(ctx context.Context, task mayfly.TaskID) (map[string]int64, error) {
	counters := map[string]int64{}
	_, err := collect(ctx, db, func(rows *sql.Rows) (_ struct{}, err error) {
		var key string
		var n int64
		err = rows.Scan(&key, &n)
		counters[key] = n
		return
	}, readCounters, string(task))
	return counters, err
}

// RateCount reads how many calls were counted in the span per that ends at now.
func (db *DB) RateCount(ctx context.Context, task mayfly.TaskID, grantKey string, per time.Duration, now time.Time) (n int64, err error) {
	err = db.readRow(ctx, readRate, []any{string(task), grantKey, micros(now.Add(-per))}, &n)
	return n, err
}

// Seen reads the labels that the tree under root has seen, sorted.
func (db *DB) Seen(ctx context.Context, root mayfly.TaskID) ([]string, error) {
	return collect(ctx, db, func(rows *sql.Rows) (label string, err error) {
		err = rows.Scan(&label)
		return
	}, readSeen, string(root))
}

func (db *DB) scanApproval(rows *sql.Rows) (*mayfly.Approval, error) {
	var a mayfly.Approval
	var root, needs, policies string
	var votes, usable, asked, expires int64
	var request []byte
	var approved, until, denied, used sql.NullInt64
	err := rows.Scan(&a.ID, &a.What, &a.Task, &a.RootTask, &a.Profile, &root, &a.Purpose.Text, &a.Purpose.By, &a.Purpose.Verified,
		&a.Decision, &a.Bundle, &a.Key, &a.Grant, &needs, &votes, &request, &policies, &usable, &asked, &expires, &approved, &until,
		&denied, &a.DeniedBy, &a.Note, &used)
	if err != nil {
		return nil, err
	}
	a.Usable, a.AskedAt, a.ExpiresAt = time.Duration(usable)*time.Microsecond, fromMicros(asked), fromMicros(expires)
	a.ApprovedAt, a.UsableUntil, a.DeniedAt, a.UsedAt = maybe(approved), maybe(until), maybe(denied), maybe(used)
	if request != nil {
		text, err := db.Unseal(sealRequest, a.ID, request)
		if err != nil {
			return nil, err
		}
		a.Request = string(text)
	}
	if err := errors.Join(decode(root, &a.Root), decode(needs, &a.Needs), decode(policies, &a.Policy)); err != nil {
		return nil, fmt.Errorf("approval %s: %w", a.ID, err)
	}
	if votes > 0 {
		a.Votes = make([]mayfly.Vote, 0, votes) // read by whoever asked
	}
	return &a, nil
}

// approvals runs a read of approvals and adds the votes of each.
func (db *DB) approvals(ctx context.Context, s statement, args ...any) ([]*mayfly.Approval, error) {
	list, err := collect(ctx, db, db.scanApproval, s, args...)
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		if cap(a.Votes) == 0 {
			continue
		}
		a.Votes, err = collect(ctx, db, func(rows *sql.Rows) (v mayfly.Vote, err error) {
			var at int64
			err = rows.Scan(&v.Need, &v.By, &at)
			v.At = fromMicros(at)
			return
		}, readVotes, a.ID)
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (db *DB) oneApproval(ctx context.Context, s statement, args ...any) (*mayfly.Approval, error) {
	list, err := db.approvals(ctx, s, args...)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, mayfly.Errorf(mayfly.NotFound, "there is no such approval")
	}
	return list[0], nil
}

// Approval reads one approval, or NotFound.
func (db *DB) Approval(ctx context.Context, id string) (*mayfly.Approval, error) {
	return db.oneApproval(ctx, readApproval, id)
}

// ApprovalFor reads the newest approval with this key that a task asked for, or
// with task "" an opening without one; or NotFound.
func (db *DB) ApprovalFor(ctx context.Context, task mayfly.TaskID, key string) (*mayfly.Approval, error) {
	return db.oneApproval(ctx, readApprovalFor, string(task), key)
}

// ApprovalFilter narrows a list of approvals.
type ApprovalFilter struct {
	Waiting bool          // only those that wait
	Task    mayfly.TaskID // "" is of all
	After   string        // the last id of the page before
	Limit   int
}

// Approvals lists approvals, newest first.
func (db *DB) Approvals(ctx context.Context, f ApprovalFilter, now time.Time) ([]*mayfly.Approval, error) {
	waitingAt := int64(0)
	if f.Waiting {
		waitingAt = micros(now)
	}
	return db.approvals(ctx, listApprovals, string(f.Task), f.After, waitingAt, int64(f.Limit))
}

func scanPin(rows *sql.Rows) (p mayfly.Pin, err error) {
	var labels, types string
	var at int64
	var changed sql.NullInt64
	err = rows.Scan(&p.Target, &p.Tool, &p.Hash, &p.Definition, &labels, &types, &p.By, &at, &p.Changed, &p.ChangedDefinition, &changed)
	if err != nil {
		return p, err
	}
	p.At, p.ChangedAt = fromMicros(at), maybe(changed)
	return p, errors.Join(decode(labels, &p.Labels), decode(types, &p.Types))
}

// Pins reads every pinned tool, by target and name.
func (db *DB) Pins(ctx context.Context) ([]mayfly.Pin, error) {
	return collect(ctx, db, scanPin, readPins)
}

// Pin reads what a tool is pinned to, or NotFound.
func (db *DB) Pin(ctx context.Context, target, tool string) (*mayfly.Pin, error) {
	list, err := collect(ctx, db, scanPin, readPin, target, tool)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, mayfly.Errorf(mayfly.NotFound, "there is no such pinned tool")
	}
	return &list[0], nil
}

// Bundle reads what was kept of a configuration, or NotFound.
func (db *DB) Bundle(ctx context.Context, hash string) ([]byte, error) {
	var text []byte
	err := db.readRow(ctx, readBundle, []any{hash}, &text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, mayfly.Errorf(mayfly.NotFound, "nothing was kept of this configuration")
	}
	return text, err
}

// Sinks reads how far every reader of the log has come, by name.
func (db *DB) Sinks(ctx context.Context) (map[string]int64, error) {
	type sink struct {
		name string
		at   int64
	}
	list, err := collect(ctx, db, func(rows *sql.Rows) (s sink, err error) {
		err = rows.Scan(&s.name, &s.at)
		return s, err
	}, readSinks)
	all := make(map[string]int64, len(list))
	for _, s := range list {
		all[s.name] = s.at
	}
	return all, err
}

// Standing is how many of what there are now.
type Standing struct {
	Live, Retiring int64 // tasks
	Lent, Ending   int64 // leases
	Stuck          int64 // those of Ending that cannot be returned
	Waiting        int64 // approvals
}

// Standing counts what there is.
func (db *DB) Standing(ctx context.Context, now time.Time) (s Standing, err error) {
	err = db.readRow(ctx, readStanding, []any{micros(now)}, &s.Live, &s.Retiring, &s.Lent, &s.Ending, &s.Stuck, &s.Waiting)
	return s, err
}

// Sink reads how far a reader of the log has come; -1 if it never read.
func (db *DB) Sink(ctx context.Context, name string) (int64, error) {
	at := int64(-1)
	err := db.readRow(ctx, readSink, []any{name}, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return -1, nil
	}
	return at, err
}

// DecisionsAfter reads the decisions on calls whose position in the log is higher
// than after, from since on, in the order of the log; -1 is from the start.
func (db *DB) DecisionsAfter(ctx context.Context, after int64, since time.Time, limit int) ([]EventRow, error) {
	from := int64(0)
	if !since.IsZero() {
		from = micros(since)
	}
	return collect(ctx, db, scanEvent, readDecisionsAfter, after, from, int64(limit))
}

// Bodies opens the bodies of many records, and does not ask for each person's key
// each time: one who is erased stays readable in it for a second. It is safe for
// concurrent use.
type Bodies struct {
	db *DB

	mu    sync.Mutex // guards the fields below
	keys  map[string][]byte
	since time.Time // what keys has is from then on
}

// bodiesFor is how long a person who is erased may stay readable.
const bodiesFor = time.Second

// Bodies makes a reader of bodies.
func (db *DB) Bodies() *Bodies { return &Bodies{db: db} }

// Open is [DB.Body].
func (b *Bodies) Open(ctx context.Context, r *EventRow) (jsontext.Value, error) {
	b.mu.Lock()
	if now := time.Now(); now.Sub(b.since) > bodiesFor {
		b.keys, b.since = map[string][]byte{"": b.db.bodyKey}, now
	}
	keys := b.keys
	key := keys[r.Person]
	b.mu.Unlock()
	if key == nil {
		var err error
		if key, err = b.db.personKey(ctx, r.Person); err != nil {
			return nil, err
		}
		b.mu.Lock()
		keys[r.Person] = key
		b.mu.Unlock()
	}
	return openBody(key, r)
}
