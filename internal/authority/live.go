package authority

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/store"
)

// liveTasksMax bounds the node's memory of tasks: 8,192 tasks are some 8 MB with
// their grants. One that falls out is read again when it next acts.
const liveTasksMax = 1 << 13

// liveTasks is what this node remembers of tasks, by id. What it holds cannot be
// older than the epoch the node has applied: an epoch change evicts its task,
// and a read that began before an eviction is not kept.
type liveTasks struct {
	db *store.DB

	mu         sync.Mutex // guards the fields below
	tasks      map[mayfly.TaskID]*mayfly.Task
	old        map[mayfly.TaskID]*mayfly.Task // the generation before: cleared when tasks fills up
	generation int64                          // grows with each eviction
	revoked    map[string]time.Time           // token ids revoked before their time, to their expiry
}

func newLiveTasks(db *store.DB) *liveTasks {
	return &liveTasks{db: db, tasks: map[mayfly.TaskID]*mayfly.Task{}, revoked: map[string]time.Time{}}
}

// chain is the task and all above it, root first. A task that does not exist
// and one that was never ours are the same NotFound.
func (l *liveTasks) chain(ctx context.Context, id mayfly.TaskID) ([]*mayfly.Task, error) {
	t, err := l.task(ctx, id)
	if err != nil {
		return nil, err
	}
	chain := make([]*mayfly.Task, 0, len(t.Ancestors)+1)
	for _, up := range t.Ancestors {
		ancestor, err := l.task(ctx, up)
		if err != nil {
			return nil, err
		}
		chain = append(chain, ancestor)
	}
	return append(chain, t), nil
}

func (l *liveTasks) task(ctx context.Context, id mayfly.TaskID) (*mayfly.Task, error) {
	l.mu.Lock()
	t := l.tasks[id]
	if t == nil {
		if t = l.old[id]; t != nil {
			l.put(t)
		}
	}
	generation := l.generation
	l.mu.Unlock()
	if t != nil {
		return t, nil
	}
	row, err := l.db.Task(ctx, id)
	if err != nil {
		return nil, err
	}
	t = &row.Task
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.generation == generation {
		l.put(t)
	}
	return t, nil
}

// put remembers t. The caller holds mu.
func (l *liveTasks) put(t *mayfly.Task) {
	if len(l.tasks) >= liveTasksMax/2 {
		l.old, l.tasks = l.tasks, make(map[mayfly.TaskID]*mayfly.Task, liveTasksMax/2)
	}
	l.tasks[t.ID] = t
}

// opened remembers a task that was just committed by this node.
func (l *liveTasks) opened(t *mayfly.Task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.put(t)
}

// renewed remembers that t's idle lease now runs until until.
func (l *liveTasks) renewed(t *mayfly.Task, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tasks[t.ID] != t { // evicted or replaced meanwhile: the store knows
		return
	}
	next := *t
	next.IdleUntil = until
	l.tasks[t.ID] = &next
}

// evict forgets a task whose state moved, so that the next use reads it.
func (l *liveTasks) evict(ids ...mayfly.TaskID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
	for _, id := range ids {
		delete(l.tasks, id)
		delete(l.old, id)
	}
}

// evictAll forgets everything.
func (l *liveTasks) evictAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
	clear(l.tasks)
	l.old = nil
}

// revokeToken remembers that the token with this id is dead.
func (l *liveTasks) revokeToken(jti string, expires time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revoked[jti] = expires
}

func (l *liveTasks) tokenRevoked(jti string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, dead := l.revoked[jti]
	return dead
}

// dropExpired forgets revoked tokens that are dead by the clock alone.
func (l *liveTasks) dropExpired(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.revoked, func(_ string, expires time.Time) bool { return now.After(expires) })
}

// chainOf is id's chain as the node knows it; where a task in it looks idle, it
// is read again first, because another node may have renewed it.
func (a *Authority) chainOf(ctx context.Context, id mayfly.TaskID, now time.Time) ([]*mayfly.Task, error) {
	chain, err := a.live.chain(ctx, id)
	if err != nil {
		return nil, err
	}
	idle := func(t *mayfly.Task) bool { _, why := t.State(now); return why == mayfly.IdleRanOut }
	if slices.ContainsFunc(chain, idle) {
		for _, t := range chain {
			if idle(t) {
				a.live.evict(t.ID)
			}
		}
		return a.live.chain(ctx, id)
	}
	return chain, nil
}

// ended says why a chain is not live, or nil. The token was good and its task is
// over: to its holder that is an invalid token (RFC 6750 section 3.1).
func ended(chain []*mayfly.Task, now time.Time) *mayfly.Error {
	for i, t := range chain {
		if state, why := t.State(now); state != mayfly.Live {
			e := mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "the task is over (%s); open a new one", why)
			if i < len(chain)-1 {
				e = mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "a task above this one is over (%s), and this one with it; open a new one", why)
			}
			e.Term = mayfly.TermLiveness
			e.Next = &mayfly.Next{Action: "open", Detail: "open a new task"}
			return e
		}
	}
	return nil
}

// links pairs a chain with the profiles in force.
func (b *Bundle) links(chain []*mayfly.Task) []policy.Link {
	links := make([]policy.Link, len(chain))
	for i, t := range chain {
		links[i] = policy.Link{Task: t, Profile: b.Profiles[t.Profile]}
	}
	return links
}
