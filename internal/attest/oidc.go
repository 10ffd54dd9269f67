package attest

import (
	"context"
	"crypto/sha256"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/jose"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// sourceTokens are the rules for tokens of sources: no HMAC, no key in the
// header, and typ absent or JWT, so that an access token (at+jwt), a logout
// token or a security event is none.
func sourceTokens() jose.Rules {
	return jose.Rules{
		Types:      []string{"", "JWT"},
		Algorithms: []string{jose.ES256, jose.EdDSA, jose.RS256, jose.PS256},
	}
}

// leeway is what clocks may differ by, at exp, nbf and iat. It never makes a
// life longer: [Caller.ExpiresAt] is the token's own exp.
const leeway = 5 * time.Second

// token verifies a token of an OIDC source, whatever it is presented as.
func (s *Sources) token(ctx context.Context, text string) (Caller, error) {
	now := s.now()
	if len(text) > jose.DefaultMaxBytes {
		return Caller{}, refuse("it is longer than %d bytes", jose.DefaultMaxBytes)
	}
	digest := sha256.Sum256([]byte(text))
	if e := s.seen.get(digest); e != nil {
		return e.again(ctx, now)
	}
	m, err := jose.Parse(text, sourceTokens())
	if err != nil {
		return Caller{}, err
	}
	// What the payload says is nobody's word yet. It chooses the source, and
	// lets a token that cannot be good be refused before anything is fetched.
	claims, err := jose.ParseClaims(m.Payload)
	if err != nil {
		return Caller{}, err
	}
	if len(claims.Audience) != 1 {
		return Caller{}, refuse("it must name one audience (aud); use one made for this server alone")
	}
	from := s.accepts[accept{claims.Issuer, claims.Audience[0]}]
	if from == nil {
		return Caller{}, refuse("no source here has its issuer and audience (iss, aud); use one made for this server")
	}
	e := &entry{from: from, audience: claims.Audience[0], keyID: m.KeyID, algorithm: m.Algorithm}
	e.claims = claims
	e.claims.Raw = nil
	if err := claims.Require(now, leeway, from.Issuer, e.audience); err != nil {
		return Caller{}, err
	}
	if e.key, err = from.keys.find(ctx, now, m.KeyID, m.Algorithm); err != nil {
		return Caller{}, err
	}
	if _, err := m.Verify(e.key); err != nil {
		return Caller{}, err
	}
	// The bytes that were verified are the ones the claims were read from.
	if e.caller, err = from.caller(claims); err != nil {
		return Caller{}, err
	}
	s.seen.put(digest, e)
	return e.caller, nil
}

// caller is what verified claims of this source mean.
func (f *source) caller(claims jose.Claims) (Caller, error) {
	v := verified{
		issuer:    claims.Issuer,
		tokenID:   claims.ID,
		issuedAt:  claims.IssuedAt,
		expiresAt: claims.ExpiresAt,
		operator:  f.operator,
	}
	if _, ok := claims.Raw["events"]; ok {
		return Caller{}, refuse("it is a security event or a logout token, and nobody's identity (events)")
	}
	var err error
	if v.subject, err = f.subject(claims); err != nil {
		return Caller{}, err
	}
	if v.key, err = boundKey(claims.Raw["cnf"]); err != nil {
		return Caller{}, err
	}
	if v.mayAct, err = mayAct(claims.Raw["may_act"]); err != nil {
		return Caller{}, err
	}
	_, v.hasActor = claims.Raw["act"]
	if v.txn, err = textOf(claims.Raw["txn"]); err != nil {
		return Caller{}, err
	}
	if v.task, err = textOf(claims.Raw["task"]); err != nil {
		return Caller{}, err
	}
	return Caller{v}, nil
}

// subject maps claims to who the source says this is. The kind is the
// source's, never the token's.
func (f *source) subject(claims jose.Claims) (mayfly.Subject, error) {
	s := mayfly.Subject{Kind: f.Subject, Source: f.Name, Claims: map[string]string{}}
	for name, raw := range claims.Raw {
		switch name {
		case "jti", "nonce", "at_hash", "c_hash", "s_hash":
			continue // of this token, and not of who it is about
		}
		if raw.Kind() == '"' {
			text, err := textOf(raw)
			if err != nil {
				return mayfly.Subject{}, err
			}
			s.Claims[name] = text
		}
	}
	if !(&mayfly.SourceRule{Source: f.Name, Match: f.Match}).Accepts(s) {
		return mayfly.Subject{}, refuse("its claims are not those the source is limited to (match)")
	}
	claim := f.ClaimID
	if claim == "" {
		claim = "sub"
	}
	id, ok := s.Claims[claim]
	if !ok {
		return mayfly.Subject{}, refuse("it has no text in the claim that names its subject (%s)", claim)
	}
	if claim == "email" {
		verified, said := claims.Raw["email_verified"]
		if string(verified) != "true" && (said || !f.EmailAssumed) {
			return mayfly.Subject{}, refuse("its e-mail address is not a verified one (email_verified)")
		}
	}
	id, err := f.named(id)
	if err != nil {
		return mayfly.Subject{}, err
	}
	if s.ID, err = subjectID(f.Subject, f.Name, id); err != nil {
		return mayfly.Subject{}, err
	}
	if f.ClaimGroups == "" {
		return s, nil
	}
	groups, err := texts(claims.Raw[f.ClaimGroups])
	if err != nil {
		return mayfly.Subject{}, refuse("its groups are no list of names (%s)", f.ClaimGroups)
	}
	for _, g := range groups {
		if g, err = f.named(g); err != nil {
			return mayfly.Subject{}, err
		}
		s.Groups = append(s.Groups, g)
	}
	return s, nil
}

// named is an id or a group under the source's prefix. A name that begins with
// another source's prefix would be taken for that source's.
func (f *source) named(name string) (string, error) {
	if err := readable(name); err != nil {
		return "", err
	}
	name = f.Prefix + name
	for _, p := range f.prefixes {
		if strings.HasPrefix(name, p) {
			return "", refuse("it has a name that begins with another source's prefix")
		}
	}
	return name, nil
}

// maxName is the longest id or group, in bytes. OpenID Connect allows a sub 255;
// a Kubernetes service account takes more.
const maxName = 512

// readable refuses names that a record or a consent page would show as
// something else.
func readable(name string) error {
	switch {
	case name == "" || len(name) > maxName:
		return refuse("it has a name that is empty or longer than %d bytes", maxName)
	case strings.TrimSpace(name) != name || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return refuse("it has a name with characters that do not show")
	}
	return nil
}

// subjectID is how a subject is written in tokens and records. The kinds cannot
// be confused: a service's begins with "service:", an agent's with "spiffe:", a
// human's with neither. A workload's id is evidence only, and never a subject.
func subjectID(kind mayfly.SubjectKind, source, id string) (string, error) {
	switch kind {
	case mayfly.Service:
		return "service:" + source + "/" + id, nil
	case mayfly.Workload:
		return id, nil
	case mayfly.Human:
		if strings.HasPrefix(id, "service:") || strings.HasPrefix(id, "spiffe:") {
			return "", refuse("it gives a human an id that begins like a service's or an agent's")
		}
		return id, nil
	}
	return "", refuse("a source gives humans, services or workloads, and nothing else")
}

// boundKey reads cnf (RFC 7800). A token bound to a key in a way that is not
// understood here must not pass for one that is not bound.
func boundKey(raw jsontext.Value) (string, error) {
	if raw == nil {
		return "", nil
	}
	var cnf struct {
		Thumbprint string `json:"jkt"`
	}
	if err := strictjson.Unmarshal(raw, strictjson.Ours, &cnf); err != nil || !thumbprint(cnf.Thumbprint) {
		return "", refuse("it is bound to a key in another way than by cnf.jkt")
	}
	return cnf.Thumbprint, nil
}

// thumbprint reports whether text can be the base64url of a SHA-256, in its one
// spelling: 43 characters, of which the last has two bits that must be zero.
func thumbprint(text string) bool {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return len(text) == 43 && strings.Trim(text, alphabet) == "" && strings.IndexByte(alphabet, text[42])%4 == 0
}

// mayAct reads may_act (RFC 8693 section 4.4). It is exclusive, so one that is
// not understood whole must not pass for none.
func mayAct(raw jsontext.Value) ([]Actor, error) {
	if raw == nil {
		return nil, nil
	}
	var actor struct {
		Issuer  string `json:"iss"`
		Subject string `json:"sub"`
		Client  string `json:"client_id"`
	}
	err := strictjson.Unmarshal(raw, strictjson.Ours, &actor)
	if err != nil || raw.Kind() != '{' || actor.Subject == "" && actor.Client == "" {
		return nil, refuse("it says who may act in a way that is not understood (may_act: sub, iss and client_id are)")
	}
	return []Actor{{Issuer: actor.Issuer, Subject: actor.Subject, Client: actor.Client}}, nil
}

// textOf is the text of a JSON string, "" for nothing, and the JSON itself for
// everything else.
func textOf(raw jsontext.Value) (string, error) {
	if raw.Kind() != '"' {
		return string(raw), nil
	}
	var text string
	if err := strictjson.Unmarshal(raw, strictjson.Limits{}, &text); err != nil {
		return "", refuse("it has a claim that cannot be read").Because(err)
	}
	return text, nil
}

// texts is a list of strings; one string alone is a list of one, as several
// providers write it.
func texts(raw jsontext.Value) ([]string, error) {
	if raw == nil {
		return nil, nil
	}
	if raw.Kind() == '"' {
		text, err := textOf(raw)
		return []string{text}, err
	}
	var values []jsontext.Value
	if err := strictjson.Unmarshal(raw, strictjson.Limits{}, &values); err != nil {
		return nil, err
	}
	list := make([]string, len(values))
	for i, v := range values {
		var err error
		if list[i], err = textOf(v); err != nil || v.Kind() != '"' {
			return nil, refuse("it has a list that is not of text")
		}
	}
	return list, nil
}
