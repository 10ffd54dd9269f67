package store

import (
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
)

// A lease goes one way, whoever tries to move it and however often.
func TestALeaseMovesOneWay(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		insert(t, db, task("t"))
		id := mayfly.NewLeaseID(now)
		lease := &mayfly.Lease{ID: id, Task: "t", Root: task("t").Root, Decision: "dec", Kind: "postgres", Target: "db", Role: "reader", OpenedAt: now, ExpiresAt: now.Add(time.Hour)}
		step := func(what string, refused bool, build func(*Tx)) {
			t.Helper()
			err := change(t, db, build)
			if (guardOf(err) == "lease") != refused || err != nil && !refused {
				t.Fatalf("%s: %v", what, err)
			}
		}
		state := func(want mayfly.LeaseState) *mayfly.Lease {
			t.Helper()
			l, err := db.Lease(ctx, id)
			if err != nil || l.State() != want {
				t.Fatalf("%+v (%v), want %s", l, err, want)
			}
			return l
		}
		due := func(at time.Time, want int) {
			t.Helper()
			if got, err := db.LeasesDue(ctx, at, 10); err != nil || len(got) != want {
				t.Fatalf("%d due at %s (%v), want %d", len(got), at, err, want)
			}
		}
		retires := func(want int) {
			t.Helper()
			if got, err := db.ToRetire(ctx, 10); err != nil || len(got) != want {
				t.Fatalf("%d tasks can retire (%v), want %d", len(got), err, want)
			}
		}

		step("pending", false, func(tx *Tx) { tx.InsertLease(lease); tx.OpenCall("dec", "t", now) })
		if l := state(mayfly.LeasePending); l.Root.ID != lease.Root.ID || l.Grant() != "postgres:db:reader" || !l.ExpiresAt.Equal(lease.ExpiresAt) {
			t.Errorf("%+v", l)
		}
		toEnd := func(what string, at time.Time, want int) {
			t.Helper()
			if got, err := db.LeasesToEnd(ctx, at, 10); err != nil || len(got) != want {
				t.Errorf("%s: %d are to end (%v), want %d", what, len(got), err, want)
			}
		}
		toEnd("while it is made", now, 0)
		toEnd("while it is made, too late", now.Add(2*time.Hour), 0)
		step("its call ends", false, func(tx *Tx) { tx.EndCall("dec") })
		toEnd("after a call that was not answered with it", now, 1)
		step("returned before it ended", true, func(tx *Tx) { tx.ReturnLease(id, now) })
		step("active", false, func(tx *Tx) { tx.ActivateLease(id, "mf_x", now.Add(time.Minute), now) })
		step("active twice", true, func(tx *Tx) { tx.ActivateLease(id, "mf_y", now, now) })
		if l, err := db.LeaseOf(ctx, "mf_x"); err != nil || l.ID != id || l.State() != mayfly.LeaseActive || !l.ExpiresAt.Equal(now.Add(time.Minute)) {
			t.Errorf("by its principal: %+v (%v)", l, err)
		}
		if _, err := db.LeaseOf(ctx, ""); mayfly.KindOf(err) != mayfly.NotFound {
			t.Errorf("by no principal: %v", err)
		}
		toEnd("while it is lent", now, 0)
		toEnd("when it has expired", now.Add(time.Minute), 1)
		step("the task closes", false, func(tx *Tx) { tx.CloseTask("t", mayfly.Completed, "me", now) })
		retires(0)
		toEnd("when its task closed", now, 1)
		due(now.Add(time.Hour), 0)
		step("ended", false, func(tx *Tx) { tx.EndLease(id, mayfly.LeaseTaskEnded, now) })
		step("ended twice", true, func(tx *Tx) { tx.EndLease(id, mayfly.LeaseGivenBack, now) })
		step("active after its end", true, func(tx *Tx) { tx.ActivateLease(id, "mf_y", now, now) })
		if l := state(mayfly.LeaseReturning); l.Reason != mayfly.LeaseTaskEnded || l.Principal != "mf_x" {
			t.Errorf("%+v", l)
		}

		due(now, 1)
		try := func(tries int64) error {
			return db.Keep(ctx, func(b *Books) { b.TryLease(id, tries, now.Add(time.Minute)) })
		}
		if err := try(0); err != nil {
			t.Fatal(err)
		}
		if err := try(0); guardOf(err) != "lease" {
			t.Errorf("two take one try: %v", err)
		}
		due(now, 0)
		due(now.Add(time.Minute), 1)
		if err := db.Keep(ctx, func(b *Books) { b.FailLease(id, 1, "it is down", now.Add(2*time.Minute)) }); err != nil {
			t.Fatal(err)
		}
		due(now.Add(time.Minute), 0)
		due(now.Add(2*time.Minute), 1)
		step("an alarm", false, func(tx *Tx) { tx.AlarmLease(id, now) })
		step("a second", true, func(tx *Tx) { tx.AlarmLease(id, now) })
		if l := state(mayfly.LeaseReturning); l.Problem != "it is down" || l.Tries != 1 || l.AlarmedAt.IsZero() {
			t.Errorf("%+v", l)
		}
		retires(0)
		step("returned", false, func(tx *Tx) {
			tx.ReturnLease(id, now)
		})
		step("returned twice", true, func(tx *Tx) { tx.ReturnLease(id, now) })
		state(mayfly.LeaseReturned)
		retires(1)
		due(now.Add(time.Hour), 0)
		step("found again", false, func(tx *Tx) { tx.FindLease(id, now) })
		due(now, 1)
		retires(0)
		if err := change(t, db, func(tx *Tx) { tx.RetireTask("t", now) }); guardOf(err) != "retire" {
			t.Errorf("a task with something on loan retires: %v", err)
		}
	})
}
