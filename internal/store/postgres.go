package store

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

const (
	postgresReaders = 16
	epochChannel    = "mayfly_epoch"
	dialTimeout     = 2 * time.Second
)

// postgres writes through one pinned connection, in two round trips a batch:
// the first locks out every other writer and runs the statements, the second
// inserts the events and commits.
type postgres struct {
	pool   *sql.DB
	pinned *sql.Conn
	conn   *pgx.Conn // what pinned pins; nil until the next batch connects
	opened bool      // a transaction may be open on conn
	epoch  bool      // the open transaction advances the epoch
}

// postgresSettings hold on every connection. A writer that stops in the middle
// of a transaction loses its session, and with it the lock.
var postgresSettings = map[string]string{
	"application_name":                    "mayfly",
	"synchronous_commit":                  "on",
	"statement_timeout":                   "5s",
	"lock_timeout":                        "2s",
	"idle_in_transaction_session_timeout": "10s",
	"tcp_keepalives_idle":                 "5",
	"tcp_keepalives_interval":             "2",
	"tcp_keepalives_count":                "3",
}

func (db *DB) openPostgres(ctx, run context.Context, u *url.URL) error {
	config, err := postgresConfig(u)
	if err != nil {
		return err
	}
	e := &postgres{pool: stdlib.OpenDB(*config)}
	db.engine, db.pool = e, e.pool
	e.pool.SetMaxOpenConns(postgresReaders + 1)
	e.pool.SetMaxIdleConns(postgresReaders + 1)
	if err := e.pool.PingContext(ctx); err != nil {
		return unopenable(err)
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60))
	if err != nil {
		return err
	}
	if err := db.migrate(ctx, e.pool, goose.DialectPostgres, forPostgres, goose.WithSessionLocker(locker)); err != nil {
		return err
	}
	if db.readOnly {
		return nil
	}
	if err := e.connect(ctx); err != nil {
		return unopenable(err)
	}
	db.tasks.Go(func() { db.listen(run, config) })
	return nil
}

// postgresConfig reads the address. A server that is not on this machine must
// prove who it is.
func postgresConfig(u *url.URL) (*pgx.ConnConfig, error) {
	q := u.Query()
	host := u.Hostname()
	if h := q.Get("host"); h != "" {
		host = h
	}
	if !local(host) {
		switch q.Get("sslmode") {
		case "":
			q.Set("sslmode", "verify-full")
		case "verify-full":
		default:
			return nil, mayfly.Errorf(mayfly.Invalid, "store: a PostgreSQL server on another machine needs sslmode=verify-full")
		}
	}
	with := *u
	with.RawQuery = q.Encode()
	config, err := pgx.ParseConfig(with.String())
	if err != nil {
		// The error may quote the address, which may hold a password.
		return nil, mayfly.Errorf(mayfly.Invalid, "store: the PostgreSQL address cannot be read; write postgres://user@host/database?sslmode=verify-full").Because(err)
	}
	for name, value := range postgresSettings {
		config.RuntimeParams[name] = value
	}
	config.ConnectTimeout = dialTimeout
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3,
	}}
	config.DialFunc = dialer.DialContext
	return config, nil
}

func local(host string) bool {
	if host == "" || host == "localhost" || strings.HasPrefix(host, "/") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (e *postgres) name() string { return "postgres" }

func (e *postgres) shared() bool { return true }

// connect pins a connection to write through.
func (e *postgres) connect(ctx context.Context) error {
	e.drop()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := e.pool.Conn(ctx)
	if err != nil {
		return errLost{err}
	}
	e.pinned = c
	return c.Raw(func(raw any) error {
		e.conn = raw.(*stdlib.Conn).Conn()
		return nil
	})
}

// drop gives the pinned connection back; a broken one is not reused.
func (e *postgres) drop() {
	if e.pinned != nil {
		_ = e.pinned.Close() // it is broken or idle: either way nothing is lost with it
	}
	e.pinned, e.conn, e.opened = nil, nil, false
}

// errLost marks an error after which the transaction surely did not happen:
// there was no connection, or it broke before COMMIT was sent.
type errLost struct{ error }

func (e errLost) Unwrap() error { return e.error }

func (e *postgres) begin(ctx context.Context, changes []*Pending) error {
	if e.conn == nil || e.conn.IsClosed() {
		if err := e.connect(ctx); err != nil {
			return err
		}
	}
	var b pgx.Batch
	b.Queue(`BEGIN ISOLATION LEVEL SERIALIZABLE`)
	b.Queue(`LOCK TABLE writer IN EXCLUSIVE MODE`)
	e.epoch = false
	for _, p := range changes {
		e.epoch = e.epoch || p.epoch
		for i := range p.ops {
			b.Queue(texts[p.ops[i].statement], p.ops[i].args...)
		}
	}
	e.opened = true
	results := e.conn.SendBatch(ctx, &b)
	err := e.results(results, changes)
	if closeErr := results.Close(); err == nil && closeErr != nil && !slices.ContainsFunc(changes, failedItself) {
		err = closeErr
	}
	if err != nil && e.conn.IsClosed() {
		return errLost{err}
	}
	return err
}

func failedItself(p *Pending) bool {
	_, guard := errors.AsType[*Refused](p.refusal)
	return p.refusal != nil && !guard
}

// results reads what the first round trip answered.
func (e *postgres) results(results pgx.BatchResults, changes []*Pending) error {
	for range 2 { // BEGIN and LOCK
		if _, err := results.Exec(); err != nil {
			return err
		}
	}
	for _, p := range changes {
		for i := range p.ops {
			o := &p.ops[i]
			tag, err := results.Exec()
			if code := sqlState(err); strings.HasPrefix(code, "22") || strings.HasPrefix(code, "23") {
				// Data exception, constraint: its own fault. The transaction
				// is over for all of them, so it runs again without this one.
				p.refusal, p.wrote = errRun(o, err), true
				return nil
			}
			if err != nil {
				return err
			}
			p.ran(o, tag.RowsAffected())
		}
	}
	return nil
}

func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

func (e *postgres) last(ctx context.Context, proc int64) (seq int64, mac []byte, err error) {
	err = e.conn.QueryRow(ctx, texts[lastOfProcess], proc).Scan(&seq, &mac)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil, nil
	}
	return seq, mac, err
}

func (e *postgres) commit(ctx context.Context, events [][]any) error {
	var b pgx.Batch
	err := eachInsert(events, func(s statement, args []any) error {
		b.Queue(texts[s], args...)
		return nil
	})
	if err != nil {
		return err
	}
	if e.epoch {
		b.Queue(`SELECT pg_notify('` + epochChannel + `', '')`)
	}
	b.Queue(`COMMIT`)
	results := e.conn.SendBatch(ctx, &b)
	failpoint.Here("store.at-commit") // it is on its way, and nobody hears how it ended
	var tag pgconn.CommandTag
	for range b.Len() {
		if tag, err = results.Exec(); err != nil {
			break
		}
	}
	err = errors.Join(err, results.Close())
	if err == nil && tag.String() != "COMMIT" {
		err = errors.New("store: COMMIT was answered with " + tag.String())
	}
	if err == nil {
		e.opened = false
	}
	return err
}

// rollback ends the transaction by the server's word, or by ending the session.
func (e *postgres) rollback() {
	if e.conn == nil || !e.opened {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	if _, err := e.conn.Exec(ctx, `ROLLBACK`); err != nil {
		// The session's end rolls it back; a connection that is stuck in
		// between must not be used again.
		_ = e.conn.Close(ctx)
		e.drop()
		return
	}
	e.opened = false
}

// again: serialisation failures and deadlocks surely did not happen. Waiting
// too long for the lock did not either, but it would take as long again.
func (e *postgres) again(err error) verdict {
	switch sqlState(err) {
	case "40001", "40P01":
		return conflict
	}
	if _, lost := errors.AsType[errLost](err); lost {
		return repeat
	}
	return giveUp
}

// scrub drops old row versions from the tables that hold names. What a table's
// pages were written over with, an archive of the server's own log may still hold.
func (e *postgres) scrub(ctx context.Context) (err error) {
	c, err := e.pool.Conn(ctx)
	if err != nil {
		return unreadable(err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	// A table takes as long as it is large.
	if _, err := c.ExecContext(ctx, `SET statement_timeout = 0`); err != nil {
		return unreadable(err)
	}
	defer func() {
		_, reset := c.ExecContext(ctx, `SET statement_timeout = '`+postgresSettings["statement_timeout"]+`'`)
		err = errors.Join(err, reset)
	}()
	if _, err := c.ExecContext(ctx, `VACUUM person, task, delegation, lease, approval, revocation`); err != nil {
		return unreadable(err)
	}
	return nil
}

func (e *postgres) backup(context.Context, string) error {
	return mayfly.Errorf(mayfly.Invalid, "the store is on PostgreSQL; make the backup with pg_dump")
}

func (e *postgres) close() error {
	e.drop()
	return e.pool.Close()
}

// listen turns the notices of other nodes' epochs into wake-ups. While it has
// no connection it cannot know what it missed, so it wakes on every new one.
func (db *DB) listen(ctx context.Context, config *pgx.ConnConfig) {
	for ctx.Err() == nil {
		err := db.listenOnce(ctx, config)
		if ctx.Err() != nil {
			return
		}
		db.logger.Warn("notices of the epoch are interrupted; it is polled meanwhile", "error", err)
		t := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
	}
}

func (db *DB) listenOnce(ctx context.Context, config *pgx.ConnConfig) error {
	c, err := pgx.ConnectConfig(ctx, config.Copy())
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	if _, err := c.Exec(ctx, `LISTEN `+epochChannel); err != nil {
		return err
	}
	for {
		signal(db.advanced)
		if _, err := c.WaitForNotification(ctx); err != nil {
			return err
		}
	}
}
