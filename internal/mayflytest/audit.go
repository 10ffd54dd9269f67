package mayflytest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Audit holds what came out of an installation, and what reached its upstream,
// against what its store says, whatever happened in between: nothing usable left
// that has no record, and no record stands for half a change. handed may be nil.
// It gives what it read.
func Audit(t testing.TB, db *store.DB, handed *Handed, orders *Upstream) *Recorded {
	t.Helper()
	if handed == nil {
		handed = &Handed{}
	}
	report, err := eventlog.Verify(context.Background(), db, handed.Checkpoints()...)
	must(t, err)
	if !report.OK() {
		t.Fatalf("the log does not verify: %s", report)
	}
	r := readRecorded(t, db)
	for _, text := range handed.Tokens() {
		r.token(t, text)
	}
	for _, id := range handed.Decisions() {
		if !r.Allowed[id] {
			t.Errorf("decision %s was answered and no record allows it", id)
		}
	}
	for _, id := range handed.Delegations() {
		if r.delegations[id] == nil {
			t.Errorf("a ticket of %s left and there is no record of it", id)
		}
	}
	for _, seen := range orders.Requests() {
		if !r.actions[seen.Method+":"+seen.Path] {
			t.Errorf("the upstream saw %s %s and no record allows it", seen.Method, seen.Path)
		}
	}
	r.tasksWhole(t, db)
	return r
}

// AuditStopped is Audit of an installation whose server is not running.
func (i *Installation) AuditStopped() *Recorded {
	i.T.Helper()
	db, err := store.Open(context.Background(), store.Options{
		DSN: i.DSN, Seal: i.Seal, Node: "audit", ReadOnly: true, Logger: slog.New(slog.DiscardHandler),
	})
	must(i.T, err)
	defer db.Close()
	return Audit(i.T, db, i.Handed, i.Orders)
}

// Recorded is what a store has recorded, by what it is about.
type Recorded struct {
	N       int // records, those without a position included
	Allowed map[string]bool
	Ended   map[string]string // outcome of an allowed call, by its decision
	Opened  map[mayfly.TaskID]mayfly.TaskOpened
	Closed  map[mayfly.TaskID]mayfly.TaskClosed

	retired     map[mayfly.TaskID]bool
	regranted   map[mayfly.TaskID]int64
	switched    []time.Time // when the kill switch was thrown
	delegations map[string]*mayfly.DelegationMade
	actions     map[string]bool
	issued      map[string]mayfly.TokenFact // by jti
	dlg         map[string]string           // by jti, of tokens that opened their task
	writes      map[mayfly.TaskID]int64     // allowed calls that count against a budget
	notSent     map[mayfly.TaskID]int64
}

// Unanswered are the allowed calls that have no outcome.
func (r *Recorded) Unanswered() []string {
	var ids []string
	for id := range r.Allowed {
		if r.Ended[id] == "" {
			ids = append(ids, id)
		}
	}
	return ids
}

func readRecorded(t testing.TB, db *store.DB) *Recorded {
	t.Helper()
	ctx := context.Background()
	r := &Recorded{
		Allowed: map[string]bool{}, Ended: map[string]string{},
		Opened: map[mayfly.TaskID]mayfly.TaskOpened{}, Closed: map[mayfly.TaskID]mayfly.TaskClosed{},
		retired: map[mayfly.TaskID]bool{}, regranted: map[mayfly.TaskID]int64{}, delegations: map[string]*mayfly.DelegationMade{},
		actions: map[string]bool{}, issued: map[string]mayfly.TokenFact{}, dlg: map[string]string{},
		writes: map[mayfly.TaskID]int64{}, notSent: map[mayfly.TaskID]int64{},
	}
	for after := int64(-1); ; {
		rows, err := db.EventsAfter(ctx, after, 512)
		must(t, err)
		if len(rows) == 0 {
			break
		}
		for _, row := range rows {
			r.take(t, db, row)
		}
		after = *rows[len(rows)-1].Position
	}
	runs, err := db.Unsequenced(ctx, 1<<16)
	must(t, err)
	for _, run := range runs {
		for _, row := range run.Rows {
			r.take(t, db, row)
		}
	}
	return r
}

func (r *Recorded) take(t testing.TB, db *store.DB, row store.EventRow) {
	t.Helper()
	body, err := db.Body(context.Background(), row)
	must(t, err)
	r.N++
	read := func(into any) { must(t, json.Unmarshal(body, into)) }
	switch row.Kind {
	case "task.opened":
		var e mayfly.TaskOpened
		read(&e)
		if _, twice := r.Opened[e.Task]; twice {
			t.Errorf("task %s was opened twice", e.Task)
		}
		r.Opened[e.Task], r.issued[row.ID], r.dlg[row.ID] = e, e.Token, row.Dlg()
	case "token.issued":
		var e mayfly.TokenIssued
		read(&e)
		r.issued[row.ID] = e.Token
	case "call.decided":
		var e mayfly.CallDecided
		read(&e)
		if e.Decision.Verdict != mayfly.Allow {
			return
		}
		r.Allowed[e.Decision.ID], r.actions[e.Action] = true, true
		if strings.HasPrefix(e.Action, "POST:") {
			r.writes[e.Task]++
		}
	case "call.ended":
		var e mayfly.CallEnded
		read(&e)
		if was := r.Ended[e.Decision]; was != "" {
			t.Errorf("decision %s ended twice: %s and %s", e.Decision, was, e.Outcome)
		}
		if !r.Allowed[e.Decision] {
			t.Errorf("decision %s ended and was never allowed", e.Decision)
		}
		r.Ended[e.Decision] = e.Outcome
		if e.Outcome == "not-sent" {
			r.notSent[e.Task]++
		}
	case "task.narrowed", "task.widened":
		r.regranted[row.Task]++
	case "task.closed":
		var e mayfly.TaskClosed
		read(&e)
		if was, twice := r.Closed[e.Task]; twice {
			t.Errorf("task %s closed twice: %s and %s", e.Task, was.Reason, e.Reason)
		}
		r.Closed[e.Task] = e
	case "task.retired":
		r.retired[row.Task] = true
	case "revocation.made":
		var e mayfly.RevocationMade
		read(&e)
		r.switched = append(r.switched, e.Revocation.At)
	case "delegation.made":
		e := &mayfly.DelegationMade{}
		read(e)
		r.delegations[e.Delegation] = e
	}
}

// token checks that a token that was seen says what its record says.
func (r *Recorded) token(t testing.TB, text string) {
	t.Helper()
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Errorf("%q is no token", text)
		return
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	must(t, err)
	var claims struct {
		JTI, Aud, Dlg string
		Exp           int64
	}
	must(t, json.Unmarshal(payload, &claims))
	fact, ok := r.issued[claims.JTI]
	switch {
	case !ok:
		t.Errorf("token %s left and there is no record of it", claims.JTI)
	case fact.Audience != claims.Aud || fact.ExpiresAt.Unix() != claims.Exp:
		t.Errorf("token %s is for %s until %d, and its record says %+v", claims.JTI, claims.Aud, claims.Exp, fact)
	case r.dlg[claims.JTI] != "" && r.dlg[claims.JTI] != claims.Dlg:
		t.Errorf("token %s names the delegation %s, and its record is %s", claims.JTI, claims.Dlg, r.dlg[claims.JTI])
	}
}

// tasksWhole checks that every row of a task is what its records made it, and
// that no record is without its row.
func (r *Recorded) tasksWhole(t testing.TB, db *store.DB) {
	t.Helper()
	ctx := context.Background()
	rows := map[mayfly.TaskID]*store.TaskRow{}
	for cursor := ""; ; {
		page, err := db.ListTasks(ctx, store.Filter{After: cursor, Limit: 500})
		must(t, err)
		if len(page) == 0 {
			break
		}
		for _, row := range page {
			rows[row.ID] = row
		}
		cursor = string(page[len(page)-1].ID)
	}
	children := map[mayfly.TaskID]int64{}
	redeemed := map[string]int64{}
	for id, e := range r.Opened {
		if rows[id] == nil {
			t.Errorf("task %s is recorded as opened and is not there", id)
		}
		if e.Parent != "" {
			children[e.Parent]++
		}
		redeemed[e.Delegation]++
	}
	for id, row := range rows {
		_, opened := r.Opened[id]
		closed, over := r.Closed[id]
		// The kill switch ends many tasks with the one record of its own.
		if at := row.ClosedAt; !over && row.Reason == mayfly.Revoked && slices.ContainsFunc(r.switched, at.Equal) {
			closed.Reason, over = row.Reason, true
		}
		switch {
		case !opened:
			t.Errorf("task %s is there and no record opened it", id)
		case over == row.ClosedAt.IsZero() || closed.Reason != row.Reason:
			t.Errorf("task %s ended %q at %s, and its record says %q", id, row.Reason, row.ClosedAt, closed.Reason)
		case r.retired[id] == row.RetiredAt.IsZero():
			t.Errorf("task %s is retired at %s, and its record says %t", id, row.RetiredAt, r.retired[id])
		case row.Children != children[id]:
			t.Errorf("task %s counts %d children, and %d are recorded", id, row.Children, children[id])
		case row.Version != 1+r.regranted[id]:
			t.Errorf("task %s has version %d of its grants, and its records changed them %d times", id, row.Version, r.regranted[id])
		}
		spent, err := db.Counters(ctx, id)
		must(t, err)
		var n int64
		for _, calls := range spent {
			n += calls
		}
		// What was not sent is given back, unless the task had ended by then.
		if n > r.writes[id] || n < r.writes[id]-r.notSent[id] {
			t.Errorf("task %s has spent %d calls, and %d are recorded, %d of them not sent", id, n, r.writes[id], r.notSent[id])
		}
	}
	for id := range r.delegations {
		d, err := db.Delegation(ctx, id)
		if err != nil {
			t.Errorf("delegation %s is recorded: %v", id, err)
		} else if d.Used != redeemed[id] {
			t.Errorf("the ticket of %s counts %d uses, and %d tasks were opened with it", id, d.Used, redeemed[id])
		}
	}
}
