package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"pgregory.net/rapid"
)

// passed is how many of errs are nil; all others must be refusals by guard.
func passed(t *testing.T, errs []error, guard string) (n int) {
	t.Helper()
	for _, err := range errs {
		if err == nil {
			n++
		} else {
			wantGuard(t, err, guard)
		}
	}
	return n
}

func TestTheLastUnitOfASumIsSpentOnce(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		insert(t, db, task("t"))
		spend := func(amount, max int64) error {
			return change(t, db, func(tx *Tx) { tx.SpendSum("t", "g", "amount", amount, max) })
		}
		wantGuard(t, spend(101, 100), "budget:t:g")
		wantGuard(t, spend(-1, 100), "budget:t:g")
		wantGuard(t, spend(0, 0), "")
		wantGuard(t, spend(99, 100), "")
		n := passed(t, together(t, db, 100, func(_ int, tx *Tx) { tx.SpendSum("t", "g", "amount", 1, 100) }), "budget:t:g")
		if n != 1 {
			t.Errorf("%d spent the last unit", n)
		}
		wantGuard(t, spend(0, 100), "")
		mustChange(t, db, func(tx *Tx) { tx.SpendSum("t", "g", "fee", 7, 7); tx.GiveBackSum("t", "g", "amount", 40) })
		wantGuard(t, spend(41, 100), "budget:t:g")
		got, err := db.Counters(t.Context(), "t")
		if err != nil || got[SumKey("g", "amount")] != 60 || got[SumKey("g", "fee")] != 7 {
			t.Errorf("%v (%v)", got, err)
		}
		mustChange(t, db, func(tx *Tx) { tx.CloseTask("t", mayfly.Completed, "", now) })
		mustChange(t, db, func(tx *Tx) { tx.GiveBackSum("t", "g", "amount", 1) })
		if got, _ = db.Counters(t.Context(), "t"); got[SumKey("g", "amount")] != 60 {
			t.Errorf("an ended task was given something back: %v", got)
		}
	})
}

func TestARateIsAWindowThatSlides(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		run := 0
		rapid.Check(t, func(rt *rapid.T) {
			run++
			id, key := mayfly.TaskID(fmt.Sprint("t", run)), "g"
			calls, per := rapid.Int64Range(1, 4).Draw(rt, "calls"), 20*time.Microsecond
			newest := now
			var counted []time.Time
			for range rapid.IntRange(1, 16).Draw(rt, "tries") {
				newest = newest.Add(time.Duration(rapid.IntRange(0, 12).Draw(rt, "later")) * time.Microsecond)
				at := newest.Add(-time.Duration(rapid.IntRange(0, 20).Draw(rt, "late")) * time.Microsecond)
				inSpan := int64(0)
				for _, c := range counted {
					if c.After(at.Add(-per)) {
						inSpan++
					}
				}
				if n, err := db.RateCount(t.Context(), id, key, per, at); err != nil || n != inSpan {
					rt.Fatalf("%d are counted (%v), want %d", n, err, inSpan)
				}
				err := change(t, db, func(tx *Tx) { tx.SpendRate(id, key, calls, per, at) })
				if inSpan < calls && err != nil || inSpan >= calls && guardOf(err) != "budget:"+string(id)+":g" {
					rt.Fatalf("with %d of %d in the span: %v", inSpan, calls, err)
				}
				if err == nil {
					counted = append(counted, at)
				}
			}
			slices.SortFunc(counted, time.Time.Compare)
			for i := int(calls); i < len(counted); i++ {
				if counted[i].Sub(counted[i-int(calls)]) < per {
					rt.Fatalf("%d calls within %v: %v", calls+1, per, counted)
				}
			}
		})
	})
}

func TestARateHoldsInARaceAndForgetsWhatItNeedsNoMore(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		spend := func(at time.Time) func(int, *Tx) {
			return func(_ int, tx *Tx) { tx.SpendRate("t", "g", 5, time.Minute, at) }
		}
		if n := passed(t, together(t, db, 100, spend(now)), "budget:t:g"); n != 5 {
			t.Errorf("%d of 5 passed", n)
		}
		if n := passed(t, together(t, db, 20, spend(now.Add(time.Minute))), "budget:t:g"); n != 5 {
			t.Errorf("%d of 5 passed a minute later", n)
		}
		mustChange(t, db, func(tx *Tx) { spend(now.Add(3*time.Minute))(0, tx) })
		if n := count(t, db, `SELECT COUNT(*) FROM rate_call`); n != 1 {
			t.Errorf("%d rows are left of calls that no span counts", n)
		}
	})
}

func TestADecisionOnLabelsThatGrewMeanwhileIsRefused(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		mustChange(t, db, func(tx *Tx) { tx.SeenIs("t", 0); tx.ExtendSeen("t", []string{"untrusted", "private"}) })
		mustChange(t, db, func(tx *Tx) { tx.SeenIs("t", 2); tx.ExtendSeen("t", []string{"private"}) })
		wantGuard(t, change(t, db, func(tx *Tx) { tx.SeenIs("t", 1) }), "seen")
		mustChange(t, db, func(tx *Tx) { tx.SeenIs("other", 0) })
		seen, err := db.Seen(t.Context(), "t")
		if err != nil || !slices.Equal(seen, []string{"private", "untrusted"}) {
			t.Errorf("%v (%v)", seen, err)
		}
		// Of many who read the same labels and each add one, the first wins.
		n := passed(t, together(t, db, 100, func(i int, tx *Tx) {
			tx.SeenIs("t", 2)
			tx.ExtendSeen("t", []string{fmt.Sprint(i)})
		}), "seen")
		if n != 1 {
			t.Errorf("%d added to what they had not read", n)
		}
	})
}

func approval(id string, needs ...string) *mayfly.Approval {
	return &mayfly.Approval{
		ID: id, What: "call", Task: "t", RootTask: "t", Profile: "invoice", Root: mayfly.Subject{Kind: mayfly.Human, ID: "alice"},
		Purpose: mayfly.Purpose{Text: "pay"}, Decision: "dec", Bundle: "bundle", Key: "key-" + id, Grant: "mcp:bank:pay", Needs: needs,
		Request: `{"iban":"secret"}`, Policy: []string{"p1"}, Usable: time.Minute, AskedAt: now, ExpiresAt: now.Add(10 * time.Minute),
	}
}

func vote(need string) []mayfly.Vote { return []mayfly.Vote{{Need: need, By: "by-" + need, At: now}} }

func readApprovalOf(t *testing.T, db *DB, id string) *mayfly.Approval {
	t.Helper()
	a, err := db.Approval(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAnApprovalIsUsedOnce(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		insert(t, db, task("t"))
		mustChange(t, db, func(tx *Tx) { tx.InsertApproval(approval("a", "leads")) })
		if n := count(t, db, `SELECT COUNT(*) FROM approval WHERE request IS NOT NULL`); n != 1 {
			t.Fatalf("%d requests", n)
		}
		var box []byte
		if err := db.pool.QueryRow(`SELECT request FROM approval`).Scan(&box); err != nil || bytes.Contains(box, []byte("secret")) {
			t.Errorf("the request lies in clear: %q (%v)", box, err)
		}
		wantGuard(t, change(t, db, func(tx *Tx) { a := approval("b", "leads"); a.Key = "key-a"; tx.InsertApproval(a) }), "approval")
		wantGuard(t, change(t, db, func(tx *Tx) { tx.UseApproval("a", now) }), "approval")
		until := now.Add(time.Minute)
		mustChange(t, db, func(tx *Tx) { tx.VoteApproval("a", vote("leads"), true, until, now) })
		wantGuard(t, change(t, db, func(tx *Tx) { tx.UseApproval("a", until) }), "approval")

		use := func(_ int, tx *Tx) { tx.UseApproval("a", now) }
		if n := passed(t, together(t, db, 100, use), "approval"); n != 1 {
			t.Errorf("%d used it", n)
		}
		mustChange(t, db, func(tx *Tx) { tx.GiveBackApproval("a") })
		if n := passed(t, together(t, db, 20, use), "approval"); n != 1 {
			t.Errorf("%d used it after it was given back", n)
		}
		mustChange(t, db, func(tx *Tx) { tx.CloseTask("t", mayfly.Completed, "", now); tx.GiveBackApproval("a") })
		mustChange(t, db, func(tx *Tx) { tx.GiveBackApproval("a") })
		a := readApprovalOf(t, db, "a")
		if a.State(now) != mayfly.Used || len(a.Votes) != 1 || a.Votes[0] != vote("leads")[0] || a.Root.ID != "alice" {
			t.Errorf("%+v", a)
		}
	})
}

func TestOfVotesAtOnceEachNeedCountsOneAndOneIsLast(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		mustChange(t, db, func(tx *Tx) { tx.InsertApproval(approval("a", "finance", "leads")) })
		until := now.Add(time.Minute)
		needs := []string{"finance", "leads"}
		// Each read that nobody voted yet, so each thinks that one is left.
		n := passed(t, together(t, db, 100, func(i int, tx *Tx) {
			tx.VoteApproval("a", vote(needs[i%2]), false, until, now)
		}), "approval")
		a := readApprovalOf(t, db, "a")
		if n != 1 || len(a.Votes) != 1 || a.State(now) != mayfly.Waiting || len(a.Open()) != 1 {
			t.Fatalf("%d votes passed: %+v", n, a)
		}
		wantGuard(t, change(t, db, func(tx *Tx) { tx.VoteApproval("a", vote(a.Votes[0].Need), true, until, now) }), "approval")
		wantGuard(t, change(t, db, func(tx *Tx) { tx.VoteApproval("a", nil, false, until, now) }), "approval")
		last := a.Open()[0]
		n = passed(t, together(t, db, 100, func(_ int, tx *Tx) { tx.VoteApproval("a", vote(last), true, until, now) }), "approval")
		if a = readApprovalOf(t, db, "a"); n != 1 || len(a.Votes) != 2 || a.State(now) != mayfly.Approved || !a.UsableUntil.Equal(until) {
			t.Errorf("%d were last: %+v", n, a)
		}
		// A no and a use of what was given: one of them.
		n = passed(t, together(t, db, 100, func(i int, tx *Tx) {
			if i%2 == 0 {
				tx.DenyApproval("a", "eve", "no", now)
			} else {
				tx.UseApproval("a", now)
			}
		}), "approval")
		if n != 1 {
			t.Errorf("%d ended it", n)
		}
	})
}

func TestWhatWasAskedForIsForgottenWhenItsApprovalEnds(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		mustChange(t, db, func(tx *Tx) {
			for _, id := range []string{"denied", "late", "given"} {
				tx.InsertApproval(approval(id, "leads"))
			}
		})
		mustChange(t, db, func(tx *Tx) {
			tx.VoteApproval("given", vote("leads"), true, now.Add(time.Hour), now)
			tx.DenyApproval("denied", "bob", "no", now)
		})
		over := now.Add(10 * time.Minute)
		wantGuard(t, change(t, db, func(tx *Tx) { tx.VoteApproval("late", vote("leads"), true, over, over) }), "approval")
		wantGuard(t, change(t, db, func(tx *Tx) { tx.DenyApproval("late", "bob", "", over) }), "approval")
		if a := readApprovalOf(t, db, "denied"); a.Request != "" || a.DeniedBy != "bob" || a.Note != "no" || a.State(now) != mayfly.ApprovalDenied {
			t.Errorf("%+v", a)
		}
		left := func(at time.Time) (ids []string) {
			t.Helper()
			if err := db.Keep(t.Context(), func(b *Books) { b.DropRequests(at) }); err != nil {
				t.Fatal(err)
			}
			list, err := db.Approvals(t.Context(), ApprovalFilter{Limit: 10}, at)
			if err != nil || len(list) != 3 {
				t.Fatalf("%d approvals (%v)", len(list), err)
			}
			for _, a := range list {
				if a.Request != "" {
					ids = append(ids, a.ID)
				}
			}
			return ids
		}
		if got := left(now); !slices.Equal(got, []string{"late", "given"}) {
			t.Errorf("before any is over: %v", got)
		}
		if got := left(over); !slices.Equal(got, []string{"given"}) {
			t.Errorf("when one is over: %v", got)
		}
		if got := left(now.Add(time.Hour)); got != nil {
			t.Errorf("when all are over: %v", got)
		}
	})
}

func TestATaskHasRoomForSomeRequests(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		ask := func(id string, at time.Time) func(*Tx) {
			return func(tx *Tx) {
				a := approval(id, "leads")
				a.AskedAt, a.ExpiresAt = at, at.Add(10*time.Minute)
				tx.ApprovalRoom("t", 3, 5, at)
				tx.InsertApproval(a)
			}
		}
		n := passed(t, together(t, db, 50, func(i int, tx *Tx) { ask(fmt.Sprintf("a%02d", i), now)(tx) }), "approval limit")
		if n != 3 {
			t.Errorf("%d wait, there is room for 3", n)
		}
		later := now.Add(10 * time.Minute)
		mustChange(t, db, ask("b", later))
		mustChange(t, db, ask("c", later))
		wantGuard(t, change(t, db, ask("d", later)), "approval limit")
		mustChange(t, db, ask("e", now.Add(time.Hour)))
		waiting, err := db.Approvals(t.Context(), ApprovalFilter{Waiting: true, Task: "t", After: "e", Limit: 5}, later)
		if err != nil || len(waiting) != 2 || waiting[0].ID != "c" || waiting[1].ID != "b" {
			t.Errorf("%v (%v)", waiting, err)
		}
		if a, err := db.ApprovalFor(t.Context(), "t", "key-b"); err != nil || a.ID != "b" || a.Request == "" {
			t.Errorf("%+v (%v)", a, err)
		}
	})
}

func TestAToolIsPinnedOnceAndAcceptedAsItWasSeen(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		pin := func(hash string) *mayfly.Pin {
			return &mayfly.Pin{Target: "bank", Tool: "pay", Hash: hash, Definition: "{}", By: "first-sight", At: now,
				Labels: []string{"destructive"}, Types: map[string]mayfly.FactType{"amount": mayfly.FactDecimal}}
		}
		n := passed(t, together(t, db, 50, func(i int, tx *Tx) { tx.InsertPin(pin(fmt.Sprint("h", i))) }), "pin")
		p, err := db.Pin(t.Context(), "bank", "pay")
		if err != nil || n != 1 || p.Types["amount"] != mayfly.FactDecimal || !slices.Equal(p.Labels, []string{"destructive"}) {
			t.Fatalf("%d pinned it: %+v (%v)", n, p, err)
		}
		p.Changed, p.ChangedDefinition, p.ChangedAt = "new", `{"x":1}`, now
		note := func(tx *Tx) { tx.NotePinChange(p) }
		accept := func(hash string) func(*Tx) {
			return func(tx *Tx) { tx.AcceptPin("bank", "pay", hash, `{"x":1}`, nil, nil, "olga", now) }
		}
		wantGuard(t, change(t, db, accept("new")), "pin")
		mustChange(t, db, note)
		wantGuard(t, change(t, db, note), "pin")
		wantGuard(t, change(t, db, accept("newer")), "pin")
		mustChange(t, db, func(tx *Tx) { tx.ClearPinChange("bank", "pay", p.Hash) })
		wantGuard(t, change(t, db, func(tx *Tx) { tx.ClearPinChange("bank", "pay", p.Hash) }), "pin")
		mustChange(t, db, note)
		mustChange(t, db, accept("new"))
		wantGuard(t, change(t, db, note), "pin")
		all, err := db.Pins(t.Context())
		if err != nil || len(all) != 1 || all[0].Hash != "new" || all[0].Changed != "" || all[0].By != "olga" || !all[0].ChangedAt.IsZero() {
			t.Errorf("%+v (%v)", all, err)
		}
	})
}

func TestPoliciesAreKeptAndAReaderMovesFromWhereItWas(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		mustChange(t, db, func(tx *Tx) { tx.KeepBundle("h", []byte("first"), now) })
		mustChange(t, db, func(tx *Tx) { tx.KeepBundle("h", []byte("second"), now) })
		if text, err := db.Bundle(t.Context(), "h"); err != nil || string(text) != "first" {
			t.Errorf("%q (%v)", text, err)
		}
		move := func(from, to int64) error {
			return db.Keep(t.Context(), func(b *Books) { b.MoveSink("s", from, to) })
		}
		wantGuard(t, move(3, 4), "sink")
		wantGuard(t, move(-1, 4), "")
		wantGuard(t, move(-1, 5), "sink")
		wantGuard(t, move(4, 6), "")
		at, err1 := db.Sink(t.Context(), "s")
		none, err2 := db.Sink(t.Context(), "none")
		if err := errors.Join(err1, err2); err != nil || at != 6 || none != -1 {
			t.Errorf("%d %d (%v)", at, none, err)
		}
	})
}

func TestTheAnchorOnlyMovesForwardAndIsMissedOnce(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		move := func(size int64, note string) error {
			return db.Keep(t.Context(), func(b *Books) { b.MoveAnchor(size, []byte(note), now) })
		}
		begin := func(size int64) error { return change(t, db, func(tx *Tx) { tx.BeginUnanchored(size, now) }) }
		end := func() error { return change(t, db, func(tx *Tx) { tx.EndUnanchored() }) }
		want := func(size int64, note string, at time.Time) {
			t.Helper()
			a, err := db.Anchor(t.Context())
			if err != nil || a.Size != size || string(a.Note) != note || !a.UnanchoredAt.Equal(at) {
				t.Errorf("%+v, %v; want %d, %q, %s", a, err, size, note, at)
			}
		}
		want(0, "", time.Time{})
		wantGuard(t, end(), "anchor")
		wantGuard(t, begin(0), "")
		wantGuard(t, begin(0), "anchor")
		want(0, "", now)
		wantGuard(t, move(5, "five"), "")
		want(5, "five", now)
		wantGuard(t, move(4, "four"), "anchor")
		wantGuard(t, move(5, "five again"), "")
		wantGuard(t, end(), "")
		wantGuard(t, end(), "anchor")
		wantGuard(t, begin(4), "anchor") // of an anchor that another node has moved on from
		want(5, "five again", time.Time{})
	})
}
