package jose

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// Claims are the registered claims of a token (RFC 7519 section 4.1). A claim
// that is absent is the zero value; which ones must be there is for
// [Claims.Require].
type Claims struct {
	Issuer, Subject, ID            string
	Audience                       []string // one or more where the claim is there
	ExpiresAt, IssuedAt, NotBefore time.Time
	Raw                            map[string]jsontext.Value // every claim, as written
}

// maxTime is the latest time a claim may name: 2106, the end of 32 bits. What
// is beyond is milliseconds, or an overflow waiting to happen.
const maxTime = 1<<32 - 1

// ParseClaims reads a payload. Times are whole seconds from 1970 to 2106, an
// audience is a string or an array of strings, and a claim of another type, or
// null, is refused and never taken as absent.
func ParseClaims(payload []byte) (Claims, error) {
	var c Claims
	if err := strictjson.UnmarshalLenient(payload, payloadLimits, &c.Raw); err != nil {
		return Claims{}, refuse("the token's claims cannot be read: %s", err).Because(err)
	}
	if c.Raw == nil {
		return Claims{}, refuse("the token's claims are not a JSON object")
	}
	for _, m := range []struct {
		name string
		into *string
	}{{"iss", &c.Issuer}, {"sub", &c.Subject}, {"jti", &c.ID}} {
		if raw, ok := c.Raw[m.name]; ok {
			if raw.Kind() != '"' || strictjson.Unmarshal(raw, payloadLimits, m.into) != nil {
				return Claims{}, refuse("the token's %q is not a string", m.name)
			}
		}
	}
	for _, m := range []struct {
		name string
		into *time.Time
	}{{"exp", &c.ExpiresAt}, {"iat", &c.IssuedAt}, {"nbf", &c.NotBefore}} {
		if raw, ok := c.Raw[m.name]; ok {
			seconds, err := strconv.ParseInt(string(raw), 10, 64)
			if err != nil || seconds < 0 || seconds > maxTime {
				return Claims{}, refuse("the token's %q is not a time in whole seconds", m.name)
			}
			*m.into = time.Unix(seconds, 0).UTC()
		}
	}
	if raw, ok := c.Raw["aud"]; ok {
		var err error
		if raw.Kind() == '"' {
			c.Audience = make([]string, 1)
			err = strictjson.Unmarshal(raw, payloadLimits, &c.Audience[0])
		} else {
			var parts []jsontext.Value
			err = strictjson.Unmarshal(raw, payloadLimits, &parts)
			c.Audience = make([]string, len(parts))
			for i := range parts {
				if err == nil && parts[i].Kind() != '"' {
					return Claims{}, refuse("the token's \"aud\" is not made of strings")
				}
				if err == nil {
					err = strictjson.Unmarshal(parts[i], payloadLimits, &c.Audience[i])
				}
			}
		}
		if err != nil || len(c.Audience) == 0 {
			return Claims{}, refuse("the token's \"aud\" is neither a string nor an array of strings")
		}
	}
	return c, nil
}

// Require checks what every token must say: iss, sub, aud, exp and iat are
// there; the issuer is exactly this one; the audience is this one alone; now is
// in the token's life, give or take leeway at the ends.
func (c Claims) Require(now time.Time, leeway time.Duration, issuer, audience string) error {
	switch {
	case c.Issuer == "" || c.Issuer != issuer:
		return refuse("the token is from another issuer (iss)")
	case c.Subject == "":
		return refuse("the token names no subject (sub)")
	case len(c.Audience) != 1 || c.Audience[0] == "" || c.Audience[0] != audience:
		return refuse("the token is not for this audience alone (aud)")
	case c.ExpiresAt.IsZero():
		return refuse("the token has no end (exp)")
	case c.IssuedAt.IsZero():
		return refuse("the token does not say when it was made (iat)")
	case c.ExpiresAt.Before(c.IssuedAt):
		return refuse("the token ends before it was made (exp, iat)")
	case !now.Before(c.ExpiresAt.Add(leeway)):
		return refuse("the token has expired; get a new one (exp)")
	case c.IssuedAt.After(now.Add(leeway)):
		return refuse("the token is from the future; check the clocks (iat)")
	case !c.NotBefore.IsZero() && c.NotBefore.After(now.Add(leeway)):
		return refuse("the token is not valid yet (nbf)")
	}
	return nil
}
