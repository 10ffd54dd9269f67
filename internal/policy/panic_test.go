package policy

import (
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"

	"github.com/mayfly-id/mayfly"
)

// TestAPanicRefuses breaks the engine from inside, with a policy that is not
// there.
func TestAPanicRefuses(t *testing.T) {
	now := time.Now()
	g, err := mayfly.ParseGrant("mcp:bank:*")
	if err != nil {
		t.Fatal(err)
	}
	task := &mayfly.Task{ID: mayfly.NewTaskID(now), Profile: "p", Root: mayfly.Subject{Kind: mayfly.Human, ID: "alice"},
		Deadline: now.Add(time.Hour), IdleUntil: now.Add(time.Hour), Grants: []mayfly.Grant{g}}
	profile := &mayfly.Profile{Name: "p", Delegators: []mayfly.DelegatorRule{{Human: &mayfly.HumanRule{}}}, Grants: []mayfly.Grant{g}}
	q := &Question{
		Decision: "dec_1", Bundle: "b", Now: now, TokenWhole: true,
		Call:     mayfly.Call{Kind: "mcp", Target: "bank", Action: "pay"},
		Chain:    []Link{{task, profile}},
		Policies: &Set{policies: []entry{{id: "whole", policy: parsed(t)}, {id: "broken", policy: parsed(t)}}},
	}
	q.Policies.index()
	q.Policies.policies[1].policy = nil
	permit, d, _ := Decide(q)
	if permit != nil || d.Verdict != mayfly.Deny || d.Term != mayfly.TermPolicy || len(d.Policies) != 1 || d.Policies[0] != "broken" {
		t.Errorf("permit %v, %+v; want a denial that names the policy", permit, d)
	}
}

func parsed(t *testing.T) *cedar.Policy {
	t.Helper()
	list, err := cedar.NewPolicyListFromBytes("p.cedar", []byte(`forbid(principal is Mayfly::Agent, action, resource) when { context.depth == 99 };`))
	if err != nil {
		t.Fatal(err)
	}
	return list[0]
}
