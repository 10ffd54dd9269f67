package server

import (
	"crypto/sha256"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Limits say how often is too often. They are counted on each node by itself,
// and do not hold for loopback peers unless Loopback is set. A zero member is
// that of [DefaultLimits].
type Limits struct {
	// Unauthenticated requests, those whose authentication failed included, of
	// one network address; of IPv6, one /64. A caller whose credential was good
	// a moment ago is not held up by others behind the same address.
	Unauthenticated Rate
	Token           Rate // of the token endpoint, per client: its id or evidence, at one address
	Exchange        Rate // of a task's own token, per task
	ClientFailures  int  // failed client authentications a minute, after which the client waits 1 to 15 minutes
	Loopback        bool
}

// Rate is a token bucket: PerSecond on average, Burst at once.
type Rate struct{ PerSecond, Burst int }

// DefaultLimits are in force where the configuration says nothing.
func DefaultLimits() Limits {
	return Limits{
		Unauthenticated: Rate{5, 10},
		Token:           Rate{20, 40},
		Exchange:        Rate{10, 20},
		ClientFailures:  10,
	}
}

// limitKey is what is counted together. The digest names a credential, client
// or task; it is zero for strangers.
type limitKey struct {
	addr   netip.Addr
	digest [16]byte
}

// keysMax bounds each of the maps below.
const keysMax = 1 << 15

// recent is a map that forgets what was not asked for longest, in two
// generations, and so holds at most twice its bound. To be forgotten is never
// worse for a caller than to be remembered.
type recent[V any] struct {
	now, old map[limitKey]V
	max      int
}

func (m *recent[V]) get(k limitKey) (v V, ok bool) {
	if v, ok = m.now[k]; ok {
		return v, true
	}
	if v, ok = m.old[k]; ok {
		m.put(k, v)
	}
	return v, ok
}

func (m *recent[V]) put(k limitKey, v V) {
	if m.now == nil {
		m.now = map[limitKey]V{}
	}
	if _, known := m.now[k]; !known && len(m.now) >= m.max {
		m.old, m.now = m.now, map[limitKey]V{}
	}
	m.now[k] = v
}

func (m *recent[V]) forget(k limitKey) {
	delete(m.now, k)
	delete(m.old, k)
}

// bucket is how many tokens were left at a time.
type bucket struct {
	left float64
	at   time.Time
}

// buckets are token buckets of one rate. The caller holds the lock.
type buckets struct {
	rate Rate
	by   recent[bucket]
}

// left is what is in k's bucket at now.
func (b *buckets) left(k limitKey, now time.Time) float64 {
	have, ok := b.by.get(k)
	if !ok {
		return float64(b.rate.Burst)
	}
	grown := max(0, now.Sub(have.at).Seconds()) * float64(b.rate.PerSecond)
	return min(float64(b.rate.Burst), have.left+grown)
}

// take takes one token out of k's bucket, or says how long until there is one.
func (b *buckets) take(k limitKey, now time.Time) (wait time.Duration) {
	left := b.left(k, now)
	if left < 1 {
		return b.until(left)
	}
	b.by.put(k, bucket{left - 1, now})
	return 0
}

// until is how long an amount below 1 takes to grow to 1.
func (b *buckets) until(left float64) time.Duration {
	return time.Duration(math.Ceil((1 - left) / float64(b.rate.PerSecond) * float64(time.Second)))
}

// lockout is one client's record of failed authentications.
type lockout struct {
	failures int       // since
	since    time.Time // at most a minute ago
	strikes  int       // how often it was locked out in a row
	until    time.Time
}

// limits is everything that is counted.
type limits struct {
	Limits
	mu        sync.Mutex // guards the fields below
	strangers buckets
	known     recent[struct{}] // credentials that were good
	tokens    buckets
	tasks     buckets
	clients   recent[lockout]
}

func newLimits(l Limits) *limits {
	d := DefaultLimits()
	for _, r := range []struct{ have, otherwise *Rate }{
		{&l.Unauthenticated, &d.Unauthenticated}, {&l.Token, &d.Token}, {&l.Exchange, &d.Exchange},
	} {
		if r.have.PerSecond <= 0 || r.have.Burst <= 0 {
			*r.have = *r.otherwise
		}
	}
	if l.ClientFailures <= 0 {
		l.ClientFailures = d.ClientFailures
	}
	return &limits{
		Limits:    l,
		strangers: buckets{l.Unauthenticated, recent[bucket]{max: keysMax}},
		known:     recent[struct{}]{max: keysMax},
		tokens:    buckets{l.Token, recent[bucket]{max: keysMax}},
		tasks:     buckets{l.Exchange, recent[bucket]{max: keysMax}},
		clients:   recent[lockout]{max: keysMax},
	}
}

func (k limitKey) stranger() bool    { return k.digest == [16]byte{} }
func (k limitKey) address() limitKey { return limitKey{addr: k.addr} }

// enter says how long k has to wait before a request of its is looked at. A
// stranger pays for coming; whoever brings something is held up only while its
// address has failed too often, and not if it is known.
func (l *limits) enter(k limitKey, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.stranger() {
		return l.strangers.take(k, now)
	}
	if _, known := l.known.get(k); known {
		return 0
	}
	if left := l.strangers.left(k.address(), now); left < 1 {
		return l.strangers.until(left)
	}
	return 0
}

// failed charges k's address for an authentication that failed.
func (l *limits) failed(k limitKey, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known.forget(k)
	l.strangers.take(k.address(), now)
}

// succeeded remembers that k's credential is good.
func (l *limits) succeeded(k limitKey) {
	if k.stranger() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.known.get(k); !known {
		l.known.put(k, struct{}{})
	}
}

// token says how long client has to wait for the token endpoint, and task, if
// its own token is exchanged, for another one.
func (l *limits) token(client limitKey, task *limitKey, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if wait := l.tokens.take(client, now); wait > 0 || task == nil {
		return wait
	}
	return l.tasks.take(*task, now)
}

// lockedOut says how long a client has to wait that failed to authenticate.
func (l *limits) lockedOut(client limitKey, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	have, _ := l.clients.get(client)
	return max(0, have.until.Sub(now))
}

// The wait after too many failures doubles from the first to the longest.
const (
	firstLockout   = time.Minute
	longestLockout = 15 * time.Minute
)

// clientFailed counts a failed client authentication. Too many within a minute
// lock the client out; after that, each further one does, for twice as long.
func (l *limits) clientFailed(client limitKey, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	have, _ := l.clients.get(client)
	if now.Sub(have.since) > time.Minute {
		have.failures, have.since = 0, now
	}
	if now.Sub(have.until) > longestLockout {
		have.strikes = 0
	}
	have.failures++
	if have.failures >= l.ClientFailures || have.strikes > 0 {
		have.until = now.Add(min(longestLockout, firstLockout<<min(have.strikes, 4)))
		have.strikes++
		have.failures = 0
	}
	l.clients.put(client, have)
}

// clientSucceeded forgets a client's failures.
func (l *limits) clientSucceeded(client limitKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clients.forget(client)
}

// key is the request's address with what names its sender.
func (c *call) key(parts ...string) limitKey {
	k := limitKey{addr: c.addr}
	if k.addr.Is6() {
		if p, err := k.addr.Prefix(64); err == nil {
			k.addr = p.Addr() // one customer has at least that many
		}
	}
	named := false
	h := sha256.New()
	for _, p := range parts {
		named = named || p != ""
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	if named {
		copy(k.digest[:], h.Sum(nil))
	}
	return k
}

// limitKey names the sender by the credential presented, where it is looked at:
// what is open to all takes everybody for a stranger, whatever they send. At the
// OAuth endpoints it is the client's id, else its evidence.
func (c *call) limitKey() limitKey {
	switch {
	case c.pages:
		return c.key(c.r.Header["Cookie"]...)
	case c.route == nil: // the gateway
	case c.route.surface == open:
		return c.key()
	case c.route.surface == oauth:
		return c.key(c.client())
	}
	return c.key(c.r.Header["Authorization"]...)
}

// unlimited reports whether limits do not hold for this request.
func (c *call) unlimited() bool {
	return c.s.admin || c.addr.IsLoopback() && !c.s.limits.Loopback
}

// limitStrangers holds up strangers who come too often. At the OAuth endpoints
// nobody is known before the form is read: see limitClients.
func (c *call) limitStrangers() error {
	if c.unlimited() || c.route != nil && (c.route.probe || c.route.surface == oauth) {
		return nil
	}
	return c.tooOften(c.s.limits.enter(c.limitKey(), time.Now()))
}

// limitClients holds up OAuth clients that come too often, or failed too often.
func (c *call) limitClients() error {
	if c.unlimited() {
		return nil
	}
	now := time.Now()
	if err := c.tooOften(c.s.limits.enter(c.limitKey(), now)); err != nil {
		return err
	}
	if c.form.Get("client_assertion") != "" {
		if err := c.tooOften(c.s.limits.lockedOut(c.limitKey(), now)); err != nil {
			return err
		}
	}
	if c.form.Get("grant_type") == "" {
		return nil
	}
	var task *limitKey
	if c.form.Get("subject_token_type") == tokenTypeAccess {
		k := c.key("task", c.form.Get("subject_token"))
		task = &k
	}
	return c.tooOften(c.s.limits.token(c.limitKey(), task, now))
}

// settle remembers how a request ended: for the next one.
func (c *call) settle(e *mayfly.Error) {
	if c.unlimited() {
		return
	}
	assertion := c.form.Get("client_assertion") != ""
	switch {
	case e == nil:
		c.s.limits.succeeded(c.limitKey())
		if assertion {
			c.s.limits.clientSucceeded(c.limitKey())
		}
	case e.Kind != mayfly.Unauthenticated || e.Code == "use_dpop_nonce":
	default:
		if c.limitKey().stranger() {
			return // it paid when it came
		}
		c.s.limits.failed(c.limitKey(), time.Now())
		if assertion && e.Code == "invalid_client" {
			c.s.limits.clientFailed(c.limitKey(), time.Now())
		}
	}
}

func (c *call) tooOften(wait time.Duration) error {
	if wait == 0 {
		return nil
	}
	c.w.Header().Set("Retry-After", seconds(wait))
	return mayfly.Errorf(mayfly.RateLimited, "too many requests; try again in %s s", seconds(wait))
}
