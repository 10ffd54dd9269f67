package token

import (
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/jose"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// Verified is a token whose signature, issuer and form are right, that is not
// expired and whose key is good. It is shared: do not change it.
type Verified struct {
	Claims Claims
	Whole  bool // the audience is the issuer: the token stands for the whole task
	KeyID  string
}

// clockSkew is how far ahead another node's clock may be. It moves no end: a
// token dies at its exp.
const clockSkew = 5 * time.Second

// Verify checks an access token of ours. What cannot change about a token
// (signature and claims) is remembered by its text; its expiry and its key are
// looked at each time. Whatever is wrong, the error is
// Unauthenticated with code invalid_token.
func (k *Keyring) Verify(text string, now time.Time) (*Verified, error) {
	if len(text) > maxToken {
		return nil, invalid("the token is longer than %d bytes", maxToken)
	}
	v := k.seen.get(text)
	if v == nil {
		var err error
		if v, err = k.verify(text, now); err != nil {
			return nil, err
		}
		k.seen.put(text, v)
	}
	if k.accepts(v.KeyID, now) == nil {
		return nil, invalid("the token's key is not accepted any more; get a new token")
	}
	if !now.Before(v.Claims.ExpiresAt) {
		return nil, invalid("the token has expired; get a new one")
	}
	if v.Claims.IssuedAt.After(now.Add(clockSkew)) {
		return nil, invalid("the token is from the future; check the clocks")
	}
	return v, nil
}

// accepts is the key of this id if tokens signed with it are good at now.
func (k *Keyring) accepts(kid string, now time.Time) *key {
	signed := k.now.Load().keys[kid]
	if signed == nil || !now.Before(signed.acceptUntil) {
		return nil
	}
	return signed
}

func (k *Keyring) verify(text string, now time.Time) (*Verified, error) {
	m, err := jose.Parse(text, tokenRules())
	if err != nil {
		return nil, invalid("%s", err).Because(err)
	}
	signed := k.accepts(m.KeyID, now)
	if signed == nil {
		return nil, invalid("the token was signed with a key that is not known here; get a new token")
	}
	payload, err := m.Verify(signed.public)
	if err != nil {
		return nil, invalid("%s", err).Because(err)
	}
	claims, wrong := k.parsePayload(payload)
	if wrong != "" {
		return nil, invalid("the token's claims are not those of an access token").Because(errors.New(wrong))
	}
	return &Verified{Claims: claims, Whole: claims.Audience == k.issuer, KeyID: m.KeyID}, nil
}

func invalid(format string, args ...any) *mayfly.Error {
	return mayfly.Coded(mayfly.Unauthenticated, "invalid_token", format, args...)
}

// Sign makes the access token that says c, with the key kid, for the decision
// that p is the permit of. It signs in the caller's goroutine. What must not be
// signed is an Internal error; a key that was compromised since kid was asked
// for is Unavailable.
func (k *Keyring) Sign(p *policy.Permit, kid string, c Claims) (string, error) {
	if wrong := c.lint(k.issuer); wrong != "" {
		return "", mayfly.Errorf(mayfly.Internal, "the token was not signed").Because(errors.New(wrong))
	}
	signed := k.accepts(kid, c.ExpiresAt)
	if signed == nil {
		return "", mayfly.Errorf(mayfly.Unavailable, "the signing key was replaced meanwhile; try again")
	}
	if err := p.Issue(); err != nil {
		return "", err
	}
	payload, err := strictjson.Marshal(c.payload(k.issuer))
	if err != nil {
		return "", err
	}
	text, err := jose.Sign(signed.signer, jose.Header{Algorithm: jose.ES256, KeyID: kid, Type: tokenType}, payload)
	if err != nil {
		return "", mayfly.Errorf(mayfly.Internal, "the token was not signed").Because(err)
	}
	if len(text) > maxToken {
		return "", mayfly.Coded(mayfly.Invalid, "invalid_scope",
			"the token would be longer than %d bytes; ask for fewer grants, or for one target with resource", maxToken)
	}
	return text, nil
}

// seen remembers verified tokens: the newest, at least seenSize and at most
// twice as many. Two generations are cheaper than exact order, and good enough:
// a token that is used stays. The key is the text itself and not a digest of
// it, because SHA-256 of a token costs 3 µs on a machine without instructions
// for it, twenty times the look-up.
type seen struct {
	mu         sync.RWMutex // guards the fields below
	young, old map[string]*Verified
}

const seenSize = 4096

func (s *seen) get(text string) *Verified {
	s.mu.RLock()
	v, young := s.young[text]
	if !young {
		v = s.old[text]
	}
	s.mu.RUnlock()
	if !young && v != nil {
		s.put(text, v)
	}
	return v
}

func (s *seen) put(text string, v *Verified) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.young == nil || len(s.young) >= seenSize {
		s.old, s.young = s.young, make(map[string]*Verified)
	}
	s.young[strings.Clone(text)] = v // not the request it is part of
}
