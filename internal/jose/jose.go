// Package jose is the one way signed tokens come in and go out. It owns the
// syntax of a compact JWS (RFC 7515), the algorithms, public keys as JWKs
// (RFC 7517) and the claims every token has (RFC 7519); it does not know what
// any token is for, fetches nothing and keeps no keys. Everything two libraries
// could disagree about is refused before a signature is looked at. Start
// reading at [Parse].
package jose

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// The algorithms there are (RFC 7518 section 3.1, RFC 8037). There is no HMAC
// and no "none".
const (
	ES256 = "ES256"
	EdDSA = "EdDSA" // with Ed25519 only
	RS256 = "RS256"
	PS256 = "PS256"
)

// DefaultMaxBytes is the longest token where [Rules] do not say otherwise.
const DefaultMaxBytes = 16 << 10

// Rules are what one class of token looks like. Every consumer states its own,
// so that a token of one class is never taken for another.
type Rules struct {
	Types       []string // the typ header must be one of these, in this spelling; "" allows it to be absent
	Algorithms  []string // the alg header must be one of these
	EmbeddedKey bool     // the header must carry its own public key as jwk (RFC 9449), else it must not
	MaxBytes    int      // longest token; 0 is DefaultMaxBytes
}

// Message is a token that is well formed and whose signature has not been
// looked at.
type Message struct {
	Algorithm   string
	KeyID       string
	Type        string
	EmbeddedKey *Key   // with Rules.EmbeddedKey; it proves nothing about who made the token
	Payload     []byte // a JSON object that nobody vouches for until Verify returns it

	signed    string // what the signature is over: header and payload as written
	signature []byte
}

// encoding refuses padding and set bits after the last whole byte; it still
// skips line breaks, which part refuses.
var encoding = base64.RawURLEncoding.Strict()

// payloadLimits bound a payload: its length is bounded with the token's, and
// the names of claims are URLs sometimes.
var payloadLimits = strictjson.Limits{Depth: 32}

// Parse reads a compact JWS under rules. It touches nothing outside text, and
// costs at most in proportion to rules.MaxBytes however long text is. The error
// is a *mayfly.Error of kind Unauthenticated with no code.
func Parse(text string, rules Rules) (*Message, error) {
	m, err := parse(text, rules)
	if err != nil {
		return nil, err
	}
	if m.Payload[0] != '{' {
		return nil, refuse("the token's payload is not a JSON object")
	}
	if err := strictjson.Check(m.Payload, payloadLimits); err != nil {
		return nil, refuse("the token's payload cannot be read: %s", err).Because(err)
	}
	return m, nil
}

// parse does what does not depend on what is signed.
func parse(text string, rules Rules) (*Message, error) {
	limit := rules.MaxBytes
	if limit == 0 {
		limit = DefaultMaxBytes
	}
	if len(text) > limit {
		return nil, refuse("the token is longer than %d bytes", limit)
	}
	header, rest, ok := strings.Cut(text, ".")
	payload, signature, more := strings.Cut(rest, ".")
	if !ok || !more {
		return nil, refuse("the token is not three parts with dots between them")
	}
	m := &Message{signed: text[:len(text)-len(signature)-1]}
	head, err := part("header", header)
	if err != nil {
		return nil, err
	}
	if m.Payload, err = part("payload", payload); err != nil {
		return nil, err
	}
	if m.signature, err = part("signature", signature); err != nil {
		return nil, err
	}
	if err := m.readHeader(head, rules); err != nil {
		return nil, err
	}
	if (m.Algorithm == ES256 || m.Algorithm == EdDSA) && len(m.signature) != 64 {
		return nil, refuse("the token's signature is not 64 bytes long")
	}
	return m, nil
}

// part decodes one part of a token, which has exactly one spelling.
func part(name, text string) ([]byte, error) {
	if text == "" {
		return nil, refuse("the token's %s is empty", name)
	}
	if strings.ContainsAny(text, "\r\n") {
		return nil, refuse("the token's %s is not base64url", name)
	}
	b, err := encoding.DecodeString(text)
	if err != nil {
		return nil, refuse("the token's %s is not base64url", name)
	}
	return b, nil
}

// header is a JOSE header. The parameters after Key change what is verified, or
// where the key comes from: no token that carries one is for us.
type header struct {
	Algorithm string         `json:"alg"`
	KeyID     string         `json:"kid"`
	Type      string         `json:"typ"`
	Key       jsontext.Value `json:"jwk"`

	Critical    jsontext.Value `json:"crit"`
	KeySetURL   jsontext.Value `json:"jku"`
	ChainURL    jsontext.Value `json:"x5u"`
	Chain       jsontext.Value `json:"x5c"`
	Unencoded   jsontext.Value `json:"b64"`
	Compression jsontext.Value `json:"zip"`
	Encryption  jsontext.Value `json:"enc"`
}

func (m *Message) readHeader(text []byte, rules Rules) error {
	var h header
	if text[0] != '{' {
		return refuse("the token's header is not a JSON object")
	}
	if err := strictjson.UnmarshalLenient(text, strictjson.Ours, &h); err != nil {
		return refuse("the token's header cannot be read: %s", err).Because(err)
	}
	for _, refused := range []struct {
		name  string
		value jsontext.Value
	}{
		{"crit", h.Critical}, {"jku", h.KeySetURL}, {"x5u", h.ChainURL}, {"x5c", h.Chain},
		{"b64", h.Unencoded}, {"zip", h.Compression}, {"enc", h.Encryption},
	} {
		if refused.value != nil {
			return refuse("the token's header has %q, which is not accepted", refused.name)
		}
	}
	if !slices.Contains(rules.Types, h.Type) {
		return refuse("the token is of another type than is accepted here (typ)")
	}
	if !slices.Contains(rules.Algorithms, h.Algorithm) {
		return refuse("the token is signed with an algorithm that is not accepted here (alg)")
	}
	m.Algorithm, m.KeyID, m.Type = h.Algorithm, h.KeyID, h.Type
	switch {
	case rules.EmbeddedKey && h.Key == nil:
		return refuse("the token's header has no key (jwk)")
	case !rules.EmbeddedKey && h.Key != nil:
		return refuse("the token's header has a key (jwk), which is not accepted")
	case h.Key == nil:
		return nil
	}
	k, err := parseKey(h.Key)
	if err != nil {
		return err
	}
	m.EmbeddedKey = &k
	return nil
}

// Verify gives the payload if k made the signature, with the algorithm that the
// header names and k is for. The algorithm is never the token's choice alone.
func (m *Message) Verify(k Key) ([]byte, error) {
	if !k.fits(m.Algorithm) {
		return nil, refuse("the key is not for the token's algorithm")
	}
	if !k.verify(m.Algorithm, m.signed, m.signature) {
		return nil, refuse("the token's signature is wrong")
	}
	return m.Payload, nil
}

func refuse(format string, args ...any) *mayfly.Error {
	return mayfly.Errorf(mayfly.Unauthenticated, format, args...)
}
