package token

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/jose"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// Proof is a DPoP proof (RFC 9449) that was right for one request. It is good
// for one use: the caller remembers Thumbprint and ID together until the proof
// would be too old anyway.
type Proof struct {
	Thumbprint string // of the key that made it (RFC 7638)
	ID         string // its jti
	IssuedAt   time.Time
	Nonce      string // the server nonce it carried
}

// How old and how new a proof may be.
const (
	proofPast   = time.Minute
	proofFuture = 5 * time.Second
)

// Bounds of a proof, in bytes.
const (
	maxProof   = 4 << 10
	maxProofID = 256
)

func proofRules() jose.Rules {
	return jose.Rules{
		Types: []string{"dpop+jwt"}, Algorithms: []string{jose.ES256, jose.EdDSA}, EmbeddedKey: true, MaxBytes: maxProof,
	}
}

// VerifyProof checks the DPoP header of a request (RFC 9449 section 4.3):
// header holds the values of every such header, which must be one; url is the
// configured public origin and the path, never taken from Host; accessToken is
// what the request was sent with, "" at the token endpoint; audience is whose
// nonces are asked for, "as" or "rs".
//
// It does not know whether the proof was used before, nor which key the token
// is bound to: both are the caller's to check. The error has the code
// use_dpop_nonce where a nonce of ours is missing or too old, else
// invalid_dpop_proof. Its kind is Unauthenticated, and Invalid for audience
// "as", because the token endpoint answers 400 (section 8).
func VerifyProof(header []string, method, url, accessToken, audience string, nonces *Nonces, now time.Time) (Proof, error) {
	refuse := func(code, format string, args ...any) *mayfly.Error {
		kind := mayfly.Unauthenticated
		if audience == NonceAS {
			kind = mayfly.Invalid
		}
		return mayfly.Coded(kind, code, format, args...)
	}
	bad := func(format string, args ...any) (Proof, error) {
		return Proof{}, refuse("invalid_dpop_proof", format, args...)
	}
	if len(header) != 1 {
		return bad("send exactly one DPoP header, with a proof made for this request")
	}
	m, err := jose.Parse(header[0], proofRules())
	if err != nil {
		return bad("the DPoP proof is not accepted: %w", err)
	}
	payload, err := m.Verify(*m.EmbeddedKey)
	if err != nil {
		return bad("the DPoP proof is not accepted: %w", err)
	}
	var said struct {
		JTI   string `json:"jti"`
		HTM   string `json:"htm"`
		HTU   string `json:"htu"`
		IAT   *int64 `json:"iat"`
		ATH   string `json:"ath"`
		Nonce string `json:"nonce"`
	}
	if err := strictjson.UnmarshalLenient(payload, strictjson.Ours, &said); err != nil {
		return bad("the DPoP proof's claims cannot be read: %w", err)
	}
	switch {
	case said.JTI == "" || len(said.JTI) > maxProofID:
		return bad("the DPoP proof needs a jti of at most %d bytes", maxProofID)
	case said.IAT == nil:
		return bad("the DPoP proof does not say when it was made (iat)")
	case said.HTM != method:
		return bad("the DPoP proof was made for another method (htm)")
	case !sameURL(said.HTU, url):
		return bad("the DPoP proof was made for another URL (htu); use the public address of this endpoint")
	case said.Nonce == "":
		return Proof{}, refuse("use_dpop_nonce", "make the DPoP proof again with the nonce of the DPoP-Nonce header")
	case !nonces.Valid(audience, said.Nonce, now):
		return Proof{}, refuse("use_dpop_nonce", "the DPoP proof's nonce is too old; make it again with the nonce of the DPoP-Nonce header")
	}
	at := time.Unix(*said.IAT, 0).UTC()
	if at.Before(now.Add(-proofPast)) || at.After(now.Add(proofFuture)) {
		return bad("the DPoP proof was not made just now (iat); check the clock and make one for each request")
	}
	if accessToken != "" && !hmac.Equal([]byte(said.ATH), []byte(tokenHash(accessToken))) {
		return bad("the DPoP proof was made for another access token (ath)")
	}
	return Proof{Thumbprint: m.EmbeddedKey.Thumbprint(), ID: said.JTI, IssuedAt: at, Nonce: said.Nonce}, nil
}

// tokenHash is the ath claim (RFC 9449 section 4.2).
func tokenHash(accessToken string) string {
	sum := sha256.Sum256([]byte(accessToken))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// The audiences of nonces. A nonce given at one is not good at the other.
const (
	NonceAS = "as" // the token endpoint
	NonceRS = "rs" // everything an access token is sent to
)

// nonceLife is how long a nonce is given out; it is accepted for as long again.
const nonceLife = 5 * time.Minute

// Nonces makes and checks the server nonces of RFC 9449 section 8. It keeps no
// state: nodes with the same key take each other's.
type Nonces struct{ key []byte }

// NewNonces makes nonces with a secret key of 32 bytes.
func NewNonces(key []byte) *Nonces { return &Nonces{key} }

// Current is the nonce to give out at now for audience.
func (n *Nonces) Current(audience string, now time.Time) string { return n.of(audience, period(now)) }

// Valid reports whether nonce is one of ours for audience, of this period or
// the one before.
func (n *Nonces) Valid(audience, nonce string, now time.Time) bool {
	p := period(now)
	this := hmac.Equal([]byte(nonce), []byte(n.of(audience, p)))
	last := hmac.Equal([]byte(nonce), []byte(n.of(audience, p-1)))
	return this || last
}

func period(now time.Time) int64 { return now.Unix() / int64(nonceLife/time.Second) }

func (n *Nonces) of(audience string, period int64) string {
	mac := hmac.New(sha256.New, n.key)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(period)))
	mac.Write([]byte(audience))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}
