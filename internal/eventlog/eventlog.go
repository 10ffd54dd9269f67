// Package eventlog makes the committed events of the store into one transparency
// log: it gives them positions, extends the Merkle tree, signs its checkpoints,
// and lets others read and check them (c2sp.org/tlog-tiles). It does not record
// events, which only [store.DB.Change] does, and decides nothing. Start reading
// at [Log.Sequence]; the checker, which shares no code with the writer, at
// [Verify].
package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Options are what a log is opened with.
type Options struct {
	// Origin names the log for ever: "<issuer host>/log". A store that has a log
	// of another name is refused.
	Origin string
	Logger *slog.Logger     // nil logs nothing
	Now    func() time.Time // nil is time.Now
}

// Log is the transparency log of one store. Any number of processes may run one
// over the same store: the swap of the head lets one of them through at a time.
type Log struct {
	db     *store.DB
	key    key
	logger *slog.Logger
	now    func() time.Time

	step     sync.Mutex // held for a whole step; guards the three below
	last     tree       // the newest tree whose checkpoint this process knows to be stored
	note     []byte     // the checkpoint of last
	followed time.Time  // when another process was last seen to have moved the log

	leads atomic.Bool // this process moved the log last
	acks  acks
	alarm atomic.Pointer[mayfly.Error]
}

// keyUse marks the log's key among the store's signing keys.
const keyUse = "log"

// always is when what has no end ends: the key of a log is its identity.
var always = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// Open takes up the log in db where it stands, and makes its key in a new store.
func Open(ctx context.Context, db *store.DB, o Options) (*Log, error) {
	l := &Log{db: db, logger: o.Logger, now: o.Now}
	if l.logger == nil {
		l.logger = slog.New(slog.DiscardHandler)
	}
	if l.now == nil {
		l.now = time.Now
	}
	k, err := loadKey(ctx, db)
	if err != nil {
		return nil, err
	}
	if k == nil {
		if k, err = makeKey(ctx, db, o.Origin, l.now()); err != nil {
			return nil, err
		}
	}
	if l.key = *k; l.Origin() != o.Origin {
		return nil, mayfly.Errorf(mayfly.Conflict,
			"the log in this store is called %s, and the configuration calls it %s: an issuer keeps its host, or starts a new store", l.Origin(), o.Origin)
	}
	if l.last, err = emptyTree(); err != nil {
		return nil, err
	}
	head, err := db.Head(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.follow(ctx, head); err != nil {
		return nil, err
	}
	if err := l.holds(ctx); err != nil {
		return nil, err
	}
	l.followed = time.Time{} // whoever it was may be gone
	return l, nil
}

// loadKey is the key of the log in db, nil if there is none.
func loadKey(ctx context.Context, db *store.DB) (*key, error) {
	stored, err := db.Keys(ctx, keyUse)
	if err != nil || len(stored) == 0 {
		return nil, err
	}
	if len(stored) > 1 {
		return nil, errors.New("eventlog: the store has more than one log key")
	}
	k, err := parseKey(stored[0].ID, stored[0].Private)
	return &k, err
}

// makeKey makes the key, in one change with the record that says so. Of several
// processes that start on a new store one wins and the rest take its key.
func makeKey(ctx context.Context, db *store.DB, origin string, now time.Time) (*key, error) {
	k, private, err := newKey(origin)
	if err != nil {
		return nil, err
	}
	rec, err := db.Prepare(ctx, now, "", mayfly.KeyMade{KeyID: k.vkey, Algorithm: "Ed25519", SignsFrom: now})
	if err != nil {
		return nil, err
	}
	err = db.Change(ctx, rec, func(tx *store.Tx) {
		tx.Once("log key", "", always)
		tx.InsertKey(store.Key{
			ID: k.vkey, Use: keyUse, Algorithm: "Ed25519", Private: private,
			MadeAt: now, SignsFrom: now, SignsUntil: always, AcceptUntil: always,
		})
	})
	if _, lost := errors.AsType[*store.Refused](err); lost {
		return loadKey(ctx, db)
	}
	return &k, err
}

// Origin is the log's name, and the name of its key.
func (l *Log) Origin() string { return l.key.verifier.Name() }

// VKey is the verifier key of c2sp.org/signed-note, one line without its end.
func (l *Log) VKey() string { return l.key.vkey }

// Leads reports whether this process is the one that moved the log last, as far
// as it has seen. Of several over one store it is the one to speak for the log.
func (l *Log) Leads() bool { return l.leads.Load() }

// Err is why nothing may be issued any more, nil while all is well: the log
// found something altered. It stays until a person has looked and the process
// is started again.
func (l *Log) Err() error {
	if e := l.alarm.Load(); e != nil {
		return e
	}
	return nil
}

// Alarm is what the log found altered, "" while all is well.
func (l *Log) Alarm() string {
	if e := l.alarm.Load(); e != nil {
		return e.Unwrap().Error()
	}
	return ""
}

// raise stops the log, and whoever asks Err, for good.
func (l *Log) raise(ctx context.Context, format string, args ...any) error {
	found := fmt.Errorf(format, args...)
	e := mayfly.Errorf(mayfly.Unavailable, "the event log does not add up, so nothing is issued; an operator must run mayfly log verify").Because(found)
	if !l.alarm.CompareAndSwap(nil, e) {
		return l.Err()
	}
	l.logger.Error("the event log was altered: issuing stops", "found", found)
	// The record is for whoever looks later; the alarm does not depend on it.
	rec, err := l.db.Prepare(ctx, l.now(), "", mayfly.Alarm{What: "log", Detail: found.Error()})
	if err == nil {
		err = l.db.Change(ctx, rec, func(*store.Tx) {})
	}
	if err != nil {
		l.logger.Error("the alarm could not be recorded", "error", err)
	}
	return e
}

const (
	// batch is how many records get positions in one change.
	batch = 256
	// breath is how long a step waits for more to come after one that was not
	// full. With it, and with lookEvery for what other processes recorded, a
	// record is under a checkpoint well within a second.
	breath    = 50 * time.Millisecond
	lookEvery = 200 * time.Millisecond
	// deference is how long a process leaves the log to another that was seen
	// to move it. The swap keeps two from forking it, but the one that loses
	// has its whole commit run again.
	deference = 2 * lookEvery
)

// Run sequences until ctx ends, or returns the alarm. Everything else, such as a
// store that cannot be reached, is logged and tried again.
func (l *Log) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.db.Committed():
		case <-timer.C:
		}
		n, err := l.turn(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case l.Err() != nil:
			return l.Err()
		case err == nil:
			failing = false
		case errors.Is(err, errOvertaken):
		case !failing: // say it once, not every time
			failing = true
			l.logger.Warn("sequencing fails and is tried again", "error", err, "cause", errors.Unwrap(err))
		}
		if n == batch {
			timer.Reset(0)
			continue
		}
		timer.Reset(breath)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		timer.Reset(lookEvery)
	}
}

// errOvertaken: another process sequenced first; the next step follows it.
var errOvertaken = errors.New("eventlog: another process moved the log first")

// Sequence is one step: it gives up to 256 committed records their positions and
// signs the tree they make. n is how many; it is 0 with no error when none wait.
//
// One change of the store holds positions, tiles and head, guarded by the size
// the head had: a crash leaves all of it or none, and of two processes that
// sequence at once one is refused. A checkpoint leaves this process only by
// being read back from the store, so one that was signed and not stored was
// never seen by anybody.
func (l *Log) Sequence(ctx context.Context) (n int, err error) {
	l.step.Lock()
	defer l.step.Unlock()
	// The head is read before the records: if another process moves it in
	// between, the swap below is refused.
	head, err := l.look(ctx)
	if err != nil {
		return 0, err
	}
	runs, err := l.db.Unsequenced(ctx, batch)
	if err != nil {
		return 0, err
	}
	leaves, err := l.check(ctx, runs)
	if err != nil || len(leaves) == 0 {
		return 0, err
	}
	next, tiles, err := l.last.append(leaves)
	if err != nil {
		return 0, err
	}
	// A clock that stands or goes back may be a copy of a machine that went on
	// without it. The next step looks again.
	at := l.now()
	if !at.Truncate(time.Microsecond).After(head.At) {
		return 0, mayfly.Errorf(mayfly.Unavailable, "the clock has not moved since the checkpoint of %s", head.At.Format(time.RFC3339Nano))
	}
	signed, err := l.key.sign(next.Tree)
	if err != nil {
		return 0, err
	}
	failpoint.Here("eventlog.before-head")
	err = l.db.Keep(ctx, func(b *store.Books) {
		b.Soon()
		b.MoveHead(head.Size, next.N, signed, at)
		start := head.Size
		for _, r := range runs {
			b.AppendSpan(start, r.Proc, r.Next, int64(len(r.Rows)))
			start += int64(len(r.Rows))
		}
		for _, t := range tiles {
			b.PutTile(int64(t.level), t.index, t.data)
		}
	})
	if err != nil {
		// It may be stored or not, and by us or by another process: the next
		// step follows the head wherever it is.
		if now, unread := l.db.Head(ctx); unread == nil && now.Size != head.Size {
			return 0, errOvertaken
		}
		return 0, err
	}
	failpoint.Here("eventlog.after-head")
	l.leads.Store(true)
	l.last, l.note = next, signed
	l.acks.seen(leaves, at)
	return len(leaves), nil
}

// turn is Sequence, unless it is another process's turn.
func (l *Log) turn(ctx context.Context) (n int, err error) {
	l.step.Lock()
	if l.now().Sub(l.followed) < deference {
		defer l.step.Unlock()
		_, err := l.look(ctx)
		return 0, err
	}
	l.step.Unlock()
	return l.Sequence(ctx)
}

// look follows the head to where it is, and misses what should be under it.
func (l *Log) look(ctx context.Context) (store.Head, error) {
	if err := l.Err(); err != nil {
		return store.Head{}, err
	}
	head, err := l.db.Head(ctx)
	if err == nil {
		err = l.follow(ctx, head)
	}
	if err == nil {
		err = l.lookUp(ctx)
	}
	return head, err
}

// check is the leaf hashes of runs, in order, if every row is what a process of
// this store wrote next. No position is given past one that is not.
func (l *Log) check(ctx context.Context, runs []store.Run) ([]tlog.Hash, error) {
	var leaves []tlog.Hash
	for _, r := range runs {
		previous := r.Previous
		for i, row := range r.Rows {
			if want := r.Next + int64(i); row.Seq != want {
				return nil, l.raise(ctx, "record number %d of process %d is gone", want, r.Proc)
			}
			if err := l.db.VerifyRow(previous, row); err != nil {
				return nil, l.raise(ctx, "%w", err)
			}
			leaf := tlog.RecordHash(row.Leaf)
			if want, ok := l.acks.of(row.ID); ok && want != leaf {
				return nil, l.raise(ctx, "event %s is not the one that was acknowledged", row.ID)
			}
			leaves = append(leaves, leaf)
			previous = row.MAC
		}
	}
	return leaves, nil
}

// follow brings last to head, which another process, or an earlier life of this
// one, may have moved. It takes only a tree that this log signed and that the
// tree it knew is a part of.
func (l *Log) follow(ctx context.Context, head store.Head) error {
	if head.Size == l.last.N && bytes.Equal(head.Note, l.note) {
		return nil
	}
	if head.Size < l.last.N {
		return l.raise(ctx, "the stored log went back from %d records to %d", l.last.N, head.Size)
	}
	to, err := l.key.open(head.Note)
	if err != nil {
		return l.raise(ctx, "the stored checkpoint: %w", err)
	}
	if to.N != head.Size {
		return l.raise(ctx, "the stored checkpoint is of %d records, and the head says %d", to.N, head.Size)
	}
	stored := l.reader(ctx)
	next, err := loadTree(to, stored)
	var leaves []tlog.Hash
	if err == nil {
		leaves, err = l.between(next.Tree, stored)
	}
	if stored.unread != nil {
		return stored.unread
	}
	if err != nil {
		return l.raise(ctx, "%w", err)
	}
	l.acks.seen(leaves, l.now())
	l.last, l.note, l.followed = next, head.Note, l.now()
	l.leads.Store(false)
	return nil
}

func (l *Log) reader(ctx context.Context) *reader {
	return &reader{tile: func(level int, index int64) ([]byte, error) { return l.db.Tile(ctx, int64(level), index) }}
}

// between proves that last is a part of to, and gives the leaves that to has
// more. A process that has just started waits for none.
func (l *Log) between(to tlog.Tree, stored *reader) ([]tlog.Hash, error) {
	from := l.last.Tree
	if from.N == 0 {
		return nil, nil
	}
	hashes := tlog.TileHashReader(to, stored)
	if err := part(from, to, hashes); err != nil {
		return nil, err
	}
	var leaves []tlog.Hash
	for at := from.N; at < to.N; {
		var indexes []int64
		for ; at < to.N && len(indexes) < 16*tileWidth; at++ {
			indexes = append(indexes, tlog.StoredHashIndex(0, at))
		}
		part, err := hashes.ReadHashes(indexes)
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, part...)
	}
	return leaves, nil
}
