package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/mayfly-id/mayfly"
)

// collect runs a read and scans each row.
func collect[T any](ctx context.Context, db *DB, scan func(*sql.Rows) (T, error), s statement, args ...any) ([]T, error) {
	ctx, cancel := db.reading(ctx)
	defer cancel()
	rows, err := db.reads[s-writes].QueryContext(ctx, args...)
	if err != nil {
		return nil, unreadable(err)
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, unreadable(err)
		}
		all = append(all, v)
	}
	if err := rows.Err(); err != nil {
		return nil, unreadable(err)
	}
	return all, nil
}

// readRow runs a read of one row, or gives sql.ErrNoRows.
func (db *DB) readRow(ctx context.Context, s statement, args []any, into ...any) error {
	ctx, cancel := db.reading(ctx)
	defer cancel()
	err := db.reads[s-writes].QueryRowContext(ctx, args...).Scan(into...)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return unreadable(err)
	}
	return err
}

// readWithin bounds a read from a server that may have gone silent. It is what
// the server itself gives a statement.
const readWithin = 5 * time.Second

func (db *DB) reading(ctx context.Context) (context.Context, context.CancelFunc) {
	if !db.engine.shared() {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, readWithin)
}

func unreadable(err error) error {
	return mayfly.Errorf(mayfly.Unavailable, "the store cannot be read just now; try again").Because(err)
}

func fromMicros(n int64) time.Time { return time.UnixMicro(n).UTC() }

// maybe is a time that may not have come.
func maybe(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return fromMicros(n.Int64)
}

// TaskRow is a task with what only the store counts.
type TaskRow struct {
	mayfly.Task
	Version  int64 // grows with each SetGrants
	Children int64 // opened below it, ended ones included
}

func scanTask(rows *sql.Rows) (*TaskRow, error) {
	var r TaskRow
	var root, ancestors, grants, agent, reason, named string
	var depth, opened, deadline, idle, until int64
	var closed, retired sql.NullInt64
	err := rows.Scan(&r.ID, &r.Profile, &r.Bundle, &r.Purpose.Text, &r.Purpose.By, &r.Purpose.Verified, &root, &r.Parent, &r.RootTask,
		&ancestors, &depth, &grants, &agent, &r.Key, &r.Dlg, &r.Ticket, &opened, &deadline, &idle, &until,
		&r.Budget, &r.Calls, &r.Children, &r.Version, &closed, &reason, &r.ClosedBy, &retired, &named)
	if err != nil {
		return nil, err
	}
	r.Depth, r.Reason, r.Idle = int(depth), mayfly.CloseReason(reason), time.Duration(idle)*time.Microsecond
	r.OpenedAt, r.Deadline, r.IdleUntil = fromMicros(opened), fromMicros(deadline), fromMicros(until)
	r.ClosedAt, r.RetiredAt = maybe(closed), maybe(retired)
	err = errors.Join(decode(root, &r.Root), decode(ancestors, &r.Ancestors), decode(grants, &r.Grants), decode(agent, &r.Agent),
		decode(named, &r.Named))
	if err != nil {
		return nil, fmt.Errorf("task %s: %w", r.ID, err)
	}
	if len(r.Ancestors) == 0 {
		r.Ancestors = nil
	}
	return &r, nil
}

func decode(text string, into any) error { return json.Unmarshal([]byte(text), into) }

// Task reads one task, or NotFound.
func (db *DB) Task(ctx context.Context, id mayfly.TaskID) (*TaskRow, error) {
	rows, err := collect(ctx, db, scanTask, readTask, string(id))
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, mayfly.Errorf(mayfly.NotFound, "there is no such task")
	}
	return rows[0], nil
}

// tasksSlots is the length of the IN list of readTasks.
const tasksSlots = 8

// TasksByID reads the tasks with these ids that exist.
func (db *DB) TasksByID(ctx context.Context, ids []mayfly.TaskID) (map[mayfly.TaskID]*TaskRow, error) {
	found := make(map[mayfly.TaskID]*TaskRow, len(ids))
	for part := range slices.Chunk(ids, tasksSlots) {
		args := make([]any, tasksSlots)
		for i := range args {
			args[i] = string(part[min(i, len(part)-1)])
		}
		rows, err := collect(ctx, db, scanTask, readTasks, args...)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			found[r.ID] = r
		}
	}
	return found, nil
}

// Children reads the tasks right below id, oldest first.
func (db *DB) Children(ctx context.Context, id mayfly.TaskID) ([]*TaskRow, error) {
	return collect(ctx, db, scanTask, readChildren, string(id))
}

// Descendants reads every task below id, parents before their children.
func (db *DB) Descendants(ctx context.Context, id mayfly.TaskID) ([]*TaskRow, error) {
	return collect(ctx, db, scanTask, readDescendants, string(id))
}

// Filter narrows a list of tasks; what is zero does not narrow.
type Filter struct {
	State    mayfly.TaskState // of the task itself at Now, whatever its parents are
	Now      time.Time        // required with State
	Profile  string
	RootKind mayfly.SubjectKind
	RootSub  string
	Target   string        // some grant of the task names it
	Under    mayfly.TaskID // this task and everything below it
	After    string        // the id of the last task of the page before
	Limit    int           // at most; 0 is 100
}

// listScan is how many tasks a list looks at, at most, for those with a target.
const listScan = 10_000

// ListTasks reads tasks, newest first, as their ids are ordered by time. With Target it may give fewer than Limit
// when they are rare: it looks at the newest 10,000 only.
func (db *DB) ListTasks(ctx context.Context, f Filter) ([]*TaskRow, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	after := f.After
	if after == "" {
		after = "\U0010FFFF" // sorts behind every id
	}
	list := listTasks
	if f.Under != "" {
		list = listUnder
	}
	var found []*TaskRow
	for seen := 0; ; {
		limit := f.Limit - len(found)
		if f.Target != "" {
			limit = max(limit, 500)
		}
		rows, err := collect(ctx, db, scanTask, list, string(f.Under), f.Profile, string(f.RootKind), f.RootSub, string(f.State),
			micros(f.Now), after, int64(limit))
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if f.Target == "" || slices.ContainsFunc(r.Grants, func(g mayfly.Grant) bool { return g.Target == f.Target }) {
				if found = append(found, r); len(found) == f.Limit {
					return found, nil
				}
			}
		}
		seen += len(rows)
		if len(rows) < limit || seen >= listScan {
			return found, nil
		}
		last := rows[len(rows)-1]
		after = string(last.ID)
	}
}

func scanOnlyTask(rows *sql.Rows) (*mayfly.Task, error) {
	r, err := scanTask(rows)
	if err != nil {
		return nil, err
	}
	return &r.Task, nil
}

// Expired reads open tasks whose idle lease or deadline has run out at now.
func (db *DB) Expired(ctx context.Context, now time.Time, limit int) ([]*mayfly.Task, error) {
	return collect(ctx, db, scanOnlyTask, readExpired, micros(now), int64(limit))
}

// Orphans reads open tasks whose parent is closed.
func (db *DB) Orphans(ctx context.Context, limit int) ([]*mayfly.Task, error) {
	return collect(ctx, db, scanOnlyTask, readOrphans, int64(limit))
}

// ToRetire reads closed tasks with nothing below them that is not retired, and
// nothing on loan.
func (db *DB) ToRetire(ctx context.Context, limit int) ([]*mayfly.Task, error) {
	return collect(ctx, db, scanOnlyTask, readToRetire, int64(limit))
}

func scanDelegation(rows *sql.Rows) (*mayfly.Delegation, error) {
	var d mayfly.Delegation
	var grants, root string
	var expires, ttl, made int64
	var voided sql.NullInt64
	err := rows.Scan(&d.ID, &d.Profile, &d.Purpose.Text, &d.Purpose.By, &d.Purpose.Verified, &grants, &root, &d.Parent, &expires, &ttl,
		&d.Uses, &d.Used, &made, &d.Dlg, &voided)
	if err != nil {
		return nil, err
	}
	d.ExpiresAt, d.MadeAt, d.VoidedAt = fromMicros(expires), fromMicros(made), maybe(voided)
	d.TaskTTL = time.Duration(ttl) * time.Microsecond
	if err := errors.Join(decode(grants, &d.Grants), decode(root, &d.Root)); err != nil {
		return nil, fmt.Errorf("delegation %s: %w", d.ID, err)
	}
	return &d, nil
}

// Delegation reads one delegation, or NotFound.
func (db *DB) Delegation(ctx context.Context, id string) (*mayfly.Delegation, error) {
	return db.oneDelegation(ctx, readDelegation, id)
}

// DelegationBySecret reads the delegation whose ticket has this hash, or NotFound.
func (db *DB) DelegationBySecret(ctx context.Context, secretHash []byte) (*mayfly.Delegation, error) {
	return db.oneDelegation(ctx, readDelegationBySecret, secretHash)
}

func (db *DB) oneDelegation(ctx context.Context, s statement, arg any) (*mayfly.Delegation, error) {
	rows, err := collect(ctx, db, scanDelegation, s, arg)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, mayfly.Errorf(mayfly.NotFound, "there is no such delegation")
	}
	return rows[0], nil
}

// Key is a signing key. Private is in clear here and sealed in the database.
type Key struct {
	ID            string
	Use           string // token or log
	Algorithm     string
	Private       []byte // PKCS #8
	MadeAt        time.Time
	SignsFrom     time.Time
	SignsUntil    time.Time
	AcceptUntil   time.Time
	CompromisedAt time.Time // zero unless it is not to be trusted
}

// Keys reads the signing keys for a use, oldest first.
func (db *DB) Keys(ctx context.Context, use string) ([]Key, error) {
	return collect(ctx, db, func(rows *sql.Rows) (k Key, err error) {
		var made, from, until, accept int64
		var compromised sql.NullInt64
		var box []byte
		if err := rows.Scan(&k.ID, &k.Use, &k.Algorithm, &box, &made, &from, &until, &accept, &compromised); err != nil {
			return Key{}, err
		}
		k.MadeAt, k.SignsFrom, k.SignsUntil, k.AcceptUntil = fromMicros(made), fromMicros(from), fromMicros(until), fromMicros(accept)
		k.CompromisedAt = maybe(compromised)
		k.Private, err = db.Unseal(sealKey, k.ID, box)
		return k, err
	}, readKeys, use)
}

// Epoch reads the newest epoch. What it gives was asked for after the call began.
func (db *DB) Epoch(ctx context.Context) (int64, error) {
	var n int64
	err := db.readRow(ctx, readEpoch, nil, &n)
	return n, err
}

// EpochChange is one advance of the epoch and what it was for.
type EpochChange struct {
	N             int64
	Kind, Subject string // as Advance was told
	At            time.Time
}

// EpochChangesSince reads the advances after epoch n, in order.
func (db *DB) EpochChangesSince(ctx context.Context, n int64, limit int) ([]EpochChange, error) {
	return collect(ctx, db, func(rows *sql.Rows) (c EpochChange, err error) {
		var at int64
		err = rows.Scan(&c.N, &c.Kind, &c.Subject, &at)
		c.At = fromMicros(at)
		return c, err
	}, readEpochChanges, n, int64(limit))
}

// ActiveRevocations reads the revocations that stand, oldest first.
func (db *DB) ActiveRevocations(ctx context.Context) ([]mayfly.Revocation, error) {
	return collect(ctx, db, func(rows *sql.Rows) (r mayfly.Revocation, err error) {
		var at int64
		err = rows.Scan(&r.ID, &r.Kind, &r.Value, &r.By, &at)
		r.At = fromMicros(at)
		return r, err
	}, readRevocations)
}

// RevokedToken is a token that is dead before its time.
type RevokedToken struct {
	JTI       string
	Task      mayfly.TaskID
	At        time.Time
	ExpiresAt time.Time
}

// RevokedTokens reads the revoked tokens that the clock has not ended at now.
func (db *DB) RevokedTokens(ctx context.Context, now time.Time) ([]RevokedToken, error) {
	return collect(ctx, db, func(rows *sql.Rows) (r RevokedToken, err error) {
		var at, expires int64
		err = rows.Scan(&r.JTI, &r.Task, &at, &expires)
		r.At, r.ExpiresAt = fromMicros(at), fromMicros(expires)
		return r, err
	}, readRevokedTokens, micros(now))
}

// OpenCall is an allowed call whose outcome is due.
type OpenCall struct {
	Decision string
	Task     mayfly.TaskID
	At       time.Time
}

// AbandonedCalls reads calls whose outcome is due from a process that is no
// more: on SQLite every process but this one, on PostgreSQL one that was not
// seen for a minute.
func (db *DB) AbandonedCalls(ctx context.Context, limit int) ([]OpenCall, error) {
	aliveSince := int64(math.MaxInt64)
	if db.engine.shared() {
		aliveSince = micros(time.Now().Add(-aliveFor))
	}
	return collect(ctx, db, func(rows *sql.Rows) (c OpenCall, err error) {
		var at int64
		err = rows.Scan(&c.Decision, &c.Task, &at)
		c.At = fromMicros(at)
		return c, err
	}, readAbandoned, db.proc, aliveSince, int64(limit))
}

// AnyOpenCall reports whether the outcome of a call of a task, or of one below
// it, is due.
func (db *DB) AnyOpenCall(ctx context.Context, task mayfly.TaskID) (bool, error) {
	var decision string
	err := db.readRow(ctx, callUnder, []any{string(task), `"` + string(task) + `"`}, &decision)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// Run is what one process has written and the log has not yet: Rows begin with
// number Next, and their MACs follow from Previous, if nobody altered them.
type Run struct {
	Proc     int64
	Next     int64
	Previous []byte // nil if the row it should come from is missing
	Rows     []EventRow
}

// Unsequenced reads up to limit records that have no position yet, in the order
// of each process, shared fairly between processes.
func (db *DB) Unsequenced(ctx context.Context, limit int) ([]Run, error) {
	heads, err := collect(ctx, db, func(rows *sql.Rows) (r Run, err error) { err = rows.Scan(&r.Proc, &r.Next); return r, err }, readHeads)
	if err != nil {
		return nil, err
	}
	var runs []Run
	for _, r := range heads {
		if r.Rows, err = collect(ctx, db, scanEvent, readRun, r.Proc, r.Next, int64(limit)); err != nil {
			return nil, err
		}
		if len(r.Rows) > 0 {
			runs = append(runs, r)
		}
	}
	total := 0
	for i := range runs {
		share := max(1, (limit-total)/(len(runs)-i))
		if limit == total {
			runs = runs[:i]
			break
		}
		runs[i].Rows = runs[i].Rows[:min(share, len(runs[i].Rows))]
		total += len(runs[i].Rows)
	}
	for i := range runs {
		r := &runs[i]
		if r.Next == 1 {
			r.Previous = NoMAC()
			continue
		}
		err := db.readRow(ctx, readMAC, []any{r.Proc, r.Next - 1}, &r.Previous)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
	}
	return runs, nil
}

// Span says that the N events of Proc from Seq on have the positions from Start on.
type Span struct{ Start, Proc, Seq, N int64 }

// Spans reads the spans that begin after the position after, in order; -1 is
// from the start.
func (db *DB) Spans(ctx context.Context, after int64, limit int) ([]Span, error) {
	return collect(ctx, db, func(rows *sql.Rows) (s Span, err error) {
		err = rows.Scan(&s.Start, &s.Proc, &s.Seq, &s.N)
		return s, err
	}, readSpans, after, int64(limit))
}

// Tile reads a tile of the log, nil if there is none.
func (db *DB) Tile(ctx context.Context, level, idx int64) ([]byte, error) {
	var data []byte
	err := db.readRow(ctx, readTile, []any{level, idx}, &data)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return data, err
}

// Head is the signed tree head. An empty log that was never signed has size 0
// and no note.
type Head struct {
	Size int64
	Note []byte
	At   time.Time
}

// Head reads the newest signed tree head.
func (db *DB) Head(ctx context.Context) (Head, error) {
	var h Head
	var at int64
	err := db.readRow(ctx, readHead, nil, &h.Size, &h.Note, &at)
	h.At = fromMicros(at)
	return h, err
}

// Anchor is the newest checkpoint that witnesses have cosigned. Before the first
// it has size 0 and no note.
type Anchor struct {
	Size int64
	Note []byte // the checkpoint with its cosignatures
	At   time.Time
	// UnanchoredAt is when it was noted that nothing newer was cosigned for too
	// long; zero while that is not so.
	UnanchoredAt time.Time
}

// Anchor reads the newest cosigned checkpoint.
func (db *DB) Anchor(ctx context.Context) (Anchor, error) {
	var a Anchor
	var at int64
	var unanchored sql.NullInt64
	err := db.readRow(ctx, readAnchor, nil, &a.Size, &a.Note, &at, &unanchored)
	a.At, a.UnanchoredAt = fromMicros(at), maybe(unanchored)
	return a, err
}

// Follower is one process and how far it follows the epoch.
type Follower struct {
	Node  string
	Epoch int64
	At    time.Time // since when, at the latest
}

// Followers are the processes that ran at a time.
func (db *DB) Followers(ctx context.Context, at time.Time) ([]Follower, error) {
	return collect(ctx, db, func(rows *sql.Rows) (Follower, error) {
		var f Follower
		var followed int64
		err := rows.Scan(&f.Node, &f.Epoch, &followed)
		f.At = fromMicros(followed)
		return f, err
	}, readProcesses, micros(at), micros(at.Add(-aliveFor)))
}

// EpochOf is the epoch by which a process denies for the last of a chain that
// closed at a time; 0 if the clock alone closed it, which needs none.
func (db *DB) EpochOf(ctx context.Context, chain []mayfly.TaskID, closed time.Time) (n int64, err error) {
	args := make([]any, 0, chainSlots+1)
	for i := range chainSlots {
		args = append(args, string(chain[min(i, len(chain)-1)]))
	}
	err = db.readRow(ctx, readEpochOf, append(args, micros(closed)), &n)
	return n, err
}
