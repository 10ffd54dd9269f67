package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/mayflytest/pgtest"
	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"
)

func wantKind(t testing.TB, err error, kind mayfly.Kind) {
	t.Helper()
	if err == nil || mayfly.KindOf(err) != kind {
		t.Errorf("got %v, want an error of kind %s", err, kind.Title())
	}
}

func TestASecondProcessIsToldWhoHasTheStore(t *testing.T) {
	address := sqliteAddress(t)
	first := open(t, address)
	_, err := Open(t.Context(), Options{DSN: address, Seal: testSeal})
	wantKind(t, err, mayfly.Unavailable)
	if e := mayfly.AsError(err); e.Code != "locked" || !strings.Contains(e.Message, fmt.Sprint(os.Getpid())) {
		t.Errorf("got code %q and %q, want locked and our pid", e.Code, e.Message)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, address)
}

func TestFilesAreTheirOwnersAlone(t *testing.T) {
	address := sqliteAddress(t)
	path := strings.TrimPrefix(address, "sqlite://")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	db := open(t, address)
	commit(t, db, mayfly.Alarm{})
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) < 4 {
		t.Fatalf("files %v (%v)", files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v), want 0600", f, info.Mode(), err)
		}
	}
	open(t, sqliteAddress(t)) // in a folder it makes itself
}

func TestEveryConnectionHasThePragmas(t *testing.T) {
	db := open(t, sqliteAddress(t))
	e := db.engine.(*sqlite)
	for name, want := range map[string]string{
		"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "trusted_schema": "0",
		"cell_size_check": "1", "secure_delete": "1",
	} {
		for range sqliteReaders {
			c, err := db.pool.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var got string
			if err := c.QueryRowContext(t.Context(), `PRAGMA `+name).Scan(&got); err != nil || got != want {
				t.Errorf("%s is %q on a reader (%v), want %s", name, got, err, want)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		stmt, _, err := e.conn.Prepare(`PRAGMA ` + name)
		if err != nil {
			t.Fatal(err)
		}
		if !stmt.Step() || stmt.ColumnText(0) != want {
			t.Errorf("%s is %q on the writer, want %s", name, stmt.ColumnText(0), want)
		}
		if err := stmt.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := db.pool.Exec(`DELETE FROM task`); err == nil {
		t.Error("a reader can write")
	}
}

func TestAddressesThatCannotBe(t *testing.T) {
	for _, address := range []string{
		"", "mayfly.db", "sqlite://relative.db", "sqlite:relative.db", "sqlite:///a.db?mode=ro", "mysql://x/y", "postgres://db.example/x?sslmode=disable",
		"postgres://db.example/x?sslmode=require", "postgres://user:hunter2@db.example:port/x", "postgres:///x?host=db.example&sslmode=prefer",
	} {
		_, err := Open(t.Context(), Options{DSN: address})
		wantKind(t, err, mayfly.Invalid)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestAServerOnAnotherMachineMustProveItself(t *testing.T) {
	for address, secure := range map[string]bool{
		"postgres://db.example/x": true, "postgres://db.example/x?sslmode=verify-full": true, "postgres://10.0.0.1/x": true,
		"postgres://localhost/x?sslmode=disable": false, "postgres://127.0.0.1/x?sslmode=disable": false, "postgres:///x?host=/tmp&sslmode=disable": false,
	} {
		c, err := postgresConfig(mustURL(t, address))
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if got := c.TLSConfig != nil && !c.TLSConfig.InsecureSkipVerify && len(c.Fallbacks) == 0; got != secure {
			t.Errorf("%s: verified is %v, want %v", address, got, secure)
		}
	}
}

func TestAnotherSealKeyIsRefused(t *testing.T) {
	for name, address := range map[string]string{"sqlite": sqliteAddress(t), "postgres": pgtest.New(t)} {
		if err := open(t, address).Close(); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), Options{DSN: address, Seal: [32]byte{9}})
		if err == nil || mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("%s: got %v, want Invalid", name, err)
		}
		open(t, address)
	}
}

// addressOf is what db was opened on.
func addressOf(db *DB) string {
	if e, ok := db.engine.(*sqlite); ok {
		return "sqlite://" + strings.TrimSuffix(e.lock.Name(), ".lock")
	}
	return db.engine.(*postgres).conn.Config().ConnString()
}

// A store of the version before is brought up to this one with all that is in
// it: a task that was opened then was named what it was granted.
func TestAnOlderStoreIsBroughtUp(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		insert(t, db, task("t"))
		for _, statement := range []string{
			`ALTER TABLE task DROP COLUMN named`, `DROP TABLE rate_call`, `DROP TABLE seen`, `DROP TABLE approval`,
			`DROP TABLE approval_vote`, `DROP TABLE pin`, `DROP TABLE bundle`, `DROP TABLE sink`, `DROP TABLE log_anchor`,
			`DROP TABLE lease`, `DROP TABLE sign_in`, `DROP TABLE mention`, `DROP INDEX task_person`, `DROP INDEX delegation_root`, `DROP INDEX epoch_change_subject`, `ALTER TABLE process DROP COLUMN epoch`, `ALTER TABLE process DROP COLUMN epoch_at`,
			`DELETE FROM goose_db_version WHERE version_id >= 2`,
		} {
			tamper(t, db, statement)
		}
		address := addressOf(db)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = open(t, address)
		row, err := db.Task(t.Context(), "t")
		if err != nil || len(row.Named) != 1 || !row.Named[0].Equal(row.Grants[0]) {
			t.Errorf("%+v, %v", row, err)
		}
		mustChange(t, db, func(tx *Tx) { tx.ExtendSeen("t", []string{"untrusted"}) })
		if seen, err := db.Seen(t.Context(), "t"); err != nil || len(seen) != 1 {
			t.Errorf("%v, %v", seen, err)
		}
	})
}

func TestAnOlderBinaryRefusesANewerSchema(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		address := addressOf(db)
		tamper(t, db, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, `+map[string]string{"sqlite": "1", "postgres": "true"}[db.Engine()]+`)`)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), Options{DSN: address, Seal: testSeal})
		wantKind(t, err, mayfly.Invalid)
		if code := mayfly.AsError(err).Code; code != "newer_schema" {
			t.Errorf("code %q (%v)", code, err)
		}
	})
}

func TestAFullDatabaseRefusesAndRecoversByItself(t *testing.T) {
	db := open(t, sqliteAddress(t))
	commit(t, db, mayfly.Alarm{})
	tamper(t, db, `PRAGMA max_page_count = 1`)
	full := false
	for range 20 { // what room is left in the last pages goes first
		errs := together(t, db, 8, func(i int, tx *Tx) {})
		for _, err := range errs {
			if err != nil {
				full = true
				wantKind(t, err, mayfly.Unavailable)
			}
		}
		if full {
			break
		}
	}
	if !full {
		t.Fatal("the database was never full")
	}
	before := count(t, db, `SELECT COUNT(*) FROM event`)
	wantKind(t, change(t, db, func(tx *Tx) { tx.Advance("task", strings.Repeat("x", 10_000), now) }), mayfly.Unavailable)
	if after := count(t, db, `SELECT COUNT(*) FROM event`); after != before {
		t.Errorf("%d events were written by changes that failed", after-before)
	}
	tamper(t, db, `PRAGMA max_page_count = 1000000`)
	mustChange(t, db, func(tx *Tx) {})
	verifyAll(t, db)
}

// disk is a VFS over the machine's that fails on demand, and that can lose what
// was written since the last sync, as a machine does whose power goes.
type disk struct {
	vfs.VFS

	mu   sync.Mutex
	fail error              // of every write
	sync error              // of every sync
	dead bool               // nothing reaches the files any more
	undo map[string][]write // by file: how to take back what is not synced, newest last
}

type write struct {
	at   int64
	old  []byte
	size int64 // of the file before
}

func newDisk(t *testing.T) *disk {
	d := &disk{VFS: vfs.Find("os"), undo: map[string][]write{}}
	vfs.Register(t.Name(), gathering{d})
	t.Cleanup(func() { vfs.Unregister(t.Name()) })
	return d
}

func (d *disk) set(fail, sync error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail, d.sync = fail, sync
}

func (d *disk) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, flags, err := vfsutil.WrapOpenFilename(d.VFS, name, flags)
	if err != nil {
		return nil, flags, err
	}
	return &diskFile{File: f, disk: d, name: name.String()}, flags, nil
}

type diskFile struct {
	vfs.File
	disk *disk
	name string
}

func (f *diskFile) SharedMemory() vfs.SharedMemory { return vfsutil.WrapSharedMemory(f.File) }

// before takes down what a write is about to replace.
func (f *diskFile) before(at int64, n int) error {
	if f.disk.dead {
		return sqlite3.IOERR
	}
	if f.disk.fail != nil {
		return f.disk.fail
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	old := make([]byte, max(0, min(int64(n), size-at)))
	if len(old) > 0 {
		if _, err := f.ReadAt(old, at); err != nil {
			return err
		}
	}
	f.disk.undo[f.name] = append(f.disk.undo[f.name], write{at, old, size})
	return nil
}

func (f *diskFile) WriteAt(p []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.before(at, len(p)); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, at)
}

func (f *diskFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.before(size, 1<<30); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *diskFile) Sync(flags vfs.SyncFlag) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.dead {
		return sqlite3.IOERR_FSYNC
	}
	if f.disk.sync != nil {
		return f.disk.sync
	}
	delete(f.disk.undo, f.name)
	return f.File.Sync(flags)
}

// crash stops the disk; lose then takes back what was not synced.
func (d *disk) crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = true
}

func (d *disk) lose(t *testing.T) (lost int) {
	for name, writes := range d.undo {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := len(writes) - 1; i >= 0; i-- {
			w := writes[i]
			if _, err := f.WriteAt(w.old, w.at); err != nil {
				t.Fatal(err)
			}
			if err := f.Truncate(w.size); err != nil {
				t.Fatal(err)
			}
			lost++
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return lost
}

func openOn(t *testing.T, address, vfs string) *DB {
	t.Helper()
	db, err := Open(t.Context(), Options{DSN: address, Seal: testSeal, vfs: vfs})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestADiskThatFailsIsNeverReportedAsSuccess(t *testing.T) {
	for _, c := range []struct {
		name        string
		write, sync error
	}{
		{"full", sqlite3.FULL, nil},
		{"broken", sqlite3.IOERR_WRITE, nil},
		{"read-only", sqlite3.READONLY, nil},
		{"not syncing", nil, sqlite3.IOERR_FSYNC},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDisk(t)
			db := openOn(t, sqliteAddress(t), t.Name())
			defer db.Close()
			acknowledged := 0
			for round := range 6 {
				fails := round%2 == 1
				if fails {
					d.set(c.write, c.sync)
				} else {
					d.set(nil, nil)
				}
				for i, err := range together(t, db, 10, func(i int, tx *Tx) { tx.Once("own", fmt.Sprint(round, i), now) }) {
					switch {
					case fails:
						wantKind(t, err, mayfly.Unavailable)
					case err != nil:
						t.Errorf("round %d, change %d: %v (%v): it did not recover", round, i, err, errors.Unwrap(err))
					default:
						acknowledged++
					}
				}
			}
			d.set(nil, nil)
			if n := verifyAll(t, db); n < acknowledged {
				t.Errorf("%d events are there, %d were acknowledged", n, acknowledged)
			}
		})
	}
}

func TestWhatWasAcknowledgedSurvivesThePower(t *testing.T) {
	for round := range 5 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			d := newDisk(t)
			address := sqliteAddress(t)
			db := openOn(t, address, t.Name())
			var mu sync.Mutex
			acknowledged := map[string]bool{}
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for {
						r := record(t, db, mayfly.Alarm{Detail: strings.Repeat("x", 500)})
						if err := db.Change(context.Background(), r, func(tx *Tx) {}); err != nil {
							return
						}
						mu.Lock()
						acknowledged[r.ID()] = true
						n := len(acknowledged)
						mu.Unlock()
						if n == 100*(round+1) {
							d.crash()
						}
					}
				})
			}
			all.Wait()
			_ = db.Close() // nothing can be closed in order on a dead disk
			lost := d.lose(t)

			db = open(t, address)
			for id := range acknowledged {
				if _, err := db.EventByID(t.Context(), id); err != nil {
					t.Fatalf("%s was acknowledged and is gone (%v); %d writes were lost", id, err, lost)
				}
			}
			verifyAll(t, db)
			mustChange(t, db, func(tx *Tx) {})
		})
	}
}

func TestAnUnsyncedCommitIsLostByTheTestDisk(t *testing.T) { // or the test above says nothing
	d := newDisk(t)
	vfs.Register(t.Name(), d) // what is gathered waits for a sync that never comes
	address := sqliteAddress(t)
	db := openOn(t, address, t.Name())
	if err := db.engine.(*sqlite).conn.Exec(`PRAGMA synchronous = OFF`); err != nil {
		t.Fatal(err)
	}
	r := commit(t, db, mayfly.Alarm{})
	d.crash()
	_ = db.Close() // as above
	if d.lose(t) == 0 {
		t.Fatal("nothing was lost")
	}
	db = open(t, address)
	if _, err := db.EventByID(t.Context(), r.ID()); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("got %v, want the record to be gone", err)
	}
}

func TestADamagedStoreIsNotOpened(t *testing.T) {
	d := newDisk(t)
	address := sqliteAddress(t)
	db := openOn(t, address, t.Name())
	for range 200 {
		commit(t, db, mayfly.Alarm{})
	}
	tamper(t, db, `PRAGMA wal_checkpoint(TRUNCATE)`)
	commit(t, db, mayfly.Alarm{})
	d.crash() // so that the write-ahead log stays behind
	_ = db.Close()
	path := strings.TrimPrefix(address, "sqlite://")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 8 * 4096; at < len(data); at += 4096 {
		copy(data[at:], bytes.Repeat([]byte{0xff}, 64))
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{DSN: address, Seal: testSeal}); err == nil {
		t.Error("a damaged store was opened")
	}
}

func TestCallsOfAnEndedProcessAreFound(t *testing.T) {
	address := sqliteAddress(t)
	db := open(t, address)
	mustChange(t, db, func(tx *Tx) { tx.OpenCall("dec_1", "t", now) })
	mustChange(t, db, func(tx *Tx) { tx.OpenCall("dec_2", "t", now) })
	mustChange(t, db, func(tx *Tx) { tx.EndCall("dec_2") })
	if calls, err := db.AbandonedCalls(t.Context(), 10); err != nil || len(calls) != 0 {
		t.Errorf("while it lives: %v (%v)", calls, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, address)
	calls, err := db.AbandonedCalls(t.Context(), 10)
	if err != nil || len(calls) != 1 || calls[0].Decision != "dec_1" || calls[0].Task != "t" {
		t.Fatalf("%+v (%v), want the one that was not answered", calls, err)
	}
	mustChange(t, db, func(tx *Tx) { tx.EndCall("dec_1") })
	wantGuard(t, change(t, db, func(tx *Tx) { tx.EndCall("dec_1") }), "call")
}

func TestCallsOfAnotherNodeAreItsOwnWhileItIsSeen(t *testing.T) {
	address := postgresAddress(t)
	one, two := open(t, address), open(t, address)
	mustChange(t, one, func(tx *Tx) { tx.OpenCall("dec_1", "t", now) })
	if calls, err := two.AbandonedCalls(t.Context(), 10); err != nil || len(calls) != 0 {
		t.Errorf("while it is seen: %v (%v)", calls, err)
	}
	tamper(t, two, fmt.Sprintf(`UPDATE process SET seen_at = %d WHERE proc = %d`, micros(time.Now().Add(-aliveFor)), one.Process()))
	if calls, err := two.AbandonedCalls(t.Context(), 10); err != nil || len(calls) != 1 {
		t.Errorf("after it was not seen: %v (%v)", calls, err)
	}
}

func TestNodesShareOneDatabase(t *testing.T) {
	address := pgtest.New(t) // they migrate it at once, too
	nodes := make([]*DB, 3)
	var opening sync.WaitGroup
	for i := range nodes {
		opening.Go(func() { nodes[i] = open(t, address) })
	}
	opening.Wait()
	if t.Failed() {
		t.FailNow()
	}
	insert(t, nodes[0], task("t"))
	var mu sync.Mutex
	spent := 0
	var all sync.WaitGroup
	for _, db := range nodes {
		all.Go(func() {
			for i, err := range together(t, db, 30, func(i int, tx *Tx) {
				tx.Once("own", fmt.Sprint(db.Process(), ":", i), now)
				tx.SpendGrant("t", "g", 40)
				tx.Advance("task", "t", now)
			}) {
				if guardOf(err) == "" && err != nil {
					t.Errorf("node %d, change %d: %v (%v)", db.Process(), i, err, errors.Unwrap(err))
				}
				if err == nil {
					mu.Lock()
					spent++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	if got, err := nodes[1].Counters(t.Context(), "t"); err != nil || spent != 40 || got["g"] != 40 {
		t.Errorf("%d were let through, the row says %v (%v), want 40", spent, got, err)
	}
	if n, err := nodes[2].Epoch(t.Context()); err != nil || n != 40 {
		t.Errorf("epoch %d (%v), want 40", n, err)
	}
	if n := verifyAll(t, nodes[0]); n != 41 {
		t.Errorf("%d events, want 41", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	mustChange(t, nodes[0], func(tx *Tx) { tx.Advance("task", "t", now) })
	for _, db := range nodes {
		if err := db.Wait(ctx); err != nil {
			t.Errorf("node %d was not told of the epoch", db.Process())
		}
	}
}

func TestALostConnectionCostsNothingThatWasAcknowledged(t *testing.T) {
	address := postgresAddress(t)
	db := open(t, address)
	admin, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	var mu sync.Mutex
	var acknowledged []string
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				r, err := db.Prepare(context.Background(), now, "bundle", mayfly.Alarm{})
				if err != nil {
					t.Error(err)
					return
				}
				err = db.Change(context.Background(), r, func(tx *Tx) {})
				if err == nil {
					mu.Lock()
					acknowledged = append(acknowledged, r.ID())
					mu.Unlock()
				} else if mayfly.KindOf(err) != mayfly.Unavailable {
					t.Errorf("got %v, want Unavailable", err)
				}
			}
		})
	}
	kills := 0
	for ctx.Err() == nil {
		_, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		if err != nil {
			t.Fatal(err)
		}
		kills++
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	all.Wait()
	mustChange(t, db, func(tx *Tx) {})
	for _, id := range acknowledged {
		if _, err := db.EventByID(t.Context(), id); err != nil {
			t.Errorf("%s was acknowledged and is gone", id)
		}
	}
	if n := verifyAll(t, db); n < len(acknowledged)+1 || len(acknowledged) == 0 {
		t.Errorf("%d events, %d acknowledged over %d kills", n, len(acknowledged), kills)
	}
}

func mustURL(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestAStoreIsReadWithoutBeingChanged(t *testing.T) {
	for name, address := range map[string]string{"sqlite": sqliteAddress(t), "postgres": pgtest.New(t)} {
		t.Run(name, func(t *testing.T) {
			if _, err := Open(t.Context(), Options{DSN: address, Seal: testSeal, ReadOnly: true}); err == nil {
				t.Fatal("a store that does not exist was opened")
			}
			db := open(t, address)
			r := commit(t, db, opened("task_1"))
			processes := count(t, db, `SELECT COUNT(*) FROM process`)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), Options{DSN: address, ReadOnly: true}); mayfly.KindOf(err) != mayfly.Invalid {
				t.Errorf("with another seal key: %v, want Invalid", err)
			}
			db, err := Open(t.Context(), Options{DSN: address, Seal: testSeal, ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			row, err := db.EventByID(t.Context(), r.ID())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Body(t.Context(), *row); err != nil {
				t.Error(err)
			}
			wantKind(t, db.Change(t.Context(), r, func(*Tx) {}), mayfly.Unavailable)
			wantKind(t, db.Keep(t.Context(), func(*Books) {}), mayfly.Unavailable)
			if n := count(t, db, `SELECT COUNT(*) FROM process`); n != processes {
				t.Errorf("%d processes, were %d", n, processes)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestABackupIsAStore(t *testing.T) {
	db := open(t, sqliteAddress(t))
	r := commit(t, db, opened("task_1"))
	path := filepath.Join(t.TempDir(), "backup.db")
	if err := db.Backup(t.Context(), path); err != nil {
		t.Fatal(err, errors.Unwrap(err))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
	wantKind(t, db.Backup(t.Context(), path), mayfly.Invalid) // it is there
	commit(t, db, opened("task_2"))
	copied := open(t, "sqlite://"+path)
	if _, err := copied.EventByID(t.Context(), r.ID()); err != nil {
		t.Error(err)
	}
	if n := verifyAll(t, copied); n != 1 {
		t.Errorf("%d records in the backup, want 1", n)
	}
	wantKind(t, open(t, postgresAddress(t)).Backup(t.Context(), path+"2"), mayfly.Invalid)
}
