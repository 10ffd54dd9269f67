package attest

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly/internal/jose"
)

// seen remembers tokens that were verified, so that an agent's evidence, which
// opens many tasks, costs one signature. It holds only what cannot change. It
// is bounded by two generations: what is asked for again moves to the young
// one, and the old one is forgotten whole when the young one is full.
type seen struct {
	mu         sync.Mutex // guards the fields below
	young, old map[digest]*entry
}

type digest = [sha256.Size]byte

// generation is the most entries of one generation: 2 to 3 KiB each.
const generation = 1024

func newSeen() *seen { return &seen{young: map[digest]*entry{}} }

func (s *seen) get(d digest) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.young[d]
	if e == nil {
		if e = s.old[d]; e != nil {
			s.insert(d, e)
		}
	}
	return e
}

func (s *seen) put(d digest, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.insert(d, e)
}

func (s *seen) insert(d digest, e *entry) {
	if len(s.young) >= generation {
		s.old, s.young = s.young, make(map[digest]*entry, generation)
	}
	s.young[d] = e
}

// entry is a token whose signature was right. It is never changed.
type entry struct {
	from             *source
	audience         string
	claims           jose.Claims // without Raw
	keyID, algorithm string
	key              jose.Key
	caller           Caller
}

// again checks what can have changed: the time, and whether the source still
// publishes the key.
func (e *entry) again(ctx context.Context, now time.Time) (Caller, error) {
	if err := e.claims.Require(now, leeway, e.from.Issuer, e.audience); err != nil {
		return Caller{}, err
	}
	k, err := e.from.keys.find(ctx, now, e.keyID, e.algorithm)
	if err != nil {
		return Caller{}, err
	}
	if !sameKey(k, e.key) {
		return Caller{}, refuse("its signature is wrong")
	}
	return e.caller, nil
}
