package authority

import (
	"context"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/store"
	"github.com/mayfly-id/mayfly/internal/token"
)

// Presented is what a request showed for itself, untouched. The packages that
// speak HTTP fill it in; nobody but this package looks inside.
type Presented struct {
	Authorization []string // values of the header
	DPoP          []string // values of the header
	Method        string
	URL           string       // the configured public origin and the path: never from Host
	Peer          *attest.Peer // who is at the other end of the admin socket; nil elsewhere
	// SignIn is what the browser of a human at the console holds; zero elsewhere.
	SignIn mayfly.Secret
	Source string       // network address, for records
	Trace  mayfly.Trace // zero if none was sent
}

// DPoP nonce audiences.
const (
	nonceAS = "as"
	nonceRS = "rs"
)

// proofLife is how long a proof's id must be remembered: longer than any proof
// is accepted.
const proofLife = 2 * time.Minute

// assertionLife is the same for a client assertion, which is accepted for five
// minutes and some leeway.
const assertionLife = 6 * time.Minute

// credential splits the Authorization header into scheme and token.
func (p *Presented) credential() (scheme, text string, err error) {
	switch len(p.Authorization) {
	case 0:
		return "", "", mayfly.Coded(mayfly.Unauthenticated, "", "send an access token in the Authorization header")
	case 1:
		scheme, text, _ = strings.Cut(p.Authorization[0], " ")
		scheme = strings.ToLower(scheme)
		if (scheme == "bearer" || scheme == "dpop") && text != "" && !strings.Contains(text, " ") {
			return scheme, text, nil
		}
	}
	return "", "", mayfly.Coded(mayfly.Unauthenticated, "invalid_token",
		"the Authorization header must be one value, \"DPoP <token>\" or \"Bearer <token>\"")
}

// burnProof makes a proof single-use in the commit that it serves.
func burnProof(proof *token.Proof, now time.Time) func(*store.Tx) {
	if proof == nil {
		return nil
	}
	return func(tx *store.Tx) {
		tx.Once("dpop", proof.Thumbprint+":"+proof.ID, now.Add(proofLife))
	}
}

const guardProof = "once:dpop"

func errReplay() *mayfly.Error {
	return mayfly.Coded(mayfly.Unauthenticated, "invalid_dpop_proof",
		"this DPoP proof was used before; make a new one for each request")
}

// verifyAccess checks an access token of ours with the proof that goes with it:
// signature, expiry, audience, key. It says nothing about whether the task
// lives.
func (a *Authority) verifyAccess(p *Presented, audience string) (*token.Verified, *token.Proof, error) {
	scheme, text, err := p.credential()
	if err != nil {
		return nil, nil, err
	}
	now := a.clock.now()
	v, err := a.keys.Verify(text, now)
	if err != nil {
		return nil, nil, err
	}
	if v.Claims.Audience != audience {
		return nil, nil, mayfly.Coded(mayfly.Unauthenticated, "invalid_token",
			"this token is for another audience; ask for one with resource=%s", audience)
	}
	if a.live.tokenRevoked(v.Claims.JTI) {
		return nil, nil, mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "this token was revoked")
	}
	bound := v.Claims.KeyThumbprint
	if bound == "" {
		if scheme != "bearer" {
			return nil, nil, mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "this token is not bound to a key; send it as Bearer")
		}
		return v, nil, nil
	}
	if scheme != "dpop" {
		return nil, nil, mayfly.Coded(mayfly.Unauthenticated, "invalid_token",
			"this token is bound to a key; send it as DPoP with a proof")
	}
	proof, err := token.VerifyProof(p.DPoP, p.Method, p.URL, text, nonceRS, a.nonces, now)
	if err != nil {
		return nil, nil, err
	}
	if proof.Thumbprint != bound {
		return nil, nil, mayfly.Coded(mayfly.Unauthenticated, "invalid_dpop_proof",
			"the proof was made with another key than the token is bound to")
	}
	return v, &proof, nil
}

// who is a caller of /v1: an operator, a task, or a subject of a source.
type who struct {
	operator bool
	session  *Session       // a task's own token
	caller   *attest.Caller // a source's token, or a sign-in
	signIn   *mayfly.SignIn // of a human at the console

	// With caller, what policies are asked about it with: the rules it came
	// under, when and from where it came, and how a task's chain is read.
	bundle *Bundle
	at     time.Time
	source string
	chain  func(mayfly.TaskID) ([]*mayfly.Task, error)
}

// name is how who is written in records.
func (w who) name() string {
	switch {
	case w.operator:
		return "operator"
	case w.session != nil:
		return string(w.session.Task())
	default:
		return w.caller.Subject().ID
	}
}

// identify finds out who calls /v1: the peer of the admin socket, the holder of
// a task's token whose audience is the issuer, or a subject with a source's
// token.
func (a *Authority) identify(ctx context.Context, p *Presented) (who, error) {
	if err := a.mayAct(); err != nil {
		return who{}, err
	}
	if p.Peer != nil && len(p.Authorization) == 0 {
		return who{operator: true}, nil
	}
	if !p.SignIn.IsZero() && len(p.Authorization) == 0 {
		return a.identifySignIn(ctx, p)
	}
	scheme, text, err := p.credential()
	if err != nil {
		return who{}, a.unauthenticated("api", p, err)
	}
	if token.IsOurs(text) || scheme == "dpop" {
		s, err := a.Authenticate(ctx, *p, a.Bundle().Issuer)
		if err != nil {
			return who{}, err
		}
		return who{session: s}, nil
	}
	c, err := a.Bundle().Sources.Token(ctx, text, attest.ForAPI)
	if err != nil {
		return who{}, a.unauthenticated("api", p, err)
	}
	if c.Subject().Kind == mayfly.Workload {
		return who{}, a.unauthenticated("api", p, mayfly.Coded(mayfly.Unauthenticated, "invalid_token",
			"a workload's token opens no door here; use the token of a task"))
	}
	return a.asCaller(ctx, p, c)
}

// asCaller is a subject whom a source knows.
func (a *Authority) asCaller(ctx context.Context, p *Presented, c attest.Caller) (who, error) {
	if err := a.refuseRevoked(ctx, c.Subject()); err != nil {
		r := mayfly.RequestRefused{What: "api", Root: c.Subject(), Source: p.Source}
		return who{}, a.refuse(ctx, r, err, nil)
	}
	chain := func(id mayfly.TaskID) ([]*mayfly.Task, error) { return a.live.chain(ctx, id) }
	return who{caller: &c, bundle: a.Bundle(), at: a.clock.now(), source: p.Source, chain: chain}, nil
}
