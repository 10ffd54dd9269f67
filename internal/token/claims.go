package token

import (
	"encoding/base64"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/jose"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// Claims are what an access token says (RFC 9068, with RFC 8693 section 4.1,
// RFC 9396 section 9 and RFC 9449 section 6).
type Claims struct {
	Subject    string // the human or service at the root of the chain
	SubProfile string // "user" or "service"
	Audience   string // the one audience
	ClientID   string
	JTI        string
	IssuedAt   time.Time // in whole seconds on the wire, as is ExpiresAt
	ExpiresAt  time.Time
	Scope      string         // short forms of grants, for readers that know scopes only
	Details    []mayfly.Grant // every grant: authorization_details
	// KeyThumbprint is the RFC 7638 thumbprint of the key the token is bound
	// to, "" for a bearer token: one that says it is bound must never be taken
	// without a proof by that key.
	KeyThumbprint string
	Agents        []string // SPIFFE IDs of the act chain: the agent that acts first, the root task's last
	Task          TaskClaim
	Dlg           string // base64url leaf hash of the event that opened the task
}

// TaskClaim says which task a token is of.
type TaskClaim struct {
	ID      string `json:"id"`
	Profile string `json:"profile"`
	Purpose string `json:"purpose"`
	Root    string `json:"root"`
	Depth   int    `json:"depth"`
}

// actor is one link of the act claim (RFC 8693 section 4.1), outermost first.
type actor struct {
	Subject    string `json:"sub"`
	Issuer     string `json:"iss"`
	SubProfile string `json:"sub_profile"`
	Act        *actor `json:"act,omitempty"`
}

type confirmation struct {
	Thumbprint string `json:"jkt"`
}

// detail is a grant as authorization_details carry it (RFC 9396).
type detail mayfly.Grant

// MarshalJSON writes the long form of every grant: RFC 9396 section 2 wants
// objects with a type.
func (d detail) MarshalJSON() ([]byte, error) {
	text, err := strictjson.Marshal(mayfly.Grant(d))
	if err != nil || text[0] != '"' {
		return text, err
	}
	return append(append([]byte(`{"type":"`+mayfly.GrantType+`","grant":`), text...), '}'), nil
}

// UnmarshalJSON reads the long form of a grant.
func (d *detail) UnmarshalJSON(text []byte) error {
	g, err := mayfly.ParseGrantObject(text)
	*d = detail(g)
	return err
}

// payload is the JSON of an access token. The schema is closed: only we write
// these.
type payload struct {
	Issuer     string        `json:"iss"`
	Subject    string        `json:"sub"`
	Audience   string        `json:"aud"`
	ExpiresAt  int64         `json:"exp"`
	IssuedAt   int64         `json:"iat"`
	JTI        string        `json:"jti"`
	ClientID   string        `json:"client_id"`
	Scope      string        `json:"scope,omitempty"`
	Details    []detail      `json:"authorization_details"`
	Confirm    *confirmation `json:"cnf,omitempty"`
	Act        *actor        `json:"act"`
	Task       TaskClaim     `json:"task"`
	Dlg        string        `json:"dlg"`
	SubProfile string        `json:"sub_profile"`
}

func (c Claims) payload(issuer string) payload {
	p := payload{
		Issuer: issuer, Subject: c.Subject, Audience: c.Audience,
		ExpiresAt: c.ExpiresAt.Unix(), IssuedAt: c.IssuedAt.Unix(),
		JTI: c.JTI, ClientID: c.ClientID, Scope: c.Scope,
		Details: make([]detail, len(c.Details)),
		Task:    c.Task, Dlg: c.Dlg, SubProfile: c.SubProfile,
	}
	for i, g := range c.Details {
		p.Details[i] = detail(g)
	}
	if c.KeyThumbprint != "" {
		p.Confirm = &confirmation{c.KeyThumbprint}
	}
	for i := len(c.Agents) - 1; i >= 0; i-- {
		p.Act = &actor{Subject: c.Agents[i], Issuer: issuer, SubProfile: "ai_agent", Act: p.Act}
	}
	return p
}

func (p payload) claims() Claims {
	c := Claims{
		Subject: p.Subject, SubProfile: p.SubProfile, Audience: p.Audience, ClientID: p.ClientID, JTI: p.JTI,
		IssuedAt: time.Unix(p.IssuedAt, 0).UTC(), ExpiresAt: time.Unix(p.ExpiresAt, 0).UTC(),
		Scope: p.Scope, Details: make([]mayfly.Grant, len(p.Details)), Task: p.Task, Dlg: p.Dlg,
	}
	for i, d := range p.Details {
		c.Details[i] = mayfly.Grant(d)
	}
	if p.Confirm != nil {
		c.KeyThumbprint = p.Confirm.Thumbprint
	}
	for a := p.Act; a != nil; a = a.Act {
		c.Agents = append(c.Agents, a.Subject)
	}
	return c
}

// Members are the claims as an introspection response carries them (RFC 7662
// section 2.2), for issuer's token. The map is the caller's.
func (c Claims) Members(issuer string) map[string]any {
	p := c.payload(issuer)
	m := map[string]any{
		"iss": p.Issuer, "sub": p.Subject, "aud": p.Audience, "exp": p.ExpiresAt, "iat": p.IssuedAt,
		"jti": p.JTI, "client_id": p.ClientID, "authorization_details": p.Details,
		"act": p.Act, "task": p.Task, "dlg": p.Dlg, "sub_profile": p.SubProfile,
	}
	if p.Scope != "" {
		m["scope"] = p.Scope
	}
	if p.Confirm != nil {
		m["cnf"] = p.Confirm
	}
	return m
}

// MaxLife is the longest life of a token.
const MaxLife = 15 * time.Minute

// lint says what of c must not be signed, whoever asks. It is the last look at
// a token before it exists, and the first after its signature was verified, so
// that what one version signs no other takes for something else.
func (c Claims) lint(issuer string) string {
	life := c.ExpiresAt.Sub(c.IssuedAt)
	service := strings.HasPrefix(c.Subject, "service:")
	switch {
	case issuer == "":
		return "there is no issuer"
	case c.Subject == "" || strings.HasPrefix(c.Subject, "spiffe://"):
		return "the subject is neither a human nor a service"
	case c.SubProfile != "user" && c.SubProfile != "service" || service != (c.SubProfile == "service"):
		return "the subject's kind does not fit its id"
	case c.Audience == "":
		return "there is no audience"
	case c.ClientID == "" || c.JTI == "":
		return "there is no client_id or no jti"
	case life <= 0 || life > MaxLife:
		return "the token does not end within " + MaxLife.String() + " after it begins"
	case c.KeyThumbprint != "" && !ValidThumbprint(c.KeyThumbprint):
		return "the key is not a thumbprint"
	case !ValidThumbprint(c.Dlg):
		return "dlg is not a hash"
	case c.Task.Profile == "" || c.Task.Depth < 0 || len(c.Agents) != c.Task.Depth+1:
		return "the act chain is not as long as the task is deep"
	}
	if _, err := mayfly.ParseTaskID(c.Task.ID); err != nil {
		return "the task is not a task"
	}
	if _, err := mayfly.ParseTaskID(c.Task.Root); err != nil {
		return "the root task is not a task"
	}
	if (c.Task.Depth == 0) != (c.Task.ID == c.Task.Root) {
		return "the root task is not at depth 0"
	}
	for _, a := range c.Agents {
		if !strings.HasPrefix(a, "spiffe://") {
			return "an actor is not an agent"
		}
	}
	if !strings.HasSuffix(c.Agents[0], "/agent/"+c.Task.Profile+"/"+c.Task.ID) {
		return "the agent that acts is not the task's"
	}
	return ""
}

// ValidThumbprint reports whether s is the base64url of a SHA-256 hash, in its
// one spelling (RFC 7638 section 3).
func ValidThumbprint(s string) bool {
	if len(s) != base64.RawURLEncoding.EncodedLen(32) || strings.ContainsAny(s, "\r\n") {
		return false
	}
	_, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil
}

// tokenType is the typ of an access token (RFC 9068 section 2.1). No source's
// token has it.
const tokenType = "at+jwt"

// maxToken is the longest access token, in bytes.
const maxToken = 8 << 10

func tokenRules() jose.Rules {
	return jose.Rules{Types: []string{tokenType}, Algorithms: []string{jose.ES256}, MaxBytes: maxToken}
}

// IsOurs reports whether text looks like an access token of an issuer such as
// we are, and not like a token of a source. It proves nothing.
func IsOurs(text string) bool {
	_, err := jose.Parse(text, tokenRules())
	return err == nil
}

// parsePayload reads the claims of a token whose signature is verified.
func (k *Keyring) parsePayload(text []byte) (Claims, string) {
	var raw payload
	if err := strictjson.Unmarshal(text, strictjson.Limits{Depth: 32}, &raw); err != nil {
		return Claims{}, err.Error()
	}
	if raw.Issuer != k.issuer {
		return Claims{}, "it is from another issuer"
	}
	for a := raw.Act; a != nil; a = a.Act {
		if a.Issuer != k.issuer || a.SubProfile != "ai_agent" {
			return Claims{}, "an actor is from another issuer"
		}
	}
	c := raw.claims()
	return c, c.lint(k.issuer)
}
