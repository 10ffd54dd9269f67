package authority

import (
	"context"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
)

// The kinds of epoch change: what a node must forget or read again.
const (
	epochTask       = "task"       // this task closed or narrowed
	epochToken      = "token"      // this token id was revoked
	epochRevocation = "revocation" // the kill switch was thrown or lifted
	epochKeys       = "keys"       // the signing keys changed
	epochPins       = "pins"       // a tool changed, or was accepted as changed
	epochPerson     = "person"     // the person with this pseudonym was erased
)

// confirmEvery is how often the epoch is asked for where no notice comes: well
// inside the authority lease, so that a slow answer does not lose it.
const confirmEvery = 250 * time.Millisecond

// confirmTimeout bounds one confirmation, so that a store that hangs costs the
// lease and not the loop.
const confirmTimeout = time.Second

// followEpoch keeps the authority lease while the store answers, and applies
// what other nodes changed. A notice only makes it look sooner.
func (a *Authority) followEpoch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := a.confirmEpoch(ctx); err != nil && ctx.Err() == nil {
			a.logger.Warn("the epoch could not be confirmed; this node denies when its lease runs out", "error", err)
		} else {
			a.sayFollowed(ctx)
		}
		wait, cancel := context.WithTimeout(ctx, confirmEvery)
		if err := a.db.Wait(wait); err != nil && wait.Err() == nil {
			<-wait.Done() // no notices to be had just now: poll
		}
		cancel()
	}
}

// sayFollowed writes down how far this node follows, where that has moved, so
// that others can tell when it stopped.
func (a *Authority) sayFollowed(ctx context.Context) {
	n := a.epoch.Load()
	if n == a.followed.Load() {
		return
	}
	at := a.clock.now()
	if err := a.db.Keep(ctx, func(b *store.Books) { b.FollowEpoch(n, at) }); err == nil {
		a.followed.Store(n)
		wake(a.reapNow) // a task may wait for it
	}
}

// confirmEpoch asks the store for the epoch, applies what is new, and only then
// renews the lease, from the moment the question was sent.
func (a *Authority) confirmEpoch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	sent := a.clock.instant()
	newest, err := a.db.Epoch(ctx)
	if err != nil {
		return err
	}
	if err := a.applyEpoch(ctx, newest); err != nil {
		return err
	}
	a.lease.confirm(sent)
	return nil
}

// applyEpoch makes this node forget everything that moved up to newest. The
// first application, at start, reads the standing state instead of the history.
func (a *Authority) applyEpoch(ctx context.Context, newest int64) error {
	a.follow.Lock()
	defer a.follow.Unlock()
	seen := a.epoch.Load()
	first := a.lease.confirmed.Load() == nil
	if newest == seen && !first {
		return nil
	}
	if first {
		if err := a.readRevokedTokens(ctx); err != nil {
			return err
		}
		if err := a.readPins(ctx); err != nil {
			return err
		}
		a.epoch.Store(newest)
		return nil
	}
	keys, tokens, pins := false, false, false
	for seen < newest {
		changes, err := a.db.EpochChangesSince(ctx, seen, 1000)
		if err != nil {
			return err
		}
		if len(changes) == 0 {
			break // the history was pruned under us
		}
		for _, c := range changes {
			switch c.Kind {
			case epochTask:
				a.live.evict(mayfly.TaskID(c.Subject))
			case epochToken:
				tokens = true
			case epochRevocation:
				a.live.evictAll()
			case epochKeys:
				keys = true
			case epochPins:
				pins = true
			case epochPerson:
				a.db.Forget(c.Subject)
				a.live.evictAll()
			default: // a newer node's word: forget everything
				a.live.evictAll()
				keys, tokens, pins = true, true, true
			}
			seen = c.N
		}
	}
	if seen < newest {
		a.live.evictAll()
		keys, tokens, pins = true, true, true
	}
	if pins {
		if err := a.readPins(ctx); err != nil {
			return err
		}
	}
	if keys {
		if err := a.readSigningKeys(ctx); err != nil {
			return err
		}
	}
	if tokens {
		if err := a.readRevokedTokens(ctx); err != nil {
			return err
		}
	}
	a.epoch.Store(newest)
	go a.cutEnded(context.WithoutCancel(ctx))
	return nil
}

// advanced applies, on this node and at once, the epoch change this node just
// committed: whoever asked for it is answered only after this node denies.
func (a *Authority) advanced(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), confirmTimeout)
	defer cancel()
	if err := a.confirmEpoch(ctx); err != nil {
		// The change is durable and other nodes will follow; this one must not
		// go on by what it remembers.
		a.live.evictAll()
		return mayfly.Errorf(mayfly.Unavailable, "it is recorded, and this node could not confirm it; it denies until it can").Because(err)
	}
	return nil
}

func (a *Authority) readRevokedTokens(ctx context.Context) error {
	revoked, err := a.db.RevokedTokens(ctx, a.clock.now())
	if err != nil {
		return err
	}
	for _, r := range revoked {
		a.live.revokeToken(r.JTI, r.ExpiresAt)
	}
	return nil
}
