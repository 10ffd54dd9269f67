package attest

import (
	"context"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/jose"
)

// clientAssertions are the rules for client assertions. The explicit type is
// what rfc7523bis asks for; clients older than that send JWT or none.
func clientAssertions() jose.Rules {
	return jose.Rules{
		Types:      []string{"client-authentication+jwt", "JWT", ""},
		Algorithms: []string{jose.ES256, jose.EdDSA, jose.RS256},
	}
}

// maxAssertion is the longest life of a client assertion: its jti is remembered
// that long.
const maxAssertion = 5 * time.Minute

// ClientAssertion authenticates an OAuth client by its signed assertion (RFC
// 7523 section 2.2, with rfc7523bis: the audience is our issuer alone). clientID
// is the client_id parameter, "" if none was sent. The caller's TokenID is the
// jti, to be made single-use by whoever writes: nothing here remembers it.
//
// The error is Unauthenticated with code invalid_client, the same for a client
// that is not known and one that did not prove its key; or Unavailable.
func (s *Sources) ClientAssertion(ctx context.Context, assertion, clientID string) (Caller, error) {
	c, err := s.clientAssertion(ctx, assertion, clientID)
	if err != nil && mayfly.KindOf(err) == mayfly.Unauthenticated {
		return Caller{}, mayfly.Coded(mayfly.Unauthenticated, "invalid_client", "the client assertion is not accepted: %s", err).Because(err)
	}
	return c, err
}

func (s *Sources) clientAssertion(ctx context.Context, assertion, clientID string) (Caller, error) {
	now := s.now()
	m, err := jose.Parse(assertion, clientAssertions())
	if err != nil {
		return Caller{}, err
	}
	claims, err := jose.ParseClaims(m.Payload)
	if err != nil {
		return Caller{}, err
	}
	id := claims.Issuer
	switch {
	case id == "" || claims.Subject != id:
		return Caller{}, refuse("its issuer and subject must both be the client's id (iss, sub)")
	case clientID != "" && clientID != id:
		return Caller{}, refuse("it is another client's than client_id says")
	case claims.Raw["aud"].Kind() != '"' || claims.Audience[0] != s.issuer:
		return Caller{}, refuse("its audience must be %q and no other, as a string (aud)", s.issuer)
	case claims.ID == "" || len(claims.ID) > maxName:
		return Caller{}, refuse("it needs an id of at most %d bytes, used once (jti)", maxName)
	}
	if err := claims.Require(now, leeway, id, s.issuer); err != nil {
		return Caller{}, err
	}
	if claims.ExpiresAt.Sub(claims.IssuedAt) > maxAssertion { // and iat is not in the future
		return Caller{}, refuse("it may live %s at most; 60 seconds are enough (exp, iat)", maxAssertion)
	}
	unproven := refuse("no client of this id proved its key with it")
	from := s.clients[id]
	if from == nil {
		return Caller{}, unproven
	}
	key, err := from.find(ctx, now, m.KeyID, m.Algorithm)
	if err != nil {
		if mayfly.KindOf(err) == mayfly.Unauthenticated {
			err = unproven.Because(err)
		}
		return Caller{}, err
	}
	if _, err := m.Verify(key); err != nil {
		return Caller{}, unproven.Because(err)
	}
	return Caller{verified{
		subject:   mayfly.Subject{Kind: mayfly.Workload, ID: id, Claims: map[string]string{"sub": id}},
		issuer:    s.issuer,
		client:    id,
		tokenID:   claims.ID,
		issuedAt:  claims.IssuedAt,
		expiresAt: claims.ExpiresAt,
	}}, nil
}
