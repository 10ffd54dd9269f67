package token

import (
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/jose"
)

// Certify signs the claims of a retirement certificate with the key that signs at
// now. Its type keeps it from being taken for a token, and it needs no permit: it
// opens nothing.
func (k *Keyring) Certify(payload []byte, now time.Time) (string, error) {
	kid := k.SigningKeyID(now)
	signed := k.accepts(kid, now)
	if signed == nil {
		return "", mayfly.Errorf(mayfly.Unavailable, "there is no key to sign with just now; try again")
	}
	text, err := jose.Sign(signed.signer, jose.Header{Algorithm: jose.ES256, KeyID: kid, Type: mayfly.CertificateType}, payload)
	if err != nil {
		return "", mayfly.Errorf(mayfly.Internal, "the certificate was not signed").Because(err)
	}
	return text, nil
}

// CheckCertificate verifies a certificate's signature with the keys of its
// issuer's JWKS, and gives its claims. The error, of kind Invalid, says what is
// wrong. It says nothing of the checkpoint inside.
func CheckCertificate(text string, keys jose.KeySet) ([]byte, error) {
	wrong := func(err error) error {
		return mayfly.Errorf(mayfly.Invalid, "the certificate does not hold: %v", err)
	}
	m, err := jose.Parse(text, jose.Rules{Algorithms: []string{jose.ES256}, Types: []string{mayfly.CertificateType}, MaxBytes: maxCertificate})
	if err != nil {
		return nil, wrong(err)
	}
	for _, key := range keys {
		if key.ID == m.KeyID {
			payload, err := m.Verify(key)
			if err != nil {
				return nil, wrong(err)
			}
			return payload, nil
		}
	}
	return nil, mayfly.Errorf(mayfly.Invalid, "the certificate is signed with the key %q, which is not among those given; take the keys of its issuer at /oauth2/jwks", m.KeyID)
}

// maxCertificate bounds a certificate that is read, in bytes.
const maxCertificate = 16 << 20
