package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
)

func TestARefusedChangeCommitsNothingAndItsNeighboursStay(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		insert(t, db, task("t"))
		before := verifyAll(t, db)
		errs := together(t, db, 60, func(i int, tx *Tx) {
			tx.Once("own", fmt.Sprint(i), now)
			switch i % 3 {
			case 1: // refused before it writes
				tx.ChainLive([]mayfly.TaskID{"nobody"}, now)
			case 2: // refused after it wrote
				tx.AddChild("nobody", 1)
			}
		})
		for i, err := range errs {
			wantGuard(t, err, []string{"", "chain", "children"}[i%3])
		}
		if n := count(t, db, `SELECT COUNT(*) FROM once`); n != 20 {
			t.Errorf("%d marks are written, want those of the 20 that held", n)
		}
		if n := verifyAll(t, db) - before; n != 20 {
			t.Errorf("%d events, want 20", n)
		}
	})
}

func TestARefusalThatRestedOnARolledBackWriteIsJudgedAgain(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		insert(t, db, task("t"))
		// The first of each pair burns the mark and is then refused, so the
		// second must get it, in whatever batch they meet.
		for range 20 {
			errs := together(t, db, 2, func(i int, tx *Tx) {
				tx.Once("mark", "shared", now)
				if i == 0 {
					tx.AddChild("nobody", 1)
				}
			})
			if errs[0] == nil || errs[1] != nil {
				t.Fatalf("got %v and %v, want a refusal and none", errs[0], errs[1])
			}
			if err := db.Keep(t.Context(), func(b *Books) { b.PurgeOnce(now.Add(time.Hour)) }); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestAChangeThatBreaksAConstraintFailsAlone(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		insert(t, db, task("t"))
		errs := together(t, db, 20, func(i int, tx *Tx) {
			tx.Once("own", fmt.Sprint(i), now)
			if i == 7 {
				tx.InsertTask(task("t"))
			}
		})
		for i, err := range errs {
			if (err != nil) != (i == 7) {
				t.Errorf("change %d: %v", i, err)
			}
		}
		if kind := mayfly.KindOf(errs[7]); kind != mayfly.Internal {
			t.Errorf("kind %v, want Internal", kind)
		}
		if n := count(t, db, `SELECT COUNT(*) FROM once`); n != 19 {
			t.Errorf("%d marks, want 19", n)
		}
		verifyAll(t, db)
	})
}

func TestChangesShareCommits(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		commits, changes := db.Commits(), db.Changes()
		together(t, db, 200, func(i int, tx *Tx) { tx.Once("own", fmt.Sprint(i), now) })
		if n := db.Changes() - changes; n != 200 {
			t.Errorf("%d changes, want 200", n)
		}
		if n := db.Commits() - commits; n > 150 {
			t.Errorf("%d commits for 200 changes at once", n)
		}
	})
}

func TestOnlyOneCloseWins(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		insert(t, db, task("t"))
		before := verifyAll(t, db)
		won := 0
		for i, err := range together(t, db, 20, func(i int, tx *Tx) { tx.CloseTask("t", mayfly.Completed, fmt.Sprint(i), now) }) {
			if err != nil {
				wantGuard(t, err, "closed")
				continue
			}
			won++
			if row, err := db.Task(t.Context(), "t"); err != nil || row.ClosedBy != fmt.Sprint(i) || row.Reason != mayfly.Completed || !row.ClosedAt.Equal(now) {
				t.Errorf("%d won, and the task says %+v (%v)", i, row, err)
			}
		}
		if won != 1 || verifyAll(t, db)-before != 1 {
			t.Errorf("%d closes won with %d events", won, verifyAll(t, db)-before)
		}
	})
}

func TestAParentNeverHasMoreChildrenThanItMay(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		up := task("up")
		insert(t, db, up)
		opened := 0
		for _, err := range together(t, db, 20, func(i int, tx *Tx) {
			tx.AddChild("up", 3)
			tx.InsertTask(task(fmt.Sprint("child", i), up))
		}) {
			if err == nil {
				opened++
			} else {
				wantGuard(t, err, "children")
			}
		}
		children, err := db.Children(t.Context(), "up")
		if err != nil || opened != 3 || len(children) != 3 {
			t.Errorf("%d said they opened, %d are there (%v), want 3", opened, len(children), err)
		}
		mustChange(t, db, func(tx *Tx) { tx.CloseTask("up", mayfly.Completed, "", now) })
		wantGuard(t, change(t, db, func(tx *Tx) { tx.AddChild("up", 100) }), "children")
	})
}

func TestOnceIsOnce(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		won := 0
		for _, err := range together(t, db, 30, func(i int, tx *Tx) { tx.Once("dpop", "k:j", now) }) {
			if err == nil {
				won++
			} else {
				wantGuard(t, err, "once:dpop")
			}
		}
		if won != 1 {
			t.Errorf("%d burned one mark", won)
		}
		if err := change(t, db, func(tx *Tx) { tx.Once("assertion", "k:j", now) }); err != nil {
			t.Errorf("another class: %v", err)
		}
	})
}

func TestATicketOpensAsOftenAsItMay(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		d := &mayfly.Delegation{
			ID: "dlg", Profile: "p", Purpose: mayfly.Purpose{Text: "x", By: "delegator", Verified: true}, Grants: task("t").Grants,
			Root: task("t").Root, Parent: "t", ExpiresAt: now.Add(time.Minute), TaskTTL: time.Hour, Uses: 4, MadeAt: now, Dlg: "leaf",
		}
		mustChange(t, db, func(tx *Tx) { tx.InsertDelegation(d, []byte("hash")) })
		used := 0
		for _, err := range together(t, db, 20, func(i int, tx *Tx) { tx.UseTicket("dlg", now) }) {
			if err == nil {
				used++
			} else {
				wantGuard(t, err, "ticket")
			}
		}
		got, err := db.DelegationBySecret(t.Context(), []byte("hash"))
		if err != nil || used != 4 || got.Used != 4 {
			t.Fatalf("used %d times, the row says %+v (%v), want 4", used, got, err)
		}
		got.Used = 0
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", d) {
			t.Errorf("read\n%+v, wrote\n%+v", got, d)
		}

		d.ID, d.Uses = "second", 1
		mustChange(t, db, func(tx *Tx) { tx.InsertDelegation(d, []byte("hash2")) })
		wantGuard(t, change(t, db, func(tx *Tx) { tx.UseTicket("second", d.ExpiresAt) }), "ticket")
		mustChange(t, db, func(tx *Tx) { tx.VoidTicketsOf("t", now) })
		wantGuard(t, change(t, db, func(tx *Tx) { tx.UseTicket("second", now) }), "ticket")
	})
}

func TestABudgetIsSpentExactly(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		up, down := task("up"), task("down", task("up"))
		insert(t, db, up, down)
		spent := 0
		for _, err := range together(t, db, 50, func(i int, tx *Tx) {
			tx.ChainLive(down.Chain(), now)
			tx.SpendGrant("up", "g", 17)
			tx.SpendGrant("down", "g", 20)
			tx.SpendTask("down", 30)
		}) {
			if err == nil {
				spent++
			} else {
				wantGuard(t, err, "budget:up:g")
			}
		}
		ups, err1 := db.Counters(t.Context(), "up")
		downs, err2 := db.Counters(t.Context(), "down")
		row, err3 := db.Task(t.Context(), "down")
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		if spent != 17 || ups["g"] != 17 || downs["g"] != 17 || row.Calls != 17 {
			t.Errorf("%d were let through; up says %v, down %v and %d", spent, ups, downs, row.Calls)
		}
		wantGuard(t, change(t, db, func(tx *Tx) { tx.SpendTask("down", 17) }), "task budget:down")
		wantGuard(t, change(t, db, func(tx *Tx) { tx.SpendGrant("down", "new", 0) }), "budget:down:new")

		mustChange(t, db, func(tx *Tx) { tx.GiveBack("up", "g"); tx.GiveBackTask("down") })
		mustChange(t, db, func(tx *Tx) { tx.SpendGrant("up", "g", 17); tx.SpendTask("down", 17) })
		mustChange(t, db, func(tx *Tx) {
			tx.CloseTask("up", mayfly.Revoked, "", now)
			tx.CloseTask("down", mayfly.Revoked, "", now)
		})
		mustChange(t, db, func(tx *Tx) { tx.GiveBack("up", "g"); tx.GiveBackTask("down") })
		if ups, _ = db.Counters(t.Context(), "up"); ups["g"] != 17 {
			t.Errorf("an ended task was given something back: %v", ups)
		}
	})
}

func TestNumbersHaveNoGapAfterRollbacks(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		for round := range 5 {
			together(t, db, 40, func(i int, tx *Tx) {
				tx.Once("own", fmt.Sprint(round, ":", i), now)
				if i%4 == 0 {
					tx.AddChild("nobody", 1)
				}
			})
		}
		if n := verifyAll(t, db); n != 150 {
			t.Errorf("%d events in the chain, want 150", n)
		}
	})
}

func TestACancelledChangeIsWithdrawnBeforeItsTurnAndAwaitedAfter(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		r := record(t, db, mayfly.Alarm{})
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("went away")
		cancel(why)

		// Before its turn: the writer's queue is held so that the turn cannot come.
		db.writer.mu.Lock()
		p := &Pending{ctx: ctx, record: r, done: make(chan struct{})}
		db.writer.queue = append(db.writer.queue, p)
		if err := p.Wait(); !errors.Is(err, why) {
			t.Errorf("got %v, want the cause of the cancellation", err)
		}
		db.writer.mu.Unlock()
		mustChange(t, db, func(tx *Tx) {})
		if n := count(t, db, `SELECT COUNT(*) FROM event`); n != 1 {
			t.Errorf("%d events, want only the second change's", n)
		}

		// After its turn began: it is taken, so Wait waits for the commit.
		p = &Pending{ctx: ctx, record: r, done: make(chan struct{})}
		p.state.Store(taken)
		go func() { answer([]*Pending{p}, nil) }()
		if err := p.Wait(); err != nil {
			t.Errorf("got %v, want the result", err)
		}
	})
}

func TestNothingIsWrittenWithoutARecordOrAfterClose(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		if err := db.Change(t.Context(), Record{}, func(tx *Tx) {}); err == nil {
			t.Error("a change without a record was taken")
		}
		r := record(t, db, mayfly.Alarm{})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := db.Change(t.Context(), r, func(tx *Tx) {}); mayfly.KindOf(err) != mayfly.Unavailable {
			t.Errorf("after Close: %v, want Unavailable", err)
		}
		if !db.Closed() {
			t.Error("it does not say that it is closed")
		}
	})
}

func TestCloseCommitsWhatWasSubmitted(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		var pending []*Pending
		for range 600 { // more than one batch
			pending = append(pending, db.Submit(t.Context(), record(t, db, mayfly.Alarm{}), func(tx *Tx) {}))
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		for _, p := range pending {
			if err := p.Wait(); err != nil {
				t.Fatal(err, errors.Unwrap(err))
			}
		}
	})
}

func TestWhatIsInNoHurryJoinsACommitOrBeginsOneSoon(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		commit(t, db, opened("task_0")) // the person is met
		one, other := record(t, db, opened("task_1")), record(t, db, opened("task_2"))
		commits := db.Commits()
		from := time.Now()
		slow := db.Submit(t.Context(), one, (*Tx).Soon)
		if err := db.Change(t.Context(), other, func(*Tx) {}); err != nil {
			t.Fatal(err)
		}
		if err := slow.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := db.Commits() - commits; n != 1 && time.Since(from) < soonWithin {
			t.Errorf("%d commits, want one", n)
		}
		if err := db.Change(t.Context(), record(t, db, opened("task_3")), (*Tx).Soon); err != nil { // by itself
			t.Error(err)
		}
		verifyAll(t, db)
	})
}
