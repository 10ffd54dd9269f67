package store

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/strictjson"
	"pgregory.net/rapid"
)

// canonical is l as the general encoder and canonicaliser have it.
func canonical(t interface{ Fatal(...any) }, l leaf) []byte {
	b, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = strictjson.Canonical(b, strictjson.Limits{}); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheLeafIsCanonicalJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringOf(rapid.RuneFrom([]rune("\x00\b\t\n\f\r\x1f\"\\/<>&\u2028\u007f😀é"))))
		l := leaf{
			Body: text.Draw(t, "body"), Bundle: text.Draw(t, "bundle"), Decision: text.Draw(t, "decision"), ID: text.Draw(t, "id"),
			Kind: text.Draw(t, "kind"), Parent: text.Draw(t, "parent"), Person: text.Draw(t, "person"), Task: text.Draw(t, "task"),
			Term: text.Draw(t, "term"), Time: text.Draw(t, "time"), V: 1,
		}
		if got, want := appendLeaf(nil, l), canonical(t, l); !bytes.Equal(got, want) {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	})
}

func FuzzTheLeafIsCanonicalJSON(f *testing.F) {
	f.Add("plain", "with \"quotes\" and \\")
	f.Add("\x00\x1f\b\t\n\f\r", "\u2028\u2029😀\xff\xc0\x80")
	f.Fuzz(func(t *testing.T, a, b string) {
		l := leaf{Kind: a, Task: b, V: 1}
		got := appendLeaf(nil, l)
		l.Kind, l.Task = strings.ToValidUTF8(a, "\uFFFD"), strings.ToValidUTF8(b, "\uFFFD")
		if want := canonical(t, l); !bytes.Equal(got, want) {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	})
}

// opened is an event about a person, with something to hide in its body.
func opened(id string) mayfly.TaskOpened {
	return mayfly.TaskOpened{
		Task: mayfly.TaskID(id), Profile: "invoice", Purpose: mayfly.Purpose{Text: "a secret purpose"},
		Root: mayfly.Subject{Kind: mayfly.Human, ID: "alice@example.org"}, ParentDlg: "parent-dlg", Decision: "dec_1",
	}
}

func commit(t testing.TB, db *DB, e mayfly.Event) Record {
	t.Helper()
	r := record(t, db, e)
	if err := db.Change(context.Background(), r, func(*Tx) {}); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestARecordIsReadBackAsItWasPrepared(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		r := commit(t, db, opened("task_1"))
		row, err := db.EventByID(t.Context(), r.ID())
		if err != nil {
			t.Fatal(err)
		}
		if row.Dlg() != r.Dlg() || row.LeafHash() != r.LeafHash() || row.Seq != 1 || row.Proc != db.Process() || row.Position != nil ||
			!row.Time.Equal(now) || row.Kind != "task.opened" || row.Task != "task_1" || row.Decision != "dec_1" ||
			row.Parent() != "parent-dlg" || row.Bundle() != "bundle" || row.Term() != "" {
			t.Errorf("read %+v", row)
		}
		hash := sha256.Sum256(append([]byte{0}, row.Leaf...))
		if got, want := row.Dlg(), base64.RawURLEncoding.EncodeToString(hash[:]); got != want {
			t.Errorf("dlg is %s, want the RFC 6962 hash of the leaf, %s", got, want)
		}
		body, err := db.Body(t.Context(), *row)
		if err != nil {
			t.Fatal(err)
		}
		var e mayfly.TaskOpened
		if err := json.Unmarshal(body, &e); err != nil {
			t.Fatal(err)
		}
		want := opened("task_1")
		want.Grants = []mayfly.Grant{}
		if diff := cmp.Diff(want, e); diff != "" {
			t.Errorf("body (-want +got):\n%s", diff)
		}
		byDecision, err := db.EventsByDecision(t.Context(), "dec_1")
		if err != nil || len(byDecision) != 1 || byDecision[0].ID != r.ID() {
			t.Errorf("by decision: %v (%v)", byDecision, err)
		}
		if last, err := db.LastEventTime(t.Context()); err != nil || !last.Equal(now) {
			t.Errorf("the last event is of %v (%v), want %v", last, err, now)
		}
	})
}

func TestTheDatabaseHoldsNothingOfABodyInClear(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		r := commit(t, db, opened("task_1"))
		row, err := db.EventByID(t.Context(), r.ID())
		if err != nil {
			t.Fatal(err)
		}
		for _, hidden := range []string{"alice", "secret purpose"} {
			if bytes.Contains(row.Leaf, []byte(hidden)) || bytes.Contains(row.Sealed, []byte(hidden)) {
				t.Errorf("%q stands in the row", hidden)
			}
		}
	})
}

func TestAPersonHasOnePseudonymAndErasingThemLeavesTheChain(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		first, second := commit(t, db, opened("task_1")), commit(t, db, opened("task_2"))
		if first.who.id == "" || first.who.id != second.who.id {
			t.Errorf("pseudonyms %q and %q, want one", first.who.id, second.who.id)
		}
		other := opened("task_3")
		other.Root.ID = "bob"
		third := commit(t, db, other)
		if third.who.id == first.who.id {
			t.Error("two persons share a pseudonym")
		}
		tamper(t, db, `UPDATE person SET lookup = NULL, key = NULL WHERE id = '`+first.who.id+`'`)
		for _, c := range []struct {
			r    Record
			gone bool
		}{{first, true}, {second, true}, {third, false}} {
			row, err := db.EventByID(t.Context(), c.r.ID())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Body(t.Context(), *row); (mayfly.KindOf(err) == mayfly.Gone) != c.gone || !c.gone && err != nil {
				t.Errorf("body: %v, want gone=%v", err, c.gone)
			}
		}
		if n := verifyAll(t, db); n != 3 {
			t.Errorf("%d records verify, want 3", n)
		}
	})
}

func TestManyWhoMeetAPersonAtOnceAgreeOnThem(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		names := make(chan string, 20)
		for range cap(names) {
			go func() {
				ctx := context.Background()
				r, err := db.Prepare(ctx, now, "bundle", opened("task_1"))
				if err == nil {
					err = db.Change(ctx, r, func(*Tx) {})
				}
				if err != nil {
					t.Error(err)
				}
				names <- r.who.id
			}()
		}
		first := <-names
		for range cap(names) - 1 {
			if name := <-names; name != first {
				t.Errorf("pseudonyms %q and %q", first, name)
			}
		}
		if n := count(t, db, `SELECT COUNT(*) FROM person`); n != 1 {
			t.Errorf("%d persons, want 1", n)
		}
	})
}

// Where another node met a person first, what was prepared under the pseudonym
// that lost is not recorded, and the next try goes by theirs.
func TestARecordUnderAPseudonymThatLostIsRefused(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		theirs := commit(t, db, opened("task_1"))
		lost := newPerson()
		lost.made = &Pending{done: make(chan struct{})} // not ended yet
		r := record(t, db, opened("task_2"))
		r.who = lost
		if err := db.Change(t.Context(), r, func(*Tx) {}); mayfly.KindOf(err) != mayfly.Unavailable {
			t.Errorf("recorded under a person without a row: %v", err)
		}
		for human := range db.persons.m {
			db.persons.put(human, lost, 0)
		}
		lost.made.err = &Refused{guardPerson}
		close(lost.made.done)
		if again := commit(t, db, opened("task_2")); again.who.id != theirs.who.id {
			t.Errorf("recorded under %s, want %s", again.who.id, theirs.who.id)
		}
		if n := verifyAll(t, db); n != 2 {
			t.Errorf("%d records, want 2", n)
		}
	})
}

// What was read of a person before they were erased is not remembered after it, and
// what was prepared about them makes no row.
func TestAnErasedPersonIsNotRememberedFromBefore(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		first := commit(t, db, opened("task_1"))
		var human string
		for h := range db.persons.m {
			human = h
		}
		before := db.persons.countForgotten()
		late := record(t, db, opened("task_2"))
		mustChange(t, db, func(tx *Tx) { tx.Erase(first.who.id, human, now) })
		db.Forget(first.who.id)
		for what, build := range map[string]func(*Tx){
			"task":       func(tx *Tx) { tx.InsertTask(task("t2")) },
			"delegation": func(tx *Tx) { tx.InsertDelegation(&mayfly.Delegation{ID: "d"}, []byte("hash")) },
			"approval": func(tx *Tx) {
				tx.InsertApproval(&mayfly.Approval{ID: "a", Needs: []string{"leads"}, AskedAt: now, ExpiresAt: now})
			},
		} {
			if err := db.Change(t.Context(), late, build); mayfly.KindOf(err) != mayfly.Unavailable {
				t.Errorf("a %s of before: %v", what, err)
			}
		}
		db.persons.put(human, first.who, before)
		if again := commit(t, db, opened("task_3")); again.who.id == first.who.id {
			t.Error("a record of after is under the key that was destroyed")
		}
	})
}

func TestAnyAlteredRowFailsToVerify(t *testing.T) {
	db := open(t, sqliteAddress(t))
	for _, id := range []string{"task_1", "task_2", "task_3"} {
		commit(t, db, opened(id))
	}
	runs, err := db.Unsequenced(t.Context(), 10)
	if err != nil || len(runs) != 1 || len(runs[0].Rows) != 3 {
		t.Fatalf("%v (%v)", runs, err)
	}
	rows := runs[0].Rows
	good := rows[1]
	if err := db.VerifyRow(rows[0].MAC, good); err != nil {
		t.Fatal(err)
	}
	remade := func(change func(*EventRow)) EventRow { // by somebody who has the MAC key too
		r := good
		change(&r)
		r.MAC = rowMAC(hmac.New(sha256.New, db.macKey), r.Proc, r.Seq, r.Leaf, r.Sealed, rows[0].MAC)
		return r
	}
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b }
	for name, r := range map[string]EventRow{
		"body":          func() EventRow { r := good; r.Sealed = flip(r.Sealed); return r }(),
		"leaf":          func() EventRow { r := good; r.Leaf = flip(r.Leaf); return r }(),
		"mac":           func() EventRow { r := good; r.MAC = flip(r.MAC); return r }(),
		"number":        func() EventRow { r := good; r.Seq++; return r }(),
		"process":       func() EventRow { r := good; r.Proc++; return r }(),
		"body, remade":  remade(func(r *EventRow) { r.Sealed = flip(r.Sealed) }),
		"leaf, spaced":  remade(func(r *EventRow) { r.Leaf = append([]byte(" "), r.Leaf...) }),
		"leaf, no JSON": remade(func(r *EventRow) { r.Leaf = r.Leaf[1:] }),
		"id column":     remade(func(r *EventRow) { r.ID += "x" }),
		"time column":   remade(func(r *EventRow) { r.Time = r.Time.Add(time.Microsecond) }),
		"kind column":   remade(func(r *EventRow) { r.Kind = "alarm" }),
		"task column":   remade(func(r *EventRow) { r.Task = "task_9" }),
		"decision":      remade(func(r *EventRow) { r.Decision = "dec_9" }),
		"person":        remade(func(r *EventRow) { r.Person = "" }),
	} {
		if err := db.VerifyRow(rows[0].MAC, r); err == nil {
			t.Errorf("%s: an altered row verifies", name)
		}
	}
	if err := db.VerifyRow(rows[2].MAC, good); err == nil {
		t.Error("a row verifies after another than the one before it")
	}
	if err := db.VerifyRow(nil, good); err == nil {
		t.Error("a row verifies after a missing one")
	}
}

func TestASealedValueOpensOnlyAsItself(t *testing.T) {
	db := open(t, sqliteAddress(t))
	box := db.Seal("purpose", "id", []byte("plain"))
	if plain, err := db.Unseal("purpose", "id", box); err != nil || string(plain) != "plain" {
		t.Errorf("got %q (%v)", plain, err)
	}
	for _, c := range []struct {
		purpose, id string
		box         []byte
	}{{"other", "id", box}, {"purpose", "other", box}, {"purpose", "id", box[:20]}, {"purpose", "id", append([]byte{box[0] ^ 1}, box[1:]...)}} {
		if _, err := db.Unseal(c.purpose, c.id, c.box); err == nil {
			t.Errorf("%s of %s opened", c.purpose, c.id)
		}
	}
}

func TestKeysAreSealedInTheDatabase(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		k := Key{ID: "k1", Use: "token", Algorithm: "ES256", Private: []byte("private part"), MadeAt: now, SignsFrom: now, SignsUntil: now.Add(time.Hour), AcceptUntil: now.Add(2 * time.Hour)}
		mustChange(t, db, func(tx *Tx) { tx.InsertKey(k) })
		var stored []byte
		if err := db.pool.QueryRow(`SELECT private FROM signing_key`).Scan(&stored); err != nil || bytes.Contains(stored, []byte("private")) {
			t.Errorf("the database holds %q (%v)", stored, err)
		}
		keys, err := db.Keys(t.Context(), "token")
		if err != nil || len(keys) != 1 {
			t.Fatal(keys, err)
		}
		if diff := cmp.Diff(k, keys[0]); diff != "" {
			t.Errorf("(-wrote +read):\n%s", diff)
		}
		mustChange(t, db, func(tx *Tx) { tx.CompromiseKey("k1", now) })
		wantGuard(t, change(t, db, func(tx *Tx) { tx.CompromiseKey("k1", now) }), "key")
		if keys, err = db.Keys(t.Context(), "token"); err != nil || !keys[0].CompromisedAt.Equal(now) {
			t.Errorf("%+v (%v)", keys, err)
		}
		if none, err := db.Keys(t.Context(), "log"); err != nil || len(none) != 0 {
			t.Errorf("keys of another use: %v (%v)", none, err)
		}
	})
}

func TestEventsOfATaskPageInOrder(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		var want []string
		for range 7 {
			want = append(want, commit(t, db, opened("task_1")).ID())
			commit(t, db, opened("task_2"))
		}
		var got []string
		for after := ""; ; {
			page, err := db.EventsByTask(t.Context(), "task_1", after, 3)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, r := range page {
				got = append(got, r.ID)
			}
			after = page[len(page)-1].ID
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestPositionsFollowTheSpans(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		for range 6 {
			commit(t, db, mayfly.Alarm{})
		}
		place := func(start, seq, n int64) {
			t.Helper()
			if err := db.Keep(t.Context(), func(b *Books) {
				b.AppendSpan(start, db.Process(), seq, n)
				b.MoveHead(start, start+n, []byte("note"), now)
				b.PutTile(0, 0, []byte{byte(start)})
			}); err != nil {
				t.Fatal(err)
			}
		}
		place(0, 1, 2)
		place(2, 3, 3)
		rows, err := db.EventsAfter(t.Context(), -1, 100)
		if err != nil || len(rows) != 5 {
			t.Fatalf("%d rows (%v), want 5", len(rows), err)
		}
		for i, r := range rows {
			if r.Position == nil || *r.Position != int64(i) || r.Seq != int64(i)+1 {
				t.Errorf("row %d has number %d and position %v", i, r.Seq, r.Position)
			}
		}
		if rows, err = db.EventsAfter(t.Context(), 2, 1); err != nil || len(rows) != 1 || *rows[0].Position != 3 {
			t.Errorf("after 2: %+v (%v)", rows, err)
		}
		if row, err := db.EventByID(t.Context(), rows[0].ID); err != nil || row.Position == nil || *row.Position != 3 {
			t.Errorf("by id: %+v (%v)", row, err)
		}
		runs, err := db.Unsequenced(t.Context(), 100)
		if err != nil || len(runs) != 1 || runs[0].Next != 6 || len(runs[0].Rows) != 1 || runs[0].Rows[0].Position != nil {
			t.Fatalf("left: %+v (%v)", runs, err)
		}
		if err := db.VerifyRow(runs[0].Previous, runs[0].Rows[0]); err != nil {
			t.Error(err)
		}
		head, err1 := db.Head(t.Context())
		tile, err2 := db.Tile(t.Context(), 0, 0)
		spans, err3 := db.Spans(t.Context(), -1, 10)
		if err := errors.Join(err1, err2, err3); err != nil || head.Size != 5 || string(head.Note) != "note" || !bytes.Equal(tile, []byte{2}) || len(spans) != 2 {
			t.Errorf("%+v %v %v (%v)", head, tile, spans, err)
		}
		err = db.Keep(t.Context(), func(b *Books) { b.MoveHead(2, 9, []byte("fork"), now); b.PutTile(0, 0, []byte("fork")) })
		wantGuard(t, err, "head")
		if tile, err := db.Tile(t.Context(), 0, 0); err != nil || !bytes.Equal(tile, []byte{2}) {
			t.Errorf("a refused head wrote the tile %v (%v)", tile, err)
		}
	})
}

func TestAMissingRowIsSeenByTheSequencer(t *testing.T) {
	onEachEngine(t, func(t *testing.T, db *DB) {
		for range 3 {
			commit(t, db, mayfly.Alarm{})
		}
		tamper(t, db, `DELETE FROM event WHERE seq = 1`)
		runs, err := db.Unsequenced(t.Context(), 10)
		if err != nil || len(runs) != 1 || runs[0].Next != 1 || runs[0].Rows[0].Seq != 2 {
			t.Fatalf("%+v (%v), want a run that should begin with 1 and begins with 2", runs, err)
		}
	})
}

func TestUnsequencedIsSharedBetweenProcesses(t *testing.T) {
	address := sqliteAddress(t)
	for range 3 {
		db := open(t, address)
		for range 10 {
			commit(t, db, mayfly.Alarm{})
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	db := open(t, address)
	runs, err := db.Unsequenced(t.Context(), 7)
	if err != nil || len(runs) != 3 {
		t.Fatalf("%d runs (%v), want 3", len(runs), err)
	}
	total := 0
	for _, r := range runs {
		if len(r.Rows) < 2 {
			t.Errorf("process %d got %d of 7", r.Proc, len(r.Rows))
		}
		total += len(r.Rows)
	}
	if total != 7 {
		t.Errorf("%d rows, want 7", total)
	}
}
