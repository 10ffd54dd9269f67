package authority

import (
	"context"
	"slices"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Widen asks for more grants for a task that runs: within its profile and every
// task above it. What its ticket, consent or opening request named it may have
// back; anything beyond needs a yes of the root delegator, or of the groups that
// a policy names. Policies can only refuse. The task's own token for the issuer
// carries the new grants at once; a token for a target never does.
//
// The holder asks. The root delegator may ask too, with a token that no agent is
// handed: that is their yes.
func (a *Authority) Widen(ctx context.Context, p Presented, id string, want []mayfly.Grant) (TaskView, error) {
	if err := a.mayIssue(); err != nil {
		return TaskView{}, err
	}
	w, row, err := a.mayMove(ctx, &p, id, "widen", func(w who, t *mayfly.Task) bool {
		_, human := w.human()
		return w.is(t) || human && w.owns(t)
	})
	if err != nil {
		return TaskView{}, err
	}
	now := a.clock.now()
	b := a.Bundle()
	chain, err := a.chainOf(ctx, row.ID, now)
	if err != nil {
		return TaskView{}, err
	}
	refuse := func(err error) (TaskView, error) {
		return TaskView{}, a.refuse(ctx, w.refused("widen"), err, w.burn(a))
	}
	profile := b.Profiles[row.Profile]
	switch {
	case len(want) == 0:
		return refuse(mayfly.Errorf(mayfly.Invalid, "say which grants the task needs"))
	case len(want) > maxAsked:
		return refuse(mayfly.Errorf(mayfly.Invalid, "at most %d grants can be asked for at once", maxAsked))
	case profile == nil:
		return refuse(mayfly.Errorf(mayfly.Denied, "the profile %s was removed from the configuration", row.Profile))
	}
	ceilings := [][]mayfly.Grant{profile.Grants}
	for _, up := range chain[:len(chain)-1] {
		ceilings = append(ceilings, up.Grants)
	}
	var more []mayfly.Grant
	for _, g := range want {
		var got []mayfly.Grant
		if g.Limited() {
			g, err = mayfly.Cut(g, ceilings...)
			got = []mayfly.Grant{g}
		} else {
			got, err = mayfly.Inherit(g, ceilings...)
		}
		if err != nil {
			e := mayfly.Coded(mayfly.Denied, "invalid_scope", "%s", mayfly.AsError(err).Message)
			e.Term = mayfly.TermProfile
			e.Next = &mayfly.Next{Action: "none", Detail: "nothing beyond the profile and the tasks above can be had; do without"}
			return refuse(e)
		}
		more = append(more, got...)
	}
	more = slices.DeleteFunc(more, func(g mayfly.Grant) bool { return mayfly.Within([]mayfly.Grant{g}, row.Grants) == nil })
	if len(more) == 0 {
		return a.spent(ctx, a.view(ctx, row)) // it has all of it
	}

	q := &policy.WidenQuestion{
		Decision: mayfly.NewID("dec", now), Chain: b.links(chain), Grants: more, Named: row.Named,
		Now: now, SourceIP: p.Source, TrustDomain: b.TrustDomain, Bundle: b.Hash, Policies: b.Policies,
	}
	if w.owns(&row.Task) {
		q.Approved = []string{mayfly.NeedDelegator}
	}
	permit, decision := policy.DecideWiden(q)
	var approval *mayfly.Approval
	if decision.Verdict == mayfly.NeedsApproval {
		if approval, err = a.approvalOf(ctx, "widen", &row.Task, opening{Grants: more}, now, &decision); err != nil {
			return TaskView{}, err
		}
		if approval.State(now) != mayfly.Approved {
			return TaskView{}, a.askToOpen(ctx, w.refused("widen"), approval, chain, &decision, w.burn(a))
		}
		q.Approved = append(q.Approved, approval.Needs...)
		permit, decision = policy.DecideWiden(q)
	}
	if permit == nil {
		e := mayfly.Errorf(mayfly.Denied, "%s", decision.Reason)
		e.Term, e.Next, e.Code = decision.Term, decision.Next, decision.Code
		r := w.refused("widen")
		r.Decision = decision.ID
		return TaskView{}, a.refuse(ctx, r, e, w.burn(a))
	}
	if err := permit.Widen(); err != nil {
		return TaskView{}, err
	}
	grants := slices.Concat(row.Grants, more)
	e := mayfly.TaskWidened{Task: row.ID, Root: row.Root, Grants: grants, Added: more, By: w.name(), Decision: decision.ID}
	if approval != nil {
		e.Approval = approval.ID
	}
	err = a.record(ctx, e, func(tx *store.Tx) {
		tx.ChainLive(taskIDs(chain), now)
		if burn := w.burn(a); burn != nil {
			burn(tx)
		}
		if approval != nil {
			tx.UseApproval(approval.ID, now)
		}
		tx.SetGrants(row.ID, grants, row.Version)
		tx.Advance(epochTask, string(row.ID), now)
	})
	switch guard := refusedBy(err); {
	case guard == guardProof:
		return TaskView{}, a.refuse(ctx, w.refused("widen"), errReplay(), nil)
	case guard != "":
		e := mayfly.Errorf(mayfly.Conflict, "the task ended, its grants moved, or the approval was used meanwhile; read it again")
		return TaskView{}, a.refuse(ctx, w.refused("widen"), e, nil)
	case err != nil:
		return TaskView{}, err
	}
	failpoint.Here("widen.committed")
	if err := a.advanced(ctx); err != nil {
		return TaskView{}, err
	}
	if row, err = a.db.Task(ctx, row.ID); err != nil {
		return TaskView{}, err
	}
	return a.spent(ctx, a.view(ctx, row))
}
