package authority

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/broker"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/mayfly-id/mayfly/internal/store"
	"golang.org/x/sync/errgroup"
)

const (
	returnWithin = 15 * time.Second // how long a target may take to take one back
	returnWide   = 4                // how many a target is asked for at once
	returnSlow   = time.Minute      // the longest pause between two tries
	// A lease that cannot be returned is an alarm after so many tries, or so long.
	stuckTries = 6
	stuckAfter = 10 * time.Minute
	// askLenders is how often targets are asked what they have.
	askLenders = 30 * time.Second
)

// returns is what this node does about leases that have ended.
type returns struct {
	now chan struct{}

	mu      sync.Mutex
	busy    map[string]bool         // targets that are being asked
	strange map[mayfly.LeaseID]bool // found at a target, and nobody knows them; said once
}

func (r *returns) wake() { wake(r.now) }

// keepLeases returns what is no longer lent: it ends the leases of tasks that are
// over, those that have expired, and those whose process ended half-way, and asks
// each target to take them back until it shows that they are gone. Every step is
// a guarded update, and nothing here counts on having been done before: two nodes
// at once, or a crash anywhere, change nothing but the time it takes.
func (a *Authority) keepLeases(ctx context.Context) {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	var asked time.Time
	// Who took the last try may be the process that died before this one. That
	// two try at once does no harm.
	if err := a.db.Keep(ctx, func(b *store.Books) { b.HurryLeases(a.clock.now()) }); err != nil && ctx.Err() == nil {
		a.logger.Warn("leases to return are not hurried, and tried when they are due", "error", err)
	}
	for {
		if err := a.endLeases(ctx); err != nil && ctx.Err() == nil {
			a.logger.Warn("ending leases stopped half-way and will go on", "error", err)
		}
		if err := a.returnLeases(ctx, &asking); err != nil && ctx.Err() == nil {
			a.logger.Warn("leases to return could not be read and are read again", "error", err)
		}
		if now := time.Now(); now.Sub(asked) >= askLenders {
			asked = now
			for name, lender := range a.Bundle().Lenders {
				asking.Go(func() { a.look(ctx, name, lender) })
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-a.returns.now:
		}
	}
}

// endLeases says of leases that they are to be returned.
func (a *Authority) endLeases(ctx context.Context) error {
	for ctx.Err() == nil {
		if a.mayAct() != nil {
			return nil
		}
		now := a.clock.now()
		leases, err := a.db.LeasesToEnd(ctx, now, reapBatch)
		if err != nil {
			return err
		}
		var g errgroup.Group
		g.SetLimit(reapWide)
		for _, l := range leases {
			reason := mayfly.LeaseTaskEnded
			switch {
			case l.ActiveAt.IsZero():
				reason = mayfly.LeaseFailed
			case !now.Before(l.ExpiresAt):
				reason = mayfly.LeaseRanOut
			}
			g.Go(func() error { return a.endLease(ctx, l, reason, string(reason)) })
		}
		if err := g.Wait(); err != nil || len(leases) < reapBatch {
			return err
		}
	}
	return ctx.Err()
}

// returnLeases has the targets of what is due asked, each on its own: one that
// does not answer keeps nobody waiting but its own.
func (a *Authority) returnLeases(ctx context.Context, asking *sync.WaitGroup) error {
	due, err := a.db.LeasesDue(ctx, a.clock.now(), reapBatch)
	if err != nil {
		return err
	}
	of := map[string][]*mayfly.Lease{}
	for _, l := range due {
		of[l.Target] = append(of[l.Target], l)
	}
	a.returns.mu.Lock()
	defer a.returns.mu.Unlock()
	for target, leases := range of {
		if a.returns.busy[target] {
			continue
		}
		a.returns.busy[target] = true
		asking.Go(func() {
			var g errgroup.Group
			g.SetLimit(returnWide)
			for _, l := range leases {
				g.Go(func() error { a.returnLease(ctx, l); return nil })
			}
			_ = g.Wait()
			a.returns.mu.Lock()
			delete(a.returns.busy, target)
			a.returns.mu.Unlock()
			if len(due) == reapBatch {
				a.returns.wake() // there may be more
			}
		})
	}
	return nil
}

// returnLease asks a target once to take a lease back, unless another node is
// doing so, and writes down what came of it.
func (a *Authority) returnLease(ctx context.Context, l *mayfly.Lease) {
	pause := min(time.Second<<min(l.Tries, 10), returnSlow)
	err := a.db.Keep(ctx, func(b *store.Books) { b.TryLease(l.ID, l.Tries, a.clock.now().Add(returnWithin+pause)) })
	if err != nil {
		if refusedBy(err) == "" && ctx.Err() == nil {
			a.logger.Warn("a lease is not returned yet", "lease", l.ID, "error", err)
		}
		return
	}
	l.Tries++
	failpoint.Here("lease.returning")
	err = mayfly.Errorf(mayfly.Unavailable, "the target %s is not in the configuration any more; put it back until all it lent is returned", l.Target)
	if lender := a.Bundle().Lenders[l.Target]; lender != nil {
		asking, cancel := context.WithTimeout(ctx, returnWithin)
		err = lender.Revoke(asking, l.ID)
		cancel()
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.stuck(ctx, l, err, pause)
		return
	}
	failpoint.Here("lease.gone")
	now := a.clock.now()
	e := mayfly.LeaseBack{Lease: l.ID, Task: l.Task, Root: l.Root, Grant: l.Grant(), Principal: l.Principal, Tries: l.Tries}
	err = a.record(ctx, e, func(tx *store.Tx) { tx.ReturnLease(l.ID, now) })
	if err != nil && refusedBy(err) == "" {
		a.logger.Warn("that a lease is returned could not be recorded, and is asked again", "lease", l.ID, "error", err)
		return
	}
	wake(a.reapNow) // its task may have waited for it
}

// stuck notes why a lease could not be returned, and when it is tried next. After
// a while that is an alarm: once for each lease, in the log and to the operator.
func (a *Authority) stuck(ctx context.Context, l *mayfly.Lease, why error, pause time.Duration) {
	problem := mayfly.AsError(why).Message
	now := a.clock.now()
	err := a.db.Keep(ctx, func(b *store.Books) { b.FailLease(l.ID, l.Tries, problem, now.Add(pause)) })
	if err != nil {
		a.logger.Warn("that a lease is not returned could not be noted", "lease", l.ID, "error", err)
	}
	if !l.AlarmedAt.IsZero() || l.Tries < stuckTries && now.Sub(l.EndedAt) < stuckAfter {
		return
	}
	e := mayfly.LeaseStuck{
		Lease: l.ID, Task: l.Task, Root: l.Root, Grant: l.Grant(), Principal: l.Principal,
		Since: l.EndedAt, Tries: l.Tries, Problem: problem, Until: l.ExpiresAt,
	}
	switch err := a.record(ctx, e, func(tx *store.Tx) { tx.AlarmLease(l.ID, now) }); {
	case err == nil:
		a.logger.Error("a credential cannot be returned; it is tried for ever", "lease", l.ID, "grant", l.Grant(), "principal", l.Principal,
			"task", l.Task, "good until, at the latest", l.ExpiresAt, "problem", problem, "cause", mayfly.AsError(why).Unwrap())
	case refusedBy(err) == "":
		a.logger.Warn("the alarm for a lease could not be recorded and is tried again", "lease", l.ID, "error", err)
	}
}

// look asks a target what it has, and has returned what it should not have.
func (a *Authority) look(ctx context.Context, name string, lender broker.Target) {
	asking, cancel := context.WithTimeout(ctx, returnWithin)
	defer cancel()
	lent, err := lender.Lent(asking)
	if err != nil {
		if ctx.Err() == nil {
			a.logger.Warn("a target does not say what it has lent, and is asked again", "target", name, "error", err)
		}
		return
	}
	for _, id := range lent {
		switch l, err := a.db.Lease(ctx, id); {
		case mayfly.KindOf(err) == mayfly.NotFound:
			a.stranger(ctx, name, id)
		case err != nil:
			a.logger.Warn("a lease could not be read", "lease", id, "error", err)
			return
		case l.State() == mayfly.LeaseReturned && l.Target == name:
			now := a.clock.now()
			e := mayfly.LeaseFound{Lease: l.ID, Task: l.Task, Root: l.Root, Grant: l.Grant()}
			err := a.record(ctx, e, func(tx *store.Tx) { tx.FindLease(l.ID, now) })
			if err == nil {
				a.logger.Error("a target has a credential that it had shown to be gone; it is returned again", "lease", l.ID, "grant", l.Grant())
				a.returns.wake()
			} else if refusedBy(err) == "" {
				a.logger.Warn("a lease that was found could not be recorded", "lease", l.ID, "error", err)
			}
		}
	}
}

// stranger says that a target has a credential that is marked as ours and that
// this store knows nothing of: of another installation, or of a store that was
// put back. It is not ours to take away.
func (a *Authority) stranger(ctx context.Context, target string, id mayfly.LeaseID) {
	a.returns.mu.Lock()
	known := a.returns.strange[id]
	a.returns.strange[id] = true
	a.returns.mu.Unlock()
	if known {
		return
	}
	detail := fmt.Sprintf("the target %s has a credential for %s, of which this store knows nothing: if no other installation lends there, and none was put back, remove it", target, id)
	a.logger.Error(detail)
	if err := a.record(ctx, mayfly.Alarm{What: "lease", Detail: detail}, nil); err != nil {
		a.returns.mu.Lock()
		delete(a.returns.strange, id)
		a.returns.mu.Unlock()
	}
}
