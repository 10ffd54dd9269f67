// Package token is the proof of a task's identity: the access tokens we sign
// and verify, the keys they are signed with, and the DPoP proofs that show who
// holds a bound one. It owns claims, signatures, key rotation and nonces; it
// decides nothing (a signature needs a policy.Permit), stores nothing, and says
// nothing of whether a token's task still lives. Start reading at
// [Keyring.Verify].
package token

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mayfly-id/mayfly/internal/jose"
)

// The life of a signing key.
//
//	made ──publishLead──▶ signs ──rotateEvery──▶ the next one signs ──acceptFor──▶ retired
//
// A key is published before anything is signed with it, so that no verifier
// meets it first in a token; it is accepted until the last token it can have
// signed is dead.
const (
	publishLead = 15 * time.Minute
	rotateEvery = 30 * 24 * time.Hour
	signsAtMost = 31 * 24 * time.Hour // a day to make the next one in
	acceptFor   = MaxLife + time.Minute
)

// StoredKey is a signing key as the store keeps it, unsealed.
type StoredKey struct {
	ID            string // RFC 7638 thumbprint of the public key
	Algorithm     string
	Private       []byte // PKCS#8
	MadeAt        time.Time
	SignsFrom     time.Time
	SignsUntil    time.Time
	AcceptUntil   time.Time
	CompromisedAt time.Time // zero while it is not
}

// Keyring signs and verifies the access tokens of one issuer. It is safe for
// concurrent use; [Keyring.Load] changes all keys at once.
type Keyring struct {
	issuer string
	now    atomic.Pointer[ring]
	seen   seen
}

// NewKeyring makes a keyring without keys: it verifies and signs nothing until
// keys are loaded. The issuer stands in every token.
func NewKeyring(issuer string) *Keyring {
	k := &Keyring{issuer: issuer}
	k.now.Store(&ring{})
	return k
}

// ring is every key at one time. It is not changed once made.
type ring struct {
	keys   map[string]*key
	order  []*key // by when they start to sign
	public jose.KeySet
}

// key is one signing key with the times that count for it.
type key struct {
	id          string
	signer      crypto.Signer
	public      jose.Key
	madeAt      time.Time
	signsFrom   time.Time
	signsUntil  time.Time // no later than when the next one starts
	acceptUntil time.Time
}

// Load replaces all keys. A key that was compromised, or is past its time at
// now, signs nothing, verifies nothing and is not published from here on. On an
// error nothing changes.
func (k *Keyring) Load(stored []StoredKey, now time.Time) error {
	stored = slices.SortedFunc(slices.Values(stored), func(a, b StoredKey) int {
		return cmp.Or(a.SignsFrom.Compare(b.SignsFrom), a.MadeAt.Compare(b.MadeAt), cmp.Compare(a.ID, b.ID))
	})
	r := &ring{keys: make(map[string]*key, len(stored)), public: jose.KeySet{}}
	for i, s := range stored {
		if !s.CompromisedAt.IsZero() {
			continue
		}
		signsUntil, acceptUntil := s.SignsUntil, s.AcceptUntil
		// The next key counts even if it was compromised later: a key that
		// stopped signing does not start again.
		for _, next := range stored[i+1:] {
			if next.CompromisedAt.IsZero() || next.CompromisedAt.After(next.SignsFrom) {
				signsUntil = earlier(signsUntil, next.SignsFrom)
				acceptUntil = earlier(acceptUntil, next.SignsFrom.Add(acceptFor))
				break
			}
		}
		if !now.Before(acceptUntil) {
			continue
		}
		made, err := s.parse()
		if err != nil {
			return fmt.Errorf("loading signing key %s: %w", s.ID, err)
		}
		made.signsUntil, made.acceptUntil = signsUntil, acceptUntil
		r.keys[s.ID] = made
		r.order = append(r.order, made)
		r.public = append(r.public, made.public)
	}
	k.now.Store(r)
	return nil
}

func (s StoredKey) parse() (*key, error) {
	private, err := x509.ParsePKCS8PrivateKey(s.Private)
	if err != nil {
		return nil, err
	}
	signer, ok := private.(*ecdsa.PrivateKey)
	if !ok || s.Algorithm != jose.ES256 || signer.Curve != elliptic.P256() {
		return nil, fmt.Errorf("it is not an %s key", jose.ES256)
	}
	public := jose.Key{ID: s.ID, Algorithm: s.Algorithm, Public: &signer.PublicKey}
	if public.Thumbprint() != s.ID {
		return nil, fmt.Errorf("its id is not its thumbprint")
	}
	return &key{id: s.ID, signer: signer, public: public, madeAt: s.MadeAt, signsFrom: s.SignsFrom}, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Next makes the key that follows. It signs once verifiers have had time to
// fetch it, or at once where there is no key to sign with meanwhile. The keyring
// does not know it until it is loaded.
func (k *Keyring) Next(now time.Time) (StoredKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return StoredKey{}, fmt.Errorf("making a signing key: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return StoredKey{}, fmt.Errorf("encoding a signing key: %w", err)
	}
	from := now
	if k.now.Load().signing(now) != nil {
		from = now.Add(publishLead)
	}
	until := from.Add(signsAtMost)
	return StoredKey{
		ID:        jose.Key{Public: &private.PublicKey}.Thumbprint(),
		Algorithm: jose.ES256,
		Private:   pkcs8,
		MadeAt:    now, SignsFrom: from, SignsUntil: until, AcceptUntil: until.Add(acceptFor),
	}, nil
}

// Due reports whether it is time for [Keyring.Next]: there is no key to sign
// with, or the newest has signed for so long that its successor must be
// published now.
func (k *Keyring) Due(now time.Time) bool {
	r := k.now.Load()
	if r.signing(now) == nil {
		return true
	}
	newest := r.order[len(r.order)-1]
	return !now.Before(newest.signsFrom.Add(rotateEvery - publishLead))
}

// signing is the key to sign with at now. Where none is in its time but one is
// published and waiting, because the one before it was compromised, that one
// signs early.
func (r *ring) signing(now time.Time) *key {
	var waiting *key
	for i := len(r.order) - 1; i >= 0; i-- {
		k := r.order[i]
		if now.Before(k.signsFrom) {
			waiting = k
		} else if now.Before(k.signsUntil) {
			return k
		}
	}
	return waiting
}

// SigningKeyID is the id of the key that signs at now, or "" if there is none.
func (k *Keyring) SigningKeyID(now time.Time) string {
	if s := k.now.Load().signing(now); s != nil {
		return s.id
	}
	return ""
}

// JWKS is every key that verifies tokens, or soon will.
func (k *Keyring) JWKS() jose.KeySet { return slices.Clone(k.now.Load().public) }
