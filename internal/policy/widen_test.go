package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
)

// widening is the leaf of a chain of three that lists invoices, and asks to pay
// as opening named it.
func widening(t testing.TB) *policy.WidenQuestion {
	q := &policy.WidenQuestion{
		Decision: "dec_1", Chain: chain(t, everything, everything, listOnly), Grants: grants(t, payOnly), Named: grants(t, listAndPay),
		Now: now, SourceIP: "10.1.2.3", TrustDomain: "example.org", Bundle: "bundle",
	}
	return q
}

const payOnly = `[{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":500}},"budget":{"calls":10}}]`

func TestWideningAsksEveryTerm(t *testing.T) {
	const (
		pay     = `action == Mayfly::Action::"delegate", resource == Mayfly::Tool::"bank/pay_invoice"`
		forbids = `@id("no") forbid(principal is Mayfly::Agent, ` + pay + `);`
		asks    = `@id("asks") @approval("finance") forbid(principal is Mayfly::Agent, ` + pay + `);`
	)
	unnamed := func(q *policy.WidenQuestion) { q.Named = grants(t, listOnly) }
	under := func(text string, more ...func(*policy.WidenQuestion)) func(*policy.WidenQuestion) {
		return func(q *policy.WidenQuestion) {
			q.Policies = policies(t, text)
			for _, m := range more {
				m(q)
			}
		}
	}
	asked := func(q *policy.WidenQuestion) { q.Chain[0].Profile.Authority = mayfly.AuthorityPolicy }
	said := func(who ...string) func(*policy.WidenQuestion) {
		return func(q *policy.WidenQuestion) { q.Approved = who }
	}
	for name, c := range map[string]struct {
		change func(*policy.WidenQuestion)
		term   mayfly.Term
		needs  []string
	}{
		"what opening named":           {func(*policy.WidenQuestion) {}, "", nil},
		"no chain":                     {func(q *policy.WidenQuestion) { q.Chain = nil }, mayfly.TermLiveness, nil},
		"over":                         {func(q *policy.WidenQuestion) { q.Chain[2].Task.ClosedAt = now }, mayfly.TermLiveness, nil},
		"one above over":               {func(q *policy.WidenQuestion) { q.Chain[0].Task.IdleUntil = now }, mayfly.TermLiveness, nil},
		"no more accepted":             {func(q *policy.WidenQuestion) { q.Chain[2].Profile.Delegators = nil }, mayfly.TermDelegator, nil},
		"one above no more accepted":   {func(q *policy.WidenQuestion) { q.Chain[0].Profile.Delegators = nil }, mayfly.TermDelegator, nil},
		"its profile removed":          {func(q *policy.WidenQuestion) { q.Chain[2].Profile = nil }, mayfly.TermProfile, nil},
		"beyond its profile":           {func(q *policy.WidenQuestion) { q.Chain[2].Profile.Grants = grants(t, listOnly) }, mayfly.TermProfile, nil},
		"beyond its parent":            {func(q *policy.WidenQuestion) { q.Chain[1].Task.Grants = grants(t, listOnly) }, mayfly.TermParent, nil},
		"beyond the root task":         {func(q *policy.WidenQuestion) { q.Chain[0].Task.Grants = grants(t, listOnly) }, mayfly.TermParent, nil},
		"beyond a profile above":       {func(q *policy.WidenQuestion) { q.Chain[1].Profile.Grants = grants(t, listOnly) }, mayfly.TermParent, nil},
		"nothing":                      {func(q *policy.WidenQuestion) { q.Grants = nil }, mayfly.TermProfile, nil},
		"more calls than named":        {func(q *policy.WidenQuestion) { q.Grants[0].Budget.Calls = 11 }, mayfly.TermApproval, []string{mayfly.NeedDelegator}},
		"not named":                    {unnamed, mayfly.TermApproval, []string{mayfly.NeedDelegator}},
		"not named, and said yes to":   {under("", unnamed, said(mayfly.NeedDelegator)), "", nil},
		"a yes of somebody else":       {under("", unnamed, said("finance")), mayfly.TermApproval, []string{mayfly.NeedDelegator}},
		"forbidden":                    {under(forbids), mayfly.TermPolicy, nil},
		"forbidden, and said yes to":   {under(forbids, said("finance", mayfly.NeedDelegator)), mayfly.TermPolicy, nil},
		"a policy asks":                {under(asks), mayfly.TermApproval, []string{"finance"}},
		"the group stands in for root": {under(asks, unnamed), mayfly.TermApproval, []string{"finance"}},
		"the group said yes":           {under(asks, unnamed, said("finance")), "", nil},
		"only a permit for the agent":  {under(`permit(principal is Mayfly::Agent, action, resource);`, unnamed), mayfly.TermApproval, []string{mayfly.NeedDelegator}},
		"a policy that errs":           {under(`@id("errs") forbid(principal is Mayfly::Agent, action, resource) when { 9223372036854775807 + context.depth == 1 };`), mayfly.TermPolicy, nil},
		"root's rights asked for":      {asked, mayfly.TermDelegator, nil},
		"root's rights, and permitted": {under(`permit(principal is Mayfly::Human, `+pay+`);`, asked), "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			q := widening(t)
			c.change(q)
			permit, d := policy.DecideWiden(q)
			verdict := mayfly.Deny
			switch c.term {
			case "":
				verdict = mayfly.Allow
			case mayfly.TermApproval:
				verdict = mayfly.NeedsApproval
			}
			if (permit == nil) != (c.term != "") || d.Verdict != verdict || d.Term != c.term || !slices.Equal(d.Needs, c.needs) && c.term != "" || permit == nil && d.Reason == "" {
				t.Fatalf("permit %v, %+v; want %s %q, needs %v", permit, d, verdict, c.term, c.needs)
			}
		})
	}
}

// One of two grants that nobody named is enough to ask for a yes.
func TestEachGrantOfAWideningIsLookedAt(t *testing.T) {
	q := widening(t)
	q.Grants = append(q.Grants, grants(t, `["http:orders:GET:/v1/*"]`)...)
	if permit, d := policy.DecideWiden(q); permit != nil || d.Verdict != mayfly.NeedsApproval || !slices.Equal(d.Needs, []string{mayfly.NeedDelegator}) {
		t.Errorf("%v, %+v", permit, d)
	}
	q.Policies = policies(t, `@id("no-orders") forbid(principal, action == Mayfly::Action::"delegate", resource in Mayfly::Target::"orders");`)
	q.Approved = []string{mayfly.NeedDelegator}
	if permit, d := policy.DecideWiden(q); permit != nil || d.Term != mayfly.TermPolicy || !strings.Contains(d.Reason, "no-orders") {
		t.Errorf("%v, %+v", permit, d)
	}
}

func TestAPermitToWidenIsSpentOnce(t *testing.T) {
	permit, _ := policy.DecideWiden(widening(t))
	if err := permit.Issue(); err == nil {
		t.Error("it signs a token")
	}
	if err := permit.Widen(); err != nil {
		t.Errorf("its use: %v", err)
	}
	if err := permit.Widen(); mayfly.KindOf(err) != mayfly.Internal {
		t.Errorf("a second use: %v", err)
	}
}
