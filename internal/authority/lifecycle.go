package authority

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/store"
)

// notYours is the one answer for a task that does not exist and one the caller
// has no business with.
func notYours() *mayfly.Error {
	return mayfly.Errorf(mayfly.NotFound, "there is no such task for you; check the id, or ask the operator")
}

// refused begins the record of a refused /v1 request.
func (w who) refused(what string) mayfly.RequestRefused {
	switch {
	case w.session != nil:
		return w.session.refused(what)
	case w.caller != nil:
		return mayfly.RequestRefused{What: what, Root: w.caller.Subject()}
	default:
		return mayfly.RequestRefused{What: what}
	}
}

// owns reports whether w is the root delegator of t, by a source's own word.
func (w who) owns(t *mayfly.Task) bool {
	if w.caller == nil {
		return false
	}
	s := w.caller.Subject()
	return s.Kind == t.Root.Kind && s.ID == t.Root.ID
}

// is reports whether w holds t's own token.
func (w who) is(t *mayfly.Task) bool { return w.session != nil && w.session.Task() == t.ID }

// above reports whether w is a task that t descends from.
func (w who) above(t *mayfly.Task) bool {
	return w.session != nil && slices.Contains(t.Ancestors, w.session.Task())
}

// mayRead: the operator, the root delegator, the task itself, a task above, and
// a human whom a policy permits to.
func (w who) mayRead(t *mayfly.Task) bool {
	return w.operator || w.owns(t) || w.is(t) || w.above(t) || w.permitted(policy.MayRead, t)
}

// mayRevoke: the operator, the root delegator, a task above, and a human whom a
// policy permits to.
func (w who) mayRevoke(t *mayfly.Task) bool {
	return w.operator || w.owns(t) || w.above(t) || w.permitted(policy.MayRevoke, t)
}

// permitted reports whether a policy lets w, a human with a token that no agent
// is handed, do this to a task of somebody else's.
func (w who) permitted(may func(*policy.Set, *policy.TaskQuestion) (bool, string), t *mayfly.Task) bool {
	human, ok := w.human()
	if !ok {
		return false
	}
	chain, err := w.chain(t.ID)
	if err != nil {
		return false
	}
	ok, _ = may(w.bundle.Policies, &policy.TaskQuestion{
		Subject: human, Chain: w.bundle.links(chain), Now: w.at, SourceIP: w.source, TrustDomain: w.bundle.TrustDomain,
	})
	return ok
}

// mayMove reads the task that w wants to move, refusing (and recording) where
// allowed says no.
func (a *Authority) mayMove(ctx context.Context, p *Presented, id, what string, allowed func(who, *mayfly.Task) bool) (who, *store.TaskRow, error) {
	w, err := a.identify(ctx, p)
	if err != nil {
		return who{}, nil, err
	}
	t, err := a.readTask(ctx, id)
	if err != nil {
		if mayfly.KindOf(err) == mayfly.NotFound {
			return who{}, nil, a.refuse(ctx, w.refused(what), notYours(), w.burn(a))
		}
		return who{}, nil, err
	}
	if !allowed(w, &t.Task) {
		r := w.refused(what)
		return who{}, nil, a.refuse(ctx, r, notYours(), w.burn(a))
	}
	return w, t, nil
}

func (a *Authority) readTask(ctx context.Context, id string) (*store.TaskRow, error) {
	tid, err := mayfly.ParseTaskID(id)
	if err != nil {
		return nil, err
	}
	return a.db.Task(ctx, tid)
}

// burn makes the proof of w's request, if it has one, single-use in the commit
// it serves.
func (w who) burn(a *Authority) func(*store.Tx) {
	if w.session == nil {
		return nil
	}
	return burnProof(w.session.proof, a.clock.now())
}

// Complete ends a task as finished, which is for its holder to say; the root
// delegator and the operator may say it too.
func (a *Authority) Complete(ctx context.Context, p Presented, id string) (TaskView, error) {
	w, t, err := a.mayMove(ctx, &p, id, "complete", func(w who, t *mayfly.Task) bool { return w.is(t) || w.mayRevoke(t) })
	if err != nil {
		return TaskView{}, err
	}
	return a.end(ctx, w, t, mayfly.Completed)
}

// Revoke ends a task against its holder's will: when it returns, this node
// denies everything for the task and all below it, and every other node does
// within a second.
func (a *Authority) Revoke(ctx context.Context, p Presented, id string) (TaskView, error) {
	w, t, err := a.mayMove(ctx, &p, id, "revoke", who.mayRevoke)
	if err != nil {
		return TaskView{}, err
	}
	if t.Depth == 0 {
		// All that hangs below ends with it.
		if err := w.fresh(a.clock.now()); err != nil {
			return TaskView{}, a.refuse(ctx, w.refused("revoke"), err, nil)
		}
	}
	return a.end(ctx, w, t, mayfly.Revoked)
}

func (a *Authority) end(ctx context.Context, w who, t *store.TaskRow, reason mayfly.CloseReason) (TaskView, error) {
	_, err := a.close(ctx, &t.Task, reason, w.name(), w.burn(a))
	switch guard := refusedBy(err); {
	case guard == guardProof:
		return TaskView{}, a.refuse(ctx, w.refused(string(reason)), errReplay(), nil)
	case guard != "":
		row, err := a.db.Task(ctx, t.ID)
		if err != nil {
			return TaskView{}, err
		}
		if reason == mayfly.Completed && row.Reason != mayfly.Completed {
			e := mayfly.Errorf(mayfly.Conflict, "the task had ended already (%s) at %s", row.Reason, row.ClosedAt.Format(time.RFC3339))
			return TaskView{}, a.refuse(ctx, w.refused("complete"), e, nil)
		}
		return a.view(ctx, row), nil // said twice: it ended as it ended
	case err != nil:
		return TaskView{}, err
	}
	row, err := a.db.Task(ctx, t.ID)
	if err != nil {
		return TaskView{}, err
	}
	return a.view(ctx, row), nil
}

// close ends t with one guarded update. From its commit on every decision for t
// and for all below it denies, because a decision reads the whole chain; what
// hangs below is closed one by one afterwards, by the reaper.
func (a *Authority) close(ctx context.Context, t *mayfly.Task, reason mayfly.CloseReason, by string, extra func(*store.Tx)) (mayfly.TaskClosed, error) {
	now := a.clock.now()
	e := mayfly.TaskClosed{Task: t.ID, Root: t.Root, Reason: reason, By: by}
	err := a.record(ctx, e, func(tx *store.Tx) {
		if extra != nil {
			extra(tx)
		}
		tx.CloseTask(t.ID, reason, by, now)
		tx.VoidTicketsOf(t.ID, now)
		tx.Advance(epochTask, string(t.ID), now)
	})
	if err != nil {
		return e, err
	}
	failpoint.Here("close.committed")
	a.wakeReaper()
	return e, a.advanced(ctx)
}

// Heartbeat renews the idle leases of a task and of all above it.
func (a *Authority) Heartbeat(ctx context.Context, p Presented, id string) (TaskView, error) {
	w, t, err := a.mayMove(ctx, &p, id, "heartbeat", who.is)
	if err != nil {
		return TaskView{}, err
	}
	now := a.clock.now()
	chain, err := a.chainOf(ctx, t.ID, now)
	if err != nil {
		return TaskView{}, err
	}
	if over := ended(chain, now); over != nil {
		return TaskView{}, a.refuse(ctx, w.refused("heartbeat"), over, w.burn(a))
	}
	for _, up := range chain {
		if err := a.renewIdle(ctx, up, "heartbeat"); err != nil {
			return TaskView{}, err
		}
	}
	row, err := a.db.Task(ctx, t.ID)
	if err != nil {
		return TaskView{}, err
	}
	return a.view(ctx, row), nil
}

// renewIdle renews one idle lease if less than half of it is left.
func (a *Authority) renewIdle(ctx context.Context, t *mayfly.Task, by string) error {
	now := a.clock.now()
	until, due := t.RenewIdle(now)
	if !due {
		return nil
	}
	e := mayfly.IdleRenewed{Task: t.ID, Root: t.Root, Until: until, By: by}
	err := a.record(ctx, e, func(tx *store.Tx) {
		tx.ChainLive(t.Chain(), now)
		tx.RenewIdle(t.ID, until)
	})
	if err == nil {
		a.live.renewed(t, until)
	}
	if refusedBy(err) != "" {
		a.live.evict(t.Chain()...)
		return mayfly.Errorf(mayfly.Conflict, "the task is over; open a new one")
	}
	return err
}

// Narrow takes grants away from a task. What is left binds every token it has
// and every task below it, at once.
func (a *Authority) Narrow(ctx context.Context, p Presented, id string, to []mayfly.Grant) (TaskView, error) {
	w, t, err := a.mayMove(ctx, &p, id, "narrow", func(w who, t *mayfly.Task) bool { return w.is(t) || w.mayRevoke(t) })
	if err != nil {
		return TaskView{}, err
	}
	left, err := mayfly.Narrow(t.Grants, to)
	if err != nil {
		return TaskView{}, a.refuse(ctx, w.refused("narrow"), err, w.burn(a))
	}
	now := a.clock.now()
	e := mayfly.TaskNarrowed{Task: t.ID, Root: t.Root, Grants: left, By: w.name()}
	err = a.record(ctx, e, func(tx *store.Tx) {
		if burn := w.burn(a); burn != nil {
			burn(tx)
		}
		tx.SetGrants(t.ID, left, t.Version)
		tx.Advance(epochTask, string(t.ID), now)
	})
	switch guard := refusedBy(err); {
	case guard == guardProof:
		return TaskView{}, a.refuse(ctx, w.refused("narrow"), errReplay(), nil)
	case guard != "":
		e := mayfly.Errorf(mayfly.Conflict, "the task ended or was narrowed by somebody else meanwhile; read it again")
		return TaskView{}, a.refuse(ctx, w.refused("narrow"), e, nil)
	case err != nil:
		return TaskView{}, err
	}
	failpoint.Here("narrow.committed")
	if err := a.advanced(ctx); err != nil {
		return TaskView{}, err
	}
	row, err := a.db.Task(ctx, t.ID)
	if err != nil {
		return TaskView{}, err
	}
	return a.view(ctx, row), nil
}

// revocationKinds are what the kill switch can be thrown for.
var revocationKinds = []string{"human", "service", "profile", "source", "client", "all"}

// RevokeAll throws the kill switch: every live task with this anywhere in its
// chain is over, its tickets are void, and nothing new opens for it until the
// revocation is lifted. One commit, one epoch. Only the operator may; a human
// may for itself.
func (a *Authority) RevokeAll(ctx context.Context, p Presented, kind, value string) (mayfly.Revocation, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return mayfly.Revocation{}, err
	}
	if !slices.Contains(revocationKinds, kind) || (value == "") != (kind == "all") {
		return mayfly.Revocation{}, a.refuse(ctx, w.refused("revocation"),
			mayfly.Errorf(mayfly.Invalid, "name one of human, service, profile, source or client with its id, or all"), w.burn(a))
	}
	self := w.caller != nil && string(w.caller.Subject().Kind) == kind && w.caller.Subject().ID == value
	if !w.operator && !self {
		return mayfly.Revocation{}, a.refuse(ctx, w.refused("revocation"), mayfly.Errorf(mayfly.Denied,
			"only the operator may revoke others; use the admin socket"), w.burn(a))
	}
	now := a.clock.now()
	if err := w.fresh(now); err != nil {
		return mayfly.Revocation{}, a.refuse(ctx, w.refused("revocation"), err, nil)
	}
	r := mayfly.Revocation{ID: mayfly.NewID("rev", now), Kind: kind, Value: value, By: w.name(), At: now}
	err = a.record(ctx, mayfly.RevocationMade{Revocation: r}, func(tx *store.Tx) {
		tx.Revoke(r)
		tx.Advance(epochRevocation, r.ID, now)
	})
	if err != nil {
		return mayfly.Revocation{}, err
	}
	failpoint.Here("revocation.committed")
	a.wakeReaper()
	return r, a.advanced(ctx)
}

// LiftRevocation lets new tasks open again. Nothing comes back to life. Only
// the operator may.
func (a *Authority) LiftRevocation(ctx context.Context, p Presented, id string) error {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return err
	}
	if !w.operator {
		return a.refuse(ctx, w.refused("lift revocation"), notYours(), w.burn(a))
	}
	now := a.clock.now()
	e := mayfly.RevocationLifted{Revocation: mayfly.Revocation{ID: id, By: w.name(), At: now}}
	standing, err := a.db.ActiveRevocations(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(standing, func(r mayfly.Revocation) bool { return r.ID == id })
	if i < 0 {
		return a.refuse(ctx, w.refused("lift revocation"), mayfly.Errorf(mayfly.NotFound, "there is no such standing revocation"), nil)
	}
	e.Revocation.Kind, e.Revocation.Value = standing[i].Kind, standing[i].Value
	err = a.record(ctx, e, func(tx *store.Tx) {
		tx.LiftRevocation(id, now)
		tx.Advance(epochRevocation, id, now)
	})
	if refusedBy(err) != "" {
		return a.refuse(ctx, w.refused("lift revocation"), mayfly.Errorf(mayfly.Conflict, "it was lifted before"), nil)
	}
	if err != nil {
		return err
	}
	return a.advanced(ctx)
}

// Revocations are the standing ones. Only the operator may read them.
func (a *Authority) Revocations(ctx context.Context, p Presented) ([]mayfly.Revocation, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return nil, err
	}
	if !w.operator {
		return nil, a.refuse(ctx, w.refused("list revocations"), notYours(), w.burn(a))
	}
	return a.db.ActiveRevocations(ctx)
}

// refuseRevoked refuses a subject whose kill switch is thrown. The commit that
// opens anything asks again, as a guard.
func (a *Authority) refuseRevoked(ctx context.Context, s mayfly.Subject) error {
	standing, err := a.db.ActiveRevocations(ctx)
	if err != nil {
		return err
	}
	for _, r := range standing {
		if r.Kind == "all" || (r.Kind == string(s.Kind) && r.Value == s.ID) || (r.Kind == "source" && r.Value == s.Source) {
			return errRevoked(fmt.Sprintf("%s %s", r.Kind, r.Value))
		}
	}
	return nil
}

func errRevoked(what string) *mayfly.Error {
	return mayfly.Coded(mayfly.Denied, "access_denied", "access was revoked (%s) until an operator lifts it", what)
}
