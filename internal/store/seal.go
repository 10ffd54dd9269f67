package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/mayfly-id/mayfly"
)

// Purposes that keys under the seal key are derived for.
const (
	sealKey      = "signing key"
	sealPerson   = "person key"
	sealCheck    = "check"
	keyBody      = "body"
	keyLookup    = "person lookup"
	keyRowMAC    = "row mac"
	keyPseudonym = "pseudonym"
)

// Key is a 32-byte key for one purpose, derived from the seal key (HKDF,
// RFC 5869). The same purpose always gives the same key.
func (db *DB) Key(purpose string) []byte { return subkey(db.root, purpose) }

func subkey(root []byte, purpose string) []byte {
	key, err := hkdf.Key(sha256.New, root, nil, "mayfly/"+purpose, 32)
	if err != nil {
		panic("store: " + err.Error()) // only for lengths no caller can ask for
	}
	return key
}

// Seal encrypts plain with AES-256-GCM under the key of purpose, bound to id.
func (db *DB) Seal(purpose, id string, plain []byte) []byte {
	return sealed(db.Key("seal/"+purpose), id, plain)
}

// Unseal gives back what Seal was given. It fails if box is another purpose's
// or another id's, or was altered, or another seal key made it.
func (db *DB) Unseal(purpose, id string, box []byte) ([]byte, error) {
	plain, err := unsealed(db.Key("seal/"+purpose), id, box)
	if err != nil {
		return nil, fmt.Errorf("store: %s of %s: %w", purpose, id, err)
	}
	return plain, nil
}

const (
	saltSize  = 16
	nonceSize = 12
)

// sealed is salt ‖ nonce ‖ ciphertext, under a key of its own that key and the
// salt give: one key may seal any number of bodies without its nonces meeting.
func sealed(key []byte, id string, plain []byte) []byte {
	box := make([]byte, saltSize+nonceSize, saltSize+nonceSize+len(plain)+16)
	rand.Read(box)
	return salted(key, box[:saltSize]).Seal(box, box[saltSize:], plain, []byte(id))
}

func unsealed(key []byte, id string, box []byte) ([]byte, error) {
	if len(box) < saltSize+nonceSize {
		return nil, errors.New("sealed value is cut short")
	}
	return salted(key, box[:saltSize]).Open(nil, box[saltSize:saltSize+nonceSize], box[saltSize+nonceSize:], []byte(id))
}

func salted(key, salt []byte) cipher.AEAD {
	h := hmac.New(sha256.New, key)
	h.Write(salt)
	block, err := aes.NewCipher(h.Sum(nil))
	if err != nil {
		panic("store: " + err.Error()) // 32 bytes always fit
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("store: " + err.Error())
	}
	return aead
}

// errSealKey is what Open says when the seal key is not this store's.
func errSealKey() error {
	return mayfly.Errorf(mayfly.Invalid, "the seal key is not the one this store was made with; use the old key or another store")
}
