package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/pressly/goose/v3"
)

// sqliteReaders is how many connections read at once.
const sqliteReaders = 4

// sqlite writes through one pinned connection, with every statement prepared
// once. Reads have a pool of their own, which cannot write.
type sqlite struct {
	dsn     string
	lock    *os.File
	readers *sql.DB
	writers *sql.DB
	pinned  *sql.Conn

	conn             *sqlite3.Conn // what pinned pins
	beginTx, commit_ *sqlite3.Stmt
	statements       [writes]*sqlite3.Stmt
}

// sqlitePragmas are set on every connection (security baseline: a commit is on
// the disk before it is answered, tables are strict, deleted rows are zeroed).
var sqlitePragmas = []string{
	"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "trusted_schema(0)",
	"cell_size_check(1)", "secure_delete(1)", "temp_store(2)",
}

func sqliteDSN(path, vfs string, more ...string) string {
	q := url.Values{"_txlock": {"immediate"}, "_pragma": append(append([]string{}, sqlitePragmas...), more...), "modeof": {path}}
	if vfs == "" {
		vfs = gatherName
	}
	q.Set("vfs", vfs)
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

func (db *DB) openSQLite(ctx context.Context, u *url.URL, vfs string) error {
	registerGather()
	path := u.Path
	if u.Host != "" || u.RawQuery != "" || u.Fragment != "" || !filepath.IsAbs(path) {
		return mayfly.Errorf(mayfly.Invalid, "store: write sqlite:// and an absolute path, such as sqlite:///var/lib/mayfly/mayfly.db")
	}
	if db.readOnly {
		if !nonEmpty(path) {
			return mayfly.Errorf(mayfly.Invalid, "there is no store at %s", path)
		}
	} else if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return unopenable(err)
	}
	e := &sqlite{}
	db.engine = e
	var err error
	if e.lock, err = lockFile(path + ".lock"); err != nil {
		return err
	}
	for _, file := range []string{path, path + "-shm"} {
		if err := private(file); err != nil {
			return err
		}
	}
	unclean := nonEmpty(path + "-wal")
	// All tries of a batch together wait for a lock as long as a batch may take.
	e.dsn = sqliteDSN(path, vfs, fmt.Sprintf("busy_timeout(%d)", (writeWithin/tries).Milliseconds()))
	if e.writers, err = driver.Open(e.dsn); err != nil {
		return unopenable(err)
	}
	e.writers.SetMaxOpenConns(1)
	if unclean {
		if err := quickCheck(ctx, e.writers); err != nil {
			return err
		}
	}
	if err := db.migrate(ctx, e.writers, goose.DialectSQLite3, forSQLite); err != nil {
		return err
	}
	if e.readers, err = driver.Open(sqliteDSN(path, vfs, "query_only(1)")); err != nil {
		return unopenable(err)
	}
	e.readers.SetMaxOpenConns(sqliteReaders)
	e.readers.SetMaxIdleConns(sqliteReaders)
	db.pool = e.readers
	if db.readOnly {
		return nil
	}
	if e.pinned, err = e.writers.Conn(ctx); err != nil {
		return unopenable(err)
	}
	return e.pinned.Raw(func(c any) error { return e.prepare(c.(driver.Conn).Raw()) })
}

// unopenable says what stands between a store and its opening.
func unopenable(err error) error {
	if errors.Is(err, sqlite3.NOTADB) || errors.Is(err, sqlite3.CORRUPT) {
		return mayfly.Errorf(mayfly.Invalid, "the file is no store, or is damaged; restore a backup").Because(err)
	}
	return mayfly.Errorf(mayfly.Unavailable, "the store cannot be opened: %s", fmt.Sprint(err)).Because(err)
}

// private makes a file readable by its owner alone. The write-ahead log takes
// the mode over from the database, by "modeof" in its address.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return unopenable(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return unopenable(err)
	} else if info.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(0o600); err != nil {
			return unopenable(err)
		}
	}
	return nil
}

func nonEmpty(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0 || err != nil && !errors.Is(err, fs.ErrNotExist)
}

// quickCheck looks for damage. A store that was closed in order left no
// write-ahead log and was not damaged by its last process.
func quickCheck(ctx context.Context, db *sql.DB) error {
	var found string
	if err := db.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&found); err != nil {
		return unopenable(err)
	}
	if found != "ok" {
		return mayfly.Errorf(mayfly.Invalid, "the store is damaged (%s); restore a backup", found)
	}
	return nil
}

func (e *sqlite) prepare(c *sqlite3.Conn) (err error) {
	e.conn = c
	prepare := func(text string) *sqlite3.Stmt {
		if err != nil {
			return nil
		}
		var s *sqlite3.Stmt
		if s, _, err = c.PrepareFlags(text, sqlite3.PREPARE_PERSISTENT); err != nil {
			err = fmt.Errorf("store: %s: %w", text, err)
		}
		return s
	}
	e.beginTx, e.commit_ = prepare(`BEGIN IMMEDIATE`), prepare(`COMMIT`)
	for s := range writes {
		e.statements[s] = prepare(texts[s])
	}
	return err
}

func (e *sqlite) name() string { return "sqlite" }

func (e *sqlite) shared() bool { return false }

func (e *sqlite) begin(_ context.Context, changes []*Pending) error {
	if err := e.beginTx.Exec(); err != nil {
		return err
	}
	for _, p := range changes {
		for i := range p.ops {
			o := &p.ops[i]
			rows, err := e.exec(o.statement, o.args)
			if ownFault(err) {
				p.refusal = errRun(o, err)
				break
			}
			if err != nil {
				return err
			}
			if !p.ran(o, rows) {
				break
			}
		}
	}
	return nil
}

// ownFault says that a statement failed by what was asked of it, and that the
// transaction goes on without it.
func ownFault(err error) bool {
	return errors.Is(err, sqlite3.CONSTRAINT) || errors.Is(err, sqlite3.MISMATCH) || errors.Is(err, sqlite3.TOOBIG)
}

// exec runs a statement and counts the rows it gave (one at most) or changed.
func (e *sqlite) exec(s statement, args []any) (int64, error) {
	stmt := e.statements[s]
	if err := bind(stmt, args); err != nil {
		return 0, err
	}
	gave := stmt.Step()
	if gave && !stmt.ReadOnly() {
		return 0, errors.Join(errors.New("store: a write that gives rows"), stmt.Reset())
	}
	if err := stmt.Reset(); err != nil {
		return 0, err
	}
	switch {
	case gave:
		return 1, nil
	case stmt.ReadOnly():
		return 0, nil
	default:
		return e.conn.Changes(), nil
	}
}

func bind(stmt *sqlite3.Stmt, args []any) (err error) {
	for i, a := range args {
		switch a := a.(type) {
		case int64:
			err = stmt.BindInt64(i+1, a)
		case string:
			err = stmt.BindText(i+1, a)
		case []byte:
			err = stmt.BindBlob(i+1, a)
		case bool:
			err = stmt.BindBool(i+1, a)
		default:
			err = fmt.Errorf("store: no column holds a %T", a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *sqlite) last(_ context.Context, proc int64) (seq int64, mac []byte, err error) {
	stmt := e.statements[lastOfProcess]
	if err := bind(stmt, []any{proc}); err != nil {
		return 0, nil, err
	}
	if stmt.Step() {
		seq, mac = stmt.ColumnInt64(0), stmt.ColumnBlob(1, nil)
	}
	return seq, mac, stmt.Reset()
}

func (e *sqlite) commit(_ context.Context, events [][]any) error {
	err := eachInsert(events, func(s statement, args []any) error {
		_, err := e.exec(s, args)
		return err
	})
	if err != nil {
		return err
	}
	failpoint.Here("store.at-commit")
	return e.commit_.Exec()
}

func (e *sqlite) rollback() {
	if !e.conn.GetAutocommit() {
		// If even this fails the next BEGIN does too, and everybody is told.
		_ = e.conn.Exec(`ROLLBACK`)
	}
}

// again: whatever fails on SQLite (a full disk, a lost one, a file that became
// read-only) fails as well a moment later. The next batch finds out.
func (e *sqlite) again(error) verdict { return giveUp }

// scrub empties the write-ahead log: rows that were changed are zeroed in the
// database itself (secure_delete).
func (e *sqlite) scrub(ctx context.Context) error {
	db, err := driver.Open(e.dsn)
	if err != nil {
		return unreadable(err)
	}
	defer db.Close()
	var busy, pages, moved int
	if err := db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &pages, &moved); err != nil {
		return unreadable(err)
	}
	if busy != 0 {
		return mayfly.Errorf(mayfly.Unavailable, "the write-ahead log is in use")
	}
	return nil
}

func (e *sqlite) backup(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return mayfly.Errorf(mayfly.Invalid, "the backup cannot be written: %s", fmt.Sprint(err)).Because(err)
	}
	defer f.Close()
	// The readers cannot write, not even to another file.
	from, err := driver.Open(e.dsn)
	if err != nil {
		return unreadable(err)
	}
	defer from.Close()
	if _, err := from.ExecContext(ctx, `VACUUM INTO $1`, path); err != nil {
		return mayfly.Errorf(mayfly.Unavailable, "the backup could not be written: %s", fmt.Sprint(err)).Because(errors.Join(err, os.Remove(path)))
	}
	return f.Sync()
}

func (e *sqlite) close() error {
	var errs []error
	if e.readers != nil {
		errs = append(errs, e.readers.Close())
	}
	if e.conn != nil {
		for _, s := range slices.Collect(e.conn.Stmts()) {
			errs = append(errs, s.Close())
		}
	}
	if e.pinned != nil {
		errs = append(errs, e.pinned.Close())
	}
	if e.writers != nil {
		errs = append(errs, e.writers.Close())
	}
	if e.lock != nil {
		errs = append(errs, e.lock.Close())
	}
	return errors.Join(errs...)
}

// eachInsert cuts event rows into the sizes there are inserts for.
func eachInsert(events [][]any, insert func(statement, []any) error) error {
	for len(events) > 0 {
		n, s := 1, insertEvent1
		switch {
		case len(events) >= 64:
			n, s = 64, insertEvent64
		case len(events) >= 8:
			n, s = 8, insertEvent8
		}
		args := make([]any, 0, n*eventColumnCount)
		for _, row := range events[:n] {
			args = append(args, row...)
		}
		if err := insert(s, args); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}
