package client

import (
	"context"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
)

// renewAt is the part of a token's life after which it is renewed.
const renewAt = 2.0 / 3

// Session is a task as its holder has it: its key and its tokens, kept fresh.
// It is safe for use by several goroutines.
type Session struct {
	client   *Client
	key      *Key
	task     mayfly.TaskID
	evidence EvidenceFunc

	mu     sync.Mutex
	tokens map[string]*held // by resource; "" is the issuer
}

// held is the newest token for one resource. Its lock is held during a renewal,
// so that everybody who waits gets the one new token.
type held struct {
	mu    sync.Mutex
	token Token
}

// EvidenceFunc gives the agent's evidence again: an actor token and its type.
type EvidenceFunc func(context.Context) (token, tokenType string, err error)

// Open opens a task and gives the session of its holder. r.Resource is left
// empty: the first token is for the issuer, and those for targets follow from
// it. evidence may be nil; a task that is not bound to a key needs it to renew
// its tokens past the life of the first one.
func (c *Client) Open(ctx context.Context, r ExchangeRequest, evidence EvidenceFunc) (*Session, error) {
	if r.Resource != "" {
		return nil, mayfly.Errorf(mayfly.Invalid, "a session begins with a token for the issuer; ask it for %q afterwards", r.Resource)
	}
	t, err := c.Exchange(ctx, r)
	if err != nil {
		return nil, err
	}
	return c.Resume(t, evidence), nil
}

// Resume makes a session of a task's own token, whose audience is the issuer.
func (c *Client) Resume(t Token, evidence EvidenceFunc) *Session {
	return &Session{
		client:   c,
		key:      t.Key,
		task:     t.Task,
		evidence: evidence,
		tokens:   map[string]*held{"": {token: t}},
	}
}

// Task is the session's task.
func (s *Session) Task() mayfly.TaskID { return s.task }

// Key is what the session's tokens are bound to; nil if they are not.
func (s *Session) Key() *Key { return s.key }

// API is the server's API with the task's own token: it may read, complete and
// narrow this task and open children.
func (s *Session) API() *Client { return s.client.As(s.For("")) }

// For is a source of fresh tokens for resource, one of the server's audiences;
// "" is the issuer.
func (s *Session) For(resource string) TokenFunc {
	return func(ctx context.Context) (Token, error) { return s.Token(ctx, resource) }
}

// Token is a token for resource, renewed when two thirds of its life are over.
// While the server cannot be reached, a token that has not expired is still
// given.
func (s *Session) Token(ctx context.Context, resource string) (Token, error) {
	s.mu.Lock()
	h := s.tokens[resource]
	if h == nil {
		h = &held{}
		s.tokens[resource] = h
	}
	s.mu.Unlock()

	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if now.Before(renewalOf(h.token)) {
		return h.token, nil
	}
	fresh, err := s.exchange(ctx, resource, h.token)
	switch {
	case err == nil:
		h.token = fresh
		return fresh, nil
	case mayfly.KindOf(err) == mayfly.Unavailable && now.Before(h.token.ExpiresAt):
		return h.token, nil
	}
	return Token{}, err
}

// exchange asks for a token for resource with the task's own one; for the issuer
// that is old itself.
func (s *Session) exchange(ctx context.Context, resource string, old Token) (Token, error) {
	own := old
	if resource != "" {
		var err error
		if own, err = s.Token(ctx, ""); err != nil {
			return Token{}, err
		}
	}
	r := ExchangeRequest{
		SubjectToken:     own.Text.Reveal(),
		SubjectTokenType: TypeAccessToken,
		Resource:         resource,
		Key:              s.key,
	}
	if s.evidence != nil && s.key == nil {
		var err error
		if r.ActorToken, r.ActorTokenType, err = s.evidence(ctx); err != nil {
			return Token{}, err
		}
	}
	return s.client.Exchange(ctx, r)
}

// renewalOf is when t is due for renewal.
func renewalOf(t Token) time.Time {
	return t.IssuedAt.Add(time.Duration(renewAt * float64(t.ExpiresAt.Sub(t.IssuedAt))))
}

// Intervals of KeepAlive.
const (
	minBeat   = time.Second
	retryBeat = 2 * time.Second
)

// KeepAlive keeps the task alive while its holder works: it renews the own token
// and the idle lease, which nothing else does for an agent that thinks for
// long. It returns when ctx ends, with nil, or when the task is over, with why.
func (s *Session) KeepAlive(ctx context.Context) error {
	api := s.API()
	for {
		wait, err := s.beat(ctx, api)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
		case mayfly.KindOf(err) == mayfly.Unavailable || mayfly.KindOf(err) == mayfly.RateLimited:
			wait = retryBeat // the lease may still hold; the server decides
		default:
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// beat renews once and says how long the next may wait.
func (s *Session) beat(ctx context.Context, api *Client) (time.Duration, error) {
	own, err := s.Token(ctx, "")
	if err != nil {
		return 0, err
	}
	asked := time.Now()
	t, err := api.Heartbeat(ctx, s.task)
	if err != nil {
		return 0, err
	}
	if t.State != mayfly.Live {
		return 0, mayfly.Errorf(mayfly.Gone, "the task is over (%s)", t.Reason)
	}
	wait := min(t.IdleUntil.Sub(s.client.wire.now())/2, renewalOf(own).Sub(asked))
	return max(wait, minBeat), nil
}

// Complete ends the task: the work is done.
func (s *Session) Complete(ctx context.Context) (Task, error) {
	return s.API().Complete(ctx, s.task)
}
