package policy

import (
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"github.com/mayfly-id/mayfly"
)

// wants are the yeses that forbids with @approval, and the approvals of
// profiles, ask for.
type wants struct {
	groups   []string // or mayfly.NeedDelegator
	policies []string // ids of what asks
}

func (w *wants) add(group, id string) {
	w.groups = append(w.groups, group)
	w.policies = append(w.policies, id)
}

func (w *wants) join(o wants) {
	w.groups, w.policies = append(w.groups, o.groups...), append(w.policies, o.policies...)
}

// open are the groups that have not said yes, and met those that have: each
// sorted, each once.
func (w *wants) open(approved []string) (open, met []string) {
	for _, g := range w.groups {
		if slices.Contains(approved, g) {
			met = append(met, g)
		} else {
			open = append(open, g)
		}
	}
	return sorted(open), sorted(met)
}

// sorted sorts list in place, each once.
func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// verdict is what the policies say to one principal on one thing.
type verdict struct {
	permits []string // ids
	forbids []string // ids of all that apply, liftable or not
	firm    []string // ids of those among forbids that nothing lifts
	lifts   wants    // of the others
	erred   []string // ids of the policies that could not be evaluated
	broken  bool     // the evaluation itself failed; erred names the policy if one did
}

// ask puts one request to the policies.
func (w *world) ask(s *Set, action cedar.EntityUID, principal being) (v verdict) {
	if s.empty() {
		return v
	}
	p := s.pick(action, principal, w.resource)
	if p.empty() {
		return v
	}
	w.prepare(principal, p.read)
	a, broken, failed := s.ask(&p, w, cedar.Request{Principal: principal.uid, Action: action, Resource: w.resource.uid, Context: w.record(p.read)})
	if failed {
		v.broken = true
		if broken != "" {
			v.erred = []string{broken}
		}
		return v
	}
	v.permits, v.forbids, v.erred = s.ids(a.permits), s.ids(a.forbids), s.ids(a.erred)
	for _, at := range a.forbids {
		if e := &s.policies[at]; e.approval == "" {
			v.firm = append(v.firm, e.id)
		} else {
			v.lifts.add(e.approval, e.id)
		}
	}
	return v
}

func (v *verdict) errs() bool { return v.broken || len(v.erred) > 0 }

// askRoot asks whether the root itself may: without a permit it may not. What a
// yes would lift is added to lifts.
func (w *world) askRoot(s *Set, action cedar.EntityUID, d *mayfly.Decision, lifts *wants) bool {
	v := w.ask(s, action, w.root)
	what := " " + string(action.ID) + " " + string(w.resource.uid.ID)
	next := &mayfly.Next{Action: "none", Detail: "ask the operator for a policy that permits it, or do without"}
	switch {
	case v.errs():
		return erred(d, mayfly.TermDelegator, v.erred)
	case len(v.firm) > 0:
		d.Policies = v.forbids
		return refuse(d, mayfly.TermDelegator, "the delegator may not"+what+" itself: "+named(v.firm)+" "+forbid(v.firm)+" it", next)
	case len(v.permits) == 0:
		d.Policies = nil
		return refuse(d, mayfly.TermDelegator, "the delegator may not"+what+" itself: no policy permits it", next)
	}
	d.Policies = join(d.Policies, v.permits)
	lifts.join(v.lifts)
	return true
}

// askAgent asks the guardrails of a task. Its grants already bound it, so it
// starts from a permit: only a forbid, or an error, refuses. What a yes would
// lift is added to lifts.
func (w *world) askAgent(s *Set, action cedar.EntityUID, l *Link, d *mayfly.Decision, lifts *wants) bool {
	v := w.ask(s, action, w.agent(l.Task))
	switch {
	case v.errs():
		return erred(d, mayfly.TermPolicy, v.erred)
	case len(v.firm) > 0:
		d.Policies = v.forbids
		return refuse(d, mayfly.TermPolicy, named(v.firm)+" "+forbid(v.firm)+" an agent to "+string(action.ID)+" "+string(w.resource.uid.ID),
			&mayfly.Next{Action: "none", Detail: "find another way, or ask the operator about the policy"})
	}
	d.Policies = join(d.Policies, v.permits)
	lifts.join(v.lifts)
	return true
}

func erred(d *mayfly.Decision, term mayfly.Term, ids []string) bool {
	d.Policies = ids
	next := &mayfly.Next{Action: "none", Detail: "tell the operator that the policy must be corrected"}
	if len(ids) == 0 {
		return refuse(d, term, "the policies could not be evaluated, so the answer is no", next)
	}
	return refuse(d, term, named(ids)+" could not be evaluated, and a policy that errs refuses", next)
}

// approved is the last term: where a yes is missing the answer is
// needs-approval. It gives the needs that were met.
func approved(d *mayfly.Decision, lifts *wants, have []string, again string) (met []string, ok bool) {
	open, met := lifts.open(have)
	if len(open) == 0 {
		d.Policies = join(d.Policies, lifts.policies)
		return met, true
	}
	d.Policies = join(nil, lifts.policies)
	d.Needs = open
	refuse(d, mayfly.TermApproval, asks(lifts.policies)+" for the approval of "+whose(open),
		&mayfly.Next{Action: "request", Detail: "ask for the approval, and send " + again + " again after the yes"})
	d.Verdict = mayfly.NeedsApproval
	return met, false
}

func asks(policies []string) string {
	switch policies = join(nil, policies); len(policies) {
	case 0:
		return "this asks"
	case 1:
		return policyOrRule(policies[0]) + " asks"
	default:
		return strings.Join(policies, "; ") + " ask"
	}
}

// policyOrRule names what asks: a policy, or an approval of a profile, whose id
// says what it is.
func policyOrRule(id string) string {
	if strings.HasPrefix(id, rulePrefix) {
		return "the " + id
	}
	return "the policy " + id
}

// rulePrefix begins the id of every approval of a profile, and of no policy.
const rulePrefix = "profile "

// whose lists needs for a sentence.
func whose(needs []string) string {
	words := slices.Clone(needs)
	for i, n := range words {
		if n == mayfly.NeedDelegator {
			words[i] = "the delegator"
		}
	}
	return strings.Join(words, " and ")
}

// join is a and what of b it does not have, in this order.
func join(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// named lists policies for a sentence.
func named(ids []string) string {
	if len(ids) == 1 {
		return "the policy " + ids[0]
	}
	return "the policies " + strings.Join(ids, ", ")
}

func forbid(ids []string) string {
	if len(ids) == 1 {
		return "forbids"
	}
	return "forbid"
}
