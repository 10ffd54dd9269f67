// Package follow reads the log by position for whoever must miss nothing of it:
// webhooks, exports, the search index. How far a reader has come is in the store, so
// it goes on there after a crash; what it was told before that was noted, it is told
// again. Start at [Loop.Run].
package follow

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly/internal/store"
)

const (
	lookEvery = 500 * time.Millisecond
	readBatch = 500
	// waitMost is the longest pause after a delivery that failed.
	waitMost = time.Minute
)

// Reader is somebody who is told of the log.
type Reader struct {
	Name string // of the row in the store that says how far it has come
	Made string // what it is made of: where that changes, it is opened anew
	What string // for whoever reads our own log
	Open func() Teller
}

// Teller carries records to one reader. It is used by one goroutine.
type Teller interface {
	// Tell takes rows, which are in the order of the log, and says how many of
	// them, from the first, cannot be lost any more: with a nil error at least
	// one. What it did not count, and after a crash what it did, it is given again.
	Tell(ctx context.Context, rows []store.EventRow) (int, error)
	Close()
}

// Loop reads the log by position for any number of readers.
type Loop struct {
	DB     *store.DB
	Logger *slog.Logger
	// Readers gives those in force now; it is asked again each time, so that a
	// reload reaches them.
	Readers func() []Reader
	// Turn reports whether it is for this node to tell; nil is always.
	Turn func() bool
}

// Run tells every reader what comes, each at its own pace, until ctx ends. One
// that fails is tried again, first soon and then once a minute.
func (l *Loop) Run(ctx context.Context) {
	type following struct {
		made string
		stop func()
	}
	now := map[string]following{}
	var all sync.WaitGroup
	defer all.Wait()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		wanted := map[string]bool{}
		for _, r := range l.Readers() {
			wanted[r.Name] = true
			if old, there := now[r.Name]; there {
				if old.made == r.Made {
					continue
				}
				old.stop()
			}
			reading, cancel := context.WithCancel(ctx)
			ended := make(chan struct{})
			now[r.Name] = following{r.Made, func() { cancel(); <-ended }}
			all.Go(func() {
				defer close(ended)
				defer cancel()
				l.follow(reading, r)
			})
		}
		for name, old := range now {
			if !wanted[name] {
				old.stop()
				delete(now, name)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// follow tells r what comes until ctx ends.
func (l *Loop) follow(ctx context.Context, r Reader) {
	to := r.Open()
	defer to.Close()
	failures := 0
	for {
		pause := lookEvery
		if l.Turn == nil || l.Turn() {
			moved, err := l.catchUp(ctx, r.Name, to)
			if moved {
				failures = 0
			}
			if err != nil && ctx.Err() == nil {
				failures++
				pause = min(lookEvery<<min(failures, 10), waitMost)
				l.Logger.Warn(r.What+" was not told of what is in the log; it is tried again", "again_in", pause, "error", err)
			}
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
	}
}

// catchUp reads the log from where the reader called name has come to its end,
// and has it told. It says whether the reader came any further.
func (l *Loop) catchUp(ctx context.Context, name string, to Teller) (moved bool, err error) {
	at, err := l.DB.Sink(ctx, name)
	if err != nil {
		return false, err
	}
	// The next page is read while one is told.
	next := l.read(ctx, at)
	defer func() {
		if next != nil {
			<-next
		}
	}()
	for ctx.Err() == nil {
		page := <-next
		next = nil
		if page.err != nil || len(page.rows) == 0 {
			return moved, page.err
		}
		next = l.read(ctx, *page.rows[len(page.rows)-1].Position)
		for rows := page.rows; len(rows) > 0; {
			n, err := to.Tell(ctx, rows)
			if n > 0 {
				// A crash before this tells the same again, under the same ids.
				last := *rows[n-1].Position
				kept := l.DB.Keep(ctx, func(b *store.Books) { b.MoveSink(name, at, last) })
				if _, elsewhere := errors.AsType[*store.Refused](kept); elsewhere {
					return moved, nil // another node is there
				}
				if kept != nil {
					return moved, kept
				}
				at, rows, moved = last, rows[n:], true
			}
			if err != nil {
				return moved, err
			}
		}
	}
	return moved, nil
}

// page is a part of the log.
type page struct {
	rows []store.EventRow
	err  error
}

// read begins to read the records after a position. It must be received from.
func (l *Loop) read(ctx context.Context, after int64) <-chan page {
	read := make(chan page, 1)
	go func() {
		rows, err := l.DB.EventsAfter(ctx, after, readBatch)
		read <- page{rows, err}
	}()
	return read
}
