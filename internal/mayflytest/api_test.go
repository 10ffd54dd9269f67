package mayflytest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// ticket makes a ticket as the task of by, or with no key as whoever its token
// is of.
func (n node) ticket(by held, request string) string {
	n.T.Helper()
	a := n.send(by, http.MethodPost, "/v1/delegations", []byte(request))
	var got struct {
		Ticket string `json:"ticket"`
	}
	if err := json.Unmarshal(a.Body, &got); err != nil || a.Status != http.StatusCreated || got.Ticket == "" {
		n.T.Fatalf("no ticket: %s", a)
	}
	return got.Ticket
}

// redeem exchanges a ticket.
func redeem(ticket string, pairs ...string) url.Values {
	return with(form("subject_token", ticket, "subject_token_type", client.TypeTicket), pairs...)
}

// redeemedBy is redeem by agent invoice-1.
func (n node) redeemedBy(ticket string, pairs ...string) url.Values {
	return with(redeem(ticket, "actor_token", n.Evidence("invoice-1"), "actor_token_type", client.TypeJWT), pairs...)
}

// alice is the delegator by her own token.
func (n node) alice() held { return held{text: n.Human("alice")} }

func TestATicketIsRedeemedOnceInARace(t *testing.T) {
	t.Parallel()
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		nodes := []node{{mayflytest.New(t, mayflytest.Options{DSN: dsn}), time.Now}}
		if strings.HasPrefix(dsn, "postgres") {
			nodes = append(nodes, node{mayflytest.New(t, mayflytest.Options{Beside: nodes[0].System}), time.Now})
		}
		n := nodes[0]
		for uses, request := range map[int]string{
			1: `{"profile":"invoice","purpose":"p"}`,
			7: `{"profile":"invoice","purpose":"p","uses":7}`,
		} {
			ticket := n.ticket(n.alice(), request)
			before, opened := n.CountRefusals(), len(n.Records("task.opened"))
			const racers = 50
			var wg sync.WaitGroup
			var mu sync.Mutex
			won := 0
			start := make(chan struct{})
			for i := range racers {
				h, at := newHolder(t), nodes[i%len(nodes)]
				proof := n.proof(h, http.MethodPost, "/oauth2/token", "")
				f := n.redeemedBy(ticket).Encode()
				wg.Go(func() {
					<-start
					a := at.post("/oauth2/token", f, "DPoP", proof)
					mu.Lock()
					defer mu.Unlock()
					if a.Status == http.StatusOK {
						won++
					} else if a.Status != 400 || a.Error() != invalidRequest {
						t.Errorf("a loser is told %s", a)
					}
				})
			}
			close(start)
			wg.Wait()
			if won != uses {
				t.Errorf("a ticket for %d uses opened %d tasks", uses, won)
			}
			if got := len(n.Records("task.opened")) - opened; got != uses {
				t.Errorf("%d tasks are recorded as opened", got)
			}
			if got := n.CountRefusals() - before; got != racers-uses {
				t.Errorf("%d refusals are recorded, want %d", got, racers-uses)
			}
			n.refused("once more", func() mayflytest.Answer { return n.token(n.redeemedBy(ticket), newHolder(t)) }, 400, invalidRequest)
		}
	})
}

func TestATicketSaysWhatItsTaskIsFor(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	const request = `{"profile":"invoice","purpose":"pay acme","grants":["mcp:bank:list_invoices",
		{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":5}},"budget":{"calls":2}}],"task_ttl":"60s"}`
	ticket := n.ticket(n.alice(), request)
	for name, pairs := range map[string][]string{
		"another profile": {"profile", "open"}, "another purpose": {"purpose", "pay everybody"},
	} {
		n.refused(name, func() mayflytest.Answer { return n.token(n.redeemedBy(ticket, pairs...), h) }, 400, invalidRequest)
	}
	n.refused("a grant it does not carry", func() mayflytest.Answer {
		return n.token(n.redeemedBy(ticket, "scope", "http:orders:GET:/v1/*"), h)
	}, 400, "invalid_scope")
	n.refused("an agent it is not for", func() mayflytest.Answer {
		return n.token(n.redeemedBy(ticket, "actor_token", n.Evidence("payroll-1")), h)
	}, 400, "unauthorized_client")
	// None of that used it up.
	got := n.open(n.redeemedBy(ticket), h)
	v := n.view(got.task)
	if v.Purpose.Text != "pay acme" || v.Purpose.By != "delegator" || !v.Purpose.Verified || v.Root.Subject != "alice" || v.Delegation == "" {
		t.Errorf("the task reads %+v", v)
	}
	if d := v.Deadline.Sub(v.OpenedAt); d > time.Minute || len(v.Grants) != 2 {
		t.Errorf("it lives %s with %v", d, v.Grants)
	}
	trace, err := n.Operator().Trace(context.Background(), string(got.task))
	if err != nil || trace.Subject.Subject != "alice" || len(trace.Delegations) != 2 || trace.Delegations[1].Parent != trace.Delegations[0].Dlg {
		t.Errorf("the trace: %v %+v", err, trace)
	}
	for name, request := range map[string]string{
		"a day and a second":    `{"profile":"invoice","purpose":"p","ttl":"86401s"}`,
		"no purpose":            `{"profile":"invoice"}`,
		"a member unknown":      `{"profile":"invoice","purpose":"p","delegator":"bob"}`,
		"a member twice":        `{"profile":"invoice","purpose":"p","purpose":"q"}`,
		"more than the ceiling": `{"profile":"invoice","purpose":"p","grants":["mcp:bank:*"]}`,
		"no such profile":       `{"profile":"nobody","purpose":"p"}`,
		"not hers to delegate":  `{"profile":"reader","purpose":"p"}`,
		"negative uses":         `{"profile":"invoice","purpose":"p","uses":-1}`,
	} {
		if a := n.send(n.alice(), http.MethodPost, "/v1/delegations", []byte(request)); a.Status != 400 || strings.Contains(string(a.Body), "mft_") {
			t.Errorf("%s: %s", name, a)
		}
	}
	n.strangersCounted(3, func() {
		for name, text := range map[string]string{"mistyped": ticket[:len(ticket)-1] + "x", "made up": "mft_" + b64(make([]byte, 36)), "empty": "mft_"} {
			n.says(name, n.token(n.redeemedBy(text), h), 400, invalidRequest)
		}
	})
}

func TestATicketRunsOutAndDiesWithItsDelegatorsTask(t *testing.T) {
	t.Parallel()
	n, c := clocked(t, mayflytest.Options{Change: func(b *authority.Bundle) { b.Profiles["invoice"].Lifetime.Idle = time.Hour }})
	ctx := context.Background()
	h := newHolder(t)
	own := func() held { return n.open(n.opening(), h) }
	ended := map[string]func(held) error{
		"completed": func(have held) error { _, err := n.Operator().Complete(ctx, have.task); return err },
		"revoked":   func(have held) error { _, err := n.Operator().Revoke(ctx, have.task); return err },
	}
	const request = `{"profile":"reader","purpose":"p"}`
	for name, end := range ended {
		parent := own()
		ticket, below := n.ticket(parent, request), n.open(n.below(parent, "invoice"), h)
		belows := n.ticket(below, request)
		if err := end(parent); err != nil {
			t.Fatal(err)
		}
		n.refused(name, func() mayflytest.Answer { return n.token(n.redeemedBy(ticket), h) }, 400, invalidRequest)
		n.refused(name+", of a task below", func() mayflytest.Answer { return n.token(n.redeemedBy(belows), h) }, 400, invalidRequest)
	}

	short, usual := n.ticket(n.alice(), `{"profile":"invoice","purpose":"p","ttl":"1m"}`), n.ticket(n.alice(), `{"profile":"invoice","purpose":"p"}`)
	long := n.ticket(n.alice(), `{"profile":"invoice","purpose":"p","ttl":"24h"}`)
	parents := n.ticket(n.open(n.opening("requested_ttl", "120"), h), `{"profile":"reader","purpose":"p","ttl":"24h"}`)
	n.pass(c, time.Minute)
	n.refused("after a minute", func() mayflytest.Answer { return n.token(n.redeemedBy(short), h) }, 400, invalidRequest)
	n.pass(c, time.Minute)
	n.refused("after its task's deadline", func() mayflytest.Answer { return n.token(n.redeemedBy(parents), h) }, 400, invalidRequest)
	n.pass(c, 8*time.Minute)
	n.refused("after ten minutes", func() mayflytest.Answer { return n.token(n.redeemedBy(usual), h) }, 400, invalidRequest)
	n.open(n.redeemedBy(long), h)
}

func TestAnAgentWithoutEvidenceRedeemsATicketAndIsMarkedForEver(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	parent := n.open(n.opening(), h)
	const request = `{"profile":"reader","purpose":"p","uses":2}`
	ticket := n.ticket(parent, request)
	n.refused("without a key", func() mayflytest.Answer { return n.token(redeem(ticket), nil) }, 400, "invalid_dpop_proof")
	child := n.open(redeem(ticket), newHolder(t))
	v := n.view(child.task)
	if v.Evidence.Verified || v.Parent != parent.task || v.Root.Subject != "alice" || v.Purpose.Verified {
		t.Errorf("the task reads %+v", v)
	}
	if v := n.view(n.open(n.redeemedBy(ticket), newHolder(t)).task); !v.Evidence.Verified || v.Evidence.Subject != "invoice-1" {
		t.Errorf("with evidence it reads %+v", v.Evidence)
	}
}

// Time.

// An answer that is lost leaves a task nobody holds. The second try opens
// another; the first ends by itself, by its idle lease.
func TestATaskOpenedTwiceBecauseAnAnswerWasLostEndsByItsIdleLease(t *testing.T) {
	t.Parallel()
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		n, c := clocked(t, mayflytest.Options{DSN: dsn})
		ctx := context.Background()
		h := newHolder(t)
		f := n.opening()
		// The first try: the connection breaks once the request is on its way.
		conn, err := net.Dial("tcp", strings.TrimPrefix(n.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		r := n.Request(http.MethodPost, "/oauth2/token", []byte(f.Encode()), "Content-Type", asForm,
			"DPoP", n.proof(h, http.MethodPost, "/oauth2/token", ""))
		if err := r.Write(conn); err != nil {
			t.Fatal(err)
		}
		n.Eventually("the first try is committed", func() bool { return len(n.Records("task.opened")) == 1 })
		conn.Close()
		kept := n.open(f, h)

		tasks, _, err := n.Operator().Tasks(ctx, client.Filter{State: mayfly.Live}, "", 0)
		if err != nil || len(tasks) != 2 {
			t.Fatalf("%d tasks are live: %v", len(tasks), err)
		}
		lost := tasks[slices.IndexFunc(tasks, func(v client.Task) bool { return v.ID != kept.task })].ID
		for range 3 {
			n.pass(c, 70*time.Second)
			if a := n.send(kept, http.MethodPost, "/v1/tasks/"+string(kept.task)+"/heartbeat", nil); a.Status != 200 {
				t.Fatalf("the one that is held: %s", a)
			}
		}
		n.Eventually("the lost one is retired", func() bool { return n.view(lost).State == mayfly.Retired })
		if v := n.view(lost); v.Reason != mayfly.IdleRanOut {
			t.Errorf("it ended by %s", v.Reason)
		}
		if v := n.view(kept.task); v.State != mayfly.Live {
			t.Errorf("the one that is held is %s (%s)", v.State, v.Reason)
		}
	})
}

func TestAnIdleLeaseIsRenewedByWorkAndNeverPastTheDeadline(t *testing.T) {
	t.Parallel()
	n, c := clocked(t, mayflytest.Options{})
	h := newHolder(t)
	scope := []string{"scope", "http:orders:GET:/v1/* mcp:bank:list_invoices", "requested_ttl", "600"}
	idle, beats, calls := n.open(n.opening(scope...), h), n.open(n.opening(scope...), h), n.open(n.opening(scope...), h)
	denied := n.open(n.opening(scope...), h)
	parent := n.open(n.opening(scope...), h)
	child := n.open(n.below(parent, "invoice", "scope", "http:orders:GET:/v1/*"), h)
	deadline := n.view(beats.task).Deadline
	if got := deadline.Sub(n.view(beats.task).OpenedAt); got != 10*time.Minute {
		t.Errorf("the deadline is after %s", got)
	}
	work := func() {
		t.Helper()
		// Tokens live five minutes: renewed on the way.
		beats, calls, child, denied = n.open(again(beats), h), n.open(again(calls), h), n.open(again(child), h), n.open(again(denied), h)
		if a := n.send(beats, http.MethodPost, "/v1/tasks/"+string(beats.task)+"/heartbeat", nil); a.Status != 200 {
			t.Errorf("a heartbeat: %s", a)
		}
		if a := n.orders(n.at(calls, "/http/orders")); a.Status != 200 {
			t.Errorf("a call: %s", a)
		}
		if a := n.orders(n.at(child, "/http/orders")); a.Status != 200 {
			t.Errorf("the child's call: %s", a)
		}
	}
	n.pass(c, 65*time.Second)
	work()
	if a := n.send(n.at(denied, "/http/orders"), http.MethodDelete, "/http/orders/v1/orders", nil); a.Status != 403 {
		t.Errorf("a denied call: %s", a)
	}
	n.pass(c, 65*time.Second)
	for name, have := range map[string]held{"nothing was done for": idle, "only a denied call was made for": denied} {
		if a := n.self(have); a.Status != 401 {
			t.Errorf("a task that %s: %s", name, a)
		}
		n.Eventually("it is retired", func() bool { return n.view(have.task).State == mayfly.Retired })
		if v := n.view(have.task); v.Reason != mayfly.IdleRanOut {
			t.Errorf("a task that %s ended by %s", name, v.Reason)
		}
	}
	denied = calls
	work()
	if v := n.view(parent.task); v.State != mayfly.Live || !v.IdleUntil.After(n.now()) {
		t.Errorf("a parent whose child works is %s (%s), idle at %s", v.State, v.Reason, v.IdleUntil)
	}
	for range 6 {
		n.pass(c, 75*time.Second)
		if !n.now().Before(deadline) {
			break
		}
		work()
		for _, have := range []held{beats, calls, child, parent} {
			if v := n.view(have.task); v.IdleUntil.After(v.Deadline) {
				t.Errorf("the idle lease ends at %s, after the deadline %s", v.IdleUntil, v.Deadline)
			}
		}
	}
	n.pass(c, max(0, deadline.Sub(n.now()))+2*time.Second)
	for _, have := range []held{beats, calls, parent, child} {
		if a := n.self(have); a.Status != 401 {
			t.Errorf("after the deadline: %s", a)
		}
		n.Eventually("it is retired", func() bool { return n.view(have.task).State == mayfly.Retired })
	}
	for _, have := range []held{beats, calls, parent} {
		if v := n.view(have.task); v.Reason != mayfly.DeadlinePassed {
			t.Errorf("it ended by %s", v.Reason)
		}
	}
}

func TestAHeartbeatIsTheHoldersAlone(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	own, other := n.open(n.opening(), h), n.open(n.opening("subject_token", n.Human("bob")), newHolder(t))
	child := n.open(n.below(own, "reader"), h)
	path := "/v1/tasks/" + string(own.task) + "/heartbeat"
	if a := n.send(own, http.MethodPost, path, nil); a.Status != 200 || !strings.Contains(string(a.Body), string(own.task)) {
		t.Errorf("the holder's: %s", a)
	}
	for name, have := range map[string]held{"another task": other, "a task below": child, "its delegator": n.alice()} {
		n.refused(name, func() mayflytest.Answer { return n.send(have, http.MethodPost, path, nil) }, 404, "")
	}
	n.refused("a task that does not exist", func() mayflytest.Answer {
		return n.send(own, http.MethodPost, "/v1/tasks/"+string(mayfly.NewTaskID(time.Now()))+"/heartbeat", nil)
	}, 404, "")
	for _, verb := range []string{"revoke", "complete", "narrow"} {
		n.refused(verb+" by a stranger", func() mayflytest.Answer {
			var body []byte
			if verb == "narrow" {
				body = []byte(`{"grants":[]}`)
			}
			return n.send(other, http.MethodPost, "/v1/tasks/"+string(own.task)+"/"+verb, body)
		}, 404, "")
	}
	if a := n.self(own); a.Status != 200 {
		t.Errorf("the task after all that: %s", a)
	}
}

// Budgets.

func TestABudgetCountsAlongTheChain(t *testing.T) {
	t.Parallel()
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		n := node{mayflytest.New(t, mayflytest.Options{DSN: dsn}), time.Now}
		h := newHolder(t)
		pay := func(calls int) []string {
			return []string{"scope", "mcp:bank:list_invoices", "authorization_details", fmt.Sprintf(
				`[{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":100}},"budget":{"calls":%d}}]`, calls)}
		}
		parent := n.open(n.opening(pay(4)...), h)
		one, two := n.open(n.below(parent, "invoice", pay(3)...), h), n.open(n.below(parent, "invoice", pay(3)...), h)
		bank := map[string]held{"parent": n.at(parent, "/mcp/bank"), "one": n.at(one, "/mcp/bank"), "two": n.at(two, "/mcp/bank")}
		call := func(who string, want mayfly.Term) {
			t.Helper()
			before := len(n.Bank.Requests())
			a := n.tool(bank[who], "pay_invoice", members{"amount": 1})
			if got := denied(a); got != want || a.Status != 200 {
				t.Errorf("%s pays: %q, want %q: %s", who, got, want, a)
			}
			if reached := len(n.Bank.Requests()) - before; reached != map[bool]int{true: 1, false: 0}[want == ""] {
				t.Errorf("%s pays: %d requests reached the bank", who, reached)
			}
		}
		call("one", "")
		call("one", "")
		call("one", "")
		call("one", mayfly.TermBudget) // its own is spent
		call("two", "")
		call("two", mayfly.TermBudget) // its parent's is
		call("parent", mayfly.TermBudget)
		// Spent, it ends nothing.
		if a := n.tool(bank["one"], "list_invoices", members{}); a.Status != 200 || denied(a) != "" {
			t.Errorf("another grant: %s", a)
		}
		n.refused("a refusal is recorded", func() mayflytest.Answer {
			return n.tool(bank["one"], "pay_invoice", members{"amount": 1})
		}, 200, "")
		for id, want := range map[mayfly.TaskID]int64{parent.task: 4, one.task: 3, two.task: 1} {
			for _, b := range n.view(id).Budget {
				if strings.HasSuffix(b.Grant, "pay_invoice") && b.Used != want {
					t.Errorf("%s has used %d, want %d", id, b.Used, want)
				}
			}
		}
	})
}

func TestATasksOwnBudgetEndsItOnceTheCallIsAnswered(t *testing.T) {
	t.Parallel()
	n := plain(t, func(b *authority.Bundle) {
		p := *b.Profiles["invoice"]
		p.Name, p.Budget = "few", 3
		b.Profiles["few"] = &p
		b.Profiles["reader"].Delegators = append(b.Profiles["reader"].Delegators, mayfly.DelegatorRule{Agent: "few"})
	})
	h := newHolder(t)
	for name, f := range map[string]url.Values{
		"asked for":           n.opening("budget", "3"),
		"the profile's":       n.opening("profile", "few"),
		"more than it allows": n.opening("profile", "few", "budget", "99"),
	} {
		own := n.open(f, h)
		bank, child := n.at(own, "/mcp/bank"), n.open(n.below(own, "reader"), h)
		childs := n.at(child, "/mcp/bank")
		for i, who := range []held{bank, childs, bank} { // a child's call counts, too
			a := n.tool(who, "list_invoices", members{})
			if a.Status != 200 || denied(a) != "" || !strings.Contains(string(a.Body), "inv-1") {
				t.Errorf("%s, call %d: %s", name, i+1, a)
			}
		}
		n.Eventually("the task is over", func() bool { return n.view(own.task).State != mayfly.Live })
		if v := n.view(own.task); v.Reason != mayfly.BudgetSpent {
			t.Errorf("%s: ended by %s", name, v.Reason)
		}
		before := len(n.Bank.Requests())
		n.says(name+", one call more", n.tool(bank, "list_invoices", members{}), 401, "invalid_token")
		n.says(name+", the child's", n.tool(childs, "list_invoices", members{}), 401, "invalid_token")
		if len(n.Bank.Requests()) != before {
			t.Errorf("%s: the bank was reached", name)
		}
	}
}

// Narrowing binds every token there is, and all below, at once.
func TestNarrowingTakesHoldOnTokensAndChildrenAtOnce(t *testing.T) {
	t.Parallel()
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		n := node{mayflytest.New(t, mayflytest.Options{DSN: dsn}), time.Now}
		h := newHolder(t)
		scope := []string{"scope", "mcp:bank:list_invoices mcp:bank:pay_invoice http:orders:GET:/v1/*"}
		parent := n.open(n.opening(scope...), h)
		child := n.open(n.below(parent, "invoice", scope...), h)
		grandchild := n.open(n.below(child, "invoice", scope...), h)
		all := map[string]held{"parent": parent, "child": child, "grandchild": grandchild}
		bank, orders := map[string]held{}, map[string]held{}
		for who, have := range all {
			bank[who], orders[who] = n.at(have, "/mcp/bank"), n.at(have, "/http/orders")
			if n.orders(orders[who]).Status != 200 || denied(n.tool(bank[who], "pay_invoice", members{"amount": 1})) != "" {
				t.Fatalf("%s may not do what it was granted", who)
			}
		}
		if a := n.send(child, http.MethodPost, "/v1/tasks/"+string(parent.task)+"/narrow", []byte(`{"grants":[]}`)); a.Status != 404 {
			t.Errorf("a child narrows its parent: %s", a)
		}
		if a := n.send(parent, http.MethodPost, "/v1/tasks/"+string(parent.task)+"/narrow", []byte(`{"grants":["mcp:bank:*"]}`)); a.Status != 400 {
			t.Errorf("widened by narrow: %s", a)
		}
		a := n.send(parent, http.MethodPost, "/v1/tasks/"+string(parent.task)+"/narrow", []byte(`{"grants":["mcp:bank:list_invoices"]}`))
		if a.Status != 200 {
			t.Fatalf("narrowed by itself: %s", a)
		}
		for who, want := range map[string]mayfly.Term{"parent": mayfly.TermTask, "child": mayfly.TermParent, "grandchild": mayfly.TermParent} {
			for what, send := range map[string]func() mayflytest.Answer{
				"a tool": func() mayflytest.Answer { return n.tool(bank[who], "pay_invoice", members{"amount": 1}) },
				"a GET":  func() mayflytest.Answer { return n.orders(orders[who]) },
			} {
				before, reached := n.CountRefusals(), n.reached()
				a := send()
				if got := denied(a); got != want {
					t.Errorf("%s, %s: the term is %q, want %q: %s", who, what, got, want, a)
				}
				if found := n.Refusals(before); len(found) != 1 || found[0].Term != want {
					t.Errorf("%s, %s: recorded as %+v", who, what, found)
				}
				if n.reached() != reached {
					t.Errorf("%s, %s: the upstream was reached", who, what)
				}
			}
			if a := n.tool(bank[who], "list_invoices", members{}); denied(a) != "" || a.Status != 200 {
				t.Errorf("%s, what is left: %s", who, a)
			}
		}
		n.refused("a new child with what is gone", func() mayflytest.Answer {
			return n.token(n.below(parent, "invoice", "scope", "mcp:bank:pay_invoice"), h)
		}, 400, "invalid_scope")
		n.refused("a new token for what is gone", func() mayflytest.Answer {
			return n.token(again(parent, "resource", n.Issuer+"/http/orders"), h)
		}, 400, "invalid_target")
		if got := len(n.Records("task.narrowed")); got != 1 {
			t.Errorf("%d records of narrowing", got)
		}
	})
}

// The kill switch, for each thing it can be thrown for.
func TestTheKillSwitchEndsEverythingWithItInItsChain(t *testing.T) {
	t.Parallel()
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		registration, key := registered(t, clientID, "")
		n := node{mayflytest.New(t, mayflytest.Options{DSN: dsn, Clients: []attest.Client{registration}}), time.Now}
		ctx := context.Background()
		h := newHolder(t)
		scope := []string{"scope", "mcp:bank:list_invoices http:orders:GET:/v1/*"}
		service := func() string { return n.IDP.Issue(members{"aud": mayflytest.Services, "sub": "deploy"}) }
		human := func() url.Values { return n.opening(scope...) }
		byService := func() url.Values { return n.opening(append(scope, "subject_token", service())...) }
		byClient := func() url.Values {
			return with(n.opening(append(scope, "actor_token", "", "actor_token_type", "")...), n.asClient(key, clientID)...)
		}
		for _, row := range []struct {
			kind, value string
			hit, spared func() url.Values
			delegator   func() string // of a ticket that is hit
			code        string
		}{
			{"human", "alice", human, byService, func() string { return n.Human("alice") }, invalidRequest},
			{"service", "service:ci/deploy", byService, human, service, invalidRequest},
			{"client", clientID, byClient, human, nil, "access_denied"},
			{"source", "ci", byService, human, service, invalidRequest},
			{"source", "cluster", human, byClient, nil, "access_denied"},
			{"profile", "invoice", human, func() url.Values { return n.opening("profile", "open") }, func() string { return n.Human("alice") }, "access_denied"},
			{"all", "", human, nil, func() string { return n.Human("alice") }, invalidRequest},
		} {
			name := row.kind + " " + row.value
			own := n.open(row.hit(), h)
			child := n.open(n.below(own, "invoice", scope...), h)
			orders, childs := n.at(own, "/http/orders"), n.at(child, "/http/orders")
			tickets := map[string]string{
				"the task's ticket": n.ticket(own, `{"profile":"reader","purpose":"p"}`), "its child's ticket": n.ticket(child, `{"profile":"reader","purpose":"p"}`),
			}
			if row.delegator != nil {
				tickets["the delegator's ticket"] = n.ticket(held{text: row.delegator()}, `{"profile":"invoice","purpose":"p"}`)
			}
			var spared held
			if row.spared != nil {
				spared = n.open(row.spared(), h)
			}
			reached := n.reached()
			r, err := n.Operator().RevokeAll(ctx, row.kind, row.value)
			if err != nil {
				t.Fatal(err)
			}
			dead := func(when string) {
				t.Helper()
				for what, a := range map[string]mayflytest.Answer{
					"its token": n.self(own), "for a target": n.orders(orders), "its child's": n.self(child), "its child's for a target": n.orders(childs),
				} {
					n.says(name+when+": "+what, a, 401, "invalid_token")
				}
				n.says(name+when+": another token", n.token(again(own), h), 400, invalidRequest)
				for what, ticket := range tickets {
					a := n.token(n.redeemedBy(ticket), h)
					if a.Status != 400 || a.Error() != invalidRequest {
						t.Errorf("%s%s: %s: %s", name, when, what, a)
					}
				}
			}
			dead("")
			n.refused(name+": a new task", func() mayflytest.Answer { return n.token(row.hit(), h) }, 400, row.code)
			if row.spared != nil {
				if a := n.self(spared); a.Status != 200 {
					t.Errorf("%s: somebody else's task: %s", name, a)
				}
				n.open(row.spared(), h)
			}
			if row.delegator != nil && row.kind != "profile" {
				n.refused(name+": a new ticket", func() mayflytest.Answer {
					return n.send(held{text: row.delegator()}, http.MethodPost, "/v1/delegations", []byte(`{"profile":"invoice","purpose":"p"}`))
				}, 403, "access_denied")
			}
			n.Eventually("the task and its child are retired", func() bool {
				return n.view(own.task).State == mayfly.Retired && n.view(child.task).State == mayfly.Retired
			})
			if v := n.view(own.task); v.Reason != mayfly.Revoked {
				t.Errorf("%s: ended by %s", name, v.Reason)
			}
			if err := n.Operator().LiftRevocation(ctx, r.ID); err != nil {
				t.Fatal(err)
			}
			dead(", lifted")
			if n.reached() != reached {
				t.Errorf("%s: the upstream was reached", name)
			}
			n.open(row.hit(), h)
		}
		if got, want := len(n.Records("revocation.made")), 7; got != want || len(n.Records("revocation.lifted")) != want {
			t.Errorf("%d revocations are recorded", got)
		}
		own := n.open(n.opening(), h)
		n.refused("a task throws it", func() mayflytest.Answer {
			return n.send(own, http.MethodPost, "/v1/revocations", []byte(`{"all":true}`))
		}, 403, "")
		n.refused("a human throws it for another", func() mayflytest.Answer {
			return n.send(n.alice(), http.MethodPost, "/v1/revocations", []byte(`{"human":"bob"}`))
		}, 403, "")
		if a := n.send(n.alice(), http.MethodPost, "/v1/revocations", []byte(`{"human":"alice"}`)); a.Status != 201 {
			t.Errorf("a human throws it for herself: %s", a)
		}
		n.says("and is out", n.self(own), 401, "invalid_token")
	})
}

// Roots that are no humans.

func TestAServiceIsARoot(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	own := n.open(n.opening("subject_token", n.IDP.Issue(members{"aud": mayflytest.Services, "sub": "deploy"})), h)
	p := payload(t, own.text)
	if p["sub"] != "service:ci/deploy" || p["sub_profile"] != "service" || !slices.Equal(actors(t, own.text), []string{agentID("invoice", own.task)}) {
		t.Errorf("the token says %v", p)
	}
	if v := n.view(own.task); v.Root.Subject != "service:ci/deploy" || v.Root.Kind != mayfly.Service || v.Chain[0] != "service:ci/deploy" {
		t.Errorf("the task reads %+v", v)
	}
	child := n.open(n.below(own, "reader"), h)
	if payload(t, child.text)["sub"] != "service:ci/deploy" {
		t.Error("its child has another root")
	}
	// No human can be taken for it, nor a service for a human.
	n.strangersCounted(2, func() {
		for _, sub := range []string{"service:ci/deploy", "spiffe://example.org/agent/invoice/task_1"} {
			n.says(sub, n.token(n.opening("subject_token", n.IDP.Issue(members{"aud": mayflytest.Humans, "sub": sub, "groups": []string{"accounts-payable"}})), h), 400, invalidRequest)
		}
	})
	n.refused("a service under a profile for humans", func() mayflytest.Answer {
		return n.token(n.opening("profile", "open", "subject_token", n.IDP.Issue(members{"aud": mayflytest.Services, "sub": "deploy"})), h)
	}, 400, invalidRequest)
	own2, err := n.Client().As(client.Bearer(n.IDP.Issue(members{"aud": mayflytest.Services, "sub": "deploy"}))).Task(context.Background(), own.task)
	if err != nil || own2.ID != own.task {
		t.Errorf("the service reads its own task: %v", err)
	}
}

func TestTheUserAtTheSocketIsARootAndAnAgent(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	ctx := context.Background()
	h := newHolder(t)
	// Over the network nobody is vouched for.
	n.strangersCounted(1, func() {
		n.says("the same without the socket", n.token(form("profile", "invoice", "purpose", "p"), h), 400, invalidRequest)
	})
	token, err := n.Operator().Exchange(ctx, client.ExchangeRequest{Profile: "invoice", Purpose: "by hand", Key: h.Key})
	if err != nil {
		t.Fatal(err)
	}
	own := held{text: token.Text.Reveal(), h: h, task: token.Task}
	v := n.view(own.task)
	if v.Root.Kind != mayfly.Service || !strings.HasPrefix(v.Root.Subject, "service:local/") || v.Evidence.Source != "local" || !v.Evidence.Verified {
		t.Errorf("the task reads %+v", v)
	}
	if payload(t, own.text)["sub"] != v.Root.Subject {
		t.Errorf("the token says %v", payload(t, own.text)["sub"])
	}
	if a := n.self(own); a.Status != 200 {
		t.Errorf("its token over the network: %s", a)
	}
	ticket, err := n.Operator().Delegate(ctx, client.DelegateRequest{Profile: "invoice", Purpose: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if got := n.view(n.open(n.redeemedBy(ticket.Ticket.Reveal()), h).task); got.Root.Subject != v.Root.Subject || got.Evidence.Source != "cluster" {
		t.Errorf("the ticket's task reads %+v", got)
	}
	if _, err := n.Operator().Exchange(ctx, client.ExchangeRequest{Profile: "open", Purpose: "p", Key: h.Key}); mayfly.AsError(err).Code != invalidRequest {
		t.Errorf("under a profile that accepts humans only: %v", err)
	}
}
