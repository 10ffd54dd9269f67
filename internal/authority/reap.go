package authority

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/mayfly-id/mayfly/internal/store"
	"golang.org/x/sync/errgroup"
)

const (
	reapEvery = time.Second // how often what ran out is looked for
	reapBatch = 256         // how much is looked at in one go
	reapWide  = 32          // how many closings share a commit
)

// wakeReaper makes the reaper look now.
func (a *Authority) wakeReaper() {
	wake(a.reapNow)
	a.returns.wake()
}

func wake(loop chan<- struct{}) {
	select {
	case loop <- struct{}{}:
	default: // it is about to look anyway
	}
}

// reap finishes what others began: it closes tasks whose time ran out and tasks
// below closed ones, retires what has nothing left to return, and writes the
// outcome of calls whose process died. Every step is a guarded update, so that
// two nodes reaping at once, or a crash half-way, change nothing but the time
// it takes.
func (a *Authority) reap(ctx context.Context) {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	a.recoverCalls(ctx)
	for n := 0; ; n++ {
		if err := a.reapOnce(ctx); err != nil && ctx.Err() == nil {
			a.logger.Warn("reaping stopped half-way and will go on", "error", err)
		}
		if n%60 == 59 {
			a.tidy(ctx)
			a.recoverCalls(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-a.reapNow:
		}
	}
}

// reapOnce closes and retires until nothing is due.
func (a *Authority) reapOnce(ctx context.Context) error {
	for ctx.Err() == nil {
		if a.mayAct() != nil {
			return nil // nothing is decided without the lease, endings included
		}
		if err := a.holdWaiting(ctx); err != nil {
			return err
		}
		now := a.clock.now()
		expired, err := a.db.Expired(ctx, now, reapBatch)
		if err != nil {
			return err
		}
		err = a.each(expired, func(t *mayfly.Task) error {
			_, reason := t.State(now)
			return a.closeQuietly(ctx, t, reason, func(tx *store.Tx) { tx.CloseExpired(t.ID, reason, now) })
		})
		if err != nil {
			return err
		}
		orphans, err := a.db.Orphans(ctx, reapBatch)
		if err != nil {
			return err
		}
		err = a.each(orphans, func(t *mayfly.Task) error {
			failpoint.Here("reap.orphan")
			return a.closeQuietly(ctx, t, mayfly.ParentEnded, func(tx *store.Tx) {
				tx.CloseTask(t.ID, mayfly.ParentEnded, string(t.Parent), now)
			})
		})
		if err != nil {
			return err
		}
		closed, err := a.db.ToRetire(ctx, reapBatch)
		if err != nil {
			return err
		}
		var retired atomic.Int64
		err = a.each(closed, func(t *mayfly.Task) error {
			points, stopped, err := a.points(ctx, t, now)
			if err != nil || !stopped {
				return err
			}
			failpoint.Here("reap.retire")
			e := mayfly.TaskRetired{Task: t.ID, Root: t.Root, Points: points}
			err = a.record(ctx, e, func(tx *store.Tx) { tx.RetireTask(t.ID, now) })
			if refusedBy(err) != "" {
				return nil
			}
			retired.Add(1)
			a.live.evict(t.ID)
			return err
		})
		if err != nil {
			return err
		}
		// One that was retired may have been the last below another.
		if len(expired) < reapBatch && len(orphans) == 0 && retired.Load() == 0 {
			return nil
		}
	}
	return ctx.Err()
}

// each runs do over ts, many at once: their commits are shared.
func (a *Authority) each(ts []*mayfly.Task, do func(*mayfly.Task) error) error {
	var g errgroup.Group
	g.SetLimit(reapWide)
	for _, t := range ts {
		g.Go(func() error { return do(t) })
	}
	return g.Wait()
}

// closeQuietly closes a task that the clock or its parent ended. Nobody needs an
// epoch to know: every node sees the clock and the chain.
func (a *Authority) closeQuietly(ctx context.Context, t *mayfly.Task, reason mayfly.CloseReason, guard func(*store.Tx)) error {
	now := a.clock.now()
	by := string(reason)
	err := a.record(ctx, mayfly.TaskClosed{Task: t.ID, Root: t.Root, Reason: reason, By: by}, func(tx *store.Tx) {
		guard(tx)
		tx.VoidTicketsOf(t.ID, now)
	})
	a.live.evict(t.ID)
	if refusedBy(err) != "" {
		return nil // renewed, or closed by somebody else
	}
	a.returns.wake()
	return err
}

// recoverCalls writes down the outcome of calls that were allowed by a process
// that is no more: nobody knows what became of them.
func (a *Authority) recoverCalls(ctx context.Context) {
	calls, err := a.db.AbandonedCalls(ctx, reapBatch)
	if err != nil {
		a.logger.Warn("calls of ended processes could not be read", "error", err)
		return
	}
	for _, c := range calls {
		e := mayfly.CallEnded{Decision: c.Decision, Task: c.Task, Outcome: "unknown", Detail: "the process that carried it ended"}
		t, err := a.db.Task(ctx, c.Task)
		if err != nil {
			a.logger.Warn("the task of an unknown outcome could not be read", "decision", c.Decision, "error", err)
			return
		}
		if t.Root.Kind == mayfly.Human {
			e.Human = t.Root.ID
		}
		err = a.record(ctx, e, func(tx *store.Tx) { tx.EndCall(c.Decision) })
		if err != nil && refusedBy(err) == "" {
			a.logger.Warn("an unknown outcome could not be recorded yet", "decision", c.Decision, "error", err)
			return
		}
		for _, id := range t.Chain() {
			a.endIfSpent(ctx, id)
		}
	}
}

// tidy drops what the clock alone has made worthless.
func (a *Authority) tidy(ctx context.Context) {
	now := a.clock.now()
	a.live.dropExpired(now)
	if err := a.db.Keep(ctx, func(b *store.Books) { b.PurgeOnce(now); b.DropRequests(now); b.PurgeSignIns(now) }); err != nil && ctx.Err() == nil {
		a.logger.Warn("what has expired could not be dropped", "error", err)
	}
}
