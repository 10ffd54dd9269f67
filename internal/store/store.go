// Package store is the only writer: it owns both database engines, all SQL, and
// [DB.Change], which commits state together with the event that says so, many
// callers to one commit. It does not own what the facts mean, nor positions in
// the log (eventlog). Start reading at Change in change.go, then writer.go; the
// SQL is in statements.go and what a change can say in tx.go.
package store

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Options say which store to open.
type Options struct {
	// DSN is sqlite:///absolute/path or postgres://…
	DSN string
	// Seal is the key-encryption key. A store opens only with the one it was
	// made with.
	Seal   [32]byte
	Node   string // name of this node, for people
	Logger *slog.Logger
	// ReadOnly opens a store that exists to look at it: this process is not
	// written down and every change is refused. A SQLite store that a server
	// has open is locked all the same.
	ReadOnly bool

	vfs string // of SQLite, for tests of failing disks
}

// DB is an open store. Its methods are safe for concurrent use.
type DB struct {
	engine   engine
	pool     *sql.DB
	readOnly bool
	reads    [statements - writes]*sql.Stmt
	logger   *slog.Logger
	proc     int64 // number of this process among all that ever wrote

	root                       []byte // the seal key
	bodyKey, lookupKey, macKey []byte
	persons                    persons

	writer    writer
	commits   atomic.Int64
	changes   atomic.Int64
	committed chan struct{} // holds a token once events were committed
	advanced  chan struct{} // holds a token once the epoch advanced

	writing sync.WaitGroup     // the writer
	tasks   sync.WaitGroup     // everybody else who runs
	stop    context.CancelFunc // ends them, and transactions with them
	closed  atomic.Bool
}

// engine is what differs between SQLite and PostgreSQL. One goroutine at a time
// uses it: the writer.
type engine interface {
	name() string
	// shared says whether other processes may have this database open.
	shared() bool
	// begin opens a transaction that holds off every other writer, runs the
	// changes' statements in it, in order, and leaves it open. It fails only if
	// none of what it did can be kept.
	begin(ctx context.Context, changes []*Pending) error
	// last is the newest event row of proc, (0, nil) if it has none. It is
	// called in an open transaction.
	last(ctx context.Context, proc int64) (seq int64, mac []byte, err error)
	// commit inserts the event rows and commits. After an error that is not
	// again's it is not known whether it did.
	commit(ctx context.Context, events [][]any) error
	// rollback ends the open transaction, if there is one.
	rollback()
	// again says what to do after err.
	again(err error) verdict
	// backup writes a copy of the database, as of now, to a new file.
	backup(ctx context.Context, path string) error
	// scrub removes what changed rows held before from the disk.
	scrub(ctx context.Context) error
	close() error
}

// verdict is what an engine makes of an error of a transaction.
type verdict int

const (
	giveUp   verdict = iota // nothing helps just now
	repeat                  // it surely did not happen; the whole batch may run again
	conflict                // the same, and the changes may do better one by one
)

// Open opens the store and starts its writer. An error of kind Unavailable with
// code "locked" names the process that has the SQLite database open; one of
// kind Invalid means that trying again is of no use.
func Open(ctx context.Context, o Options) (*DB, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	u, err := url.Parse(o.DSN)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "store: the address is not a URL; write sqlite:///absolute/path or postgres://…")
	}
	db := &DB{
		logger: o.Logger, root: o.Seal[:], readOnly: o.ReadOnly,
		committed: make(chan struct{}, 1), advanced: make(chan struct{}, 1),
	}
	db.bodyKey, db.lookupKey, db.macKey = db.Key(keyBody), db.Key(keyLookup), db.Key(keyRowMAC)
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	db.stop = stop
	switch u.Scheme {
	case "sqlite":
		err = db.openSQLite(ctx, u, o.vfs)
	case "postgres", "postgresql":
		err = db.openPostgres(ctx, run, u)
	default:
		err = mayfly.Errorf(mayfly.Invalid, "store: %q is no kind of store; write sqlite:///absolute/path or postgres://…", u.Scheme)
	}
	if err == nil {
		err = db.start(ctx, run, o.Node)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// start prepares the reads, starts the writer and writes this process down.
func (db *DB) start(ctx, run context.Context, node string) error {
	for s := writes; s < statements; s++ {
		var err error
		if db.reads[s-writes], err = db.pool.PrepareContext(ctx, texts[s]); err != nil {
			return unopenable(err)
		}
	}
	if db.readOnly {
		return db.checkSeal(ctx)
	}
	db.writer.start(run, db)
	db.writing.Go(db.writer.run)
	if err := db.checkSeal(ctx); err != nil {
		return err
	}
	now := micros(time.Now())
	for {
		if err := db.readRow(ctx, nextProcess, nil, &db.proc); err != nil {
			return err
		}
		err := db.keep(ctx, func(tx *Tx) { tx.add(insertProcess, "process", db.proc, node, now, now) })
		if _, taken := errors.AsType[*Refused](err); taken {
			continue // another node took the number
		}
		if err != nil {
			return err
		}
		break
	}
	if db.engine.shared() {
		db.tasks.Go(func() { db.beSeen(run) })
	}
	return nil
}

// checkSeal finds out whether the seal key is the one this store was made with.
func (db *DB) checkSeal(ctx context.Context) error {
	for {
		var box []byte
		err := db.readRow(ctx, readMeta, []any{sealCheck}, &box)
		if err == nil {
			if _, err := db.Unseal(sealCheck, sealCheck, box); err != nil {
				return errSealKey()
			}
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) || db.readOnly {
			return err
		}
		err = db.keep(ctx, func(tx *Tx) { tx.add(insertMeta, "meta", sealCheck, db.Seal(sealCheck, sealCheck, nil)) })
		if _, made := errors.AsType[*Refused](err); err != nil && !made {
			return err
		}
	}
}

const (
	seenEvery = 10 * time.Second
	aliveFor  = time.Minute // a process not seen for so long is taken for ended
)

// beSeen keeps telling other processes that this one lives.
func (db *DB) beSeen(ctx context.Context) {
	tick := time.NewTicker(seenEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			err := db.keep(ctx, func(tx *Tx) { tx.add(seenProcess, "", micros(now), db.proc) })
			if err != nil && ctx.Err() == nil {
				db.logger.Warn("this process could not be written down as alive", "error", err)
			}
		}
	}
}

// Close commits what has been submitted, refuses what comes after, and closes
// the database.
func (db *DB) Close() error {
	if !db.closed.CompareAndSwap(false, true) {
		return nil
	}
	db.writer.finish()
	db.writing.Wait()
	db.stop()
	db.tasks.Wait()
	var errs []error
	for _, s := range db.reads {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	if db.engine != nil {
		errs = append(errs, db.engine.close())
	}
	return errors.Join(errs...)
}

// Backup writes a copy of the database as of now to path, which must not exist,
// while the store is in use. On PostgreSQL it is an error of kind Invalid:
// pg_dump does it better.
func (db *DB) Backup(ctx context.Context, path string) error { return db.engine.backup(ctx, path) }

// Closed reports whether Close was called.
func (db *DB) Closed() bool { return db.closed.Load() }

// Engine is sqlite or postgres.
func (db *DB) Engine() string { return db.engine.name() }

// Process is the number under which this process's records run.
func (db *DB) Process() int64 { return db.proc }

// Commits is the number of transactions this process has made durable.
func (db *DB) Commits() int64 { return db.commits.Load() }

// Changes is the number of changes, bookkeeping included, in those commits.
func (db *DB) Changes() int64 { return db.changes.Load() }

// Committed gives a token after records were committed by this process: at
// least one since the last token was taken. It is for one reader, the sequencer.
func (db *DB) Committed() <-chan struct{} { return db.committed }

// Wait returns nil once the epoch has advanced since the last call that did, as
// far as this node was told; other nodes' advances come by PostgreSQL's NOTIFY,
// which can be lost, so callers ask for the epoch now and then anyway. It is for
// one caller at a time. After ctx ends it returns ctx's error.
func (db *DB) Wait(ctx context.Context) error {
	select {
	case <-db.advanced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// signal puts a token into c unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
