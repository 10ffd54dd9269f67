package mayflytest_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// verdictOf is one answer of the decision point.
type verdictOf struct {
	Decision *bool `json:"decision"`
	Context  struct {
		Decision string       `json:"decision"`
		Term     mayfly.Term  `json:"term"`
		Reason   string       `json:"reason"`
		Next     *mayfly.Next `json:"next"`
		Error    *struct {
			Status  int    `json:"status"`
			Message string `json:"message"`
		} `json:"error"`
	} `json:"context"`
}

// verdicts are the answers of a batch.
func verdicts(t testing.TB, a mayflytest.Answer) []verdictOf {
	t.Helper()
	var got struct {
		Evaluations []verdictOf `json:"evaluations"`
	}
	if err := json.Unmarshal(a.Body, &got); err != nil || a.Status != http.StatusOK {
		t.Fatalf("no answers: %s", a)
	}
	for _, v := range got.Evaluations {
		if v.Decision == nil {
			t.Fatalf("an answer without a decision: %s", a)
		}
	}
	return got.Evaluations
}

// whole is a question in the decision point's words, as text.
func (n node) whole(have held) string {
	return `{"subject":{"type":"agent","id":"` + mayfly.AgentID("example.org", "open", have.task) +
		`"},"action":{"name":"use"},"resource":{"type":"tool","id":"bank/list_invoices"},"context":{"arguments":{}}}`
}

// raw asks the decision point with a body as it stands.
func (n node) raw(have held, path, body string, headers ...string) mayflytest.Answer {
	n.T.Helper()
	return n.send(have, http.MethodPost, "/access/v1/"+path, []byte(body), headers...)
}

// A question that is malformed is answered 400 with a line of text, whatever is
// malformed about it; members that nobody reads may be anything.
func TestAuthZENTellsMalformedFromForbidden(t *testing.T) {
	t.Parallel()
	n := node{mayflytest.New(t, asking()), time.Now}
	have := n.open(n.opening("profile", "open"), newHolder(t))
	whole := n.whole(have)
	edit := func(old, changed string) string {
		t.Helper()
		if strings.Count(whole, old) != 1 {
			t.Fatalf("%q is not once in %s", old, whole)
		}
		return strings.Replace(whole, old, changed, 1)
	}
	malformed := map[string]string{
		"empty": "", "blank": " ", "no JSON": "{", "an array": "[]", "a text": `"x"`, "null": "null", "two values": whole + whole,
		"no subject's type": edit(`"type":"agent",`, ``), "a subject's type of number": edit(`"type":"agent"`, `"type":1`),
		"a subject's type null": edit(`"type":"agent"`, `"type":null`), "no action's name": edit(`"name":"use"`, ``),
		"an action's name of another type": edit(`"name":"use"`, `"name":["use"]`), "another case": edit(`"name":"use"`, `"Name":"use"`),
		"no resource's id": edit(`,"id":"bank/list_invoices"`, ``), "a resource's id of another type": edit(`"bank/list_invoices"`, `{}`),
		"a context that is text": edit(`{"arguments":{}}`, `"x"`), "a context null": edit(`{"arguments":{}}`, `null`),
		"arguments that are a list": edit(`"arguments":{}`, `"arguments":[]`), "arguments null": edit(`"arguments":{}`, `"arguments":null`),
		"properties that are text":          edit(`"name":"use"`, `"name":"use","properties":"x"`),
		"a name twice":                      edit(`"name":"use"`, `"name":"delete","name":"use"`),
		"a name twice in what nobody reads": edit(`"name":"use"`, `"name":"use","x":{"a":1,"a":1}`),
		"a name twice in arguments":         edit(`"arguments":{}`, `"arguments":{"amount":1,"amount":900}`),
		"a number no double holds":          edit(`"arguments":{}`, `"arguments":{"amount":9007199254740993}`),
		"no UTF-8":                          edit(`"use"`, "\"u\xffse\""),
		"depth 33":                          edit(`"arguments":{}`, `"arguments":{},"x":`+strings.Repeat("[", 31)+strings.Repeat("]", 31)),
	}
	text := func(name string, a mayflytest.Answer, status int) {
		t.Helper()
		if a.Status != status || a.Header.Get("Content-Type") != "text/plain; charset=utf-8" || len(a.Body) == 0 || a.Body[0] == '{' {
			t.Errorf("%s: %s as %s, want %d with a line of text", name, a, a.Header.Get("Content-Type"), status)
		}
	}
	for _, path := range []string{"evaluation", "evaluations"} {
		for name, body := range malformed {
			text(path+": "+name, n.raw(have, path, body), http.StatusBadRequest)
		}
	}
	for name, body := range map[string]string{
		"unknown members": edit(`"name":"use"`, `"name":"use","x":[null,{"y":1}],"properties":{"soft":true}`),
		"depth 32":        edit(`"arguments":{}`, `"arguments":{},"x":`+strings.Repeat("[", 30)+strings.Repeat("]", 30)),
		"no context":      edit(`,"context":{"arguments":{}}`, ``), "an empty context": edit(`{"arguments":{}}`, `{}`),
		"evaluations for a single one": edit(`"action"`, `"evaluations":[{}],"action"`),
	} {
		if a := n.raw(have, "evaluation", body); !decision(t, a) {
			t.Errorf("%s: %s", name, a)
		}
	}

	request := func(body string, headers ...string) mayflytest.Answer {
		return n.Do(n.Request(http.MethodPost, "/access/v1/evaluation", []byte(body), headers...))
	}
	dpop := func() []string {
		return []string{"Authorization", "DPoP " + have.text, "DPoP", n.proof(have.h, http.MethodPost, "/access/v1/evaluation", have.text)}
	}
	text("no type of content", request(whole, dpop()...), http.StatusBadRequest)
	text("another type of content", request(whole, append(dpop(), "Content-Type", "text/plain")...), http.StatusBadRequest)
	text("compressed", n.raw(have, "evaluation", whole, "Content-Encoding", "gzip"), http.StatusBadRequest)
	text("300 KiB", n.raw(have, "evaluation", edit(`"use"`, `"use","x":"`+strings.Repeat("x", 300<<10)+`"`)), http.StatusRequestEntityTooLarge)
	for name, headers := range map[string][]string{
		"nobody": nil, "a made up token": {"Authorization", "Bearer x"}, "a workload": {"Authorization", "Bearer " + n.Evidence("invoice-1")},
	} {
		a := request(whole, append(headers, "Content-Type", "application/json")...)
		text(name, a, http.StatusUnauthorized)
		if len(a.Header["Www-Authenticate"]) != 2 {
			t.Errorf("%s is told to authenticate by %v", name, a.Header["Www-Authenticate"])
		}
	}
	forTarget := n.at(have, "/mcp/bank")
	text("a token for a target", n.raw(forTarget, "evaluation", whole), http.StatusUnauthorized)
	for name, token := range map[string]string{"a delegator": n.Human("alice"), "an approver": n.Approver("fay", "finance")} {
		text(name, n.raw(held{text: token}, "evaluation", whole), http.StatusForbidden)
	}
}

func TestAuthZENGivesTheRequestsNameBack(t *testing.T) {
	t.Parallel()
	n := node{mayflytest.New(t, asking()), time.Now}
	have := n.open(n.opening("profile", "open"), newHolder(t))
	for sent, want := range map[string]string{
		"bfe9eb29-ab87-4ca3-be83-a1d5d8305716": "bfe9eb29-ab87-4ca3-be83-a1d5d8305716", "two words": "two words",
		strings.Repeat("x", 128): strings.Repeat("x", 128), strings.Repeat("x", 129): "", "caf\u00e9": "", "": "",
	} {
		for _, body := range []string{n.whole(have), "{"} {
			if got := n.raw(have, "evaluation", body, "X-Request-ID", sent).Header.Get("X-Request-ID"); got != want {
				t.Errorf("%.40q comes back as %.40q", sent, got)
			}
		}
	}
	if got := n.raw(have, "evaluation", n.whole(have), "X-Request-ID", "a", "X-Request-ID", "b").Header["X-Request-Id"]; len(got) > 0 {
		t.Errorf("two names come back as %q", got)
	}
}

// The same question gets the same answer, every answer names its record, and a no
// says what refuses and what to do. Asking spends nothing.
func TestAuthZENAnswersLikeTheGatewayAndSpendsNothing(t *testing.T) {
	t.Parallel()
	n := node{mayflytest.New(t, asking()), time.Now}
	have := n.open(with(n.opening("profile", "open"), "authorization_details",
		`[{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","budget":{"calls":1}},{"type":"mayfly_grant","grant":"http:orders:GET:/v1/orders/*"}]`), newHolder(t))
	other := n.open(n.opening("profile", "open"), newHolder(t))
	agent := mayfly.AgentID("example.org", "open", have.task)
	for _, c := range []struct {
		name, subject, id, action, kind, resource, arguments string
		allowed                                              bool
		term                                                 mayfly.Term
		next                                                 string
	}{
		{"a tool", "agent", agent, "use", "tool", "bank/pay_invoice", `{"amount":200.0000}`, true, "", ""},
		{"a route", "agent", agent, "use", "route", "orders/GET/v1/orders/1", `{}`, true, "", ""},
		{"what needs a yes", "agent", agent, "use", "tool", "bank/pay_invoice", `{"amount":200.0001}`, false, mayfly.TermApproval, "request"},
		{"digits no fact can hold", "agent", agent, "use", "tool", "bank/pay_invoice", `{"amount":200.00001}`, false, mayfly.TermPolicy, ""},
		{"a tool not granted", "agent", agent, "use", "tool", "bank/list_invoices", `{}`, false, mayfly.TermTask, ""},
		{"a route not granted", "agent", agent, "use", "route", "orders/DELETE/v1/orders/1", `{}`, false, mayfly.TermTask, ""},
		{"a tool as a route", "agent", agent, "use", "route", "bank/pay_invoice", `{}`, false, mayfly.TermLiveness, "none"},
		{"no target", "agent", agent, "use", "tool", "bank", `{}`, false, mayfly.TermLiveness, "none"},
		{"another action", "agent", agent, "read", "tool", "bank/pay_invoice", `{}`, false, mayfly.TermLiveness, "none"},
		{"another kind of subject", "user", agent, "use", "tool", "bank/pay_invoice", `{}`, false, mayfly.TermLiveness, "none"},
		{"another task", "agent", mayfly.AgentID("example.org", "open", other.task), "use", "tool", "bank/pay_invoice", `{}`, false, mayfly.TermLiveness, "none"},
		{"another profile", "agent", mayfly.AgentID("example.org", "reader", have.task), "use", "tool", "bank/pay_invoice", `{}`, false, mayfly.TermLiveness, "none"},
		{"another domain", "agent", mayfly.AgentID("elsewhere.org", "open", have.task), "use", "tool", "bank/pay_invoice", `{}`, false, mayfly.TermLiveness, "none"},
		{"nobody", "agent", "", "use", "tool", "bank/pay_invoice", `{}`, false, mayfly.TermLiveness, "none"},
	} {
		q := `{"subject":{"type":"` + c.subject + `","id":"` + c.id + `"},"action":{"name":"` + c.action + `"},"resource":{"type":"` + c.kind +
			`","id":"` + c.resource + `"},"context":{"arguments":` + c.arguments + `}}`
		for range 2 {
			a := n.raw(have, "evaluation", q)
			var v verdictOf
			if err := json.Unmarshal(a.Body, &v); err != nil || a.Status != http.StatusOK || v.Decision == nil {
				t.Fatalf("%s: %s", c.name, a)
			}
			x := v.Context
			switch {
			case *v.Decision != c.allowed || x.Term != c.term || x.Decision == "" || x.Error != nil || a.Header.Get("Mayfly-Decision") != x.Decision,
				!c.allowed && (x.Reason == "" || x.Next == nil || c.next != "" && x.Next.Action != c.next),
				c.allowed && (x.Reason != "" || x.Next != nil):
				t.Errorf("%s: %s", c.name, a)
			}
			if strings.Contains(x.Reason, "large") && c.term != mayfly.TermApproval {
				t.Errorf("%s: the reason names a policy: %s", c.name, x.Reason)
			}
		}
	}
	for _, b := range n.view(have.task).Budget {
		if b.Used != 0 {
			t.Errorf("asking spent %+v", b)
		}
	}
	if list, _, err := n.Operator().Approvals(t.Context(), true, "", 0); err != nil || len(list) != 0 {
		t.Errorf("asking asked humans for %d things (%v)", len(list), err)
	}
	if n.reached() != 0 {
		t.Error("asking reached a target")
	}
}

// What an item of a batch says replaces the whole of what the body says; an item
// that is no question is answered no, and the others are answered all the same.
func TestAuthZENBatches(t *testing.T) {
	t.Parallel()
	n := node{mayflytest.New(t, asking()), time.Now}
	have := n.open(n.opening("profile", "open"), newHolder(t))
	whole := n.whole(have)
	batch := func(items, semantic string) string {
		options := ""
		if semantic != "" {
			options = `,"options":{"evaluations_semantic":"` + semantic + `","x":1}`
		}
		return strings.TrimSuffix(whole, "}") + `,"evaluations":` + items + options + `}`
	}
	ok, no, bad := `{}`, `{"action":{"name":"delete"}}`, `{"resource":{"type":"tool"}}`
	for _, c := range []struct{ name, items, semantic, want string }{ // y: yes, n: no, e: an error
		{"all", ok + "," + no + "," + bad + "," + ok, "", "yney"},
		{"all, by name", no + "," + ok, "execute_all", "ny"},
		{"to the first no", ok + "," + ok + "," + no + "," + ok, "deny_on_first_deny", "yyn"},
		{"to the first no, which is an error", ok + "," + bad + "," + ok, "deny_on_first_deny", "ye"},
		{"to the first no, and an error after it", no + "," + bad, "deny_on_first_deny", "n"},
		{"to the first yes", no + "," + bad + "," + ok + "," + ok, "permit_on_first_permit", "ney"},
		{"no yes at all", no + "," + bad, "permit_on_first_permit", "ne"},
		{"only errors", bad + "," + bad, "", "ee"},
		{"no objects", `1,"x",null,[],` + ok, "", "eeeey"},
		{"a subject that is text", `{"subject":"x"}`, "", "e"},
		{"whole objects, not members", `{"resource":{"id":"bank/list_invoices"}}`, "", "e"},
		{"a context of its own", `{"context":{}},{"context":[]}`, "", "ye"},
		{"fifty", strings.TrimSuffix(strings.Repeat(no+",", 50), ","), "", strings.Repeat("n", 50)},
	} {
		answers := verdicts(t, n.raw(have, "evaluations", batch("["+c.items+"]", c.semantic)))
		got := ""
		for _, v := range answers {
			switch {
			case v.Context.Error != nil:
				got += "e"
				if *v.Decision || v.Context.Error.Status != http.StatusBadRequest || v.Context.Error.Message == "" {
					t.Errorf("%s: an error reads %+v", c.name, v)
				}
			case *v.Decision:
				got += "y"
			default:
				got += "n"
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	// An argument of the body is not merged into that of an item.
	large := strings.Replace(batch(`[{},{"context":{"arguments":{"amount":1}}},{"context":{}}]`, ""), `{"arguments":{}}`, `{"arguments":{"amount":300}}`, 1)
	large = strings.Replace(large, "list_invoices", "pay_invoice", 1)
	if v := verdicts(t, n.raw(have, "evaluations", large)); len(v) != 3 || *v[0].Decision || !*v[1].Decision || !*v[2].Decision {
		t.Errorf("arguments of an item and of the body: %+v", v)
	}
	for name, body := range map[string]string{"no evaluations": whole, "empty": batch("[]", "deny_on_first_deny")} {
		if a := n.raw(have, "evaluations", body); !decision(t, a) || strings.Contains(string(a.Body), "evaluations") {
			t.Errorf("%s is not answered as a single one: %s", name, a)
		}
	}
	for name, body := range map[string]string{
		"51":                       batch("["+strings.TrimSuffix(strings.Repeat("{},", 51), ",")+"]", ""),
		"an object":                batch("{}", ""),
		"null":                     batch("null", ""),
		"another semantic":         batch("[{}]", "first"),
		"options that are text":    strings.Replace(batch("[{}]", ""), `"evaluations"`, `"options":"x","evaluations"`, 1),
		"a semantic that is none":  strings.Replace(batch("[{}]", ""), `"evaluations"`, `"options":{"evaluations_semantic":1},"evaluations"`, 1),
		"a body's subject wrong":   strings.Replace(batch("[{}]", ""), `"type":"agent"`, `"type":7`, 1),
		"no question and no items": `{"evaluations":[]}`,
	} {
		if a := n.raw(have, "evaluations", body); a.Status != http.StatusBadRequest || a.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s: %s", name, a)
		}
	}
	if v := verdicts(t, n.raw(have, "evaluations", `{"evaluations":[`+whole+`]}`)); len(v) != 1 || !*v[0].Decision {
		t.Errorf("an item that says it all: %+v", v)
	}
}

// The operator may ask about any task; asked by the client, with an approval
// that was given.
func TestAuthZENSeesAnApprovalThatWasGiven(t *testing.T) {
	t.Parallel()
	n := node{mayflytest.New(t, asking()), time.Now}
	d := direct{n.System}
	task := d.open(t, "open")
	q := client.Evaluation{
		Subject:  &client.Entity{Type: "agent", ID: mayfly.AgentID("example.org", "open", task.Task)},
		Action:   &client.EvaluationAction{Name: "use"},
		Resource: &client.Entity{Type: "tool", ID: "bank/pay_invoice"},
		Context:  &client.EvaluationContext{Arguments: json.RawMessage(large)},
	}
	ask := func() client.EvaluationAnswer {
		t.Helper()
		got, err := n.Operator().Evaluate(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if v := ask(); v.Allowed || v.Context.Term != mayfly.TermApproval || v.Context.Next.Approval != "" {
		t.Fatalf("before anybody was asked: %+v", v)
	}
	id := d.ask(t, task.AccessToken, large)
	if v := ask(); v.Allowed || v.Context.Next == nil || v.Context.Next.Approval != id {
		t.Fatalf("while it waits: %+v", v)
	}
	if _, err := d.Authority.Approve(t.Context(), d.finance(), id, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if v := ask(); !v.Allowed {
			t.Fatalf("after the yes: %+v", v)
		}
	}
	d.answered(t, task.AccessToken, large)
	if v := ask(); v.Allowed {
		t.Fatalf("after it was used: %+v", v)
	}
}
