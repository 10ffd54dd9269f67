package authority

import (
	"context"
	"fmt"
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
	permit   *policy.Permit
	question *policy.Question
	ended    atomic.Bool
}

// decideTries bounds how often one call is decided anew because what it was
// decided on has moved.
const decideTries = 8

// Admit decides one call and commits the decision, what it spends, the labels
// it makes its tree have seen, the approval it uses, the proof it burns and the
// idle leases it renews, all in one commit or none.
//
//	decide ──refused──▶ commit the refusal ──▶ *mayfly.Error (Denied, with the term)
//	   ├──needs a human──▶ ask, commit ──▶ *mayfly.Error (Denied, term approval)
//	   └──allowed──▶ commit ──▶ Admission ──Fresh──▶ the target sees the call ──Done
//
// A guard of the commit may still refuse: the chain closed meanwhile, a budget
// was spent by somebody else, the proof was used on another node. Then nothing
// of it was written, and the refusal is recorded instead. Where only what the
// tree has seen moved, the call is decided again.
func (a *Authority) Admit(ctx context.Context, s *Session, call mayfly.Call) (*Admission, error) {
	return a.admitLease(ctx, s, call, nil)
}

// admitLease is Admit; with lease, the commit writes down what is to be lent.
func (a *Authority) admitLease(ctx context.Context, s *Session, call mayfly.Call, lease *mayfly.Lease) (*Admission, error) {
	for range decideTries {
		ad, err := a.admit(ctx, s, call, lease)
		if refusedBy(err) != guardSeen {
			return ad, err
		}
		a.seen.forget(s.task().RootTask)
	}
	return nil, mayfly.Errorf(mayfly.Unavailable, "what this task's tree has seen changes too fast to decide on; send the request again")
}

// guardSeen: the tree has seen what it had when the call was decided.
const guardSeen = "seen"

// admit is one try of Admit; it ends with the guard "seen" where another is due.
func (a *Authority) admit(ctx context.Context, s *Session, call mayfly.Call, lease *mayfly.Lease) (*Admission, error) {
	if err := a.mayAct(); err != nil {
		return nil, err
	}
	now := a.clock.now()
	bundle := a.Bundle()
	chain, err := a.chainOf(ctx, s.Task(), now)
	if err != nil {
		return nil, err
	}
	q, err := a.question(ctx, bundle, chain, call, now)
	if err != nil {
		return nil, err
	}
	q.Token, q.TokenWhole, q.SourceIP = s.verified.Claims.Details, s.verified.Whole, s.presented.Source
	permit, decision, snapshot := policy.Decide(q)
	var approval *mayfly.Approval
	if decision.Verdict == mayfly.NeedsApproval {
		if approval, err = a.approvalFor(ctx, chain, q, &decision); err != nil {
			return nil, err
		}
		if approval.State(now) != mayfly.Approved {
			return nil, a.askFirst(ctx, s, chain, q, decision, snapshot, approval)
		}
		q.Approved = approval.Needs
		if permit, decision, snapshot = policy.Decide(q); permit == nil {
			return nil, a.refuseCall(ctx, s, chain, q, decision, snapshot)
		}
		decision.Approval = approval.ID
	}
	if permit == nil {
		if decision.Term == mayfly.TermTool && call.Definition == NotListed {
			decision.Reason = "the target " + call.Target + " lists no tool " + call.Action
			decision.Next = &mayfly.Next{Action: "none", Detail: "call one of the tools that tools/list shows"}
		}
		return nil, a.refuseCall(ctx, s, chain, q, decision, snapshot)
	}
	if q.Target == nil {
		noTarget(&decision)
		return nil, a.refuseCall(ctx, s, chain, q, decision, snapshot)
	}

	if err := permit.Spend(q); err != nil {
		return nil, err
	}
	event := s.decided(call, decision, snapshot)
	if lease != nil {
		event.Lease, lease.Decision = lease.ID, decision.ID
	}
	rec, err := a.db.Prepare(ctx, now, bundle.Hash, event)
	if err != nil {
		return nil, err
	}
	failpoint.Here("call.prepared")
	spends := permit.Spends()
	root := s.task().RootTask
	fresh := missing(permit.Labels(), q.Seen)
	var renewed []*mayfly.Task
	err = a.commit(ctx, rec, func(tx *store.Tx) {
		renewed = renewed[:0]
		tx.ChainLive(taskIDs(chain), now)
		if bundle.labelled() {
			tx.SeenIs(root, len(q.Seen))
			tx.ExtendSeen(root, fresh)
		}
		if burn := burnProof(s.proof, now); burn != nil {
			burn(tx)
		}
		if approval != nil {
			tx.UseApproval(approval.ID, now)
		}
		for _, sp := range spends {
			spend(tx, sp, now)
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
		if lease != nil {
			tx.InsertLease(lease)
		}
	})
	deny := func(term mayfly.Term, reason string, next *mayfly.Next) error {
		decision.Verdict, decision.Term, decision.Reason, decision.Next, decision.Approval = mayfly.Deny, term, reason, next, ""
		return a.refuseCall(ctx, s, chain, q, decision, snapshot)
	}
	switch guard := refusedBy(err); {
	case err == nil:
	case guard == guardProof:
		return nil, a.refuse(ctx, s.refused("call "+call.Grant()), errReplay(), nil)
	case guard == guardSeen:
		return nil, err
	case guard == "chain":
		a.live.evict(taskIDs(chain)...)
		if chain, err = a.live.chain(ctx, s.Task()); err != nil {
			return nil, err
		}
		if over := ended(chain, now); over != nil {
			return nil, deny(mayfly.TermLiveness, over.Message, over.Next)
		}
		return nil, deny(mayfly.TermLiveness, "the task is over", &mayfly.Next{Action: "open", Detail: "open a new task"})
	case guard == guardApproval:
		err := deny(mayfly.TermApproval, "the approval for this call was used, or ended, meanwhile; send the call again to ask for another",
			&mayfly.Next{Action: "retry", Detail: "send the call again; it asks for another approval"})
		if e := mayfly.AsError(err); e.Kind == mayfly.Denied {
			e.Kind, e.Code = mayfly.Conflict, "approval_used"
		}
		return nil, err
	case strings.HasPrefix(guard, "budget:"), strings.HasPrefix(guard, "task budget:"):
		reason, next := a.spentBudget(ctx, guard, &call, spends, now)
		return nil, deny(mayfly.TermBudget, reason, next)
	default:
		return nil, err
	}
	failpoint.Here("call.committed")
	for _, t := range renewed {
		until, _ := t.RenewIdle(now)
		a.live.renewed(t, until)
	}
	if len(fresh) > 0 {
		a.seen.extend(root, q.Seen, fresh)
	}
	return &Admission{
		a: a, session: s, decision: decision, call: call, target: q.Target,
		bundle: bundle, at: now, epoch: a.epoch.Load(), spends: spends, permit: permit, question: q,
	}, nil
}

// question is what is asked about a call of the last task of chain, but for the
// token it came with.
func (a *Authority) question(ctx context.Context, b *Bundle, chain []*mayfly.Task, call mayfly.Call, now time.Time) (*policy.Question, error) {
	target := b.Targets[call.Target]
	if target != nil && target.Kind != call.Kind {
		target = nil
	}
	q := &policy.Question{
		Decision:    mayfly.NewID("dec", now),
		Call:        call,
		Chain:       b.links(chain),
		Now:         now,
		TrustDomain: b.TrustDomain,
		Bundle:      b.Hash,
		Policies:    b.Policies,
		Target:      target,
		Pin:         a.pinFor(target, &call),
	}
	if b.labelled() {
		var err error
		if q.Seen, err = a.seenBy(ctx, chain[len(chain)-1].RootTask); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// noTarget refuses a call whose target is not, or no longer, configured.
func noTarget(d *mayfly.Decision) {
	d.Verdict, d.Term, d.Reason = mayfly.Deny, mayfly.TermToken, "there is no such target"
	d.Next = &mayfly.Next{Action: "none", Detail: "call one of the targets that the task was granted"}
}

// spend counts what an allow costs.
func spend(tx *store.Tx, sp policy.Spend, now time.Time) {
	switch sp.Kind {
	case policy.SpendSum:
		tx.SpendSum(sp.Task, sp.Grant, sp.Argument, sp.Amount, sp.Max)
	case policy.SpendRate:
		tx.SpendRate(sp.Task, sp.Grant, sp.Max, sp.Per, now)
	default:
		tx.SpendGrant(sp.Task, sp.Grant, sp.Max)
	}
}

// giveBack takes back what a call cost that no target saw. A rate keeps it.
func giveBack(tx *store.Tx, sp policy.Spend) {
	switch sp.Kind {
	case policy.SpendSum:
		tx.GiveBackSum(sp.Task, sp.Grant, sp.Argument, sp.Amount)
	case policy.SpendRate:
	default:
		tx.GiveBack(sp.Task, sp.Grant)
	}
}

// room reports whether sp could be counted now. Only the commit knows for sure.
func (a *Authority) room(ctx context.Context, sp policy.Spend, now time.Time) (bool, error) {
	if sp.Kind == policy.SpendRate {
		n, err := a.db.RateCount(ctx, sp.Task, sp.Grant, sp.Per, now)
		return n < sp.Max, err
	}
	used, err := a.db.Counters(ctx, sp.Task)
	if err != nil {
		return false, err
	}
	if sp.Kind == policy.SpendSum {
		return sp.Amount <= sp.Max-used[store.SumKey(sp.Grant, sp.Argument)], nil
	}
	return used[sp.Grant] < sp.Max, nil
}

// spentBudget says which budget refused.
func (a *Authority) spentBudget(ctx context.Context, guard string, call *mayfly.Call, spends []policy.Spend, now time.Time) (string, *mayfly.Next) {
	none := &mayfly.Next{Action: "none", Detail: "ask whoever delegated this task for a new one"}
	for _, sp := range spends {
		if guard != "budget:"+string(sp.Task)+":"+sp.Grant {
			continue
		}
		if ok, err := a.room(ctx, sp, now); ok || err != nil {
			continue
		}
		switch sp.Kind {
		case policy.SpendSum:
			return "the budget of " + call.Grant() + " has not enough left for this " + sp.Argument,
				&mayfly.Next{Action: "retry", Detail: "send the call with a smaller " + sp.Argument + ", or ask whoever delegated this task for a new one"}
		case policy.SpendRate:
			return fmt.Sprintf("%s may be called %d times in %s, and was", call.Grant(), sp.Max, sp.Per),
				&mayfly.Next{Action: "retry", Detail: "wait, and send the call again; within " + sp.Per.String() + " there is room"}
		}
	}
	if strings.HasPrefix(guard, "task budget:") {
		return "the calls this task, or one above it, may make are spent", none
	}
	return "the budget of " + call.Grant() + " is spent", none
}

// decided is the record of a decision on s's call.
func (s *Session) decided(call mayfly.Call, d mayfly.Decision, snapshot *mayfly.Snapshot) mayfly.CallDecided {
	asked := s.presented.Trace
	return mayfly.CallDecided{
		Decision: d, Task: s.Task(), Root: s.task().Root,
		Surface: call.Kind, Target: call.Target, Action: call.Action,
		Digest: call.Digest, Size: call.Size,
		JTI: s.verified.Claims.JTI, Source: s.presented.Source, Trace: asked.Of(d.ID).ID, Span: asked.Span, Unsampled: asked.Unsampled,
		Snapshot: snapshot,
	}
}

// refuseCall commits a refusal, burning the proof, and returns it as an error.
func (a *Authority) refuseCall(ctx context.Context, s *Session, chain []*mayfly.Task, q *policy.Question, d mayfly.Decision, snapshot *mayfly.Snapshot) error {
	err := a.record(ctx, s.decided(q.Call, d, snapshot), burnProof(s.proof, q.Now))
	if refusedBy(err) == guardProof {
		return a.refuse(ctx, s.refused("call "+q.Call.Grant()), errReplay(), nil)
	}
	if err != nil {
		return err
	}
	e := mayfly.Errorf(mayfly.Denied, "%s", d.Reason)
	e.Decision, e.Term, e.Next = d.ID, d.Term, d.Next
	switch d.Term {
	case mayfly.TermLiveness:
		e.Kind, e.Code = mayfly.Unauthenticated, "invalid_token"
	case mayfly.TermTool:
		e.Code = "tool_changed"
	case mayfly.TermTask, mayfly.TermToken:
		// The task was not granted what its profile could be: a client can step up
		// (MCP authorization, insufficient_scope).
		if p := a.Bundle().Profiles[chain[len(chain)-1].Profile]; p != nil && q.Target != nil {
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
	// Upstream is the id that the target gave the request in its answer.
	Upstream string
}

// Done records what became of the call, in the background and until it is
// written. A call of which the target saw no byte gets its budget and its
// approval back. The
// last call that a task's own budget paid for ends the task here, after its
// answer.
// Further calls of Done do nothing.
func (ad *Admission) Done(o Outcome) {
	if ad.ended.Swap(true) {
		return
	}
	a, s := ad.a, ad.session
	e := mayfly.CallEnded{
		Decision: ad.decision.ID, Task: s.Task(), Outcome: o.Name, Status: o.Status, Detail: o.Detail, Bytes: o.Bytes, Upstream: o.Upstream,
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
						giveBack(tx, sp)
					}
					if ad.decision.Approval != "" {
						tx.GiveBackApproval(ad.decision.Approval)
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
	q := policy.Question{
		Chain: bundle.links(chain), Token: s.verified.Claims.Details, TokenWhole: s.verified.Whole, Now: now,
	}
	for i, c := range calls {
		q.Call = c
		visible[i] = policy.Visible(&q)
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
