package store

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
)

// person is somebody records are about: a pseudonym that stands in leaves, and
// the key that opens their bodies.
type person struct {
	id  string
	key []byte
}

// personsMax bounds how many persons a process remembers: some 3 MB.
const personsMax = 1 << 14

// persons remembers persons by their lookup value.
type persons struct {
	mu sync.Mutex
	m  map[string]person
}

func (p *persons) get(lookup string) (person, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, ok := p.m[lookup]
	return found, ok
}

func (p *persons) put(lookup string, who person) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil || len(p.m) >= personsMax {
		p.m = map[string]person{}
	}
	p.m[lookup] = who
}

// personOf finds the person with this id as a source gives it, or makes one.
func (db *DB) personOf(ctx context.Context, human string, now time.Time) (person, error) {
	h := hmac.New(sha256.New, db.lookupKey)
	h.Write([]byte(human))
	lookup := base64.RawURLEncoding.EncodeToString(h.Sum(nil))
	if who, ok := db.persons.get(lookup); ok {
		return who, nil
	}
	for {
		var who person
		var box []byte
		err := db.readRow(ctx, readPerson, []any{lookup}, &who.id, &box)
		if err == nil {
			if who.key, err = db.Unseal(sealPerson, who.id, box); err != nil {
				return person{}, err
			}
			db.persons.put(lookup, who)
			return who, nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return person{}, err
		}
		who = newPerson()
		err = db.keep(ctx, func(tx *Tx) {
			tx.add(insertPerson, "person", who.id, lookup, db.Seal(sealPerson, who.id, who.key), micros(now))
		})
		if _, taken := errors.AsType[*Refused](err); taken {
			continue // somebody else met them first
		}
		if err != nil {
			return person{}, err
		}
		db.persons.put(lookup, who)
		return who, nil
	}
}

// newPerson makes a key and the pseudonym that follows from it: once the key is
// destroyed nothing leads from one to the other.
func newPerson() person {
	key := make([]byte, 32)
	rand.Read(key)
	sum := subkey(key, keyPseudonym)
	name := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16])
	return person{"p_" + strings.ToLower(name), key}
}

// erased is what a caller is told about a person whose key is gone.
func erased() error { return mayfly.Errorf(mayfly.Gone, "the person this record is about was erased") }
