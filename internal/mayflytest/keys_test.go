package mayflytest_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// The rules of which key a task is bound to.

func TestATasksKeyIsTheOneItsOpenerProved(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h, other := newHolder(t), newHolder(t)
	if got := n.open(n.opening(), h); jkt(t, got.text) != h.Thumbprint() || n.view(got.task).Key != h.Thumbprint() {
		t.Errorf("the token is bound to %q, want %q", jkt(t, got.text), h.Thumbprint())
	}
	n.refused("no key under a profile that needs one", func() mayflytest.Answer { return n.token(n.opening(), nil) }, 400, "invalid_dpop_proof")
	bound := func(h *holder) string {
		return n.IDP.Issue(members{"aud": mayflytest.Workloads, "sub": "invoice-1", "cnf": members{"jkt": h.Thumbprint()}})
	}
	if got := n.open(n.opening("actor_token", bound(h)), h); jkt(t, got.text) != h.Thumbprint() {
		t.Errorf("the token is bound to %q", jkt(t, got.text))
	}
	for name, by := range map[string]*holder{"another key": other, "no proof": nil} {
		n.refused("evidence bound to a key, "+name, func() mayflytest.Answer { return n.token(n.opening("actor_token", bound(h)), by) }, 400, "invalid_dpop_proof")
	}
	// dpop_jkt is for a parent that asks on a child's behalf; it does not get
	// anybody a token bound to a key nobody proved.
	if a := n.token(n.opening("dpop_jkt", other.Thumbprint()), h); a.Status == 200 && jkt(t, n.held(a, h).text) != h.Thumbprint() {
		t.Error("the token is bound to a key nobody proved")
	}
	// A ticket: the proof is the agent's key.
	ticket := n.ticket(n.open(n.opening(), h), `{"profile":"invoice","purpose":"p"}`)
	actor := []string{"actor_token", n.Evidence("invoice-1"), "actor_token_type", client.TypeJWT}
	n.refused("a ticket without a key", func() mayflytest.Answer { return n.token(redeem(ticket, actor...), nil) }, 400, "invalid_dpop_proof")
	if got := n.open(redeem(ticket, actor...), other); jkt(t, got.text) != other.Thumbprint() {
		t.Errorf("the ticket's task is bound to %q", jkt(t, got.text))
	}
}

func TestAnotherTokenOfTheSameTaskNeedsTheSameKey(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	own := n.open(n.opening(), h)
	for name, f := range map[string]url.Values{
		"for the issuer": again(own), "for a target": again(own, "resource", n.Issuer+"/mcp/bank"),
		"with the evidence": again(own, "actor_token", n.Evidence("invoice-1"), "actor_token_type", client.TypeJWT),
		"with a new key":    again(own, "dpop_jkt", newHolder(t).Thumbprint()),
	} {
		n.refused(name, func() mayflytest.Answer { return n.token(f, newHolder(t)) }, 400, "invalid_dpop_proof")
		if got := n.open(f, h); jkt(t, got.text) != h.Thumbprint() || got.task != own.task {
			t.Errorf("%s: bound to %q, task %s", name, jkt(t, got.text), got.task)
		}
	}
	// What was fixed at the opening cannot change.
	for _, fixed := range []string{"purpose", "requested_idle", "budget"} {
		n.refused(fixed, func() mayflytest.Answer { return n.token(again(own, fixed, "5"), h) }, 400, invalidRequest)
	}
}

func TestAnUnboundTasksTokenDoesNotOutliveTheOnePresented(t *testing.T) {
	t.Parallel()
	n, c := clocked(t, mayflytest.Options{})
	own := n.open(n.opening("profile", "open"), nil)
	if jkt(t, own.text) != "" || own.life != 5*time.Minute {
		t.Fatalf("bound to %q for %s", jkt(t, own.text), own.life)
	}
	exp := func(h held) time.Time { return time.Unix(int64(payload(t, h.text)["exp"].(float64)), 0) }
	n.pass(c, time.Minute)
	renewed := n.open(again(own), nil)
	if exp(renewed).After(exp(own)) || exp(n.at(renewed, "/mcp/bank")).After(exp(own)) {
		t.Errorf("renewed without evidence, a token that ends at %s became one that ends at %s", exp(own), exp(renewed))
	}
	evidence := []string{"actor_token", n.Evidence("invoice-1"), "actor_token_type", client.TypeJWT}
	fresh := n.open(again(renewed, evidence...), nil)
	if fresh.life != 5*time.Minute {
		t.Errorf("renewed with evidence, the token lives %s", fresh.life)
	}
	// Evidence of somebody else does not do.
	n.refused("another agent's evidence", func() mayflytest.Answer {
		return n.token(again(renewed, "actor_token", n.Evidence("invoice-2"), "actor_token_type", client.TypeJWT), nil)
	}, 400, invalidRequest)
}

func TestAChildOfABoundParentIsBoundToTheKeyThatComesFirst(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h, evidence, asked := newHolder(t), newHolder(t), newHolder(t)
	parent := n.open(n.opening(), h)
	bound := n.IDP.Issue(members{"aud": mayflytest.Workloads, "sub": "invoice-child", "cnf": members{"jkt": evidence.Thumbprint()}})
	for name, row := range map[string]struct {
		form url.Values
		want *holder
	}{
		"the evidence's": {n.below(parent, "invoice", "actor_token", bound, "dpop_jkt", asked.Thumbprint()), evidence},
		"the one asked":  {n.below(parent, "invoice", "dpop_jkt", asked.Thumbprint()), asked},
		"the parent's":   {n.below(parent, "invoice"), h},
	} {
		child := n.held(n.token(row.form, h), row.want)
		if jkt(t, child.text) != row.want.Thumbprint() || n.view(child.task).Key != row.want.Thumbprint() {
			t.Errorf("%s: bound to %q, want %q", name, jkt(t, child.text), row.want.Thumbprint())
		}
		if a := n.self(child); a.Status != 200 {
			t.Errorf("%s: the child cannot use it: %s", name, a)
		}
		n.refused(name+", presented by the parent", func() mayflytest.Answer {
			return n.token(again(child), map[bool]*holder{true: h, false: asked}[row.want != h])
		}, 400, "invalid_dpop_proof")
	}
	n.refused("a thumbprint that is none", func() mayflytest.Answer {
		return n.token(n.below(parent, "invoice", "dpop_jkt", "abc"), h)
	}, 400, invalidRequest)
}

func TestAChildOfAnUnboundParentNeedsEvidence(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	parent := n.open(n.opening("profile", "open"), nil)
	h := newHolder(t)
	nobody := []string{"actor_token", "", "actor_token_type", ""}
	n.refused("no evidence", func() mayflytest.Answer { return n.token(n.below(parent, "reader", nobody...), h) }, 401, "invalid_client")
	n.refused("no evidence, a key asked for", func() mayflytest.Answer {
		return n.token(n.below(parent, "reader", append(nobody, "dpop_jkt", h.Thumbprint())...), nil)
	}, 401, "invalid_client")
	n.refused("a profile not delegated to", func() mayflytest.Answer { return n.token(n.below(parent, "invoice"), h) }, 400, invalidRequest)
	n.refused("no key for a profile that needs one", func() mayflytest.Answer { return n.token(n.below(parent, "reader"), nil) }, 400, "invalid_dpop_proof")
	bound := n.IDP.Issue(members{"aud": mayflytest.Workloads, "sub": "invoice-child", "cnf": members{"jkt": newHolder(t).Thumbprint()}})
	n.refused("evidence bound to another key", func() mayflytest.Answer {
		return n.token(n.below(parent, "reader", "actor_token", bound), h)
	}, 400, "invalid_dpop_proof")
	child := n.open(n.below(parent, "reader"), h)
	if jkt(t, child.text) != h.Thumbprint() {
		t.Errorf("the child is bound to %q, want %q", jkt(t, child.text), h.Thumbprint())
	}
}

// A token is good at its one audience and nowhere else.
func TestATokenIsGoodAtItsAudienceAlone(t *testing.T) {
	t.Parallel()
	n := plain(t, func(b *authority.Bundle) { b.Audiences = []string{"https://reports.example"} })
	h := newHolder(t)
	own := n.open(n.opening("scope", "mcp:bank:list_invoices http:orders:GET:/v1/*"), h)
	tokens := map[string]held{
		"the issuer": own, "bank": n.at(own, "/mcp/bank"), "orders": n.at(own, "/http/orders"),
		"outside": n.open(again(own, "resource", "https://reports.example"), h),
	}
	places := map[string]func(held) mayflytest.Answer{
		"the issuer": n.self,
		"bank":       func(have held) mayflytest.Answer { return n.tool(have, "list_invoices", members{}) },
		"orders":     n.orders,
	}
	for at, send := range places {
		if a := send(tokens[at]); a.Status != http.StatusOK {
			t.Errorf("a token for %s, there: %s", at, a)
		}
	}
	n.strangersCounted(len(places)*(len(tokens)-1), func() {
		for at, send := range places {
			for of, have := range tokens {
				if of != at {
					n.says("a token for "+of+" at "+at, send(have), 401, "invalid_token")
				}
			}
		}
	})
	delete(tokens, "the issuer")
	n.strangersCounted(2*len(tokens), func() {
		for of, have := range tokens {
			n.says("exchanging a token for "+of, n.token(again(have), h), 400, invalidRequest)
			n.says("a child with a token for "+of, n.token(n.below(have, "reader"), h), 400, invalidRequest)
		}
	})
}

func TestATokenForATargetHoldsWhatItNamesAndNoMore(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	own := n.open(n.opening("scope", "mcp:bank:list_invoices mcp:bank:pay_invoice http:orders:GET:/v1/*"), h)
	n.refused("a token for the issuer, limited", func() mayflytest.Answer {
		return n.token(again(own, "scope", "mcp:bank:list_invoices"), h)
	}, 400, "invalid_scope")
	listing := n.at(own, "/mcp/bank", "scope", "mcp:bank:list_invoices")
	if listing.scope != "mcp:bank:list_invoices" || string(listing.details) != "" && string(listing.details) != "[]" {
		t.Errorf("the token says %q %s", listing.scope, listing.details)
	}
	if a := n.tool(listing, "list_invoices", members{}); a.Status != 200 || denied(a) != "" {
		t.Errorf("what it names: %s", a)
	}
	e := n.refused("what it does not name", func() mayflytest.Answer {
		a := n.tool(listing, "pay_invoice", members{"amount": 1})
		if denied(a) != mayfly.TermToken {
			t.Errorf("the term is %q: %s", denied(a), a)
		}
		return a
	}, 403, "41403")
	if e.Kind != "call.decided" || e.Term != mayfly.TermToken {
		t.Errorf("recorded as %s %q", e.Kind, e.Term)
	}
	n.refused("more than the task has", func() mayflytest.Answer {
		return n.token(again(own, "resource", n.Issuer+"/mcp/bank", "scope", "mcp:bank:delete_vendor"), h)
	}, 400, "invalid_scope")
	// Only what is at the target is in a token for it.
	if got := n.at(own, "/http/orders"); got.scope != "http:orders:GET:/v1/*" {
		t.Errorf("a token for orders says %q", got.scope)
	}
}

// A parent that ends while its children are being opened: each child was
// refused, or is itself over once the revocation has returned.
func TestNoChildOutlivesARaceWithItsParentsEnd(t *testing.T) {
	t.Parallel()
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		n := node{mayflytest.New(t, mayflytest.Options{DSN: dsn}), time.Now}
		h := newHolder(t)
		parent := n.open(n.opening(), h)
		var wg sync.WaitGroup
		var mu sync.Mutex
		var children []held
		started := make(chan struct{}, 40)
		for range 4 {
			wg.Go(func() {
				for range 10 {
					a := n.token(n.below(parent, "reader"), h)
					started <- struct{}{}
					if a.Status == 200 {
						mu.Lock()
						children = append(children, n.held(a, h))
						mu.Unlock()
					} else if a.Status != 400 || a.Error() != invalidRequest {
						t.Errorf("a child of a parent that ends: %s", a)
					}
				}
			})
		}
		for range 8 {
			<-started
		}
		if _, err := n.Operator().Revoke(context.Background(), parent.task); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		for _, child := range children {
			n.says("a child after the revocation", n.self(child), 401, "invalid_token")
		}
		if len(children) == 0 || len(children) == 40 {
			t.Logf("there was no race: %d children", len(children))
		}
		n.Eventually("every child is retired", func() bool {
			tree, err := n.Operator().Tree(context.Background(), parent.task)
			return err == nil && !slices.ContainsFunc(tree, func(v client.Task) bool { return v.State != mayfly.Retired })
		})
	})
}
