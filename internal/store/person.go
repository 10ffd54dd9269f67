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
	// made is the change that makes their row, nil if the store has it. Whatever
	// is recorded about them before that is durable is queued behind it, and
	// guarded by it.
	made *Pending
}

// isMade reports whether their row is durable.
func (p person) isMade() bool { return p.made == nil || p.made.ended() && p.made.err == nil }

// isLost reports whether their row was not made and never will be.
func (p person) isLost() bool { return p.made != nil && p.made.ended() && p.made.err != nil }

// personsMax bounds how many persons a process remembers: some 3 MB.
const personsMax = 1 << 14

// persons remembers persons by the id their source gives them.
type persons struct {
	mu sync.Mutex // guards the fields below
	m  map[string]person
	// forgotten counts those who were erased: what was read of somebody before
	// that is not remembered after it.
	forgotten int
}

func (p *persons) get(human string) (person, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, ok := p.m[human]
	if found.made != nil && found.isMade() {
		found.made = nil
		p.m[human] = found
	}
	return found, ok && !found.isLost()
}

// put remembers what was read when so many had been forgotten.
func (p *persons) put(human string, who person, forgotten int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if forgotten == p.forgotten {
		p.set(human, who)
	}
}

func (p *persons) countForgotten() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.forgotten
}

// forget drops whoever has a pseudonym.
func (p *persons) forget(pseudonym string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgotten++
	for human, who := range p.m {
		if who.id == pseudonym {
			delete(p.m, human)
		}
	}
}

// meet is the person with this id, or who, whose row make begins to make.
func (p *persons) meet(human string, who person, make func() *Pending) person {
	p.mu.Lock()
	defer p.mu.Unlock()
	if found, ok := p.m[human]; ok && !found.isLost() {
		return found
	}
	who.made = make()
	p.set(human, who)
	return who
}

func (p *persons) set(human string, who person) {
	if p.m == nil || len(p.m) >= personsMax {
		p.m = map[string]person{}
	}
	p.m[human] = who
}

// personOf finds the person with this id as a source gives it, or makes one.
func (db *DB) personOf(ctx context.Context, human string, now time.Time) (person, error) {
	for {
		who, err := db.meet(ctx, human, now)
		if err != nil || who.made == nil || !db.engine.shared() {
			return who, err // their first record is queued next and lands in the same commit
		}
		// Another node may be meeting them too, and be first.
		<-who.made.done
		if !who.isLost() {
			return who, nil
		}
		if _, taken := errors.AsType[*Refused](who.made.err); !taken {
			return person{}, who.made.err
		}
	}
}

// meet finds a person, or begins to make their row.
func (db *DB) meet(ctx context.Context, human string, now time.Time) (person, error) {
	if who, ok := db.persons.get(human); ok {
		return who, nil
	}
	forgotten := db.persons.countForgotten()
	lookup := db.lookup(human)
	var who person
	var box []byte
	err := db.readRow(ctx, readPerson, []any{lookup}, &who.id, &box)
	if errors.Is(err, sql.ErrNoRows) {
		who = newPerson()
		tx := &Tx{db: db}
		tx.add(insertPerson, guardPerson, who.id, lookup, db.Seal(sealPerson, who.id, who.key), micros(now))
		return db.persons.meet(human, who, func() *Pending { return db.submit(db.writer.ctx, tx, Record{}) }), nil
	}
	if err != nil {
		return person{}, err
	}
	if who.key, err = db.Unseal(sealPerson, who.id, box); err != nil {
		return person{}, err
	}
	db.persons.put(human, who, forgotten)
	return who, nil
}

// lookup is what the row of a person is found by.
func (db *DB) lookup(human string) string {
	h := hmac.New(sha256.New, db.lookupKey)
	h.Write([]byte(human))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Pseudonym is what stands for a human in leaves, "" if no record is about them,
// or they were erased.
func (db *DB) Pseudonym(ctx context.Context, human string) (string, error) {
	var id string
	var box []byte
	err := db.readRow(ctx, readPerson, []any{db.lookup(human)}, &id, &box)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return id, err
}

// newPerson makes a key and the pseudonym that follows from it: once the key is
// destroyed nothing leads from one to the other.
func newPerson() person {
	key := make([]byte, 32)
	rand.Read(key)
	sum := subkey(key, keyPseudonym)
	name := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16])
	return person{id: "p_" + strings.ToLower(name), key: key}
}

// erased is what a caller is told about a person whose key is gone.
func erased() error { return mayfly.Errorf(mayfly.Gone, "the person this record is about was erased") }
