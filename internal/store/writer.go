package store

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/failpoint"
)

const (
	batchMax = 512 // changes in one transaction
	tries    = 5   // runs of a change before it is given up
	// writeWithin bounds a batch, its repetitions included: what cannot be made
	// durable by then is refused. A connection that went silent costs no more.
	writeWithin = 2 * time.Second
	// soonWithin is how long a change that is in no hurry waits for a commit
	// that somebody else begins.
	soonWithin = 10 * time.Millisecond
)

// writer is the one goroutine that writes. It takes whatever has queued, runs
// it in one transaction and answers everybody once that is durable.
type writer struct {
	db *DB
	// ctx is that of every transaction: a caller who goes away must not break
	// the commit of the others.
	ctx context.Context

	mu     sync.Mutex // guards the three fields below
	queue  []*Pending
	soon   bool // later will wake the writer
	closed bool
	wake   chan struct{} // holds a token while the queue should be looked at
	later  *time.Timer

	// Only the writer's goroutine touches what follows.
	mac  hash.Hash
	seq  int64  // number of this process's newest durable event
	last []byte // its MAC
	// unsure holds what a failed commit would have made seq and last: before
	// anything else is written the database says whether it happened.
	unsure *place
	broken error // why nothing can be written any more
}

type place struct {
	seq int64
	mac []byte
}

func (w *writer) start(ctx context.Context, db *DB) {
	w.db, w.ctx = db, ctx
	w.wake = make(chan struct{}, 1)
	w.later = time.AfterFunc(soonWithin, func() { signal(w.wake) })
	w.mac, w.last = hmac.New(sha256.New, db.macKey), NoMAC()
}

func (w *writer) enqueue(p *Pending) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.queue = append(w.queue, p)
	if !p.soon {
		signal(w.wake)
	} else if !w.soon {
		w.soon = true
		w.later.Reset(soonWithin)
	}
	return true
}

// finish makes run return once the queue is empty.
func (w *writer) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.wake != nil {
		signal(w.wake)
	}
}

// take moves up to batchMax changes out of the queue, leaving out the withdrawn.
func (w *writer) take() (batch []*Pending, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.soon = false
	n := min(len(w.queue), batchMax)
	for _, p := range w.queue[:n] {
		if p.state.CompareAndSwap(queued, taken) {
			batch = append(batch, p)
		}
	}
	w.queue = append(w.queue[:0], w.queue[n:]...)
	clear(w.queue[len(w.queue):cap(w.queue)])
	if len(w.queue) > 0 {
		signal(w.wake)
	}
	return batch, w.closed && len(w.queue) == 0
}

func (w *writer) run() {
	for range w.wake {
		batch, closed := w.take()
		w.write(batch, 0)
		if closed {
			return
		}
	}
}

// write commits a batch and answers each of its changes, once.
//
// A change that was refused before it wrote is no matter to the others. One that
// was refused after it wrote takes the run with it, and whatever was refused
// later in that run was judged by rows that are gone: the rest runs again
// without them, and then each of them alone.
func (w *writer) write(batch []*Pending, tried int) {
	if len(batch) == 0 {
		return
	}
	if w.broken != nil {
		answer(batch, w.broken)
		return
	}
	ctx, cancel := context.WithTimeout(w.ctx, writeWithin)
	defer cancel()
	for ; ; tried++ {
		dirty, err := w.try(ctx, batch)
		if err == nil && dirty == nil {
			return
		}
		if err == nil {
			rest := slices.DeleteFunc(slices.Clone(batch), func(p *Pending) bool { return slices.Contains(dirty, p) })
			w.write(rest, tried)
			for _, p := range dirty {
				w.write([]*Pending{p}, tried)
			}
			return
		}
		next := w.db.engine.again(err)
		if next == giveUp || tried >= tries-1 || ctx.Err() != nil {
			w.db.logger.Error("a batch could not be written", "changes", len(batch), "error", err)
			answer(batch, mayfly.Errorf(mayfly.Unavailable, "this cannot be written down durably just now, so it was not done; try again").Because(err))
			return
		}
		w.pause(tried)
		if next == conflict && tried >= 1 && len(batch) > 1 {
			for _, p := range batch {
				w.write([]*Pending{p}, tried+1)
			}
			return
		}
	}
}

// try runs a batch once. It has answered everybody if it returns neither an
// error nor changes that must be judged alone.
func (w *writer) try(ctx context.Context, batch []*Pending) (alone []*Pending, err error) {
	for _, p := range batch {
		p.begun()
	}
	engine := w.db.engine
	failpoint.Here("store.before-begin")
	if err := engine.begin(ctx, batch); err != nil {
		engine.rollback()
		return nil, err
	}
	if w.unsure != nil {
		if err := w.settle(ctx); err != nil {
			engine.rollback()
			return nil, err
		}
	}
	dirty := slices.IndexFunc(batch, func(p *Pending) bool { return p.refusal != nil && p.wrote })
	if dirty >= 0 {
		engine.rollback()
		if len(batch) == 1 {
			answer(batch, batch[0].refusal)
			return nil, nil
		}
		for _, p := range batch[dirty:] {
			if p.refusal != nil {
				alone = append(alone, p)
			}
		}
		return alone, nil
	}
	wrote := slices.ContainsFunc(batch, func(p *Pending) bool { return p.refusal == nil })
	if !wrote {
		engine.rollback()
		for _, p := range batch {
			answer([]*Pending{p}, p.refusal)
		}
		return nil, nil
	}
	return nil, w.commit(ctx, batch)
}

// commit makes the run of a batch durable, with its events, and answers.
func (w *writer) commit(ctx context.Context, batch []*Pending) error {
	next := place{w.seq, w.last}
	var events [][]any
	for _, p := range batch {
		r := &p.record
		if p.refusal != nil || r.id == "" {
			continue
		}
		next.seq++
		next.mac = rowMAC(w.mac, w.db.proc, next.seq, r.leaf, r.body, next.mac)
		events = append(events, []any{
			w.db.proc, next.seq, r.id, micros(r.at), r.kind, r.task, r.decision, r.who.id, r.leaf, r.body, next.mac,
		})
	}
	failpoint.Here("store.before-events")
	if err := w.db.engine.commit(ctx, events); err != nil {
		w.db.engine.rollback()
		if w.db.engine.again(err) == giveUp {
			w.unsure = &next
		}
		return err
	}
	failpoint.Here("store.after-commit")
	w.seq, w.last = next.seq, next.mac
	advanced, done := false, int64(0)
	for _, p := range batch {
		if p.refusal == nil {
			done++
			advanced = advanced || p.epoch
		}
	}
	w.db.commits.Add(1)
	w.db.changes.Add(done)
	for _, p := range batch {
		answer([]*Pending{p}, p.refusal)
	}
	if len(events) > 0 {
		signal(w.db.committed)
	}
	if advanced {
		signal(w.db.advanced)
	}
	return nil
}

// settle finds out, in the open transaction, whether the commit that failed
// happened after all. Running numbers must have no gap and no fork.
func (w *writer) settle(ctx context.Context) error {
	seq, mac, err := w.db.engine.last(ctx, w.db.proc)
	if err != nil {
		return err
	}
	switch {
	case seq == w.seq && (seq == 0 || hmac.Equal(mac, w.last)):
	case seq == w.unsure.seq && hmac.Equal(mac, w.unsure.mac):
		w.seq, w.last = seq, mac
	default:
		w.broken = mayfly.Errorf(mayfly.Unavailable, "the store was changed by somebody else; the server must be looked at before it writes again")
		w.db.logger.Error("this process's newest record is not the one it wrote; nothing is written any more",
			"process", w.db.proc, "found", seq, "wrote", w.seq)
		return fmt.Errorf("store: process %d wrote number %d last and finds %d", w.db.proc, w.seq, seq)
	}
	w.unsure = nil
	return nil
}

// pause waits a moment that grows with the tries and differs between nodes.
func (w *writer) pause(tried int) {
	var b [4]byte
	rand.Read(b[:])
	most := min(4*time.Millisecond<<(2*tried), 100*time.Millisecond)
	t := time.NewTimer(most/2 + time.Duration(binary.BigEndian.Uint32(b[:]))*most/2/(1<<32))
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.ctx.Done():
	}
}

// answer tells callers how their changes ended.
func answer(batch []*Pending, err error) {
	for _, p := range batch {
		p.err = err
		close(p.done)
	}
}

// errRun marks a change whose statement failed by its own fault.
func errRun(o *op, err error) error {
	return errors.Join(fmt.Errorf("store: %s", texts[o.statement]), err)
}
