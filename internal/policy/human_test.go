package policy_test

import (
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
)

var fay = mayfly.Subject{Kind: mayfly.Human, ID: "fay@example.org", Source: "corp", Groups: []string{"finance", "staff"}}

func TestWhoMayApprove(t *testing.T) {
	const (
		firm = `@id("not-fay") forbid(principal == Mayfly::Human::"fay@example.org", action == Mayfly::Action::"approve", resource);`
		errs = `@id("errs") forbid(principal, action == Mayfly::Action::"approve", resource) when { 9223372036854775807 + context.depth == 1 };`
	)
	type question = policy.ApproveQuestion
	under := func(text string) func(*question, **policy.Set) {
		return func(_ *question, s **policy.Set) { *s = policies(t, text) }
	}
	change := func(do func(*question)) func(*question, **policy.Set) {
		return func(q *question, _ **policy.Set) { do(q) }
	}
	delegators := change(func(q *question) { q.Approval.Needs, q.Need = []string{mayfly.NeedDelegator}, mayfly.NeedDelegator })
	for name, c := range map[string]struct {
		change func(*question, **policy.Set)
		reason string // "" is a yes
	}{
		"one of the group":             {change(func(*question) {}), ""},
		"of another group":             {change(func(q *question) { q.Human.Groups = []string{"staff"} }), "only somebody of finance"},
		"for a need that is not asked": {change(func(q *question) { q.Need = "staff" }), "does not ask for that"},
		"a service":                    {change(func(q *question) { q.Human.Kind = mayfly.Service }), "only a human"},
		"nobody":                       {change(func(q *question) { q.Human.ID = "" }), "only a human"},
		"in their own name":            {change(func(q *question) { q.Human.ID = alice.ID }), "their own name"},
		"where a service delegated": {change(func(q *question) {
			q.Approval.Root = mayfly.Subject{Kind: mayfly.Service, ID: "service:ci/x", Source: "ci"}
		}), ""},
		"the delegator's, by another": {delegators, "only the one who delegated"},
		"the delegator's, by them": {func(q *question, s **policy.Set) {
			delegators(q, s)
			q.Human = alice
		}, ""},
		"the delegator's, where a service of that id delegated": {func(q *question, s **policy.Set) {
			delegators(q, s)
			q.Human, q.Approval.Root = alice, mayfly.Subject{Kind: mayfly.Service, ID: alice.ID}
		}, "only the one who delegated"},
		"what it is for cannot be read": {change(func(q *question) { q.Approval.Grant = "mcp:bank" }), "cannot be read"},
		"what it is for is empty":       {change(func(q *question) { q.Approval.What, q.Approval.Grant = "open", " " }), "cannot be read"},
		"a forbid":                      {under(firm), "not-fay"},
		"a forbid of the second grant": {func(q *question, s **policy.Set) {
			q.Approval.What, q.Approval.Grant = "widen", "mcp:bank:list_invoices mcp:bank:pay_invoice"
			*s = policies(t, strings.Replace(firm, "resource)", `resource == Mayfly::Tool::"bank/pay_invoice")`, 1))
		}, "not-fay"},
		"a forbid of another tool":            {under(strings.Replace(firm, "resource)", `resource == Mayfly::Tool::"bank/list_invoices")`, 1)), ""},
		"a forbid of another action":          {under(strings.Replace(firm, `"approve"`, `"revoke"`, 1)), ""},
		"a forbid that itself can be lifted":  {under(strings.Replace(firm, "forbid", `@approval("staff") forbid`, 1)), ""},
		"a policy that errs":                  {under(errs), "errs"},
		"the profile is gone":                 {change(func(q *question) { q.Profile = nil }), ""},
		"rules that cannot be evaluated, too": {change(func(q *question) { q.Approval = nil }), "could not be evaluated"},
	} {
		t.Run(name, func(t *testing.T) {
			q := &question{
				Human: fay, Need: "finance", Profile: profile(t, "leaf", everything), Depth: 1, Now: now, SourceIP: "10.1.2.3", TrustDomain: "example.org",
				Approval: &mayfly.Approval{What: "call", Root: alice, Grant: "mcp:bank:pay_invoice", Needs: []string{"finance"}, Profile: "leaf"},
			}
			var s *policy.Set
			c.change(q, &s)
			ok, reason := policy.MayApprove(s, q)
			if ok != (c.reason == "") || !strings.Contains(reason, c.reason) || ok != (reason == "") {
				t.Fatalf("%v, %q; want %q", ok, reason, c.reason)
			}
		})
	}
}

// Reading and ending what is somebody else's is two actions with one rule: only
// a permit for just that permits it.
func TestWhoMayReadAndRevoke(t *testing.T) {
	const permit = `@id("may") permit(principal in Mayfly::Group::"finance", action == Mayfly::Action::"ACTION", resource in Mayfly::Profile::"leaf");`
	for action, may := range map[string]func(*policy.Set, *policy.TaskQuestion) (bool, string){"read": policy.MayRead, "revoke": policy.MayRevoke} {
		permitted := strings.Replace(permit, "ACTION", action, 1)
		other := map[string]string{"read": "revoke", "revoke": "read"}[action]
		for name, c := range map[string]struct {
			text   string
			change func(*policy.TaskQuestion)
			reason string // "" is a yes
		}{
			"permitted":            {permitted, nil, ""},
			"no policy":            {"", nil, "no policy permits"},
			"of another group":     {permitted, func(q *policy.TaskQuestion) { q.Subject.Groups = nil }, "no policy permits"},
			"of another profile":   {permitted, func(q *policy.TaskQuestion) { q.Chain = q.Chain[:1] }, "no policy permits"},
			"the other action":     {strings.Replace(permit, "ACTION", other, 1), nil, "no policy permits"},
			"forbidden":            {permitted + `@id("never") forbid(principal, action, resource);`, nil, "never"},
			"forbidden, liftable":  {permitted + `@id("never") @approval("staff") forbid(principal, action, resource);`, nil, "never"},
			"an error":             {permitted + `@id("errs") forbid(principal, action, resource) when { 9223372036854775807 + context.depth == 1 };`, nil, "errs"},
			"a permit that errs":   {permitted + `@id("errs") permit(principal, action, resource) when { 9223372036854775807 + context.depth == 1 };`, nil, "errs"},
			"an agent":             {`permit(principal, action, resource);`, func(q *policy.TaskQuestion) { q.Subject.Kind = "agent" }, "nothing to ask"},
			"nobody":               {`permit(principal, action, resource);`, func(q *policy.TaskQuestion) { q.Subject.ID = "" }, "nothing to ask"},
			"no task":              {`permit(principal, action, resource);`, func(q *policy.TaskQuestion) { q.Chain = nil }, "nothing to ask"},
			"a task without facts": {`permit(principal, action, resource);`, func(q *policy.TaskQuestion) { q.Chain[1].Task = nil }, "nothing to ask"},
			"a service": {`permit(principal == Mayfly::Service::"service:ci/audit", action, resource);`, func(q *policy.TaskQuestion) {
				q.Subject = mayfly.Subject{Kind: mayfly.Service, ID: "service:ci/audit", Source: "ci"}
			}, ""},
			"for whom it works":       {`permit(principal, action, resource) when { context.chain has human && context.chain.human == Mayfly::Human::"alice@example.org" };`, nil, ""},
			"for whom it does not":    {`permit(principal, action, resource) when { context.chain has human && context.chain.human == Mayfly::Human::"fay@example.org" };`, nil, "no policy permits"},
			"the agent's own permit":  {`permit(principal is Mayfly::Agent, action, resource);`, nil, "no policy permits"},
			"the profile was removed": {permitted, func(q *policy.TaskQuestion) { q.Chain[1].Profile = nil }, ""},
		} {
			t.Run(action+"/"+name, func(t *testing.T) {
				q := &policy.TaskQuestion{Subject: fay, Chain: []policy.Link{chain(t, everything, everything)[0], chain(t, everything, everything, everything)[2]}, Now: now, SourceIP: "10.1.2.3", TrustDomain: "example.org"}
				if c.change != nil {
					c.change(q)
				}
				var s *policy.Set
				if c.text != "" {
					s = policies(t, c.text)
				}
				ok, reason := may(s, q)
				if ok != (c.reason == "") || !strings.Contains(reason, c.reason) || ok != (reason == "") {
					t.Fatalf("%v, %q; want %q", ok, reason, c.reason)
				}
			})
		}
	}
}
