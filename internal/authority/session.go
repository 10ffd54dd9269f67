package authority

import (
	"context"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/token"
)

// Session is a verified token on one request: whose task it is and that the
// task was live when the request came in.
type Session struct {
	a         *Authority
	presented Presented
	verified  *token.Verified
	proof     *token.Proof // nil for an unbound token
	chain     []*mayfly.Task
}

// Authenticate verifies the token and proof of a request against the one
// audience it must be for, and that the task and all above it are live. For a
// method that is passed without a decision this is enough; everything else goes
// on to [Authority.Admit].
func (a *Authority) Authenticate(ctx context.Context, p Presented, audience string) (*Session, error) {
	if err := a.mayAct(); err != nil {
		return nil, err
	}
	v, proof, err := a.verifyAccess(&p, audience)
	if err != nil {
		return nil, a.unauthenticated(surfaceOf(audience, a.Bundle().Issuer), &p, err)
	}
	now := a.clock.now()
	if proof != nil && !a.proofs.first(proof.Thumbprint+":"+proof.ID, now) {
		return nil, a.unauthenticated(surfaceOf(audience, a.Bundle().Issuer), &p, errReplay())
	}
	chain, err := a.chainOf(ctx, mayfly.TaskID(v.Claims.Task.ID), now)
	if err != nil {
		if mayfly.KindOf(err) == mayfly.NotFound {
			err = mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "the task of this token is not known here; open a new one")
			return nil, a.unauthenticated(surfaceOf(audience, a.Bundle().Issuer), &p, err)
		}
		return nil, err
	}
	s := &Session{a: a, presented: p, verified: v, proof: proof, chain: chain}
	if over := ended(chain, now); over != nil {
		return nil, a.refuse(ctx, s.refused("authenticate"), over, burnProof(proof, now))
	}
	return s, nil
}

func surfaceOf(audience, issuer string) string {
	if audience == issuer {
		return "api"
	}
	return "gateway"
}

// Task is the task that acts.
func (s *Session) Task() mayfly.TaskID { return s.task().ID }

func (s *Session) task() *mayfly.Task { return s.chain[len(s.chain)-1] }

// Profile is the name of the task's profile.
func (s *Session) Profile() string { return s.task().Profile }

// Key is the RFC 7638 thumbprint of the key the token is bound to, or "".
func (s *Session) Key() string { return s.verified.Claims.KeyThumbprint }

// ExpiresAt is when the token presented dies.
func (s *Session) ExpiresAt() time.Time { return s.verified.Claims.ExpiresAt }

// refused begins the record of a refusal of this session's request.
func (s *Session) refused(what string) mayfly.RequestRefused {
	return mayfly.RequestRefused{
		What: what, Root: s.task().Root, Task: s.task().ID, Profile: s.task().Profile, Source: s.presented.Source,
	}
}

// openCalls are the calls and streams in flight on this node, so that they can
// be cut.
type openCalls struct {
	mu   sync.Mutex // guards the map
	cuts map[*openCall]struct{}
}

type openCall struct {
	session *Session
	stream  bool // holds the idle lease
	cancel  context.CancelCauseFunc
}

// Context is ctx, ending also when the task, one above it, or the token is
// over, or this node may no longer decide. Its cause then is a *mayfly.Error.
func (s *Session) Context(ctx context.Context) (context.Context, context.CancelFunc) {
	return s.open(ctx, false)
}

// Stream is Context for something that stays open: as long as it does, the idle
// leases of the task and of all above it are renewed.
func (s *Session) Stream(ctx context.Context) (context.Context, context.CancelFunc) {
	return s.open(ctx, true)
}

func (s *Session) open(ctx context.Context, stream bool) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	c := &openCall{session: s, stream: stream, cancel: cancel}
	o := &s.a.open
	o.mu.Lock()
	if o.cuts == nil {
		o.cuts = map[*openCall]struct{}{}
	}
	o.cuts[c] = struct{}{}
	o.mu.Unlock()
	return ctx, func() {
		o.mu.Lock()
		delete(o.cuts, c)
		o.mu.Unlock()
		cancel(context.Canceled)
	}
}

// sweepEvery is how often open calls are looked at; an epoch change looks at
// once.
const sweepEvery = 200 * time.Millisecond

// sweepOpen cuts what is open for a task that is over.
func (a *Authority) sweepOpen(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.cutEnded(ctx)
		}
	}
}

// cutEnded looks at every open call once. A call whose chain cannot be read is
// cut: not knowing is not living.
func (a *Authority) cutEnded(ctx context.Context) {
	a.open.mu.Lock()
	calls := make([]*openCall, 0, len(a.open.cuts))
	for c := range a.open.cuts {
		calls = append(calls, c)
	}
	a.open.mu.Unlock()
	if len(calls) == 0 {
		return
	}
	now := a.clock.now()
	if err := a.mayAct(); err != nil {
		for _, c := range calls {
			c.cancel(err)
		}
		return
	}
	renew := map[mayfly.TaskID]*mayfly.Task{}
	for _, c := range calls {
		if err := a.stillLive(ctx, c.session, now); err != nil {
			c.cancel(err)
			continue
		}
		if c.stream {
			for _, t := range c.session.chain {
				renew[t.ID] = t
			}
		}
	}
	for id := range renew {
		if t, err := a.live.task(ctx, id); err == nil {
			a.renewIdle(ctx, t, "stream")
		}
	}
}

// stillLive asks again, now, whether s may go on.
func (a *Authority) stillLive(ctx context.Context, s *Session, now time.Time) error {
	if !now.Before(s.ExpiresAt()) {
		return mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "the token expired while the call was open")
	}
	if a.live.tokenRevoked(s.verified.Claims.JTI) {
		return mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "the token was revoked while the call was open")
	}
	chain, err := a.chainOf(ctx, s.Task(), now)
	if err != nil {
		return err
	}
	if over := ended(chain, now); over != nil {
		return over
	}
	return nil
}

// proofMemory is this node's memory of proofs it has seen, for requests that
// commit nothing: two buckets of one life each.
type proofMemory struct {
	life time.Duration // longer than any proof is accepted

	mu       sync.Mutex // guards the fields below
	now, old map[string]struct{}
	turned   time.Time
}

// proofMemoryMax bounds the memory: a full one refuses instead of forgetting.
const proofMemoryMax = 1 << 18

// first reports whether this proof id was not seen before.
func (m *proofMemory) first(id string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now == nil || now.Sub(m.turned) > m.life {
		m.old, m.now, m.turned = m.now, map[string]struct{}{}, now
	}
	_, inNow := m.now[id]
	_, inOld := m.old[id]
	if inNow || inOld || len(m.now) >= proofMemoryMax {
		return false
	}
	m.now[id] = struct{}{}
	return true
}
