package attest

import (
	"context"
	"crypto"
	"log/slog"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/jose"
)

// How long fetched keys are used.
//
//	0 ──── use ──── 5 min ── use, fetch beside ── 10 min ── fetch first, use if that fails ── 1 h ── dead
//
// So a withdrawn key dies with the next fetch, within minutes, and within the
// hour whatever happens to the provider, while an outage of less than that
// stops nobody.
const (
	refreshAfter = 5 * time.Minute
	waitAfter    = 10 * time.Minute
	deadAfter    = time.Hour
)

// fetchEvery is the least time between two fetches of one issuer's keys,
// whatever they are for and however they end: a stranger's tokens with made-up
// key ids cannot make us a flood, and a provider that is down is left alone.
const fetchEvery = 30 * time.Second

// keys are the public keys of one issuer or client: never shared between two,
// so that a key id of one says nothing about another's.
type keys struct {
	fetches *fetches
	fetch   func(context.Context) (jose.KeySet, error) // nil where keys never change
	name    string
	logger  *slog.Logger

	mu        sync.Mutex // guards the fields below
	set       jose.KeySet
	fetchedAt time.Time // zero: never
	triedAt   time.Time // when the last fetch began
	failed    error     // how the last fetch ended
	flight    chan struct{}
}

// keysOf makes the keys of one place, or gives those made before.
func (s *Sources) keysOf(o Options, name string, fetch func(context.Context) (jose.KeySet, error)) *keys {
	if k := s.keys[name]; k != nil {
		return k
	}
	k := &keys{fetches: s.fetches, fetch: fetch, name: name, logger: o.Logger}
	if o.Earlier != nil {
		if old := o.Earlier.keys[name]; old != nil {
			old.mu.Lock()
			k.set, k.fetchedAt, k.triedAt = old.set, old.fetchedAt, old.triedAt
			old.mu.Unlock()
		}
	}
	s.keys[name] = k
	return k
}

// fixedKeys are keys from a file.
func fixedKeys(set jose.KeySet) *keys { return &keys{set: set} }

// find gives the one key of this id for this algorithm. It fetches where the
// keys are old or have none such, within the limits above. The error is
// Unauthenticated where there is no such key, and Unavailable where that cannot
// be known.
func (k *keys) find(ctx context.Context, now time.Time, id, algorithm string) (jose.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, err := k.look(now, id, algorithm)
	age := elapsed(k.fetchedAt, now)
	if k.fetch == nil || err == nil && age < refreshAfter {
		return key, err
	}
	flight := k.begin(now)
	if flight == nil || err == nil && age < waitAfter {
		return key, err
	}
	k.mu.Unlock()
	select {
	case <-flight:
	case <-ctx.Done():
	}
	k.mu.Lock()
	// Where the caller gave up, what is there must do.
	return k.look(now, id, algorithm)
}

// look finds a key among those that are not dead. The caller holds k.mu.
func (k *keys) look(now time.Time, id, algorithm string) (jose.Key, error) {
	dead := k.fetch != nil && (k.fetchedAt.IsZero() || elapsed(k.fetchedAt, now) >= deadAfter)
	if !dead {
		if key, ok := k.set.Find(id, algorithm); ok {
			return key, nil
		}
	}
	if dead || k.failed != nil {
		return jose.Key{}, mayfly.Errorf(mayfly.Unavailable,
			"the keys it must be signed with cannot be fetched now; try again in half a minute").Because(k.failed)
	}
	return jose.Key{}, refuse("it is signed with a key that its issuer does not publish (kid); get a new one")
}

// begin starts a fetch unless one is under way or it is too early for another.
// It gives what is closed when the fetch under way ends, nil if there is none.
// The caller holds k.mu.
//
// The fetch belongs to nobody's request: one caller who gives up does not take
// it from the others.
func (k *keys) begin(now time.Time) <-chan struct{} {
	if k.flight != nil {
		return k.flight
	}
	if !k.triedAt.IsZero() && elapsed(k.triedAt, now) < fetchEvery {
		return nil
	}
	flight := make(chan struct{})
	if !k.fetches.begin(func(ctx context.Context) {
		set, err := k.fetch(ctx)
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.failed = err; err == nil {
			k.set, k.fetchedAt = set, now // their age counts from when they were asked for
		} else if ctx.Err() == nil {
			k.logger.Warn("the keys of a source cannot be fetched", "from", k.name, "err", err)
		}
		k.flight = nil
		close(flight)
	}) {
		return nil
	}
	k.triedAt, k.flight = now, flight
	return flight
}

// elapsed is the time from a moment to now, by whichever of the monotonic and
// the wall clock shows more: neither a suspended machine nor a clock that was
// set back keeps a key alive.
func elapsed(since, now time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}

// sameKey reports whether a and b are one public key.
func sameKey(a, b jose.Key) bool {
	p, ok := a.Public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && p.Equal(b.Public)
}
