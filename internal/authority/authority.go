// Package authority puts the product's verbs in order, each use case once: a
// task is opened, acts, delegates and ends here and nowhere else. It owns the
// sequence (attest, decide, commit state and event together, sign, answer) and
// the knowledge of what is live; it does not speak HTTP and holds no SQL.
//
// Start with exchange.go (open), admit.go (act) and lifecycle.go (retire). The
// node's view of what is live is in live.go, and the clock and the authority
// lease that make a cut-off node deny are in clock.go.
package authority

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/jose"
	"github.com/mayfly-id/mayfly/internal/search"
	"github.com/mayfly-id/mayfly/internal/store"
	"github.com/mayfly-id/mayfly/internal/token"
)

// Config is what an Authority is made of. Everything is required but Wall,
// Boot and Logger.
type Config struct {
	DB      *store.DB
	Log     *eventlog.Log
	Bundle  *Bundle
	Node    string // names this process in records
	Version string
	Logger  *slog.Logger
	// Wall and Boot replace the two clocks of this machine in tests. Boot runs
	// on through sleep and is never set back.
	Wall func() time.Time
	Boot func() time.Duration
}

// Authority is one node's share in the flow. It is safe for concurrent use.
type Authority struct {
	db      *store.DB
	log     *eventlog.Log
	logger  *slog.Logger
	node    string
	version string

	clock  *clock
	lease  lease
	keys   *token.Keyring
	nonces *token.Nonces

	bundle atomic.Pointer[Bundle]
	reload sync.Mutex // one reload at a time

	live     *liveTasks
	pins     pins
	seen     seenMemory
	open     openCalls
	failures failures
	passed   atomic.Int64

	proofs, assertions proofMemory

	epoch atomic.Int64 // the newest epoch applied here
	// followed is the newest that is written down as applied.
	followed atomic.Int64
	follow   sync.Mutex // one application of epoch changes at a time
	reapNow  chan struct{}
	returns  returns
	search   *search.Index
	pending  sync.WaitGroup     // outcomes and retirements on their way to the store
	writing  context.Context    // for as long as those are tried
	giveUp   context.CancelFunc // ends writing
}

// New makes an Authority: it loads or makes the signing keys, confirms the
// epoch once, and records that this process started. Run must follow.
func New(ctx context.Context, c Config) (*Authority, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	a := &Authority{
		db:      c.DB,
		log:     c.Log,
		logger:  c.Logger,
		node:    c.Node,
		version: c.Version,
		clock:   newClock(c.Wall, c.Boot),
		keys:    token.NewKeyring(c.Bundle.Issuer),
		nonces:  token.NewNonces(c.DB.Key("dpop nonce")),
		reapNow: make(chan struct{}, 1),
		returns: returns{now: make(chan struct{}, 1), busy: map[string]bool{}, strange: map[mayfly.LeaseID]bool{}},

		proofs:     proofMemory{life: proofLife},
		assertions: proofMemory{life: assertionLife},
	}
	a.writing, a.giveUp = context.WithCancel(context.Background())
	a.live = newLiveTasks(a.db)
	a.search = search.New(a.db, a.logger, a.log.Leads)
	a.bundle.Store(c.Bundle.ready())

	// Time never runs backwards across a restart: what the store has seen is
	// past, whatever the wall clock now says.
	last, err := a.db.LastEventTime(ctx)
	if err != nil {
		return nil, err
	}
	a.clock.atLeast(last)

	if err := a.ensureSigningKey(ctx); err != nil {
		return nil, err
	}
	if err := a.confirmEpoch(ctx); err != nil {
		return nil, err
	}
	keep, err := c.Bundle.keep()
	if err != nil {
		return nil, err
	}
	err = a.record(ctx, mayfly.ServerStarted{Node: a.node, Version: a.version, Bundle: c.Bundle.Hash}, func(tx *store.Tx) {
		keep(tx, a.clock.now())
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// lastWrites is how long a stop waits for outcomes that cannot be written.
const lastWrites = 5 * time.Second

// Run follows the epoch, ends what has run out, and writes down what waits to
// be written, until ctx ends. It returns after the last outcome is recorded, or
// when a store that is away has not come back within lastWrites: what is missing
// then is found at the next start.
func (a *Authority) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	for _, loop := range []func(context.Context){a.followEpoch, a.reap, a.keepLeases, a.sweepOpen, a.flushFailures, a.keepKeys, a.search.Run} {
		loops.Go(func() { loop(ctx) })
	}
	loops.Wait()
	late := time.AfterFunc(lastWrites, a.giveUp)
	defer late.Stop()
	a.pending.Wait()
	return nil
}

// Bundle is the configuration in force.
func (a *Authority) Bundle() *Bundle { return a.bundle.Load() }

// Log is the event log.
func (a *Authority) Log() *eventlog.Log { return a.log }

// JWKS is the public half of every key whose tokens are accepted or soon will be.
func (a *Authority) JWKS() jose.KeySet { return a.keys.JWKS() }

// Now is the server's time. It does not go back, whatever the machine's clock does.
func (a *Authority) Now() time.Time { return a.clock.now() }

// Nonce is a fresh DPoP nonce for an audience: "as" at the token endpoint, "rs"
// elsewhere (RFC 9449 section 8).
func (a *Authority) Nonce(audience string) string {
	return a.nonces.Current(audience, a.clock.now())
}

// Reload puts a new configuration in force: all of it from the next decision
// on, or none of it. The change is an event, also where the hash is the same and
// only a secret that the configuration names has changed.
func (a *Authority) Reload(ctx context.Context, next *Bundle) error {
	a.reload.Lock()
	defer a.reload.Unlock()
	previous := a.bundle.Load()
	if previous.Issuer != next.Issuer || previous.TrustDomain != next.TrustDomain {
		return mayfly.Errorf(mayfly.Invalid, "issuer and trust_domain cannot change while the server runs; restart it")
	}
	keep, err := next.keep()
	if err != nil {
		return err
	}
	err = a.record(ctx, mayfly.BundleLoaded{Bundle: next.Hash, Previous: previous.Hash}, func(tx *store.Tx) {
		keep(tx, a.clock.now())
	})
	if err != nil {
		return err
	}
	a.bundle.Store(next.ready())
	return nil
}

// Ready reports why this node would refuse to act now, or nil.
func (a *Authority) Ready(context.Context) error { return a.mayIssue() }

// mayAct reports whether this node may decide anything: it holds the authority
// lease. A node cut off from the store denies within the lease.
func (a *Authority) mayAct() error {
	if !a.lease.held(a.clock) {
		return mayfly.Coded(mayfly.Unavailable, "authority_lapsed",
			"this node has lost touch with the store and denies until it is back; try again shortly")
	}
	if err := a.log.Err(); err != nil {
		return mayfly.Coded(mayfly.Unavailable, "log_alarm",
			"the event log failed its own check and nothing is issued until an operator has looked").Because(err)
	}
	return nil
}

// mayIssue is mayAct, and also refuses while the wall clock stands behind time
// that has already passed.
func (a *Authority) mayIssue() error {
	if err := a.mayAct(); err != nil {
		return err
	}
	if !a.clock.safe() {
		return mayfly.Coded(mayfly.Unavailable, "clock_unsafe",
			"the server's clock was set back; nothing is issued until it is right again")
	}
	return nil
}

// record commits e together with what build writes, or neither.
func (a *Authority) record(ctx context.Context, e mayfly.Event, build func(*store.Tx)) error {
	rec, err := a.db.Prepare(ctx, a.clock.now(), a.Bundle().Hash, e)
	if err != nil {
		return err
	}
	return a.commit(ctx, rec, build)
}

func (a *Authority) commit(ctx context.Context, rec store.Record, build func(*store.Tx)) error {
	if build == nil {
		build = func(*store.Tx) {}
	}
	if err := a.db.Change(ctx, rec, build); err != nil {
		return err
	}
	a.log.Acknowledged(rec)
	return nil
}

// refusedBy is the guard that refused a change, or "".
func refusedBy(err error) string {
	if r, ok := errors.AsType[*store.Refused](err); ok {
		return r.Guard
	}
	return ""
}

// refuse records that a request was refused and gives err its decision id. If
// the refusal cannot be recorded the answer is that, not the refusal.
//
// extra, if set, is written in the same commit: a proof that was presented is
// burned on refusal too.
func (a *Authority) refuse(ctx context.Context, r mayfly.RequestRefused, err error, extra func(*store.Tx)) error {
	e := mayfly.AsError(err)
	if e.Kind == mayfly.Unavailable || e.Kind == mayfly.Internal {
		return err
	}
	if r.Decision == "" {
		r.Decision = mayfly.NewID("dec", a.clock.now())
	}
	r.Code, r.Reason, r.Term = e.Code, e.Message, e.Term
	failed := a.record(ctx, r, extra)
	if failed != nil && refusedBy(failed) != "" { // the proof had been used before: say so without burning it again
		failed = a.record(ctx, r, nil)
	}
	if failed != nil {
		return failed
	}
	e.Decision = r.Decision
	return e
}
