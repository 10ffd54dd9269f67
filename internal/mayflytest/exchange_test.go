package mayflytest_test

import (
	"context"
	"fmt"
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

const invalidRequest = "invalid_request"

// flow is one delegation that happened elsewhere: the delegator's token names
// who may act, and both tokens the transaction they are of.
type flow struct{ subject, actor string }

func (n node) flow(i int, mayAct, txn bool) flow {
	agent := fmt.Sprintf("invoice-%d", i)
	subject := members{"aud": mayflytest.Humans, "sub": fmt.Sprintf("human-%d", i), "groups": []string{"accounts-payable"}}
	actor := members{"aud": mayflytest.Workloads, "sub": agent}
	if mayAct {
		subject["may_act"] = members{"iss": n.IDP.URL(), "sub": agent}
	}
	if txn {
		subject["txn"], actor["txn"] = fmt.Sprint("txn-", i), fmt.Sprint("txn-", i)
	}
	return flow{n.IDP.Issue(subject), n.IDP.Issue(actor)}
}

// Splicing: the tokens of two delegations that both happened do not make a
// third that did not.
func TestS01OnlyTokensOfOneFlowGoTogether(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	const flows = 10
	for name, binds := range map[string][2]bool{"may_act": {true, false}, "txn": {false, true}, "both": {true, true}} {
		var all [flows]flow
		for i := range all {
			all[i] = n.flow(i, binds[0], binds[1])
		}
		before := n.CountRefusals()
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() {
				h := newHolder(t)
				for j := range all {
					a := n.token(n.opening("subject_token", all[i].subject, "actor_token", all[j].actor), h)
					switch {
					case i == j && a.Status == http.StatusOK:
						if got := payload(t, n.held(a, h).text)["sub"]; got != fmt.Sprintf("human-%d", i) {
							t.Errorf("%s: flow %d is of %v", name, i, got)
						}
					case i == j || a.Status != http.StatusBadRequest || a.Error() != invalidRequest:
						t.Errorf("%s: subject of %d with actor of %d: %s", name, i, j, a)
					}
				}
			})
		}
		wg.Wait()
		if got := len(n.Refusals(before)); got != flows*(flows-1) {
			t.Errorf("%s: %d records of %d refusals", name, got, flows*(flows-1))
		}
	}

	one, two := n.flow(1, true, true), n.flow(2, true, true)
	e := n.refused("subject of one, actor of another", func() mayflytest.Answer {
		return n.token(n.opening("subject_token", one.subject, "actor_token", two.actor), newHolder(t))
	}, 400, invalidRequest)
	if reason := body(t, e)["reason"].(string); !strings.Contains(reason, "delegation mismatch") {
		t.Errorf("the record says %q", reason)
	}

	// The same with our own tokens: T1 was opened for R1 by X, T2 for R2 by N.
	x, other := newHolder(t), newHolder(t)
	t1 := n.open(n.opening("subject_token", one.subject, "actor_token", one.actor), x)
	t2 := n.open(n.opening("subject_token", two.subject, "actor_token", two.actor), other)
	for name, f := range map[string]url.Values{
		"another task's token as actor":              n.below(t1, "invoice", "actor_token", t2.text),
		"another task's token as actor, by its type": n.below(t1, "invoice", "actor_token", t2.text, "actor_token_type", client.TypeAccessToken),
		"another agent's evidence for the same task": again(t1, "actor_token", two.actor, "actor_token_type", client.TypeJWT),
	} {
		n.refused(name, func() mayflytest.Answer { return n.token(f, x) }, 400, invalidRequest)
	}
}

// The rules of splicing, and who may exchange at all, one row each. A row
// without a root is of a subject token that nobody could be read from.
func TestExchangesThatNobodyAgreedToAreRefused(t *testing.T) {
	t.Parallel()
	registration, key := registered(t, clientID, "")
	n := node{mayflytest.New(t, mayflytest.Options{Clients: []attest.Client{registration}}), time.Now}
	human := func(more members) string {
		claims := members{"aud": mayflytest.Humans, "sub": "alice", "groups": []string{"accounts-payable"}}
		for name, value := range more {
			claims[name] = value
		}
		return n.IDP.Issue(claims)
	}
	agent := func(more members) string {
		claims := members{"aud": mayflytest.Workloads, "sub": "invoice-1"}
		for name, value := range more {
			claims[name] = value
		}
		return n.IDP.Issue(claims)
	}
	mayAct := func(m members) string { return human(members{"may_act": m}) }
	us := n.IDP.URL()
	noActor := []string{"actor_token", "", "actor_token_type", ""}
	type row struct {
		name     string
		form     url.Values
		status   int
		code     string
		stranger bool
	}
	strangers := map[string]row{}
	for _, row := range []row{
		{"may_act of another issuer", n.opening("subject_token", mayAct(members{"iss": "https://other.example", "sub": "invoice-1"})), 400, invalidRequest, false},
		{"may_act of another actor", n.opening("subject_token", mayAct(members{"iss": us, "sub": "invoice-2"})), 400, invalidRequest, false},
		{"may_act without an issuer", n.opening("subject_token", mayAct(members{"sub": "invoice-1"})), 400, invalidRequest, false},
		{"may_act that names a client too", n.opening("subject_token", mayAct(members{"iss": us, "sub": "invoice-1", "client_id": clientID})), 400, invalidRequest, false},
		{"may_act, and a client it does not list", with(n.opening("subject_token", mayAct(members{"iss": us, "sub": "invoice-1"})),
			append(n.asClient(key, clientID), noActor...)...), 400, invalidRequest, false},
		{"may_act of another client", with(n.opening("subject_token", mayAct(members{"client_id": "https://other.example"})),
			append(n.asClient(key, clientID), noActor...)...), 400, invalidRequest, false},
		{"may_act, and nobody who acts", n.opening(append(noActor, "subject_token", mayAct(members{"iss": us, "sub": "invoice-1"}))...), 400, invalidRequest, false},
		{"may_act that cannot be read", n.opening("subject_token", mayAct(members{"sub": "invoice-1", "group": "agents"})), 400, invalidRequest, true},
		{"a subject with an actor chain", n.opening("subject_token", human(members{"act": members{"sub": "somebody"}})), 400, invalidRequest, false},
		{"an actor with an actor chain", n.opening("actor_token", agent(members{"act": members{"sub": "somebody"}})), 400, invalidRequest, false},
		{"two transactions", n.opening("subject_token", human(members{"txn": "a"}), "actor_token", agent(members{"txn": "b"})), 400, invalidRequest, false},
		{"two tasks", n.opening("subject_token", human(members{"task": "a"}), "actor_token", agent(members{"task": "b"})), 400, invalidRequest, false},
		{"an actor token and a client", n.opening(n.asClient(key, clientID)...), 400, invalidRequest, false},
		{"actor_token_type without actor_token", n.opening("actor_token", ""), 400, invalidRequest, true},
		{"actor_token without its type", n.opening("actor_token_type", ""), 400, invalidRequest, true},
		{"no subject_token", n.opening("subject_token", ""), 400, invalidRequest, true},
		{"no subject_token_type", n.opening("subject_token_type", ""), 400, invalidRequest, true},
		{"no actor at all: impersonation", n.opening(noActor...), 401, "invalid_client", false},
		{"a public client", n.opening(append(noActor, "client_id", clientID)...), 401, "invalid_client", false},
		{"another token type asked for", n.opening("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"), 400, invalidRequest, true},
		{"no profile", n.opening("profile", ""), 400, invalidRequest, false},
		{"an unknown profile", n.opening("profile", "nobody"), 400, invalidRequest, false},
		{"no purpose", n.opening("purpose", ""), 400, invalidRequest, false},
		{"a purpose of 513 bytes", n.opening("purpose", strings.Repeat("x", 513)), 400, invalidRequest, false},
		{"a delegator the profile does not accept", n.opening("subject_token", human(members{"groups": []string{"interns"}})), 400, invalidRequest, false},
		{"a workload as delegator", n.opening("subject_token", n.Evidence("invoice-1")), 400, invalidRequest, false},
		{"a human as agent", n.opening("actor_token", n.Human("bob")), 400, "unauthorized_client", false},
		{"a budget of nothing", n.opening("budget", "0"), 400, invalidRequest, false},
		{"a life of no seconds", n.opening("requested_ttl", "0"), 400, invalidRequest, false},
		{"an idle lease that is no number", n.opening("requested_idle", "long"), 400, invalidRequest, false},
	} {
		if row.stranger {
			strangers[row.name] = row
			continue
		}
		e := n.refused(row.name, func() mayflytest.Answer { return n.token(row.form, newHolder(t)) }, row.status, row.code)
		if e.Kind != "request.refused" {
			t.Errorf("%s: recorded as %s", row.name, e.Kind)
		}
	}
	n.strangersCounted(len(strangers), func() {
		for name, row := range strangers {
			n.says(name, n.token(row.form, newHolder(t)), row.status, row.code)
		}
	})

	// What the rows spoil works.
	n.open(n.opening("subject_token", mayAct(members{"iss": us, "sub": "invoice-1"})), newHolder(t))
	n.open(n.opening("subject_token", human(members{"txn": "a", "task": "t"}), "actor_token", agent(members{"txn": "a", "task": "t"})), newHolder(t))
	n.open(with(n.opening("subject_token", mayAct(members{"client_id": clientID})), append(n.asClient(key, clientID), noActor...)...), newHolder(t))
}

func TestS02NothingAClientSaysEntersTheActChain(t *testing.T) {
	t.Parallel()
	registration, key := registered(t, clientID, "")
	n := node{mayflytest.New(t, mayflytest.Options{Clients: []attest.Client{registration}}), time.Now}
	h := newHolder(t)
	header, claims := n.assertionOf(key, clientID)
	claims["act"], claims["may_act"] = members{"sub": "spiffe://example.org/agent/root/task_1"}, members{"sub": "everybody"}
	f := with(n.opening("actor_token", "", "actor_token_type", ""), assertion(key.sign(header, claims))...)
	if a := n.token(f, h); a.Status == http.StatusOK {
		got := n.held(a, h)
		if chain := actors(t, got.text); len(chain) != 1 || chain[0] != agentID("invoice", got.task) {
			t.Errorf("the act chain is %v", chain)
		}
		if p := payload(t, got.text); p["may_act"] != nil || p["client_id"] != clientID {
			t.Errorf("the token says %v", p)
		}
	} else if a.Status != 400 && a.Status != 401 {
		t.Errorf("answered %s", a)
	}
	for _, smuggled := range []string{"act", "may_act", "sub", "cnf", "client_id"} {
		detail := string(toJSON([]members{{"type": "mayfly_grant", "grant": "mcp:bank:list_invoices", smuggled: members{"sub": "root"}}}))
		n.refused(smuggled+" in authorization_details", func() mayflytest.Answer {
			return n.token(n.opening("authorization_details", detail), newHolder(t))
		}, 400, "invalid_authorization_details")
	}
	// As parameters they are none.
	got := n.open(n.opening("act", `{"sub":"root"}`, "may_act", `{"sub":"root"}`), h)
	if chain := actors(t, got.text); len(chain) != 1 || chain[0] != agentID("invoice", got.task) {
		t.Errorf("the act chain is %v", chain)
	}
	// A chain of three is the graph's path, the agent that acts outermost.
	child := n.open(n.below(got, "invoice", "actor_token", n.IDP.Issue(members{"aud": mayflytest.Workloads, "sub": "invoice-9"})), h)
	grandchild := n.open(n.below(child, "reader"), h)
	want := []string{agentID("reader", grandchild.task), agentID("invoice", child.task), agentID("invoice", got.task)}
	if chain := actors(t, grandchild.text); !slices.Equal(chain, want) {
		t.Errorf("the act chain is %v, want %v", chain, want)
	}
	if p := payload(t, grandchild.text); p["sub"] != "alice" || p["sub_profile"] != "user" {
		t.Errorf("the root is %v %v", p["sub"], p["sub_profile"])
	}
}

// parentWith opens a task with limits worth widening.
func (n node) parentWith(h *holder) held {
	n.T.Helper()
	return n.open(n.opening("scope", "mcp:bank:list_invoices http:orders:GET:/v1/*", "authorization_details",
		`[{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":100}},"budget":{"calls":3}}]`), h)
}

func TestS03AScopeWiderThanTheParentsIsRefused(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	parent := n.parentWith(h)
	for _, scope := range []string{"http:orders:POST:/v1/*", "mcp:bank:*", "http:orders:GET:/stream", "http:orders:GET:/*", "mcp:other:list_invoices", "mcp:bank:delete_vendor", "all", "mcp:bank"} {
		n.refused(scope, func() mayflytest.Answer { return n.token(n.below(parent, "invoice", "scope", scope), h) }, 400, "invalid_scope")
	}
	// Over the profile's ceiling, with no parent.
	n.refused("the ceiling", func() mayflytest.Answer { return n.token(n.opening("scope", "mcp:bank:delete_vendor"), h) }, 400, "invalid_scope")
	// One of two is not enough.
	n.refused("one of two", func() mayflytest.Answer {
		return n.token(n.below(parent, "invoice", "scope", "mcp:bank:list_invoices mcp:bank:delete_vendor"), h)
	}, 400, "invalid_scope")
	child := n.open(n.below(parent, "invoice", "scope", "mcp:bank:pay_invoice"), h)
	if !strings.Contains(string(child.details), `"max":100`) || !strings.Contains(string(child.details), `"calls":3`) {
		t.Errorf("a short form did not take on the parent's limits: %s", child.details)
	}
}

func TestS04AuthorizationDetailsWiderThanTheParentsAreRefused(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	parent := n.parentWith(h)
	for name, detail := range map[string]string{
		"an action the parent has not":  `{"type":"mayfly_grant","grant":"mcp:bank:delete_vendor"}`,
		"every action":                  `{"type":"mayfly_grant","grant":"mcp:bank:*"}`,
		"a path the parent has not":     `{"type":"mayfly_grant","grant":"http:orders:GET:/admin"}`,
		"a wider path":                  `{"type":"mayfly_grant","grant":"http:orders:GET:/*"}`,
		"another method":                `{"type":"mayfly_grant","grant":"http:orders:POST:/v1/orders"}`,
		"no constraint":                 `{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","budget":{"calls":3}}`,
		"no budget":                     `{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":100}}}`,
		"a weaker constraint":           `{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":101}},"budget":{"calls":3}}`,
		"a larger budget":               `{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":100}},"budget":{"calls":4}}`,
		"a constraint on another thing": `{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"vendor":{"equals":"acme"}},"budget":{"calls":3}}`,
		"one that cannot be compared":   `{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"pattern":"^[0-9]+$"}},"budget":{"calls":3}}`,
		"neither":                       `{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice"}`,
	} {
		n.refused(name, func() mayflytest.Answer {
			return n.token(n.below(parent, "invoice", "authorization_details", "["+detail+"]"), h)
		}, 400, "invalid_authorization_details")
	}
	n.open(n.below(parent, "invoice", "authorization_details",
		`[{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":99},"vendor":{"equals":"acme"}},"budget":{"calls":3}}]`), h)
}

func TestS05AuthorizationDetailsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	for name, details := range map[string]string{
		"unknown type":         `[{"type":"payment_initiation","grant":"mcp:bank:list_invoices"}]`,
		"no type":              `[{"grant":"mcp:bank:list_invoices"}]`,
		"type in another case": `[{"Type":"mayfly_grant","grant":"mcp:bank:list_invoices"}]`,
		"unknown member":       `[{"type":"mayfly_grant","grant":"mcp:bank:list_invoices","actions":["x"]}]`,
		"a member twice":       `[{"type":"mayfly_grant","grant":"mcp:bank:list_invoices","grant":"mcp:bank:pay_invoice"}]`,
		"no grant":             `[{"type":"mayfly_grant"}]`,
		"grant is a list":      `[{"type":"mayfly_grant","grant":["mcp:bank:list_invoices"]}]`,
		"grant is no grant":    `[{"type":"mayfly_grant","grant":"everything"}]`,
		"where is a list":      `[{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":[]}]`,
		"unknown operator":     `[{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"at_most":5}},"budget":{"calls":1}}]`,
		"a text as maximum":    `[{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":"5"}},"budget":{"calls":1}}]`,
		"a budget of half":     `[{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":5}},"budget":{"calls":0.5}}]`,
		"a budget below one":   `[{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":5}},"budget":{"calls":-1}}]`,
		"an object":            `{"type":"mayfly_grant","grant":"mcp:bank:list_invoices"}`,
		"a text":               `"mcp:bank:list_invoices"`,
		"a list of text":       `["mcp:bank:list_invoices"]`,
		"null":                 `[null]`,
		"trailing data":        `[{"type":"mayfly_grant","grant":"mcp:bank:list_invoices"}] []`,
		"no JSON":              `[{"type":"mayfly_grant",]`,
		"not UTF-8 escaped":    `[{"type":"mayfly_grant","grant":"mcp:bank:\ud800"}]`,
		"too deep":             strings.Repeat("[", 40) + strings.Repeat("]", 40),
	} {
		n.refused(name, func() mayflytest.Answer {
			return n.token(n.opening("authorization_details", details), newHolder(t))
		}, 400, "invalid_authorization_details")
	}
}

func TestS06AnAudienceThatIsNotPermittedIsRefused(t *testing.T) {
	t.Parallel()
	n := plain(t, func(b *authority.Bundle) { b.Audiences = []string{"https://reports.example"} })
	h := newHolder(t)
	for _, resource := range []string{
		"https://evil.example", n.Issuer + "/", n.Issuer + "/mcp", n.Issuer + "/mcp/nothing", n.Issuer + "/mcp/orders", n.Issuer + "/http/bank",
		n.Issuer + "/http/orders/", n.Issuer + "/mcp/bank#x", strings.ToUpper(n.Issuer) + "/MCP/bank", "https://reports.example/", "bank",
	} {
		n.refused(resource, func() mayflytest.Answer { return n.token(n.opening("resource", resource), h) }, 400, "invalid_target")
		n.refused(resource, func() mayflytest.Answer { return n.token(n.opening("audience", resource), h) }, 400, "invalid_target")
	}
	two := func(f url.Values, name string, values ...string) url.Values {
		f[name] = append(f[name], values...)
		return f
	}
	bank := n.Issuer + "/mcp/bank"
	for name, f := range map[string]url.Values{
		"two resources, one forbidden": two(n.opening(), "resource", bank, "https://evil.example"),
		"two resources, both good":     two(n.opening(), "resource", bank, n.Issuer+"/http/orders"),
		"a resource and an audience":   n.opening("resource", bank, "audience", n.Issuer+"/http/orders"),
	} {
		n.refused(name, func() mayflytest.Answer { return n.token(f, h) }, 400, "invalid_target")
	}
	n.refused("a target the task was granted nothing at", func() mayflytest.Answer {
		return n.token(n.opening("scope", "mcp:bank:list_invoices", "resource", n.Issuer+"/http/orders"), h)
	}, 400, "invalid_target")
	for _, good := range []string{n.Issuer, bank, "https://reports.example"} {
		if got := payload(t, n.open(n.opening("resource", good), h).text)["aud"]; got != good {
			t.Errorf("asked for %s, the audience is %v", good, got)
		}
	}
}

func TestS07ChainsTooDeepRepeatedOrWideAreRefused(t *testing.T) {
	t.Parallel()
	n := plain(t, func(b *authority.Bundle) {
		// there ⇄ back: each may open the other, and neither itself.
		for name, to := range map[string]string{"there": "back", "back": "there"} {
			p := *b.Profiles["invoice"]
			p.Name, p.Delegation.To = name, []string{to}
			p.Delegators = append(slices.Clone(p.Delegators), mayfly.DelegatorRule{Agent: to})
			b.Profiles[name] = &p
		}
	})
	h := newHolder(t)

	deep := n.open(n.opening(), h)
	for range mayfly.MaxDepth {
		deep = n.open(n.below(deep, "invoice"), h)
	}
	n.refused("depth 6", func() mayflytest.Answer { return n.token(n.below(deep, "invoice"), h) }, 400, invalidRequest)

	there := n.open(n.opening("profile", "there"), h)
	back := n.open(n.below(there, "back"), h)
	n.refused("a profile repeated on the chain", func() mayflytest.Answer { return n.token(n.below(back, "there"), h) }, 400, invalidRequest)
	n.refused("a profile that is not delegated to", func() mayflytest.Answer { return n.token(n.below(there, "reader"), h) }, 400, invalidRequest)

	// Children in a race: as many as there may be, whoever comes first.
	wide := n.open(n.opening(), h)
	before := n.CountRefusals()
	var wg sync.WaitGroup
	var mu sync.Mutex
	opened := 0
	for range 8 {
		wg.Go(func() {
			for range 13 {
				a := n.token(n.below(wide, "reader"), h)
				mu.Lock()
				if a.Status == http.StatusOK {
					opened++
				} else if a.Status != 400 || a.Error() != invalidRequest {
					t.Errorf("a child too many: %s", a)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if opened != mayfly.MaxChildren {
		t.Errorf("%d children were opened, want %d", opened, mayfly.MaxChildren)
	}
	if got := len(n.Refusals(before)); got != 8*13-mayfly.MaxChildren {
		t.Errorf("%d refusals are recorded, want %d", got, 8*13-mayfly.MaxChildren)
	}
	n.refused("child 101", func() mayflytest.Answer { return n.token(n.below(wide, "reader"), h) }, 400, invalidRequest)
	tree, err := n.Operator().Tree(context.Background(), wide.task)
	if err != nil || len(tree) != 1+mayfly.MaxChildren {
		t.Errorf("the tree has %d tasks: %v", len(tree), err)
	}
}

func TestS08ADeadSubjectTokenIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("revoked", func(t *testing.T) {
		n := plain(t, nil)
		h := newHolder(t)
		parent := n.open(n.opening(), h)
		child := n.open(n.below(parent, "invoice"), h)
		if _, err := n.Operator().Revoke(ctx, parent.task); err != nil {
			t.Fatal(err)
		}
		for name, f := range map[string]url.Values{
			"a child of a revoked task":         n.below(parent, "reader"),
			"a token of a revoked task":         again(parent),
			"a token below a revoked task":      again(child),
			"a grandchild below a revoked task": n.below(child, "reader"),
		} {
			e := n.refused(name, func() mayflytest.Answer { return n.token(f, h) }, 400, invalidRequest)
			if e.Term != mayfly.TermLiveness {
				t.Errorf("%s: the term is %q", name, e.Term)
			}
		}
	})
	t.Run("expired", func(t *testing.T) {
		n, c := clocked(t, mayflytest.Options{Change: func(b *authority.Bundle) { b.Profiles["invoice"].Lifetime.Idle = time.Hour }})
		h := newHolder(t)
		own := n.open(n.opening(), h)
		human := n.Human("alice")
		n.pass(c, 5*time.Minute+6*time.Second)
		for name, f := range map[string]url.Values{
			"a source's token":  n.opening("subject_token", human),
			"a task's token":    n.below(own, "reader"),
			"a renewal":         again(own),
			"the actor's token": n.opening("actor_token", n.IDP.Issue(members{"aud": mayflytest.Workloads, "sub": "invoice-1", "exp": n.now().Unix() - 6, "iat": n.now().Unix() - 99})),
		} {
			e := n.refused(name, func() mayflytest.Answer { return n.token(f, h) }, 400, invalidRequest)
			if name != "the actor's token" {
				n.strangers(name, e)
			}
		}
	})
	t.Run("disabled subject", func(t *testing.T) {
		n := plain(t, nil)
		h := newHolder(t)
		parent := n.open(n.opening(), h)
		r, err := n.Operator().RevokeAll(ctx, "human", "alice")
		if err != nil {
			t.Fatal(err)
		}
		n.refused("the human's token", func() mayflytest.Answer { return n.token(n.opening(), h) }, 400, invalidRequest)
		n.refused("its task's token", func() mayflytest.Answer { return n.token(n.below(parent, "reader"), h) }, 400, invalidRequest)
		n.open(n.opening("subject_token", n.Human("bob")), h)
		if err := n.Operator().LiftRevocation(ctx, r.ID); err != nil {
			t.Fatal(err)
		}
		n.open(n.opening(), h)
		n.refused("its old task's token", func() mayflytest.Answer { return n.token(n.below(parent, "reader"), h) }, 400, invalidRequest)
	})
}

func TestS09AnAgentThatShowsNothingIsRefused(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	nobody := []string{"actor_token", "", "actor_token_type", ""}
	parent := n.open(n.opening(), h)
	ticket := n.ticket(parent, `{"profile":"invoice","purpose":"p"}`)
	n.refused("a human's word", func() mayflytest.Answer { return n.token(n.opening(nobody...), h) }, 401, "invalid_client")
	n.refused("a parent's word", func() mayflytest.Answer { return n.token(n.below(parent, "invoice", nobody...), h) }, 401, "invalid_client")
	n.refused("a ticket for a profile without none", func() mayflytest.Answer { return n.token(redeem(ticket), h) }, 401, "invalid_client")
	// none: true redeems tickets and nothing else.
	n.refused("none, and no ticket", func() mayflytest.Answer { return n.token(n.below(parent, "reader", nobody...), h) }, 401, "invalid_client")
}

func TestS10ALifeIsCutAtTheParents(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	parent := n.open(n.opening("requested_ttl", "90"), h)
	if parent.life > 90*time.Second {
		t.Errorf("the token of a task of 90 s lives %s", parent.life)
	}
	child := n.open(n.below(parent, "reader", "requested_ttl", "86400"), h)
	up, down := n.view(parent.task), n.view(child.task)
	if down.Deadline.After(up.Deadline) || child.life > 90*time.Second || child.life <= 0 {
		t.Errorf("the child of a task that ends at %s ends at %s, its token lives %s", up.Deadline, down.Deadline, child.life)
	}
	exp := time.Unix(int64(payload(t, child.text)["exp"].(float64)), 0)
	if exp.After(up.Deadline) {
		t.Errorf("the child's token ends at %s, the parent at %s", exp, up.Deadline)
	}
	alone := n.open(n.opening("requested_ttl", "86400"), h)
	if v := n.view(alone.task); v.Deadline.After(v.OpenedAt.Add(time.Hour)) || alone.life > 5*time.Minute {
		t.Errorf("a task under a profile of at most an hour ends after %s, its token after %s", v.Deadline.Sub(v.OpenedAt), alone.life)
	}
	// The idle lease is cut, too.
	if v := n.view(n.open(n.opening("requested_idle", "86400"), h).task); v.IdleUntil.After(v.OpenedAt.Add(2 * time.Minute)) {
		t.Errorf("an idle lease of at most two minutes lasts %s", v.IdleUntil.Sub(v.OpenedAt))
	}
}

func TestS11AnAgentTheProfileIsNotForIsRefused(t *testing.T) {
	t.Parallel()
	known, key := registered(t, "https://other.example/client", "")
	n := node{mayflytest.New(t, mayflytest.Options{Clients: []attest.Client{known}}), time.Now}
	h := newHolder(t)
	parent := n.open(n.opening(), h)
	for name, f := range map[string]url.Values{
		"evidence that does not match":  n.opening("actor_token", n.Evidence("payroll-1")),
		"evidence that is a prefix":     n.opening("actor_token", n.Evidence("invoice-")),
		"a client that is not listed":   with(n.opening("actor_token", "", "actor_token_type", ""), n.asClient(key, known.ID)...),
		"a child's evidence":            n.below(parent, "invoice", "actor_token", n.Evidence("payroll-1")),
		"a child's client":              with(n.below(parent, "reader", "actor_token", "", "actor_token_type", ""), n.asClient(key, known.ID)...),
		"a service's token as evidence": n.opening("actor_token", n.IDP.Issue(members{"aud": mayflytest.Services, "sub": "invoice-1"})),
	} {
		n.refused(name, func() mayflytest.Answer { return n.token(f, h) }, 400, "unauthorized_client")
	}
}

func TestS12ABoundParentsKeyMustBeProven(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	parent := n.open(n.opening(), h)
	for name, by := range map[string]*holder{"no proof": nil, "another key": newHolder(t)} {
		n.refused("a child, "+name, func() mayflytest.Answer { return n.token(n.below(parent, "invoice"), by) }, 400, "invalid_dpop_proof")
		n.refused("a child that brings its key, "+name, func() mayflytest.Answer {
			return n.token(n.below(parent, "invoice", "dpop_jkt", newHolder(t).Thumbprint()), by)
		}, 400, "invalid_dpop_proof")
		n.refused("another token, "+name, func() mayflytest.Answer { return n.token(again(parent), by) }, 400, "invalid_dpop_proof")
	}
}

func TestS13ATokenOfAnotherTypeThanSaidIsRefused(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	own := n.open(n.opening(), h)
	target := n.at(own, "/mcp/bank")
	idJAG := n.IDP.IssueWith(members{"typ": "oauth-id-jag+jwt"}, members{"aud": n.Issuer, "sub": "alice"})
	tokens := map[string]string{
		"ID token":        n.Human("alice"),
		"JWT-SVID":        n.IDP.Issue(members{"aud": mayflytest.Workloads, "sub": "spiffe://mesh.example/invoice"}),
		"refresh token":   "mfr_2c9e8d7b6a5f4e3d2c1b0a",
		"ID-JAG":          idJAG,
		"logout token":    n.IDP.IssueWith(members{"typ": "logout+jwt"}, members{"aud": mayflytest.Humans, "events": members{}}),
		"DPoP proof":      n.proof(h, http.MethodPost, "/oauth2/token", ""),
		"ticket":          n.ticket(own, `{"profile":"reader","purpose":"p"}`),
		"access token":    own.text,
		"for one target":  target.text,
		"nothing like it": "x",
	}
	good := map[string][]string{
		client.TypeAccessToken: {"access token"},
		client.TypeJWT:         {"ID token"}, client.TypeIDToken: {"ID token"},
		client.TypeTicket: {"ticket"},
	}
	types := []string{client.TypeAccessToken, client.TypeJWT, client.TypeIDToken, client.TypeTicket,
		"urn:ietf:params:oauth:token-type:refresh_token", "urn:ietf:params:oauth:token-type:saml2", "urn:ietf:params:oauth:token-type:id-jag", "peer"}
	reached, before := n.reached(), n.counted()+len(n.Records("request.refused"))
	sent := 0
	for _, kind := range types {
		for name, text := range tokens {
			if slices.Contains(good[kind], name) {
				continue
			}
			sent++
			n.says(name+" as "+kind, n.token(n.opening("subject_token", text, "subject_token_type", kind), h), 400, invalidRequest)
		}
	}
	for name, text := range tokens { // as evidence: none of these is a workload's
		for _, kind := range types[:3] {
			want := invalidRequest
			switch {
			case kind == client.TypeAccessToken:
			case name == "ID token", name == "JWT-SVID": // read, and nobody the profile is for
				want = "unauthorized_client"
			}
			sent++
			n.says(name+" as actor, "+kind, n.token(n.opening("actor_token", text, "actor_token_type", kind), h), 400, want)
		}
	}
	n.Eventually("every one of them is recorded", func() bool {
		return n.counted()+len(n.Records("request.refused"))-before >= sent
	})
	if got := n.counted() + len(n.Records("request.refused")) - before; got != sent {
		t.Errorf("%d are recorded, want %d", got, sent)
	}
	if n.reached() != reached {
		t.Error("the upstream was reached")
	}
}

func TestS19AParameterGivenTwiceIsRefused(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	f := n.opening("scope", "mcp:bank:list_invoices").Encode()
	sent := []string{
		f + "&scope=mcp:bank:list_invoices", f + "&scope=", "scope=&" + f, f + "&scop%65=x", f + "&grant_type=password",
		f + "&subject_token=x", f + "&profile=open", f + ";profile=open", f + "&x=%zz", f + "&x=%ff", f + "&x=%00",
	}
	n.strangersCounted(len(sent), func() {
		for _, body := range sent {
			h := newHolder(t)
			a := n.post("/oauth2/token", body, "DPoP", n.proof(h, http.MethodPost, "/oauth2/token", ""))
			n.says(body[max(0, len(body)-20):], a, 400, invalidRequest)
		}
	})
	n.strangersCounted(2, func() {
		n.says("in the query", n.Do(n.Request(http.MethodPost, "/oauth2/token?scope=x", []byte(f), "Content-Type", asForm)), 400, invalidRequest)
		n.says("another grant type", n.post("/oauth2/token", "grant_type=password&username=a&password=b"), 400, "unsupported_grant_type")
	})
}
