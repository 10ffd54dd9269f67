package policy

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mayfly-id/mayfly"
)

// each draws many questions to sets of policies of which some err.
func each(t *testing.T, do func(t *rapid.T, q *Question)) {
	t.Helper()
	checks(t, 2000)
	rapid.Check(t, func(t *rapid.T) {
		s, text := drawSet(t)
		t.Log(text)
		for range 10 {
			do(t, drawQuestion(t, s))
		}
	})
}

// said is what plain Cedar says to a question: of the root where it is asked,
// and of the agent.
func said(t *rapid.T, q *Question) (root, agent plain) {
	saw, _ := q.sight()
	w := q.world(saw)
	if rootIsAsked(q.Chain) {
		root = askPlain(t, q.Policies, w, actionUse, w.root)
	}
	return root, askPlain(t, q.Policies, w, actionUse, w.agent(q.Chain[len(q.Chain)-1].Task))
}

// An allow is within what every task and profile of the chain, and the token,
// has; and no policy that forbids it, or errs, was passed over: only an approval
// passes over those that ask for one, and only a target that is observed passes
// over a guardrail.
func TestAnAllowIsWithinEveryTerm(t *testing.T) {
	told := map[mayfly.Term]int{}
	each(t, func(t *rapid.T, q *Question) {
		permit, d, _ := Decide(q)
		told[d.Term]++
		if (permit != nil) != (d.Verdict == mayfly.Allow) {
			t.Fatalf("the permit is %v of %+v", permit, d)
		}
		if d.Reason == broken(&d, "", "").Reason {
			t.Fatalf("the evaluation broke: %+v", d)
		}
		if d.Verdict == mayfly.Deny && d.Term != mayfly.TermApproval && d.Next == nil {
			t.Fatalf("nothing is said to do next: %+v", d)
		}
		if d.Verdict != mayfly.Allow {
			return
		}
		lists := [][]mayfly.Grant{}
		if !q.TokenWhole {
			lists = append(lists, q.Token)
		}
		for _, l := range q.Chain {
			if state, _ := l.Task.State(q.Now); state != mayfly.Live {
				t.Fatalf("a task of the chain is over: %+v", l.Task)
			}
			lists = append(lists, l.Task.Grants, l.Profile.Grants)
		}
		for _, list := range lists {
			if _, ok, _ := mayfly.Match(list, q.Call); !ok {
				t.Fatalf("%v do not allow %s", list, q.Call.Grant())
			}
		}
		if q.Pin != nil && (q.Pin.Changed != "" || q.Call.Definition != "" && q.Call.Definition != q.Pin.Hash) {
			t.Fatalf("the tool is another than is pinned: %+v", q.Pin)
		}
		root, agent := said(t, q)
		if rootIsAsked(q.Chain) && (len(root.permits) == 0 || len(root.firm) > 0 || len(root.erred) > 0) {
			t.Fatalf("the root may not: %+v", root)
		}
		if !slices.Contains(d.Observed, mayfly.TermPolicy) && (len(agent.firm) > 0 || len(agent.erred) > 0) {
			t.Fatalf("the guardrails forbid: %+v", agent)
		}
		asked := slices.Clone(root.lifts)
		if !slices.Contains(d.Observed, mayfly.TermApproval) {
			for _, rule := range q.asking() {
				asked = append(asked, rule.Group)
			}
			if !slices.Contains(d.Observed, mayfly.TermPolicy) {
				asked = append(asked, agent.lifts...)
			}
		}
		for _, group := range asked {
			if !slices.Contains(q.Approved, group) {
				t.Fatalf("%s was not asked: %+v", group, d)
			}
		}
		high := slices.ContainsFunc(q.Chain, func(l Link) bool { return l.Profile.Risk == mayfly.RiskHigh })
		if len(d.Observed) > 0 && (high || !q.Now.Before(q.Target.ObserveUntil)) {
			t.Fatalf("this is not only observed: %+v", d)
		}
	})
	for _, term := range mayfly.Terms {
		if told[term] == 0 {
			t.Errorf("no question was decided by %s: %v", term, told)
		}
	}
	if told[""] < 500 {
		t.Errorf("too little was allowed: %v", told)
	}
}

// A yes turns needs-approval into an allow, or into asking the others. What any
// other term refused it refuses as before.
func TestAYesLiftsOnlyWhatAsksForIt(t *testing.T) {
	lifted := 0
	each(t, func(t *rapid.T, q *Question) {
		without := *q
		without.Approved = nil
		_, before, _ := Decide(&without)
		_, after, _ := Decide(q)
		switch {
		case before.Verdict == mayfly.NeedsApproval && after.Verdict != mayfly.Deny:
			for _, need := range after.Needs {
				if !slices.Contains(before.Needs, need) || slices.Contains(q.Approved, need) {
					t.Fatalf("a yes makes it ask for %s: %+v", need, after)
				}
			}
			if after.Verdict == mayfly.Allow {
				lifted++
			}
		case !reflect.DeepEqual(before, after):
			// A target that is observed records what it would have asked.
			before.Observed, after.Observed, before.Policies, after.Policies = nil, nil, nil, nil
			if !q.observed() || !reflect.DeepEqual(before, after) {
				t.Fatalf("a yes to something makes %+v of %+v", after, before)
			}
		}
	})
	if lifted < 50 {
		t.Errorf("only %d were lifted", lifted)
	}
}

// A target that is observed lets through what the terms policy and approval
// refuse. What another term refuses it refuses as before.
func TestObservingLiftsNoOtherTerm(t *testing.T) {
	lifted := 0
	each(t, func(t *rapid.T, q *Question) {
		if q.Target == nil {
			return
		}
		firm, seen := *q.Target, *q.Target
		firm.ObserveUntil, seen.ObserveUntil = time.Time{}, q.Now.Add(time.Hour)
		without, with := *q, *q
		without.Target, with.Target = &firm, &seen
		_, before, _ := Decide(&without)
		_, after, _ := Decide(&with)
		guardrail := before.Term == mayfly.TermPolicy || before.Term == mayfly.TermApproval
		switch {
		case !guardrail || !with.observed():
			if !reflect.DeepEqual(before, after) {
				t.Fatalf("observing makes %+v of %+v", after, before)
			}
		case after.Verdict == mayfly.Allow:
			lifted++
			if len(after.Observed) == 0 {
				t.Fatalf("what was lifted is not said: %+v", after)
			}
		case after.Term != mayfly.TermBudget && after.Term != mayfly.TermApproval:
			t.Fatalf("observing makes %+v of %+v", after, before)
		}
	})
	if lifted < 50 {
		t.Errorf("only %d were lifted", lifted)
	}
}

// One more forbid, or a policy that errs, never allows what was not allowed.
func TestAForbidOnlyTakesAway(t *testing.T) {
	each(t, func(t *rapid.T, q *Question) {
		_, before, _ := Decide(q)
		for _, more := range []string{
			`@id("more") forbid (principal, action, resource);`,
			`@id("more") @approval("nobody") forbid (principal, action, resource);`,
			`@id("more") permit (principal is Mayfly::Agent, action, resource) when { context.depth + 9223372036854775807 + 1 > 0 };`,
			`@id("more") @approval("a") forbid (principal, action, resource) when { context.nothing };`,
		} {
			wider := &Set{policies: slices.Concat(q.Policies.policies, unchecked(t, more).policies)}
			wider.index()
			narrow := *q
			narrow.Policies = wider
			_, after, _ := Decide(&narrow)
			switch {
			case after.Verdict == mayfly.Allow && (before.Verdict != mayfly.Allow || len(after.Observed) == 0):
				t.Fatalf("with %s it is %+v, without %+v", more, after, before)
			case after.Verdict == mayfly.NeedsApproval && before.Verdict == mayfly.Deny:
				t.Fatalf("with %s it is %+v, without %+v", more, after, before)
			}
		}
	})
}

// S-97: what was decided is decided again as it was, under the same policies,
// from what was recorded; and the steps of its explanation are all terms in
// order, of which one decided where it was not allowed.
func TestS97ADecisionIsDecidedAgainAsItWas(t *testing.T) {
	again := 0
	each(t, func(t *rapid.T, q *Question) {
		_, d, snap := Decide(q)
		decided := 0
		steps := Explain(d, snap)
		for i, step := range steps {
			if step.Term != mayfly.Terms[i] {
				t.Fatalf("the terms are %+v", steps)
			}
			if step.State == StepDecided {
				decided++
			}
			if step.State == StepDecided != (d.Verdict != mayfly.Allow && d.Term == step.Term) {
				t.Fatalf("%+v explains %+v", steps, d)
			}
		}
		if len(steps) != len(mayfly.Terms) || decided > 1 || (decided == 0) != (d.Verdict == mayfly.Allow) {
			t.Fatalf("%+v explains %+v", steps, d)
		}
		r := &Recorded{
			Decision: d, Call: mayfly.Call{Kind: q.Call.Kind, Target: q.Call.Target, Action: q.Call.Action}, Chain: q.Chain, Snapshot: snap,
			At: q.Now, SourceIP: q.SourceIP, TrustDomain: q.TrustDomain, Observed: q.observed(),
		}
		verdict, term, policies := Redecide(r, q.Policies)
		if verdict != d.Verdict || term != d.Term {
			t.Fatalf("%s %s %v again, and was %+v with %+v", verdict, term, policies, d, snap)
		}
		again++
	})
	if again < 1000 {
		t.Errorf("only %d were decided again", again)
	}
}
