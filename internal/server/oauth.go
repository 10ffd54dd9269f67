package server

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	tokenTypeAccess = authority.TypeAccessToken
)

// formMax is how many parameters a form may have.
const formMax = 100

// parseForm reads a form as the OAuth endpoints do (RFC 6749 section 3.2):
// UTF-8, no parameter twice but the two that may be, no ";" where two parsers
// could see different parameters, and an empty value is as good as none.
func parseForm(data []byte) (url.Values, error) {
	f := url.Values{}
	seen := map[string]bool{}
	pairs := 0
	for pair := range strings.SplitSeq(string(data), "&") {
		if pair == "" {
			continue
		}
		if pairs++; pairs > formMax {
			return nil, badForm("the form has more than %d parameters", formMax)
		}
		if strings.Contains(pair, ";") {
			return nil, badForm("the form has a \";\" that is not escaped; write it as %%3B")
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(rawName)
		if err != nil {
			return nil, badForm("the form has an escape that is none; encode it as application/x-www-form-urlencoded")
		}
		value, err := url.QueryUnescape(rawValue)
		if err != nil {
			return nil, badForm("the form has an escape that is none; encode it as application/x-www-form-urlencoded")
		}
		if !utf8.ValidString(name) || !utf8.ValidString(value) || strings.ContainsRune(name+value, 0) {
			return nil, badForm("the form is not UTF-8 text")
		}
		if seen[name] && name != "resource" && name != "audience" {
			return nil, badForm("the form has %.64q twice; send each parameter once", name)
		}
		seen[name] = true
		if value != "" {
			f[name] = append(f[name], value)
		}
	}
	return f, nil
}

func badForm(format string, args ...any) *mayfly.Error {
	return mayfly.Coded(mayfly.Invalid, "invalid_request", format, args...)
}

// client names the sender of a form: its OAuth id, else its evidence. It is
// only claimed, so it is good for counting, together with the address.
func (c *call) client() string {
	for _, name := range []string{"client_id", "actor_token", "subject_token"} {
		if v := c.form.Get(name); v != "" {
			return v
		}
	}
	return ""
}

// basic is the scheme of an Authorization header that tries to authenticate an
// OAuth client, or "".
func (c *call) basic() string {
	for _, h := range c.r.Header["Authorization"] {
		if scheme, _, _ := strings.Cut(h, " "); strings.EqualFold(scheme, "basic") {
			return "Basic"
		}
	}
	return ""
}

// clientAuth reads how the client authenticates. One method, and the only one
// there is: a client that tries another has sent a secret that is none of ours.
func (c *call) clientAuth() (authority.ClientAuth, error) {
	if c.basic() != "" || c.form.Has("client_secret") {
		return authority.ClientAuth{}, mayfly.Coded(mayfly.Unauthenticated, "invalid_client",
			"clients authenticate with private_key_jwt; send client_assertion")
	}
	return authority.ClientAuth{
		Assertion: c.form.Get("client_assertion"), AssertionType: c.form.Get("client_assertion_type"), ID: c.form.Get("client_id"),
	}, nil
}

// issueToken is the token endpoint: token exchange (RFC 8693), and no other way.
func issueToken(c *call) error {
	switch grant := c.form.Get("grant_type"); grant {
	case grantExchange:
	case "":
		return c.malformed(badForm("grant_type is missing; send %s", grantExchange))
	default:
		return c.malformed(mayfly.Coded(mayfly.Invalid, "unsupported_grant_type", "this grant_type is not supported; send %s", grantExchange))
	}
	auth, err := c.clientAuth()
	if err != nil {
		return c.malformed(err)
	}
	a, err := c.s.a.Exchange(c.ctx(), authority.ExchangeRequest{
		Presented:            c.presented(),
		SubjectToken:         c.form.Get("subject_token"),
		SubjectTokenType:     c.form.Get("subject_token_type"),
		ActorToken:           c.form.Get("actor_token"),
		ActorTokenType:       c.form.Get("actor_token_type"),
		RequestedTokenType:   c.form.Get("requested_token_type"),
		Client:               auth,
		Profile:              c.form.Get("profile"),
		Purpose:              c.form.Get("purpose"),
		Scope:                c.form.Get("scope"),
		AuthorizationDetails: c.form.Get("authorization_details"),
		Resources:            c.form["resource"],
		Audience:             c.form["audience"],
		RequestedTTL:         c.form.Get("requested_ttl"),
		RequestedIdle:        c.form.Get("requested_idle"),
		Budget:               c.form.Get("budget"),
		DPoPJKT:              c.form.Get("dpop_jkt"),
	})
	if err != nil {
		return err
	}
	c.write(c.route.status, typeJSON, a)
	return nil
}

// token is the parameter that introspection and revocation are about. A hint
// about its type is not needed, and so not read (RFC 7662 section 2.1, RFC 7009
// section 2.1).
func (c *call) token() (string, authority.ClientAuth, error) {
	auth, err := c.clientAuth()
	if err != nil {
		return "", auth, c.malformed(err)
	}
	text := c.form.Get("token")
	if text == "" {
		return "", auth, c.malformed(badForm("token is missing"))
	}
	return text, auth, nil
}

// introspect is RFC 7662.
func introspect(c *call) error {
	text, auth, err := c.token()
	if err != nil {
		return err
	}
	m, err := c.s.a.Introspect(c.ctx(), c.presented(), auth, text)
	if err != nil {
		return err
	}
	c.write(c.route.status, typeJSON, m)
	return nil
}

// revokeToken is RFC 7009: success, and nothing to say, whether there was such a
// token or not.
func revokeToken(c *call) error {
	text, auth, err := c.token()
	if err != nil {
		return err
	}
	if err := c.s.a.RevokeToken(c.ctx(), c.presented(), auth, text); err != nil {
		return err
	}
	c.write(c.route.status, typeJSON, struct{}{})
	return nil
}
