package authority

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/broker"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/mayfly-id/mayfly/internal/store"
)

// LeaseView is a lease as /v1 shows it. The credential is in none of it but the
// one answer to who checked it out.
type LeaseView struct {
	Lease      mayfly.LeaseID    `json:"lease"`
	Task       mayfly.TaskID     `json:"task"`
	Grant      string            `json:"grant"`
	Kind       string            `json:"kind"`
	Decision   string            `json:"decision"`
	State      mayfly.LeaseState `json:"state"`
	Principal  string            `json:"principal,omitempty"` // as the target calls it
	OpenedAt   time.Time         `json:"opened_at"`
	ExpiresAt  time.Time         `json:"expires_at"` // when the target itself stops accepting it
	EndedAt    *time.Time        `json:"ended_at,omitempty"`
	Reason     mayfly.LeaseEnd   `json:"reason,omitempty"`
	ReturnedAt *time.Time        `json:"returned_at,omitempty"`
	Tries      int64             `json:"tries,omitempty"` // to return it
	Problem    string            `json:"problem,omitempty"`
}

func leaseView(l *mayfly.Lease) LeaseView {
	v := LeaseView{
		Lease: l.ID, Task: l.Task, Grant: l.Grant(), Kind: l.Kind, Decision: l.Decision, State: l.State(), Principal: l.Principal,
		OpenedAt: l.OpenedAt, ExpiresAt: l.ExpiresAt, Reason: l.Reason, Tries: l.Tries, Problem: l.Problem,
	}
	if !l.EndedAt.IsZero() {
		v.EndedAt = &l.EndedAt
	}
	if !l.ReturnedAt.IsZero() {
		v.ReturnedAt = &l.ReturnedAt
	}
	return v
}

// CheckedOut is a lease with its credential.
type CheckedOut struct {
	Lease      LeaseView
	Credential map[string]mayfly.Secret
}

// issueWithin is how long a target may take to make a credential.
const issueWithin = 10 * time.Second

// CheckOut lends a task the credential that a grant of it names, until the task
// ends at the latest.
//
// The lease is written down with the decision, before the target is asked: a
// crash at any line below leaves one that the reaper returns. What cannot be
// recorded as handed out is not handed out.
func (a *Authority) CheckOut(ctx context.Context, p Presented, id, grant string) (*CheckedOut, error) {
	w, t, err := a.mayMove(ctx, &p, id, "check out", who.is)
	if err != nil {
		return nil, err
	}
	refuse := func(err error) error { return a.refuse(ctx, w.refused("check out"), err, w.burn(a)) }
	g, err := mayfly.ParseGrant(grant)
	if err != nil {
		return nil, refuse(err)
	}
	if !slices.Contains(broker.Kinds, g.Kind) {
		return nil, refuse(mayfly.Errorf(mayfly.Invalid, "%s is called at the gateway; what can be checked out is of kind %s", g, strings.Join(broker.Kinds, " or ")))
	}
	now := a.clock.now()
	lease := &mayfly.Lease{
		ID: mayfly.NewLeaseID(now), Task: t.ID, Root: t.Root, Kind: g.Kind, Target: g.Target, Role: g.Action,
		OpenedAt: now, ExpiresAt: t.Deadline,
	}
	ad, err := a.admitLease(ctx, w.session, mayfly.Call{Kind: g.Kind, Target: g.Target, Action: g.Action}, lease)
	if err != nil {
		return nil, err
	}
	failpoint.Here("lease.pending")
	outcome := Outcome{Name: "not-sent"}
	var made broker.Credential
	if err = ad.Fresh(ctx); err == nil {
		outcome.Name = "answered"
		if made, err = a.lend(ctx, ad, lease); err != nil {
			outcome = Outcome{Name: "failed", Detail: mayfly.AsError(err).Message}
		}
	}
	if err != nil {
		a.endLease(context.WithoutCancel(ctx), lease, mayfly.LeaseFailed, "check out")
	}
	ad.Done(outcome)
	if err != nil {
		e := mayfly.AsError(err)
		e.Decision = lease.Decision
		return nil, e
	}
	failpoint.Here("lease.active")
	return &CheckedOut{leaseView(lease), made.Values}, nil
}

// lend asks the target for the credential and records that it is handed out.
func (a *Authority) lend(ctx context.Context, ad *Admission, lease *mayfly.Lease) (broker.Credential, error) {
	lender := ad.bundle.Lenders[lease.Target]
	if lender == nil {
		return broker.Credential{}, mayfly.Errorf(mayfly.Internal, "nothing lends at the target")
	}
	asking, cancel := context.WithTimeout(ctx, issueWithin)
	defer cancel()
	made, err := broker.Issue(asking, ad.permit, ad.question, lender, broker.Loan{
		Lease: lease.ID, Task: lease.Task, Role: lease.Role, Until: lease.ExpiresAt,
	})
	if err != nil {
		a.logger.Warn("a target lends nothing", "target", lease.Target, "lease", lease.ID, "error", err, "cause", mayfly.AsError(err).Unwrap())
		return broker.Credential{}, err
	}
	failpoint.Here("lease.made")
	now := a.clock.now()
	if made.Until.After(lease.ExpiresAt) {
		return broker.Credential{}, mayfly.Errorf(mayfly.Internal, "the credential would have outlived its task")
	}
	e := mayfly.LeaseLent{
		Lease: lease.ID, Task: lease.Task, Root: lease.Root, Decision: lease.Decision, Grant: lease.Grant(),
		Principal: made.Principal, ExpiresAt: made.Until,
	}
	err = a.record(ctx, e, func(tx *store.Tx) {
		tx.ChainLive(taskIDs(ad.session.chain), now)
		tx.ActivateLease(lease.ID, made.Principal, made.Until, now)
	})
	if refusedBy(err) != "" {
		return broker.Credential{}, mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "the task ended while the credential was made; open a new one")
	}
	lease.Principal, lease.ExpiresAt, lease.ActiveAt = made.Principal, made.Until, now
	return made, err
}

// endLease says that a lease is to be returned. Nothing is lost where it cannot
// be said now: the reaper sees what makes it so.
func (a *Authority) endLease(ctx context.Context, l *mayfly.Lease, reason mayfly.LeaseEnd, by string) error {
	now := a.clock.now()
	e := mayfly.LeaseEnded{Lease: l.ID, Task: l.Task, Root: l.Root, Reason: reason, By: by}
	err := a.record(ctx, e, func(tx *store.Tx) { tx.EndLease(l.ID, reason, now) })
	if refusedBy(err) != "" {
		err = nil // somebody said so before
	}
	if err != nil {
		a.logger.Warn("a lease could not be ended yet", "lease", l.ID, "error", err)
		return err
	}
	a.returns.wake()
	return nil
}

// GiveBack ends a lease before its task does: its holder, who is above it, the
// root delegator or the operator may. The answer says whether the target has
// shown it to be gone already; where it has not, that is tried for ever.
func (a *Authority) GiveBack(ctx context.Context, p Presented, id, lease string) (LeaseView, error) {
	w, t, err := a.mayMove(ctx, &p, id, "give back", func(w who, t *mayfly.Task) bool { return w.is(t) || w.mayRevoke(t) })
	if err != nil {
		return LeaseView{}, err
	}
	l, err := a.leaseOf(ctx, t.ID, lease)
	if err != nil {
		return LeaseView{}, a.refuse(ctx, w.refused("give back"), err, w.burn(a))
	}
	if l.State() == mayfly.LeasePending {
		// There would be nothing to take back, and then nobody to take it.
		return LeaseView{}, a.refuse(ctx, w.refused("give back"), mayfly.Errorf(mayfly.Conflict, "the credential is being made; try again in a few seconds"), w.burn(a))
	}
	now := a.clock.now()
	e := mayfly.LeaseEnded{Lease: l.ID, Task: l.Task, Root: l.Root, Reason: mayfly.LeaseGivenBack, By: w.name()}
	err = a.record(ctx, e, func(tx *store.Tx) {
		if burn := w.burn(a); burn != nil {
			burn(tx)
		}
		tx.EndLease(l.ID, mayfly.LeaseGivenBack, now)
	})
	switch guard := refusedBy(err); {
	case guard == guardProof:
		return LeaseView{}, a.refuse(ctx, w.refused("give back"), errReplay(), nil)
	case guard == "": // ended here
		if err != nil {
			return LeaseView{}, err
		}
		failpoint.Here("lease.ended")
		if l, err = a.db.Lease(ctx, l.ID); err != nil {
			return LeaseView{}, err
		}
		a.returnLease(ctx, l)
	}
	if l, err = a.db.Lease(ctx, l.ID); err != nil {
		return LeaseView{}, err
	}
	return leaseView(l), nil
}

// leaseOf reads a lease of a task; another's is like one that does not exist.
func (a *Authority) leaseOf(ctx context.Context, task mayfly.TaskID, text string) (*mayfly.Lease, error) {
	id, err := mayfly.ParseLeaseID(text)
	if err == nil {
		var l *mayfly.Lease
		if l, err = a.db.Lease(ctx, id); err == nil && l.Task == task {
			return l, nil
		}
	}
	if err != nil && mayfly.KindOf(err) != mayfly.NotFound {
		return nil, err
	}
	return nil, mayfly.Errorf(mayfly.NotFound, "the task has no such lease")
}

// Leases reads what a task was lent, oldest first.
func (a *Authority) Leases(ctx context.Context, p Presented, id string) ([]LeaseView, error) {
	_, t, err := a.mayMove(ctx, &p, id, "read", who.mayRead)
	if err != nil {
		return nil, err
	}
	leases, err := a.db.LeasesOf(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	views := make([]LeaseView, 0, len(leases))
	for _, l := range leases {
		views = append(views, leaseView(l))
	}
	return views, nil
}
