package store

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
)

var parameter = regexp.MustCompile(`\$(\d+)`)

func TestPlaceholdersFirstAppearInOrder(t *testing.T) {
	for s, text := range texts {
		highest := 0
		for _, m := range parameter.FindAllStringSubmatch(text, -1) {
			n, _ := strconv.Atoi(m[1])
			if n > highest+1 {
				t.Errorf("$%d appears before $%d in %s", n, highest+1, text)
			}
			highest = max(highest, n)
		}
		if got := parameters[s]; got != highest {
			t.Errorf("%d parameters counted, there are %d in %s", got, highest, text)
		}
	}
}

func TestStatementsUseOnlyWhatBothEnginesShare(t *testing.T) {
	not := regexp.MustCompile(`(?i)\bFOR UPDATE\b|\bLIKE\b|\bNOW\(|->|\bRETURNING\b|\bjson|CURRENT_TIMESTAMP|AUTOINCREMENT`)
	for _, text := range texts {
		if text == "" {
			t.Error("a statement has no text")
		}
		if found := not.FindString(text); found != "" {
			t.Errorf("%q in %s", found, text)
		}
	}
}

func TestEveryStatementPrepares(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		for s, text := range texts {
			stmt, err := db.pool.Prepare(text)
			if err != nil {
				t.Errorf("statement %d: %v\n%s", s, err, text)
				continue
			}
			if err := stmt.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// everyWrite builds one change of every kind; none of them runs.
func everyWrite(db *DB) []op {
	tx := &Tx{db: db}
	b := &Books{tx}
	tx.ChainLive(nil, now)
	tx.ChainLive([]mayfly.TaskID{"a", "b", "c", "d", "e", "f", "g"}, now)
	tx.NotRevoked(make([]RevocationKey, 3))
	tx.InsertTask(task("t"))
	tx.AddChild("t", 1)
	tx.SpendGrant("t", "g", 1)
	tx.SpendTask("t", 1)
	tx.GiveBack("t", "g")
	tx.GiveBackTask("t")
	tx.RenewIdle("t", now)
	tx.Once("class", "key", now)
	tx.InsertDelegation(&mayfly.Delegation{}, []byte("hash"))
	tx.UseTicket("dlg", now)
	tx.VoidTicketsOf("t", now)
	tx.SetGrants("t", nil, 1)
	tx.SpendSum("t", "g", "amount", 1, 2)
	tx.GiveBackSum("t", "g", "amount", 1)
	tx.SpendRate("t", "g", 1, time.Minute, now)
	tx.SeenIs("t", 0)
	tx.ExtendSeen("t", []string{"untrusted"})
	tx.InsertApproval(&mayfly.Approval{ID: "a", Needs: []string{"leads"}, AskedAt: now, ExpiresAt: now})
	tx.ApprovalRoom("t", 1, 1, now)
	tx.VoteApproval("a", []mayfly.Vote{{Need: "leads", By: "bob", At: now}}, false, now, now)
	tx.VoteApproval("a", []mayfly.Vote{{Need: "leads", By: "bob", At: now}}, true, now, now)
	tx.DenyApproval("a", "bob", "no", now)
	tx.UseApproval("a", now)
	tx.GiveBackApproval("a")
	b.DropRequests(now)
	tx.InsertPin(&mayfly.Pin{Target: "x", Tool: "y", At: now})
	tx.NotePinChange(&mayfly.Pin{Target: "x", Tool: "y", Changed: "h", ChangedAt: now})
	tx.ClearPinChange("x", "y", "h")
	tx.AcceptPin("x", "y", "h", "{}", nil, nil, "me", now)
	tx.KeepBundle("h", []byte("{}"), now)
	b.MoveSink("s", -1, 1)
	tx.SignIn(&mayfly.SignIn{ID: "s", At: now}, "hash")
	tx.SignOut("s")
	b.SeeSignIn("s", now)
	b.PurgeSignIns(now)
	b.Mention(Place{now, 1}, []int64{1, 2})
	tx.CloseTask("t", mayfly.Completed, "me", now)
	tx.CloseExpired("t", mayfly.IdleRanOut, now)
	tx.RetireTask("t", now)
	for _, kind := range []string{"human", "service", "profile", "source", "client", "all"} {
		tx.Revoke(mayfly.Revocation{ID: kind, Kind: kind, At: now})
	}
	tx.LiftRevocation("r", now)
	tx.Erase("p_a", "alice", now)
	tx.RevokeToken("jti", "t", now, now)
	tx.InsertKey(Key{ID: "k", Private: []byte("x")})
	tx.CompromiseKey("k", now)
	tx.OpenCall("d", "t", now)
	tx.EndCall("d")
	tx.Advance("task", "t", now)
	b.AppendSpan(0, 1, 1, 1)
	b.PutTile(0, 0, []byte("x"))
	b.MoveHead(0, 1, []byte("note"), now)
	tx.InsertLease(&mayfly.Lease{ID: "l", OpenedAt: now, ExpiresAt: now})
	tx.ActivateLease("l", "role", now, now)
	tx.EndLease("l", mayfly.LeaseGivenBack, now)
	b.TryLease("l", 0, now)
	b.HurryLeases(now)
	b.FailLease("l", 1, "why", now)
	tx.AlarmLease("l", now)
	tx.ReturnLease("l", now)
	tx.FindLease("l", now)
	b.MoveAnchor(1, []byte("note"), now)
	tx.BeginUnanchored(0, now)
	tx.EndUnanchored()
	b.FollowEpoch(1, now)
	b.PurgeOnce(now)
	return tx.ops
}

func TestEveryWriteGivesItsStatementWhatItTakes(t *testing.T) {
	db := open(t, sqliteAddress(t))
	var used []statement
	for _, o := range everyWrite(db) {
		used = append(used, o.statement)
		if len(o.args) != parameters[o.statement] {
			t.Errorf("%d arguments, %d parameters: %s", len(o.args), parameters[o.statement], texts[o.statement])
		}
	}
	own := []statement{personThere, insertPerson, insertMeta, insertProcess, seenProcess, insertEvent1, insertEvent8, insertEvent64, lastOfProcess}
	for s := range writes {
		if !slices.Contains(used, s) && !slices.Contains(own, s) {
			t.Errorf("no method writes %s", texts[s])
		}
	}
}

// What each kind of argument is must fit its column on the engine that is
// stricter about it: every statement runs once, whatever its guard says.
func TestEveryWriteRuns(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		insert(t, db, task("t"))
		for _, o := range everyWrite(db) {
			err := db.submit(t.Context(), &Tx{db: db, ops: []op{o}}, Record{}).Wait()
			if guardOf(err) != o.guard && err != nil {
				t.Errorf("%v", err)
			}
		}
	})
}

func TestEveryReadRuns(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		at := time.Now()
		_, err1 := db.TasksByID(ctx, []mayfly.TaskID{"a"})
		_, err2 := db.Children(ctx, "a")
		_, err3 := db.Descendants(ctx, "a")
		_, err4 := db.ListTasks(ctx, Filter{State: mayfly.Live, Now: at, Under: "a", Target: "x"})
		_, err5 := db.Expired(ctx, at, 1)
		_, err6 := db.Orphans(ctx, 1)
		_, err7 := db.ToRetire(ctx, 1)
		_, err8 := db.Counters(ctx, "a")
		_, err9 := db.Keys(ctx, "token")
		_, err10 := db.EpochChangesSince(ctx, 0, 1)
		_, err11 := db.ActiveRevocations(ctx)
		_, err12 := db.RevokedTokens(ctx, at)
		_, err13 := db.AbandonedCalls(ctx, 1)
		_, err14 := db.EventsByTask(ctx, "a", "", 1)
		_, err15 := db.EventsByDecision(ctx, "a")
		_, err16 := db.EventsAfter(ctx, -1, 1)
		_, err17 := db.LastEventTime(ctx)
		_, err18 := db.Unsequenced(ctx, 1)
		_, err19 := db.Spans(ctx, -1, 1)
		_, err20 := db.Tile(ctx, 0, 0)
		_, err21 := db.Head(ctx)
		_, err22 := db.Epoch(ctx)
		_, err27 := db.AnyOpenCall(ctx, "a")
		_, err28 := db.RateCount(ctx, "a", "g", time.Minute, at)
		_, err29 := db.Seen(ctx, "a")
		_, err30 := db.Approvals(ctx, ApprovalFilter{Waiting: true, Task: "a", After: "z", Limit: 1}, at)
		_, err31 := db.Pins(ctx)
		_, err32 := db.Sink(ctx, "a")
		_, err33 := db.DecisionsAfter(ctx, -1, at, 1)
		_, err38 := db.Anchor(ctx)
		_, err39 := db.LeasesOf(ctx, "a")
		_, err40 := db.LeasesToEnd(ctx, at, 1)
		_, err42 := db.Followers(ctx, at)
		_, err43 := db.EpochOf(ctx, []mayfly.TaskID{"a"}, at)
		_, err44 := db.Stray(ctx)
		_, err41 := db.LeasesDue(ctx, at, 1)
		_, err45 := db.MentionFloor(ctx, 1, Place{At: at}, Place{}, 2)
		_, err46 := db.Pseudonym(ctx, "a")
		_, err48 := db.Sinks(ctx)
		_, err49 := db.Standing(ctx, at)
		for n := range MentionsMost {
			if _, err := db.Mentions(ctx, make([]int64, n+1), Place{At: at}, Place{}, 2); err != nil {
				t.Errorf("%d mentions: %v (%v)", n+1, err, mayfly.AsError(err).Unwrap())
			}
		}
		for i, err := range []error{err28, err29, err30, err31, err32, err33, err38, err39, err40, err41, err42, err43, err44, err45, err46, err48, err49} {
			if err != nil {
				t.Errorf("read %d: %v (%v)", i+28, err, mayfly.AsError(err).Unwrap())
			}
		}
		for i, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8, err9, err10, err11, err12, err13, err14, err15, err16, err17, err18, err19, err20, err21, err22, err27} {
			if err != nil {
				t.Errorf("read %d: %v (%v)", i+1, err, mayfly.AsError(err).Unwrap())
			}
		}
		_, err23 := db.Task(ctx, "a")
		_, err24 := db.Delegation(ctx, "a")
		_, err25 := db.DelegationBySecret(ctx, []byte("a"))
		_, err26 := db.EventByID(ctx, "a")
		_, err34 := db.Approval(ctx, "a")
		_, err35 := db.ApprovalFor(ctx, "a", "k")
		_, err36 := db.Pin(ctx, "a", "b")
		_, err37 := db.Bundle(ctx, "a")
		_, err47 := db.EventAt(ctx, 0)
		for i, err := range []error{err23, err24, err25, err26, err34, err35, err36, err37, err47} {
			if mayfly.KindOf(err) != mayfly.NotFound {
				t.Errorf("read %d: %v, want NotFound", i+23, err)
			}
		}
		if _, err := db.EventsByTask(ctx, "a", "nobody", 1); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("a cursor that is none: %v, want Invalid", err)
		}
	})
}

func TestAStatementWithTheWrongNumberOfArgumentsIsRefused(t *testing.T) {
	db := open(t, sqliteAddress(t))
	err := change(t, db, func(tx *Tx) { tx.add(closeTask, "closed", int64(1)) })
	if err == nil || !strings.Contains(err.Error(), "arguments") {
		t.Errorf("got %v", err)
	}
}
