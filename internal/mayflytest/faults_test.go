package mayflytest_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/ncruces/go-sqlite3/driver"
	"golang.org/x/sys/unix"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// failing is a system whose store is about to fail, under load.
type failing struct {
	*mayflytest.System
	hand
	handed *mayflytest.Handed

	standing  *client.Session // a task with a token for the upstream
	lives     atomic.Int64    // tasks that went all their way
	completed sync.Map
	stop      func()
}

func newFailing(t *testing.T, dsn string) *failing {
	t.Helper()
	s := mayflytest.New(t, mayflytest.Options{DSN: dsn, Change: func(b *authority.Bundle) {
		// Each writing call is counted, so that a count without its record, or
		// a record without its count, shows.
		b.Profiles["invoice"].Grants = mayflytest.Grants(t, mayRead,
			`{"type":"mayfly_grant","grant":"`+mayWrite+`","budget":{"calls":1000000}}`)
		b.Profiles["invoice"].Default = mayflytest.Grants(t, mayRead)
	}})
	f := &failing{System: s, handed: &mayflytest.Handed{}}
	f.hand = hand{sys: s, client: func() *client.Client { return f.handed.Client(s) }}
	var err error
	if f.standing, err = f.open(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	if got := f.call(t.Context(), f.standing, http.MethodPost, "/v1/orders/first"); got != http.StatusOK {
		t.Fatalf("the first call: %d", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var working sync.WaitGroup
	for w := range 3 {
		working.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if f.work(ctx, fmt.Sprintf("/v1/orders/%d/%d", w, n), &f.completed) {
					f.lives.Add(1)
				}
			}
		})
	}
	f.stop = func() { cancel(); working.Wait() }
	t.Cleanup(f.stop)
	return f
}

// lively waits until tasks go all their way, again.
func (f *failing) lively() {
	f.T.Helper()
	from := f.lives.Load()
	mayflytest.Eventually(f.T, 30*time.Second, "tasks live again", func() bool { return f.lives.Load() > from+3 })
}

// refuses checks that nothing can be opened, done or ended, that each is
// answered with 503, and that the upstream sees nothing of it.
func (f *failing) refuses() {
	t := f.T
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := f.open(ctx, "alice")
	if mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("opening a task: %v, want unavailable", err)
	}
	if got := f.call(ctx, f.standing, http.MethodPost, "/v1/orders/refused"); got != http.StatusServiceUnavailable {
		t.Errorf("a call is answered with %d, want 503", got)
	}
	if _, err := f.standing.API().Delegate(ctx, client.DelegateRequest{Profile: "invoice", Purpose: "p"}); mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("a ticket: %v, want unavailable", err)
	}
	if _, err := f.standing.Complete(ctx); mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("completing: %v, want unavailable", err)
	}
	for _, seen := range f.Orders.Requests() {
		if strings.HasSuffix(seen.Path, "/refused") {
			t.Error("the refused call reached the upstream")
		}
	}
}

// audit ends the load and checks what is left.
func (f *failing) audit() {
	t := f.T
	t.Helper()
	f.stop()
	f.Records() // waits until everything has a position
	r := mayflytest.Audit(t, f.DB, f.handed, f.Orders)
	f.completed.Range(func(id, _ any) bool {
		if _, ok := r.Closed[id.(mayfly.TaskID)]; !ok {
			t.Errorf("the completion of %s was answered and is not recorded", id)
		}
		return true
	})
	if found := f.Log.Alarm(); found != "" {
		t.Errorf("the log raised the alarm: %s", found)
	}
	t.Logf("%d tasks lived, %d records, %d tokens seen, none without its record", f.lives.Load(), r.N, len(f.handed.Tokens()))
}

// S-82 on PostgreSQL: it goes away in every way a server on a network can, under
// load, and comes back.
func TestS82PostgresGoesAwayAndComesBack(t *testing.T) {
	dsn := mayflytest.Postgres(t)
	way := mayflytest.NewProxy(t, dsn)
	f := newFailing(t, way.DSN)
	for _, fault := range []struct {
		name string
		fail func()
		gone bool // until it is healed
	}{
		{"its connections are closed, and new ones", way.Cut, true},
		{"it ends every session", func() { terminate(t, dsn) }, false},
		{"it says nothing", way.Pause, true},
		{"the connections there are hear nothing ever again", way.Freeze, false},
	} {
		t.Run(strings.ReplaceAll(fault.name, " ", "-"), func(t *testing.T) {
			f.lively()
			fault.fail()
			if fault.gone {
				f.refuses()
				way.Heal()
			}
			from := time.Now()
			f.lively()
			t.Logf("tasks live again after %s", time.Since(from))
			if got := f.call(t.Context(), f.standing, http.MethodPost, "/v1/orders/again"); got != http.StatusOK {
				t.Errorf("the standing task is answered with %d", got)
			}
		})
	}
	f.audit()
}

// missing skips a test that cannot be run here; with CI=true it fails.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// terminate ends every session of the database, as a restart of the server does.
func terminate(t *testing.T, dsn string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	if err := errors.Join(err, c.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// S-82 on SQLite: the disk is full, under load, and has room again.
func TestS82ADiskThatIsFullIsNoEffectAndNoEnd(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32m,mode=0700"); err != nil {
		missing(t, "a small file system of its own cannot be mounted here (%v); store's TestAFullDatabaseRefusesAndRecoversByItself says the same of the store alone", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	f := newFailing(t, "sqlite://"+filepath.Join(dir, "mayfly.db"))
	f.lively()
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	// What the files have room for already goes first.
	f.Eventually("the disk is full for the server too", func() bool {
		fill(t, ballast)
		return f.call(t.Context(), f.standing, http.MethodPost, "/v1/orders/filling") == http.StatusServiceUnavailable
	})
	f.refuses()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	f.lively()
	if got := f.call(t.Context(), f.standing, http.MethodPost, "/v1/orders/again"); got != http.StatusOK {
		t.Errorf("the standing task is answered with %d", got)
	}
	f.audit()
}

// fill appends to the file at path until nothing fits.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	junk := make([]byte, 4096)
	rand.Read(junk)
	for range 1 << 20 {
		if _, err := file.Write(junk); errors.Is(err, unix.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the disk is never full")
}

// A backup, or a person, holds the database locked for longer than anybody waits.
func TestADatabaseThatSomebodyElseLocksIsUnavailable(t *testing.T) {
	dsn := mayflytest.SQLite(t)
	f := newFailing(t, dsn)
	f.lively()
	other, err := sql.Open("sqlite3", "file:"+strings.TrimPrefix(dsn, "sqlite://")+"?_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	f.refuses()
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	f.lively()
	f.audit()
}

// A store that cannot be written at the start is an error that says so, and
// leaves what is there as it was.
func TestAServerDoesNotStartOnAStoreItCannotWrite(t *testing.T) {
	i := mayflytest.Install(t, mayflytest.Build(t), mayflytest.SQLite(t))
	if err := i.Serve().Stop(); err != nil {
		t.Fatalf("%v\n%s", err, i.Said)
	}
	path := strings.TrimPrefix(i.DSN, "sqlite://")
	if out, err := exec.Command("chattr", "+i", path).CombinedOutput(); err != nil {
		missing(t, "a file cannot be made unchangeable here: %v %s", err, out)
	}
	out, code := i.Mayfly("serve")
	if back, err := exec.Command("chattr", "-i", path).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, back)
	}
	if code == 0 || !strings.Contains(out, "store") {
		t.Errorf("exit %d: %s", code, out)
	}
	if err := i.Serve().Stop(); err != nil {
		t.Errorf("afterwards: %v\n%s", err, i.Said)
	}
	i.AuditStopped()
}

// A process dies while the last call that a task's budget paid for is open. The
// next start says that nobody knows what became of it, and ends the task.
func TestATaskWhoseLastCallWasAbandonedEndsByItsBudget(t *testing.T) {
	dsn := mayflytest.SQLite(t)
	n := node{mayflytest.New(t, mayflytest.Options{DSN: dsn}), time.Now}
	own := n.open(n.opening("budget", "2"), newHolder(t))
	n.Stop()
	db, err := sql.Open("sqlite3", "file:"+strings.TrimPrefix(dsn, "sqlite://"))
	if err != nil {
		t.Fatal(err)
	}
	_, spent := db.Exec(`UPDATE task SET calls = 2 WHERE id = $1`, string(own.task))
	_, open := db.Exec(`INSERT INTO open_call (decision, task, proc, at) VALUES ('dec_abandoned', $1, 4711, 0)`, string(own.task))
	if err := errors.Join(spent, open, db.Close()); err != nil {
		t.Fatal(err)
	}
	n.Start(mayflytest.Options{})
	n.Eventually("the task is over", func() bool { return n.view(own.task).Reason == mayfly.BudgetSpent })
	if found := n.Records("call.ended"); len(found) != 1 || body(t, found[0])["outcome"] != "unknown" {
		t.Errorf("the outcome is recorded as %+v", found)
	}
}
