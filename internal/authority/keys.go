package authority

import (
	"context"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
	"github.com/mayfly-id/mayfly/internal/token"
)

// keyUse names the token keys among the sealed keys of the store.
const keyUse = "token"

// ensureSigningKey reads the signing keys, making the first if there is none
// and the next where one is due. A key is recorded before anything it signs.
func (a *Authority) ensureSigningKey(ctx context.Context) error {
	if err := a.readSigningKeys(ctx); err != nil {
		return err
	}
	if !a.keys.Due(a.clock.now()) {
		return nil
	}
	return a.RotateKey(ctx)
}

// RotateKey makes and publishes the next signing key. It signs once verifiers
// have had time to fetch it; the first key of an installation signs at once.
func (a *Authority) RotateKey(ctx context.Context) error {
	now := a.clock.now()
	k, err := a.keys.Next(now)
	if err != nil {
		return err
	}
	made := mayfly.KeyMade{KeyID: k.ID, Algorithm: k.Algorithm, SignsFrom: k.SignsFrom}
	err = a.record(ctx, made, func(tx *store.Tx) {
		tx.InsertKey(store.Key{
			ID: k.ID, Use: keyUse, Algorithm: k.Algorithm, Private: k.Private,
			MadeAt: k.MadeAt, SignsFrom: k.SignsFrom, SignsUntil: k.SignsUntil, AcceptUntil: k.AcceptUntil,
		})
		tx.Advance(epochKeys, k.ID, now)
	})
	if err != nil {
		return err
	}
	return a.readSigningKeys(ctx)
}

func (a *Authority) readSigningKeys(ctx context.Context) error {
	rows, err := a.db.Keys(ctx, keyUse)
	if err != nil {
		return err
	}
	keys := make([]token.StoredKey, len(rows))
	for i, r := range rows {
		keys[i] = token.StoredKey{
			ID: r.ID, Algorithm: r.Algorithm, Private: r.Private, MadeAt: r.MadeAt,
			SignsFrom: r.SignsFrom, SignsUntil: r.SignsUntil, AcceptUntil: r.AcceptUntil, CompromisedAt: r.CompromisedAt,
		}
	}
	return a.keys.Load(keys, a.clock.now())
}

// keepKeys rotates the signing key when it is due.
func (a *Authority) keepKeys(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if a.mayIssue() != nil {
				continue
			}
			if err := a.ensureSigningKey(ctx); err != nil && ctx.Err() == nil {
				a.logger.Error("the signing key could not be rotated", "error", err)
			}
		}
	}
}

// CompromiseKey makes every token of a signing key worthless, here at once and
// on every node within a second, and makes a new key. Only the operator may.
func (a *Authority) CompromiseKey(ctx context.Context, p Presented, kid string) error {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return err
	}
	if !w.operator {
		return a.refuse(ctx, w.refused("compromise key"), notYours(), nil)
	}
	now := a.clock.now()
	err = a.record(ctx, mayfly.KeyCompromised{KeyID: kid, By: w.name()}, func(tx *store.Tx) {
		tx.CompromiseKey(kid, now)
		tx.Advance(epochKeys, kid, now)
	})
	if refusedBy(err) != "" {
		return mayfly.Errorf(mayfly.NotFound, "there is no such key, or it was reported before")
	}
	if err != nil {
		return err
	}
	if err := a.advanced(ctx); err != nil {
		return err
	}
	return a.ensureSigningKey(ctx)
}
