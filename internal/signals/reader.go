package signals

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

// reader is somebody who is told of the log.
type reader struct {
	name string // of the row in the store that says how far it has come
	made string // what it is made of: where that changes, it is opened anew
	what string // for whoever reads our own log
	open func() teller
}

// teller carries records to one reader. It is used by one goroutine.
type teller interface {
	// tell takes rows, which are in the order of the log, and says how many of
	// them, from the first, cannot be lost any more: with a nil error at least
	// one. What it did not count, and after a crash what it did, it is given again.
	tell(ctx context.Context, rows []store.EventRow) (int, error)
	close()
}

// loop reads the log by position for any number of readers.
type loop struct {
	db     *store.DB
	logger *slog.Logger
	// readers gives those in force now; it is asked again each time, so that a
	// reload reaches them.
	readers func() []reader
	// turn reports whether it is for this node to tell; nil is always.
	turn func() bool
}

// run tells every reader what comes, each at its own pace, until ctx ends. One
// that fails is tried again, first soon and then once a minute.
func (l *loop) run(ctx context.Context) {
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
		for _, r := range l.readers() {
			wanted[r.name] = true
			if old, there := now[r.name]; there {
				if old.made == r.made {
					continue
				}
				old.stop()
			}
			reading, cancel := context.WithCancel(ctx)
			ended := make(chan struct{})
			now[r.name] = following{r.made, func() { cancel(); <-ended }}
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
func (l *loop) follow(ctx context.Context, r reader) {
	to := r.open()
	defer to.close()
	failures := 0
	for {
		pause := lookEvery
		if l.turn == nil || l.turn() {
			moved, err := l.catchUp(ctx, r.name, to)
			if moved {
				failures = 0
			}
			if err != nil && ctx.Err() == nil {
				failures++
				pause = min(lookEvery<<min(failures, 10), waitMost)
				l.logger.Warn(r.what+" was not told of what is in the log; it is tried again", "again_in", pause, "error", err)
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
func (l *loop) catchUp(ctx context.Context, name string, to teller) (moved bool, err error) {
	at, err := l.db.Sink(ctx, name)
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
			n, err := to.tell(ctx, rows)
			if n > 0 {
				// A crash before this tells the same again, under the same ids.
				last := *rows[n-1].Position
				kept := l.db.Keep(ctx, func(b *store.Books) { b.MoveSink(name, at, last) })
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
func (l *loop) read(ctx context.Context, after int64) <-chan page {
	read := make(chan page, 1)
	go func() {
		rows, err := l.db.EventsAfter(ctx, after, readBatch)
		read <- page{rows, err}
	}()
	return read
}
