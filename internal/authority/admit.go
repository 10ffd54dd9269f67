package authority

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/store"
)

// freshFor is how old a decision may be when the target sees its first byte.
const freshFor = time.Second

// Admission is an allowed call: its decision is durable, and the target has
// seen nothing yet. Done must be called exactly once, whatever happens.
type Admission struct {
	a        *Authority
	session  *Session
	decision mayfly.Decision
	call     mayfly.Call
	target   *mayfly.Target
	bundle   *Bundle
	at       time.Time
	epoch    int64
	spends   []policy.Spend
	ended    atomic.Bool
}

// Admit decides one call and commits the decision, what it spends, the proof it
// burns and the idle leases it renews, all in one commit or none.
//
//	decide ──refused──▶ commit the refusal ──▶ *mayfly.Error (Denied, with the term)
//	   └──allowed──▶ commit ──▶ Admission ──Fresh──▶ the target sees the call ──Done
//
// A guard of the commit may still refuse: the chain closed meanwhile, a budget
// was spent by somebody else, the proof was used on another node. Then nothing
// of it was written, and the refusal is recorded instead.
func (a *Authority) Admit(ctx context.Context, s *Session, call mayfly.Call) (*Admission, error) {
	if err := a.mayAct(); err != nil {
		return nil, err
	}
	now := a.clock.now()
	bundle := a.Bundle()
	chain, err := a.chainOf(ctx, s.Task(), now)
	if err != nil {
		return nil, err
	}
	target := bundle.Targets[call.Target]
	q := &policy.Question{
		Decision:    mayfly.NewID("dec", now),
		Call:        call,
		Chain:       bundle.links(chain),
		Token:       s.verified.Claims.Details,
		TokenWhole:  s.verified.Whole,
		Now:         now,
		SourceIP:    s.presented.Source,
		TrustDomain: bundle.TrustDomain,
		Bundle:      bundle.Hash,
		Policies:    bundle.Policies,
	}
	permit, decision := policy.Decide(q)
	if permit == nil {
		return nil, a.refuseCall(ctx, s, chain, q, decision, false)
	}
	if target == nil || target.Kind != call.Kind {
		decision.Verdict, decision.Term, decision.Reason = mayfly.Deny, mayfly.TermToken, "there is no such target"
		return nil, a.refuseCall(ctx, s, chain, q, decision, false)
	}

	if err := permit.Spend(q); err != nil {
		return nil, err
	}
	rec, err := a.db.Prepare(ctx, now, bundle.Hash, s.decided(call, decision))
	if err != nil {
		return nil, err
	}
	failpoint.Here("call.prepared")
	spends := permit.Spends()
	var renewed []*mayfly.Task
	err = a.commit(ctx, rec, func(tx *store.Tx) {
		renewed = renewed[:0]
		tx.ChainLive(taskIDs(chain), now)
		if burn := burnProof(s.proof, now); burn != nil {
			burn(tx)
		}
		for _, sp := range spends {
			tx.SpendGrant(sp.Task, sp.Grant, sp.Max)
		}
		for _, t := range chain {
			if t.Budget > 0 {
				tx.SpendTask(t.ID, t.Budget)
			}
			if until, due := t.RenewIdle(now); due {
				tx.RenewIdle(t.ID, until)
				renewed = append(renewed, t)
			}
		}
		tx.OpenCall(decision.ID, s.Task(), now)
	})
	switch guard := refusedBy(err); {
	case err == nil:
	case guard == guardProof:
		return nil, a.refuse(ctx, s.refused("call "+call.Grant()), errReplay(), nil)
	case guard == "chain":
		a.live.evict(taskIDs(chain)...)
		if chain, err = a.live.chain(ctx, s.Task()); err != nil {
			return nil, err
		}
		decision.Verdict, decision.Term, decision.Reason = mayfly.Deny, mayfly.TermLiveness, "the task is over"
		if over := ended(chain, now); over != nil {
			decision.Reason, decision.Next = over.Message, over.Next
		}
		return nil, a.refuseCall(ctx, s, chain, q, decision, true)
	case strings.HasPrefix(guard, "budget:"), strings.HasPrefix(guard, "task budget:"):
		decision.Verdict, decision.Term = mayfly.Deny, mayfly.TermBudget
		decision.Reason = "the budget of " + call.Grant() + " is spent"
		decision.Next = &mayfly.Next{Action: "none", Detail: "ask whoever delegated this task for a new one"}
		return nil, a.refuseCall(ctx, s, chain, q, decision, true)
	default:
		return nil, err
	}
	failpoint.Here("call.committed")
	for _, t := range renewed {
		until, _ := t.RenewIdle(now)
		a.live.renewed(t, until)
	}
	return &Admission{
		a: a, session: s, decision: decision, call: call, target: target,
		bundle: bundle, at: now, epoch: a.epoch.Load(), spends: spends,
	}, nil
}

// decided is the record of a decision on s's call.
func (s *Session) decided(call mayfly.Call, d mayfly.Decision) mayfly.CallDecided {
	return mayfly.CallDecided{
		Decision: d, Task: s.Task(), Root: s.task().Root,
		Surface: call.Kind, Target: call.Target, Action: call.Action,
		Digest: call.Digest, Size: call.Size,
		JTI: s.verified.Claims.JTI, Source: s.presented.Source, Trace: s.presented.Trace,
	}
}

// refuseCall commits a refusal, burning the proof, and returns it as an error.
func (a *Authority) refuseCall(ctx context.Context, s *Session, chain []*mayfly.Task, q *policy.Question, d mayfly.Decision, afterGuard bool) error {
	err := a.record(ctx, s.decided(q.Call, d), burnProof(s.proof, q.Now))
	if refusedBy(err) == guardProof {
		return a.refuse(ctx, s.refused("call "+q.Call.Grant()), errReplay(), nil)
	}
	if err != nil {
		return err
	}
	e := mayfly.Errorf(mayfly.Denied, "%s", d.Reason)
	e.Decision, e.Term, e.Next = d.ID, d.Term, d.Next
	if d.Term == mayfly.TermLiveness {
		e.Kind, e.Code = mayfly.Unauthenticated, "invalid_token"
	}
	// The task was not granted what its profile could be: a client can step up
	// (MCP authorization, insufficient_scope).
	if d.Term == mayfly.TermTask || d.Term == mayfly.TermToken {
		if p := a.Bundle().Profiles[chain[len(chain)-1].Profile]; p != nil && !afterGuard {
			if _, within, _ := mayfly.Match(p.Grants, q.Call); within {
				e.Code, e.Scope = "insufficient_scope", q.Call.Grant()
			}
		}
	}
	return e
}

func taskIDs(chain []*mayfly.Task) []mayfly.TaskID {
	ids := make([]mayfly.TaskID, len(chain))
	for i, t := range chain {
		ids[i] = t.ID
	}
	return ids
}

// Decision is the recorded answer.
func (ad *Admission) Decision() mayfly.Decision { return ad.decision }

// Target is where the call goes.
func (ad *Admission) Target() *mayfly.Target { return ad.target }

// Credential is what the gateway attaches; nil if the target takes none. The
// agent never sees it.
func (ad *Admission) Credential() *mayfly.TargetCredential { return ad.target.Credential }

// Fresh is asked immediately before the first byte goes to the target. It
// refuses an allow that is over a second old, or older than a change of the
// rules or of who is live; the caller then says Done("not-sent").
func (ad *Admission) Fresh(ctx context.Context) error {
	a := ad.a
	if err := a.mayAct(); err != nil {
		return err
	}
	now := a.clock.now()
	if now.Sub(ad.at) > freshFor {
		return mayfly.Errorf(mayfly.Unavailable, "the decision is too old to act on; send the request again")
	}
	if a.bundle.Load() != ad.bundle {
		return mayfly.Errorf(mayfly.Unavailable, "the rules changed while this was decided; send the request again")
	}
	if a.epoch.Load() == ad.epoch {
		return nil
	}
	return a.stillLive(ctx, ad.session, now)
}

// Outcome is what became of an allowed call.
type Outcome struct {
	Name   string // answered, failed, cut, or not-sent: no byte went to the target
	Status int    // HTTP status of the target's answer, if one came
	Bytes  int64  // of the answer
	Detail string
}

// Done records what became of the call, in the background and until it is
// written. A call of which the target saw no byte gets its budget back. The
// last call that a task's own budget paid for ends the task here, after its
// answer.
// Further calls of Done do nothing.
func (ad *Admission) Done(o Outcome) {
	if ad.ended.Swap(true) {
		return
	}
	a, s := ad.a, ad.session
	e := mayfly.CallEnded{
		Decision: ad.decision.ID, Task: s.Task(), Outcome: o.Name, Status: o.Status, Detail: o.Detail, Bytes: o.Bytes,
	}
	if root := s.task().Root; root.Kind == mayfly.Human {
		e.Human = root.ID
	}
	a.pending.Go(func() {
		failpoint.Here("call.answered")
		ctx := a.writing // the outcome outlives its request
		a.untilWritten(ctx, "the outcome of "+ad.decision.ID, func() error {
			err := a.record(ctx, e, func(tx *store.Tx) {
				tx.Soon()
				tx.EndCall(ad.decision.ID)
				if o.Name == "not-sent" {
					for _, sp := range ad.spends {
						tx.GiveBack(sp.Task, sp.Grant)
					}
					for _, t := range s.chain {
						if t.Budget > 0 {
							tx.GiveBackTask(t.ID)
						}
					}
				}
			})
			if refusedBy(err) != "" {
				return nil // recovery wrote it already
			}
			return err
		})
		for _, t := range s.chain {
			if t.Budget > 0 {
				a.endIfSpent(ctx, t.ID)
			}
		}
	})
}

// endIfSpent closes a task whose own budget is spent, unless a call that it paid
// for is still open: the last of them to end comes here after its outcome is
// written.
func (a *Authority) endIfSpent(ctx context.Context, id mayfly.TaskID) {
	row, err := a.db.Task(ctx, id)
	if err != nil || row.Budget == 0 || row.Calls < row.Budget {
		return // spent but unread: the next call is refused, and the idle lease ends it
	}
	if open, err := a.db.AnyOpenCall(ctx, id); err != nil || open {
		return
	}
	if _, err := a.close(ctx, &row.Task, mayfly.BudgetSpent, "budget", nil); err != nil && refusedBy(err) == "" {
		a.logger.Error("a task with a spent budget could not be closed", "task", id, "error", err)
	}
}

// retryEvery is how long a write that must not be lost waits before it is tried
// again.
const retryEvery = 250 * time.Millisecond

// untilWritten runs write until it succeeds. It gives up only when ctx ends, or
// the store is closed: then recovery finds what is missing at the next start.
func (a *Authority) untilWritten(ctx context.Context, what string, write func() error) {
	for {
		err := write()
		if err == nil || a.db.Closed() {
			return
		}
		a.logger.Warn("not written yet", "what", what, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryEvery):
		}
	}
}

// MayCall says for each call whether some grant of the task, of all above it,
// of its profiles and of the token could allow it with the right arguments.
// Nothing is recorded: it filters what an agent is shown, and each call is
// decided when it comes.
func (a *Authority) MayCall(ctx context.Context, s *Session, calls []mayfly.Call) ([]bool, error) {
	now := a.clock.now()
	bundle := a.Bundle()
	chain, err := a.chainOf(ctx, s.Task(), now)
	if err != nil {
		return nil, err
	}
	if over := ended(chain, now); over != nil {
		return nil, over
	}
	visible := make([]bool, len(calls))
	for i, c := range calls {
		visible[i] = policy.Visible(&policy.Question{
			Call: c, Chain: bundle.links(chain), Token: s.verified.Claims.Details, TokenWhole: s.verified.Whole, Now: now,
		})
	}
	return visible, nil
}

// CountPassed counts a request that was passed without a decision.
func (a *Authority) CountPassed(*Session) { a.passed.Add(1) }

// RefusedAtGateway records a request that was refused before there was a call
// to decide on: exactly one record, whoever sent it. It returns err, with the
// record's id.
func (a *Authority) RefusedAtGateway(ctx context.Context, p Presented, s *Session, what string, err error) error {
	if s == nil {
		return a.unauthenticated("gateway", &p, err)
	}
	return a.refuse(ctx, s.refused(what), err, burnProof(s.proof, a.clock.now()))
}
