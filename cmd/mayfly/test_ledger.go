package main

import (
	"fmt"
	"slices"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
)

// decide answers q, after the calls that went before it in the same task. Each of
// those must be one that can have been: it is allowed, with the approval that it
// asks for.
func (c *testCase) decide(d *document, at path, q *policy.Question, config *Config) mayfly.Decision {
	spent := ledger{counts: map[policy.Spend]int64{}, calls: map[mayfly.TaskID]int64{}}
	for i := range c.Given.Earlier {
		place, before := at.to("given", "earlier", i), len(d.bad)
		earlier := *q
		earlier.Pin = nil
		if c.Given.Earlier[i].ask(d, place, &earlier, config); len(d.bad) > before {
			return mayfly.Decision{}
		}
		decision := spent.decide(&earlier)
		if decision.Verdict == mayfly.NeedsApproval {
			earlier.Approved = decision.Needs
			decision = spent.decide(&earlier)
		}
		if decision.Verdict != mayfly.Allow {
			d.wrong(place, "this call cannot have gone before: it is refused by %s: %s", decision.Term, decision.Reason)
			return mayfly.Decision{}
		}
		q.Seen = earlier.Seen
	}
	return spent.decide(q)
}

// ledger counts what calls spend, as the store does. All of a case happens in one
// moment, so a rate counts every call.
type ledger struct {
	counts map[policy.Spend]int64 // by whom and for what: without limit and amount
	calls  map[mayfly.TaskID]int64
}

// decide answers q and, where it is allowed, spends what it costs and adds what
// it touches to what was seen.
func (l *ledger) decide(q *policy.Question) mayfly.Decision {
	permit, decision, _ := policy.Decide(q)
	if permit == nil {
		return decision
	}
	for _, link := range q.Chain {
		if t := link.Task; t.Budget > 0 && l.calls[t.ID] >= t.Budget {
			return overspent(decision, "the calls this task, or one above it, may make are spent")
		}
	}
	for _, s := range permit.Spends() {
		if l.counts[account(s)]+amount(s) > s.Max {
			return overspent(decision, fmt.Sprintf("the budget of %s has not enough left", q.Call.Grant()))
		}
	}
	for _, s := range permit.Spends() {
		l.counts[account(s)] += amount(s)
	}
	for _, link := range q.Chain {
		l.calls[link.Task.ID]++
	}
	seen := append(slices.Clone(q.Seen), permit.Labels()...)
	slices.Sort(seen)
	q.Seen = slices.Compact(seen)
	return decision
}

func overspent(d mayfly.Decision, reason string) mayfly.Decision {
	d.Verdict, d.Term, d.Reason = mayfly.Deny, mayfly.TermBudget, reason
	return d
}

// account is what s is counted under.
func account(s policy.Spend) policy.Spend {
	return policy.Spend{Task: s.Task, Grant: s.Grant, Kind: s.Kind, Argument: s.Argument}
}

// amount is what one call adds.
func amount(s policy.Spend) int64 {
	if s.Kind == policy.SpendSum {
		return s.Amount
	}
	return 1
}
