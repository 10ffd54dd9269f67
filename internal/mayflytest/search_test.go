package mayflytest_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// searched is a system in which alice's and bob's agents have done things.
type searched struct {
	*mayflytest.System
	alice, bob, child *client.Session
}

func (s searched) call(as *client.Session, tool string, args map[string]any) {
	s.T.Helper()
	// A refusal is an error or an answer that says so: both are recorded.
	if _, err := s.CallTool(as, tool, args); err != nil && !strings.Contains(err.Error(), "41403") {
		s.T.Fatal(err)
	}
}

func searching(t *testing.T, dsn string) searched {
	t.Helper()
	o := leaving()
	o.DSN = dsn
	n := mayflytest.New(t, o)
	s := searched{System: n}
	s.alice = n.Open(n.Opening("mcp:bank:list_invoices", "mcp:bank:pay_invoice", "http:orders:GET:/v1/*"))
	r := n.Opening()
	r.SubjectToken, r.Profile, r.ActorToken = n.Human("bob"), "open", n.Evidence("robot-7")
	s.bob = n.Open(r)
	token, err := n.Child(s.alice, "reader", "mcp:bank:list_invoices")
	if err != nil {
		t.Fatal(err)
	}
	s.child = n.Client().Resume(token, nil)
	s.call(s.alice, "pay_invoice", map[string]any{"amount": 20, "vendor": "acme"})
	s.call(s.alice, "pay_invoice", map[string]any{"amount": 20_000, "vendor": "acme"})
	s.call(s.child, "list_invoices", nil)
	s.call(s.bob, "list_invoices", nil)
	s.call(s.bob, "delete_vendor", nil)
	for _, as := range []*client.Session{s.alice, s.bob} {
		if a := n.Get(as, "/v1/orders"); a.Status != http.StatusOK {
			t.Fatal(a)
		}
	}
	if _, err := n.Operator().Revoke(context.Background(), s.bob.Task()); err != nil {
		t.Fatal(err)
	}
	return s
}

// all is everything that q finds, a few at a time.
func (s searched) all(c *client.Client, q client.Query) (ids []string) {
	s.T.Helper()
	for cursor := ""; ; {
		page, next, err := c.Search(context.Background(), q, cursor, 3)
		if err != nil {
			s.T.Fatalf("%+v: %v", q, err)
		}
		for _, e := range page {
			ids = append(ids, e.ID)
		}
		if cursor = next; next == "" {
			return ids
		}
	}
}

// What a search finds is what reading the whole log finds, for every question and
// for every two of them.
func TestASearchFindsWhatTheLogHolds(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		s := searching(t, dsn)
		records := s.Records()
		known := map[string]bool{}
		for _, e := range records {
			known[e.ID] = true
		}
		// More may be recorded meanwhile, such as failures that are counted first.
		ofThese := func(q client.Query) []string {
			return slices.DeleteFunc(s.all(s.Operator(), q), func(id string) bool { return !known[id] })
		}
		s.Eventually("the index catches up", func() bool { return len(ofThese(client.Query{})) == len(records) })
		slices.Reverse(records)
		alice, bob, child := s.alice.Task(), s.bob.Task(), s.child.Task()
		under := map[mayfly.TaskID][]mayfly.TaskID{alice: {alice, child}, bob: {bob}, child: {child}}
		body := func(e client.Event) (b struct {
			Target, Action, By, Profile string
			Root                        mayfly.Subject
			Human                       string
			Snapshot                    mayfly.Snapshot
		}) {
			if err := json.Unmarshal(e.Body, &b); err != nil {
				t.Fatal(err)
			}
			return b
		}
		type question struct {
			name string
			ask  func(*client.Query)
			is   func(client.Event) bool
		}
		middle := records[len(records)/2].Time
		questions := []question{
			{"human alice", func(q *client.Query) { q.Human = "alice" }, func(e client.Event) bool { return body(e).Root.ID == "alice" || body(e).Human == "alice" }},
			{"human bob", func(q *client.Query) { q.Human = "bob" }, func(e client.Event) bool { return body(e).Root.ID == "bob" || body(e).Human == "bob" }},
			{"agent alice's", func(q *client.Query) { q.Agent = string(alice) }, func(e client.Event) bool { return slices.Contains(under[alice], e.Task) }},
			{"agent child's", func(q *client.Query) { q.Agent = "spiffe://example.org/agent/reader/" + string(child) }, func(e client.Event) bool { return e.Task == child }},
			{"agent robot-7", func(q *client.Query) { q.Agent = "robot-7" }, func(e client.Event) bool { return e.Task == bob }},
			{"profile invoice", func(q *client.Query) { q.Profile = "invoice" }, func(e client.Event) bool { return slices.Contains(under[alice], e.Task) }},
			{"profile reader", func(q *client.Query) { q.Profile = "reader" }, func(e client.Event) bool { return e.Task == child }},
			{"target bank", func(q *client.Query) { q.Target = "bank" }, func(e client.Event) bool { return body(e).Target == "bank" }},
			{"tool GET:/v1/orders", func(q *client.Query) { q.Tool = "GET:/v1/orders" }, func(e client.Event) bool { return body(e).Action == "GET:/v1/orders" }},
			{"label untrusted", func(q *client.Query) { q.Label = "untrusted" }, func(e client.Event) bool { return slices.Contains(body(e).Snapshot.Labels, "untrusted") }},
			{"term policy", func(q *client.Query) { q.Term = "policy" }, func(e client.Event) bool { return e.Term == "policy" }},
			{"kind call.decided", func(q *client.Query) { q.Kind = "call.decided" }, func(e client.Event) bool { return e.Kind == "call.decided" }},
			{"since", func(q *client.Query) { q.Since = middle }, func(e client.Event) bool { return !e.Time.Before(middle) }},
			{"until", func(q *client.Query) { q.Until = middle }, func(e client.Event) bool { return e.Time.Before(middle) }},
			{"nobody", func(q *client.Query) { q.Human = "nobody" }, func(client.Event) bool { return false }},
		}
		some := 0
		for i, a := range questions {
			for _, b := range questions[i:] {
				var q client.Query
				a.ask(&q)
				b.ask(&q)
				again := q
				if a.ask(&again); again != q {
					continue // both ask about the same thing
				}
				var want []string
				for _, e := range records {
					if a.is(e) && b.is(e) {
						want = append(want, e.ID)
					}
				}
				got := ofThese(q)
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("%s and %s: %d records, want %d\n%v\n%v", a.name, b.name, len(got), len(want), got, want)
				}
				if len(want) > 0 && len(want) < len(records) {
					some++
				}
			}
		}
		if some < 40 {
			t.Errorf("only %d questions had answers", some)
		}
	})
}

// Whoever asks finds what they may read and nothing else.
func TestASearchFindsOnlyWhatOneMayRead(t *testing.T) {
	t.Parallel()
	s := searching(t, mayflytest.SQLite(t))
	records := s.Records()
	s.Eventually("the index catches up", func() bool {
		return len(s.all(s.Operator(), client.Query{})) >= len(records)
	})
	of := func(c *client.Client, q client.Query) map[mayfly.TaskID]int {
		t.Helper()
		found := map[mayfly.TaskID]int{}
		page, _, err := c.Search(context.Background(), q, "", 500)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			found[e.Task]++
		}
		return found
	}
	as := func(token string) *client.Client {
		c, err := client.New(client.Options{Address: s.URL, Issuer: s.Issuer, Token: client.Bearer(token)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	alice, bob, child := s.alice.Task(), s.bob.Task(), s.child.Task()
	if got := of(as(s.Human("alice")), client.Query{}); len(got) != 2 || got[alice] == 0 || got[child] == 0 {
		t.Errorf("alice finds %v", got)
	}
	if got := of(as(s.Human("alice")), client.Query{Human: "bob"}); len(got) != 0 {
		t.Errorf("alice finds bob's %v", got)
	}
	if got := of(as(s.Human("carol")), client.Query{Target: "bank"}); len(got) != 0 {
		t.Errorf("carol finds %v", got)
	}
	if got := of(s.Operator(), client.Query{}); got[""] == 0 || got[bob] == 0 {
		t.Errorf("the operator finds %v", got)
	}
	if got := of(s.alice.API(), client.Query{}); len(got) != 2 || got[alice] == 0 || got[child] == 0 {
		t.Errorf("her agent finds %v", got)
	}
	if got := of(s.child.API(), client.Query{Human: "alice"}); len(got) != 1 || got[child] == 0 {
		t.Errorf("the agent below finds %v", got)
	}
	if _, _, err := s.Client().Search(context.Background(), client.Query{}, "", 1); mayfly.KindOf(err) != mayfly.Unauthenticated {
		t.Errorf("a stranger is told %v", err)
	}
}

// A call is found by the ids that others know it by: the trace of whoever asked,
// and the target's own.
func TestACallIsTracedByWhatOthersCallIt(t *testing.T) {
	t.Parallel()
	const trace, upstream = "4bf92f3577b34da6a3ce929d0e0e4736", "req-77f1"
	orders := mayflytest.NewUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Request-Id", upstream)
		fmt.Fprintln(w, "{}")
	}))
	n := mayflytest.New(t, mayflytest.Options{Change: func(b *authority.Bundle) { b.Targets["orders"].URL = orders.URL }})
	session := n.Open(n.Opening("http:orders:GET:/v1/*"))
	req := n.Request(http.MethodGet, "/http/orders/v1/orders", nil, "Traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	if a := n.DoAs(session, req); a.Status != http.StatusOK {
		t.Fatal(a)
	}
	for _, id := range []string{trace, upstream} {
		var found client.Trace
		n.Eventually(id+" is found", func() bool {
			var err error
			found, err = n.Operator().Trace(context.Background(), id)
			return err == nil
		})
		if found.Subject.Subject != "alice" || len(found.Tasks) != 1 || found.Tasks[0].ID != session.Task() || len(found.Events) < 1 || found.Events[0].Kind != "call.decided" {
			t.Errorf("%s leads to %+v", id, found)
		}
	}
	// An agent can send any trace id, also another's: then it leads to nobody.
	r := n.Opening("http:orders:GET:/v1/*")
	r.SubjectToken = n.Human("bob")
	if a := n.DoAs(n.Open(r), n.Request(http.MethodGet, "/http/orders/v1/other", nil, "Traceparent", "00-"+trace+"-00f067aa0ba902b7-01")); a.Status != http.StatusOK {
		t.Fatal(a)
	}
	n.Eventually("the second call is found too", func() bool {
		found, _, err := n.Operator().Search(context.Background(), client.Query{Trace: trace}, "", 10)
		return err == nil && len(found) == 2
	})
	if _, err := n.Operator().Trace(context.Background(), trace); mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "log search --trace") {
		t.Errorf("two tasks' trace id: %v", err)
	}
	if _, err := n.Operator().Trace(context.Background(), "req-0000"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("an id of nothing: %v", err)
	}
}

// After a crash the index goes on where it was, and what it notes twice it finds
// once.
func TestTheIndexOutlivesACrash(t *testing.T) {
	t.Parallel()
	s := searching(t, mayflytest.SQLite(t))
	n := len(s.Records())
	s.Eventually("the index catches up", func() bool { return len(s.all(s.Operator(), client.Query{})) >= n })
	s.Stop()
	moveSink(t, s.DSN, "search:1", 5)
	s.Start(leaving())
	s.call(s.alice, "list_invoices", nil)
	records := s.Records()
	var got []string
	s.Eventually("every record is found", func() bool {
		got = s.all(s.Operator(), client.Query{})
		return !slices.ContainsFunc(records, func(e client.Event) bool { return !slices.Contains(got, e.ID) })
	})
	found := len(got)
	if slices.Sort(got); len(slices.Compact(got)) != found {
		t.Errorf("of %d that are found some are so twice", found)
	}
}

// moveSink puts a reader of the log back to where it was before a crash.
func moveSink(t *testing.T, dsn, name string, to int) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+strings.TrimPrefix(dsn, "sqlite://"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := db.Exec("UPDATE sink SET position = ? WHERE name = ?", to, name)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r.RowsAffected(); err != nil || n != 1 {
		t.Fatalf("%d rows, %v", n, err)
	}
}
