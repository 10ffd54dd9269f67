package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Token types of RFC 8693 section 3, and Mayfly's ticket.
const (
	TypeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	TypeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
	TypeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	TypeTicket      = "urn:mayfly:params:oauth:token-type:ticket"
)

const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	assertionBearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// Token is proof of a task's identity for one audience.
type Token struct {
	Text      mayfly.Secret
	Key       *Key // it is bound to; nil for a bearer token
	Task      mayfly.TaskID
	Decision  string // that let it be issued
	Grants    []mayfly.Grant
	IssuedAt  time.Time // by this machine's clock
	ExpiresAt time.Time // by this machine's clock
}

// ExchangeRequest asks the token endpoint for a token (RFC 8693). Without a
// subject token, on the admin socket, the delegator is the calling Unix user.
type ExchangeRequest struct {
	SubjectToken     string // of the delegator: a source's token, a parent task's, a ticket, or a task's own
	SubjectTokenType string
	ActorToken       string // the agent's evidence
	ActorTokenType   string
	ClientID         string // with ClientAssertion: the agent's evidence is client authentication
	ClientAssertion  string

	Profile  string
	Purpose  string         // at most mayfly.MaxPurpose bytes
	Grants   []mayfly.Grant // nil takes the ticket's, or the profile's default
	Resource string         // the token's audience; "" is the issuer
	TTL      time.Duration  // of the task, in whole seconds; 0 is the profile's default
	Idle     time.Duration  // length of its idle lease, in whole seconds; 0 is the profile's
	Budget   int64          // calls after which the task ends; 0 is the profile's

	// Key signs the proof; the token is bound to it, or to ChildKey where a
	// parent asks for its child. Nil asks for a bearer token.
	Key      *Key
	ChildKey string // thumbprint of the child's key
}

func (r *ExchangeRequest) form() (url.Values, error) {
	f := url.Values{"grant_type": {grantExchange}}
	set := func(name, value string) {
		if value != "" {
			f.Set(name, value)
		}
	}
	set("subject_token", r.SubjectToken)
	set("subject_token_type", r.SubjectTokenType)
	set("actor_token", r.ActorToken)
	set("actor_token_type", r.ActorTokenType)
	setClient(f, r.ClientID, r.ClientAssertion)
	set("profile", r.Profile)
	set("purpose", r.Purpose)
	set("resource", r.Resource)
	set("dpop_jkt", r.ChildKey)
	for name, d := range map[string]time.Duration{"requested_ttl": r.TTL, "requested_idle": r.Idle} {
		switch {
		case d < 0 || d%time.Second != 0:
			return nil, mayfly.Errorf(mayfly.Invalid, "%s must be whole seconds, and not negative", name)
		case d > 0:
			f.Set(name, strconv.FormatInt(int64(d/time.Second), 10))
		}
	}
	if r.Budget != 0 {
		f.Set("budget", strconv.FormatInt(r.Budget, 10))
	}
	// A grant that has a short form goes into scope, the others whole.
	var short []string
	var long []json.RawMessage
	for _, g := range r.Grants {
		text, err := json.Marshal(g)
		if err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "a grant cannot be written as JSON").Because(err)
		}
		if text[0] == '"' {
			short = append(short, g.String())
		} else {
			long = append(long, text)
		}
	}
	set("scope", strings.Join(short, " "))
	if long != nil {
		text, err := json.Marshal(long)
		if err != nil {
			return nil, err
		}
		f.Set("authorization_details", string(text))
	}
	return f, nil
}

func setClient(f url.Values, id, assertion string) {
	if assertion == "" {
		return
	}
	f.Set("client_id", id)
	f.Set("client_assertion_type", assertionBearer)
	f.Set("client_assertion", assertion)
}

// Exchange asks for a token. Errors carry the OAuth code in Code. It is not
// repeated by itself: an exchange whose answer was lost may have opened a task,
// which ends by its idle lease.
func (c *Client) Exchange(ctx context.Context, r ExchangeRequest) (Token, error) {
	form, err := r.form()
	if err != nil {
		return Token{}, err
	}
	var a struct {
		AccessToken string            `json:"access_token"`
		TokenType   string            `json:"token_type"`
		ExpiresIn   int64             `json:"expires_in"`
		Scope       string            `json:"scope"`
		Details     []json.RawMessage `json:"authorization_details"`
		Task        mayfly.TaskID     `json:"task"`
		Decision    string            `json:"decision"`
	}
	// The life is counted from before the request was sent, so that a slow
	// answer never makes it longer.
	asked := time.Now()
	err = c.call(ctx, request{method: http.MethodPost, path: "/oauth2/token", form: form, key: r.Key, open: true, oauth: true}, &a)
	if err != nil {
		return Token{}, err
	}
	t := Token{
		Text:      mayfly.NewSecret(a.AccessToken),
		Task:      a.Task,
		Decision:  a.Decision,
		IssuedAt:  asked,
		ExpiresAt: asked.Add(time.Duration(a.ExpiresIn) * time.Second),
	}
	switch {
	case a.AccessToken == "":
		return Token{}, mayfly.Errorf(mayfly.BadUpstream, "the answer of the token endpoint has no access_token")
	case strings.EqualFold(a.TokenType, "DPoP") && r.Key != nil:
		t.Key = r.Key
	case strings.EqualFold(a.TokenType, "DPoP"):
		return Token{}, mayfly.Errorf(mayfly.BadUpstream, "the token is bound to a key that this client does not have")
	case !strings.EqualFold(a.TokenType, "Bearer"):
		return Token{}, mayfly.Errorf(mayfly.BadUpstream, "the token's type %q is not one this client can use", a.TokenType)
	}
	for _, short := range strings.Fields(a.Scope) {
		g, err := mayfly.ParseGrant(short)
		if err != nil {
			return Token{}, mayfly.Errorf(mayfly.BadUpstream, "the token's scope has a grant that this client cannot read: %q", short).Because(err)
		}
		t.Grants = append(t.Grants, g)
	}
	for _, object := range a.Details {
		var g mayfly.Grant
		if err := json.Unmarshal(bytes.TrimSpace(object), &g); err != nil {
			return Token{}, mayfly.Errorf(mayfly.BadUpstream, "the token's authorization_details have a grant that this client cannot read").Because(err)
		}
		t.Grants = append(t.Grants, g)
	}
	return t, nil
}

// ClientAuth authenticates an OAuth client, see [Key.ClientAssertion].
type ClientAuth struct{ ID, Assertion string }

// Introspect asks about a token (RFC 7662). Whatever is wrong with the token,
// the answer is only {"active": false}. On the admin socket auth is empty.
func (c *Client) Introspect(ctx context.Context, auth ClientAuth, token string) (map[string]any, error) {
	f := url.Values{"token": {token}}
	setClient(f, auth.ID, auth.Assertion)
	var answer map[string]any
	err := c.call(ctx, request{method: http.MethodPost, path: "/oauth2/introspect", form: f, open: auth.ID != "", oauth: true}, &answer)
	return answer, err
}

// RevokeToken ends a token before its time (RFC 7009). An unknown token is no
// error.
func (c *Client) RevokeToken(ctx context.Context, auth ClientAuth, token string) error {
	f := url.Values{"token": {token}}
	setClient(f, auth.ID, auth.Assertion)
	return c.call(ctx, request{method: http.MethodPost, path: "/oauth2/revoke", form: f, open: auth.ID != "", oauth: true}, nil)
}
