// Package policy answers one question: may this be done? It owns the order of
// the terms, Cedar policies and their entities, the sentence that explains a
// refusal, and the [Permit], which only an allow gives. It reads no clock,
// store or network: all it needs is in the question, so the same question has
// the same answer tomorrow. What is within what is decided in the root package.
// Start reading at [Decide].
package policy

import (
	"slices"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Question is one call that a task wants to make.
type Question struct {
	Decision    string // id
	Call        mayfly.Call
	Chain       []Link         // root first; the last is the task that acts
	Token       []mayfly.Grant // what the token is limited to
	TokenWhole  bool           // the token stands for the whole task
	Now         time.Time
	SourceIP    string // where the call came from; "" where there is no such thing
	TrustDomain string
	Bundle      string         // hash of the configuration
	Policies    *Set           // nil is none
	Target      *mayfly.Target // what the call acts on, as configured; nil is none
	Pin         *mayfly.Pin    // the tool's definition that calls are held to; nil is none
	Seen        []string       // labels that the tree under the root task has seen before this call, sorted
	Approved    []string       // needs that are met already, for exactly this call
}

// Link is one task of a chain and its profile as it is configured now; nil where
// a reload removed it.
type Link struct {
	Task    *mayfly.Task
	Profile *mayfly.Profile
}

// Decide asks the terms of q in their order; the first that refuses is named.
// Of the budget only what this call adds to a sum is asked here: what an allow
// spends is in the permit, to be taken in the commit that records it. A human's
// yes is asked for last, so that nobody is asked about a call that something
// else refuses.
//
// The permit is nil unless the decision is an allow. Nothing that goes wrong in
// here allows anything. The snapshot is what the policies saw, kept so that the
// call can be decided again; nil where the task or the token refused before.
func Decide(q *Question) (permit *Permit, d mayfly.Decision, snap *mayfly.Snapshot) {
	defer func() {
		if r := recover(); r != nil {
			permit, d, snap = nil, broken(&d, q.Decision, q.Bundle), nil
		}
	}()
	d = denial(q.Decision, q.Bundle)
	var s spends
	snap, ok := q.decide(&d, &s)
	if !ok {
		return nil, d, snap
	}
	permit = &Permit{question: q, decision: q.Decision, call: callOf(q), spends: s.rootFirst(), labels: snap.Labels}
	allow(&d)
	return permit, d, snap
}

// denial is what a decision is until every term has allowed.
func denial(id, bundle string) mayfly.Decision {
	return mayfly.Decision{ID: id, Bundle: bundle, Verdict: mayfly.Deny, Term: mayfly.TermLiveness, Reason: "there is no task to act for"}
}

func allow(d *mayfly.Decision) {
	d.Verdict, d.Term, d.Code, d.Reason, d.Next = mayfly.Allow, "", "", "", nil
}

// decide asks the terms; false is a refusal, written into d. What the allow
// costs is counted in s.
func (q *Question) decide(d *mayfly.Decision, s *spends) (*mayfly.Snapshot, bool) {
	if len(q.Chain) == 0 || !live(q.Chain, q.Now, d) {
		return nil, false
	}
	acting := &q.Chain[len(q.Chain)-1]
	if !q.TokenWhole && !s.own.find(q.Token, acting.Task, &q.Call) {
		action, detail := q.wayTo(acting)
		return nil, q.miss(d, mayfly.TermToken, "this token does not carry it", q.Token, action, detail)
	}
	saw, unread := q.sight()
	snap := &mayfly.Snapshot{V: 1, Facts: saw.facts, Labels: saw.labels, Seen: saw.seen}
	rules := q.asking()
	for _, rule := range rules {
		snap.Rules = append(snap.Rules, rule.ID)
	}
	// What the grants say is kept with a refusal by the delegator's rights too:
	// whoever decides again under other policies must know it.
	granted := *d
	snap.Granted = q.granted(&granted, s)
	var w *world // what Cedar is asked with, where it is asked
	if !q.Policies.empty() || rootIsAsked(q.Chain) {
		w = q.world(saw)
	}

	if !accepted(q.Chain, d) {
		return snap, false
	}
	var ofRoot, ofAgent wants
	if rootIsAsked(q.Chain) {
		if unread != "" {
			return snap, refuse(d, mayfly.TermDelegator, "the delegator's own rights cannot be decided: "+unread, mendArguments())
		}
		snap.Root = true
		if !w.askRoot(q.Policies, actionUse, d, &ofRoot) {
			return snap, false
		}
	}
	if !snap.Granted {
		granted.Policies = d.Policies
		*d = granted
		return snap, false
	}
	if !q.toolFits(d) {
		return snap, false
	}

	observed := q.observed()
	refused := *d
	for _, rule := range rules {
		ofAgent.add(rule.Group, rule.ID)
	}
	if !q.guardrails(w, unread, &refused, &ofAgent) {
		if !observed {
			*d = refused
			return snap, false
		}
		d.Observed = append(d.Observed, mayfly.TermPolicy)
		d.Policies = join(d.Policies, refused.Policies)
	} else {
		d.Policies = refused.Policies
	}
	if s.unread != "" {
		return snap, refuse(d, mayfly.TermBudget, "what this call adds to a budget is not known: "+s.unread, mendArguments())
	}
	if observed {
		if open, _ := ofAgent.open(q.Approved); len(open) > 0 {
			d.Observed = append(d.Observed, mayfly.TermApproval)
			d.Policies = join(d.Policies, ofAgent.policies)
			ofAgent = wants{}
		}
	}
	ofRoot.join(ofAgent)
	var ok bool
	snap.Lifted, ok = approved(d, &ofRoot, q.Approved, "the same call")
	return snap, ok
}

// sight is what policies see of the call, and why a fact that they are promised
// cannot be read.
func (q *Question) sight() (saw *sight, unread string) {
	saw = &sight{seen: q.Seen}
	if q.Target == nil {
		return saw, ""
	}
	saw.labels = q.Target.LabelsOf(&q.Call, q.Pin)
	facts, err := mayfly.ReadFacts(q.Target.FactsOf(&q.Call, q.Pin), &q.Call)
	if err != nil {
		return saw, mayfly.AsError(err).Message
	}
	saw.facts = facts
	return saw, ""
}

// granted asks the grants of the profile, the task and all above it.
func (q *Question) granted(d *mayfly.Decision, s *spends) bool {
	acting := &q.Chain[len(q.Chain)-1]
	for i := range q.Chain {
		if q.Chain[i].Profile == nil {
			return profileGone(q.Chain[i].Task.Profile, d)
		}
	}
	if !s.own.find(acting.Profile.Grants, acting.Task, &q.Call) {
		return q.miss(d, mayfly.TermProfile, "the profile "+acting.Profile.Name+" never allows it", acting.Profile.Grants, "none", changeProfile)
	}
	if !s.own.find(acting.Task.Grants, acting.Task, &q.Call) {
		return q.miss(d, mayfly.TermTask, "the task was not granted it", acting.Task.Grants, "request", askDelegator)
	}
	for i := range q.Chain[:len(q.Chain)-1] {
		above := &q.Chain[i]
		if !s.above.find(above.Task.Grants, above.Task, &q.Call) {
			return q.miss(d, mayfly.TermParent, "a task above this one was not granted it", above.Task.Grants,
				"request", "ask whoever is above this task; it cannot give what it does not have")
		}
		if !s.above.find(above.Profile.Grants, above.Task, &q.Call) {
			return q.miss(d, mayfly.TermParent, "the profile "+above.Profile.Name+" of a task above this one never allows it", above.Profile.Grants,
				"none", changeProfile)
		}
	}
	s.read(&q.Call)
	return true
}

// toolFits asks whether the tool is still what calls to it are held to.
func (q *Question) toolFits(d *mayfly.Decision) bool {
	if q.Pin == nil || q.Pin.Changed == "" && (q.Call.Definition == "" || q.Call.Definition == q.Pin.Hash) {
		return true
	}
	return refuse(d, mayfly.TermTool, "the tool "+q.Call.Action+" of "+q.Call.Target+" is not defined any more as it was when it was pinned",
		&mayfly.Next{Action: "none", Detail: "the operator can accept it with: mayfly pins accept " + q.Call.Target + " " + q.Call.Action})
}

// observed reports whether the target only observes what guardrails say. What is
// of high risk is never only observed.
func (q *Question) observed() bool {
	if q.Target == nil || !q.Now.Before(q.Target.ObserveUntil) {
		return false
	}
	for i := range q.Chain {
		if p := q.Chain[i].Profile; p == nil || p.Risk == mayfly.RiskHigh {
			return false
		}
	}
	return true
}

// asking are the approvals that profiles of the chain ask for about the call: a
// task above does not lose its own by delegating.
func (q *Question) asking() (asking []*mayfly.ApprovalRule) {
	for i := range q.Chain {
		p := q.Chain[i].Profile
		if p == nil {
			continue
		}
		for j := range p.Approvals {
			if asksFor(&p.Approvals[j], &q.Call) {
				asking = append(asking, &p.Approvals[j])
			}
		}
	}
	return asking
}

// guardrails asks what the policies say of the agent.
func (q *Question) guardrails(w *world, unread string, d *mayfly.Decision, lifts *wants) bool {
	if unread != "" {
		return refuse(d, mayfly.TermPolicy, unread, mendArguments())
	}
	if q.Policies.empty() {
		return true
	}
	return w.askAgent(q.Policies, actionUse, &q.Chain[len(q.Chain)-1], d, lifts)
}

// asksFor reports whether a rule is about a call. One whose arguments cannot be
// read, or are of another type than the rule speaks of, is: a target may read
// more into it than we do.
func asksFor(rule *mayfly.ApprovalRule, c *mayfly.Call) bool {
	if !rule.Calls.Covers(c) {
		return false
	}
	if fits, _ := rule.Calls.Allows(*c); fits {
		return true
	}
	facts := rule.Calls.Facts()
	for _, name := range rule.Calls.Where.Arguments() {
		f := mayfly.Fact{Name: name}
		if i := slices.IndexFunc(facts, func(have mayfly.Fact) bool { return have.Name == name }); i >= 0 {
			f = facts[i]
		}
		if !readable(f, c) {
			return true
		}
	}
	return false
}

// readable reports whether f's argument is missing or can be read: as f's type,
// or where f has none, as any.
func readable(f mayfly.Fact, c *mayfly.Call) bool {
	as := []mayfly.FactType{f.Type}
	if f.Type == "" { // the rule's condition says nothing of its type
		as = []mayfly.FactType{mayfly.FactString, mayfly.FactDecimal, mayfly.FactLong, mayfly.FactBool, mayfly.FactStrings}
	}
	for _, f.Type = range as {
		f.Soft = false
		if _, err := mayfly.ReadFacts([]mayfly.Fact{f}, c); err == nil {
			return true
		}
	}
	return false
}

func mendArguments() *mayfly.Next {
	return &mayfly.Next{Action: "retry", Detail: "change the arguments to what is allowed and send the call again"}
}

// What can be done about a call that no grant covers.
const (
	askDelegator  = "ask whoever delegated this task for one that has this grant"
	changeProfile = "only a change of the profile could allow this"
)

// wayTo is what can be done about a call that a token does not carry: another
// token of the task only helps where the task has the grant.
func (q *Question) wayTo(acting *Link) (action, detail string) {
	switch {
	case covered(acting.Task.Grants, &q.Call):
		return "request", "exchange the task's own token for one that names this grant"
	case acting.Profile != nil && covered(acting.Profile.Grants, &q.Call):
		return "request", askDelegator
	}
	return "none", changeProfile
}

// covered reports whether some grant could allow c with the right arguments.
func covered(grants []mayfly.Grant, c *mayfly.Call) bool {
	for i := range grants {
		if grants[i].Covers(c) {
			return true
		}
	}
	return false
}

// miss refuses because no grant of a list allows the call. Where only the
// arguments do not fit, the call can be put right; else action and detail say
// what can be done.
func (q *Question) miss(d *mayfly.Decision, term mayfly.Term, who string, grants []mayfly.Grant, action, detail string) bool {
	_, _, why := mayfly.Match(grants, q.Call)
	next := &mayfly.Next{Action: action, Detail: detail}
	if action == "request" {
		next.Grant = q.Call.Grant()
	}
	if covered(grants, &q.Call) {
		next = &mayfly.Next{Action: "retry", Detail: "change the arguments to what is allowed and send the call again"}
	}
	return refuse(d, term, who+": "+why, next)
}

// refuse writes a refusal into d.
func refuse(d *mayfly.Decision, term mayfly.Term, reason string, next *mayfly.Next) bool {
	d.Verdict, d.Term, d.Reason, d.Next = mayfly.Deny, term, reason, next
	return false
}

// live asks whether every task of a chain is, and whether it is one chain.
func live(chain []Link, now time.Time, d *mayfly.Decision) bool {
	over := func(reason string) bool {
		return refuse(d, mayfly.TermLiveness, reason, &mayfly.Next{Action: "open", Detail: "open a new task"})
	}
	for i := range chain {
		t := chain[i].Task
		if t == nil || i == 0 && t.Parent != "" || i > 0 && t.Parent != chain[i-1].Task.ID {
			return over("the chain of this task is not complete; open a new one")
		}
		state, why := t.State(now)
		switch {
		case state == mayfly.Live:
		case i == len(chain)-1:
			return over("the task is over (" + string(why) + "); open a new one")
		default:
			return over("a task above this one is over (" + string(why) + "), and this one with it; open a new one")
		}
	}
	return true
}

// accepted asks whether each profile still accepts who delegated to it. A
// profile that is gone is for its own term.
func accepted(chain []Link, d *mayfly.Decision) bool {
	for i := range chain {
		p := chain[i].Profile
		if p == nil {
			continue
		}
		ok := false
		if i == 0 {
			ok = p.Accepts(chain[i].Task.Root)
		} else {
			ok = p.AcceptsAgent(chain[i-1].Task.Profile)
		}
		if !ok {
			return refuse(d, mayfly.TermDelegator, "the profile "+p.Name+" does not accept this delegator any more",
				&mayfly.Next{Action: "none", Detail: "somebody whom the profile accepts must delegate a new task"})
		}
	}
	return true
}

func profileGone(name string, d *mayfly.Decision) bool {
	return refuse(d, mayfly.TermProfile, "the profile "+name+" was removed from the configuration",
		&mayfly.Next{Action: "none", Detail: "ask the operator which profile to use"})
}

// rootIsAsked reports whether some profile of a chain takes the root's rights
// from Cedar.
func rootIsAsked(chain []Link) bool {
	for i := range chain {
		if p := chain[i].Profile; p != nil && p.Authority == mayfly.AuthorityPolicy {
			return true
		}
	}
	return false
}

// Visible reports whether some grant of every term could allow q's call with the
// right arguments. It filters what an agent is shown and decides nothing.
func Visible(q *Question) bool {
	for _, l := range q.Chain {
		if l.Task == nil || l.Profile == nil || !covered(l.Task.Grants, &q.Call) || !covered(l.Profile.Grants, &q.Call) {
			return false
		}
	}
	return len(q.Chain) > 0 && (q.TokenWhole || covered(q.Token, &q.Call))
}

// refuseOnPanic makes a denial of whatever went wrong.
func refuseOnPanic(permit **Permit, d *mayfly.Decision, decision, bundle string) {
	if recover() != nil {
		*permit, *d = nil, broken(d, decision, bundle)
	}
}

// broken is the denial for a decision that went wrong at d.
func broken(d *mayfly.Decision, decision, bundle string) mayfly.Decision {
	b := mayfly.Decision{ID: decision, Bundle: bundle, Policies: d.Policies}
	refuse(&b, mayfly.TermPolicy, "the rules could not be evaluated, so the answer is no; tell the operator",
		&mayfly.Next{Action: "none", Detail: "the operator can look up this decision"})
	return b
}
