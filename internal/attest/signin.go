package attest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/oauth2"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/jose"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// SignIn is one human's way to their identity provider and back (OpenID Connect
// Core 1.0 section 3.1, with PKCE). State, Nonce and Verifier are secrets of
// the browser that began it.
type SignIn struct {
	Redirect               string // where the provider sends the browser back to
	State, Nonce, Verifier string
	// Again has the provider ask the human to show who they are, whatever it
	// remembers, and refuses an answer that is older than Began.
	Again bool
	Began time.Time
	Hint  string // login_hint; "" is none
}

// SignedIn is a human whom their identity provider showed in.
type SignedIn struct {
	Caller Caller
	At     time.Time // when the provider asked them who they are; zero where it does not say
}

// SignsIn reports whether some source signs humans in.
func (s *Sources) SignsIn() bool { return s.signIn != nil }

// SignInURL is where the browser goes to begin. Its error is Unavailable where
// the provider does not answer.
func (s *Sources) SignInURL(ctx context.Context, in SignIn) (string, error) {
	c, err := s.provider(ctx, in)
	if err != nil {
		return "", err
	}
	options := []oauth2.AuthCodeOption{
		oauth2.S256ChallengeOption(in.Verifier), oauth2.SetAuthURLParam("nonce", in.Nonce),
		// A provider that is told how old is too old says when it was (section 2, auth_time).
		oauth2.SetAuthURLParam("max_age", strconv.Itoa(int(mayfly.SignInMost/time.Second))),
	}
	if in.Again {
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"), oauth2.SetAuthURLParam("max_age", "0"))
	}
	if in.Hint != "" {
		options = append(options, oauth2.SetAuthURLParam("login_hint", in.Hint))
	}
	return c.AuthCodeURL(in.State, options...), nil
}

// SignedIn redeems the code that the provider sent the browser back with, and
// issuer is what it said of itself there (RFC 9207), "" if nothing. Its error is
// Unauthenticated where the provider, or what it says, is refused.
func (s *Sources) SignedIn(ctx context.Context, code, issuer string, in SignIn) (SignedIn, error) {
	c, err := s.provider(ctx, in)
	if err != nil {
		return SignedIn{}, err
	}
	if issuer != s.signIn.Issuer && (issuer != "" || c.namesItself) {
		return SignedIn{}, refuse("the answer is another provider's (iss)")
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, s.fetcher.client(c.zone))
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	answer, err := c.Exchange(ctx, code, oauth2.VerifierOption(in.Verifier))
	if err != nil {
		told, ok := errors.AsType[*oauth2.RetrieveError](err)
		if ok && told.ErrorCode == "invalid_client" {
			return SignedIn{}, refuse("the identity provider does not know this server; whoever runs it looks at client_secret under console").Because(err)
		}
		if ok && told.Response.StatusCode < 500 {
			return SignedIn{}, refuse("the identity provider does not take its own code back (%s); sign in again", told.ErrorCode).Because(err)
		}
		return SignedIn{}, unreachable(err)
	}
	text, _ := answer.Extra("id_token").(string)
	return s.idToken(ctx, text, in)
}

// idToken verifies an ID token (section 3.1.3.7).
func (s *Sources) idToken(ctx context.Context, text string, in SignIn) (SignedIn, error) {
	caller, err := s.token(ctx, text)
	if err != nil {
		return SignedIn{}, err
	}
	if !caller.v.operator || caller.v.subject.Source != s.signIn.Name || caller.v.key != "" {
		return SignedIn{}, refuse("the identity provider answered with a token that is not for the console")
	}
	m, err := jose.Parse(text, sourceTokens()) // verified just now
	if err != nil {
		return SignedIn{}, err
	}
	claims, err := jose.ParseClaims(m.Payload)
	if err != nil {
		return SignedIn{}, err
	}
	out := SignedIn{Caller: caller}
	if nonce, err := textOf(claims.Raw["nonce"]); err != nil || nonce != in.Nonce || nonce == "" {
		return SignedIn{}, refuse("the identity provider answered somebody else's sign-in (nonce)")
	}
	if raw := claims.Raw["azp"]; raw != nil {
		if azp, err := textOf(raw); err != nil || azp != s.signIn.Operators {
			return SignedIn{}, refuse("the token was made for another client (azp)")
		}
	}
	if raw := claims.Raw["auth_time"]; raw != nil {
		seconds, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil || seconds <= 0 {
			return SignedIn{}, refuse("the time at which the human signed in is none (auth_time)")
		}
		out.At = time.Unix(seconds, 0).UTC()
		if out.At.After(claims.IssuedAt.Add(leeway)) {
			return SignedIn{}, refuse("the human signed in after the token was made (auth_time)")
		}
	}
	switch {
	case in.Again && out.At.IsZero():
		return SignedIn{}, refuse("the identity provider does not say when it asked who you are (auth_time), so this cannot be done here; use the command line")
	case in.Again && out.At.Before(in.Began.Add(-leeway)):
		return SignedIn{}, refuse("the identity provider did not ask again who you are (auth_time)")
	}
	return out, nil
}

// Remembered is a human who was signed in before, as a caller until then, if the
// source that knew them still signs in whoever is like them.
func (s *Sources) Remembered(human mayfly.Subject, until time.Time) (Caller, error) {
	if s.signIn == nil || human.Kind != mayfly.Human || human.Source != s.signIn.Name {
		return Caller{}, refuse("nobody signs in that way any more; sign in again")
	}
	if !(&mayfly.SourceRule{Source: s.signIn.Name, Match: s.signIn.Match}).Accepts(human) {
		return Caller{}, refuse("the source's rules have changed; sign in again")
	}
	return Caller{verified{subject: human, issuer: s.signIn.Issuer, expiresAt: until, operator: true}}, nil
}

// way is where humans sign in.
type way struct {
	oauth2.Config
	zone        zone // of its token endpoint
	namesItself bool // in every answer by the browser (RFC 9207 section 2.4)
}

// provider reads where humans sign in.
func (s *Sources) provider(ctx context.Context, in SignIn) (*way, error) {
	if s.signIn == nil {
		return nil, mayfly.Errorf(mayfly.NotFound, "nobody signs in here; name a source under console in the configuration")
	}
	from, err := parseIssuer(s.signIn.Issuer, s.signIn.Loopback)
	if err != nil {
		return nil, err
	}
	data, err := s.fetcher.get(ctx, place{from.url.JoinPath(".well-known/openid-configuration"), from.zone})
	if err != nil {
		return nil, unreachable(err)
	}
	var metadata struct {
		Issuer    string   `json:"issuer"`
		Authorize string   `json:"authorization_endpoint"`
		Token     string   `json:"token_endpoint"`
		PKCE      []string `json:"code_challenge_methods_supported"`
		Methods   []string `json:"token_endpoint_auth_methods_supported"`
		Names     bool     `json:"authorization_response_iss_parameter_supported"`
	}
	if err := strictjson.UnmarshalLenient(data, strictjson.Limits{Bytes: fetchBytes, Depth: 32}, &metadata); err != nil {
		return nil, unreachable(err)
	}
	var endpoints [2]*url.URL
	for i, text := range []string{metadata.Authorize, metadata.Token} {
		if endpoints[i], err = from.link(text); err != nil {
			return nil, unreachable(err)
		}
	}
	switch {
	case metadata.Issuer != s.signIn.Issuer:
		return nil, unreachable(fmt.Errorf("it speaks for another issuer: %q", metadata.Issuer))
	case len(metadata.PKCE) > 0 && !slices.Contains(metadata.PKCE, "S256"):
		return nil, unreachable(errors.New("it does not know PKCE with S256"))
	}
	at := public
	if sameOrigin(endpoints[1], from.url) {
		at = from.zone
	}
	// Where a provider does not say how, it takes client_secret_basic (OpenID Connect
	// Discovery 1.0 section 3). Without a secret the client is named in the body.
	style := oauth2.AuthStyleInParams
	if !s.signIn.Secret.IsZero() && (len(metadata.Methods) == 0 || slices.Contains(metadata.Methods, "client_secret_basic")) {
		style = oauth2.AuthStyleInHeader
	}
	return &way{zone: at, namesItself: metadata.Names, Config: oauth2.Config{
		ClientID: s.signIn.Operators, ClientSecret: s.signIn.Secret.Reveal(), RedirectURL: in.Redirect,
		Scopes:   append([]string{"openid"}, s.signIn.Scopes...),
		Endpoint: oauth2.Endpoint{AuthURL: endpoints[0].String(), TokenURL: endpoints[1].String(), AuthStyle: style},
	}}, nil
}

func unreachable(err error) error {
	return mayfly.Errorf(mayfly.Unavailable, "the identity provider does not answer as it should; try again shortly. Tasks that run are not touched by it").Because(err)
}
