package console

import (
	"context"
	"encoding/binary"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// board is what this node's pages know from the log while somebody looks: which
// tasks changed, what each did last, and how much happened in each minute. It is
// made of the log alone, and starts anew when nobody has looked for a while.
type board struct {
	a      *authority.Authority
	logger *slog.Logger
	wake   chan struct{} // somebody looks

	mu       sync.Mutex // guards the fields below
	looked   time.Time  // when somebody last did
	ready    bool       // the past is read
	at       int64      // position that was read last
	watchers map[*watcher]struct{}
	last     map[mayfly.TaskID]lastAction
	minutes  map[int64]*minute // by Unix time over 60
	lives    []time.Duration   // of the tasks that ended last, oldest first
	since    time.Time         // of the oldest record that was read
}

// lastAction is what a task did last.
type lastAction struct {
	What    string
	Verdict mayfly.Verdict
	At      time.Time
}

// minute is what happened in one.
type minute struct {
	Opened, Closed, Allowed, Waiting int
	Denied                           map[mayfly.Term]int
}

// Bounds of the board.
const (
	boardPoll    = 250 * time.Millisecond
	boardIdle    = 10 * time.Minute // without anybody, it stops
	boardPast    = 20_000           // records before now that it begins with
	boardBatch   = 500
	boardMinutes = 120
	boardLives   = 1000
	boardTasks   = 50_000 // whose last action is known
	boardEach    = 20     // pages of one human that are kept current at once
)

func newBoard(a *authority.Authority, logger *slog.Logger) *board {
	return &board{a: a, logger: logger, wake: make(chan struct{}, 1), watchers: map[*watcher]struct{}{}}
}

// look says that somebody does. It begins to read if nobody did for long.
func (b *board) look() {
	b.mu.Lock()
	b.looked = time.Now()
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// run reads the log while somebody looks.
func (b *board) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		}
		b.follow(ctx)
	}
}

// follow reads from some way back until nobody has looked for a while.
func (b *board) follow(ctx context.Context) {
	b.mu.Lock()
	b.last, b.minutes, b.lives, b.since, b.ready = map[mayfly.TaskID]lastAction{}, map[int64]*minute{}, nil, time.Time{}, false
	b.at = -2 // not known yet
	b.mu.Unlock()
	tick := time.NewTicker(boardPoll)
	defer tick.Stop()
	for {
		if err := b.catchUp(ctx); err != nil && ctx.Err() == nil {
			b.logger.Warn("the console cannot read the log just now", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		case <-tick.C:
		}
		b.mu.Lock()
		idle := len(b.watchers) == 0 && time.Since(b.looked) > boardIdle
		b.mu.Unlock()
		if idle {
			return
		}
	}
}

func (b *board) catchUp(ctx context.Context) error {
	b.mu.Lock()
	at := b.at
	b.mu.Unlock()
	if at == -2 {
		size, err := b.a.LogSize(ctx)
		if err != nil {
			return err
		}
		at = max(-1, size-1-boardPast)
	}
	for {
		events, err := b.a.ReadFeed(ctx, at, boardBatch)
		if err != nil {
			return err
		}
		b.mu.Lock()
		for i := range events {
			b.take(&events[i])
			at = *events[i].Position
		}
		b.at = at
		whole := len(events) < boardBatch
		b.ready = b.ready || whole
		if whole {
			b.trim()
		}
		for w := range b.watchers {
			w.tell()
		}
		b.mu.Unlock()
		if whole {
			return nil
		}
	}
}

// take notes one record. The caller holds the lock.
func (b *board) take(e *authority.EventView) {
	if b.since.IsZero() {
		b.since = e.Time
	}
	m := b.minutes[e.Time.Unix()/60]
	if m == nil {
		m = &minute{Denied: map[mayfly.Term]int{}}
		b.minutes[e.Time.Unix()/60] = m
	}
	switch e.Kind {
	case mayfly.TaskOpened{}.Kind():
		m.Opened++
	case mayfly.TaskClosed{}.Kind():
		m.Closed++
		delete(b.last, e.Task)
		if bits, ok := mayfly.IDBits("task", string(e.Task)); ok {
			opened := time.UnixMilli(int64(binary.BigEndian.Uint64(bits[:8]) >> 16))
			b.lives = append(b.lives, max(0, e.Time.Sub(opened)))
		}
	case mayfly.CallDecided{}.Kind():
		b.decided(m, e)
	}
	if e.Task != "" && e.Kind != (mayfly.CallEnded{}).Kind() {
		for w := range b.watchers {
			w.changed[e.Task] = struct{}{}
		}
	}
}

func (b *board) decided(m *minute, e *authority.EventView) {
	said := body(e.Body)
	switch said.verdict() {
	case mayfly.Allow:
		m.Allowed++
	case mayfly.NeedsApproval:
		m.Waiting++
	case mayfly.Deny:
		m.Denied[e.Term]++
	}
	if _, known := b.last[e.Task]; known || len(b.last) < boardTasks {
		b.last[e.Task] = lastAction{said.text("target") + " " + said.text("action"), said.verdict(), e.Time}
	}
}

// trim forgets what is too old.
func (b *board) trim() {
	oldest := b.a.Now().Unix()/60 - boardMinutes
	maps.DeleteFunc(b.minutes, func(at int64, _ *minute) bool { return at < oldest })
	if n := len(b.lives); n > boardLives {
		b.lives = slices.Clone(b.lives[n-boardLives:])
	}
}

// watcher is somebody who is told which tasks changed.
type watcher struct {
	human   authority.RootView
	changed map[mayfly.TaskID]struct{} // guarded by the board's lock
	news    chan struct{}
}

func (w *watcher) tell() {
	if len(w.changed) > 0 {
		select {
		case w.news <- struct{}{}:
		default:
		}
	}
}

// watch begins to tell a human which tasks change; stop ends that.
func (b *board) watch(human authority.RootView) (w *watcher, stop func(), err error) {
	w = &watcher{human: human, changed: map[mayfly.TaskID]struct{}{}, news: make(chan struct{}, 1)}
	b.mu.Lock()
	open := 0
	for other := range b.watchers {
		if other.human == human {
			open++
		}
	}
	if open >= boardEach {
		b.mu.Unlock()
		return nil, nil, mayfly.Errorf(mayfly.RateLimited, "%d of your pages are kept current already; close one", open)
	}
	b.watchers[w] = struct{}{}
	b.mu.Unlock()
	b.look()
	return w, func() {
		b.mu.Lock()
		delete(b.watchers, w)
		b.mu.Unlock()
	}, nil
}

// changes gives up to most of what changed since it was last asked.
func (b *board) changes(w *watcher, most int) []mayfly.TaskID {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []mayfly.TaskID
	for id := range w.changed {
		if ids = append(ids, id); len(ids) == most {
			break
		}
	}
	for _, id := range ids {
		delete(w.changed, id)
	}
	w.tell()
	return ids
}

// lastOf is what tasks did last, where that is known.
func (b *board) lastOf(id mayfly.TaskID) (lastAction, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.last[id]
	return l, ok
}

// activity is how much happened lately.
type activity struct {
	Ready   bool
	Since   time.Time
	Minutes []minuteAt // oldest first, without gaps
	Lives   int
	Median  time.Duration
}

type minuteAt struct {
	At time.Time
	minute
}

// activity is what the board knows of the minutes before now.
func (b *board) activity(now time.Time, minutes int) activity {
	b.look()
	b.mu.Lock()
	defer b.mu.Unlock()
	out := activity{Ready: b.ready, Since: b.since, Lives: len(b.lives)}
	if len(b.lives) > 0 {
		out.Median = slices.Sorted(slices.Values(b.lives))[len(b.lives)/2]
	}
	for at := now.Unix()/60 - int64(minutes) + 1; at <= now.Unix()/60; at++ {
		one := minuteAt{At: time.Unix(at*60, 0)}
		if m := b.minutes[at]; m != nil {
			one.minute = *m
			one.Denied = maps.Clone(m.Denied)
		}
		out.Minutes = append(out.Minutes, one)
	}
	return out
}
