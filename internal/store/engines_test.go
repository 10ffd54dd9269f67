package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/mayflytest/pgtest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/mayfly-id/mayfly/internal/mayflytest/pgtest.(*cluster).start.func1"))
}

// now is a time in the tests; what depends on time is told it.
var now = time.Date(2026, 11, 25, 12, 0, 0, 123456000, time.UTC)

var testSeal = [32]byte{1, 2, 3}

// onEachEngine runs test on an empty store of each engine.
func onEachEngine(t *testing.T, test func(t *testing.T, db *DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, open(t, sqliteAddress(t))) })
	t.Run("postgres", func(t *testing.T) { test(t, open(t, postgresAddress(t))) })
}

// postgresAddress is a database that a store was once opened on.
func postgresAddress(t testing.TB, options ...pgtest.Option) string {
	t.Helper()
	return pgtest.New(t, append(options, pgtest.Prepared("store", func(dsn string) error {
		db, err := Open(context.Background(), Options{DSN: dsn, Seal: testSeal})
		if err != nil {
			return err
		}
		return db.Close()
	}))...)
}

func sqliteAddress(t testing.TB) string {
	return "sqlite://" + filepath.Join(t.TempDir(), "store", "mayfly.db")
}

func open(t testing.TB, dsn string) *DB {
	t.Helper()
	db, err := Open(context.Background(), Options{DSN: dsn, Seal: testSeal, Node: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return db
}

// record prepares an event about nobody.
func record(t testing.TB, db *DB, e mayfly.Event) Record {
	t.Helper()
	r, err := db.Prepare(context.Background(), now, "bundle", e)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// change commits an event with what build writes.
func change(t testing.TB, db *DB, build func(*Tx)) error {
	t.Helper()
	return db.Change(context.Background(), record(t, db, mayfly.Alarm{What: "test"}), build)
}

func mustChange(t testing.TB, db *DB, build func(*Tx)) {
	t.Helper()
	if err := change(t, db, build); err != nil {
		t.Fatal(err)
	}
}

func guardOf(err error) string {
	if r, ok := errors.AsType[*Refused](err); ok {
		return r.Guard
	}
	return ""
}

// wantGuard fails unless err is the refusal of guard.
func wantGuard(t testing.TB, err error, guard string) {
	t.Helper()
	if guardOf(err) != guard || (guard == "" && err != nil) {
		t.Errorf("got %v, want a refusal by %q", err, guard)
	}
}

// task is an open task that ends in an hour.
func task(id string, parents ...*mayfly.Task) *mayfly.Task {
	t := &mayfly.Task{
		ID: mayfly.TaskID(id), Profile: "invoice", Bundle: "bundle",
		Purpose:  mayfly.Purpose{Text: "pay", By: "agent"},
		Root:     mayfly.Subject{Kind: mayfly.Human, ID: "alice", Source: "corp", Groups: []string{"ap"}},
		RootTask: mayfly.TaskID(id),
		Grants:   []mayfly.Grant{{Kind: "mcp", Target: "bank", Action: "pay"}},
		Agent:    mayfly.Evidence{Source: "cluster", Subject: "sa", Client: "https://client.example", Verified: true},
		Key:      "jkt", Dlg: "dlg-" + id, OpenedAt: now, Deadline: now.Add(time.Hour), Idle: time.Minute, IdleUntil: now.Add(time.Minute),
	}
	if len(parents) > 0 {
		up := parents[len(parents)-1]
		t.Parent, t.RootTask, t.Depth = up.ID, up.RootTask, up.Depth+1
		t.Ancestors = up.Chain()
	}
	return t
}

func insert(t testing.TB, db *DB, tasks ...*mayfly.Task) {
	t.Helper()
	mustChange(t, db, func(tx *Tx) {
		for _, one := range tasks {
			tx.InsertTask(one)
		}
	})
}

// together runs n changes so that they share commits, and gives their errors.
func together(t testing.TB, db *DB, n int, build func(i int, tx *Tx)) []error {
	t.Helper()
	pending := make([]*Pending, n)
	records := make([]Record, n)
	for i := range records {
		records[i] = record(t, db, mayfly.Alarm{What: fmt.Sprint(i)})
	}
	var all sync.WaitGroup
	for i := range pending {
		all.Go(func() {
			pending[i] = db.Submit(context.Background(), records[i], func(tx *Tx) { build(i, tx) })
			_ = pending[i].Wait() // read below
		})
	}
	all.Wait()
	errs := make([]error, n)
	for i, p := range pending {
		errs[i] = p.Wait()
	}
	return errs
}

// count runs a SELECT of one number.
func count(t testing.TB, db *DB, query string) int64 {
	t.Helper()
	var n int64
	if err := db.pool.QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// verifyAll checks the MAC chain of everything the store holds, and that no
// process's numbers have a gap.
func verifyAll(t testing.TB, db *DB) (rows int) {
	t.Helper()
	runs, err := db.Unsequenced(context.Background(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range runs {
		previous := run.Previous
		for i, r := range run.Rows {
			if r.Seq != run.Next+int64(i) {
				t.Fatalf("process %d: number %d follows %d", r.Proc, r.Seq, run.Next+int64(i)-1)
			}
			if err := db.VerifyRow(previous, r); err != nil {
				t.Fatal(err)
			}
			previous = r.MAC
			rows++
		}
	}
	return rows
}

// tamper runs a statement past the writer, as a database administrator would.
func tamper(t testing.TB, db *DB, statement string) {
	t.Helper()
	pool := db.pool
	if e, ok := db.engine.(*sqlite); ok { // whose readers cannot write
		if err := e.conn.Exec(statement); err != nil {
			t.Fatal(err)
		}
		return
	}
	if _, err := pool.Exec(statement); err != nil {
		t.Fatal(err)
	}
}
