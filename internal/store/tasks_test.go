package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mayfly-id/mayfly"
)

func TestATaskIsReadBackAsItWasOpened(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		up := task("up")
		down := task("down", up)
		down.Ticket, down.Budget, down.Root.Claims = "dlg_1", 7, map[string]string{"sub": "x"}
		insert(t, db, up, down)
		for _, want := range []*mayfly.Task{up, down} {
			want.Named = want.Grants // what a task opens with is what was named
			got, err := db.Task(t.Context(), want.ID)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(*want, got.Task, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-opened +read):\n%s", diff)
			}
			if got.Version != 1 || got.Children != 0 {
				t.Errorf("version %d, children %d", got.Version, got.Children)
			}
		}
		both, err := db.TasksByID(t.Context(), []mayfly.TaskID{"down", "up", "nobody"})
		if err != nil || len(both) != 2 || both["up"].ID != "up" {
			t.Errorf("by id: %v (%v)", both, err)
		}
	})
}

func TestTheIdleLeaseNeverPassesTheDeadline(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		long := task("long")
		long.IdleUntil = long.Deadline.Add(time.Hour)
		insert(t, db, long, task("t"))
		until := func(id mayfly.TaskID) time.Time {
			row, err := db.Task(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return row.IdleUntil
		}
		if got := until("long"); !got.Equal(long.Deadline) {
			t.Errorf("opened until %v, want the deadline", got)
		}
		for _, c := range []struct{ to, want time.Duration }{
			{2 * time.Minute, 2 * time.Minute}, {time.Minute, 2 * time.Minute}, {2 * time.Hour, 2 * time.Minute}, {time.Hour, time.Hour},
		} {
			mustChange(t, db, func(tx *Tx) { tx.RenewIdle("t", now.Add(c.to)) })
			if got := until("t").Sub(now); got != c.want {
				t.Errorf("renewed to %v: until %v, want %v", c.to, got, c.want)
			}
		}
	})
}

func TestAChainIsLiveOnlyWhileEveryLinkIs(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		var chain []*mayfly.Task
		for i := range 8 { // longer than the statement's list
			one := task(fmt.Sprint("t", i), chain...)
			one.IdleUntil = one.Deadline
			chain = append(chain, one)
		}
		insert(t, db, chain...)
		last := chain[len(chain)-1]
		live := func(at time.Time) error {
			return change(t, db, func(tx *Tx) { tx.ChainLive(last.Chain(), at) })
		}
		wantGuard(t, live(now), "")
		wantGuard(t, live(last.Deadline.Add(-time.Microsecond)), "")
		wantGuard(t, live(last.Deadline), "chain")
		wantGuard(t, change(t, db, func(tx *Tx) { tx.ChainLive(append(last.Chain(), "nobody"), now) }), "chain")
		wantGuard(t, change(t, db, func(tx *Tx) { tx.ChainLive(nil, now) }), "chain")
		mustChange(t, db, func(tx *Tx) { tx.CloseTask("t7", mayfly.Completed, "", now) })
		wantGuard(t, live(now), "chain")
		wantGuard(t, change(t, db, func(tx *Tx) { tx.ChainLive(chain[6].Chain(), now) }), "")
	})
}

func TestAnExpiryLosesToARenewal(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		insert(t, db, task("t"), task("other"))
		later := now.Add(time.Minute)
		expired, err := db.Expired(t.Context(), later, 10)
		if err != nil || len(expired) != 2 {
			t.Fatalf("%v (%v), want both", expired, err)
		}
		if none, err := db.Expired(t.Context(), later.Add(-time.Microsecond), 10); err != nil || len(none) != 0 {
			t.Errorf("before its time: %v (%v)", none, err)
		}
		mustChange(t, db, func(tx *Tx) { tx.RenewIdle("t", later.Add(time.Minute)) })
		wantGuard(t, change(t, db, func(tx *Tx) { tx.CloseExpired("t", mayfly.IdleRanOut, later) }), "closed")
		wantGuard(t, change(t, db, func(tx *Tx) { tx.CloseExpired("other", mayfly.IdleRanOut, later) }), "")
	})
}

func TestATaskRetiresAfterEverythingBelowIt(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		up, down := task("up"), task("down", task("up"))
		insert(t, db, up, down)
		retire := func(id mayfly.TaskID) error {
			return change(t, db, func(tx *Tx) { tx.RetireTask(id, now) })
		}
		names := func(ts []*mayfly.Task, err error) string {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			s := ""
			for _, one := range ts {
				s += string(one.ID) + " "
			}
			return s
		}
		wantGuard(t, retire("up"), "retire")
		mustChange(t, db, func(tx *Tx) { tx.CloseTask("up", mayfly.Completed, "", now) })
		wantGuard(t, retire("up"), "retire")
		if got := names(db.Orphans(t.Context(), 10)); got != "down " {
			t.Errorf("orphans: %q, want the child", got)
		}
		if got := names(db.ToRetire(t.Context(), 10)); got != "" {
			t.Errorf("to retire: %q, want none while the child is open", got)
		}
		mustChange(t, db, func(tx *Tx) { tx.CloseTask("down", mayfly.ParentEnded, "up", now) })
		if got := names(db.ToRetire(t.Context(), 10)); got != "down " {
			t.Errorf("to retire: %q, want the child", got)
		}
		wantGuard(t, retire("down"), "")
		wantGuard(t, retire("down"), "retire")
		if got := names(db.ToRetire(t.Context(), 10)); got != "up " {
			t.Errorf("to retire: %q, want the parent", got)
		}
		wantGuard(t, retire("up"), "")
		row, err := db.Task(t.Context(), "up")
		if err != nil || !row.RetiredAt.Equal(now) {
			t.Errorf("%+v (%v)", row, err)
		}
	})
}

func TestNarrowingTwiceFromOneReadingIsRefused(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		insert(t, db, task("t"))
		narrow := func(version int64) error {
			return change(t, db, func(tx *Tx) { tx.SetGrants("t", nil, version) })
		}
		wantGuard(t, narrow(1), "")
		wantGuard(t, narrow(1), "grants")
		row, err := db.Task(t.Context(), "t")
		if err != nil || len(row.Grants) != 0 || row.Version != 2 {
			t.Errorf("%+v (%v)", row, err)
		}
		mustChange(t, db, func(tx *Tx) { tx.CloseTask("t", mayfly.Completed, "", now) })
		wantGuard(t, narrow(2), "grants")
	})
}

func TestARevocationClosesWhatItNamesAndBarsItUntilLifted(t *testing.T) {
	for _, c := range []struct {
		kind, value string
		closed      []mayfly.TaskID
	}{
		{"human", "alice", []mayfly.TaskID{"t", "child"}},
		{"human", "robot", nil},
		{"service", "robot", []mayfly.TaskID{"other"}},
		{"profile", "invoice", []mayfly.TaskID{"t", "child", "other"}},
		{"profile", "nobody", nil},
		{"source", "corp", []mayfly.TaskID{"t", "child"}},
		{"source", "cluster", []mayfly.TaskID{"t", "child", "other"}},
		{"client", "https://client.example", []mayfly.TaskID{"t", "child", "other"}},
		{"all", "", []mayfly.TaskID{"t", "child", "other"}},
	} {
		t.Run(c.kind+"="+c.value, func(t *testing.T) {
			onEachEngine(t, func(t *testing.T, db *DB) {
				other := task("other")
				other.Root = mayfly.Subject{Kind: mayfly.Service, ID: "robot", Source: "ci"}
				insert(t, db, task("t"), task("child", task("t")), other)
				give := func(id string, root mayfly.Subject, profile string, parent mayfly.TaskID) {
					mustChange(t, db, func(tx *Tx) {
						tx.InsertDelegation(&mayfly.Delegation{ID: id, Profile: profile, Root: root, Parent: parent, ExpiresAt: now.Add(time.Hour), Uses: 1}, []byte(id))
					})
				}
				give("own", task("t").Root, "elsewhere", "")
				give("childs", mayfly.Subject{Kind: mayfly.Human, ID: "zoe", Source: "z"}, "elsewhere", "child")

				r := mayfly.Revocation{ID: "rev", Kind: c.kind, Value: c.value, By: "operator", At: now}
				mustChange(t, db, func(tx *Tx) { tx.Revoke(r); tx.Advance("revocation", r.ID, now) })
				wants := map[mayfly.TaskID]bool{}
				for _, id := range c.closed {
					wants[id] = true
				}
				for _, id := range []mayfly.TaskID{"t", "child", "other"} {
					row, err := db.Task(t.Context(), id)
					if err != nil {
						t.Fatal(err)
					}
					if closed := !row.ClosedAt.IsZero(); closed != wants[id] || closed && (row.Reason != mayfly.Revoked || row.ClosedBy != "operator") {
						t.Errorf("%s: closed at %v by %q as %q, want closed=%v", id, row.ClosedAt, row.ClosedBy, row.Reason, wants[id])
					}
				}
				void := func(id string) bool {
					d, err := db.Delegation(t.Context(), id)
					if err != nil {
						t.Fatal(err)
					}
					return !d.VoidedAt.IsZero()
				}
				ownGone := c.kind == "all" || c.kind == "human" && c.value == "alice" || c.kind == "source" && c.value == "corp"
				if void("own") != ownGone {
					t.Errorf("the delegator's own ticket is void: %v, want %v", void("own"), ownGone)
				}
				if void("childs") != wants["child"] {
					t.Errorf("the task's ticket is void: %v, want %v", void("childs"), wants["child"])
				}

				keys := []RevocationKey{{"human", "bob"}, {c.kind, c.value}}
				wantGuard(t, change(t, db, func(tx *Tx) { tx.NotRevoked(keys) }), "revocation")
				barred := ""
				if c.kind == "all" {
					barred = "revocation"
				}
				wantGuard(t, change(t, db, func(tx *Tx) { tx.NotRevoked(keys[:1]) }), barred)
				if standing, err := db.ActiveRevocations(t.Context()); err != nil || len(standing) != 1 || cmp.Diff(standing[0], r) != "" {
					t.Errorf("standing: %+v (%v)", standing, err)
				}
				mustChange(t, db, func(tx *Tx) { tx.LiftRevocation("rev", now) })
				wantGuard(t, change(t, db, func(tx *Tx) { tx.LiftRevocation("rev", now) }), "lift")
				wantGuard(t, change(t, db, func(tx *Tx) { tx.NotRevoked(keys) }), "")
				if row, err := db.Task(t.Context(), "t"); err != nil || !row.ClosedAt.IsZero() != wants["t"] {
					t.Errorf("lifting brought a task back: %+v (%v)", row, err)
				}
			})
		})
		if testing.Short() {
			break
		}
	}
}

func TestAnyOfManyKeysBars(t *testing.T) {
	db := open(t, sqliteAddress(t))
	mustChange(t, db, func(tx *Tx) { tx.Revoke(mayfly.Revocation{ID: "r", Kind: "profile", Value: "39", At: now}) })
	var keys []RevocationKey
	for i := range 40 { // more than the statement's list
		keys = append(keys, RevocationKey{"profile", fmt.Sprint(i)})
	}
	wantGuard(t, change(t, db, func(tx *Tx) { tx.NotRevoked(keys) }), "revocation")
	wantGuard(t, change(t, db, func(tx *Tx) { tx.NotRevoked(keys[:39]) }), "")
	err := change(t, db, func(tx *Tx) { tx.Revoke(mayfly.Revocation{ID: "r2", Kind: "planet", At: now}) })
	if mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("an unknown kind: %v, want Invalid", err)
	}
}

func TestTheEpochCountsAndWakes(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		drain := func() { // PostgreSQL's listener wakes once when it connects
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			for db.Wait(ctx) == nil {
			}
		}
		drain()
		before, err := db.Epoch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range together(t, db, 10, func(i int, tx *Tx) { tx.Advance("task", fmt.Sprint(i), now) }) {
			if err != nil {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := db.Wait(ctx); err != nil {
			t.Errorf("nobody was woken: %v", err)
		}
		after, err := db.Epoch(t.Context())
		if err != nil || after != before+10 {
			t.Errorf("the epoch went from %d to %d (%v), want 10 more", before, after, err)
		}
		changes, err := db.EpochChangesSince(t.Context(), before, 100)
		if err != nil || len(changes) != 10 {
			t.Fatalf("%v (%v)", changes, err)
		}
		for i, c := range changes {
			if c.N != before+int64(i)+1 || c.Kind != "task" || !c.At.Equal(now) {
				t.Errorf("change %d: %+v", i, c)
			}
		}
		drain()
		mustChange(t, db, func(tx *Tx) {})
		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := db.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a change that advances nothing woke somebody (%v)", err)
		}
	})
}

func TestARevokedTokenStaysSoUntilItExpires(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		mustChange(t, db, func(tx *Tx) { tx.RevokeToken("jti", "t", now, now.Add(time.Minute)) })
		wantGuard(t, change(t, db, func(tx *Tx) { tx.RevokeToken("jti", "t", now, now.Add(time.Minute)) }), "revoked token")
		got, err := db.RevokedTokens(t.Context(), now)
		if err != nil || len(got) != 1 || got[0].JTI != "jti" || got[0].Task != "t" || !got[0].ExpiresAt.Equal(now.Add(time.Minute)) {
			t.Errorf("%+v (%v)", got, err)
		}
		if got, err = db.RevokedTokens(t.Context(), now.Add(time.Minute)); err != nil || len(got) != 0 {
			t.Errorf("after it expired: %+v (%v)", got, err)
		}
	})
}

func TestListsPageFilterAndStayWithinTheirTree(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		var all []*mayfly.Task
		up := task("t")
		all = append(all, up)
		for i := range 10 {
			one := task(fmt.Sprintf("t%02d", i))
			if i%2 == 0 {
				one = task(fmt.Sprintf("t%02d", i), up)
			}
			one.OpenedAt = now.Add(time.Duration(i/3) * time.Second) // several share a time
			if i == 4 {
				one.Root = mayfly.Subject{Kind: mayfly.Service, ID: "alice"}
				one.Profile = "other"
				one.Grants = []mayfly.Grant{{Kind: "http", Target: "orders", Action: "GET:/"}}
			}
			all = append(all, one)
		}
		insert(t, db, all...)
		mustChange(t, db, func(tx *Tx) { tx.CloseTask("t01", mayfly.Completed, "", now) })
		mustChange(t, db, func(tx *Tx) { tx.CloseTask("t03", mayfly.Completed, "", now); tx.RetireTask("t03", now) })
		list := func(f Filter) (ids string, pages int) {
			t.Helper()
			f.Limit, f.Now = 3, now
			for ; ; pages++ {
				rows, err := db.ListTasks(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				if len(rows) == 0 {
					return ids, pages
				}
				for _, r := range rows {
					ids += string(r.ID) + " "
				}
				f.After = string(rows[len(rows)-1].ID)
			}
		}
		for _, c := range []struct {
			name string
			f    Filter
			want string
		}{
			{"all", Filter{}, "t09 t08 t07 t06 t05 t04 t03 t02 t01 t00 t "},
			{"live", Filter{State: mayfly.Live}, "t09 t08 t07 t06 t05 t04 t02 t00 t "},
			{"retiring", Filter{State: mayfly.Retiring}, "t01 "},
			{"retired", Filter{State: mayfly.Retired}, "t03 "},
			{"profile", Filter{Profile: "other"}, "t04 "},
			{"service", Filter{RootSub: "alice", RootKind: mayfly.Service}, "t04 "},
			{"target", Filter{Target: "orders"}, "t04 "},
			{"no target", Filter{Target: "nowhere"}, ""},
			{"under", Filter{Under: "t"}, "t08 t06 t04 t02 t00 t "},
			{"under, live, profile", Filter{Under: "t", State: mayfly.Live, Profile: "invoice"}, "t08 t06 t02 t00 t "},
		} {
			got, _ := list(c.f)
			if got != c.want {
				t.Errorf("%s: %q, want %q", c.name, got, c.want)
			}
		}
		if got, pages := list(Filter{}); got != "t09 t08 t07 t06 t05 t04 t03 t02 t01 t00 t " || pages != 4 {
			t.Errorf("all: %q on %d pages", got, pages)
		}
		below, err := db.Descendants(t.Context(), "t")
		if err != nil || len(below) != 5 {
			t.Errorf("%d below (%v), want 5", len(below), err)
		}
	})
}

func TestDescendantsComeAfterTheirParents(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		a := task("a")
		b := task("b", a)
		c := task("c", a, b)
		c.Ancestors = b.Chain()
		insert(t, db, a, b, c, task("x"))
		rows, err := db.Descendants(t.Context(), "a")
		if err != nil || len(rows) != 2 || rows[0].ID != "b" || rows[1].ID != "c" {
			t.Errorf("%v (%v)", rows, err)
		}
	})
}

func TestExpiredMarksAreDroppedInSmallCommits(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		mustChange(t, db, func(tx *Tx) {
			for i := range 2*purgeLimit + 10 {
				tx.Once("old", fmt.Sprint(i), now)
			}
			tx.Once("new", "n", now.Add(time.Minute))
		})
		commits := db.Commits()
		if err := db.Keep(t.Context(), func(b *Books) { b.PurgeOnce(now.Add(time.Second)) }); err != nil {
			t.Fatal(err)
		}
		if n := count(t, db, `SELECT COUNT(*) FROM once`); n != 1 {
			t.Errorf("%d marks are left, want the one that is not over", n)
		}
		if n := db.Commits() - commits; n != 3 {
			t.Errorf("%d commits, want 3", n)
		}
	})
}

func TestAnOpenCallIsOneOfAllTasksAboveItsOwn(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		up := task("up")
		insert(t, db, up, task("down", up), task("up2"))
		check := func(when string, want map[mayfly.TaskID]bool) {
			t.Helper()
			for id, is := range want {
				if got, err := db.AnyOpenCall(t.Context(), id); err != nil || got != is {
					t.Errorf("%s: an open call under %s: %v %v, want %v", when, id, got, err, is)
				}
			}
		}
		mustChange(t, db, func(tx *Tx) { tx.OpenCall("dec_1", "down", now) })
		check("the child calls", map[mayfly.TaskID]bool{"up": true, "down": true, "up2": false, "u": false})
		mustChange(t, db, func(tx *Tx) { tx.OpenCall("dec_2", "up", now) })
		mustChange(t, db, func(tx *Tx) { tx.EndCall("dec_1") })
		check("its parent calls", map[mayfly.TaskID]bool{"up": true, "down": false, "up2": false})
		mustChange(t, db, func(tx *Tx) { tx.EndCall("dec_2") })
		check("nobody calls", map[mayfly.TaskID]bool{"up": false, "down": false})
	})
}
