package policy

import (
	"time"

	"github.com/mayfly-id/mayfly"
)

// WidenQuestion is a task that is to do more while it runs.
type WidenQuestion struct {
	Decision    string         // id
	Chain       []Link         // root first; the last is the task that is to do more
	Grants      []mayfly.Grant // what is asked for, cut to the profile and all above already
	Named       []mayfly.Grant // what the ticket, consent or opening request named
	Approved    []string       // needs that are met already, for exactly this request
	Now         time.Time
	SourceIP    string
	TrustDomain string
	Bundle      string
	Policies    *Set
}

// DecideWiden asks the terms of q in their order: the chain stands, and what is
// asked for is within the profile and all above. Policies can only refuse, or
// name who must say yes. What opening did not name needs a yes in any case: of
// the groups that policies name for it, else of the root delegator.
func DecideWiden(q *WidenQuestion) (permit *Permit, d mayfly.Decision) {
	defer refuseOnPanic(&permit, &d, q.Decision, q.Bundle)
	d = denial(q.Decision, q.Bundle)
	var lifts wants
	if !q.decide(&d, &lifts) {
		return nil, d
	}
	if _, ok := approved(&d, &lifts, q.Approved, "the same request"); !ok {
		return nil, d
	}
	allow(&d)
	return &Permit{decision: q.Decision, widens: true}, d
}

func (q *WidenQuestion) decide(d *mayfly.Decision, lifts *wants) bool {
	if len(q.Chain) == 0 || !live(q.Chain, q.Now, d) || !accepted(q.Chain, d) {
		return false
	}
	acting := &q.Chain[len(q.Chain)-1]
	w := newWorld(acting.Task.Root, q.Chain, acting.Profile)
	w.trustDomain, w.now, w.sourceIP = q.TrustDomain, q.Now, q.SourceIP
	w.purpose, w.depth = acting.Task.Purpose, acting.Task.Depth
	if rootIsAsked(q.Chain) {
		for i := range q.Grants {
			w.onGrant(&q.Grants[i])
			if !w.askRoot(q.Policies, actionDelegate, d, lifts) {
				return false
			}
		}
	}
	for i := range q.Chain {
		if q.Chain[i].Profile == nil {
			return profileGone(q.Chain[i].Task.Profile, d)
		}
	}
	if !withinAll(q.Grants, acting.Profile.Grants, mayfly.TermProfile, "the profile "+acting.Profile.Name, d) {
		return false
	}
	for i := len(q.Chain) - 2; i >= 0; i-- {
		above := &q.Chain[i]
		if !withinAll(q.Grants, above.Task.Grants, mayfly.TermParent, "a task above this one", d) ||
			!withinAll(q.Grants, above.Profile.Grants, mayfly.TermParent, "the profile "+above.Profile.Name+" above", d) {
			return false
		}
	}
	for i := range q.Grants {
		var asked wants
		if !w.mayHandOn(q.Policies, acting, &q.Grants[i], d, &asked) {
			return false
		}
		if len(asked.groups) == 0 && mayfly.Within(q.Grants[i:i+1], q.Named) != nil {
			asked.groups = []string{mayfly.NeedDelegator}
		}
		lifts.join(asked)
	}
	return true
}

// withinAll asks whether everything asked for is within a ceiling.
func withinAll(asked, ceiling []mayfly.Grant, term mayfly.Term, whose string, d *mayfly.Decision) bool {
	if len(asked) == 0 {
		return refuse(d, term, "nothing was asked for", &mayfly.Next{Action: "retry", Detail: "say what the task needs"})
	}
	if err := mayfly.Within(asked, ceiling); err != nil {
		return refuse(d, term, whose+" has less: "+mayfly.AsError(err).Message, &mayfly.Next{Action: "retry", Detail: "ask for less"})
	}
	return true
}
