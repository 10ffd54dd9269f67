package client

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Key is an ES256 key that tokens are bound to. The private half never leaves
// it; it cannot be written down, only used.
type Key struct {
	signer     crypto.Signer
	public     jwk
	thumbprint string
}

// jwk is the public half (RFC 7517). Its members stand in the order RFC 7638
// hashes them in.
type jwk struct {
	Crv string `json:"crv"`
	Kty string `json:"kty"`
	X   string `json:"x"`
	Y   string `json:"y"`
}

// NewKey makes a key that lives as long as this process.
func NewKey() (*Key, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return KeyOf(k)
}

// KeyOf wraps a P-256 signer, such as one in a TPM.
func KeyOf(signer crypto.Signer) (*Key, error) {
	public, ok := signer.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, mayfly.Errorf(mayfly.Invalid, "the key is not on P-256; tokens are bound to ES256 keys")
	}
	point, err := public.Bytes() // 4 || x || y
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "the key is not a point of P-256").Because(err)
	}
	k := &Key{signer: signer, public: jwk{"P-256", "EC", encode(point[1:33]), encode(point[33:])}}
	text, err := json.Marshal(k.public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	k.thumbprint = encode(sum[:])
	return k, nil
}

// Thumbprint is the RFC 7638 SHA-256 thumbprint, base64url: what a bound token
// carries as cnf.jkt.
func (k *Key) Thumbprint() string { return k.thumbprint }

// JWKS is a key set with the public half alone, for a client's registration.
// Its kid is the thumbprint.
func (k *Key) JWKS() []byte {
	type registered struct {
		jwk
		Kid string `json:"kid"`
		Alg string `json:"alg"`
		Use string `json:"use"`
	}
	text, err := json.Marshal(map[string][]registered{"keys": {{k.public, k.thumbprint, "ES256", "sig"}}})
	if err != nil {
		panic(err) // strings only: cannot fail
	}
	return text
}

// ProofFor is the request a proof is made for.
type ProofFor struct {
	Method      string
	URL         string // the server's public origin and the path, without query
	Nonce       string // the newest the server gave, if any
	AccessToken string // sent along, if any
	At          time.Time
}

// Proof is a DPoP proof (RFC 9449 section 4.2) for one request.
func (k *Key) Proof(r ProofFor) (string, error) {
	type header struct {
		Typ string `json:"typ"`
		Alg string `json:"alg"`
		JWK jwk    `json:"jwk"`
	}
	type claims struct {
		JTI   string `json:"jti"`
		HTM   string `json:"htm"`
		HTU   string `json:"htu"`
		IAT   int64  `json:"iat"`
		ATH   string `json:"ath,omitempty"`
		Nonce string `json:"nonce,omitempty"`
	}
	c := claims{JTI: rand.Text(), HTM: r.Method, HTU: r.URL, IAT: r.At.Unix(), Nonce: r.Nonce}
	if r.AccessToken != "" {
		sum := sha256.Sum256([]byte(r.AccessToken))
		c.ATH = encode(sum[:])
	}
	return k.sign(header{"dpop+jwt", "ES256", k.public}, c)
}

// assertionLife is how long a client assertion may be used.
const assertionLife = time.Minute

// ClientAssertion authenticates the OAuth client id to issuer once
// (private_key_jwt, RFC 7523 section 2.2).
func (k *Key) ClientAssertion(id, issuer string, at time.Time) (string, error) {
	type header struct {
		Typ string `json:"typ"`
		Alg string `json:"alg"`
		Kid string `json:"kid"`
	}
	type claims struct {
		Iss string `json:"iss"`
		Sub string `json:"sub"`
		Aud string `json:"aud"`
		JTI string `json:"jti"`
		IAT int64  `json:"iat"`
		Exp int64  `json:"exp"`
	}
	return k.sign(header{"JWT", "ES256", k.thumbprint},
		claims{id, id, issuer, rand.Text(), at.Unix(), at.Add(assertionLife).Unix()})
}

// sign makes a compact JWS (RFC 7515) with ES256 (RFC 7518 section 3.4).
func (k *Key) sign(header, claims any) (string, error) {
	h, err := json.Marshal(header)
	if err != nil {
		return "", err
	}
	c, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	text := encode(h) + "." + encode(c)
	sum := sha256.Sum256([]byte(text))
	der, err := k.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return "", err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return "", err
	}
	var raw [64]byte
	sig.R.FillBytes(raw[:32])
	sig.S.FillBytes(raw[32:])
	return text + "." + encode(raw[:]), nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
