package authority

import (
	"context"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
	"github.com/mayfly-id/mayfly/internal/token"
)

// asker is who asks about a token: the operator, or an authenticated client.
type asker struct {
	operator bool
	client   string
	burn     func(*store.Tx)
}

// authenticateClient finds out who asks. Everything but the admin socket must
// authenticate (RFC 7662 section 2.1).
func (a *Authority) authenticateClient(ctx context.Context, p *Presented, c ClientAuth) (asker, error) {
	if err := a.mayAct(); err != nil {
		return asker{}, err
	}
	if c.Assertion == "" && c.AssertionType == "" {
		if p.Peer != nil {
			return asker{operator: true}, nil
		}
		return asker{}, a.unauthenticated("token", p, mayfly.Coded(mayfly.Unauthenticated, "invalid_client",
			"authenticate with client_assertion (private_key_jwt)"))
	}
	if c.AssertionType != TypeJWTBearer {
		return asker{}, a.unauthenticated("token", p, mayfly.Coded(mayfly.Unauthenticated, "invalid_client",
			"client_assertion_type must be %s", TypeJWTBearer))
	}
	caller, err := a.Bundle().Sources.ClientAssertion(ctx, c.Assertion, c.ID)
	if err != nil {
		return asker{}, a.unauthenticated("token", p, err)
	}
	// Reading commits nothing, so the node's memory makes the assertion
	// single-use here; a change burns it in its commit.
	if !a.assertions.first(caller.Client()+":"+caller.TokenID(), a.clock.now()) {
		return asker{}, a.unauthenticated("token", p, errAssertionReplay())
	}
	return asker{client: caller.Client(), burn: onceAssertion(caller)}, nil
}

// Introspect tells about a token (RFC 7662): the operator about any, a client
// about those for its own audience. Whatever is wrong with the token, the
// answer is active false and nothing else.
func (a *Authority) Introspect(ctx context.Context, p Presented, c ClientAuth, text string) (map[string]any, error) {
	who, err := a.authenticateClient(ctx, &p, c)
	if err != nil {
		return nil, err
	}
	inactive := map[string]any{"active": false}
	now := a.clock.now()
	b := a.Bundle()
	v, err := a.keys.Verify(text, now)
	if err != nil || a.live.tokenRevoked(v.Claims.JTI) {
		return inactive, nil
	}
	if !who.operator && (b.Clients[who.client].Audience == "" || b.Clients[who.client].Audience != v.Claims.Audience) {
		return inactive, nil
	}
	chain, err := a.chainOf(ctx, mayfly.TaskID(v.Claims.Task.ID), now)
	if mayfly.KindOf(err) == mayfly.NotFound {
		return inactive, nil
	} else if err != nil {
		return nil, err
	}
	if ended(chain, now) != nil {
		return inactive, nil
	}
	answer := v.Claims.Members(b.Issuer)
	answer["active"] = true
	answer["token_type"] = "Bearer"
	if v.Claims.KeyThumbprint != "" {
		answer["token_type"] = "DPoP"
	}
	return answer, nil
}

// RevokeToken kills a token and all that was derived from it (RFC 7009). A
// token whose audience is the issuer stands for its task, and everything else
// of the task derives from it: the task is revoked. A token for a target has no
// descendants and dies alone. An unknown token is no error.
func (a *Authority) RevokeToken(ctx context.Context, p Presented, c ClientAuth, text string) error {
	who, err := a.authenticateClient(ctx, &p, c)
	if err != nil {
		return err
	}
	now := a.clock.now()
	v, err := a.keys.Verify(text, now)
	if err != nil || a.live.tokenRevoked(v.Claims.JTI) {
		return nil
	}
	t, err := a.db.Task(ctx, mayfly.TaskID(v.Claims.Task.ID))
	if mayfly.KindOf(err) == mayfly.NotFound {
		return nil
	} else if err != nil {
		return err
	}
	by := "operator"
	if !who.operator {
		by = who.client
		if v.Claims.ClientID != who.client {
			return a.refuse(ctx, mayfly.RequestRefused{What: "revoke token", Root: t.Root, Task: t.ID, Profile: t.Profile, Source: p.Source},
				badRequest("this token was issued to another client"), who.burn)
		}
	}
	if v.Whole {
		_, err := a.close(ctx, &t.Task, mayfly.Revoked, by, who.burn)
		if guard := refusedBy(err); guard != "" {
			return nil // it was over already
		}
		return err
	}
	return a.revokeOne(ctx, v, by, who.burn)
}

func (a *Authority) revokeOne(ctx context.Context, v *token.Verified, by string, burn func(*store.Tx)) error {
	now := a.clock.now()
	c := v.Claims
	task := mayfly.TaskID(c.Task.ID)
	err := a.record(ctx, mayfly.TokenRevoked{Task: task, JTI: c.JTI, By: by}, func(tx *store.Tx) {
		if burn != nil {
			burn(tx)
		}
		tx.RevokeToken(c.JTI, task, now, c.ExpiresAt)
		tx.Advance(epochToken, c.JTI, now)
	})
	if refusedBy(err) != "" {
		return nil
	}
	if err != nil {
		return err
	}
	return a.advanced(ctx)
}
