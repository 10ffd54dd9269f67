package jose

import (
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// KeySet is a JWK Set (RFC 7517 section 5) of public keys.
type KeySet []Key

// Bounds of a key set.
const (
	maxSetBytes = 64 << 10
	maxSetKeys  = 50
)

// ParseKeySet reads a JWK Set of at most 64 KiB and 50 keys. Keys of a type,
// size or use that we have no use for are skipped (RFC 7517 section 5); one
// that is malformed, carries private members, or cannot be told from another
// by kid and alg makes the whole set unusable.
func ParseKeySet(data []byte) (KeySet, error) {
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := strictjson.UnmarshalLenient(data, strictjson.Limits{Bytes: maxSetBytes, Depth: 32}, &set); err != nil {
		return nil, refuse("the key set cannot be read: %s", err).Because(err)
	}
	if set.Keys == nil {
		return nil, refuse("the key set has no member \"keys\"")
	}
	if len(set.Keys) > maxSetKeys {
		return nil, refuse("the key set has more than %d keys", maxSetKeys)
	}
	keys := KeySet{}
	for _, text := range set.Keys {
		k, err := parseKey(text)
		if errors.Is(err, errNoUse) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, other := range keys {
			if k.ID != "" && k.ID == other.ID && k.overlaps(other) {
				return nil, refuse("the key set has two keys of the same kid and alg")
			}
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// overlaps reports whether there is an algorithm that both keys are for.
func (k Key) overlaps(other Key) bool {
	for _, alg := range []string{ES256, EdDSA, RS256, PS256} {
		if k.fits(alg) && other.fits(alg) {
			return true
		}
	}
	return false
}

// Find gives the key of this id for alg. A token that names no key is only
// matched where exactly one key is for its algorithm.
func (s KeySet) Find(kid, alg string) (Key, bool) {
	var found Key
	matches := 0
	for _, k := range s {
		if k.fits(alg) && (kid == "" || k.ID == kid) {
			found = k
			matches++
		}
	}
	return found, matches == 1
}

// MarshalJSON writes the set as verifiers fetch it.
func (s KeySet) MarshalJSON() ([]byte, error) {
	set := struct {
		Keys []jwk `json:"keys"`
	}{make([]jwk, len(s))}
	for i, k := range s {
		set.Keys[i] = k.jwk()
	}
	return strictjson.Marshal(set)
}
