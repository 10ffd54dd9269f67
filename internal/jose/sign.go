package jose

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Header is the JOSE header of a token that we make.
type Header struct {
	Algorithm   string
	KeyID       string // left out where empty
	Type        string // left out where empty
	EmbeddedKey *Key   // left out where nil
}

// Sign makes a compact JWS of payload. It signs in the caller's goroutine; the
// signer may be a key in memory or in hardware.
func Sign(signer crypto.Signer, h Header, payload []byte) (string, error) {
	if !(Key{Public: signer.Public()}).fits(h.Algorithm) {
		return "", fmt.Errorf("signing with %s: the key is not for it", h.Algorithm)
	}
	head, err := h.encode()
	if err != nil {
		return "", fmt.Errorf("writing the header of a token: %w", err)
	}
	text := make([]byte, 0, encoding.EncodedLen(len(head))+encoding.EncodedLen(len(payload))+96)
	text = encoding.AppendEncode(text, head)
	text = append(text, '.')
	text = encoding.AppendEncode(text, payload)
	signature, err := sign(signer, h.Algorithm, text)
	if err != nil {
		return "", fmt.Errorf("signing with %s: %w", h.Algorithm, err)
	}
	text = append(text, '.')
	return string(encoding.AppendEncode(text, signature)), nil
}

func (h Header) encode() ([]byte, error) {
	b := append(make([]byte, 0, 128), `{"alg":`...)
	b, err := jsontext.AppendQuote(b, h.Algorithm)
	for _, m := range []struct{ name, value string }{{"kid", h.KeyID}, {"typ", h.Type}} {
		if m.value != "" && err == nil {
			b = append(append(append(b, `,"`...), m.name...), `":`...)
			b, err = jsontext.AppendQuote(b, m.value)
		}
	}
	if h.EmbeddedKey != nil && err == nil {
		b = append(b, `,"jwk":`...)
		b = append(b, h.EmbeddedKey.canonical()...)
	}
	return append(b, '}'), err
}

func sign(signer crypto.Signer, alg string, text []byte) ([]byte, error) {
	if alg == EdDSA {
		return signer.Sign(nil, text, crypto.Hash(0))
	}
	var opts crypto.SignerOpts = crypto.SHA256
	if alg == PS256 {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	digest := sha256.Sum256(text)
	signature, err := signer.Sign(rand.Reader, digest[:], opts)
	if err != nil || alg != ES256 {
		return signature, err
	}
	return fixedLength(signature)
}

// fixedLength turns the signature of an ECDSA signer, SEQUENCE { r, s }, into
// the 64 bytes that RFC 7518 section 3.4 wants.
func fixedLength(der []byte) ([]byte, error) {
	var inner, r, s cryptobyte.String
	input := cryptobyte.String(der)
	signature := make([]byte, 64)
	if !input.ReadASN1(&inner, asn1.SEQUENCE) || !input.Empty() ||
		!inner.ReadASN1(&r, asn1.INTEGER) || !inner.ReadASN1(&s, asn1.INTEGER) || !inner.Empty() ||
		!fill(signature[:32], r) || !fill(signature[32:], s) {
		return nil, errors.New("the signer gave something that is no ECDSA signature")
	}
	return signature, nil
}

// fill writes a positive big-endian integer to the right of into.
func fill(into, integer []byte) bool {
	for len(integer) > 0 && integer[0] == 0 {
		integer = integer[1:]
	}
	if len(integer) > len(into) {
		return false
	}
	copy(into[len(into)-len(integer):], integer)
	return true
}
