package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
)

var worker = mayfly.Subject{Kind: mayfly.Workload, ID: "agents:invoice", Source: "cluster", Claims: map[string]string{"sub": "agents:invoice"}}

// opening asks to open a task under leaf: below the links given, or for alice.
func opening(t testing.TB, asked string, parent ...policy.Link) *policy.OpenQuestion {
	return &policy.OpenQuestion{
		Decision: "dec_1", Root: alice, Parent: parent, Profile: profile(t, "leaf", listAndPay), Grants: grants(t, asked),
		Purpose: mayfly.Purpose{Text: "pay the acme invoice", By: "agent"}, Evidence: &worker,
		Agent: mayfly.Evidence{Source: "cluster", Subject: "agents:invoice", Verified: true},
		Now:   now, TrustDomain: "example.org", Bundle: "bundle",
	}
}

const listOnly = `["mcp:bank:list_invoices"]`

func TestOpeningForTheRoot(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(q *policy.OpenQuestion)
		term  mayfly.Term
		code  string
		says  string
	}{
		"nothing":          {func(*policy.OpenQuestion) {}, "", "", ""},
		"no profile":       {func(q *policy.OpenQuestion) { q.Profile = nil }, mayfly.TermProfile, "invalid_request", ""},
		"stranger":         {func(q *policy.OpenQuestion) { q.Root.Groups = []string{"staff"} }, mayfly.TermDelegator, "invalid_request", "accept"},
		"workload as root": {func(q *policy.OpenQuestion) { q.Root = worker }, mayfly.TermDelegator, "invalid_request", "accept"},
		"a service": {func(q *policy.OpenQuestion) {
			q.Root = mayfly.Subject{Kind: mayfly.Service, ID: "service:ci/x", Source: "ci", Claims: map[string]string{"repository": "acme/x"}}
		}, "", "", ""},
		"another's service": {func(q *policy.OpenQuestion) {
			q.Root = mayfly.Subject{Kind: mayfly.Service, ID: "service:ci/x", Source: "ci", Claims: map[string]string{"repository": "evil/x"}}
		}, mayfly.TermDelegator, "invalid_request", "accept"},
		"a human's groups do not make a service": {func(q *policy.OpenQuestion) { q.Root.Kind = mayfly.Service }, mayfly.TermDelegator, "invalid_request", "accept"},
		"review is over":                         {func(q *policy.OpenQuestion) { q.Profile.Class, q.Profile.ReviewBy = mayfly.Recurring, now }, mayfly.TermProfile, "", "review"},
		"review is due": {func(q *policy.OpenQuestion) {
			q.Profile.Class, q.Profile.ReviewBy = mayfly.Recurring, now.Add(time.Hour)
		}, "", "", ""},
		"other evidence": {func(q *policy.OpenQuestion) { e := worker; e.Source = "ci"; q.Evidence = &e }, mayfly.TermProfile, "unauthorized_client", "agent"},
		"other claims": {func(q *policy.OpenQuestion) {
			e := worker
			e.Claims = map[string]string{"sub": "humans:x"}
			q.Evidence = &e
		}, mayfly.TermProfile, "unauthorized_client", "agent"},
		"human as evidence": {func(q *policy.OpenQuestion) { e := worker; e.Kind = mayfly.Human; q.Evidence = &e }, mayfly.TermProfile, "unauthorized_client", "agent"},
		"no evidence":       {func(q *policy.OpenQuestion) { q.Evidence = nil }, mayfly.TermProfile, "unauthorized_client", "agent"},
		"a client": {func(q *policy.OpenQuestion) {
			q.Evidence, q.Agent = nil, mayfly.Evidence{Client: "https://client.example/", Verified: true}
		}, "", "", ""},
		"another client": {func(q *policy.OpenQuestion) {
			q.Evidence, q.Agent = nil, mayfly.Evidence{Client: "https://evil.example/", Verified: true}
		}, mayfly.TermProfile, "unauthorized_client", "agent"},
		"ticket being made":  {func(q *policy.OpenQuestion) { q.Evidence, q.Agent, q.DelegateOnly = nil, mayfly.Evidence{}, true }, "", "", ""},
		"too wide":           {func(q *policy.OpenQuestion) { q.Grants = grants(t, `["mcp:bank:*"]`) }, mayfly.TermProfile, "invalid_scope", "mcp:bank:*"},
		"without its limits": {func(q *policy.OpenQuestion) { q.Grants = grants(t, `["mcp:bank:pay_invoice"]`) }, mayfly.TermProfile, "invalid_scope", "amount"},
		"nothing asked for":  {func(q *policy.OpenQuestion) { q.Grants = nil }, mayfly.TermProfile, "invalid_scope", "needs"},
		"root's own rights":  {func(q *policy.OpenQuestion) { q.Profile.Authority = mayfly.AuthorityPolicy }, mayfly.TermDelegator, "", "no policy permits"},
	} {
		t.Run(name, func(t *testing.T) {
			q := opening(t, listAndPay)
			c.spoil(q)
			permit, d := policy.DecideOpen(q)
			said := d.Reason
			if d.Next != nil {
				said += " " + d.Next.Detail
			}
			if (permit == nil) != (c.term != "") || d.Term != c.term || d.Code != c.code || !strings.Contains(said, c.says) {
				t.Fatalf("permit %v, %+v; want term %q, code %q, saying %q", permit, d, c.term, c.code, c.says)
			}
			if (d.Verdict == mayfly.Allow) != (permit != nil) || permit == nil && d.Next == nil {
				t.Errorf("%+v", d)
			}
			if permit != nil {
				if err := permit.Issue(); (err == nil) == q.DelegateOnly {
					t.Errorf("Issue = %v, for a ticket: %v", err, q.DelegateOnly)
				}
				if permit.Issue() == nil {
					t.Error("a token was signed twice")
				}
			}
		})
	}
}

func TestAnAgentWithoutEvidence(t *testing.T) {
	fine := func(t *testing.T) *policy.OpenQuestion {
		q := opening(t, listOnly)
		q.Profile.Attest, q.Profile.Risk = []mayfly.AttestRule{{None: true}}, mayfly.RiskLow
		q.Evidence, q.Agent, q.Ticket = nil, mayfly.Evidence{}, true
		return q
	}
	if permit, d := policy.DecideOpen(fine(t)); permit == nil {
		t.Fatalf("%+v", d)
	}
	for name, spoil := range map[string]func(*policy.OpenQuestion){
		"without a ticket":             func(q *policy.OpenQuestion) { q.Ticket = false },
		"at medium risk":               func(q *policy.OpenQuestion) { q.Profile.Risk = mayfly.RiskMedium },
		"without a key":                func(q *policy.OpenQuestion) { q.Profile.KeyOptional = true },
		"that calls itself verified":   func(q *policy.OpenQuestion) { q.Agent.Verified = true },
		"with evidence that is not in": func(q *policy.OpenQuestion) { q.Evidence = &worker },
		"with a client that is not in": func(q *policy.OpenQuestion) { q.Agent.Client = "https://client.example/" },
	} {
		q := fine(t)
		spoil(q)
		if permit, d := policy.DecideOpen(q); permit != nil || d.Code != "unauthorized_client" {
			t.Errorf("%s: %v, %+v", name, permit, d)
		}
	}
}

func TestOpeningBelowATask(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(q *policy.OpenQuestion)
		term  mayfly.Term
		code  string
	}{
		"nothing":                 {func(*policy.OpenQuestion) {}, "", ""},
		"parent over":             {func(q *policy.OpenQuestion) { q.Parent[1].Task.ClosedAt = now }, mayfly.TermLiveness, "invalid_request"},
		"root task expired":       {func(q *policy.OpenQuestion) { q.Parent[0].Task.Deadline = now }, mayfly.TermLiveness, "invalid_request"},
		"spliced root":            {func(q *policy.OpenQuestion) { q.Root.ID = "bob@example.org" }, mayfly.TermDelegator, "invalid_request"},
		"not accepted":            {func(q *policy.OpenQuestion) { q.Profile.Delegators = q.Profile.Delegators[:1] }, mayfly.TermDelegator, "invalid_request"},
		"above not accepted":      {func(q *policy.OpenQuestion) { q.Parent[1].Profile.Delegators = nil }, mayfly.TermDelegator, "invalid_request"},
		"profile above removed":   {func(q *policy.OpenQuestion) { q.Parent[0].Profile = nil }, mayfly.TermProfile, "invalid_request"},
		"not in to":               {func(q *policy.OpenQuestion) { q.Parent[1].Profile.Delegation.To = []string{"middle"} }, mayfly.TermParent, "invalid_request"},
		"depth used up":           {func(q *policy.OpenQuestion) { q.Parent[0].Profile.Delegation.Depth = 1 }, mayfly.TermParent, "invalid_request"},
		"parent may have none":    {func(q *policy.OpenQuestion) { q.Parent[1].Profile.Delegation = mayfly.DelegationRule{} }, mayfly.TermParent, "invalid_request"},
		"parent has less":         {func(q *policy.OpenQuestion) { q.Parent[1].Task.Grants = grants(t, listOnly) }, mayfly.TermParent, "invalid_scope"},
		"root task has less":      {func(q *policy.OpenQuestion) { q.Parent[0].Task.Grants = grants(t, listOnly) }, mayfly.TermParent, "invalid_scope"},
		"profile above has less":  {func(q *policy.OpenQuestion) { q.Parent[0].Profile.Grants = grants(t, listOnly) }, mayfly.TermParent, "invalid_scope"},
		"its own profile as well": {func(q *policy.OpenQuestion) { q.Profile.Grants = grants(t, listOnly) }, mayfly.TermProfile, "invalid_scope"},
		"a repeated profile":      {func(q *policy.OpenQuestion) { q.Profile.Name = "root" }, "", ""},
		"one that does not name itself": {func(q *policy.OpenQuestion) {
			q.Profile.Name, q.Profile.Delegation.To = "root", []string{"leaf"}
		}, mayfly.TermParent, "invalid_request"},
		"guardrail on the parent": {func(q *policy.OpenQuestion) {
			q.Policies = policies(t, `forbid(principal in Mayfly::Profile::"middle", action == Mayfly::Action::"delegate", resource == Mayfly::Tool::"bank/pay_invoice") when { context.depth == 2 && context.chain.profiles.contains(Mayfly::Profile::"leaf") };`)
		}, mayfly.TermPolicy, ""},
		"guardrail that errs": {func(q *policy.OpenQuestion) {
			q.Policies = policies(t, `forbid(principal, action, resource) when { 9223372036854775807 + context.depth == 1 };`)
		}, mayfly.TermPolicy, ""},
		"root asked for one above": {func(q *policy.OpenQuestion) { q.Parent[0].Profile.Authority = mayfly.AuthorityPolicy }, mayfly.TermDelegator, ""},
	} {
		t.Run(name, func(t *testing.T) {
			q := opening(t, listAndPay, chain(t, listAndPay, listAndPay)...)
			c.spoil(q)
			permit, d := policy.DecideOpen(q)
			if (permit == nil) != (c.term != "") || d.Term != c.term || d.Code != c.code || permit == nil && d.Reason == "" {
				t.Fatalf("permit %v, %+v; want term %q, code %q", permit, d, c.term, c.code)
			}
		})
	}
}

// Who may not hand one tool on may not hand all of them on, and a guardrail about
// another target's tool of that name, or about a tool the pattern leaves out, says
// nothing.
func TestAPatternIsHeldToWhatPoliciesSayOfItsTools(t *testing.T) {
	all := `["mcp:bank:*"]`
	for tool, c := range map[string]struct {
		asked string
		term  mayfly.Term
	}{
		`"bank/pay_invoice"`:   {all, mayfly.TermPolicy},
		`"bank/list_invoices"`: {`["mcp:bank:list_*"]`, mayfly.TermPolicy},
		`"bank/pay_bill"`:      {`["mcp:bank:list_*"]`, ""},
		`"other/pay_invoice"`:  {all, ""},
	} {
		q := opening(t, c.asked, chain(t, all, all)...)
		q.Profile.Grants = grants(t, all)
		for i := range q.Parent {
			q.Parent[i].Profile.Grants = grants(t, all)
		}
		q.Policies = policies(t, `forbid(principal, action == Mayfly::Action::"delegate", resource == Mayfly::Tool::`+tool+`);`)
		if permit, d := policy.DecideOpen(q); (permit == nil) != (c.term != "") || d.Term != c.term {
			t.Errorf("%s handed on, with a forbid on %s: %+v", c.asked, tool, d)
		}
	}
}

func TestNoChainIsDeeperThanTheLimit(t *testing.T) {
	all := []string{listOnly, listOnly, listOnly, listOnly, listOnly, listOnly}
	if permit, d := policy.DecideOpen(opening(t, listOnly, chain(t, all[:mayfly.MaxDepth]...)...)); permit == nil {
		t.Errorf("depth %d: %+v", mayfly.MaxDepth, d)
	}
	q := opening(t, listOnly, chain(t, all[:mayfly.MaxDepth+1]...)...)
	for i := range q.Parent {
		q.Parent[i].Profile.Delegation.Depth = 99 // whatever a profile says
	}
	if permit, d := policy.DecideOpen(q); permit != nil || d.Code != "invalid_request" {
		t.Errorf("depth %d: %v, %+v", mayfly.MaxDepth+1, permit, d)
	}
	q.Parent = q.Parent[1:]
	if permit, d := policy.DecideOpen(q); permit != nil || d.Term != mayfly.TermLiveness {
		t.Errorf("a chain without its root: %v, %+v", permit, d)
	}
}

func TestTheRootDelegatesOnlyWhatItMay(t *testing.T) {
	q := opening(t, listAndPay)
	q.Profile.Authority = mayfly.AuthorityPolicy
	const some = `permit(principal in Mayfly::Group::"accounts-payable", action == Mayfly::Action::"delegate", resource == Mayfly::Tool::"bank/list_invoices");`
	q.Policies = policies(t, some)
	if permit, d := policy.DecideOpen(q); permit != nil || d.Term != mayfly.TermDelegator || !strings.Contains(d.Reason, "bank/pay_invoice") {
		t.Errorf("one of two grants is not permitted: %v, %+v", permit, d)
	}
	q.Grants = grants(t, listOnly)
	if permit, d := policy.DecideOpen(q); permit == nil || len(d.Policies) == 0 {
		t.Errorf("the permitted one alone: %+v", d)
	}
	q.Profile.Grants = grants(t, everything)
	q.Grants = grants(t, `["mcp:bank:*"]`)
	if permit, _ := policy.DecideOpen(q); permit != nil {
		t.Error("a whole target was delegated by right of one tool")
	}
	q.Policies = policies(t, `permit(principal, action, resource in Mayfly::Target::"bank");`)
	if permit, d := policy.DecideOpen(q); permit == nil {
		t.Errorf("a whole target by right of the target: %+v", d)
	}
	q.Grants = grants(t, `["http:orders:*:/v1/orders"]`)
	if permit, _ := policy.DecideOpen(q); permit != nil {
		t.Error("another target was delegated")
	}
}

func TestAnotherTokenNeedsALiveChain(t *testing.T) {
	ask := func(spoil func([]policy.Link)) (*policy.Permit, mayfly.Decision) {
		links := chain(t, listOnly, listOnly)
		spoil(links)
		return policy.DecideAgain(&policy.AgainQuestion{Decision: "dec_1", Chain: links, Now: now, Bundle: "bundle"})
	}
	permit, d := ask(func([]policy.Link) {})
	if permit == nil || d.Verdict != mayfly.Allow || d.Code != "" {
		t.Fatalf("%+v", d)
	}
	if permit.Issue() != nil || permit.Issue() == nil {
		t.Error("a permit for a token is good for one")
	}
	for term, spoil := range map[mayfly.Term]func([]policy.Link){
		mayfly.TermLiveness:  func(l []policy.Link) { l[0].Task.ClosedAt = now },
		mayfly.TermProfile:   func(l []policy.Link) { l[1].Profile = nil },
		mayfly.TermDelegator: func(l []policy.Link) { l[0].Profile.Delegators = nil },
	} {
		if permit, d := ask(spoil); permit != nil || d.Verdict != mayfly.Deny || d.Term != term || d.Code != "invalid_request" {
			t.Errorf("%s: %v, %+v", term, permit, d)
		}
	}
	if permit, d := policy.DecideAgain(&policy.AgainQuestion{Now: now}); permit != nil || d.Verdict != mayfly.Deny {
		t.Errorf("no chain: %v, %+v", permit, d)
	}
}
