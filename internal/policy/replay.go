package policy

import (
	"slices"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Recorded is a decision on a call as it was recorded, with what is needed to
// decide it again under other policies. It is only read, so that many decisions
// of one task can share its chain.
type Recorded struct {
	Decision mayfly.Decision
	Call     mayfly.Call // kind, target and action
	// Chain is root first. Of each task its ID and Profile are read, and whether
	// its Agent was Verified; of the last also Root, Purpose and Depth. Of each
	// profile Name, Owner, Risk and Approvals.
	Chain       []Link
	Snapshot    *mayfly.Snapshot // nil where the policies were not reached
	At          time.Time
	SourceIP    string
	TrustDomain string
	Observed    bool // the target was only observed
}

// Redecide decides again what policies decide: the terms delegator, policy and
// approval. A refusal by another term, or by one of these for a reason that is
// not in the policies, stays as it was recorded. The approvals of profiles are
// taken as they were found then.
func Redecide(r *Recorded, s *Set) (verdict mayfly.Verdict, term mayfly.Term, policies []string) {
	d := denial(r.Decision.ID, r.Decision.Bundle)
	defer func() {
		if recover() != nil {
			d = broken(&d, "", "")
			verdict, term, policies = d.Verdict, d.Term, d.Policies
		}
	}()
	if !r.decidedByPolicies() {
		return r.Decision.Verdict, r.Decision.Term, r.Decision.Policies
	}
	r.decide(s, &d)
	return d.Verdict, d.Term, d.Policies
}

// decidedByPolicies reports whether other policies could make it another
// decision.
func (r *Recorded) decidedByPolicies() bool {
	if r.Snapshot == nil || len(r.Chain) == 0 || r.Chain[len(r.Chain)-1].Task == nil {
		return false
	}
	d := &r.Decision
	switch {
	case d.Verdict == mayfly.Allow, d.Verdict == mayfly.NeedsApproval:
		return true
	case d.Term == mayfly.TermDelegator:
		return r.Snapshot.Root
	case d.Term == mayfly.TermPolicy:
		return len(d.Policies) > 0 // else an argument could not be read
	default:
		return false
	}
}

func (r *Recorded) decide(s *Set, d *mayfly.Decision) {
	snap, acting := r.Snapshot, &r.Chain[len(r.Chain)-1]
	w := newWorld(acting.Task.Root, r.Chain, acting.Profile)
	w.trustDomain, w.now, w.sourceIP = r.TrustDomain, r.At, r.SourceIP
	w.purpose, w.depth = acting.Task.Purpose, acting.Task.Depth
	w.saw = &sight{facts: snap.Facts, labels: snap.Labels, seen: snap.Seen}
	w.on(r.Call.Kind, r.Call.Target, r.Call.Action)

	var ofRoot, ofAgent wants
	if snap.Root && !w.askRoot(s, actionUse, d, &ofRoot) {
		return
	}
	if !snap.Granted {
		// The delegator may now, and the grants still do not let it. Which of them
		// was not recorded, and a denial stays a denial.
		d.Verdict, d.Term, d.Policies = mayfly.Deny, r.Decision.Term, r.Decision.Policies
		return
	}
	r.rules(&ofAgent)
	refused := *d
	if !w.askAgent(s, actionUse, acting, &refused, &ofAgent) && !r.Observed {
		*d = refused
		return
	}
	d.Policies = join(d.Policies, refused.Policies)
	if r.Observed {
		ofAgent = wants{}
	}
	ofRoot.join(ofAgent)
	if _, ok := approved(d, &ofRoot, snap.Lifted, "the same call"); ok {
		allow(d)
	}
}

// rules adds the approvals of profiles that were found to be about the call.
func (r *Recorded) rules(lifts *wants) {
	for i := range r.Chain {
		p := r.Chain[i].Profile
		if p == nil {
			continue
		}
		for j := range p.Approvals {
			if rule := &p.Approvals[j]; slices.Contains(r.Snapshot.Rules, rule.ID) {
				lifts.add(rule.Group, rule.ID)
			}
		}
	}
}
