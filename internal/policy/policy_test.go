package policy_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"pgregory.net/rapid"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
)

var now = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)

// grants reads a JSON array of grants.
func grants(t testing.TB, array string) []mayfly.Grant {
	t.Helper()
	var g []mayfly.Grant
	if err := json.Unmarshal([]byte(array), &g); err != nil {
		t.Fatalf("%s: %v", array, err)
	}
	return g
}

var alice = mayfly.Subject{Kind: mayfly.Human, ID: "alice@example.org", Source: "corp", Groups: []string{"accounts-payable", "staff"}, Claims: map[string]string{"team": "ap"}}

const (
	listAndPay = `["mcp:bank:list_invoices",{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":500}},"budget":{"calls":10}}]`
	everything = `["mcp:bank:*","http:orders:*"]`
)

// profile is one that alice, and every profile of the tests, may delegate to.
func profile(t testing.TB, name, ceiling string) *mayfly.Profile {
	return &mayfly.Profile{
		Name: name, Owner: "finance@example.org", Risk: mayfly.RiskMedium, Authority: mayfly.AuthorityProfile,
		Delegators: []mayfly.DelegatorRule{
			{Human: &mayfly.HumanRule{Groups: []string{"accounts-payable"}}},
			{Service: &mayfly.SourceRule{Source: "ci", Match: map[string]string{"repository": "acme/*"}}},
			{Agent: "root"}, {Agent: "middle"}, {Agent: "leaf"},
		},
		Attest:     []mayfly.AttestRule{{Source: &mayfly.SourceRule{Source: "cluster", Match: map[string]string{"sub": "agents:*"}}}, {Client: "https://client.example/"}},
		Grants:     grants(t, ceiling),
		Delegation: mayfly.DelegationRule{Depth: 5, Children: 5, To: []string{"root", "middle", "leaf"}},
		Lifetime:   mayfly.Lifetime{Idle: time.Minute, Default: time.Minute, Max: time.Hour},
	}
}

// chain is a live chain of tasks under root, middle and leaf, each granted what
// it is told.
func chain(t testing.TB, granted ...string) []policy.Link {
	names := []string{"root", "middle", "leaf", "leaf", "leaf", "leaf"}
	var links []policy.Link
	var above mayfly.TaskID
	var ancestors []mayfly.TaskID
	for i, g := range granted {
		task := &mayfly.Task{
			ID: mayfly.NewTaskID(now), Profile: names[i], Root: alice, Parent: above, Ancestors: slices.Clone(ancestors), Depth: i,
			Grants: grants(t, g), Purpose: mayfly.Purpose{Text: "pay the acme invoice", By: "agent"},
			OpenedAt: now, Deadline: now.Add(time.Hour), Idle: time.Minute, IdleUntil: now.Add(time.Minute),
			Agent: mayfly.Evidence{Source: "cluster", Subject: "agents:x", Verified: true},
		}
		above, ancestors = task.ID, append(ancestors, task.ID)
		links = append(links, policy.Link{Task: task, Profile: profile(t, names[i], everything)})
	}
	return links
}

func call(t testing.TB, grant, arguments string) mayfly.Call {
	t.Helper()
	p := strings.SplitN(grant, ":", 3)
	a, err := mayfly.ParseArguments([]byte(arguments))
	if err != nil {
		t.Fatal(err)
	}
	return mayfly.Call{Kind: p[0], Target: p[1], Action: p[2], Arguments: a, Digest: "digest"}
}

func question(t testing.TB, grant, arguments string, granted ...string) *policy.Question {
	return &policy.Question{
		Decision: "dec_1", Call: call(t, grant, arguments), Chain: chain(t, granted...), TokenWhole: true,
		Now: now, SourceIP: "10.1.2.3", TrustDomain: "example.org", Bundle: "bundle",
	}
}

func policies(t testing.TB, text string) *policy.Set {
	t.Helper()
	s, err := policy.Parse(map[string][]byte{"p.cedar": []byte(text)}, amounts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheTermThatRefusesIsNamed(t *testing.T) {
	const pay = "mcp:bank:pay_invoice"
	acting := func(q *policy.Question) policy.Link { return q.Chain[len(q.Chain)-1] }
	for name, c := range map[string]struct {
		spoil  func(q *policy.Question)
		term   mayfly.Term
		reason string
		next   string
	}{
		"nothing":        {func(*policy.Question) {}, "", "", ""},
		"no chain":       {func(q *policy.Question) { q.Chain = nil }, mayfly.TermLiveness, "", ""},
		"no task":        {func(q *policy.Question) { q.Chain[1].Task = nil }, mayfly.TermLiveness, "complete", "open"},
		"a gap":          {func(q *policy.Question) { q.Chain = slices.Delete(q.Chain, 1, 2) }, mayfly.TermLiveness, "complete", "open"},
		"a chain's tail": {func(q *policy.Question) { q.Chain = q.Chain[1:] }, mayfly.TermLiveness, "complete", "open"},
		"deadline":       {func(q *policy.Question) { acting(q).Task.Deadline = now }, mayfly.TermLiveness, "deadline", "open"},
		"idle":           {func(q *policy.Question) { acting(q).Task.IdleUntil = now }, mayfly.TermLiveness, "idle", "open"},
		"closed":         {func(q *policy.Question) { acting(q).Task.ClosedAt, acting(q).Task.Reason = now, mayfly.Revoked }, mayfly.TermLiveness, "revoked", "open"},
		"root closed":    {func(q *policy.Question) { q.Chain[0].Task.ClosedAt, q.Chain[0].Task.Reason = now, mayfly.Completed }, mayfly.TermLiveness, "above", "open"},
		"empty token":    {func(q *policy.Question) { q.TokenWhole = false }, mayfly.TermToken, "token", "request"},
		"other token":    {func(q *policy.Question) { q.TokenWhole, q.Token = false, grants(t, `["mcp:bank:list_invoices"]`) }, mayfly.TermToken, "token", "request"},
		"other token, and the profile never allows it": {func(q *policy.Question) {
			q.TokenWhole, acting(q).Task.Grants = false, nil
			acting(q).Profile.Grants = grants(t, `["mcp:bank:list_invoices"]`)
		}, mayfly.TermToken, "token", "none"},
		"root unaccepted":            {func(q *policy.Question) { q.Chain[0].Task.Root.Groups = []string{"staff"} }, mayfly.TermDelegator, "accept", "none"},
		"agent unaccepted":           {func(q *policy.Question) { q.Chain[2].Profile.Delegators = q.Chain[2].Profile.Delegators[:1] }, mayfly.TermDelegator, "accept", "none"},
		"root not asked":             {func(q *policy.Question) { q.Chain[1].Profile.Authority = mayfly.AuthorityPolicy }, mayfly.TermDelegator, "no policy permits", "none"},
		"profile removed":            {func(q *policy.Question) { q.Chain[2].Profile = nil }, mayfly.TermProfile, "removed", "none"},
		"ancestor's profile removed": {func(q *policy.Question) { q.Chain[0].Profile = nil }, mayfly.TermProfile, "removed", "none"},
		"profile narrower":           {func(q *policy.Question) { acting(q).Profile.Grants = grants(t, `["mcp:bank:list_invoices"]`) }, mayfly.TermProfile, "profile leaf", "none"},
		"profile's condition": {func(q *policy.Question) {
			acting(q).Profile.Grants = grants(t, strings.ReplaceAll(listAndPay, "500", "50"))
		}, mayfly.TermProfile, "amount", "retry"},
		"task narrower":             {func(q *policy.Question) { acting(q).Task.Grants = grants(t, `["mcp:bank:list_invoices"]`) }, mayfly.TermTask, "task", "request"},
		"too much":                  {func(q *policy.Question) { q.Call = call(t, pay, `{"amount":501}`) }, mayfly.TermTask, "at most 500", "retry"},
		"no amount":                 {func(q *policy.Question) { q.Call = call(t, pay, `{}`) }, mayfly.TermTask, "missing", "retry"},
		"unreadable":                {func(q *policy.Question) { q.Call = call(t, pay, ``); q.Call.NoArguments = true }, mayfly.TermTask, "cannot be read", "retry"},
		"parent narrower":           {func(q *policy.Question) { q.Chain[1].Task.Grants = grants(t, `["mcp:bank:list_invoices"]`) }, mayfly.TermParent, "above", "request"},
		"root narrower":             {func(q *policy.Question) { q.Chain[0].Task.Grants = nil }, mayfly.TermParent, "above", "request"},
		"parent's profile narrower": {func(q *policy.Question) { q.Chain[0].Profile.Grants = grants(t, `["mcp:bank:list_invoices"]`) }, mayfly.TermParent, "profile root", "none"},
		"guardrail": {func(q *policy.Question) {
			q.Policies = policies(t, `@id("no-pay") forbid(principal, action, resource == Mayfly::Tool::"bank/pay_invoice");`)
		}, mayfly.TermPolicy, "no-pay", "none"},
	} {
		t.Run(name, func(t *testing.T) {
			q := question(t, pay, `{"amount":120}`, listAndPay, listAndPay, listAndPay)
			c.spoil(q)
			permit, d, _ := policy.Decide(q)
			if d.Term != c.term || (permit == nil) != (c.term != "") {
				t.Fatalf("permit %v, decision %+v; want term %q", permit, d, c.term)
			}
			if d.ID != "dec_1" || d.Bundle != "bundle" || (d.Verdict == mayfly.Allow) != (c.term == "") {
				t.Errorf("decision %+v", d)
			}
			if !strings.Contains(d.Reason, c.reason) {
				t.Errorf("reason %q does not say %q", d.Reason, c.reason)
			}
			if c.next != "" && (d.Next == nil || d.Next.Action != c.next || d.Next.Detail == "") {
				t.Errorf("next %+v, want %s", d.Next, c.next)
			}
		})
	}
}

func TestTheAdviceForATokenLeadsWhereTheGrantIs(t *testing.T) {
	q := question(t, "mcp:bank:pay_invoice", `{"amount":120}`, listAndPay, listAndPay)
	q.TokenWhole = false
	if _, d, _ := policy.Decide(q); !strings.Contains(d.Next.Detail, "exchange the task's own token") {
		t.Errorf("the task has it: %+v", d.Next)
	}
	q.Chain[1].Task.Grants = nil
	if _, d, _ := policy.Decide(q); !strings.Contains(d.Next.Detail, "whoever delegated") || d.Next.Grant != "mcp:bank:pay_invoice" {
		t.Errorf("the profile has it: %+v", d.Next)
	}
	q.Chain[1].Profile.Grants = nil
	if _, d, _ := policy.Decide(q); d.Next.Grant != "" || !strings.Contains(d.Next.Detail, "change of the profile") {
		t.Errorf("nothing has it: %+v", d.Next)
	}
}

func TestTheFirstTermThatRefusesIsNamed(t *testing.T) {
	// Everything refuses; one by one it is put right, in the order of the terms.
	q := question(t, "mcp:bank:delete_vendor", `{}`, `["mcp:bank:list_invoices"]`, `["mcp:bank:list_invoices"]`)
	q.Policies = policies(t, `forbid(principal, action, resource);`)
	q.TokenWhole = false
	q.Chain[1].Task.ClosedAt = now
	q.Chain[0].Task.Root.Groups = nil
	q.Chain[1].Profile.Grants = nil
	whole := grants(t, everything)
	for _, step := range []struct {
		term mayfly.Term
		mend func()
	}{
		{mayfly.TermLiveness, func() { q.Chain[1].Task.ClosedAt = time.Time{} }},
		{mayfly.TermToken, func() { q.Token = whole }},
		{mayfly.TermDelegator, func() { q.Chain[0].Task.Root.Groups = alice.Groups }},
		{mayfly.TermProfile, func() { q.Chain[1].Profile.Grants = whole }},
		{mayfly.TermTask, func() { q.Chain[1].Task.Grants = whole }},
		{mayfly.TermParent, func() { q.Chain[0].Task.Grants = whole }},
		{mayfly.TermPolicy, func() { q.Policies = nil }},
	} {
		if permit, d, _ := policy.Decide(q); permit != nil || d.Term != step.term {
			t.Fatalf("term %q, want %q", d.Term, step.term)
		}
		step.mend()
	}
	if permit, d, _ := policy.Decide(q); permit == nil {
		t.Errorf("all is mended, and %s refuses: %s", d.Term, d.Reason)
	}
}

func TestNoCallPassesThatAnyLinkRefuses(t *testing.T) {
	pools := [][]mayfly.Grant{}
	for _, s := range []string{
		`[]`, `["mcp:bank:*"]`, `["mcp:bank:pay*"]`, `["mcp:bank:pay"]`, `["mcp:bank:list"]`, `["http:bank:*"]`,
		`[{"type":"mayfly_grant","grant":"mcp:bank:pay","where":{"amount":{"max":5}}}]`,
		`[{"type":"mayfly_grant","grant":"mcp:bank:*","where":{"amount":{"min":5}}},"mcp:bank:list"]`,
		`[{"type":"mayfly_grant","grant":"mcp:bank:pay","budget":{"calls":2}}]`,
	} {
		pools = append(pools, grants(t, s))
	}
	allows := 0
	rapid.Check(t, func(rt *rapid.T) {
		draw := func() []mayfly.Grant {
			if rapid.IntRange(0, 3).Draw(rt, "narrow") > 0 {
				return pools[1]
			}
			return rapid.SampledFrom(pools).Draw(rt, "grants")
		}
		c := call(t, rapid.SampledFrom([]string{"mcp:bank:pay", "mcp:bank:list", "mcp:bank:payout", "http:bank:GET:/"}).Draw(rt, "call"),
			rapid.SampledFrom([]string{`{"amount":4}`, `{"amount":5}`, `{"amount":6}`, `{}`}).Draw(rt, "arguments"))
		q := question(t, "mcp:x:x", `{}`, `[]`, `[]`, `[]`)
		q.Call = c
		terms := [][]mayfly.Grant{}
		for i := range q.Chain {
			q.Chain[i].Task.Grants, q.Chain[i].Profile.Grants = draw(), draw()
			terms = append(terms, q.Chain[i].Task.Grants, q.Chain[i].Profile.Grants)
		}
		if rapid.Bool().Draw(rt, "limited") {
			q.TokenWhole, q.Token = false, draw()
			terms = append(terms, q.Token)
		}
		every := true
		for _, g := range terms {
			every = every && slices.ContainsFunc(g, func(g mayfly.Grant) bool { ok, _ := g.Allows(c); return ok })
		}
		permit, d, _ := policy.Decide(q)
		if (permit != nil) != every {
			rt.Fatalf("decision %+v; every term allows: %v", d, every)
		}
		if every {
			allows++
		}
	})
	if allows == 0 {
		t.Error("nothing was ever allowed: the property was not tried")
	}
}

func TestBudgetsAreSpentAlongTheChainRootFirst(t *testing.T) {
	budget := func(calls string) string {
		return `[{"type":"mayfly_grant","grant":"mcp:bank:pay","budget":{"calls":` + calls + `}}]`
	}
	q := question(t, "mcp:bank:pay", `{}`, budget("10"), `["mcp:bank:pay"]`, budget("3"))
	q.Chain[0].Profile.Grants = grants(t, `[{"type":"mayfly_grant","grant":"mcp:bank:*","budget":{"calls":100}}]`)
	q.Chain[2].Profile.Grants = grants(t, budget("5"))
	q.TokenWhole, q.Token = false, grants(t, budget("2"))
	permit, d, _ := policy.Decide(q)
	if permit == nil {
		t.Fatalf("%+v", d)
	}
	want := []policy.Spend{
		{Task: q.Chain[0].Task.ID, Grant: "mcp:bank:pay", Kind: policy.SpendCalls, Max: 10},
		{Task: q.Chain[0].Task.ID, Grant: "mcp:bank:*", Kind: policy.SpendCalls, Max: 100},
		{Task: q.Chain[2].Task.ID, Grant: "mcp:bank:pay", Kind: policy.SpendCalls, Max: 2}, // the profile's, the task's and the token's: one count, the least of them
	}
	if got := permit.Spends(); !slices.Equal(got, want) {
		t.Errorf("spends %v\nwant   %v", got, want)
	}
}

func TestAPermitIsSpentOnceForItsOwnQuestion(t *testing.T) {
	q, other := question(t, "mcp:bank:list", `{}`, everything), question(t, "mcp:bank:list", `{}`, everything)
	permit, _, _ := policy.Decide(q)
	if permit.Spend(other) == nil {
		t.Error("spent for another question")
	}
	if permit.Issue() == nil {
		t.Error("a permit to act signed a token")
	}
	digest := q.Call.Digest
	q.Call.Digest = "another"
	if permit.Spend(q) == nil {
		t.Error("spent for another body than was decided on")
	}
	q.Call.Digest = digest
	if err := permit.Spend(q); err != nil {
		t.Errorf("spent for its own question: %v", err)
	}
	if permit.Spend(q) == nil {
		t.Error("spent twice")
	}
	var none policy.Permit
	if none.Spend(q) == nil || none.Spend(nil) == nil || none.Issue() == nil || (*policy.Permit)(nil).Spend(q) == nil || (*policy.Permit)(nil).Issue() == nil {
		t.Error("the zero permit permits something")
	}
}

func TestAPermitLendsOnceAndAfterItWasSpent(t *testing.T) {
	lend := func() (*policy.Permit, *policy.Question) {
		q := question(t, "postgres:db:reader", `{}`, `["postgres:db:reader"]`)
		q.Chain[0].Profile.Grants = grants(t, `["postgres:db:*"]`)
		p, d, _ := policy.Decide(q)
		if p == nil {
			t.Fatalf("%+v", d)
		}
		return p, q
	}
	p, q := lend()
	if err := p.Lend(q, "reader"); mayfly.KindOf(err) != mayfly.Internal {
		t.Errorf("before it was spent: %v", err)
	}
	if err := p.Spend(q); err != nil {
		t.Fatal(err)
	}
	if err := p.Lend(q, "owner"); mayfly.KindOf(err) != mayfly.Internal {
		t.Errorf("another role: %v", err)
	}
	if _, other := lend(); mayfly.KindOf(p.Lend(other, "reader")) != mayfly.Internal {
		t.Error("for another question")
	}
	if err := p.Lend(q, "reader"); err != nil {
		t.Errorf("its use: %v", err)
	}
	if err := p.Lend(q, "reader"); mayfly.KindOf(err) != mayfly.Internal {
		t.Errorf("twice: %v", err)
	}
	if err := (*policy.Permit)(nil).Lend(q, "reader"); err == nil {
		t.Error("no permit lends")
	}
}

func TestVisibleLooksAtPatternsOnly(t *testing.T) {
	q := question(t, "mcp:bank:pay_invoice", ``, listAndPay, listAndPay)
	if !policy.Visible(q) {
		t.Error("a tool that could be called with the right arguments is hidden")
	}
	q.Chain[0].Task.Grants = grants(t, `["mcp:bank:list_invoices"]`)
	if policy.Visible(q) {
		t.Error("a tool that a task above was not granted is shown")
	}
	q = question(t, "mcp:bank:pay_invoice", ``, listAndPay)
	if q.TokenWhole, q.Token = false, grants(t, `["mcp:bank:list_invoices"]`); policy.Visible(q) {
		t.Error("a tool the token does not carry is shown")
	}
	if policy.Visible(&policy.Question{TokenWhole: true}) {
		t.Error("something is visible to nobody")
	}
}

func BenchmarkDecideGrantsOnly(b *testing.B) {
	q := question(b, "mcp:bank:list_invoices", `{}`, listAndPay, listAndPay, listAndPay)
	for i := range q.Chain {
		q.Chain[i].Profile.Grants = grants(b, listAndPay)
	}
	b.ReportAllocs()
	for b.Loop() {
		if permit, d, _ := policy.Decide(q); permit == nil {
			b.Fatal(d.Reason)
		}
	}
}

func BenchmarkDecideWithConditionAndBudget(b *testing.B) {
	q := question(b, "mcp:bank:pay_invoice", `{"amount":120,"vendor":"acme"}`, listAndPay, listAndPay, listAndPay)
	for i := range q.Chain {
		q.Chain[i].Profile.Grants = grants(b, listAndPay)
	}
	b.ReportAllocs()
	for b.Loop() {
		if permit, d, _ := policy.Decide(q); permit == nil {
			b.Fatal(d.Reason)
		}
	}
}

func BenchmarkDecideWithOnePolicy(b *testing.B) {
	q := question(b, "mcp:bank:list_invoices", `{}`, listAndPay, listAndPay, listAndPay)
	q.Policies = policies(b, `forbid(principal, action == Mayfly::Action::"use", resource) when { context.depth > 3 };`)
	b.ReportAllocs()
	for b.Loop() {
		if permit, d, _ := policy.Decide(q); permit == nil {
			b.Fatal(d.Reason)
		}
	}
}
