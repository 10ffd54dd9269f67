package eventlog_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/ncruces/go-sqlite3/driver"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/mayflytest/pgtest"
	"github.com/mayfly-id/mayfly/internal/store"
)

const origin = "auth.example.test/log"

var seal = [32]byte{1, 2, 3}

// world is one database, which a test opens, leaves, and alters behind our back.
type world struct {
	testing.TB
	dsn string
}

func onEachEngine(t *testing.T, test func(t *testing.T, w world)) {
	t.Run("sqlite", func(t *testing.T) { test(t, newWorld(t, "sqlite")) })
	t.Run("postgres", func(t *testing.T) { test(t, newWorld(t, "postgres")) })
}

func newWorld(t testing.TB, engine string) world {
	t.Helper()
	if engine == "sqlite" {
		return world{t, "sqlite://" + filepath.Join(t.TempDir(), "mayfly.db")}
	}
	return world{t, pgtest.New(t)}
}

// open opens the store as a process would. It is closed with the test, if not
// before.
func (w world) open() *store.DB {
	w.Helper()
	db, err := store.Open(w.Context(), store.Options{DSN: w.dsn, Seal: seal, Node: "test"})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { w.close(db) })
	return db
}

func (w world) close(db *store.DB) {
	w.Helper()
	if db.Closed() {
		return
	}
	if err := db.Close(); err != nil {
		w.Error(err)
	}
}

func (w world) log(db *store.DB, now func() time.Time) *eventlog.Log {
	w.Helper()
	l, err := eventlog.Open(w.Context(), db, eventlog.Options{Origin: origin, Now: now})
	if err != nil {
		w.Fatal(err)
	}
	return l
}

// raw gives the database as its administrator has it, who has no seal key.
func (w world) raw(do func(*sql.DB) error) {
	w.Helper()
	driver, dsn := "pgx", w.dsn
	if path, ok := strings.CutPrefix(w.dsn, "sqlite://"); ok {
		driver, dsn = "sqlite3", "file:"+path+"?_pragma=busy_timeout(5000)"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		w.Fatal(err)
	}
	if err := errors.Join(do(db), db.Close()); err != nil {
		w.Fatal(err)
	}
}

// sql runs statements. One that changes no row fails the test.
func (w world) sql(statements ...string) {
	w.Helper()
	w.raw(func(db *sql.DB) error {
		for _, s := range statements {
			result, err := db.Exec(s)
			if err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
			if n, err := result.RowsAffected(); err != nil || n == 0 && !strings.HasPrefix(s, "CREATE") {
				return fmt.Errorf("%s: changed %d rows, %v", s, n, err)
			}
		}
		return nil
	})
}

// record commits n events, about one of two people or nobody, and tells l.
func (w world) record(db *store.DB, l *eventlog.Log, n int) []store.Record {
	w.Helper()
	return w.recordAt(time.Now(), db, l, n)
}

func (w world) recordAt(at time.Time, db *store.DB, l *eventlog.Log, n int) []store.Record {
	w.Helper()
	records, err := commit(w.Context(), at, db, l, n)
	if err != nil {
		w.Fatalf("recording: %v (%v)", err, errors.Unwrap(err))
	}
	return records
}

func commit(ctx context.Context, at time.Time, db *store.DB, l *eventlog.Log, n int) ([]store.Record, error) {
	records, pending := make([]store.Record, n), make([]*store.Pending, n)
	for i := range n {
		e := mayfly.Event(mayfly.TaskRetired{Task: "task_x", Root: mayfly.Subject{Kind: mayfly.Human, ID: fmt.Sprint("person", i%2), Source: "idp"}})
		if i%3 == 0 {
			e = mayfly.ServerStarted{Node: fmt.Sprint(i), Version: "test"}
		}
		var err error
		if records[i], err = db.Prepare(ctx, at, "bundle", e); err != nil {
			return nil, err
		}
		pending[i] = db.Submit(ctx, records[i], func(*store.Tx) {})
	}
	for i, p := range pending {
		if err := p.Wait(); err != nil {
			return nil, err
		}
		if l != nil {
			l.Acknowledged(records[i])
		}
	}
	return records, nil
}

// sequence steps until nothing waits, and returns how much got a position.
func (w world) sequence(l *eventlog.Log) (all int) {
	w.Helper()
	for {
		n, err := l.Sequence(w.Context())
		if err != nil {
			w.Fatalf("sequencing: %v (%v)", err, errors.Unwrap(err))
		}
		if n == 0 {
			return all
		}
		all += n
	}
}

func (w world) verify(db *store.DB, known ...[]byte) eventlog.Report {
	w.Helper()
	r, err := eventlog.Verify(w.Context(), db, known...)
	if err != nil {
		w.Fatalf("verify: %v", err)
	}
	return r
}

func (w world) mustVerify(db *store.DB, size int64) {
	w.Helper()
	if r := w.verify(db); !r.OK() || r.Size != size || r.Waiting != 0 {
		w.Fatalf("%s; want %d records and none waiting", r, size)
	}
}

// checkpoint is the newest checkpoint, read as a stranger with the vkey would.
func (w world) checkpoint(l *eventlog.Log) (tlog.Tree, []byte) {
	w.Helper()
	signed, err := l.Checkpoint(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return w.read(signed, l.VKey()), signed
}

func (w world) read(signed []byte, vkey string) tlog.Tree {
	w.Helper()
	v, err := note.NewVerifier(vkey)
	if err != nil {
		w.Fatal(err)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		w.Fatal(err)
	}
	var name, root string
	var of tlog.Tree
	if _, err := fmt.Sscanf(n.Text, "%s\n%d\n%s\n", &name, &of.N, &root); err != nil || name != origin {
		w.Fatalf("the checkpoint says %q: %v", n.Text, err)
	}
	if of.Hash, err = tlog.ParseHash(root); err != nil {
		w.Fatal(err)
	}
	return of
}

// client reads tiles by their paths, as one of the outside tools would.
type client struct {
	ctx  context.Context
	read func(ctx context.Context, path string) ([]byte, error)
}

func clientOf(w world, l *eventlog.Log) client {
	return client{w.Context(), func(ctx context.Context, path string) ([]byte, error) {
		data, immutable, err := l.Tile(ctx, path)
		if err == nil && immutable == strings.Contains(path, ".p/") {
			return nil, fmt.Errorf("%s: immutable is %v", path, immutable)
		}
		return data, err
	}}
}

func (client) Height() int { return 8 }

// path is written down here once more, from the specification.
func path(kind string, n int64, w int) string {
	p := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		p = fmt.Sprintf("x%03d/%s", n%1000, p)
	}
	if w < 256 {
		p += fmt.Sprintf(".p/%d", w)
	}
	return kind + "/" + p
}

func (c client) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, t := range wanted {
		data, err := c.read(c.ctx, path(fmt.Sprint(t.L), t.N, t.W))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func (client) SaveTiles([]tlog.Tile, [][]byte) {}
