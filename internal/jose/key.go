package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math/big"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// Key is a public key and what it may be used for.
type Key struct {
	ID string
	// Algorithm is the one algorithm the key is for; "" is every algorithm of
	// its type: RS256 and PS256 for an RSA key.
	Algorithm string
	Public    crypto.PublicKey // *ecdsa.PublicKey on P-256, ed25519.PublicKey or *rsa.PublicKey
}

// Bounds of an RSA modulus in bits: below is weak, above costs a verifier too
// much.
const (
	minRSA = 2048
	maxRSA = 8192
)

// fits reports whether k can verify signatures of alg.
func (k Key) fits(alg string) bool {
	if k.Algorithm != "" && k.Algorithm != alg {
		return false
	}
	switch p := k.Public.(type) {
	case *ecdsa.PublicKey:
		return alg == ES256 && p.Curve == elliptic.P256()
	case ed25519.PublicKey:
		return alg == EdDSA && len(p) == ed25519.PublicKeySize
	case *rsa.PublicKey:
		return (alg == RS256 || alg == PS256) && minRSA <= p.N.BitLen() && p.N.BitLen() <= maxRSA
	}
	return false
}

func (k Key) verify(alg, signed string, signature []byte) bool {
	switch p := k.Public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(p, []byte(signed), signature)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256([]byte(signed))
		return ecdsa.VerifyASN1(p, digest[:], der(signature))
	case *rsa.PublicKey:
		digest := sha256.Sum256([]byte(signed))
		if alg == PS256 {
			// RFC 7518 section 3.5 fixes the salt's length; the default takes any.
			return rsa.VerifyPSS(p, crypto.SHA256, digest[:], signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(p, crypto.SHA256, digest[:], signature) == nil
	}
	return false
}

// der writes the 64 bytes of an ES256 signature as the SEQUENCE { r, s } that
// crypto/ecdsa reads.
func der(signature []byte) []byte {
	b := cryptobyte.NewFixedBuilder(make([]byte, 0, 72))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(signature[:32]))
		b.AddASN1BigInt(new(big.Int).SetBytes(signature[32:]))
	})
	return b.BytesOrPanic()
}

// Thumbprint names k by its content (RFC 7638): base64url of the SHA-256 of its
// canonical JWK, or "" for a key that is of no type we know.
func (k Key) Thumbprint() string {
	text := k.canonical()
	if text == nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// canonical is the JWK with its required members only, in order (RFC 7638
// section 3). Base64url needs no escaping in JSON.
func (k Key) canonical() []byte {
	jwk := k.jwk()
	switch jwk.Type {
	case "EC":
		return []byte(`{"crv":"P-256","kty":"EC","x":"` + jwk.X + `","y":"` + jwk.Y + `"}`)
	case "OKP":
		return []byte(`{"crv":"Ed25519","kty":"OKP","x":"` + jwk.X + `"}`)
	case "RSA":
		return []byte(`{"e":"` + jwk.E + `","kty":"RSA","n":"` + jwk.N + `"}`)
	}
	return nil
}

// jwk is a JSON Web Key (RFC 7517). The private members are there to be refused.
type jwk struct {
	Type       string   `json:"kty"`
	ID         string   `json:"kid,omitempty"`
	Algorithm  string   `json:"alg,omitempty"`
	Use        string   `json:"use,omitempty"`
	Operations []string `json:"key_ops,omitempty"`
	Curve      string   `json:"crv,omitempty"`
	X          string   `json:"x,omitempty"`
	Y          string   `json:"y,omitempty"`
	N          string   `json:"n,omitempty"`
	E          string   `json:"e,omitempty"`

	D     jsontext.Value `json:"d,omitempty"`
	P     jsontext.Value `json:"p,omitempty"`
	Q     jsontext.Value `json:"q,omitempty"`
	DP    jsontext.Value `json:"dp,omitempty"`
	DQ    jsontext.Value `json:"dq,omitempty"`
	QI    jsontext.Value `json:"qi,omitempty"`
	Other jsontext.Value `json:"oth,omitempty"`
	K     jsontext.Value `json:"k,omitempty"`
}

// jwk is k as written; its Type is "" for a key of no type we know.
func (k Key) jwk() jwk {
	j := jwk{ID: k.ID, Algorithm: k.Algorithm, Use: "sig"}
	text := base64.RawURLEncoding.EncodeToString
	switch p := k.Public.(type) {
	case *ecdsa.PublicKey:
		if p.Curve != elliptic.P256() {
			return j
		}
		point, err := p.Bytes()
		if err != nil {
			return j
		}
		j.Type, j.Curve, j.X, j.Y = "EC", "P-256", text(point[1:33]), text(point[33:])
	case ed25519.PublicKey:
		j.Type, j.Curve, j.X = "OKP", "Ed25519", text(p)
	case *rsa.PublicKey:
		var e [8]byte
		binary.BigEndian.PutUint64(e[:], uint64(p.E))
		j.Type, j.N, j.E = "RSA", text(p.N.Bytes()), text(new(big.Int).SetBytes(e[:]).Bytes())
	}
	return j
}

// errNoUse marks a key of a type, curve, size or use that we have no use for:
// refused alone, skipped in a set.
var errNoUse = errors.New("a key we have no use for")

// parseKey reads a public JWK.
func parseKey(text []byte) (Key, error) {
	var j jwk
	if err := strictjson.UnmarshalLenient(text, strictjson.Ours, &j); err != nil {
		return Key{}, refuse("the key (jwk) cannot be read: %s", err).Because(err)
	}
	for _, private := range []jsontext.Value{j.D, j.P, j.Q, j.DP, j.DQ, j.QI, j.Other, j.K} {
		if private != nil {
			return Key{}, refuse("the key (jwk) has private members; replace that key, and send only the public one")
		}
	}
	if j.Use != "" && j.Use != "sig" || j.Operations != nil && !slices.Contains(j.Operations, "verify") {
		return Key{}, refuse("the key (jwk) is not for signatures").Because(errNoUse)
	}
	public, err := j.public()
	if err != nil {
		return Key{}, err
	}
	k := Key{ID: j.ID, Algorithm: j.Algorithm, Public: public}
	if !k.fits(ES256) && !k.fits(EdDSA) && !k.fits(RS256) && !k.fits(PS256) {
		return Key{}, refuse("the key (jwk) is of no kind that is accepted: EC P-256, Ed25519, or RSA of %d to %d bits", minRSA, maxRSA).Because(errNoUse)
	}
	return k, nil
}

func (j jwk) public() (crypto.PublicKey, error) {
	switch {
	case j.Type == "EC" && j.Curve == "P-256":
		x, err := part("key", j.X)
		if err != nil {
			return nil, err
		}
		y, err := part("key", j.Y)
		if err != nil {
			return nil, err
		}
		if len(x) != 32 || len(y) != 32 {
			return nil, refuse("the key's coordinates are not 32 bytes each")
		}
		// This checks that the point is on the curve.
		p, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
		if err != nil {
			return nil, refuse("the key is not a point of its curve")
		}
		return p, nil
	case j.Type == "OKP" && j.Curve == "Ed25519":
		x, err := part("key", j.X)
		if err != nil {
			return nil, err
		}
		if len(x) != ed25519.PublicKeySize {
			return nil, refuse("the key is not 32 bytes")
		}
		return ed25519.PublicKey(x), nil
	case j.Type == "RSA":
		n, err := part("key", j.N)
		if err != nil {
			return nil, err
		}
		e, err := part("key", j.E)
		if err != nil {
			return nil, err
		}
		// One spelling a key, or one key would have two thumbprints.
		if n[0] == 0 || e[0] == 0 || len(e) > 4 {
			return nil, refuse("the key's modulus or exponent is not in its shortest form")
		}
		exponent := 0
		for _, b := range e {
			exponent = exponent<<8 | int(b)
		}
		if exponent < 3 || exponent > 1<<31-1 || exponent%2 == 0 || n[len(n)-1]%2 == 0 {
			return nil, refuse("the key's modulus or exponent is not that of an RSA key")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: exponent}, nil
	}
	return nil, refuse("the key (jwk) is of no kind that is accepted: EC P-256, Ed25519, or RSA of %d to %d bits", minRSA, maxRSA).Because(errNoUse)
}
