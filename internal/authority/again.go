package authority

import (
	"context"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/store"
)

// again gives a task another token: a fresh one for the issuer, or one for a
// target, limited to the grants it names.
func (x *exchange) again(ctx context.Context, audience string, target *mayfly.Target) (TokenAnswer, error) {
	r, now := x.r, x.now
	t := parentOf(x.chain)
	held := x.presents.Claims.KeyThumbprint
	proof := ""
	if x.proof != nil {
		proof = x.proof.Thumbprint
	}
	if held != "" && proof != held {
		return TokenAnswer{}, mayfly.Coded(mayfly.Invalid, "invalid_dpop_proof",
			"prove the key the task is bound to: send a DPoP proof made with it")
	}
	if r.Purpose != "" || r.RequestedIdle != "" || r.Budget != "" {
		return TokenAnswer{}, badRequest("the task is open already; purpose, requested_idle and budget cannot change")
	}
	if x.actor != nil && (x.agent.Source != t.Agent.Source || x.agent.Subject != t.Agent.Subject || x.agent.Client != t.Agent.Client) {
		return TokenAnswer{}, badRequest("delegation mismatch: the evidence is another agent's than opened this task")
	}
	grants := t.Grants
	if r.Scope != "" || r.AuthorizationDetails != "" {
		if audience == x.b.Issuer {
			return TokenAnswer{}, mayfly.Coded(mayfly.Invalid, "invalid_scope",
				"a token for the issuer stands for the whole task and cannot be limited; ask for one for a target, or narrow the task")
		}
		p := x.b.Profiles[t.Profile]
		if p == nil {
			return TokenAnswer{}, errNoProfile()
		}
		var err error
		if grants, err = askedGrants(asked{scope: r.Scope, details: r.AuthorizationDetails}, p, t, nil); err != nil {
			return TokenAnswer{}, err
		}
	}
	claims, err := x.claims(t, audience, target, grants)
	if err != nil {
		return TokenAnswer{}, err
	}
	ttl, err := seconds("requested_ttl", r.RequestedTTL, tokenLife, tokenLife)
	if err != nil {
		return TokenAnswer{}, err
	}
	if until := now.Add(ttl); claims.ExpiresAt.After(until) {
		claims.ExpiresAt = until
	}
	if held == "" && x.actor == nil && claims.ExpiresAt.After(x.presents.Claims.ExpiresAt) {
		// A bearer token that renews itself for ever would be a standing one.
		claims.ExpiresAt = x.presents.Claims.ExpiresAt
	}
	permit, decision := policy.DecideAgain(&policy.AgainQuestion{
		Decision: mayfly.NewID("dec", now), Chain: x.b.links(x.chain), Now: now, Bundle: x.b.Hash,
	})
	if permit == nil {
		x.refused.Decision = decision.ID
		return TokenAnswer{}, refusedOpening(decision)
	}
	kid := x.a.keys.SigningKeyID(now)
	e := mayfly.TokenIssued{Task: t.ID, Root: t.Root, Token: tokenFact(claims, kid, x.presents.Claims.JTI)}
	rec, err := x.a.db.Prepare(ctx, now, x.b.Hash, e)
	if err != nil {
		return TokenAnswer{}, err
	}
	failpoint.Here("token.prepared")
	claims.JTI = rec.ID()
	pending := x.a.db.Submit(ctx, rec, func(tx *store.Tx) {
		tx.ChainLive(taskIDs(x.chain), now)
		x.burnAll(tx)
	})
	signed, signErr := x.a.keys.Sign(permit, kid, claims)
	failpoint.Here("token.signed")
	err = pending.Wait()
	switch guard := refusedBy(err); guard {
	case "":
	case "chain":
		x.a.live.evict(taskIDs(x.chain)...)
		return TokenAnswer{}, badRequest("the task ended meanwhile; open a new one")
	case guardProof:
		x.once = nil
		return TokenAnswer{}, mayfly.Coded(mayfly.Invalid, "invalid_dpop_proof", "%s", errReplay().Message)
	default:
		x.once = nil
		return TokenAnswer{}, errAssertionReplay()
	}
	if err != nil {
		return TokenAnswer{}, err
	}
	x.a.log.Acknowledged(rec)
	if signErr != nil {
		return TokenAnswer{}, signErr
	}
	failpoint.Here("token.committed")
	return x.answer(signed, claims, t), nil
}
