package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
)

// OpenQuestion is a task that somebody wants to open, or to make a ticket for.
type OpenQuestion struct {
	Decision     string         // id
	Root         mayfly.Subject // the human or service the chain starts from
	Parent       []Link         // the delegating task and all above it, root first; none where the root delegates
	Profile      *mayfly.Profile
	Grants       []mayfly.Grant
	Purpose      mayfly.Purpose
	Agent        mayfly.Evidence
	Evidence     *mayfly.Subject // the workload that a source vouched for, if one did
	Ticket       bool            // a ticket is redeemed
	DelegateOnly bool            // a ticket is made: there is no agent yet
	Now          time.Time
	SourceIP     string
	TrustDomain  string
	Bundle       string
	Policies     *Set
	Approved     []string // needs that are met already, for exactly this opening
}

// DecideOpen asks the terms of q in their order; the first that refuses is
// named, with the OAuth error code that fits it. Where only a forbid with
// @approval stands against it, the answer is needs-approval. How many children a task has is
// not asked here: that is counted where the child is written.
func DecideOpen(q *OpenQuestion) (permit *Permit, d mayfly.Decision) {
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
	return &Permit{decision: q.Decision, issues: !q.DelegateOnly}, d
}

func (q *OpenQuestion) decide(d *mayfly.Decision, lifts *wants) bool {
	// RFC 8693 section 2.2.2, until a term says otherwise: a token that is not
	// acceptable is invalid_request.
	d.Code = "invalid_request"
	if !live(q.Parent, q.Now, d) {
		return false
	}
	if q.Profile == nil {
		return refuse(d, mayfly.TermProfile, "there is no such profile", &mayfly.Next{Action: "none", Detail: "ask the operator which profile to use"})
	}
	if !q.delegatorFits(d, lifts) || !q.profileFits(d) || !q.parentFits(d) {
		return false
	}
	d.Code = ""
	if len(q.Parent) == 0 || q.Policies.empty() {
		return true
	}
	w := q.world()
	for i := range q.Grants {
		if !w.mayHandOn(q.Policies, &q.Parent[len(q.Parent)-1], &q.Grants[i], d, lifts) {
			return false
		}
	}
	return true
}

// delegatorFits: the profile accepts who delegates, and where Cedar says what
// the root may do, it may delegate every grant.
func (q *OpenQuestion) delegatorFits(d *mayfly.Decision, lifts *wants) bool {
	if len(q.Parent) > 0 {
		if above := q.Parent[0].Task.Root; above.Kind != q.Root.Kind || above.ID != q.Root.ID {
			return refuse(d, mayfly.TermDelegator, "delegation mismatch: the delegating task works for somebody else",
				&mayfly.Next{Action: "none", Detail: "delegate from a task of the same delegator"})
		}
		if !accepted(q.Parent, d) {
			return false
		}
		if by := q.Parent[len(q.Parent)-1].Task.Profile; !q.Profile.AcceptsAgent(by) {
			return refuse(d, mayfly.TermDelegator, "the profile "+q.Profile.Name+" does not accept "+by+" as delegator",
				&mayfly.Next{Action: "none", Detail: "delegate to another profile"})
		}
	} else if !q.Profile.Accepts(q.Root) {
		return refuse(d, mayfly.TermDelegator, "the profile "+q.Profile.Name+" does not accept this delegator",
			&mayfly.Next{Action: "none", Detail: "delegate to another profile, or ask its owner to be accepted"})
	}
	if q.Profile.Authority != mayfly.AuthorityPolicy && !rootIsAsked(q.Parent) {
		return true
	}
	w := q.world()
	for i := range q.Grants {
		w.onGrant(&q.Grants[i])
		if !w.askRoot(q.Policies, actionDelegate, d, lifts) {
			d.Code = ""
			return false
		}
	}
	return true
}

// profileFits: the profile is in force, the agent is one of its kind, and what
// is granted is within its ceiling.
func (q *OpenQuestion) profileFits(d *mayfly.Decision) bool {
	p := q.Profile
	for i := range q.Parent {
		if q.Parent[i].Profile == nil {
			return profileGone(q.Parent[i].Task.Profile, d)
		}
	}
	if p.Class == mayfly.Recurring && !q.Now.Before(p.ReviewBy) {
		d.Code = ""
		return refuse(d, mayfly.TermProfile, "the profile "+p.Name+" was to be reviewed by "+p.ReviewBy.Format(time.DateOnly)+", and nothing opens under it until it has been",
			&mayfly.Next{Action: "none", Detail: "ask its owner for a review"})
	}
	if !q.DelegateOnly && !q.attested() {
		d.Code = "unauthorized_client"
		return refuse(d, mayfly.TermProfile, "the agent is not one that the profile "+p.Name+" is for",
			&mayfly.Next{Action: "none", Detail: "show evidence that fits the profile, or use another profile"})
	}
	return q.within(p.Grants, mayfly.TermProfile, "the profile "+p.Name, d)
}

// attested reports whether the agent's evidence fits an entry of the profile.
func (q *OpenQuestion) attested() bool {
	for _, rule := range q.Profile.Attest {
		switch {
		case rule.Source != nil:
			if q.Evidence != nil && q.Evidence.Kind == mayfly.Workload && rule.Source.Accepts(*q.Evidence) {
				return true
			}
		case rule.Client != "":
			if q.Agent.Client == rule.Client {
				return true
			}
		case rule.None:
			if q.Ticket && q.Evidence == nil && q.Agent.Client == "" && !q.Agent.Verified &&
				q.Profile.Risk == mayfly.RiskLow && !q.Profile.KeyOptional {
				return true
			}
		}
	}
	return false
}

// parentFits: the delegating task, and all above it, may have such a child.
func (q *OpenQuestion) parentFits(d *mayfly.Decision) bool {
	if len(q.Parent) == 0 {
		return true
	}
	name, parent := q.Profile.Name, &q.Parent[len(q.Parent)-1]
	depth := parent.Task.Depth + 1
	next := &mayfly.Next{Action: "none", Detail: "do the work in this task, or delegate from further up"}
	if depth > mayfly.MaxDepth || len(q.Parent) > mayfly.MaxDepth {
		return refuse(d, mayfly.TermParent, "the task would be too far below its root; no chain goes deeper", next)
	}
	for i := range q.Parent {
		if p := q.Parent[i].Profile; depth > p.Delegation.Depth {
			return refuse(d, mayfly.TermParent, "the profile "+p.Name+" does not let a chain go this deep", next)
		}
	}
	if !slices.Contains(parent.Profile.Delegation.To, name) {
		return refuse(d, mayfly.TermParent, "the profile "+parent.Profile.Name+" does not delegate to "+name,
			&mayfly.Next{Action: "none", Detail: "delegate to one of: " + strings.Join(parent.Profile.Delegation.To, ", ")})
	}
	for i := range q.Parent {
		if q.Parent[i].Profile.Name == name && !slices.Contains(q.Profile.Delegation.To, name) {
			return refuse(d, mayfly.TermParent, "the profile "+name+" is on this chain already and does not delegate to itself", next)
		}
	}
	for i := len(q.Parent) - 1; i >= 0; i-- {
		above := &q.Parent[i]
		if !q.within(above.Task.Grants, mayfly.TermParent, "the delegating task or one above it", d) ||
			!q.within(above.Profile.Grants, mayfly.TermParent, "the profile "+above.Profile.Name+" above", d) {
			return false
		}
	}
	return true
}

// within asks whether everything granted is within a ceiling.
func (q *OpenQuestion) within(ceiling []mayfly.Grant, term mayfly.Term, whose string, d *mayfly.Decision) bool {
	if !withinAll(q.Grants, ceiling, term, whose, d) {
		d.Code = "invalid_scope"
		return false
	}
	return true
}

// AgainQuestion is another token for a task that exists.
type AgainQuestion struct {
	Decision string // id
	Chain    []Link // root first; the last is the task the token is for
	Now      time.Time
	Bundle   string
}

// DecideAgain asks whether the task still stands: it and all above it live,
// their profiles there and accepting.
func DecideAgain(q *AgainQuestion) (permit *Permit, d mayfly.Decision) {
	defer refuseOnPanic(&permit, &d, q.Decision, q.Bundle)
	d = denial(q.Decision, q.Bundle)
	d.Code = "invalid_request"
	if len(q.Chain) == 0 || !live(q.Chain, q.Now, &d) || !accepted(q.Chain, &d) {
		return nil, d
	}
	for i := range q.Chain {
		if q.Chain[i].Profile == nil {
			profileGone(q.Chain[i].Task.Profile, &d)
			return nil, d
		}
	}
	allow(&d)
	return &Permit{decision: q.Decision, issues: true}, d
}
