package authority

import (
	"context"
	"strings"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Evaluation asks what would be decided about a call, by somebody else who
// enforces the answer (AuthZEN).
type Evaluation struct {
	Agent     string // the task's identity, a SPIFFE ID
	Action    string // use
	Kind      string // tool or route
	Resource  string // target/tool, or target/METHOD/path
	Arguments mayfly.Arguments
}

// Evaluate decides on a call that somebody else will make or refuse: by the same
// rules as [Authority.Admit], of the whole task. It is recorded, looks at what is
// left of budgets and for an approval that was given, and spends nothing: one
// who acts on the answer twice has spent nothing twice. The operator may ask
// about any task, a task about itself. What does not exist is refused like what
// is forbidden.
func (a *Authority) Evaluate(ctx context.Context, p Presented, evaluations []Evaluation, stop func(mayfly.Decision) bool) ([]mayfly.Decision, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return nil, err
	}
	if !w.operator && w.session == nil {
		return nil, a.refuse(ctx, w.refused("evaluate"), mayfly.Errorf(mayfly.Denied,
			"only the operator, or a task about itself, may ask; use the admin socket or the task's own token"), nil)
	}
	var answers []mayfly.Decision
	for i, e := range evaluations {
		burn := w.burn(a)
		if i > 0 {
			burn = nil
		}
		d, err := a.evaluate(ctx, w, &e, p, burn)
		if err != nil {
			return nil, err
		}
		answers = append(answers, d)
		if stop(d) {
			break
		}
	}
	return answers, nil
}

func (a *Authority) evaluate(ctx context.Context, w who, e *Evaluation, p Presented, burn func(*store.Tx)) (mayfly.Decision, error) {
	now := a.clock.now()
	b := a.Bundle()
	call, ok := e.call()
	task, known := a.agentOf(e.Agent)
	unknown := func() (mayfly.Decision, error) {
		d := mayfly.Decision{
			ID: mayfly.NewID("dec", now), Bundle: b.Hash, Verdict: mayfly.Deny, Term: mayfly.TermLiveness,
			Reason: "there is no such agent, action or resource for you", Next: &mayfly.Next{Action: "none"},
		}
		r := w.refused("evaluate")
		r.Decision = d.ID
		refusal := mayfly.Errorf(mayfly.Denied, "%s", d.Reason)
		refusal.Term = d.Term
		err := a.refuse(ctx, r, refusal, burn)
		if mayfly.KindOf(err) == mayfly.Denied {
			err = nil
		}
		return d, err
	}
	if !ok || !known || w.session != nil && w.session.Task() != task {
		return unknown()
	}
	chain, err := a.chainOf(ctx, task, now)
	if mayfly.KindOf(err) == mayfly.NotFound || err == nil && mayfly.AgentID(b.TrustDomain, parentOf(chain).Profile, task) != e.Agent {
		return unknown()
	} else if err != nil {
		return mayfly.Decision{}, err
	}
	// Whoever enforces the answer calls the tool as it is pinned, which is what an
	// approval for it is bound to.
	if pin := a.pinFor(b.Targets[call.Target], &call); pin != nil {
		call.Definition = pin.Hash
	}
	q, err := a.question(ctx, b, chain, call, now)
	if err != nil {
		return mayfly.Decision{}, err
	}
	q.TokenWhole, q.SourceIP = true, p.Source
	permit, d, snapshot := policy.Decide(q)
	if d.Verdict == mayfly.NeedsApproval {
		ap, err := a.approvalFor(ctx, chain, q, &d)
		if err != nil {
			return mayfly.Decision{}, err
		}
		switch {
		case ap.State(now) == mayfly.Approved:
			q.Approved = ap.Needs
			if permit, d, snapshot = policy.Decide(q); permit != nil {
				d.Approval = ap.ID
			}
		case !isNew(ap, &d) && ap.State(now) == mayfly.Waiting:
			d.Approval, d.Next = ap.ID, a.askedFor(ap)
		default:
			d.Next = &mayfly.Next{Action: "request", Grant: call.Grant(), Detail: "make the call through the gateway; it is then put before a human"}
		}
	}
	if permit != nil && q.Target == nil {
		permit = nil
		noTarget(&d)
	}
	if permit != nil {
		for _, sp := range permit.Spends() {
			room, err := a.room(ctx, sp, now)
			if err != nil {
				return mayfly.Decision{}, err
			}
			if !room {
				d.Verdict, d.Term, d.Approval = mayfly.Deny, mayfly.TermBudget, ""
				d.Reason, d.Next = a.spentBudget(ctx, "budget:"+string(sp.Task)+":"+sp.Grant, &call, permit.Spends(), now)
				break
			}
		}
		for _, t := range chain {
			if d.Verdict == mayfly.Allow && t.Budget > 0 {
				row, err := a.db.Task(ctx, t.ID)
				if err != nil {
					return mayfly.Decision{}, err
				}
				if row.Calls >= row.Budget {
					d.Verdict, d.Term, d.Approval = mayfly.Deny, mayfly.TermBudget, ""
					d.Reason, d.Next = a.spentBudget(ctx, "task budget:"+string(t.ID), &call, nil, now)
				}
			}
		}
	}
	record := mayfly.CallDecided{
		Decision: d, Task: task, Root: parentOf(chain).Root, Surface: "authzen", Target: call.Target, Action: call.Action,
		Digest: call.Digest, Size: call.Size, Source: p.Source, Trace: p.Trace.ID, Snapshot: snapshot,
	}
	if w.session != nil {
		record.JTI = w.session.verified.Claims.JTI
	}
	err = a.record(ctx, record, burn)
	if refusedBy(err) == guardProof {
		return mayfly.Decision{}, a.refuse(ctx, w.refused("evaluate"), errReplay(), nil)
	}
	return d, err
}

// call is what e asks about, in canonical form.
func (e *Evaluation) call() (mayfly.Call, bool) {
	target, action, found := strings.Cut(e.Resource, "/")
	if !found || e.Action != "use" {
		return mayfly.Call{}, false
	}
	c := mayfly.Call{Kind: "mcp", Target: target, Action: action, Arguments: e.Arguments}
	switch e.Kind {
	case "tool":
	case "route":
		method, path, found := strings.Cut(action, "/")
		if !found {
			return mayfly.Call{}, false
		}
		c.Kind, c.Action = "http", method+":/"+path
	default:
		return mayfly.Call{}, false
	}
	_, err := mayfly.ParseGrant(c.Grant())
	return c, err == nil && !strings.Contains(c.Action, "*")
}

// agentOf is the task whose identity this is.
func (a *Authority) agentOf(id string) (mayfly.TaskID, bool) {
	rest, ok := strings.CutPrefix(id, "spiffe://"+a.Bundle().TrustDomain+"/agent/")
	if !ok {
		return "", false
	}
	_, text, ok := strings.Cut(rest, "/")
	task, err := mayfly.ParseTaskID(text)
	return task, ok && err == nil
}
